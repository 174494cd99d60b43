"""When two runs, two windows or two files mean the same cell or hexagon: by where it is."""

from __future__ import annotations

import numpy as np

SAME_PLACE_A = 0.3
"""Largest distance, in units of a, between two centres of one cell or hexagon."""

OVERLAP_A = 0.7
"""Two cells, or two hexagons, closer than this, in units of a, cannot both be there."""


def nearest(targets: np.ndarray, queries: np.ndarray, reach: float) -> np.ndarray:
    """Return for each query the index of the nearest target within reach, else −1.

    Parameters
    ----------
    targets : ndarray of shape (N, 2)
    queries : ndarray of shape (K, 2)
    reach : float
        In the points' own unit.

    Returns
    -------
    ndarray of shape (K,), int
    """
    if not len(targets) or not len(queries):
        return np.full(len(queries), -1)
    # the label store needs the distances above at its start, and this only in a search
    from scipy.spatial import cKDTree

    distance, index = cKDTree(targets).query(queries)
    return np.where(distance <= reach, index, -1)
