"""Fold an image onto one cell: which pixels are equivalent, and what their mean is.

Positions in the cell are *fractions* of the two lattice vectors, both 0 at a hollow; M lies at
(1/3, 1/3) and X₂ at (2/3, 2/3). A *tile* is the rhombus between four hollows, named by the whole
part of its fractions.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from scipy import fft
from scipy.ndimage import binary_erosion, gaussian_filter, map_coordinates

from napari_point_defects.materials import LATTICE_VECTORS
from napari_point_defects.measurement.background import local_background
from napari_point_defects.records import Lattice, UnitCells, missing_chalcogens, missing_metals

TABLE = 256
"""Samples along each side of a tabulated mean cell: fine enough to look up the nearest."""
_BINS = 32
_MOST_SHELL = 31  # h² + hk + k² of the finest harmonic: 0.18 a between its crests
_FINEST = 0.45  # cycles per pixel
_SPOILT_A = 0.7  # from there on a missing column changes the signal by a hundredth of its peak


@dataclass(frozen=True, slots=True)
class Tiles:
    """Which tiles of a window are perfect, and where the crystal is against the lattice.

    Attributes
    ----------
    corner : ndarray of shape (2,), int
        Fractions of tile (0, 0).
    usable : ndarray of shape (P, Q), bool
        Tiles whose columns were all found, as were those of the tiles around.
    known : ndarray of shape (P, Q), bool
        Tiles whose X₂ and M column were both found.
    spoilt_px : ndarray of shape (S, 2)
        Where in the image columns are not whole.
    displacement_px : ndarray of shape (P, Q, 2)
        Smooth displacement (y, x) of the crystal against the affine lattice.
    """

    corner: np.ndarray
    usable: np.ndarray
    known: np.ndarray
    spoilt_px: np.ndarray
    displacement_px: np.ndarray


@dataclass(frozen=True, slots=True)
class MeanCell:
    """Fourier series of the mean cell.

    Attributes
    ----------
    indices : ndarray of shape (K, 2), int
        Half of the harmonics (the other half is conjugate); the first is (0, 0).
    values : ndarray of shape (K,), complex
        Coefficients of exp(2πi indices · fractions), in the image's intensity.
    per_px : ndarray of shape (2, 2)
        Maps (y, x) in pixels to fractions: ``fractions = (y, x) @ per_px``.
    """

    indices: np.ndarray
    values: np.ndarray
    per_px: np.ndarray

    @property
    def frequencies(self) -> np.ndarray:
        """Reciprocal vectors (y, x) of the harmonics in cycles per pixel, shape (K, 2)."""
        return self.indices @ self.per_px.T

    def table(self, along: np.ndarray | None = None) -> np.ndarray:
        """Return the cell on a grid of fractions, or its derivative per pixel along (y, x)."""
        values = self.values
        if along is not None:
            values = values * 2j * np.pi * (self.frequencies @ along)
        spectrum = np.zeros((TABLE, TABLE), complex)
        np.add.at(spectrum, tuple(self.indices.T), values / 2)
        np.add.at(spectrum, tuple(-self.indices.T), values.conj() / 2)
        # the table's sample i stands for fractions (i + 1/2) / TABLE
        shift = np.exp(1j * np.pi * fft.fftfreq(TABLE))
        spectrum *= shift[:, None] * shift[None, :]
        return (fft.ifft2(spectrum).real * TABLE**2).astype(np.float32)


def fractions_per_px(lattice: Lattice) -> np.ndarray:
    """Return the matrix of ``fractions = (point − origin) @ matrix``."""
    return np.linalg.inv(lattice.matrix_px).T @ np.linalg.inv(LATTICE_VECTORS)


def choose_window(
    shape: tuple[int, int], centres_px: np.ndarray, a_px: float, most_px: int
) -> tuple[slice, slice]:
    """Return the part of a large image, at most ``most_px`` pixels, that shows most cells.

    It is as wide as the image where that leaves enough rows, for jitter is a property of rows.
    """
    if shape[0] * shape[1] <= most_px:
        return slice(0, shape[0]), slice(0, shape[1])
    height = int(min(shape[0], max(most_px // shape[1], 24 * a_px, 256)))
    width = int(min(shape[1], most_px // height))
    best, window = -1.0, (slice(0, height), slice(0, width))
    middle = np.array(shape) / 2
    for top in np.unique(np.linspace(0, shape[0] - height, 9).astype(int)):
        rows = (centres_px[:, 0] >= top) & (centres_px[:, 0] < top + height)
        for left in np.unique(np.linspace(0, shape[1] - width, 9).astype(int)):
            cols = (centres_px[:, 1] >= left) & (centres_px[:, 1] < left + width)
            off = np.abs(np.array([top + height / 2, left + width / 2]) - middle).sum()
            count = (rows & cols).sum() * (1 - 0.02 * off / sum(shape))  # the middle where equal
            if count > best:
                best, window = count, (slice(top, top + height), slice(left, left + width))
    return window


def lay_tiles(lattice: Lattice, cells: UnitCells, perfect: np.ndarray | None) -> Tiles | None:
    """Sort cells into tiles.

    Parameters
    ----------
    lattice : Lattice
    cells : UnitCells
    perfect : ndarray of shape (N, 2), bool, optional
        Whether the X₂ and the M column of each cell are whole; all, where not given.

    Returns
    -------
    Tiles or None
        None without cells.
    """
    if not len(cells):
        return None
    if perfect is None:
        perfect = np.ones((len(cells), 2), bool)
    per_px = fractions_per_px(lattice)
    to_canonical = np.linalg.inv(LATTICE_VECTORS)
    positions = (cells.chalcogen_px, cells.metal_px)
    fractions = [lattice.to_canonical(p) @ to_canonical for p in positions]
    tiles = [
        np.rint(f - site).astype(int) for f, site in zip(fractions, (2 / 3, 1 / 3), strict=True)
    ]
    both = np.concatenate(tiles)
    corner = both.min(axis=0) - 2
    size = tuple(both.max(axis=0) - corner + 3)
    total, count = np.zeros((*size, 2)), np.zeros(size)
    found = [np.zeros(size, bool) for _ in range(2)]
    for kind, (f, tile, site) in enumerate(zip(fractions, tiles, (2 / 3, 1 / 3), strict=True)):
        where = tuple((tile - corner).T)
        found[kind][where] = True
        np.add.at(total, where, (f - tile - site) @ np.linalg.inv(per_px))
        np.add.at(count, where, 1)
    known = found[0] & found[1]
    spoilt = np.concatenate([p[~perfect[:, kind]] for kind, p in enumerate(positions)])
    usable = binary_erosion(known, np.ones((3, 3), bool))
    return Tiles(corner, usable, known, spoilt, smooth_field(total, count, 1.5))


def smooth_field(total: np.ndarray, weight: np.ndarray, sigma: float) -> np.ndarray:
    """Return the weighted running mean of a field (P, Q, 2) given as sums and weights."""
    below = gaussian_filter(weight.astype(float), sigma) + 1e-9 * max(weight.max(), 1e-30)
    far = gaussian_filter(weight.astype(float), 4 * sigma) + 1e-9 * max(weight.max(), 1e-30)
    near = below > 0.02 * far
    out = np.empty_like(total)
    for axis in range(2):
        close = gaussian_filter(total[..., axis], sigma) / below
        wide = gaussian_filter(total[..., axis], 4 * sigma) / far
        out[..., axis] = np.where(near, close, wide)
    return out


class Fold:
    """Pixels of a window with their place in the cell.

    Parameters
    ----------
    data : ndarray of shape (M, N)
        The window; NaN where nothing was recorded.
    lattice : Lattice
    corner_px : (int, int)
        Image position of the window's first pixel.
    tiles : Tiles
    """

    def __init__(
        self, data: np.ndarray, lattice: Lattice, corner_px: tuple[int, int], tiles: Tiles
    ) -> None:
        self.data = np.array(data, np.float32)
        self.per_px = fractions_per_px(lattice)
        self.tiles = tiles
        self.usable = tiles.usable.copy()
        self.displacement_px = tiles.displacement_px.copy()
        self.row_offset_px = np.zeros(data.shape[0])
        self.finite = np.isfinite(self.data)
        self.data[~self.finite] = 0
        self.background = np.zeros_like(self.data)
        self.a_px = lattice.a_px
        self.corner_px = np.asarray(corner_px, float)
        self.whole = np.ones(self.data.shape, bool)
        self.spoil(tiles.spoilt_px)
        self._set_up(lattice, corner_px)
        self.place()

    def _set_up(self, lattice: Lattice, corner_px: tuple[int, int]) -> None:
        """Keep the fractions of the lattice alone, on a coarse grid and as an affine map."""
        height, width = self.data.shape
        step = max(2, min(int(lattice.a_px / 3), 16))
        ticks = [np.arange(0, n + step, step, dtype=float) for n in (height, width)]
        self._weights = [
            _interpolation(n, len(t), step) for n, t in zip((height, width), ticks, strict=True)
        ]
        points = np.stack(np.meshgrid(*ticks, indexing="ij"), axis=-1)
        coarse = lattice.to_canonical(points + np.array(corner_px)) @ np.linalg.inv(LATTICE_VECTORS)
        self._start = coarse[0, 0] - self.tiles.corner
        self._coarse = coarse - self.tiles.corner
        self._bend = self._coarse - (self._start + points @ self.per_px)
        self._rows = np.arange(height, dtype=np.float64)[:, None]
        self._cols = np.arange(width, dtype=np.float64)[None, :]

    def place(self) -> None:
        """Work out tile and place in the cell of every pixel, displacement taken away."""
        where = np.moveaxis(self._coarse - 0.5, -1, 0)
        shift = np.stack(
            [
                map_coordinates(self.displacement_px[..., axis], where, order=1, mode="nearest")
                for axis in range(2)
            ],
            axis=-1,
        )
        shift = self._bend - shift @ self.per_px
        along_y, along_x = self._weights
        rows = self._rows - 0.0
        columns = []
        for axis in range(2):
            slow = along_y @ shift[..., axis].astype(np.float32) @ along_x.T
            start = self._start[axis] + self.per_px[0, axis] * rows
            start = start - self.row_offset_px[:, None] * self.per_px[1, axis]
            f = start.astype(np.float32) + (self.per_px[1, axis] * self._cols).astype(np.float32)
            f += slow
            columns.append(f)
        size = self.usable.shape
        whole = [np.floor(f) for f in columns]
        inside = self.finite.copy()
        for axis, n in enumerate(size):
            inside &= (whole[axis] >= 0) & (whole[axis] < n)
        tile = [np.clip(w, 0, n - 1).astype(np.int32) for w, n in zip(whole, size, strict=True)]
        self.tile = tile[0] * size[1] + tile[1]
        self.inside = inside
        cell = [
            np.minimum(((f - w) * TABLE).astype(np.int32), TABLE - 1)
            for f, w in zip(columns, whole, strict=True)
        ]
        self.cell = cell[0] * TABLE + cell[1]

    def flatten(self, level: np.ndarray) -> None:
        """Find the background over the mean cell, tabulated as ``level``."""
        valid = self.valid
        residual = np.where(valid, self.data - level[self.cell], np.float32(0))
        self.background, self.own, self.least_own = local_background(residual, valid, self.a_px)

    @property
    def flat(self) -> np.ndarray:
        """Return the window less its background."""
        return self.data - self.background

    @property
    def valid(self) -> np.ndarray:
        """Pixels of usable tiles, away from defects."""
        return self.inside & self.whole & self.usable.ravel()[self.tile]

    def spoil(self, points_px: np.ndarray) -> None:
        """Leave out the surroundings of columns that are not whole."""
        reach = _SPOILT_A * self.a_px
        n = int(np.ceil(reach))
        offsets = np.stack(np.meshgrid(*[np.arange(-n, n + 1)] * 2, indexing="ij"), -1)
        offsets = offsets[np.hypot(offsets[..., 0], offsets[..., 1]) <= reach]
        height, width = self.data.shape
        near = np.rint(points_px - self.corner_px).astype(int)
        for start in range(0, len(near), 256):  # bounds the memory
            disc = (near[start : start + 256, None] + offsets).reshape(-1, 2)
            inside = np.all((disc >= 0) & (disc < (height, width)), axis=1)
            self.whole[tuple(disc[inside].T)] = False

    def tile_sums(self, values: np.ndarray, valid: np.ndarray) -> np.ndarray:
        """Sum values (one per valid pixel) over each tile."""
        sums = np.bincount(self.tile[valid], values, minlength=self.usable.size)
        return sums.reshape(self.usable.shape)

    def mean_cell(self, valid: np.ndarray, values: np.ndarray) -> MeanCell:
        """Fit the Fourier series of the mean cell to values, one per valid pixel."""
        fine = self.cell[valid]
        coarse = _coarse_bin(fine)
        count = np.bincount(coarse, minlength=_BINS**2).astype(float)
        total = np.bincount(coarse, values, minlength=_BINS**2)
        indices = harmonics_of(self.per_px)
        design, gram = self._normal(indices, count)
        solved = np.linalg.solve(gram, design.T @ total)
        return self._series(indices, solved)

    def spread_of(
        self, cell: MeanCell, valid: np.ndarray, residual: np.ndarray, blocks: np.ndarray
    ) -> np.ndarray:
        """Return each block's share in the error of the coefficients, (G, K) complex.

        The covariance of the coefficients is the sum over blocks of their outer products.
        """
        coarse = _coarse_bin(self.cell[valid])
        count = np.bincount(coarse, minlength=_BINS**2).astype(float)
        design, gram = self._normal(cell.indices, count)
        groups = int(blocks.max()) + 1
        sums = np.bincount(blocks * _BINS**2 + coarse, residual, minlength=groups * _BINS**2)
        solved = np.linalg.solve(gram, design.T @ sums.reshape(groups, -1).T).T
        return np.stack([self._series(cell.indices, row).values for row in solved])

    def _normal(self, indices: np.ndarray, count: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        design = _design(indices.tobytes(), len(indices))
        gram = design.T @ (design * count[:, None])
        # a lattice in step with the pixels leaves places of the cell without a pixel
        return design, gram + 1e-6 * np.diag(np.diag(gram))

    def _series(self, indices: np.ndarray, solved: np.ndarray) -> MeanCell:
        cosine, sine = solved[: len(indices)], np.concatenate([[0.0], solved[len(indices) :]])
        values = cosine - 1j * sine
        pitch = indices / _BINS  # the bins blur the cell by their own width
        return MeanCell(
            indices, values / (np.sinc(pitch[:, 0]) * np.sinc(pitch[:, 1])), self.per_px
        )


def harmonics_of(per_px: np.ndarray) -> np.ndarray:
    """Return (h, k) of the harmonics that the pixels can show, half of them, (0, 0) first."""
    reach = np.arange(-6, 7)
    grid = np.stack(np.meshgrid(reach, reach, indexing="ij"), axis=-1).reshape(-1, 2)
    h, k = grid.T
    # fractions refer to vectors that enclose 60°, so their reciprocals enclose 120°
    shell = h * h - h * k + k * k
    half = (h > 0) | ((h == 0) & (k > 0))
    fine = np.linalg.norm(grid @ per_px.T, axis=1)
    kept = grid[half & (shell <= _MOST_SHELL) & (fine < _FINEST)]
    order = np.argsort((kept**2).sum(axis=1) - kept.prod(axis=1), kind="stable")
    return np.concatenate([[[0, 0]], kept[order]])


@lru_cache(maxsize=4)
def _design(key: bytes, count: int) -> np.ndarray:
    indices = np.frombuffer(key, int).reshape(count, 2)
    ticks = (np.arange(_BINS) + 0.5) / _BINS
    grid = np.stack(np.meshgrid(ticks, ticks, indexing="ij"), axis=-1).reshape(-1, 2)
    phase = 2 * np.pi * grid @ indices.T
    return np.concatenate([np.cos(phase), np.sin(phase[:, 1:])], axis=1)


def _coarse_bin(fine: np.ndarray) -> np.ndarray:
    ratio = TABLE // _BINS
    return (fine // TABLE // ratio) * _BINS + (fine % TABLE) // ratio


def _interpolation(length: int, knots: int, step: int) -> np.ndarray:
    """Matrix (length, knots) that interpolates linearly between knots ``step`` apart."""
    where = np.arange(length) / step
    low = np.minimum(where.astype(int), knots - 2)
    part = (where - low).astype(np.float32)
    weights = np.zeros((length, knots), np.float32)
    weights[np.arange(length), low] = 1 - part
    weights[np.arange(length), low + 1] = part
    return weights


def whole_columns(cells: UnitCells) -> np.ndarray:
    """Return whether X₂ and M of each cell are whole, (N, 2); True where not classified."""
    known = np.isfinite(cells.probabilities).all(axis=1)
    classes = np.zeros(len(cells), int)
    classes[known] = cells.classes[known]
    return np.stack([missing_chalcogens(classes) == 0, ~missing_metals(classes)], axis=1)
