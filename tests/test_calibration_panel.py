"""*Calibrate*, and the region in *Detect unit cells*: what a user does, on layers without a window.

The lattice of the fixtures has 24 px per constant.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

pytest.importorskip("napari")
pytest.importorskip("qtpy.QtWidgets", exc_type=ImportError)

import tifffile
from napari.layers import Image, Labels, Layer, Points, Shapes
from qtpy.QtCore import Qt
from qtpy.QtWidgets import QLabel

from napari_point_defects import detections, networks, pipeline
from napari_point_defects.calibration import choose_pixel_size
from napari_point_defects.errors import PointDefectsError
from napari_point_defects.labels.store import LabelStore
from napari_point_defects.materials import get_material
from napari_point_defects.napari_ui import calibrate_widget
from napari_point_defects.napari_ui.calibrate_widget import BOTH, KEEP, CalibrateWidget
from napari_point_defects.napari_ui.history import history_of
from napari_point_defects.napari_ui.image_layers import (
    calibration_of,
    image_layer_data,
    pixel_size_nm,
    stem_image,
)
from napari_point_defects.napari_ui.label_resume import open_labels
from napari_point_defects.napari_ui.labelling import labelling
from napari_point_defects.napari_ui.links import CellsLink, HexagonsLink, link_of
from napari_point_defects.napari_ui.region_layers import region_of
from napari_point_defects.napari_ui.ruler_panel import LATTICE_CONSTANTS
from napari_point_defects.records import Calibration, Lattice, StemImage
from napari_point_defects.region import inside_region, region_area_px

pytestmark = pytest.mark.gui

MOTE2 = get_material("MoTe2")
RIGHT = MOTE2.lattice_constant_nm / 24


@pytest.fixture
def panel(viewer, qtbot, monkeypatch, lattice):
    """The widget; the lattice is found at once."""
    monkeypatch.setattr(calibrate_widget, "find_lattice", lambda data, material: lattice)
    widget = CalibrateWidget(viewer)
    qtbot.addWidget(widget)
    widget.show()
    return widget


@pytest.fixture
def click(qtbot):
    """Click a button as a person does, and wait until the panel is at rest."""

    def press(panel, button):
        qtbot.mouseClick(button, Qt.MouseButton.LeftButton)
        qtbot.waitUntil(lambda: not panel.find.is_running)

    return press


def source(layer):
    return calibration_of(layer).source


def type_into(qtbot, editor, text):
    editor.selectAll()
    qtbot.keyClicks(editor, text)
    qtbot.keyClick(editor, Qt.Key.Key_Return)


# --- what it shows -----------------------------------------------------------------------------


def test_it_shows_the_size_its_source_and_the_lattice(panel, viewer, click):
    assert "0.02 × 0.02 nm" in panel.size.text()
    assert "from the file" in panel.size.text()
    assert panel.lattice_line.isHidden()
    click(panel, panel.compare)
    assert "24.00 px = 0.4800 nm" in panel.lattice_line.text()
    assert "MoTe2 has 0.3519 nm: 36.4% above" in panel.lattice_line.text()
    assert f"{RIGHT:.6g} nm" in panel.warning.text()
    assert pixel_size_nm(viewer.layers["field"]) == pytest.approx((0.02, 0.02))  # as it was
    panel.material.set("MoS2")  # another lattice to look for
    assert panel.lattice_line.isHidden()


def test_without_an_image(panel, viewer, click, notes):
    viewer.layers.clear()
    assert "No image" in panel.size.text()
    assert not panel.set_by_hand.isEnabled()
    assert not panel.compare.isEnabled()
    viewer.add_image(np.zeros((4, 70, 80)), name="stack")
    click(panel, panel.set_by_hand)
    assert "above 0" in panel.message.text()
    type_into_size = panel.editor.height_
    type_into_size.set(0.01)
    click(panel, panel.set_by_hand)
    assert "3 dimensions" in panel.message.text()


def test_a_diffraction_pattern_has_no_pixel_size(panel, viewer, stem_data, click, notes):
    layer = viewer.add_image(stem_data, name="pattern", scale=(0.1, 0.1), units=("1/nm", "1/nm"))
    assert "diffraction pattern" in panel.size.text()
    click(panel, panel.compare)
    assert "diffraction pattern" in panel.message.text()
    with pytest.raises(PointDefectsError, match="diffraction pattern"):
        stem_image(layer)


def test_every_text_is_seen_whole(panel):
    labels = [label.text() for label in panel.findChildren(QLabel)]
    assert {"Height", "Width", "It is"} <= set(labels)
    assert panel.sizeHint().width() < 420


# --- by hand -----------------------------------------------------------------------------------


def test_by_hand(panel, viewer, click, qtbot):
    image = viewer.layers["field"]
    assert panel.editor.get_nm() == pytest.approx((0.02, 0.02))
    panel.editor.unit.setCurrentText("pm")
    assert panel.editor.height_.get() == pytest.approx(20)
    type_into(qtbot, panel.editor.height_, "15")
    assert panel.editor.get_nm() == pytest.approx((0.015, 0.015))
    click(panel, panel.set_by_hand)
    assert pixel_size_nm(image) == pytest.approx((0.015, 0.015))
    assert source(image) == "user"
    assert "0.015 nm" in panel.message.text()
    assert "set by hand" in panel.size.text()

    panel.editor.unit.setCurrentText("Å")
    panel.editor.square.setChecked(False)
    type_into(qtbot, panel.editor.width_, "0.12")
    click(panel, panel.set_by_hand)
    assert pixel_size_nm(image) == pytest.approx((0.015, 0.012))
    assert stem_image(image).calibration == Calibration(pixel_size_nm(image), "user")


def test_nothing_is_no_size(panel, viewer, click, qtbot, notes):
    type_into(qtbot, panel.editor.height_, "0")
    click(panel, panel.set_by_hand)
    assert "above 0" in panel.message.text()
    assert pixel_size_nm(viewer.layers["field"]) == pytest.approx((0.02, 0.02))


# --- from the lattice --------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(0.02, 0.02), (0.02, 0.016)])
@pytest.mark.parametrize("aspect", ["square pixels", KEEP, BOTH])
def test_from_the_lattice(panel, viewer, click, lattice, size, aspect):
    image = viewer.layers["field"]
    image.scale = size
    panel.aspect.setCurrentText(aspect)
    click(panel, panel.find.button)
    found = pixel_size_nm(image)
    assert source(image) == "lattice"
    # the area of a cell is the material's, whatever the pixels' shape
    area = lattice.cell_area_px * found[0] * found[1]
    assert area == pytest.approx(MOTE2.cell_area_nm2)
    ratio = {"square pixels": 1.0, KEEP: size[0] / size[1], BOTH: 1 + lattice.stretch}[aspect]
    assert found[0] / found[1] == pytest.approx(ratio)
    assert "they agree" in panel.lattice_line.text()
    assert panel.warning.isHidden()
    chosen = choose_pixel_size(stem_image(image).calibration, lattice, MOTE2)
    assert chosen[:2] == (found, "lattice")


def test_an_uncalibrated_image(panel, viewer, stem_data, click):
    image = viewer.add_image(stem_data, name="plain")
    assert "none" in panel.size.text()
    panel.aspect.setCurrentText(KEEP)
    click(panel, panel.find.button)
    assert pixel_size_nm(image) == pytest.approx((RIGHT, RIGHT), rel=1e-3)
    click(panel, panel.from_file)
    assert pixel_size_nm(image) is None
    np.testing.assert_array_equal(image.scale, [1, 1])
    assert "no pixel size" in panel.message.text()


def test_an_image_without_a_lattice(panel, viewer, click, monkeypatch, notes):
    def refuse(data, material):
        raise PointDefectsError("no hexagonal lattice found: use another image")

    monkeypatch.setattr(calibrate_widget, "find_lattice", refuse)
    click(panel, panel.find.button)
    assert "no hexagonal lattice" in panel.find.message.text()
    assert source(viewer.layers["field"]) == "file"


# --- the file's --------------------------------------------------------------------------------


def test_back_to_the_file_s(panel, viewer, click, qtbot):
    image = viewer.layers["field"]
    image.translate = (0.2, 0.4)
    for _ in range(2):
        click(panel, panel.find.button)
    type_into(qtbot, panel.editor.height_, "0.5")
    click(panel, panel.set_by_hand)
    np.testing.assert_allclose(image.translate, [5, 10])  # 10 and 20 pixels still
    click(panel, panel.from_file)
    assert calibration_of(image) == Calibration((0.02, 0.02), "file")
    np.testing.assert_allclose(image.translate, [0.2, 0.4])
    assert "0.02 nm" in panel.message.text()


def test_a_file_that_napari_opened_is_asked(panel, viewer, click, stem_data, tmp_path):
    path = tmp_path / "field.tif"
    options = {"imagej": True, "resolution": (100, 80), "metadata": {"unit": "nm"}}
    tifffile.imwrite(path, stem_data, **options)
    layer = Image(stem_data, name="tif")
    layer._source = layer.source.model_copy(update={"path": str(path)})
    viewer.layers.append(layer)
    assert pixel_size_nm(layer) is None
    click(panel, panel.from_file)
    assert calibration_of(layer) == Calibration(pixel_size_nm(layer), "file")
    assert pixel_size_nm(layer) == pytest.approx((0.0125, 0.01))


def test_why_a_file_s_size_is_not_used_is_told(panel, viewer, click, stem_data):
    problem = "the file's pixel size, -1 nm × -1 nm, cannot be one"
    record = StemImage(stem_data, "odd", Calibration(None, "none", problem))
    layer = viewer.add_layer(Layer.create(*image_layer_data(record)))
    assert stem_image(layer).calibration.problem == problem
    click(panel, panel.from_file)
    assert "-1 nm × -1 nm" in panel.message.text()


# --- along a line ------------------------------------------------------------------------------


def test_along_a_line(panel, viewer, click, qtbot, core, run):
    image = viewer.layers["field"]
    assert not panel.ruler_panel.apply.isEnabled()
    click(panel, panel.ruler_panel.draw)
    ruler = viewer.layers["field ruler"]
    assert viewer.layers.selection.active is ruler
    assert ruler.mode == "add_line"
    ruler.add([[[10, 10], [40, 50]]], shape_type="line")
    assert "50.0 px long, 1 nm" in panel.ruler_panel.line.text()
    type_into(qtbot, panel.ruler_panel.length, "0.6")
    click(panel, panel.ruler_panel.apply)
    assert pixel_size_nm(image) == pytest.approx((0.012, 0.012))
    assert source(image) == "user"
    np.testing.assert_allclose(ruler.scale, [0.012, 0.012])
    assert "50.0 px long, 0.6 nm" in panel.ruler_panel.line.text()

    type_into(qtbot, panel.ruler_panel.length, "2")
    panel.ruler_panel.unit.setCurrentText(LATTICE_CONSTANTS)
    click(panel, panel.ruler_panel.apply)
    assert pixel_size_nm(image)[0] == pytest.approx(2 * MOTE2.lattice_constant_nm / 50)
    click(panel, panel.ruler_panel.draw)  # the line before goes
    assert len(viewer.layers["field ruler"].data) == 0
    assert not panel.ruler_panel.apply.isEnabled()


def test_a_line_keeps_the_shape_of_the_pixels(panel, viewer, click):
    image = viewer.layers["field"]
    image.scale = (0.02, 0.01)
    click(panel, panel.ruler_panel.draw)
    viewer.layers["field ruler"].add([[[10, 10], [10, 110]]], shape_type="line")
    panel.ruler_panel.length.set(2.0)
    click(panel, panel.ruler_panel.apply)
    assert pixel_size_nm(image) == pytest.approx((0.04, 0.02))


def test_a_line_without_a_length(panel, viewer, click, notes):
    click(panel, panel.ruler_panel.draw)
    viewer.layers["field ruler"].add([[[10, 10], [10, 110]]], shape_type="line")
    click(panel, panel.ruler_panel.apply)
    assert "how long" in panel.message.text()


def test_the_ruler_goes_with_its_image(panel, viewer, stem_data, click):
    click(panel, panel.ruler_panel.draw)
    viewer.add_image(stem_data, name="second")
    assert "field ruler" not in viewer.layers
    click(panel, panel.ruler_panel.draw)
    viewer.layers.remove("second ruler")
    assert not panel.ruler_panel.apply.isEnabled()


# --- what follows ------------------------------------------------------------------------------


def test_layers_and_the_census_follow(panel, viewer, classify, classified, click, core, lattice):
    image = viewer.layers["field"]
    shapes = viewer.add_shapes(
        [[[0, 0], [0, 9], [9, 9]]], shape_type="polygon", scale=(0.02, 0.02), units=("nm", "nm")
    )
    labels = viewer.add_layer(Labels(np.zeros((9, 9), int), scale=(0.02, 0.02), units=("nm", "nm")))
    apart = viewer.add_points(np.zeros((1, 2)), scale=(3, 3))
    viewer.layers.selection.active = image
    area = classify.census.editor.census().area_nm2
    panel.editor.set_nm((0.03, 0.02))
    click(panel, panel.set_by_hand)
    hexagons = viewer.layers["field hexagons"]
    for layer in (image, hexagons, classified, shapes, labels):
        np.testing.assert_allclose(layer.scale, [0.03, 0.02])
        assert layer.units == image.units
    np.testing.assert_allclose(apart.scale, [3, 3])
    for layer, kind in ((hexagons, HexagonsLink), (classified, CellsLink)):
        detection = link_of(layer, kind).detection
        assert detection.pixel_size_nm == pytest.approx((0.03, 0.02))
        assert detection.pixel_size_source == "user"
        assert detection.warnings[-1] == core.WARNING
        assert "the given pixel size, 0.03 × 0.02 nm" in detection.warnings[0]
    # area = cells · cell area in px · height · width, on the screen and in the record
    expected = len(core.cells) * lattice.cell_area_px * 0.03 * 0.02
    assert classify.census.editor.census().area_nm2 == pytest.approx(expected)
    assert f"{expected:,.1f} nm²" in classify.census.total.text()
    assert area != pytest.approx(expected)

    click(panel, panel.from_file)
    detection = link_of(classified, CellsLink).detection
    # the file is 36 % off: the lattice is used, as in a run
    size, chosen, warning = choose_pixel_size(
        Calibration((0.02, 0.02), "file"), core.lattice, MOTE2
    )
    assert (detection.pixel_size_nm, detection.pixel_size_source) == (size, chosen)
    assert detection.warnings == (warning, core.WARNING)


def test_the_legend_of_detect_follows(panel, viewer, detect, run, click, core, lattice):
    run(detect)
    viewer.layers.selection.active = viewer.layers["field"]
    assert "pixel 0.01000 × 0.01000 nm (from the lattice)" in detect.result.text()
    panel.editor.set_nm((0.03, 0.02))
    click(panel, panel.set_by_hand)
    assert "pixel 0.03000 × 0.02000 nm (from the user)" in detect.result.text()
    assert "the given pixel size" in detect.warnings.text()
    # the scale is the same, but now someone vouches for it
    viewer.layers["field"].scale = (0.02, 0.02)
    click(panel, panel.from_file)
    source = link_of(viewer.layers["field hexagons"], HexagonsLink).detection.pixel_size_source
    assert f"(from the {source})" in detect.result.text()


def test_ctrl_z_takes_a_calibration_back(
    panel, viewer, classify, classified, detect, click, core, qtbot
):
    image, hexagons = viewer.layers["field"], viewer.layers["field hexagons"]
    image.metadata["mine"] = 1
    apart = viewer.add_points(np.zeros((1, 2)), scale=(3, 3))
    viewer.layers.selection.active = image
    before = [dict(layer.metadata) for layer in viewer.layers]
    total, legend = classify.census.total.text(), detect.result.text()
    centre, zoom = viewer.scene.camera.center, viewer.scene.camera.zoom
    for size in ((0.03, 0.02), (0.05, 0.05)):
        panel.editor.set_nm(size)
        click(panel, panel.set_by_hand)
    history = history_of(viewer, image.unique_id)
    history.undo()
    for layer in (image, hexagons, classified):
        np.testing.assert_allclose(layer.scale, [0.03, 0.02])
    assert "0.03 × 0.02 nm" in panel.size.text()
    assert link_of(classified, CellsLink).detection.pixel_size_nm == pytest.approx((0.03, 0.02))
    history.undo()
    history.undo()  # nothing is left
    for layer, metadata in zip(viewer.layers, before, strict=True):
        assert set(layer.metadata) == set(metadata)
    for layer, kind in ((hexagons, HexagonsLink), (classified, CellsLink)):
        np.testing.assert_allclose(layer.scale, [0.02, 0.02])
        assert layer.units == image.units
        assert link_of(layer, kind).detection.pixel_size_nm == (0.01, 0.01)
        assert link_of(layer, kind).detection.warnings == (core.WARNING,)
    np.testing.assert_allclose(apart.scale, [3, 3])
    assert (classify.census.total.text(), detect.result.text()) == (total, legend)
    assert calibration_of(image) == Calibration((0.02, 0.02), "file")
    np.testing.assert_allclose(viewer.scene.camera.center, centre)
    assert viewer.scene.camera.zoom == pytest.approx(zoom)
    history.redo()
    np.testing.assert_allclose(classified.scale, [0.03, 0.02])
    assert link_of(classified, CellsLink).detection.pixel_size_source == "user"


def test_the_lattice_that_was_detected_is_used(panel, viewer, detect, run, click, core):
    core.lattice = Lattice(core.lattice.origin_px, core.lattice.matrix_px * 1.1)
    detect.form.set_values({"material": "WS2"})
    run(detect)
    viewer.layers.selection.active = viewer.layers["field"]
    panel.images.layer_changed.emit()
    assert panel.material.get() == "WS2"
    assert "26.40 px" in panel.lattice_line.text()


def test_detect_analyses_with_the_pixel_size_that_was_set(panel, viewer, detect, run, click, core):
    panel.editor.set_nm((0.03, 0.02))
    click(panel, panel.set_by_hand)
    assert "0.03000" in detect.form.editors["pixel_size_nm"].text()
    run(detect)
    assert core.calls[-1][1].calibration == Calibration((0.03, 0.02), "user")


def test_a_copy_remembers_and_a_new_scale_is_the_file_s(panel, viewer, click):
    image = viewer.layers["field"]
    panel.editor.set_nm((0.03, 0.03))
    click(panel, panel.set_by_hand)
    copied = Layer.create(*image.as_layer_data_tuple())
    assert source(copied) == "user"
    copied.scale = (0.04, 0.04)  # set in napari's own controls
    assert source(copied) == "file"


# --- the region in Detect ----------------------------------------------------------------------


def test_detect_in_a_region(viewer, detect, run, core):
    run(detect)
    assert core.calls[-1][2].region is None
    shapes = viewer.add_shapes(
        [[[20, 30], [20, 130], [80, 130], [80, 30]]],
        shape_type="rectangle",
        name="mine",
        scale=(0.02, 0.02),
        units=("nm", "nm"),
    )
    assert detect.regions.layer is None  # nothing is chosen for the user
    names = [detect.regions.list.itemText(i) for i in range(detect.regions.list.count())]
    assert names == ["Whole image", "mine"]  # hexagons are no region
    detect.regions.list.setCurrentIndex(1)
    run(detect)
    region = core.calls[-1][2].region
    assert region_area_px(region, (256, 256)) == 60 * 100
    assert "in the region" in detect.result.text()
    link = link_of(viewer.layers["field hexagons"], HexagonsLink)
    assert link.settings.region == region
    shapes.name = "renamed"
    assert detect.regions.list.currentText() == "renamed"
    viewer.layers.remove("renamed")
    assert detect.regions.layer is None
    run(detect)
    assert core.calls[-1][2].region is None


def test_classify_keeps_the_region(viewer, detect, classify, run, core):
    viewer.add_shapes(
        [[[20, 30], [90, 130], [20, 130]]], scale=(0.02, 0.02), units=("nm", "nm"),
        shape_type="polygon", name="mine",
    )  # fmt: skip
    detect.regions.choose(viewer.layers["mine"])
    run(detect)
    run(classify)
    assert core.calls[-1][3].region == core.calls[0][2].region is not None


def test_a_region_is_drawn_on_the_image(viewer, detect, qtbot):
    viewer.layers["field"].translate = (1.0, 2.0)
    qtbot.mouseClick(detect.regions.draw, Qt.MouseButton.LeftButton)
    layer = viewer.layers["field region"]
    assert detect.regions.layer is layer
    assert layer.mode == "add_polygon"
    layer.add([[[5, 5], [5, 50], [50, 50]]], shape_type="polygon")
    (polygon,) = region_of(layer, viewer.layers["field"])
    np.testing.assert_allclose(polygon, [[5, 5], [5, 50], [50, 50]], atol=1e-4)


def test_a_region_without_area(viewer, detect, run, core, notes):
    viewer.add_shapes([[[0, 0], [9, 9]]], shape_type="line", name="line")
    detect.regions.choose(viewer.layers["line"])
    run(detect)
    assert "encloses no region" in notes[-1].message
    assert not core.calls


@pytest.mark.parametrize(
    ("scale", "units"), [((0.02, 0.02), "nm"), ((20.0, 20.0), "pm"), ((2e-5, 2e-5), "um")]
)
@pytest.mark.parametrize("kind", ["rectangle", "polygon", "ellipse", "path"])
def test_shapes_become_pixels_whatever_their_scale(viewer, scale, units, kind):
    image = viewer.layers["field"]
    image.translate = (0.2, 0.0)  # 10 px down
    corners = np.array([[30.0, 40], [30, 80], [90, 80], [90, 40]])
    shapes = Shapes([corners], shape_type=kind, scale=scale, units=(units, units))
    region = region_of(shapes, image)
    area = np.pi / 4 * 60 * 40 if kind == "ellipse" else 60 * 40
    assert region_area_px(region, image.data.shape) == pytest.approx(area, rel=0.01)
    assert inside_region([[50, 60], [85, 60]], region).tolist() == [True, False]


def test_typed_pixel_size_in_detect_reaches_the_core(field_image, monkeypatch):
    settings = pipeline.AnalysisSettings(pixel_size_nm=0.011)
    seen = []

    def remember(calibration, *arguments, **options):
        seen.append(calibration)
        raise PointDefectsError("seen")

    monkeypatch.setattr(pipeline, "choose_pixel_size", remember)
    monkeypatch.setattr(networks, "detector_of", lambda settings: None)
    with pytest.raises(PointDefectsError, match="seen"):
        pipeline.detect(field_image, settings)
    assert seen == [Calibration((0.011, 0.011), "user")]


@pytest.fixture
def field_image(stem_data):
    rng = np.random.default_rng(0)
    noisy = stem_data + 0.05 * rng.normal(size=stem_data.shape).astype(np.float32)
    return StemImage(noisy, "field", Calibration((0.02, 0.02), "file"))


def test_links_of_both_kinds_are_recalibrated(lattice, hexagons):
    detection = detections.Detection(lattice, hexagons, (RIGHT, RIGHT), "lattice", ("other",))
    settings = pipeline.AnalysisSettings(pixel_size_nm=0.5)
    from napari_point_defects.napari_ui.layer_calibration import recalibrated

    typed = choose_pixel_size(Calibration((0.5, 0.5), "user"), lattice, MOTE2)
    detection = replace(detection, warnings=(typed[2], "other"))
    for link in (HexagonsLink(1, detection, settings), CellsLink(1, detection, settings)):
        after = recalibrated(link, Calibration(), Calibration((RIGHT, RIGHT), "user"))
        assert after.settings.pixel_size_nm is None
        assert after.detection.pixel_size_source == "user"
        assert after.detection.warnings == ("other",)
        assert isinstance(after, type(link))


def test_points_without_a_link_of_this_image_stay(panel, viewer, click):
    other = viewer.add_layer(Points(np.zeros((1, 2)), scale=(0.02, 0.02), units=("nm", "nm")))
    other.metadata["napari-point-defects"] = HexagonsLink("another", None, None)
    viewer.layers.selection.active = viewer.layers["field"]
    panel.editor.set_nm((0.03, 0.03))
    click(panel, panel.set_by_hand)
    np.testing.assert_allclose(other.scale, [0.02, 0.02])


def test_the_store_of_labels_notes_the_pixel_size(
    panel, viewer, classify, classified, data_folder, qtbot, click
):
    qtbot.waitUntil(lambda: labelling(viewer).last_saved != "")
    viewer.layers.selection.active = viewer.layers["field"]
    panel.editor.set_nm((0.03, 0.02))
    click(panel, panel.set_by_hand)
    with LabelStore(data_folder / "labels", create=False) as store:
        (entry,) = store.images()
        n_cells = len(store.cells(entry.id))
    assert entry.pixel_size_nm == pytest.approx((0.03, 0.02))
    assert entry.pixel_size_source == "user"
    assert entry.settings["image_pixel_size_nm"] == pytest.approx([0.03, 0.02])
    assert entry.settings["image_pixel_size_source"] == "user"
    assert n_cells == len(classified.data)  # and no cell was touched


def test_the_store_of_labels_keeps_the_region(viewer, detect, classify, run, data_folder, qtbot):
    shape = [[[20, 30], [90, 130], [20, 130]]]
    viewer.add_shapes(
        shape, shape_type="polygon", name="mine", scale=(0.02, 0.02), units=("nm", "nm")
    )
    detect.regions.choose(viewer.layers["mine"])
    run(detect)
    run(classify)
    qtbot.waitUntil(lambda: labelling(viewer).last_saved != "")
    viewer.layers.clear()
    with LabelStore(data_folder / "labels", create=False) as store:
        (entry,) = store.images()
        cells = open_labels(viewer, store, entry)
    region = link_of(cells, CellsLink).settings.region
    np.testing.assert_allclose(region, shape)
