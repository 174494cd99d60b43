"""Time from a key press to the updated screen, in a napari window with 5,000 cells.

    xvfb-run -a python -m benchmarks.editing      # writes benchmarks/results/editing.json

Every press is a real key event to the canvas. It ends when whatever listens to the editor has been
told, the canvas has been painted, and the label store holds what the layer shows.
"""

from __future__ import annotations

import json
import sqlite3
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import napari
import numpy as np
from qtpy.QtCore import Qt
from qtpy.QtOpenGLWidgets import QOpenGLWidget
from qtpy.QtTest import QTest
from qtpy.QtWidgets import QApplication

from napari_point_defects.analysis_settings import AnalysisSettings
from napari_point_defects.detections import Detection
from napari_point_defects.labels.schema import FILE_NAME
from napari_point_defects.materials import CHALCOGEN_SITES, LATTICE_VECTORS, METAL_SITES
from napari_point_defects.napari_ui.cell_editor import CellEditor
from napari_point_defects.napari_ui.classify_widget import ClassifyWidget
from napari_point_defects.napari_ui.labelling import labelling
from napari_point_defects.napari_ui.links import CellsLink
from napari_point_defects.records import Hexagons, Lattice, UnitCells, hexagon_boxes

RESULTS = Path(__file__).parent / "results"
N_CELLS, A_PX, PRESSES = 5000, 28.0, 50
Wait = Callable[[], None]


def main() -> dict:
    """Measure and write."""
    with tempfile.TemporaryDirectory() as folder, window(Path(folder)) as (widget, canvas):
        editor = widget.census.editor
        wait = stored(editor, Path(folder))
        layer, review, filters = editor.layer, widget.census.review, widget.census.filters
        keys = [Qt.Key.Key_2, Qt.Key.Key_3, Qt.Key.Key_4]

        def one_class(i: int) -> None:
            QTest.keyClick(canvas, keys[i % 3])

        def select(i: int) -> None:
            layer.selected_data = {100 + 7 * i}

        def filter_by_confidence(i: int) -> None:
            filters.confidence.setValue((0.3 + 0.01 * i, 1.0))

        def press(key: Qt.Key, modifier: Qt.KeyboardModifier = Qt.KeyboardModifier.NoModifier):
            return lambda _: QTest.keyClick(canvas, key, modifier)

        def measured(action: Callable[[int], None], before: Callable[[int], None] | None = None):
            return measure(action, before, canvas, wait)

        report = {
            "command": "xvfb-run -a python -m benchmarks.editing",
            "cells": len(layer.data),
            "presses": PRESSES,
            "milliseconds": {
                "repaint_alone": measured(lambda _: canvas.update()),
                "select_a_cell": measured(select),
                "class_key": measured(one_class, select),
                "next": measured(press(Qt.Key.Key_N)),
                "class_key_and_on": measured(one_class),
                "confirm_and_on": measured(press(Qt.Key.Key_Return)),
                "undo": measured(press(Qt.Key.Key_Z, Qt.KeyboardModifier.ControlModifier)),
                "filter": measured(filter_by_confidence),
            },
        }
        filters.reset()
        report["reviewed"] = review.progress.text()
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "editing.json").write_text(json.dumps(report, indent=1) + "\n")
    print(json.dumps(report, indent=1))
    return report


def stored(editor: CellEditor, project: Path) -> Wait:
    """Return a function that waits until the store's classes are the layer's."""
    connection = sqlite3.connect(project / FILE_NAME)

    def in_store() -> list[int]:
        rows = connection.execute("SELECT label FROM cells ORDER BY cell_id")
        return [label for (label,) in rows]

    def in_layer() -> list[int]:
        features = editor.layer.features.sort_values("cell_id")
        return features["label"].cat.codes.tolist()

    def wait() -> None:
        for _ in range(1000):
            if in_store() == in_layer():
                return
            QApplication.processEvents()
        sys.exit("the store does not hold what the layer shows")

    return wait


def measure(
    action: Callable[[int], None],
    before: Callable[[int], None] | None,
    canvas: QOpenGLWidget,
    wait: Wait,
) -> dict[str, float]:
    """Return median and 95th percentile of the wall time, and the median of the CPU time, in ms."""
    wall, busy, painted = [], [], []
    listener = canvas.frameSwapped.connect(lambda: painted.append(True))
    for i in range(PRESSES):
        if before is not None:
            before(i)
        _settle()
        start, start_busy = time.perf_counter(), time.process_time()
        painted.clear()
        action(i)
        while not painted:
            QApplication.processEvents()
        wait()
        wall.append(time.perf_counter() - start)
        busy.append(time.process_time() - start_busy)
    canvas.frameSwapped.disconnect(listener)
    return {
        "wall_median": round(1e3 * statistics.median(wall), 1),
        "wall_p95": round(1e3 * float(np.percentile(wall, 95)), 1),
        "cpu_median": round(1e3 * statistics.median(busy), 1),
    }


@contextmanager
def window(project: Path) -> Iterator[tuple[ClassifyWidget, QOpenGLWidget]]:
    """Open napari on an image with its cells and the widget, as after a run."""
    viewer = napari.Viewer()
    viewer.window.resize(1440, 960)
    labelling(viewer).use(project)
    widget = ClassifyWidget(viewer)
    viewer.window.add_dock_widget(widget, name="Classify point defects")
    lattice, hexagons, cells, side = field(np.random.default_rng(5))
    image = viewer.add_image(
        np.random.default_rng(6).normal(size=(side, side)).astype(np.float32), name="field"
    )
    detection = Detection(lattice, hexagons, (0.0125, 0.0125), "lattice", ())
    widget.draw(cells, CellsLink(image.unique_id, detection, AnalysisSettings()))
    (canvas,) = widget.window().findChildren(QOpenGLWidget)
    canvas.setFocus()
    _settle(1.0)
    yield widget, canvas
    viewer.close()


def field(rng: np.random.Generator) -> tuple[Lattice, Hexagons, UnitCells, int]:
    """Make a field of ``N_CELLS`` cells, one in ten of them doubtful; and its side in pixels."""
    lattice = Lattice(np.zeros(2), A_PX * np.eye(2))
    n = 1 + int(np.sqrt(N_CELLS))
    steps = np.stack(np.meshgrid(np.arange(n), np.arange(n), indexing="ij"), axis=-1).reshape(-1, 2)
    hollows = steps[:N_CELLS] @ LATTICE_VECTORS
    hollows[:, 1] %= n
    hollows += 1.5
    hexagons = Hexagons.from_canonical_boxes(hexagon_boxes(hollows), np.ones(N_CELLS), lattice)
    classes = np.where(rng.random(N_CELLS) < 0.1, rng.integers(1, 6, N_CELLS), 0)
    sure = np.where(rng.random(N_CELLS) < 0.1, rng.uniform(0.3, 0.95, N_CELLS), 0.999)
    probabilities = np.tile((1 - sure[:, None]) / 5, (1, 6))
    probabilities[np.arange(N_CELLS), classes] = sure
    cells = UnitCells(
        lattice.to_image(hollows + CHALCOGEN_SITES[0]),
        lattice.to_image(hollows + METAL_SITES[0]),
        np.full(N_CELLS, 2),
        probabilities,
    )
    return lattice, hexagons, cells, int((n + 4) * A_PX)


def _settle(seconds: float = 0.0) -> None:
    end = time.monotonic() + seconds
    QApplication.processEvents()
    while time.monotonic() < end:
        QApplication.processEvents()


if __name__ == "__main__":
    main()
