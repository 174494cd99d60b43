"""*Analyse movie*: from a stack in napari to points with a time axis, plots and files."""

from __future__ import annotations

import threading

import numpy as np
import pytest

pytest.importorskip("napari")
pytest.importorskip("qtpy.QtWidgets", exc_type=ImportError)

from napari.components import ViewerModel
from qtpy.QtCore import Qt
from qtpy.QtWidgets import QFileDialog, QMessageBox

from napari_point_defects.analysed_area import AREA_NAMES
from napari_point_defects.errors import Stopped
from napari_point_defects.materials import CLASS_COLOURS, DefectClass
from napari_point_defects.movies.frames import FrameReader, frame_of
from napari_point_defects.movies.results import movie_paths
from napari_point_defects.napari_ui import reader as file_reader
from napari_point_defects.napari_ui.movie_layers import is_movie, stack_of
from napari_point_defects.napari_ui.movie_widget import MovieWidget
from napari_point_defects.records import UnitCells
from napari_point_defects.simulation.movies import MoviePlan, SimulatedMovie
from napari_point_defects.simulation.noise import NoiseSettings
from napari_point_defects.simulation.scenes import SceneSettings

pytestmark = pytest.mark.gui

SHARES = np.array([0.92, 0.04, 0.02, 0.015, 0.003, 0.002])
SCENE = SceneSettings(
    height_px=220, width_px=220, a_px=18.0, contamination=0.1, defect_rates=(0.05, 0.02, 0, 0, 0)
)
SIZE = SCENE.pixel_size_nm


@pytest.fixture(scope="module")
def simulated():
    noise = NoiseSettings(poisson_lambda=20, gaussian_mu=2)
    plan = MoviePlan(scene=SCENE, noise=noise, frames=7, drift_a=1.0, births=0.01)
    return SimulatedMovie(plan, 3)


@pytest.fixture(scope="module")
def pixels(simulated):
    data = simulated.stack()
    data[2] = 0
    return data


@pytest.fixture
def core(monkeypatch, simulated):
    """Frames as an analysis without mistakes finds them; ``go`` lets each pass."""

    class Core:
        go = threading.Event()
        started = threading.Event()

    Core.go.set()

    def read(self, image, index, before, *, on_progress, should_stop):
        Core.started.set()
        on_progress(0.5, "hexagons")
        while not Core.go.wait(0.01):
            if should_stop():
                raise Stopped
        true = simulated.frame(index)
        p = np.eye(6)[true.classes] * 0.99 + 0.01 * SHARES
        cells = UnitCells(true.chalcogen_px, true.metal_px, np.full(len(p), 2), p)
        return frame_of(image.data, index, true.lattice, cells, SHARES, (SIZE, SIZE))

    monkeypatch.setattr(FrameReader, "read", read)
    yield Core
    Core.go.set()


@pytest.fixture
def viewer(pixels):
    viewer = ViewerModel()
    viewer.add_image(
        pixels, name="sheet", scale=(2.0, SIZE, SIZE), units=("s", "nm", "nm"), rgb=False
    )
    return viewer


@pytest.fixture
def widget(viewer, qtbot):
    widget = MovieWidget(viewer)
    qtbot.addWidget(widget)
    widget.show()
    yield widget
    qtbot.waitUntil(lambda: not widget.run.is_running, timeout=20_000)


def press(widget, qtbot, button=None):
    qtbot.mouseClick(button or widget.run.button, Qt.MouseButton.LeftButton)
    qtbot.waitUntil(lambda: not widget.run.is_running, timeout=30_000)


def test_only_stacks_are_offered(widget, viewer, pixels):
    viewer.add_image(pixels[0], name="one")
    viewer.add_image(np.zeros((2, 3, 64, 64)), name="four")
    viewer.add_image(np.zeros((64, 64, 3), np.uint8), name="colour", rgb=True)
    viewer.add_points(np.zeros((2, 3)), name="points")
    assert [widget.images.itemText(i) for i in range(widget.images.count())] == ["sheet"]
    assert [layer.name for layer in viewer.layers if is_movie(layer)] == ["sheet"]


def test_the_stack_of_a_layer_knows_time_and_pixel_size(viewer, pixels):
    stack = stack_of(viewer.layers["sheet"])
    assert stack.shape == pixels.shape
    assert stack.frame_time_s == 2.0
    assert stack.calibration.pixel_size_nm == pytest.approx((SIZE, SIZE))
    np.testing.assert_array_equal(stack.frame(3).data, pixels[3])


def test_layers_plot_and_findings_of_a_movie(widget, viewer, simulated, core, qtbot):
    press(widget, qtbot)
    image = viewer.layers["sheet"]
    defects, births = viewer.layers["sheet defects"], viewer.layers["sheet births"]
    assert defects.ndim == births.ndim == 3
    np.testing.assert_allclose(defects.scale, image.scale)
    # every defective cell of a frame, where it is and in the colour of its class
    true = simulated.frame(4)
    here = defects.data[:, 0] == 4
    places = ((true.chalcogen_px + true.metal_px) / 2)[true.classes > 0]
    assert here.sum() == len(places)
    apart = np.abs(defects.data[here, None, 1:] - places).max(axis=-1)
    assert apart.min(axis=0).max() < 0.5
    single = defects.features["label"] == "V_Te1"
    rgb = [int(CLASS_COLOURS[DefectClass.V_X1][i : i + 2], 16) / 255 for i in (1, 3, 5)]
    np.testing.assert_allclose(defects.face_color[single.to_numpy(), :3] - rgb, 0, atol=1e-6)
    born = births.features
    assert (born["born_frame"] > 0).all()
    assert (births.data[:, 0] >= born["born_frame"]).all()
    assert widget.plot.isVisible()
    assert "frames" in widget.findings.text()
    assert "frame 2 skipped" in widget.warnings.text()
    assert not set(AREA_NAMES.values()) & set(widget.warnings.text().split())
    # the line in the plot follows the viewer
    viewer.dims.set_current_step(0, 5)
    at = {line.get_xdata()[0] for line in widget.plot._lines}
    assert at == {10.0}


def test_another_run_replaces_the_layers_and_the_dose_its_axis(widget, viewer, core, qtbot):
    press(widget, qtbot)
    before = len(viewer.layers)
    editor = widget.dose.editors["dose_per_frame_e_nm2"]
    editor.box.setChecked(True)
    editor.editor.setValue(3e6)
    press(widget, qtbot)
    assert len(viewer.layers) == before
    assert widget.shown.dose_e_nm2 == 3e6
    assert "dose" in widget.plot.axes[0].get_xlabel()
    assert "barn" in widget.findings.text()


def test_half_a_dose_is_refused_before_the_work(widget, core, qtbot):
    widget.dose.editors["dwell_us"].box.setChecked(True)
    press(widget, qtbot)
    assert "both the beam current and the dwell time" in widget.run.message.text()
    assert not core.started.is_set()


def test_cancel_stops_and_changes_nothing(widget, viewer, core, qtbot):
    core.go.clear()
    qtbot.mouseClick(widget.run.button, Qt.MouseButton.LeftButton)
    qtbot.waitUntil(lambda: "frame 1 of 7" in widget.run.message.text(), timeout=10_000)
    assert widget.run.button.text() == "Cancel"
    press(widget, qtbot)
    assert "Cancelled" in widget.run.message.text()
    assert [layer.name for layer in viewer.layers] == ["sheet"]
    assert not widget.plot.isVisible()


def test_export_asks_before_it_replaces(widget, core, qtbot, tmp_path, monkeypatch):
    press(widget, qtbot)
    monkeypatch.setattr(QFileDialog, "getExistingDirectory", lambda *_: str(tmp_path))
    press(widget, qtbot, widget.export)
    paths = movie_paths("sheet", tmp_path)
    assert all(path.exists() for path in paths.values())
    assert "Written to" in widget.run.message.text()
    before = paths["events"].stat().st_mtime_ns
    monkeypatch.setattr(QMessageBox, "question", lambda *_: QMessageBox.StandardButton.No)
    press(widget, qtbot, widget.export)
    assert paths["events"].stat().st_mtime_ns == before
    monkeypatch.setattr(QMessageBox, "question", lambda *_: QMessageBox.StandardButton.Yes)
    press(widget, qtbot, widget.export)
    assert paths["events"].stat().st_mtime_ns > before


def test_a_movie_that_is_closed_is_forgotten(widget, viewer, core, qtbot):
    press(widget, qtbot)
    viewer.layers.remove("sheet")
    assert not widget.plot.isVisible()
    assert not widget._found
    press(widget, qtbot)
    assert "open a stack" in widget.run.message.text()


def test_a_microscopes_stack_opens_lazily(tmp_path, pixels):
    from napari.layers import Layer

    header = np.zeros(256, np.int32)
    header[:4] = *pixels.shape[::-1], 6
    header[7:10] = pixels.shape[::-1]
    header.view(np.float32)[10:13] = np.array(pixels.shape[::-1]) * 0.2
    header[16:19] = 1, 2, 3
    header.view(np.uint8)[208:216] = [*b"MAP ", 0x44, 0x44, 0, 0]
    path = tmp_path / "movie.mrc"
    path.write_bytes(header.tobytes() + pixels.astype(np.uint16).tobytes())
    (data,) = file_reader.get_reader(str(path))(str(path))
    layer = Layer.create(*data)
    assert layer.data.chunks[0] == (1,) * 7
    assert is_movie(layer)
    stack = stack_of(layer)
    assert stack.calibration.pixel_size_nm == pytest.approx((0.02, 0.02))
    np.testing.assert_array_equal(stack.frame(4).data, pixels[4])
