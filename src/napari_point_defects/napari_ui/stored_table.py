"""What the label store holds of an image, kept beside the layer so that an edit need not read it.

A table of 10,000 rows takes milliseconds to make anew, which would be on the way of every key
press: rows that were written are taken in when the screen has shown them, or the table is needed.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from napari_point_defects.labels.tables import Kind, empty, rows_of, with_written


class StoredTable:
    """Rows of one kind, deleted items included.

    Parameters
    ----------
    kind : Kind
    """

    def __init__(self, kind: Kind) -> None:
        self._kind, self._table = kind, empty(kind)
        self._written: list[tuple[pd.DataFrame, pd.DataFrame]] = []

    @property
    def table(self) -> pd.DataFrame:
        """All rows, with what was written since; not to be changed."""
        for rows, removals in self._written:
            self._table = with_written(self._table, rows, removals)
        self._written = []
        return self._table

    @table.setter
    def table(self, table: pd.DataFrame) -> None:
        self._table, self._written = table, []

    def rows(self, ids: Sequence[int]) -> pd.DataFrame:
        """Return the rows with these ids, without making the whole table; of unknown ids none."""
        some = rows_with(self._table, self._kind.id, ids)
        for rows, removals in self._written:
            some = with_written(some, rows_with(rows, self._kind.id, ids), removals)
        return some

    def note(self, rows: pd.DataFrame, removals: pd.DataFrame) -> None:
        """Note what was just written, and which rows were removed."""
        if len(rows) or len(removals):
            self._written.append((rows, removals))


def rows_with(table: pd.DataFrame, id_column: str, ids: Sequence[int]) -> pd.DataFrame:
    """Return the rows of a table with these ids; of unknown ones none."""
    rows = rows_of(table[id_column].to_numpy(), np.asarray(ids, int))
    return table.iloc[rows[rows >= 0]].reset_index(drop=True)
