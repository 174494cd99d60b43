"""Correcting classes by keys and mouse in a napari window."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("napari")
pytest.importorskip("qtpy.QtWidgets", exc_type=ImportError)

from qtpy.QtCore import QEvent, QPoint, QPointF, Qt
from qtpy.QtGui import QMouseEvent
from qtpy.QtOpenGLWidgets import QOpenGLWidget
from qtpy.QtWidgets import QApplication

from napari_point_defects.analysis_settings import AnalysisSettings
from napari_point_defects.detections import Detection
from napari_point_defects.napari_ui.classify_widget import ClassifyWidget
from napari_point_defects.napari_ui.history import history_of
from napari_point_defects.napari_ui.lasso import LAYER_NAME
from napari_point_defects.napari_ui.links import CellsLink
from napari_point_defects.records import UnitCells

pytestmark = pytest.mark.gui

SURE, UNSURE = 0.99, 0.45


@pytest.fixture
def viewer(make_napari_viewer, stem_data):
    """A window on the screen with the image."""
    viewer = make_napari_viewer(strict_qt="raise", show=True)
    viewer.window.resize(1000, 800)
    viewer.add_image(stem_data, name="field", scale=(0.02, 0.02), units=("nm", "nm"))
    return viewer


@pytest.fixture
def doubtful(cells):
    """Ids of cells that the network is unsure of, the least sure first."""
    return [40, 12, 55, 31]


@pytest.fixture
def cells(cells, lattice):
    """Cells of which a few are doubtful."""
    probabilities = np.full_like(cells.probabilities, (1 - SURE) / 5)
    probabilities[np.arange(len(cells)), cells.classes] = SURE
    for rank, i in enumerate([40, 12, 55, 31]):
        first = UNSURE + 0.05 * rank
        probabilities[i] = [first, 0.9 - first, 0.1, 0, 0, 0]
    return UnitCells(cells.chalcogen_px, cells.metal_px, cells.votes, probabilities)


@pytest.fixture
def widget(viewer, lattice, hexagons, cells):
    widget = ClassifyWidget(viewer)
    viewer.window.add_dock_widget(widget, name="classify")
    detection = Detection(lattice, hexagons, (0.01, 0.01), "lattice", ())
    widget.draw(cells, CellsLink(viewer.layers["field"].unique_id, detection, AnalysisSettings()))
    return widget


@pytest.fixture
def layer(viewer, widget):
    return viewer.layers["field cells"]


@pytest.fixture
def canvas(viewer, widget, qtbot):
    """napari's canvas, with the keyboard's focus."""
    (canvas,) = widget.window().findChildren(QOpenGLWidget)
    qtbot.waitExposed(canvas)
    canvas.setFocus()
    return canvas


@pytest.fixture
def press(qtbot, canvas):
    """Press a key as a user does: it goes to whatever has the focus."""

    def press(key, modifier=Qt.KeyboardModifier.NoModifier):
        target = canvas.window().focusWidget() or canvas
        qtbot.keyClick(target, key, modifier)

    return press


@pytest.fixture
def where(viewer, canvas, layer):
    """Return where a point of the image lies on the canvas."""

    def where(point):
        camera = viewer.scene.camera
        offset = (np.array(layer.data_to_world(point)) - camera.center[-2:]) * camera.zoom
        y, x = offset + np.array([canvas.height(), canvas.width()]) / 2
        return QPoint(round(x), round(y))

    return where


@pytest.fixture
def drag(qtbot, canvas, where):
    """Drag the mouse, with the left button down, through points of the image."""

    def drag(points, wait_ms=15):  # vispy passes over moves that come faster
        start, *rest = [where(point) for point in points]
        left, none = Qt.MouseButton.LeftButton, Qt.KeyboardModifier.NoModifier
        qtbot.mousePress(canvas, left, pos=start)
        for place in rest:
            qtbot.wait(wait_ms)
            position = QPointF(place)
            on_screen = QPointF(canvas.mapToGlobal(place))
            move = QMouseEvent(
                QEvent.Type.MouseMove, position, on_screen, Qt.MouseButton.NoButton, left, none
            )
            QApplication.sendEvent(canvas, move)
        qtbot.mouseRelease(canvas, left, pos=rest[-1])

    return drag


def selected(layer):
    return sorted(layer.features["cell_id"].iloc[list(layer.selected_data)])


def row(layer, cell_id):
    return layer.features.set_index("cell_id").loc[cell_id]


def test_digits_set_the_class_and_napari_keeps_its_keys_elsewhere(viewer, layer, press):
    layer.selected_data = {3, 5}
    press(Qt.Key.Key_3)
    assert layer.features["label"].iloc[[3, 5]].tolist() == ["V_Te2", "V_Te2"]
    assert layer.features["state"].iloc[[3, 5]].tolist() == ["corrected", "corrected"]
    press(Qt.Key.Key_1)
    assert layer.features["state"].iloc[[3, 5]].tolist() == ["confirmed", "confirmed"]
    assert str(layer.mode) == "pan_zoom"
    other = viewer.add_points([[10, 10]], name="dots")
    press(Qt.Key.Key_3)
    assert str(other.mode) == "select"
    assert layer.features["label"].iloc[3] == "Perfect"


def test_the_queue_leads_from_the_least_sure_cell_on(viewer, widget, layer, press, doubtful):
    panel = widget.census.review
    viewer.scene.camera.zoom = 20
    assert panel.progress.text() == "0 of 4 unsure cells reviewed"
    press(Qt.Key.Key_N)
    assert selected(layer) == [doubtful[0]]
    np.testing.assert_allclose(
        viewer.scene.camera.center[-2:], layer.data_to_world(layer.data[doubtful[0]])
    )
    a_world = 24 * 0.02
    assert 8 < min(viewer.canvas.size) / viewer.scene.camera.zoom / a_world < 10
    viewer.scene.camera.zoom *= 2
    zoom = viewer.scene.camera.zoom
    press(Qt.Key.Key_N)
    assert selected(layer) == [doubtful[1]]
    assert viewer.scene.camera.zoom == zoom  # the user's own, when closer
    press(Qt.Key.Key_P)
    assert selected(layer) == [doubtful[0]]
    assert "Perfect</b>, predicted, uncertainty 1.00" in panel.current.text()
    assert "network: " in panel.current.text()
    press(Qt.Key.Key_Return)
    assert row(layer, doubtful[0])["state"] == "confirmed"
    assert selected(layer) == [doubtful[1]]
    press(Qt.Key.Key_2)
    assert row(layer, doubtful[1])["label"] == "V_Te1"
    assert selected(layer) == [doubtful[2]]
    assert panel.progress.text() == "2 of 4 unsure cells reviewed"
    press(Qt.Key.Key_P)  # decided cells have left the queue: round its start
    assert selected(layer) not in ([doubtful[0]], [doubtful[1]])


def test_labelling_stays_where_the_user_wants_it(widget, layer, press, doubtful):
    widget.census.review.advance.setChecked(False)
    press(Qt.Key.Key_N)
    press(Qt.Key.Key_4)
    assert selected(layer) == [doubtful[0]]
    widget.census.review.advance.setChecked(True)
    layer.selected_data = {70}  # another cell than the one under review
    press(Qt.Key.Key_4)
    assert selected(layer) == [70]
    press(Qt.Key.Key_N)
    assert selected(layer) == [doubtful[1]]


def test_undo_and_redo_by_keys_return_to_the_cell(viewer, widget, layer, press, doubtful):
    control, shift = Qt.KeyboardModifier.ControlModifier, Qt.KeyboardModifier.ShiftModifier
    press(Qt.Key.Key_N)
    press(Qt.Key.Key_4)
    assert selected(layer) == [doubtful[1]]
    press(Qt.Key.Key_Z, control)
    assert row(layer, doubtful[0])["state"] == "predicted"
    assert selected(layer) == [doubtful[0]]
    press(Qt.Key.Key_Z, control | shift)
    assert row(layer, doubtful[0])["label"] == "V_Mo"
    # many at once are one step
    layer.selected_data = set(range(20))
    press(Qt.Key.Key_6)
    press(Qt.Key.Key_Delete)
    n = len(layer.data)
    press(Qt.Key.Key_Z, control)
    assert len(layer.data) == n + 20
    press(Qt.Key.Key_Z, control)
    assert not (layer.features["label"] == "V_Te2+V_Mo").to_numpy()[:20].all()
    history = history_of(viewer, viewer.layers["field"].unique_id)
    assert history.canRedo()


def test_keys_with_nothing_selected_say_so(viewer, layer, press):
    before = layer.features.copy()
    for key in (Qt.Key.Key_1, Qt.Key.Key_6, Qt.Key.Key_Return):
        viewer.status = ""
        press(key)
        assert "No cell is selected" in viewer.status
    assert layer.features.equals(before)


def test_escape_ends_the_review(widget, layer, press, doubtful):
    press(Qt.Key.Key_N)
    press(Qt.Key.Key_N)
    press(Qt.Key.Key_Escape)
    assert selected(layer) == []
    press(Qt.Key.Key_N)
    assert selected(layer) == [doubtful[0]]


def test_filters_hide_protect_and_lead_the_queue(widget, layer, press, doubtful):
    filters = widget.census.filters
    filters.confidence.setValue((0.52, 0.9))
    shown = np.flatnonzero(layer.shown)
    assert sorted(layer.features["cell_id"].iloc[shown]) == sorted(doubtful[2:])
    assert filters.count.text() == f"2 of {len(layer.data)} cells shown"
    press(Qt.Key.Key_A)  # napari selects all points, hidden ones too
    assert selected(layer) == sorted(doubtful[2:])
    press(Qt.Key.Key_Escape)
    press(Qt.Key.Key_N)
    assert selected(layer) == [doubtful[2]]
    # a cell that leaves what is shown is let go
    filters.states["predicted"].setChecked(True)
    filters.states["corrected"].setChecked(False)
    press(Qt.Key.Key_5)
    assert not layer.shown[doubtful[2]]
    assert selected(layer) == [doubtful[3]]
    press(Qt.Key.Key_5)
    assert layer.shown.sum() == 0
    assert selected(layer) == []
    counts = [c[0].text() for c in widget.census.legend.cells.values()]
    assert sum(map(int, counts)) == len(layer.data)
    assert filters.states["corrected"].text() == "corrected 2"
    filters.reset_button.click()
    assert layer.shown.all()


def test_the_legend_sets_the_class_with_one_click(viewer, widget, layer, press, qtbot, canvas):
    layer.selected_data = {3}
    button = widget.census.legend.names["V_Mo"]
    qtbot.mouseClick(button, Qt.MouseButton.LeftButton)
    assert layer.features["label"].iloc[3] == "V_Mo"
    # the keys still go to the image
    press(Qt.Key.Key_2)
    assert layer.features["label"].iloc[3] == "V_Te1"
    qtbot.mouseClick(widget.census.review.next_button, Qt.MouseButton.LeftButton)
    press(Qt.Key.Key_6)
    assert (layer.features["label"] == "V_Te2+V_Mo").iloc[40]


def test_clicks_and_boxes_select_cells(layer, press, qtbot, canvas, where, drag):
    press(Qt.Key.Key_N)
    (current,) = layer.selected_data
    near = np.linalg.norm(layer.data - layer.data[current], axis=1).argsort()
    left = Qt.MouseButton.LeftButton
    qtbot.mouseClick(canvas, left, pos=where(layer.data[near[1]]))
    assert layer.selected_data == {near[1]}
    qtbot.mouseClick(
        canvas, left, Qt.KeyboardModifier.ShiftModifier, pos=where(layer.data[near[2]])
    )
    assert layer.selected_data == {near[1], near[2]}
    press(Qt.Key.Key_S)
    corner = layer.data[current] - [40, 40]
    far = layer.data[current] + [40, 40]
    drag([corner, layer.data[current], far])
    inside = (np.abs(layer.data - layer.data[current]) < 36).all(axis=1)
    assert set(np.flatnonzero(inside)) <= layer.selected_data
    assert len(layer.selected_data) > 5
    press(Qt.Key.Key_4)
    assert (layer.features["label"][inside] == "V_Mo").all()


def test_the_lasso_selects_what_it_surrounds(viewer, layer, press, qtbot, drag):
    press(Qt.Key.Key_N)
    (current,) = layer.selected_data
    middle = layer.data[current]
    names = [layer.name for layer in viewer.layers]
    press(Qt.Key.Key_L)
    assert LAYER_NAME in viewer.layers
    angles = np.linspace(0, 2 * np.pi, 25)
    path = middle + 40 * np.stack([np.sin(angles), np.cos(angles)], axis=1)
    drag(path)
    qtbot.waitUntil(lambda: LAYER_NAME not in viewer.layers)
    distance = np.linalg.norm(layer.data - middle, axis=1)
    assert set(np.flatnonzero(distance < 38)) <= layer.selected_data
    assert max(distance[list(layer.selected_data)]) < 42
    assert viewer.layers.selection.active is layer
    # Escape leaves it
    press(Qt.Key.Key_L)
    press(Qt.Key.Key_Escape)
    assert [layer.name for layer in viewer.layers] == names


def test_a_drag_is_one_step(viewer, layer, press, drag):
    press(Qt.Key.Key_N)
    (current,) = layer.selected_data
    cell_id, start = layer.features["cell_id"].iloc[current], layer.data[current].copy()
    press(Qt.Key.Key_S)
    # slower than the editor looks at the layer
    drag([start + 2 * step for step in range(6)], wait_ms=150)
    history = history_of(viewer, viewer.layers["field"].unique_id)
    assert (history.count(), history.undoText()) == (1, "Move 1 cell")
    assert row(layer, cell_id)["state"] == "confirmed"
    assert np.linalg.norm(layer.data[current] - start) > 8
    press(Qt.Key.Key_Z, Qt.KeyboardModifier.ControlModifier)
    np.testing.assert_allclose(layer.data[current], start, atol=1e-6)
    assert row(layer, cell_id)["state"] == "predicted"
