"""The column-intensity rule: integrate every column, compare with its neighbours, no learning.

Each X₂ and M column is integrated over a disc, the hollows beside it are taken away, and the
rest is divided by what its neighbours of the same kind show, so that a perfect column is 1. Two
thresholds then tell two, one and no X atoms apart, a third tells whether M is there.

The plain rule suffers from the tails of the neighbours: an empty column with bright neighbours
reads darker than a hollow, and a perfect one beside a vacancy dimmer than others. The unmixed
rule (:mod:`~napari_point_defects.baselines.column_unmixing`) takes them out.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.spatial import cKDTree

from napari_point_defects.baselines.column_unmixing import unmixed_columns
from napari_point_defects.canonical import sample_windows
from napari_point_defects.materials import CHALCOGEN_SITES, METAL_SITES, Material
from napari_point_defects.records import Lattice, UnitCells, cell_classes

DISC_A = 0.26
"""Radius of the disc that a column is integrated over, in a: nearly half way to the next one."""

_SAMPLES = 8  # along the disc's diameter
_NEIGHBOURS = 60  # columns of the same kind that give the perfect column's level
_ROUNDS = 20
_FEW = 4  # values; fewer say nothing of their level
_MOST_SHIFT = 0.15  # of a level from where it is expected, in perfect columns


@dataclass(frozen=True, slots=True)
class ColumnIntensities:
    """What the rule finds.

    Attributes
    ----------
    chalcogen, metal : ndarray of shape (N,)
        Intensity of each cell's columns above the hollows, in perfect columns; NaN where too
        little of it lies in the image.
    chalcogen_thresholds : (float, float)
        Below the first no X atom is there, below the second one, above it two.
    metal_threshold : float
        Below it M is missing.
    chalcogen_noise, metal_noise : float
        Standard deviation of a perfect column's intensity, in perfect columns: the inverse of a
        column's signal-to-noise ratio.
    """

    chalcogen: np.ndarray
    metal: np.ndarray
    chalcogen_thresholds: tuple[float, float]
    metal_threshold: float
    chalcogen_noise: float
    metal_noise: float

    @property
    def classes(self) -> np.ndarray:
        """``DefectClass`` of each cell, shape (N,); a column that is not seen counts as there."""
        chalcogen = np.nan_to_num(self.chalcogen, nan=1.0)
        none, one = self.chalcogen_thresholds
        missing = (chalcogen < none).astype(int) + (chalcogen < one)
        return cell_classes(missing, np.nan_to_num(self.metal, nan=1.0) < self.metal_threshold)

    @property
    def margin(self) -> np.ndarray:
        """Distance of each cell from its nearest threshold, in standard deviations, shape (N,).

        0 where a column is not seen.
        """
        distances = [
            np.abs(self.chalcogen - self.chalcogen_thresholds[0]) / self.chalcogen_noise,
            np.abs(self.chalcogen - self.chalcogen_thresholds[1]) / self.chalcogen_noise,
            np.abs(self.metal - self.metal_threshold) / self.metal_noise,
        ]
        return np.nan_to_num(np.min(distances, axis=0), nan=0.0)


def column_intensity_classes(
    data: np.ndarray,
    lattice: Lattice,
    cells: UnitCells,
    material: Material,
    *,
    unmixed: bool = False,
) -> np.ndarray:
    """Return the ``DefectClass`` of every cell by the rule, see :func:`column_intensities`."""
    return column_intensities(data, lattice, cells, material, unmixed=unmixed).classes


def column_intensities(
    data: np.ndarray,
    lattice: Lattice,
    cells: UnitCells,
    material: Material,
    *,
    unmixed: bool = False,
) -> ColumnIntensities:
    """Measure every column of an image and set the thresholds from the image's own columns.

    Parameters
    ----------
    data : ndarray of shape (M, N)
        Intensities in any unit; NaN where nothing was recorded.
    lattice : Lattice
    cells : UnitCells
        All cells of the image; their classes are not looked at.
    material : Material
    unmixed : bool
        Take the neighbours' tails out first.

    Returns
    -------
    ColumnIntensities
    """
    if not len(cells):
        return ColumnIntensities(np.zeros(0), np.zeros(0), (0.25, 0.75), 0.5, 1.0, 1.0)
    measure = unmixed_columns if unmixed else _integrated_columns
    chalcogen, metal = measure(np.asarray(data, np.float32), lattice, cells)
    chalcogen = _in_perfect_columns(chalcogen, lattice.to_canonical(cells.chalcogen_px))
    metal = _in_perfect_columns(metal, lattice.to_canonical(cells.metal_px))
    thresholds = _crossings if unmixed else _midways
    none, one = thresholds(chalcogen, np.array([0.0, single_share(material), 1.0]))
    (gone,) = thresholds(metal, np.array([0.0, 1.0]))
    return ColumnIntensities(
        chalcogen, metal, (none, one), gone, _perfect_noise(chalcogen), _perfect_noise(metal)
    )


def single_share(material: Material) -> float:
    """Return the expected intensity of one X atom over that of two.

    Less than a half: the upper atom focuses the beam onto the lower one, the more the heavier
    they are. A straight line through this project's multislice columns of S, Se and Te at 80 kV.
    """
    from ase.data import atomic_numbers  # here, for ase.data is slow to import

    return float(0.439 - 0.00074 * atomic_numbers[material.chalcogen])


def _integrated_columns(
    data: np.ndarray, lattice: Lattice, cells: UnitCells
) -> tuple[np.ndarray, np.ndarray]:
    """Mean of each cell's X₂ and M disc less that of the three hollows beside it."""
    bond = METAL_SITES[0] - CHALCOGEN_SITES[0]
    # the hollows about the X₂ column, and those about M, as seen from the X₂ column
    beside_x, beside_m = -CHALCOGEN_SITES, bond - METAL_SITES
    offsets = np.concatenate([[np.zeros(2)], beside_x, beside_m]) @ lattice.matrix_px.T
    values = [_disc_means(data, lattice, cells.chalcogen_px + step) for step in offsets]
    with np.errstate(all="ignore"):
        chalcogen = values[0] - _mean_of_seen(values[1:4])
        metal = _disc_means(data, lattice, cells.metal_px) - _mean_of_seen(values[4:7])
    return chalcogen, metal


def _disc_means(data: np.ndarray, lattice: Lattice, points_px: np.ndarray) -> np.ndarray:
    """Mean over a disc about each point; NaN where over half of it is not in the image."""
    size = (2 * DISC_A, 2 * DISC_A)
    windows = sample_windows(data, lattice, points_px, size, (_SAMPLES, _SAMPLES))
    axis = (np.arange(_SAMPLES) + 0.5) / _SAMPLES * 2 - 1
    samples = windows[:, np.hypot(*np.meshgrid(axis, axis)) <= 1]
    seen = np.isfinite(samples)
    share = seen.mean(axis=1)
    total = np.where(seen, samples, 0).sum(axis=1, dtype=float)
    return np.where(share >= 0.5, total / np.maximum(seen.sum(axis=1), 1), np.nan)


def _mean_of_seen(values: list[np.ndarray]) -> np.ndarray:
    """Mean of several values of each cell, leaving out those that are NaN."""
    stack = np.stack(values)
    seen = np.isfinite(stack)
    return np.where(seen, stack, 0).sum(axis=0) / seen.sum(axis=0)


def _in_perfect_columns(signal: np.ndarray, places: np.ndarray) -> np.ndarray:
    """Divide each column's signal by the median of its neighbours of the same kind.

    Parameters
    ----------
    signal : ndarray of shape (N,)
    places : ndarray of shape (N, 2)

    Returns
    -------
    ndarray of shape (N,)
    """
    seen = np.isfinite(signal)
    if not seen.any():
        return np.full(len(signal), np.nan)
    count = min(_NEIGHBOURS, int(seen.sum()))
    _, near = cKDTree(places[seen]).query(places, k=count)
    level = np.median(signal[seen][near.reshape(len(places), count)], axis=1)
    # a patch of vacancies does not make its own standard
    overall = float(np.median(signal[seen]))
    floor = max(0.3 * abs(overall), float(np.std(signal[seen])) * 1e-3, 1e-30)
    return signal / np.maximum(level, floor)


def _midways(values: np.ndarray, expected: np.ndarray) -> tuple[float, ...]:
    """Set thresholds midway between the levels that the image itself shows.

    Parameters
    ----------
    values : ndarray of shape (N,)
        In perfect columns; NaN where not seen.
    expected : ndarray of shape (L,)
        Levels, rising.

    Returns
    -------
    tuple of L − 1 float
    """
    levels = _levels(values[np.isfinite(values)], expected)
    return tuple(float(t) for t in (levels[1:] + levels[:-1]) / 2)


def _levels(values: np.ndarray, expected: np.ndarray) -> np.ndarray:
    """Find the levels by Ridler and Calvard's iteration (IEEE Trans. SMC 8 (1978) 630).

    Each is the median of the values nearest to it, and never far from where it is expected, so
    that a level that does not occur keeps its place.
    """
    levels = expected
    for _ in range(_ROUNDS):
        nearest = np.searchsorted((levels[1:] + levels[:-1]) / 2, values)
        found = levels.copy()
        for level in range(len(levels)):
            members = values[nearest == level]
            if len(members) >= _FEW:
                found[level] = np.median(members)
        found = np.clip(found, expected - _MOST_SHIFT, expected + _MOST_SHIFT)
        if np.abs(found - levels).max() < 1e-4:
            break
        levels = found
    return levels


def _crossings(values: np.ndarray, expected: np.ndarray) -> tuple[float, ...]:
    """Set thresholds where two levels are equally probable, rare levels being rare.

    How often each level occurs is found by expectation maximisation of a mixture of Gaussians
    that are as wide as the perfect columns' scatter. As in :func:`_midways` where the levels lie
    far apart; where noise joins them, a column counts as defective only on good evidence.
    """
    values = values[np.isfinite(values)]
    if not len(values):
        return tuple(float(t) for t in (expected[1:] + expected[:-1]) / 2)
    noise = _perfect_noise(values)
    apart = np.diff(expected).min() > 4 * noise
    levels = _levels(values, expected) if apart else expected
    likelihood = np.exp(-((values[:, None] - levels) ** 2) / (2 * max(noise, 0.02) ** 2)) + 1e-12
    shares = np.full(len(levels), 1 / len(levels))
    for _ in range(_ROUNDS):
        posterior = likelihood * shares
        shares = (posterior / posterior.sum(axis=1, keepdims=True)).mean(axis=0)
        shares = np.maximum(shares, 0.5 / len(values))
    low, high = levels[:-1], levels[1:]
    crossing = (low + high) / 2 - noise**2 / (high - low) * np.log(shares[1:] / shares[:-1])
    # a rare level in between may never be the likeliest one
    crossing = np.minimum.accumulate(crossing[::-1])[::-1]
    return tuple(float(t) for t in crossing)


def _perfect_noise(values: np.ndarray) -> float:
    """Return the perfect columns' standard deviation, from those above 1: defects lie below."""
    above = values[values > 1] - 1
    return max(float(np.median(above)) / 0.6745, 1e-6) if len(above) else 1.0
