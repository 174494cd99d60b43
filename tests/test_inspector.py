"""The cell inspector: what it shows of a cell, when, and what can be taken away from it."""

from __future__ import annotations

import io
import threading

import numpy as np
import pandas as pd
import pytest

pytest.importorskip("napari")
pytest.importorskip("qtpy.QtWidgets", exc_type=ImportError)

from napari.layers import Layer
from qtpy.QtCore import QPoint, QPointF, Qt
from qtpy.QtGui import QMouseEvent
from qtpy.QtWidgets import QApplication, QFileDialog

from napari_point_defects.analysis_settings import AnalysisSettings
from napari_point_defects.detections import Detection
from napari_point_defects.errors import PointDefectsError
from napari_point_defects.materials import MATERIALS, DefectClass
from napari_point_defects.napari_ui import image_models
from napari_point_defects.napari_ui.cell_editor import CellEditor
from napari_point_defects.napari_ui.cell_layers import cells_layer_data
from napari_point_defects.napari_ui.cell_tables import cell_table, centres_px
from napari_point_defects.napari_ui.inspector_widget import InspectorWidget
from napari_point_defects.napari_ui.links import CellsLink, own
from napari_point_defects.records import Hexagons, UnitCells
from napari_point_defects.simulation.noise import NoiseSettings, add_noise
from napari_point_defects.simulation.scenes import SceneSettings, make_scene

pytestmark = pytest.mark.gui

MOTE2 = MATERIALS["MoTe2"]


@pytest.fixture(scope="module")
def scene():
    settings = SceneSettings(
        height_px=320,
        width_px=320,
        a_px=24.0,
        angle_deg=12.0,
        defect_rates=(0.04, 0.04, 0.04, 0.03, 0.03),
    )
    rng = np.random.default_rng(2)
    scene = make_scene(settings, rng)
    noise = NoiseSettings.for_column_counts(scene, 900, gaussian_mu=0)
    return scene, add_noise(scene, noise, rng)


def add_cells(viewer, scene):
    """Show a scene's image and its cells, all called what they are."""
    scene, data = scene
    image = viewer.add_image(data, name="field", scale=(0.0147, 0.0147), units=("nm", "nm"))
    probabilities = np.full((len(scene.classes), 6), 0.02)
    probabilities[np.arange(len(scene.classes)), scene.classes] = 0.9
    cells = UnitCells(
        scene.chalcogen_px, scene.metal_px, np.full(len(scene.classes), 2), probabilities
    )
    hexagons = Hexagons(np.empty((0, 4, 2)), np.empty(0))
    detection = Detection(scene.lattice, hexagons, (0.0147, 0.0147), "lattice")
    table = cell_table(cells, MOTE2)
    link = CellsLink(
        image.unique_id,
        detection,
        AnalysisSettings(),
        table["cell_id"].to_numpy(),
        centres_px(table),
    )
    place = {"scale": image.scale, "units": image.units}
    layer = viewer.add_layer(Layer.create(*cells_layer_data(table, link, "field cells", place)))
    own(layer)
    return layer


@pytest.fixture
def viewer():
    from napari.components import ViewerModel

    return ViewerModel()


@pytest.fixture
def layer(viewer, scene):
    return add_cells(viewer, scene)


@pytest.fixture
def inspector(viewer, qtbot):
    widget = InspectorWidget(viewer)
    qtbot.addWidget(widget)
    return widget


def inner(layer, defect_class, data_side=320):
    """A row of that class whose surroundings are in the image."""
    rows = np.flatnonzero(layer.features["label"].astype(str) == MOTE2.class_labels[defect_class])
    inside = np.all((layer.data[rows] > 50) & (layer.data[rows] < data_side - 50), axis=1)
    return int(rows[inside][0])


@pytest.fixture
def select(layer, inspector, qtbot):
    """Select rows and wait until the simulated profiles are there."""

    def choose(*rows):
        layer.selected_data = set(rows)
        qtbot.waitUntil(lambda: bool(inspector.shown and inspector.shown.comparison))

    return choose


# --- what is shown ---------------------------------------------------------------------------


def test_without_cells_it_says_what_to_do(inspector, viewer, scene):
    assert "run" in inspector.title.text()
    assert "Classify point defects" in inspector.title.text()
    assert not inspector.copy.isEnabled()
    add_cells(viewer, scene)
    inspector.look()
    assert "Click a unit cell" in inspector.title.text()


@pytest.mark.parametrize("defect_class", DefectClass)
def test_a_selected_cell_is_shown_and_its_profile_agrees(
    defect_class, layer, inspector, select, scene
):
    row = inner(layer, defect_class)
    select(row)
    label = MOTE2.class_labels[defect_class]
    assert f"<b>{label}</b>" in inspector.title.text()
    assert "predicted" in inspector.title.text()
    assert f"cell {row}" in inspector.title.text()
    assert inspector.bars.values[defect_class] == pytest.approx(0.9)
    assert f"agrees best with <b>{label}</b>" in inspector.verdict.text()
    assert f"network says <b>{label}</b> 0.90" in inspector.verdict.text()
    assert inspector.shown.comparison.best == defect_class
    assert inspector.copy.isEnabled()


def test_a_wrong_class_is_contradicted_by_the_profile(layer, inspector, select):
    row = inner(layer, DefectClass.V_X2)
    labels = list(MOTE2.class_labels)
    features = layer.features
    features.loc[row, ["label", "predicted"]] = "Perfect"
    features.loc[row, [f"p_{name}" for name in labels]] = [0.62, 0.1, 0.1, 0.08, 0.05, 0.05]
    select(row)
    assert "agrees best with <b>V_Te2</b>" in inspector.verdict.text()
    assert "network says <b>Perfect</b> 0.62" in inspector.verdict.text()


def test_of_many_cells_the_last_is_shown(layer, inspector, qtbot):
    layer.selected_data = {4}
    qtbot.waitUntil(lambda: "cell 4" in inspector.title.text())
    layer.selected_data = {4, 2}
    qtbot.waitUntil(lambda: "2 cells selected" in inspector.title.text())
    assert "cell 2" in inspector.title.text()
    layer.selected_data = set(range(10))
    qtbot.waitUntil(lambda: "10 cells selected" in inspector.title.text())
    layer.selected_data = set()
    qtbot.waitUntil(lambda: "Click a unit cell" in inspector.title.text())
    assert inspector.shown is None
    assert not inspector.save_csv.isEnabled()


def test_a_cell_that_the_user_added_has_no_probabilities(layer, inspector, select, qtbot):
    CellEditor(layer, viewer, inspector)
    row = inner(layer, DefectClass.V_X1)
    middle = np.array(layer.data[row])
    layer.selected_data = {row}
    layer.remove_selected()
    layer.add([middle])  # napari selects what it adds
    qtbot.waitUntil(lambda: "added" in inspector.title.text())
    select(len(layer.data) - 1)
    assert "agrees best with <b>V_Te1</b>" in inspector.verdict.text()
    assert "not seen this cell" in inspector.verdict.text()
    assert np.isnan(inspector.bars.values).all()


def test_an_added_cell_is_not_said_to_be_judged(layer, inspector, select):
    row = inner(layer, DefectClass.V_X1)
    layer.features.loc[row, [f"p_{name}" for name in MOTE2.class_labels]] = np.nan
    select(row)
    assert "not seen this cell" in inspector.verdict.text()
    assert np.isnan(inspector.bars.values).all()


def test_an_edit_of_the_table_is_followed(layer, inspector, select, qtbot):
    row = inner(layer, DefectClass.PERFECT)
    select(row)
    layer.features.loc[row, "label"] = "V_Mo"  # as napari's features table does: no event
    qtbot.waitUntil(lambda: "<b>V_Mo</b> · corrected" in inspector.title.text())


def test_a_moved_cell_is_measured_where_it_is(layer, inspector, select, qtbot):
    row = inner(layer, DefectClass.PERFECT)
    select(row)
    before = inspector.shown.profile.intensity
    layer.data[row] += [6, 0]
    qtbot.waitUntil(lambda: inspector.shown.profile.intensity is not before)
    assert np.abs(inspector.shown.profile.intensity - before).max() > 20


def test_the_band_follows_the_slider(layer, inspector, select):
    select(inner(layer, DefectClass.PERFECT))
    narrow = inspector.shown
    inspector.slider.setValue(70)
    wide = inspector.shown
    assert wide.profile.width_a == 0.7
    assert inspector.width_text.text() == "0.70 a = 246 pm"
    assert np.nanmax(wide.profile.intensity) < np.nanmax(narrow.profile.intensity)
    assert np.ptp(wide.comparison.curves[0]) < np.ptp(narrow.comparison.curves[0])
    assert "RMS" in inspector.verdict.text()


def test_the_plot_shows_what_was_measured_and_six_curves(layer, inspector, select):
    select(inner(layer, DefectClass.V_M))
    lines = {line.get_label().split(" (")[0]: line for line in inspector.plot.axes.lines}
    assert {"measured", *MOTE2.class_labels} <= set(lines)
    drawn = lines["measured"].get_ydata()
    np.testing.assert_array_equal(drawn, inspector.shown.profile.intensity)
    thickness = {name: lines[name].get_linewidth() for name in MOTE2.class_labels}
    assert max(thickness, key=thickness.get) == "V_Mo"
    low, high = inspector.plot.axes.get_ylim()
    assert low < drawn.min() < drawn.max() < high
    # one cell after the other leaves nothing of the first behind
    n = len(inspector.plot.axes.lines)
    select(inner(layer, DefectClass.PERFECT))
    assert len(inspector.plot.axes.lines) == n


def test_pictures_are_drawn(layer, inspector, select):
    inspector.resize(360, 900)
    select(inner(layer, DefectClass.V_X1))
    for view, least in ((inspector.crop, 50), (inspector.channels, 30), (inspector.bars, 3)):
        image = view.grab().toImage()
        colours = {
            image.pixel(x, y)
            for x in range(0, image.width(), 2)
            for y in range(0, image.height(), 2)
        }
        assert len(colours) > least, view


def test_it_follows_napari_themes(layer, inspector, viewer, select):
    select(inner(layer, DefectClass.PERFECT))
    dark = inspector.plot.figure.get_facecolor()
    viewer.theme = "light"
    assert sum(inspector.plot.figure.get_facecolor()[:3]) > sum(dark[:3]) + 1
    measured = next(x for x in inspector.plot.axes.lines if x.get_label() == "measured")
    assert measured.get_color() == inspector.plot._ink


# --- what may be missing ---------------------------------------------------------------------


def test_closed_images_and_layers(layer, inspector, viewer, select, qtbot):
    select(inner(layer, DefectClass.PERFECT))
    viewer.layers.remove("field")
    qtbot.waitUntil(lambda: "closed" in inspector.title.text())
    assert inspector.shown is None
    viewer.layers.remove(layer)
    qtbot.waitUntil(lambda: "Classify point defects" in inspector.title.text())


def test_a_cell_where_nothing_was_recorded(viewer, scene, inspector, qtbot):
    clean, data = scene
    data = data.astype(np.float32)
    data[100:220, 100:220] = np.nan
    layer = add_cells(viewer, (clean, data))
    middle = np.linalg.norm(layer.data - 160, axis=1).argmin()
    layer.selected_data = {int(middle)}
    qtbot.waitUntil(lambda: "nothing was recorded" in inspector.verdict.text())
    assert not inspector.copy.isEnabled()
    inspector.grab()
    layer.selected_data = {inner(layer, DefectClass.PERFECT)}
    qtbot.waitUntil(lambda: "agrees best" in inspector.verdict.text())


def test_cells_at_the_border(layer, inspector, qtbot):
    corner = int(np.asarray(layer.data).sum(axis=1).argmin())
    layer.selected_data = {corner}
    qtbot.waitUntil(lambda: f"cell {corner}" in inspector.title.text())
    inspector.grab()
    assert inspector.shown.profile.intensity.shape == (105,)


def test_deleting_the_cell_that_is_shown(layer, inspector, select, qtbot):
    select(len(layer.data) - 1)
    layer.remove_selected()
    qtbot.waitUntil(lambda: inspector.shown is None)


def test_another_image_of_the_same_name_is_fitted_anew(layer, inspector, viewer, select, qtbot):
    row = inner(layer, DefectClass.PERFECT)
    select(row)
    gain = inspector.models.model(layer)[0].gain
    viewer.layers["field"].data = 3.0 * viewer.layers["field"].data.astype(np.float32)
    qtbot.waitUntil(
        lambda: (
            (model := inspector.models.model(layer)[0]) is not None
            and model.gain == pytest.approx(3 * gain, rel=0.02)
        )
    )
    qtbot.waitUntil(lambda: inspector.shown.comparison is not None)


# --- the fit in the background ---------------------------------------------------------------


@pytest.fixture
def slow_fit(monkeypatch):
    """Hold the fit until it is let go."""
    go, entered, real = threading.Event(), threading.Event(), image_models.model_of_image

    def fit(*args):
        entered.set()
        go.wait(10)
        return real(*args)

    monkeypatch.setattr(image_models, "model_of_image", fit)
    fit.go, fit.entered = go, entered
    yield fit
    go.set()


def test_the_crop_does_not_wait_for_the_fit(layer, slow_fit, inspector, qtbot):
    row = inner(layer, DefectClass.V_X1)
    layer.selected_data = {row}
    qtbot.waitUntil(lambda: inspector.shown is not None)
    assert f"cell {row}" in inspector.title.text()
    assert inspector.shown.comparison is None
    assert np.isfinite(inspector.shown.profile.intensity).all()
    assert "Simulating" in inspector.verdict.text()
    qtbot.waitUntil(slow_fit.entered.is_set)
    slow_fit.go.set()
    qtbot.waitUntil(lambda: inspector.shown.comparison is not None)
    assert "agrees best" in inspector.verdict.text()


def test_the_fit_is_made_once(layer, monkeypatch, inspector, select):
    calls, real = [], image_models.model_of_image
    monkeypatch.setattr(image_models, "model_of_image", lambda *a: calls.append(1) or real(*a))
    for row in (3, 4, 5):
        select(row)
    assert len(calls) == 1


def test_closing_while_the_fit_runs(layer, slow_fit, viewer, qtbot):
    widget = InspectorWidget(viewer)
    layer.selected_data = {3}
    qtbot.waitUntil(slow_fit.entered.is_set)
    task = widget.models._fits[layer.unique_id, 1].task
    widget.deleteLater()
    qtbot.waitUntil(task.should_stop)
    slow_fit.go.set()
    qtbot.waitUntil(lambda: task.stopped)
    layer.selected_data = {4}  # nobody listens any more
    assert not [c for c in viewer.mouse_drag_callbacks if c.__module__.endswith("cell_follower")]


def test_a_fit_that_fails_is_explained_and_tried_again(layer, inspector, qtbot, notes):
    names = layer.features["label"].astype(str).copy()
    layer.features["label"] = pd.Categorical(["V_Mo"] * len(names), MOTE2.class_labels)
    layer.selected_data = {3}
    qtbot.waitUntil(lambda: "No simulated profiles" in inspector.verdict.text())
    assert "0 cells are Perfect" in inspector.verdict.text()
    assert inspector.shown.comparison is None
    assert inspector.save_csv.isEnabled()
    layer.features["label"] = pd.Categorical(names, MOTE2.class_labels)
    layer.selected_data = {4}
    qtbot.waitUntil(lambda: "agrees best" in inspector.verdict.text())
    assert not notes


# --- copy and save ---------------------------------------------------------------------------


def test_copy_puts_a_table_and_a_picture_on_the_clipboard(layer, inspector, select):
    row = inner(layer, DefectClass.V_X1)
    select(row)
    inspector.copy.click()
    mime = QApplication.clipboard().mimeData()
    table = pd.read_csv(io.StringIO(mime.text()), sep="\t")
    assert set(table["cell_id"]) == {row}
    assert set(table["image"]) == {"field"}
    shown = inspector.shown
    np.testing.assert_allclose(table["measured"], shown.profile.intensity, rtol=1e-6)
    np.testing.assert_allclose(
        table[list(MOTE2.class_labels)].T, shown.comparison.curves, rtol=1e-6
    )
    assert QApplication.clipboard().image().width() > 400
    assert "Copied" in inspector.verdict.text()


@pytest.mark.parametrize(("button", "ending"), [("save_csv", ".csv"), ("save_figure", ".png")])
def test_save(layer, inspector, select, tmp_path, monkeypatch, button, ending, notes):
    row = inner(layer, DefectClass.V_X1)
    select(row)
    asked, answer = [], [tmp_path / "mine"]

    def ask(parent, title, name, kinds):
        asked.append(name)
        return str(answer[0]), kinds

    monkeypatch.setattr(QFileDialog, "getSaveFileName", ask)
    press = getattr(inspector, button).click
    press()
    assert asked == [f"field_cell{row}_profile{ending}"]
    path = tmp_path / f"mine{ending}"
    first = path.read_bytes()
    assert len(first) > 1000
    # without an ending the dialog has asked about another file: nothing is replaced
    path.write_bytes(b"precious")
    press()
    assert path.read_bytes() == b"precious"
    assert "exists" in inspector.verdict.text()
    assert len(notes) == 1
    # with it the user has agreed
    answer[0] = path
    press()
    assert path.read_bytes() != b"precious"
    assert "Written" in inspector.verdict.text()
    answer[0] = ""
    monkeypatch.setattr(QFileDialog, "getSaveFileName", lambda *a: ("", ""))
    press()
    assert len(list(tmp_path.iterdir())) == 1


# --- real clicks in a real window ------------------------------------------------------------


def held_move(canvas, place):
    """A mouse move with the left button down, which the test library cannot make."""
    return QMouseEvent(
        QMouseEvent.Type.MouseMove,
        QPointF(place),
        QPointF(canvas.mapToGlobal(place)),
        Qt.MouseButton.NoButton,
        Qt.MouseButton.LeftButton,
        Qt.KeyboardModifier.NoModifier,
    )


@pytest.fixture
def window(make_napari_viewer, scene, qtbot):
    """A napari window with the cells, the inspector docked, and functions to press and drag."""
    viewer = make_napari_viewer(show=True, strict_qt="raise")
    viewer.window.resize(1100, 800)
    layer = add_cells(viewer, scene)
    widget = InspectorWidget(viewer)
    viewer.window.add_dock_widget(widget, name="inspector")
    canvas = viewer.window._qt_viewer.canvas.native
    qtbot.waitExposed(canvas)
    qtbot.wait(200)

    def on_canvas(point):
        world = np.array(layer.data_to_world(point))[-2:]
        centre = np.array(viewer.scene.camera.center)[-2:]
        y, x = (world - centre) * viewer.scene.camera.zoom
        return QPoint(round(canvas.width() / 2 + x), round(canvas.height() / 2 + y))

    def click(point):
        qtbot.mouseMove(canvas, on_canvas(point))
        qtbot.mouseClick(canvas, Qt.MouseButton.LeftButton, pos=on_canvas(point))

    def drag(point, other):
        # the places on the canvas first: a drag moves the camera
        start, end = on_canvas(point), on_canvas(other)
        qtbot.mousePress(canvas, Qt.MouseButton.LeftButton, pos=start)
        for share in np.linspace(0.2, 1.0, 5):
            QApplication.sendEvent(canvas, held_move(canvas, start + share * (end - start)))
            qtbot.wait(60)  # moves in quick succession are dropped
        qtbot.mouseRelease(canvas, Qt.MouseButton.LeftButton, pos=end)

    return viewer, layer, widget, click, drag


def test_clicks_show_cells(window, qtbot):
    viewer, layer, widget, click, drag = window
    assert layer.mode == "pan_zoom"
    assert widget.width() < 450  # the image needs the room
    first, second, third = (
        inner(layer, c) for c in (DefectClass.V_X1, DefectClass.V_M, DefectClass.PERFECT)
    )
    # beside the cell, but nearer to it than to any other
    click(np.array(layer.data[first]) + [3, -4])
    qtbot.waitUntil(lambda: f"cell {first}" in widget.title.text())
    assert set(layer.selected_data) == {first}
    qtbot.waitUntil(lambda: "agrees best with <b>V_Te1</b>" in widget.verdict.text())

    # with the image active too
    viewer.layers.selection.active = viewer.layers["field"]
    click(layer.data[second])
    qtbot.waitUntil(lambda: f"cell {second}" in widget.title.text())
    assert viewer.layers.selection.active is viewer.layers["field"]

    # a drag pans, and selects nothing
    before = tuple(viewer.scene.camera.center)
    drag(layer.data[first], np.array(layer.data[first]) + 40)
    qtbot.waitUntil(lambda: tuple(viewer.scene.camera.center) != before)
    assert f"cell {second}" in widget.title.text()

    # off the lattice nothing changes
    click([-30.0, 160.0])
    qtbot.wait(100)
    assert f"cell {second}" in widget.title.text()

    # napari's own select tool
    viewer.layers.selection.active = layer
    layer.mode = "select"
    click(layer.data[third])
    qtbot.waitUntil(lambda: f"cell {third}" in widget.title.text())

    # the add tool adds, and the inspector shows what was added
    n = len(layer.data)
    layer.mode = "add"
    click(np.array(layer.data[first]) + [8, 8])
    qtbot.waitUntil(lambda: len(layer.data) == n + 1)
    layer.mode = "pan_zoom"

    # hidden cells cannot be clicked
    shown = layer.shown.copy()
    shown[second] = False
    layer.shown = shown
    layer.selected_data = set()
    click(layer.data[second])
    qtbot.wait(100)
    assert second not in layer.selected_data


def test_removed_dock_leaves_napari_as_it_was(window, qtbot):
    viewer, layer, widget, click, _ = window
    viewer.window.remove_dock_widget(widget)
    widget.deleteLater()
    qtbot.wait(100)
    click(layer.data[inner(layer, DefectClass.V_X1)])
    assert not layer.selected_data


def test_the_manifest_offers_it():
    from npe2 import PluginManifest

    manifest = PluginManifest.from_distribution("napari-point-defects")
    widgets = {w.display_name: w.command for w in manifest.contributions.widgets}
    assert widgets["Cell inspector"] == "napari-point-defects.inspect"


def test_errors_of_ours_are_one_line(layer, inspector, select, monkeypatch, notes):
    from napari_point_defects.napari_ui import inspector_widget

    def fail(shown):
        raise PointDefectsError("no room on the clipboard")

    select(3)
    monkeypatch.setattr(inspector_widget, "copy_profile", fail)
    inspector.copy.click()
    assert inspector.verdict.text() == "no room on the clipboard"
    assert len(notes) == 1
