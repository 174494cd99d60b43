"""*Detect unit cells*, on a stand-in for the core."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

pytest.importorskip("napari")
pytest.importorskip("qtpy.QtWidgets", exc_type=ImportError)

from napari.layers import Shapes

from napari_point_defects import pipeline
from napari_point_defects.errors import PointDefectsError
from napari_point_defects.napari_ui.hexagon_tables import CORNER_COLUMNS, hexagon_table

pytestmark = pytest.mark.gui


def names(viewer):
    return [layer.name for layer in viewer.layers]


def test_detect_draws_hexagons_on_the_image(viewer, detect, core, run, notes):
    run(detect)
    layer = viewer.layers["field hexagons"]
    assert isinstance(layer, Shapes)
    assert len(layer.data) == len(core.hexagons)
    np.testing.assert_allclose(layer.features["score"], core.hexagons.scores)
    np.testing.assert_allclose(layer.scale, [0.02, 0.02])
    assert layer.units == viewer.layers["field"].units
    (_, image, settings), *_ = core.calls
    assert image.calibration.pixel_size_nm == pytest.approx((0.02, 0.02))
    assert settings == pipeline.AnalysisSettings()
    assert f"{len(core.hexagons)} hexagons" in detect.result.text()
    assert core.WARNING in detect.warnings.text()
    assert [note.message for note in notes] == [core.WARNING]
    assert detect.run.button.text() == "Detect unit cells"

    detect.form.set_values({"material": "WS2", "pixel_size_nm": 0.0123})
    detect.advanced.set_values({"sublattice_rank": 2, "min_score": 0.25})
    run(detect)
    settings = core.calls[-1][2]
    assert settings.material == "WS2"
    assert settings.pixel_size_nm == pytest.approx(0.0123)
    assert (settings.sublattice_rank, settings.min_score) == (2, 0.25)
    assert settings.detector_weights is None


def test_detect_again_replaces_its_own_layer(viewer, detect, core, run):
    run(detect)
    first = viewer.layers["field hexagons"]
    core.hexagons = core.hexagons.take(np.arange(9))
    run(detect)
    assert names(viewer) == ["field", "field hexagons"]
    assert viewer.layers["field hexagons"] is not first
    assert len(viewer.layers["field hexagons"].data) == 9


def test_detect_again_keeps_what_the_user_edited(viewer, detect, core, run):
    run(detect)
    first = viewer.layers["field hexagons"]
    middle = int(np.argmin([np.abs(shape.mean(axis=0) - 128).sum() for shape in first.data]))
    moved = first.data[middle] + [3.0, 2.0]
    first.remove([0, 1, middle])
    first.add([moved])
    first.features.loc[first.features.index[-1], "hexagon_id"] = middle
    for _ in range(2):
        run(detect)
        assert names(viewer) == ["field", "field hexagons"]
        layer = viewer.layers["field hexagons"]
        assert layer is not first
        table = hexagon_table(layer).set_index("hexagon_id")
        assert set(table.index) == set(range(2, len(core.hexagons)))
        assert table["state"][middle] == "corrected"
        assert (table["state"].drop(middle) == "predicted").all()
        corners = table.loc[middle, CORNER_COLUMNS].to_numpy(float).reshape(4, 2)
        np.testing.assert_allclose(corners, moved, atol=0.01)


def test_edits_without_a_place_in_another_run_are_set_aside(viewer, detect, core, run, notes):
    run(detect)
    edited = viewer.layers["field hexagons"]
    edited.add([edited.data[20] + 1.0])
    # another choice of the sublattices: all hexagons a bond's length away
    shift = core.lattice.matrix_px @ [-0.577, 0]
    core.hexagons = replace(core.hexagons, corners_px=core.hexagons.corners_px + shift)
    run(detect)
    assert names(viewer) == ["field", "field hexagons (edited)", "field hexagons"]
    assert edited in viewer.layers
    assert "1 of the hexagons that you edited have no place" in "".join(n.message for n in notes)
    assert len(viewer.layers["field hexagons"].data) == len(core.hexagons)


def test_errors_are_reported_and_the_widget_lives(viewer, detect, core, run, notes):
    core.error = PointDefectsError("no hexagonal lattice was found:\n give another image")
    run(detect)
    assert [(n.severity.value, n.message) for n in notes] == [
        ("error", "no hexagonal lattice was found: give another image")
    ]
    assert detect.run.button.isEnabled()
    core.error = ZeroDivisionError("oops")  # not the user's mistake: napari offers the traceback
    run(detect)
    assert "oops" in notes[-1].message
    assert "went wrong" in detect.run.message.text()
    core.error = None
    run(detect)
    assert "field hexagons" in viewer.layers


@pytest.mark.parametrize(
    ("data", "kwargs", "words"),
    [
        (np.zeros((8, 8, 3)), {"rgb": True}, "colour image"),
        (np.zeros((4, 8, 8)), {}, "3 dimensions"),
    ],
)
def test_images_that_cannot_be_analysed(viewer, detect, core, run, notes, data, kwargs, words):
    viewer.add_image(data, name="wrong", **kwargs)
    assert detect.images.currentText() == "wrong"
    run(detect)
    assert words in notes[-1].message
    assert not core.calls


def test_without_an_image(viewer, detect, classify, core, run, notes):
    viewer.layers.clear()
    for widget in (detect, classify):
        run(widget)
    viewer.add_points(np.zeros((1, 2)), name="dots")
    run(detect)
    messages = [note.message for note in notes]
    assert "no image is open" in messages[0]
    assert "no hexagons yet" in messages[1]
    assert "'dots' is a Points layer" in messages[2]


def test_image_closed_while_it_is_analysed(viewer, detect, core, qtbot, notes):
    core.hold = True
    detect.run.button.click()
    qtbot.waitUntil(core.entered.is_set)
    viewer.layers.clear()
    core.go.set()
    qtbot.waitUntil(lambda: not detect.run.is_running)
    assert "closed" in notes[-1].message
    assert names(viewer) == []


def test_the_chooser_follows_the_viewer(viewer, detect, stem_data):
    second = viewer.add_image(stem_data, name="second")
    assert detect.images.layer is second
    assert "lattice" in detect.form.editors["pixel_size_nm"].text()
    viewer.layers.selection.active = viewer.layers["field"]
    assert detect.images.layer is viewer.layers["field"]
    assert "0.02000" in detect.form.editors["pixel_size_nm"].text()
    viewer.layers["field"].name = "renamed"
    assert detect.images.currentText() == "renamed"
    viewer.layers.remove("renamed")
    assert detect.images.layer is second
