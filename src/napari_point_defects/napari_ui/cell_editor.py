"""Keeps a Points layer of unit cells in step with the user's edits."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from qtpy.QtCore import QObject, QTimer, Signal

from napari_point_defects.census import Census
from napari_point_defects.materials import Material, get_material
from napari_point_defects.napari_ui.cell_layers import DEFECT_SIZE, marks
from napari_point_defects.napari_ui.cell_tables import cells_of_table, new_row, tidy
from napari_point_defects.napari_ui.corrections import Corrections, find_corrections
from napari_point_defects.napari_ui.lifetime import listen
from napari_point_defects.napari_ui.links import KEY, CellsLink, link_of
from napari_point_defects.records import UnitCells

if TYPE_CHECKING:
    from napari.layers import Points

WATCH_MS = 400

_WATCHED = ("label", "state", "cell_id")


def current_table(layer: Points) -> pd.DataFrame:
    """Return the tidy table of a layer's cells as they stand."""
    link = link_of(layer, CellsLink)
    return tidy(layer.features, layer.data, link.detection.lattice, link.next_id)


def keep_next_id(layer: Points, table: pd.DataFrame) -> None:
    """Let the layer remember the ids it used, so that a deleted cell's is not used again."""
    link = link_of(layer, CellsLink)
    next_id = int(table["cell_id"].max()) + 1 if len(table) else 0
    if next_id > link.next_id:
        layer.metadata[KEY] = replace(link, next_id=next_id)


def layer_corrections(layer: Points) -> Corrections:
    """Return what the user decided since, and before, the layer was drawn."""
    link = link_of(layer, CellsLink)
    return find_corrections(
        current_table(layer),
        written_ids=link.written_ids,
        written_px=link.written_px,
        deleted_px=link.deleted_px,
        next_id=link.next_id,
    )


class CellEditor(QObject):
    """Watches one layer: colours, marks, ids and states follow what the user changes.

    napari's features table and its paste command change a layer without an event, so the
    layer is also looked at a few times a second; a look at 10,000 cells takes 5 ms.

    Parameters
    ----------
    layer : Points
        With a :class:`CellsLink`.
    parent : QObject
    """

    changed = Signal()

    def __init__(self, layer: Points, parent: QObject) -> None:
        super().__init__(parent)
        self.layer = layer
        self._hidden: frozenset[str] = frozenset()
        self._seen: tuple | None = None
        self._busy = False
        # a new point looks like a defect until its class is seen
        layer.current_size = DEFECT_SIZE * self.link.detection.lattice.a_px
        self.set_new_label(self.material.class_labels[0])
        listen(self, self._look, layer.events.features)
        listen(self, self._on_selection, layer.selected_data.events.items_changed)
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
    def labels(self) -> np.ndarray:
        """Class name of every cell, shape (N,), str."""
        return self.layer.features["label"].astype(str).to_numpy()

    def census(self) -> Census:
        """Count the cells as they stand."""
        names, detection = self.material.class_labels, self.link.detection
        codes = pd.Categorical(self.labels, names).codes
        height, width = detection.pixel_size_nm
        return Census(
            counts=np.bincount(codes[codes >= 0], minlength=len(names)),
            cell_area_nm2=detection.lattice.cell_area_px * height * width,
            material=self.material,
        )

    def n_decided(self) -> int:
        """Return how many cells bear the user's decision."""
        return int((self.layer.features["state"] != "predicted").sum())

    def cells(self) -> UnitCells:
        """Return the cells as they stand."""
        return cells_of_table(current_table(self.layer), self.material)

    def set_selected(self, label: str) -> int:
        """Give the selected cells a class; return how many there were.

        Choosing the class that the network chose confirms it.
        """
        rows = sorted(self.layer.selected_data)
        if rows:
            features = self.layer.features
            features.loc[rows, "label"] = label
            features.loc[rows, "state"] = "confirmed"
            self._look()
        return len(rows)

    def set_new_label(self, label: str) -> None:
        """Choose the class of the next point that the user adds."""
        self.layer.feature_defaults = new_row(self.material, label)
        self._new_label = label

    def set_hidden(self, labels: set[str]) -> None:
        """Hide the cells of some classes."""
        self._hidden = frozenset(labels)
        self._show()

    def detach(self) -> None:
        """Stop watching."""
        self._timer.stop()
        self._busy = True  # until Qt deletes it
        self.deleteLater()

    def _on_selection(self, *_: object) -> None:
        self._look()  # a paste selects what it added
        self.changed.emit()

    def _look(self, *_: object) -> None:
        """Bring the layer up to date if anything changed since the last look."""
        if self._busy or len(self.layer.features) != len(self.layer.data):
            return
        features = self.layer.features
        columns = (features[name].astype("category").cat.codes.to_numpy() for name in _WATCHED)
        seen = tuple(array.tobytes() for array in (*columns, np.asarray(self.layer.data)))
        if seen == self._seen:
            return
        self._seen = seen
        self._busy = True
        try:
            table = current_table(self.layer)
            keep_next_id(self.layer, table)
            # in place: a new table would reset the defaults for added points
            for column in table:
                features[column] = table[column]
            self.layer.refresh_colors()
            look = marks(table, self.material, self.link.detection.lattice.a_px)
            if not np.array_equal(look.size, self.layer.size):
                self.layer.symbol, self.layer.size = look.symbol, look.size
            if not np.array_equal(look.border_width, self.layer.border_width):
                self.layer.border_width = look.border_width
            self.set_new_label(self._new_label)
            self._show()
        finally:
            self._busy = False
        self.changed.emit()

    def _show(self) -> None:
        shown = ~np.isin(self.labels, list(self._hidden))
        if not np.array_equal(shown, self.layer.shown):
            self.layer.shown = shown
