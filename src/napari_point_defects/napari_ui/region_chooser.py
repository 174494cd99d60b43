"""Choose what part of an image to analyse: all of it, or what shapes enclose."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from napari.layers import Shapes
from qtpy.QtCore import Signal
from qtpy.QtWidgets import QComboBox, QHBoxLayout, QSizePolicy, QToolButton, QWidget

from napari_point_defects.napari_ui.image_layers import placement
from napari_point_defects.napari_ui.lifetime import listen
from napari_point_defects.napari_ui.region_layers import REGION_STYLE, may_be_region

if TYPE_CHECKING:
    from napari import Viewer
    from napari.layers import Image

WHOLE = "Whole image"


class RegionChooser(QWidget):
    """A drop-down list of the viewer's Shapes layers, and a button that makes one.

    Parameters
    ----------
    viewer : napari.Viewer
    """

    draw_requested = Signal()

    def __init__(self, viewer: Viewer) -> None:
        super().__init__()
        self._viewer = viewer
        self._layers: list[Shapes] = []
        self.list = QComboBox()
        self.list.setSizeAdjustPolicy(
            QComboBox.SizeAdjustPolicy.AdjustToMinimumContentsLengthWithIcon
        )
        self.list.setMinimumContentsLength(8)
        self.list.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Fixed)
        self.list.setToolTip(
            "<p>Analyse all of the image, or only what the polygons, rectangles and ellipses of a "
            "Shapes layer enclose: the lattice is found there alone, and the census counts the "
            "cells whose bond has its middle in it.</p>"
        )
        self.draw = QToolButton()
        self.draw.setText("Draw…")
        self.draw.setToolTip(
            "<p>Draw a polygon around what is to be analysed: click its corners, double-click "
            "the last.</p>"
        )
        layout = QHBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(2)
        layout.addWidget(self.list, 1)
        layout.addWidget(self.draw)
        self.draw.clicked.connect(self.draw_requested)
        events = viewer.layers.events
        listen(
            self, self.refresh, events.inserted, events.removed, events.reordered, events.renamed
        )
        self.refresh()

    @property
    def layer(self) -> Shapes | None:
        """The chosen layer; None for the whole image."""
        index = self.list.currentIndex() - 1
        return self._layers[index] if 0 <= index < len(self._layers) else None

    def choose(self, layer: Shapes | None) -> None:
        """Choose a layer, or the whole image."""
        self.list.setCurrentIndex(self._layers.index(layer) + 1 if layer in self._layers else 0)

    def refresh(self, event: Any = None) -> None:
        """Read the viewer's layers again and keep the choice where it still exists."""
        chosen = self.layer
        self._layers = [layer for layer in self._viewer.layers if may_be_region(layer)]
        self.list.clear()
        self.list.addItems([WHOLE, *(layer.name for layer in self._layers)])
        self.choose(chosen)

    def start_drawing(self, image: Image) -> Shapes:
        """Add a layer to draw a region of that image in, and choose it."""
        layer = Shapes(
            ndim=2,
            name=f"{image.name} region",
            **placement(image),
            **REGION_STYLE,
            edge_width=max(image.data.shape[-2:]) / 250,
        )
        self._viewer.layers.append(layer)
        self._viewer.layers.selection.active = layer
        layer.mode = "add_polygon"
        self.choose(layer)
        return layer
