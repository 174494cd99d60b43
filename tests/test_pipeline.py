"""From image to census: the contract with known answers, and the shipped weights on a field."""

import json
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from pydantic import ValidationError
from scipy.spatial import cKDTree
from skimage.io import imread

from napari_point_defects import __version__, networks, results
from napari_point_defects.analysis_settings import AnalysisSettings
from napari_point_defects.classification.calibration import ProbabilityCalibration
from napari_point_defects.errors import PointDefectsError, Stopped
from napari_point_defects.materials import MATERIALS
from napari_point_defects.pipeline import analyze
from napari_point_defects.records import Calibration, Hexagons, StemImage, UnitCells, hexagon_boxes
from napari_point_defects.results import output_paths, write_results
from napari_point_defects.simulation.noise import NoiseSettings
from napari_point_defects.simulation.recipes import Recipe, simulate_recipe, write_recipe
from napari_point_defects.simulation.scenes import SceneSettings, lattice_nodes

MOTE2 = MATERIALS["MoTe2"]


class TrueDetector:
    """Finds every hexagon of the lattice it is given."""

    weights = SimpleNamespace(version="detector@truth")

    def predict(self, data, lattice, *, min_score, on_progress, should_stop):
        if should_stop():
            raise Stopped
        nodes = lattice_nodes(lattice, data.shape, margin=0.0)
        on_progress(1.0, "all tiles")
        scores = np.full(len(nodes), 0.9)
        if min_score > 0.9:
            nodes, scores = nodes[:0], scores[:0]
        return Hexagons.from_canonical_boxes(hexagon_boxes(nodes), scores, lattice)


class TrueClassifier:
    """Looks each cell's class up in a scene."""

    weights = SimpleNamespace(version="classifier@truth")
    calibration = ProbabilityCalibration()

    def __init__(self, scene):
        self.scene = scene

    def predict(self, data, lattice, cells, *, alpha, beta, on_progress, should_stop):
        if should_stop():
            raise Stopped
        distance, index = cKDTree(self.scene.chalcogen_px).query(cells.chalcogen_px)
        classes = np.where(distance < 0.3 * lattice.a_px, self.scene.classes[index], 0)
        probabilities = np.full((len(cells), 6), 0.01)
        probabilities[np.arange(len(cells)), classes] = 0.95
        on_progress(1.0, "all cells")
        return UnitCells(cells.chalcogen_px, cells.metal_px, cells.votes, probabilities)


RECIPE = Recipe(
    scene=SceneSettings(
        height_px=256,
        width_px=288,
        a_px=18.0,
        angle_deg=11.0,
        defect_rates=(0.08, 0.04, 0.03, 0.02, 0.02),
    ),
    noise=NoiseSettings(poisson_lambda=60.0, gaussian_mu=5.0),
    seed=8,
)


@pytest.fixture(scope="module")
def field():
    """Pixels and truth of a small bright field."""
    return simulate_recipe(RECIPE)


@pytest.fixture
def true_networks(monkeypatch, field):
    """Networks that are always right."""
    _, scene = field
    monkeypatch.setattr(networks, "detector_of", lambda settings: TrueDetector())
    monkeypatch.setattr(networks, "classifier_of", lambda settings: TrueClassifier(scene))


def image_of(pixels, **calibration):
    return StemImage(pixels.astype(np.float32), "field", Calibration(**calibration), signal="HAADF")


def test_settings_have_bounds_and_defaults():
    settings = AnalysisSettings()
    assert (settings.alpha, settings.beta, settings.material) == (0.65, 0.5, "MoTe2")
    for wrong in (
        {"pixel_size_nm": 0},
        {"pixel_size_nm": -0.01},
        {"pixel_size_nm": float("nan")},
        {"pixel_size_nm": float("inf")},
        {"alpha": 0},
        {"beta": 1.2},
        {"min_score": -0.1},
        {"sublattice_rank": 6},
        {"speed": 1},
    ):
        with pytest.raises(ValidationError):
            AnalysisSettings(**wrong)
    # panels and the command line are made from these
    for name, info in AnalysisSettings.model_fields.items():
        assert info.title or name == "device", name
        assert info.description, name


def test_census_of_a_known_field(field, true_networks):
    pixels, scene = field
    analysis = analyze(image_of(pixels), AnalysisSettings())
    cells, truth = analysis.cells, scene.chalcogen_px
    # every true cell away from the edges is found once, at its columns
    inner = np.all((truth > 18) & (truth < np.array(pixels.shape) - 19), axis=1)
    distance, index = cKDTree(cells.chalcogen_px).query(truth[inner])
    assert distance.max() < 0.08 * 18
    assert len(np.unique(index)) == inner.sum() > 150
    assert np.array_equal(cells.classes[index], scene.classes[inner])
    census = analysis.census
    counts = [census["classes"][label]["count"] for label in MOTE2.class_labels]
    assert counts == np.bincount(cells.classes, minlength=6).tolist()
    assert census["n_cells"] == len(cells) == sum(counts)
    # the pixel size comes from the lattice: each cell has the material's cell area
    assert census["pixel_size_source"] == "lattice"
    assert census["area_nm2"] == pytest.approx(len(cells) * MOTE2.cell_area_nm2)
    assert census["lattice"]["a_px"] == pytest.approx(18, rel=0.005)
    assert census["lattice"]["angle_deg"] == pytest.approx(11, abs=0.3)


def test_census_records_what_it_was_made_with(field, true_networks):
    pixels, _ = field
    settings = AnalysisSettings(min_score=0.4)
    census = analyze(image_of(pixels), settings).census
    assert census["weights"] == {"detector": "detector@truth", "classifier": "classifier@truth"}
    assert census["versions"]["napari-point-defects"] == __version__
    assert census["settings"]["min_score"] == 0.4
    assert (census["settings"]["image"], census["settings"]["signal"]) == ("field", "HAADF")


def test_calibration_of_the_file_is_kept_where_it_fits(field, true_networks):
    pixels, _ = field
    size = MOTE2.lattice_constant_nm / 18
    fits = analyze(
        image_of(pixels, pixel_size_nm=(1.01 * size,) * 2, source="file"), AnalysisSettings()
    )
    assert fits.census["pixel_size_source"] == "file"
    assert fits.detection.warnings == ()
    wrong = analyze(
        image_of(pixels, pixel_size_nm=(1.2 * size,) * 2, source="file"), AnalysisSettings()
    )
    assert wrong.census["pixel_size_source"] == "lattice"
    assert wrong.census["pixel_size_nm"] == pytest.approx([size, size], rel=0.01)
    assert len(wrong.census["warnings"]) == 1
    trusted = analyze(
        image_of(pixels, pixel_size_nm=(1.2 * size,) * 2, source="file"),
        AnalysisSettings(trust_pixel_size=True),
    )
    assert trusted.census["pixel_size_nm"] == pytest.approx([1.2 * size] * 2)


@pytest.mark.parametrize("stretch", [0.2, -0.15])
def test_pixels_that_are_not_square(true_networks, monkeypatch, stretch, tmp_path):
    scene_settings = RECIPE.scene.model_copy(update={"stretch": stretch})
    pixels, scene = simulate_recipe(RECIPE.model_copy(update={"scene": scene_settings}))
    monkeypatch.setattr(networks, "classifier_of", lambda settings: TrueClassifier(scene))
    side, root = MOTE2.lattice_constant_nm / 18, np.sqrt(1 + stretch)
    size = (side * root, side / root)  # wider columns: narrower pixels
    told = analyze(image_of(pixels, pixel_size_nm=size, source="file"), AnalysisSettings())
    assert (told.detection.pixel_size_nm, told.detection.pixel_size_source) == (size, "file")
    # the file's pixels explain the lattice, and the networks have seen as much
    assert not told.detection.warnings
    # the area of a pixel is its height times its width
    assert told.census["area_nm2"] == pytest.approx(len(told.cells) * MOTE2.cell_area_nm2, rel=0.01)
    # without a calibration the area is the same, and the stretch is left to drift
    untold = analyze(image_of(pixels), AnalysisSettings())
    assert untold.census["area_nm2"] == pytest.approx(told.census["area_nm2"], rel=0.01)
    # a file whose size is wrong and whose shape is right keeps its shape
    wrong = tuple(1.4 * s for s in size)
    mended = analyze(image_of(pixels, pixel_size_nm=wrong, source="file"), AnalysisSettings())
    assert mended.detection.pixel_size_nm == pytest.approx(size, rel=0.01)
    assert mended.detection.pixel_size_source == "lattice"
    write_results(told, tmp_path)
    assert (tmp_path / "field_overlay.png").exists()


@pytest.mark.parametrize("change", ["partly NaN", "negative", "float64", "int64", "big-endian"])
def test_unusual_numbers_give_the_same_cells(field, true_networks, change):
    pixels, _ = field
    plain = analyze(image_of(pixels), AnalysisSettings())
    data = pixels.astype(np.float64)
    if change == "partly NaN":
        data[100:110, 120:140] = np.nan
    elif change == "negative":
        data = data - 300
    elif change == "int64":
        data = data.astype(np.int64)
    elif change == "big-endian":
        data = data.astype(">f4")
    image = StemImage(data, "field")
    other = analyze(image, AnalysisSettings())
    # a cell at the very edge may come or go with a hundredth of a pixel
    distance = cKDTree(other.cells.chalcogen_px).query(plain.cells.chalcogen_px)[0]
    assert (distance < 0.5).sum() >= len(plain.cells) - 3
    assert other.census["n_cells"] == pytest.approx(plain.census["n_cells"], abs=3)


def test_progress_rises_from_nothing_to_all(field, true_networks):
    pixels, _ = field
    shares = []
    settings = AnalysisSettings()
    analyze(image_of(pixels), settings, on_progress=lambda share, text: shares.append(share))
    assert shares == sorted(shares)
    assert shares[0] == 0
    assert shares[-1] == 1


@pytest.mark.parametrize("calls", [0, 1])
def test_wish_to_stop_is_heard_in_both_jobs(field, true_networks, calls):
    pixels, _ = field
    asked = []

    def should_stop():
        asked.append(None)
        return len(asked) > calls

    with pytest.raises(Stopped):
        analyze(image_of(pixels), AnalysisSettings(), should_stop=should_stop)
    assert len(asked) == calls + 1


def test_no_hexagon_is_said_in_one_line(field, true_networks):
    pixels, _ = field
    with pytest.raises(PointDefectsError, match="--min-score") as caught:
        analyze(image_of(pixels), AnalysisSettings(min_score=1.0))
    assert "\n" not in str(caught.value)


def test_no_lattice_is_said_in_one_line(true_networks):
    noise = np.random.default_rng(0).normal(size=(256, 256))
    with pytest.raises(PointDefectsError, match="lattice") as caught:
        analyze(image_of(noise), AnalysisSettings())
    assert "\n" not in str(caught.value)


def test_results_are_the_three_files_of_the_contract(field, true_networks, tmp_path):
    pixels, _ = field
    analysis = analyze(image_of(pixels), AnalysisSettings())
    paths = write_results(analysis, tmp_path / "new")
    assert paths == output_paths("field", tmp_path / "new")
    assert sorted(p.name for p in (tmp_path / "new").iterdir()) == [
        "field_cells.csv",
        "field_census.json",
        "field_overlay.png",
    ]
    table = pd.read_csv(paths["cells"])
    assert len(table) == len(analysis.cells)
    assert table["cell_id"].tolist() == list(range(len(table)))
    assert table[["metal_y", "metal_x"]].to_numpy() == pytest.approx(
        analysis.cells.metal_px, abs=1e-3
    )
    census = json.loads(paths["census"].read_text())
    assert census["classes"]["V_Mo"]["count"] == (table["label"] == "V_Mo").sum()
    overlay = imread(paths["overlay"])
    assert overlay.ndim == 3
    assert min(overlay.shape[:2]) > 800


def test_results_are_not_overwritten_unasked(field, true_networks, tmp_path):
    pixels, _ = field
    analysis = analyze(image_of(pixels), AnalysisSettings())
    (tmp_path / "field_overlay.png").write_text("mine")
    with pytest.raises(PointDefectsError, match="--overwrite"):
        write_results(analysis, tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["field_overlay.png"]
    write_results(analysis, tmp_path, overwrite=True)
    assert len(list(tmp_path.iterdir())) == 3


def test_results_are_written_all_or_none(field, true_networks, tmp_path, monkeypatch):
    pixels, _ = field
    analysis = analyze(image_of(pixels), AnalysisSettings())

    def fail(*args, **options):
        raise PointDefectsError("the disk is full")

    monkeypatch.setattr(results, "write_overlay", fail)
    with pytest.raises(PointDefectsError, match="full"):
        write_results(analysis, tmp_path)
    assert list(tmp_path.iterdir()) == []


# --- the shipped weights ---------------------------------------------------------------------

FIELDS = {
    "MoTe2": Recipe(
        scene=SceneSettings(
            a_px=24.0,
            angle_deg=23.0,
            shear=0.05,
            stretch=-0.04,
            drift_a=0.1,
            jitter_a=0.01,
            contamination=0.1,
            defect_rates=(0.05, 0.02, 0.02, 0.01, 0.01),
        ),
        noise=NoiseSettings(poisson_lambda=12.0, gaussian_mu=20.0),
        seed=424242,
    ),
    "MoS2": Recipe(
        scene=SceneSettings(
            material="MoS2",
            a_px=30.0,
            angle_deg=-41.0,
            jitter_a=0.01,
            defect_rates=(0.05, 0.02, 0.02, 0.01, 0.01),
        ),
        noise=NoiseSettings(poisson_lambda=20.0, gaussian_mu=5.0, bits=16),
        seed=434343,
    ),
}


@pytest.mark.parametrize("material", FIELDS)
def test_shipped_weights_on_a_field_never_seen(material, tmp_path, monkeypatch, capsys):
    from napari_point_defects.cli import main

    image_path, truth_path = write_recipe(FIELDS[material], "field", tmp_path)
    out = tmp_path / "out"
    command = ["point-defects", "analyze", str(image_path), "--material", material, "-o", str(out)]
    monkeypatch.setattr("sys.argv", command)
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 0
    assert f"unit cells of {material}" in capsys.readouterr().out

    truth, found = pd.read_csv(truth_path), pd.read_csv(out / "field_cells.csv")
    a_px = FIELDS[material].scene.a_px

    def middles(table):
        chalcogen = table[["chalcogen_y", "chalcogen_x"]].to_numpy()
        return (chalcogen + table[["metal_y", "metal_x"]].to_numpy()) / 2

    # within ±60° the found lattice pairs the columns into the same bonds as the scene
    inner = np.all((middles(truth) > a_px) & (middles(truth) < 511 - a_px), axis=1)
    truth = truth[inner]
    assert len(truth) > 250
    assert truth["label"].nunique() == 6
    distance, index = cKDTree(middles(found)).query(middles(truth))
    hit = distance < 0.2 * a_px
    assert hit.mean() >= 0.99
    assert len(np.unique(index[hit])) == hit.sum()
    right = found["label"].to_numpy()[index[hit]] == truth["label"].to_numpy()[hit]
    assert right.mean() >= 0.98
    # no cell twice, none invented between the columns
    distance = cKDTree(middles(found)).query(middles(found), k=2)[0][:, 1]
    assert distance.min() > 0.6 * a_px


def test_contract_of_the_shipped_weights(tmp_path):
    pixels, scene = simulate_recipe(FIELDS["MoTe2"])
    analysis = analyze(image_of(pixels[:256, :256]), AnalysisSettings(device="cpu"))
    paths = write_results(analysis, tmp_path)
    table = pd.read_csv(paths["cells"])
    labels = list(MOTE2.class_labels)
    required = ["cell_id", "chalcogen_y", "chalcogen_x", "metal_y", "metal_x", "label"]
    required += ["confidence", "votes", *(f"p_{label}" for label in labels)]
    assert set(required) <= set(table.columns)
    assert set(table["label"]) <= set(labels)
    assert set(table["votes"]) <= {1, 2}
    probabilities = table[[f"p_{label}" for label in labels]].to_numpy()
    assert probabilities.sum(axis=1) == pytest.approx(1, abs=1e-5)
    assert np.array_equal(np.array(labels)[probabilities.argmax(axis=1)], table["label"])
    assert table["confidence"].to_numpy() == pytest.approx(probabilities.max(axis=1), abs=1e-6)
    columns = table[["chalcogen_y", "chalcogen_x", "metal_y", "metal_x"]].to_numpy()
    assert columns.min() >= 0
    assert columns.max() <= 255
    census = json.loads(paths["census"].read_text())
    required = {"material", "pixel_size_nm", "pixel_size_source", "lattice", "area_nm2"}
    required |= {"classes", "weights", "versions", "settings"}
    assert required <= census.keys()
    assert {"a_px", "a_nm", "angle_deg", "shear"} <= census["lattice"].keys()
    assert list(census["classes"]) == labels
    for label, row in census["classes"].items():
        assert row["count"] == (table["label"] == label).sum()
        assert row["density_per_nm2"] == pytest.approx(row["count"] / census["area_nm2"])
        assert row["density_per_cm2"] == pytest.approx(1e14 * row["density_per_nm2"])
        low, high = row["density_per_cm2_interval95"]
        assert low <= row["density_per_cm2"] <= high
        low, high = row["estimate"]["density_per_cm2_interval95"]
        assert low <= row["estimate"]["density_per_cm2"] <= high
    assert census["weights"]["detector"].startswith("detector-compact@")
    assert census["weights"]["classifier"].startswith("classifier-compact@")
    assert len(scene.classes) > len(table)
