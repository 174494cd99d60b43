"""Sample an image in the canonical frame: in parts, for CNN-1, or around points, for CNN-2.

Nothing here copies the whole image: it is read piece by piece, as far as a piece's samples reach.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property, partial

import numpy as np
from scipy.ndimage import map_coordinates

from napari_point_defects.blurring import gaussian_blur
from napari_point_defects.records import Lattice
from napari_point_defects.threads import side_by_side

_PART_PX = 5_000_000  # pixels of a part: some 300 MB while it is made
_SOURCE_PX = 20_000_000  # of the image that such a part may show: some 260 MB
_TILE_PX = 1536  # side of the square whose windows are cut together
_BACKGROUND_A = 1.2  # what varies more slowly than this is background
_TRUNCATE = 4.0  # Gaussian filters reach that many standard deviations (scipy's default)
_SPLINE_REACH = 24  # pixels beyond which a cubic spline's prefilter notices nothing
_BEND_STEP_A = 0.5  # the displacement of a bent lattice is found that densely, else interpolated
_MOST_FILLED_FROM = 4_000_000  # pixels; more would not make their median any better
_MOST_MEASURED = 12  # parts of a very large image that give its spread


@dataclass(frozen=True, slots=True)
class CanonicalImage:
    """An image resampled so that a lattice row runs along x.

    Attributes
    ----------
    pixels : ndarray of shape (M, N), float32
        Local background removed, divided by the spread; 0 where nothing was recorded.
    origin : ndarray of shape (2,)
        Canonical position (y, x) of pixel (0, 0), in units of a.
    pixels_per_a : float
    """

    pixels: np.ndarray
    origin: np.ndarray
    pixels_per_a: float

    def to_canonical(self, pixels: np.ndarray) -> np.ndarray:
        """Map pixel positions (..., 2) of this image to the canonical frame."""
        return np.asarray(pixels) / self.pixels_per_a + self.origin

    def to_pixels(self, canonical: np.ndarray) -> np.ndarray:
        """Map canonical points (..., 2) to pixel positions of this image."""
        return (np.asarray(canonical) - self.origin) * self.pixels_per_a


def smooth_for_step(data: np.ndarray, step_px: float, fill: float | None = None) -> np.ndarray:
    """Blur an image, shape (M, N), so that samples ``step_px`` apart do not alias; fill NaN.

    Gaps take the value ``fill``, or the image's median.
    """
    data = np.asarray(data, np.float32)
    missing = ~np.isfinite(data)
    if missing.any():
        fill = np.nanmedian(data) if fill is None else fill
        data = np.where(missing, np.float32(fill), data)
    if step_px > 1:
        data = gaussian_blur(data, _blur_px(step_px), edge="nearest", truncate=_TRUNCATE)
    return data


def _blur_px(step_px: float) -> float:
    """Return the standard deviation of the blur for samples that far apart."""
    return 0.45 * float(np.sqrt(max(step_px**2 - 1, 0)))


def _reach(sigma: float) -> int:
    """Pixels that a Gaussian filter looks at, on either side."""
    return int(_TRUNCATE * sigma + 0.5)


def _typical(data: np.ndarray) -> float:
    """Median of an image, of an even selection of its rows where it is large."""
    data = data[:: max(1, -(-data.size // _MOST_FILLED_FROM))]
    return float(np.nanmedian(data)) if np.isfinite(data).any() else 0.0


def _crop(data: np.ndarray, low: np.ndarray, high: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Cut the pixels from ``low`` to ``high`` as far as there are any; also where that starts."""
    start = np.clip(np.floor(low).astype(int), 0, np.array(data.shape) - 1)
    end = np.clip(np.ceil(high).astype(int) + 1, start + 1, data.shape)
    return data[start[0] : end[0], start[1] : end[1]], start


class Resampler:
    """Samples an image in the canonical frame part by part.

    Parameters
    ----------
    data : ndarray of shape (M, N)
        NaN where nothing was recorded.
    lattice : Lattice
    pixels_per_a : float
        Magnification of the result.
    margin_a : float
        Empty border around the image, in units of a, so that boxes at the edge stay whole.

    Attributes
    ----------
    origin : ndarray of shape (2,)
        Canonical position (y, x) of pixel (0, 0), in units of a.
    shape : (int, int)
        Of the whole canonical image.
    """

    def __init__(
        self, data: np.ndarray, lattice: Lattice, pixels_per_a: float, margin_a: float = 1.0
    ) -> None:
        self.data, self.lattice, self.pixels_per_a = data, lattice, pixels_per_a
        outline = lattice.to_canonical(_outline(data.shape, lattice.bending is not None))
        self.origin = outline.min(axis=0) - margin_a
        size = np.ceil((outline.max(axis=0) + margin_a - self.origin) * pixels_per_a).astype(int)
        self.shape = (int(size[0]) + 1, int(size[1]) + 1)

    @cached_property
    def _fill(self) -> float:
        return _typical(self.data)

    @cached_property
    def spread(self) -> float:
        """Standard deviation of the whole image about its local background.

        Of a very large image, an even selection of parts gives it.
        """
        rows = _PART_PX // min(self.shape[1], 2048)
        tops = np.arange(0, self.shape[0], rows)
        lefts = np.arange(0, self.shape[1], 2048)
        corners = np.stack(np.meshgrid(tops, lefts, indexing="ij"), -1).reshape(-1, 2)
        # a step that shares no factor with the number of columns would walk down one of them
        picked = np.linspace(0, len(corners) - 1, min(len(corners), _MOST_MEASURED)).astype(int)
        total = count = 0.0
        for top, left in corners[picked]:
            flat, valid = self.part(top, left, rows, 2048)
            total += float((flat.astype(np.float64) ** 2).sum())
            count += np.count_nonzero(valid)
        return max(float(np.sqrt(total / max(count, 1))), 1e-12)

    def part(self, top: int, left: int, height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
        """Return part of the canonical image without its background, and where it is valid.

        Parameters
        ----------
        top, left, height, width : int
            In canonical pixels; what lies beyond the whole is left out.

        Returns
        -------
        flat : ndarray of shape (h, w), float32
            0 where not valid.
        valid : ndarray of shape (h, w), bool
        """
        sigma = _BACKGROUND_A * self.pixels_per_a
        start = np.array([top, left])
        end = np.minimum(start + [height, width], self.shape)
        low = np.maximum(start - _reach(sigma), 0)
        high = np.minimum(end + _reach(sigma), self.shape)
        image, valid = self._sample(low, high)
        inner = tuple(slice(*pair) for pair in zip(start - low, end - low, strict=True))
        if not valid.any():
            return np.zeros(end - start, np.float32), valid[inner]
        return _flatten(image, valid, sigma)[inner], valid[inner]

    def _sample(self, low: np.ndarray, high: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Intensities of canonical pixels from ``low`` up to ``high``, and which are recorded."""
        where = self._positions(low, high)
        limits = np.array(self.data.shape) - 1
        valid = np.ones(where[0].shape, bool)
        for place, limit in zip(where, limits, strict=True):
            valid &= (place >= 0) & (place <= limit)
        if not valid.any():
            return np.zeros(valid.shape, np.float32), valid
        step_px = self.lattice.a_px / self.pixels_per_a
        beyond = _reach(_blur_px(step_px)) + _SPLINE_REACH
        ends = np.array([[place.min(), place.max()] for place in where])
        crop, start = _crop(self.data, ends[:, 0] - beyond, ends[:, 1] + beyond)
        for place, first in zip(where, start, strict=True):
            place -= first
        missing = ~np.isfinite(crop)
        gaps = missing.any()
        smooth = smooth_for_step(crop, step_px, self._fill if gaps else None)
        order = 1 if step_px >= 1 else 3
        sampled = map_coordinates(smooth, where, order=order, mode="nearest", output=np.float32)
        if gaps:
            valid &= map_coordinates(missing.astype(np.float32), where, order=1) < 0.5
        return sampled, valid

    def _positions(self, low: np.ndarray, high: np.ndarray) -> list[np.ndarray]:
        """Image positions y and x of canonical pixels, each of shape (h, w)."""
        lattice, step = self.lattice, self.lattice.matrix_px / self.pixels_per_a
        start = lattice.matrix_px @ self.origin + lattice.origin_px
        # pixel = start + step @ (row, column): two outer sums instead of a big matrix product
        rows, cols = (np.arange(*ends, dtype=np.float32) for ends in zip(low, high, strict=True))
        where = [
            (start[i] + step[i, 0] * rows)[:, None] + (step[i, 1] * cols)[None, :] for i in range(2)
        ]
        if lattice.bending is None:
            return where
        every = max(1, int(_BEND_STEP_A * self.pixels_per_a))
        coarse = [
            np.arange(n, n + count + every, every)
            for n, count in zip(low, where[0].shape, strict=True)
        ]
        nodes = np.stack(np.meshgrid(*coarse, indexing="ij"), -1)
        moved = lattice.bending.displacement(start + nodes @ step.T)
        for axis, place in enumerate(where):
            place += _between(_between(moved[..., axis], every, len(rows)).T, every, len(cols)).T
        return where


def _between(nodes: np.ndarray, every: int, count: int) -> np.ndarray:
    """Interpolate nodes (n, m) that lie ``every`` rows apart: shape (count, m)."""
    at = np.arange(count) / every
    first = at.astype(int)
    share = (at - first)[:, None]
    return nodes[first] * (1 - share) + nodes[first + 1] * share


def _outline(shape: tuple[int, int], bent: bool) -> np.ndarray:
    """Points of an image's edge: its corners, and more between them where it is bent."""
    if not bent:
        (height, width) = shape
        return np.array([[0, 0], [0, width - 1], [height - 1, 0], [height - 1, width - 1]], float)
    share = np.linspace(0, 1, 65)
    edges = [np.stack(np.broadcast_arrays(a, b), -1) for a in (0, 1) for b in (share,)]
    edges += [edge[:, ::-1] for edge in edges]
    return np.concatenate(edges) * (np.array(shape) - 1)


def to_canonical_image(
    data: np.ndarray, lattice: Lattice, pixels_per_a: float, margin_a: float = 1.0
) -> CanonicalImage:
    """Resample a whole image into the canonical frame.

    Parameters
    ----------
    data : ndarray of shape (M, N)
        NaN where nothing was recorded.
    lattice : Lattice
    pixels_per_a : float
        Magnification of the result.
    margin_a : float
        Empty border around it, in units of a, so that boxes at the edge stay whole.

    Returns
    -------
    CanonicalImage
    """
    source = Resampler(data, lattice, pixels_per_a, margin_a)
    height, width = source.shape
    pixels = np.empty(source.shape, np.float32)
    count, total = 0, 0.0
    most = np.sqrt(min(_PART_PX, _SOURCE_PX * (pixels_per_a / lattice.a_px) ** 2))
    rows, cols = (-(-size // int(np.ceil(size / most))) for size in source.shape)
    for top in range(0, height, rows):
        for left in range(0, width, cols):
            flat, valid = source.part(top, left, rows, cols)
            pixels[top : top + rows, left : left + cols] = flat
            count += np.count_nonzero(valid)
            total += float((flat**2).sum())
    pixels /= max(float(np.sqrt(total / max(count, 1))), 1e-12)
    return CanonicalImage(pixels, source.origin, pixels_per_a)


def _flatten(image: np.ndarray, valid: np.ndarray, sigma: float) -> np.ndarray:
    """Take the local background away; 0 where not valid."""
    weight = valid.astype(np.float32)
    coverage, background = (
        gaussian_blur(each, sigma, edge="reflect", truncate=_TRUNCATE)
        for each in (weight, image * weight)
    )
    return (image - background / np.maximum(coverage, 1e-3)) * weight


def sample_windows(
    data: np.ndarray,
    lattice: Lattice,
    centres_px: np.ndarray,
    size_a: tuple[float, float],
    shape: tuple[int, int],
) -> np.ndarray:
    """Cut windows around points from the original image, turned into the canonical frame.

    Parameters
    ----------
    data : ndarray of shape (M, N)
        NaN where nothing was recorded.
    lattice : Lattice
        Its matrix about each point gives the window's orientation and scale.
    centres_px : ndarray of shape (K, 2)
        Middles (y, x) of the windows, image pixels.
    size_a : (float, float)
        Height and width of a window in units of a.
    shape : (int, int)
        Height and width of a window in samples.

    Returns
    -------
    ndarray of shape (K, h, w), float32
        NaN outside the image.
    """
    pitch = np.array(size_a) / np.array(shape)  # samples sit in the middles of their squares
    axes = [(np.arange(n) - (n - 1) / 2) * p for n, p in zip(shape, pitch, strict=True)]
    offsets = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1)
    centres_px = np.asarray(centres_px, float).reshape(-1, 2)
    matrices = lattice.matrix_at(centres_px)
    step_px = float(pitch.max()) * lattice.a_px
    windows = np.empty((len(centres_px), *shape), np.float32)
    fill = None
    for together in neighbourhoods(centres_px):
        corners = np.abs(matrices[together]) @ (np.array(size_a) / 2)
        beyond = corners.max(axis=0) + _reach(_blur_px(step_px)) + 2
        ends = centres_px[together].min(axis=0), centres_px[together].max(axis=0)
        crop, start = _crop(data, ends[0] - beyond, ends[1] + beyond)
        missing = ~np.isfinite(crop)
        gaps = missing.any()
        if gaps and fill is None:
            fill = _typical(data)
        smooth = smooth_for_step(crop, step_px, fill)
        if gaps:  # else it may be the caller's own array, and read-only
            smooth[missing] = np.nan
        cut = partial(_cut, smooth, offsets)
        # bounds the memory of the coordinates
        blocks = [together[first : first + 256] for first in range(0, len(together), 256)]
        parts = ((matrices[block], centres_px[block] - start) for block in blocks)
        for block, found in zip(blocks, side_by_side(cut, parts), strict=True):
            windows[block] = found
    return windows


def _cut(image: np.ndarray, offsets: np.ndarray, part: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
    """Interpolate windows (K, h, w), given the matrices and the middles of a part of them."""
    matrices, middles = part
    turned = np.einsum("kij,hwj->ikhw", matrices, offsets)
    where = turned + middles.T[:, :, None, None]
    return map_coordinates(image, where, np.float32, order=1, mode="constant", cval=np.nan)


def neighbourhoods(
    points_px: np.ndarray, side_px: float = _TILE_PX, most: int | None = None
) -> Iterator[np.ndarray]:
    """Group points by the square of the image that they lie in.

    Parameters
    ----------
    points_px : ndarray of shape (K, 2)
    side_px : float
        Side of a square. Points within one and a half squares are not parted.
    most : int, optional
        Largest group; none for any size.

    Yields
    ------
    ndarray of int
        Rows of the points of one square, ascending.
    """
    if not len(points_px):
        return
    extent = np.ptp(points_px, axis=0)
    if extent.max() <= 1.5 * side_px:
        groups = [np.arange(len(points_px))]
    else:
        square = ((points_px - points_px.min(axis=0)) // side_px).astype(int)
        number = square[:, 0] * (int(extent[1] // side_px) + 1) + square[:, 1]
        order = np.argsort(number, kind="stable")
        groups = np.split(order, np.flatnonzero(np.diff(number[order])) + 1)
    for group in groups:
        size = most or len(group)
        for start in range(0, len(group), size):
            yield group[start : start + size]
