"""Search the power spectrum of an image for a hexagonal lattice.

Peaks of the whitened spectrum propose reciprocal lattices; how well the shells of the hexagonal
lattice explain the spectrum ranks them.

Frequencies are (y, x) in cycles per pixel. A reciprocal basis is an array of shape (2, 2) whose
rows b1 and b2 enclose 60° where nothing is distorted.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import fft

from napari_point_defects.lattice_sites import CANONICAL_CELL

MIN_A_PX, MAX_A_PX = 7.0, 165.0
MAX_DISTORTION = 0.21
"""Largest shear and stretch searched: a margin above the 18 % seen in real frames. A square
lattice would need a stretch or shear far larger."""

INDICES = np.array(
    [
        (h, k)
        for n in (1, 3, 4, 7, 9, 12)
        for h in range(5)
        for k in range(-4, 5)
        if h * h + h * k + k * k == n and (h > 0 or k > 0)
    ]
)
"""One (h, k) of each ± pair, by shell."""

SHELL = (INDICES**2).sum(1) + INDICES.prod(1)
"""h² + hk + k²: squared length in units of {10}. Shells 1, 3, 4 are {10}, {11}, {20}."""

_PEAKS = 40
_CANDIDATES = 4
_FEWEST_CELLS = 2.8  # along the shorter side
_LARGEST_GAIN = 60.0
_INNER_RINGS = 12
_APART = 0.12
"""Peaks that lie farther from all spots, in units of {10}, are another lattice's: at {11} that is
a turn by 4°. Slow bending spreads the spots by less."""


@dataclass(frozen=True, slots=True)
class Spectrum:
    """Windowed power spectrum of the half plane fx >= 0.

    Attributes
    ----------
    shape : (int, int)
        Of the image, zeros appended.
    pixels : int
        In the image, without them.
    whitened : ndarray of shape (M, N // 2 + 1)
        Power over the noise level at that frequency: exponential with mean 1 for noise.
    strength : ndarray of shape (M, N // 2 + 1)
        Largest whitened power among each bin and its eight neighbours.
    noise : ndarray of shape (R,)
        Power spectral density of the noise by |f| in steps of ``step``: the expected squared
        modulus of sum(w * image * exp(...)) is this times sum(w ** 2).
    step : float
    """

    shape: tuple[int, int]
    pixels: int
    whitened: np.ndarray
    strength: np.ndarray
    noise: np.ndarray
    step: float

    def noise_at(self, frequency: np.ndarray) -> np.ndarray:
        """Noise at frequencies of shape (..., 2)."""
        radius = np.hypot(frequency[..., 0], frequency[..., 1]) / self.step
        return np.interp(radius, np.arange(len(self.noise)), self.noise)

    def nearest_bin(self, frequency: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Row, column of each frequency of shape (..., 2), and whether it is below Nyquist."""
        inside = (np.abs(frequency) < 0.49).all(-1)
        frequency = np.where(frequency[..., 1:] < 0, -frequency, frequency)
        frequency = np.where(inside[..., None], frequency, 0)
        rows = np.rint(frequency[..., 0] * self.shape[0]).astype(int) % self.shape[0]
        cols = np.rint(frequency[..., 1] * self.shape[1]).astype(int)
        return rows, cols, inside


def whitened_spectrum(image: np.ndarray) -> Spectrum:
    """Power spectrum under a Hann window, divided by its geometric mean over annuli.

    The geometric mean hardly notices peaks; for exponential noise it is exp(−0.577) of the mean.
    """
    rows, cols = (np.hanning(n + 2)[1:-1].astype(np.float32) for n in image.shape)
    window = rows[:, None] * cols
    mean = (image * window).sum() / window.sum()
    # padding samples the spectrum finely: between the spots of few cells lie less than two bins
    factor = max(1, min(4, 1280 // min(image.shape)))
    shape = tuple(fft.next_fast_len(factor * n, real=True) for n in image.shape)
    waves = fft.rfft2((image - mean) * window, s=shape)
    power = waves.real**2 + waves.imag**2
    del waves
    power /= (rows**2).sum() * (cols**2).sum()
    power += np.float32(1e-12)
    step = 1 / min(image.shape)
    fy = (fft.fftfreq(shape[0])[:, None] / step).astype(np.float32)
    fx = (fft.rfftfreq(shape[1]) / step).astype(np.float32)
    radius = np.sqrt(fy**2 + fx**2)
    ring = np.rint(radius).astype(np.int32).ravel()
    log_power = np.log(power)
    count = np.bincount(ring)
    mean_log = np.bincount(ring, log_power.ravel()) / np.maximum(count, 1)
    mean_log = _smooth_over_rings(mean_log, count) + 0.5772
    _correct_inner_rings(mean_log, log_power, radius)
    whitened = power * np.exp(-mean_log).astype(np.float32)[ring].reshape(power.shape)
    strength = _largest_near(whitened)
    return Spectrum(shape, image.size, whitened, strength, np.exp(mean_log), step)


def _largest_near(values: np.ndarray) -> np.ndarray:
    """Largest of each value and its eight neighbours; rows go round, columns end."""
    rows = np.maximum(values, np.roll(values, 1, axis=0))
    np.maximum(rows, np.roll(values, -1, axis=0), out=rows)
    found = rows.copy()
    np.maximum(found[:, 1:], rows[:, :-1], out=found[:, 1:])
    np.maximum(found[:, :-1], rows[:, 1:], out=found[:, :-1])
    return found


def _correct_inner_rings(mean_log: np.ndarray, log_power: np.ndarray, radius: np.ndarray) -> None:
    """Replace, in place, the noise of the innermost rings by one from a low quantile.

    Where an image holds few cells, the six first spots cover most of their ring.
    """
    near = radius < _INNER_RINGS + 1
    radius, log_power = radius[near], log_power[near]
    for r in range(min(_INNER_RINGS, len(mean_log))):
        ring = np.abs(radius - r) <= 1.5
        low = np.quantile(log_power[ring], 0.1) - np.log(-np.log(0.9))
        mean_log[r] = min(mean_log[r], low)


def _smooth_over_rings(values: np.ndarray, count: np.ndarray) -> np.ndarray:
    """Average over rings within about ±6 % of the radius (at least ±1)."""
    total = np.concatenate([[0.0], np.cumsum(values * count)])
    number = np.concatenate([[0.0], np.cumsum(count)])
    r = np.arange(len(values))
    half = np.maximum(1, (0.06 * r).astype(int))
    low, high = np.maximum(r - half, 0), np.minimum(r + half + 1, len(values))
    return (total[high] - total[low]) / np.maximum(number[high] - number[low], 1)


def search_lattices(
    spectrum: Spectrum, x2_m_ratio: float, image_shape: tuple[int, int]
) -> list[tuple[np.ndarray, float]]:
    """Return the likeliest reciprocal bases, each with its score, best first.

    More than one, for where few cells meet strong contamination the best may prove wrong.
    """
    peaks = _find_peaks(spectrum)
    candidates = _propose(peaks)
    spacing = np.sqrt(np.abs(np.linalg.det(candidates))) * min(image_shape)  # cells per side
    candidates = candidates[spacing > _FEWEST_CELLS]
    if not len(candidates):
        return []
    strength = spectrum.strength
    quick = np.argsort(_quick_score(candidates, spectrum, strength))[::-1][:400]
    candidates = candidates[quick]
    best = candidates[np.argsort(_score(candidates, spectrum, strength, x2_m_ratio))[::-1][:24]]
    best = np.array([snap(snap(basis, spectrum), spectrum) for basis in best])
    best = best[within_bounds(best)]
    scores = _score(best, spectrum, strength, x2_m_ratio)
    distinct: list[tuple[np.ndarray, float]] = []
    for i in np.argsort(scores)[::-1]:
        if not any(_same_lattice(best[i], basis) for basis, _ in distinct):
            distinct.append((best[i], float(scores[i])))
    return distinct[:_CANDIDATES]


def _same_lattice(basis: np.ndarray, other: np.ndarray) -> bool:
    """Whether two bases generate the same lattice, within a tenth of its spacing."""
    indices = basis @ np.linalg.inv(other)
    unimodular = abs(abs(np.linalg.det(indices)) - 1) < 0.25
    return bool(unimodular and np.abs(indices - np.rint(indices)).max() < 0.1)


def _find_peaks(spectrum: Spectrum) -> np.ndarray:
    """Sub-bin frequencies of the strongest local maxima, shape (P, 2)."""
    white = spectrum.whitened
    rows, cols = spectrum.shape
    fy, fx = fft.fftfreq(rows)[:, None], fft.rfftfreq(cols)
    y, x = np.nonzero((white > 3) & (white == spectrum.strength))
    squared = fy[y, 0] ** 2 + fx[x] ** 2
    lowest = max(0.7 * 2 / np.sqrt(3) / MAX_A_PX, 2.2 * spectrum.step)
    searched = (squared > lowest**2) & (squared < 0.36**2)
    searched &= (x > 0) | (y <= rows // 2)  # the others are the same as their opposites
    y, x, squared = y[searched], x[searched], squared[searched]
    # the number of bins up to a radius is how often noise gets a chance there
    rarity = white[y, x] - np.log(squared)
    strongest = np.argsort(rarity)[::-1][:_PEAKS]
    y, x = y[strongest], x[strongest]
    return _sub_bin(white, y, x, spectrum.shape)


def _sub_bin(white: np.ndarray, y: np.ndarray, x: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Frequencies of maxima at bins (y, x), by a parabola through the logarithms."""

    def offset(before: np.ndarray, at: np.ndarray, after: np.ndarray) -> np.ndarray:
        before, at, after = (np.log(v + 1e-6) for v in (before, at, after))
        bend = np.minimum(before - 2 * at + after, -1e-6)
        return np.clip(0.5 * (before - after) / bend, -0.5, 0.5)

    rows, width = white.shape
    dy = offset(white[(y - 1) % rows, x], white[y, x], white[(y + 1) % rows, x])
    # left of column 0 lies the opposite half plane
    left = np.where(x > 0, white[y, np.maximum(x - 1, 0)], white[-y % rows, np.minimum(1, x + 1)])
    dx = offset(left, white[y, x], white[y, np.minimum(x + 1, width - 1)])
    signed = np.where(y > rows // 2, y - rows, y)
    return np.stack([(signed + dy) / shape[0], (x + dx) / shape[1]], -1)


def _propose(peaks: np.ndarray) -> np.ndarray:
    """All bases, within the bounds, in which two peaks are {10}, {11} or {20} spots."""
    if len(peaks) < 2:
        return np.empty((0, 2, 2))
    both = np.concatenate([peaks, -peaks])
    p, q = (v.reshape(-1, 2) for v in np.broadcast_arrays(peaks[:, None], both[None]))
    bases = np.concatenate(
        [
            np.stack([p, q], 1),  # {10}, {10}
            np.stack([2 * p - q, p + q], 1) / 3,  # {11}, {11}
            np.stack([p, q], 1) / 2,  # {20}, {20}
            np.stack([p, q - p], 1),  # {10}, {11}
        ]
    )
    return bases[within_bounds(bases)]


def within_bounds(bases: np.ndarray) -> np.ndarray:
    """Whether each basis, shape (..., 2, 2), is a hexagonal lattice within the bounds."""
    determinant = np.linalg.det(bases)
    usable = np.abs(determinant) > 1e-9
    safe = np.where(usable[..., None, None], bases, np.eye(2))
    matrix = np.linalg.inv(safe) @ np.linalg.inv(CANONICAL_CELL)
    proper = np.linalg.det(matrix) > 0
    metric = matrix @ np.swapaxes(matrix, -1, -2)
    vertical = np.sqrt(metric[..., 0, 0])
    shear = metric[..., 1, 0] / metric[..., 0, 0]
    horizontal = np.sqrt(np.maximum(metric[..., 1, 1] - (shear * vertical) ** 2, 0))
    a_px = np.sqrt(vertical * horizontal)
    return (
        usable
        & proper
        & (np.abs(shear) < MAX_DISTORTION)
        & (np.abs(np.log(np.maximum(horizontal, 1e-9) / vertical)) < MAX_DISTORTION)
        & (a_px > MIN_A_PX)
        & (a_px < MAX_A_PX)
    )


def _spots(bases: np.ndarray, spectrum: Spectrum, strength: np.ndarray) -> np.ndarray:
    """Excess over noise at each spot of bases of shape (C, 2, 2): shape (C, K)."""
    rows, cols, inside = spectrum.nearest_bin(INDICES @ bases)
    # 1.8: mean of the largest of nine neighbouring bins of noise, less 1
    return np.where(inside, np.maximum(strength[rows, cols] - 1.8, 0), 0)


def _quick_score(bases: np.ndarray, spectrum: Spectrum, strength: np.ndarray) -> np.ndarray:
    """Sum of log-strengths of the spots, shape (C,): a cheap first choice."""
    excess = np.log1p(_spots(bases, spectrum, strength))
    return (excess * np.where(SHELL <= 4, 1.0, 0.5)).sum(-1)


def _score(
    bases: np.ndarray, spectrum: Spectrum, strength: np.ndarray, x2_m_ratio: float
) -> np.ndarray:
    """Log-likelihood ratio of each basis, shape (C, 2, 2), against noise: shape (C,).

    A spot's power is exponential with mean 1 + s. The means s of the shells follow a structure
    factor and a Gaussian falloff, so a lattice that is too large pays for its empty spots; one
    that is too small (a/√3 or a/2) forgoes the strong spots that it skips. The gain of a spot is
    capped, or one strong periodic line would pay for everything.
    """
    spots = _spots(bases, spectrum, strength)
    factor = (1 + x2_m_ratio) ** 2 / (1 - x2_m_ratio + x2_m_ratio**2)
    structure = np.where(SHELL % 3 == 0, factor, 1.0) / max(factor, 1.0)
    best = np.full(len(bases), -np.inf)
    for falloff in (0.1, 0.25, 0.5, 0.8):
        shape = structure * np.exp(-falloff * (SHELL - 1))
        for brightest in np.geomspace(4, 1e6, 16):
            s = brightest * shape
            gain = spots * (s / (1 + s)) - np.log1p(s)
            best = np.maximum(best, np.minimum(gain, _LARGEST_GAIN).sum(-1))
    cells = np.abs(np.linalg.det(bases)) * spectrum.pixels
    return best - np.log(cells)  # finer lattices had more chances to fit noise


def snap(basis: np.ndarray, spectrum: Spectrum) -> np.ndarray:
    """Move a basis to the spectrum's maxima next to its first spots (least squares)."""
    indices = INDICES[SHELL <= 4]
    rows, cols, inside = spectrum.nearest_bin(indices @ basis)
    white = spectrum.whitened
    for _ in range(2):  # climb by up to two bins
        around = [
            ((rows + dy) % white.shape[0], np.clip(cols + dx, 0, white.shape[1] - 1))
            for dy in (-1, 0, 1)
            for dx in (-1, 0, 1)
        ]
        best = np.argmax([white[at] for at in around], axis=0)
        rows, cols = (np.choose(best, [at[axis] for at in around]) for axis in (0, 1))
    found = _sub_bin(white, rows, cols, spectrum.shape)
    flip = ((found * (indices @ basis)).sum(-1) < 0)[:, None]
    found = np.where(flip, -found, found)
    weight = np.sqrt(np.where(inside, np.maximum(white[rows, cols] - 4, 0), 0))
    weight = np.minimum(weight, 10)
    if (weight > 0).sum() < 3:
        return basis
    snapped, *_ = np.linalg.lstsq(indices * weight[:, None], found * weight[:, None], rcond=None)
    return snapped


def has_foreign_peaks(basis: np.ndarray, spectrum: Spectrum, strain: float = 0.0) -> bool:
    """Whether the spectrum holds peaks as strong as the {10} spots that the lattice lacks.

    Where the lattice is bent by some ``strain``, its own spots are drawn out by as much.
    """
    peaks = _find_peaks(spectrum)
    indices = peaks @ np.linalg.inv(basis)
    away = np.abs((indices - np.rint(indices)) @ basis)
    own = np.linalg.norm(basis, axis=1).min()
    rows, cols, _ = spectrum.nearest_bin(peaks)
    strength = spectrum.whitened[rows, cols]
    length = np.linalg.norm(peaks, axis=1)
    drawn_out = 2 * strain * length
    foreign = (
        (np.linalg.norm(away, axis=1) > np.maximum(max(_APART * own, 3 * spectrum.step), drawn_out))
        & (length > max(0.45 * own, 4 * spectrum.step))
        & (length < 1.9 * own)
    )
    limit = max(20.0, 0.3 * _first_strength(basis, spectrum))
    return int((strength[foreign] > limit).sum()) >= 2


def _first_strength(basis: np.ndarray, spectrum: Spectrum) -> float:
    """Median whitened power of the {10} spots."""
    rows, cols, _ = spectrum.nearest_bin(INDICES[SHELL == 1] @ basis)
    return float(np.median(spectrum.strength[rows, cols]))


def has_half_order_peaks(basis: np.ndarray, spectrum: Spectrum) -> bool:
    """Whether the cell is doubled: peaks stand half-way between the lattice's spots.

    So looks a centred rectangular lattice whose centre differs from its corners.
    """
    limit = max(20.0, 0.03 * _first_strength(basis, spectrum))
    steps = np.stack(np.meshgrid(np.arange(-2, 2), np.arange(-2, 2)), -1).reshape(-1, 2)
    for half in ((0.5, 0.0), (0.0, 0.5), (0.5, 0.5)):
        spots = (steps + half) @ basis
        spots = spots[(spots[:, 1] > 0) | ((spots[:, 1] == 0) & (spots[:, 0] > 0))]  # one of a pair
        nearest = spots[np.argsort(np.linalg.norm(spots, axis=1))[:3]]
        rows, cols, inside = spectrum.nearest_bin(nearest)
        if (np.where(inside, spectrum.strength[rows, cols], 0) > limit).sum() >= 2:
            return True
    return False
