"""What is not a 2H monolayer is refused in one line; what is one, is not, however it looks."""

import logging
from pathlib import Path

import numpy as np
import pytest
from test_lattice import DATA, draw, make_lattice, needs_data, simulate

from napari_point_defects.domains.segmentation import find_domains
from napari_point_defects.errors import PointDefectsError
from napari_point_defects.io import read_image
from napari_point_defects.materials import MATERIALS
from napari_point_defects.simulation.noise import NoiseSettings, add_noise
from napari_point_defects.simulation.scenes import SceneSettings, make_scene

MOS2, MOTE2 = MATERIALS["MoS2"], MATERIALS["MoTe2"]
SHAPE = (240, 256)


def counted(image, counts, seed=0):
    """Poisson counts, so many where the image is brightest."""
    rng = np.random.default_rng([31, seed])
    return rng.poisson(image * counts / image.max() + 0.1).astype(float)


def assert_refused(image, material=MOS2, match=""):
    with pytest.raises(PointDefectsError, match=match) as caught:
        find_domains(image, material)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("twist_deg", [8.0, 21.8])
def test_refuses_the_moire_of_a_twisted_bilayer(twist_deg):
    layers = [
        draw(make_lattice(SHAPE, 16.0, 10.0 + twist, origin=(0.1, 0.4)), SHAPE, [0, 0.39, 1])
        for twist in (0.0, twist_deg)
    ]
    assert_refused(counted(sum(layers), 40))


@pytest.mark.parametrize(
    ("weights", "material"),
    [([0, 1, 1], MOS2), ([0, 1, 1], MOTE2), ([0, 0, 1], MOS2), ([0, 0, 1], MATERIALS["WSe2"])],
)
def test_refuses_bilayers_graphene_and_triangular_lattices(weights, material):
    image = draw(make_lattice(SHAPE, 16.0, 10.0), SHAPE, weights)
    assert_refused(counted(image, 40), material, "alike in opposite directions")


def test_refuses_a_diffraction_pattern():
    y, x = np.mgrid[: SHAPE[0], : SHAPE[1]]
    pattern = np.zeros(SHAPE)
    for i in range(-6, 7):
        for j in range(-6, 7):
            at = np.array([19.05 * j, 22.0 * i + 11.0 * j])
            spot = np.exp(-((y - 120 - at[0]) ** 2 + (x - 128 - at[1]) ** 2) / 2 / 2.5**2)
            pattern += spot * np.exp(-(at**2).sum() / 2 / 45**2)
    assert_refused(counted(pattern, 3000))


def test_refuses_noise_gratings_and_pictures():
    y, x = np.mgrid[: SHAPE[0], : SHAPE[1]]
    from skimage import data

    for image in (
        np.random.default_rng(1).normal(size=SHAPE),
        counted(np.cos(x / 3) + 1, 20),
        counted(np.cos(x / 3) + np.cos((y + 0.8 * x) / 3.7) + 2, 20),
        data.brick().astype(float)[:256, :256],
    ):
        assert_refused(image)


def _microscope_files():
    formats = DATA / "formats"
    names = {"16_STOimage_1.ser", "STEM HAADF Diffraction Micro.emd", "temp.mrc"}
    return sorted(path for path in formats.rglob("*") if path.name in names)


@needs_data
def test_refuses_files_of_other_things():
    logging.disable(logging.ERROR)
    try:
        files = _microscope_files()
        assert len(files) >= 2
        for path in files:
            with pytest.raises(PointDefectsError):
                find_domains(read_image(Path(path)).data, MOS2)
    finally:
        logging.disable(logging.NOTSET)


@pytest.mark.parametrize(
    "changes",
    [
        {"height_px": 128, "width_px": 128, "a_px": 16.0},
        {"shear": 0.15, "stretch": -0.1},
        {"vacuum": "edge", "vacuum_fraction": 0.4},
        {"contamination": 0.5, "defect_rates": (0.12, 0.06, 0.06, 0.03, 0.03)},
    ],
    ids=["small", "sheared", "vacuum", "dirty"],
)
def test_does_not_refuse_a_monolayer(changes):
    options = {"height_px": 256, "width_px": 256, "a_px": 14.0, "angle_deg": 40.0}
    rng = np.random.default_rng(5)
    settings = SceneSettings(**({"material": "MoTe2"} | options | changes))
    scene = make_scene(settings, rng)
    image = add_noise(scene, NoiseSettings.for_column_counts(scene, 30.0), rng)
    domains, _ = find_domains(image.astype(np.float32), MOTE2)
    assert len(domains) == 1
    assert domains[0].lattice.a_px == pytest.approx(settings.a_px, rel=0.02)


def test_does_not_refuse_few_counts():
    rng = np.random.default_rng(3)
    true = make_lattice((400, 400), 20.0, 17.0, 0.12, -0.13)
    image = simulate(true, (400, 400), MOTE2, 20, rng, defects=0.16, background=0.3)
    domains, area = find_domains(image, MOTE2)
    assert len(domains) == 1
    assert area.shares()["analysed"] > 0.98
