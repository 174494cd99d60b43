"""How a lattice bends over an image: strain and scan drift, from the local phases of its harmonics.

Where the lattice is displaced by u(r), harmonic g turns by −2π g·u(r): geometric phase analysis
(Hÿtch, Snoeck, Kilaas, Ultramicroscopy 74 (1998) 131). All harmonics are read together. The
displacement is first followed from the clearest region outwards, each step predicted by what is
known beside it, so that it may grow to many lattice constants, and vacuum stops it. Then one
smooth surface, a cubic B-spline that pays for its curvature, is fitted to the phases of the whole
image. How much it pays is found by the evidence (MacKay, Neural Comput. 4 (1992) 415): noise makes
the surface smoother, and where a plane explains the phases as well, there is no bending.

Points are (y, x) in pixels, frequencies in cycles per pixel.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from napari_point_defects.lattice_surface import Surface, penalised, plate_modes, spline_matrix

_SPACING_A = 2.0  # between the places where phases are read
_BLUR = 0.3  # before that, over the spacing: keeps the other harmonics out
_FEWEST, _MOST = 6, 128  # places along the shorter side
_REACH_A = 0.16  # off the predicted displacement that is searched, in either direction
_TRUSTED = (0.7, 0.5, 0.3)  # shares of the harmonics' strength found, the clearest first
_ROUNDS = 10
_KNOTS = 18
_CLEAR_GAIN = 12.0  # of log-evidence over a plane
_LEAST_A = 0.02  # a lattice bent by less is as good as straight


@dataclass(frozen=True, slots=True)
class _Phases:
    """Harmonics read at places on a grid.

    Attributes
    ----------
    local : ndarray of shape (K, Sy, Sx), complex
    noise : ndarray of shape (K,)
        Expected squared modulus of ``local`` without a lattice.
    frequency : ndarray of shape (K, 2)
    y, x : ndarray of shape (Sy,), (Sx,)
        Places.
    a_px : float
    """

    local: np.ndarray
    noise: np.ndarray
    frequency: np.ndarray
    y: np.ndarray
    x: np.ndarray
    a_px: float

    def turned(self, local: np.ndarray, u: np.ndarray) -> np.ndarray:
        """Return harmonics (K, ...) with the phases of displacements (..., 2) taken off."""
        return local * np.exp(2j * np.pi * np.moveaxis(u @ self.frequency.T, -1, 0))

    def information(self, amplitude: np.ndarray) -> float:
        """Inverse variance of either component of a displacement read at one place."""
        gradient = 2 * np.pi**2 * (self.frequency**2).sum(1)
        return float((2 * np.abs(amplitude) ** 2 / self.noise * gradient).sum())

    def agreement(self, amplitude: np.ndarray, turned: np.ndarray) -> np.ndarray:
        """Share of the amplitudes that turned harmonics (K, ...) show, shape (...)."""
        weight = amplitude.conj() / self.noise
        shown = np.tensordot(weight, turned, 1).real
        return shown / (np.abs(amplitude) ** 2 / self.noise).sum()

    def step(self, amplitude: np.ndarray, turned: np.ndarray) -> np.ndarray:
        """Scoring step (..., 2) towards the displacement that turned harmonics ask for."""
        weight = amplitude.conj() / self.noise
        ahead = (weight.reshape(-1, *[1] * (turned.ndim - 1)) * turned).imag
        score = -4 * np.pi * np.tensordot(self.frequency.T, ahead, 1)
        return np.moveaxis(score, 0, -1) / self.information(amplitude)


def find_surface(
    local: np.ndarray,
    noise: np.ndarray,
    frequency: np.ndarray,
    y: np.ndarray,
    x: np.ndarray,
    a_px: float,
) -> Surface | None:
    """Find the displacement of a lattice over an image.

    Parameters
    ----------
    local : ndarray of shape (K, By, Bx), complex
        Harmonics demodulated over blocks.
    noise : ndarray of shape (K,)
        Expected squared modulus of ``local`` in the absence of a lattice.
    frequency : ndarray of shape (K, 2)
    y, x : ndarray of shape (By,), (Bx,)
        Centres of the blocks, evenly spaced.
    a_px : float
        Lattice constant.

    Returns
    -------
    Surface or None
        None where a plane (a straight lattice) explains the phases as well, or the phases cannot
        be followed.
    """
    phases = _read(local, noise, frequency, y, x, a_px)
    if phases is None:
        return None
    followed = _follow(phases)
    # noise only adds to what departs from a plane
    if followed is None or _bent_by(followed[1], followed[2], phases) < _LEAST_A * a_px:
        return None
    return _fit(phases, *followed)


def _read(
    local: np.ndarray,
    noise: np.ndarray,
    frequency: np.ndarray,
    y: np.ndarray,
    x: np.ndarray,
    a_px: float,
) -> _Phases | None:
    """Thin blocks out to about one per four cells' area."""
    size = float(y[1] - y[0])
    side = min(local.shape[1:])
    every = max(1, round(_SPACING_A * a_px / size), -(-side // _MOST))
    if side // every < _FEWEST:
        return None
    if every > 1:
        sigma = _BLUR * every
        local = _blur(local, sigma)
        noise = noise / max(4 * np.pi * sigma**2, 1.0)
        local = local[:, every // 2 :: every, every // 2 :: every]
        y, x = y[every // 2 :: every], x[every // 2 :: every]
    return _Phases(local, noise, frequency, y, x, a_px)


def _blur(local: np.ndarray, sigma: float) -> np.ndarray:
    widths = (0, sigma, sigma)
    return ndimage.gaussian_filter(local.real, widths, mode="nearest") + 1j * (
        ndimage.gaussian_filter(local.imag, widths, mode="nearest")
    )


def _follow(phases: _Phases) -> tuple[np.ndarray, np.ndarray, np.ndarray] | None:
    """Follow the displacement outwards from where the lattice is clearest.

    Returns
    -------
    amplitude : ndarray of shape (K,)
    u : ndarray of shape (Sy, Sx, 2)
    quality : ndarray of shape (Sy, Sx)
        Share of the amplitude found; 0 where the displacement could not be followed.
    """
    power = np.maximum(np.abs(phases.local) ** 2 - phases.noise[:, None, None], 0)
    strength = (power.mean((1, 2)) / phases.noise).sum()
    # as many places together as make the lattice stand out from the noise by far
    sigma = float(np.sqrt(max(40 / max(strength, 1e-9), 2.0) / (4 * np.pi)))
    if sigma > min(phases.local.shape[1:]) / 4:
        return None
    smooth = _blur(phases.local, sigma)
    clear = (np.abs(smooth) ** 2 / phases.noise[:, None, None]).sum(0)
    seed = np.unravel_index(np.argmax(ndimage.gaussian_filter(clear, 1 + sigma)), clear.shape)
    amplitude = smooth[(slice(None), *seed)]
    u, quality = np.zeros((*clear.shape, 2)), np.zeros(clear.shape)
    taken_off = np.zeros_like(u)
    quality[seed] = 1.0
    for _ in range(_ROUNDS):
        before = np.count_nonzero(quality)
        for trusted in _TRUSTED:
            _grow(phases, smooth, amplitude, u, quality, taken_off, trusted)
        known = quality > 0
        for _ in range(2):
            turned = phases.turned(smooth, u - taken_off)
            amplitude = (turned * quality).sum((1, 2)) / quality.sum()
            limit = 0.1 * phases.a_px
            u[known] += np.clip(phases.step(amplitude, turned)[known], -limit, limit)
            found = phases.agreement(amplitude, phases.turned(smooth, u - taken_off))
            quality = np.where(known, np.clip(found, 1e-3, 1), 0)
        if known.all() or np.count_nonzero(known) < 1.02 * before:
            break
        # where the lattice is strained, averages are blind until what is known is taken off
        taken_off = _continued(u, quality)
        smooth = _blur(phases.turned(phases.local, taken_off), sigma)
    return amplitude, u, quality


def _continued(u: np.ndarray, quality: np.ndarray) -> np.ndarray:
    """Lead displacements (Sy, Sx, 2) a few places on into the unknown; beyond, the nearest."""
    u, quality = u.copy(), quality.copy()
    for _ in range(3):
        rim = ndimage.binary_dilation(quality > 0, np.ones((3, 3))) & (quality == 0)
        u[rim] = _predict(u, quality)[rim]
        quality[rim] = 0.1
    nearest = ndimage.distance_transform_edt(
        quality == 0, return_distances=False, return_indices=True
    )
    return u[tuple(nearest)]


def _grow(
    phases: _Phases,
    smooth: np.ndarray,
    amplitude: np.ndarray,
    u: np.ndarray,
    quality: np.ndarray,
    taken_off: np.ndarray,
    trusted: float,
) -> None:
    """Take in, ring after ring and in place, places beside known ones that agree well enough.

    ``smooth`` holds harmonics averaged after the displacements ``taken_off`` were.
    """
    around = np.ones((3, 3), bool)
    tried = quality > 0
    while True:
        known = quality > 0
        rim = ndimage.binary_dilation(known, around) & ~tried
        if not rim.any():
            return
        tried |= rim
        expected = (_predict(u, quality) - taken_off)[rim]
        found, share = _search(phases, smooth[:, rim], amplitude, expected)
        found = found + taken_off[rim]
        good = share > trusted
        at = tuple(axis[good] for axis in np.nonzero(rim))
        u[at], quality[at] = found[good], np.minimum(share[good], 1)
        # a place that failed may do once more of its neighbours are known
        if good.any():
            tried = quality > 0
            tried |= rim & ~(quality > 0) & ~ndimage.binary_dilation(quality > 0, around)


def _predict(u: np.ndarray, quality: np.ndarray) -> np.ndarray:
    """Continue known displacements by planes through the 5 × 5 places around: (Sy, Sx, 2)."""
    offsets = np.arange(-2.0, 3)
    dy, dx = np.meshgrid(offsets, offsets, indexing="ij")
    terms = (np.ones((5, 5)), dy, dx)

    def around(values: np.ndarray, kernel: np.ndarray) -> np.ndarray:
        return ndimage.correlate(values, kernel, mode="constant")

    normal = np.empty((*quality.shape, 3, 3))
    right = np.empty((*quality.shape, 3, 2))
    for i, term in enumerate(terms):
        for j, other in enumerate(terms[: i + 1]):
            normal[..., i, j] = normal[..., j, i] = around(quality, term * other)
        for axis in range(2):
            right[..., i, axis] = around(quality * u[..., axis], term)
    # few neighbours say little of the slope; it is small
    normal += np.diag([1e-9, 0.3, 0.3])
    return np.linalg.solve(normal, right)[..., 0, :]


def _search(
    phases: _Phases, smooth: np.ndarray, amplitude: np.ndarray, expected: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Find displacements near expected ones (F, 2) for harmonics (K, F); and their agreement."""
    offsets = np.linspace(-_REACH_A, _REACH_A, 5) * phases.a_px
    near = np.stack(np.meshgrid(offsets, offsets, indexing="ij"), -1).reshape(-1, 2)
    tried = expected[:, None] + near
    share = phases.agreement(amplitude, phases.turned(smooth[:, :, None], tried))
    u = np.take_along_axis(tried, share.argmax(1)[:, None, None], 1)[:, 0]
    limit = np.diff(offsets)[0]
    for _ in range(3):
        u = u + np.clip(phases.step(amplitude, phases.turned(smooth, u)), -limit, limit)
    return u, phases.agreement(amplitude, phases.turned(smooth, u))


def _fit(
    phases: _Phases, amplitude: np.ndarray, u: np.ndarray, quality: np.ndarray
) -> Surface | None:
    """Fit a surface to the phases where they were followed; None where a plane does as well."""
    shape = np.array(quality.shape)
    pieces = np.clip(np.rint(shape / 1.5 * min(1, 1.5 * _KNOTS / shape.max())), 3, None).astype(int)
    half = (phases.y[1] - phases.y[0]) / 2
    knots = tuple(
        np.linspace(at[0] - 2 * half, at[-1] + 2 * half, n + 1)
        for at, n in zip((phases.y, phases.x), pieces, strict=True)
    )
    rows, cols = (spline_matrix(k, at) for k, at in zip(knots, (phases.y, phases.x), strict=True))
    energy, modes = plate_modes(*(int(n) for n in pieces))
    weight = phases.information(amplitude) * quality
    surface, scatter = u, 1.0
    for _ in range(4):
        turned = phases.turned(phases.local, surface)
        amplitude = (turned * quality).sum((1, 2)) / quality.sum()
        aim = surface + phases.step(amplitude, turned)
        coefficients, gain, freedom = penalised(rows, cols, weight / scatter, aim, energy, modes)
        surface = np.einsum("yi,ijc,xj->yxc", rows, coefficients, cols, optimize=True)
        off = (weight[..., None] * (aim - surface) ** 2).sum()
        # what is left shows noise that the spectrum did not: defects, jitter, contamination
        scatter = max(1.0, off / max(2 * ((quality > 0).sum() - freedom), 1))
    if gain < _CLEAR_GAIN or _bent_by(surface, quality, phases) < _LEAST_A * phases.a_px:
        return None
    return Surface(coefficients, knots)


def _bent_by(surface: np.ndarray, quality: np.ndarray, phases: _Phases) -> float:
    """Largest displacement off a plane where the lattice is seen, in pixels."""
    seen = quality > 0
    y, x = np.meshgrid(phases.y, phases.x, indexing="ij")
    plane = np.stack([np.ones(seen.sum()), y[seen], x[seen]], 1)
    flat, *_ = np.linalg.lstsq(plane, surface[seen], rcond=None)
    return float(np.linalg.norm(surface[seen] - plane @ flat, axis=1).max())
