"""The command line: every user's mistake is one line on standard error and exit code 2."""

import json
import os
import re

import numpy as np
import pandas as pd
import pytest
import tifffile
import torch
from skimage.io import imsave

from napari_point_defects import __version__, cli, networks
from napari_point_defects.classification.calibration import ProbabilityCalibration
from napari_point_defects.classification.model import CLASSIFIER_PRESETS, build_classifier
from napari_point_defects.detection.model import DETECTOR_PRESETS, build_detector
from napari_point_defects.io import sample_path
from napari_point_defects.records import Hexagons, UnitCells, hexagon_boxes
from napari_point_defects.simulation import sets
from napari_point_defects.simulation.noise import NoiseSettings
from napari_point_defects.simulation.presets import TrainingSetSettings
from napari_point_defects.simulation.recipes import Recipe, simulate_recipe
from napari_point_defects.simulation.scenes import SceneSettings, lattice_nodes
from napari_point_defects.simulation.sets import SPLITS
from napari_point_defects.training_set import TrainingSet
from napari_point_defects.weights import load_weights, save_weights


class Result:
    """What a command left behind."""

    def __init__(self, code, out, err):
        self.code, self.out, self.err = code, out, err


@pytest.fixture
def run(monkeypatch, capfd):
    """Run the program in this process, as its entry point does."""

    def command(*arguments):
        monkeypatch.setattr("sys.argv", ["point-defects", *map(str, arguments)])
        code = 0
        try:
            cli.main()
        except SystemExit as ended:
            code = ended.code or 0
        return Result(code, *capfd.readouterr())

    return command


@pytest.fixture
def refused(run):
    """Run a command that must fail with exit code 2 and one line that matches."""

    def command(match, *arguments):
        result = run(*arguments)
        assert result.code == 2
        assert result.err.count("\n") == 1, result.err
        assert result.err.startswith("point-defects: ")
        assert re.search(match, result.err), result.err
        assert result.out == ""
        return result

    return command


def files_in(folder):
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file())


@pytest.fixture(scope="module")
def pixels():
    """A bright field of 192 x 192 px."""
    recipe = Recipe(
        scene=SceneSettings(height_px=192, width_px=192, a_px=16.0, angle_deg=8.0),
        noise=NoiseSettings(poisson_lambda=80.0, gaussian_mu=3.0),
        seed=3,
    )
    return simulate_recipe(recipe)[0]


@pytest.fixture
def image(pixels, tmp_path):
    """The field as a file without calibration."""
    path = tmp_path / "field.npy"
    np.save(path, pixels)
    return path


class Oracle:
    """Both networks in one: all hexagons there are, every cell perfect."""

    calibration = ProbabilityCalibration()

    def __init__(self):
        self.weights = load_weights("detector")

    def predict(self, data, lattice, *cells, on_progress, **options):
        on_progress(1.0, "done")
        if not cells:
            nodes = lattice_nodes(lattice, data.shape, margin=0.0)
            return Hexagons.from_canonical_boxes(hexagon_boxes(nodes), np.ones(len(nodes)), lattice)
        probabilities = np.eye(6)[np.zeros(len(cells[0]), int)]
        found = cells[0]
        return UnitCells(found.chalcogen_px, found.metal_px, found.votes, probabilities)


@pytest.fixture
def oracle(monkeypatch):
    """The program around the networks, without them."""
    oracle = Oracle()
    monkeypatch.setattr(networks, "detector_of", lambda settings: oracle)
    monkeypatch.setattr(networks, "classifier_of", lambda settings: oracle)
    return oracle


@pytest.fixture(scope="module")
def untrained(tmp_path_factory):
    """Weights of both networks that have learnt nothing."""
    folder = tmp_path_factory.mktemp("untrained")
    torch.manual_seed(0)
    for kind, preset, build in (
        ("detector", DETECTOR_PRESETS["compact"], build_detector),
        ("classifier", CLASSIFIER_PRESETS["compact"], build_classifier),
    ):
        save_weights(
            folder / f"{kind}.safetensors",
            build(preset).state_dict(),
            kind=kind,
            settings=preset.model_dump(mode="json"),
            training_set={},
            metrics={"temperature": 1.0},
        )
    return folder


# --- analyze ---------------------------------------------------------------------------------


def test_version(run):
    result = run("--version")
    assert (result.code, result.out) == (0, f"point-defects {__version__}\n")


def test_analyze_writes_a_report_that_links_its_results(run, refused, oracle, image, tmp_path):
    out, page = tmp_path / "out", tmp_path / "pages" / "field.html"
    result = run("analyze", image, "-o", out, "--report", page)
    assert result.code == 0
    assert str(page) in result.out.replace("\n", "")
    text = page.read_text(encoding="utf-8")
    assert 'href="../out/field_cells.csv"' in text
    assert 'src="data:image/jpeg;base64,' in text
    assert files_in(page.parent) == ["field.html", "field_columns.csv"]
    # the page is refused before anything is done
    other = tmp_path / "other"
    refused("field.html exists", "analyze", image, "-o", other, "--report", page)
    refused("ends in .html", "analyze", image, "-o", other, "--report", tmp_path / "a.pdf")
    refused("one image", "analyze", image, "second.npy", "-o", other, "--report", page)
    assert not other.exists() or files_in(other) == []


def test_analyze_writes_its_three_files_and_prints_the_census(run, oracle, image, tmp_path):
    out = tmp_path / "out"
    result = run("analyze", image, "-o", out, "--material", "mote2")
    assert result.code == 0, result.err
    assert result.err == ""
    assert files_in(out) == ["field_cells.csv", "field_census.json", "field_overlay.png"]
    cells = pd.read_csv(out / "field_cells.csv")
    assert f"{len(cells)} unit cells of MoTe2" in result.out
    assert json.loads((out / "field_census.json").read_text())["n_cells"] == len(cells) > 80


def test_pixel_size_given_is_used_and_doubted(run, oracle, image, tmp_path):
    result = run("analyze", image, "-o", tmp_path / "out", "--pixel-size-nm", "0.03")
    assert result.code == 0, result.err
    assert result.err.count("\n") == 1
    assert "warning" in result.err
    census = json.loads((tmp_path / "out" / "field_census.json").read_text())
    assert census["pixel_size_nm"] == [0.03, 0.03]
    assert census["pixel_size_source"] == "user"


def write_bad(kind, folder, pixels):
    """Write one of the issue's bad inputs and return its path."""
    path = folder / "bad.npy"
    arrays = {
        "constant": np.full((128, 128), 7.0),
        "all NaN": np.full((128, 128), np.nan),
        "tiny": np.arange(256.0).reshape(16, 16),
        "one line": np.arange(300.0).reshape(1, 300),
        "noise": np.random.default_rng(0).normal(size=(200, 200)),
        "stack": np.random.default_rng(0).normal(size=(5, 128, 128)),
        "complex": np.ones((128, 128)) * (1 + 2j),
    }
    if kind in arrays:
        np.save(path, arrays[kind])
    elif kind == "missing":
        pass
    elif kind == "truncated":
        path = folder / "bad.tif"
        tifffile.imwrite(path, pixels)
        path.write_bytes(path.read_bytes()[: pixels.size // 2])
    elif kind == "corrupt":
        path = folder / "bad.tif"
        path.write_bytes(np.random.default_rng(1).bytes(5000))
    elif kind == "empty":
        path.write_bytes(b"")
    elif kind == "text named dm3":
        path = folder / "bad.dm3"
        path.write_text("This is no image.\n" * 50)
    elif kind == "colour":
        path = folder / "bad.png"
        imsave(path, np.random.default_rng(2).integers(0, 255, (128, 128, 3)).astype(np.uint8))
    elif kind == "unknown type":
        path = folder / "bad.docx"
        path.write_text("?")
    elif kind == "a folder":
        path = folder / "bad.tif"
        path.mkdir()
    return path


@pytest.mark.parametrize(
    ("kind", "match"),
    [
        ("missing", "does not exist"),
        ("truncated", "bad.tif"),
        ("corrupt", "bad.tif"),
        ("empty", "is empty"),
        ("text named dm3", "bad.dm3"),
        ("unknown type", "cannot be read; use one of"),
        ("a folder", "not a file"),
        ("colour", "colour"),
        ("constant", "same value everywhere"),
        ("all NaN", "no finite values"),
        ("tiny", "16 × 16"),
        ("one line", "bad.npy"),
        ("stack", "one frame"),
        ("complex", "bad.npy"),
        ("noise", "lattice"),
    ],
)
def test_bad_images(refused, oracle, pixels, tmp_path, kind, match):
    path = write_bad(kind, tmp_path, pixels)
    before = files_in(tmp_path)
    refused(match, "analyze", path, "-o", tmp_path / "out")
    assert files_in(tmp_path) == before


@pytest.mark.parametrize("change", ["partly NaN", "negative", "64-bit"])
def test_images_that_only_look_bad(run, oracle, pixels, tmp_path, change):
    data = pixels.astype(np.float64)
    if change == "partly NaN":
        data[:20] = np.nan
    elif change == "negative":
        data -= 1000
    else:
        data = data.astype(np.int64) * 2**40
    np.save(tmp_path / "odd.npy", data)
    result = run("analyze", tmp_path / "odd.npy", "-o", tmp_path / "out")
    assert result.code == 0, result.err
    assert len(files_in(tmp_path / "out")) == 3


@pytest.mark.parametrize(
    ("options", "match"),
    [
        (["--material", "graphene"], "unknown material 'graphene': choose one of MoTe2"),
        (["--pixel-size-nm", "0"], "--pixel-size-nm"),
        (["--pixel-size-nm", "-0.02"], "--pixel-size-nm"),
        (["--pixel-size-nm", "nan"], "--pixel-size-nm"),
        (["--alpha", "0"], "--alpha"),
        (["--beta", "7"], "--beta"),
        (["--min-score", "2"], "--min-score"),
        (["--sublattice-rank", "6"], "--sublattice-rank"),
        (["--signal", "EDS"], "no signal 'EDS'"),
    ],
)
def test_bad_options(refused, oracle, image, tmp_path, options, match):
    refused(match, "analyze", image, "-o", tmp_path / "out", *options)
    assert files_in(tmp_path) == ["field.npy"]


def test_unknown_device(refused, image, tmp_path):
    options = ["-o", tmp_path / "out", "--device", "tpu"]
    refused("unknown device 'tpu': choose auto, cpu or cuda", "analyze", image, *options)
    assert files_in(tmp_path) == ["field.npy"]


def test_output_folder_that_cannot_be(refused, oracle, image, tmp_path):
    (tmp_path / "taken").write_text("a file")
    refused("taken", "analyze", image, "-o", tmp_path / "taken")
    refused("taken", "analyze", image, "-o", tmp_path / "taken" / "below")
    assert files_in(tmp_path) == ["field.npy", "taken"]


def test_output_folder_that_the_system_says_is_locked(
    refused, oracle, image, tmp_path, monkeypatch
):
    monkeypatch.setattr(os, "access", lambda path, mode: mode != os.W_OK)
    refused("cannot write", "analyze", image, "-o", tmp_path / "out")
    assert files_in(tmp_path) == ["field.npy"]


def test_outputs_that_exist_are_only_replaced_when_asked(run, refused, oracle, image, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    (out / "field_census.json").write_text("mine")
    refused("--overwrite", "analyze", image, "-o", out)
    assert files_in(out) == ["field_census.json"]
    assert (out / "field_census.json").read_text() == "mine"
    assert run("analyze", image, "-o", out, "--overwrite").code == 0
    assert len(files_in(out)) == 3
    assert json.loads((out / "field_census.json").read_text())["n_cells"] > 0


@pytest.mark.parametrize("kind", ["detector", "classifier"])
@pytest.mark.parametrize("how", ["hash", "missing", "other kind", "no card"])
def test_bad_weights(refused, untrained, image, tmp_path, kind, how):
    other = "classifier" if kind == "detector" else "detector"
    source = untrained / f"{other if how == 'other kind' else kind}.safetensors"
    path = tmp_path / "mine.safetensors"
    path.write_bytes(source.read_bytes() + (b"\0" if how == "hash" else b""))
    if how != "no card":
        path.with_suffix(".json").write_bytes(source.with_suffix(".json").read_bytes())
    if how == "missing":
        path.unlink()
    match = {
        "hash": "does not match the hash",
        "missing": "cannot read the weights",
        "other kind": f"holds a {other}, not a {kind}",
        "no card": "model card",
    }[how]
    before = files_in(tmp_path)
    refused(match, "analyze", image, "-o", tmp_path / "out", f"--{kind}-weights", path)
    assert files_in(tmp_path) == before


def test_networks_that_learnt_nothing_end_in_a_clear_line_or_a_census(
    run, untrained, image, tmp_path
):
    result = run(
        "analyze",
        image,
        "-o",
        tmp_path / "out",
        "--detector-weights",
        untrained / "detector.safetensors",
        "--classifier-weights",
        untrained / "classifier.safetensors",
        "--device",
        "cpu",
    )
    assert "Traceback" not in result.err
    if result.code:
        assert result.code == 2
        assert result.err.count("\n") == 1
        assert not files_in(tmp_path / "out")
    else:
        assert len(files_in(tmp_path / "out")) == 3


def test_one_bad_image_never_stops_the_rest(run, oracle, image, tmp_path):
    bad = tmp_path / "bad.npy"
    np.save(bad, np.ones((100, 100)))
    good = tmp_path / "second.npy"
    np.save(good, np.load(image))
    result = run("analyze", image, bad, good, "-o", tmp_path / "out")
    assert result.code == 2
    lines = result.err.splitlines()
    assert "same value everywhere" in lines[0]
    assert lines[-1] == "point-defects: 1 of 3 images failed: bad.npy"
    names = {name.split("_")[0] for name in files_in(tmp_path / "out")}
    assert names == {"field", "second"}


def test_images_of_one_name_would_overwrite_each_other(refused, oracle, image, tmp_path):
    (tmp_path / "other").mkdir()
    twin = tmp_path / "other" / "field.tif"
    tifffile.imwrite(twin, np.load(image))
    refused("two images are called 'field'", "analyze", image, twin, "-o", tmp_path / "out")
    assert not files_in(tmp_path / "out") if (tmp_path / "out").exists() else True


# --- demo ------------------------------------------------------------------------------------


def test_demo(run, refused, oracle, tmp_path):
    out = tmp_path / "demo"
    result = run("demo", "--no-gui", "-o", out)
    assert result.code == 0, result.err
    assert "unit cells of MoTe2" in result.out
    assert files_in(out) == [
        "MoTe2_pristine_cells.csv",
        "MoTe2_pristine_census.json",
        "MoTe2_pristine_overlay.png",
    ]
    cells = pd.read_csv(out / "MoTe2_pristine_cells.csv")
    truth = pd.read_csv(sample_path("MoTe2_pristine_truth.csv"))
    assert len(cells) == pytest.approx(len(truth), rel=0.03)
    refused("--overwrite", "demo", "--no-gui", "-o", out)


# --- simulate --------------------------------------------------------------------------------


@pytest.fixture
def small(tmp_path):
    """Settings of a set that is quickly made."""
    path = tmp_path / "small.json"
    path.write_text(json.dumps({"side_a": 6.0, "a_px": [10.0, 12.0], "column_counts": [5e3, 5e3]}))
    return path


def test_simulate(run, small, tmp_path):
    out = tmp_path / "set"
    result = run(
        "simulate", "-o", out, "--settings", small, "--images", 2, "--validation-images", 1,
        "--seed", 9, "--material", "WS2", "--material", "mose2", "--workers", 1,
    )  # fmt: skip
    assert result.code == 0, result.err
    record = json.loads((out / "settings.json").read_text())
    assert record["materials"] == ["WS2", "MoSe2"]
    assert (record["train_images"], record["validation_images"], record["seed"]) == (2, 1, 9)
    assert (record["side_a"], record["preset"]) == (6.0, "wide")
    assert len(TrainingSet(out / "train")) == 2
    assert len(TrainingSet(out / "validation")) == 1


def test_recorded_settings_make_the_same_set_again(run, small, tmp_path):
    options = ["--images", 1, "--validation-images", 1, "--workers", 1]
    assert run("simulate", "-o", tmp_path / "a", "--settings", small, *options).code == 0
    record = tmp_path / "a" / "settings.json"
    assert run("simulate", "-o", tmp_path / "b", "--settings", record, "--workers", 1).code == 0
    names = files_in(tmp_path / "a")
    assert names == files_in(tmp_path / "b")
    for name in names:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


@pytest.mark.parametrize(
    ("options", "match"),
    [
        (["--preset", "huge"], "unknown preset 'huge': choose one of wide, paper-cnn1"),
        (["--material", "graphene"], "unknown material"),
        (["--images", "0"], "--train-images 0"),
        (["--validation-images", "-1"], "--validation-images -1"),
        (["--seed", "-3"], "--seed -3"),
    ],
)
def test_simulate_refuses_bad_options(refused, tmp_path, options, match):
    refused(match, "simulate", "-o", tmp_path / "set", *options)
    assert not (tmp_path / "set").exists()


@pytest.mark.parametrize(
    ("content", "match"),
    [
        ("{", "cannot read settings"),
        ("[1, 2]", "must be a JSON object"),
        ('{"speed": 3}', "--speed"),
        ('{"materials": ["graphene"]}', "unknown material"),
        ('{"a_px": [0, 10]}', "a.px"),
        ('{"bits": [12]}', "bits"),
    ],
)
def test_simulate_refuses_bad_settings(refused, tmp_path, content, match):
    path = tmp_path / "mine.json"
    path.write_text(content)
    options = ["--settings", path, "--images", 1, "--validation-images", 0, "--workers", 1]
    refused(match, "simulate", "-o", tmp_path / "set", *options)
    assert files_in(tmp_path) == ["mine.json"]


def test_simulate_refuses_folders_that_cannot_be(run, refused, small, tmp_path):
    (tmp_path / "taken").write_text("a file")
    options = ["--settings", small, "--images", 1, "--validation-images", 0, "--workers", 1]
    refused("cannot write", "simulate", "-o", tmp_path / "taken", *options)
    assert run("simulate", "-o", tmp_path / "set", *options).code == 0
    before = files_in(tmp_path)
    refused("holds a training set already", "simulate", "-o", tmp_path / "set", *options)
    assert files_in(tmp_path) == before


def test_simulate_takes_and_writes_toml(run, refused, tmp_path):
    mine = tmp_path / "mine.toml"
    options = ["--preset", "paper-cnn1", "--material", "ws2", "--seed", 5]
    assert run("simulate", "--save-settings", mine, *options).code == 0
    assert files_in(tmp_path) == ["mine.toml"]
    refused("exists", "simulate", "--save-settings", mine)
    refused("end the name in .toml or .json", "simulate", "--save-settings", tmp_path / "mine.txt")
    refused("--out", "simulate")
    mine.write_text(mine.read_text() + "\n[nothing]\n")
    refused("--nothing", "simulate", "--settings", mine, "-o", tmp_path / "set")
    mine.write_text("side_a = 6\na_px = [10, 12]\nmaterials = ['WS2']\ncolumn_counts = 'none'\n")
    result = run(
        "simulate", "-o", tmp_path / "set", "--settings", mine, "--images", 2,
        "--validation-images", 1, "--workers", 1,
    )  # fmt: skip
    assert result.code == 0, result.err
    assert "3 images in" in result.out
    record = json.loads((tmp_path / "set" / "settings.json").read_text())
    assert (record["materials"], record["column_counts"]) == (["WS2"], None)
    perfect = sum(TrainingSet(tmp_path / "set" / s).class_counts()[0] for s in SPLITS)
    assert f"cells: {perfect:,} PERFECT" in result.out


def test_simulate_resumes(run, refused, small, tmp_path, monkeypatch):
    options = ["--settings", small, "--images", 3, "--validation-images", 2, "--workers", 1]
    assert run("simulate", "-o", tmp_path / "whole", *options).code == 0
    refused("no training set to resume", "simulate", "-o", tmp_path / "set", *options, "--resume")

    def interrupted(settings, image):
        if image == (0, 2):
            raise KeyboardInterrupt
        return encoded(settings, image)

    encoded = sets._encoded
    with monkeypatch.context() as patch:
        patch.setattr(sets, "_encoded", interrupted)
        result = run("simulate", "-o", tmp_path / "set", *options)
    assert result.code == 130
    assert "stopped after 4 images" in result.err
    assert "--resume" in result.err
    refused("holds a training set already", "simulate", "-o", tmp_path / "set", *options)
    refused(
        r"other settings \(seed\)",
        "simulate", "-o", tmp_path / "set", *options, "--seed", 8, "--resume",
    )  # fmt: skip
    # the folder knows its settings
    result = run("simulate", "-o", tmp_path / "set", "--resume", "--workers", 1)
    assert result.code == 0, result.err
    names = files_in(tmp_path / "whole")
    assert names == files_in(tmp_path / "set")
    for name in names:
        assert (tmp_path / "set" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_simulate_image_takes_toml(run, tmp_path):
    recipe = tmp_path / "mine.toml"
    recipe.write_text("seed = 4\n[scene]\nheight_px = 80\nwidth_px = 90\na_px = 12\n")
    assert run("simulate-image", recipe, "-o", tmp_path / "out").code == 0
    assert tifffile.imread(tmp_path / "out" / "mine.tif").shape == (80, 90)


def test_simulate_image(run, refused, tmp_path):
    recipe = tmp_path / "mine.json"
    scene = {"height_px": 80, "width_px": 90, "a_px": 12.0, "material": "MoS2"}
    recipe.write_text(json.dumps({"scene": scene, "seed": 4}))
    result = run("simulate-image", recipe, "-o", tmp_path / "out")
    assert result.code == 0, result.err
    assert files_in(tmp_path / "out") == ["mine.tif", "mine_truth.csv"]
    assert tifffile.imread(tmp_path / "out" / "mine.tif").shape == (80, 90)
    refused("--overwrite", "simulate-image", recipe, "-o", tmp_path / "out")
    assert run("simulate-image", recipe, "-o", tmp_path / "out", "--overwrite").code == 0


@pytest.mark.parametrize(
    ("content", "match"),
    [
        ({"scene": {"height_px": 3}}, "height-px"),
        ({"scene": {"material": "graphene"}}, "unknown material"),
        ({"scene": {"defect_rates": [0.9, 0.9, 0, 0, 0]}}, "defect-rates"),
        ({"noise": {"bits": 12}}, "bits"),
        ({"colour": 1}, "colour"),
    ],
)
def test_simulate_image_refuses_bad_recipes(refused, tmp_path, content, match):
    recipe = tmp_path / "mine.json"
    recipe.write_text(json.dumps(content))
    refused(match, "simulate-image", recipe, "-o", tmp_path / "out")
    assert files_in(tmp_path) == ["mine.json"]


# --- train -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def training_set(tmp_path_factory):
    """Two images and one."""
    from napari_point_defects.simulation.sets import simulate_training_set

    folder = tmp_path_factory.mktemp("set") / "data"
    settings = TrainingSetSettings(
        side_a=6.0,
        a_px=(12.0, 12.0),
        train_images=2,
        validation_images=1,
        vacuum_share=0.0,
        defect_rate=(0.2, 0.3),
        seed=2,
    )
    simulate_training_set(settings, folder, workers=1)
    return folder


def test_train_classifier_and_go_on(run, refused, training_set, tmp_path):
    out = tmp_path / "run"
    base = ["train", "classifier", "--data", training_set, "--out", out, "--device", "cpu"]
    result = run(*base, "--epochs", 1, "--images-per-epoch", 2, "--seed", 4)
    assert result.code == 0, result.err
    assert "Traceback" not in result.err
    weights = load_weights("classifier", out / "classifier-compact.safetensors")
    assert weights.card["settings"]["fit"]["seed"] == 4
    assert weights.card["training_set"]["seed"] == 2
    assert weights.card["metrics"]["epochs"] == 1
    assert (out / "metrics.csv").is_file()
    refused("--resume", *base, "--epochs", 2)
    again = run(*base, "--epochs", 2, "--images-per-epoch", 2, "--seed", 4, "--resume")
    assert again.code == 0, again.err
    card = load_weights("classifier", out / "classifier-compact.safetensors").card
    assert card["metrics"]["epochs"] == 2


def test_train_detector_from_given_weights(run, untrained, training_set, tmp_path):
    result = run(
        "train", "detector", "--data", training_set, "--out", tmp_path, "--epochs", 1,
        "--images-per-epoch", 1, "--device", "cpu", "--start", untrained / "detector.safetensors",
    )  # fmt: skip
    assert result.code == 0, result.err
    card = load_weights("detector", tmp_path / "detector-compact.safetensors").card
    assert card["settings"]["preset"] == "compact"


@pytest.mark.parametrize("kind", ["detector", "classifier"])
@pytest.mark.parametrize(
    ("options", "match"),
    [
        (["--preset", "huge"], "unknown preset 'huge': choose one of compact, paper"),
        (["--device", "tpu"], "unknown device 'tpu'"),
        (["--resume"], "nothing to resume"),
        (["--start", "missing.safetensors"], "cannot read the weights"),
    ],
)
def test_train_refuses_bad_options(refused, training_set, tmp_path, kind, options, match):
    out = tmp_path / "run"
    refused(match, "train", kind, "--data", training_set, "--out", out, *options)
    assert not out.exists()


def test_train_refuses_weights_of_the_other_network(refused, untrained, training_set, tmp_path):
    options = ["--start", untrained / "detector.safetensors", "--out", tmp_path / "run"]
    refused("holds a detector", "train", "classifier", "--data", training_set, *options)
    assert not (tmp_path / "run").exists()


def test_train_refuses_weights_that_do_not_fit(refused, training_set, tmp_path):
    settings = CLASSIFIER_PRESETS["paper"]
    path = tmp_path / "paper.safetensors"
    save_weights(
        path,
        build_classifier(settings).state_dict(),
        kind="classifier",
        settings=settings.model_dump(mode="json"),
        training_set={},
        metrics={"temperature": 1.0},
    )
    options = ["--start", path, "--out", tmp_path / "run", "--device", "cpu"]
    refused("do not fit", "train", "classifier", "--data", training_set, *options)


def test_train_refuses_data_that_are_none(refused, training_set, tmp_path):
    base = ["train", "classifier", "--out", tmp_path / "run", "--data"]
    refused("settings", *base, tmp_path / "nowhere")
    half = tmp_path / "half"
    half.mkdir()
    (half / "settings.json").write_bytes((training_set / "settings.json").read_bytes())
    refused("point-defects simulate", *base, half)
    assert not (tmp_path / "run").exists()


def test_train_refuses_folders_that_cannot_be(refused, training_set, tmp_path):
    (tmp_path / "taken").write_text("a file")
    options = ["--out", tmp_path / "taken", "--device", "cpu"]
    refused("taken", "train", "classifier", "--data", training_set, *options)


def test_train_on_two_sets_from_shipped_weights(run, training_set, tmp_path):
    out = tmp_path / "run"
    result = run(
        "train", "classifier", "--data", training_set, "--data", training_set, "-o", out,
        "--start", "shipped", "--epochs", 1, "--images-per-epoch", 2, "--device", "cpu",
    )  # fmt: skip
    assert result.code == 0, result.err
    card = load_weights("classifier", out / "classifier-compact.safetensors").card
    assert card["started_from"].startswith("classifier-compact@")
    assert len(card["training_set"]["sets"]) == 2
    before, after = result.out.split("held-out simulated images, ")[1:]
    assert before.startswith("before (classifier-compact@")
    assert "Perfect" in after
    assert "true class (rows) against predicted" in after


def test_train_needs_something_to_learn_from(refused, tmp_path):
    refused("no data: give", "train", "classifier", "-o", tmp_path / "run")
    assert not (tmp_path / "run").exists()


# --- evaluate --------------------------------------------------------------------------------


def test_evaluate_the_shipped_classifier(run, refused, training_set, tmp_path):
    report = tmp_path / "scores.json"
    options = ["evaluate", "--data", training_set, "--device", "cpu", "-o", report]
    result = run(*options)
    assert result.code == 0, result.err
    truth = TrainingSet(training_set / "validation").class_counts()
    scores = json.loads(report.read_text())
    assert scores["kind"] == "classifier"
    confusion = np.array(scores["simulated"]["confusion"])
    np.testing.assert_array_equal(confusion.sum(axis=1), truth)
    assert scores["simulated"]["accuracy"] == np.trace(confusion) / confusion.sum()
    assert f"of {truth.sum():,} cells" in result.out
    refused("exists", *options)


def test_evaluate_takes_the_kind_from_the_card(run, untrained, training_set):
    weights = untrained / "detector.safetensors"
    result = run("evaluate", "--weights", weights, "--data", training_set, "--split", "train")
    assert result.code == 0, result.err
    assert "mean IoU" in result.out
    truth = sum(len(item.hexagons_px) for item in TrainingSet(training_set / "train"))
    assert result.out.split()[-1] == str(truth)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ([], "no data: give"),
        (["--data", "nowhere"], "point-defects simulate"),
        (["--data", "nowhere", "--split", "test"], "unknown split 'test'"),
        (["--data", "nowhere", "--weights", "none.safetensors"], "cannot read the weights"),
        (["--data", "nowhere", "--kind", "segmenter"], "--kind segmenter"),
    ],
)
def test_evaluate_refuses_bad_options(refused, options, match):
    refused(match, "evaluate", *options)
