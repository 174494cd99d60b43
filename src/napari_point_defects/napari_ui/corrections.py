"""Carry the user's corrections of unit cells over to the next run. Pure: no viewer, no Qt.

Cells of two runs are the same if their bond centres lie within 0.3 a of each other: they keep
their ``cell_id``, and no id is ever given to another cell. A cell whose class the user set keeps
it, a cell the user added stays, one the user deleted stays deleted.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from napari_point_defects.matching import OVERLAP_A, SAME_PLACE_A, nearest
from napari_point_defects.napari_ui.cell_tables import centres_px


@dataclass(frozen=True, slots=True)
class Corrections:
    """What the user decided, and which cells there were.

    Attributes
    ----------
    kept : DataFrame
        Rows of the cells that the user confirmed, corrected or added.
    deleted_px : ndarray of shape (K, 2)
        Bond centres (y, x) of the cells that the user deleted.
    cell_ids : ndarray of shape (N,), int
        ``cell_id`` of all cells of the run before, decided or not.
    centres_px : ndarray of shape (N, 2)
        Their bond centres.
    next_id : int
        Above every ``cell_id`` ever used for this image, those of deleted cells too.
    """

    kept: pd.DataFrame
    deleted_px: np.ndarray
    cell_ids: np.ndarray
    centres_px: np.ndarray
    next_id: int = 0

    def __len__(self) -> int:
        return len(self.kept) + len(self.deleted_px)


def find_corrections(
    table: pd.DataFrame,
    *,
    written_ids: np.ndarray,
    written_px: np.ndarray,
    deleted_px: np.ndarray,
    next_id: int = 0,
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
    next_id : int
        Above every ``cell_id`` used and forgotten since: of a cell both added and deleted.
    """
    gone = ~np.isin(written_ids, table["cell_id"])
    deleted = np.concatenate([np.reshape(deleted_px, (-1, 2)), written_px[gone]])
    kept = table[(table["state"] != "predicted").to_numpy()].reset_index(drop=True)
    ids = table["cell_id"].to_numpy(int)
    next_id = max(next_id, ids.max(initial=-1) + 1, np.max(written_ids, initial=-1) + 1)
    return Corrections(kept, deleted, ids, centres_px(table), int(next_id))


def apply_corrections(
    table: pd.DataFrame, corrections: Corrections, *, a_px: float
) -> tuple[pd.DataFrame, np.ndarray, int]:
    """Apply what the user decided to the table of a new run.

    Returns
    -------
    table : DataFrame
        The new run's cells with the user's decisions. Cells of the run before keep their
        ``cell_id``, the others get ids above all that were ever used.
    deleted_px : ndarray of shape (K, 2)
        Centres that stay deleted in later runs.
    n_homeless : int
        Decisions that could not be kept: their cell is not found again, and others now lie
        across its place (as after the choice of another sublattice).
    """
    kept, reach = corrections.kept, SAME_PLACE_A * a_px
    table = table.copy()
    matched = nearest(centres_px(table), centres_px(kept), reach)
    found = matched >= 0
    table["cell_id"] = _kept_ids(table, corrections, matched, reach)
    label = table["label"].astype(str).to_numpy(object)
    state = table["state"].astype(str).to_numpy(object)
    label[matched[found]] = kept["label"].astype(str).to_numpy(object)[found]
    agrees = label == table["predicted"].astype(str).to_numpy(object)
    state[matched[found]] = np.where(agrees[matched[found]], "confirmed", "corrected")
    table["label"] = pd.Categorical(label, table["label"].cat.categories)
    table["state"] = pd.Categorical(state, table["state"].cat.categories)

    # where a cell has been drawn again since one was deleted, it is wanted after all
    still = nearest(corrections.centres_px, corrections.deleted_px, reach) < 0
    deleted = corrections.deleted_px[still]
    drop = nearest(centres_px(table), deleted, reach)
    table = table.drop(index=drop[drop >= 0])

    lost = kept[~found].copy()
    homeless = nearest(centres_px(table), centres_px(lost), OVERLAP_A * a_px) >= 0
    lost = lost[~homeless]
    lost["state"] = pd.Categorical(["added"] * len(lost), table["state"].cat.categories)
    table = pd.concat([table, lost], ignore_index=True) if len(lost) else table
    return table.reset_index(drop=True), deleted, int(homeless.sum())


def _kept_ids(
    table: pd.DataFrame, corrections: Corrections, matched: np.ndarray, reach: float
) -> np.ndarray:
    """Return the ``cell_id`` of each cell of a new run, shape (N,).

    A cell that the user decided on comes first to its id; of two cells that claim one id the
    nearer gets it.
    """
    new_px = centres_px(table)
    ids = np.full(len(table), -1)
    decided_ids = corrections.kept["cell_id"].to_numpy(int)
    _claim(ids, decided_ids, matched, centres_px(corrections.kept), new_px)
    waiting = ids < 0
    rest = ~np.isin(corrections.cell_ids, ids)
    old_ids, old_px = corrections.cell_ids[rest], corrections.centres_px[rest]
    claims = np.full(len(old_ids), -1)
    at = nearest(new_px[waiting], old_px, reach)
    claims[at >= 0] = np.flatnonzero(waiting)[at[at >= 0]]
    _claim(ids, old_ids, claims, old_px, new_px)
    fresh = ids < 0
    ids[fresh] = corrections.next_id + np.arange(fresh.sum())
    return ids


def _claim(
    ids: np.ndarray, old_ids: np.ndarray, claims: np.ndarray, old_px: np.ndarray, new_px: np.ndarray
) -> None:
    """Write each old id to the new cell it claims, −1 for none; of two claims the nearer wins."""
    valid = np.flatnonzero(claims >= 0)
    distance = np.linalg.norm(new_px[claims[valid]] - old_px[valid], axis=1)
    far_first = valid[np.argsort(-distance, kind="stable")]
    ids[claims[far_first]] = old_ids[far_first]  # the last written, so the nearest, stays
