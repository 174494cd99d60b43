"""The user's edits of hexagons, carried over to another detection. Pure."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

pytest.importorskip("napari")

from napari_point_defects.analysis_settings import AnalysisSettings
from napari_point_defects.detections import Detection
from napari_point_defects.napari_ui.hexagon_corrections import merge_edits
from napari_point_defects.napari_ui.hexagon_tables import (
    CORNER_COLUMNS,
    corners_px,
    hexagon_features,
    with_corners,
)
from napari_point_defects.napari_ui.links import HexagonsLink
from napari_point_defects.records import Hexagons

A_PX = 24.0


@pytest.fixture
def link(lattice, hexagons):
    detection = Detection(lattice, hexagons, (0.01, 0.01), "lattice")
    return HexagonsLink("image", detection, AnalysisSettings())


@pytest.fixture
def table(hexagons):
    return with_corners(hexagon_features(hexagons.scores), hexagons.corners_px)


@pytest.fixture
def second_run(hexagons):
    """The same hexagons, in another order and a little elsewhere."""
    rng = np.random.default_rng(2)
    order = rng.permutation(len(hexagons))
    corners = hexagons.corners_px[order] + rng.normal(0, 0.5, (len(order), 1, 2))
    return Hexagons(corners, hexagons.scores[order]), order


def merged(hexagons, table, link, next_id=1000):
    return merge_edits(hexagons, table, link, next_id, A_PX)


def box_of(result, number):
    index = result.features["hexagon_id"].tolist().index(number)
    return result.hexagons.corners_px[index]


def test_without_edits_only_the_ids_are_kept(second_run, table, link):
    hexagons, order = second_run
    result = merged(hexagons, table, link)
    assert result.features["hexagon_id"].tolist() == order.tolist()
    assert (result.features["state"] == "predicted").all()
    np.testing.assert_allclose(result.hexagons.corners_px, hexagons.corners_px)
    np.testing.assert_allclose(result.features["score"], hexagons.scores)
    assert result.n_homeless == 0


def test_moved_boxes_stay_where_the_user_put_them(second_run, table, link):
    hexagons, _ = second_run
    for row, shift in ((4, 3.0), (9, 12.0)):  # 12 px: half a lattice constant
        table.loc[row, CORNER_COLUMNS] += shift
        table.loc[row, "state"] = "corrected"
    result = merged(hexagons, table, link)
    assert len(result.hexagons) == len(hexagons)
    for row in (4, 9):
        np.testing.assert_allclose(box_of(result, row), corners_px(table)[row])
    states = result.features.set_index("hexagon_id")["state"]
    assert states[[4, 9]].tolist() == ["corrected", "corrected"]
    assert (states.drop([4, 9]) == "predicted").all()


def test_deleted_boxes_stay_deleted_in_every_later_run(second_run, table, link):
    hexagons, _ = second_run
    fewer = table.drop(index=[2, 5]).reset_index(drop=True)
    result = merged(hexagons, fewer, link)
    assert set(table["hexagon_id"]) - set(result.features["hexagon_id"]) == {2, 5}
    detection = Detection(link.detection.lattice, result.hexagons, (0.01, 0.01), "lattice")
    ids = result.features["hexagon_id"].to_numpy()
    again = HexagonsLink("image", detection, link.settings, ids, result.deleted_px)
    now = with_corners(result.features, result.hexagons.corners_px)
    later = merged(hexagons, now, again)
    assert set(later.features["hexagon_id"]) == set(ids)
    # unless one is drawn there again
    drawn = with_corners(
        hexagon_features([1.0], [500], ["added"]), table.loc[[5], CORNER_COLUMNS].to_numpy()
    )
    later = merged(hexagons, pd.concat([now, drawn], ignore_index=True), again)
    assert set(later.features["hexagon_id"]) == {*ids, 500}
    assert later.features.set_index("hexagon_id")["state"][500] == "corrected"
    assert len(later.deleted_px) == 1


def test_boxes_that_are_not_found_again_stay_as_added(second_run, table, link):
    hexagons, order = second_run
    table.loc[7, "state"] = "corrected"
    found = order != 7
    without = Hexagons(hexagons.corners_px[found], hexagons.scores[found])
    result = merged(without, table, link)
    assert len(result.hexagons) == len(hexagons)
    np.testing.assert_allclose(box_of(result, 7), corners_px(table)[7])
    assert result.features["state"].iloc[-1] == "added"
    assert result.n_homeless == 0


def test_new_hexagons_get_new_ids(second_run, table, link):
    hexagons, order = second_run
    keep = order != 3
    old = table[table["hexagon_id"] != 3].reset_index(drop=True)
    drawn = Hexagons(hexagons.corners_px[keep], hexagons.scores[keep])
    link = HexagonsLink(
        "image",
        Detection(link.detection.lattice, drawn, (0.01, 0.01), "lattice"),
        link.settings,
        order[keep],
    )
    result = merged(hexagons, old, link)
    assert set(result.features["hexagon_id"]) == {*order[keep], 1000}


def test_what_finds_no_place_is_counted(hexagons, table, link):
    table.loc[7, "state"] = "corrected"
    shifted = Hexagons(hexagons.corners_px + [0.0, 0.577 * A_PX], hexagons.scores)
    result = merged(shifted, table, link)
    assert result.n_homeless == 1
    assert len(result.hexagons) == len(hexagons)


def test_from_and_to_nothing(hexagons, table, link):
    nothing = Hexagons(np.empty((0, 4, 2)), np.empty(0))
    assert len(merged(nothing, table, link).hexagons) == 0
    table.loc[7, "state"] = "corrected"
    assert len(merged(nothing, table, link).hexagons) == 1
    empty = HexagonsLink(
        "image", Detection(link.detection.lattice, nothing, (1, 1), "lattice"), link.settings
    )
    result = merged(hexagons, table.iloc[:0], empty, next_id=0)
    assert result.features["hexagon_id"].tolist() == list(range(len(hexagons)))
