"""Which node of a frame's lattice each cell sits on, also where the lattice is bent.

A lattice that was drawn straight through a bent image is off by half a cell at its edges, and
rounding would there jump to the next node. So cells are counted from neighbour to neighbour,
beginning in the middle, where the lattice is right.
"""

from __future__ import annotations

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import breadth_first_order, minimum_spanning_tree
from scipy.spatial import cKDTree

from napari_point_defects.lattice_nodes import CELL_MIDDLE
from napari_point_defects.materials import LATTICE_VECTORS
from napari_point_defects.records import Lattice

_REACH_A = 1.3  # to the nearest neighbours, not to the next ones


def counted_nodes(
    centres_px: np.ndarray, lattice: Lattice, shape: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray]:
    """Count the nodes of cells from the middle of the image.

    Parameters
    ----------
    centres_px : ndarray of shape (N, 2)
        Middles of the cells' bonds.
    lattice : Lattice
    shape : (int, int)
        Of the image.

    Returns
    -------
    nodes : ndarray of shape (N, 2), int
    off : ndarray of shape (N, 2)
        What the cells lie off their nodes in the lattice, in nodes.
    """
    places = (lattice.to_canonical(centres_px) - CELL_MIDDLE) @ np.linalg.inv(LATTICE_VECTORS)
    nodes = np.rint(places).astype(int)
    count = len(places)
    pairs = cKDTree(places @ LATTICE_VECTORS).query_pairs(_REACH_A, output_type="ndarray")
    first, second = pairs.T
    steps = places[second] - places[first]
    # neighbours that are oddly far apart are counted over others
    cost = 1e-3 + np.abs(steps - np.rint(steps)).max(axis=1, initial=0.0)
    tree = minimum_spanning_tree(coo_array((cost, (first, second)), shape=(count, count)).tocsr())
    from_middle = np.argsort(((centres_px - (np.array(shape) - 1) / 2) ** 2).sum(axis=1))
    done = np.zeros(count, bool)
    for start in from_middle:
        if done[start]:
            continue
        if done.any():  # another island: as far off as the nearest cell that is counted
            counted = np.flatnonzero(done)
            near = counted[((places[counted] - places[start]) ** 2).sum(axis=1).argmin()]
            nodes[start] = np.rint(places[start] - (places[near] - nodes[near]))
        order, before = breadth_first_order(tree, start, directed=False)
        for cell in order[1:]:
            step = np.rint(places[cell] - places[before[cell]])
            nodes[cell] = nodes[before[cell]] + step
        done[order] = True
    return nodes, places - nodes
