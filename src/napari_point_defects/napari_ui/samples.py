"""The bundled images under File ▸ Open Sample."""

from __future__ import annotations

from typing import TYPE_CHECKING

from napari_point_defects import io
from napari_point_defects.napari_ui.image_layers import image_layer_data

if TYPE_CHECKING:
    from napari.types import LayerDataTuple


def pristine() -> list[LayerDataTuple]:
    """MoTe₂ with point defects, on a clean field."""
    return _sample("MoTe2_pristine.tif")


def contaminated() -> list[LayerDataTuple]:
    """MoTe₂ under contamination, with drift."""
    return _sample("MoTe2_contaminated.tif")


def rotated() -> list[LayerDataTuple]:
    """MoTe₂ rotated by 17°."""
    return _sample("MoTe2_rotated_17deg.tif")


def _sample(name: str) -> list[LayerDataTuple]:
    return [image_layer_data(io.read_image(io.sample_path(name)))]
