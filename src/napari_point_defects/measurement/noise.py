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

from napari_point_defects.measurement.histograms import Histograms, variance_line

_LEAST_SIGMA = 0.3  # steps: below it read noise drowns in the digitiser's steps
_TINY = 1e-9
_GAIN_REACH, _CLIPPED_REACH = 0.2, 1.0
_MODEL_ERROR = 0.01
"""Share of gain and dark signal that the model may miss."""


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
        # what is not noise moves the expected counts, so it leaves the comb of counts sharp
        spread = data.expected_spread + self.extra
        turn = 2 * np.pi / data.step
        # steps of the digitiser fold higher frequencies back; two folds reach σ = 0.3 steps
        sigma = np.sqrt(max(variance, 0.0)) / data.step
        folds = (0,) if sigma > 0.9 else (-1, 0, 1) if sigma > 0.5 else (-2, -1, 0, 1, 2)
        base = data.low - self.pad * data.step
        for fold in folds:
            t = self.frequency + fold * turn
            count = np.expm1(1j * t * gain)
            exponent = (
                1j * t * (offset - base)
                + (signal / gain)[:, None] * count
                + (spread / (2 * gain**2))[:, None] * count**2
                - 0.5 * t**2 * variance
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


def fit_noise(data: Histograms, extra: np.ndarray) -> NoiseFit | None:
    """Fit gain, offset and read noise to the histograms by maximum likelihood.

    Parameters
    ----------
    data : Histograms
    extra : ndarray of shape (B,)
        Variance of each band beyond noise: negative where putting rows in place took noise off.

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
    # (but where the dark bands are clipped, the line is drawn through few)
    reach = _GAIN_REACH if data.clipped.max() < 0.02 else _CLIPPED_REACH
    bounds = np.log(gain) + np.array([-1, 1]) * reach
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
    counts = np.array([0.12, 0.2, 0.3, 0.4]) * gain
    sigmas = np.unique(np.concatenate([sigmas, counts[(counts**2 > floor) & (counts**2 < most)]]))
    starts = []
    for sigma in sigmas:
        gains = [gain]
        if sigma < 0.45 * gain:  # counts stand apart
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
