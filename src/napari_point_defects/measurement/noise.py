"""The noise: counts, read noise and black level from how pixels spread about the mean cell.

Pixels that should be equal differ by noise alone. With N ~ Poisson(s / g) counts where the
signal is s, the intensity is I = o + g N + σ n: offset o, gain g (intensity per count), read
noise σ. Mean and variance give a straight line, var = g (mean − o) + σ² (Janesick, *Photon
Transfer*, SPIE 2007, ch. 5): its slope is the gain, but o and σ² enter as one number. The third
cumulant, g² (mean − o), and at few counts the comb of single counts tell them apart. So the
whole distribution is fitted: in each band of the mean, the histogram of the intensities is
compared with the model's, which is exact in its characteristic function,

    φ(t) = exp(i t o + (s / g) (exp(i t g) − 1) − σ² t² / 2),

with steps of the digitiser, and with values beyond its ends counted as the lowest and highest.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import fft

BANDS = 32
MOST_LEVELS = 512
_LEAST_SIGMA = 0.3  # steps: below it read noise drowns in the digitiser's steps
_TINY = 1e-9
_GAIN_REACH = 0.2
_FEW_LEVELS = 32
_MODEL_ERROR = 0.005
"""Share of gain and dark signal that the model may miss."""


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


@dataclass(frozen=True, slots=True)
class NoiseFit:
    """Result of the fit.

    Attributes
    ----------
    gain, offset, variance : float
        Intensity per count, intensity of no signal, read noise squared.
    covariance : ndarray of shape (3, 3)
        Of (gain, offset, variance), from how the blocks of the image differ.
    mean : ndarray of shape (B,)
        Mean intensity of each band, had nothing been clipped.
    """

    gain: float
    offset: float
    variance: float
    covariance: np.ndarray
    mean: np.ndarray

    def with_offset(self, offset: float, error: float) -> NoiseFit:
        """Return the fit once the offset is known from elsewhere, with that standard error."""
        pull = self.covariance[:, 1] / (self.covariance[1, 1] + error**2)
        gain, known, variance = np.array([self.gain, self.offset, self.variance]) + pull * (
            offset - self.offset
        )
        covariance = self.covariance - np.outer(pull, self.covariance[1])
        if not gain > 0.5 * self.gain:
            return self
        return NoiseFit(float(gain), float(known), max(float(variance), 0.0), covariance, self.mean)


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


class _Model:
    """Expected histograms for given gain, offset and read noise.

    ``beyond`` is the share of each band that the last ones asked for had beyond the ends.
    """

    def __init__(self, data: Histograms, extra: np.ndarray) -> None:
        self.data, self.extra = data, extra
        levels = data.counts.shape[2]
        self.pad = levels // 2 + 8
        self.length = fft.next_fast_len(levels + 2 * self.pad)
        self.beyond = np.zeros(len(data.mean))
        self.frequency = 2 * np.pi * np.arange(self.length // 2 + 1) / (self.length * data.step)

    def probabilities(self, gain, offset, variance, mean) -> np.ndarray:
        """Return the model's share of each band's pixels in each level, (B, V)."""
        data = self.data
        signal = np.maximum(mean - offset, 1e-3 * gain)
        spectrum = np.zeros((len(mean), len(self.frequency)), complex)
        turn = 2 * np.pi / data.step
        # steps of the digitiser fold higher frequencies back; two folds reach σ = 0.3 steps
        sigma = np.sqrt(max(variance, 0.0)) / data.step
        folds = (0,) if sigma > 0.9 else (-1, 0, 1) if sigma > 0.5 else (-2, -1, 0, 1, 2)
        base = data.low - self.pad * data.step
        for fold in folds:
            t = self.frequency + fold * turn
            count = np.expm1(1j * t * gain)
            within = count + 1j * 0
            exponent = (
                1j * t * (offset - base)
                + (signal / gain)[:, None] * count
                + (data.expected_spread / (2 * gain**2))[:, None] * within**2
                - 0.5 * t**2 * (variance + self.extra)[:, None]
            )
            box = np.sinc(t * data.step / (2 * np.pi))
            spectrum += np.exp(np.minimum(exponent.real, 0) + 1j * exponent.imag) * box
        share = fft.irfft(spectrum.conj(), n=self.length, axis=1)
        inner = share[:, self.pad : self.pad + data.counts.shape[2]].copy()
        # all beyond the ends is read as the lowest and the highest value
        below = share[:, : self.pad].sum(axis=1)
        above = share[:, self.pad + data.counts.shape[2] :].sum(axis=1)
        inner[:, 0] += below
        inner[:, -1] += above
        self.beyond = np.clip(below + above, 0, 1)
        inner = np.maximum(inner, _TINY)
        return inner / inner.sum(axis=1, keepdims=True)


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


def fit_noise(data: Histograms, extra: np.ndarray) -> NoiseFit | None:
    """Fit gain, offset and read noise to the histograms by maximum likelihood.

    Parameters
    ----------
    data : Histograms
    extra : ndarray of shape (B,)
        Variance of each band that is known not to be noise (rows out of place).

    Returns
    -------
    NoiseFit or None
        None where the spread does not grow with the signal.
    """
    used = data.clipped.max(axis=1) < 0.6
    if used.sum() >= 5 and not used.all():
        data, extra = data.take(np.flatnonzero(used)), extra[used]
    gain, intercept, variance = variance_line(data, extra)
    if not gain > 0:
        return None
    model = _Model(data, extra)
    total = data.total
    floor = (_LEAST_SIGMA * data.step) ** 2
    clipped = data.clipped.max() > 5e-4
    mean = data.mean
    # the line's slope is no guess: a comb of half or twice the step is none of this image's
    bounds = np.log(gain) + np.array([-1, 1]) * _GAIN_REACH
    starts = _starts(data, gain, intercept, floor)
    few = data.take(np.arange(0, len(mean), 3))
    rough, part = _Model(few, extra[::3]), few.total
    value = [_log_likelihood(rough, part, start, mean[::3], floor)[0] for start in starts]
    best = (starts[int(np.argmax(value))], max(value))
    for _ in range(5 if clipped else 1):
        if clipped:
            mean = _unclipped_mean(model, best[0], mean, floor)
        best = _climb(model, total, best[0], mean, floor, 12, bounds)
    theta = best[0]
    gain, offset, variance = _physical(theta, data, floor)
    covariance = _covariance(model, data, theta, mean, floor)
    darkest = float(data.mean.min()) - offset
    covariance[0, 0] += (_MODEL_ERROR * gain) ** 2
    covariance[1, 1] += (_MODEL_ERROR * (darkest + gain)) ** 2
    covariance[2, 2] += (_MODEL_ERROR * (variance + gain * darkest)) ** 2 + floor**2
    return NoiseFit(gain, offset, variance, covariance, mean)


def _physical(theta: np.ndarray, data: Histograms, floor: float) -> tuple[float, float, float]:
    """Turn (log gain, offset, variance at the reference) into gain, offset, read variance."""
    gain = float(np.exp(theta[0]))
    return gain, float(theta[1]), float(theta[2] - gain * (data.reference - theta[1]))


def _starts(data: Histograms, gain: float, intercept: float, floor: float) -> list[np.ndarray]:
    """Return first guesses along the line of the variance, which fixes all but the read noise.

    Where single counts stand apart, a small error of the gain puts the comb of counts out of
    step, and the likelihood has many tops: gains are tried so densely that one start is in step.
    """
    middle = data.reference
    at = max(intercept + gain * middle, gain * 1e-3 + floor)
    darkest = float(data.mean.min())
    most = max(intercept + gain * darkest, 2 * floor)  # all noise of the darkest band
    sigmas = np.sqrt(np.linspace(floor, 0.98 * most, 6))
    counts = np.array([0.12, 0.2, 0.3]) * gain
    sigmas = np.unique(np.concatenate([sigmas, counts[(counts**2 > floor) & (counts**2 < most)]]))
    starts = []
    for sigma in sigmas:
        gains = [gain]
        if sigma < 0.3 * gain:  # counts stand apart
            spread = max(0.15 * gain / max(float(data.mean.max()) - darkest, gain), 2e-3)
            gains = gain * (1 + np.clip(spread, None, 0.02) * np.arange(-10, 11))
        starts += [np.array([np.log(g), middle - (at - sigma**2) / g, at]) for g in gains]
    return starts


def _bounded(theta: np.ndarray, data: Histograms, floor: float, bounds) -> np.ndarray:
    """Keep the offset below the darkest band and the read noise above the floor."""
    theta = theta.copy()
    theta[0] = np.clip(theta[0], *bounds)
    gain, middle = np.exp(theta[0]), data.reference
    theta[1] = min(theta[1], float(data.mean.min()) - 1e-3 * gain)
    theta[2] = max(theta[2], gain * (middle - theta[1]) + floor)
    return theta


def _log_likelihood(model, total, theta, mean, floor) -> tuple[float, np.ndarray]:
    shares = model.probabilities(*_physical(theta, model.data, floor), mean)
    return float((total * np.log(shares)).sum()), shares


def _steps(theta: np.ndarray) -> np.ndarray:
    gain = np.exp(theta[0])
    return np.array([2e-3, 2e-2 * gain, 2e-3 * theta[2]])


def _derivatives(model, theta, mean, floor) -> np.ndarray:
    """Return derivatives of the log shares by the parameters, (3, B, V)."""
    rows = []
    for index, size in enumerate(_steps(theta)):
        step = np.zeros(3)
        step[index] = size
        up = _bounded_variance(theta + step, model.data, floor)
        down = _bounded_variance(theta - step, model.data, floor)
        gap = up[index] - down[index]
        shares = [model.probabilities(*_physical(t, model.data, floor), mean) for t in (up, down)]
        rows.append((np.log(shares[0]) - np.log(shares[1])) / gap)
    return np.stack(rows)


def _bounded_variance(theta: np.ndarray, data: Histograms, floor: float) -> np.ndarray:
    theta = theta.copy()
    theta[1] = min(theta[1], float(data.mean.min()) - 1e-3 * np.exp(theta[0]))
    return theta


def _climb(model, total, theta, mean, floor, steps, bounds) -> tuple[np.ndarray, float]:
    """Climb the likelihood by damped Fisher scoring."""
    number = total.sum(axis=1, keepdims=True)
    theta = _bounded(theta, model.data, floor, bounds)
    value, shares = _log_likelihood(model, total, theta, mean, floor)
    damping = 1e-3
    for _ in range(steps):
        slopes = _derivatives(model, theta, mean, floor)
        gradient = (slopes * total).sum(axis=(1, 2))
        fisher = np.einsum("ibv,jbv,bv->ij", slopes, slopes, shares * number, optimize=True)
        for _ in range(6):
            loaded = fisher + damping * np.diag(np.diag(fisher))
            move = np.linalg.lstsq(loaded, gradient, rcond=None)[0]
            trial = _bounded(theta + np.clip(move, -40 * _steps(theta), 40 * _steps(theta)),
                             model.data, floor, bounds)  # fmt: skip
            new, new_shares = _log_likelihood(model, total, trial, mean, floor)
            if new >= value:
                break
            damping *= 8
        else:
            break
        gained = new - value
        theta, value, shares, damping = trial, new, new_shares, damping / 8
        if gained < 0.01:
            break
    return theta, value


def _unclipped_mean(model, theta, mean, floor) -> np.ndarray:
    """Return the means that, once clipped, are the ones observed."""
    data = model.data
    levels = data.levels
    for _ in range(4):
        shares = model.probabilities(*_physical(theta, data, floor), mean)
        lost = np.minimum(model.beyond, 0.8)
        observed = data.total @ levels / data.total.sum(axis=1)
        mean = mean + (observed - shares @ levels) / (1 - lost)
        mean = np.maximum(mean, theta[1] + 1e-3 * np.exp(theta[0]))
    return mean


def _covariance(model, data: Histograms, theta, mean, floor) -> np.ndarray:
    """Covariance of gain, offset and read variance from the blocks' scores (sandwich)."""
    slopes = _derivatives(model, theta, mean, floor)
    shares = model.probabilities(*_physical(theta, data, floor), mean)
    total = data.total
    fisher = np.einsum("ibv,jbv,bv->ij", slopes, slopes, shares * total.sum(axis=1)[:, None],
                       optimize=True)  # fmt: skip
    # less the mean score, for which the bands' means were free
    centred = slopes - (slopes * shares).sum(axis=2, keepdims=True)
    scores = np.einsum("ibv,gbv->gi", centred, data.counts, optimize=True)
    scores = scores - scores.mean(axis=0)
    groups = len(scores)
    middle = scores.T @ scores * groups / max(groups - 1, 1)
    middle = np.where(np.abs(middle) > 0, middle, 0) * 0.5 + 0.5 * fisher  # few blocks: steadied
    scale = np.sqrt(np.maximum(np.diag(fisher), 1e-30))
    inverse = np.linalg.pinv(fisher / np.outer(scale, scale), rcond=1e-10) / np.outer(scale, scale)
    by_theta = inverse @ middle @ inverse
    gain, middle_level = np.exp(theta[0]), data.reference
    jacobian = np.array(
        [
            [gain, 0, 0],
            [0, 1, 0],
            [-gain * (middle_level - theta[1]), gain, 1],
        ]
    )
    return jacobian @ by_theta @ jacobian.T
