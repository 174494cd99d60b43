"""Which node of its lattice each unit cell sits on: whole numbers, and grids of them.

Distances between nodes are exact, whatever the scan did to the image, and a pair of cells is a
pair of places in a grid.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from napari_point_defects.domains.casting import DomainMap
from napari_point_defects.materials import CHALCOGEN_SITES, LATTICE_VECTORS, METAL_SITES
from napari_point_defects.records import UnitCells

CELL_MIDDLE = (CHALCOGEN_SITES[0] + METAL_SITES[0]) / 2
"""Where a cell's middle lies from its node, in a."""


@dataclass(frozen=True, slots=True)
class NodeGrid:
    """The cells of one domain on the grid of its lattice's nodes.

    Attributes
    ----------
    number : int
        Of the domain.
    rows : ndarray of shape (K,), int
        Which cells of the image they are.
    nodes : ndarray of shape (K, 2), int
        Steps along the two lattice vectors, from 0.
    shape : (int, int)
        Of the grid that holds them.
    """

    number: int
    rows: np.ndarray
    nodes: np.ndarray
    shape: tuple[int, int]

    def image_of(self, values: np.ndarray) -> np.ndarray:
        """Return values of the image's cells on the grid, 0 where there is no cell.

        Parameters
        ----------
        values : ndarray of shape (N,)
            Of all cells of the image.
        """
        image = np.zeros(self.shape, np.asarray(values).dtype)
        image[tuple(self.nodes.T)] = np.asarray(values)[self.rows]
        return image


def node_grids(cells: UnitCells, where: DomainMap) -> tuple[NodeGrid, ...]:
    """Put every cell on the nearest node of its domain's lattice.

    Of two cells on one node, which edits by hand can make, the first counts.

    Parameters
    ----------
    cells : UnitCells
    where : DomainMap

    Returns
    -------
    tuple of NodeGrid
        One per domain that has cells.
    """
    own = where.of_cells(cells)
    grids = []
    for domain in where.domains:
        rows = np.flatnonzero(own == domain.number)
        if not len(rows):
            continue
        places = domain.lattice.to_canonical(cells.centres_px[rows]) - CELL_MIDDLE
        nodes = np.rint(places @ np.linalg.inv(LATTICE_VECTORS)).astype(int)
        nodes, first = np.unique(nodes - nodes.min(axis=0), axis=0, return_index=True)
        shape = tuple(int(n) + 1 for n in nodes.max(axis=0))
        grids.append(NodeGrid(domain.number, rows[first], nodes, shape))
    return tuple(grids)


def lengths_a(steps: np.ndarray | Sequence, offset: np.ndarray | None = None) -> np.ndarray:
    """Return the lengths of steps (..., 2) between nodes, in a; ``offset`` (y, x) is added."""
    vectors = np.asarray(steps) @ LATTICE_VECTORS
    if offset is not None:
        vectors = vectors + offset
    return np.hypot(vectors[..., 0], vectors[..., 1])
