"""Carry the user's corrections of unit cells over to the next run. Pure: no viewer, no Qt.

Cells of two runs are the same if their bond centres lie within 0.3 a of each other. A cell whose
class the user set keeps it, a cell the user added stays, one the user deleted stays deleted.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.spatial import cKDTree

from napari_point_defects.napari_ui.cell_tables import centres_px

TOLERANCE_A = 0.3
"""Largest distance, in units of a, between two runs' centres of one cell."""

_OVERLAP_A = 0.7
"""Two cells closer than this, in units of a, cannot both be there."""


@dataclass(frozen=True, slots=True)
class Corrections:
    """What the user decided.

    Attributes
    ----------
    kept : DataFrame
        Rows of the cells that the user confirmed, corrected or added.
    deleted_px : ndarray of shape (K, 2)
        Bond centres (y, x) of the cells that the user deleted.
    """

    kept: pd.DataFrame
    deleted_px: np.ndarray

    def __len__(self) -> int:
        return len(self.kept) + len(self.deleted_px)


def find_corrections(
    table: pd.DataFrame,
    *,
    written_ids: np.ndarray,
    written_px: np.ndarray,
    deleted_px: np.ndarray,
) -> Corrections:
    """Compare a layer's tidy table with what was drawn.

    Parameters
    ----------
    table : DataFrame
        As :func:`~napari_point_defects.napari_ui.cell_tables.tidy` returns it.
    written_ids, written_px : ndarray of shape (N,) and (N, 2)
        Ids and bond centres of the cells drawn.
    deleted_px : ndarray of shape (K, 2)
        Centres deleted before earlier runs.
    """
    gone = ~np.isin(written_ids, table["cell_id"])
    deleted = np.concatenate([np.reshape(deleted_px, (-1, 2)), written_px[gone]])
    kept = table[(table["state"] != "predicted").to_numpy()].reset_index(drop=True)
    return Corrections(kept, deleted)


def apply_corrections(
    table: pd.DataFrame, corrections: Corrections, *, a_px: float
) -> tuple[pd.DataFrame, np.ndarray, int]:
    """Apply what the user decided to the table of a new run.

    Returns
    -------
    table : DataFrame
        The new run's cells with the user's decisions, ids from 0.
    deleted_px : ndarray of shape (K, 2)
        Centres that stay deleted in later runs.
    n_homeless : int
        Decisions that could not be kept: their cell is not found again, and others now lie
        across its place (as after the choice of another sublattice).
    """
    if not len(corrections):
        return table, np.empty((0, 2)), 0
    kept, reach = corrections.kept, TOLERANCE_A * a_px
    table = table.copy()
    matched = _nearest(centres_px(table), centres_px(kept), reach)
    found = matched >= 0
    label = table["label"].astype(str).to_numpy(object)
    state = table["state"].astype(str).to_numpy(object)
    label[matched[found]] = kept["label"].astype(str).to_numpy(object)[found]
    agrees = label == table["predicted"].astype(str).to_numpy(object)
    state[matched[found]] = np.where(agrees[matched[found]], "confirmed", "corrected")
    table["label"] = pd.Categorical(label, table["label"].cat.categories)
    table["state"] = pd.Categorical(state, table["state"].cat.categories)

    # a cell drawn again where one had been deleted is wanted after all
    still = _nearest(centres_px(kept), corrections.deleted_px, reach) < 0
    deleted = corrections.deleted_px[still]
    drop = _nearest(centres_px(table), deleted, reach)
    table = table.drop(index=drop[drop >= 0])

    lost = kept[~found].copy()
    homeless = _nearest(centres_px(table), centres_px(lost), _OVERLAP_A * a_px) >= 0
    lost = lost[~homeless]
    lost["state"] = pd.Categorical(["added"] * len(lost), table["state"].cat.categories)
    table = pd.concat([table, lost], ignore_index=True) if len(lost) else table
    table["cell_id"] = np.arange(len(table))
    return table.reset_index(drop=True), deleted, int(homeless.sum())


def _nearest(targets: np.ndarray, queries: np.ndarray, reach: float) -> np.ndarray:
    """Return for each query the index of the nearest target within reach, else −1."""
    if not len(targets) or not len(queries):
        return np.full(len(queries), -1)
    distance, index = cKDTree(targets).query(queries)
    return np.where(distance <= reach, index, -1)
