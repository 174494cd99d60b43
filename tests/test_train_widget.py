"""*Train*, on a stand-in for the training process."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("napari")
pytest.importorskip("qtpy.QtWidgets", exc_type=ImportError)

from qtpy.QtCore import QStandardPaths, Qt
from qtpy.QtWidgets import QFileDialog, QMessageBox

from napari_point_defects.classification.model import CLASSIFIER_PRESETS
from napari_point_defects.detection.model import DETECTOR_PRESETS
from napari_point_defects.errors import PointDefectsError, Stopped
from napari_point_defects.evaluation import BoxScores, ClassScores
from napari_point_defects.napari_ui import train_data
from napari_point_defects.napari_ui.classify_widget import ClassifyWidget
from napari_point_defects.napari_ui.detect_widget import DetectWidget
from napari_point_defects.napari_ui.train_data import few_examples
from napari_point_defects.napari_ui.train_runs import TimeLeft, new_run_folder, unfinished_run
from napari_point_defects.napari_ui.train_scores import class_table
from napari_point_defects.napari_ui.train_widget import TrainWidget
from napari_point_defects.retraining import apart
from napari_point_defects.retraining.data import LabelledEntry
from napari_point_defects.retraining.folder import load_run, write_run
from napari_point_defects.training_set import LabelledImage, TrainingSetWriter
from napari_point_defects.weights import save_weights

pytestmark = pytest.mark.gui

BEFORE = np.diag([90, 6, 2, 1, 1, 0])
BEFORE[1, 0] = 5
AFTER = np.diag([90, 10, 2, 1, 1, 0])
AFTER[1, 0] = 1
PRESET = {"classifier": CLASSIFIER_PRESETS["compact"], "detector": DETECTOR_PRESETS["compact"]}


class Trainer:
    """Stands in for the training process: writes what it would, or waits to be stopped."""

    def __init__(self):
        self.calls, self.hold, self.error = [], False, None
        self.entered, self.go, self.was_stopped = (threading.Event() for _ in range(3))

    def retrain_apart(
        self, settings, folder, *, resume, on_progress, should_stop, on_step, on_epoch
    ):
        self.calls.append((settings, folder, resume))
        if self.error:
            raise self.error
        if not resume:
            write_run(settings, folder)
        on_progress(0.3, "epoch 1")
        for epochs, loss in ((0.5, 0.2), (1.0, 0.1)):
            on_step(epochs, loss)
        row = {"epoch": 1.0, "train_loss": 0.15, "val_loss": 0.1, "val_score": 0.9}
        names = ",".join(row)
        (folder / "metrics.csv").write_text(f"{names}\n{','.join(map(str, row.values()))}\n")
        on_epoch(row)
        self.entered.set()
        while self.hold and not self.go.wait(0.005):
            if should_stop():
                self.was_stopped.set()
                raise Stopped
        write_result(settings.kind, folder)
        return load_run(folder)


def write_result(kind, folder):
    if kind == "classifier":
        scores = ClassScores(BEFORE), ClassScores(AFTER)
    else:
        scores = BoxScores(90, 100, 92, 85.0), BoxScores(97, 100, 97, 93.0)
    before, after = (s.as_dict() for s in scores)
    save_weights(
        folder / f"{kind}-compact.safetensors",
        {"a": torch.zeros(2)},
        kind=kind,
        settings=PRESET[kind].model_dump(mode="json"),
        training_set={"sets": [], "labels": {"learned": [50, 1, 0, 0, 0, 0]}},
        metrics={
            "temperature": 1.0,
            "compared_with": f"{kind}-compact@0123",
            "comparisons": [
                {"source": "labels", "before": before, "after": after},
                {"source": "simulated", "before": before, "after": before},
            ],
        },
        started_from=f"{kind}-compact@0123",
    )


@pytest.fixture(autouse=True)
def home(monkeypatch, tmp_path):
    """The user's folder of data, so that no test finds another's runs."""
    monkeypatch.setattr(QStandardPaths, "writableLocation", lambda _: str(tmp_path / "home"))
    return tmp_path / "home" / "napari-point-defects" / "training"


@pytest.fixture
def trainer(monkeypatch):
    trainer = Trainer()
    monkeypatch.setattr(apart, "retrain_apart", trainer.retrain_apart)
    yield trainer
    trainer.go.set()


@pytest.fixture
def labels(monkeypatch, tmp_path):
    """A project of three images, one without a decided cell."""
    folder = tmp_path / "project"
    entries = [
        LabelledEntry(1, "field", np.array([40, 12, 0, 0, 0, 0])),
        LabelledEntry(2, "other", np.array([10, 3, 0, 11, 0, 0])),
        LabelledEntry(5, "untouched", np.zeros(6, int)),
    ]

    def survey(path):
        if path != folder:
            raise PointDefectsError(f"{path} holds no labels")
        return entries

    monkeypatch.setattr(train_data, "survey_labels", survey)
    return folder


@pytest.fixture
def simulated(tmp_path, lattice, cells):
    """A set whose training split holds one image."""
    writer = TrainingSetWriter(tmp_path / "simulated" / "train")
    none = np.zeros((0, 2))
    pixels = np.zeros((256, 256), np.uint8)
    columns = cells.chalcogen_px, cells.metal_px
    writer.add(LabelledImage(pixels, lattice, "MoTe2", none, *columns, cells.classes))
    writer.close()
    return tmp_path / "simulated"


@pytest.fixture
def widget(viewer, qtbot, trainer):
    widget = TrainWidget(viewer)
    qtbot.addWidget(widget)
    widget.show()
    return widget


def fill(widget, qtbot, *, data=(), labels=None):
    widget.data.set_values(data, labels)
    qtbot.waitUntil(lambda: not widget.data.is_reading)


def press(widget, qtbot, button=None):
    qtbot.mouseClick(button or widget.run.button, Qt.MouseButton.LeftButton)
    qtbot.waitUntil(lambda: not widget.run.is_running, timeout=20_000)


@pytest.fixture
def trained(widget, qtbot, labels):
    fill(widget, qtbot, labels=labels)
    press(widget, qtbot)
    return widget


# --- what to learn from ----------------------------------------------------------------------


def test_says_how_many_of_each_class(widget, qtbot, labels, simulated, cells):
    assert "Add a simulated set" in widget.data.problem.text()
    fill(widget, qtbot, data=[simulated], labels=labels)
    labelled, of_sets = widget.data.counts()
    assert labelled.tolist() == [50, 15, 0, 11, 0, 0]
    assert of_sets.tolist() == np.bincount(cells.classes, minlength=6).tolist()
    assert widget.data.sets.item(0).text() == f"simulated: {len(cells):,} cells"
    text = widget.data.table.text()
    assert ">50<" in text
    assert f">{of_sets[0]:,}<" in text
    assert "V_X2, V_X1+V_M, V_X2+V_M: fewer than 10" in widget.data.problem.text()
    titles = [widget.data.images.item(i).text() for i in range(3)]
    assert titles == ["field: 52 cells", "other: 24 cells", "untouched: 0 cells"]


def test_images_are_chosen_by_their_ticks(widget, qtbot, labels):
    fill(widget, qtbot, labels=labels)
    assert widget.data.values()["images"] == (1, 2)
    widget.data.images.item(1).setCheckState(Qt.CheckState.Unchecked)
    assert widget.settings().images == (1,)
    assert widget.data.counts()[0].tolist() == [40, 12, 0, 0, 0, 0]
    widget.data.images.item(0).setCheckState(Qt.CheckState.Unchecked)
    with pytest.raises(PointDefectsError, match="no data: give"):
        widget.settings()


def test_a_typed_folder_is_read_and_a_wrong_one_is_named(widget, qtbot, labels, tmp_path):
    qtbot.keyClicks(widget.data.labels.line, str(labels))
    qtbot.waitUntil(lambda: widget.data.images.count() == 3)
    widget.data.labels.line.setText(str(tmp_path / "wrong"))
    qtbot.waitUntil(lambda: "wrong holds no labels" in widget.data.problem.text())
    assert widget.data.images.count() == 0
    widget.data.add_set(tmp_path / "no set")
    qtbot.waitUntil(lambda: not widget.data.is_reading)
    assert "no training set" in widget.data.sets.item(0).text()
    widget.data.sets.item(0).setSelected(True)
    qtbot.mouseClick(widget.data.remove_button, Qt.MouseButton.LeftButton)
    assert widget.data.data == ()


def test_few_examples_are_named():
    none, many = np.zeros(6, int), np.full(6, 500)
    assert "Add a simulated set" in few_examples(none, none, False)
    assert few_examples(none, many, True) == ""
    rare = many - [0, 0, 0, 490, 0, 0]
    assert "⚠ V_M: fewer than 50 cells" in few_examples(none, rare, True)
    assert "shown again" in few_examples(many, none, False)


# --- settings --------------------------------------------------------------------------------


def test_settings_are_those_shown(widget, qtbot, labels, simulated, tmp_path):
    fill(widget, qtbot, data=[simulated], labels=labels)
    settings = widget.settings()
    assert (settings.kind, settings.start, settings.from_scratch) == ("classifier", None, False)
    assert (settings.data, settings.labels, settings.epochs) == ((simulated,), labels, None)
    widget.advanced.set_values({"epochs": 1, "learning_rate": 0.0005, "seed": 7})
    assert (widget.settings().epochs, widget.settings().seed) == (1, 7)
    assert widget.start.weights.isHidden()
    widget.start.start.setCurrentText("Own weights")
    assert not widget.start.weights.isHidden()
    with pytest.raises(PointDefectsError, match="choose the weights"):
        widget.settings()
    widget.start.weights.line.setText(str(tmp_path / "mine.safetensors"))
    assert widget.settings().start == tmp_path / "mine.safetensors"
    widget.start.kind.setCurrentIndex(1)
    widget.start.start.setCurrentText("From scratch")
    settings = widget.settings()
    assert (settings.kind, settings.from_scratch, settings.preset) == ("detector", True, "compact")
    assert settings.start is None


def test_nothing_to_learn_from_is_said(widget, qtbot, trainer):
    press(widget, qtbot)
    assert "no data: give" in widget.run.message.text()
    assert not trainer.calls


# --- a run -----------------------------------------------------------------------------------


def test_a_run_shows_curves_and_what_changed(widget, qtbot, trainer, labels, home):
    trainer.hold = True
    fill(widget, qtbot, labels=labels)
    qtbot.mouseClick(widget.run.button, Qt.MouseButton.LeftButton)
    qtbot.waitUntil(trainer.entered.is_set)
    qtbot.waitUntil(lambda: len(widget.curves._step_line.get_xdata()) == 2)
    assert widget.curves._score_line.get_ydata() == [0.9]
    assert widget.run.button.text() == "Cancel"
    assert "epoch 1" in widget.run.message.text()
    assert not widget.decision.isVisible()
    trainer.go.set()
    qtbot.waitUntil(lambda: not widget.run.is_running)
    ((settings, folder, resume),) = trainer.calls
    assert (settings.labels, resume) == (labels, False)
    assert folder == home / "classifier-001"
    assert widget.decision.isVisible()
    headline = widget.scores.headline.text()
    assert "95.24" in headline
    assert "99.05" in headline
    assert "5 → 1 wrong" in headline
    assert "0.545 → <font color='#5fd38d'>0.909</font>" in widget.scores.table.text()
    before, after = widget.scores.figure.axes
    assert [axes.get_title() for axes in (before, after)] == ["before", "after"]
    assert "5" in [text.get_text() for text in before.texts]
    assert "5" not in [text.get_text() for text in after.texts]
    assert [widget.scores.source.itemData(i) for i in range(3)] == ["labels", "simulated", "all"]
    widget.scores.source.setCurrentIndex(1)
    assert "5 → 5 wrong" in widget.scores.headline.text()
    assert "font color='#5fd38d'" not in widget.scores.table.text()


def test_a_detectors_run(widget, qtbot, trainer, labels):
    widget.start.kind.setCurrentIndex(1)
    fill(widget, qtbot, labels=labels)
    press(widget, qtbot)
    assert trainer.calls[0][0].kind == "detector"
    assert "of 100 hexagons" in widget.scores.headline.text()
    assert "0.900 → <font color='#5fd38d'>0.970</font>" in widget.scores.table.text()
    assert widget.scores.canvas.isHidden()


def test_a_class_that_got_worse_is_red():
    assert "#ff7b72" in class_table(ClassScores(AFTER), ClassScores(BEFORE))
    assert "#5fd38d" in class_table(ClassScores(BEFORE), ClassScores(AFTER))


def test_a_cancelled_run_is_resumed(widget, viewer, qtbot, trainer, labels, home):
    trainer.hold = True
    fill(widget, qtbot, labels=labels)
    qtbot.mouseClick(widget.run.button, Qt.MouseButton.LeftButton)
    qtbot.waitUntil(trainer.entered.is_set)
    press(widget, qtbot)
    assert trainer.was_stopped.is_set()
    assert "resume whenever you like" in widget.run.message.text()
    assert "stopped after 1 epoch" in widget.found.text()
    assert not widget.decision.isVisible()
    # another session finds it
    trainer.hold = False
    other = TrainWidget(viewer)
    qtbot.addWidget(other)
    other.show()
    assert other.resume_button.text() == "Resume"
    press(other, qtbot, other.resume_button)
    assert trainer.calls[-1] == (trainer.calls[0][0], home / "classifier-001", True)
    assert other.retrained is not None
    assert [row["epoch"] for row in other.curves._live.epochs] == [1]
    assert unfinished_run() is None
    assert not other.resume_button.isVisible()


def test_a_finished_run_in_the_folder_is_shown_not_overwritten(trained, qtbot, trainer, viewer):
    folder = trained.retrained.folder
    other = TrainWidget(viewer)
    qtbot.addWidget(other)
    other.show()
    other.data.set_values((), trained.data.labels.folder)
    qtbot.waitUntil(lambda: not other.data.is_reading)
    other.folder.line.setText(str(folder))
    assert other.resume_button.text() == "Show its result"
    press(other, qtbot)
    assert "holds a training run" in other.run.message.text()
    assert len(trainer.calls) == 1
    qtbot.mouseClick(other.resume_button, Qt.MouseButton.LeftButton)
    assert "5 → 1 wrong" in other.scores.headline.text()
    assert other.decision.isVisible()


def test_an_error_leaves_the_widget_ready(widget, qtbot, trainer, labels):
    trainer.error = PointDefectsError("no CUDA device here")
    fill(widget, qtbot, labels=labels)
    press(widget, qtbot)
    assert widget.run.message.text() == "no CUDA device here"
    trainer.error = None
    press(widget, qtbot)
    assert widget.retrained is not None


# --- the end ---------------------------------------------------------------------------------


def test_nothing_is_kept_unasked_and_nothing_overwritten(trained, qtbot, monkeypatch, tmp_path):
    assert not trained.use_button.isEnabled()
    target = tmp_path / "mine"
    monkeypatch.setattr(QFileDialog, "getSaveFileName", lambda *_, **__: (str(target), ""))
    press(trained, qtbot, trained.keep_button)
    written = target.with_suffix(".safetensors")
    assert trained.kept == written
    assert written.with_suffix(".json").is_file()
    assert trained.use_button.isEnabled()
    # a second time it asks, and does nothing on a no
    before = written.stat().st_mtime_ns
    answers = [QMessageBox.StandardButton.No, QMessageBox.StandardButton.Yes]
    monkeypatch.setattr(QMessageBox, "question", lambda *_: answers.pop(0))
    press(trained, qtbot, trained.keep_button)
    assert written.stat().st_mtime_ns == before
    press(trained, qtbot, trained.keep_button)
    assert written.stat().st_mtime_ns > before
    # pressing Cancel in the file dialog
    monkeypatch.setattr(QFileDialog, "getSaveFileName", lambda *_, **__: ("", ""))
    press(trained, qtbot, trained.keep_button)
    assert trained.kept == written


def test_discard_asks_and_removes_the_run(trained, qtbot, monkeypatch):
    folder = trained.retrained.folder
    answers = [QMessageBox.StandardButton.No, QMessageBox.StandardButton.Yes]
    monkeypatch.setattr(QMessageBox, "question", lambda *_: answers.pop(0))
    press(trained, qtbot, trained.discard_button)
    assert folder.exists()
    press(trained, qtbot, trained.discard_button)
    assert not folder.exists()
    assert trained.retrained is None
    assert not trained.decision.isVisible()


def test_use_needs_kept_weights_and_a_window(trained, qtbot, tmp_path):
    trained.use()
    assert "keep the weights first" in trained.run.message.text()
    trained.keep(tmp_path / "mine")
    qtbot.waitUntil(lambda: not trained.run.is_running)
    trained.use()
    assert "no window" in trained.run.message.text()


class Window:
    """Gives the docks that are open."""

    def __init__(self, **widgets):
        self.widgets = widgets

    def add_plugin_dock_widget(self, plugin, name, tabify=False):
        return None, self.widgets[name.split()[0]]


def test_used_weights_classify_again_and_corrections_stay(
    trained, qtbot, viewer, monkeypatch, detect, classify, classified, core, tmp_path
):
    classified.features.loc[3, "label"] = "V_Mo"
    trained.keep(tmp_path / "mine")
    qtbot.waitUntil(lambda: not trained.run.is_running)
    monkeypatch.setattr(
        type(viewer), "window", Window(Detect=detect, Classify=classify), raising=False
    )
    qtbot.mouseClick(trained.use_button, Qt.MouseButton.LeftButton)
    qtbot.waitUntil(lambda: not classify.run.is_running)
    assert core.calls[-1][0] == "classify"
    assert core.calls[-1][3].classifier_weights == tmp_path / "mine.safetensors"
    assert viewer.layers["field cells"].features["label"].iloc[3] == "V_Mo"


def test_a_used_detector_detects_and_classifies_again(
    widget, qtbot, viewer, monkeypatch, detect, classify, classified, core, labels, tmp_path
):
    widget.start.kind.setCurrentIndex(1)
    fill(widget, qtbot, labels=labels)
    press(widget, qtbot)
    widget.keep(tmp_path / "mine")
    qtbot.waitUntil(lambda: not widget.run.is_running)
    monkeypatch.setattr(
        type(viewer), "window", Window(Detect=detect, Classify=classify), raising=False
    )
    done = len(core.calls)
    qtbot.mouseClick(widget.use_button, Qt.MouseButton.LeftButton)
    qtbot.waitUntil(lambda: len(core.calls) == done + 2 and not classify.run.is_running)
    detected, again = core.calls[done:]
    assert (detected[0], again[0]) == ("detect", "classify")
    assert detected[2].detector_weights == tmp_path / "mine.safetensors"


def test_time_left(monkeypatch):
    from napari_point_defects.napari_ui import train_runs

    clock = iter([0.0, 1.0, 100.0, 3000.0, 40_000.0])
    monkeypatch.setattr(train_runs.time, "monotonic", lambda: next(clock))
    left = TimeLeft()
    assert [left.after(share) for share in (0.0, 0.01, 0.6, 0.5, 0.6)] == [
        "",
        "",
        "about 70 s left",
        "about 50 min left",
        "about 7.4 h left",
    ]


def test_run_folders_are_numbered(home):
    (home / "classifier-001").mkdir(parents=True)
    assert new_run_folder("classifier") == home / "classifier-002"
    assert new_run_folder("detector") == home / "detector-001"
    assert unfinished_run() is None


def test_the_docks_that_use_weights(viewer, qtbot):
    for kind, field in ((DetectWidget, "detector_weights"), (ClassifyWidget, "classifier_weights")):
        widget = kind(viewer)
        qtbot.addWidget(widget)
        viewer.layers.clear()
        widget.use_weights(Path("mine.safetensors"))  # nothing to analyse: only set
        form = widget.advanced if kind is DetectWidget else widget.form
        assert form.values()[field] == Path("mine.safetensors")
        assert not widget.run.is_running
