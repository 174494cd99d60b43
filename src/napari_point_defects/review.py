"""Which classified cells the network is unsure of, and in which order to look at them."""

from __future__ import annotations

import numpy as np

UNSURE_BELOW = 0.95
"""A cell whose most probable class is less probable than this is called unsure.

Measured on simulated images of every dose from preset ``wide``: these are 5 % of the cells and
hold four fifths of the errors (benchmarks/calibration.py)."""


def is_unsure(probabilities: np.ndarray, below: float = UNSURE_BELOW) -> np.ndarray:
    """Tell which cells the network is unsure of.

    The probabilities are calibrated, so of the cells that are 95 % sure one in twenty is wrong.

    Parameters
    ----------
    probabilities : ndarray of shape (N, K)
        Class probabilities; NaN for a cell that the network never saw.
    below : float
        Smallest probability of the most probable class that counts as sure.

    Returns
    -------
    ndarray of shape (N,), bool
        False for a cell without probabilities.
    """
    probabilities = np.asarray(probabilities, float)
    if not len(probabilities):
        return np.zeros(0, bool)
    return probabilities.max(axis=1) < below  # NaN is less than nothing


def uncertainty(probabilities: np.ndarray) -> np.ndarray:
    """Return how unsure the network is of each cell.

    Parameters
    ----------
    probabilities : ndarray of shape (N, K)
        Class probabilities; NaN for a cell that the network never saw.

    Returns
    -------
    ndarray of shape (N,)
        1 − (p₁ − p₂) of the two most probable classes: 0 where the network is sure, 1 where two
        classes are equally probable; NaN where there are no probabilities.
    """
    probabilities = np.asarray(probabilities, float)
    if not len(probabilities):
        return np.empty(0)
    second, first = np.partition(probabilities, -2, axis=1)[:, -2:].T
    return np.where(np.isnan(probabilities).any(axis=1), np.nan, 1 - (first - second))


def review_order(
    unsure: np.ndarray, ids: np.ndarray, waiting: np.ndarray | None = None
) -> np.ndarray:
    """Return which cells to look at, in order.

    Parameters
    ----------
    unsure : ndarray of shape (N,)
        As :func:`uncertainty` returns it.
    ids : ndarray of shape (N,), int
        Of cells that are equally unsure the smaller id comes first.
    waiting : ndarray of shape (N,), bool, optional
        Cells that are still to be looked at; all unless given.

    Returns
    -------
    ndarray of shape (M,), int
        Indices of the cells that wait and have an uncertainty, the least sure first.
    """
    waits = ~np.isnan(unsure)
    if waiting is not None:
        waits &= waiting
    index = np.flatnonzero(waits)
    return index[np.lexsort((np.asarray(ids)[index], -unsure[index]))]
