"""*Study defects*: from the cells in their layer to plots, maps and files."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("napari")
pytest.importorskip("qtpy.QtWidgets", exc_type=ImportError)

from napari.components import ViewerModel
from napari.layers import Layer
from qtpy.QtCore import Qt
from qtpy.QtWidgets import QFileDialog, QMessageBox

from napari_point_defects.analysis_settings import AnalysisSettings
from napari_point_defects.detections import Detection
from napari_point_defects.materials import get_material
from napari_point_defects.napari_ui.cell_layers import cells_layer_data
from napari_point_defects.napari_ui.cell_tables import cell_table, centres_px
from napari_point_defects.napari_ui.image_layers import placement
from napari_point_defects.napari_ui.layer_calibration import calibrate
from napari_point_defects.napari_ui.links import CellsLink, replace_layer
from napari_point_defects.napari_ui.study_layers import MAPS, RESIDUAL
from napari_point_defects.napari_ui.study_widget import StudyWidget
from napari_point_defects.records import Calibration, Hexagons, UnitCells
from napari_point_defects.simulation.noise import NoiseSettings, add_noise
from napari_point_defects.simulation.scenes import SceneSettings, make_scene
from napari_point_defects.study import study_paths

pytestmark = pytest.mark.gui

SCENE = SceneSettings(height_px=256, width_px=256, a_px=18.0, angle_deg=9.0)


@pytest.fixture(scope="module")
def scene():
    rng = np.random.default_rng(2)
    scene = make_scene(SCENE, rng)
    return scene, add_noise(scene, NoiseSettings(poisson_lambda=60, gaussian_mu=1), rng)


@pytest.fixture
def viewer(scene):
    viewer = ViewerModel()
    viewer.add_image(
        scene[1].astype(np.float32),
        name="field",
        scale=(SCENE.pixel_size_nm,) * 2,
        units=("nm", "nm"),
    )
    return viewer


@pytest.fixture
def widget(viewer, qtbot):
    widget = StudyWidget(viewer)
    qtbot.addWidget(widget)
    widget.show()
    yield widget
    qtbot.waitUntil(lambda: not widget.run.is_running, timeout=20_000)


def draw_cells(viewer, scene):
    truth, image = scene[0], viewer.layers["field"]
    votes = np.full(len(truth.classes), 2)
    cells = UnitCells(truth.chalcogen_px, truth.metal_px, votes, np.eye(6)[truth.classes])
    none = Hexagons(np.zeros((0, 4, 2)), np.zeros(0))
    detection = Detection(truth.lattice, none, (SCENE.pixel_size_nm,) * 2, "file")
    table = cell_table(cells, get_material("MoTe2"))
    link = CellsLink(
        image.unique_id,
        detection,
        AnalysisSettings(),
        written_ids=table["cell_id"].to_numpy(),
        written_px=centres_px(table),
        next_id=len(table),
    )
    layer = Layer.create(*cells_layer_data(table, link, "cells", placement(image)))
    replace_layer(viewer, None, layer)
    return layer


def press(widget, qtbot, button=None):
    qtbot.mouseClick(button or widget.run.button, Qt.MouseButton.LeftButton)
    qtbot.waitUntil(lambda: not widget.run.is_running, timeout=20_000)


def test_without_classified_cells_it_says_what_to_do(widget, qtbot):
    press(widget, qtbot)
    assert "Classify point defects" in widget.run.message.text()
    assert not widget.plot.isVisible()


def test_findings_plots_and_maps_of_the_cells_as_they_stand(widget, viewer, scene, qtbot):
    draw_cells(viewer, scene)
    press(widget, qtbot)
    text = widget.findings.text()
    assert "V_Te–V_Mo" in text
    assert "twin: differs" in text
    assert widget.plot.isVisible()
    assert widget.plot.axes[0, 0].lines
    image = viewer.layers["field"]
    for index, choice in enumerate(MAPS):
        widget.maps.setCurrentIndex(index)
        for _ in range(2):  # the second takes the first one's place
            qtbot.mouseClick(widget.draw, Qt.MouseButton.LeftButton)
        (layer,) = [each for each in viewer.layers if each.name == f"field {choice.suffix}"]
        low, high = layer.contrast_limits
        assert low == -high < 0
        # the layer covers the image, and lies under the cells
        np.testing.assert_allclose(
            layer.extent.world, image.extent.world, atol=6 * SCENE.pixel_size_nm
        )
        assert viewer.layers.index(layer) < viewer.layers.index(viewer.layers["cells"])
    assert layer.name.endswith(RESIDUAL.suffix)
    # another pixel size moves the maps along
    calibrate(viewer.layers, image, Calibration((0.05, 0.04), "user"))
    for each in viewer.layers:
        if each.name.startswith("field "):
            np.testing.assert_allclose(each.extent.world, image.extent.world, atol=6 * 0.05)


def test_another_image_has_its_own_study_and_closing_forgets(widget, viewer, scene, qtbot):
    draw_cells(viewer, scene)
    press(widget, qtbot)
    other = viewer.add_image(np.zeros((64, 64)), name="other")
    widget.images.choose(other)
    assert not widget.findings.isVisible()
    widget.images.choose(viewer.layers["field"])
    assert widget.findings.isVisible()
    viewer.layers.remove("field")
    assert not widget.findings.isVisible()
    assert not widget._found


def test_export_asks_before_it_replaces(widget, viewer, scene, qtbot, tmp_path, monkeypatch):
    draw_cells(viewer, scene)
    press(widget, qtbot)
    monkeypatch.setattr(QFileDialog, "getExistingDirectory", lambda *_: str(tmp_path))
    press(widget, qtbot, widget.export)
    paths = study_paths("field", tmp_path)
    assert all(path.exists() for path in paths.values())
    assert "Written to" in widget.run.message.text()
    before = paths["pairs"].stat().st_mtime_ns
    monkeypatch.setattr(QMessageBox, "question", lambda *_: QMessageBox.StandardButton.No)
    press(widget, qtbot, widget.export)
    assert paths["pairs"].stat().st_mtime_ns == before
    monkeypatch.setattr(QMessageBox, "question", lambda *_: QMessageBox.StandardButton.Yes)
    press(widget, qtbot, widget.export)
    assert paths["pairs"].stat().st_mtime_ns > before


def test_a_cell_that_was_relabelled_stands_out_in_the_residual(widget, viewer, scene, qtbot):
    layer = draw_cells(viewer, scene)
    truth = scene[0].classes
    off = np.abs(scene[0].metal_px - 128).max(axis=1) + 1e6 * (truth > 0)
    row = int(np.argmin(off))
    features = layer.features.copy()
    features.loc[row, "label"] = "V_Mo"
    layer.features = features
    press(widget, qtbot)
    assert np.nanargmax(np.abs(widget.shown.twin.metal_residual)) == row
