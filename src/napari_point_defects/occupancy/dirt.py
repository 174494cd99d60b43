"""Contamination, seen in the hollows between the columns and interpolated to the columns.

A Gaussian process with a squared exponential covariance (C. E. Rasmussen and C. K. I. Williams,
*Gaussian Processes for Machine Learning*, MIT Press 2006, ch. 2 and 5): its amplitude and length
are those of the largest marginal likelihood, and an image that is as likely without dirt has none.
Vacancies darken columns, not hollows, so the two are not mistaken for each other.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.linalg import cho_factor, cho_solve

from napari_point_defects.occupancy.placing import Crop

_LENGTHS_A = (1.0, 1.5, 2.2, 3.2, 4.7, 7.0, 12.0)
_SHARES = (0.02, 0.05, 0.1, 0.2, 0.4, 0.7, 1.0, 2.0)  # of the variance seen
_MOST_HOLLOWS = 256  # that amplitude and length are learned from
_WORTH = 4.0  # in log likelihood: what two parameters must gain at least


def _hollows(crop: Crop, brightness: np.ndarray, variance: np.ndarray) -> tuple[np.ndarray, ...]:
    """Return rows of the hollows seen, what is left in each, and its variance."""
    rows, pixels, inside = crop.open_hollows
    count = inside.sum(axis=1)
    left = np.where(inside, (crop.values - brightness)[pixels], 0).sum(axis=1) / count
    scatter = np.where(inside, variance[pixels], 0).sum(axis=1) / count**2
    return rows, left, scatter


def _covariance(one: np.ndarray, other: np.ndarray, length: float) -> np.ndarray:
    squares = (one**2).sum(axis=1)[:, None] + (other**2).sum(axis=1) - 2 * one @ other.T
    return np.exp(-np.maximum(squares, 0) / (2 * length**2))


def learn_dirt(
    crops: Sequence[Crop], brightness: Sequence[np.ndarray], variance: Sequence[np.ndarray]
) -> tuple[float, float]:
    """Return the dirt's variance and its length in a; variance 0 where there is no dirt.

    Parameters
    ----------
    crops : sequence of Crop
    brightness, variance : sequences of ndarray
        What the columns explain at every pixel, and the noise there.
    """
    parts = []
    for crop, mean, noise in zip(crops, brightness, variance, strict=True):
        rows, left, scatter = _hollows(crop, mean, noise)
        kept = crop.known[rows]
        rows, left, scatter = rows[kept], left[kept], scatter[kept]
        middle = np.median(crop.hollow.points[rows], axis=0) if len(rows) else 0
        near = np.linalg.norm(crop.hollow.points[rows] - middle, axis=1)
        first = np.argsort(near)[: max(_MOST_HOLLOWS // len(crops), 16)]
        parts.append((crop.hollow.points[rows[first]] / crop.a_px, left[first], scatter[first]))
    parts = [part for part in parts if len(part[1]) > 3]
    if not parts:
        return 0.0, 1.0
    spread = float(np.concatenate([left for _, left, _ in parts]).var())
    plain = sum(_log_likelihood(left, np.diag(scatter)) for _, left, scatter in parts)
    best = (plain + _WORTH, 0.0, 1.0)
    for length in _LENGTHS_A:
        kernels = [_covariance(points, points, length) for points, _, _ in parts]
        for share in _SHARES:
            found = sum(
                _log_likelihood(left, share * spread * kernel + np.diag(scatter))
                for kernel, (_, left, scatter) in zip(kernels, parts, strict=True)
            )
            best = max(best, (found, share * spread, length))
    return best[1:]


def _log_likelihood(left: np.ndarray, covariance: np.ndarray) -> float:
    jitter = 1e-9 * float(np.trace(covariance)) / len(left) + 1e-30
    root = np.linalg.cholesky(covariance + jitter * np.eye(len(left)))
    white = np.linalg.solve(root, left)
    return float(-white @ white / 2 - np.log(np.diag(root)).sum())


def dirt_of(
    crop: Crop, brightness: np.ndarray, noise: np.ndarray, variance: float, length: float
) -> np.ndarray:
    """Return the contamination at every pixel of a crop, shape (m · n,).

    Parameters
    ----------
    crop : Crop
    brightness, noise : ndarray
        What the columns explain, and the noise's variance.
    variance, length : float
        From :func:`learn_dirt`.
    """
    rows, left, scatter = _hollows(crop, brightness, noise)
    if variance <= 0 or not len(rows):
        return np.zeros(crop.data.size)
    among, to_sites = _kernels(crop, length)
    known = variance * among
    known[np.diag_indices(len(rows))] += scatter + 1e-6 * variance
    weights = cho_solve(cho_factor(known, overwrite_a=True), left)
    return crop.spread(*(variance * to_sites @ weights).reshape(3, -1))


def _kernels(crop: Crop, length: float) -> tuple[np.ndarray, np.ndarray]:
    """Return the covariance among the hollows seen, and that of all sites with them.

    The rounds of one solution all need the same: the last is kept with its crop.
    """
    if length not in crop.kernels:
        kinds = (crop.chalcogen, crop.metal, crop.hollow)
        sites = np.concatenate([kind.points for kind in kinds]) / crop.a_px
        points = crop.hollow.points[crop.open_hollows[0]] / crop.a_px
        crop.kernels.clear()
        crop.kernels[length] = (
            _covariance(points, points, length),
            _covariance(sites, points, length),
        )
    return crop.kernels[length]
