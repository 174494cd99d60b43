"""Ranges to draw from, made of measured values and their intervals."""

from __future__ import annotations

import math

import numpy as np

from napari_point_defects.measured import Estimate

Range = tuple[float, float]


def is_known(estimate: Estimate) -> bool:
    """Tell whether the image says anything of a quantity."""
    return math.isfinite(estimate.value)


def finite(value: float, otherwise: float) -> float:
    """Return a value, or the other one where it is not finite."""
    return value if math.isfinite(value) else otherwise


def around(value: float, factor: float) -> Range:
    """Return the value divided and multiplied by a factor."""
    return value / factor, value * factor


def spread(estimate: Estimate, factor: float) -> Range:
    """Return a positive quantity's interval, but at least ÷ and × the factor.

    A very wide interval says little: the range ends a decade below and above the value.
    """
    low, high = around(estimate.value, factor)
    low, high = min(low, finite(estimate.low, low)), max(high, finite(estimate.high, high))
    return max(low, estimate.value / 10), min(high, 10 * estimate.value)


def widened(estimate: Estimate, margin: float) -> Range:
    """Return the interval, but at least the value less and plus a margin."""
    low, high = estimate.value - margin, estimate.value + margin
    return min(low, finite(estimate.low, low)), max(high, finite(estimate.high, high))


def clipped(limits: Range, low: float, high: float) -> Range:
    """Return a range within what is possible."""
    return float(np.clip(limits[0], low, high)), float(np.clip(limits[1], low, high))


def rounded(limits: Range, digits: int = 4) -> Range:
    """Return a range that reads well, no narrower by more than a few parts in 10,000."""
    return tuple(float(f"{value:.{digits}g}") for value in limits)


def scaled(estimate: Estimate, factor: float) -> Estimate:
    """Return the estimate in another unit."""
    return Estimate(estimate.value * factor, estimate.low * factor, estimate.high * factor)
