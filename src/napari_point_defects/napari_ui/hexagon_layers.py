"""Hexagons <-> the Shapes layer that shows them. Pure: no viewer, no Qt.

A user may move, resize, delete or draw shapes. What the layer then holds goes to net-casting.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from napari_point_defects.domains.casting import DomainMap
from napari_point_defects.materials import LATTICE_VECTORS
from napari_point_defects.napari_ui.hexagon_tables import (
    DRAWN_SCORE,
    UNCHANGED_PX,
    box_of_shape,
    domains_of_shapes,
    hexagon_features,
    new_hexagon,
)
from napari_point_defects.napari_ui.links import KEY, HexagonsLink
from napari_point_defects.records import Hexagons

if TYPE_CHECKING:
    from napari.types import LayerDataTuple

EDGE_COLOUR = "#35d0ff"
EDGE_WIDTH = 0.03
"""Line width in units of a."""

EDITED_COLOUR = "#ffffff"
"""As the rim of a cell: a person stands behind this hexagon."""


def edge_colours(states: Sequence[str]) -> list[str]:
    """Return the edge colour of hexagons in these states."""
    return [EDGE_COLOUR if state == "predicted" else EDITED_COLOUR for state in states]


def stacking(hexagons: Hexagons, where: DomainMap) -> list[int]:
    """Return the order, from the back to the front, in which to lay hexagons on each other.

    Everywhere some boxes overlap, and the mouse takes the one in front. Laid like tiles, from the
    top row to the bottom one and from left to right, each can be taken at its upper left. Those
    of one domain lie on those of another only along its boundary.
    """
    own = where.of_hexagons(hexagons)
    middles = np.empty((len(hexagons), 2))
    for number in np.unique(own):
        boxes = hexagons.take(own == number).canonical_boxes(where.lattice_of(number))
        middles[own == number] = (boxes[:, :2] + boxes[:, 2:]) / 2
    y, x = middles.T
    rank = np.empty(len(hexagons), int)
    rank[np.lexsort((x, np.rint(y / LATTICE_VECTORS[1, 0]), own))] = np.arange(len(hexagons))
    return rank.tolist()


def hexagons_layer_data(
    link: HexagonsLink, name: str, place: dict[str, Any], features: pd.DataFrame | None = None
) -> LayerDataTuple:
    """Describe the Shapes layer of a detection: data, keyword arguments, type.

    ``features`` has ids and states of the detection's hexagons where they are not all new.
    """
    hexagons, where = link.detection.hexagons, link.detection.domain_map
    if features is None:
        features = hexagon_features(hexagons.scores)
    features["domain"] = where.of_hexagons(hexagons)
    kwargs = {
        "name": name,
        "ndim": 2,
        "shape_type": "rectangle",
        "features": features,
        "feature_defaults": new_hexagon(),
        "edge_width": EDGE_WIDTH * link.detection.lattice.a_px,
        "edge_color": edge_colours(features["state"]) if len(features) else EDGE_COLOUR,
        "face_color": "transparent",
        "z_index": stacking(hexagons, where),
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
    return bool(np.abs(np.stack(shapes) - written.corners_px).max() > UNCHANGED_PX)


def hexagons_of_shapes(
    shapes: Sequence[np.ndarray],
    scores: np.ndarray,
    where: DomainMap,
    domain: np.ndarray | None = None,
) -> Hexagons:
    """Read hexagons back from shapes.

    Each as :func:`~napari_point_defects.napari_ui.hexagon_tables.box_of_shape` takes it; lines
    and empty shapes are left out.

    Parameters
    ----------
    shapes : sequence of ndarray of shape (K, 2)
        Vertices (y, x) in image pixels.
    scores : ndarray of shape (N,)
        NaN counts as drawn by the user.
    where : DomainMap
        Each lies along the lattice of the domain that its middle is in.
    domain : ndarray of shape (N,), int, optional
        The domain that each is known to belong to, 0 for none.
    """
    corners, kept, own = [], [], []
    domain = domains_of_shapes(shapes, where, domain)
    for shape, score, number in zip(shapes, np.asarray(scores, float), domain, strict=True):
        box = box_of_shape(shape, where.lattice_of(number))
        if box is not None:
            corners.append(box)
            kept.append(score)
            own.append(number)
    scores = np.nan_to_num(np.asarray(kept, float), nan=DRAWN_SCORE)
    return Hexagons(np.asarray(corners, float).reshape(-1, 4, 2), scores, np.array(own, int))


def current_hexagons(
    shapes: Sequence[np.ndarray],
    scores: np.ndarray,
    link: HexagonsLink,
    domain: np.ndarray | None = None,
) -> Hexagons:
    """Return what the layer shows: the detection as it was, or as the user edited it.

    ``domain`` is what the layer's features say of each shape, where they do.
    """
    written = link.detection.hexagons
    if not is_edited(shapes, written):
        return written
    return hexagons_of_shapes(shapes, scores, link.detection.domain_map, domain)
