"""Count the cells of a label store by image, class and state; find the last decision."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd

from napari_point_defects.labels import schema
from napari_point_defects.labels.images import ImageEntry
from napari_point_defects.labels.tables import DECIDED, STATES
from napari_point_defects.materials import DefectClass


class LastEdit(NamedTuple):
    """Where the user left off.

    Attributes
    ----------
    entry : ImageEntry
    time : str
        UTC in ISO 8601.
    n_decided : int
        Cells of that image that bear a decision.
    """

    entry: ImageEntry
    time: str
    n_decided: int


def last_edit(connection: sqlite3.Connection, entries: Sequence[ImageEntry]) -> LastEdit | None:
    """Return where somebody last decided something, or None where there are only predictions."""
    row = connection.execute(schema.SELECT_LAST_CHANGE).fetchone()
    if row is None:
        return None
    image_id, time = row
    (entry,) = (entry for entry in entries if entry.id == image_id)
    (n_decided,) = connection.execute(schema.COUNT_DECIDED, (image_id,)).fetchone()
    return LastEdit(entry, time, n_decided)


def tabulated(
    entries: Sequence[ImageEntry], rows: Iterable[tuple[int, int, str, int]]
) -> pd.DataFrame:
    """Lay out counts per image, and of all together.

    Parameters
    ----------
    entries : sequence of ImageEntry
    rows : iterable of (image_id, label, state, count)

    Returns
    -------
    DataFrame
        See :meth:`~napari_point_defects.labels.store.LabelStore.stats`.
    """
    names = [*((e.id, e.name) for e in entries), (-1, "all")]
    counts = np.zeros((len(names), len(DefectClass), len(STATES)), int)
    place = {image_id: i for i, (image_id, _) in enumerate(names)}
    for image_id, label, state, n in rows:
        counts[place[image_id], label, STATES.index(state)] = n
    counts[-1] = counts[:-1].sum(axis=0)
    table = pd.DataFrame(
        [(i, name, int(label)) for i, name in names for label in DefectClass],
        columns=["image_id", "image", "label"],
    )
    table[list(STATES)] = counts.reshape(-1, len(STATES))
    return table


def decided_counts(table: pd.DataFrame, image_ids: Iterable[int] | None) -> np.ndarray:
    """Sum the decided cells of each class, shape (6,), in some images of a table or in all."""
    chosen = (
        table["image_id"] == -1
        if image_ids is None
        else table["image_id"].isin([i for i in image_ids if i >= 0])
    )
    decided = table[chosen].groupby("label")[list(DECIDED)].sum().sum(axis=1)
    return decided.reindex(range(len(DefectClass)), fill_value=0).to_numpy(int)
