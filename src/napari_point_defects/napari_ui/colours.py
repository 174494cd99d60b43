"""Another palette in the window: layers, legends and plots change their colours at once."""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING

import numpy as np
from napari.layers import Labels, Layer, Points
from qtpy.QtCore import QObject, Signal

from napari_point_defects.materials import DefectClass
from napari_point_defects.napari_ui.cell_layers import mask_colormap, rgba
from napari_point_defects.napari_ui.links import KEY, CellsLink, MaskLink, MovieLink
from napari_point_defects.palettes import colours_in_use, palette_in_use, use_palette

if TYPE_CHECKING:
    from napari import Viewer


class _News(QObject):
    """Tells all that show classes that these have other colours."""

    changed = Signal()


palette_news = _News()
_viewers: weakref.WeakSet[Viewer] = weakref.WeakSet()


def watch_palette(viewer: Viewer) -> None:
    """Let the plugin's layers of a viewer follow the palette from now on."""
    _viewers.add(viewer)


def change_palette(name: str) -> None:
    """Draw in another palette from now on, what is drawn already too."""
    if name == palette_in_use():
        return
    before = colours_in_use()
    use_palette(name)
    for viewer in list(_viewers):
        for layer in list(viewer.layers):
            recolour(layer, before, colours_in_use())
    palette_news.changed.emit()


def recolour(layer: Layer, before: dict[DefectClass, str], after: dict[DefectClass, str]) -> None:
    """Give a layer of the plugin the colours of another palette; others stay as they are.

    Only colours that are a class's change, so that rims, and what is see-through, stay.
    """
    link = layer.metadata.get(KEY)
    if isinstance(layer, Points) and isinstance(link, CellsLink | MovieLink):
        if not len(layer.data):
            return
        for colours in (layer.face_color, layer.border_color):
            _swap(colours, rgba(tuple(before.values())), rgba(tuple(after.values())))
        layer.refresh(extent=False, thumbnail=False)
    elif isinstance(layer, Labels) and isinstance(link, MaskLink):
        layer.colormap = mask_colormap()


def _swap(colours: np.ndarray, before: np.ndarray, after: np.ndarray) -> None:
    """Replace colours (N, 4) that are one of ``before`` (K, 4) in place; their alpha stays."""
    is_class = np.abs(colours[:, None, :3] - before[:, :3]).max(axis=-1) < 1 / 512  # (N, K)
    rows, classes = np.nonzero(is_class)
    colours[rows, :3] = after[classes, :3]
