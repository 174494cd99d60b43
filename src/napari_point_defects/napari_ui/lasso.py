"""Select unit cells by a line drawn around them.

napari's points have no lasso, its shapes do: one is drawn in a Shapes layer that is there only for
as long as that takes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from napari.layers import Shapes
from qtpy.QtCore import QObject, QTimer

from napari_point_defects.napari_ui.cell_editor import CellEditor
from napari_point_defects.napari_ui.cell_rows import cell_ids
from napari_point_defects.napari_ui.image_layers import placement
from napari_point_defects.napari_ui.lifetime import listen
from napari_point_defects.region import inside_region

if TYPE_CHECKING:
    from napari import Viewer

LAYER_NAME = "lasso: draw around the cells"

_REMOVE_MS = 150


class Lasso(QObject):
    """Waits for one line around some cells of an editor's layer.

    Parameters
    ----------
    viewer : napari.Viewer
    editor : CellEditor
    """

    def __init__(self, viewer: Viewer, editor: CellEditor) -> None:
        super().__init__(editor)
        self._viewer, self._editor = viewer, editor
        cells = editor.layer
        self.layer = layer = Shapes(
            ndim=2,
            name=LAYER_NAME,
            **placement(cells),
            edge_color="white",
            face_color="transparent",
            edge_width=0.05 * editor.link.detection.lattice.a_px,
        )
        viewer.layers.append(layer)
        viewer.layers.selection.active = layer
        layer.mode = "add_polygon_lasso"
        layer.bind_key("Escape", lambda _: self._end(), overwrite=True)
        viewer.status = "Draw a line around the cells to select; Esc leaves it"
        # napari still draws when it says so: let it finish
        self._later = QTimer(self, singleShot=True, interval=0)
        self._later.timeout.connect(self._select)
        # removing a layer, napari collects all garbage: first let the screen show the selection
        self._done = QTimer(self, singleShot=True, interval=_REMOVE_MS)
        self._done.timeout.connect(self._end)
        self._chosen = self._ended = False
        listen(self, self._on_data, layer.events.data)
        listen(self, self._on_active, viewer.layers.selection.events.active)

    def _on_data(self, event: Any) -> None:
        if str(event.action) == "added":
            self._later.start()

    def _on_active(self, event: Any) -> None:
        if event.value is not self.layer and not self._chosen:
            self._end()

    def _select(self) -> None:
        inside = np.zeros(len(self._editor.layer.data), bool)
        for polygon in self.layer.data:
            inside |= is_inside(self._editor.layer.data, np.asarray(polygon)[:, -2:])
        chosen, layers = cell_ids(self._editor.layer)[inside], self._viewer.layers
        self._chosen = True
        self.layer.visible = False
        if layers.selection.active is self.layer and self._editor.layer in layers:
            layers.selection.active = self._editor.layer
        self._editor.select(chosen)
        self._done.start()
        n = len(self._editor.layer.selected_data)
        self._viewer.status = f"{n:,} cells selected" if n else "No shown cell lies in the line"

    def _end(self) -> None:
        if self._ended:
            return
        self._ended = True
        self._later.stop()
        layers = self._viewer.layers
        active = layers.selection.active
        if self.layer in layers:
            layers.remove(self.layer)
        if active is self.layer and self._editor.layer in layers:
            layers.selection.active = self._editor.layer
        self.deleteLater()


def is_inside(points: np.ndarray, polygon: np.ndarray) -> np.ndarray:
    """Tell which points, shape (N, 2), lie inside a polygon of shape (K, 2), by the even-odd rule.

    Returns
    -------
    ndarray of shape (N,), bool
    """
    return inside_region(points, (polygon,))
