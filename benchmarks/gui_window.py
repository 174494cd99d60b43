"""A napari window with a simulated image of known cells, and the clocks that time it."""

from __future__ import annotations

import sqlite3
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import napari
import numpy as np
from napari.layers import Layer, Points, Shapes
from qtpy.QtCore import QEventLoop, QObject, Qt, QTimer
from qtpy.QtOpenGLWidgets import QOpenGLWidget
from qtpy.QtWidgets import QApplication
from scipy.spatial import cKDTree

from benchmarks.large_images import MATERIAL, draw
from napari_point_defects.analysis_settings import AnalysisSettings
from napari_point_defects.detections import Detection
from napari_point_defects.labels.schema import FILE_NAME
from napari_point_defects.materials import CHALCOGEN_SITES
from napari_point_defects.napari_ui.box_correction import box_correction
from napari_point_defects.napari_ui.classify_widget import ClassifyWidget
from napari_point_defects.napari_ui.detect_widget import DetectWidget
from napari_point_defects.napari_ui.image_layers import image_layer_data
from napari_point_defects.napari_ui.labelling import labelling
from napari_point_defects.napari_ui.links import CellsLink, HexagonsLink, own_layer
from napari_point_defects.netcasting import cast_net
from napari_point_defects.records import (
    Calibration,
    Hexagons,
    Lattice,
    StemImage,
    UnitCells,
    hexagon_boxes,
)

A_PX = 20.0
PAUSE_MS = 100
"""A longer pause of the event loop is felt."""

_TICK_MS = 4
_PATIENCE_S = 600.0
_PIXEL_NM = (0.0158, 0.0158)


@dataclass(frozen=True)
class Field:
    """An image and what an analysis of it finds."""

    image: StemImage
    detection: Detection
    cells: UnitCells


def simulated_field(n_hexagons: int, seed: int = 5) -> Field:
    """Draw an image with that many hexagons; the network is unsure of one cell in ten."""
    rng = np.random.default_rng(seed)
    side = int(np.ceil(A_PX * (np.sqrt(n_hexagons * np.sqrt(3) / 2) + 5)))
    cos, sin = np.cos(np.radians(17)), np.sin(np.radians(17))
    lattice = Lattice(np.full(2, (side - 1) / 2), A_PX * np.array([[cos, sin], [-sin, cos]]))
    pixels, chalcogen, missing = draw(lattice, side, rng)
    hollows = lattice.to_canonical(chalcogen)[:n_hexagons] - CHALCOGEN_SITES[0]
    scores = rng.uniform(0.9, 1.0, len(hollows))
    hexagons = Hexagons.from_canonical_boxes(hexagon_boxes(hollows), scores, lattice)
    cells = cast_net(hexagons, lattice, pixels.shape)
    classes = missing[cKDTree(chalcogen).query(cells.chalcogen_px)[1]]
    doubtful = rng.random(len(cells)) < 0.1
    sure = np.where(doubtful, rng.uniform(0.3, 0.95, len(cells)), 0.999)
    probabilities = np.tile((1 - sure[:, None]) / 5, (1, 6))
    probabilities[np.arange(len(cells)), classes] = sure
    return Field(
        StemImage(pixels, "field", Calibration(_PIXEL_NM, "file")),
        Detection(lattice, hexagons, _PIXEL_NM, "file"),
        UnitCells(cells.chalcogen_px, cells.metal_px, cells.votes, probabilities, cells.domain),
    )


class Pauses(QObject):
    """Counts how long the event loop is away: a timer ticks every few milliseconds.

    The processor time of the window's thread in each pause tells what it did itself from what
    other programs, or the painting of the screen in software, kept it waiting for.
    """

    def __init__(self) -> None:
        super().__init__()
        self._gaps: list[tuple[float, float]] = []
        self._timer = QTimer(self, interval=_TICK_MS, timerType=Qt.TimerType.PreciseTimer)
        self._timer.timeout.connect(self._tick)
        self._start = self._last = self._now()
        self._timer.start()

    @staticmethod
    def _now() -> tuple[float, float]:
        return time.perf_counter(), time.thread_time()

    def _tick(self) -> None:
        now = self._now()
        self._gaps.append((now[0] - self._last[0], now[1] - self._last[1]))
        self._last = now

    def report(self) -> dict[str, float]:
        """Stop; return the pauses, in ms."""
        self._tick()
        self._timer.stop()
        wall = 1e3 * np.array([gap for gap, _ in self._gaps])
        busy = 1e3 * np.array([cpu for _, cpu in self._gaps])
        return {
            "seconds": round(self._last[0] - self._start[0], 2),
            "longest_ms": round(float(wall.max()), 1),
            "longest_cpu_ms": round(float(busy.max()), 1),
            f"over_{PAUSE_MS}_ms": int((wall > PAUSE_MS).sum()),
            f"over_{PAUSE_MS}_ms_of_cpu": int((busy > PAUSE_MS).sum()),
            "longest_five_ms": np.sort(wall)[::-1][:5].round(1).tolist(),
        }


def wait(done: Callable[[], bool], patience_s: float = _PATIENCE_S) -> None:
    """Let the window live until something is done."""
    awake = QTimer(interval=_TICK_MS)  # else a window without events would sleep on
    awake.start()
    end = time.monotonic() + patience_s
    flags = QEventLoop.ProcessEventsFlag
    while not done():
        if time.monotonic() > end:
            sys.exit("the window did not get there in time")
        QApplication.processEvents(flags.AllEvents | flags.WaitForMoreEvents)
    awake.stop()


def settle(seconds: float = 0.0) -> None:
    """Let the window live for a while, and until nothing waits."""
    end = time.monotonic() + seconds
    wait(lambda: time.monotonic() >= end)
    QApplication.processEvents()


class Window:
    """The plugin in a window, as after a run.

    Attributes
    ----------
    viewer : napari.Viewer
    detect, classify : DetectWidget, ClassifyWidget
    canvas : QOpenGLWidget
        Gets the keys.
    """

    def __init__(self, field: Field, project: Path) -> None:
        self.viewer = napari.Viewer()
        self.viewer.window.resize(1440, 960)
        self._project = project
        labelling(self.viewer).use(project)
        self.detect, self.classify = DetectWidget(self.viewer), ClassifyWidget(self.viewer)
        for name, widget in (("Detect", self.detect), ("Classify", self.classify)):
            self.viewer.window.add_dock_widget(widget, name=name, tabify=True)
        layer = Layer.create(*image_layer_data(field.image))
        self.image_id = self.viewer.add_layer(layer).unique_id
        self.detect.form.set_values({"material": MATERIAL})
        self.detect.advanced.set_values({"device": "cpu"})
        (self.canvas,) = self.detect.window().findChildren(QOpenGLWidget)
        self._painted: list[float] = []
        self.canvas.frameSwapped.connect(lambda: self._painted.append(time.perf_counter()))
        settle(1.0)

    @property
    def cells(self) -> Points | None:
        """The layer of cells."""
        return own_layer(self.viewer.layers, self.image_id, CellsLink)

    @property
    def boxes(self) -> Shapes | None:
        """The layer of hexagons."""
        return own_layer(self.viewer.layers, self.image_id, HexagonsLink)

    def close(self) -> None:
        """Close the window."""
        self.viewer.close()

    def wait_for_paint(self) -> None:
        """Wait until the canvas has been painted after what was done so far."""
        self._painted.clear()
        self.canvas.update()
        wait(lambda: bool(self._painted))

    @property
    def settings(self) -> AnalysisSettings:
        """The settings of the runs."""
        return self.detect.settings()

    def wait_for_labels(self) -> None:
        """Wait until the cells are in the label store."""
        wait(lambda: labelling(self.viewer).session(self.cells) is not None)

    def wait_for_checks(self) -> None:
        """Wait until the image has been compared with what the weights learned."""
        wait(lambda: not self.classify.checks.is_running)

    def wait_for_cells(self) -> None:
        """Wait until the cells have followed the boxes."""
        correction = box_correction(self.viewer)
        wait(lambda: not correction.is_running)

    def time_of(
        self,
        action: Callable[[int], None],
        before: Callable[[int], None] | None = None,
        repeats: int = 1,
    ) -> dict[str, float]:
        """Time an action until the screen shows it; the store must hold it by then.

        Returns
        -------
        dict
            In ms: median and 95th percentile of the wall time, and median of the processor time
            of the window's thread alone.
        """
        wall, busy = [], []
        for i in range(repeats):
            if before is not None:
                before(i)
            settle(0.05)
            self._painted.clear()
            start, start_busy = time.perf_counter(), time.thread_time()
            action(i)
            wait(lambda: bool(self._painted))
            wall.append(1e3 * (time.perf_counter() - start))
            busy.append(1e3 * (time.thread_time() - start_busy))
            self.check_store()
        return {
            "wall_median": round(statistics.median(wall), 1),
            "wall_p95": round(float(np.percentile(wall, 95)), 1),
            "cpu_median": round(statistics.median(busy), 1),
        }

    def check_store(self) -> None:
        """Stop with an error where the store does not hold what the layer shows."""
        if self.cells is None or self.classify.census.editor is None:
            return
        features = self.cells.features
        shown = dict(
            zip(
                features["cell_id"].tolist(),
                zip(
                    features["label"].cat.codes.tolist(),
                    features["state"].astype(str).tolist(),
                    strict=True,
                ),
                strict=True,
            )
        )
        connection = sqlite3.connect(self._project / FILE_NAME)
        rows = connection.execute(
            "SELECT cell_id, label, state FROM cells WHERE state != 'deleted'"
        ).fetchall()
        connection.close()
        if {cell_id: (label, state) for cell_id, label, state in rows} != shown:
            sys.exit("the store does not hold what the layer shows")


@contextmanager
def window(field: Field, project: Path) -> Iterator[Window]:
    """Open the window for as long as it is measured."""
    opened = Window(field, project)
    try:
        yield opened
    finally:
        opened.close()
        settle()
