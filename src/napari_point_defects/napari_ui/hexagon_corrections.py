"""Carry the user's edits of hexagons over to the next detection. Pure: no viewer, no Qt.

As with cells (:mod:`~napari_point_defects.napari_ui.corrections`), hexagons of two runs are the
same if their middles lie within 0.3 a of each other: they keep their ``hexagon_id``. A box that
the user moved or drew stays where it is, one that the user deleted stays deleted.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from napari_point_defects.matching import OVERLAP_A, SAME_PLACE_A, nearest
from napari_point_defects.napari_ui.hexagon_tables import (
    corners_px,
    hexagon_features,
    hexagons_of_table,
    with_corners,
)
from napari_point_defects.napari_ui.links import HexagonsLink
from napari_point_defects.records import Hexagons


@dataclass(frozen=True, slots=True)
class Redetection:
    """A new detection with the user's edits.

    Attributes
    ----------
    hexagons : Hexagons
    features : DataFrame
        Their ids, states and scores.
    deleted_px : ndarray of shape (K, 2)
        Middles of the hexagons that stay deleted in later runs.
    n_homeless : int
        Edits that could not be kept: others now lie across their place.
    """

    hexagons: Hexagons
    features: pd.DataFrame
    deleted_px: np.ndarray
    n_homeless: int


def written_ids(link: HexagonsLink) -> np.ndarray:
    """Return the ``hexagon_id`` of every hexagon that was drawn, shape (N,)."""
    n = len(link.detection.hexagons)
    return link.written_ids if len(link.written_ids) == n else np.arange(n)


def merge_edits(
    hexagons: Hexagons, table: pd.DataFrame, link: HexagonsLink, next_id: int, a_px: float
) -> Redetection:
    """Apply the edits of a layer to the hexagons of a new run.

    Parameters
    ----------
    hexagons : Hexagons
        As just detected.
    table : DataFrame
        Tidy table of the layer.
    link : HexagonsLink
        The layer's: what was drawn there.
    next_id : int
        Above every id ever used.
    a_px : float
        Of the new lattice.
    """
    reach = SAME_PLACE_A * a_px
    new_px = np.mean(hexagons.corners_px, axis=1)
    table_px, table_ids = corners_px(table).mean(axis=1), table["hexagon_id"].to_numpy(int)
    drawn_px, drawn_ids = np.mean(link.detection.hexagons.corners_px, axis=1), written_ids(link)

    gone = ~np.isin(drawn_ids, table_ids)
    deleted_px = np.concatenate([np.reshape(link.deleted_px, (-1, 2)), drawn_px[gone]])
    # one drawn again where another had been deleted is wanted after all
    deleted_px = deleted_px[nearest(table_px, deleted_px, reach) < 0]
    stay = np.ones(len(hexagons), bool)
    stay[_found(nearest(new_px, deleted_px, reach))] = False

    # a box that the user moved is found anew where it was before
    at = nearest(new_px, table_px, reach)
    places = dict(zip(drawn_ids.tolist(), drawn_px, strict=True))
    were_px = np.array(
        [places.get(i, p) for i, p in zip(table_ids.tolist(), table_px, strict=True)]
    )
    at = np.where(at < 0, nearest(new_px, were_px.reshape(-1, 2), reach), at)
    at[(at >= 0) & pd.Series(at).duplicated().to_numpy()] = -1

    ids = np.full(len(hexagons), -1)
    ids[at[at >= 0]] = table_ids[at >= 0]
    fresh = ids < 0
    ids[fresh] = next_id + np.arange(fresh.sum())
    edited = (table["state"] != "predicted").to_numpy()
    theirs = edited & (at >= 0)
    corners = np.array(hexagons.corners_px, float)
    corners[at[theirs]] = corners_px(table)[theirs]
    states = np.full(len(hexagons), "predicted", object)
    given = table["state"].astype(str).to_numpy(object)[theirs]
    states[at[theirs]] = np.where(given == "added", "corrected", given)

    lost = table[edited & (at < 0)]
    kept_px = corners.mean(axis=1)[stay]
    homeless = nearest(kept_px, corners_px(lost).mean(axis=1), OVERLAP_A * a_px) >= 0
    lost = lost[~homeless].assign(state="added", domain=0)
    # numbers of domains are those of one run: an edited box finds its domain anew
    domain = np.array(hexagons.domain)
    domain[at[theirs]] = 0
    features = hexagon_features(hexagons.scores, ids, states, domain)
    rows = pd.concat(
        [with_corners(features, corners)[stay], lost.astype({"state": str})], ignore_index=True
    )
    return Redetection(
        hexagons_of_table(rows),
        hexagon_features(
            rows["score"], rows["hexagon_id"], rows["state"].astype(str), rows["domain"]
        ),
        deleted_px,
        int(homeless.sum()),
    )


def _found(matches: np.ndarray) -> np.ndarray:
    return matches[matches >= 0]
