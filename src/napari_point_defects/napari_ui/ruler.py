"""A line that the user draws over a known length of an image."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from napari.layers import Shapes
from qtpy.QtCore import QObject, Signal

from napari_point_defects.napari_ui.image_layers import placement
from napari_point_defects.napari_ui.lifetime import listen
from napari_point_defects.napari_ui.region_layers import NO_REGION_KEY, to_image_px

if TYPE_CHECKING:
    from napari import Viewer
    from napari.layers import Image

_COLOUR = "#ff4fd8"


class Ruler(QObject):
    """Keeps one Shapes layer for lines; the last line counts.

    Parameters
    ----------
    viewer : napari.Viewer
    parent : QObject
    """

    changed = Signal()
    """The line is another one, or somewhere else."""

    def __init__(self, viewer: Viewer, parent: QObject) -> None:
        super().__init__(parent)
        self._viewer = viewer
        self.layer: Shapes | None = None
        listen(self, self._on_removed, viewer.layers.events.removed)

    def draw(self, image: Image) -> None:
        """Let the user draw a line on an image; the one before goes."""
        self.remove()
        self.layer = layer = Shapes(
            ndim=2,
            name=f"{image.name} ruler",
            **placement(image),
            edge_color=_COLOUR,
            edge_width=max(image.data.shape[-2:]) / 250,
            metadata={NO_REGION_KEY: True},
        )
        self._viewer.layers.append(layer)
        self._viewer.layers.selection.active = layer
        layer.mode = "add_line"
        listen(self, self._on_data, layer.events.data)
        self.changed.emit()

    def ends_px(self, image: Image) -> np.ndarray | None:
        """Return both ends of the last line in pixels of an image, shape (2, 2); None for none."""
        if self.layer is None or not len(self.layer.data):
            return None
        line = np.asarray(self.layer.data[-1])[[0, -1], -2:]
        ends = to_image_px(line, self.layer, image)
        return ends if np.linalg.norm(ends[1] - ends[0]) > 0 else None

    def remove(self) -> None:
        """Take the layer away."""
        if self.layer is not None and self.layer in self._viewer.layers:
            self._viewer.layers.remove(self.layer)

    def _on_data(self, event: Any) -> None:
        self.changed.emit()

    def _on_removed(self, event: Any) -> None:
        if event.value is self.layer:
            self.layer = None
            self.changed.emit()
