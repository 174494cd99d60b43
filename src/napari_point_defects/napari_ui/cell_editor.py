"""Keeps a Points layer of unit cells in step with the user's edits."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from qtpy.QtCore import QObject, QTimer, Signal

from napari_point_defects.census import Census
from napari_point_defects.materials import Material, get_material
from napari_point_defects.napari_ui import cell_steps
from napari_point_defects.napari_ui.cell_filter import CellFilter
from napari_point_defects.napari_ui.cell_layers import DEFECT_SIZE, marks
from napari_point_defects.napari_ui.cell_rows import (
    Snapshot,
    draw,
    rows_of,
    select_rows,
    selected_ids,
    set_marks,
    snapshot_of,
    write_cells,
)
from napari_point_defects.napari_ui.cell_tables import (
    NEW_ID,
    cells_of_table,
    changes,
    describe,
    describe_decision,
    labelled,
    new_row,
    open_questions,
    with_domains,
)
from napari_point_defects.napari_ui.history import bind_undo, history_of
from napari_point_defects.napari_ui.layer_cells import current_table, note_cells
from napari_point_defects.napari_ui.lifetime import listen
from napari_point_defects.napari_ui.links import CellsLink, link_of
from napari_point_defects.records import UnitCells

if TYPE_CHECKING:
    from napari import Viewer
    from napari.layers import Points

WATCH_MS = 400

_DECIDED = ("label", "state")
"""The columns that a decision on a class changes."""


class CellEditor(QObject):
    """Watches one layer: colours, marks, ids and states follow what the user changes.

    napari's features table and its paste command change a layer without an event, so the
    layer is also looked at a few times a second; a look at 10,000 cells takes 5 ms. Each change
    that a look finds is one step of the image's history.

    Parameters
    ----------
    layer : Points
        With a :class:`CellsLink`.
    viewer : napari.Viewer
        Whose histories the steps go to.
    parent : QObject

    Attributes
    ----------
    changed : Signal
        After every change of the table, whatever its cause.
    touched : ndarray of int
        ``cell_id`` of the cells that the last change was about, those that are gone too.
    shown_changed : Signal
        Other cells are shown.
    selection_changed : Signal
        Other cells are selected.
    replayed : Signal(list)
        An undo or redo has put back the cells with these ids.
    """

    changed = Signal()
    shown_changed = Signal()
    selection_changed = Signal()
    replayed = Signal(list)

    def __init__(self, layer: Points, viewer: Viewer, parent: QObject) -> None:
        super().__init__(parent)
        self.layer = layer
        self.filter = CellFilter()
        self._history = history_of(viewer, self.link.image_id)
        self._table: pd.DataFrame | None = None
        self._current_id: int | None = None
        self._seen: Snapshot | None = None
        self.touched = np.empty(0, int)
        self._busy = self._dragging = False
        self._removing = False
        self._drawing = 0
        self._is_stale = False
        # a new point looks like a defect until its class is seen
        layer.current_size = DEFECT_SIZE * self.link.detection.lattice.a_px
        self.set_new_label(self.material.class_labels[0])
        listen(self, self._look, layer.events.features)
        listen(self, self._on_data, layer.events.data)
        listen(self, self._on_selection, layer.selected_data.events.items_changed)
        bind_undo(layer, self._history)
        cell_steps.register(self)
        # where an error keeps napari from telling that they are gone
        self._removed = QTimer(self, singleShot=True, interval=0)
        self._removed.timeout.connect(self._on_removed)
        self._timer = QTimer(self, interval=WATCH_MS)
        self._timer.timeout.connect(self._look)
        self._timer.start()
        self._look()

    @property
    def link(self) -> CellsLink:
        """Where the layer came from."""
        return link_of(self.layer, CellsLink)

    @property
    def material(self) -> Material:
        """The material of the run that drew the layer."""
        return get_material(self.link.settings.material)

    @property
    def current_id(self) -> int | None:
        """``cell_id`` of the one selected cell; None where none or several are."""
        return self._current_id

    @property
    def snapshot(self) -> pd.DataFrame:
        """The table at the last look, in the order of the layer's points; not to be changed."""
        return self._table

    def shows(self, cell_id: int) -> bool:
        """Tell whether a cell is there and shown."""
        return bool(self.layer.shown[rows_of(self.layer, [cell_id])].any())

    def table(self) -> pd.DataFrame:
        """Return the tidy table of the cells as they stand; the caller may keep and change it."""
        self._look()
        return self._table.copy()

    def cells(self) -> UnitCells:
        """Return the cells as they stand."""
        return cells_of_table(self.table(), self.material)

    def census(self) -> Census:
        """Count the cells as they stand, shown or not."""
        names, detection = self.material.class_labels, self.link.detection
        codes = self._table["label"].cat.codes.to_numpy()
        height, width = detection.pixel_size_nm
        doubtful = codes[open_questions(self._table)]
        return Census(
            counts=np.bincount(codes[codes >= 0], minlength=len(names)),
            unsure=np.bincount(doubtful[doubtful >= 0], minlength=len(names)),
            cell_area_nm2=detection.lattice.cell_area_px * height * width,
            material=self.material,
        )

    def n_decided(self) -> int:
        """Return how many cells bear the user's decision."""
        return int((self._table["state"] != "predicted").sum())

    def apply(
        self,
        drop_ids: Sequence[int],
        rows: pd.DataFrame,
        *,
        remember: str | None,
        columns: Sequence[str] | None = None,
    ) -> np.ndarray:
        """Remove, replace and add cells in place.

        Parameters
        ----------
        drop_ids : sequence of int
            Cells to remove; unknown ids are passed over.
        rows : DataFrame
            Tidy rows. One whose ``cell_id`` the layer holds replaces that cell, others are added;
            those with ``NEW_ID`` get ids of their own.
        remember : str or None
            What to call this in the image's history; None keeps it out.
        columns : sequence of str, optional
            The only ones in which the rows differ from the cells, if that is known.

        Returns
        -------
        ndarray of shape (len(rows),), int
            The ids of the rows as written.
        """
        self._finish()
        rows = with_domains(rows.reset_index(drop=True), self.link.detection.domain_map)
        ids = rows["cell_id"].to_numpy(int, copy=True)
        fresh = ids == NEW_ID
        ids[fresh] = self.link.next_id + np.arange(fresh.sum())
        rows["cell_id"] = ids
        self._apply(drop_ids, rows, remember, columns)
        return ids

    @contextmanager
    def drawn_once(self) -> Iterator[None]:
        """Draw what is done inside once, at its end: napari draws all points for each change."""
        self._drawing += 1
        try:
            yield
        finally:
            self._drawing -= 1
            if self._is_stale and not self._drawing:
                self._is_stale = False
                draw(self.layer)

    def decide(self, ids: Sequence[int], label: str | None = None) -> int:
        """Give cells a class, or confirm the ones they have; return how many cells those are.

        Choosing the class that the network chose confirms it.
        """
        self._finish()
        before = self._table.iloc[rows_of(self.layer, ids)]
        new = labelled(before, label)
        differs = ~((new["label"] == before["label"]) & (new["state"] == before["state"]))
        if differs.any():
            old, new = (rows[differs].reset_index(drop=True) for rows in (before, new))
            self._apply([], new, describe_decision(old, new), _DECIDED)
        return len(before)

    def set_selected(self, label: str) -> int:
        """Give the selected cells a class; return how many there were."""
        return self.decide(selected_ids(self.layer), label)

    def select(self, ids: Sequence[int]) -> None:
        """Select the cells with these ids, those that are shown."""
        rows = rows_of(self.layer, ids)
        with self.drawn_once():
            self._is_stale = True
            select_rows(self.layer, rows[self.layer.shown[rows]])

    def set_new_label(self, label: str) -> None:
        """Choose the class of the next point that the user adds."""
        row = _new_row(self.material, label)
        if not self.layer.feature_defaults.equals(row):
            self.layer.feature_defaults = row
        self._new_label = label

    def set_filter(self, cell_filter: CellFilter) -> None:
        """Show other cells; the hidden ones are not selected any more."""
        self._finish()
        self.filter = cell_filter
        shown = cell_filter.shows(self._table)
        if not np.array_equal(shown, self.layer.shown):
            self.layer.shown = shown
        self._settle()
        self.shown_changed.emit()

    def set_hidden(self, labels: set[str]) -> None:
        """Hide the cells of some classes."""
        self.set_filter(replace(self.filter, hidden=frozenset(labels)))

    def detach(self) -> None:
        """Stop watching."""
        self._timer.stop()
        self._finish()
        with self.drawn_once():
            self._show_current(None)
        self._busy = True  # until Qt deletes it
        cell_steps.unregister(self)
        self.deleteLater()

    def _finish(self) -> None:
        """Make what the user did so far a step of its own."""
        self._dragging = False
        self._look()

    def _apply(
        self,
        drop_ids: Sequence[int],
        rows: pd.DataFrame,
        text: str | None,
        columns: Sequence[str] | None = None,
    ) -> None:
        ids = rows["cell_id"].to_numpy()
        touched = rows_of(self.layer, np.union1d(drop_ids, ids))
        old = self._table.iloc[touched].reset_index(drop=True)
        with self.drawn_once():
            self._busy = self._is_stale = True
            try:
                write_cells(self.layer, drop_ids, rows, columns)
                self._table = self.layer.features.copy()
                note_cells(self.layer, rows)
                self.layer.shown[:] = self.filter.shows(self._table)
                self._set_marks(ids)
                self._seen = snapshot_of(self.layer, _DECIDED)
            finally:
                self._busy = False
            if text is not None:
                cell_steps.remember(self._history, self.layer, text, old, rows, columns)
            self._tell(old, rows)
            self._settle()

    def _tell(self, old: pd.DataFrame, new: pd.DataFrame) -> None:
        """Say that rows have changed, and which."""
        self.touched = np.union1d(old["cell_id"], new["cell_id"]).astype(int)
        self.changed.emit()

    def _on_data(self, event: Any) -> None:
        action = str(event.action)
        if action == "adding":  # napari offers the features of the cell selected last
            self.set_new_label(self._new_label)
        elif action == "changing":
            self._dragging = True  # one drag is one step, however long it takes
        elif action == "removing" and not self._busy and not self._removing:
            self._look()  # what came before is a step of its own
            self._removing = True
            self.layer.events.set_data.block()  # napari would draw, and then the look again
            self._removed.start()
        elif self._removing:
            self._on_removed()
        else:
            self._dragging = False
            self._look()

    def _on_removed(self) -> None:
        """Take in that points are gone, and let the layer draw again."""
        if not self._removing:
            return
        self._removed.stop()
        self._removing = self._dragging = False
        self.layer.events.set_data.unblock()
        with self.drawn_once():
            self._is_stale = True
            self._look()
            self._settle()

    def _on_selection(self, *_: object) -> None:
        if not self._busy and not self._removing:
            self._look()  # a paste selects what it added
            self._settle()

    def _look(self, *_: object) -> None:
        """Bring the layer up to date if anything changed since the last look."""
        if self._busy or self._dragging or self._removing or self._is_in_between():
            return
        now = snapshot_of(self.layer, _DECIDED)
        if self._seen is not None and now.same_as(self._seen):
            return
        with self.drawn_once():
            self._busy = self._is_stale = True
            try:
                before = self._table
                gone = now.gone_since(self._seen) if self._seen is not None else None
                if gone is not None:  # points are gone, and the others as they were
                    old, new = before[gone].reset_index(drop=True), before[:0]
                    self._table = before[~gone].reset_index(drop=True)
                    self._seen = now
                else:
                    old, new = self._take_in()
                    self._seen = snapshot_of(self.layer, _DECIDED)
                self.set_new_label(self._new_label)
            finally:
                self._busy = False
            if before is not None and (len(old) or len(new)):
                cell_steps.remember(self._history, self.layer, describe(old, new), old, new)
            self._tell(old, new)
            self._settle()

    def _take_in(self) -> tuple[pd.DataFrame, pd.DataFrame]:
        """Let table and marks follow the layer; return the rows that changed, before and after."""
        table, before = current_table(self.layer), self._table
        old, new = (table, table) if before is None else changes(before, table)
        note_cells(self.layer, table)
        features = self.layer.features
        # in place: a new table would reset the defaults for added points
        for column in table:
            features[column] = table[column]
        self._table = table
        self.layer.shown[:] = self.filter.shows(table)
        self._set_marks(new["cell_id"])
        return old, new

    def _is_in_between(self) -> bool:
        """Tell whether napari has changed some of the layer's arrays and not yet the others."""
        return len(self.layer.features) != len(self.layer.data)

    def _set_marks(self, ids: Sequence[int]) -> None:
        index = rows_of(self.layer, ids)
        a_px = self.link.detection.lattice.a_px
        look = marks(self._table.iloc[index], self.material, a_px, self._current_id)
        set_marks(self.layer, index, look)
        self._is_stale = True

    def _show_current(self, cell_id: int | None) -> None:
        """Open the mark of the one selected cell, and close the one before."""
        if cell_id == self._current_id:
            return
        ids = [i for i in (self._current_id, cell_id) if i is not None]
        self._current_id = cell_id
        self._set_marks(ids)

    def _settle(self) -> None:
        """Let go of selected cells that are hidden, and mark the one that is selected."""
        if self._is_in_between():
            return
        selection = self.layer.selected_data
        hidden = [row for row in selection if not self.layer.shown[row]]
        with self.drawn_once():
            self._busy = True
            try:
                if hidden:
                    selection.difference_update(hidden)
                ids = selected_ids(self.layer)
                self._show_current(int(ids[0]) if len(ids) == 1 else None)
            finally:
                self._busy = False
            self.selection_changed.emit()


@lru_cache(maxsize=64)
def _new_row(material: Material, label: str) -> pd.DataFrame:
    """Return the features of the next point; not to be changed."""
    return new_row(material, label)
