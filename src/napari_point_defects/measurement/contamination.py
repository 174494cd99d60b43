"""Contamination: what lies on the crystal beside its columns, how much and how coarse."""

from __future__ import annotations

import numpy as np
from scipy import fft, optimize

from napari_point_defects.materials import LATTICE_VECTORS
from napari_point_defects.measured import Estimate

_NOTHING = Estimate(np.nan, np.nan, np.nan)


def background_power(level: np.ndarray, weight: np.ndarray, noise: float) -> tuple[float, float]:
    """Return the variance of the tiles' background beyond noise, and its standard error.

    Parameters
    ----------
    level : ndarray of shape (P, Q)
        Mean intensity of each tile less the mean cell's.
    weight : ndarray of shape (P, Q)
        Pixels in each.
    noise : float
        Variance of one pixel's noise.
    """
    good = weight > 0.5 * weight.max()
    values = level[good] - level[good].mean()
    expected = noise / weight[good]
    power = float(np.mean(values**2 - expected))
    return power, float(np.sqrt(2 / max(good.sum(), 1)) * (np.mean(expected) + max(power, 0)))


def correlation_length(
    level: np.ndarray, weight: np.ndarray, noise: float, power: float
) -> Estimate:
    """Return the standard deviation, in units of a, of the Gaussian that the correlation follows.

    The correlation between tiles is exp(−r² / 2 L²); a tile's own size is taken off. The lag 0 is
    known only less its noise; all others are free of it.
    """
    good = weight > 0.5 * weight.max()
    values = np.where(good, level - level[good].mean(), 0.0)
    size = [fft.next_fast_len(2 * n) for n in level.shape]
    spectrum = fft.rfft2(values, size)
    pairs = fft.irfft2(np.abs(fft.rfft2(good.astype(float), size)) ** 2, size)
    total = fft.irfft2(np.abs(spectrum) ** 2, size)
    steps = np.stack(np.meshgrid(*[fft.fftfreq(n, 1 / n) for n in size], indexing="ij"), -1)
    distance = np.linalg.norm(steps @ LATTICE_VECTORS, axis=-1)
    enough = pairs > 0.2 * pairs[0, 0]
    limit = 0.4 * min(np.ptp(np.argwhere(good), axis=0) + 1)
    kept = enough & (distance < max(limit, 2.5))
    correlation = total[kept] / pairs[kept] / max(power, 1e-30)
    correlation[distance[kept] == 0] = 1.0
    radius, number = distance[kept], pairs[kept]
    bins = np.rint(radius).astype(int)
    if bins.max() < 2:
        return _NOTHING
    count = np.bincount(bins)
    filled = count > 0
    curve = np.bincount(bins, correlation)[filled] / count[filled]
    where = np.bincount(bins, radius)[filled] / count[filled]
    error = 0.05 + np.abs(0.5 * noise / np.median(weight[good]) / max(power, 1e-30)) / np.sqrt(
        np.bincount(bins, number)[filled] / 2
    )

    def off(p: np.ndarray) -> np.ndarray:
        # a finite field hides its own mean: the correlation dips below 0 by p[1]
        shape = (1 + p[1]) * np.exp(-(where**2) / (2 * np.exp(2 * p[0]))) - p[1]
        model = np.exp(p[2]) * shape
        return np.concatenate([(model - curve) / error, [p[1] / 0.5, p[2] / 0.3]])

    # lag 0 holds what is not dirt, too: its height is free
    where, curve, error = where[1:], curve[1:], error[1:]
    found = optimize.least_squares(
        off, [np.log(2.0), 0.0, 0.0], bounds=([-2, -0.2, -1.5], [5, 1, 0.2])
    )
    length = float(np.exp(found.x[0]))
    inverse = np.linalg.pinv(found.jac.T @ found.jac)
    patches = good.sum() / max(2 * np.pi * length**2, 1)
    half = 1.96 * float(np.sqrt(inverse[0, 0] + 1 / max(patches, 1)))
    own = 1 / 12  # variance of a tile's extent along one direction, about
    clear = float(np.sqrt(max(length**2 - own, 0.01)))
    # what is coarser than a fifth of the field shows only its finer part
    coarse = float(np.sqrt(good.sum())) / max(5 * length, 1e-9)
    high = clear * np.exp(half) if coarse > 1 else np.inf
    return Estimate(clear, clear * np.exp(-half), high)


def contamination_level(
    level: np.ndarray,
    weight: np.ndarray,
    power: tuple[float, float],
    seen: bool,
    absolute: Estimate,
) -> Estimate:
    """Return the mean intensity of the contamination.

    Its unevenness is seen directly. What is even is part of the level between the columns, as
    are their tails and the black level: ``absolute`` is what those leave over.

    Parameters
    ----------
    level, weight : ndarray of shape (P, Q)
        As in :func:`background_power`.
    power : (float, float)
        From :func:`background_power`.
    seen : bool
        Whether the background is uneven at all.
    absolute : Estimate
        Level between the columns less black level and the columns' own.
    """
    spread = float(np.sqrt(max(power[0], 0.0)))
    top = float(np.sqrt(max(power[0] + 2 * power[1], 0.0)))
    if not seen:
        high = np.nanmax([absolute.high, 2 * top])
        return Estimate(0.0, 0.0, max(float(high), 0.0))
    # a field that is nowhere negative: its mean is at least what its darkest places lack
    good = weight > 0.5 * weight.max()
    dark = float(np.percentile(level[good], 3) - level[good].mean())
    shrink = spread / max(float(level[good].std()), 1e-30)
    least = max(-dark * shrink, 0.0)
    if not np.isfinite(absolute.value):
        return Estimate(least, 0.5 * least, 4 * least)
    value = max(absolute.value, least)
    # what was measured is a sample of a few clouds
    sample = spread / np.sqrt(max(good.sum() / 50, 1))
    low = max(absolute.low - sample, 0.6 * least)
    return Estimate(value, min(low, value), max(absolute.high, 1.5 * least) + sample)
