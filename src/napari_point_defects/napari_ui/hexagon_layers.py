"""Hexagons <-> the Shapes layer that shows them. Pure: no viewer, no Qt.

A user may move, resize, delete or draw shapes. What the layer then holds goes to net-casting.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_point_defects.materials import HEXAGON_SIZE
from napari_point_defects.napari_ui.links import KEY, HexagonsLink
from napari_point_defects.records import Hexagons, Lattice, hexagon_boxes

if TYPE_CHECKING:
    from napari.types import LayerDataTuple

DRAWN_SCORE = 1.0
"""Score of a hexagon that the user drew."""

EDGE_COLOUR = "#35d0ff"
EDGE_WIDTH = 0.03
"""Line width in units of a."""

_UNCHANGED_PX = 0.02
"""napari keeps vertices as 32-bit floats; no edit is as small as this."""

_ODD_SIZE = 0.2
"""A shape whose sides differ more than this from a hexagon's only says where the hexagon is."""


def hexagons_layer_data(link: HexagonsLink, name: str, place: dict[str, Any]) -> LayerDataTuple:
    """Describe the Shapes layer of a detection: data, keyword arguments, type."""
    hexagons = link.detection.hexagons
    kwargs = {
        "name": name,
        "ndim": 2,
        "shape_type": "rectangle",
        "features": {"score": np.asarray(hexagons.scores, float)},
        "feature_defaults": {"score": DRAWN_SCORE},
        "edge_width": EDGE_WIDTH * link.detection.lattice.a_px,
        "edge_color": EDGE_COLOUR,
        "face_color": "transparent",
        "opacity": 0.8,
        "metadata": {KEY: link},
        **place,
    }
    data = list(hexagons.corners_px) if len(hexagons) else None
    return data, kwargs, "shapes"


def is_edited(shapes: Sequence[np.ndarray], written: Hexagons) -> bool:
    """Tell whether the shapes differ from the hexagons that were drawn."""
    if len(shapes) != len(written) or any(np.shape(s) != (4, 2) for s in shapes):
        return True
    if not len(written):
        return False
    return bool(np.abs(np.stack(shapes) - written.corners_px).max() > _UNCHANGED_PX)


def hexagons_of_shapes(
    shapes: Sequence[np.ndarray], scores: np.ndarray, lattice: Lattice
) -> Hexagons:
    """Read hexagons back from shapes.

    A box drawn by hand only says where its hexagon is: a shape that is no box, or whose size in
    the canonical frame is not near a hexagon's, becomes a hexagon of the right size at its
    middle. Lines and empty shapes are left out.

    Parameters
    ----------
    shapes : sequence of ndarray of shape (K, 2)
        Vertices (y, x) in image pixels.
    scores : ndarray of shape (N,)
        NaN counts as drawn by the user.
    lattice : Lattice
    """
    corners, kept = [], []
    for shape, score in zip(shapes, np.asarray(scores, float), strict=True):
        canonical = lattice.to_canonical(np.asarray(shape, float))
        low, high = canonical.min(axis=0), canonical.max(axis=0)
        if len(canonical) < 3 or np.any(high <= low):
            continue
        odd = np.abs((high - low) / HEXAGON_SIZE - 1).max() > _ODD_SIZE
        if len(canonical) != 4 or odd:
            box = hexagon_boxes((low + high) / 2)
            corners.append(Hexagons.from_canonical_boxes(box, [score], lattice).corners_px[0])
        else:
            corners.append(np.asarray(shape, float))
        kept.append(score)
    scores = np.nan_to_num(np.asarray(kept, float), nan=DRAWN_SCORE)
    return Hexagons(np.asarray(corners, float).reshape(-1, 4, 2), scores)


def current_hexagons(
    shapes: Sequence[np.ndarray], scores: np.ndarray, link: HexagonsLink
) -> Hexagons:
    """Return what the layer shows: the detection as it was, or as the user edited it."""
    written = link.detection.hexagons
    if not is_edited(shapes, written):
        return written
    return hexagons_of_shapes(shapes, scores, link.detection.lattice)
