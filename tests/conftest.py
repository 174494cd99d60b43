"""Known answers for the tests: a lattice, its hexagons and cells, and an image of them."""

from __future__ import annotations

import threading

import numpy as np
import pytest

import napari_point_defects.napari_ui  # noqa: F401  (hides Triton before torch is loaded)
from napari_point_defects.errors import Stopped
from napari_point_defects.materials import (
    BOND,
    CHALCOGEN_SITES,
    HEXAGON_SIZE,
    LATTICE_VECTORS,
    METAL_SITES,
    DefectClass,
)
from napari_point_defects.records import (
    Hexagons,
    Lattice,
    UnitCells,
    hexagon_boxes,
)

SIDE_PX = 256


@pytest.fixture
def lattice() -> Lattice:
    """24 px per lattice constant, rotated by 17° and sheared by 5 %."""
    angle = np.radians(17)
    cos, sin = np.cos(angle), np.sin(angle)
    shear = np.array([[1.0, 0.0], [0.05, 1.0]])
    rotation = np.array([[cos, sin], [-sin, cos]])
    return Lattice(np.array([10.0, 12.0]), 24 * shear @ rotation)


def _inside(points: np.ndarray, margin: float) -> np.ndarray:
    return ((points > margin) & (points < SIDE_PX - 1 - margin)).all(axis=-1)


@pytest.fixture
def hexagons(lattice: Lattice) -> Hexagons:
    """All hexagons that lie in the image."""
    steps = np.stack(np.meshgrid(*[np.arange(-30, 31)] * 2), axis=-1).reshape(-1, 2)
    boxes = hexagon_boxes(steps @ LATTICE_VECTORS)
    corners = lattice.to_image(boxes[:, [[0, 1], [0, 3], [2, 3], [2, 1]]])
    boxes = boxes[_inside(corners, 0).all(axis=-1)]
    scores = np.linspace(0.9, 1.0, len(boxes))
    assert np.allclose(boxes[:, 2:] - boxes[:, :2], HEXAGON_SIZE)
    return Hexagons.from_canonical_boxes(boxes, scores, lattice)


@pytest.fixture
def cells(lattice: Lattice, hexagons: Hexagons) -> UnitCells:
    """Both cells of every hexagon, each once; one in ten has a defect, every class occurs."""
    boxes = hexagons.canonical_boxes(lattice)
    hollow = (boxes[:, :2] + boxes[:, 2:]) / 2
    chalcogen = np.concatenate([hollow + CHALCOGEN_SITES[0], hollow + CHALCOGEN_SITES[2]])
    metal = np.concatenate([hollow + METAL_SITES[0], hollow + METAL_SITES[2]])
    assert np.allclose(metal - chalcogen, [-BOND / 2, 0.5])
    _, first, votes = np.unique(chalcogen.round(6), axis=0, return_index=True, return_counts=True)
    classes = np.zeros(len(first), int)
    classes[::10] = 1 + np.arange(len(classes[::10])) % (len(DefectClass) - 1)
    probabilities = np.full((len(first), len(DefectClass)), 0.01)
    probabilities[np.arange(len(first)), classes] = 0.95
    return UnitCells(
        lattice.to_image(chalcogen[first]), lattice.to_image(metal[first]), votes, probabilities
    )


@pytest.fixture
def stem_data(lattice: Lattice, cells: UnitCells) -> np.ndarray:
    """An image with a Gaussian at every column of the cells."""
    y, x = np.mgrid[:SIDE_PX, :SIDE_PX]
    image = np.zeros((SIDE_PX, SIDE_PX), np.float32)
    for points, height in ((cells.chalcogen_px, 1.0), (cells.metal_px, 0.7)):
        for cy, cx in points:
            image += height * np.exp(-((y - cy) ** 2 + (x - cx) ** 2) / (2 * 4.0**2))
    return image


class Core:
    """Stands in for the networks: answers at once, or waits until it is let go or stopped."""

    WARNING = "the lattice disagrees with the pixel size"

    def __init__(self, lattice: Lattice, hexagons: Hexagons, cells: UnitCells) -> None:
        self.lattice, self.hexagons, self.cells = lattice, hexagons, cells
        self.calls = []
        self.error = None
        self.hold = False
        self.entered, self.go, self.was_stopped = (threading.Event() for _ in range(3))

    def _work(self, name, args, on_progress, should_stop):
        self.calls.append((name, *args))
        on_progress(0.5, "Half way")
        self.entered.set()
        while self.hold and not self.go.wait(0.005):
            if should_stop():
                self.was_stopped.set()
                raise Stopped
        if self.error:
            raise self.error

    def detect(self, image, settings, *, on_progress, should_stop):
        from napari_point_defects.detections import Detection

        self._work("detect", (image, settings), on_progress, should_stop)
        return Detection(self.lattice, self.hexagons, (0.01, 0.01), "lattice", (self.WARNING,))

    def classify(self, image, detection, settings, *, on_progress, should_stop):
        self._work("classify", (image, detection, settings), on_progress, should_stop)
        return self.cells


@pytest.fixture
def core(monkeypatch, lattice, hexagons, cells):
    """The core's two jobs, replaced."""
    from napari_point_defects import pipeline

    core = Core(lattice, hexagons, cells)
    monkeypatch.setattr(pipeline, "detect", core.detect)
    monkeypatch.setattr(pipeline, "classify", core.classify)
    yield core
    core.go.set()


@pytest.fixture(autouse=True)
def data_folder(monkeypatch, tmp_path):
    """Labels of a test never go to the user's own folder."""
    from napari_point_defects.napari_ui import label_folder

    folder = tmp_path / "user data"
    monkeypatch.setattr(label_folder, "data_folder", lambda: folder)
    return folder


@pytest.fixture(autouse=True)
def materials_toml(monkeypatch, tmp_path):
    """Materials of a test never go to the user's own file, nor on to the next test."""
    from napari_point_defects import material_files, materials

    path = tmp_path / "user config" / "materials.toml"
    monkeypatch.setenv(material_files.ENVIRONMENT, str(path))
    monkeypatch.setattr(material_files, "_chosen", None)
    monkeypatch.setattr(materials, "_adopted", {})
    monkeypatch.setattr(materials, "_read", None)
    return path


@pytest.fixture(autouse=True)
def memory_file(monkeypatch, tmp_path):
    """What a test prefers never goes to the user's own files, nor on to the next test."""
    from napari_point_defects import palettes
    from napari_point_defects.napari_ui import memory, preferences

    path = tmp_path / "user config" / "last-settings.json"
    monkeypatch.setattr(memory, "memory_file", lambda: path)
    monkeypatch.setattr(preferences, "_napari_settings", lambda: None)
    monkeypatch.setattr(preferences, "_begun", False)
    monkeypatch.setattr(palettes, "_chosen", None)
    monkeypatch.delenv(palettes.ENVIRONMENT, raising=False)
    return path


@pytest.fixture
def viewer(stem_data):
    """napari's viewer without its window, holding the image: enough for what a widget does."""
    from napari.components import ViewerModel

    viewer = ViewerModel()
    viewer.add_image(stem_data, name="field", scale=(0.02, 0.02), units=("nm", "nm"))
    return viewer


@pytest.fixture
def detect(viewer, qtbot):
    """The widget *Detect unit cells*."""
    from napari_point_defects.napari_ui.detect_widget import DetectWidget

    widget = DetectWidget(viewer)
    qtbot.addWidget(widget)
    return widget


@pytest.fixture
def classify(viewer, qtbot):
    """The widget *Classify point defects*."""
    from napari_point_defects.napari_ui.classify_widget import ClassifyWidget

    widget = ClassifyWidget(viewer)
    qtbot.addWidget(widget)
    return widget


@pytest.fixture
def classified(viewer, detect, classify, core, run):
    """The layer of cells after one run of each."""
    run(detect)
    run(classify)
    return viewer.layers["field cells"]


@pytest.fixture
def notes():
    """What napari notifies the user of."""
    from napari.utils.notifications import notification_manager

    notification_manager.records.clear()
    return notification_manager.records


@pytest.fixture
def run(qtbot):
    """Press a widget's Run button and wait for the end."""

    def press(widget, timeout=20_000):
        widget.run.button.click()
        if widget.run.is_running:
            qtbot.waitUntil(lambda: not widget.run.is_running, timeout=timeout)

    return press
