"""Keeps a Shapes layer of hexagons in step with the user's edits, and remembers them for undo."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from napari.layers.base import ActionType
from napari.utils.notifications import show_warning
from qtpy.QtCore import QObject, QTimer, Signal

from napari_point_defects.napari_ui.hexagon_corrections import (
    Redetection,
    merge_edits,
    written_ids,
)
from napari_point_defects.napari_ui.hexagon_edits import BoxChange, BoxEdit, judge
from napari_point_defects.napari_ui.hexagon_layers import EDGE_WIDTH, EDITED_COLOUR, edge_colours
from napari_point_defects.napari_ui.hexagon_tables import (
    FEATURES,
    NEW_ID,
    corners_px,
    domains_of_shapes,
    hexagon_table,
    hexagons_of_table,
    new_hexagon,
    shapes_of,
    tidy_features,
)
from napari_point_defects.napari_ui.history import bind_undo, remember
from napari_point_defects.napari_ui.lifetime import listen
from napari_point_defects.napari_ui.links import HexagonsLink, link_of
from napari_point_defects.records import Hexagons, Lattice

if TYPE_CHECKING:
    from napari.layers import Shapes
    from qtpy.QtGui import QUndoStack

    from napari_point_defects.detections import Detection
    from napari_point_defects.domains.casting import DomainMap

_BEGINNINGS = (ActionType.ADDING, ActionType.CHANGING, ActionType.REMOVING)


class HexagonEditor(QObject):
    """Watches one layer: what the user draws becomes hexagons, what leaves the image goes back.

    napari tells of an edit before it has finished with it, so the layer is looked at as soon as
    the event loop is back. Of its edits in place only removing and adding are public: a box that
    must change is removed and drawn anew, last in the layer, under its ``hexagon_id``. That costs
    30 ms among 1,000 boxes; assigning ``data`` would cost seconds.

    Parameters
    ----------
    layer : Shapes
        With a :class:`HexagonsLink`.
    history : QUndoStack
    image_shape : callable
        Returns the (rows, columns) of the image, or None where it is closed.
    parent : QObject, optional
    """

    changed = Signal(object)
    """A :class:`BoxChange`, after every edit, undo and redo."""

    def __init__(
        self,
        layer: Shapes,
        history: QUndoStack,
        image_shape: Callable[[], tuple[int, int] | None],
        parent: QObject | None = None,
    ) -> None:
        super().__init__(parent)
        self.layer = layer
        self._history, self._image_shape = history, image_shape
        self._in_hand = self._busy = self._detached = False
        self._seen: pd.DataFrame | None = None
        self._next_id = int(written_ids(self._link).max(initial=-1)) + 1
        shapes = shapes_of(layer)
        self._write_features(self._features(shapes))
        layer.feature_defaults = new_hexagon()
        layer.selected_data = set()
        layer.current_edge_width = EDGE_WIDTH * self.lattice.a_px
        layer.current_edge_color = EDITED_COLOUR
        self._see(hexagon_table(layer, shapes=shapes))
        self._soon = QTimer(self, singleShot=True, interval=0)
        self._soon.timeout.connect(self.look)
        # napari draws fillings there, of which these boxes have none: black, in a tenth of the time
        # that an edit takes
        self._no_thumbnail = ExitStack()
        self._no_thumbnail.enter_context(layer.block_thumbnail_update())
        bind_undo(layer, history)
        listen(self, self._on_data, layer.events.data)
        listen(self, self._on_features, layer.events.features)

    @property
    def _link(self) -> HexagonsLink:
        return link_of(self.layer, HexagonsLink)

    @property
    def lattice(self) -> Lattice:
        """The lattice of the largest domain."""
        return self._link.detection.lattice

    @property
    def domains(self) -> DomainMap:
        """The lattices of all domains, and where each holds."""
        return self._link.detection.domain_map

    def redetected(self, detection: Detection) -> Redetection:
        """Return a new detection with the user's edits of this layer."""
        self.look()
        a_px = detection.lattice.a_px
        return merge_edits(detection.hexagons, self._seen, self._link, self._next_id, a_px)

    def table(self) -> pd.DataFrame:
        """Return the tidy table of the hexagons as they were last seen."""
        return self._seen.copy()

    @property
    def seen(self) -> pd.DataFrame:
        """The tidy table at the last look, the same until it changes; not to be changed."""
        return self._seen

    def hexagons(self) -> Hexagons:
        """Return the hexagons as they were last seen: the same object until they change."""
        return self._hexagons

    def write(self, drop_ids: Any, rows: pd.DataFrame) -> None:
        """Edit hexagons as the user would: one step of the history.

        Parameters
        ----------
        drop_ids : sequence of int
            Hexagons to delete; unknown ids are passed over.
        rows : DataFrame
            Tidy rows. One whose id the layer holds replaces that hexagon, one with ``NEW_ID`` is
            added.
        """
        self.look()  # what came before is a step of its own
        self._busy = True
        try:
            self._write_shapes([*drop_ids, *rows["hexagon_id"]], rows)
        finally:
            self._busy = False
        self.look()

    def detach(self) -> None:
        """Stop watching; undo no longer reaches the layer."""
        self._detached = True
        self._soon.stop()
        self._no_thumbnail.close()
        self.deleteLater()

    def look(self) -> None:
        """Take in what the user changed since the last look."""
        if self._in_hand or self._busy or self._detached:
            return
        layer, before = self.layer, self.hexagons()
        shapes = shapes_of(layer)
        features = self._features(shapes)
        verdict = judge(
            self._seen,
            features,
            shapes,
            layer.shape_type,
            self.domains,
            self._image_shape(),
        )
        self._busy = True
        try:
            self._write_features(features)
            redraw = verdict.redraw
            drawn = self._write_shapes([*verdict.remove_ids, *redraw["hexagon_id"]], redraw)
            self._mark(verdict.edit.after)
            self._see(hexagon_table(layer, shapes=None if drawn else shapes))
        finally:
            self._busy = False
        for refusal in verdict.refusals:
            show_warning(refusal)
        edit = verdict.edit
        if len(edit):
            remember(
                self._history,
                str(edit),
                undo=lambda: self._replay(edit, False),
                redo=lambda: self._replay(edit, True),
            )
            self.changed.emit(BoxChange(edit, True, before, self.hexagons()))

    def _on_data(self, event: Any) -> None:
        if not self._busy:
            self._in_hand = event.action in _BEGINNINGS
            self._soon.start()

    def _on_features(self, *_: Any) -> None:
        if not self._busy:  # a paste comes without an event of the data
            self._soon.start()

    def _replay(self, edit: BoxEdit, forward: bool) -> None:
        """Undo an edit or do it again."""
        if self._detached:
            return
        before = self.hexagons()
        old, new = (edit.before, edit.after) if forward else (edit.after, edit.before)
        self._busy = True
        try:
            self._write_shapes(old["hexagon_id"], new)
            self._see(hexagon_table(self.layer))
        finally:
            self._busy = False
        self.changed.emit(BoxChange(edit, forward, before, self.hexagons()))

    def _see(self, table: pd.DataFrame) -> None:
        """Take note of the tidy table of the hexagons as they stand, if it is another."""
        if not table.equals(self._seen):
            self._seen, self._hexagons = table, hexagons_of_table(table)

    def _features(self, shapes: Sequence[np.ndarray]) -> pd.DataFrame:
        """Return the tidy features of the shapes as they are; no id is used twice."""
        features = tidy_features(self.layer.features, len(shapes), self._next_id)
        unknown = (features["domain"] == 0).to_numpy()
        if unknown.any():
            new = [shapes[i] for i in np.flatnonzero(unknown)]
            features.loc[unknown, "domain"] = domains_of_shapes(new, self.domains)
        self._next_id = max(self._next_id, features["hexagon_id"].to_numpy().max(initial=-1) + 1)
        return features

    def _write_features(self, tidy: pd.DataFrame) -> None:
        features = self.layer.features
        for column in FEATURES:
            if column not in features or not features[column].equals(tidy[column]):
                features[column] = tidy[column]

    def _rows_of(self, ids: Any) -> list[int]:
        held = self.layer.features["hexagon_id"].to_numpy(int)
        return np.flatnonzero(np.isin(held, np.asarray(ids, int))).tolist()

    def _write_shapes(self, drop_ids: Any, rows: pd.DataFrame) -> bool:
        """Remove hexagons and draw tidy rows; what was selected stays selected.

        Returns whether there was anything to do.
        """
        layer = self.layer
        held = layer.features["hexagon_id"].to_numpy(int)
        selected = held[sorted(layer.selected_data)]
        drop = self._rows_of([i for i in drop_ids if i != NEW_ID])
        if not drop and not len(rows):
            return False
        if drop:
            layer.remove(drop)
        n = len(layer.features)
        if len(rows):
            layer.add(
                list(corners_px(rows)),
                shape_type="rectangle",
                edge_width=EDGE_WIDTH * self.lattice.a_px,
                edge_color=edge_colours(rows["state"]),
                face_color="transparent",
            )
            features = layer.features
            for column in FEATURES:
                values = rows["state"].astype(str) if column == "state" else rows[column]
                features.loc[features.index[n:], column] = values.to_numpy()
        if len(selected):
            layer.selected_data = set(self._rows_of(selected))
        return True

    def _mark(self, rows: pd.DataFrame) -> None:
        """Show the states of edited hexagons."""
        layer = self.layer
        index = self._rows_of(rows["hexagon_id"])
        if not index:
            return
        states = rows.set_index("hexagon_id")["state"].astype(str)
        ids = layer.features["hexagon_id"].iloc[index]
        layer.features.loc[layer.features.index[index], "state"] = states[ids].to_numpy()
        domain = rows.set_index("hexagon_id")["domain"]
        layer.features.loc[layer.features.index[index], "domain"] = domain[ids].to_numpy()
        selected = set(layer.selected_data)
        layer.selected_data = set(index)  # the public way to colour a few shapes in place
        layer.current_edge_color = EDITED_COLOUR
        layer.selected_data = selected
