"""Settings of the last run come back in the next session; damage never costs more than they."""

from __future__ import annotations

import json

import pytest

pytest.importorskip("napari")
pytest.importorskip("qtpy.QtWidgets", exc_type=ImportError)

from napari_point_defects.napari_ui import memory
from napari_point_defects.napari_ui.adapt_widget import AdaptWidget
from napari_point_defects.napari_ui.calibrate_widget import CalibrateWidget
from napari_point_defects.napari_ui.classify_widget import ClassifyWidget
from napari_point_defects.napari_ui.detect_widget import DetectWidget
from napari_point_defects.napari_ui.measure_widget import MeasureWidget
from napari_point_defects.napari_ui.movie_widget import MovieWidget
from napari_point_defects.napari_ui.remembered import OF_ONE_IMAGE, Remembered
from napari_point_defects.napari_ui.simulate_widget import SimulateWidget
from napari_point_defects.napari_ui.train_widget import TrainWidget

pytestmark = pytest.mark.gui


@pytest.fixture
def again(viewer, qtbot):
    """Open a widget, as in another session."""

    held = []  # Qt deletes a widget that nobody holds

    def make(kind):
        widget = kind(viewer)
        qtbot.addWidget(widget)
        held.append(widget)
        return widget

    return make


def remembered(widget):
    (found,) = widget.findChildren(Remembered)
    return found


def test_a_run_is_what_is_remembered(viewer, detect, core, run, again, memory_file):
    detect.form.set_values({"material": "WS2", "pixel_size_nm": 0.0123})
    detect.advanced.set_values({"min_score": 0.25, "sublattice_rank": 1, "device": "cpu"})
    assert not memory_file.exists()  # typed is not yet run
    run(detect)
    kept = json.loads(memory_file.read_text(encoding="utf-8"))["detect"]
    assert kept == {"material": "WS2", "min_score": 0.25, "detector_weights": None, "device": "cpu"}
    new = again(DetectWidget)
    assert new.form.values() == {"material": "WS2", "pixel_size_nm": None}
    assert new.advanced.values()["min_score"] == 0.25
    assert new.advanced.values()["sublattice_rank"] == 0  # the other image's


def test_reset_goes_back_and_forgets(detect, core, run, again):
    defaults = {**detect.form.values(), **detect.advanced.values()}
    detect.form.set_values({"material": "WS2"})
    detect.advanced.set_values({"min_score": 0.25})
    run(detect)
    remembered(detect).button.click()
    assert {**detect.form.values(), **detect.advanced.values()} == defaults
    assert memory.recall("detect") == {}
    assert again(DetectWidget).form.values()["material"] == "MoTe2"


def test_it_can_be_turned_off(detect, core, run, again, memory_file):
    memory.keep("detect", {"material": "WS2"})
    memory.keep("preferences", {"remember_settings": False})
    assert again(DetectWidget).form.values()["material"] == "MoTe2"
    detect.form.set_values({"material": "MoS2"})
    run(detect)
    assert memory.recall("detect") == {"material": "WS2"}


@pytest.mark.parametrize("content", ["{", "[]", '"x"', "{}", '{"version": 99}', "\xff\x00", "null"])
def test_a_damaged_file_is_set_aside_and_defaults_hold(again, memory_file, notes, content):
    memory_file.parent.mkdir(parents=True)
    memory_file.write_bytes(content.encode("latin-1"))
    widget = again(DetectWidget)
    assert widget.form.values()["material"] == "MoTe2"
    assert not memory_file.exists()
    aside = memory_file.with_suffix(".damaged.json")
    assert aside.read_bytes() == content.encode("latin-1")
    said = [note.message for note in notes if "cannot be read" in note.message]
    assert len(said) == 1
    assert aside.name in said[0]


def test_what_cannot_be_used_any_more_spoils_nothing_else(again, notes, tmp_path):
    gone = str(tmp_path / "gone.safetensors")
    memory.keep(
        "detect",
        {"material": "XyZ2", "min_score": 7, "device": "cpu", "detector_weights": gone, "new": 1},
    )
    widget = again(DetectWidget)
    assert widget.form.values()["material"] == "MoTe2"
    values = widget.advanced.values()
    assert (values["min_score"], values["device"]) == (0.4, "cpu")
    assert values["detector_weights"] is None
    text = " ".join(note.message for note in notes)
    for part in ("XyZ2", "Lowest score", "gone.safetensors is not there"):
        assert part in text
    for odd in ([], "x", 3, {"device": ["a"]}, {"min_score": {}}):
        memory.keep("detect", odd if isinstance(odd, dict) else {"material": odd})
        assert again(DetectWidget).form.values()["material"] == "MoTe2"


@pytest.mark.parametrize(
    ("kind", "part", "name", "value"),
    [
        (ClassifyWidget, "form", "unsure_below", 0.8),
        (MovieWidget, "more_frame", "min_score", 0.3),
        (TrainWidget, "advanced", "seed", 5),
        (TrainWidget, "advanced", "epochs", 7),
        (AdaptWidget, "advanced", "seed", 5),
    ],
)
def test_every_form_comes_back(again, kind, part, name, value):
    first = again(kind)
    getattr(first, part).set_values({name: value})
    remembered(first).keep()
    assert getattr(again(kind), part).values()[name] == value
    remembered(first).reset()
    assert getattr(first, part).values()[name] != value


@pytest.mark.parametrize("kind", [MeasureWidget, CalibrateWidget, AdaptWidget])
def test_the_material_comes_back(again, kind):
    first = again(kind)
    first.material.set("WSe2")
    remembered(first).keep()
    assert again(kind).material.get() == "WSe2"


def test_a_training_sets_settings_come_back(again):
    first = again(SimulateWidget)
    settings = first.form.settings().model_copy(update={"seed": 77, "materials": ("WS2",)})
    first.form.set_settings(settings)
    remembered(first).keep()
    assert again(SimulateWidget).form.settings() == settings
    memory.keep("simulate", {"preset": "no such preset", "seed": "x"})
    assert again(SimulateWidget).form.settings().seed != 77


def test_what_belongs_to_one_recording_is_never_kept(again):
    first = again(MovieWidget)
    remembered(first).keep()
    assert not OF_ONE_IMAGE & set(memory.recall("movie"))
    memory.keep("movie", {"pixel_size_nm": 0.5, "dwell_us": 3.0})
    new = again(MovieWidget)
    assert new.form.values()["pixel_size_nm"] is None
    assert new.dose.values()["dwell_us"] is None


def test_a_folder_that_cannot_be_written_is_no_obstacle(detect, core, run, memory_file):
    memory_file.parent.write_text("a file where the folder should be")
    run(detect)
    assert not detect.run.is_running
    assert memory.recall("detect") == {}
