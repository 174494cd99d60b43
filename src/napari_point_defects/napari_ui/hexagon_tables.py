"""Hexagons <-> the table behind the Shapes layer that shows them. Pure: no viewer, no Qt.

One row per hexagon. ``state`` says who is behind it:

========== ==============================================
predicted  CNN-1 alone
confirmed  CNN-1, and the user agreed
corrected  CNN-1, moved or resized by the user
added      the user drew it
========== ==============================================
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from napari_point_defects.materials import CHALCOGEN_SITES, HEXAGON_SIZE, METAL_SITES
from napari_point_defects.records import Hexagons, Lattice, hexagon_boxes

if TYPE_CHECKING:
    from napari.layers import Shapes

    from napari_point_defects.domains.casting import DomainMap

STATES = ("predicted", "confirmed", "corrected", "added")
_STATES, _STATE_TYPE = pd.Index(STATES), pd.CategoricalDtype(STATES)
NEW_ID = -1
"""``hexagon_id`` of a shape that the user has just drawn."""

FEATURES = ["hexagon_id", "state", "score", "domain"]
"""Columns that the layer carries; the corners are its shapes. ``domain`` is the number of the grain
or twin along whose lattice the box lies, 0 where that is to be found out."""

CORNER_COLUMNS = [f"c{corner}_{axis}" for corner in range(4) for axis in "yx"]
"""Corners (y, x) in image pixels: upper left, upper right, lower right, lower left of the
canonical frame."""

DRAWN_SCORE = 1.0
"""Score of a hexagon that the user drew."""

UNCHANGED_PX = 0.02
"""napari keeps vertices as 32-bit floats; no edit is as small as this."""

_ODD_SIZE = 0.2
"""A shape whose sides differ more than this from a hexagon's only says where the hexagon is."""

_SITES = np.concatenate([CHALCOGEN_SITES, METAL_SITES])


def hexagon_features(
    scores: np.ndarray,
    ids: np.ndarray | None = None,
    states: Sequence[str] | None = None,
    domain: np.ndarray | None = None,
) -> pd.DataFrame:
    """Make the features of a layer of hexagons; as just detected unless told otherwise."""
    scores = np.asarray(scores, float)
    n = len(scores)
    return pd.DataFrame(
        {
            "hexagon_id": np.arange(n) if ids is None else np.asarray(ids, int),
            "state": pd.Categorical(["predicted"] * n if states is None else states, STATES),
            "score": scores,
            "domain": np.zeros(n, int) if domain is None else np.asarray(domain, int),
        }
    )


def new_hexagon() -> pd.DataFrame:
    """Return the features, one row, of a hexagon that the user adds."""
    return hexagon_features([DRAWN_SCORE], [NEW_ID], ["added"])


def tidy_features(features: pd.DataFrame, n: int, next_id: int = 0) -> pd.DataFrame:
    """Return ids, states and scores of a layer's shapes, as they should be.

    Parameters
    ----------
    features : DataFrame
        Of the layer; columns may be missing, as in a layer of the user's own.
    n : int
        Number of shapes.
    next_id : int
        Smallest id for a new hexagon; one above all ids in the table is taken if larger.

    Returns
    -------
    DataFrame
        All of :data:`FEATURES`; drawn and pasted shapes have ids of their own and the state
        *added*.
    """
    ids = features["hexagon_id"].to_numpy(int, copy=True) if "hexagon_id" in features else None
    if ids is None:
        ids = np.arange(n)
    new = (ids == NEW_ID) | pd.Series(ids).duplicated().to_numpy()
    ids[new] = max(ids.max(initial=-1) + 1, next_id) + np.arange(new.sum())
    codes = np.zeros(n, np.int8)  # predicted
    if "state" in features:
        given = features["state"]
        if given.dtype != _STATE_TYPE:
            given = pd.Series(
                pd.Categorical.from_codes(_STATES.get_indexer(given.astype(str)), dtype=_STATE_TYPE)
            )
        codes = given.cat.codes.to_numpy(copy=True)
    codes[new | (codes < 0)] = STATES.index("added")
    state = pd.Categorical.from_codes(codes, dtype=_STATE_TYPE)
    score = features["score"].to_numpy(float) if "score" in features else np.full(n, np.nan)
    domain = np.zeros(n, int)
    if "domain" in features:
        domain = np.nan_to_num(features["domain"].to_numpy(float)).astype(int)
    return hexagon_features(np.nan_to_num(score, nan=DRAWN_SCORE), ids, state, domain)


def hexagon_table(
    layer: Shapes, next_id: int = 0, *, shapes: Sequence[np.ndarray] | None = None
) -> pd.DataFrame:
    """Return the tidy table of a layer's hexagons as they stand.

    Shapes that are no hexagon's box, such as lines, are left out; the editor of the layer
    removes them as soon as they are drawn.

    Parameters
    ----------
    layer : Shapes
    next_id : int
        As in :func:`tidy_features`.
    shapes : sequence of ndarray, optional
        As :func:`shapes_of` returns them, if they are known already.

    Returns
    -------
    DataFrame
        :data:`FEATURES` and the eight :data:`CORNER_COLUMNS`.
    """
    shapes = shapes_of(layer) if shapes is None else shapes
    table = tidy_features(layer.features, len(shapes), next_id)
    if isinstance(shapes, np.ndarray):
        return with_corners(table, shapes)
    boxes = np.array([np.shape(shape) == (4, 2) for shape in shapes], bool)
    corners = [shape for shape, is_box in zip(shapes, boxes, strict=True) if is_box]
    return with_corners(table[boxes].reset_index(drop=True), corners)


def shapes_of(layer: Shapes) -> Sequence[np.ndarray]:
    """Return the vertices of a layer's shapes: one array (N, 4, 2) where all have four.

    napari makes its list anew each time that ``data`` is read, 2 ms for 10,000 shapes.
    """
    shapes = layer.data
    try:
        stacked = np.array(shapes, float)
    except ValueError:  # of different numbers of vertices
        return shapes
    return stacked if stacked.shape[1:] == (4, 2) else shapes


def with_corners(features: pd.DataFrame, corners_px: Sequence[np.ndarray]) -> pd.DataFrame:
    """Join features and corners, shape (N, 4, 2), to a tidy table."""
    corners = np.asarray(corners_px, float).reshape(-1, 8)
    return pd.concat([features, pd.DataFrame(corners, columns=CORNER_COLUMNS)], axis=1)


def corners_px(table: pd.DataFrame) -> np.ndarray:
    """Return the corners (y, x) of a tidy table's hexagons, shape (N, 4, 2)."""
    return table[CORNER_COLUMNS].to_numpy(float).reshape(-1, 4, 2)


def hexagons_of_table(table: pd.DataFrame) -> Hexagons:
    """Return the hexagons of a tidy table."""
    return Hexagons(
        corners_px(table), table["score"].to_numpy(float), table["domain"].to_numpy(int)
    )


def domains_of_shapes(
    shapes: Sequence[np.ndarray], where: DomainMap, known: np.ndarray | None = None
) -> np.ndarray:
    """Return the domain that each shape belongs to by its middle, shape (N,), int.

    Beside the domains it is the one that it is ``known`` to belong to, or else the nearest.
    """
    shapes = [np.asarray(shape, float) for shape in shapes]
    middles = [(shape.min(axis=0) + shape.max(axis=0)) / 2 for shape in shapes]
    return where.settled(np.reshape(middles, (-1, 2)), known).astype(int)


def box_of_shape(shape: np.ndarray, lattice: Lattice) -> np.ndarray | None:
    """Return the corners of the hexagon that a shape stands for, shape (4, 2); None for none.

    A shape that is no box along the lattice becomes one at its middle. Its size is kept where it
    is near a hexagon's, else the shape only says where the hexagon is. Lines and shapes without
    an area stand for nothing.

    Parameters
    ----------
    shape : ndarray of shape (K, 2)
        Vertices (y, x) in image pixels.
    lattice : Lattice
    """
    shape = np.asarray(shape, float)
    points = lattice.to_canonical(shape)
    if len(points) < 3:
        return None
    if len(points) == 4:  # a rectangle's sides, though it be turned a little
        centre = points.mean(axis=0)
        size = 2 * np.abs(points - centre).mean(axis=0)
    else:
        centre, size = (points.min(axis=0) + points.max(axis=0)) / 2, np.ptp(points, axis=0)
    if size.min() < 1e-6:
        return None
    if np.abs(size / HEXAGON_SIZE - 1).max() > _ODD_SIZE:
        box = hexagon_boxes(centre)
    else:
        box = np.concatenate([centre - size / 2, centre + size / 2])
    corners = Hexagons.from_canonical_boxes(box, [1.0], lattice).corners_px[0]
    same = len(shape) == 4 and np.abs(shape - corners).max() <= UNCHANGED_PX
    return shape if same else corners


def outside_a(hexagons: Hexagons, lattice: Lattice, shape: tuple[int, int]) -> np.ndarray:
    """Return how far the outermost of each hexagon's six columns lies outside an image.

    Parameters
    ----------
    hexagons : Hexagons
    lattice : Lattice
    shape : (int, int)
        Of the image.

    Returns
    -------
    ndarray of shape (N,)
        In units of a; negative inside.
    """
    boxes = hexagons.canonical_boxes(lattice)[:, None]  # (N, 1, 4)
    centre, size = (boxes[..., :2] + boxes[..., 2:]) / 2, boxes[..., 2:] - boxes[..., :2]
    columns = lattice.to_image(centre + _SITES * size / HEXAGON_SIZE)  # (N, 6, 2)
    beyond = np.maximum(-columns, columns - (np.array(shape) - 1))
    return beyond.max(axis=(1, 2)) / lattice.a_px
