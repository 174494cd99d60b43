"""Boxes edited with the mouse in a real window, and the cells that follow them."""

from __future__ import annotations

import threading

import numpy as np
import pandas as pd
import pytest
from scipy.spatial import cKDTree

pytest.importorskip("napari")
pytest.importorskip("qtpy.QtWidgets", exc_type=ImportError)

from napari.layers import Layer
from qtpy.QtCore import QPoint, Qt
from qtpy.QtTest import QTest
from qtpy.QtWidgets import QWidget

from napari_point_defects import networks
from napari_point_defects.classification.calibration import ProbabilityCalibration
from napari_point_defects.errors import PointDefectsError, Stopped
from napari_point_defects.materials import HEXAGON_SIZE, MATERIALS
from napari_point_defects.napari_ui.box_correction import box_correction
from napari_point_defects.napari_ui.cell_changes import NamedRecast, follow, net_change
from napari_point_defects.napari_ui.cell_editor import current_table
from napari_point_defects.napari_ui.cell_tables import cell_table, centres_px
from napari_point_defects.napari_ui.classify_widget import ClassifyWidget
from napari_point_defects.napari_ui.detect_widget import DetectWidget
from napari_point_defects.napari_ui.hexagon_tables import corners_px, hexagon_table
from napari_point_defects.napari_ui.history import history_of
from napari_point_defects.napari_ui.links import CellsLink, HexagonsLink, link_of
from napari_point_defects.netcasting import cast_net
from napari_point_defects.records import Hexagons, UnitCells

pytestmark = pytest.mark.gui

MATERIAL = MATERIALS["MoTe2"]
MIDDLE = np.array([128.0, 128.0])


class Oracle:
    """Stands in for CNN-2: knows the class at every place; waits if told to."""

    calibration = ProbabilityCalibration()

    def __init__(self, cells):
        self.tree, self.classes = cKDTree(cells.centres_px), cells.classes
        self.asked = []
        self.error = None
        self.hold = False
        self.entered, self.go = threading.Event(), threading.Event()

    def reference(self, data, lattice, cells):
        return None

    def predict(self, data, lattice, cells, *, should_stop, on_progress, **_):
        self.asked.append(len(cells))
        self.entered.set()
        while self.hold and not self.go.wait(0.005):
            if should_stop():
                raise Stopped
        if self.error:
            raise self.error
        found = np.full((len(cells), 6), 0.02)
        found[np.arange(len(cells)), self.classes[self.tree.query(cells.centres_px)[1]]] = 0.9
        return UnitCells(cells.chalcogen_px, cells.metal_px, cells.votes, found)


@pytest.fixture
def oracle(monkeypatch, cells):
    oracle = Oracle(cells)
    monkeypatch.setattr(networks, "classifier_of", lambda settings: oracle)
    yield oracle
    oracle.go.set()


class Hand:
    """A hand on the mouse and the keys of the canvas; places in pixels of the image."""

    def __init__(self, viewer, layer):
        self.viewer, self.layer = viewer, layer
        children = viewer.window._qt_window.findChildren(QWidget)
        (self.canvas,) = (w for w in children if type(w).__name__ == "CanvasBackendDesktop")
        viewer.layers.selection.active = layer
        layer.visible = True
        QTest.qWait(50)

    def point(self, place):
        world = np.asarray(self.layer.data_to_world(place))[-2:]
        camera = self.viewer.scene.camera
        size = np.array([self.canvas.height(), self.canvas.width()])
        y, x = np.rint(size / 2 + (world - camera.center[-2:]) * camera.zoom).astype(int)
        return QPoint(int(x), int(y))

    def drag(self, start, end, modifier=Qt.KeyboardModifier.NoModifier):
        start, end = np.asarray(start, float), np.asarray(end, float)
        QTest.mouseMove(self.canvas, self.point(start))
        QTest.qWait(20)
        button = (Qt.MouseButton.LeftButton, modifier)
        QTest.mousePress(self.canvas, *button, self.point(start))
        for share in (0.4, 0.8, 1.0):
            QTest.mouseMove(self.canvas, self.point(start + share * (end - start)))
            QTest.qWait(20)
        QTest.mouseRelease(self.canvas, *button, self.point(end))
        QTest.qWait(30)

    def click(self, place, modifier=Qt.KeyboardModifier.NoModifier):
        self.drag(place, place, modifier)

    def press(self, key, modifiers=Qt.KeyboardModifier.NoModifier):
        QTest.keyClick(self.canvas, key, modifiers)
        QTest.qWait(30)

    def undo(self):
        self.press(Qt.Key.Key_Z, Qt.KeyboardModifier.ControlModifier)

    def redo(self):
        self.press(
            Qt.Key.Key_Z,
            Qt.KeyboardModifier.ControlModifier | Qt.KeyboardModifier.ShiftModifier,
        )


@pytest.fixture
def viewer(make_napari_viewer, stem_data):
    viewer = make_napari_viewer(show=True, strict_qt="raise")
    viewer.add_image(stem_data, name="field", scale=(0.02, 0.02), units=("nm", "nm"))
    return viewer


@pytest.fixture
def detect(viewer):
    widget = DetectWidget(viewer)
    viewer.window.add_dock_widget(widget, name="detect", tabify=True)
    return widget


@pytest.fixture
def classify(viewer):
    widget = ClassifyWidget(viewer)
    viewer.window.add_dock_widget(widget, name="classify", tabify=True)
    return widget


@pytest.fixture
def session(viewer, oracle, classified):
    """Both layers of the field, after one run of each widget."""
    viewer.reset_view()
    return viewer.layers["field hexagons"], classified


@pytest.fixture
def boxes(session):
    return session[0]


@pytest.fixture
def points(session):
    return session[1]


@pytest.fixture
def hand(viewer, boxes):
    return Hand(viewer, boxes)


@pytest.fixture
def settle(viewer, qtbot):
    def wait():
        correction = box_correction(viewer)
        qtbot.wait(10)
        qtbot.waitUntil(lambda: not correction.is_running, timeout=20_000)

    return wait


def middle_of(layer, number):
    table = hexagon_table(layer)
    return corners_px(table[table["hexagon_id"] == number])[0].mean(axis=0)


def top_at(layer, place=MIDDLE):
    """Return the id of the hexagon that the mouse takes there; the boxes overlap."""
    index, _ = layer.get_value(layer.data_to_world(place), world=True)
    return int(layer.features["hexagon_id"].iloc[index])


def at_the_left(layer):
    """Return the id of the leftmost hexagon and a place that is on it alone."""
    index = int(np.argmin([shape[:, 1].min() for shape in layer.data]))
    shape = layer.data[index]
    corner = shape[np.argmin(shape[:, 1])]
    place = shape.mean(axis=0) + 0.9 * (corner - shape.mean(axis=0))
    number = int(layer.features["hexagon_id"].iloc[index])
    assert top_at(layer, place) == number
    return number, place


def assert_layers_agree(boxes, points, shape=(256, 256)):
    """Both layers show the same: the cells are those that the boxes give."""
    table = hexagon_table(boxes)
    lattice = link_of(boxes, HexagonsLink).detection.lattice
    hexagons = Hexagons(corners_px(table), table["score"].to_numpy())
    expected = cast_net(hexagons, lattice, shape)
    assert len(points.data) == len(expected)
    distance, match = cKDTree(expected.centres_px).query(points.data)
    assert distance.max() < 0.1 * lattice.a_px
    assert len(set(match)) == len(points.data)
    cells = current_table(points)
    np.testing.assert_array_equal(cells["votes"], expected.votes[match])
    assert cells["cell_id"].is_unique
    written = link_of(points, CellsLink)
    assert set(written.written_ids) == set(cells["cell_id"])
    assert len(written.detection.hexagons) == len(table)


def rows(points):
    """What counts of each cell, by id."""
    table = current_table(points).set_index("cell_id").sort_index()
    return table.astype({"label": str, "state": str, "predicted": str})


def assert_same_rows(points, before):
    pd.testing.assert_frame_equal(rows(points), before, check_exact=False, rtol=1e-6)


# With the mouse


def test_a_box_moved_with_the_mouse(boxes, points, hand, settle, oracle, classify):
    before, number = rows(points), top_at(boxes)
    start = middle_of(boxes, number)
    boxes.mode = "select"
    hand.drag(MIDDLE, MIDDLE + [4, 5])
    settle()
    moved = middle_of(boxes, number) - start
    np.testing.assert_allclose(moved, [4, 5], atol=1.5)
    assert oracle.asked == [2]
    assert not points.selected_data
    assert classify.run.message.text() == "2 cells classified again"
    assert_layers_agree(boxes, points)
    changed = rows(points)
    assert set(changed.index) == set(before.index)
    shifted = np.abs(changed["metal_y"] - before["metal_y"]) > 0.3
    assert shifted.sum() == 2
    pd.testing.assert_frame_equal(changed[~shifted], before[~shifted])
    hand.undo()
    settle()
    np.testing.assert_allclose(middle_of(boxes, number), start, atol=0.01)
    assert_same_rows(points, before)
    hand.redo()
    settle()
    np.testing.assert_allclose(middle_of(boxes, number) - start, moved, atol=0.01)
    assert_same_rows(points, changed)
    assert oracle.asked == [2]  # known already
    assert_layers_agree(boxes, points)


def test_boxes_deleted_with_the_key(boxes, points, hand, settle, oracle, viewer):
    before, n = rows(points), len(boxes.data)
    boxes.mode = "select"
    edge, place = at_the_left(boxes)
    hand.click(place)
    hand.click(MIDDLE, Qt.KeyboardModifier.ShiftModifier)
    ids = boxes.features["hexagon_id"].iloc[sorted(boxes.selected_data)]
    assert set(ids) == {edge, top_at(boxes)}
    hand.press(Qt.Key.Key_Delete)
    settle()
    assert len(boxes.data) == n - 2
    assert_layers_agree(boxes, points)
    fewer = rows(points)
    assert len(fewer) < len(before)
    assert set(fewer.index) < set(before.index)
    assert "removed" in viewer.status
    hand.undo()
    settle()
    assert len(boxes.data) == n
    assert_same_rows(points, before)
    assert_layers_agree(boxes, points)
    hand.redo()
    settle()
    assert_same_rows(points, fewer)


def test_a_box_drawn_with_the_rectangle_tool(boxes, points, hand, settle, viewer, oracle):
    centre, n = middle_of(boxes, top_at(boxes)), len(boxes.data)
    # make room first
    around = [i for i, s in enumerate(boxes.data) if np.abs(s.mean(0) - centre).max() < 45]
    boxes.selected_data = set(around)
    hand.press(Qt.Key.Key_Delete)
    settle()
    before, history = rows(points), history_of(viewer, viewer.layers["field"].unique_id)
    assert history.count() == 1
    boxes.mode = "add_rectangle"
    hand.drag(centre - [9, 15], centre + [9, 15])
    settle()
    assert len(boxes.data) == n - len(around) + 1
    box = Hexagons(boxes.data[-1][None], np.ones(1)).canonical_boxes(
        link_of(boxes, HexagonsLink).detection.lattice
    )[0]
    np.testing.assert_allclose(box[2:] - box[:2], HEXAGON_SIZE, atol=1e-4)
    np.testing.assert_allclose(boxes.data[-1].mean(axis=0), centre, atol=2)
    assert len(points.data) == len(before) + 2
    assert oracle.asked[-1] == 2
    # their classes are the true ones, their ids were never used
    new = rows(points).drop(before.index)
    assert new.index.min() >= n
    classes = oracle.classes[oracle.tree.query(centres_px(new))[1]]
    assert new["label"].tolist() == [MATERIAL.class_labels[i] for i in classes]
    assert_layers_agree(boxes, points)
    hand.undo()
    settle()
    assert_same_rows(points, before)
    hand.redo()
    settle()
    assert len(points.data) == len(before) + 2
    assert_layers_agree(boxes, points)


def test_one_click_draws_a_hexagon_there(boxes, hand, settle, viewer):
    n = len(boxes.data)
    boxes.mode = "add_rectangle"
    hand.click([128, 128])
    settle()
    assert len(boxes.data) == n + 1
    np.testing.assert_allclose(boxes.data[-1].mean(axis=0), [128, 128], atol=2.5)


def test_a_box_pushed_out_goes_back(boxes, points, hand, settle, viewer, oracle, notes):
    before, n = rows(points), len(boxes.data)
    number, place = at_the_left(boxes)
    start = middle_of(boxes, number)
    boxes.mode = "select"
    hand.drag(place, place - [0, 30])
    settle()
    np.testing.assert_allclose(middle_of(boxes, number), start, atol=0.01)
    assert len(boxes.data) == n
    assert [note.message.split(" (")[0] for note in notes] == ["1 box put back: outside the image"]
    assert_same_rows(points, before)
    assert not oracle.asked
    assert history_of(viewer, viewer.layers["field"].unique_id).count() == 0
    assert boxes.features["hexagon_id"].iloc[sorted(boxes.selected_data)].tolist() == [number]
    # the layer can still be edited
    hand.drag(place, place + [0, 4])
    settle()
    assert np.abs(middle_of(boxes, number) - start).max() > 2
    assert_layers_agree(boxes, points)
    hand.undo()
    settle()
    np.testing.assert_allclose(middle_of(boxes, number), start, atol=0.01)
    assert_same_rows(points, before)


def test_many_boxes_dragged_at_once(boxes, points, hand, settle, oracle):
    before, centre = rows(points), middle_of(boxes, top_at(boxes))
    many = [i for i, s in enumerate(boxes.data) if np.abs(s.mean(0) - centre).max() < 30]
    assert len(many) > 2
    boxes.mode = "select"
    boxes.selected_data = set(many)
    hand.drag(MIDDLE, MIDDLE + [3, 3])
    settle()
    assert (boxes.features["state"] == "corrected").sum() == len(many)
    assert len(oracle.asked) == 1
    assert_layers_agree(boxes, points)
    hand.undo()
    settle()
    assert_same_rows(points, before)
    assert (boxes.features["state"] == "predicted").all()


# What the user decided


def decide(points, number, label):
    features = points.features
    features.loc[features["cell_id"] == number, "label"] = label
    points.events.features()


def cells_of_box(boxes, points, number):
    """Ids of the two cells of a box."""
    lattice = link_of(boxes, HexagonsLink).detection.lattice
    table = hexagon_table(boxes)
    one = Hexagons(corners_px(table[table["hexagon_id"] == number]), np.ones(1))
    expected = cast_net(one, lattice, (256, 256)).centres_px
    found = cKDTree(points.data).query(expected)[1]
    return points.features["cell_id"].iloc[found].tolist()


def test_decisions_stay_when_the_box_moves_and_go_with_it(boxes, points, hand, settle):
    number = top_at(boxes)
    one, _ = cells_of_box(boxes, points, number)
    decide(points, one, "V_Mo")
    start = middle_of(boxes, number)
    boxes.mode = "select"
    hand.drag(MIDDLE, MIDDLE + [3, 3])
    settle()
    now = rows(points).loc[one]
    assert (now["label"], now["state"]) == ("V_Mo", "corrected")
    assert now["predicted"] != "V_Mo"
    before = rows(points)
    # all boxes that vote for it
    around = [i for i, s in enumerate(boxes.data) if np.abs(s.mean(0) - start).max() < 40]
    boxes.selected_data = set(around)
    hand.press(Qt.Key.Key_Delete)
    settle()
    assert one not in rows(points).index
    hand.undo()
    settle()
    assert_same_rows(points, before)


def test_deleted_with_its_box_is_not_deleted_for_good(boxes, points, hand, settle, classify, run):
    """The next run may find it again; a cell that the user deleted stays out."""
    n, start = len(points.data), middle_of(boxes, top_at(boxes))
    around = [i for i, s in enumerate(boxes.data) if np.abs(s.mean(0) - start).max() < 40]
    boxes.selected_data = set(around)
    hand.press(Qt.Key.Key_Delete)
    settle()
    points.selected_data = {0}
    points.remove_selected()
    run(classify)  # the core's stand-in finds all cells again
    assert len(classify.census.editor.layer.data) == n - 1


# Meanwhile


def test_edits_made_meanwhile_are_classified_together(boxes, points, hand, settle, oracle, qtbot):
    oracle.hold = True
    before, number = rows(points), top_at(boxes)
    start = middle_of(boxes, number)
    boxes.mode = "select"
    hand.drag(MIDDLE, MIDDLE + [4, 4])
    qtbot.waitUntil(oracle.entered.is_set, timeout=20_000)
    for step in ([1, 1], [2, -2]):  # the user goes on; nothing is blocked
        hand.drag(MIDDLE + 4, MIDDLE + 4 + step)
    other = int(boxes.features["hexagon_id"].iloc[3])
    boxes.selected_data = {3}
    hand.press(Qt.Key.Key_Delete)
    assert len(oracle.asked) == 1
    oracle.go.set()
    settle()
    assert len(oracle.asked) == 2
    assert_layers_agree(boxes, points)
    assert other not in hexagon_table(boxes)["hexagon_id"].tolist()
    for _ in range(4):  # each edit is still a step of its own
        hand.undo()
        settle()
        assert_layers_agree(boxes, points)
    assert_same_rows(points, before)
    np.testing.assert_allclose(middle_of(boxes, number), start, atol=0.01)


def test_undone_before_it_was_classified(boxes, points, hand, settle, oracle, qtbot):
    oracle.hold = True
    before = rows(points)
    boxes.mode = "select"
    hand.drag(MIDDLE, MIDDLE + [4, 4])
    qtbot.waitUntil(oracle.entered.is_set, timeout=20_000)
    hand.undo()
    settle()  # the work is stopped, not waited for
    assert_same_rows(points, before)
    oracle.hold = False
    hand.redo()
    settle()
    assert_layers_agree(boxes, points)
    assert not rows(points).equals(before)


def test_boxes_edited_while_all_are_classified(boxes, points, hand, settle, core, classify, qtbot):
    core.hold = True
    core.entered.clear()
    classify.run.button.click()
    qtbot.waitUntil(core.entered.is_set, timeout=20_000)
    boxes.mode = "select"
    hand.drag(MIDDLE, MIDDLE + [4, 5])
    settle()
    core.go.set()
    qtbot.waitUntil(lambda: not classify.run.is_running, timeout=20_000)
    settle()
    assert_layers_agree(boxes, classify.census.editor.layer)


def test_after_an_error_the_next_edit_mends_it(
    boxes, points, hand, settle, oracle, classify, notes
):
    oracle.error = PointDefectsError("the weights are gone")
    boxes.mode = "select"
    hand.drag(MIDDLE, MIDDLE + [4, 5])
    settle()
    assert "the weights are gone" in classify.run.message.text()
    assert notes[-1].message == "the weights are gone"
    oracle.error = None
    hand.drag(MIDDLE + [4, 5], MIDDLE + [6, 5])
    settle()
    assert_layers_agree(boxes, points)


def test_boxes_that_the_cells_do_not_come_from(boxes, points, settle, classify, oracle, viewer):
    """A copy of the layer that was edited before the plugin watched it."""
    data, kwargs, kind = boxes.as_layer_data_tuple()
    fewer = {**kwargs, "name": "other", "features": kwargs["features"].iloc[5:]}
    for key in ("shape_type", "edge_width", "edge_color", "face_color", "z_index"):
        fewer[key] = fewer[key][5:]
    other = viewer.add_layer(Layer.create(data[5:], fewer, kind))
    before = rows(points)
    other.remove([0])
    settle()
    assert "classify point defects again" in classify.run.message.text()
    assert_same_rows(points, before)
    assert not oracle.asked


def test_boxes_edited_before_there_are_cells(viewer, detect, core, oracle, run, settle):
    run(detect)
    boxes = viewer.layers["field hexagons"]
    boxes.remove([0])
    settle()
    assert not oracle.asked
    assert len(boxes.data) == len(core.hexagons) - 1


def test_a_closed_image_is_said(boxes, points, hand, settle, classify, viewer):
    viewer.layers.remove("field")
    boxes.remove([0])
    settle()
    assert "image of these boxes is closed" in classify.run.message.text()


# The tables


def test_changes_in_a_row_are_one(cells):
    table = cell_table(cells, MATERIAL)
    none = UnitCells.unclassified(np.empty((0, 2)), np.empty((0, 2)), np.empty(0, int))
    ids = np.array([900, 901])
    changes = follow(
        table,
        [
            NamedRecast(np.array([3, 4]), np.array([3, 900]), cells.take(np.array([3, 50]))),
            NamedRecast(np.array([3]), np.array([3]), cells.take(np.array([60]))),
            NamedRecast(np.array([900]), np.zeros(0, int), none),
            NamedRecast(np.array([7]), ids[1:], cells.take(np.array([70]))),
        ],
        MATERIAL,
    )
    net = net_change(changes)
    assert sorted(net.drop_ids) == [3, 4, 7]
    assert sorted(net.rows["cell_id"]) == [3, 901]
    by_id = net.rows.set_index("cell_id")
    assert by_id.loc[3, "metal_y"] == cells.metal_px[60, 0]
    assert net.told("classified again") == "2 cells classified again, 2 removed"
    back = net.reversed()
    assert sorted(back.rows["cell_id"]) == [3, 4, 7]
    np.testing.assert_allclose(
        back.rows.set_index("cell_id").loc[3, "metal_y"], cells.metal_px[3, 0]
    )
    assert changes[2].told("as before") == "1 cell removed"


def test_a_cell_deleted_meanwhile_stays_out(cells):
    table = cell_table(cells, MATERIAL).drop(index=4)
    recast = NamedRecast(np.array([3, 4]), np.array([3, 4]), cells.take(np.array([3, 4])))
    (change,) = follow(table, [recast], MATERIAL)
    assert change.rows["cell_id"].tolist() == [3]
    assert change.drop_ids.tolist() == [3]
