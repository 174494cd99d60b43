"""Sample an image in the canonical frame: whole, for CNN-1, or around given points, for CNN-2."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.ndimage import gaussian_filter, map_coordinates

from napari_point_defects.records import Lattice


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


def smooth_for_step(data: np.ndarray, step_px: float) -> np.ndarray:
    """Blur an image, shape (M, N), so that samples ``step_px`` apart do not alias; fill NaN."""
    data = np.asarray(data, np.float32)
    missing = ~np.isfinite(data)
    if missing.any():
        data = np.where(missing, np.float32(np.nanmedian(data)), data)
    if step_px > 1:
        data = gaussian_filter(data, 0.45 * np.sqrt(step_px**2 - 1), mode="nearest")
    return data


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
    height, width = data.shape
    corners = lattice.to_canonical(
        np.array([[0, 0], [0, width - 1], [height - 1, 0], [height - 1, width - 1]], float)
    )
    origin = corners.min(axis=0) - margin_a
    size = np.ceil((corners.max(axis=0) + margin_a - origin) * pixels_per_a).astype(int) + 1
    step = lattice.matrix_px / pixels_per_a
    start = lattice.to_image(origin)
    # pixel = start + step @ (row, column): two outer sums instead of a big matrix product
    rows, cols = np.arange(size[0], dtype=np.float32), np.arange(size[1], dtype=np.float32)
    where = [
        (start[i] + step[i, 0] * rows)[:, None] + (step[i, 1] * cols)[None, :] for i in range(2)
    ]
    valid = (where[0] >= 0) & (where[0] <= height - 1) & (where[1] >= 0) & (where[1] <= width - 1)
    smooth = smooth_for_step(data, lattice.a_px / pixels_per_a)
    order = 1 if lattice.a_px >= pixels_per_a else 3
    sampled = map_coordinates(smooth, where, order=order, mode="nearest", output=np.float32)
    missing = ~np.isfinite(data)
    if missing.any():
        valid &= map_coordinates(missing.astype(np.float32), where, order=1) < 0.5
    return CanonicalImage(_flatten(sampled, valid, pixels_per_a), origin, pixels_per_a)


def _flatten(image: np.ndarray, valid: np.ndarray, pixels_per_a: float) -> np.ndarray:
    """Take the local background away and scale the spread to 1; 0 where not valid."""
    weight = valid.astype(np.float32)
    sigma = 1.2 * pixels_per_a
    coverage = gaussian_filter(weight, sigma)
    background = gaussian_filter(image * weight, sigma) / np.maximum(coverage, 1e-3)
    flat = (image - background) * weight
    spread = np.sqrt((flat**2).sum() / max(weight.sum(), 1))
    return flat / max(float(spread), 1e-12)


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
        Its matrix gives each window's orientation and scale.
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
    offsets = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1) @ lattice.matrix_px.T
    smooth = smooth_for_step(data, float(pitch.max()) * lattice.a_px)
    missing = ~np.isfinite(data)
    if missing.any():  # else it may be the caller's own array, and read-only
        smooth[missing] = np.nan
    windows = np.empty((len(centres_px), *shape), np.float32)
    for start in range(0, len(centres_px), 1024):  # bounds the memory of the coordinates
        block = slice(start, start + 1024)
        where = np.asarray(centres_px)[block, None, None, :] + offsets
        windows[block] = map_coordinates(
            smooth, np.moveaxis(where, -1, 0), order=1, mode="constant", cval=np.nan
        )
    return windows
