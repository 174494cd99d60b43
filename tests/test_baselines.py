"""The column-intensity rule on images whose answers are known."""

import numpy as np
import pytest

from napari_point_defects.baselines.column_intensity import (
    column_intensities,
    column_intensity_classes,
    single_share,
)
from napari_point_defects.materials import MATERIALS, DefectClass, get_material
from napari_point_defects.records import UnitCells
from napari_point_defects.simulation.noise import NoiseSettings, add_noise
from napari_point_defects.simulation.scenes import SceneSettings, make_scene


def seen(counts=3000.0, seed=0, **settings):
    """Return an image, its scene and the scene's unit cells."""
    settings = {"height_px": 280, "width_px": 280, "a_px": 20.0, "angle_deg": 11.0} | settings
    rng = np.random.default_rng([4711, seed])
    scene = make_scene(SceneSettings(**settings), rng)
    noise = NoiseSettings.for_column_counts(scene, counts, gaussian_mu=2.0, bits=16)
    cells = UnitCells.unclassified(
        scene.chalcogen_px, scene.metal_px, np.full(len(scene.classes), 2)
    )
    return add_noise(scene, noise, rng).astype(np.float32), scene, cells


EVERY_CLASS = {"defect_rates": (0.06, 0.04, 0.04, 0.03, 0.03)}


@pytest.mark.parametrize("material", ["MoTe2", "MoS2", "WSe2"])
def test_bright_images_are_judged_without_error(material):
    data, scene, cells = seen(material=material, **EVERY_CLASS)
    classes = column_intensity_classes(data, scene.lattice, cells, get_material(material))
    assert set(classes) == set(DefectClass)
    assert np.array_equal(classes, scene.classes)


def test_offset_and_gain_of_the_image_do_not_matter():
    data, scene, cells = seen(counts=300, **EVERY_CLASS)
    args = scene.lattice, cells, get_material("MoTe2")
    plain = column_intensities(data, *args)
    changed = column_intensities(data * 0.013 - 5, *args)
    assert np.allclose(plain.chalcogen, changed.chalcogen, atol=1e-3)
    assert np.array_equal(plain.classes, changed.classes)


def test_an_empty_metal_site_reads_darker_than_a_hollow():
    data, scene, cells = seen(counts=30000, defect_rates=(0, 0, 0.05, 0, 0), source_fwhm_nm=0.1)
    found = column_intensities(data, scene.lattice, cells, get_material("MoTe2"))
    empty = found.metal[scene.classes == DefectClass.V_M]
    assert empty.max() < 0
    assert found.metal_threshold < 0.5  # the level of the empty site follows the image


def test_noise_and_margin_follow_the_dose():
    args = get_material("MoTe2")
    noises = []
    for counts in (100, 400, 1600):
        data, scene, cells = seen(counts, height_px=400, width_px=400)
        found = column_intensities(data, scene.lattice, cells, args)
        noises.append(found.chalcogen_noise)
        wrong = found.classes != scene.classes
        if wrong.sum() > 10:
            assert np.median(found.margin[wrong]) < 0.5 * np.median(found.margin[~wrong])
    # counting noise: four times the dose, half the scatter; the hollows' share of it is smaller
    assert noises[0] / noises[1] == pytest.approx(2, rel=0.25)
    assert noises[1] / noises[2] == pytest.approx(2, rel=0.35)


def test_columns_that_were_not_recorded_count_as_there_without_margin():
    data, scene, cells = seen()
    data[:, :60] = np.nan
    found = column_intensities(data, scene.lattice, cells, get_material("MoTe2"))
    unseen = cells.chalcogen_px[:, 1] < 50
    assert unseen.any()
    assert np.isnan(found.chalcogen[unseen]).all()
    assert (found.margin[unseen] == 0).all()
    assert np.isfinite(found.margin).all()
    far = cells.chalcogen_px[:, 1] > 85
    assert np.array_equal(found.classes[far], scene.classes[far])


def test_no_cells_and_an_image_without_columns_are_no_error():
    data, scene, cells = seen()
    material = get_material("MoTe2")
    assert column_intensity_classes(data, scene.lattice, cells.take([]), material).shape == (0,)
    flat = column_intensities(np.ones_like(data), scene.lattice, cells, material)
    assert len(flat.classes) == len(cells)
    assert np.isfinite(flat.margin).all()


def test_one_atom_is_less_than_half_of_two_and_less_for_heavier_ones():
    shares = [single_share(get_material(name)) for name in ("MoS2", "MoSe2", "MoTe2")]
    assert shares == sorted(shares, reverse=True)
    assert all(0.35 < single_share(material) < 0.5 for material in MATERIALS.values())


@pytest.mark.parametrize("material", ["MoTe2", "WS2"])
def test_unmixing_neighbours_helps_where_counts_are_few(material):
    wrong = {False: 0, True: 0}
    for seed in range(2):
        data, scene, cells = seen(
            90, seed, material=material, height_px=420, width_px=420, tail_fraction=0.15
        )
        for unmixed in wrong:
            classes = column_intensity_classes(
                data, scene.lattice, cells, get_material(material), unmixed=unmixed
            )
            wrong[unmixed] += int((classes != scene.classes).sum())
    assert wrong[True] < 0.5 * wrong[False]


def test_unmixed_columns_are_free_of_tails_and_dirt():
    data, scene, cells = seen(
        30000, contamination=0.2, source_fwhm_nm=0.1, tail_fraction=0.2, **EVERY_CLASS
    )
    found = column_intensities(data, scene.lattice, cells, get_material("MoTe2"), unmixed=True)
    inner = np.all((cells.centres_px > 25) & (cells.centres_px < 255), axis=1)
    assert np.array_equal(found.classes[inner], scene.classes[inner])
    # an empty site holds nothing: its neighbours' tails no longer count against it
    assert np.median(found.metal[inner & (scene.classes >= 3)]) == pytest.approx(0, abs=0.07)
    assert np.median(found.chalcogen[inner & (scene.classes % 3 == 2)]) == pytest.approx(
        0, abs=0.07
    )


def test_unmixing_stands_gaps_and_few_cells():
    data, scene, cells = seen(**EVERY_CLASS)
    data[100:160, 100:160] = np.nan
    material = get_material("MoTe2")
    found = column_intensities(data, scene.lattice, cells, material, unmixed=True)
    gap = np.all((cells.centres_px > 108) & (cells.centres_px < 152), axis=1)
    assert (found.margin[gap] == 0).all()
    far = (np.abs(cells.centres_px - 130) > 50).any(axis=1)
    inner = np.all((cells.centres_px > 25) & (cells.centres_px < 255), axis=1)
    assert np.array_equal(found.classes[far & inner], scene.classes[far & inner])
    few = column_intensities(data, scene.lattice, cells.take([0, 1]), material, unmixed=True)
    assert len(few.classes) == 2
    flat = column_intensities(np.ones_like(data), scene.lattice, cells, material, unmixed=True)
    assert np.isfinite(flat.margin).all()
