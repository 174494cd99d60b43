"""What becomes of shapes that are edited: snapped, refused, named, undone. Without a window."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("napari")
pytest.importorskip("qtpy.QtWidgets", exc_type=ImportError)

from napari.layers import Layer
from qtpy.QtGui import QUndoStack

from napari_point_defects.analysis_settings import AnalysisSettings
from napari_point_defects.detections import Detection
from napari_point_defects.domains.casting import DomainMap
from napari_point_defects.materials import HEXAGON_SIZE
from napari_point_defects.napari_ui.hexagon_editor import HexagonEditor
from napari_point_defects.napari_ui.hexagon_edits import EDGE_TOLERANCE_A, judge
from napari_point_defects.napari_ui.hexagon_layers import (
    EDGE_COLOUR,
    EDITED_COLOUR,
    hexagons_layer_data,
)
from napari_point_defects.napari_ui.hexagon_tables import (
    CORNER_COLUMNS,
    NEW_ID,
    box_of_shape,
    corners_px,
    hexagon_features,
    hexagon_table,
    hexagons_of_table,
    outside_a,
    tidy_features,
)
from napari_point_defects.napari_ui.history import remember
from napari_point_defects.napari_ui.links import HexagonsLink
from napari_point_defects.records import Hexagons, hexagon_boxes

pytestmark = pytest.mark.gui

SHAPE = (256, 256)


@pytest.fixture
def layer(lattice, hexagons):
    detection = Detection(lattice, hexagons, (0.01, 0.01), "lattice")
    link = HexagonsLink("image", detection, AnalysisSettings())
    return Layer.create(*hexagons_layer_data(link, "hexagons", {}))


@pytest.fixture
def history(qapp):
    return QUndoStack()


@pytest.fixture
def editor(layer, history):
    editor = HexagonEditor(layer, history, lambda: SHAPE)
    yield editor
    editor.detach()


@pytest.fixture
def changes(editor):
    seen = []
    editor.changed.connect(seen.append)
    return seen


def colours(layer):
    """Colours of the edges as hex strings without alpha."""
    rgb = np.rint(255 * np.asarray(layer.edge_color)[:, :3]).astype(int)
    return ["#{:02x}{:02x}{:02x}".format(*row) for row in rgb]


def by_id(layer):
    """Corners of each hexagon."""
    table = hexagon_table(layer)
    return dict(zip(table["hexagon_id"], corners_px(table), strict=True))


def assert_back(layer, before):
    now = by_id(layer)
    assert set(now) == set(before)
    for number, corners in before.items():
        np.testing.assert_allclose(now[number], corners, atol=0.01)


def rectangle(centre, height, width):
    half = np.array([height, width]) / 2
    return np.asarray(centre) + half * [[-1, -1], [-1, 1], [1, 1], [1, -1]]


# The table


def test_table_of_a_fresh_layer(layer, hexagons):
    table = hexagon_table(layer)
    assert list(table) == ["hexagon_id", "state", "score", "domain", *CORNER_COLUMNS]
    assert len(CORNER_COLUMNS) == 8
    assert table["hexagon_id"].tolist() == list(range(len(hexagons)))
    assert (table["state"] == "predicted").all()
    back = hexagons_of_table(table)
    np.testing.assert_allclose(back.corners_px, hexagons.corners_px, atol=1e-3)
    np.testing.assert_allclose(back.scores, hexagons.scores)


def test_drawn_and_pasted_shapes_get_ids_that_were_never_used():
    features = hexagon_features([0.9, np.nan, 0.8], [4, -1, 4], ["predicted", "added", "corrected"])
    table = tidy_features(features, 3, next_id=9)
    assert table["hexagon_id"].tolist() == [4, 9, 10]
    assert table["state"].tolist() == ["predicted", "added", "added"]
    assert table["score"].tolist() == [0.9, 1.0, 0.8]


def test_a_layer_without_our_columns_gets_them(layer, history):
    del layer.features["hexagon_id"]
    layer.features["state"] = "whatever"
    editor = HexagonEditor(layer, history, lambda: SHAPE)
    assert layer.features["hexagon_id"].tolist() == list(range(len(layer.data)))
    assert set(layer.features["state"]) == {"added"}
    editor.detach()


def test_every_box_can_be_taken_with_the_mouse(lattice, hexagons):
    """Whatever the order of the detection; the boxes cover each other."""
    order = np.random.default_rng(0).permutation(len(hexagons))
    mixed = Hexagons(hexagons.corners_px[order], hexagons.scores[order])
    detection = Detection(lattice, mixed, (0.01, 0.01), "lattice")
    link = HexagonsLink("image", detection, AnalysisSettings())
    layer = Layer.create(*hexagons_layer_data(link, "hexagons", {}))
    for i, shape in enumerate(mixed.corners_px):
        place = shape.mean(axis=0) + lattice.matrix_px @ [-0.3, -0.15]
        assert layer.get_value(place)[0] == i


# What a shape stands for


def test_shapes_become_boxes_along_the_lattice(lattice):
    centre = np.array([120.0, 130.0])
    middle = lattice.to_canonical(centre)
    true = Hexagons.from_canonical_boxes(hexagon_boxes(middle), [1], lattice).corners_px[0]
    assert box_of_shape(true, lattice) is not None
    np.testing.assert_array_equal(box_of_shape(true, lattice), true)
    np.testing.assert_allclose(box_of_shape(true[[2, 3, 0, 1]], lattice), true, atol=1e-9)
    for odd in (rectangle(centre, 8, 9), rectangle(centre, 90, 8), 0.2 * (true - centre) + centre):
        np.testing.assert_allclose(box_of_shape(odd, lattice), true, atol=1e-6)
    # a box that was turned by hand turns back; one of nearly the right size keeps it
    turn = np.radians(9)
    rotation = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    turned = box_of_shape((true - centre) @ rotation.T + centre, lattice)
    assert np.abs(turned - true).max() < 0.08 * lattice.a_px
    larger = box_of_shape(1.1 * (true - centre) + centre, lattice)
    boxes = Hexagons(larger[None], np.ones(1)).canonical_boxes(lattice)[0]
    np.testing.assert_allclose(boxes[2:] - boxes[:2], 1.1 * HEXAGON_SIZE, atol=1e-6)


@pytest.mark.parametrize(
    "shape", [np.zeros((2, 2)), [[5, 5], [9, 9]], [[1, 1], [1, 1], [1, 1]], [[1, 1]] * 4]
)
def test_lines_and_points_are_no_box(shape, lattice):
    assert box_of_shape(np.array(shape, float), lattice) is None


def test_how_far_a_box_leaves_the_image(lattice):
    inside = lattice.to_canonical(np.array([[128.0, 128.0], [10.0, 128.0]]))
    boxes = Hexagons.from_canonical_boxes(hexagon_boxes(inside), np.ones(2), lattice)
    deep, shallow = outside_a(boxes, lattice, SHAPE)
    # a column lies a bond's length, 0.577 a, from the middle, and the frame is turned by 17°
    assert deep == pytest.approx(-127 / lattice.a_px + 0.577, abs=0.05)
    assert shallow == pytest.approx(-10 / lattice.a_px + 0.577, abs=0.05)


# Edits


def test_untouched_boxes_are_left_alone(layer, editor, changes, history):
    before = list(layer.data)
    editor.look()
    assert not changes
    assert history.count() == 0
    assert all(new is old for new, old in zip(layer.data, before, strict=True))


def test_deleted_boxes_come_back_with_their_ids(layer, editor, changes, history, qtbot):
    before = by_id(layer)
    layer.selected_data = {3, 7, 8}
    with qtbot.waitSignal(editor.changed):
        layer.remove_selected()
    (change,) = changes
    assert history.count() == 1
    assert history.undoText() == "Delete 3 boxes"
    assert len(change.before) == len(before)
    assert len(change.after) == len(before) - 3
    assert set(before) - set(by_id(layer)) == {3, 7, 8}
    history.undo()
    assert_back(layer, before)
    assert layer.features.set_index("hexagon_id")["state"][3] == "predicted"
    assert colours(layer) == [EDGE_COLOUR] * len(before)
    assert not changes[1].forward
    assert changes[1].edit is change.edit
    history.redo()
    assert set(before) - set(by_id(layer)) == {3, 7, 8}
    assert changes[2].forward
    history.undo()
    assert_back(layer, before)


def test_a_drawn_rectangle_becomes_a_hexagon_in_the_layer(layer, editor, changes, history, qtbot):
    n, centre = len(layer.data), np.array([128.0, 128.0])
    with qtbot.waitSignal(editor.changed):
        layer.add_rectangles([rectangle(centre, 9, 14)])
    assert len(layer.data) == n + 1
    box = Hexagons(layer.data[-1][None], np.ones(1)).canonical_boxes(editor.lattice)[0]
    np.testing.assert_allclose(box[2:] - box[:2], HEXAGON_SIZE, atol=1e-4)
    np.testing.assert_allclose(layer.data[-1].mean(axis=0), centre, atol=1e-3)
    last = layer.features.iloc[-1]
    assert (last["hexagon_id"], last["state"], last["score"]) == (n, "added", 1.0)
    assert colours(layer)[-1] == EDITED_COLOUR
    assert colours(layer)[:-1] == [EDGE_COLOUR] * n
    history.undo()
    assert len(layer.data) == n
    history.redo()
    assert layer.features["hexagon_id"].iloc[-1] == n
    # a deleted id is not given to another box
    history.undo()
    with qtbot.waitSignal(editor.changed):
        layer.add_rectangles([rectangle(centre + 20, 9, 14)])
    assert layer.features["hexagon_id"].iloc[-1] == n + 1


@pytest.mark.parametrize("kind", ["ellipse", "polygon", "path"])
def test_other_shapes_become_hexagons_too(kind, layer, editor, changes, qtbot):
    shape = rectangle([128, 128], 20, 16)
    if kind != "ellipse":
        shape = np.concatenate([shape, [[128.0, 110.0]]])
    with qtbot.waitSignal(editor.changed):
        layer.add([shape], shape_type=kind)
    assert layer.shape_type[-1] == "rectangle"
    assert layer.data[-1].shape == (4, 2)
    assert len(changes[0].edit.after) == 1


def test_a_script_can_edit_as_the_user_does(layer, editor, changes, history):
    before = by_id(layer)
    table = editor.table()
    deep = int(np.argmin([np.abs(shape - 128).max() for shape in layer.data]))
    rows = table[table["hexagon_id"].isin([deep, 0])].reset_index(drop=True)
    rows[CORNER_COLUMNS] += 2.0
    rows.loc[rows["hexagon_id"] == 0, "hexagon_id"] = NEW_ID
    editor.write([1, 2], rows)
    assert history.undoText() == "Move 1 box, delete 2 boxes, add 1 box"
    now = by_id(layer)
    assert set(now) == set(before) - {1, 2} | {len(before)}
    np.testing.assert_allclose(now[deep], before[deep] + 2, atol=0.01)
    np.testing.assert_allclose(now[len(before)], before[0] + 2, atol=0.01)
    assert len(changes) == 1
    history.undo()
    assert_back(layer, before)


def test_a_line_is_removed_and_the_user_told(layer, editor, changes, qtbot, notes):
    n = len(layer.data)
    layer.add([[[20.0, 20.0], [90.0, 90.0]]], shape_type="line")
    qtbot.waitUntil(lambda: len(layer.data) == n)
    assert not changes
    (note,) = notes
    assert note.severity.value == "warning"
    assert note.message.startswith("1 box removed: not a box")


def test_moved_boxes_are_one_step_and_look_edited(layer, editor, changes, history, qtbot):
    before = by_id(layer)
    data = [shape.copy() for shape in layer.data]
    middle = [i for i, shape in enumerate(data) if np.abs(shape - 128).max() < 80][:4]
    for i in middle:
        data[i] += [2.0, -1.5]
    with qtbot.waitSignal(editor.changed):
        layer.data = data
    (change,) = changes
    assert history.undoText() == f"Move {len(middle)} boxes"
    assert sorted(change.edit.after["hexagon_id"]) == middle
    features = layer.features.set_index("hexagon_id")
    assert (features["state"][middle] == "corrected").all()
    assert (features["state"].drop(middle) == "predicted").all()
    white = {i for i, colour in enumerate(colours(layer)) if colour == EDITED_COLOUR}
    assert white == set(middle)
    history.undo()
    assert_back(layer, before)
    assert (layer.features["state"] == "predicted").all()
    assert set(colours(layer)) == {EDGE_COLOUR}
    history.redo()
    moved = by_id(layer)
    for i in middle:
        np.testing.assert_allclose(moved[i], before[i] + [2.0, -1.5], atol=0.01)


def test_boxes_pushed_out_go_back_and_the_others_stay(layer, editor, changes, qtbot, notes):
    before = by_id(layer)
    order = np.argsort([shape[:, 1].max() for shape in layer.data])
    inner, *outer = (int(i) for i in (order[len(order) // 2], *order[-3:]))
    data = [shape.copy() for shape in layer.data]
    for i in (inner, *outer):
        data[i] += [0.0, 30.0]
    layer.data = data
    qtbot.waitUntil(lambda: bool(changes))
    assert changes[0].edit.after["hexagon_id"].tolist() == [inner]
    (note,) = notes
    assert note.message.startswith("3 boxes put back: outside the image")
    now = by_id(layer)
    for i in outer:
        np.testing.assert_allclose(now[i], before[i], atol=0.01)
    np.testing.assert_allclose(now[inner], before[inner] + [0, 30], atol=0.01)


def test_a_box_drawn_outside_is_removed(layer, editor, changes, history, qtbot, notes):
    n = len(layer.data)
    layer.add_rectangles([rectangle([128, 262], 40, 40), rectangle([-90, 40], 40, 40)])
    qtbot.waitUntil(lambda: len(layer.data) == n)
    assert [note.message.split(":")[0] for note in notes] == ["2 boxes removed"]
    assert not changes
    assert history.count() == 0


def test_where_the_image_is_closed_any_box_may_stand(layer, history, qtbot, notes):
    editor = HexagonEditor(layer, history, lambda: None)
    n = len(layer.data)
    with qtbot.waitSignal(editor.changed):
        layer.add_rectangles([rectangle([128, 290], 40, 40)])
    assert len(layer.data) == n + 1
    assert not notes
    editor.detach()


def test_a_box_at_the_edge_may_move_along_it(lattice):
    """CNN-1's own boxes may stick out a little more than a drawn one may."""
    centre = lattice.to_canonical(np.array([[0.577 * lattice.a_px - 8, 128.0]]))
    out = Hexagons.from_canonical_boxes(hexagon_boxes(centre), np.ones(1), lattice)
    assert outside_a(out, lattice, SHAPE)[0] > EDGE_TOLERANCE_A
    link = HexagonsLink(
        "image", Detection(lattice, out, (0.01, 0.01), "lattice"), AnalysisSettings()
    )
    layer = Layer.create(*hexagons_layer_data(link, "hexagons", {}))
    seen = hexagon_table(layer)
    features = tidy_features(layer.features, 1)

    def verdict(shift):
        shapes = [layer.data[0] + shift]
        return judge(seen, features, shapes, layer.shape_type, DomainMap.one(lattice), SHAPE)

    assert not verdict([0.0, 0.0]).refusals
    assert len(verdict([1.0, 4.0]).edit.after) == 1
    assert len(verdict([-2.0, 0.0]).edit) == 0
    assert verdict([-2.0, 0.0]).refusals


def test_no_step_is_added_while_another_is_replayed(history):
    """Qt frees the steps after the current one, the one that runs among them."""
    done = []

    def replay(name):
        done.append(name)
        remember(history, "late", lambda: None, lambda: None)

    remember(history, "first", lambda: replay("undo"), lambda: replay("redo"))
    history.undo()
    history.redo()
    history.undo()
    assert done == ["undo", "redo", "undo"]
    assert (history.count(), history.index()) == (1, 0)
    remember(history, "next", lambda: None, lambda: None)
    assert history.undoText() == "next"


def test_detached_nothing_is_watched(layer, history, qtbot):
    editor = HexagonEditor(layer, history, lambda: SHAPE)
    seen = []
    editor.changed.connect(seen.append)
    layer.remove([0])
    editor.look()
    assert len(seen) == 1
    editor.detach()
    layer.remove([0])
    editor.look()
    history.undo()
    qtbot.wait(20)
    assert len(seen) == 1
