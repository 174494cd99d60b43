"""A drop-down list of layers that follows the viewer."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any
from weakref import WeakSet

from qtpy.QtCore import Signal
from qtpy.QtWidgets import QComboBox, QSizePolicy

from napari_point_defects.napari_ui.lifetime import listen

if TYPE_CHECKING:
    from napari import Viewer
    from napari.layers import Layer


class LayerChooser(QComboBox):
    """Choose one of the viewer's layers.

    The list follows the viewer: a layer that the user selects there is chosen here too.

    Parameters
    ----------
    viewer : napari.Viewer
    accepts : callable
        Says which layers are offered.
    empty : str
        Shown where there is none.
    """

    layer_changed = Signal()
    scale_changed = Signal()
    """The chosen layer has another scale or other units."""

    def __init__(self, viewer: Viewer, accepts: Callable[[Layer], bool], empty: str) -> None:
        super().__init__()
        self._viewer, self._accepts = viewer, accepts
        self._layers: list[Layer] = []
        self._heard: WeakSet[Layer] = WeakSet()
        self.setPlaceholderText(empty)
        # a long file name must not widen the dock
        self.setSizeAdjustPolicy(QComboBox.SizeAdjustPolicy.AdjustToMinimumContentsLengthWithIcon)
        self.setMinimumContentsLength(12)
        self.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Fixed)
        events = viewer.layers.events
        listen(
            self, self.refresh, events.inserted, events.removed, events.reordered, events.renamed
        )
        listen(self, self._follow, viewer.layers.selection.events.active)
        self.currentIndexChanged.connect(lambda _: self.layer_changed.emit())
        self.refresh()
        self._follow()

    @property
    def layer(self) -> Layer | None:
        """The chosen layer."""
        index = self.currentIndex()
        return self._layers[index] if 0 <= index < len(self._layers) else None

    def choose(self, layer: Layer) -> None:
        """Choose a layer, if it is offered."""
        if layer in self._layers:
            self.setCurrentIndex(self._layers.index(layer))

    def refresh(self, event: Any = None) -> None:
        """Read the viewer's layers again and keep the choice where it still exists."""
        chosen = self.layer
        layers = [layer for layer in self._viewer.layers if self._accepts(layer)]
        for layer in layers:
            if layer not in self._heard:
                self._heard.add(layer)
                listen(self, self._on_scale, layer.events.scale, layer.events.units)
        self.blockSignals(True)
        self._layers = layers
        self.clear()
        self.addItems([layer.name for layer in layers])
        if layers:
            self.setCurrentIndex(layers.index(chosen) if chosen in layers else len(layers) - 1)
        self.setToolTip(self.currentText())
        self.blockSignals(False)
        if self.layer is not chosen:
            self.layer_changed.emit()

    def _on_scale(self, event: Any) -> None:
        if event.source is self.layer:
            self.scale_changed.emit()

    def _follow(self, event: Any = None) -> None:
        active = self._viewer.layers.selection.active
        if active is not None and self._accepts(active):
            if active not in self._layers:
                self.refresh()
            self.choose(active)
