"""What the user did to the shapes of a hexagon layer, and what may stand. Pure: no viewer, no Qt.

A shape drawn by hand becomes a hexagon along the lattice; one that leaves the image, or that is no
box at all, is refused: it is put back, or removed if it is new.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from napari_point_defects.domains.casting import DomainMap
from napari_point_defects.napari_ui.hexagon_tables import (
    UNCHANGED_PX,
    box_of_shape,
    corners_px,
    domains_of_shapes,
    hexagons_of_table,
    outside_a,
    with_corners,
)
from napari_point_defects.records import Hexagons

EDGE_TOLERANCE_A = 0.15
"""How far, in units of a, a hexagon's columns may lie outside the image. CNN-1 knows hexagons
whose six columns are in the image, and places them within 0.11 a."""


@dataclass(frozen=True, eq=False)
class BoxEdit:
    """One thing the user did to the hexagons.

    Attributes
    ----------
    before, after : DataFrame
        Tidy rows of the hexagons concerned, as they were and as they are: a deleted one is only
        in ``before``, an added one only in ``after``.
    """

    before: pd.DataFrame
    after: pd.DataFrame

    def __len__(self) -> int:
        return len(self.before) + len(self.after)

    def __str__(self) -> str:
        was, now = set(self.before["hexagon_id"]), set(self.after["hexagon_id"])
        verbs = {"move": was & now, "delete": was - now, "add": now - was}
        parts = [f"{verb} {_boxes(len(ids))}" for verb, ids in verbs.items() if ids]
        return ", ".join(parts).capitalize()


@dataclass(frozen=True, eq=False)
class BoxChange:
    """An edit that has just been done, undone or done again.

    Attributes
    ----------
    edit : BoxEdit
    forward : bool
        False where it was undone.
    before, after : Hexagons
        All hexagons of the layer.
    """

    edit: BoxEdit
    forward: bool
    before: Hexagons
    after: Hexagons


@dataclass(frozen=True, eq=False)
class Verdict:
    """What of the user's doing may stand, and what the layer needs for it.

    Attributes
    ----------
    edit : BoxEdit
        What may stand.
    redraw : DataFrame
        Tidy rows of hexagons whose shapes are to be replaced.
    remove_ids : ndarray of int
        Hexagons that are to go.
    refusals : tuple of str
        What to tell the user.
    """

    edit: BoxEdit
    redraw: pd.DataFrame
    remove_ids: np.ndarray
    refusals: tuple[str, ...]


def judge(
    seen: pd.DataFrame,
    features: pd.DataFrame,
    shapes: Sequence[np.ndarray],
    shape_types: Sequence[str],
    where: DomainMap,
    image_shape: tuple[int, int] | None,
) -> Verdict:
    """Compare a layer with what was seen last.

    Parameters
    ----------
    seen : DataFrame
        Tidy table of the hexagons at the last look.
    features : DataFrame
        Tidy features of the shapes as they are.
    shapes : sequence of ndarray of shape (K, 2)
        Vertices (y, x) in image pixels.
    shape_types : sequence of str
        As napari names them.
    where : DomainMap
        A box lies along the lattice of the domain that its middle is in.
    image_shape : (int, int) or None
        None where the image is closed: any box may stand then.

    Returns
    -------
    Verdict
    """
    ids = features["hexagon_id"].to_numpy(int)
    row = pd.Index(seen["hexagon_id"]).get_indexer(ids)  # −1 for a new one
    is_box = np.array(shape_types, object) == "rectangle"
    now = np.full((len(shapes), 4, 2), np.nan)
    if isinstance(shapes, np.ndarray):
        now[is_box] = shapes[is_box]
    elif len(shapes):
        is_box &= [len(shape) == 4 for shape in shapes]
        for i in np.flatnonzero(is_box):
            now[i] = shapes[i]
    unmoved = row >= 0
    shift = np.abs(now[unmoved] - corners_px(seen)[row[unmoved]]).max(axis=(1, 2), initial=0)
    unmoved[unmoved] = shift <= UNCHANGED_PX  # never so for NaN
    touched = np.flatnonzero(~unmoved)

    domain = features["domain"].to_numpy(int, copy=True)
    domain[touched] = domains_of_shapes([shapes[i] for i in touched], where, domain[touched])
    boxes = [box_of_shape(shapes[i], where.lattice_of(domain[i])) for i in touched]
    redraw = np.zeros(len(shapes), bool)
    for i, box in zip(touched, boxes, strict=True):
        if box is not None:
            redraw[i] = not (is_box[i] and np.array_equal(box, now[i]))
            now[i] = box
    shapeless = np.zeros(len(shapes), bool)
    shapeless[touched] = [box is None for box in boxes]
    outside = _leaving(now, touched[~shapeless[touched]], row, seen, domain, where, image_shape)
    refused = shapeless | outside
    new, old = refused & (row < 0), refused & (row >= 0)

    good = touched[~refused[touched]]
    after = with_corners(features.iloc[good].reset_index(drop=True), now[good])
    after["domain"] = domain[good]
    moved = (row[good] >= 0) & (after["state"] != "added").to_numpy()
    after.loc[moved, "state"] = "corrected"
    gone = np.setdiff1d(np.arange(len(seen)), row)
    before = seen.iloc[np.union1d(gone, row[good][row[good] >= 0]).astype(int)]
    return Verdict(
        BoxEdit(before.reset_index(drop=True), after),
        pd.concat([seen.iloc[row[old]], after[redraw[good]]], ignore_index=True),
        ids[new],
        tuple(
            _refusal(int((mask & old).sum()), int((mask & new).sum()), why)
            for mask, why in (
                (outside, "outside the image (a hexagon's six columns must lie in it)"),
                (shapeless, "not a box (draw hexagons with the rectangle tool)"),
            )
            if mask.any()
        ),
    )


def _leaving(
    now: np.ndarray,
    touched: np.ndarray,
    row: np.ndarray,
    seen: pd.DataFrame,
    domain: np.ndarray,
    where: DomainMap,
    image_shape: tuple[int, int] | None,
) -> np.ndarray:
    """Tell which touched boxes leave the image; one that was out already may go no farther."""
    leaving = np.zeros(len(now), bool)
    if image_shape is None or not len(touched):
        return leaving
    most = np.full(len(touched), EDGE_TOLERANCE_A)
    old = row[touched] >= 0
    were = hexagons_of_table(seen.iloc[row[touched][old]])
    most[old] = np.maximum(most[old], _outside_a(were, where, image_shape) + 1e-3)
    are = Hexagons(now[touched], np.ones(len(touched)), domain[touched])
    leaving[touched] = _outside_a(are, where, image_shape) > most
    return leaving


def _outside_a(hexagons: Hexagons, where: DomainMap, shape: tuple[int, int]) -> np.ndarray:
    """Return how far each hexagon lies outside an image, in units of a of its own lattice."""
    own = where.of_hexagons(hexagons)
    found = np.empty(len(hexagons))
    for number in np.unique(own):
        rows = own == number
        found[rows] = outside_a(hexagons.take(rows), where.lattice_of(number), shape)
    return found


def _refusal(n_back: int, n_removed: int, why: str) -> str:
    done = [f"{_boxes(n_back)} put back"] if n_back else []
    done += [f"{_boxes(n_removed)} removed"] if n_removed else []
    return f"{', '.join(done)}: {why}"


def _boxes(n: int) -> str:
    return f"{n} box" if n == 1 else f"{n} boxes"
