"""Simulated images against geometry, physics and counting statistics."""

import hashlib
import json

import numpy as np
import pandas as pd
import pytest
from pydantic import ValidationError
from scipy import ndimage
from scipy.interpolate import CubicSpline
from scipy.spatial import cKDTree

from napari_point_defects.errors import PointDefectsError, Stopped
from napari_point_defects.io import read_image, sample_path
from napari_point_defects.materials import (
    BOND,
    CELL_AREA,
    CHALCOGEN_SITES,
    LATTICE_VECTORS,
    MATERIALS,
    METAL_SITES,
    DefectClass,
    Material,
)
from napari_point_defects.simulation import columns as columns_module
from napari_point_defects.simulation.columns import (
    MicroscopeSettings,
    encode_columns,
    load_columns,
    simulate_columns,
)
from napari_point_defects.simulation.noise import NoiseSettings, add_noise
from napari_point_defects.simulation.presets import PRESETS, TrainingSetSettings
from napari_point_defects.simulation.probe import aberration_filter, wavelength_nm
from napari_point_defects.simulation.recipes import Recipe, simulate_recipe, write_recipe
from napari_point_defects.simulation.scenes import (
    Scene,
    SceneSettings,
    lattice_nodes,
    make_scene,
)
from napari_point_defects.simulation.sets import simulate_image, simulate_training_set
from napari_point_defects.simulation.superposition import Blur, Superposer
from napari_point_defects.training_set import TrainingSet

MICROSCOPE = MicroscopeSettings()
MOTE2 = MATERIALS["MoTe2"]


# --- columns ---------------------------------------------------------------------------------


@pytest.mark.parametrize("material", MATERIALS.values(), ids=MATERIALS)
def test_bundled_columns_look_like_columns(material):
    columns = load_columns(material)
    assert columns.radius_nm[0] == 0
    assert np.diff(columns.radius_nm) == pytest.approx(0.02)
    for name in ("metal", "chalcogen_pair", "chalcogen_single"):
        profile = getattr(columns, name)
        assert profile.argmax() == 0
        assert np.all(profile >= 0)
        # the probe is diffraction limited: half its height within 0.61 λ/α / 2 = 0.05 nm
        half_width = np.interp(-0.5, -profile[:6] / profile[0], columns.radius_nm[:6])
        assert half_width == pytest.approx(0.041, abs=0.008)
        assert profile[-1] < 1e-3 * profile[0]
    # two atoms scatter twice as much as one, a little more where the first focuses the beam
    assert 1.8 < columns.chalcogen_pair[0] / columns.chalcogen_single[0] < 2.5


def test_brightness_follows_the_atomic_number():
    peaks = {
        element: profile[0]
        for material in MATERIALS.values()
        for element, profile in (
            (material.metal, load_columns(material).metal),
            (material.chalcogen, load_columns(material).chalcogen_single),
        )
    }
    # HAADF goes as Z to a power of 1.3 to 2
    for heavy, light, ratio in (("W", "Mo", 74 / 42), ("Te", "Se", 52 / 34), ("Se", "S", 34 / 16)):
        assert ratio**1.3 < peaks[heavy] / peaks[light] < ratio**2.0


def test_every_setting_changes_the_digest():
    changes = {
        "energy_ev": 60e3,
        "semiangle_mrad": 30.0,
        "inner_mrad": 60.0,
        "outer_mrad": 200.0,
        "thermal_sigma_nm": 0.01,
        "phonon_configurations": 8,
        "seed": 2,
    }
    assert set(changes) == set(MicroscopeSettings.model_fields)
    digests = {MicroscopeSettings(**{name: value}).digest() for name, value in changes.items()}
    assert len(digests | {MICROSCOPE.digest()}) == len(changes) + 1


def test_columns_of_other_settings_are_simulated_once(tmp_path, monkeypatch):
    monkeypatch.setenv("POINT_DEFECTS_CACHE", str(tmp_path))
    asked = []

    def simulate(material, microscope):
        asked.append((material, microscope))
        return load_columns(MOTE2).scaled(len(asked))

    monkeypatch.setattr(columns_module, "simulate_columns", simulate)
    other = MicroscopeSettings(energy_ev=60e3)
    first, again = load_columns(MOTE2, other), load_columns(MOTE2, other)
    assert asked == [(MOTE2, other)]
    assert again.chalcogen_pair == pytest.approx(first.chalcogen_pair, rel=1e-5)
    # the same formula with other lengths is another material
    stretched = Material("Mo", "Te", 0.36, 0.36, "a test")
    assert load_columns(stretched).chalcogen_pair[0] > 1.5 * first.chalcogen_pair[0]
    assert asked[1:] == [(stretched, MICROSCOPE)]
    assert len(list(tmp_path.rglob("*.json"))) == 2
    assert not list(tmp_path.rglob("*.tmp"))


def test_columns_are_kept_to_six_digits(tmp_path, monkeypatch):
    content = json.loads(encode_columns(load_columns(MOTE2), MICROSCOPE))
    assert MicroscopeSettings.model_validate(content["microscope"]) == MICROSCOPE
    assert content["metal"] == pytest.approx(load_columns(MOTE2).metal, rel=1e-5)


@pytest.mark.slow
def test_multislice_reproduces_the_bundled_columns(monkeypatch):
    monkeypatch.setattr(columns_module, "PROFILE_RADIUS_NM", 0.04)
    few = MicroscopeSettings(phonon_configurations=4)
    simulated, bundled = simulate_columns(MATERIALS["MoS2"], few), load_columns(MATERIALS["MoS2"])
    assert simulated.radius_nm == pytest.approx([0, 0.02, 0.04])
    for name in ("metal", "chalcogen_pair", "chalcogen_single"):
        assert getattr(simulated, name) == pytest.approx(getattr(bundled, name)[:3], rel=0.08)


# --- probe -----------------------------------------------------------------------------------


@pytest.mark.parametrize(("energy_ev", "pm"), [(80e3, 4.1757), (200e3, 2.5079), (300e3, 1.9687)])
def test_wavelength(energy_ev, pm):
    assert wavelength_nm(energy_ev) * 1e3 == pytest.approx(pm, abs=2e-4)


def transfer(defocus_nm, **astigmatism):
    k = np.linspace(-12.0, 12.0, 49)
    return aberration_filter(
        k[:, None],
        k[None, :],
        energy_ev=80e3,
        semiangle_mrad=27.0,
        defocus_nm=defocus_nm,
        **astigmatism,
    )


def test_no_aberrations_change_nothing():
    k = np.linspace(-12.0, 12.0, 49)
    inside = np.hypot(k[:, None], k[None, :]) < 11
    assert transfer(0.0)[inside] == pytest.approx(1, abs=1e-6)


def test_aberrations_only_take_contrast_away():
    filtered = transfer(6.0, astigmatism_nm=2.0, astigmatism_deg=25.0)
    assert filtered[24, 24] == pytest.approx(1)  # the mean stays
    assert np.abs(filtered).max() < 1.005
    assert np.abs(filtered[24, 34]) < 0.9
    # the image stays real
    assert filtered == pytest.approx(np.conj(filtered[::-1, ::-1]), abs=1e-6)


def test_symmetries_of_the_aberrations():
    # with nothing else wrong, over- and underfocus look alike
    assert transfer(5.0) == pytest.approx(transfer(-5.0), abs=1e-6)
    turned = transfer(3.0, astigmatism_nm=4.0, astigmatism_deg=90.0)
    assert turned == pytest.approx(transfer(3.0, astigmatism_nm=-4.0), abs=1e-6)
    assert turned == pytest.approx(transfer(3.0, astigmatism_nm=4.0).T, abs=1e-6)


# --- superposition ---------------------------------------------------------------------------


def superposer(shape=(96, 100), pixel_size_nm=0.02, blur=Blur()):
    return Superposer(shape, pixel_size_nm, load_columns(MOTE2), MICROSCOPE, blur)


def one(y, x, kind="chalcogen_pair"):
    return {kind: np.array([[y, x]], float)}


@pytest.mark.parametrize("blur", [Blur(), Blur(0.1, 0.3, 0.3, defocus_nm=4.0, astigmatism_nm=1.0)])
@pytest.mark.parametrize("kind", ["metal", "chalcogen_pair", "chalcogen_single"])
def test_peak_and_volume_of_a_column(kind, blur):
    maker = superposer((160, 160), blur=blur)
    image = maker.render(one(80, 80, kind))
    assert np.unravel_index(image.argmax(), image.shape) == (80, 80)
    assert image.max() == pytest.approx(maker.peak[kind], rel=2e-3)
    assert image.sum(dtype=float) == pytest.approx(maker.volume_px[kind], rel=5e-3)


def test_column_against_convolution_in_real_space():
    step, reach = 0.002, 0.5
    axis = np.arange(-reach, reach + step / 2, step)
    columns = load_columns(MOTE2)
    radius = np.hypot(*np.meshgrid(axis, axis))
    spots = CubicSpline(columns.radius_nm, columns.metal)(radius)
    sigma = 0.06 / np.sqrt(8 * np.log(2))
    blurred = ndimage.gaussian_filter(spots, sigma / step)
    middle = len(axis) // 2
    expected = blurred[middle, middle : middle + 101 : 10]
    image = superposer(blur=Blur(source_fwhm_nm=0.06)).render(one(48, 50, "metal"))
    assert image[48, 50:61] == pytest.approx(expected, abs=4e-3 * expected[0])


def test_whole_pixel_shift_moves_the_same_picture():
    maker = superposer()
    base = maker.render(one(40, 45))
    moved = maker.render(one(47, 41))
    assert moved[17:90, 10:90] == pytest.approx(base[10:83, 14:94], abs=1e-5 * float(base.max()))


@pytest.mark.parametrize("shift", [(0.37, -0.48), (-0.25, 0.5)])
def test_fraction_of_a_pixel_is_as_good_as_a_whole_one(shift):
    maker = superposer()
    base = maker.render(one(48, 50))
    moved = maker.render(one(48 + shift[0], 50 + shift[1]))
    expected = np.fft.ifft2(ndimage.fourier_shift(np.fft.fft2(base), shift)).real
    assert moved == pytest.approx(expected, abs=3e-3 * float(base.max()))
    assert moved.sum(dtype=float) == pytest.approx(base.sum(dtype=float), rel=1e-3)


def test_superposition_is_linear():
    maker = superposer()
    rng = np.random.default_rng(0)
    metal, pairs = rng.uniform(0, 96, (2, 12, 2))
    together = maker.render({"metal": metal, "chalcogen_pair": pairs})
    apart = maker.render({"metal": metal}) + maker.render({"chalcogen_pair": pairs})
    assert together == pytest.approx(apart, abs=1e-5 * float(together.max()))
    twice = maker.render({"metal": np.concatenate([metal, metal])})
    assert twice == pytest.approx(2 * maker.render({"metal": metal}), abs=1e-5 * float(twice.max()))


def test_columns_are_round():
    image = superposer((101, 101)).render(one(50, 50))
    for other in (image.T, image[::-1], image[:, ::-1]):
        assert other == pytest.approx(image, abs=1e-4 * float(image.max()))
    angle = np.radians(np.arange(0, 360, 15))
    for radius in (1.5, 3.0, 6.0):
        where = 50 + radius * np.stack([np.sin(angle), np.cos(angle)])
        ring = ndimage.map_coordinates(image, where, order=5)
        assert np.ptp(ring) < 2e-3 * image.max()


def test_astigmatism_makes_them_oval_along_its_axis():
    blur = Blur(defocus_nm=6.0, astigmatism_nm=4.0, astigmatism_deg=0.0)
    image = superposer((101, 101), blur=blur).render(one(50, 50))
    along_x, along_y = image[50, 53], image[53, 50]
    assert abs(along_x - along_y) > 0.02 * image.max()
    turned = Blur(defocus_nm=6.0, astigmatism_nm=4.0, astigmatism_deg=90.0)
    other = superposer((101, 101), blur=turned).render(one(50, 50))
    assert other == pytest.approx(image.T, abs=1e-3 * float(image.max()))


def test_row_shift_moves_each_row_by_exactly_that():
    maker = superposer()
    shift = np.random.default_rng(1).normal(0, 1.5, 96)
    shifted = maker.render(one(48, 50.2), shift)
    for row in (44, 48, 51):
        # the row shows the sample at x + shift: the column appears that much further left
        expected = maker.render(one(48, 50.2 - shift[row]))[row]
        assert shifted[row] == pytest.approx(expected, abs=2e-3 * maker.peak["chalcogen_pair"])


def test_coarse_pixels_are_samples_of_the_same_image():
    fine = superposer((120, 140), 0.02)
    coarse = superposer((60, 70), 0.04)
    assert (fine.fineness, coarse.fineness) == (1, 2)
    points = np.random.default_rng(2).uniform(5, 110, (9, 2))
    expected = fine.render({"metal": points})[::2, ::2]
    found = coarse.render({"metal": points / 2})
    assert found == pytest.approx(expected, abs=2e-3 * float(expected.max()))
    assert coarse.peak["metal"] == pytest.approx(fine.peak["metal"], rel=1e-3)
    assert coarse.volume_px["metal"] == pytest.approx(fine.volume_px["metal"] / 4, rel=1e-3)


def test_columns_outside_the_image_reach_in_and_do_not_wrap():
    maker = superposer()
    image = maker.render(one(-3, 50))
    assert image[0, 50] == pytest.approx(superposer().render(one(48, 50))[51, 50], rel=0.02)
    assert np.abs(image[40:]).max() < 1e-3 * maker.peak["chalcogen_pair"]
    far = maker.render(one(-200, 50))
    assert np.all(far == 0)


def test_no_columns_no_signal():
    maker = superposer()
    assert np.all(maker.render({}) == 0)
    empty = maker.render({"metal": np.zeros((0, 2))})
    assert empty.shape == (96, 100)
    assert np.all(empty == 0)


def test_blur_keeps_the_volume_and_lowers_the_peak():
    sharp = superposer(blur=Blur(source_fwhm_nm=0.04))
    for blur in (Blur(0.1), Blur(0.04, 0.4, 0.3), Blur(0.04, defocus_nm=8.0)):
        blurred = superposer(blur=blur)
        assert blurred.volume_px["metal"] == pytest.approx(sharp.volume_px["metal"], rel=1e-4)
        assert blurred.peak["metal"] < 0.9 * sharp.peak["metal"]


def test_gain_of_the_chalcogen_columns():
    columns = load_columns(MOTE2)
    brighter = columns.scaled(1.3)
    assert brighter.chalcogen_pair == pytest.approx(1.3 * columns.chalcogen_pair)
    assert brighter.chalcogen_single == pytest.approx(1.3 * columns.chalcogen_single)
    assert np.array_equal(brighter.metal, columns.metal)


# --- scenes ----------------------------------------------------------------------------------

PERFECT = (0.0,) * 5
TILTED = SceneSettings(
    height_px=180, width_px=220, a_px=18.0, angle_deg=33.0, shear=0.1, stretch=-0.12
)


def perfect(**changes):
    return TILTED.model_copy(update={"defect_rates": PERFECT} | changes)


@pytest.mark.parametrize("angle_deg", [-150.0, -20.0, 0.0, 75.0])
def test_scene_has_the_lattice_asked_for(angle_deg):
    lattice = TILTED.model_copy(update={"angle_deg": angle_deg}).lattice()
    assert lattice.angle_deg == pytest.approx(angle_deg)
    assert lattice.shear == pytest.approx(0.1)
    assert lattice.stretch == pytest.approx(-0.12)
    assert lattice.a_px == pytest.approx(18.0)
    assert lattice.origin_px == pytest.approx([89.5, 109.5])


def test_pixel_size_follows_from_the_lattice_constant():
    assert SceneSettings(a_px=76.0).pixel_size_nm == pytest.approx(0.3519 / 76)


def test_nodes_are_every_hollow_around_the_image():
    lattice, shape = TILTED.lattice(), (180, 220)
    nodes = lattice_nodes(lattice, shape, margin=2.0)
    steps = nodes @ np.linalg.inv(LATTICE_VECTORS)
    assert steps == pytest.approx(np.rint(steps), abs=1e-9)
    assert len(np.unique(np.rint(steps), axis=0)) == len(nodes)
    area = (180 + 72) * (220 + 72)
    assert len(nodes) * lattice.cell_area_px == pytest.approx(area, rel=0.04)


def test_truth_of_a_perfect_scene():
    scene = make_scene(perfect(), np.random.default_rng(0))
    assert np.all(scene.classes == DefectClass.PERFECT)
    for points, site in (
        (scene.chalcogen_px, CHALCOGEN_SITES[0]),
        (scene.metal_px, METAL_SITES[0]),
    ):
        steps = (scene.lattice.to_canonical(points) - site) @ np.linalg.inv(LATTICE_VECTORS)
        assert steps == pytest.approx(np.rint(steps), abs=1e-9)
        assert points.min() >= 0
        assert np.all(points.max(axis=0) <= [179, 219])
    bond = scene.lattice.to_canonical(scene.metal_px) - scene.lattice.to_canonical(
        scene.chalcogen_px
    )
    assert bond == pytest.approx(np.tile([-BOND / 2, 0.5], (len(bond), 1)))
    # one cell for every primitive cell's area, less those the frame cuts
    assert 0.88 < len(scene.classes) * scene.lattice.cell_area_px / (180 * 220) < 1.0


def test_hexagons_are_those_with_six_columns_in_the_image():
    scene = make_scene(perfect(), np.random.default_rng(0))
    sites = np.concatenate([CHALCOGEN_SITES, METAL_SITES])
    hollows = scene.lattice.to_canonical(scene.hexagons_px)
    columns = scene.lattice.to_image(hollows[:, None] + sites)
    assert columns.min() >= 0
    assert np.all(columns.max(axis=(0, 1)) <= [179, 219])
    nodes = lattice_nodes(scene.lattice, (180, 220))
    whole = scene.lattice.to_image(nodes[:, None] + sites)
    inside = np.all((whole >= 0) & (whole <= [179, 219]), axis=(1, 2))
    assert inside.sum() == len(scene.hexagons_px) > 50


@pytest.mark.parametrize("distortion", [{}, {"drift_a": 0.4}, {"jitter_a": 0.02}])
def test_columns_are_where_the_truth_says(distortion):
    scene = make_scene(perfect(**distortion), np.random.default_rng(3))
    centres = np.concatenate([scene.chalcogen_px, scene.metal_px])
    inner = np.all((centres > 8) & (centres < [171, 211]), axis=1)
    centres = centres[inner]
    nearest = np.rint(centres).astype(int)
    window = np.arange(-4, 5)
    offsets = np.stack(np.meshgrid(window, window, indexing="ij"), -1).reshape(-1, 2)
    where = nearest[:, None] + offsets
    values = scene.clean[where[..., 0], where[..., 1]]
    values = values - values.min(axis=1, keepdims=True)
    values[values < 0.3 * values.max(axis=1, keepdims=True)] = 0
    centroid = (values[..., None] * where).sum(axis=1) / values.sum(axis=1)[:, None]
    error = np.linalg.norm(centroid - centres, axis=1)
    assert np.median(error) < 0.35


def test_drift_bends_slowly_and_moves_no_cell_out_of_line():
    scene = make_scene(perfect(drift_a=0.4), np.random.default_rng(4))
    ideal = scene.lattice.to_canonical(scene.chalcogen_px) - CHALCOGEN_SITES[0]
    nearest = np.rint(ideal @ np.linalg.inv(LATTICE_VECTORS)) @ LATTICE_VECTORS
    moved = np.linalg.norm(ideal - nearest, axis=1)
    assert 0.03 < moved.max() < 0.6
    # neighbours along a scan row drift together
    order = np.argsort(scene.chalcogen_px[:, 0])
    y = scene.chalcogen_px[order, 0]
    bend = (scene.chalcogen_px - scene.lattice.to_image(nearest + CHALCOGEN_SITES[0]))[order]
    close = np.diff(y) < 0.5
    assert np.abs(np.diff(bend, axis=0)[close]).max() < 0.3


def test_jitter_has_the_width_asked_for():
    settings = perfect(height_px=400, a_px=20.0)
    still = make_scene(settings, np.random.default_rng(5))
    shaken = make_scene(settings.model_copy(update={"jitter_a": 0.01}), np.random.default_rng(5))
    assert np.array_equal(still.chalcogen_px, shaken.chalcogen_px)
    slope = np.gradient(still.clean, axis=1)
    shift = ((shaken.clean - still.clean) * slope).sum(axis=1) / (slope**2).sum(axis=1)
    assert shift.std() == pytest.approx(0.01 * 20, rel=0.12)
    assert abs(shift.mean()) < 0.04


@pytest.mark.parametrize("defect", list(DefectClass))
def test_a_defect_takes_away_exactly_its_atoms(defect):
    settings = perfect(angle_deg=10.0)
    nodes = lattice_nodes(settings.lattice(), (180, 220))
    classes = np.zeros(len(nodes), int)
    middle = np.argmin((nodes**2).sum(axis=1))
    classes[middle] = defect
    rng = np.random.default_rng(0)
    whole = make_scene(settings, rng, classes=np.zeros(len(nodes), int))
    broken = make_scene(settings, rng, classes=classes)
    maker = Superposer((180, 220), settings.pixel_size_nm, load_columns(MOTE2), MICROSCOPE, Blur())
    chalcogen = whole.lattice.to_image(nodes[[middle]] + CHALCOGEN_SITES[0])
    metal = whole.lattice.to_image(nodes[[middle]] + METAL_SITES[0])
    missing = np.zeros((180, 220))
    if defect.missing_chalcogens:
        missing += maker.render({"chalcogen_pair": chalcogen})
    if defect.missing_chalcogens == 1:
        missing -= maker.render({"chalcogen_single": chalcogen})
    if defect.metal_missing:
        missing += maker.render({"metal": metal})
    assert whole.clean - broken.clean == pytest.approx(missing, abs=1e-4 * whole.peak)
    assert broken.classes.sum() == defect
    (index,) = np.flatnonzero(broken.chalcogen_px[:, 0] == chalcogen[0, 0])[:1]
    assert broken.classes[index] == defect


def test_defects_come_at_their_rates():
    rates = np.array([0.08, 0.04, 0.03, 0.02, 0.01])
    settings = SceneSettings(height_px=400, width_px=400, a_px=6.0, defect_rates=tuple(rates))
    scene = make_scene(settings, np.random.default_rng(6))
    counts, total = np.bincount(scene.classes, minlength=6)[1:], len(scene.classes)
    assert total > 4500
    assert np.all(np.abs(counts - total * rates) < 4 * np.sqrt(total * rates))


def test_scene_settings_refuse_impossible_rates():
    for rates in ((0.5, 0.5, 0.5, 0, 0), (-0.1, 0, 0, 0, 0)):
        with pytest.raises(ValidationError):
            SceneSettings(defect_rates=rates)


def distance_to_material(scene):
    """Distance [px] of every pixel to the nearest column, 0 near the frame."""
    columns = np.concatenate([scene.chalcogen_px, scene.metal_px])
    pixels = np.stack(np.indices(scene.clean.shape), -1).reshape(-1, 2)
    distance = cKDTree(columns).query(pixels)[0].reshape(scene.clean.shape)
    # what lies outside the frame is not in the truth
    distance[:30], distance[-30:], distance[:, :30], distance[:, -30:] = 0, 0, 0, 0
    return distance


@pytest.mark.parametrize(
    ("vacuum", "fraction", "seed"), [("edge", 0.35, 1), ("edge", 0.35, 4), ("hole", 0.12, 2)]
)
def test_vacuum_is_empty_and_its_cells_are_gone(vacuum, fraction, seed):
    settings = perfect(
        height_px=300, width_px=300, a_px=14.0, vacuum=vacuum, vacuum_fraction=fraction
    )
    scene = make_scene(settings, np.random.default_rng(seed))
    whole = make_scene(settings.model_copy(update={"vacuum": "none"}), np.random.default_rng(seed))
    lost = 1 - len(scene.classes) / len(whole.classes)
    # an edge cuts its share off the diagonal, a hole takes it from the area
    assert lost == pytest.approx(fraction, abs=0.04 if vacuum == "hole" else 0.15)
    empty = distance_to_material(scene) > 1.5 * 14
    assert empty.sum() > 50
    assert scene.clean[empty].max() < 0.02 * scene.peak
    assert len(scene.hexagons_px) < len(whole.hexagons_px)
    # and where the truth has a cell, both its columns are there
    for points, share in ((scene.chalcogen_px, 0.8), (scene.metal_px, 0.25)):
        rows, cols = np.rint(points).astype(int).T
        assert scene.clean[rows, cols].min() > share * scene.peak


def test_contamination_has_the_mean_asked_for():
    clean = make_scene(perfect(), np.random.default_rng(7))
    dirty = make_scene(perfect(contamination=0.4), np.random.default_rng(7))
    added = (dirty.clean - clean.clean) / clean.brightest_peak
    assert added.mean() == pytest.approx(0.4, rel=1e-3)
    assert added.min() > 0
    assert np.array_equal(dirty.chalcogen_px, clean.chalcogen_px)


def test_contamination_is_as_coarse_as_asked():
    roughness = []
    for length in (0.2, 0.6):
        settings = perfect(contamination=0.4, contamination_length_nm=length)
        field = (
            make_scene(settings, np.random.default_rng(8)).clean
            - make_scene(perfect(), np.random.default_rng(8)).clean
        )
        roughness.append(np.diff(field, axis=0).std() / field.std())
    assert roughness[0] / roughness[1] == pytest.approx(3, rel=0.25)


def test_no_contamination_over_a_hole():
    settings = perfect(height_px=300, width_px=300, a_px=14.0, vacuum="hole", vacuum_fraction=0.12)
    scene = make_scene(settings.model_copy(update={"contamination": 0.5}), np.random.default_rng(2))
    empty = distance_to_material(scene) > 2.5 * 14
    assert empty.sum() > 50
    assert scene.clean[empty].max() < 0.02 * scene.brightest_peak


# --- noise -----------------------------------------------------------------------------------


def flat_scene(level, side=300):
    none = np.zeros((0, 2))
    clean = np.full((side, side), level * 0.02, np.float32)
    return Scene(clean, TILTED.lattice(), none, none, np.zeros(0, int), none, 0.02, 0.03, 1.0)


def counts_in(image, noise, brightest=1.5):
    """Undo the digitiser: counts per pixel from grey levels without Gaussian noise."""
    lam = noise.poisson_lambda
    white = brightest + 3 * np.sqrt(brightest / lam) + 2 / lam
    grey = image / (257 if noise.bits == 16 else 1)
    return (grey - noise.black_level) * white / (255 - noise.black_level) * lam


@pytest.mark.parametrize("lam", [5.0, 20.0, 400.0])
def test_poisson_noise_has_the_mean_and_variance_of_counts(lam):
    noise = NoiseSettings(poisson_lambda=lam, gaussian_mu=0, bits=16)
    counts = counts_in(add_noise(flat_scene(0.5), noise, np.random.default_rng(0)), noise)
    assert np.abs(counts - np.rint(counts)).max() < 0.02  # whole counts
    assert counts.mean() == pytest.approx(lam / 2, abs=4 * np.sqrt(lam / 2 / counts.size))
    assert counts.var() == pytest.approx(lam / 2, rel=0.03)


@pytest.mark.parametrize("bits", [8, 16])
def test_gaussian_noise_has_its_width_in_grey_levels(bits):
    noise = NoiseSettings(poisson_lambda=0, gaussian_mu=20, black_level=110, bits=bits)
    image = add_noise(flat_scene(0.0), noise, np.random.default_rng(1))
    assert image.dtype == (np.uint8 if bits == 8 else np.uint16)
    grey = image / (1 if bits == 8 else 257)
    assert grey.mean() == pytest.approx(110, abs=0.3)
    assert grey.std() == pytest.approx(20, rel=0.01)


def test_eight_and_sixteen_bits_agree():
    scene = flat_scene(0.8)
    images = [
        add_noise(scene, NoiseSettings(bits=bits), np.random.default_rng(2)) for bits in (8, 16)
    ]
    assert np.abs(images[0] - images[1] / 257).max() <= 0.51
    assert images[1].max() > 255


def test_without_noise_the_signal_is_linear_between_black_and_white():
    noise = NoiseSettings(poisson_lambda=0, gaussian_mu=0, bits=16, black_level=20)
    for level, grey in ((0.0, 20), (1.5, 255), (0.75, 137.5), (-0.2, 20)):
        image = add_noise(flat_scene(level, 16), noise, np.random.default_rng(0))
        assert image / 257 == pytest.approx(grey, abs=0.01)


def test_brightest_columns_are_hardly_ever_cut_off():
    noise = NoiseSettings(poisson_lambda=10, gaussian_mu=0, bits=8)
    image = add_noise(flat_scene(1.5), noise, np.random.default_rng(3))
    assert (image == 255).mean() < 0.005
    assert image.mean() > 120


def test_counts_of_a_whole_column():
    maker = superposer((160, 160))
    clean = maker.render(one(80, 80))
    none = np.zeros((0, 2))
    peak, volume = maker.peak["chalcogen_pair"], maker.volume_px["chalcogen_pair"]
    scene = Scene(clean, TILTED.lattice(), none, none, np.zeros(0, int), none, peak, peak, volume)
    noise = NoiseSettings.for_column_counts(scene, 20_000, gaussian_mu=0, bits=16)
    counts = counts_in(add_noise(scene, noise, np.random.default_rng(4)), noise, brightest=1.0)
    assert counts.sum() == pytest.approx(20_000, abs=5 * np.sqrt(20_000) + 100)
    ten_times = NoiseSettings.for_column_counts(scene, 200_000)
    assert ten_times.poisson_lambda == pytest.approx(10 * noise.poisson_lambda)


def test_counts_scale_with_the_dose():
    relative_noise = []
    for lam in (10, 1000):
        noise = NoiseSettings(poisson_lambda=lam, gaussian_mu=0, bits=16)
        counts = counts_in(add_noise(flat_scene(0.9), noise, np.random.default_rng(5)), noise)
        assert counts.mean() == pytest.approx(0.9 * lam, rel=0.01)
        relative_noise.append(counts.std() / counts.mean())
    assert relative_noise[0] / relative_noise[1] == pytest.approx(10, rel=0.02)


@pytest.mark.parametrize("bits", [0, 1, 12, 32])
def test_only_eight_and_sixteen_bits(bits):
    with pytest.raises(ValidationError):
        NoiseSettings(bits=bits)


# --- presets and sets ------------------------------------------------------------------------

SMALL = TrainingSetSettings(
    materials=("MoTe2", "WS2"),
    train_images=4,
    validation_images=2,
    side_a=7.0,
    a_px=(10.0, 13.0),
    seed=11,
)


def hashes(folder):
    return {
        str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest()
        for p in folder.rglob("*")
        if p.is_file()
    }


def test_same_seed_same_bytes(tmp_path):
    simulate_training_set(SMALL, tmp_path / "a", workers=1)
    simulate_training_set(SMALL, tmp_path / "b", workers=2)
    other = SMALL.model_copy(update={"seed": 12})
    simulate_training_set(other, tmp_path / "c", workers=2)
    first, again, different = (hashes(tmp_path / name) for name in "abc")
    assert len(first) == 4 + 2 + 2 + 1
    assert first == again
    assert first.keys() == different.keys()
    assert not set(first.values()) & set(different.values())


def test_settings_are_recorded_whole(tmp_path):
    simulate_training_set(SMALL, tmp_path, workers=1)
    record = json.loads((tmp_path / "settings.json").read_text())
    assert record.pop("program")
    assert TrainingSetSettings.model_validate(record) == SMALL
    assert record["seed"] == 11
    assert record["microscope"]["energy_ev"] == 80e3


def test_splits_are_whole_and_different(tmp_path):
    simulate_training_set(SMALL, tmp_path, workers=1)
    train, validation = TrainingSet(tmp_path / "train"), TrainingSet(tmp_path / "validation")
    assert (len(train), len(validation)) == (4, 2)
    images = [item.pixels.tobytes() for split in (train, validation) for item in split]
    assert len(set(images)) == 6
    assert train.class_counts()[0] > 50
    assert {item.material for item in train} <= {"MoTe2", "WS2"}


@pytest.mark.parametrize("after", [1, 3, 5])
def test_stopped_set_is_smaller_and_valid(tmp_path, after):
    seen = []

    def on_progress(share, text):
        seen.append(share)

    with pytest.raises(Stopped):
        simulate_training_set(
            SMALL,
            tmp_path,
            workers=1,
            on_progress=on_progress,
            should_stop=lambda: len(seen) >= after,
        )
    splits = [TrainingSet(tmp_path / name) for name in ("train", "validation")]
    # both are there as soon as there are two images: training needs both
    assert min(map(len, splits)) >= (after > 1)
    items = [item for split in splits for item in split]
    assert len(items) == len(seen) == after
    assert all(len(item.classes) for item in items)
    assert seen == pytest.approx(np.arange(1, after + 1) / 6)
    assert not list(tmp_path.rglob("*.tmp"))


def test_sets_are_never_overwritten(tmp_path):
    tiny = SMALL.model_copy(update={"train_images": 1, "validation_images": 0})
    simulate_training_set(tiny, tmp_path, workers=1)
    before = hashes(tmp_path)
    with pytest.raises(PointDefectsError, match="holds a training set already"):
        simulate_training_set(tiny, tmp_path, workers=1)
    assert hashes(tmp_path) == before


def test_unknown_material_leaves_no_trace(tmp_path):
    wrong = SMALL.model_copy(update={"materials": ("graphene",)})
    with pytest.raises(PointDefectsError, match="unknown material"):
        simulate_training_set(wrong, tmp_path / "set", workers=1)
    assert not (tmp_path / "set").exists()


def test_an_image_does_not_depend_on_the_others():
    alone = simulate_image(SMALL, 0, 3)
    simulate_image(SMALL, 0, 0)
    again = simulate_image(SMALL, 0, 3)
    assert np.array_equal(alone.pixels, again.pixels)
    assert not np.array_equal(alone.pixels, simulate_image(SMALL, 1, 3).pixels)


def test_paper_presets_have_the_papers_numbers():
    hexagons, cells = PRESETS["paper-cnn1"], PRESETS["paper-cnn2"]
    assert (hexagons.train_images, hexagons.validation_images) == (500, 50)
    # 800 and 200 cells for each of six classes, one labelled cell an image
    assert (cells.train_images, cells.validation_images) == (6 * 800, 6 * 200)
    assert cells.one_cell
    for preset in (hexagons, cells):
        assert preset.poisson_lambda == (5.0, 20.0)
        assert preset.gaussian_mu == (20.0, 20.0)
        assert preset.gaussian_share == 1.0
        assert preset.column_counts is None
        assert preset.materials == ("MoTe2",)
        assert preset.microscope == MICROSCOPE
    scene = hexagons.draw_scene(np.random.default_rng(0))
    assert (scene.height_px, scene.width_px) == (512, 512)
    assert set(PRESETS["wide"].materials) == set(MATERIALS)
    assert {name: preset.preset for name, preset in PRESETS.items()} == {n: n for n in PRESETS}


def test_paper_cells_show_each_class_as_often():
    small = PRESETS["paper-cnn2"].model_copy(update={"a_px": (24.0, 24.0)})
    items = [simulate_image(small, 0, index) for index in range(12)]
    assert [len(item.classes) for item in items] == [1] * 12
    assert sorted(int(item.classes[0]) for item in items) == sorted([*range(6)] * 2)
    for item in items:
        middle = (item.chalcogen_px[0] + item.metal_px[0]) / 2
        assert np.linalg.norm(middle - (np.array(item.pixels.shape) - 1) / 2) < 0.6 * 24


def test_paper_cells_lack_the_atoms_they_are_labelled_with():
    bright = PRESETS["paper-cnn2"].model_copy(
        update={"a_px": (24.0, 24.0), "column_counts": (1e6, 1e6), "gaussian_share": 0.0}
    )
    levels = []
    for index in range(6):
        item = simulate_image(bright, 0, index)
        image = ndimage.uniform_filter(item.pixels.astype(float), 3)
        columns = np.rint(np.concatenate([item.chalcogen_px, item.metal_px])).astype(int)
        levels.append([image[tuple(c)] for c in columns])
        assert item.classes[0] == index
    chalcogen, metal = np.array(levels).T
    for index, defect in enumerate(DefectClass):
        assert (chalcogen[index] < 0.8 * chalcogen[0]) == (defect.missing_chalcogens > 0)
        assert (metal[index] < 0.6 * metal[0]) == defect.metal_missing
    assert chalcogen[DefectClass.V_X2] < 0.6 * chalcogen[DefectClass.V_X1]


def test_scenes_are_drawn_from_the_whole_range():
    rng = np.random.default_rng(9)
    wide = PRESETS["wide"]
    scenes = [wide.draw_scene(rng) for _ in range(400)]
    for name in ("a_px", "angle_deg", "shear", "stretch", "drift_a", "jitter_a", "defocus_nm"):
        low, high = getattr(wide, name)
        values = np.array([getattr(scene, name) for scene in scenes])
        assert low <= values.min() < low + 0.1 * (high - low)
        assert high - 0.1 * (high - low) < values.max() <= high
    assert np.mean([s.contamination > 0 for s in scenes]) == pytest.approx(0.6, abs=0.1)
    assert np.mean([s.vacuum != "none" for s in scenes]) == pytest.approx(0.25, abs=0.09)
    assert {s.material for s in scenes} == set(MATERIALS)
    rates = np.array([sum(s.defect_rates) for s in scenes])
    assert 0.001 <= rates.min() < 0.0015
    assert 0.28 < rates.max() <= 0.35 + 1e-12


@pytest.mark.parametrize(
    "wrong",
    [
        {"a_px": (0.0, 10.0)},
        {"a_px": (30.0, 20.0)},
        {"column_counts": (0.0, 100.0)},
        {"defect_rate": (0.0, 0.1)},
        {"bits": (12,)},
        {"materials": ()},
        {"train_images": 0},
    ],
)
def test_impossible_ranges_are_refused(wrong):
    with pytest.raises(ValidationError):
        TrainingSetSettings(**wrong)


# --- recipes and the bundled samples ---------------------------------------------------------

RECIPE = Recipe(
    scene=SceneSettings(material="WSe2", height_px=130, width_px=150, a_px=16.0, angle_deg=12.0),
    noise=NoiseSettings(poisson_lambda=30.0),
    seed=5,
)


def test_recipe_gives_a_calibrated_image_and_its_truth(tmp_path):
    image_path, truth_path = write_recipe(RECIPE, "field", tmp_path)
    pixels, scene = simulate_recipe(RECIPE)
    image = read_image(image_path)
    assert np.array_equal(image.data, pixels)
    assert image.calibration.source == "file"
    assert image.calibration.pixel_size_nm == pytest.approx((0.3282 / 16,) * 2, rel=1e-4)
    truth = pd.read_csv(truth_path)
    assert len(truth) == len(scene.classes)
    assert truth[["metal_y", "metal_x"]].to_numpy() == pytest.approx(scene.metal_px, abs=1e-3)
    labels = np.array(MATERIALS["WSe2"].class_labels)
    assert list(truth["label"]) == list(labels[scene.classes])
    assert len(list(tmp_path.iterdir())) == 2


def test_recipe_gives_the_same_bytes_again(tmp_path):
    first = [p.read_bytes() for p in write_recipe(RECIPE, "field", tmp_path / "a")]
    assert [p.read_bytes() for p in write_recipe(RECIPE, "field", tmp_path / "b")] == first
    other = RECIPE.model_copy(update={"seed": 6})
    assert write_recipe(other, "field", tmp_path / "c")[0].read_bytes() != first[0]


def test_recipe_asks_before_it_overwrites(tmp_path):
    write_recipe(RECIPE, "field", tmp_path)
    with pytest.raises(PointDefectsError, match="--overwrite"):
        write_recipe(RECIPE, "field", tmp_path)
    write_recipe(RECIPE, "field", tmp_path, overwrite=True)


@pytest.mark.parametrize("name", ["MoTe2_pristine", "MoTe2_contaminated", "MoTe2_rotated_17deg"])
def test_bundled_samples_are_what_their_recipes_say(name):
    path = sample_path(f"{name}.tif")
    recipe = Recipe.model_validate_json(path.with_suffix(".json").read_text())
    scene, noise = recipe.scene, recipe.noise
    assert 5 <= noise.poisson_lambda <= 20
    assert noise.gaussian_mu == 20
    assert noise.bits == 8
    image = read_image(path)
    assert image.data.shape == (2048, 2048) == (scene.height_px, scene.width_px)
    assert image.data.max() <= 255
    assert image.calibration.pixel_size_nm == pytest.approx((scene.pixel_size_nm,) * 2, rel=1e-4)
    truth = pd.read_csv(path.with_name(f"{name}_truth.csv"))
    cells = 2048**2 / (CELL_AREA * scene.a_px**2)
    assert 0.9 * cells < len(truth) < cells
    assert set(truth["label"]) <= set(MOTE2.class_labels)
    # columns are brighter than the bonds between them: truth and image belong together
    smooth = ndimage.uniform_filter(image.data, 9)
    perfect_cells = truth[truth["label"] == "Perfect"]
    chalcogen = perfect_cells[["chalcogen_y", "chalcogen_x"]].to_numpy()
    metal = perfect_cells[["metal_y", "metal_x"]].to_numpy()

    def level(points):
        rows, cols = np.rint(points).astype(int).T
        return smooth[rows, cols].mean()

    assert level(chalcogen) > 1.3 * level((chalcogen + metal) / 2)


def test_samples_show_the_three_cases_of_the_paper():
    scenes = {
        name: Recipe.model_validate_json(sample_path(f"MoTe2_{name}.json").read_text()).scene
        for name in ("pristine", "contaminated", "rotated_17deg")
    }
    assert scenes["rotated_17deg"].angle_deg == 17
    assert scenes["contaminated"].contamination > 0
    assert scenes["contaminated"].drift_a > 0
