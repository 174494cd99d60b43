"""*Adapt to image*: the button, what it asks of the core, and what is done with the result."""

from __future__ import annotations

import json
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("napari")
pytest.importorskip("qtpy.QtWidgets", exc_type=ImportError)

from qtpy.QtCore import QStandardPaths, Qt
from test_likeness import RECIPES, observed

from napari_point_defects import image_matching, training_check
from napari_point_defects.analysis_settings import AnalysisSettings
from napari_point_defects.errors import PointDefectsError, Stopped
from napari_point_defects.evaluation import BoxScores, ClassScores
from napari_point_defects.image_matching import match_image
from napari_point_defects.measured import Estimate
from napari_point_defects.napari_ui import simulate_match
from napari_point_defects.napari_ui.adapt_texts import verdict, worth_using
from napari_point_defects.napari_ui.adapt_widget import AdaptWidget
from napari_point_defects.napari_ui.classify_widget import ClassifyWidget
from napari_point_defects.napari_ui.detect_widget import DetectWidget
from napari_point_defects.napari_ui.image_layers import stem_image
from napari_point_defects.napari_ui.links import CellsLink, link_of
from napari_point_defects.napari_ui.measure_widget import MeasureWidget
from napari_point_defects.napari_ui.run_panel import WARNING_STYLE
from napari_point_defects.napari_ui.simulate_match import Matched
from napari_point_defects.napari_ui.simulate_widget import SimulateWidget
from napari_point_defects.retraining import adapting
from napari_point_defects.retraining.adapting import Adapted
from napari_point_defects.retraining.folder import Comparison, Retrained
from napari_point_defects.weights import Weights, load_weights

pytestmark = pytest.mark.gui

TINY = {
    "train_images": 2,
    "validation_images": 1,
    "epochs": 1,
    "images_per_epoch": 2,
    "detection_f1": 0.0,
}


def scores(wrong, n=200):
    """Confusion of n cells of which so many defects are missed."""
    confusion = np.diag([n - 60, 60 - wrong, 0, 0, 0, 0])
    confusion[1, 0] = wrong
    return ClassScores(confusion)


def retrained(kind, before, after, folder):
    weights = Weights({}, {"metrics": {}}, folder / kind / f"{kind}-compact.safetensors")
    comparison = Comparison("simulated", before, after)
    return Retrained(kind, folder / kind, weights, f"{kind}-compact@0123", (comparison,), [])


def outcome(folder, wrong=(40, 10), boxes=None):
    detection = BoxScores(*(boxes or [(99, 100, 99, 90.0)])[0])
    detector = boxes and retrained("detector", *(BoxScores(*b) for b in boxes), folder)
    classifier = retrained("classifier", *(scores(k) for k in wrong), folder)
    return Adapted(classifier, detection, detector)


class Adapter:
    """Stands in for what takes minutes: answers at once, or waits to be stopped."""

    def __init__(self):
        self.calls, self.hold, self.options = [], False, {}
        self.entered, self.was_stopped = threading.Event(), threading.Event()

    def adapt(self, found, folder, settings, analysis, *, on_progress, should_stop, **apart):
        self.calls.append((found, folder, settings, analysis, apart))
        on_progress(0.4, "CNN-2: epoch 1")
        self.entered.set()
        while self.hold:
            if should_stop():
                self.was_stopped.set()
                raise Stopped
        return outcome(folder, **self.options)


@pytest.fixture(autouse=True)
def home(monkeypatch, tmp_path):
    """The user's folder of data, so that no test finds another's runs."""
    monkeypatch.setattr(QStandardPaths, "writableLocation", lambda _: str(tmp_path / "home"))
    return tmp_path / "home" / "napari-point-defects" / "training"


@pytest.fixture
def adapter(monkeypatch):
    adapter = Adapter()
    monkeypatch.setattr(adapting, "adapt", adapter.adapt)
    yield adapter
    adapter.hold = False


@pytest.fixture(scope="module")
def known():
    """Pixels of an image outside the training range, and what a perfect measurement says of it."""
    pixels, found = observed(RECIPES["dirty"], contamination=Estimate(0.9, 0.85, 0.95))
    return pixels.astype(np.float32), found


@pytest.fixture
def asked(monkeypatch, known):
    """The analysis is known; the settings it was asked for."""
    asked = []

    def analyse(image, settings, *, base, on_progress, should_stop):
        asked.append(settings)
        return match_image(image, known[1], base=base)

    monkeypatch.setattr(simulate_match, "analyze_and_match", analyse)
    monkeypatch.setattr(image_matching, "measure", lambda *args: known[1].measurement)
    return asked


@pytest.fixture
def widget(viewer, known, asked, qtbot):
    viewer.layers.clear()
    viewer.add_image(known[0], name="mine")
    widget = AdaptWidget(viewer)
    qtbot.addWidget(widget)
    widget.material.set("MoS2")
    widget.show()
    return widget


def press(widget, qtbot, button=None):
    qtbot.mouseClick(button or widget.run.button, Qt.MouseButton.LeftButton)
    qtbot.waitUntil(lambda: not widget.run.is_running, timeout=120_000)


class Window:
    """Gives the docks that are open."""

    class Dock:
        def show(self):
            pass

        raise_ = show

    def __init__(self, *widgets):
        names = {
            DetectWidget: "Detect unit cells",
            ClassifyWidget: "Classify point defects",
            SimulateWidget: "Simulate training set",
            AdaptWidget: "Adapt to image",
        }
        self.widgets = {names[type(widget)]: widget for widget in widgets}

    def add_plugin_dock_widget(self, plugin, name, tabify=False):
        return self.Dock(), self.widgets[name]


# --- a run ----------------------------------------------------------------------------------------


def test_one_click_measures_simulates_and_learns(widget, qtbot, known, asked, adapter, home):
    assert "found, classified and measured first" in widget.basis.text()
    press(widget, qtbot)
    ((found, folder, settings, analysis, apart),) = adapter.calls
    assert asked == [analysis] == [AnalysisSettings(material="MoS2")]
    assert found.likeness.settings.materials == ("MoS2",)
    assert folder == home / "adapted-001"
    assert settings == adapting.AdaptSettings()
    # a window keeps its own process free
    assert {f.__name__ for f in apart.values()} == {"make_set_apart", "retrain_apart"}
    assert "the contamination is 0.9" in widget.outside.text()
    assert "point-defects adapt" not in widget.outside.text()
    assert "better" in widget.verdict.text()
    assert "40 → 10 of 200 cells wrong" in widget.verdict.text()
    assert "CNN-1: kept" in widget.verdict.text()
    assert widget.scores["classifier"].isVisible()
    assert not widget.scores["detector"].isVisible()
    assert widget.use_button.text() == "Use these weights"
    widget.grab()  # paints
    press(widget, qtbot)  # what was measured holds
    assert len(asked) == 1
    assert len(adapter.calls) == 2


def test_a_detector_that_learned_is_shown_too(widget, qtbot, adapter):
    adapter.options = {"boxes": [(60, 100, 70, 50.0), (99, 100, 99, 90.0)]}
    press(widget, qtbot)
    assert "CNN-1: <b>better</b>, 50 → 1 of 100 hexagons missed or false" in widget.verdict.text()
    assert widget.scores["detector"].isVisible()
    assert set(worth_using(widget.adapted)) == {"classifier", "detector"}


def test_no_gain_is_said(widget, qtbot, adapter):
    adapter.options = {"wrong": (10, 30)}
    press(widget, qtbot)
    assert "<b>worse</b>" in widget.verdict.text()
    assert "keep the weights you have" in widget.verdict.text()
    assert widget.verdict.styleSheet() == WARNING_STYLE
    assert widget.use_button.text() == "Use them all the same"


@pytest.mark.parametrize(
    ("wrong", "said", "better"),
    [
        ((12, 10), "no clear difference", True),
        ((10, 12), "no clear difference", False),
        ((0, 0), "no clear difference", False),
        ((30, 10), "<b>better</b>", True),
    ],
)
def test_few_errors_are_no_proof(tmp_path, wrong, said, better):
    adapted = outcome(tmp_path, wrong)
    assert said in verdict(adapted, "mine")
    assert ("classifier" in worth_using(adapted)) == better


def test_a_detector_that_found_nothing_before(tmp_path):
    adapted = outcome(tmp_path, (10, 10), [(0, 100, 0, 0.0), (99, 100, 99, 90.0)])
    assert "CNN-1: <b>better</b>, 100 → 1 of 100" in verdict(adapted, "mine")
    assert set(worth_using(adapted)) == {"detector"}


def test_cancel_changes_nothing(widget, qtbot, adapter):
    adapter.hold = True
    widget.run.button.click()
    qtbot.waitUntil(adapter.entered.is_set, timeout=60_000)
    qtbot.waitUntil(lambda: "CNN-2: epoch 1" in widget.run.message.text())
    press(widget, qtbot)
    assert adapter.was_stopped.is_set()
    assert "Cancelled" in widget.run.message.text()
    assert not widget.use_button.isVisible()


def test_a_folder_that_holds_something_is_refused(widget, qtbot, adapter, tmp_path, notes):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("mine")
    widget.folder.line.setText(str(tmp_path / "full"))
    press(widget, qtbot)
    assert "is not empty: choose a new folder" in widget.run.message.text()
    assert not adapter.calls
    assert len(notes) == 1


def test_without_an_image(widget, viewer, qtbot, adapter, notes):
    viewer.layers.clear()
    press(widget, qtbot)
    assert "no image is open" in widget.run.message.text()
    assert not adapter.calls


def test_it_is_done_in_processes_apart(widget, qtbot, known, tmp_path, monkeypatch):
    """The real thing, with as little to learn as there can be."""
    found = match_image(stem_image(widget.images.layer), known[1])
    small = found.likeness.settings.model_copy(
        update={"side_a": 5.0, "a_px": (12.0, 12.0), "vacuum_share": 0.0}
    )
    found = replace(found, likeness=replace(found.likeness, settings=small))
    settings = AnalysisSettings(material="MoS2", device="cpu")
    widget.set_image(widget.images.layer, Matched(found, settings, ()))
    assert "gain little" in widget.outside.text()
    assert "found for this image" in widget.basis.text()
    widget.advanced.set_values(TINY)
    widget.folder.line.setText(str(tmp_path / "adapted"))
    press(widget, qtbot)
    assert widget.adapted is not None, widget.run.message.text()
    path = widget.adapted.weights["classifier"]
    card = load_weights("classifier", path).card
    assert path.is_relative_to(tmp_path / "adapted")
    assert card["started_from"] == load_weights("classifier", None).version
    assert card["training_range"]["a_px"] == [12.0, 12.0]
    record = json.loads((tmp_path / "adapted" / "set" / "settings.json").read_text())
    assert record["train_images"] == 2
    assert widget.adapted.classifier.after.n_cells > 0
    assert "On held-out simulated images like mine" in widget.verdict.text()


# --- using the result -----------------------------------------------------------------------------


def test_the_weights_are_used_in_both_docks(
    viewer, qtbot, monkeypatch, detect, classify, classified, core, known, asked, adapter
):
    adapter.options = {"boxes": [(60, 100, 70, 50.0), (99, 100, 99, 90.0)]}
    monkeypatch.setattr(type(viewer), "window", Window(detect, classify), raising=False)
    monkeypatch.setattr(
        simulate_match,
        "observe",
        lambda image, detection, cells, settings: replace(
            known[1], lattice=detection.lattice, shape=image.data.shape
        ),
    )
    widget = AdaptWidget(viewer)
    qtbot.addWidget(widget)
    widget.show()
    assert "classified cells" in widget.basis.text()
    press(widget, qtbot)
    done = len(core.calls)
    qtbot.mouseClick(widget.use_button, Qt.MouseButton.LeftButton)
    qtbot.waitUntil(lambda: len(core.calls) == done + 2 and not classify.run.is_running)
    detected, again = core.calls[done:]
    files = widget.adapted.weights
    assert detected[2].detector_weights == files["detector"]
    assert again[3].classifier_weights == files["classifier"]
    assert again[3].detector_weights == files["detector"]
    assert "used from now on" in widget.run.message.text()


def test_an_image_without_hexagons_is_not_analysed_unasked(
    widget, viewer, qtbot, monkeypatch, detect, classify, core, adapter
):
    monkeypatch.setattr(type(viewer), "window", Window(detect, classify), raising=False)
    press(widget, qtbot)
    press(widget, qtbot, widget.use_button)
    assert classify.form.values()["classifier_weights"] == widget.adapted.weights["classifier"]
    assert "Run Detect unit cells" in widget.run.message.text()
    assert not core.calls
    viewer.layers.clear()
    press(widget, qtbot, widget.use_button)
    assert "the image is closed" in widget.run.message.text()


# --- the ways to it -------------------------------------------------------------------------------


def test_from_a_match_with_the_ranges_of_the_form(widget, viewer, qtbot, monkeypatch, adapter):
    simulate = SimulateWidget(viewer)
    qtbot.addWidget(simulate)
    simulate.resize(420, 900)
    simulate.show()
    monkeypatch.setattr(type(viewer), "window", Window(widget, simulate), raising=False)
    assert not simulate.outside.isVisible()
    simulate.form.main.editors["materials"].set(("MoS2",))
    press(simulate, qtbot, simulate.preview.match)
    assert "the contamination is 0.9" in simulate.outside.label.text()
    simulate.form.main.editors["contamination"].set((0.5, 0.6))
    press(simulate, qtbot, simulate.outside.button)
    press(widget, qtbot)
    ((found, *_),) = adapter.calls
    assert found.likeness.settings.contamination == (0.5, 0.6)
    assert found.likeness.settings == simulate.form.settings()

    viewer.add_image(np.zeros((32, 32)), name="another")
    assert not simulate.outside.isVisible()
    qtbot.waitUntil(lambda: simulate.preview._task is None, timeout=60_000)


def test_it_is_offered_inside_the_range_too(widget, viewer, qtbot, monkeypatch, known):
    monkeypatch.setattr(simulate_match, "outside_training", lambda observed, settings: ())
    simulate = SimulateWidget(viewer)
    qtbot.addWidget(simulate)
    simulate.show()
    simulate.form.main.editors["materials"].set(("MoS2",))
    press(simulate, qtbot, simulate.preview.match)
    assert simulate.outside.button.isVisible()
    assert "gain little" in simulate.outside.label.text()
    assert simulate.outside.label.styleSheet() == ""
    qtbot.waitUntil(lambda: simulate.preview._task is None, timeout=60_000)


def test_while_it_is_at_work_no_other_image_is_set(widget, viewer, qtbot, adapter):
    adapter.hold = True
    widget.run.button.click()
    qtbot.waitUntil(adapter.entered.is_set, timeout=60_000)
    with pytest.raises(PointDefectsError, match="being adapted"):
        widget.set_image(viewer.layers["mine"])
    press(widget, qtbot)


@pytest.fixture
def narrow(monkeypatch):
    """Weights that learned no lattice constant but 8 px."""

    def trained_range(kind, path=None):
        if path is not None and "adapted" in path.name:
            return None
        return replace(shipped(kind), a_px=(8.0, 8.0))

    shipped = training_check.trained_range
    monkeypatch.setattr(training_check, "trained_range", trained_range)


def test_classify_tells_what_the_weights_have_not_seen(
    viewer, qtbot, monkeypatch, narrow, detect, classify, core, run, known, asked
):
    classify.show()
    run(detect)
    run(classify)
    cells = viewer.layers["field cells"]
    note = classify.census.outside
    qtbot.waitUntil(lambda: link_of(cells, CellsLink).outside is not None, timeout=20_000)
    (a_px,) = (line for line in link_of(cells, CellsLink).outside if "lattice constant" in line)
    assert a_px.startswith("the lattice constant is")
    assert note.isVisible()
    assert "the detector and the classifier learned 8 to 8 px" in note.label.text()
    assert note.label.styleSheet() == WARNING_STYLE

    adapt = AdaptWidget(viewer)
    qtbot.addWidget(adapt)
    monkeypatch.setattr(type(viewer), "window", Window(adapt), raising=False)
    viewer.add_image(np.zeros((32, 32)), name="another")
    qtbot.mouseClick(note.button, Qt.MouseButton.LeftButton)
    assert adapt.images.layer is viewer.layers["field"]
    assert "8 to 8 px" in adapt.outside.text()

    # other weights, other cells: what was said of those before is forgotten at once
    classify.form.set_values({"classifier_weights": Path("adapted.safetensors")})
    classify.classify()
    qtbot.waitUntil(lambda: viewer.layers["field cells"] is not cells)
    cells = viewer.layers["field cells"]
    qtbot.waitUntil(lambda: link_of(cells, CellsLink).outside is not None, timeout=20_000)
    assert "the detector learned 8 to 8 px" in note.label.text()


def test_nothing_is_said_inside_the_range(viewer, qtbot, monkeypatch, classify, core, classified):
    monkeypatch.setattr(training_check, "trained_range", lambda kind, path=None: None)
    qtbot.waitUntil(lambda: link_of(classified, CellsLink).outside is not None, timeout=20_000)
    classify.show()
    viewer.layers.remove(classified)
    assert not classify.census.outside.isVisible()


def test_cells_whose_image_is_closed_are_not_measured(viewer, qtbot, classify, classified):
    qtbot.waitUntil(lambda: not classify.checks.is_running, timeout=20_000)
    link = link_of(classified, CellsLink)
    classified.metadata["napari-point-defects"] = replace(link, outside=None)
    viewer.layers.remove("field")
    classify.checks.check(classified)
    assert not classify.checks.is_running


def test_measure_offers_it(viewer, qtbot, monkeypatch, narrow, core, detect, run):
    run(detect)
    adapt = AdaptWidget(viewer)
    widget = MeasureWidget(viewer)
    for each in (adapt, widget):
        qtbot.addWidget(each)
    widget.show()
    monkeypatch.setattr(type(viewer), "window", Window(adapt), raising=False)
    press(widget, qtbot)
    assert widget.outside.isVisible()
    assert "8 to 8 px" in widget.outside.label.text()
    press(widget, qtbot, widget.outside.button)
    assert adapt.images.layer is viewer.layers["field"]
