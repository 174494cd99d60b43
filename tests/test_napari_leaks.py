"""Dock widgets that are closed are gone, and a run in a window that is closed ends quietly."""

from __future__ import annotations

import gc
import importlib
import threading
import weakref

import pytest

pytest.importorskip("napari")
pytest.importorskip("qtpy.QtWidgets", exc_type=ImportError)

from qtpy.QtCore import QEvent, QThreadPool
from qtpy.QtWidgets import QApplication

from napari_point_defects.errors import PointDefectsError
from napari_point_defects.napari_ui.classify_widget import ClassifyWidget
from napari_point_defects.napari_ui.detect_widget import DetectWidget

pytestmark = pytest.mark.gui

WIDGETS = {
    "calibrate_widget": "CalibrateWidget",
    "detect_widget": "DetectWidget",
    "classify_widget": "ClassifyWidget",
    "inspector_widget": "InspectorWidget",
    "label_widget": "LabelWidget",
    "measure_widget": "MeasureWidget",
    "study_widget": "StudyWidget",
    "movie_widget": "MovieWidget",
    "simulate_widget": "SimulateWidget",
    "adapt_widget": "AdaptWidget",
    "train_widget": "TrainWidget",
}
TIMES = 3


def settle():
    for _ in range(3):
        QApplication.sendPostedEvents(None, QEvent.Type.DeferredDelete)
        QApplication.processEvents()
        gc.collect()


def listeners(viewer):
    """Count who listens to the viewer's events and its layers'; napari drops the dead later."""
    emitters = [viewer.events, viewer.layers.events, viewer.layers.selection.events]
    emitters += [layer.events for layer in viewer.layers]
    callbacks = [
        c for group in emitters for each in group.emitters.values() for c in each.callbacks
    ]
    return sum(not isinstance(c, tuple) or c[0]() is not None for c in callbacks)


@pytest.mark.parametrize("module", WIDGETS)
def test_a_widget_closed_again_and_again_is_gone(viewer, qtbot, module):
    kind = getattr(
        importlib.import_module(f"napari_point_defects.napari_ui.{module}"), WIDGETS[module]
    )
    gone, counts = [], []
    for _ in range(TIMES):
        widget = kind(viewer)
        gone.append(weakref.ref(widget))
        widget.show()
        QApplication.processEvents()
        widget.close()
        widget.deleteLater()
        del widget
        settle()
        counts.append(listeners(viewer))
    assert [ref() for ref in gone[:-1]] == [None] * (TIMES - 1)
    assert counts[0] == counts[-1]


@pytest.mark.parametrize(
    "error", [PointDefectsError("give another image"), RuntimeError("broken"), MemoryError()]
)
def test_a_thread_that_raises_changes_nothing(viewer, classify, core, run, classified, error):
    """The layers stay, the message says why, and the next run is as ever."""
    before = [layer.name for layer in viewer.layers]
    labels = classified.features["label"].tolist()
    core.error = error
    run(classify)
    assert [layer.name for layer in viewer.layers] == before
    assert viewer.layers["field cells"].features["label"].tolist() == labels
    said = classify.run.message.text()
    assert str(error) in said
    assert "\n" not in said
    core.error = None
    run(classify)
    assert classify.run.button.isEnabled()
    assert str(error) not in classify.run.message.text() or not str(error)


@pytest.mark.parametrize("kind", [DetectWidget, ClassifyWidget])
def test_napari_closed_in_mid_run(make_napari_viewer, stem_data, core, qtbot, run, notes, kind):
    viewer = make_napari_viewer()
    viewer.add_image(stem_data, name="field", scale=(0.02, 0.02), units=("nm", "nm"))
    detect = DetectWidget(viewer)
    viewer.window.add_dock_widget(detect)
    widget = detect
    if kind is ClassifyWidget:
        run(detect)
        widget = ClassifyWidget(viewer)
        viewer.window.add_dock_widget(widget)
    core.entered.clear()
    core.hold = True
    widget.run.button.click()
    qtbot.waitUntil(core.entered.is_set)
    notes.clear()
    with qtbot.captureExceptions() as exceptions:
        viewer.close()
        assert core.was_stopped.wait(10)
        assert QThreadPool.globalInstance().waitForDone(10_000)
        settle()
    assert not exceptions
    assert not [note for note in notes if note.severity >= "error"]
    assert not [t for t in threading.enumerate() if not t.daemon and t.name.startswith("Dummy")]
