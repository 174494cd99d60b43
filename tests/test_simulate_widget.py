"""*Simulate training set*: its form, its live example, sets made, cancelled and resumed."""

from __future__ import annotations

import subprocess
import sys
import time

import numpy as np
import pytest

pytest.importorskip("napari")
pytest.importorskip("qtpy.QtWidgets", exc_type=ImportError)

from napari.layers import Image
from pydantic import BaseModel
from qtpy.QtCore import QPoint, QPointF, Qt
from qtpy.QtGui import QWheelEvent
from qtpy.QtWidgets import QApplication

from napari_point_defects.errors import PointDefectsError
from napari_point_defects.materials import MATERIALS
from napari_point_defects.napari_ui.pace import Pace, duration
from napari_point_defects.napari_ui.settings_editors import (
    ChoicesEditor,
    IntegerEditor,
    NumberEditor,
    OptionalEditor,
    RangeEditor,
)
from napari_point_defects.napari_ui.simulate_form import SimulateForm
from napari_point_defects.napari_ui.simulate_widget import SimulateWidget
from napari_point_defects.settings_files import write_settings
from napari_point_defects.simulation import process
from napari_point_defects.simulation.columns import MicroscopeSettings
from napari_point_defects.simulation.images import simulate_example
from napari_point_defects.simulation.presets import PRESETS, TrainingSetSettings
from napari_point_defects.simulation.sets import find_set
from napari_point_defects.training_set import TrainingSet

pytestmark = pytest.mark.gui

SMALL = TrainingSetSettings(
    preset="my own",
    materials=("WS2", "MoTe2"),
    train_images=5,
    validation_images=2,
    side_a=6.0,
    a_px=(10.0, 12.0),
    column_counts=(2e3, 2e3),
    gaussian_share=1 / 3,
    seed=2**70 + 1,
)


@pytest.fixture
def form(qtbot):
    form = SimulateForm()
    qtbot.addWidget(form)
    qtbot.addWidget(form.size)
    return form


@pytest.fixture
def widget(viewer, qtbot):
    widget = SimulateWidget(viewer)
    qtbot.addWidget(widget)
    widget.resize(420, 800)
    widget.show()
    yield widget
    qtbot.waitUntil(lambda: not widget.run.is_running, timeout=60_000)


def example(widget, qtbot):
    """Wait for the example of the settings of now."""
    preview = widget.preview
    qtbot.waitUntil(lambda: preview._task is None and not preview._rest.isActive(), timeout=20_000)
    return preview.example


# --- the form ---------------------------------------------------------------------------------


def leaves(model: type[BaseModel], prefix=()):
    for name, field in model.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from leaves(field.annotation, (*prefix, name))
        else:
            yield (*prefix, name)


def test_every_setting_is_in_the_form_once(form):
    shown = [(name,) for part in form.forms for name in part.editors]
    shown += [("microscope", name) for name in form.microscope.editors]
    assert sorted(shown) == sorted(leaves(TrainingSetSettings))


@pytest.mark.parametrize(
    "settings", [*PRESETS.values(), SMALL], ids=lambda settings: settings.preset
)
def test_settings_come_back_as_they_were_shown(form, settings):
    settings = settings.model_copy(
        update={"microscope": MicroscopeSettings(semiangle_mrad=80 / 3, seed=5)}
    )
    form.set_settings(settings)
    assert form.settings() == settings


def test_each_editor_changes_its_own_setting(form):
    form.set_settings(PRESETS["wide"])
    before = form.settings().model_dump()
    everything = [*form.forms, form.microscope]
    for part in everything:
        for name, editor in part.editors.items():
            if name == "preset":
                continue
            form.set_settings(PRESETS["wide"])
            nudge(editor)
            values = form.values()
            outer = values["microscope"] if part is form.microscope else values
            was = before["microscope"] if part is form.microscope else before
            assert outer[name] != was[name], name
            changed = {k for k in was if k != "microscope" and outer.get(k) != was[k]}
            assert changed == {name}


def nudge(editor):
    if isinstance(editor, OptionalEditor):
        editor.box.click()
    elif isinstance(editor, RangeEditor):
        editor.high.stepBy(-1)
    elif isinstance(editor, ChoicesEditor):
        next(iter(editor.boxes.values())).click()
    elif isinstance(editor, (NumberEditor, IntegerEditor)):
        editor.stepBy(1)
    elif hasattr(editor, "numbers"):
        editor.numbers[2].stepBy(1)
    else:
        editor.click()


def test_every_editor_says_what_it_is_for(form):
    for part in [*form.forms, form.microscope]:
        for name, editor in part.editors.items():
            assert len(editor.toolTip()) > len("<p></p>"), name


def test_a_preset_is_taken_by_choosing_it(form, qtbot):
    with qtbot.waitSignal(form.changed):
        qtbot.keyClicks(form.main.editors["preset"], "paper-cnn2")
    assert form.settings() == PRESETS["paper-cnn2"]
    assert form.main.editors["poisson_lambda"].isEnabled()
    form.main.editors["column_counts"].box.click()
    assert not form.main.editors["poisson_lambda"].isEnabled()


def test_what_is_impossible_is_named(form):
    form.main.editors["a_px"].set((40.0, 20.0))
    with pytest.raises(PointDefectsError, match="a_px: 40 to 20 is not a possible range"):
        form.settings()
    form.set_settings(PRESETS["wide"])
    for box in form.main.editors["materials"].boxes.values():
        box.setChecked(False)
    with pytest.raises(PointDefectsError, match="Materials"):
        form.settings()


def test_numbers_are_typed_and_stepped(qtbot):
    editor = NumberEditor(0.0, 1.0, typical=0.04, unit="nm")
    qtbot.addWidget(editor)
    editor.set(1 / 3)
    assert editor.text() == "0.333333 nm"
    # a look that changes nothing keeps the digits that are not shown
    qtbot.keyClick(editor, Qt.Key.Key_Return)
    assert editor.get() == 1 / 3
    editor.selectAll()
    qtbot.keyClicks(editor, "0.025")
    assert editor.get() == 0.025
    qtbot.keyClick(editor, Qt.Key.Key_Up)
    assert editor.get() == pytest.approx(0.026)
    editor.set(0.0)
    qtbot.keyClick(editor, Qt.Key.Key_Up)
    assert editor.get() == pytest.approx(0.001)
    for _ in range(3):
        qtbot.keyClick(editor, Qt.Key.Key_Down)
    assert editor.get() == 0.0
    editor.set(7.5e-7)
    assert editor.text() == "0.00000075 nm"


def wheel(widget, up):
    place = QPointF(widget.rect().center())
    event = QWheelEvent(
        place,
        widget.mapToGlobal(place),
        QPoint(),
        QPoint(0, 120 if up else -120),
        Qt.MouseButton.NoButton,
        Qt.KeyboardModifier.NoModifier,
        Qt.ScrollPhase.NoScrollPhase,
        False,
    )
    QApplication.sendEvent(widget, event)


def test_the_wheel_scrolls_the_form_and_changes_no_number(widget):
    before = widget.form.settings()
    for part in [*widget.form.forms, widget.form.microscope]:
        for editor in part.editors.values():
            for inner in [editor, getattr(editor, "low", editor)]:
                inner.clearFocus()
                wheel(inner, up=True)
    assert widget.form.settings() == before


# --- the example ------------------------------------------------------------------------------


def test_example_is_the_first_image_of_the_set(widget, qtbot):
    widget.form.set_settings(SMALL)
    shown = example(widget, qtbot)
    expected = simulate_example(SMALL, 0)
    np.testing.assert_array_equal(shown.image.pixels, expected.image.pixels)
    picture = widget.preview.canvas.picture(0)
    np.testing.assert_array_equal(picture.pixels, expected.image.pixels)
    assert f"a = {expected.scene.a_px:.1f} px" in widget.preview.message.text()
    qtbot.mouseClick(widget.preview.next, Qt.MouseButton.LeftButton)
    again = example(widget, qtbot)
    np.testing.assert_array_equal(again.image.pixels, simulate_example(SMALL, 1).image.pixels)


def test_example_follows_the_form_and_drops_what_is_stale(widget, qtbot, monkeypatch):
    widget.form.set_settings(SMALL)
    example(widget, qtbot)
    made = []

    def slow(settings, index, **options):
        made.append(settings.a_px)
        time.sleep(0.2)
        return simulate_example(settings, index, **options)

    monkeypatch.setattr("napari_point_defects.napari_ui.simulate_preview.simulate_example", slow)
    editor = widget.form.main.editors["a_px"]
    editor.set((10.0, 20.0))
    qtbot.waitUntil(lambda: made == [(10.0, 20.0)])
    for high in (21.0, 22.0, 23.0):  # while the first is being made
        editor.high.set(high)
    qtbot.waitUntil(lambda: made == [(10.0, 20.0), (10.0, 23.0)])
    shown = example(widget, qtbot)
    expected = simulate_example(SMALL.model_copy(update={"a_px": (10.0, 23.0)}), 0)
    np.testing.assert_array_equal(shown.image.pixels, expected.image.pixels)


def test_own_image_is_cut_at_the_same_scale(viewer, widget, qtbot):
    widget.form.set_settings(SMALL.model_copy(update={"materials": ("MoTe2",)}))
    shown = example(widget, qtbot)
    field_nm = shown.image.pixels.shape[0] * shown.scene.pixel_size_nm
    own = widget.preview.canvas.picture(1)
    # 0.02 nm a pixel
    assert own.pixels.shape[0] == pytest.approx(field_nm / 0.02, abs=1.1)
    assert own.field[0] == pytest.approx(field_nm, abs=0.021)
    assert own.title == "field"
    side = own.pixels.shape[0]
    middle = (256 - side) // 2
    data = viewer.layers["field"].data
    viewer.scene.camera.center = (128 * 0.02, 128 * 0.02)
    own = widget.preview.canvas.picture(1)
    np.testing.assert_array_equal(own.pixels, data[middle : middle + side, middle : middle + side])
    viewer.scene.camera.center = (200 * 0.02, 60 * 0.02)  # the user moves the view
    moved = widget.preview.canvas.picture(1).pixels
    assert moved.shape == own.pixels.shape
    assert not np.array_equal(moved, own.pixels)

    canvas = widget.preview.canvas
    wheel(canvas, up=True)
    assert canvas.shown_field == pytest.approx(0.8 * field_nm)
    assert canvas.picture(1).pixels.shape[0] == pytest.approx(0.8 * side, abs=1.5)
    for _ in range(3):
        wheel(canvas, up=False)
    assert canvas.shown_field == pytest.approx(field_nm)


def test_without_an_image_or_a_scale(viewer, widget, qtbot, stem_data):
    widget.form.set_settings(SMALL)
    viewer.layers.clear()
    example(widget, qtbot)
    assert widget.preview.canvas.picture(1) is None
    viewer.add_image(stem_data, name="raw")
    shown = example(widget, qtbot)
    own = widget.preview.canvas.picture(1)
    assert "pixel for pixel" in own.title
    assert own.pixels.shape == shown.image.pixels.shape
    widget.grab()  # paints


def test_example_as_a_layer_beside_the_image(viewer, widget, qtbot):
    widget.form.set_settings(SMALL)
    shown = example(widget, qtbot)
    qtbot.mouseClick(widget.preview.to_viewer, Qt.MouseButton.LeftButton)
    layer = viewer.layers[-1]
    assert isinstance(layer, Image)
    np.testing.assert_array_equal(layer.data, shown.image.pixels)
    np.testing.assert_allclose(layer.scale, shown.scene.pixel_size_nm)
    assert layer.extent.world[0][1] > viewer.layers["field"].extent.world[1][1]
    # it is not what the next example is compared with
    assert widget.preview.images.layer is viewer.layers["field"]
    assert viewer.layers.selection.active is viewer.layers["field"]


def test_a_microscope_without_columns_does_not_freeze(widget, qtbot, monkeypatch):
    widget.form.set_settings(SMALL)
    example(widget, qtbot)
    asked = []

    def prepare(materials, microscope, **callbacks):
        asked.append((materials, microscope.energy_ev))

    monkeypatch.setattr(
        "napari_point_defects.napari_ui.simulate_widget.prepare_columns_apart", prepare
    )
    editor = widget.form.microscope.editors["energy_ev"]
    editor.set(61e3)
    assert example(widget, qtbot) is None
    assert widget.preview.columns.isVisible()
    assert not widget.preview.to_viewer.isEnabled()
    assert "WS2, MoTe2" in widget.preview.canvas._texts[0]
    qtbot.mouseClick(widget.preview.columns, Qt.MouseButton.LeftButton)
    qtbot.waitUntil(lambda: not widget.run.is_running)
    assert asked == [(("WS2", "MoTe2"), 61e3)]
    editor.set(80e3)
    assert example(widget, qtbot) is not None
    assert not widget.preview.columns.isVisible()


def test_impossible_settings_are_said_where_the_example_was(widget, qtbot, notes):
    widget.form.main.editors["a_px"].set((40.0, 20.0))
    assert example(widget, qtbot) is None
    assert "not a possible range" in widget.preview.canvas._texts[0]
    assert not notes


# --- making sets ------------------------------------------------------------------------------


def test_set_is_cancelled_resumed_and_reported(widget, qtbot, tmp_path):
    out = tmp_path / "set"
    many = SMALL.model_copy(update={"train_images": 200, "validation_images": 10})
    widget.form.set_settings(many)
    widget.folder.line.setFocus()
    qtbot.keyClicks(widget.folder.line, str(out))
    assert widget.run.button.text() == "Simulate"
    qtbot.mouseClick(widget.run.button, Qt.MouseButton.LeftButton)
    assert widget.run.button.text() == "Cancel"
    qtbot.waitUntil(lambda: "image " in widget.run.message.text(), timeout=60_000)
    qtbot.mouseClick(widget.run.button, Qt.MouseButton.LeftButton)
    qtbot.waitUntil(lambda: not widget.run.is_running, timeout=60_000)
    found = find_set(out)
    assert 0 < sum(found.images) < 210
    assert len(TrainingSet(out / "train")) == found.images[0]
    assert f"{sum(found.images)} images are in {out}" in widget.run.message.text()
    assert widget.run.button.text() == "Resume"

    # other settings would be another set
    editor = widget.form.size.editors["seed"]
    editor.set(3)
    assert widget.run.button.text() == "Simulate"
    qtbot.mouseClick(widget.run.button, Qt.MouseButton.LeftButton)
    qtbot.waitUntil(lambda: not widget.run.is_running, timeout=60_000)
    assert "other settings (seed)" in widget.run.message.text()
    assert find_set(out) == found


def test_whole_set_is_made_by_a_program_of_its_own(widget, qtbot, tmp_path):
    widget.form.set_settings(SMALL)
    widget.folder.set(tmp_path / "set")
    qtbot.mouseClick(widget.run.button, Qt.MouseButton.LeftButton)
    qtbot.waitUntil(lambda: not widget.run.is_running, timeout=100_000)
    assert find_set(tmp_path / "set").is_whole
    text = widget.result.text()
    assert "5 + 2 images" in text
    counts = [TrainingSet(tmp_path / "set" / s).class_counts() for s in ("train", "validation")]
    assert f"{counts[0][0]}\u2009+\u2009{counts[1][0]}" in text
    # a whole set is not written again
    qtbot.mouseClick(widget.run.button, Qt.MouseButton.LeftButton)
    qtbot.waitUntil(lambda: not widget.run.is_running, timeout=60_000)
    assert "holds a training set already" in widget.run.message.text()


def test_a_set_needs_a_folder(widget, qtbot, notes):
    qtbot.mouseClick(widget.run.button, Qt.MouseButton.LeftButton)
    assert widget.run.message.text() == "choose the output folder first"
    assert len(notes) == 1


def test_settings_are_saved_and_loaded(widget, tmp_path):
    widget.form.set_settings(SMALL)
    widget.save_settings(tmp_path / "mine")
    assert (tmp_path / "mine.toml").is_file()
    widget.form.set_settings(PRESETS["wide"])
    widget.load_settings(tmp_path / "mine.toml")
    assert widget.form.settings() == SMALL
    widget.save_settings(tmp_path / "mine.toml")
    assert "exists" in widget.run.message.text()
    (tmp_path / "bad.toml").write_text("speed = 3\n")
    widget.load_settings(tmp_path / "bad.toml")
    assert "speed" in widget.run.message.text()
    assert widget.form.settings() == SMALL


def test_settings_dialogs(widget, tmp_path, qtbot, monkeypatch):
    path = tmp_path / "chosen.json"
    write_settings(path, SMALL)
    dialogs = "napari_point_defects.napari_ui.simulate_widget.QFileDialog"
    monkeypatch.setattr(f"{dialogs}.getOpenFileName", lambda *args: (str(path), ""))
    monkeypatch.setattr(f"{dialogs}.getSaveFileName", lambda *args: (str(path), ""))
    qtbot.mouseClick(widget.load, Qt.MouseButton.LeftButton)
    assert widget.form.settings() == SMALL
    widget.form.size.editors["seed"].set(4)
    # the dialog has asked whether to replace it
    qtbot.mouseClick(widget.save, Qt.MouseButton.LeftButton)
    qtbot.mouseClick(widget.load, Qt.MouseButton.LeftButton)
    assert widget.form.settings().seed == 4


# --- the program apart ------------------------------------------------------------------------


def test_mistakes_of_the_program_apart_are_one_line(tmp_path):
    (tmp_path / "taken").write_text("a file")
    with pytest.raises(PointDefectsError, match="cannot write to"):
        process.make_set_apart(SMALL, tmp_path / "taken", workers=1)


def test_the_program_apart_may_die(tmp_path, monkeypatch):
    monkeypatch.setattr(process, "_MODULE", "this")  # prints no message
    with pytest.raises(ValueError, match="Expecting value"):
        process.make_set_apart(SMALL, tmp_path, workers=1)
    monkeypatch.setattr(process, "_MODULE", "no_such_module")
    with pytest.raises(PointDefectsError, match="was ended"):
        process.make_set_apart(SMALL, tmp_path, workers=1)


def test_pace():
    now = [100.0]
    pace = Pace(1000, "images", lambda: now[0])
    assert pace.describe(0.5) == ""  # half was there before
    now[0] += 1
    assert pace.describe(0.51) == ""
    now[0] += 9
    assert pace.describe(0.6) == "10 images/s, 40 s left"
    assert [duration(s) for s in (0.4, 89, 91, 3600, 5400, 7260)] == [
        "0 s", "89 s", "2 min", "60 min", "1 h 30 min", "2 h 1 min",
    ]  # fmt: skip


def test_widget_in_a_window(make_napari_viewer, qtbot):
    viewer = make_napari_viewer(strict_qt="raise")
    _, widget = viewer.window.add_plugin_dock_widget(
        "napari-point-defects", "Simulate training set"
    )
    assert type(widget).__name__ == "SimulateWidget"
    assert set(widget.form.main.editors["materials"].boxes) == set(MATERIALS)
    widget.preview.refresh()
    viewer.close()


CLOSES_AT_ONCE = """
import napari_point_defects.napari_ui
import napari
from qtpy.QtCore import QTimer
from napari_point_defects.napari_ui.simulate_widget import SimulateWidget

viewer = napari.Viewer()
widget = SimulateWidget(viewer)
viewer.window.add_dock_widget(widget)

def close():
    widget.preview.render()
    assert widget.preview._task is not None
    viewer.close()

QTimer.singleShot(500, close)
napari.run()
"""


def test_napari_may_be_closed_while_an_example_is_made():
    done = subprocess.run(
        [sys.executable, "-c", CLOSES_AT_ONCE], capture_output=True, text=True, timeout=200
    )
    assert done.returncode == 0, done.stderr
