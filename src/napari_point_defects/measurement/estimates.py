"""Values with intervals: how they are turned, scaled and multiplied."""

from __future__ import annotations

import numpy as np

from napari_point_defects.measured import Estimate
from napari_point_defects.measurement.noise import NoiseFit

NOTHING = Estimate(np.nan, np.nan, np.nan)
"""What the image does not tell."""


def noise_estimates(noise: NoiseFit | None, step: float) -> tuple[Estimate, Estimate, Estimate]:
    """Return gain, offset and read noise with intervals."""
    if noise is None:
        return NOTHING, NOTHING, NOTHING
    half = 1.96 * np.sqrt(np.maximum(np.diag(noise.covariance), 0))
    gain = Estimate(noise.gain, max(noise.gain - half[0], 0.05 * noise.gain), noise.gain + half[0])
    offset = Estimate(noise.offset, noise.offset - half[1], noise.offset + half[1])
    power = np.array([noise.variance, noise.variance - half[2], noise.variance + half[2]])
    read = Estimate(*(float(v) for v in np.sqrt(np.maximum(power, 0))))
    if noise.variance < (0.8 * step) ** 2:
        read = Estimate(read.value, 0.0, read.high)  # lost in the digitiser's steps
    return gain, offset, read


def mapped(estimate: Estimate, scale: float, shift: float = 0.0) -> Estimate:
    """Return the estimate in the image's own units."""
    return Estimate(*(v * scale + shift for v in (estimate.value, estimate.low, estimate.high)))


def inverse(estimate: Estimate) -> Estimate:
    """Return one over a positive estimate."""
    return Estimate(1 / estimate.value, 1 / estimate.high, 1 / estimate.low)


def product(one: Estimate, other: Estimate) -> Estimate:
    """Return the product of two independent positive estimates."""
    value = float(one.value * other.value)
    share = np.sqrt(sum(np.log(e.high / max(e.low, 1e-3 * e.value)) ** 2 for e in (one, other))) / 2
    return Estimate(value, value * float(np.exp(-share)), value * float(np.exp(share)))
