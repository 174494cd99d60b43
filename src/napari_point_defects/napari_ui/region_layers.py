"""Shapes that a user drew on an image -> the region of an analysis. No viewer, no Qt."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from napari_point_defects.errors import PointDefectsError
from napari_point_defects.napari_ui.links import KEY
from napari_point_defects.region import Region, as_region, outline

if TYPE_CHECKING:
    from napari.layers import Image, Layer, Shapes

NO_REGION_KEY = "napari-point-defects: no region"
"""In the metadata of Shapes layers that the plugin draws for other ends."""

REGION_STYLE = {"edge_color": "#ffd54a", "face_color": "#ffd54a20"}


def may_be_region(layer: Layer) -> bool:
    """Tell whether the shapes of a layer may enclose a region: they are no hexagons or rulers."""
    from napari.layers import Shapes

    return isinstance(layer, Shapes) and not {KEY, NO_REGION_KEY} & layer.metadata.keys()


def region_of(shapes: Shapes, image: Image) -> Region:
    """Return what a layer's shapes enclose, in pixels of an image; lines enclose nothing.

    Raises
    ------
    PointDefectsError
        If no shape encloses anything.
    """
    outlines = [
        outline(kind, np.asarray(corners)[:, -2:])
        for corners, kind in zip(shapes.data, shapes.shape_type, strict=True)
    ]
    try:
        return as_region(
            to_image_px(corners, shapes, image) for corners in outlines if corners is not None
        )
    except ValueError as error:
        raise PointDefectsError(
            f"{shapes.name!r} encloses no region ({error}): draw a polygon, rectangle or ellipse "
            "in it, or choose the whole image"
        ) from error


def to_image_px(points: np.ndarray, layer: Layer, image: Layer) -> np.ndarray:
    """Map points (y, x) of one layer, shape (N, 2), to pixels of another that lies over it."""
    units = _unit_ratio(layer, image)
    leading = (0.0,) * (layer.ndim - 2)
    result = []
    for point in points:
        world = np.asarray(layer.data_to_world((*leading, *point)))[-2:] * units
        result.append(image.world_to_data((*(0.0,) * (image.ndim - 2), *world))[-2:])
    return np.array(result, float).reshape(-1, 2)


def _unit_ratio(layer: Layer, image: Layer) -> np.ndarray:
    """How long a unit of a layer's world is in those of the image's; 1 where one has no length."""
    pairs = zip(layer.units[-2:], image.units[-2:], strict=True)
    return np.array(
        [
            float((1 * own).to(other).magnitude) if own.is_compatible_with(other) else 1.0
            for own, other in pairs
        ]
    )
