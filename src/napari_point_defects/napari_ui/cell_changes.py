"""What edits of the hexagons do to the table of unit cells. Pure: no viewer, no Qt."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from napari_point_defects.materials import Material
from napari_point_defects.napari_ui.cell_tables import cell_table, centres_px
from napari_point_defects.napari_ui.links import CellsLink
from napari_point_defects.netcasting import Recast
from napari_point_defects.records import Hexagons, UnitCells
from napari_point_defects.review import UNSURE_BELOW


@dataclass(frozen=True, eq=False)
class CellChange:
    """Cells that went and cells that came; a cell that changed is among both, under one id.

    Attributes
    ----------
    dropped, rows : DataFrame
        Tidy rows as they were, and as they are.
    """

    dropped: pd.DataFrame
    rows: pd.DataFrame

    def reversed(self) -> CellChange:
        """Return what takes this back."""
        return CellChange(self.rows, self.dropped)

    @property
    def drop_ids(self) -> np.ndarray:
        """``cell_id`` of the dropped cells."""
        return self.dropped["cell_id"].to_numpy(int)

    def told(self, verb: str) -> str:
        """Say how many cells came, and were ``verb``, and how many are gone."""
        gone = len(np.setdiff1d(self.drop_ids, self.rows["cell_id"]))
        parts = [f"{_cells(len(self.rows))} {verb}"] if len(self.rows) else []
        parts += [f"{gone if parts else _cells(gone)} removed"] if gone else []
        return ", ".join(parts) or "No cell changed"


@dataclass(frozen=True, eq=False)
class NamedRecast:
    """A recast with the ``cell_id`` of what it dropped and of what came.

    Attributes
    ----------
    drop_ids : ndarray of int
    new_ids : ndarray of shape (len(cells),), int
        A cell at the place of a dropped one keeps its id.
    cells : UnitCells
        Classified.
    """

    drop_ids: np.ndarray
    new_ids: np.ndarray
    cells: UnitCells


def named(recasts: Sequence[Recast], cell_ids: np.ndarray, next_id: int) -> list[NamedRecast]:
    """Trace the rows of successive recasts back to cells.

    Parameters
    ----------
    recasts : sequence of Recast
        As :func:`~napari_point_defects.pipeline.reclassify` returns them.
    cell_ids : ndarray of shape (N,), int
        Ids of the cells that the first was given.
    next_id : int
        First id for cells that are new.
    """
    result, ids = [], np.asarray(cell_ids, int)
    for change in recasts:
        new = np.append(ids, -1)[change.successor_of]
        fresh = new < 0
        new[fresh] = next_id + np.arange(fresh.sum())
        next_id += int(fresh.sum())
        result.append(NamedRecast(ids[change.dropped], new, change.cells))
        ids = np.concatenate([ids[change.kept], new])
    return result


def follow(
    table: pd.DataFrame,
    recasts: Sequence[NamedRecast],
    material: Material,
    *,
    unsure_below: float = UNSURE_BELOW,
) -> list[CellChange]:
    """Return what recasts, one after the other, change in a table of cells as it stands now.

    A cell on which the user decided keeps its class when its box moves. One that the user
    deleted in the meantime stays out.

    Parameters
    ----------
    table : DataFrame
        Tidy.
    recasts : sequence of NamedRecast
    material : Material
    unsure_below : float
        See :func:`~napari_point_defects.review.is_unsure`.
    """
    changes = []
    for change in recasts:
        gone = table["cell_id"].isin(change.drop_ids)
        dropped = table[gone]
        rows = cell_table(change.cells, material, unsure_below=unsure_below)
        rows["cell_id"] = change.new_ids
        deleted = np.setdiff1d(change.drop_ids, dropped["cell_id"])
        rows = rows[~rows["cell_id"].isin(deleted)].reset_index(drop=True)
        rows = _with_decisions(rows, dropped)
        changes.append(CellChange(dropped.reset_index(drop=True), rows))
        table = pd.concat([table[~gone], rows], ignore_index=True)
    return changes


def net_change(changes: Sequence[CellChange]) -> CellChange:
    """Join changes made one after the other to one."""
    dropped, rows = changes[0].dropped, changes[0].rows
    for change in changes[1:]:
        first_seen = ~change.dropped["cell_id"].isin(rows["cell_id"])
        dropped = pd.concat([dropped, change.dropped[first_seen]], ignore_index=True)
        stay = ~rows["cell_id"].isin(change.drop_ids)
        rows = pd.concat([rows[stay], change.rows], ignore_index=True)
    return CellChange(dropped, rows)


def relinked(link: CellsLink, hexagons: Hexagons, change: CellChange) -> CellsLink:
    """Return the link of a layer after a change: what it was drawn from, and with which cells.

    A cell that went with its box counts as never drawn, else the next run would take it for one
    that the user deleted.
    """
    stay = ~np.isin(link.written_ids, [*change.drop_ids, *change.rows["cell_id"]])
    return replace(
        link,
        detection=replace(link.detection, hexagons=hexagons),
        written_ids=np.concatenate([link.written_ids[stay], change.rows["cell_id"]]),
        written_px=np.concatenate([link.written_px[stay], centres_px(change.rows)]),
    )


def _with_decisions(rows: pd.DataFrame, dropped: pd.DataFrame) -> pd.DataFrame:
    """Let rows keep the classes that the user gave to the cells they stand for."""
    decided = dropped[(dropped["state"] != "predicted").to_numpy()].set_index("cell_id")
    theirs = rows["cell_id"].isin(decided.index).to_numpy()
    if theirs.any():
        label = rows["label"].astype(str).to_numpy(object)
        label[theirs] = decided["label"].astype(str)[rows["cell_id"][theirs]].to_numpy()
        agrees = label == rows["predicted"].astype(str).to_numpy(object)
        state = rows["state"].astype(str).to_numpy(object)
        state[theirs] = np.where(agrees[theirs], "confirmed", "corrected")
        rows["label"] = pd.Categorical(label, rows["label"].cat.categories)
        rows["state"] = pd.Categorical(state, rows["state"].cat.categories)
    return rows


def _cells(n: int) -> str:
    return f"{n} cell" if n == 1 else f"{n} cells"
