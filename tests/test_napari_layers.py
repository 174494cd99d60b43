"""Records to layers and back, without a viewer."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

pytest.importorskip("napari")

from napari.layers import Image, Layer, Points

from napari_point_defects.analysis_settings import AnalysisSettings
from napari_point_defects.detections import Detection
from napari_point_defects.errors import PointDefectsError
from napari_point_defects.materials import CLASS_COLOURS, HEXAGON_SIZE, MATERIALS, DefectClass
from napari_point_defects.napari_ui import hexagon_layers, image_layers
from napari_point_defects.napari_ui.cell_layers import cell_mask, cells_layer_data, mask_layer_data
from napari_point_defects.napari_ui.cell_tables import (
    cell_table,
    cells_of_table,
    centres_px,
    new_row,
    tidy,
    translated,
)
from napari_point_defects.napari_ui.links import CellsLink, HexagonsLink, link_of, own, own_layer
from napari_point_defects.records import Hexagons

MATERIAL = MATERIALS["MoTe2"]
PLACE = {"scale": (0.01, 0.02), "translate": (3, 4), "units": ("nm", "nm")}


@pytest.fixture
def detection(lattice, hexagons):
    return Detection(lattice, hexagons, (0.01, 0.01), "lattice", ())


def hexagons_layer(detection):
    link = HexagonsLink("image", detection, AnalysisSettings())
    return Layer.create(*hexagon_layers.hexagons_layer_data(link, "x hexagons", PLACE))


def cells_layer(detection, table):
    link = CellsLink(
        "image",
        detection,
        AnalysisSettings(),
        table["cell_id"].to_numpy(),
        centres_px(table),
        np.empty((0, 2)),
    )
    return Layer.create(*cells_layer_data(table, link, "x cells", PLACE))


# Images


@pytest.mark.parametrize(
    ("scale", "units", "expected"),
    [
        ((0.01, 0.02), ("nm", "nm"), (0.01, 0.02)),
        ((0.1, 0.1), ("angstrom", "angstrom"), (0.01, 0.01)),
        ((1e-5, -1e-5), ("um", "um"), (0.01, 0.01)),
        ((2.0, 2.0), ("pixel", "pixel"), None),
        ((2.0, 2.0), ("1/nm", "1/nm"), None),
    ],
)
def test_pixel_size_comes_from_scale_and_units(scale, units, expected):
    size = image_layers.pixel_size_nm(Image(np.zeros((8, 8)), scale=scale, units=units))
    assert size == (pytest.approx(expected) if expected else None)


def test_image_layer_round_trip(stem_data):
    layer = Image(stem_data, name="a/b: c", scale=(0.01, 0.02), units=("nm", "nm"))
    image = image_layers.stem_image(layer)
    assert image.name == "a_b_c"
    assert image.data.dtype == np.float32
    assert image.calibration.source == "file"
    again = Layer.create(*image_layers.image_layer_data(image))
    np.testing.assert_array_equal(again.data, stem_data)
    assert image_layers.pixel_size_nm(again) == pytest.approx((0.01, 0.02))


def test_uncalibrated_image_has_pixel_units(stem_data):
    image = image_layers.stem_image(Image(stem_data))
    assert image.calibration.pixel_size_nm is None
    assert image.calibration.source == "none"


@pytest.mark.parametrize(
    ("layer", "words"),
    [
        (None, "no image is open"),
        (Points(np.zeros((1, 2)), name="p"), "'p' is a Points layer"),
        (Image(np.zeros((8, 8, 3)), rgb=True), "colour image"),
        (Image(np.zeros((4, 8, 8))), "3 dimensions"),
    ],
)
def test_what_is_no_grey_frame_is_refused_in_one_line(layer, words):
    with pytest.raises(PointDefectsError, match=words) as caught:
        image_layers.check_image(layer)
    assert "\n" not in str(caught.value)


# Hexagons


def test_hexagons_survive_the_layer(detection):
    layer = hexagons_layer(detection)
    assert link_of(layer, HexagonsLink).detection is detection
    back = hexagon_layers.hexagons_of_shapes(
        layer.data, layer.features["score"].to_numpy(), detection.domain_map
    )
    np.testing.assert_allclose(back.corners_px, detection.hexagons.corners_px, atol=1e-3)
    np.testing.assert_allclose(back.scores, detection.hexagons.scores)
    assert not hexagon_layers.is_edited(layer.data, detection.hexagons)
    np.testing.assert_allclose(layer.scale, PLACE["scale"])
    assert [str(unit) for unit in layer.units] == ["nanometer", "nanometer"]


def test_no_hexagons_make_an_empty_layer(detection):
    empty = replace(detection, hexagons=Hexagons(np.empty((0, 4, 2)), np.empty(0)))
    layer = hexagons_layer(empty)
    assert len(layer.data) == 0
    assert not hexagon_layers.is_edited(layer.data, empty.hexagons)


def test_moved_deleted_and_drawn_hexagons_are_seen(detection):
    written = detection.hexagons
    link = HexagonsLink("image", detection, AnalysisSettings())
    layer = hexagons_layer(detection)
    layer.selected_data = {0}
    layer.remove_selected()
    assert hexagon_layers.is_edited(layer.data, written)
    centre = np.array([128.0, 128.0])
    layer.add_rectangles([centre + [[-9, -9], [-9, 9], [9, 9], [9, -9]]])
    scores = layer.features["score"].to_numpy()
    assert scores[-1] == hexagon_layers.DRAWN_SCORE
    back = hexagon_layers.current_hexagons(layer.data, scores, link)
    assert len(back) == len(written)
    # a box drawn by hand becomes a hexagon of the right size, along the lattice
    box = Hexagons(back.corners_px[-1:], back.scores[-1:]).canonical_boxes(detection.lattice)[0]
    np.testing.assert_allclose(box[2:] - box[:2], HEXAGON_SIZE, atol=1e-6)
    np.testing.assert_allclose(back.corners_px[-1].mean(axis=0), centre, atol=1e-3)

    moved = [shape.copy() for shape in written.corners_px]
    moved[3] += 1.5
    assert hexagon_layers.is_edited(moved, written)
    back = hexagon_layers.current_hexagons(moved, written.scores, link)
    np.testing.assert_allclose(back.corners_px[3], written.corners_px[3] + 1.5)


def test_lines_and_other_shapes_are_read_or_left_out(detection):
    line = np.array([[10.0, 10.0], [50.0, 50.0]])
    flat = np.array([[10.0, 10.0], [10.0, 10.0], [10.0, 10.0]])
    triangle = np.array([[100.0, 100.0], [140.0, 100.0], [100.0, 140.0]])
    back = hexagon_layers.hexagons_of_shapes(
        [line, flat, triangle], [np.nan, np.nan, np.nan], detection.domain_map
    )
    assert len(back) == 1
    assert back.scores[0] == 1.0


# Cells


def test_cells_survive_the_layer(detection, cells):
    layer = cells_layer(detection, cell_table(cells, MATERIAL))
    np.testing.assert_allclose(layer.data, cells.centres_px)
    table = tidy(layer.features, layer.data, detection.domain_map)
    back = cells_of_table(table, MATERIAL)
    np.testing.assert_allclose(back.chalcogen_px, cells.chalcogen_px)
    np.testing.assert_allclose(back.metal_px, cells.metal_px)
    np.testing.assert_allclose(back.probabilities, cells.probabilities)
    np.testing.assert_array_equal(back.votes, cells.votes)
    assert (table["state"] == "predicted").all()


def test_colours_are_the_classes_own_even_where_one_is_absent(detection, cells):
    absent = cells.probabilities.copy()
    absent[cells.classes == DefectClass.V_X2] = np.eye(6)[DefectClass.PERFECT]
    cells = replace(cells, probabilities=absent)
    layer = cells_layer(detection, cell_table(cells, MATERIAL))
    for defect_class, colour in CLASS_COLOURS.items():
        rgb = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        found = layer.face_color[cells.classes == defect_class]
        assert len(found) or defect_class == DefectClass.V_X2
        np.testing.assert_allclose(found[:, :3], np.tile(rgb, (len(found), 1)), atol=1e-6)
    defects = cells.classes != DefectClass.PERFECT
    assert layer.size[defects].min() > 2 * layer.size[~defects].max()


def test_no_cells_make_an_empty_layer(detection, cells):
    none = replace(
        cells,
        chalcogen_px=np.empty((0, 2)),
        metal_px=np.empty((0, 2)),
        votes=np.empty(0, int),
        probabilities=np.empty((0, 6)),
        domain=np.empty(0, int),
    )
    layer = cells_layer(detection, cell_table(none, MATERIAL))
    assert len(layer.data) == 0
    assert list(layer.features) == list(cell_table(cells, MATERIAL))


def test_edits_set_the_state(detection, cells):
    layer = cells_layer(detection, cell_table(cells, MATERIAL))
    layer.features.loc[1, "label"] = "V_Mo"
    layer.add([[100.0, 100.0]])
    layer.data[2] += [1.0, 0.0]
    table = tidy(layer.features, layer.data, detection.domain_map)
    assert table["state"].iloc[[0, 1, 2, -1]].tolist() == [
        "predicted",
        "corrected",
        "confirmed",
        "added",
    ]
    assert table["cell_id"].is_unique
    np.testing.assert_allclose(centres_px(table), layer.data, atol=1e-9)
    # the added cell's bond lies along the others'
    bonds = table[["metal_y", "metal_x"]].to_numpy() - table[["chalcogen_y", "chalcogen_x"]]
    np.testing.assert_allclose(bonds.to_numpy(), np.tile(bonds.iloc[0], (len(bonds), 1)), atol=1e-9)
    back = cells_of_table(table, MATERIAL)
    assert back.classes[1] == DefectClass.V_M
    assert back.probabilities[1].max() == 1
    again = tidy(table, layer.data, detection.domain_map)
    assert again.equals(table)


def test_pasted_cells_get_ids_of_their_own(detection, cells):
    table = cell_table(cells, MATERIAL)
    pasted = table.loc[[*table.index, 4]].reset_index(drop=True)
    points = np.concatenate([cells.centres_px, cells.centres_px[4:5] + 5])
    table = tidy(pasted, points, detection.domain_map)
    assert table["cell_id"].is_unique
    assert table["state"].iloc[4] == "predicted"
    assert table["state"].iloc[-1] == "added"


def test_table_of_another_material(cells):
    table = translated(cell_table(cells, MATERIAL), MATERIAL, MATERIALS["WS2"])
    np.testing.assert_array_equal(cells_of_table(table, MATERIALS["WS2"]).classes, cells.classes)


def test_new_row_has_the_columns_of_the_table(cells):
    table, row = cell_table(cells, MATERIAL), new_row(MATERIAL, "V_Te1")
    assert list(row) == list(table)
    assert (row.dtypes == table.dtypes).all()


def test_mask_covers_each_cell_s_area(detection, cells, lattice):
    mask = cell_mask(cells.centres_px, cells.classes, detection.domain_map, (256, 256))
    inside = (np.abs(cells.centres_px - 127.5) < 90).all(axis=1)
    rows, columns = np.rint(cells.centres_px[inside]).astype(int).T
    np.testing.assert_array_equal(mask[rows, columns], cells.classes[inside] + 1)
    one = cell_mask(np.array([[128.0, 128.0]]), np.array([3]), detection.domain_map, (256, 256))
    assert set(np.unique(one)) == {0, 4}
    assert (one > 0).sum() == pytest.approx(lattice.cell_area_px, rel=0.03)
    # cells tile the plane: no holes between them
    assert (mask[100:150, 100:150] > 0).all()
    layer = Layer.create(*mask_layer_data(mask, MATERIAL, "areas", PLACE))
    np.testing.assert_array_equal(layer.data, mask)


def test_only_the_layer_that_was_written_is_ones_own(detection):
    layer = hexagons_layer(detection)
    own(layer)
    copy = Layer.create(*layer.as_layer_data_tuple())
    assert link_of(copy, HexagonsLink) is not None
    assert own_layer([copy, layer], "image", HexagonsLink) is layer
    assert own_layer([copy], "image", HexagonsLink) is None
    assert own_layer([layer], "other", HexagonsLink) is None
