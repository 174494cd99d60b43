"""The images of an X₂ and an M column and the noise of the counts, learned from an image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
from scipy.optimize import nnls

from napari_point_defects.occupancy.placing import DISTANCES_A, REACH_A, Crop
from napari_point_defects.threads import side_by_side

_WIDTHS_A = np.array([0.07, 0.10, 0.14, 0.19, 0.26, 0.36])  # standard deviations
_TAIL_FROM_A = 0.25  # Gaussians wider than this are tails
_TAIL_SHARE = 0.05  # of the mean signal, standard deviation of what is expected in each
_TAPER_A = 0.25
_BINS = 12
_LEAST_SKEW = 0.05  # of the largest noise: counts that hardly scatter are as good as Gaussian
_LEAST_VARIANCE = 0.02  # of the median
USUAL_RATES = (0.92, 0.032, 0.016, 0.0128, 0.0096, 0.0096)
"""Share of the cells in each class, before an image has told its own."""


@dataclass(frozen=True)
class ColumnModel:
    """What explains an image's pixels, all in units of the image but for ``dirt_length``.

    Attributes
    ----------
    chalcogen, metal : ndarray of shape (R,)
        Brightness of a whole X₂ and an M column at ``placing.DISTANCES_A``.
    base : float
        Brightness without columns.
    gain, offset : float
        The noise's variance is ``gain * brightness + offset``: counts, and what the detector adds.
    dirt_variance, dirt_length : float
        Of the contamination's brightness; its correlation length in a. 0 where there is none.
    doubt : (float, float)
        By how much more the evidence against X and M of perfect cells scatters than counts
        explain, as a factor on the variance, at least 1.
    rates : tuple of 6 float
        Share of the cells in each class.
    """

    chalcogen: np.ndarray
    metal: np.ndarray
    base: float
    gain: float
    offset: float
    dirt_variance: float = 0.0
    dirt_length: float = 1.0
    doubt: tuple[float, float] = (1.0, 1.0)
    rates: tuple[float, ...] = USUAL_RATES

    def painted(self, crop: Crop, chalcogen: np.ndarray, metal: np.ndarray) -> np.ndarray:
        """Return the brightness of all columns, given their occupancy (C,), and the base."""
        columns = crop.chalcogen.painted(self.chalcogen, chalcogen)
        return columns + crop.metal.painted(self.metal, metal) + self.base

    def variance(self, brightness: np.ndarray) -> np.ndarray:
        """Return the noise's variance, never much below the median."""
        found = self.gain * brightness + self.offset
        return np.maximum(found, _LEAST_VARIANCE * max(float(np.median(found)), 1e-30))


def _gaussians() -> np.ndarray:
    """Return Gaussians of all widths by distance, shape (R, W), falling to 0 at the reach."""
    fall = np.clip((REACH_A - DISTANCES_A) / _TAPER_A, 0, 1)
    shapes = np.exp(-(DISTANCES_A[:, None] ** 2) / (2 * _WIDTHS_A**2))
    return shapes * (np.sin(np.pi / 2 * fall) ** 2)[:, None]


def fit_columns(
    crops: Sequence[Crop],
    occupancy: Sequence[tuple[np.ndarray, np.ndarray]],
    dirt: Sequence[np.ndarray],
    before: ColumnModel | None,
) -> ColumnModel:
    """Fit the columns' images and the noise, given what every column holds.

    Non-negative sums of Gaussians, by least squares weighted with the noise. Tails so wide that
    they add up to a plain ground cost something: as ground they do no harm, as part of a column
    they would vanish with it.

    Parameters
    ----------
    crops : sequence of Crop
    occupancy : sequence of pairs of ndarray of shape (C,)
        Expected occupancy of the X₂ and the M columns.
    dirt : sequence of ndarray
        Contamination at every pixel of each crop.
    before : ColumnModel, optional
        The last fit: its noise weighs the pixels, its dirt is kept.

    Returns
    -------
    ColumnModel
    """
    if before is None:
        # the first fit has no noise to weigh with; the second learns it from the first
        before = _fit(crops, occupancy, dirt, None)
    found = _fit(crops, occupancy, dirt, before)
    return replace(found, dirt_variance=before.dirt_variance, dirt_length=before.dirt_length)


def _fit(crops, occupancy, dirt, before: ColumnModel | None) -> ColumnModel:
    shapes, n = _gaussians(), len(_WIDTHS_A)
    parts = zip(crops, occupancy, dirt, strict=True)
    normals, rights, signal = zip(
        *side_by_side(partial(_equations, shapes, before), parts), strict=True
    )
    normal, right, values = sum(normals), sum(rights), np.concatenate(signal)
    if before is not None:
        mean = max(float(values.mean() - np.percentile(values, 2)), 1e-30)
        tails = np.where(_WIDTHS_A > _TAIL_FROM_A, 2 * np.pi * _WIDTHS_A**2, 0.0)
        cost = (tails / (_TAIL_SHARE * mean)) ** 2
        normal[np.diag_indices(2 * n)] += np.concatenate([cost, cost])
    size = np.sqrt(np.maximum(np.diag(normal), 1e-30))
    root = np.linalg.cholesky(normal / size[:, None] / size + 1e-9 * np.eye(len(size)))
    found = nnls(root.T, np.linalg.solve(root, right / size))[0] / size
    fitted = ColumnModel(
        shapes @ found[:n], shapes @ found[n : 2 * n], float(found[-2] - found[-1]), 0.0, 1.0
    )
    return _with_noise(fitted, crops, occupancy, dirt)


def _equations(
    shapes: np.ndarray,
    before: ColumnModel | None,
    part: tuple[Crop, tuple[np.ndarray, np.ndarray], np.ndarray],
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return what a crop, its columns' occupancy and its dirt add to the normal equations.

    Their matrix and right side, and the values of the pixels.
    """
    crop, (chalcogen, metal), soil = part
    rows = crop.judged
    parts = (
        sites.painted_each(shapes, held)[rows]
        for sites, held in ((crop.chalcogen, chalcogen), (crop.metal, metal))
    )
    ones = np.ones((len(rows), 1))
    design = np.concatenate([*parts, ones, -ones], axis=1)
    values = crop.values[rows] - soil[rows]
    weighted = design
    if before is not None:
        variance = before.variance(before.painted(crop, chalcogen, metal) + soil)[rows]
        weighted = design / variance[:, None]
    return weighted.T @ design, weighted.T @ values, values


def _with_noise(model: ColumnModel, crops, occupancy, dirt) -> ColumnModel:
    """Fit the noise: the squares of what is left, against the brightness, by classes of it."""
    mean, square = [], []
    for crop, columns, soil in zip(crops, occupancy, dirt, strict=True):
        rows = crop.judged
        mean.append((model.painted(crop, *columns) + soil)[rows])
        square.append((crop.values[rows] - mean[-1]) ** 2)
    mean, square = np.concatenate(mean), np.concatenate(square)
    ends = np.quantile(mean, np.linspace(0, 1, _BINS + 1)[1:-1])
    place = np.searchsorted(ends, mean)
    count = np.maximum(np.bincount(place, minlength=_BINS), 1)
    brightness = np.bincount(place, mean, _BINS) / count
    variance = np.bincount(place, square, _BINS) / count
    low, span = float(brightness.min()), max(float(np.ptp(brightness)), 1e-30)
    weight = np.sqrt(count) / np.maximum(variance, 1e-3 * variance.max() + 1e-30)
    design = np.stack([(brightness - low) / span, np.ones(_BINS)], axis=1) * weight[:, None]
    rise, floor = nnls(design, variance * weight)[0]
    floor = max(floor, 1e-6 * float(variance.max()), 1e-30)
    gain = max(rise, _LEAST_SKEW * floor) / span
    return replace(model, gain=float(gain), offset=float(floor - gain * low))
