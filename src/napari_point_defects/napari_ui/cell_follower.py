"""Follows the cell that the user selects or clicks."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
from qtpy.QtCore import QObject, QTimer, Signal

from napari_point_defects.napari_ui.lifetime import listen, when_destroyed
from napari_point_defects.napari_ui.links import CellsLink, link_of

if TYPE_CHECKING:
    from napari import Viewer
    from napari.layers import Points

REACH_A = 0.6
"""How far from a cell's middle a click still means it, in units of a."""

_CLICK_PX = 4  # on the screen: a hand that trembles does not drag


class CellFollower(QObject):
    """Knows which cell is meant: the last one selected in the layer of cells that is active.

    With napari's select tool the selection is napari's own doing. With its pan/zoom tool, which
    selects nothing, a click that does not drag selects the nearest cell. Other tools are left
    alone.

    Parameters
    ----------
    viewer : napari.Viewer
    parent : QObject
    """

    changed = Signal()
    """Another cell, another number of cells, another layer."""

    def __init__(self, viewer: Viewer, parent: QObject) -> None:
        super().__init__(parent)
        self._viewer = viewer
        self._watch: _SelectionWatch | None = None
        self._last: int | None = None
        # a new selection is announced as one that is emptied and one that is filled
        self._soon = QTimer(self, singleShot=True, interval=0)
        self._soon.timeout.connect(self.changed)
        listen(
            self,
            self._follow,
            viewer.layers.selection.events.active,
            viewer.layers.events.inserted,
            viewer.layers.events.removed,
        )
        press = _on_press(weakref.ref(self))
        callbacks = viewer.mouse_drag_callbacks
        callbacks.append(press)
        when_destroyed(self, lambda: press in callbacks and callbacks.remove(press))
        self._follow()

    @property
    def layer(self) -> Points | None:
        """The layer of cells that is followed."""
        return self._watch.layer if self._watch else None

    @property
    def n_selected(self) -> int:
        """How many of its cells are selected."""
        return len(self.layer.selected_data) if self._watch else 0

    @property
    def row(self) -> int | None:
        """Row of the cell that is meant; None where nothing is selected."""
        selected = self.layer.selected_data if self._watch else ()
        if self._last in selected:
            return self._last
        return max(selected, default=None)

    def pick(self, position: Any) -> bool:
        """Select the cell nearest to a place in the world; tell whether there is one."""
        cells = [layer for layer in reversed(self._viewer.layers) if link_of(layer, CellsLink)]
        if self.layer in cells:  # where two images lie upon each other, stay with this one
            cells.insert(0, cells.pop(cells.index(self.layer)))
        for layer in cells:
            row = nearest_cell(layer, position) if layer.visible else None
            if row is not None:
                self._set_layer(layer)
                if set(layer.selected_data) != {row}:
                    layer.selected_data = {row}
                else:
                    self._soon.start()
                return True
        return False

    def _follow(self, event: Any = None) -> None:
        layers = self._viewer.layers
        cells = [layer for layer in layers if link_of(layer, CellsLink)]
        active = layers.selection.active
        if active in cells:
            self._set_layer(active)
        elif self.layer not in cells:
            self._set_layer(cells[-1] if cells else None)

    def _set_layer(self, layer: Points | None) -> None:
        if layer is self.layer:
            return
        if self._watch is not None:
            self._watch.deleteLater()
        self._last = None
        self._watch = _SelectionWatch(layer, self) if layer is not None else None
        self._soon.start()

    def selection_changed(self, watch: _SelectionWatch, added: Iterable[int]) -> None:
        """Take note of what was selected last."""
        if watch is self._watch:
            self._last = max(added, default=self._last)
            self._soon.start()


class _SelectionWatch(QObject):
    """Listens to one layer's selection, and stops when it is deleted."""

    def __init__(self, layer: Points, follower: CellFollower) -> None:
        super().__init__(follower)
        self.layer = layer
        self._follower = follower
        listen(self, self._on_items, layer.selected_data.events.items_changed)

    def _on_items(self, added: Iterable[int] = (), removed: Iterable[int] = ()) -> None:
        self._follower.selection_changed(self, added)


def nearest_cell(layer: Points, position: Any) -> int | None:
    """Return the row of the shown cell nearest to a place in the world, if one is near."""
    if not len(layer.data):
        return None
    place = np.asarray(layer.world_to_data(position), float)[-2:]
    where = link_of(layer, CellsLink).detection.domain_map
    (matrix,) = where.matrices_at(place[None])
    offset = (np.asarray(layer.data)[:, -2:] - place) @ np.linalg.inv(matrix).T
    distance = np.where(layer.shown, np.hypot(*offset.T), np.inf)
    row = int(distance.argmin())
    return row if distance[row] <= REACH_A else None


def _on_press(follower: weakref.ref[CellFollower]) -> Callable[[Viewer, Any], Iterator[None]]:
    """Return the callback for napari, which must not keep the follower alive."""

    def press(viewer: Viewer, event: Any) -> Iterator[None]:
        active = viewer.layers.selection.active
        tool = str(getattr(active, "mode", "pan_zoom"))
        if tool != "pan_zoom" or event.button != 1 or event.modifiers:
            return
        start = np.array(event.pos, float)
        yield
        while event.type == "mouse_move":
            yield
        here = follower()
        if here is not None and np.abs(np.array(event.pos) - start).max() <= _CLICK_PX:
            here.pick(event.position)

    return press
