"""What is measured of simulated images is what they were made with."""

import json
from functools import lru_cache

import numpy as np
import pytest
from scipy.special import j0

from napari_point_defects import appraisal, detections, networks, pipeline
from napari_point_defects.analysis_settings import AnalysisSettings
from napari_point_defects.classification.calibration import ProbabilityCalibration
from napari_point_defects.cli.measurement import ROWS, print_measurement
from napari_point_defects.materials import DefectClass, get_material
from napari_point_defects.measured import Estimate, Measurement
from napari_point_defects.measurement.background import local_background
from napari_point_defects.measurement.contrast import contrast_remarks, expected_contrast
from napari_point_defects.measurement.histograms import digitiser_step
from napari_point_defects.measurement.image import measure_image, measure_in_detail
from napari_point_defects.records import Lattice, StemImage, UnitCells
from napari_point_defects.simulation.columns import load_columns
from napari_point_defects.simulation.noise import NoiseSettings, add_noise
from napari_point_defects.simulation.scenes import SceneSettings, make_scene
from napari_point_defects.simulation.superposition import column_transforms


@lru_cache(maxsize=8)
def scene_of(settings: SceneSettings, seed: int = 5):
    return make_scene(settings, np.random.default_rng(seed))


def cells_of(scene) -> UnitCells:
    votes = np.full(len(scene.classes), 2)
    return UnitCells(scene.chalcogen_px, scene.metal_px, votes, np.eye(6)[scene.classes])


def image_of(scene, seed=7, **noise) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return add_noise(scene, NoiseSettings(**noise), rng).astype(np.float32)


def measured(settings: SceneSettings, *, cells=None, seed=7, **noise) -> Measurement:
    scene = scene_of(settings)
    return measure_image(
        image_of(scene, seed, **noise),
        scene.lattice,
        cells_of(scene) if cells is None else cells,
        get_material(settings.material),
        (settings.pixel_size_nm,) * 2,
    )


def column_fwhm_nm(settings: SceneSettings) -> float:
    """Half-maximum width of one rendered X₂ column."""
    k, radius = np.linspace(0, 25, 800), np.linspace(0, 0.2, 401)
    columns = load_columns(get_material(settings.material))
    spectrum = column_transforms(columns, 25.0)["chalcogen_pair"](k)

    def blur(fwhm):
        return np.exp(-2 * (np.pi * fwhm / np.sqrt(8 * np.log(2)) * k) ** 2)

    share = settings.tail_fraction
    spectrum *= (1 - share) * blur(settings.source_fwhm_nm) + share * blur(settings.tail_fwhm_nm)
    curve = (j0(2 * np.pi * np.outer(radius, k)) * k) @ spectrum
    return float(2 * np.interp(-0.5, -curve / curve[0], radius))


def covers(estimate: Estimate, true: float) -> bool:
    return estimate.low <= true <= estimate.high


PLAIN = SceneSettings(height_px=448, width_px=448, a_px=17.3, angle_deg=11.0)
SLANTED = SceneSettings(
    material="WSe2",
    height_px=448,
    width_px=448,
    a_px=24.0,
    angle_deg=-23.0,
    shear=0.08,
    stretch=-0.05,
    jitter_a=0.02,
    source_fwhm_nm=0.09,
)
DIRTY = SceneSettings(
    material="MoSe2",
    height_px=448,
    width_px=448,
    a_px=15.0,
    contamination=0.3,
    contamination_length_nm=0.8,
    vacuum="edge",
)


@pytest.mark.parametrize("mu", [0.0, 5.0, 20.0])
@pytest.mark.parametrize("counts", [3.0, 10.0, 30.0, 100.0])
def test_counts_and_read_noise_are_those_of_the_image(counts, mu):
    found = measured(PLAIN, poisson_lambda=counts, gaussian_mu=mu)
    assert found.poisson_lambda.value == pytest.approx(counts, rel=0.1)
    assert found.poisson_lambda.low < counts < found.poisson_lambda.high * 1.03
    if mu:
        assert found.read_noise.value == pytest.approx(mu, rel=0.1)
        assert covers(found.offset, 20.0) or abs(found.offset.value - 20) < 1.0
    else:  # lost in the digitiser's steps
        assert found.read_noise.low == 0
        assert found.read_noise.value < 1
    assert found.probe_fwhm_nm.value == pytest.approx(column_fwhm_nm(PLAIN), rel=0.05)
    assert found.contrast_ratio.value == pytest.approx(3.475, rel=0.05)


def test_the_whole_columns_counts_follow_from_the_black_level():
    scene = scene_of(PLAIN)
    found = measured(PLAIN, poisson_lambda=30.0, gaussian_mu=5.0)
    assert found.column_counts.value == pytest.approx(
        30 * scene.pair_volume_px / scene.peak, rel=0.1
    )
    assert found.cells > 200
    assert found.remarks == ()


def test_sixteen_bits_scale_with_the_image():
    eight = measured(PLAIN, poisson_lambda=30.0, gaussian_mu=8.0)
    sixteen = measured(PLAIN, poisson_lambda=30.0, gaussian_mu=8.0, bits=16)
    assert sixteen.poisson_lambda.value == pytest.approx(eight.poisson_lambda.value, rel=0.03)
    assert sixteen.read_noise.value == pytest.approx(257 * eight.read_noise.value, rel=0.05)
    assert sixteen.counts_per_level.value * 257 == pytest.approx(
        eight.counts_per_level.value, rel=0.03
    )


def test_the_scan_is_told_from_the_probe_and_the_noise():
    found = measured(SLANTED, poisson_lambda=30.0, gaussian_mu=8.0)
    assert found.jitter_px.value == pytest.approx(0.02 * 24, rel=0.1)
    assert covers(found.jitter_px, 0.48)
    assert found.shear.value == pytest.approx(0.08, rel=0.1)
    assert found.stretch.value == pytest.approx(-0.05, rel=0.1)
    assert found.probe_fwhm_nm.value == pytest.approx(column_fwhm_nm(SLANTED), rel=0.05)
    assert found.poisson_lambda.value == pytest.approx(30, rel=0.1)
    assert found.read_noise.value == pytest.approx(8, rel=0.1)


def test_a_still_scan_has_no_jitter():
    found = measured(PLAIN, poisson_lambda=30.0, gaussian_mu=8.0)
    assert found.jitter_px.low == 0
    assert found.jitter_px.high < 0.1


def test_a_lattice_that_is_a_little_off_is_put_right():
    scene = scene_of(PLAIN)
    bent = np.array([[1.0, 0.0], [0.006, 1.0]])
    middle = np.array(PLAIN.height_px / 2)
    lattice = Lattice(
        bent @ (scene.lattice.origin_px - middle) + middle, bent @ scene.lattice.matrix_px
    )
    found = measure_image(
        image_of(scene, poisson_lambda=30.0, gaussian_mu=5.0),
        lattice,
        cells_of(scene),
        get_material("MoTe2"),
        (PLAIN.pixel_size_nm,) * 2,
    )
    assert abs(lattice.shear) > 0.005
    assert abs(found.shear.value) < 0.002
    assert found.poisson_lambda.value == pytest.approx(30, rel=0.1)
    assert found.read_noise.value == pytest.approx(5, rel=0.1)


def test_dirt_and_vacuum_do_not_spoil_the_noise():
    found = measured(DIRTY, poisson_lambda=20.0, gaussian_mu=6.0)
    assert found.poisson_lambda.value == pytest.approx(20, rel=0.1)
    assert found.read_noise.value == pytest.approx(6, rel=0.1)
    assert found.contamination.value == pytest.approx(0.3, rel=0.35)
    assert found.contamination_length_nm.value == pytest.approx(0.8, rel=0.4)
    assert found.clipped_high > 0


@pytest.mark.parametrize("a_px", [8.0, 17.3, 25.0])
def test_a_slope_of_the_dirt_is_not_pulled_aside_by_defects(a_px):
    y, x = np.mgrid[:300, :260].astype(np.float32)
    slope = 0.1 * y - 0.2 * x
    valid = np.hypot(y - 140, x - 130) > 0.7 * a_px
    background, own, least = local_background(np.where(valid, slope, 0), valid, a_px)
    trusted = valid & (own < 4)
    assert trusted.mean() > 0.8 * valid.mean()
    assert np.abs(background - slope)[trusted].max() < 0.02 * a_px
    # the weight of a pixel's own value is what it adds to its background
    (row, col) = (20, 30)
    lifted = np.where(valid, slope, 0)
    lifted[row, col] += 1
    added = local_background(lifted, valid, a_px)[0][row, col] - background[row, col]
    assert added == pytest.approx(own[row, col] * least, rel=0.3)


def test_a_clean_image_has_no_dirt():
    found = measured(PLAIN, poisson_lambda=30.0, gaussian_mu=5.0)
    assert found.contamination.value == 0
    assert found.contamination.high < 0.05
    assert np.isnan(found.contamination_length_nm.value)


@pytest.mark.parametrize("what", ["unclassified", "wrong", "all perfect"])
def test_wrong_classes_do_not_spoil_it(what):
    cells = cells_of(scene_of(PLAIN))
    known = cells.probabilities.copy()
    rng = np.random.default_rng(3)
    if what == "unclassified":
        known[:] = np.nan
    elif what == "wrong":
        some = rng.random(len(known)) < 0.08
        known[some] = np.eye(6)[rng.integers(0, 6, some.sum())]
    else:
        known = np.tile(np.eye(6)[DefectClass.PERFECT], (len(known), 1))
    found = measured(
        PLAIN,
        cells=UnitCells(cells.chalcogen_px, cells.metal_px, cells.votes, known),
        poisson_lambda=40.0,
        gaussian_mu=8.0,
    )
    assert found.poisson_lambda.value == pytest.approx(40, rel=0.1)
    assert found.read_noise.value == pytest.approx(8, rel=0.1)
    assert found.probe_fwhm_nm.value == pytest.approx(column_fwhm_nm(PLAIN), rel=0.05)


def test_intervals_hold_the_truth_about_as_often_as_they_say():
    small = PLAIN.model_copy(update={"height_px": 256, "width_px": 256})
    truth = {
        "poisson_lambda": 20.0,
        "read_noise": 10.0,
        "offset": 20.0,
        "probe_fwhm_nm": column_fwhm_nm(small),
        "contrast_ratio": 3.475,
        "stretch": 0.0,
    }
    inside = []
    for seed in range(12):
        found = measured(small, seed=100 + seed, poisson_lambda=20.0, gaussian_mu=10.0)
        inside += [covers(getattr(found, name), true) for name, true in truth.items()]
    assert np.mean(inside) > 0.85
    # and they are of use
    assert found.poisson_lambda.high / found.poisson_lambda.low < 1.4


def test_another_material_than_claimed_is_remarked():
    scene = scene_of(PLAIN)
    image = image_of(scene, poisson_lambda=30.0, gaussian_mu=5.0)
    size = (PLAIN.pixel_size_nm,) * 2
    found = measure_image(image, scene.lattice, cells_of(scene), get_material("MoS2"), size)
    assert any("check the material" in remark for remark in found.remarks)
    known = measure_image(
        image, scene.lattice, cells_of(scene), get_material("MoS2"), size, contrast=(3.0, 4.0)
    )
    assert known.expected_contrast == (3.0, 4.0)
    assert known.remarks == ()


@pytest.mark.parametrize("formula", ["MoTe2", "MoSe2", "MoS2", "WSe2", "WS2", "WTe2"])
def test_every_materials_own_columns_are_within_its_range(formula):
    columns = load_columns(get_material(formula))
    at_zero = {n: t(0.0) for n, t in column_transforms(columns, 1.0).items()}
    ratio = float(at_zero["chalcogen_pair"] / at_zero["metal"])
    low, high = expected_contrast(get_material(formula))
    assert low < ratio < high


def test_columns_that_look_alike_may_be_a_bilayer():
    material = get_material("MoS2")
    limits = expected_contrast(material)
    (remark,) = contrast_remarks(Estimate(1.02, 0.97, 1.07), limits, material)
    assert "bilayer" in remark
    assert contrast_remarks(Estimate(0.4, 0.35, 0.45), limits, material) == []
    assert contrast_remarks(Estimate(np.nan, np.nan, np.nan), limits, material) == []


def test_filtered_noise_is_remarked():
    from scipy.ndimage import gaussian_filter

    scene = scene_of(PLAIN)
    image = gaussian_filter(image_of(scene, poisson_lambda=30.0, gaussian_mu=5.0), 0.6)
    found = measure_image(
        image, scene.lattice, cells_of(scene), get_material("MoTe2"), (PLAIN.pixel_size_nm,) * 2
    )
    assert any("correlated" in remark for remark in found.remarks)


def nothing_is_told(found: Measurement) -> bool:
    return all(np.isnan(getattr(found, field).value) for field, _, _ in ROWS) and not found.cells


@pytest.mark.parametrize("case", ["few", "none", "constant", "empty", "clipped"])
def test_an_image_that_tells_nothing_says_why(case):
    scene = scene_of(PLAIN)
    cells = cells_of(scene)
    image = image_of(scene, poisson_lambda=30.0, gaussian_mu=5.0)
    if case == "few":
        cells = cells.take(np.arange(6))
    elif case == "none":
        cells = cells.take(np.zeros(0, int))
    elif case == "constant":
        image = np.full_like(image, 3.0)
    elif case == "empty":
        image = np.full_like(image, np.nan)
    else:
        image = (image > 90).astype(np.float32)
    found = measure_image(
        image, scene.lattice, cells, get_material("MoTe2"), (PLAIN.pixel_size_nm,) * 2
    )
    assert found.remarks
    if case != "clipped":
        assert nothing_is_told(found)
    json.dumps(found.as_dict())


def test_gaps_in_the_data_are_left_out():
    scene = scene_of(PLAIN)
    image = image_of(scene, poisson_lambda=30.0, gaussian_mu=5.0)
    image[100:180, 50:300] = np.nan
    found = measure_image(
        image, scene.lattice, cells_of(scene), get_material("MoTe2"), (PLAIN.pixel_size_nm,) * 2
    )
    assert found.poisson_lambda.value == pytest.approx(30, rel=0.1)
    assert np.isnan(image[120, 100])


def test_the_units_of_the_intensity_do_not_matter():
    scene = scene_of(PLAIN)
    image = image_of(scene, poisson_lambda=30.0, gaussian_mu=5.0, bits=16)
    size = (PLAIN.pixel_size_nm,) * 2
    one, other = (
        measure_image(i, scene.lattice, cells_of(scene), get_material("MoTe2"), size)
        for i in (image, image.astype(float) * 1e-7 - 0.3)
    )
    assert other.poisson_lambda.value == pytest.approx(one.poisson_lambda.value, rel=0.02)
    assert other.read_noise.value == pytest.approx(one.read_noise.value * 1e-7, rel=0.05)
    assert other.offset.value == pytest.approx(one.offset.value * 1e-7 - 0.3, abs=1e-5)


def test_the_details_can_be_drawn():
    scene = scene_of(SLANTED)
    image = image_of(scene, poisson_lambda=30.0, gaussian_mu=8.0)
    found, details = measure_in_detail(
        image, scene.lattice, cells_of(scene), get_material("WSe2"), (SLANTED.pixel_size_nm,) * 2
    )
    size = len(details.mean_cell)
    x2, m = (details.mean_cell[int(f * size), int(f * size)] for f in (2 / 3, 1 / 3))
    assert m > x2 > details.mean_cell[0, 0]
    assert np.abs(details.variance / details.line - 1).mean() < 0.1
    assert np.nanstd(details.row_offset_px) == pytest.approx(found.jitter_px.value, rel=0.3)
    assert len(details.row_px) == len(details.row_offset_px) == SLANTED.height_px


def test_steps_of_the_digitiser_are_seen():
    rng = np.random.default_rng(1)
    assert digitiser_step(np.rint(rng.normal(100, 20, 5000))) == 1
    assert digitiser_step(3 * np.rint(rng.normal(100, 20, 5000))) == 3
    assert digitiser_step(rng.normal(100, 20, 5000).astype(np.float32)) == 0
    assert digitiser_step(np.full(10, 2.0)) == 0


def test_the_census_holds_the_measurement(monkeypatch, core, lattice, cells, stem_data):
    from types import SimpleNamespace

    nameless = SimpleNamespace(
        weights=SimpleNamespace(version="0"), calibration=ProbabilityCalibration()
    )
    monkeypatch.setattr(networks, "detector_of", lambda *_: nameless)
    monkeypatch.setattr(networks, "classifier_of", lambda *_: nameless)
    noisy = stem_data + np.random.default_rng(2).normal(0, 0.1, stem_data.shape)
    image = StemImage(noisy.astype(np.float32))
    settings = AnalysisSettings()
    detection = detections.Detection(lattice, None, (0.0147, 0.0147), "lattice")
    found = appraisal.measure(image, detection, cells, settings)
    census = appraisal.census_of(image, detection, cells, settings, found)
    assert census["measurement"] == found.as_dict()
    assert "measurement" not in appraisal.census_of(image, detection, cells, settings)


def test_the_table_shows_value_interval_and_unit(capsys):
    print_measurement(measured(PLAIN, poisson_lambda=30.0, gaussian_mu=5.0), "image.tif")
    text = capsys.readouterr().out
    assert "image.tif" in text
    assert "effective probe, FWHM" in text
    assert "–" in text


def test_the_command_measures_and_writes(tmp_path, monkeypatch, capsys):
    import tifffile

    from napari_point_defects import cli

    scene = scene_of(PLAIN)
    image = image_of(scene, poisson_lambda=30.0, gaussian_mu=5.0).astype(np.uint8)
    tifffile.imwrite(tmp_path / "frame.tif", image)
    size = (PLAIN.pixel_size_nm,) * 2
    detection = detections.Detection(scene.lattice, None, size, "lattice")
    monkeypatch.setattr(pipeline, "detect", lambda *_, **__: detection)
    monkeypatch.setattr(pipeline, "classify", lambda *_, **__: cells_of(scene))
    arguments = ["point-defects", "measure", str(tmp_path / "frame.tif"), "-o", str(tmp_path / "o")]
    monkeypatch.setattr("sys.argv", arguments)
    with pytest.raises(SystemExit) as done:
        cli.main()
    assert not done.value.code
    written = json.loads((tmp_path / "o" / "frame_measurement.json").read_text())
    assert written["measurement"]["poisson_lambda"]["value"] == pytest.approx(30, rel=0.1)
    assert written["material"] == "MoTe2"
    assert "frame.tif" in capsys.readouterr().out
    with pytest.raises(SystemExit) as again:  # nothing is overwritten unasked
        cli.main()
    assert again.value.code == 2
    assert "frame_measurement.json" in capsys.readouterr().err


def test_a_large_image_is_measured_in_part():
    large = PLAIN.model_copy(update={"height_px": 1400, "width_px": 900})
    scene = make_scene(large, np.random.default_rng(5))
    image = image_of(scene, poisson_lambda=30.0, gaussian_mu=5.0)
    found, details = measure_in_detail(
        image, scene.lattice, cells_of(scene), get_material("MoTe2"), (large.pixel_size_nm,) * 2
    )
    height, width = details.window[1]
    assert height * width <= 1_000_000
    assert width == 900
    assert found.poisson_lambda.value == pytest.approx(30, rel=0.05)
    assert found.read_noise.value == pytest.approx(5, rel=0.05)
