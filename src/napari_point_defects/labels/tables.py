"""Tables of cells and hexagons as the label store takes and gives them. Pure.

Classes are ``DefectClass`` codes, ``UNLABELLED`` (−1) where there is none, so that a store of
several materials is one table; :func:`from_named` and :func:`to_named` change between these and
the viewer's tables, which write classes with a material's elements (``V_Te1``).

Besides the viewer's states there is ``deleted``: a cell or hexagon that the user removed. Its row
stays, so that no later run brings it back.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from napari_point_defects.materials import DefectClass, Material
from napari_point_defects.training_set import UNLABELLED

STATES = ("predicted", "confirmed", "corrected", "added", "deleted")
DECIDED = ("confirmed", "corrected", "added")
"""States of the cells whose class a person stands behind."""

POSITION_COLUMNS = ("chalcogen_y", "chalcogen_x", "metal_y", "metal_x")
PROBABILITY_COLUMNS = tuple(f"p_{c.name}" for c in DefectClass)
CORNER_COLUMNS = tuple(f"corner{i}_{axis}" for i in range(4) for axis in "yx")
"""Corners of a hexagon's canonical box in the order of ``Hexagons.corners_px``."""

_STATE_TYPE = pd.CategoricalDtype(STATES)
_TRAIL = ("weights", "author", "time", "revision")


@dataclass(frozen=True, slots=True)
class Kind:
    """What the store keeps for one kind of item.

    Attributes
    ----------
    name : str
        ``"cell"`` or ``"hexagon"``.
    codes, integers, floats : tuple of str
        Columns by type, besides id, state and the trail of authors; ``codes`` are classes.
    prediction : tuple of str
        Columns that a network wrote: while they stay, so does the version of its weights.
    """

    name: str
    codes: tuple[str, ...]
    integers: tuple[str, ...]
    floats: tuple[str, ...]
    prediction: tuple[str, ...]

    @property
    def id(self) -> str:
        """Name of the column that identifies an item within its image."""
        return f"{self.name}_id"

    @property
    def content(self) -> tuple[str, ...]:
        """Columns that an edit can change, ``state`` first."""
        return ("state", *self.codes, *self.integers, *self.floats)

    @property
    def columns(self) -> tuple[str, ...]:
        """All columns, in the database's order."""
        return (self.id, *self.content, *_TRAIL)


CELLS = Kind(
    "cell",
    codes=("label", "predicted"),
    integers=("votes",),
    floats=("confidence", *POSITION_COLUMNS, *PROBABILITY_COLUMNS),
    prediction=("predicted", *PROBABILITY_COLUMNS),
)
HEXAGONS = Kind("hexagon", (), (), ("score", *CORNER_COLUMNS), prediction=("score",))


def kind_of(table: pd.DataFrame) -> Kind:
    """Tell a table of cells from one of hexagons by its id column."""
    return CELLS if CELLS.id in table else HEXAGONS


def complete(table: pd.DataFrame, kind: Kind) -> pd.DataFrame:
    """Return a table with all columns of its kind, in order and of their types.

    Missing columns are filled with "unknown": NaN, ``UNLABELLED``, an empty string, revision 0.
    """
    if _is_complete(table, kind):
        return table.reset_index(drop=True)
    columns = {}
    for name in kind.columns:
        if name == "state":
            columns[name] = _states(table[name])
            continue
        unknown = _unknown(name, kind)
        if name in table:
            values = table[name].to_numpy(object if unknown == "" else type(unknown))
        else:
            values = np.full(len(table), unknown)
        # pandas 3 would turn text into a type that pandas 2 does not have
        columns[name] = pd.Series(values, dtype=object) if unknown == "" else values
    return pd.DataFrame(columns)


def _is_complete(table: pd.DataFrame, kind: Kind) -> bool:
    if tuple(table.columns) != kind.columns:
        return False
    kinds = {kind.id: "i", "state": "O", **dict.fromkeys(_TRAIL, "O"), "revision": "i"}
    kinds |= dict.fromkeys(kind.floats, "f")
    kinds |= dict.fromkeys((*kind.codes, *kind.integers), "i")
    return table["state"].dtype == _STATE_TYPE and all(
        dtype.kind == kinds[name] for name, dtype in zip(table.columns, table.dtypes, strict=True)
    )


def _unknown(name: str, kind: Kind) -> float | int | str:
    if name in kind.floats:
        return np.nan
    if name in kind.codes:
        return UNLABELLED
    return "" if name in ("weights", "author", "time") else 0


def empty(kind: Kind) -> pd.DataFrame:
    """Return a table of no items."""
    return complete(pd.DataFrame({kind.id: [], "state": []}), kind)


def _states(column: pd.Series) -> pd.Categorical:
    if isinstance(column.dtype, pd.CategoricalDtype):
        return pd.Categorical(column, STATES)
    # not by the constructor: pandas warns of what is not a state
    return pd.Categorical.from_codes(pd.Index(STATES).get_indexer(column), STATES)


@dataclass(frozen=True, slots=True)
class TableChanges:
    """What to write of one table.

    Attributes
    ----------
    upserts : DataFrame
        Rows as they are to be. ``revision`` is the one that was seen when the user edited,
        0 for an item that was not there; ``weights`` is empty where a network judged anew.
    removals : DataFrame
        Rows that are to go without a trace in the table: cells that a new run does not find.
    """

    upserts: pd.DataFrame
    removals: pd.DataFrame

    def __len__(self) -> int:
        return len(self.upserts) + len(self.removals)


def table_changes(
    before: pd.DataFrame, after: pd.DataFrame, *, deleted_ids: Sequence[int] | None = None
) -> TableChanges:
    """Find what to write so that the table ``before`` becomes ``after``.

    Parameters
    ----------
    before : DataFrame
        What the store holds, deleted items included.
    after : DataFrame
        The items as they stand; ids are unique.
    deleted_ids : sequence of int, optional
        Which rows that are only in ``before`` the user deleted; the others are gone because a
        new run does not find them. Default: all. Rows deleted earlier stay so.
    """
    kind = kind_of(after)
    before, after = complete(before, kind), complete(after, kind)
    rows = rows_of(before[kind.id].to_numpy(), after[kind.id].to_numpy())
    known = rows >= 0
    old = before.iloc[rows[known]]

    differs = differing(old, after[known], kind.content)
    judged_anew = differing(old, after[known], kind.prediction)
    changed = ~known
    changed[known] = differs
    weights = after["weights"].to_numpy(object, copy=True)
    old_weights = old["weights"].to_numpy(object)
    same = (weights[known] == "") | (weights[known] == old_weights)
    weights[known] = np.where(same, np.where(judged_anew, "", old_weights), weights[known])
    revisions = np.zeros(len(after), np.int64)
    revisions[known] = old["revision"].to_numpy()
    after["weights"], after["revision"] = pd.Series(weights, dtype=object), revisions

    gone = np.ones(len(before), bool)
    gone[rows[known]] = False
    gone &= (before["state"] != "deleted").to_numpy()
    deleted = gone.copy()
    if deleted_ids is not None:
        deleted &= np.isin(before[kind.id].to_numpy(), np.asarray(deleted_ids, int))
    upserts, removals = after[changed], before[gone & ~deleted]
    if deleted.any():
        tombs = before[deleted].copy()
        tombs["state"] = pd.Categorical(["deleted"] * len(tombs), STATES)
        upserts = pd.concat([upserts, tombs]) if len(upserts) else tombs
    return TableChanges(upserts.reset_index(drop=True), removals.reset_index(drop=True))


def with_written(
    before: pd.DataFrame, rows: pd.DataFrame, removed: pd.DataFrame | None = None
) -> pd.DataFrame:
    """Return a table with some rows replaced or added, by id, and others taken out."""
    kind = kind_of(before)
    table = complete(before, kind)
    where = rows_of(table[kind.id].to_numpy(), rows[kind.id].to_numpy())
    known = where >= 0
    if known.any():
        new, columns = complete(rows[known], kind), {}
        for name in kind.columns:
            if name == "state":  # by code: this is on the way of every key press
                codes = table[name].cat.codes.to_numpy(copy=True)
                codes[where[known]] = new[name].cat.codes.to_numpy()
                columns[name] = pd.Categorical.from_codes(codes, dtype=_STATE_TYPE)
                continue
            values = table[name].to_numpy(copy=True)
            values[where[known]] = new[name].to_numpy()
            columns[name] = pd.Series(values, dtype=values.dtype)
        table = pd.DataFrame(columns)
    if not known.all():
        fresh = complete(rows[~known], kind)
        table = pd.concat([table, fresh], ignore_index=True) if len(table) else fresh
    if removed is not None and len(removed):
        table = table[~table[kind.id].isin(removed[kind.id])]
    return table.reset_index(drop=True)


def from_named(table: pd.DataFrame, material: Material) -> pd.DataFrame:
    """Turn the viewer's table of cells, which names classes, into the store's."""
    names = list(material.class_labels)
    columns = {f"p_{name}": p for name, p in zip(names, PROBABILITY_COLUMNS, strict=True)}
    table = table.rename(columns=columns)
    for name in CELLS.codes:
        column = table[name]
        if isinstance(column.dtype, pd.CategoricalDtype) and list(column.cat.categories) == names:
            codes = column.cat.codes.to_numpy()
        else:
            codes = pd.Index(names).get_indexer(column.astype(object))
        table[name] = codes.astype(np.int64)
    return complete(table, CELLS)


def to_named(table: pd.DataFrame, material: Material) -> pd.DataFrame:
    """Turn the store's table of cells into one that names classes as the viewer's does."""
    names = list(material.class_labels)
    columns = {p: f"p_{name}" for name, p in zip(names, PROBABILITY_COLUMNS, strict=True)}
    table = table.rename(columns=columns)
    for name in CELLS.codes:
        table[name] = pd.Categorical.from_codes(table[name].to_numpy(), names)
    return table


def rows_of(ids: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Return the row of each wanted id, shape (K,); −1 where it is not there."""
    if not len(ids):
        return np.full(len(wanted), -1)
    order = np.argsort(ids, kind="stable")
    place = np.minimum(np.searchsorted(ids, wanted, sorter=order), len(ids) - 1)
    rows = order[place]
    return np.where(ids[rows] == wanted, rows, -1)


def differing(one: pd.DataFrame, other: pd.DataFrame, columns: tuple[str, ...]) -> np.ndarray:
    """Tell for each row whether the two tables differ in some column; NaN equals NaN."""
    differs = np.zeros(len(one), bool)
    for name in columns:
        if name == "state":
            differs |= one[name].cat.codes.to_numpy() != other[name].cat.codes.to_numpy()
            continue
        a, b = one[name].to_numpy(), other[name].to_numpy()
        unequal = a != b
        if a.dtype.kind == "f":
            unequal &= ~(np.isnan(a) & np.isnan(b))
        differs |= unequal
    return differs
