"""Undo and redo of changes to unit cells: each step holds the rows before and after.

A step knows its cells by ``cell_id`` and its layer weakly. It goes through the layer's editor if
one is watching, so that legend, filters and whoever else listens hear of it.
"""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from napari_point_defects.napari_ui import history
from napari_point_defects.napari_ui.cell_rows import draw, write_cells
from napari_point_defects.napari_ui.layer_cells import current_table
from napari_point_defects.napari_ui.lifetime import when_destroyed

if TYPE_CHECKING:
    from napari.layers import Points
    from qtpy.QtGui import QUndoStack

    from napari_point_defects.napari_ui.cell_editor import CellEditor

_editors: weakref.WeakKeyDictionary[Points, weakref.ref[CellEditor]] = weakref.WeakKeyDictionary()


def editor_of(layer: Points) -> CellEditor | None:
    """Return the editor that watches a layer."""
    reference = _editors.get(layer)
    return reference() if reference is not None else None


def register(editor: CellEditor) -> None:
    """Let the steps of the editor's layer go through it for as long as it watches."""
    layer, reference = editor.layer, weakref.ref(editor)
    _editors[layer] = reference
    when_destroyed(editor, partial(_forget, layer, reference))


def unregister(editor: CellEditor) -> None:
    """Let the steps of the editor's layer go past it."""
    if editor_of(editor.layer) is editor:
        del _editors[editor.layer]


def remember(
    stack: QUndoStack,
    layer: Points,
    text: str,
    old: pd.DataFrame,
    new: pd.DataFrame,
    columns: Sequence[str] | None = None,
) -> None:
    """Put a change that has just been made on an image's history.

    Parameters
    ----------
    stack : QUndoStack
    layer : Points
    text : str
        What was done, in a few words.
    old, new : DataFrame
        The rows of the changed cells before and after; see
        :func:`~napari_point_defects.napari_ui.cell_tables.changes`.
    columns : sequence of str, optional
        The only ones in which they differ, if that is known.
    """
    gone = np.setdiff1d(old["cell_id"], new["cell_id"])
    fresh = np.setdiff1d(new["cell_id"], old["cell_id"])
    reference = weakref.ref(layer)
    history.remember(
        stack,
        text,
        partial(_replay, reference, fresh, old, columns),
        partial(_replay, reference, gone, new, columns),
    )


def table_of(layer: Points) -> pd.DataFrame:
    """Return the tidy table of a layer's cells as they stand, from its editor if one watches."""
    editor = editor_of(layer)
    return current_table(layer) if editor is None else editor.table()


def change_cells(
    layer: Points,
    drop_ids: Sequence[int],
    rows: pd.DataFrame,
    columns: Sequence[str] | None = None,
) -> None:
    """Remove, replace and append cells, through the layer's editor if one is watching.

    Parameters
    ----------
    layer : Points
    drop_ids : sequence of int
    rows : DataFrame
        Tidy rows with ids of their own.
    columns : sequence of str, optional
        The only ones in which they differ from the layer's, if that is known.
    """
    editor = editor_of(layer)
    if editor is None:
        write_cells(layer, drop_ids, rows, columns)
        draw(layer)
    else:
        editor.apply(drop_ids, rows, remember=None, columns=columns)


def _replay(
    reference: weakref.ref[Points],
    drop_ids: Sequence[int],
    rows: pd.DataFrame,
    columns: Sequence[str] | None,
) -> None:
    layer = reference()
    if layer is None:
        return
    editor = editor_of(layer)
    if editor is None:
        change_cells(layer, drop_ids, rows, columns)
        return
    with editor.drawn_once():
        change_cells(layer, drop_ids, rows, columns)
        editor.replayed.emit(rows["cell_id"].tolist())


def _forget(layer: Points, reference: weakref.ref[CellEditor]) -> None:
    if _editors.get(layer) is reference:
        del _editors[layer]
