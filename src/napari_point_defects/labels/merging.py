"""Bring labels from elsewhere into a store, without overwriting what was decided there."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd

from napari_point_defects.errors import PointDefectsError
from napari_point_defects.labels import schema
from napari_point_defects.labels.images import (
    ImageEntry,
    holding_file,
    read_entry,
    store_image,
)
from napari_point_defects.labels.items import put_rows, read_items, remember, sql_rows
from napari_point_defects.labels.schema import now
from napari_point_defects.labels.store import LabelStore
from napari_point_defects.labels.tables import (
    CELLS,
    CORNER_COLUMNS,
    HEXAGONS,
    POSITION_COLUMNS,
    Kind,
    complete,
    differing,
    rows_of,
)
from napari_point_defects.matching import SAME_PLACE_A


class Contradiction(PointDefectsError):
    """Raised where labels differ from decisions in the store and may not replace them."""


@dataclass(frozen=True, slots=True)
class ImageLabels:
    """One image with all its rows, as exported: ids, revisions, authors and times included."""

    entry: ImageEntry
    cells: pd.DataFrame
    hexagons: pd.DataFrame


@dataclass(frozen=True, slots=True)
class Merged:
    """How many images, and how many rows that were new or replaced others, an import brought."""

    images: int
    new: int
    replaced: int


def merge(
    store: LabelStore, labels: list[ImageLabels], files: Path, *, overwrite: bool = False
) -> Merged:
    """Add labels to a store: all of them or, where some contradict decisions there, none.

    An item that is there already, by its place, keeps its id. A prediction gives way to a
    decision, a decision to another one only with ``overwrite``, and nothing to a prediction.
    An image that is there already keeps its lattice and calibration.

    Parameters
    ----------
    store : LabelStore
    labels : list of ImageLabels
    files : Path
        Folder that the entries' paths start from.
    overwrite : bool
        Replace decisions that differ.

    Raises
    ------
    Contradiction
        If rows differ from what was decided in the store and may not be replaced.
    """
    labels = [replace(one, entry=_placed(one.entry, files, store)) for one in labels]
    conflicts = new = replaced = 0
    with schema.user_errors(store.path), schema.transaction(store.connection):
        for one in labels:
            known = store.entry_of(one.entry.sha256)
            if known is None:
                known = store.put_image(one.entry, now())
            elif not known.path:
                known = store.put_image(replace(known, path=one.entry.path), now())
            for kind, table in ((CELLS, one.cells), (HEXAGONS, one.hexagons)):
                counts = _merge_table(store, kind, known, table, overwrite)
                new, replaced, conflicts = (
                    a + b for a, b in zip((new, replaced, conflicts), counts, strict=True)
                )
        if conflicts:
            raise Contradiction(
                f"{conflicts} of these labels differ from what was decided in {store.folder}: "
                "nothing was imported; import with --overwrite to replace them"
            )
    return Merged(len(labels), new, replaced)


def _placed(entry: ImageEntry, files: Path, store: LabelStore) -> ImageEntry:
    """Find the image's file and bring it into the store's folder; no path where it is lost."""
    known = store.entry_of(entry.sha256)
    if known is not None and known.path:
        return replace(entry, path=known.path, name=known.name, signal=known.signal)
    for folder in (store.folder, files):
        path = holding_file(entry, folder)
        if path is not None:
            image = read_entry(replace(entry, path=path), folder)
            return replace(entry, path=store_image(image, entry.sha256, store.folder))
    return replace(entry, path="")


def _merge_table(
    store: LabelStore, kind: Kind, entry: ImageEntry, table: pd.DataFrame, overwrite: bool
) -> tuple[int, int, int]:
    """Write one table; return the numbers of new and replaced rows and of conflicts."""
    stored = read_items(store.connection, kind, entry.id)
    table = complete(table, kind)
    table[kind.id] = same_ids(stored, table, kind, SAME_PLACE_A * entry.lattice.a_px)
    rows = rows_of(stored[kind.id].to_numpy(), table[kind.id].to_numpy())
    known = rows >= 0
    old = stored.iloc[rows[known]]
    wanted = ~known
    # a prediction takes no other row's place
    wanted[known] = (
        differing(old, table[known], kind.content)
        & (table["state"][known] != "predicted").to_numpy()
    )
    conflict = wanted.copy()
    conflict[known] &= (old["state"] != "predicted").to_numpy()
    conflict &= known & (not overwrite)
    wanted &= ~conflict
    seen = np.zeros(len(table), np.int64)
    seen[known] = old["revision"].to_numpy()
    # other windows must notice
    table["revision"] = np.maximum(table["revision"].to_numpy(), seen + 1)
    chosen = sql_rows(table[wanted], kind)
    before = {row[0]: row for row in sql_rows(stored, kind)}
    put_rows(store.connection, kind, entry.id, chosen, seen[wanted].tolist())
    remember(
        store.connection,
        kind,
        entry.id,
        before,
        chosen,
        author="",
        time=now(),
        weights="",
        action="imported",
    )
    return int((wanted & ~known).sum()), int((wanted & known).sum()), int(conflict.sum())


def same_ids(stored: pd.DataFrame, table: pd.DataFrame, kind: Kind, reach_px: float) -> np.ndarray:
    """Return ids under which a table's items can join a store's: the same place, the same id.

    Parameters
    ----------
    stored, table : DataFrame
        Complete tables of one kind.
    kind : Kind
    reach_px : float
        Largest distance of two items that are one.

    Returns
    -------
    ndarray of shape (N,), int
        The table's own id where the store has nothing to say against it.
    """
    ids, there = table[kind.id].to_numpy(), stored[kind.id].to_numpy()
    here, places = _centres_px(table, kind), _centres_px(stored, kind)
    result = ids.copy()
    rows = rows_of(there, ids)
    settled = np.zeros(len(ids), bool)
    known = np.flatnonzero(rows >= 0)
    distance = np.linalg.norm(here[known] - places[rows[known]], axis=1)
    # an item without a place has nothing but its id
    settled[known] = ~(distance > reach_px)
    taken = set(ids[settled].tolist())
    free = np.flatnonzero(~np.isin(there, list(taken)) & np.isfinite(places).all(axis=1))
    lost = np.flatnonzero(~settled & np.isfinite(here).all(axis=1))
    if len(free) and len(lost):
        from scipy.spatial import cKDTree

        distance, nearest = cKDTree(places[free]).query(here[lost])
        for i in np.argsort(distance):
            candidate = int(there[free[nearest[i]]])
            if distance[i] <= reach_px and candidate not in taken:
                result[lost[i]] = candidate
                settled[lost[i]] = True
                taken.add(candidate)
    fresh = max([-1, *there.tolist(), *ids.tolist()]) + 1
    occupied = taken | set(there.tolist())
    for i in np.flatnonzero(~settled):
        if int(ids[i]) in occupied:
            result[i], fresh = fresh, fresh + 1
        occupied.add(int(result[i]))
    return result


def _centres_px(table: pd.DataFrame, kind: Kind) -> np.ndarray:
    """Return where items are, (y, x) in image pixels, shape (N, 2)."""
    columns = POSITION_COLUMNS if kind is CELLS else CORNER_COLUMNS
    points = table[list(columns)].to_numpy(float).reshape(len(table), len(columns) // 2, 2)
    return points.mean(axis=1)
