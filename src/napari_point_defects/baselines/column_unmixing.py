"""Solve for the amplitudes of all columns at once: neighbours' tails and dirt taken out.

The image is written as a sum of columns of one radial shape per sublattice on a slowly varying
background. The shapes are fitted to the mean cell; the amplitudes then solve one sparse linear
system, the normal equations of least squares with the background as seen in the hollows.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.optimize import least_squares
from scipy.sparse import coo_array, csr_array, diags_array
from scipy.sparse.linalg import LinearOperator, bicgstab
from scipy.spatial import cKDTree

from napari_point_defects.canonical import sample_windows
from napari_point_defects.materials import (
    BOND,
    CHALCOGEN_SITES,
    LATTICE_VECTORS,
    METAL_SITES,
)
from napari_point_defects.netcasting import merge_votes
from napari_point_defects.records import Lattice, UnitCells

_BOND_VECTOR = METAL_SITES[0] - CHALCOGEN_SITES[0]
_WINDOW_A, _WINDOW = 1.5, 24  # of the mean cell that the shapes are fitted to
_DISC_A, _DISC = 0.9, 12  # that a column is integrated over
_REACH = 1.7  # in a: farther columns do not matter
_MOST_AVERAGED = 1000
_HOLLOW_REACH = 0.6  # in a: the background of a column is that of the hollows about it
_SAME = 0.4  # in a


@dataclass(frozen=True, slots=True)
class ColumnShape:
    """The image of one column: two Gaussians, of unit height together.

    Attributes
    ----------
    width, tail_width : float
        Standard deviations, in a.
    tail : float
        Height of the wide one, 0 to 1.
    """

    width: float
    tail: float
    tail_width: float

    def __call__(self, squared_distance: np.ndarray) -> np.ndarray:
        """Return the signal at squared distances [a²]."""
        core = np.exp(-squared_distance / (2 * self.width**2))
        return (1 - self.tail) * core + self.tail * np.exp(
            -squared_distance / (2 * self.tail_width**2)
        )


def unmixed_columns(
    data: np.ndarray, lattice: Lattice, cells: UnitCells
) -> tuple[np.ndarray, np.ndarray]:
    """Return the amplitude of each cell's X₂ and M column, neighbours and background apart.

    Parameters
    ----------
    data : ndarray of shape (M, N)
        NaN where nothing was recorded.
    lattice : Lattice
    cells : UnitCells
        All cells of the image.

    Returns
    -------
    chalcogen, metal : ndarray of shape (N,)
        In the image's own units; NaN where too little of a column lies in the image.
    """
    shapes = fit_shapes(data, lattice, cells)
    chalcogen = lattice.to_canonical(cells.chalcogen_px)
    metal = lattice.to_canonical(cells.metal_px)
    steps = _turned(_BOND_VECTOR)
    chalcogen = np.concatenate([chalcogen, _missing(metal, -steps, chalcogen)])
    metal = np.concatenate([metal, _missing(chalcogen, steps, metal)])
    hollows = _missing(chalcogen, -steps, np.zeros((0, 2)))
    sites, n_chalcogen = np.concatenate([chalcogen, metal]), len(chalcogen)
    kind = (np.arange(len(sites)) >= n_chalcogen).astype(int)

    weights = [_weights(shape) for shape in shapes]
    discs = _discs(data, lattice, np.concatenate([sites, hollows]))
    at_chalcogen, at_metal, at_hollows = np.split(discs, [n_chalcogen, len(sites)])
    seen_at_sites = np.concatenate(
        [_integrals(at_chalcogen, weights[0]), _integrals(at_metal, weights[1])]
    )
    seen_in_hollows = _integrals(at_hollows, weights[0])
    amplitudes = _solve(sites, kind, hollows, seen_at_sites, seen_in_hollows, shapes, weights)
    n = len(cells)
    return amplitudes[:n], amplitudes[n_chalcogen : n_chalcogen + n]


def fit_shapes(
    data: np.ndarray, lattice: Lattice, cells: UnitCells
) -> tuple[ColumnShape, ColumnShape]:
    """Fit the shapes of X₂ and M to the mean cell of an image.

    Vacancies dim the mean columns and leave their shape.
    """
    rows = np.unique(np.linspace(0, len(cells) - 1, min(len(cells), _MOST_AVERAGED)).astype(int))
    size, shape = (_WINDOW_A, _WINDOW_A), (_WINDOW, _WINDOW)
    windows = sample_windows(data, lattice, cells.centres_px[rows], size, shape)
    whole = np.isfinite(windows).all(axis=(1, 2))
    if whole.sum() < 4:
        return (ColumnShape(0.16, 0.1, 0.35),) * 2
    mean = windows[whole].mean(axis=0, dtype=float).ravel()
    axis = (np.arange(_WINDOW) - (_WINDOW - 1) / 2) * _WINDOW_A / _WINDOW
    points = np.stack(np.meshgrid(axis, axis, indexing="ij"), -1).reshape(-1, 2)
    grid = np.stack(np.meshgrid(*[np.arange(-2, 3)] * 2, indexing="ij"), -1).reshape(-1, 2)
    combs = []
    for place in (-_BOND_VECTOR / 2, _BOND_VECTOR / 2):
        columns = place + grid @ LATTICE_VECTORS
        columns = columns[np.abs(columns).max(axis=1) < _WINDOW_A / 2 + 1]
        combs.append(((points[:, None] - columns) ** 2).sum(axis=-1))
    spread = max(float(mean.std()), 1e-30)

    def residuals(p: np.ndarray) -> np.ndarray:
        base = [s(c).sum(axis=1) for s, c in zip(_shapes(p), combs, strict=True)]
        base = np.stack([*base, np.ones(len(points))], axis=1)
        amplitudes = np.linalg.lstsq(base, mean, rcond=None)[0]
        prior = (p - _START) / _PRIOR
        return np.concatenate([(base @ amplitudes - mean) / spread, 0.3 * prior])

    return _shapes(least_squares(residuals, _START, max_nfev=30).x)


_START = np.array([np.log(0.16), np.log(0.16), -2.0, np.log(2.3)])
_PRIOR = np.array([0.5, 0.5, 1.0, 0.3])


def _shapes(p: np.ndarray) -> tuple[ColumnShape, ColumnShape]:
    """Make the two shapes of their logarithms: two widths, one tail."""
    widths = np.exp(np.clip(p[:2], np.log(0.05), np.log(0.4)))
    tail = 0.5 / (1 + np.exp(-np.clip(p[2], -8, 8)))
    ratio = np.exp(np.clip(p[3], 0.2, 1.5))
    chalcogen, metal = (ColumnShape(float(w), float(tail), float(w * ratio)) for w in widths)
    return chalcogen, metal


def _turned(vector: np.ndarray) -> np.ndarray:
    """Return a vector turned by 0°, 120° and 240°, shape (3, 2)."""
    turns = []
    for angle in np.arange(3) * 2 * np.pi / 3:
        c, s = np.cos(angle), np.sin(angle)
        turns.append(np.array([[c, -s], [s, c]]) @ vector)
    return np.stack(turns)


def _missing(places: np.ndarray, steps: np.ndarray, known: np.ndarray) -> np.ndarray:
    """Return where steps from places lead and nothing is known yet, each place once."""
    reached = (places[:, None] + steps).reshape(-1, 2)
    if len(known):
        reached = reached[cKDTree(known).query(reached)[0] > _SAME]
    return merge_votes(reached, np.zeros((0, 2)))[0]


def _offsets() -> np.ndarray:
    """Return the samples of a disc about its middle, in a, shape (K, 2)."""
    axis = (np.arange(_DISC) - (_DISC - 1) / 2) * _DISC_A / _DISC
    return np.stack(np.meshgrid(axis, axis, indexing="ij"), -1).reshape(-1, 2)


def _weights(shape: ColumnShape) -> np.ndarray:
    """Weigh the samples of a disc as the column does: the least noise. Their sum is 1."""
    squared = (_offsets() ** 2).sum(axis=1)
    weights = np.where(squared <= (_DISC_A / 2) ** 2, shape(squared), 0.0)
    return weights / weights.sum()


def _discs(data: np.ndarray, lattice: Lattice, places: np.ndarray) -> np.ndarray:
    """Return the samples of a disc about each place, (N, K); NaN outside the image."""
    size, shape = (_DISC_A, _DISC_A), (_DISC, _DISC)
    windows = sample_windows(data, lattice, lattice.to_image(places), size, shape)
    return windows.reshape(len(places), -1)


def _integrals(discs: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Weighted means over discs; NaN where over half of the weight is not in the image."""
    seen = np.isfinite(discs)
    share = seen @ weights
    total = np.where(seen, discs, 0) @ weights
    return np.where(share >= 0.5, total / np.maximum(share, 0.5), np.nan)


def _response(shape: ColumnShape, weights: np.ndarray, distances: np.ndarray) -> np.ndarray:
    """Return what a disc gathers of a unit column that far from its middle [a]."""
    radii = np.linspace(0, _REACH, 52)
    angles = np.arange(6) * np.pi / 6
    ways = np.stack([np.sin(angles), np.cos(angles)], axis=-1)
    columns = radii[:, None, None] * ways  # (R, 6, 2)
    squared = ((_offsets()[:, None, None] - columns) ** 2).sum(axis=-1)
    table = np.tensordot(weights, shape(squared), axes=1).mean(axis=-1)
    return np.interp(distances, radii, table)


def _solve(
    sites: np.ndarray,
    kind: np.ndarray,
    hollows: np.ndarray,
    seen_at_sites: np.ndarray,
    seen_in_hollows: np.ndarray,
    shapes: tuple[ColumnShape, ColumnShape],
    weights: list[np.ndarray],
) -> np.ndarray:
    """Solve for the amplitudes of the columns; NaN where a column is not seen."""
    used = np.isfinite(seen_at_sites)
    found = np.full(len(sites), np.nan)
    open_hollows = np.isfinite(seen_in_hollows)
    if not used.any() or not open_hollows.any():
        return found
    sites, kind, seen = sites[used], kind[used], seen_at_sites[used]
    hollows, level = hollows[open_hollows], seen_in_hollows[open_hollows]
    tree, hollow_tree = cKDTree(sites), cKDTree(hollows)

    def coupling(distances, discs, columns) -> np.ndarray:
        values = np.empty(len(distances))
        for disc in (0, 1):
            for column in (0, 1):
                rows = (discs == disc) & (columns == column)
                values[rows] = _response(shapes[column], weights[disc], distances[rows])
        return values

    pairs = tree.sparse_distance_matrix(tree, _REACH, output_type="coo_matrix")
    own = csr_array(
        (coupling(pairs.data, kind[pairs.row], kind[pairs.col]), (pairs.row, pairs.col)),
        shape=pairs.shape,
    )
    own += _diagonal_where_absent(own, kind, shapes, weights)
    pairs = hollow_tree.sparse_distance_matrix(tree, _REACH, output_type="coo_matrix")
    in_hollow = csr_array(
        (
            coupling(pairs.data, np.zeros(len(pairs.row), int), kind[pairs.col]),
            (pairs.row, pairs.col),
        ),
        shape=pairs.shape,
    )
    background = _background_of(sites, hollows)
    system = (own - background @ in_hollow).tocsr()
    right = seen - background @ level
    inverse = 1 / system.diagonal()
    scaled = LinearOperator(system.shape, lambda vector: inverse * (system @ vector))
    # milliseconds; with a looser end the quality figures moved with the rounding of the image
    solution, _ = bicgstab(scaled, inverse * right, rtol=1e-8, maxiter=1000)
    found[used] = solution
    return found


def _diagonal_where_absent(matrix, kind, shapes, weights):
    """Return a column's coupling to itself, where a sparse distance of 0 was left out."""
    diagonal = np.array([_response(shapes[k], weights[k], np.zeros(1))[0] for k in (0, 1)])[kind]
    return diags_array(diagonal - matrix.diagonal()).tocsr()


def _background_of(sites: np.ndarray, hollows: np.ndarray):
    """Return the matrix (sites, hollows) that takes each site's background from the hollows."""
    count = min(6, len(hollows))
    distance, near = cKDTree(hollows).query(sites, k=count)
    distance, near = distance.reshape(-1, count), near.reshape(-1, count)
    share = np.exp(-(np.minimum(distance, 10 * BOND) ** 2) / (2 * _HOLLOW_REACH**2)) + 1e-9
    share /= share.sum(axis=1, keepdims=True)
    rows = np.repeat(np.arange(len(sites)), count)
    return coo_array(
        (share.ravel(), (rows, near.ravel())), shape=(len(sites), len(hollows))
    ).tocsr()
