"""Put columns on the pixels of an image: where each is, and which pixels it reaches.

Images of a fine scan are binned first: counts add up, and a column a dozen pixels wide says no
more than one of three.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property

import numpy as np
from scipy.spatial import cKDTree

from napari_point_defects.canonical import neighbourhoods
from napari_point_defects.materials import CHALCOGEN_SITES, LATTICE_VECTORS, METAL_SITES
from napari_point_defects.records import Lattice

STEP_A = 0.01  # of tables of a column's brightness against the distance from it
REACH_A = 0.9  # beyond it a column's image is taken to be 0
DISTANCES_A = np.arange(0, REACH_A + 2 * STEP_A, STEP_A)
_PATCH_A = 0.55  # pixels nearer than this to a cell's columns judge the cell
_HOLLOW_A = 0.28
_WHOLE = 0.6  # of a hollow's pixels must have been recorded
_PAINTED_A = 0.7  # how far the dirt seen at a site is spread
_PAINTED_SIGMA_A = 0.22
_PIXELS_PER_A = 12.0  # fewer after binning would blur the columns
_RINGS = 2  # of cells outside, whose columns shine in
SAME_A = 0.4  # sites nearer than this are one
_STEADIED_A = 2.1  # cells within this distance say where a cell must be
_OFF_A = 0.2  # one that is farther than this from where they say stays where it is
_GROUP_CELLS = 400
_BOND = METAL_SITES[0] - CHALCOGEN_SITES[0]
_NEIGHBOURS = np.array([[0, 1], [0, -1], [1, 0], [-1, 0], [1, -1], [-1, 1]]) @ LATTICE_VECTORS


def steadied(lattice: Lattice, centres_px: np.ndarray) -> np.ndarray:
    """Return cells' middles, each the mean of what its neighbours' and its own position imply.

    A box is found with an error of some hundredths of a; the crystal's cells lie a whole number
    of lattice vectors apart.

    Parameters
    ----------
    lattice : Lattice
    centres_px : ndarray of shape (K, 2)

    Returns
    -------
    ndarray of shape (K, 2)
    """
    a = lattice.a_px
    pairs = cKDTree(centres_px).query_pairs(_STEADIED_A * a, output_type="ndarray")
    pairs = np.concatenate([pairs, pairs[:, ::-1]])
    matrices = lattice.matrix_at(centres_px)
    one, other = pairs.T
    apart = centres_px[one] - centres_px[other]
    straight = np.einsum("kij,kj->ki", np.linalg.inv(matrices)[one], apart)
    whole = np.rint(straight @ np.linalg.inv(LATTICE_VECTORS)) @ LATTICE_VECTORS
    error = np.einsum("kij,kj->ki", matrices[one], whole) - apart
    near = np.linalg.norm(error, axis=1) < _OFF_A * a
    count = 1 + np.bincount(one[near], minlength=len(centres_px))
    move = [np.bincount(one[near], error[near, i], len(centres_px)) / count for i in range(2)]
    return centres_px + np.stack(move, axis=1)


def groups_of(lattice: Lattice, centres_px: np.ndarray) -> Iterator[np.ndarray]:
    """Yield the rows of cells that are judged together: some 400 of a square of the image."""
    side = float(np.sqrt(_GROUP_CELLS * lattice.cell_area_px))
    yield from neighbourhoods(centres_px, side)


class Sites:
    """One kind of site: the pixels that each reaches, and how far they are from it.

    Attributes
    ----------
    pixels : ndarray of shape (K, P), int
        Flat indices into the crop; where there is no pixel, one beyond the last.
    distance : ndarray of shape (K, P), int
        In steps of ``STEP_A``, as an index into a table like ``DISTANCES_A``.
    """

    def __init__(self, crop: Crop, points: np.ndarray, reach_a: float) -> None:
        offsets = _disc(crop.matrices, np.zeros((1, 2)), reach_a)
        pixels = np.rint(points).astype(int)[:, None] + offsets
        apart = crop.turned(pixels - points[:, None])
        distance = np.hypot(apart[..., 0], apart[..., 1])
        inside = crop.holds(pixels) & (distance < reach_a)
        self.points, self.size = points, crop.data.size
        self.pixels = np.where(inside, crop.flat(pixels), crop.data.size).astype(np.int32)
        steps = np.rint(np.minimum(distance, REACH_A + STEP_A) / STEP_A)
        self.distance = np.where(inside, steps, len(DISTANCES_A) - 1).astype(np.int16)

    def painted(self, table: np.ndarray, weights: np.ndarray) -> np.ndarray:
        """Add up the sites' images: their brightness by distance, times a weight for each."""
        values = table[self.distance] * weights[:, None]
        return np.bincount(self.pixels.ravel(), values.ravel(), self.size + 1)[:-1]


class Crop:
    """Part of an image with the cells whose columns it shows.

    Parameters
    ----------
    data : ndarray of shape (M, N)
        The whole image; NaN where nothing was recorded.
    lattice : Lattice
    centres_px : ndarray of shape (K, 2)
        Middles of the bonds of known cells.

    Attributes
    ----------
    data : ndarray of shape (m, n)
        Binned.
    known : ndarray of shape (C,), bool
        Which cells are the given ones, in their order and first; the others surround them, and
        whether there is matter at all the image must tell.
    a_px : float
    """

    def __init__(self, data: np.ndarray, lattice: Lattice, centres_px: np.ndarray) -> None:
        a = lattice.a_px
        bin_px = max(1, int(a / _PIXELS_PER_A))
        centres, self.known = _surrounded(lattice, np.asarray(centres_px, float))
        matrices = lattice.matrix_at(centres)
        beyond = (REACH_A + 0.5) * np.linalg.norm(matrices, axis=2).max(axis=0)
        low = np.maximum(np.floor(centres.min(axis=0) - beyond), 0).astype(int)
        high = np.minimum(np.ceil(centres.max(axis=0) + beyond).astype(int) + 1, data.shape)
        low = low // bin_px * bin_px
        rows, cols = (int(n) for n in np.maximum((high - low) // bin_px, 1))
        part = data[low[0] : low[0] + rows * bin_px, low[1] : low[1] + cols * bin_px]
        part = np.asarray(part, np.float64)
        if bin_px > 1:
            part = part.reshape(rows, bin_px, cols, bin_px).mean(axis=(1, 3))
        self.data = part
        self.valid = np.isfinite(part)
        self.values = np.where(self.valid, part, 0.0).ravel()
        self.matrices = matrices / bin_px
        self.inverse = np.linalg.inv(self.matrices)
        self.a_px = a / bin_px
        self.centres = (centres - low - (bin_px - 1) / 2) / bin_px
        half = self.matrices @ (_BOND / 2)
        self.chalcogen = Sites(self, self.centres - half, REACH_A)
        self.metal = Sites(self, self.centres + half, REACH_A)
        hollows = self.chalcogen.points - self.matrices @ CHALCOGEN_SITES[0]
        self.hollow = Sites(self, hollows, _HOLLOW_A)
        self.kernels: dict[float, tuple[np.ndarray, np.ndarray]] = {}  # of the dirt
        self._patches()

    def _patches(self) -> None:
        """Find the pixels that judge each cell: (C, P) arrays."""
        ends = np.stack([-_BOND / 2, _BOND / 2])
        offsets = _disc(self.matrices, ends, _PATCH_A)
        pixels = np.rint(self.centres).astype(int)[:, None] + offsets
        apart = self.turned(pixels - self.centres[:, None])
        to_chalcogen, to_metal = (np.hypot(*np.moveaxis(apart - end, -1, 0)) for end in ends)
        seen = self.holds(pixels)
        flat = np.where(seen, self.flat(pixels), 0)
        seen &= self.valid.ravel()[flat]
        seen &= np.minimum(to_chalcogen, to_metal) < _PATCH_A
        self.patch, self.seen = flat, seen.astype(np.float32)
        self.to_chalcogen, self.to_metal = to_chalcogen, to_metal
        self.seen_share = seen.sum(axis=1) / max(float(np.median(seen[self.known].sum(axis=1))), 1)

    def holds(self, pixels: np.ndarray) -> np.ndarray:
        """Tell which pixels (..., 2) lie in the crop."""
        (rows, cols), (y, x) = self.data.shape, np.moveaxis(pixels, -1, 0)
        return (y >= 0) & (y < rows) & (x >= 0) & (x < cols)

    def flat(self, pixels: np.ndarray) -> np.ndarray:
        """Return the flat indices of pixels (..., 2)."""
        return pixels[..., 0] * self.data.shape[1] + pixels[..., 1]

    def turned(self, apart: np.ndarray) -> np.ndarray:
        """Turn vectors (C, P, 2) from pixels into the canonical frame of each cell."""
        return apart @ np.swapaxes(self.inverse, 1, 2)

    @cached_property
    def judged(self) -> np.ndarray:
        """Flat indices of all pixels that judge a known cell."""
        return np.unique(self.patch[self.known][self.seen[self.known] > 0])

    @cached_property
    def open_hollows(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Rows of the hollows seen, their pixels (H, P), and which of those were recorded."""
        sites = self.hollow
        inside = sites.pixels < sites.size
        pixels = np.where(inside, sites.pixels, 0)
        inside &= self.valid.ravel()[pixels]
        count = inside.sum(axis=1)
        rows = np.flatnonzero(count > max(_WHOLE * np.median(count[self.known]), 0))
        return rows, pixels[rows], inside[rows]

    def spread(self, chalcogen: np.ndarray, metal: np.ndarray, hollow: np.ndarray) -> np.ndarray:
        """Interpolate what is known at the three kinds of site (C,) over the pixels."""
        every, weight, norm = self._spreading
        values = zip(every, (chalcogen, metal, hollow), strict=True)
        return sum(sites.painted(weight, value) for sites, value in values) / norm

    @cached_property
    def _spreading(self) -> tuple[list[Sites], np.ndarray, np.ndarray]:
        """The sites again, how a value fades away from each, and the sum of that."""
        weight = np.exp(-((DISTANCES_A / _PAINTED_SIGMA_A) ** 2) / 2)
        weight[-1] = 0
        kinds = (self.chalcogen, self.metal, self.hollow)
        every = [Sites(self, sites.points, _PAINTED_A) for sites in kinds]
        norm = sum(sites.painted(weight, np.ones(len(sites.points))) for sites in every)
        return every, weight, np.maximum(norm, 1e-9)


def _disc(matrices: np.ndarray, ends: np.ndarray, reach_a: float) -> np.ndarray:
    """Return pixel offsets (P, 2) from a rounded point that may lie within reach of an end."""
    reach = np.linalg.norm(matrices, axis=2).max(axis=0) * (reach_a + np.abs(ends).max())
    rows, cols = (np.arange(-n, n + 1) for n in np.ceil(reach).astype(int) + 1)
    offsets = np.stack(np.meshgrid(rows, cols, indexing="ij"), axis=-1).reshape(-1, 2)
    # a bent lattice differs a little from cell to cell, and points lie between pixels
    some = matrices[:: max(1, len(matrices) // 16)]
    near = np.zeros(len(offsets), bool)
    for matrix in some:
        apart = offsets @ np.linalg.inv(matrix).T
        slack = reach_a + 0.75 * np.linalg.norm(np.linalg.inv(matrix), ord=2)
        for end in ends:
            near |= np.linalg.norm(apart - end, axis=1) < slack
    return offsets[near]


def _surrounded(lattice: Lattice, centres_px: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Add the cells around: all middles (C, 2), and which were given."""
    apart = SAME_A * lattice.a_px
    centres, given = centres_px, len(centres_px)
    edge = centres
    for _ in range(_RINGS):
        around = lattice.matrix_at(edge)[:, None] @ _NEIGHBOURS[..., None]
        new = (edge[:, None] + around[..., 0]).reshape(-1, 2)
        new = new[cKDTree(centres).query(new)[0] > apart]
        twice = cKDTree(new).query_pairs(apart, output_type="ndarray")
        edge = np.delete(new, twice[:, 1], axis=0)
        if not len(edge):
            break
        centres = np.concatenate([centres, edge])
    return centres, np.arange(len(centres)) < given
