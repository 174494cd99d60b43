"""Demodulated harmonics of a lattice: the image times exp(−2πi g·r), averaged over blocks.

Changing a reciprocal lattice slightly only turns the blocks' phases, so the lattice is refined on
some 48 x 48 blocks instead of on all pixels, and exactly. The same blocks show where the image
holds material, and give the Fourier coefficients of the mean cell.

Points are (y, x) in pixels, frequencies in cycles per pixel.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from scipy import ndimage, optimize

from napari_point_defects.lattice_bending import Surface, find_surface
from napari_point_defects.lattice_search import INDICES, SHELL, Spectrum
from napari_point_defects.lattice_sites import CANONICAL_CELL, MeanCell
from napari_point_defects.lattice_windows import ScaledView
from napari_point_defects.records import Bending

_STRIP_PX = 4_000_000


@dataclass(frozen=True, slots=True)
class Harmonics:
    """The refined lattice and its demodulated harmonics.

    Attributes
    ----------
    basis : ndarray of shape (2, 2)
        Reciprocal basis.
    indices : ndarray of shape (K, 2)
        (h, k) of each harmonic below Nyquist.
    shell : ndarray of shape (K,)
    local : ndarray of shape (K, By, Bx), complex
        Sum over each block of image * exp(−2πi g·(r − centre)), divided by the block's pixels;
        r is where a point of the block would lie in the straight lattice.
    weight : ndarray of shape (By, Bx)
        Taper times how much of the lattice each block shows, 0 to 1.
    noise : ndarray of shape (K,)
        Expected squared modulus of the weighted mean of ``local`` in the absence of a lattice.
    centre_px : ndarray of shape (2,)
        Phase origin: the centre of weight.
    variance : float
        Weighted variance of the image's pixels.
    bending : Bending or None
    """

    basis: np.ndarray
    indices: np.ndarray
    shell: np.ndarray
    local: np.ndarray
    weight: np.ndarray
    noise: np.ndarray
    centre_px: np.ndarray
    variance: float
    bending: Bending | None = None

    @property
    def values(self) -> np.ndarray:
        """Weighted mean of each harmonic, shape (K,)."""
        return (self.local * self.weight).sum((1, 2)) / self.weight.sum()

    @property
    def significance(self) -> np.ndarray:
        """Power of each harmonic over the noise, shape (K,)."""
        return np.abs(self.values) ** 2 / self.noise

    @property
    def evidence(self) -> float:
        """Sum of the log-significances of the first three shells."""
        return float(np.log1p(self.significance[self.shell <= 4]).sum())

    @property
    def explained_share(self) -> float:
        """Share of the mean-removed image explained by the harmonics, 0 to 1."""
        signal = np.maximum(np.abs(self.values) ** 2 - self.noise, 0).sum()
        return float(np.clip(2 * signal / self.variance, 0, 1))

    def mean_cell(self) -> MeanCell:
        """Return the harmonics in the form that the assignment of sites wants."""
        return MeanCell(self.indices, self.values, self.noise)


def _block_size(shape: tuple[int, int]) -> int:
    """Pixels per side of a block: some 48 blocks along the shorter side, more of large images.

    In the largest blocks, 8 cells of the finest lattice, a strain of 2 % hardly shows.
    """
    return min(max(2, min(shape) // 48), 64)


def _strips(image: np.ndarray | ScaledView) -> Iterator[tuple[slice, np.ndarray]]:
    """Yield whole rows of blocks, as (rows of blocks, pixels), so much that memory stays small."""
    size = _block_size(image.shape)
    by, bx = (n // size for n in image.shape)
    together = max(1, _STRIP_PX // (size * image.shape[1]))
    for first in range(0, by, together):
        last = min(first + together, by)
        yield slice(first, last), image[first * size : last * size, : bx * size]


def _demodulate(image: np.ndarray | ScaledView, frequency: np.ndarray) -> np.ndarray:
    """Mean over blocks of image * exp(−2πi f·r), for frequencies of shape (K, 2).

    Returns
    -------
    ndarray of shape (K, By, Bx), complex64
        The phase origin is the centre of pixel (0, 0).
    """
    size = _block_size(image.shape)
    by, bx = (n // size for n in image.shape)
    inner = np.arange(size)
    columns = np.exp(-2j * np.pi * inner[:, None] * frequency[:, 1]).astype(np.complex64)  # (s, K)
    lines = np.exp(-2j * np.pi * inner[:, None] * frequency[:, 0]).astype(np.complex64)
    blocks = np.empty((len(frequency), by, bx), np.complex64)
    for rows, pixels in _strips(image):
        strip = np.ascontiguousarray(pixels).reshape(-1, size)
        # one real product for both parts: columns seen as (s, 2K) floats
        strip = (strip @ columns.view(np.float32)).view(np.complex64)
        strip = strip.reshape(-1, size, bx, len(frequency))
        blocks[:, rows] = np.einsum("isjk,sk->kij", strip, lines) / size**2
    y0, x0 = np.arange(by) * size, np.arange(bx) * size
    blocks *= np.exp(-2j * np.pi * np.outer(frequency[:, 0], y0))[:, :, None]
    blocks *= np.exp(-2j * np.pi * np.outer(frequency[:, 1], x0))[:, None, :]
    return blocks


def _block_centres(shape: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Coordinates (y, x) of the blocks' centres in pixels."""
    size = _block_size(shape)
    y, x = (np.arange(n // size) * size + (size - 1) / 2 for n in shape)
    return y, x


def refine_lattice(
    image: np.ndarray | ScaledView, basis: np.ndarray, spectrum: Spectrum
) -> Harmonics:
    """Refine a basis by the power of its harmonics together, and measure them.

    First by the three inner shells everywhere, then by all where the material is.
    """
    y, x = _block_centres(image.shape)
    taper = _taper(len(y))[:, None] * _taper(len(x))
    inside = (np.abs(INDICES @ basis) < 0.47).all(-1)
    indices, shell = INDICES[inside], SHELL[inside]
    for first_shells in (True, False):
        used = shell <= (4 if first_shells else 12)
        local = _demodulate(image, indices[used] @ basis)
        noise = spectrum.noise_at(indices[used] @ basis)
        weight = taper
        if not first_shells:
            weight = taper * _coverage(local, noise, taper, image.shape, basis)
        shift = _climb(local * weight, noise, indices[used], y, x)
        basis = basis + shift
    local = _demodulate(image, indices @ basis)
    weight = taper * _coverage(local, noise, taper, image.shape, basis)
    # phases taken at the centre of the material are the least sensitive to errors of the basis
    centre = np.array([(weight.sum(1) @ y), (weight.sum(0) @ x)]) / weight.sum()
    pixels = _block_size(image.shape) ** 2
    surface = find_surface(local, noise / pixels, indices @ basis, y, x, _a_px(basis))
    bending = None
    if surface is not None:
        # blocks see a bent lattice more clearly through the basis of its middle
        basis = basis @ (np.eye(2) - _plane(surface, weight, centre, y, x)[1])
        local = _demodulate(image, indices @ basis)
        surface = find_surface(local, noise / pixels, indices @ basis, y, x, _a_px(basis))
    local = local * np.exp(2j * np.pi * (indices @ basis @ centre))[:, None, None]
    if surface is not None:
        shift, strain = _plane(surface, weight, centre, y, x)
        u = surface.on_grid(y, x) - shift
        local = local * np.exp(2j * np.pi * np.moveaxis(u @ (indices @ basis).T, -1, 0))
        basis = basis @ (np.eye(2) - strain)
        bending = _bending(surface, shift, strain, centre)
    noise = noise * (weight**2).sum() / weight.sum() ** 2 / pixels
    variance = _weighted_variance(image, weight)
    return Harmonics(basis, indices, shell, local, weight, noise, centre, variance, bending)


def _a_px(basis: np.ndarray) -> float:
    """Lattice constant of the undistorted lattice with the same area per cell."""
    return float(1 / np.sqrt(abs(np.linalg.det(basis @ CANONICAL_CELL))))


def _plane(
    surface: Surface, weight: np.ndarray, centre: np.ndarray, y: np.ndarray, x: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Displacement at the centre, shape (2,), and its gradient, shape (2, 2), by least squares."""
    dy, dx = np.meshgrid(y - centre[0], x - centre[1], indexing="ij")
    root = np.sqrt(weight).ravel()
    terms = np.stack([np.ones(dy.size), dy.ravel(), dx.ravel()], 1) * root[:, None]
    u = surface.on_grid(y, x).reshape(-1, 2) * root[:, None]
    plane, *_ = np.linalg.lstsq(terms, u, rcond=None)
    return plane[0], plane[1:].T


def _bending(
    surface: Surface, shift: np.ndarray, strain: np.ndarray, centre: np.ndarray
) -> Bending:
    """Turn a surface, less its plane, into displacements of the points of a straight lattice."""
    y, x = surface.knots
    seen = np.stack(np.meshgrid(y, x, indexing="ij"), -1)
    straight = centre + (seen - centre - surface.on_grid(y, x) + shift) @ (
        np.linalg.inv(np.eye(2) - strain).T
    )
    grid = np.array([y[0], x[0]]), np.array([y[1] - y[0], x[1] - x[0]])
    back = Bending(seen - straight, *grid)
    points = seen
    for _ in range(20):  # where is each node of the straight lattice seen?
        points = seen + back.displacement(points)
    return Bending(back.displacement(points), *grid)


def _weighted_variance(image: np.ndarray | ScaledView, weight: np.ndarray) -> float:
    """Variance of the pixels with the weights of their blocks, shape (By, Bx)."""
    size = _block_size(image.shape)
    by, bx = weight.shape
    mean, square = np.empty((2, by, bx))
    for rows, pixels in _strips(image):
        blocks = pixels.reshape(-1, size, bx, size)
        mean[rows] = np.einsum("iajb->ij", blocks) / size**2
        square[rows] = np.einsum("iajb,iajb->ij", blocks, blocks) / size**2
    overall = (weight * mean).sum() / weight.sum()
    return float((weight * square).sum() / weight.sum() - overall**2)


def _taper(n: int) -> np.ndarray:
    """Window that falls smoothly over the outer quarters: it keeps the background out."""
    ramp = np.minimum(np.arange(n) + 0.5, np.arange(n)[::-1] + 0.5) / (0.25 * n)
    return np.sin(np.pi / 2 * np.minimum(ramp, 1)) ** 2


def _climb(
    local: np.ndarray, noise: np.ndarray, indices: np.ndarray, y: np.ndarray, x: np.ndarray
) -> np.ndarray:
    """Find the change of basis, shape (2, 2), that maximises the power of the harmonics.

    ``local`` has shape (K, By, Bx) and carries the weights. For white noise the sum of powers
    over noise is the likelihood.
    """
    scale = 1 / np.array([np.ptp(y), np.ptp(x)])

    def loss(p: np.ndarray) -> float:
        change = indices @ (p.reshape(2, 2) * scale)
        rows = np.exp(-2j * np.pi * np.outer(change[:, 0], y - y.mean()))
        cols = np.exp(-2j * np.pi * np.outer(change[:, 1], x - x.mean()))
        summed = np.matmul(np.matmul(rows[:, None], local), cols[:, :, None])
        return -float((np.abs(summed[:, 0, 0]) ** 2 / noise).sum())

    size = max(-loss(np.zeros(4)), 1e-30)
    result = optimize.minimize(
        lambda p: loss(p) / size, np.zeros(4), method="L-BFGS-B", bounds=[(-1.5, 1.5)] * 4
    )
    return result.x.reshape(2, 2) * scale


def _coverage(
    local: np.ndarray,
    noise: np.ndarray,
    taper: np.ndarray,
    shape: tuple[int, int],
    basis: np.ndarray,
) -> np.ndarray:
    """How much of the lattice each block shows, 0 (vacuum) to 1, shape (By, Bx).

    The harmonics are smoothed over three cells, more where they are weak: over as large an area
    as makes the lattice stand out from the noise.
    """
    sigma = _smoothing(local, noise, taper, shape, basis)
    if sigma is None:
        return np.ones_like(taper)
    mean = (local * taper).sum((1, 2)) / taper.sum()
    first = np.argsort(np.abs(mean) ** 2 / noise)[::-1][:6]
    floor = noise[first] / (_block_size(shape) ** 2 * 4 * np.pi * sigma**2)
    power = np.abs(_smooth(local[first], sigma)) ** 2 - floor[:, None, None]
    power = (np.maximum(power, 0) / noise[first, None, None]).sum(0)
    return np.sqrt(np.clip(power / max(np.percentile(power, 80), 1e-30), 0, 1))


def _smoothing(
    local: np.ndarray,
    noise: np.ndarray,
    taper: np.ndarray,
    shape: tuple[int, int],
    basis: np.ndarray,
) -> float | None:
    """Width, in blocks, over which the local harmonics stand out; None where too wide."""
    pixels = _block_size(shape) ** 2
    mean = (local * taper).sum((1, 2)) / taper.sum()
    per_pixel = float((np.abs(mean) ** 2 / noise).sum())
    cells = 9 * abs(np.linalg.det(np.linalg.inv(basis)))
    area = max(40 / max(per_pixel, 1e-9), cells)
    sigma = np.sqrt(area / (4 * np.pi) / pixels)
    return None if sigma > min(local.shape[1:]) / 4 else float(sigma)


def _smooth(local: np.ndarray, sigma: float) -> np.ndarray:
    """Gaussian average over blocks of complex fields, shape (K, By, Bx)."""
    widths = (0, sigma, sigma)
    return ndimage.gaussian_filter(local.real, widths) + 1j * ndimage.gaussian_filter(
        local.imag, widths
    )


def flatten(image: np.ndarray) -> np.ndarray:
    """Take away what varies more slowly than a cell of an image with few cells."""
    size = _block_size(image.shape)
    by, bx = (n // size for n in image.shape)
    blocks = image[: by * size, : bx * size].reshape(by, size, bx, size).mean((1, 3))
    smooth = ndimage.gaussian_filter(blocks, min(image.shape) / 14 / size, mode="nearest")
    y, x = _block_centres(image.shape)
    for axis, centres in ((0, y), (1, x)):
        at = np.interp(np.arange(image.shape[axis]), centres, np.arange(len(centres)))
        low = np.minimum(at.astype(int), len(centres) - 2)
        share = np.expand_dims(at - low, 1 - axis)
        smooth = np.take(smooth, low, axis) * (1 - share) + np.take(smooth, low + 1, axis) * share
    return image - smooth.astype(np.float32)
