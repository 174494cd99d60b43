"""How long the plugin's window makes one wait, with an image of 10,000 cells.

    xvfb-run -a python -m benchmarks.gui_speed            # writes benchmarks/results/gui_speed.json
    xvfb-run -a python -m benchmarks.gui_speed --quick    # 2,000 cells, few repeats: prints only

Three questions: how soon a result is on the screen, how soon an edit is on the screen and in the
label store, and how long the event loop is away while something runs in the background. Every key
is a real key event to the canvas. The networks' answers are made from the simulated image, known
cell for cell; the background runs are real ones.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from qtpy.QtCore import Qt
from qtpy.QtTest import QTest

from benchmarks.gui_window import (
    Field,
    Pauses,
    Window,
    settle,
    simulated_field,
    wait,
    window,
)
from napari_point_defects import appraisal, pipeline
from napari_point_defects.classification.model import CLASSIFIER_PRESETS
from napari_point_defects.evaluation import ClassScores
from napari_point_defects.napari_ui.cell_rows import cell_ids
from napari_point_defects.napari_ui.inspector_widget import InspectorWidget
from napari_point_defects.napari_ui.labelling import labelling
from napari_point_defects.napari_ui.lasso import LAYER_NAME
from napari_point_defects.napari_ui.train_widget import TrainWidget
from napari_point_defects.retraining.folder import write_run
from napari_point_defects.retraining.settings import RetrainSettings
from napari_point_defects.weights import save_weights

RESULTS = Path(__file__).parent / "results" / "gui_speed.json"
CELLS, REPEATS = 10_000, 30
LASSO_CELLS = 500
TRAINING_S = 90
_CTRL, _NONE = Qt.KeyboardModifier.ControlModifier, Qt.KeyboardModifier.NoModifier


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="2,000 cells, few repeats; no file")
    parser.add_argument("--only", choices=("edits", "pauses"), help="one part; no file")
    options = parser.parse_args()
    n, repeats = (2_000, 5) if options.quick else (CELLS, REPEATS)
    field = simulated_field(n)
    report = {
        "command": "xvfb-run -a python -m benchmarks.gui_speed",
        "image_px": list(field.image.data.shape),
        "hexagons": len(field.detection.hexagons),
        "cells": len(field.cells),
        "repeats": repeats,
    }
    with tempfile.TemporaryDirectory() as folder, window(field, Path(folder) / "a") as opened:
        report["results_appear"] = {
            "first": results_appear(opened, field),
            "again": results_appear(opened, field),
        }
        if options.only != "pauses":
            report["milliseconds"] = edits(opened, repeats)
        if options.only != "edits":
            report["event_loop"] = pauses(opened, Path(folder), quick=options.quick)
    text = json.dumps(report, indent=1)
    print(text)
    if not options.quick and options.only is None:
        RESULTS.parent.mkdir(exist_ok=True)
        RESULTS.write_text(text + "\n")


# Results


def results_appear(opened: Window, field: Field) -> dict[str, Any]:
    """Run both widgets with known answers; time from the answer to the painted screen."""
    ends: dict[str, float] = {}

    def answer(name: str, value: Any) -> Callable[..., Any]:
        def work(*_: Any, **__: Any) -> Any:
            ends[name] = time.perf_counter()
            return value

        return work

    quality = appraisal.quality_of(field.image, field.detection, field.cells, opened.settings)
    seconds, held = {}, {}
    with (
        replaced(pipeline, "detect", answer("hexagons", field.detection)),
        replaced(pipeline, "classify", answer("classes", field.cells)),
        replaced(appraisal, "quality_of", answer("cells", quality)),
    ):
        for name, widget in (("hexagons", opened.detect), ("cells", opened.classify)):
            watch = Pauses()
            widget.run.button.click()
            wait(lambda name=name, widget=widget: name in ends and not widget.run.is_running)
            opened.wait_for_paint()
            seconds[name] = round(time.perf_counter() - ends[name], 2)
            if name == "cells":
                wait(lambda: bool(labelling(opened.viewer).last_saved))
                opened.wait_for_labels()
                seconds["cells_in_the_store"] = round(time.perf_counter() - ends[name], 2)
            held[name] = watch.report()
    opened.check_store()
    return {"seconds": seconds, "event_loop": held}


@contextmanager
def replaced(module: Any, name: str, value: Any) -> Iterator[None]:
    """Let a module's function be another one for a while."""
    before = getattr(module, name)
    setattr(module, name, value)
    try:
        yield
    finally:
        setattr(module, name, before)


# Edits


def edits(opened: Window, repeats: int) -> dict[str, Any]:
    """Time keys, clicks, lasso, deletions, filters; each from the press to screen and store."""
    panel, viewer, canvas = opened.classify.census, opened.viewer, opened.canvas
    viewer.layers.selection.active = opened.cells
    canvas.setFocus()
    settle(1.0)

    def press(key: Qt.Key, modifier: Qt.KeyboardModifier = _NONE) -> Callable[[int], None]:
        return lambda _: QTest.keyClick(canvas, key, modifier)

    undo = press(Qt.Key.Key_Z, _CTRL)
    classes = [Qt.Key.Key_2, Qt.Key.Key_3, Qt.Key.Key_4]

    def one_class(i: int) -> None:
        QTest.keyClick(canvas, classes[i % 3])

    def select(i: int) -> None:
        opened.cells.selected_data = {100 + 7 * i}

    def choose(n: int) -> Callable[[int], None]:
        def many(_: int) -> None:
            rows = np.argsort(np.linalg.norm(opened.cells.data - opened.cells.data.mean(0), axis=1))
            opened.cells.selected_data = set(rows[:n].tolist())

        return many

    def draw_lasso(_: int) -> None:
        """Draw a line around the middle of the image, as the L key asks to."""
        data = opened.cells.data
        middle = data.mean(axis=0)
        radius = np.sort(np.linalg.norm(data - middle, axis=1))[LASSO_CELLS]
        turn = np.linspace(0, 2 * np.pi, 60, endpoint=False)
        ring = middle + radius * np.stack([np.sin(turn), np.cos(turn)], axis=1)
        viewer.layers[LAYER_NAME].add(ring, shape_type="polygon")
        wait(lambda: len(opened.cells.selected_data) > LASSO_CELLS // 2)

    def call_lasso(_: int) -> None:
        wait(lambda: LAYER_NAME not in viewer.layers)
        opened.cells.selected_data = set()
        QTest.keyClick(canvas, Qt.Key.Key_L)

    def confidence(i: int) -> None:
        panel.filters.confidence.setValue((0.3 + 0.01 * i, 1.0))

    def classes_shown(i: int) -> None:
        box = panel.legend.boxes[next(iter(panel.legend.boxes))]
        box.setChecked(not box.isChecked())

    few = max(3, repeats // 5)
    timed = opened.time_of
    report = {
        "repaint_alone": timed(lambda _: canvas.update(), None, repeats),
        "select_a_cell": timed(select, None, repeats),
        "class_key": timed(one_class, select, repeats),
        "next": timed(press(Qt.Key.Key_N), None, repeats),
        "class_key_and_on": timed(one_class, None, repeats),
        "confirm_and_on": timed(press(Qt.Key.Key_Return), None, repeats),
        "undo": timed(undo, None, repeats),
        "filter_by_confidence": timed(confidence, None, repeats),
    }
    panel.filters.reset()
    report["filter_by_class"] = timed(classes_shown, None, 2 * few)
    report["lasso_500"] = timed(draw_lasso, call_lasso, few)
    wait(lambda: LAYER_NAME not in viewer.layers)
    report["relabel_500"] = timed(one_class, choose(LASSO_CELLS), few)
    report["undo_relabel_500"] = timed(undo, None, few)
    delete = press(Qt.Key.Key_Delete)
    for n in (1, LASSO_CELLS):
        name = "a_cell" if n == 1 else f"{n}_cells"
        report[f"delete_{name}"] = timed(delete, choose(n), few)
        report[f"undo_delete_{name}"] = timed(undo, None, few)
    report |= box_edits(opened, delete, undo, few)
    report |= with_inspector(opened, select, one_class, press(Qt.Key.Key_N), few)
    return report


def box_edits(
    opened: Window, delete: Callable[[int], None], undo: Callable[[int], None], few: int
) -> dict[str, Any]:
    """Delete boxes; the cells follow in the background, and the event loop is watched till then."""
    boxes, viewer = opened.boxes, opened.viewer
    boxes.visible = True
    viewer.layers.selection.active = boxes
    boxes.mode = "select"
    opened.canvas.setFocus()
    settle(0.5)
    report: dict[str, Any] = {}
    for n in (1, 10):
        for name, action in (("delete", delete), ("undo_delete", undo)):

            def choose(i: int, name: str = name, n: int = n) -> None:
                opened.wait_for_cells()
                viewer.layers.selection.active = boxes
                if name == "delete":
                    boxes.selected_data = set(range(1000 + 40 * i, 1000 + 40 * i + 3 * n, 3))

            watch = Pauses()
            key = f"{name}_{'a_box' if n == 1 else f'{n}_boxes'}"
            report[key] = opened.time_of(action, choose, few)
            opened.wait_for_cells()
            report[key] |= {"event_loop": watch.report()}
    boxes.mode = "pan_zoom"
    boxes.visible = False
    viewer.layers.selection.active = opened.cells
    opened.check_store()
    return report


def with_inspector(
    opened: Window,
    select: Callable[[int], None],
    one_class: Callable[[int], None],
    step: Callable[[int], None],
    few: int,
) -> dict[str, Any]:
    """Time the same with the cell inspector open."""
    inspector = InspectorWidget(opened.viewer)
    dock = opened.viewer.window.add_dock_widget(inspector, name="Inspect", area="left")
    opened.canvas.setFocus()
    select(0)
    settle(1.0)
    settle(3.0)  # it simulates the image's profiles
    report = {
        "with_the_inspector": {
            "select_a_cell": opened.time_of(select, None, few),
            "class_key": opened.time_of(one_class, select, few),
            "next": opened.time_of(step, None, few),
        }
    }
    opened.viewer.window.remove_dock_widget(dock)
    inspector.deleteLater()
    settle()
    return report


# Pauses of the event loop


def pauses(opened: Window, folder: Path, *, quick: bool) -> dict[str, Any]:
    """Watch the event loop during real runs in the background."""
    detect, classify = opened.detect, opened.classify

    def run(widget: Any, start: Callable[[], None], patience_s: float = np.inf) -> dict[str, Any]:
        watch, told, end = Pauses(), [], time.monotonic() + patience_s

        def is_over() -> bool:
            if not told or told[-1] != widget.run.message.text():
                told.append(widget.run.message.text())
            return not widget.run.is_running or time.monotonic() > end

        start()
        wait(is_over)
        if widget.run.is_running:
            widget.run.cancel()
            wait(lambda: not widget.run.is_running)
        during = watch.report()
        watch = Pauses()
        opened.wait_for_paint()
        if opened.cells is not None:
            opened.wait_for_labels()
        settle(0.5)
        return {"during": during, "then_drawing": watch.report(), "first_told": told[:3]}

    report: dict[str, Any] = {}

    def note(name: str, figures: dict[str, Any]) -> None:
        report[name] = figures
        print(name, json.dumps(figures), file=sys.stderr, flush=True)

    note("idle", idle(2.0))
    note("detect", run(detect, detect.run.button.click))
    note("classify", run(classify, classify.run.button.click))
    note("classify_again", run(classify, classify.run.button.click))
    watch = Pauses()
    opened.wait_for_checks()
    note("compare_with_the_training_set", watch.report())
    note("export", run(classify, lambda: classify.export(folder / "out")))
    watch = Pauses()
    labelling(opened.viewer).use(folder / "b")
    opened.wait_for_labels()
    note("labels_to_another_folder", watch.report())
    opened.check_store()
    if not quick:
        # before the panel looks for labels: an image without any is not ticked
        classify.census.editor.decide(cell_ids(opened.cells)[:60].tolist(), None)
        train = TrainWidget(opened.viewer)
        opened.viewer.window.add_dock_widget(train, name="Train", tabify=True)
        train.show()
        note("training", training(train, folder, run))
        note("training_result", training_result(train, folder / "done"))
    return report


def idle(seconds: float) -> dict[str, float]:
    """Watch the event loop while nothing happens."""
    watch = Pauses()
    settle(seconds)
    return watch.report()


def training(
    train: TrainWidget, folder: Path, run: Callable[..., dict[str, Any]]
) -> dict[str, Any]:
    """Learn the labels made here for a while."""
    train.data.set_values((), folder / "b")
    train.folder.line.setText(str(folder / "run"))
    train.advanced.set_values(
        {"epochs": 3, "images_per_epoch": 20, "validation_images": 1, "device": "cpu"}
    )
    wait(lambda: not train.data.is_reading)
    return run(train, train.train, TRAINING_S)


def training_result(train: TrainWidget, folder: Path) -> dict[str, Any]:
    """Show the result of a run that is over."""
    import torch  # only once the plugin has seen to it that it loads safely

    confusion = np.diag([900, 60, 20, 11, 11, 10]) + 1
    scores = ClassScores(confusion).as_dict()
    settings = RetrainSettings(labels=folder, kind="classifier")
    write_run(settings, folder)
    save_weights(
        folder / "classifier-compact.safetensors",
        {"a": torch.zeros(2)},
        kind="classifier",
        settings=CLASSIFIER_PRESETS["compact"].model_dump(mode="json"),
        training_set={"sets": [], "labels": {"learned": [50, 1, 0, 0, 0, 0]}},
        metrics={
            "temperature": 1.0,
            "compared_with": "classifier-compact",
            "comparisons": [{"source": "labels", "before": scores, "after": scores}],
        },
        started_from="classifier-compact",
    )
    train.folder.line.setText(str(folder))
    settle(0.5)
    watch = Pauses()
    train.resume_button.click()
    wait(lambda: train.scores.isVisible() and train.scores.canvas.isVisible())
    settle(1.0)
    return watch.report()


if __name__ == "__main__":
    main()
