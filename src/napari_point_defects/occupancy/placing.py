"""Put columns on the pixels of an image: where each is, and which pixels it reaches.

Images of a fine scan are binned first: counts add up, and a column a dozen pixels wide says no
more than one of three.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property

import numpy as np
from scipy.sparse import csc_array, csr_array
from scipy.spatial import cKDTree

from napari_point_defects.canonical import neighbourhoods
from napari_point_defects.materials import CHALCOGEN_SITES, LATTICE_VECTORS, METAL_SITES
from napari_point_defects.records import Lattice

STEP_A = 0.01  # of tables of a column's brightness against the distance from it
REACH_A = 0.9  # beyond it a column's image is taken to be 0
DISTANCES_A = np.arange(0, REACH_A + 2 * STEP_A, STEP_A)
_FAR = np.int16(len(DISTANCES_A) - 1)  # the last of such a table: nothing is left there
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
    points : ndarray of shape (K, 2)
    pixels : ndarray of shape (K, P), int
        Flat indices into the crop; where there is no pixel, one beyond the last.
    distance : ndarray of shape (K, P), int
        In steps of ``STEP_A``, as an index into a table like ``DISTANCES_A``.
    """

    def __init__(self, crop: Crop, points: np.ndarray, reach_a: float) -> None:
        offsets = _disc(crop.matrices, np.zeros((1, 2)), reach_a)
        self.points, self.size = points, crop.data.size
        self.pixels = crop.pixels_about(points, offsets)
        distance = crop.distances(points, offsets, points)
        self.pixels[distance >= reach_a] = self.size
        self.distance = _in_steps(distance)
        self.distance[self.pixels == self.size] = _FAR
        self._shining: tuple[np.ndarray | None, csc_array | None] = None, None

    def painted(self, table: np.ndarray, weights: np.ndarray) -> np.ndarray:
        """Add up the sites' images: their brightness by distance, times a weight for each.

        Rounds paint with one table again and again: the last one's images are kept.
        """
        if self._shining[0] is not table:
            self._shining = table, self.images(table)
        return (self._shining[1] @ weights)[:-1]

    def images(self, table: np.ndarray) -> csc_array:
        """Return the sites' images as a matrix (pixels and one beyond, sites)."""
        return self._by_pixel(table[self.distance].ravel())

    def painted_each(self, tables: np.ndarray, weights: np.ndarray) -> np.ndarray:
        """Paint with several tables (R, W) at once: shape (pixels, W)."""
        entry, site, starts = self._sorted
        by_distance = csr_array(
            (weights[site], self.distance.ravel()[entry], starts),
            shape=(self.size + 1, len(tables)),
        )
        return (by_distance @ tables)[:-1]

    def _by_pixel(self, values: np.ndarray) -> csc_array:
        """Arrange values, one for each pixel of each site."""
        count, reached = self.pixels.shape
        starts = np.arange(0, count * reached + 1, reached, dtype=np.int32)
        return csc_array((values, self.pixels.ravel(), starts), shape=(self.size + 1, count))

    @cached_property
    def _sorted(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Entries of ``distance`` in the order of the pixels, their sites, each pixel's first."""
        found = self._by_pixel(np.arange(self.pixels.size, dtype=np.int32)).tocsr()
        return found.data, found.indices, found.indptr


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
        """Find the pixels that judge each cell, and how far they are from its columns, (C, P)."""
        offsets = _disc(self.matrices, np.stack([-_BOND / 2, _BOND / 2]), _PATCH_A)
        pixels = self.pixels_about(self.centres, offsets)
        distances = [
            self.distances(self.centres, offsets, sites.points)
            for sites in (self.chalcogen, self.metal)
        ]
        self.seen = np.append(self.valid.ravel(), False)[pixels]
        self.seen &= np.minimum(*distances) < _PATCH_A
        self.patch = np.where(self.seen, pixels, self.data.size)
        self.to_chalcogen, self.to_metal = (
            np.where(self.seen, _in_steps(distance), _FAR) for distance in distances
        )
        count = self.seen.sum(axis=1)
        self.seen_share = count / max(float(np.median(count[self.known])), 1)

    def pixels_about(self, points: np.ndarray, offsets: np.ndarray) -> np.ndarray:
        """Return the flat indices (C, P) of pixels at offsets (P, 2) from points (C, 2).

        Where there is no pixel, one beyond the last.
        """
        rows, cols = self.data.shape
        y, x = (np.rint(points).astype(np.int32)[:, None, i] + offsets[:, i] for i in range(2))
        flat = y * cols + x
        flat[(y < 0) | (y >= rows) | (x < 0) | (x >= cols)] = self.data.size
        return flat

    def distances(self, points: np.ndarray, offsets: np.ndarray, start: np.ndarray) -> np.ndarray:
        """Return how far the pixels of :meth:`pixels_about` are from another point each, in a."""
        nearest = np.rint(points) - start
        dy, dx = (nearest[:, None, i] + offsets[:, i] for i in range(2))
        metric = np.swapaxes(self.inverse, 1, 2) @ self.inverse
        squares = metric[:, 0, 0, None] * dy
        squares += 2 * metric[:, 0, 1, None] * dx
        squares *= dy
        dx *= dx
        squares += metric[:, 1, 1, None] * dx
        return np.sqrt(squares, out=squares)

    @cached_property
    def judged(self) -> np.ndarray:
        """Flat indices of all pixels that judge a known cell."""
        return np.unique(self.patch[self.known][self.seen[self.known]])

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
        images, norm = self._spreading
        values = zip(images, (chalcogen, metal, hollow), strict=True)
        return sum(image @ value for image, value in values)[:-1] / norm

    @cached_property
    def _spreading(self) -> tuple[list[csc_array], np.ndarray]:
        """How a value fades away from each site of each kind, and the sum of that."""
        weight = np.exp(-((DISTANCES_A / _PAINTED_SIGMA_A) ** 2) / 2)
        weight[DISTANCES_A > _PAINTED_A] = 0
        around_hollows = Sites(self, self.hollow.points, _PAINTED_A)
        images = [sites.images(weight) for sites in (self.chalcogen, self.metal, around_hollows)]
        norm = sum(image.sum(axis=1) for image in images)[:-1]
        return images, np.maximum(norm, 1e-9)


def _disc(matrices: np.ndarray, ends: np.ndarray, reach_a: float) -> np.ndarray:
    """Return pixel offsets (P, 2) from a rounded point that may lie within reach of an end."""
    reach = np.linalg.norm(matrices, axis=2).max(axis=0) * (reach_a + np.abs(ends).max())
    rows, cols = (np.arange(-n, n + 1, dtype=np.int32) for n in np.ceil(reach).astype(int) + 1)
    offsets = np.stack(np.meshgrid(rows, cols, indexing="ij"), axis=-1).reshape(-1, 2)
    # a bent lattice differs a little from cell to cell, and points lie between pixels
    near = np.zeros(len(offsets), bool)
    for inverse in np.linalg.inv(matrices[:: max(1, len(matrices) // 16)]):
        apart = offsets @ inverse.T
        slack = reach_a + 0.75 * np.linalg.norm(inverse, ord=2)
        for end in ends:
            near |= _lengths(apart - end) < slack
    return offsets[near]


def _in_steps(distance_a: np.ndarray) -> np.ndarray:
    """Return distances as indices into a table like ``DISTANCES_A``; they are changed."""
    np.minimum(distance_a, DISTANCES_A[-1], out=distance_a)
    distance_a /= STEP_A
    return np.rint(distance_a, out=distance_a).astype(np.int16)


def _lengths(vectors: np.ndarray) -> np.ndarray:
    return np.sqrt(np.einsum("...i,...i", vectors, vectors))


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
