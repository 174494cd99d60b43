"""The queue, the filters and the lasso of the review, without a viewer."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("napari")
pytest.importorskip("qtpy.QtWidgets", exc_type=ImportError)

from napari_point_defects.materials import MATERIALS
from napari_point_defects.napari_ui.cell_filter import CellFilter
from napari_point_defects.napari_ui.cell_tables import cell_table, labelled
from napari_point_defects.napari_ui.lasso import is_inside
from napari_point_defects.napari_ui.review_queue import review_queue
from napari_point_defects.review import UNSURE_BELOW

MATERIAL = MATERIALS["MoTe2"]


@pytest.fixture
def table(cells):
    """Cell 4 is the least sure, then 9 and 2; the others are sure."""
    probabilities = np.tile([0.99, 0.01, 0, 0, 0, 0], (len(cells), 1))
    probabilities[4] = [0.5, 0.45, 0.05, 0, 0, 0]
    probabilities[9] = probabilities[2] = [0.6, 0.4, 0, 0, 0, 0]
    sure = type(cells)(cells.chalcogen_px, cells.metal_px, cells.votes, probabilities)
    return cell_table(sure, MATERIAL)


def queue(table, shown=None):
    return review_queue(table, np.ones(len(table), bool) if shown is None else shown, MATERIAL)


def test_the_queue_holds_shown_undecided_cells(table):
    whole = queue(table)
    assert whole.ids[:4].tolist() == [4, 2, 9, 0]
    assert (len(whole), whole.n_unsure, whole.n_reviewed) == (len(table), 3, 0)
    confidence = table["confidence"].to_numpy()[whole.ids]
    assert confidence[2] < UNSURE_BELOW < confidence[3]
    table.iloc[[4, 20]] = labelled(table.iloc[[4, 20]], "V_Te1")
    table.loc[9, [c for c in table if c.startswith("p_")]] = np.nan  # the network never saw it
    shown = np.ones(len(table), bool)
    shown[0] = False
    part = queue(table, shown)
    assert part.ids[:2].tolist() == [2, 1]
    assert not {0, 4, 9, 20} & set(part.ids)
    assert (part.n_unsure, part.n_reviewed) == (2, 1)


def test_steps_go_on_from_where_the_user_is(table):
    whole = queue(table)
    place = (-whole.unsure[1], whole.ids[1])
    assert whole.step(None, 1) == (4, False)
    assert whole.step(place, 1) == (9, False)
    assert whole.step(place, -1) == (4, False)
    first, last = (-whole.unsure[0], 4), (-whole.unsure[-1], whole.ids[-1])
    assert whole.step(first, -1) == (whole.ids[-1], True)
    assert whole.step(last, 1) == (4, True)
    # from the place of a cell that has been decided on, and is no longer there
    table.iloc[[2]] = labelled(table.iloc[[2]])
    assert queue(table).step(place, 1) == (9, False)
    assert queue(table).step(place, -1) == (4, False)
    assert queue(table, np.zeros(len(table), bool)).step(place, 1) is None


def test_filters_by_class_state_and_confidence(table):
    table.iloc[[4]] = labelled(table.iloc[[4]], "V_Te1")
    table.loc[7, "confidence"] = np.nan
    everything = CellFilter()
    assert everything.shows(table).all()
    assert not CellFilter(hidden=frozenset({"V_Te1"})).shows(table)[4]
    assert CellFilter(hidden=frozenset({"V_Te1"})).shows(table).sum() == len(table) - 1
    only = CellFilter(states=frozenset({"corrected"})).shows(table)
    assert np.flatnonzero(only).tolist() == [4]
    unsure = CellFilter(confidence=(0.0, 0.7)).shows(table)
    assert np.flatnonzero(unsure).tolist() == [2, 4, 7, 9]
    both = CellFilter(states=frozenset({"predicted"}), confidence=(0.0, 0.7)).shows(table)
    assert np.flatnonzero(both).tolist() == [2, 7, 9]
    # of the three unsure ones the user has decided on cell 4
    assert np.flatnonzero(CellFilter(only_unsure=True).shows(table)).tolist() == [2, 9]


def test_points_inside_a_polygon():
    """A square with a notch: neither its box nor its convex hull."""
    polygon = np.array([[0, 0], [0, 10], [10, 10], [10, 6], [4, 5], [10, 4], [10, 0]])
    points = np.array([[2, 5], [8, 5], [8, 1], [8, 9], [-1, 5], [5, 11], [5, 2]])
    expected = [True, False, True, True, False, False, True]
    assert is_inside(points, polygon).tolist() == expected
    assert is_inside(points, polygon[::-1]).tolist() == expected
    assert is_inside(np.empty((0, 2)), polygon).tolist() == []
