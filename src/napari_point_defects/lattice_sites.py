"""Which of the three sites of the mean cell is hollow, which X₂, which M.

The mean cell is held as its Fourier coefficients ("harmonics"): averaging pixels modulo the
lattice and transforming the result gives the same numbers, but harmonics taken through a smooth
window are free of the slowly varying background.

Indices (h, k) refer to reciprocal vectors b1 and b2 that enclose 60°, so the direct vectors
enclose 120° and the sites lie at fractions 0, (1/3, 2/3) and (2/3, 1/3) of them.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import optimize

from napari_point_defects.materials import Material

CANONICAL_CELL = np.array([[0.0, np.sqrt(3) / 2], [1.0, -0.5]])
"""Columns: the direct vectors (y, x) of the canonical frame that enclose 120°, in units of a."""

SITES = np.array([[0.0, 0.0], [1 / 3, 2 / 3], [2 / 3, 1 / 3]])
"""Hollow, X₂ and M in fractions of the canonical cell."""

_RATIO_ERROR = 0.15
"""Standard deviation of the logarithm of the expected X₂/M ratio: Z-contrast is a rule of thumb."""
_RADIAL_ERROR, _PHASE_ERROR = 0.15, 0.04
"""Model error of a harmonic, relative: column shapes are not quite Gaussian (that changes its
modulus), hardly ever skewed (that would turn its phase)."""
_COMB_ERROR = 0.2
"""Standard deviation of a brightness common to all three sites, in units of the M column."""


@dataclass(frozen=True, slots=True)
class MeanCell:
    """Fourier coefficients of the mean cell.

    Attributes
    ----------
    indices : ndarray of shape (K, 2), int
        (h, k) of each harmonic.
    values : ndarray of shape (K,), complex
        Coefficients, with the phase origin at any one point.
    noise : ndarray of shape (K,)
        Expected squared modulus of each coefficient in the absence of a lattice.
    """

    indices: np.ndarray
    values: np.ndarray
    noise: np.ndarray


@dataclass(frozen=True, slots=True)
class SiteAssignment:
    """One way to name the three sites.

    Attributes
    ----------
    hollow : ndarray of shape (2,)
        Position of a hollow from the phase origin, in fractions of the cell.
    flipped : bool
        False: X₂ lies at +(1/3, 2/3) of the cell from it and M at −(1/3, 2/3). True: the reverse.
    confidence : float
        Probability against the most likely other assignment, 0 to 1.
    misfit : float
        Share of the harmonics' power that the three-site model leaves unexplained.
    """

    hollow: np.ndarray
    flipped: bool
    confidence: float
    misfit: float


def expected_brightness_ratio(material: Material) -> float:
    """Return the expected integrated contrast of an X₂ column over that of an M column."""
    from ase.data import atomic_numbers  # here, for ase.data is slow to import

    z_ratio = atomic_numbers[material.chalcogen] / atomic_numbers[material.metal]
    return float(2 * z_ratio**1.7)


def rank_sites(cell: MeanCell, material: Material) -> tuple[SiteAssignment, ...]:
    """Return the six ways to name the three sites, the most likely one first.

    Each is a model of columns with a common Gaussian shape at X₂ and M, nothing at the hollow,
    and the brightness ratio of the material. Its best fit, with the uncertainty of the harmonics
    and of the ratio, gives the likelihood.
    """
    ratio = expected_brightness_ratio(material)
    centre = _threefold_centre(cell)
    fits = [
        (*_fit(cell, centre + site, flipped, np.log(ratio)), flipped)
        for site in SITES
        for flipped in (False, True)
    ]
    fits.sort(key=lambda fit: fit[0])
    best, next_best = fits[0][0], fits[1][0]
    return tuple(
        SiteAssignment(hollow, flipped, _confidence(chi2, best if rank else next_best), misfit)
        for rank, (chi2, hollow, misfit, flipped) in enumerate(fits)
    )


def _confidence(chi2: float, other: float) -> float:
    return float(1 / (1 + np.exp(np.clip((chi2 - other) / 2, -50, 50))))


def _threefold_centre(cell: MeanCell) -> np.ndarray:
    """Find one of the three 3-fold centres of the cell (they are its sites), as fractions.

    About such a point every harmonic equals its two partners turned by 120°, so the sum of each
    triple is largest; among the grid's points the {11} triple also chooses bright against dark.
    """
    grid = np.stack(np.meshgrid(*[np.arange(48) / 48] * 2, indexing="ij"), -1).reshape(-1, 2)
    turned = cell.values * np.exp(2j * np.pi * (grid @ cell.indices.T))
    score = np.zeros(len(grid))
    for n, index in (((h * h + h * k + k * k), (h, k)) for h, k in ((1, 0), (1, 1), (2, 0))):
        triple = _orbit(cell.indices, index)
        if triple is None:
            continue
        # a conjugate stands in where only the opposite of an index is listed
        terms = np.stack(
            [turned[:, i] if sign > 0 else turned[:, i].conj() for i, sign in triple], -1
        )
        total = terms.sum(-1)
        power = np.abs(total) ** 2 if n != 3 else np.maximum(total.real, 0) ** 2
        score += power / (cell.noise[[i for i, _ in triple]].mean() + 0.02 * np.ptp(power))
    return grid[np.argmax(score)]


def _orbit(indices: np.ndarray, start: tuple[int, int]) -> list[tuple[int, int]] | None:
    """Rows of the three harmonics that 120° turns make of ``start``, each with its sign."""
    orbit, (h, k) = [], start
    for _ in range(3):
        for sign in (1, -1):
            (rows,) = np.nonzero((indices == (sign * h, sign * k)).all(1))
            if len(rows):
                orbit.append((int(rows[0]), sign))
        h, k = -h - k, h
    return orbit if len(orbit) == 3 else None


def _fit(
    cell: MeanCell, start: np.ndarray, flipped: bool, log_ratio: float
) -> tuple[float, np.ndarray, float]:
    """Fit one assignment; return χ², the hollow's place and the unexplained share of power."""
    reciprocal = cell.indices @ np.linalg.inv(CANONICAL_CELL)  # (K, 2), in 1/a
    gy, gx = reciprocal.T
    modulus = np.abs(cell.values)
    towards = cell.values / np.maximum(modulus, 1e-30)
    radial = np.sqrt(cell.noise / 2 + (_RADIAL_ERROR * modulus) ** 2)
    across = np.sqrt(cell.noise / 2 + (_PHASE_ERROR * modulus) ** 2)
    order = [0, 2, 1] if flipped else [0, 1, 2]
    strongest = modulus.max()
    waves = np.exp(-2j * np.pi * (cell.indices @ SITES.T))  # (K, 3), of point columns there
    terms = np.stack([gy**2 + gx**2, gy**2 - gx**2, 2 * gy * gx])

    def model(p: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return the harmonics, those of unit columns and the blur's three parts."""
        brightness = np.array([0, np.exp(p[3]), 1])[order] + p[4]
        width = np.exp(2 * np.clip(p[5], -4, 0))  # mean squared width in a²
        blur = -2 * np.pi**2 * width * terms
        shape = blur[0] + np.clip(p[6], -0.7, 0.7) * blur[1] + np.clip(p[7], -0.7, 0.7) * blur[2]
        phase = np.exp(-2j * np.pi * (cell.indices @ p[:2]) + shape)
        columns = strongest * np.exp(p[2]) * phase[:, None] * waves
        return columns @ brightness, columns, np.stack([2 * shape, blur[1], blur[2]])

    widths = np.array([0.05, 0.05, np.inf, _RATIO_ERROR, _COMB_ERROR, 0.5, 0.3, 0.3])
    expected = np.array([*start, 0.0, log_ratio, 0.0, np.log(0.14), 0.0, 0.0])
    prior_slopes = np.delete(np.diag(1 / widths), 2, axis=0)

    def residuals(p: np.ndarray) -> np.ndarray:
        off = (model(p)[0] - cell.values) * towards.conj()
        prior = np.delete((p - expected) / widths, 2)
        return np.concatenate([off.real / radial, off.imag / across, prior])

    def slopes(p: np.ndarray) -> np.ndarray:
        found, columns, blur = model(p)
        inside = np.abs(p[5:] - [-2, 0, 0]) < [2, 0.7, 0.7]
        change = np.concatenate(
            [
                -2j * np.pi * cell.indices * found[:, None],
                found[:, None],
                columns[:, [order.index(1)]] * np.exp(p[3]),
                columns.sum(axis=1, keepdims=True),
                (blur * inside[:, None] * found).T,
            ],
            axis=1,
        )
        change *= towards.conj()[:, None]
        return np.concatenate([change.real / radial[:, None], change.imag / across[:, None],
                               prior_slopes])  # fmt: skip

    first = np.array([*start, 0.5, log_ratio, 0.0, np.log(0.14), 0.0, 0.0])
    result = optimize.least_squares(residuals, first, slopes, x_scale="jac", max_nfev=40)
    power = np.maximum(modulus**2 - cell.noise, 0).sum()
    missed = (np.abs(model(result.x)[0] - cell.values) ** 2 - cell.noise).sum()
    misfit = max(missed, 0.0) / max(power, 1e-30)
    return float(2 * result.cost), result.x[:2] % 1, float(misfit)
