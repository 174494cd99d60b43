"""*Match this image* from end to end: what is measured of an image sets the simulator."""

from __future__ import annotations

import json
import tomllib
from dataclasses import replace

import numpy as np
import pytest
import torch
from test_likeness import RECIPES, observed

from napari_point_defects import image_matching
from napari_point_defects.analysis_settings import AnalysisSettings
from napari_point_defects.classification.model import CLASSIFIER_PRESETS, build_classifier
from napari_point_defects.cli import app
from napari_point_defects.detection.model import DETECTOR_PRESETS, build_detector
from napari_point_defects.detections import Detection
from napari_point_defects.errors import PointDefectsError, Stopped
from napari_point_defects.image_matching import (
    analyze_and_match,
    match_image,
    observe,
    write_match,
)
from napari_point_defects.measured import Estimate
from napari_point_defects.records import StemImage, UnitCells
from napari_point_defects.retraining.adapting import AdaptSettings, adapt
from napari_point_defects.simulation.noise import NoiseSettings
from napari_point_defects.simulation.presets import PRESETS, TrainingSetSettings, load_settings
from napari_point_defects.simulation.recipes import Recipe, simulate_recipe
from napari_point_defects.simulation.scenes import SceneSettings
from napari_point_defects.simulation.training_range import (
    range_of_card,
    range_of_record,
    range_of_set,
    range_warnings,
)
from napari_point_defects.training_check import outside_training, training_warnings
from napari_point_defects.weights import load_weights, save_weights

NAME = "dirty"


@pytest.fixture(scope="module")
def known():
    """An image, and what a perfect measurement says of it."""
    pixels, found = observed(RECIPES[NAME])
    return StemImage(pixels.astype(np.float32), "field"), found


@pytest.fixture
def measured(known, monkeypatch):
    """Every measurement of an image is the known one."""
    monkeypatch.setattr(image_matching, "measure", lambda *args: known[1].measurement)
    return known


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
    return AnalysisSettings(
        material="MoS2",
        detector_weights=folder / "detector.safetensors",
        classifier_weights=folder / "classifier.safetensors",
        device="cpu",
    )


# --- the match --------------------------------------------------------------------------------


def test_image_is_analysed_measured_and_matched(measured):
    image, known = measured
    steps = []
    found = analyze_and_match(
        image,
        AnalysisSettings(material="MoS2"),
        on_progress=lambda share, text: steps.append(share),
    )
    assert steps == sorted(steps)
    scene = found.likeness.recipe.scene
    assert scene.a_px == pytest.approx(22, rel=0.01)
    assert scene.source_fwhm_nm == pytest.approx(0.09, abs=0.003)
    assert found.simulated.shape == found.shown.shape == image.data.shape
    assert found.comparison.histogram_distance < 0.05
    # the defects of the census, not those of the preset
    truth = np.array(known.class_counts[1:]) / sum(known.class_counts)
    assert scene.defect_rates == pytest.approx(truth, abs=0.02)
    with pytest.raises(Stopped):
        analyze_and_match(image, AnalysisSettings(material="MoS2"), should_stop=lambda: True)


def test_a_large_image_is_compared_with_its_middle(known, monkeypatch):
    image, found = known
    monkeypatch.setattr(image_matching, "_MOST_PX", 128)
    match = match_image(image, found)
    assert match.simulated.shape == (128, 128)
    np.testing.assert_array_equal(match.shown, image.data[96:224, 86:214])


@pytest.mark.parametrize("mu", [3.0, 12.0])
def test_noise_without_counts_comes_from_the_power_spectrum(mu):
    recipe = RECIPES["bright"].model_copy(
        update={"noise": NoiseSettings(poisson_lambda=0, gaussian_mu=mu)}
    )
    pixels, scene = simulate_recipe(recipe)
    _, known = observed(RECIPES["bright"])
    none = Estimate(np.nan, np.nan, np.nan)
    told = dict.fromkeys(
        ("counts_per_level", "poisson_lambda", "column_counts", "read_noise"), none
    )
    found = replace(known, measurement=replace(known.measurement, **told), bits=8)
    match = match_image(StemImage(pixels.astype(np.float32), "field"), found)
    noise = match.likeness.recipe.noise
    brightest = scene.brightest_peak / scene.peak
    wanted = mu / recipe.noise.levels_per_peak(brightest)
    assert noise.gaussian_mu / noise.levels_per_peak(brightest) == pytest.approx(wanted, rel=0.1)
    low, high = match.likeness.settings.gaussian_mu
    assert low < noise.gaussian_mu < high
    assert match.likeness.settings.column_counts[0] >= 1e4
    assert match.comparison.spectrum_distance < 0.3  # without noise 1 and more
    assert match.likeness.remarks == (
        "all noise is taken to be the detector's, as strong as the power spectrum says",
    )


def measured_again(recipe):
    """Measure a recipe's image with its true lattice and cells."""
    pixels, scene = simulate_recipe(recipe)
    sure = np.full((len(scene.classes), 6), 1e-3)
    sure[np.arange(len(sure)), scene.classes] = 0.995
    cells = UnitCells(scene.chalcogen_px, scene.metal_px, np.full(len(sure), 2), sure)
    size = (recipe.scene.pixel_size_nm,) * 2
    detection = Detection(scene.lattice, None, size, "lattice")
    image = StemImage(pixels.astype(np.float32), "field")
    settings = AnalysisSettings(material=recipe.scene.material)
    return image, observe(image, detection, cells, settings)


SEEN = {
    "MoTe2": (
        SceneSettings(material="MoTe2", a_px=18, source_fwhm_nm=0.07, jitter_a=0.015),
        18,
        10,
    ),
    "WS2": (SceneSettings(material="WS2", a_px=24, source_fwhm_nm=0.1, chalcogen_gain=1.15), 40, 4),
    "MoS2": (SceneSettings(material="MoS2", a_px=20, source_fwhm_nm=0.12, shear=0.06), 8, 6),
}


@pytest.mark.parametrize("material", SEEN)
def test_the_likeness_measures_as_the_image_does(material):
    pytest.importorskip("napari_point_defects.measurement")
    scene, lam, mu = SEEN[material]
    noise = NoiseSettings(poisson_lambda=lam, gaussian_mu=mu)
    recipe = Recipe(
        scene=scene.model_copy(update={"height_px": 400, "width_px": 400}), noise=noise, seed=11
    )
    image, found = measured_again(recipe)
    match = match_image(image, found)
    _, again = measured_again(match.likeness.recipe)
    for name, tolerance in (
        ("poisson_lambda", 0.12),
        ("column_counts", 0.15),
        ("probe_fwhm_nm", 0.05),
        ("contrast_ratio", 0.06),
    ):
        first, second = (getattr(o.measurement, name).value for o in (found, again))
        assert second == pytest.approx(first, rel=tolerance), name
    relative = [
        m.read_noise.value * m.counts_per_level.value / m.poisson_lambda.value
        for m in (found.measurement, again.measurement)
    ]
    # two measurements, each within 10 % of the truth
    assert relative[1] == pytest.approx(relative[0], rel=0.14)
    if scene.jitter_a:
        assert again.measurement.jitter_px.value == pytest.approx(
            found.measurement.jitter_px.value, rel=0.2
        )
    # and what was measured is what was simulated
    assert match.likeness.recipe.scene.source_fwhm_nm == pytest.approx(
        scene.source_fwhm_nm, abs=0.012
    )
    assert match.comparison.histogram_distance < 0.03


@pytest.mark.parametrize(
    ("data", "bits"),
    [(np.arange(200), 8), (np.arange(1000), 16), (np.linspace(0, 1, 50), 16)],
)
def test_bit_depth_is_seen_from_the_values(data, bits):
    assert image_matching._bits(data.astype(np.float32)) == bits


def test_match_is_written_and_read_back(known, tmp_path):
    match = match_image(*known)
    paths = write_match(match, tmp_path)
    assert load_settings(paths["settings"]) == match.likeness.settings
    recipe = Recipe.model_validate(tomllib.loads(paths["recipe"].read_text()))
    np.testing.assert_array_equal(simulate_recipe(recipe)[0], match.simulated)
    record = json.loads(paths["record"].read_text())
    assert record["comparison"]["histogram_distance"] == match.comparison.histogram_distance
    assert record["measurement"]["poisson_lambda"]["value"] == 8
    assert paths["figure"].read_bytes().startswith(b"\x89PNG")
    with pytest.raises(PointDefectsError, match="exists"):
        write_match(match, tmp_path)


def test_a_match_is_written_whole_or_not_at_all(known, tmp_path, monkeypatch):
    def full(*given):
        raise OSError("no space left")

    monkeypatch.setattr(image_matching, "write_json", full)
    with pytest.raises(PointDefectsError, match="no space left"):
        write_match(match_image(*known), tmp_path)
    assert not list(tmp_path.iterdir())


# --- the training range -------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["detector", "classifier"])
def test_shipped_weights_state_their_range(kind):
    card = load_weights(kind).card
    found = range_of_card(card)
    for settings in card["training_set"].get("sets", [card["training_set"]]):
        assert set(found.materials) == set(settings["materials"])
        assert found.a_px == tuple(settings["a_px"])
    assert 0.1 < found.fwhm_a[0] < found.fwhm_a[1] < 2
    assert found.poisson_lambda[0] < 3 < 100 < found.poisson_lambda[1]
    for low, high in found.contrast_ratio.values():
        assert 0 < low < high


def test_range_holds_what_the_set_shows():
    from napari_point_defects.materials import get_material
    from napari_point_defects.simulation.column_images import column_image
    from napari_point_defects.simulation.images import simulate_example
    from napari_point_defects.simulation.superposition import Blur

    settings = PRESETS["wide"].model_copy(update={"side_a": 3.0})
    found = range_of_set(settings)
    for index in range(12):
        example = simulate_example(settings, index)
        scene = example.scene
        column = column_image(
            get_material(scene.material),
            settings.microscope,
            Blur(scene.source_fwhm_nm, scene.tail_fraction, scene.tail_fwhm_nm),
        )
        a_nm = get_material(scene.material).lattice_constant_nm
        for name, value in (
            ("fwhm_a", column.fwhm_nm / a_nm),
            ("column_counts", example.column_counts),
            ("poisson_lambda", example.noise.poisson_lambda),
            ("jitter_a", scene.jitter_a),
            ("contamination", scene.contamination),
            ("shear", scene.shear),
        ):
            low, high = getattr(found, name)
            assert low * 0.99 <= value <= high * 1.01 or low <= value <= high, name


def test_a_card_keeps_its_range(tmp_path):
    found = range_of_set(TrainingSetSettings(materials=("WS2", "MoTe2")))
    card = json.loads(json.dumps({"training_range": found.as_dict(), "training_set": {}}))
    assert range_of_card(card) == found
    assert range_of_card({"training_range": {"a_px": 3}}) is None


def test_range_of_several_sets_holds_all():
    small = TrainingSetSettings(materials=("WS2",), a_px=(8.0, 12.0), column_counts=None)
    large = TrainingSetSettings(materials=("MoTe2",), a_px=(40.0, 70.0))
    found = range_of_record({"sets": [s.model_dump(mode="json") for s in (small, large)]})
    assert found.materials == ("WS2", "MoTe2")
    assert found.a_px == (8, 70)
    assert set(found.contrast_ratio) == {"WS2", "MoTe2"}


@pytest.mark.parametrize("record", [None, {}, {"seed": 7}, {"sets": []}, {"sets": [{"seed": 1}]}])
def test_a_card_without_a_training_set_has_no_range(record):
    assert range_of_card({"training_set": record}) is None


def test_inside_the_range_nothing_is_said(known):
    _, found = known
    wide = range_of_set(PRESETS["wide"])
    assert range_warnings(found, {"classifier": wide, "detector": None}) == ()


def test_each_quantity_outside_has_a_line_with_both_numbers(known):
    _, found = known
    m = found.measurement
    outside = replace(
        found,
        measurement=replace(
            m,
            probe_fwhm_nm=Estimate(0.25, 0.24, 0.26),
            contamination=Estimate(0.9, 0.8, 1.0),
            jitter_px=Estimate(3.0, 2.9, 3.1),
            column_counts=Estimate(9e4, 8e4, 1e5),
            contrast_ratio=Estimate(0.9, 0.85, 0.95),
        ),
    )
    wide = range_of_set(PRESETS["wide"])
    lines = range_warnings(outside, {"classifier": wide, "detector": wide})
    assert len(lines) == 5
    assert all("the classifier and the detector learned" in line for line in lines)
    assert all("simulate --like" in line and "train" in line for line in lines)
    width = next(line for line in lines if "wide, the" in line)
    assert "columns are 0.791 a wide" in width
    assert "0.265 to 0.515 a" in width
    assert any("a column has 9e+04 counts" in line and "2e+04" in line for line in lines)


def test_an_uncertain_value_is_not_outside(known):
    _, found = known
    unsure = replace(found.measurement, contamination=Estimate(0.9, 0.3, 1.5))
    wide = range_of_set(PRESETS["wide"])
    assert range_warnings(replace(found, measurement=unsure), {"classifier": wide}) == ()


def test_the_lattice_is_checked_too(known):
    _, found = known
    narrow = range_of_set(TrainingSetSettings(materials=("MoS2",), a_px=(30.0, 40.0)))
    (line,) = range_warnings(found, {"classifier": narrow})
    assert line.startswith(
        "the lattice constant is 22 px, the classifier learned 30 to 40 px: train on images like it"
    )


def test_an_analysis_warns_of_what_the_weights_have_not_seen(known):
    image, found = known
    odd = replace(found.measurement, contamination=Estimate(0.9, 0.8, 1.0))
    detection = Detection(found.lattice, None, (found.pixel_size_nm,) * 2, "lattice", ("before",))
    settings = AnalysisSettings(material="MoS2")
    (line,) = training_warnings(odd, detection, image.data.shape, settings)
    assert "the contamination is 0.9" in line
    assert training_warnings(found.measurement, detection, image.data.shape, settings) == ()


def test_unknown_weights_give_no_warnings(known, untrained):
    _, found = known
    odd = replace(found.measurement, contamination=Estimate(5.0, 4.0, 6.0))
    assert outside_training(replace(found, measurement=odd), untrained) == ()
    assert len(outside_training(replace(found, measurement=odd), AnalysisSettings())) == 1


# --- adapting -----------------------------------------------------------------------------------

TINY = AdaptSettings(
    train_images=2,
    validation_images=1,
    epochs=1,
    images_per_epoch=2,
    workers=1,
    loader_workers=0,
)


def small(match):
    """The same match, around images of a few cells."""
    settings = match.likeness.settings.model_copy(
        update={"side_a": 5.0, "a_px": (12.0, 12.0), "vacuum_share": 0.0}
    )
    return replace(match, likeness=replace(match.likeness, settings=settings))


def test_weights_learn_the_set_around_an_image(known, untrained, tmp_path):
    match, folder = small(match_image(*known)), tmp_path / "adapted"
    shares = []
    adapted = adapt(
        match,
        folder,
        TINY,
        untrained,
        on_progress=lambda share, text: shares.append(share),
    )
    assert shares == sorted(shares)
    assert shares[-1] == 1
    assert adapted.classifier.before.n_cells == adapted.classifier.after.n_cells > 0
    # untrained, it finds nothing, so it had to learn too
    assert adapted.detection.f1 < 0.9 or np.isnan(adapted.detection.f1)
    for kind, path in adapted.weights.items():
        card = load_weights(kind, path).card
        assert (
            card["started_from"]
            == load_weights(kind, getattr(untrained, f"{kind}_weights")).version
        )
        found = range_of_card(card)
        assert found.materials == ("MoS2",)
        assert card["training_range"] == json.loads(json.dumps(found.as_dict()))
    assert (folder / "likeness.png").is_file()
    with pytest.raises(PointDefectsError, match="not empty"):
        adapt(match, folder, TINY, untrained)


def test_adapting_is_stopped(known, untrained, tmp_path):
    with pytest.raises(Stopped):
        adapt(
            small(match_image(*known)), tmp_path / "new", TINY, untrained, should_stop=lambda: True
        )


def test_a_good_detector_is_kept(known, untrained, tmp_path):
    settings = TINY.model_copy(update={"detection_f1": 0.0})
    adapted = adapt(small(match_image(*known)), tmp_path / "new", settings, untrained)
    assert adapted.detector is None
    assert set(adapted.weights) == {"classifier"}


# --- the command line -----------------------------------------------------------------------------


@pytest.fixture
def image_file(known, tmp_path):
    path = tmp_path / "field.npy"
    np.save(path, known[0].data)
    return path


@pytest.fixture
def command():
    from typer.testing import CliRunner

    return lambda *args: CliRunner().invoke(app, [str(a) for a in args])


def test_simulate_like(measured, image_file, tmp_path, command):
    out = tmp_path / "set"
    result = command(
        *("simulate", "--like", image_file, "--material", "mos2", "-o", out),
        *("--images", 2, "--validation-images", 1, "--workers", 1),
    )
    assert result.exit_code == 0, result.output
    assert "histograms 0.0" in result.output
    assert "3 images in" in result.output
    names = {p.name for p in out.iterdir()}
    assert {"settings.toml", "likeness.toml", "likeness.png", "likeness.json", "train"} <= names
    written = load_settings(out / "settings.toml")
    assert written == load_settings(out / "settings.json")
    assert (written.preset, written.train_images) == ("like", 2)
    again = command("simulate", "--like", image_file, "--material", "MoS2", "-o", out)
    assert isinstance(again.exception, PointDefectsError)
    assert "holds a training set already" in str(again.exception)


def test_simulate_like_saves_settings_alone(measured, image_file, tmp_path, command):
    path = tmp_path / "mine.toml"
    result = command(
        "simulate", "--like", image_file, "--material", "MoS2", "--save-settings", path
    )
    assert result.exit_code == 0, result.output
    assert load_settings(path).materials == ("MoS2",)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["field.npy", "mine.toml"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--like", "x.tif", "--resume"), "leave out --like"),
        (("--pixel-size-nm", "0.02"), "give --like too"),
    ],
)
def test_options_that_do_not_go_together(options, message, tmp_path, command):
    result = command("simulate", "-o", tmp_path / "set", *options)
    assert isinstance(result.exception, PointDefectsError)
    assert message in str(result.exception)


def test_adapt_prints_both_scores_and_the_next_command(
    known, untrained, image_file, tmp_path, command, monkeypatch
):
    from napari_point_defects.retraining import adapting

    asked = []

    def tiny(match, folder, settings, analysis, **callbacks):
        asked.append(settings)
        return adapt(small(match), folder, TINY, analysis, **callbacks)

    monkeypatch.setattr(adapting, "adapt", tiny)
    monkeypatch.setattr(
        image_matching, "analyze_and_match", lambda image, settings, **rest: match_image(*known)
    )
    out = tmp_path / "adapted"
    result = command(
        *("adapt", image_file, "-o", out, "--material", "mos2", "--images", 40, "--device", "cpu"),
        *("--classifier-weights", untrained.classifier_weights),
        *("--detector-weights", untrained.detector_weights),
    )
    assert result.exit_code == 0, result.output
    assert asked[0].train_images == 40
    assert result.output.count("accuracy") == 2
    last = result.output.strip().splitlines()[-1]
    assert last.startswith("point-defects analyze")
    assert str(out / "classifier") in last
    again = command("adapt", image_file, "-o", out)
    assert "not empty" in str(again.exception)
