"""How well an image agrees everywhere with one lattice, as it is and mirrored."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from napari_point_defects.domains.local_cells import (
    FINE_A,
    FINE_SHIFTS,
    WINDOW_A,
    LocalCells,
    Match,
    agreement,
    handedness,
    local_cells,
    match,
    mean_template,
)
from napari_point_defects.records import Lattice

CRYSTAL = 0.5
"""Share of the mean cell's amplitude at which a crystal ends: where half the window holds it."""

WEAK_CRYSTAL = 0.4
"""Enough where the level is that of the crystal: defocus, tilt, damage."""

LEAST_TWIN_CELLS = 16
"""A mirrored part of fewer cells is a cluster of defects."""

_WIDE_A = 3.5  # a window that tells lattices apart that differ by 4° or 4 %
_SURE = 4.0  # standard deviations between a crystal and its mirror twin
_WIDEST_TWIN_A = 8.0


@dataclass(frozen=True, slots=True)
class Layer:
    """One lattice and how each place agrees with it, as it is and mirrored.

    Attributes
    ----------
    lattice : Lattice
    cells : LocalCells
        Local harmonics of the lattice.
    template : ndarray of shape (K,), complex
        The crystal's mean cell.
    upright : Match
        Agreement with it, or with its mirror image where that is what is there.
    mirrored : ndarray of shape (By, Bx), bool
        Where it is.
    wide : ndarray of shape (By, Bx)
        Agreement through a wider window: it tells lattices of similar angles apart.
    fine, fine_level : ndarray of shape (By, Bx)
        Agreement and level through a narrower one: they show small holes.
    """

    lattice: Lattice
    cells: LocalCells
    template: np.ndarray
    upright: Match
    mirrored: np.ndarray
    wide: np.ndarray
    fine: np.ndarray
    fine_level: np.ndarray

    @property
    def score(self) -> np.ndarray:
        """Agreement of each place with the lattice, shape (By, Bx)."""
        return self.upright.score


def measure_layer(data: np.ndarray, lattice: Lattice, limits: tuple[float, float]) -> Layer:
    """Measure how the image agrees with a lattice everywhere."""
    narrow = local_cells(data, lattice, limits, FINE_A)
    cells = narrow.smoothed(WINDOW_A, lattice.a_px)
    power = (np.abs(cells.values) ** 2 / cells.noise[:, None, None]).sum(0)
    strong = (power > 0.25 * np.percentile(power[cells.seen > 0.3], 95)) & (cells.seen > 0.5)
    hand = handedness(cells.values)
    major = strong & (hand * np.sign(hand[strong].sum()) > 0)
    template = mean_template(cells, major if major.any() else strong)
    upright = match(cells.values, template, cells.noise)
    mirror = match(cells.values, template.conj(), cells.noise)
    # a second round: what the first took for the crystal, and only that
    keep = (upright.score > max(CRYSTAL, 0)) & (upright.score >= mirror.score)
    if keep.sum() > 20:
        template = mean_template(cells, keep & (cells.seen > 0.5))
        upright = match(cells.values, template, cells.noise)
        mirror = match(cells.values, template.conj(), cells.noise)
    mirrored = _mirrored(upright, mirror, template, cells, lattice)
    fine = np.where(
        mirrored,
        agreement(narrow, template.conj(), mirror),
        agreement(narrow, template, upright),
    )
    score = np.where(mirrored, mirror.score, upright.score)
    shift = np.where(mirrored[..., None], mirror.shift, upright.shift)
    wide = cells.smoothed(_WIDE_A, lattice.a_px)
    both = [match(wide.values, t, wide.noise).score for t in (template, template.conj())]
    return Layer(
        lattice,
        cells,
        template,
        Match(score, shift),
        mirrored,
        np.maximum(*both),
        fine,
        narrow.level,
    )


def _mirrored(
    upright: Match, mirror: Match, template: np.ndarray, cells: LocalCells, lattice: Lattice
) -> np.ndarray:
    """Where the image shows the mirror twin; nowhere if noise hides the difference."""
    none = np.zeros(upright.score.shape, bool)
    # what the twin's best register leaves of a perfect crystal's score, and the noise of that
    alike = float(match(template[:, None], template.conj(), cells.noise, FINE_SHIFTS).score[0])
    difference = 1 - alike
    weight = 1 / (cells.noise + 0.02 * np.abs(template).max() ** 2)
    total = (weight * np.abs(template) ** 2).sum()
    variance = difference / total  # of the score's difference, where weight * noise is 1
    noise = np.sqrt(max(variance, 0))
    width = cells.sigma_a * max(_SURE * noise / max(difference, 1e-6), 1.1)
    if width > _WIDEST_TWIN_A:
        return none
    sigma = np.sqrt(width**2 - cells.sigma_a**2) * lattice.a_px / cells.step_px
    crystal = np.maximum(upright.score, mirror.score) > WEAK_CRYSTAL
    gain = np.where(crystal, upright.score - mirror.score, 0)
    # nothing is made up beyond the image's edges, where noise would count twice
    smooth = ndimage.gaussian_filter(gain, sigma, mode="constant")
    least = LEAST_TWIN_CELLS * lattice.cell_area_px / cells.step_px**2
    twin = smooth < 0
    parts, count = ndimage.label(twin & crystal)
    if not count:
        return none
    index = np.arange(1, count + 1)
    sizes = ndimage.sum_labels(twin & crystal, parts, index)
    depth = ndimage.minimum(smooth, parts, index)
    real = (sizes >= least) & (depth < -0.5 * difference)
    marked = np.concatenate([[False], real])[parts]
    return twin & _grown(marked, 2 * sigma)


def _grown(mask: np.ndarray, samples: float) -> np.ndarray:
    """Points within a distance of a mask."""
    if not mask.any():
        return mask
    return ndimage.distance_transform_edt(~mask) <= samples


def on_grid(field: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Sample a field of another layer's grid (both cover the same image)."""
    if field.shape == shape:
        return field
    rows, cols = (
        np.minimum(((np.arange(n) + 0.5) * k / n).astype(int), k - 1)
        for n, k in zip(shape, field.shape, strict=True)
    )
    return field[rows][:, cols]
