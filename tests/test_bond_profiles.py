"""Simulated bond profiles against rendered scenes and physics."""

import numpy as np
import pytest

from napari_point_defects.errors import PointDefectsError
from napari_point_defects.materials import BOND, MATERIALS, DefectClass
from napari_point_defects.profiles import BondProfile, bond_profile, sample_positions
from napari_point_defects.simulation.bond_profiles import (
    BondModel,
    compare_classes,
    fit_bond_model,
    model_of_image,
)
from napari_point_defects.simulation.columns import MicroscopeSettings
from napari_point_defects.simulation.noise import NoiseSettings, add_noise
from napari_point_defects.simulation.scenes import SceneSettings, make_scene

MOTE2 = MATERIALS["MoTe2"]
MANY = (0.05, 0.04, 0.04, 0.03, 0.03)


def simulated(seed=0, counts=None, **settings):
    """A scene, and the image of it with so many counts in an X₂ column, or clean."""
    settings = {"height_px": 360, "width_px": 360, "a_px": 19.0, "defect_rates": MANY} | settings
    rng = np.random.default_rng(seed)
    scene = make_scene(SceneSettings(**settings), rng)
    if counts is None:
        return scene, scene.clean
    noise = NoiseSettings.for_column_counts(scene, counts, gaussian_mu=0, bits=16)
    return scene, add_noise(scene, noise, rng)


def model_of(scene, data, material=MOTE2):
    perfect = scene.classes == DefectClass.PERFECT
    return model_of_image(
        data, scene.lattice, scene.chalcogen_px[perfect], scene.metal_px[perfect], material
    )


def best_classes(scene, data, model, width_a=0.3):
    """The best class of every cell whose band lies in the image, and the true one."""
    found = compare_classes(
        data, scene.lattice, scene.chalcogen_px, scene.metal_px, model, width_a=width_a
    )
    whole = np.isfinite(found.profile.intensity).all(axis=1)
    return found.rms[whole].argmin(axis=1), scene.classes[whole]


@pytest.fixture(scope="module")
def model():
    scene, data = simulated()
    return model_of(scene, data)


def test_curves_are_those_of_rendered_scenes(model):
    """Two independent ways: radial profiles along a line, and an image made in Fourier space."""
    settings = {"height_px": 240, "width_px": 240, "a_px": 60.0, "source_fwhm_nm": 0.08}
    probe = BondModel(MOTE2, MicroscopeSettings(), 0.08, 0.0, 1.0, 0.0, 1.0, 0.0)
    curves = probe.curves(0.4)
    for defect_class in DefectClass:
        scene = make_scene(
            SceneSettings(**settings, defect_rates=(0,) * 5), np.random.default_rng(0)
        )
        middle = np.linalg.norm((scene.chalcogen_px + scene.metal_px) / 2 - 120, axis=1).argmin()
        x, m = scene.chalcogen_px[middle], scene.metal_px[middle]
        clean = with_one_defect(settings, defect_class, (x + m) / 2)
        measured = bond_profile(clean, scene.lattice, x, m, width_a=0.4)
        error = np.abs(measured.intensity - curves[defect_class]).max()
        assert error < 0.01 * np.ptp(curves[DefectClass.PERFECT]), defect_class


def with_one_defect(settings, defect_class, where_px):
    """The clean image of a lattice whose one cell at that place has the class."""
    from napari_point_defects.simulation.scenes import CELL_CHALCOGEN, CELL_METAL, lattice_nodes

    scene_settings = SceneSettings(**settings)
    lattice = scene_settings.lattice()
    nodes = lattice_nodes(lattice, (settings["height_px"], settings["width_px"]))
    centres = lattice.to_image(nodes + (CELL_CHALCOGEN + CELL_METAL) / 2)
    classes = np.zeros(len(nodes), int)
    classes[np.linalg.norm(centres - where_px, axis=1).argmin()] = defect_class
    return make_scene(scene_settings, np.random.default_rng(0), classes=classes).clean


@pytest.mark.parametrize("name", MATERIALS)
def test_curves_are_ordered_as_physics_demands(name):
    model = BondModel(MATERIALS[name], MicroscopeSettings(), 0.08, 0.05, 1000.0, 0.0, 1.0, 0.0)
    curves = model.curves(0.3)
    assert curves.shape == (6, 105)
    position = sample_positions()
    x, m = curves[:, np.abs(position).argmin()], curves[:, np.abs(position - BOND).argmin()]
    perfect, v_x1, v_x2, v_m, v_x1_m, v_x2_m = x
    assert perfect > 1.2 * v_x1
    assert v_x1 > 1.2 * v_x2
    assert v_m == pytest.approx(perfect, rel=0.1)
    assert v_x1_m == pytest.approx(v_x1, rel=0.15)
    assert v_x2_m < v_x2
    # M is there or not, whatever became of X
    assert m[3:].max() < 0.5 * m[:3].min()
    # an empty M site is darker than the hollows, or as dark
    hollow = curves[DefectClass.PERFECT][[0, -1]].mean()
    assert m[DefectClass.V_M] < hollow + 0.15 * (m[0] - hollow)
    assert (curves > 0).all()


def test_a_wider_band_lowers_the_columns(model):
    heights = [np.ptp(model.curves(width)[0]) for width in (0.1, 0.4, 0.8)]
    assert heights[0] > heights[1] > heights[2]


@pytest.mark.parametrize(
    ("settings", "width_nm"),
    [({"source_fwhm_nm": 0.06}, 0.06), ({"source_fwhm_nm": 0.12}, 0.12)],
)
def test_the_microscopes_broadening_is_found(settings, width_nm):
    scene, data = simulated(**settings, a_px=40.0, defect_rates=(0,) * 5)
    found = model_of(scene, data)
    assert found.source_fwhm_nm == pytest.approx(width_nm, abs=0.006)
    assert found.chalcogen_gain == pytest.approx(1, abs=0.02)
    assert found.rms < 0.01 * np.ptp(found.curves(0.3)[0])


@pytest.mark.parametrize(("gain", "offset"), [(1e6, 300.0), (1e6, -5000.0), (40.0, 0.0)])
def test_gain_and_offset_are_found(gain, offset):
    scene, data = simulated()
    found = model_of(scene, gain * data + offset)
    plain = model_of(scene, data)
    assert found.gain == pytest.approx(gain * plain.gain, rel=0.02)
    scale = gain * np.ptp(data)
    np.testing.assert_allclose(
        found.curves(0.3), gain * plain.curves(0.3) + offset, atol=0.01 * scale
    )


def test_other_detectors_brighten_x_columns():
    scene, data = simulated(chalcogen_gain=0.8, counts=4000)
    assert model_of(scene, data).chalcogen_gain == pytest.approx(0.8, abs=0.03)


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("MoTe2", {"counts": 640}),
        ("MoS2", {"counts": 640}),
        ("WSe2", {"counts": 640}),
        ("MoTe2", {"counts": 640, "shear": 0.1, "stretch": -0.11, "angle_deg": 31.0}),
        ("MoTe2", {"counts": 1000, "source_fwhm_nm": 0.1, "tail_fraction": 0.2}),
        ("MoTe2", {"counts": 1000, "chalcogen_gain": 0.85, "a_px": 12.0}),
        ("MoTe2", {"counts": 1000, "contamination": 0.1}),
    ],
)
def test_the_best_profile_is_the_true_class(name, settings):
    """At least 95 % of the cells of every class."""
    scene, data = simulated(material=name, seed=3, **settings)
    model = model_of(scene, data, MATERIALS[name])
    best, truth = best_classes(scene, data, model)
    for defect_class in DefectClass:
        cells = truth == defect_class
        assert cells.sum() >= 5
        right = (best[cells] == defect_class).mean()
        assert right >= 0.95, (defect_class, right, cells.sum())


def test_contamination_lifts_the_curves_with_the_cell():
    scene, data = simulated(defect_rates=(0,) * 5)
    model = model_of(scene, data)
    whole = np.all((scene.metal_px > 90) & (scene.metal_px < 270), axis=1)
    x, m = scene.chalcogen_px[whole][0], scene.metal_px[whole][0]
    lift = 0.8 * np.ptp(data)
    plain, lifted = (
        compare_classes(d, scene.lattice, x, m, model, width_a=0.3) for d in (data, data + lift)
    )
    assert plain.best == lifted.best == DefectClass.PERFECT
    np.testing.assert_allclose(lifted.curves, plain.curves + lift, atol=1e-3 * lift)
    np.testing.assert_allclose(lifted.rms, plain.rms, atol=1e-3 * lift)


def test_a_cell_outside_the_image_agrees_with_nothing(model):
    scene, data = simulated()
    away = np.array([-500.0, -500.0])
    found = compare_classes(data, scene.lattice, away, away + 5, model, width_a=0.3)
    assert found.best is None
    assert np.isnan(found.rms).all()
    assert np.isfinite(found.curves).all()


def test_a_cell_at_the_border_is_judged_by_what_is_seen(model):
    scene, data = simulated()
    data = data.copy()
    cell = np.flatnonzero(
        (scene.classes == DefectClass.V_M)
        & np.all((scene.metal_px > 60) & (scene.metal_px < 300), axis=1)
    )[0]
    x, m = scene.chalcogen_px[cell], scene.metal_px[cell]
    hidden = (x - 0.5 * (m - x)).astype(int)
    data[hidden[0] - 5 : hidden[0] + 5, hidden[1] - 5 : hidden[1] + 5] = np.nan
    found = compare_classes(data, scene.lattice, x, m, model, width_a=0.3)
    assert np.isnan(found.profile.intensity).any()
    assert found.best == DefectClass.V_M


def test_too_few_perfect_cells_are_refused():
    scene, data = simulated()
    with pytest.raises(PointDefectsError, match="only 2 cells are Perfect"):
        model_of_image(data, scene.lattice, scene.chalcogen_px[:2], scene.metal_px[:2], MOTE2)


@pytest.mark.parametrize("level", [np.nan, 7.0])
def test_a_profile_without_columns_is_refused(level):
    flat = np.full(105, level)
    with pytest.raises(PointDefectsError, match="show no profile"):
        fit_bond_model(BondProfile(sample_positions(), flat, flat, 0.3), MOTE2)


def test_a_dark_image_of_columns_is_refused():
    """Bright field: columns are dark."""
    scene, data = simulated()
    with pytest.raises(PointDefectsError, match="check the material"):
        model_of(scene, 1 - data)
