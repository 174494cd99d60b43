"""Correct classes by keys, and walk through the cells that the network is least sure of."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from qtpy.QtCore import QObject, Signal

from napari_point_defects.napari_ui.cell_editor import CellEditor
from napari_point_defects.napari_ui.cell_rows import rows_of, selected_ids
from napari_point_defects.napari_ui.cell_tools import bind_keys, click_selects, unbind_keys
from napari_point_defects.napari_ui.history import UNDO_SHORTCUTS
from napari_point_defects.napari_ui.lifetime import when_destroyed
from napari_point_defects.napari_ui.review_queue import (
    Place,
    ReviewQueue,
    review_queue,
    table_uncertainty,
)

if TYPE_CHECKING:
    from napari import Viewer

_SHOWN_KEYS = {"Control": "Ctrl", "Escape": "Esc"}
NEXT_KEY, PREVIOUS_KEY, CONFIRM_KEY, CLEAR_KEY, LASSO_KEY = "N", "P", "Enter", "Escape", "L"

_WIDEST_A = 10.0
"""A view wider than this, in units of a, is narrowed at a step of the review…"""

_VIEW_A = 9.0
"""…to this."""

NOTHING_SELECTED = "No cell is selected: click one, or press N for the least sure"


def shown_key(key: str) -> str:
    """Return a key as it stands on the keyboard."""
    return "+".join(_SHOWN_KEYS.get(part, part) for part in key.split("-"))


class ReviewSession(QObject):
    """What the keys do on the layer of one editor.

    Parameters
    ----------
    viewer : napari.Viewer
    editor : CellEditor
    parent : QObject

    Attributes
    ----------
    advance : bool
        Go on to the next cell when the one under review has got its class.
    shortcuts : dict of str
        What each key does on the layer, undo and redo too.
    lasso_requested : Signal
        The user wants to select cells by a line around them.
    """

    lasso_requested = Signal()

    def __init__(self, viewer: Viewer, editor: CellEditor, parent: QObject) -> None:
        super().__init__(parent)
        self.editor = editor
        self.advance = True
        self._viewer = viewer
        self._place: Place | None = None
        self._queue: tuple[ReviewQueue, pd.DataFrame, np.ndarray] | None = None
        layer = editor.layer
        labels = editor.material.class_labels
        # what a key does and what is said of it stand side by side: no list to fall behind
        bound = {
            str(i): (f"set to {label}", lambda label=label: self.set_class(label))
            for i, label in enumerate(labels, start=1)
        }
        bound |= {
            CONFIRM_KEY: ("the class is right", self.confirm),
            NEXT_KEY: ("next: the least sure cell shown", self.next),
            PREVIOUS_KEY: ("previous", self.previous),
            LASSO_KEY: ("select by a line around cells", self.lasso_requested.emit),
            CLEAR_KEY: ("select nothing", self.clear),
        }
        actions = {key: action for key, (_, action) in bound.items()}
        self.shortcuts = {key: text for key, (text, _) in bound.items()} | UNDO_SHORTCUTS
        click = click_selects(editor.link.detection.lattice.a_px)
        bind_keys(layer, actions)
        layer.mouse_drag_callbacks.append(click)
        editor.replayed.connect(self._on_replayed)

        keys = tuple(actions)

        def let_go() -> None:
            unbind_keys(layer, keys)
            if click in layer.mouse_drag_callbacks:
                layer.mouse_drag_callbacks.remove(click)

        self._let_go = let_go
        when_destroyed(self, let_go)

    @property
    def current_id(self) -> int | None:
        """``cell_id`` under review; None if none is, or other cells are selected."""
        if self._place is None or self.editor.current_id != self._place[1]:
            return None
        return self._place[1]

    def queue(self) -> ReviewQueue:
        """Return the cells that wait."""
        editor = self.editor
        table, shown = editor.snapshot, np.array(editor.layer.shown)
        if self._queue is not None:
            queue, its_table, its_shown = self._queue
            if its_table is table and np.array_equal(its_shown, shown):
                return queue
        queue = review_queue(table, shown, editor.material)
        self._queue = queue, table, shown
        return queue

    def next(self) -> None:
        """Go to the next cell of the queue."""
        self._step(1)

    def previous(self) -> None:
        """Go to the cell of the queue before this."""
        self._step(-1)

    def set_class(self, label: str) -> None:
        """Give the selected cells a class."""
        self._decide(label)

    def confirm(self) -> None:
        """Confirm the classes of the selected cells."""
        self._decide(None)

    def clear(self) -> None:
        """Select nothing and end the review."""
        self._place = None
        self.editor.select([])

    def close(self) -> None:
        """Give the keys back to napari."""
        self._let_go()
        self.deleteLater()

    def _decide(self, label: str | None) -> None:
        reviewed = self.current_id is not None
        ids = selected_ids(self.editor.layer)
        if not len(ids):
            self._say(NOTHING_SELECTED)
            return
        with self.editor.drawn_once():
            self.editor.decide(ids, label)
            what = "confirmed" if label is None else f"set to {label}"
            self._say(f"{len(ids):,} cell{'s' * (len(ids) > 1)} {what}")
            if reviewed and (self.advance or label is None):
                self._step(1)

    def _step(self, direction: int) -> None:
        found = self.queue().step(self._place, direction)
        if found is None:
            hidden = not self.editor.layer.shown.all()
            self._say(
                "No shown cell waits for review: change the filters to see others"
                if hidden
                else "Every cell has been reviewed"
            )
            return
        cell_id, went_round = found
        if went_round:
            self._say("Round the end of the queue: these are the cells you stepped over")
        self._go_to(cell_id)

    def _go_to(self, cell_id: int) -> None:
        """Select a cell, and let the camera follow."""
        editor, layer = self.editor, self.editor.layer
        (row,) = rows_of(layer, [cell_id])
        unsure = table_uncertainty(editor.snapshot.iloc[[row]], editor.material)[0]
        self._place = (-float(np.nan_to_num(unsure)), cell_id)
        if not layer.visible:
            layer.visible = True
        self._viewer.layers.selection.active = layer
        editor.select([cell_id])
        # napari before 0.9 has the camera on the viewer itself
        camera = getattr(self._viewer, "scene", self._viewer).camera
        a_world = editor.link.detection.lattice.a_px * float(np.abs(layer.scale[-2:]).mean())
        canvas = getattr(self._viewer, "canvas", None)
        side = min(canvas.size) if canvas is not None else 600
        camera.center = tuple(layer.data_to_world(layer.data[row])[-2:])
        if side / camera.zoom > _WIDEST_A * a_world:
            camera.zoom = side / (_VIEW_A * a_world)

    def _on_replayed(self, ids: list[int]) -> None:
        """Show what an undo has brought back."""
        if self._place is not None and len(ids) == 1 and self.editor.shows(ids[0]):
            self._go_to(ids[0])
        else:
            self.editor.select(ids)
        if ids:
            self._say(f"{len(ids):,} cell{'s' * (len(ids) > 1)} back as before")

    def _say(self, text: str) -> None:
        self._viewer.status = text
