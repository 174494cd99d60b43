"""Hexagonal net-casting: hexagon boxes to unit cells, and the merging of a cell's two votes.

Yang et al., Mater. Horiz. 11 (2024) 747, Fig. 2b. Boxes are canonical: (y_min, x_min, y_max,
x_max) in units of a.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from scipy.spatial import cKDTree

from napari_point_defects.matching import SAME_PLACE_A, nearest
from napari_point_defects.materials import (
    CHALCOGEN_SITES,
    HEXAGON_SIZE,
    LATTICE_VECTORS,
    METAL_SITES,
)
from napari_point_defects.records import Hexagons, Lattice, UnitCells

ALPHA, BETA = 0.65, 0.5
"""Width and height of a unit cell as shares of its hexagon's (paper, Fig. 2c)."""

_MERGE_DISTANCE = 0.35  # in a; the nearest other cell is a whole a away
_BOND_VECTOR = METAL_SITES[0] - CHALCOGEN_SITES[0]
_OVERLAP_DISTANCE = 0.6
_NEIGHBOURHOOD = 1.6  # in a: cells whose shifts are averaged
_SAME_BOX = 1e-3  # in a; far above the rounding of 32-bit positions, far below any edit
_UNMOVED = 0.1  # in a: what a neighbour's edit may do to a cell that stays as it is
_PAIRS = 2_000_000  # neighbours that are compared at once
_CROWDED = 0.5  # in a: two cells that near cannot both be there


def unit_cell_boxes(
    hexagons: np.ndarray, alpha: float = ALPHA, beta: float = BETA
) -> tuple[np.ndarray, np.ndarray]:
    """Cut the two unit cells from each hexagon: boxes A–B (upper left) and C–D (lower right).

    Parameters
    ----------
    hexagons : ndarray of shape (N, 4)
    alpha, beta : float

    Returns
    -------
    upper, lower : ndarray of shape (N, 4)
    """
    hexagons = np.asarray(hexagons, float).reshape(-1, 4)
    y0, x0, y1, x1 = hexagons.T
    height, width = beta * (y1 - y0), alpha * (x1 - x0)
    upper = np.stack([y0, x0, y0 + height, x0 + width], axis=1)
    lower = np.stack([y1 - height, x1 - width, y1, x1], axis=1)
    return upper, lower


def bond_centres(hexagons: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the middles of the two bonds of each hexagon box, each of shape (N, 2).

    The X and M columns sit at fixed shares of the box (see ``materials``), whatever α and β.
    """
    hexagons = np.asarray(hexagons, float).reshape(-1, 4)
    centre = (hexagons[:, :2] + hexagons[:, 2:]) / 2
    scale = (hexagons[:, 2:] - hexagons[:, :2]) / HEXAGON_SIZE
    upper = (CHALCOGEN_SITES[0] + METAL_SITES[0]) / 2
    lower = (CHALCOGEN_SITES[2] + METAL_SITES[2]) / 2
    return centre + scale * upper, centre + scale * lower


def cast_net(hexagons: Hexagons, lattice: Lattice, shape: tuple[int, int]) -> UnitCells:
    """Turn hexagons into unit cells, each once, with its number of votes.

    Parameters
    ----------
    hexagons : Hexagons
    lattice : Lattice
    shape : (int, int)
        Size of the image: cells whose columns lie outside it are dropped.

    Returns
    -------
    UnitCells
        Not yet classified, ordered from top to bottom and left to right.
    """
    boxes = hexagons.canonical_boxes(lattice)
    centres, votes = merge_votes(*bond_centres(boxes))
    centres, support = smooth_positions(centres)
    kept = without_overlaps(centres, votes + support)
    centres, votes = centres[kept], votes[kept]
    chalcogen = lattice.to_image(centres - _BOND_VECTOR / 2)
    metal = lattice.to_image(centres + _BOND_VECTOR / 2)
    limits = np.array(shape) - 1
    inside = np.all(
        (chalcogen >= 0) & (chalcogen <= limits) & (metal >= 0) & (metal <= limits), axis=1
    )
    order = np.lexsort((chalcogen[:, 1], np.round(chalcogen[:, 0] / (lattice.a_px / 2))))
    order = order[inside[order]]
    return UnitCells.unclassified(chalcogen[order], metal[order], votes[order])


def merge_votes(upper: np.ndarray, lower: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Join cells found twice.

    A cell is the upper cell of one hexagon and the lower cell of another. Candidates closer
    than 0.35 a are one cell, at their mean.

    Parameters
    ----------
    upper, lower : ndarray of shape (N, 2)
        Bond centres, in units of a.

    Returns
    -------
    centres : ndarray of shape (K, 2)
    votes : ndarray of shape (K,), int
        1 or 2.
    """
    points = np.concatenate([upper, lower])
    if not len(points):
        return points.reshape(0, 2), np.zeros(0, int)
    pairs = cKDTree(points).query_pairs(_MERGE_DISTANCE, output_type="ndarray")
    links = coo_array(
        (np.ones(len(pairs), bool), (pairs[:, 0], pairs[:, 1])), shape=(len(points),) * 2
    )
    _, member = connected_components(links, directed=False)
    count = np.bincount(member)
    centres = np.stack([np.bincount(member, points[:, axis]) / count for axis in range(2)], axis=1)
    return centres, np.minimum(count, 2)


def smooth_positions(centres: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Average each cell's shift off the ideal lattice with its neighbours'.

    CNN-1 places a box within a few hundredths of a; the lattice bends slowly, so the mean over
    a cell and its neighbours is the better position.

    Parameters
    ----------
    centres : ndarray of shape (K, 2)
        In units of a.

    Returns
    -------
    centres : ndarray of shape (K, 2)
    support : ndarray of shape (K,), int
        How many neighbours lie where the lattice puts them.
    """
    pairs = cKDTree(centres).query_pairs(_NEIGHBOURHOOD, output_type="ndarray")
    support = np.zeros(len(centres), int)
    total = centres.astype(float)
    inverse = np.linalg.inv(LATTICE_VECTORS)
    for start in range(0, len(pairs), _PAIRS):
        block = pairs[start : start + _PAIRS]
        i, j = np.concatenate([block, block[:, ::-1]]).T
        ideal = np.rint((centres[i] - centres[j]) @ inverse) @ LATTICE_VECTORS
        # Where neighbour j puts cell i; one that is far off, or on top of it, has no say.
        proposal = centres[j] + ideal
        near = np.linalg.norm(proposal - centres[i], axis=1) < _MERGE_DISTANCE
        good = near & ideal.any(axis=1)
        i, proposal = i[good], proposal[good]
        support += np.bincount(i, minlength=len(centres))
        for axis in range(2):
            total[:, axis] += np.bincount(i, proposal[:, axis], minlength=len(centres))
    return total / (1 + support)[:, None], support


def without_overlaps(centres: np.ndarray, support: np.ndarray) -> np.ndarray:
    """Return which cells to keep so that none lies on another.

    Beside a cluster of vacancies a hexagon may be seen askew. Of two cells nearer than 0.6 a,
    the one with less support goes.

    Parameters
    ----------
    centres : ndarray of shape (K, 2)
        In units of a.
    support : ndarray of shape (K,)

    Returns
    -------
    ndarray of shape (K,), bool
    """
    kept = np.ones(len(centres), bool)
    pairs = cKDTree(centres).query_pairs(_OVERLAP_DISTANCE, output_type="ndarray")
    weakest_first = np.argsort(support[pairs].min(axis=1), kind="stable")
    for i, j in pairs[weakest_first]:
        if kept[i] and kept[j]:
            kept[i if support[i] < support[j] else j] = False
    return kept


@dataclass(frozen=True, slots=True)
class Recast:
    """What a change of hexagons does to the unit cells of an image.

    Attributes
    ----------
    kept : ndarray of shape (K,), int
        Rows of the cells that stay exactly as they are.
    dropped : ndarray of shape (D,), int
        Rows of the cells that go, or make room for what the hexagons now say.
    cells : UnitCells
        New cells; their classes are to be found.
    successor_of : ndarray of shape (len(cells),), int
        Row of the dropped cell at the same place, within 0.3 a; −1 where there was none.
    """

    kept: np.ndarray
    dropped: np.ndarray
    cells: UnitCells
    successor_of: np.ndarray

    def applied_to(self, cells: UnitCells) -> UnitCells:
        """Return the cells that were kept, then the new ones."""
        return UnitCells.joined([cells.take(self.kept), self.cells])


def recast(
    before: Hexagons, after: Hexagons, cells: UnitCells, lattice: Lattice, shape: tuple[int, int]
) -> Recast:
    """Bring unit cells up to date with edited hexagons, touching only those the edits concern.

    A cell is concerned if a hexagon that came, went or moved votes for it, or if
    :func:`cast_net` puts it elsewhere by more than 0.1 a. All others keep their position. A cell
    that the hexagons had before and that is not among ``cells`` was taken out by the user: it
    stays out.

    Parameters
    ----------
    before, after : Hexagons
        All hexagons of the image.
    cells : UnitCells
        The cells as they stand, cast from ``before``; some may have been moved, added or taken
        out since.
    lattice : Lattice
    shape : (int, int)
        Size of the image.

    Returns
    -------
    Recast
        With the cells that :func:`cast_net` gives for ``after``, within 0.1 a.
    """
    gone, come = changed_hexagons(before, after, lattice)
    boxes = np.concatenate(
        [before.canonical_boxes(lattice)[gone], after.canonical_boxes(lattice)[come]]
    )
    votes = np.concatenate(bond_centres(boxes))
    new_cells = cast_net(after, lattice, shape)
    old, new, here = (
        lattice.to_canonical(each.centres_px)
        for each in (cast_net(before, lattice, shape), new_cells, cells)
    )
    old_touched = (nearest(votes, old, _MERGE_DISTANCE) >= 0) | (nearest(new, old, _UNMOVED) < 0)
    new_touched = (nearest(votes, new, _MERGE_DISTANCE) >= 0) | (nearest(old, new, _UNMOVED) < 0)
    coming = np.flatnonzero(new_touched)

    # rows of the old net and of the coming cells for the cells as they stand, −1 for none
    was = nearest(old, here, SAME_PLACE_A)
    becomes = nearest(new[coming], here, SAME_PLACE_A)
    drop = np.where(was >= 0, np.append(old_touched, False)[was], becomes >= 0)
    kept, dropped = np.flatnonzero(~drop), np.flatnonzero(drop)

    stood_for = np.bincount(was[was >= 0], minlength=len(old)) > 0
    at_old = nearest(old, new[coming], SAME_PLACE_A)
    taken_out = (at_old >= 0) & ~np.append(stood_for, True)[at_old]
    crowded = nearest(here[kept], new[coming], _CROWDED) >= 0
    wanted = ~(taken_out & (nearest(here, new[coming], SAME_PLACE_A) < 0)) & ~crowded
    coming = coming[wanted]
    former = nearest(here[dropped], new[coming], SAME_PLACE_A)
    successor_of = np.append(dropped, -1)[former]
    return Recast(kept, dropped, new_cells.take(coming), successor_of)


def changed_hexagons(
    before: Hexagons, after: Hexagons, lattice: Lattice
) -> tuple[np.ndarray, np.ndarray]:
    """Return which hexagons of ``before`` are gone and which of ``after`` are new, as masks."""
    old, new = (
        np.asarray(each.corners_px, float).reshape(-1, 8) / lattice.a_px for each in (before, after)
    )
    if len(old) == len(new) and (np.linalg.norm(old - new, axis=1) <= _SAME_BOX).all():
        return np.zeros(len(old), bool), np.zeros(len(new), bool)  # in one order, as mostly
    return nearest(new, old, _SAME_BOX) < 0, nearest(old, new, _SAME_BOX) < 0
