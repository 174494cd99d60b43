"""The simulator set to an image: what comes out measures as what went in."""

from __future__ import annotations

import hashlib
from dataclasses import replace

import numpy as np
import pytest

from napari_point_defects.errors import PointDefectsError
from napari_point_defects.materials import MATERIALS, get_material
from napari_point_defects.measured import Estimate, Measurement
from napari_point_defects.simulation.column_images import (
    WIDEST_SOURCE_NM,
    column_image,
    source_for_fwhm,
)
from napari_point_defects.simulation.columns import MicroscopeSettings
from napari_point_defects.simulation.comparison import compare_images
from napari_point_defects.simulation.comparison_figure import comparison_figure
from napari_point_defects.simulation.images import simulate_example
from napari_point_defects.simulation.likeness import MeasuredImage, match
from napari_point_defects.simulation.noise import NoiseSettings
from napari_point_defects.simulation.presets import PRESETS, TrainingSetSettings
from napari_point_defects.simulation.recipes import Recipe, simulate_recipe
from napari_point_defects.simulation.scenes import SceneSettings, make_scene
from napari_point_defects.simulation.superposition import Blur

MICROSCOPE = MicroscopeSettings()
NAN = Estimate(np.nan, np.nan, np.nan)

RECIPES = {
    "dirty": Recipe(
        scene=SceneSettings(
            material="MoS2",
            height_px=320,
            width_px=300,
            a_px=22,
            angle_deg=13,
            shear=0.05,
            stretch=-0.03,
            jitter_a=0.02,
            source_fwhm_nm=0.09,
            tail_fraction=0.2,
            tail_fwhm_nm=0.3,
            chalcogen_gain=1.1,
            contamination=0.2,
            contamination_length_nm=1.0,
        ),
        noise=NoiseSettings(poisson_lambda=8, gaussian_mu=7),
        seed=3,
    ),
    "bright": Recipe(
        scene=SceneSettings(material="WSe2", height_px=256, width_px=256, a_px=30, angle_deg=-70),
        noise=NoiseSettings(poisson_lambda=90, gaussian_mu=3, bits=16),
        seed=4,
    ),
    "clipped": Recipe(
        scene=SceneSettings(material="MoTe2", height_px=256, width_px=256, a_px=20),
        noise=NoiseSettings(poisson_lambda=20, gaussian_mu=10, black_level=5, gain=1.8),
        seed=5,
    ),
}


def estimate(value, error=0.05):
    return Estimate(value, value * (1 - error), value * (1 + error))


def observed(recipe, **changes):
    """What a perfect measurement of a recipe's image would say."""
    image, scene = simulate_recipe(recipe)
    s, noise = recipe.scene, recipe.noise
    material = get_material(s.material)
    blur = Blur(s.source_fwhm_nm, s.tail_fraction, s.tail_fwhm_nm)
    column = column_image(material, recipe.microscope, blur)
    counts_per_level = noise.poisson_lambda / noise.levels_per_peak(
        scene.brightest_peak / scene.peak
    )
    top = 2**noise.bits - 1
    per_level = top / 255
    found = Measurement(
        counts_per_level=estimate(counts_per_level / per_level),
        poisson_lambda=estimate(noise.poisson_lambda),
        column_counts=estimate(noise.poisson_lambda * scene.pair_volume_px / scene.peak),
        read_noise=estimate(noise.gaussian_mu * per_level),
        offset=estimate(noise.black_level * per_level),
        clipped_low=float((image == 0).mean()),
        clipped_high=float((image == top).mean()),
        probe_fwhm_nm=estimate(column.fwhm_nm),
        tail_fraction=estimate(s.tail_fraction),
        tail_fwhm_nm=estimate(s.tail_fwhm_nm) if s.tail_fraction else NAN,
        jitter_px=estimate(s.jitter_a * s.a_px),
        shear=estimate(s.shear),
        stretch=estimate(s.stretch),
        contamination=estimate(s.contamination),
        contamination_length_nm=estimate(s.contamination_length_nm),
        contrast_ratio=estimate(column.contrast_ratio * s.chalcogen_gain),
        expected_contrast=(column.contrast_ratio * 0.9, column.contrast_ratio * 1.1),
        cells=200,
    )
    counts = tuple(np.bincount(scene.classes, minlength=6).tolist())
    return image, MeasuredImage(
        replace(found, **changes),
        scene.lattice,
        material,
        image.shape,
        s.pixel_size_nm,
        noise.bits,
        counts,
    )


# --- columns ----------------------------------------------------------------------------------


@pytest.mark.parametrize("blur", [Blur(0.05), Blur(0.1, 0.25, 0.35), Blur(0.08, 0, 0.25, 3.0)])
def test_column_is_as_bright_and_wide_as_in_an_image(blur):
    settings = SceneSettings(
        material="WS2",
        height_px=400,
        width_px=400,
        a_px=70,
        source_fwhm_nm=blur.source_fwhm_nm,
        tail_fraction=blur.tail_fraction,
        tail_fwhm_nm=blur.tail_fwhm_nm,
        defocus_nm=blur.defocus_nm,
        defect_rates=(0, 0, 0, 0, 0),
    )
    scene = make_scene(settings, np.random.default_rng(0))
    found = column_image(get_material("WS2"), MICROSCOPE, blur)
    size = settings.pixel_size_nm
    assert found.peak_share(size) == pytest.approx(scene.peak / scene.pair_volume_px, rel=3e-3)
    assert found.brightest() == pytest.approx(scene.brightest_peak / scene.peak, rel=3e-3)
    # the width of a column on its own, along the row through its middle
    from napari_point_defects.simulation.columns import load_columns
    from napari_point_defects.simulation.superposition import Superposer

    superposer = Superposer((301, 301), 0.004, load_columns(get_material("WS2")), MICROSCOPE, blur)
    row = superposer.render({"metal": np.array([[150.0, 150.0]])})[150]
    above = np.flatnonzero(row > row.max() / 2)
    assert (above[-1] - above[0]) * 0.004 == pytest.approx(found.fwhm_nm, abs=0.008)


@pytest.mark.parametrize("source", [0.02, 0.09, 0.3])
@pytest.mark.parametrize("material", ["MoTe2", "WS2"])
def test_source_is_found_again_from_the_width(source, material):
    blur = Blur(source, 0.15, 0.35)
    fwhm = column_image(MATERIALS[material], MICROSCOPE, blur).fwhm_nm
    found = source_for_fwhm(fwhm, MATERIALS[material], MICROSCOPE, replace(blur, source_fwhm_nm=1))
    assert found == pytest.approx(source, abs=1e-3)


def test_widths_that_no_source_makes():
    material = get_material("MoS2")
    assert source_for_fwhm(0.03, material, MICROSCOPE, Blur()) == 0
    assert source_for_fwhm(5.0, material, MICROSCOPE, Blur()) == WIDEST_SOURCE_NM


# --- the simulator's new settings ----------------------------------------------------------------

DRAWN = {0: "cff8b4275ce0ac5f", 1: "6022a5ac195b8522", 2: "0a75a73f19cf344f"}
"""First digits of the sha256 of images made before black level and gain could be chosen."""

RANGES_THEN = {
    "a_px": (10.0, 60.0),
    "shear": (-0.15, 0.15),
    "stretch": (-0.15, 0.15),
    "jitter_a": (0.0, 0.04),
    "tail_fraction": (0.0, 0.3),
    "chalcogen_gain_sigma": 0.12,
    "contamination": (0.0, 0.5),
    "defect_rate": (0.02, 0.16),
    "column_counts": (15.0, 20000.0),
}


@pytest.mark.parametrize("index", DRAWN)
def test_sets_of_before_are_the_same_to_the_byte(index):
    settings = PRESETS["wide"].model_copy(update={"seed": 5, "side_a": 4.0} | RANGES_THEN)
    image = simulate_example(settings, index).image.pixels
    assert hashlib.sha256(image.tobytes()).hexdigest().startswith(DRAWN[index])


def test_black_level_and_gain_cut_the_ends_off():
    recipe = RECIPES["clipped"]
    image, _ = simulate_recipe(recipe)
    assert 0.02 < (image == 0).mean() < 0.4
    assert 0.005 < (image == 255).mean() < 0.2
    plain, _ = simulate_recipe(recipe.model_copy(update={"noise": NoiseSettings()}))
    assert (plain == 255).mean() < 1e-3


def test_training_images_draw_black_level_gain_and_brightness_of_x():
    settings = TrainingSetSettings(
        materials=("MoS2",),
        side_a=4,
        a_px=(12, 12),
        black_level=(-30, -10),
        gain=(1.2, 1.5),
        chalcogen_gain=1.5,
        chalcogen_gain_sigma=0.02,
    )
    examples = [simulate_example(settings, i) for i in range(6)]
    levels = [e.noise.black_level for e in examples]
    assert -30 <= min(levels) < max(levels) <= -10
    assert all(1.2 <= e.noise.gain <= 1.5 for e in examples)
    assert np.mean([e.scene.chalcogen_gain for e in examples]) == pytest.approx(1.5, abs=0.05)
    with pytest.raises(ValueError, match="not a possible range"):
        TrainingSetSettings(gain=(2.0, 1.0))


# --- matching ---------------------------------------------------------------------------------


@pytest.mark.parametrize("name", RECIPES)
def test_recipe_comes_back_from_its_measurement(name):
    recipe = RECIPES[name]
    image, measured = observed(recipe)
    found = match(measured).recipe
    scene, wanted = found.scene, recipe.scene
    assert not match(measured).remarks
    for field in ("a_px", "angle_deg", "shear", "stretch", "jitter_a", "chalcogen_gain"):
        assert getattr(scene, field) == pytest.approx(getattr(wanted, field), abs=1e-3), field
    assert scene.source_fwhm_nm == pytest.approx(wanted.source_fwhm_nm, abs=1e-3)
    assert scene.contamination == wanted.contamination
    assert found.noise.bits == recipe.noise.bits
    assert found.noise.poisson_lambda == recipe.noise.poisson_lambda
    # in units of the signal: black level and gain may be others
    ratio = found.noise.gaussian_mu / recipe.noise.gaussian_mu
    _, made = simulate_recipe(found)
    brightest = made.brightest_peak / made.peak
    levels = [n.levels_per_peak(brightest) for n in (found.noise, recipe.noise)]
    assert ratio == pytest.approx(levels[0] / levels[1], rel=0.02)
    likeness, _ = simulate_recipe(found)
    top = 2**recipe.noise.bits - 1
    for end in (0, top):
        assert (likeness == end).mean() == pytest.approx((image == end).mean(), abs=0.01)
    distance = compare_images(image, likeness, wanted.a_px)
    assert distance.histogram_distance < 0.03
    assert distance.spectrum_distance < 0.25


@pytest.mark.parametrize("name", RECIPES)
def test_set_lies_narrowly_around_the_image(name):
    recipe = RECIPES[name]
    _, measured = observed(recipe)
    settings = match(measured).settings
    scene = recipe.scene
    wide = PRESETS["wide"]
    for field in ("a_px", "shear", "stretch", "jitter_a", "source_fwhm_nm", "tail_fraction"):
        low, high = getattr(settings, field)
        assert low <= getattr(scene, field) <= high + 1e-9, field
        assert high - low < np.ptp(getattr(wide, field)), field
    counts = measured.measurement.column_counts.value
    assert settings.column_counts[0] < counts < settings.column_counts[1] < 3 * counts
    assert settings.materials == (scene.material,)
    assert settings.bits == (recipe.noise.bits,)
    example = simulate_example(settings, 0)
    assert example.scene.chalcogen_gain == pytest.approx(scene.chalcogen_gain, rel=0.25)
    # the set's read noise is the image's, in units of the signal
    brightest = measured.material
    column = column_image(brightest, recipe.microscope, Blur(scene.source_fwhm_nm))
    peak = column.brightest(scene.chalcogen_gain)
    mu = recipe.noise.gaussian_mu / recipe.noise.levels_per_peak(peak)
    drawn = example.noise.gaussian_mu / example.noise.levels_per_peak(peak)
    assert drawn == pytest.approx(mu, rel=0.8)


def test_the_census_gives_the_mix_of_defects():
    _, measured = observed(RECIPES["bright"])
    measured = replace(measured, class_counts=(800, 150, 0, 50, 0, 0))
    found = match(measured)
    assert found.recipe.scene.defect_rates == pytest.approx((0.15, 0, 0.05, 0, 0))
    low, high = found.settings.defect_rate
    assert low < 0.2 < high
    mix = found.settings.class_mix
    assert mix[0] / mix[2] == pytest.approx(3, abs=0.1)
    assert min(mix) > 0  # no class stays unknown to the network


def test_other_pixel_size_is_the_same_image():
    # the simulator has the material's lattice constant, the file may have said another
    _, measured = observed(RECIPES["dirty"])
    m, scale = measured.measurement, 1.25
    longer = {
        name: Estimate(*(scale * v for v in (e.value, e.low, e.high)))
        for name in ("probe_fwhm_nm", "tail_fwhm_nm", "contamination_length_nm")
        for e in [getattr(m, name)]
    }
    other = replace(
        measured,
        measurement=replace(m, **longer),
        pixel_size_nm=scale * measured.pixel_size_nm,
    )
    first, second = match(measured).recipe.scene, match(other).recipe.scene
    assert second.source_fwhm_nm == pytest.approx(first.source_fwhm_nm, abs=1e-3)
    assert second.tail_fwhm_nm == pytest.approx(first.tail_fwhm_nm)


def test_an_image_sharper_than_the_probe_is_said():
    _, measured = observed(RECIPES["bright"], probe_fwhm_nm=estimate(0.06))
    found = match(measured)
    assert found.recipe.scene.source_fwhm_nm == 0
    assert any("sharper than a probe of 80 keV and 27 mrad" in r for r in found.remarks)
    wide = match(replace(measured, measurement=replace(
        measured.measurement, probe_fwhm_nm=estimate(5.0))))  # fmt: skip
    assert any("wider than can be simulated" in r for r in wide.remarks)


def test_what_the_image_does_not_tell_stays_wide():
    unknown = dict.fromkeys(
        (
            "counts_per_level",
            "poisson_lambda",
            "column_counts",
            "read_noise",
            "probe_fwhm_nm",
            "tail_fraction",
            "tail_fwhm_nm",
            "contamination",
            "contamination_length_nm",
            "contrast_ratio",
            "jitter_px",
        ),
        NAN,
    )
    _, measured = observed(RECIPES["bright"], **unknown)
    found = match(measured)
    wide = PRESETS["wide"]
    for field in ("column_counts", "gaussian_mu", "source_fwhm_nm", "tail_fraction"):
        assert getattr(found.settings, field) == getattr(wide, field), field
    assert sum("could not be measured" in r for r in found.remarks) == 3
    image, _ = simulate_recipe(found.recipe)
    assert image.std() > 0


def test_remarks_of_the_measurement_are_passed_on():
    _, measured = observed(RECIPES["bright"], remarks=("this may be a bilayer",))
    assert match(measured).remarks == ("this may be a bilayer",)


def test_what_cannot_be_simulated_is_refused():
    _, measured = observed(RECIPES["bright"])
    with pytest.raises(PointDefectsError, match="cannot be simulated: height_px"):
        match(replace(measured, shape=(8, 8)))


# --- comparison -------------------------------------------------------------------------------


def test_distances_are_nothing_between_an_image_and_itself():
    image, _ = simulate_recipe(RECIPES["bright"])
    same = compare_images(image, 3.0 * image + 50, 30)
    assert same.histogram_distance == pytest.approx(0, abs=1e-9)
    assert same.spectrum_distance == pytest.approx(0, abs=1e-9)
    np.testing.assert_allclose(same.histograms.sum(axis=1), 1)


def test_distances_grow_with_what_differs():
    recipe = RECIPES["bright"]
    image, _ = simulate_recipe(recipe)
    again, _ = simulate_recipe(recipe.model_copy(update={"seed": 99}))
    noisy, _ = simulate_recipe(
        recipe.model_copy(update={"noise": NoiseSettings(poisson_lambda=3, gaussian_mu=30)})
    )
    near, far = compare_images(image, again, 30), compare_images(image, noisy, 30)
    assert far.histogram_distance > 3 * near.histogram_distance
    assert far.spectrum_distance > 3 * near.spectrum_distance


def test_lattice_peaks_are_where_they_belong():
    image, _ = simulate_recipe(RECIPES["bright"])
    found = compare_images(image, image[:200, :190], 30)
    first = 2 / np.sqrt(3)  # the shortest reciprocal vector [1/a]
    near = np.abs(found.frequencies_per_a - first) < 0.15
    for spectrum in found.spectra:
        assert spectrum[near].max() > 10 * np.median(spectrum)


def test_missing_pixels_are_left_out():
    image, _ = simulate_recipe(RECIPES["bright"])
    holed = image.astype(float)
    holed[:20, :] = np.nan
    found = compare_images(holed, image, 30)
    assert found.histogram_distance < 0.02
    assert np.isfinite(found.spectra).all()


def test_figure_shows_both_images_and_both_curves():
    image, _ = simulate_recipe(RECIPES["bright"])
    found = compare_images(image, image, 30)
    figure = comparison_figure(image, image, found, 30, title="an image")
    titles = [axes.get_title() for axes in figure.axes]
    assert titles[:2] == ["image", "simulated"]
    assert "0.000 apart" in titles[2]
    assert len(figure.axes[3].lines) == 2
