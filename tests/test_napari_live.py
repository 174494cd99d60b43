"""Both widgets docked in a napari window: drawing, cancelling, closing, nothing left behind."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest

pytest.importorskip("napari")
pytest.importorskip("qtpy.QtWidgets", exc_type=ImportError)

from napari.layers import Labels

from napari_point_defects.errors import PointDefectsError
from napari_point_defects.napari_ui import samples
from napari_point_defects.napari_ui.classify_widget import ClassifyWidget
from napari_point_defects.napari_ui.detect_widget import DetectWidget

pytestmark = pytest.mark.gui


def names(viewer):
    return [layer.name for layer in viewer.layers]


def count(classify, label):
    return int(classify.census.legend.cells[label][0].text().replace(",", ""))


@pytest.fixture
def viewer(make_napari_viewer, stem_data):
    """A window with the image; a widget that outlives it fails the test."""
    viewer = make_napari_viewer(strict_qt="raise")
    viewer.add_image(stem_data, name="field", scale=(0.02, 0.02), units=("nm", "nm"))
    return viewer


@pytest.fixture
def detect(viewer):
    widget = DetectWidget(viewer)
    viewer.window.add_dock_widget(widget, name="detect")
    return widget


@pytest.fixture
def classify(viewer):
    widget = ClassifyWidget(viewer)
    viewer.window.add_dock_widget(widget, name="classify")
    return widget


def test_cancel_stops_the_core_and_changes_nothing(viewer, detect, core, qtbot, run):
    core.hold = True
    detect.run.button.click()
    assert detect.run.button.text() == "Cancel"
    qtbot.waitUntil(core.entered.is_set)
    qtbot.waitUntil(lambda: "Half way" in detect.run.message.text())
    detect.run.button.click()
    qtbot.waitUntil(lambda: not detect.run.is_running)
    assert core.was_stopped.is_set()
    assert names(viewer) == ["field"]
    assert "Cancelled" in detect.run.message.text()
    core.hold = False
    run(detect)
    assert "field hexagons" in viewer.layers


def test_closing_the_viewer_stops_the_worker(viewer, detect, core, qtbot):
    core.hold = True
    detect.run.button.click()
    qtbot.waitUntil(core.entered.is_set)
    viewer.close()
    assert core.was_stopped.wait(5)


def test_closing_the_dock_stops_the_worker(viewer, detect, core, qtbot):
    core.hold = True
    detect.run.button.click()
    qtbot.waitUntil(core.entered.is_set)
    viewer.window.remove_dock_widget(detect)
    detect.deleteLater()
    qtbot.waitUntil(core.was_stopped.is_set)
    viewer.layers.selection.active = None  # nobody listens any more


def test_corrections_survive_another_run(viewer, classify, core, run, classified):
    n = len(core.cells)
    classified.selected_data = {3, 4}
    classify.census.new_class.setCurrentText("V_Mo")
    assert "2" in classify.census.set_button.text()
    classify.census.set_button.click()
    classified.selected_data = {8}
    classified.remove_selected()
    far = core.cells.centres_px[0] - 3 * (core.cells.centres_px[1] - core.cells.centres_px[0])
    classified.add([far])
    assert "4 by you" not in classify.census.total.text()
    assert f"{n:,} cells, 3 by you" in classify.census.total.text()
    before = count(classify, "V_Mo")
    run(classify)
    again = viewer.layers["field cells"]
    assert again is not classified
    assert names(viewer) == ["field", "field hexagons", "field cells"]
    assert again.features["label"].iloc[[3, 4]].tolist() == ["V_Mo", "V_Mo"]
    assert again.features["state"].iloc[[3, 4]].tolist() == ["corrected", "corrected"]
    assert again.features["state"].iloc[-1] == "added"
    assert count(classify, "V_Mo") == before
    np.testing.assert_allclose(again.data[-1], far)
    distance = np.linalg.norm(again.data - core.cells.centres_px[8], axis=1)
    assert distance.min() > 0.5 * core.lattice.a_px
    run(classify)
    assert len(viewer.layers["field cells"].data) == n


def test_classes_can_be_hidden(classify, core, run, viewer, classified):
    classify.census.legend.boxes["Perfect"].setChecked(False)
    perfect = core.cells.classes == 0
    np.testing.assert_array_equal(classified.shown, ~perfect)
    first = int(np.flatnonzero(~perfect)[0])
    classified.selected_data = {first}
    classify.census.new_class.setCurrentText("Perfect")
    classify.census.set_button.click()
    assert not classified.shown[first]
    run(classify)
    assert not viewer.layers["field cells"].shown[first]
    classify.census.legend.boxes["Perfect"].setChecked(True)
    assert viewer.layers["field cells"].shown.all()


def test_areas_on_request(viewer, classify, core, qtbot, run, classified):
    classify.areas.setChecked(True)
    qtbot.waitUntil(lambda: not classify.run.is_running)
    layer = viewer.layers["field cell areas"]
    assert isinstance(layer, Labels)
    assert names(viewer) == ["field", "field hexagons", "field cell areas", "field cells"]
    rows, columns = np.rint(core.cells.centres_px).astype(int).T
    np.testing.assert_array_equal(layer.data[rows, columns], core.cells.classes + 1)
    np.testing.assert_allclose(layer.scale, [0.02, 0.02])
    run(classify)
    assert len(viewer.layers) == 4
    assert viewer.layers["field cell areas"] is not layer


@pytest.mark.slow
def test_a_bundled_sample_from_end_to_end(viewer, detect, classify, run, qtbot, tmp_path):
    """The real core: detect, classify, correct, export."""
    try:
        ((data, kwargs, _),) = samples.pristine()
    except PointDefectsError:
        pytest.skip("the samples are not there")
    viewer.layers.clear()
    viewer.add_image(data[:640, :640], **{**kwargs, "name": "sample"})
    run(detect, timeout=120_000)
    assert len(viewer.layers["sample hexagons"].data) > 20
    run(classify, timeout=120_000)
    points = viewer.layers["sample cells"]
    points.selected_data = {0}
    classify.census.new_class.setCurrentText("V_Mo")
    classify.census.set_button.click()
    classify.export(tmp_path)
    qtbot.waitUntil(lambda: not classify.run.is_running, timeout=60_000)
    census = json.loads((tmp_path / "sample_census.json").read_text(encoding="utf-8"))
    table = pd.read_csv(tmp_path / "sample_cells.csv")
    shown = classify.census.editor.census()
    assert len(table) == len(points.data) == shown.n_cells
    assert census["area_nm2"] == pytest.approx(shown.area_nm2)
    assert [c["count"] for c in census["classes"].values()] == shown.counts.tolist()
    assert (tmp_path / "sample_overlay.png").exists()
    assert table.loc[0, "label"] == "V_Mo"

    # a second export asks before it replaces anything
    classify.export(tmp_path)
    qtbot.waitUntil(lambda: not classify.run.is_running, timeout=60_000)
    assert "exists" in classify.run.message.text()
    classify.export(tmp_path, overwrite=True)
    qtbot.waitUntil(lambda: not classify.run.is_running, timeout=60_000)
    assert "Written" in classify.run.message.text()
