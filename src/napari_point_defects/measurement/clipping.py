"""Undo in the mean cell what the digitiser's limits took off."""

from __future__ import annotations

import numpy as np

from napari_point_defects.measurement.folding import TABLE, MeanCell
from napari_point_defects.measurement.histograms import Histograms
from napari_point_defects.measurement.noise import NoiseFit


def unclipped(cell: MeanCell, histograms: Histograms, noise: NoiseFit) -> MeanCell:
    """Return the mean cell had nothing been clipped."""
    if len(noise.mean) != len(histograms.mean):
        return cell
    lifted = noise.mean - histograms.mean
    if np.abs(lifted).max() < 1e-3 * np.ptp(noise.mean):
        return cell
    table = cell.table()
    off = np.interp(table, histograms.mean, lifted)
    ticks = (np.arange(TABLE) + 0.5) / TABLE
    wave = [np.exp(-2j * np.pi * np.outer(cell.indices[:, i], ticks)) for i in range(2)]
    added = np.einsum("ki,ij,kj->k", wave[0], off, wave[1], optimize=True) / TABLE**2
    return MeanCell(cell.indices, cell.values + np.where(np.arange(len(added)), 2, 1) * added,
                    cell.per_px)  # fmt: skip
