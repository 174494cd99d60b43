"""Put the image in register with its mean cell: displacement, rows, columns that stand out."""

from __future__ import annotations

import numpy as np

from napari_point_defects.measurement.folding import TABLE, Fold, MeanCell
from napari_point_defects.measurement.scan import (
    RowOffsets,
    Slopes,
    follow_displacement,
    measure_rows,
)
from napari_point_defects.records import Lattice

_OUTLIER = 3.5
"""Spreads off the median, from where a column is not whole."""


class Registration:
    """Follows the crystal through an image.

    Parameters
    ----------
    fold : Fold
        Its displacement, row offsets and spoilt places are updated.
    lattice : Lattice

    Attributes
    ----------
    cell : MeanCell
    slopes : Slopes
        Of the last mean cell.
    """

    cell: MeanCell
    slopes: Slopes

    def __init__(self, fold: Fold, lattice: Lattice) -> None:
        self.fold, self.lattice = fold, lattice

    def run(self) -> RowOffsets:
        """Follow the crystal's displacement and the rows' jitter, and fold the image sharply."""
        fold = self.fold
        valid = fold.valid
        self.cell = fold.mean_cell(valid, fold.data[valid])
        self._reject_outliers(valid)
        for last in (False, True):
            slopes = Slopes(self.cell)
            fold.flatten(slopes.level)
            valid = fold.valid
            follow_displacement(fold, slopes, valid)
            fold.place()
            valid = fold.valid
            rows = measure_rows(fold, slopes, valid, self._variance(slopes, valid))
            if rows.jitter_px.value > 0:
                fold.row_offset_px = rows.correction()
                fold.place()
                valid = fold.valid
            self.cell = fold.mean_cell(valid, fold.flat[valid])
            if not last:
                self._reject_outliers(valid)
        slopes = Slopes(self.cell)
        fold.flatten(slopes.level)
        valid = fold.valid
        self.variance = self._variance(slopes, valid)
        rows = measure_rows(fold, slopes, valid, self.variance)
        self.slopes = slopes
        return rows

    def _variance(self, slopes: Slopes, valid: np.ndarray) -> tuple[float, float]:
        """Return a rough line of the noise's variance against the level, from neighbours in x."""
        fold = self.fold
        pairs = valid[:, 1:] & valid[:, :-1]
        residual = fold.data - slopes.level[fold.cell]
        jump = (residual[:, 1:] - residual[:, :-1])[pairs]
        level = slopes.level[fold.cell[:, 1:]][pairs]
        power = 0.5 * jump * jump
        middle = np.median(level)
        low, high = (float(power[level <= middle].mean()), float(power[level > middle].mean()))
        at = (float(level[level <= middle].mean()), float(level[level > middle].mean()))
        growth = max((high - low) / max(at[1] - at[0], 1e-12), 0.0)
        return max(low - growth * at[0], -growth * float(level.min()) + 0.1 * low), growth

    def _reject_outliers(self, valid: np.ndarray) -> None:
        """Leave out columns whose brightness stands out: wrongly classed, or not classed."""
        fold = self.fold
        level = self.cell.table().ravel()
        site = _site_table()
        residual = np.where(valid, fold.data - level[fold.cell], 0)
        count = fold.tile_sums(np.ones(valid.sum(), np.float32), valid)
        mean = fold.tile_sums(residual[valid], valid) / np.maximum(count, 1)
        nodes = np.argwhere(np.ones(fold.usable.shape, bool)) + fold.tiles.corner
        for kind, fraction in ((1, 2 / 3), (2, 1 / 3)):
            near = valid & (site[fold.cell] == kind)
            number = fold.tile_sums(np.ones(near.sum(), np.float32), near)
            total = fold.tile_sums(residual[near], near)
            off = total / np.maximum(number, 1) - mean
            known = (number > 0.5 * number.max()) & fold.usable
            if known.sum() < 20:
                continue
            middle = np.median(off[known])
            spread = 1.4826 * np.median(np.abs(off[known] - middle))
            strange = known & (np.abs(off - middle) > _OUTLIER * spread)
            if strange.any() and strange.sum() < 0.4 * known.sum():
                where = nodes[strange.ravel()] + fraction
                moved = where @ np.linalg.inv(fold.per_px) + self.lattice.origin_px
                fold.spoil(moved + fold.displacement_px[strange])


def _site_table() -> np.ndarray:
    """Return which column each place of the tabulated cell belongs to: 1 X₂, 2 M, 0 neither."""
    ticks = (np.arange(TABLE) + 0.5) / TABLE
    one, two = np.meshgrid(ticks, ticks, indexing="ij")
    table = np.zeros((TABLE, TABLE), np.int8)
    for kind, fraction in ((1, 2 / 3), (2, 1 / 3)):
        u, v = one - fraction, two - fraction
        table[u * u + u * v + v * v < 0.22**2] = kind
    return table.ravel()
