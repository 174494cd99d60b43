"""What a layer made by the plugin knows about where it came from.

A link sits in ``layer.metadata[KEY]``. It names layers by napari's ``unique_id`` rather than
holding them: a copied layer stays copyable, and a closed viewer is not kept alive.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, TypeVar

import numpy as np

if TYPE_CHECKING:
    from napari import Viewer
    from napari.layers import Layer

    from napari_point_defects.analysis_settings import AnalysisSettings
    from napari_point_defects.detections import Detection
    from napari_point_defects.quality import Quality

KEY = "napari-point-defects"


@dataclass(frozen=True, slots=True)
class HexagonsLink:
    """Origin of a layer of hexagons.

    Attributes
    ----------
    image_id : Hashable
        ``unique_id`` of the image layer.
    detection : Detection
        What was found and drawn.
    settings : AnalysisSettings
        What it was found with.
    written_ids : ndarray of shape (N,), int
        ``hexagon_id`` of every hexagon drawn; where empty, they count from 0.
    deleted_px : ndarray of shape (K, 2)
        Middles of hexagons deleted before an earlier run: they stay deleted.
    layer_id : Hashable or None
        ``unique_id`` of the layer written; a copy of the layer, or one that was set aside, is
        not the plugin's own and is never replaced.
    """

    image_id: Hashable
    detection: Detection
    settings: AnalysisSettings
    written_ids: np.ndarray = field(default_factory=lambda: np.empty(0, int))
    deleted_px: np.ndarray = field(default_factory=lambda: np.empty((0, 2)))
    layer_id: Hashable | None = None


@dataclass(frozen=True, slots=True)
class CellsLink:
    """Origin of a layer of unit cells.

    Attributes
    ----------
    image_id, detection, settings, layer_id
        As in :class:`HexagonsLink`.
    written_ids : ndarray of shape (N,), int
        ``cell_id`` of every cell that was drawn: one that is missing later was deleted.
    written_px : ndarray of shape (N, 2)
        Their bond centres (y, x) in image pixels.
    deleted_px : ndarray of shape (K, 2)
        Bond centres of cells deleted before an earlier run: they stay deleted.
    next_id : int
        ``cell_id`` of the next new cell: above every one ever used, those of deleted cells too.
    quality : Quality or None
        How good the image and the classification were, as the cells were classified.
    outside : tuple of str or None
        What of the image lies outside what the weights learned, a line for each quantity; None
        until it is measured.
    """

    image_id: Hashable
    detection: Detection
    settings: AnalysisSettings
    written_ids: np.ndarray = field(default_factory=lambda: np.empty(0, int))
    written_px: np.ndarray = field(default_factory=lambda: np.empty((0, 2)))
    deleted_px: np.ndarray = field(default_factory=lambda: np.empty((0, 2)))
    next_id: int = 0
    layer_id: Hashable | None = None
    quality: Quality | None = None
    outside: tuple[str, ...] | None = None


@dataclass(frozen=True, slots=True)
class MaskLink:
    """Origin of a Labels layer of unit cells; attributes as in :class:`HexagonsLink`."""

    image_id: Hashable
    layer_id: Hashable | None = None


@dataclass(frozen=True, slots=True)
class AreaLink:
    """Origin of a Labels layer of the analysed area.

    Attributes
    ----------
    image_id, layer_id
        As in :class:`HexagonsLink`.
    step_px : int
        Side of the square of image pixels that each of its pixels covers.
    """

    image_id: Hashable
    layer_id: Hashable | None = None
    step_px: int = 1


@dataclass(frozen=True, slots=True)
class MapLink:
    """Origin of an image layer that a study drew; attributes as in :class:`AreaLink`.

    Attributes
    ----------
    kind : str
        Which of the study's maps it is.
    """

    image_id: Hashable
    layer_id: Hashable | None = None
    step_px: int = 1
    kind: str = ""


@dataclass(frozen=True, slots=True)
class MovieLink:
    """Origin of a Points layer with a time axis; attributes as in :class:`HexagonsLink`.

    Attributes
    ----------
    kind : str
        What it shows of the movie.
    """

    image_id: Hashable
    layer_id: Hashable | None = None
    kind: str = ""


_L = TypeVar("_L", HexagonsLink, CellsLink, MaskLink, AreaLink, MapLink, MovieLink)


def link_of(layer: Layer, kind: type[_L]) -> _L | None:
    """Return the layer's link if it is of that kind."""
    link = layer.metadata.get(KEY)
    return link if isinstance(link, kind) else None


def own(layer: Layer) -> None:
    """Mark a freshly added layer as the plugin's own: the next run may replace it."""
    layer.metadata[KEY] = replace(layer.metadata[KEY], layer_id=layer.unique_id)


def disown(layer: Layer) -> None:
    """Give the layer to the user: no run replaces it."""
    layer.metadata[KEY] = replace(layer.metadata[KEY], layer_id=None)


def own_layers(
    layers: Iterable[Layer], image_id: Hashable, kind: type[_L]
) -> Iterator[tuple[Layer, _L]]:
    """Yield the layers of that kind that earlier runs drew for that image, with their links."""
    for layer in layers:
        link = link_of(layer, kind)
        if link and link.image_id == image_id and link.layer_id == layer.unique_id:
            yield layer, link


def own_layer(layers: Iterable[Layer], image_id: Hashable, kind: type[_L]) -> Layer | None:
    """Return the layer of that kind that an earlier run drew for that image."""
    return next((layer for layer, _ in own_layers(layers, image_id, kind)), None)


def image_layer(layers: Iterable[Layer], image_id: Hashable) -> Layer | None:
    """Return the image layer with that ``unique_id``, if it is still there."""
    return next((layer for layer in layers if layer.unique_id == image_id), None)


def replace_layer(viewer: Viewer, old: Layer | None, new: Layer) -> None:
    """Put a new layer of the plugin's own in another's place in the list, or on top."""
    if old is None or old not in viewer.layers:
        viewer.layers.append(new)
    else:
        index = viewer.layers.index(old)
        viewer.layers.remove(old)
        viewer.layers.insert(index, new)
    own(new)


def set_aside(layer: Layer, name: str) -> None:
    """Keep a layer with the user's edits, hidden, where a run would replace it."""
    layer.name = f"{name} (edited)"
    layer.visible = False
    disown(layer)
