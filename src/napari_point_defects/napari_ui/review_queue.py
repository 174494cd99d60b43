"""The cells of a table that wait for the user, least sure first. Pure: no viewer, no Qt."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from napari_point_defects.materials import Material
from napari_point_defects.review import review_order, uncertainty

Place = tuple[float, int]
"""A place in the queue: minus the uncertainty, and the id, of a cell that is, or was, there."""


@dataclass(frozen=True, slots=True)
class ReviewQueue:
    """What is to be looked at, and how far that has come.

    Attributes
    ----------
    ids : ndarray of shape (M,), int
        ``cell_id`` of the cells that wait, in order: predicted, shown, with probabilities.
    unsure : ndarray of shape (M,)
        Their uncertainty, falling.
    n_unsure, n_reviewed : int
        How many cells the network is unsure of, shown or not, and how many of them the user has
        decided on.
    """

    ids: np.ndarray
    unsure: np.ndarray
    n_unsure: int
    n_reviewed: int

    def __len__(self) -> int:
        return len(self.ids)

    def step(self, place: Place | None, direction: int) -> tuple[int, bool] | None:
        """Return the cell after, or before, a place in the queue.

        Parameters
        ----------
        place : (float, int) or None
            Where the user is; the cell there need not wait any more. None is before the start.
        direction : int
            1 or −1.

        Returns
        -------
        (int, bool) or None
            The ``cell_id``, and whether the step went round the end of the queue; None where no
            cell waits.
        """
        if not len(self):
            return None
        if place is None:
            return int(self.ids[0 if direction > 0 else -1]), False
        keys = np.array(list(zip(-self.unsure, self.ids, strict=True)), dtype="f8,i8")
        here = np.array(place, dtype=keys.dtype)
        side = "right" if direction > 0 else "left"
        index = int(np.searchsorted(keys, here, side)) - (direction < 0)
        return int(self.ids[index % len(self)]), not 0 <= index < len(self)


def table_uncertainty(table: pd.DataFrame, material: Material) -> np.ndarray:
    """Return how unsure the network is of each row of a table; NaN for cells it never saw."""
    columns = [f"p_{label}" for label in material.class_labels]
    return uncertainty(table[columns].to_numpy(float))


def review_queue(table: pd.DataFrame, shown: np.ndarray, material: Material) -> ReviewQueue:
    """Return the queue of a tidy table.

    Parameters
    ----------
    table : DataFrame
    shown : ndarray of shape (N,), bool
        The queue walks over shown cells only.
    material : Material
    """
    unsure = table_uncertainty(table, material)
    ids = table["cell_id"].to_numpy(int)
    decided = (table["state"] != "predicted").to_numpy()
    order = review_order(unsure, ids, shown & ~decided)
    doubtful = table["unsure"].to_numpy(bool) & ~np.isnan(unsure)
    return ReviewQueue(
        ids[order], unsure[order], int(doubtful.sum()), int((doubtful & decided).sum())
    )
