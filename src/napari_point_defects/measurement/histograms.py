"""Intensities sorted by what is expected of them, and the steps and ends of the digitiser."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

BANDS = 32
MOST_LEVELS = 512
_FEW_LEVELS = 32


@dataclass(frozen=True, slots=True)
class Histograms:
    """Histograms of intensity in bands of the expected intensity, in each block of the image.

    Attributes
    ----------
    counts : ndarray of shape (G, B, V)
        Pixels in block, band and level.
    low, step : float
        Intensity of the first level, and from one level to the next.
    mean : ndarray of shape (B,)
        Mean intensity in each band.
    expected_spread : ndarray of shape (B,)
        Variance of the expected intensity within the band.
    slope : ndarray of shape (B,)
        Mean square of the expected intensity's slope along x [intensity² per px²].
    reference : float
        Mean intensity of all: there the variance is best known.
    """

    counts: np.ndarray
    low: float
    step: float
    mean: np.ndarray
    expected_spread: np.ndarray
    slope: np.ndarray
    reference: float

    def take(self, bands: np.ndarray) -> Histograms:
        """Return some of the bands."""
        return Histograms(
            self.counts[:, bands],
            self.low,
            self.step,
            self.mean[bands],
            self.expected_spread[bands],
            self.slope[bands],
            self.reference,
        )

    @property
    def total(self) -> np.ndarray:
        """Pixels in band and level, shape (B, V)."""
        return self.counts.sum(axis=0)

    @property
    def levels(self) -> np.ndarray:
        """Intensity of each level, shape (V,)."""
        return self.low + self.step * np.arange(self.counts.shape[2])

    @property
    def clipped(self) -> np.ndarray:
        """Share of each band's pixels at the lowest and at the highest level, shape (B, 2)."""
        total = self.total
        shares = total[:, [0, -1]] / np.maximum(total.sum(axis=1, keepdims=True), 1)
        # where no read noise blurs it, no count at all is a spike at the end, with a gap beside it
        beside = np.array([total[:, 1:4].sum(), total[:, -4:-1].sum()])
        return shares * (beside > 0.01 * total[:, [0, -1]].sum(axis=0))


def digitiser_step(values: np.ndarray) -> float:
    """Return the step between intensities; 0 where they are not in steps."""
    sample = np.unique(values[:: max(1, len(values) // 200_000)].astype(float))
    if len(sample) < 2:
        return 0.0
    gaps = np.diff(sample)
    least = float(gaps.min())
    whole = np.array_equal(sample, np.rint(sample))
    if len(sample) < _FEW_LEVELS:  # they may be single counts, not the digitiser's steps
        return 1.0 if whole else 0.0
    if whole:
        return float(np.gcd.reduce(gaps.astype(np.int64)))
    # float32 keeps 7 digits; a digitiser's steps stand out from rounding, and fit throughout
    if least <= 1e-5 * np.abs(sample).max():
        return 0.0
    off = gaps / least
    return least if np.abs(off - np.rint(off)).max() < 0.05 else 0.0


def in_own_units(window: np.ndarray) -> tuple[np.ndarray, float, float]:
    """Return intensities about 0 and near 1 in float32, and the shift and scale taken off.

    Whole numbers stay what they are: their steps matter.
    """
    finite = window[np.isfinite(window)]
    nothing = not len(finite) or not finite.max() > finite.min()
    if nothing or (np.abs(finite).max() < 2**24 and np.array_equal(finite, np.rint(finite))):
        return window.astype(np.float32), 0.0, 1.0
    shift, scale = float(np.median(finite)), float(finite.std(dtype=float))
    return ((window.astype(float) - shift) / scale).astype(np.float32), shift, scale


def clipped_shares(values: np.ndarray) -> tuple[float, float]:
    """Return the share of pixels piled up at the lowest and the highest value."""
    ends = []
    step = max(digitiser_step(values), float(values.std()) / 50)
    for end, sign in ((values.min(), 1), (values.max(), -1)):
        off = (values - end) * sign
        at = float((off < 0.5 * step).mean())
        beside = float(((off >= 0.5 * step) & (off < 3.5 * step)).mean()) / 3
        # a gap beside it: no count at all, where no read noise blurs it
        piled = at > max(3 * beside, 20 / len(values)) and 3 * beside > 0.01 * at
        ends.append(at if piled else 0.0)
    return ends[0], ends[1]


def gather(
    values: np.ndarray,
    expected: np.ndarray,
    slope: np.ndarray,
    blocks: np.ndarray,
    spread: float,
) -> Histograms | None:
    """Sort pixels into bands and levels.

    Parameters
    ----------
    values, expected, slope : ndarray of shape (N,)
        Intensity, its expectation, and that expectation's squared slope along x.
    blocks : ndarray of shape (N,), int
        Part of the image.
    spread : float
        Typical standard deviation of the noise.

    Returns
    -------
    Histograms or None
        None where all values are the same.
    """
    low, high = float(values.min()), float(values.max())
    if not high > low:
        return None
    step = digitiser_step(values)
    fine = max((high - low) / (MOST_LEVELS - 1), spread / 8)
    if step:
        group = max(1, round(fine / step))  # whole steps: rounding halves would make a comb
        level = np.rint((values - low) / step).astype(np.int32) // group
        low, step = low + (group - 1) / 2 * step, step * group
    else:
        step = fine
        level = np.rint((values - low) / step).astype(np.int32)
    size = int(level.max()) + 1
    sample = expected[:: max(1, len(expected) // 100_000)]
    first, last = np.percentile(sample, [0.2, 99.8])
    edges = np.linspace(first, max(last, first + 1e-9), BANDS + 1)
    band = np.clip(((expected - first) / (edges[1] - edges[0])).astype(np.int32), 0, BANDS - 1)
    groups = int(blocks.max()) + 1
    counts = np.bincount((blocks * BANDS + band) * size + level, minlength=groups * BANDS * size)
    counts = counts.reshape(groups, BANDS, size)
    number = np.bincount(band, minlength=BANDS).astype(float)
    safe = np.maximum(number, 1)
    mean = np.bincount(band, values, minlength=BANDS) / safe
    middle = np.bincount(band, expected, minlength=BANDS) / safe
    off = expected - middle.astype(np.float32)[band]
    within = np.bincount(band, off * off, minlength=BANDS) / safe
    steep = np.bincount(band, slope, minlength=BANDS) / safe
    enough = number >= 200
    if enough.sum() < 5:
        return None
    reference = float((number * mean)[enough].sum() / number[enough].sum())
    return Histograms(
        counts[:, enough], low, step, mean[enough], within[enough], steep[enough], reference
    )


def variance_line(data: Histograms, extra: np.ndarray) -> tuple[float, float, np.ndarray]:
    """Fit var = intercept + gain · mean by weighted least squares.

    Returns
    -------
    gain, intercept : float
    variance : ndarray of shape (B,)
        Of each band, with what is not noise taken off.
    """
    total, levels = data.total, data.levels
    number = total.sum(axis=1)
    mean = total @ levels / number
    square = (total * (levels[None] - mean[:, None]) ** 2).sum(axis=1) / number
    variance = square - data.step**2 / 12 - extra - data.expected_spread
    kept = data.clipped.max(axis=1) < 0.02
    if kept.sum() < 4:
        kept = data.clipped.max(axis=1) <= np.sort(data.clipped.max(axis=1))[3]
    weight = np.sqrt(number) / np.maximum(square, 1e-12)
    for _ in range(2):
        design = np.stack([data.mean, np.ones(len(mean))], axis=1)[kept] * weight[kept, None]
        (gain, intercept), *_ = np.linalg.lstsq(design, variance[kept] * weight[kept], rcond=None)
        weight = np.sqrt(number) / np.maximum(gain * data.mean + intercept, 0.2 * square)
    return float(gain), float(intercept), variance
