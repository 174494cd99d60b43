"""Unit cells <-> the table behind the Points layer that shows them. Pure: no viewer, no Qt.

One row per unit cell. ``predicted`` is the network's class and ``label`` the one that counts;
``state`` says who is behind it:

========== =============================================================
predicted  the network alone
confirmed  the network, and the user agreed (or moved the cell)
corrected  the user changed the class
added      the user drew the cell, or the network no longer finds it
========== =============================================================

``unsure`` says that the network was unsure of ``predicted``, whatever the user decided since.
``domain`` is the number of the grain or twin that the cell belongs to, 0 where that is to be found
out.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from napari_point_defects.domains.casting import DomainMap
from napari_point_defects.materials import BOND, Material
from napari_point_defects.records import UnitCells
from napari_point_defects.review import UNSURE_BELOW, is_unsure, uncertainty

STATES = ("predicted", "confirmed", "corrected", "added")
POSITION_COLUMNS = ["chalcogen_y", "chalcogen_x", "metal_y", "metal_x"]
NEW_ID = -1
"""``cell_id`` of a point that the user has just added."""

_MOVED_PX = 0.05


def cell_table(
    cells: UnitCells, material: Material, *, unsure_below: float = UNSURE_BELOW
) -> pd.DataFrame:
    """Make the table of freshly classified cells."""
    labels = material.class_labels
    predicted = pd.Categorical.from_codes(cells.classes, labels)
    table = pd.DataFrame(
        {
            "cell_id": np.arange(len(cells)),
            "label": predicted,
            "confidence": np.round(cells.confidence, 4),
            "state": pd.Categorical(["predicted"] * len(cells), STATES),
            "predicted": predicted,
            "votes": np.asarray(cells.votes, int),
            "unsure": is_unsure(cells.probabilities, unsure_below),
            "domain": np.asarray(cells.domain, int),
        }
    )
    positions = np.concatenate([cells.chalcogen_px, cells.metal_px], axis=1)
    table[POSITION_COLUMNS] = positions.reshape(-1, 4)
    table[[f"p_{label}" for label in labels]] = cells.probabilities.reshape(-1, len(labels))
    return table


def new_row(material: Material, label: str | None = None) -> pd.DataFrame:
    """Return the one-row table of a cell that the user adds."""
    nowhere = np.full((1, 2), np.nan)
    table = cell_table(UnitCells(nowhere, nowhere, np.zeros(1, int), np.eye(6)[:1]), material)
    table["cell_id"] = NEW_ID
    table.loc[0, "label"] = label or material.class_labels[0]
    table.loc[0, "state"] = "added"
    table[["confidence", *(f"p_{name}" for name in material.class_labels)]] = np.nan
    return table


def codes_of(column: pd.Series, names: Sequence[str]) -> np.ndarray:
    """Return the index of each value among the names, −1 where it is none, shape (N,), int."""
    if isinstance(column.dtype, pd.CategoricalDtype) and list(column.cat.categories) == list(names):
        return column.cat.codes.to_numpy()
    return pd.Categorical(column.astype(str), names).codes


def open_questions(table: pd.DataFrame) -> np.ndarray:
    """Tell which cells the network is unsure of and nobody has decided on, shape (N,), bool."""
    return table["unsure"].to_numpy(bool) & (table["state"] == "predicted").to_numpy()


def centres_px(table: pd.DataFrame) -> np.ndarray:
    """Return the bond centres (y, x) that the table's positions say, shape (N, 2)."""
    positions = table[POSITION_COLUMNS].to_numpy(float)
    return (positions[:, :2] + positions[:, 2:]) / 2


def half_bonds_px(
    points_px: np.ndarray, where: DomainMap, domain: np.ndarray | None = None
) -> np.ndarray:
    """Return half the way (y, x) from the X₂ to the M column of cells at points, shape (N, 2)."""
    return where.matrices_at(points_px, domain) @ np.array([-BOND / 2, 0.5]) / 2


def with_domains(table: pd.DataFrame, where: DomainMap) -> pd.DataFrame:
    """Return a table in which every cell has a domain: what it says, or else the nearest one."""
    domain, places = _domains(table), centres_px(table)
    unknown = (domain == 0) & np.isfinite(places).all(axis=1)
    domain[unknown] = where.number_at(places[unknown])
    return table.assign(domain=domain)


def _domains(table: pd.DataFrame) -> np.ndarray:
    """Return the domain that each row says, 0 for none; pasted rows of other tables have none."""
    if "domain" not in table:
        return np.zeros(len(table), int)
    return np.nan_to_num(table["domain"].to_numpy(float, copy=True)).astype(int)


def tidy(
    table: pd.DataFrame, points_px: np.ndarray, where: DomainMap, next_id: int = 0
) -> pd.DataFrame:
    """Bring ids, positions and states up to date with the user's edits.

    Parameters
    ----------
    table : DataFrame
        The layer's features, edited or not.
    points_px : ndarray of shape (N, 2)
        The layer's points: bond centres (y, x) in image pixels.
    where : DomainMap
        Gives an added cell its bond, and one that was moved to another domain a new one.
    next_id : int
        Smallest ``cell_id`` for a new cell; one above all ids in the table is taken if larger.

    Returns
    -------
    DataFrame
        A new table; applying this twice changes nothing more.
    """
    table = table.copy()
    points_px = np.asarray(points_px, float).reshape(-1, 2)
    ids = table["cell_id"].to_numpy(int)
    # a pasted point brings its original's id along
    new = (ids == NEW_ID) | table["cell_id"].duplicated().to_numpy()
    ids = ids.copy()
    ids[new] = max(ids.max(initial=-1) + 1, next_id) + np.arange(new.sum())
    table["cell_id"] = ids

    shift = points_px - centres_px(table)
    moved = np.abs(shift).max(axis=1, initial=0) > _MOVED_PX
    positions = table[POSITION_COLUMNS].to_numpy(float, copy=True)
    positions[moved] += np.tile(shift[moved], 2)
    unplaced = np.isnan(positions).any(axis=1)
    domain = _domains(table)
    before, touched = domain.copy(), moved | unplaced | (domain == 0)
    domain[touched] = where.settled(points_px[touched], domain[touched])
    unplaced |= moved & (before > 0) & (domain != before)
    half = half_bonds_px(points_px[unplaced], where, domain[unplaced])
    positions[unplaced] = np.concatenate(
        [points_px[unplaced] - half, points_px[unplaced] + half], axis=1
    )
    table[POSITION_COLUMNS] = positions
    table["domain"] = domain

    state = codes_of(table["state"], STATES)
    added = new | (state == STATES.index("added"))
    agreed = (state == STATES.index("confirmed")) | moved
    codes = np.select(
        [added, _differ(table["label"], table["predicted"]), agreed],
        [STATES.index(name) for name in ("added", "corrected", "confirmed")],
        default=STATES.index("predicted"),
    )
    table["state"] = pd.Categorical.from_codes(codes, STATES)
    return table


def _differ(one: pd.Series, other: pd.Series) -> np.ndarray:
    """Tell where two columns of class names differ, shape (N,), bool."""
    alike = isinstance(one.dtype, pd.CategoricalDtype) and one.dtype == other.dtype
    if alike and not (one.isna().any() or other.isna().any()):
        return one.cat.codes.to_numpy() != other.cat.codes.to_numpy()
    return one.astype(str).to_numpy() != other.astype(str).to_numpy()


def cells_of_table(table: pd.DataFrame, material: Material) -> UnitCells:
    """Read unit cells back; where the user decided, the label has probability one."""
    labels = list(material.class_labels)
    probabilities = table[[f"p_{label}" for label in labels]].to_numpy(float, copy=True)
    codes = pd.Categorical(table["label"].astype(str), labels).codes
    decided = (table["state"] != "predicted").to_numpy()
    probabilities[decided] = np.eye(len(labels))[codes[decided]]
    positions = table[POSITION_COLUMNS].to_numpy(float)
    return UnitCells(
        positions[:, :2],
        positions[:, 2:],
        table["votes"].to_numpy(int),
        probabilities,
        table["domain"].to_numpy(int),
    )


def translated(table: pd.DataFrame, old: Material, new: Material) -> pd.DataFrame:
    """Write the classes of a table with another material's elements."""
    if old == new:
        return table
    names = dict(zip(old.class_labels, new.class_labels, strict=True))
    table = table.rename(columns={f"p_{a}": f"p_{b}" for a, b in names.items()})
    for column in ("label", "predicted"):
        table[column] = table[column].cat.rename_categories(names)
    return table


def labelled(rows: pd.DataFrame, label: str | None = None) -> pd.DataFrame:
    """Return rows of a tidy table as the user decided on them.

    Parameters
    ----------
    rows : DataFrame
    label : str, optional
        The class that the user set; None confirms the one that each cell has.
    """
    rows = rows.copy()
    if label is not None:
        rows["label"] = pd.Categorical([label] * len(rows), rows["label"].cat.categories)
    added = codes_of(rows["state"], STATES) == STATES.index("added")
    state = np.where(_differ(rows["label"], rows["predicted"]), *_DIFFERS)
    codes = np.where(added, STATES.index("added"), state)
    rows["state"] = pd.Categorical.from_codes(codes, STATES)
    return rows


def changes(before: pd.DataFrame, after: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Compare two tables by ``cell_id``.

    Returns
    -------
    old, new : DataFrame
        The rows of ``before`` that are gone or differ, and those of ``after`` that are new or
        differ.
    """
    old_ids, new_ids = before["cell_id"].to_numpy(int), after["cell_id"].to_numpy(int)
    _, i, j = np.intersect1d(old_ids, new_ids, assume_unique=True, return_indices=True)
    differs = np.zeros(len(i), bool)
    for column in before.columns.drop("cell_id"):
        x, y = _comparable(before[column])[i], _comparable(after[column])[j]
        differs |= (x != y) & ~((x != x) & (y != y))  # NaN is like NaN
    gone = ~np.isin(old_ids, new_ids)
    new = ~np.isin(new_ids, old_ids)
    gone[i[differs]] = True
    new[j[differs]] = True
    return before[gone].reset_index(drop=True), after[new].reset_index(drop=True)


def describe(old: pd.DataFrame, new: pd.DataFrame) -> str:
    """Say in a few words what turned some rows into others: the text of an undo."""
    old_ids, new_ids = old["cell_id"].to_numpy(), new["cell_id"].to_numpy()
    if not np.array_equal(old_ids, new_ids):
        if gone := int((~np.isin(old_ids, new_ids)).sum()):
            return f"Delete {_cells(gone)}"
        if fresh := int((~np.isin(new_ids, old_ids)).sum()):
            return f"Add {_cells(fresh)}"
        old, new = (t.sort_values("cell_id", ignore_index=True) for t in (old, new))
    if (old[POSITION_COLUMNS].to_numpy() != new[POSITION_COLUMNS].to_numpy()).any():
        return f"Move {_cells(len(new))}"
    return describe_decision(old, new)


def describe_decision(old: pd.DataFrame, new: pd.DataFrame) -> str:
    """Say in a few words what was decided on the classes of cells, row by row the same."""
    if not _differ(old["label"], new["label"]).any():
        return f"Confirm {_cells(len(new))}"
    names = new["label"].unique()
    return f"Set {_cells(len(new))} to {names[0]}" if len(names) == 1 else "Change classes"


def probable_classes(row: pd.Series, material: Material) -> str:
    """Say what a cell is, and what the network thinks it might be."""
    probabilities = row[[f"p_{label}" for label in material.class_labels]].to_numpy(float)
    what = f"<b>{row['label']}</b>, {row['state']}"
    (unsure,) = uncertainty(probabilities[None])
    if np.isnan(unsure):
        return what
    first, second = np.argsort(-probabilities)[:2]
    names = material.class_labels
    doubt = ": <b>unsure</b>" if row["unsure"] and row["state"] == "predicted" else ""
    return (
        f"{what}, uncertainty {unsure:.2f}{doubt}<br>"
        f"network: {names[first]} {probabilities[first]:.2f}, "
        f"{names[second]} {probabilities[second]:.2f}"
    )


def _cells(n: int) -> str:
    return "1 cell" if n == 1 else f"{n:,} cells"


def _comparable(column: pd.Series) -> np.ndarray:
    if isinstance(column.dtype, pd.CategoricalDtype):
        return column.cat.codes.to_numpy()
    return column.to_numpy()


_DIFFERS = (STATES.index("corrected"), STATES.index("confirmed"))
