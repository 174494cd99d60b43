"""Rows of cells and hexagons in the label database, each change of a decision in the history."""

from __future__ import annotations

import json
import math
import sqlite3
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import pandas as pd

from napari_point_defects.errors import PointDefectsError
from napari_point_defects.labels import schema
from napari_point_defects.labels.tables import STATES, Kind, TableChanges, complete

_FEW = 2000
"""Up to so many changed rows are looked up by their ids, more by reading the whole image."""


_TEXTS = ("state", "weights", "author", "time")


class Conflict(PointDefectsError):
    """Raised where what is to be written was changed by somebody else since it was read.

    Attributes
    ----------
    kind : Kind
        Of the items.
    ids : ndarray of shape (K,), int
        The items that differ from what was seen.
    stored : DataFrame
        Their rows as the store holds them; an item that somebody removed has none.
    """

    def __init__(self, kind: Kind, ids: np.ndarray, stored: pd.DataFrame) -> None:
        self.kind, self.ids, self.stored = kind, ids, stored
        n = len(ids)
        what = f"{kind.name} {ids[0]} was" if n == 1 else f"{n} {kind.name}s were"
        super().__init__(
            f"{what} changed by {self.who}: read the labels again, nothing was written"
        )

    @property
    def who(self) -> str:
        """Who made the other changes, and when the last was made."""
        if not len(self.stored):
            return "another window"
        authors = sorted(set(self.stored["author"])) or [""]
        names = ", ".join(author or "another window" for author in authors)
        return f"{names} ({self.stored['time'].max()})"


def read_items(connection: sqlite3.Connection, kind: Kind, image_id: int) -> pd.DataFrame:
    """Read all items of an image, deleted ones included, in the order of their ids."""
    rows = connection.execute(schema.SELECT_ALL[kind.name], (image_id,)).fetchall()
    return _table(kind, rows)


def _table(kind: Kind, rows: Sequence[tuple]) -> pd.DataFrame:
    columns = list(zip(*rows, strict=True))[1:] or [()] * len(kind.columns)
    values: dict[str, Any] = {}
    for name, column in zip(kind.columns, columns, strict=True):
        if name in kind.floats:
            values[name] = np.array(column, float)  # None becomes NaN
            if np.isinf(values[name]).any():
                raise ValueError(f"{name} is not finite")
        elif name in kind.codes:
            values[name] = np.array([-1 if c is None else c for c in column], np.int64)
        else:
            if name in _TEXTS and not all(isinstance(v, str) for v in column):
                raise TypeError(f"{name} is no text")
            if name == "state" and not set(column) <= set(STATES):
                raise ValueError("unknown state")
            values[name] = pd.Series(column, dtype=object)
    return complete(pd.DataFrame(values), kind)


def write_items(
    connection: sqlite3.Connection,
    kind: Kind,
    image_id: int,
    changes: TableChanges,
    *,
    author: str,
    time: str,
    weights: str,
) -> pd.DataFrame:
    """Write changes inside a transaction; return the upserted rows as they now stand.

    Raises
    ------
    Conflict
        If a row is not as it was seen; the transaction must be rolled back.
    """
    rows = complete(changes.upserts, kind)
    seen = rows["revision"].to_numpy()
    removed, removed_seen = (changes.removals[c].to_numpy() for c in (kind.id, "revision"))
    ids = rows[kind.id].to_numpy()
    if len(np.unique(ids)) != len(ids):
        raise PointDefectsError(f"two {kind.name}s have the same id: nothing was written")
    before = stored_rows(connection, kind, image_id, [*ids.tolist(), *removed.tolist()])
    _refuse_conflicts(kind, before, [*ids.tolist(), *removed.tolist()], [*seen, *removed_seen])

    filled = rows["weights"].to_numpy(object)
    rows["weights"] = pd.Series(np.where(filled == "", weights, filled), dtype=object)
    rows["author"] = pd.Series([author] * len(rows), dtype=object)
    rows["time"] = pd.Series([time] * len(rows), dtype=object)
    rows["revision"] = seen + 1
    after = sql_rows(rows, kind)
    put_rows(connection, kind, image_id, after, seen.tolist())
    connection.executemany(
        schema.REMOVE[kind.name],
        ((image_id, i, r) for i, r in zip(removed.tolist(), removed_seen.tolist(), strict=True)),
    )
    remember(
        connection,
        kind,
        image_id,
        before,
        [*after, *((i,) for i in removed.tolist())],
        author=author,
        time=time,
        weights=weights,
    )
    return rows


def put_rows(
    connection: sqlite3.Connection,
    kind: Kind,
    image_id: int,
    rows: Sequence[tuple],
    seen: Sequence[int],
) -> None:
    """Insert rows, or update those of the revision that was seen."""
    if not rows:
        return
    done = connection.executemany(
        schema.UPSERT[kind.name], ((image_id, *row, r) for row, r in zip(rows, seen, strict=True))
    )
    if done.rowcount != len(rows):  # the transaction keeps others out, so this cannot be
        raise sqlite3.IntegrityError(f"{len(rows) - done.rowcount} rows could not be written")


def stored_rows(
    connection: sqlite3.Connection, kind: Kind, image_id: int, ids: Iterable[int]
) -> dict[int, tuple]:
    """Return the stored rows of some items, without the image's id."""
    ids = list(ids)
    if len(ids) > _FEW:
        wanted = set(ids)
        rows = connection.execute(schema.SELECT_ALL[kind.name], (image_id,))
        return {row[1]: row[1:] for row in rows if row[1] in wanted}
    values = (image_id, json.dumps([int(i) for i in ids]))
    rows = connection.execute(schema.SELECT_SOME[kind.name], values)
    return {row[1]: row[1:] for row in rows}


def _refuse_conflicts(
    kind: Kind, stored: dict[int, tuple], ids: Sequence[int], seen: Sequence[int]
) -> None:
    now = {i: row[-1] for i, row in stored.items()}
    other = [i for i, r in zip(ids, seen, strict=True) if now.get(i, 0) != r]
    if other:
        rows = [(0, *stored[i]) for i in other if i in stored]
        raise Conflict(kind, np.array(other), _table(kind, rows))


def sql_rows(table: pd.DataFrame, kind: Kind) -> list[tuple]:
    """Return a complete table's rows as the database takes them: NaN and no class are NULL."""
    columns = []
    for name in kind.columns:
        values = table[name].to_numpy(object) if name == "state" else table[name].to_numpy()
        if name in kind.floats:
            columns.append([v if math.isfinite(v) else None for v in values.tolist()])
        elif name in kind.codes:
            columns.append([None if v < 0 else v for v in values.tolist()])
        else:
            columns.append(values.tolist())
    return list(zip(*columns, strict=True))


def remember(
    connection: sqlite3.Connection,
    kind: Kind,
    image_id: int,
    before: dict[int, tuple],
    after: Iterable[tuple],
    *,
    author: str,
    time: str,
    weights: str,
    action: str = "",
) -> None:
    """Add to the history: each item that a person has to do with, predictions as one line.

    Parameters
    ----------
    before : dict
        Stored rows by id.
    after : iterable of tuple
        Rows written; of removed items the id alone.
    action : str
        What was done, where the states do not say it.
    """
    lines, n_predicted = [], 0
    for row in after:
        old = before.get(row[0])
        new = row if len(row) > 1 else None
        was, now = (None if r is None else r[1] for r in (old, new))
        if {was, now} <= {"predicted", None}:
            n_predicted += 1
            continue
        done = action or _action(was, now)
        texts = (None if r is None else _json(r, kind) for r in (old, new))
        lines.append((image_id, kind.name, row[0], time, author, done, *texts, weights))
    if n_predicted:
        count = json.dumps({"n": n_predicted})
        lines.append(
            (image_id, kind.name, None, time, author, action or "predicted", None, count, weights)
        )
    connection.executemany(schema.ADD_CHANGE, lines)


def _action(was: str | None, now: str | None) -> str:
    """Name what happened to an item in the history."""
    if now is None:
        return "removed"
    if was == now:
        return "changed"
    if was == "deleted":
        return "restored"
    return "taken back" if now == "predicted" else now


def _json(row: tuple, kind: Kind) -> str:
    return json.dumps(dict(zip(kind.columns, row, strict=True)), separators=(",", ":"))
