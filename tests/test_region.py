"""The user's region: points, masks and areas with known answers, files, and whole analyses."""

import json
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from pydantic import ValidationError

from napari_point_defects import cli, networks, pipeline
from napari_point_defects.analysis_settings import AnalysisSettings
from napari_point_defects.classification.calibration import ProbabilityCalibration
from napari_point_defects.errors import PointDefectsError
from napari_point_defects.materials import MATERIALS
from napari_point_defects.netcasting import cast_net
from napari_point_defects.pipeline import analyze
from napari_point_defects.records import Calibration, Hexagons, StemImage, UnitCells, hexagon_boxes
from napari_point_defects.region import (
    as_region,
    inside_region,
    lattice_inside,
    outline,
    read_region,
    region_area_px,
    region_mask,
)
from napari_point_defects.region_limits import hexagons_within
from napari_point_defects.simulation.noise import NoiseSettings
from napari_point_defects.simulation.recipes import Recipe, simulate_recipe
from napari_point_defects.simulation.scenes import SceneSettings, lattice_nodes

SQUARE = ((10.0, 20.0), (10.0, 50.0), (40.0, 50.0), (40.0, 20.0))
DIAMOND = ((50.5, 20.5), (30.5, 40.5), (50.5, 60.5), (70.5, 40.5))
BOW_TIE = ((0.0, 0.0), (20.0, 20.0), (20.0, 0.0), (0.0, 20.0))


# --- points, masks, areas ----------------------------------------------------------------------


def test_points_in_a_square():
    points = [[25, 35], [10, 20], [39.99, 49.99], [40, 35], [25, 50], [9.99, 35], [25, 19.99]]
    assert inside_region(points, as_region([SQUARE])).tolist() == [True] * 3 + [False] * 4
    assert inside_region(np.empty((0, 2)), as_region([SQUARE])).shape == (0,)


def test_polygons_add_up_and_overlaps_count_once():
    region = as_region([SQUARE, [(y + 15, x + 15) for y, x in SQUARE]])
    assert region_area_px(region, (100, 100)) == 2 * 900 - 15 * 15
    assert inside_region([[30, 40], [12, 60], [50, 60]], region).tolist() == [True, False, True]


def test_what_a_polygon_encloses_twice_is_outside():
    # a bow tie has two triangles; its left and right quarters are outside
    region = as_region([BOW_TIE])
    points = [[10, 2], [10, 18], [2, 10], [18, 10]]
    assert inside_region(points, region).tolist() == [False, False, True, True]


@pytest.mark.parametrize("polygon", [SQUARE, DIAMOND, BOW_TIE])
def test_mask_says_what_points_say(polygon):
    region = as_region([polygon])
    pixels = np.stack(np.meshgrid(np.arange(80), np.arange(70), indexing="ij"), axis=-1)
    expected = inside_region(pixels.reshape(-1, 2), region).reshape(80, 70)
    np.testing.assert_array_equal(region_mask(region, (80, 70)), expected)
    np.testing.assert_array_equal(region_mask(region, (30, 40), (20, 15)), expected[20:50, 15:55])
    assert region_area_px(region, (80, 70)) == expected.sum()


def test_any_polygon_as_a_mask():
    rng = np.random.default_rng(3)
    region = as_region(rng.uniform(-20, 120, (3, 7, 2)))
    pixels = np.stack(np.meshgrid(np.arange(100), np.arange(90), indexing="ij"), axis=-1)
    expected = inside_region(pixels.reshape(-1, 2), region).reshape(100, 90)
    np.testing.assert_array_equal(region_mask(region, (100, 90)), expected)


def test_area_stops_at_the_image():
    region = as_region([[(-50, -50), (-50, 30), (20, 30), (20, -50)]])
    assert region_area_px(region, (100, 100)) == 20 * 30
    assert region_area_px(as_region([[(-9, -9), (-9, -1), (-1, -1)]]), (100, 100)) == 0


def test_an_ellipse_keeps_its_area():
    box = np.array([[100.0, 60], [100, 180], [260, 180], [260, 60]])
    polygon = outline("ellipse", box)
    area = region_area_px(as_region([polygon]), (400, 400))
    assert area == pytest.approx(np.pi * 80 * 60, rel=2e-3)
    assert outline("line", box[:2]) is None
    np.testing.assert_array_equal(outline("path", box[:3]), box[:3])


@pytest.mark.parametrize(
    "polygons",
    [
        [],
        [[]],
        [[[0, 0], [1, 1]]],
        [[[0, 0], [5, 5], [0, 0]]],
        [[[3, 0], [3, 5], [3, 9]]],
        [[[0, 0], [0, np.nan], [4, 4]]],
        [[[0, 0, 0], [1, 1, 1], [2, 1, 1]]],
        [[[0, 0], [1], [2, 1]]],
        [["a", "b", "c"]],
    ],
)
def test_what_is_no_region(polygons):
    with pytest.raises(ValueError, match="polygon"):
        as_region(polygons)
    with pytest.raises(ValidationError):
        AnalysisSettings(region=polygons)


# --- files -------------------------------------------------------------------------------------


def test_json_files(tmp_path):
    path = tmp_path / "region.json"
    region = as_region([SQUARE, DIAMOND])
    for content in (
        {"polygons_px": [SQUARE, DIAMOND]},
        [SQUARE, [*DIAMOND, DIAMOND[0]]],
        {"material": "MoS2", "region": {"polygons_px": region, "area_nm2": 3.0}},
    ):
        path.write_text(json.dumps(content))
        assert read_region(path) == region


def test_csv_as_napari_saves_it(tmp_path):
    writers = pytest.importorskip("napari_builtins.io")
    shapes = [np.array(s, float) for s in (SQUARE, DIAMOND, [[0, 0], [9, 9]], SQUARE)]
    kinds = ["rectangle", "polygon", "line", "ellipse"]
    path = tmp_path / "region.csv"
    writers.napari_write_shapes(str(path), shapes, {"shape_type": kinds})
    square, diamond, ellipse = read_region(path)
    assert square == SQUARE
    np.testing.assert_allclose(diamond, DIAMOND)
    assert region_area_px((ellipse,), (99, 99)) == pytest.approx(np.pi * 15**2, rel=0.02)


@pytest.mark.parametrize(
    ("name", "content", "match"),
    [
        ("a.json", "{", "holds no region"),
        ("a.json", "{}", "polygons_px"),
        ("a.json", '{"region": null}', "polygons_px"),
        ("a.json", "[[[1, 2], [3, 4]]]", "three corners"),
        ("a.csv", "a,b\n1,2\n", "columns"),
        ("a.csv", "index,shape-type,vertex-index,axis-0,axis-1\n", "no polygon"),
        ("a.csv", "index,shape-type,vertex-index,axis-0,axis-1\n0,polygon,0,x,1\n", "region"),
        ("a.roi", "Iout", "csv"),
    ],
)
def test_files_that_hold_no_region(tmp_path, name, content, match):
    (tmp_path / name).write_text(content)
    with pytest.raises(PointDefectsError, match=match) as caught:
        read_region(tmp_path / name)
    assert "\n" not in str(caught.value)
    with pytest.raises(PointDefectsError, match="cannot read"):
        read_region(tmp_path / "missing.json")


# --- analyses ----------------------------------------------------------------------------------


class TrueDetector:
    """Finds every hexagon of the lattice it is given."""

    weights = SimpleNamespace(version="detector@truth")

    def predict(self, data, lattice, *, min_score, on_progress, should_stop):
        nodes = lattice_nodes(lattice, data.shape, margin=0.0)
        scores = np.full(len(nodes), 0.9)
        return Hexagons.from_canonical_boxes(hexagon_boxes(nodes), scores, lattice)


class PerfectClassifier:
    """Finds no defect."""

    weights = SimpleNamespace(version="classifier@truth")
    calibration = ProbabilityCalibration()

    def predict(self, data, lattice, cells, *, alpha, beta, on_progress, should_stop, **_):
        probabilities = np.tile([0.95] + 5 * [0.01], (len(cells), 1))
        return UnitCells(cells.chalcogen_px, cells.metal_px, cells.votes, probabilities)

    def reference(self, data, lattice, cells):
        return None


SIDE_NM = 0.352 / 18.0
RECIPE = Recipe(
    scene=SceneSettings(height_px=384, width_px=400, a_px=18.0, angle_deg=11.0),
    noise=NoiseSettings(poisson_lambda=60.0, gaussian_mu=5.0),
    seed=21,
)


@pytest.fixture(scope="module")
def field():
    """Pixels of a field of MoTe2, and the truth."""
    return simulate_recipe(RECIPE)


@pytest.fixture
def true_networks(monkeypatch):
    """Networks that are always right where nothing is missing."""
    monkeypatch.setattr(networks, "detector_of", lambda settings: TrueDetector())
    monkeypatch.setattr(networks, "classifier_of", lambda settings: PerfectClassifier())


def image_of(pixels):
    calibration = Calibration((SIDE_NM, SIDE_NM), "file")
    return StemImage(pixels.astype(np.float32), "field", calibration)


ROUND = outline("ellipse", np.array([[60.0, 80], [60, 320], [300, 320], [300, 80]]))


@pytest.mark.parametrize(
    "polygons",
    [
        [ROUND],
        [[(40, 40), (40, 360), (350, 60)]],
        [[(30, 30), (30, 150), (150, 150), (150, 30)], [(200, 200), (200, 380), (360, 300)]],
    ],
    ids=["ellipse", "triangle", "two polygons"],
)
def test_the_area_of_the_cells_is_the_area_chosen(field, true_networks, polygons):
    pixels, scene = field
    region = as_region(polygons)
    analysis = analyze(image_of(pixels), AnalysisSettings(region=region))
    # every true cell in the region is found, and no other
    middles = (scene.chalcogen_px + scene.metal_px) / 2
    deep = inside_region(middles, region)
    found = analysis.cells.centres_px
    assert inside_region(found, region).all()
    near = np.linalg.norm(middles[deep][:, None] - found[None], axis=-1).min(axis=1)
    at_edge = np.abs(len(found) - deep.sum())
    assert (near < 0.2 * 18).mean() > 0.97
    assert at_edge <= 0.03 * deep.sum()
    census = analysis.census
    # cells that the edge cuts cannot be counted by halves: the error is that of a perimeter
    assert census["area_nm2"] == pytest.approx(census["region"]["area_nm2"], rel=0.05)
    assert census["region"]["share_of_image"] == pytest.approx(
        region_area_px(region, pixels.shape) / pixels.size
    )
    assert as_region(census["region"]["polygons_px"]) == region
    assert "region" not in census["settings"]
    json.dumps(census)
    # a census names the region for another analysis
    whole = analyze(image_of(pixels), AnalysisSettings())
    assert whole.census["region"] is None
    assert len(whole.cells) > len(found)


def test_the_region_is_blind_to_what_lies_around_it(field):
    pixels, scene = field
    region = as_region([ROUND])
    noise = np.random.default_rng(1).normal(pixels.mean(), 5 * pixels.std(), pixels.shape)
    hidden = np.where(region_mask(region, pixels.shape), pixels, noise).astype(np.float32)
    seen = []

    def find(data):
        seen.append(data)
        return pipeline.find_lattice(data, MATERIALS["MoTe2"])

    lattice, warning = lattice_inside(hidden, region, find)
    assert warning is None
    assert lattice.a_px == pytest.approx(18.0, rel=2e-3)
    assert seen[0].shape[0] < 260
    assert np.isnan(seen[0][0, 0])
    # and in pixels of the whole image: cells fall on true ones
    nodes = lattice_nodes(lattice, pixels.shape, margin=0.0)
    hexagons = Hexagons.from_canonical_boxes(hexagon_boxes(nodes), np.ones(len(nodes)), lattice)
    cells = cast_net(hexagons_within(hexagons, region), lattice, pixels.shape)
    middles = (scene.chalcogen_px + scene.metal_px) / 2
    distance = np.linalg.norm(cells.centres_px[:, None] - middles[None], axis=-1).min(axis=1)
    assert np.percentile(distance, 95) < 0.1 * 18


@pytest.mark.parametrize("side", [20, 35, 70])
def test_a_small_region_takes_the_lattice_around_it(field, true_networks, side):
    pixels, _ = field
    low, high = 180.0, 180.0 + side
    small = as_region([[(low, low), (low, high), (high, high), (high, low)]])
    analysis = analyze(image_of(pixels), AnalysisSettings(region=small))
    cell_area = 18.0**2 * np.sqrt(3) / 2
    assert len(analysis.cells) == pytest.approx(side**2 / cell_area, abs=2 + side / 18)
    lattice = analysis.detection.lattice
    assert lattice.a_px == pytest.approx(18.0, rel=2e-3)
    assert abs(lattice.stretch) < 0.005
    assert abs(lattice.shear) < 0.005


def test_a_small_grain_keeps_its_own_lattice(field):
    pixels, _ = field
    other, _ = simulate_recipe(
        RECIPE.model_copy(update={"scene": RECIPE.scene.model_copy(update={"angle_deg": -17.0})})
    )
    side = slice(100, 230)
    pixels = pixels.astype(np.float32)
    pixels[side, side] = other[side, side]
    grain = as_region([[(100, 100), (100, 229), (229, 229), (229, 100)]])
    found, warning = lattice_inside(
        pixels, grain, lambda data: pipeline.find_lattice(data, MATERIALS["MoTe2"])
    )
    assert warning is None
    turned = (found.angle_deg + 17.0 + 60) % 120 - 60  # of the equivalent angles, one is nearest
    assert abs(turned) < 1
    assert found.a_px == pytest.approx(18.0, rel=0.02)


def test_regions_without_cells(field, true_networks):
    pixels, _ = field
    outside = as_region([[(500, 500), (500, 600), (600, 600)]])
    with pytest.raises(PointDefectsError, match=r"outside the image.*384 × 400"):
        analyze(image_of(pixels), AnalysisSettings(region=outside))
    speck = as_region([[(200, 200), (200, 200.5), (200.5, 200.5)]])
    with pytest.raises(PointDefectsError, match="cell"):
        analyze(image_of(pixels), AnalysisSettings(region=speck))


def test_hexagons_drawn_outside_bring_no_cells(field, true_networks):
    pixels, _ = field
    image, region = image_of(pixels), as_region([ROUND])
    settings = AnalysisSettings(region=region)
    analysis = analyze(image, settings)
    every = pipeline.detect(image, AnalysisSettings()).hexagons
    change = pipeline.reclassify(image, analysis.detection, analysis.cells, [every], settings)[0]
    assert inside_region(change.cells.centres_px, region).all()
    assert len(change.cells) == len(change.successor_of)


def test_the_command_line_takes_a_region(field, true_networks, tmp_path, monkeypatch, capsys):
    pixels, _ = field
    image, region_file = tmp_path / "field.npy", tmp_path / "region.json"
    np.save(image, pixels)
    region_file.write_text(json.dumps({"polygons_px": [ROUND.tolist()]}))

    def run(*arguments):
        monkeypatch.setattr("sys.argv", ["point-defects", "analyze", str(image), *arguments])
        try:
            cli.main()
        except SystemExit as ended:
            return ended.code or 0
        return 0

    assert run("-o", str(tmp_path / "a"), "--region", str(region_file)) == 0
    census = json.loads((tmp_path / "a" / "field_census.json").read_text(encoding="utf-8"))
    assert census["area_nm2"] == pytest.approx(census["region"]["area_nm2"], rel=0.05)
    cells = pd.read_csv(tmp_path / "a" / "field_cells.csv")
    middles = (cells[["chalcogen_y", "chalcogen_x"]].to_numpy() + cells[["metal_y", "metal_x"]]) / 2
    assert inside_region(middles.to_numpy(), as_region([ROUND])).all()
    assert len(cells) == census["n_cells"]
    # a census names the region of another analysis
    again = str(tmp_path / "a" / "field_census.json")
    assert run("-o", str(tmp_path / "b"), "--region", again) == 0
    assert (tmp_path / "b" / "field_cells.csv").read_bytes() == (
        tmp_path / "a" / "field_cells.csv"
    ).read_bytes()
    capsys.readouterr()
    region_file.write_text("[[[1, 2]]]")
    assert run("-o", str(tmp_path / "c"), "--region", str(region_file)) == 2
    error = capsys.readouterr().err
    assert "region.json holds no region: polygon 0 has no area" in error
    assert error.count("\n") == 1
    assert not (tmp_path / "c").exists()
