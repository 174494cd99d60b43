"""The local mean cell everywhere in an image: harmonics of a lattice over a few cells.

Where the harmonics agree with those of the mean cell, up to a shift, the crystal is as it is on
average. A mirror twin of 2H-MX₂ has the same reciprocal lattice; seen along c it is the crystal
turned by 60° or, as the layer has threefold symmetry, by 180°: its harmonics are the complex
conjugates, up to a shift. Vacuum and foreign lattices show none of them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
from scipy import ndimage

from napari_point_defects.lattice_search import INDICES, SHELL
from napari_point_defects.lattice_sites import CANONICAL_CELL
from napari_point_defects.records import Lattice

WINDOW_A = 1.5
"""Standard deviation of the window, in a: it holds some 30 cells, three missing ones next to
each other lower its amplitude by less than a fifth."""

FINE_A = 0.5
"""The same of a window of some four cells: it shows where columns are missing."""

USED = INDICES[SHELL <= 4]
"""Indices (h, k) of the harmonics used: {10}, {11} and {20}."""
SHELLS = SHELL[SHELL <= 4]

# off the lattice: at {10}'s length between its spots, and at {11}'s between those
_THIRD, _ROOT = 1 / np.sqrt(3), np.sqrt(3)
_BETWEEN = np.array(
    [
        (_THIRD, _THIRD), (-_THIRD, 2 * _THIRD), (2 * _THIRD, -_THIRD),
        (_ROOT, 0.0), (0.0, _ROOT), (_ROOT, -_ROOT),
    ]
)  # fmt: skip
_STRIP_PX = 4_000_000  # looked at at once: bounds the memory of large images
_SHIFTS = 16
FINE_SHIFTS = 96
"""Shifts tried along each side for a single cell: to a hundredth of a."""

_MATCHED = 1 << 16  # samples matched at a time


@dataclass(frozen=True, slots=True)
class LocalCells:
    """Local harmonics on a grid of samples.

    Attributes
    ----------
    values : ndarray of shape (K, By, Bx), complex64
        Local harmonics of the indices :data:`USED`; phases are taken at the lattice's origin.
    level : ndarray of shape (By, Bx), float32
        Local mean of the image about its mean, in units of its range.
    seen : ndarray of shape (By, Bx), float32
        Share of the window on which something was recorded.
    recorded : ndarray of shape (By, Bx), float32
        Share of the sample's own pixels in the image on which it was.
    noise : ndarray of shape (K,)
        Expected squared modulus of each harmonic where there is no lattice.
    step_px : int
        Pixels per sample.
    sigma_a : float
        Standard deviation of the window, in units of a.
    """

    values: np.ndarray
    level: np.ndarray
    seen: np.ndarray
    recorded: np.ndarray
    noise: np.ndarray
    step_px: int
    sigma_a: float

    def smoothed(self, sigma_a: float, a_px: float) -> LocalCells:
        """Return the same through a wider window."""
        extra = np.sqrt(max(sigma_a**2 - self.sigma_a**2, 0)) * a_px / self.step_px
        weight = ndimage.gaussian_filter(self.seen, extra, mode="constant")
        scale = 1 / np.maximum(weight, 1e-3)
        values = np.stack([_blur(v * self.seen, extra) * scale for v in self.values])
        level = ndimage.gaussian_filter(self.level * self.seen, extra, mode="constant") * scale
        noise = self.noise * (self.sigma_a / sigma_a) ** 2
        return replace(self, values=values, level=level, seen=weight, noise=noise, sigma_a=sigma_a)


@dataclass(frozen=True, slots=True)
class Match:
    """How well local cells agree with a template, at the best shift.

    Attributes
    ----------
    score : ndarray of shape (...)
        1 where a cell is the template, 0 where there is nothing of it.
    shift : ndarray of shape (..., 2)
        Fractions of the cell by which the template must be moved.
    """

    score: np.ndarray
    shift: np.ndarray


def _sample(data: np.ndarray) -> np.ndarray:
    """Return recorded pixels from all over an image, shape (S,)."""
    sample = np.asarray(data)[:: max(1, data.shape[0] // 512), :: max(1, data.shape[1] // 512)]
    return sample[np.isfinite(sample)]


def image_limits(data: np.ndarray) -> tuple[float, float]:
    """Return the intensities between which all but rare outliers lie."""
    sample = _sample(data)
    if not len(sample):
        return 0.0, 1.0
    low, high = np.percentile(sample, [0.02, 99.98])
    return float(low), float(max(high, low + 1e-12))


def local_cells(
    data: np.ndarray, lattice: Lattice, limits: tuple[float, float], sigma_a: float = WINDOW_A
) -> LocalCells:
    """Measure the local mean cell everywhere.

    Parameters
    ----------
    data : ndarray of shape (M, N)
        NaN where nothing was recorded.
    lattice : Lattice
        Its matrix gives the frequencies.
    limits : (float, float)
        Intensities beyond are clipped: dead pixels and cosmic rays.
    sigma_a : float

    Returns
    -------
    LocalCells
        With two samples per a.
    """
    step = max(2, round(lattice.a_px / 2))
    basis = np.linalg.inv(lattice.matrix_px @ CANONICAL_CELL)
    frequency = np.concatenate([USED, _BETWEEN]) @ basis
    # in units of the image's own range: products of counts by the billion would overflow;
    # about its mean: what is off it looks like a lattice where the image ends
    middle = _sample(data).clip(*limits).mean(dtype=float)
    spread = np.float32(max(limits[1] - limits[0], 1e-30))
    sums, level, seen, whole = [], [], [], []
    rows = max(1, _STRIP_PX // (step * data.shape[1])) * step
    for start in range(0, data.shape[0], rows):
        strip = np.asarray(data[start : start + rows], np.float32)
        finite = np.isfinite(strip)
        strip = (np.clip(strip, *limits) - np.float32(middle)) / spread
        strip = np.where(finite, strip, np.float32(0))
        pad = [(0, -n % step) for n in strip.shape]
        strip = np.pad(strip, pad)
        local = _demodulate(strip, frequency, step, start - lattice.origin_px[0],
                            -lattice.origin_px[1])  # fmt: skip
        shape = (strip.shape[0] // step, step, strip.shape[1] // step, step)
        sums.append(local)
        level.append(strip.reshape(shape).mean((1, 3)))
        for shares, mode in ((seen, "constant"), (whole, "edge")):
            share = np.pad(finite.astype(np.float32), pad, mode=mode)
            shares.append(share.reshape(shape).mean((1, 3)))
    per_sample = lattice.a_px / step
    values, level = np.concatenate(sums, 1), np.concatenate(level)
    weight = np.concatenate(seen)
    noise = _noise(values[len(USED) :], weight, WINDOW_A * per_sample) * (WINDOW_A / sigma_a) ** 2
    sigma = sigma_a * per_sample
    # what the window's background makes of its edge goes with the background
    weight = ndimage.gaussian_filter(weight, sigma, mode="constant")
    scale = 1 / np.maximum(weight, 1e-3)
    level = ndimage.gaussian_filter(level, sigma, mode="constant") * scale
    values = values[: len(USED)]
    for k in range(len(values)):
        values[k] = _blur(values[k], sigma) * scale
    return LocalCells(values, level, weight, np.concatenate(whole), noise, step, sigma_a)


def _noise(between: np.ndarray, weight: np.ndarray, sigma: float) -> np.ndarray:
    """Return the noise of each harmonic from values off the lattice, (6, By, Bx): shape (K,).

    Seen through a window so wide that the lattice's own spots do not reach there.
    """
    weight = ndimage.gaussian_filter(weight, sigma, mode="constant")
    inside = weight > 0.3
    power = [np.abs(_blur(value, sigma)[inside] / weight[inside]) ** 2 for value in between]
    # the median of exponential noise is 0.69 of its mean
    rings = [
        np.median(part) / np.log(2) if inside.any() else 0.0 for part in (power[:3], power[3:])
    ]
    return np.where(SHELLS == 1, rings[0], rings[1]) + 1e-30


def _demodulate(
    strip: np.ndarray, frequency: np.ndarray, size: int, y0: float, x0: float
) -> np.ndarray:
    """Mean over blocks of image * exp(−2πi f·r), shape (K, By, Bx); pixel (0, 0) is (y0, x0)."""
    inner = np.arange(size)
    columns = np.exp(-2j * np.pi * inner[:, None] * frequency[:, 1]).astype(np.complex64)
    lines = np.exp(-2j * np.pi * inner[:, None] * frequency[:, 0]).astype(np.complex64)
    by, bx = (n // size for n in strip.shape)
    product = (strip.reshape(-1, size) @ columns.view(np.float32)).view(np.complex64)
    product = product.reshape(by, size, bx, len(frequency))
    blocks = np.einsum("isjk,sk->kij", product, lines) / np.float32(size**2)
    rows, cols = y0 + np.arange(by) * size, x0 + np.arange(bx) * size
    blocks *= np.exp(-2j * np.pi * np.outer(frequency[:, 0], rows)).astype(np.complex64)[:, :, None]
    blocks *= np.exp(-2j * np.pi * np.outer(frequency[:, 1], cols)).astype(np.complex64)[:, None]
    return blocks


def _blur(field: np.ndarray, sigma: float) -> np.ndarray:
    """Gaussian sum over samples of a complex field: nothing lies beyond its edges."""
    real = ndimage.gaussian_filter(field.real, sigma, mode="constant")
    return real + 1j * ndimage.gaussian_filter(field.imag, sigma, mode="constant")


def _weights(template: np.ndarray, noise: np.ndarray) -> np.ndarray:
    """Weight of each harmonic, so that the template itself scores 1.

    The brightest ones are bound by defects, not by noise.
    """
    weight = 1 / (noise + 0.02 * np.abs(template).max() ** 2)
    return weight / (weight * np.abs(template) ** 2).sum()


def match(
    values: np.ndarray, template: np.ndarray, noise: np.ndarray, shifts: int = _SHIFTS
) -> Match:
    """Compare local cells with a template at all shifts.

    Parameters
    ----------
    values : ndarray of shape (K, ...), complex
    template : ndarray of shape (K,), complex
    noise : ndarray of shape (K,)
    shifts : int
        How many are tried along each side of the cell.

    Returns
    -------
    Match
    """
    weight = _weights(template, noise)
    steps = np.arange(shifts) / shifts
    grid = np.stack(np.meshgrid(steps, steps, indexing="ij"), -1).reshape(-1, 2)
    turn = 2 * np.pi * (grid @ USED.T)
    table = np.concatenate([np.cos(turn), -np.sin(turn)], 1).astype(np.float32)  # (S, 2K)
    flat = values.reshape(len(values), -1)
    score, best = np.empty(flat.shape[1], np.float32), np.empty(flat.shape[1], int)
    for part in _parts(flat.shape[1]):
        product = flat[:, part] * (weight * template.conj())[:, None]
        scores = table @ np.concatenate([product.real, product.imag]).astype(np.float32)
        best[part] = scores.argmax(0)
        score[part] = np.take_along_axis(scores, best[None, part], 0)[0]
    shape = values.shape[1:]
    return Match(score.reshape(shape), grid[best].reshape(*shape, 2))


def agreement(cells: LocalCells, template: np.ndarray, found: Match) -> np.ndarray:
    """Score of local cells at the shifts that another window found, shape (By, Bx)."""
    weight = _weights(template, cells.noise)
    score = np.zeros(cells.level.shape)
    for k, index in enumerate(USED):
        turn = np.exp(2j * np.pi * (found.shift @ index))
        score += weight[k] * (cells.values[k] * turn * template[k].conj()).real
    return score


def _parts(n: int) -> Iterator[slice]:
    for start in range(0, n, _MATCHED):
        yield slice(start, start + _MATCHED)


def mean_template(cells: LocalCells, where: np.ndarray, rounds: int = 3) -> np.ndarray:
    """Mean local cell over the samples ``where``, (By, Bx) bool, each first moved into register.

    So drift and bending do not wash it out.

    Returns
    -------
    ndarray of shape (K,), complex
    """
    values = cells.values[:, where]
    # the first register: the sample that shows most of the first and second harmonics
    strength = (np.abs(values[SHELLS <= 3]) ** 2 / cells.noise[SHELLS <= 3, None]).sum(0)
    template = values[:, np.argsort(strength)[int(0.8 * (len(strength) - 1))]]
    for _ in range(rounds):
        shift = match(values, template, cells.noise).shift
        template = (values * np.exp(2j * np.pi * (USED @ shift.T))).mean(1)
    return template


def handedness(values: np.ndarray) -> np.ndarray:
    """Return what a shift leaves and a mirror twin reverses: shape (...).

    The product of three {10} harmonics whose indices add up to 0, (1, 0) − (0, 1) − (1, −1),
    keeps its phase under shifts. Its imaginary part changes sign with X and M exchanged.
    """
    product = np.ones(values.shape[1:], np.complex64)
    for index, sign in (((1, 0), 1), ((0, 1), -1), ((1, -1), -1)):
        row = int(np.flatnonzero((index == USED).all(1))[0])
        product = product * (values[row] if sign > 0 else values[row].conj())
    return product.imag
