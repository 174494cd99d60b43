"""Bent lattices: found, and followed by the canonical image and the windows."""

import numpy as np
import pytest

from napari_point_defects.bending_fields import bending_fields, bending_of
from napari_point_defects.canonical import sample_windows, to_canonical_image
from napari_point_defects.labels.store import LabelStore
from napari_point_defects.lattice import find_lattice
from napari_point_defects.materials import (
    CHALCOGEN_SITES,
    LATTICE_VECTORS,
    METAL_SITES,
    get_material,
)
from napari_point_defects.records import Bending, Lattice, StemImage
from napari_point_defects.simulation.scenes import SceneSettings, make_scene
from napari_point_defects.training_set import (
    LabelledImage,
    TrainingSet,
    TrainingSetWriter,
)

SHAPE = (300, 340)


def bent(a_px=20.0, swing_px=5.0, shape=SHAPE):
    """A turned, sheared lattice that slides along two waves."""
    angle = np.radians(17)
    turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    scan = np.array([[1.0, 0.0], [0.05, 1.04]])
    y, x = np.meshgrid(np.linspace(0, 1, 25), np.linspace(0, 1, 25), indexing="ij")
    field = swing_px * np.stack([np.sin(5 * x + 2 * y), np.cos(6 * y)], -1)
    step = (np.array(shape) - 1) / 24
    return Lattice(
        np.array(shape) / 2, a_px * scan @ turn, bending=Bending(field, np.zeros(2), step)
    )


def scene(counts=300, seed=1, **settings):
    found = make_scene(SceneSettings(**settings), rng := np.random.default_rng(seed))
    image = rng.poisson(np.maximum(found.clean, 0) / found.peak * counts)
    return found, image.astype(np.float32)


def errors_a(lattice, truth):
    """Distance of each true X and M column from the lattice's nearest such site, in a."""
    found = []
    for points, sites in ((truth.chalcogen_px, CHALCOGEN_SITES), (truth.metal_px, METAL_SITES)):
        off = lattice.to_canonical(points) - sites[0]
        off -= np.rint(off @ np.linalg.inv(LATTICE_VECTORS)) @ LATTICE_VECTORS
        found.append(np.linalg.norm(off, axis=1))
    return np.concatenate(found)


def test_bent_lattice_goes_there_and_back():
    lattice = bent()
    points = np.random.default_rng(0).uniform(-20, 360, (7, 50, 2))
    assert lattice.to_image(lattice.to_canonical(points)) == pytest.approx(points, abs=1e-5)
    moved = lattice.to_image(lattice.to_canonical(points)) - points
    assert np.abs(moved).max() < 1e-5
    straight = lattice.to_canonical(points) @ lattice.matrix_px.T + lattice.origin_px
    assert np.linalg.norm(straight - points, axis=-1).max() > 4


def test_local_matrix_is_the_derivative():
    lattice = bent()
    points = np.random.default_rng(1).uniform(20, 280, (40, 2))
    canonical = lattice.to_canonical(points)
    step = 1e-3
    columns = [
        (lattice.to_image(canonical + d) - lattice.to_image(canonical - d)) / (2 * step)
        for d in step * np.eye(2)
    ]
    assert lattice.matrix_at(points) == pytest.approx(np.stack(columns, -1), abs=0.02)
    assert np.abs(lattice.matrix_at(points) - lattice.matrix_px).max() > 0.5


def test_straight_lattice_has_one_matrix():
    lattice = Lattice(np.zeros(2), 20 * np.eye(2))
    assert np.array_equal(lattice.matrix_at(np.zeros((3, 2))), np.tile(20 * np.eye(2), (3, 1, 1)))


def test_field_is_kept_beyond_its_edges():
    field = np.arange(32.0).reshape(4, 4, 2)
    bending = Bending(field, np.array([10.0, 20.0]), np.array([5.0, 5.0]))
    assert bending.displacement(np.array([10.0, 20.0])) == pytest.approx(field[0, 0])
    assert bending.displacement(np.array([-100.0, 35.0])) == pytest.approx(field[0, 3])
    assert bending.gradient(np.array([17.0, 27.0])).shape == (2, 2)


def ramp():
    y, x = np.mgrid[: SHAPE[0], : SHAPE[1]]
    return (3.0 * y - 2.0 * x + 500).astype(np.float32)


def test_windows_turn_with_the_lattice():
    lattice, centres = bent(), np.array([[100.0, 150.0], [200.0, 90.0]])
    windows = sample_windows(ramp(), lattice, centres, (1.0, 1.0), (16, 16))
    axis = (np.arange(16) - 7.5) / 16
    offsets = np.stack(np.meshgrid(axis, axis, indexing="ij"), -1)
    for window, centre, matrix in zip(windows, centres, lattice.matrix_at(centres), strict=True):
        points = centre + offsets @ matrix.T
        assert window == pytest.approx(3 * points[..., 0] - 2 * points[..., 1] + 500, abs=0.05)


def test_canonical_image_straightens_the_columns():
    lattice = bent()
    nodes = np.stack(np.meshgrid(np.arange(-6, 7), np.arange(-6, 7)), -1).reshape(-1, 2)
    nodes = nodes @ LATTICE_VECTORS
    places = lattice.to_image(nodes)
    inside = np.all((places > 15) & (places < np.array(SHAPE) - 15), axis=1)
    image = np.zeros(SHAPE, np.float32)
    y, x = np.mgrid[: SHAPE[0], : SHAPE[1]]
    for place in places[inside]:
        image += np.exp(-((y - place[0]) ** 2 + (x - place[1]) ** 2) / 2 / 2.5**2)
    found = to_canonical_image(image, lattice, 24.0)
    for node in nodes[inside]:
        row, col = np.rint(found.to_pixels(node)).astype(int)
        part = found.pixels[row - 6 : row + 7, col - 6 : col + 7].clip(0)
        ij = np.mgrid[row - 6 : row + 7, col - 6 : col + 7]
        middle = (ij * part).sum((1, 2)) / part.sum()
        assert found.to_canonical(middle) == pytest.approx(node, abs=0.02)


@pytest.mark.parametrize(
    ("seed", "settings"),
    [
        (1, {"material": "MoS2", "angle_deg": 11, "drift_a": 0.5}),
        (3, {"material": "MoTe2", "angle_deg": -25, "shear": 0.08, "drift_a": 0.8}),
        (4, {"material": "WSe2", "stretch": -0.1, "drift_a": 0.8, "vacuum": "hole"}),
        (5, {"material": "WS2", "drift_a": 0.6, "vacuum": "edge", "contamination": 0.2}),
    ],
)
def test_drift_is_followed(seed, settings):
    truth, image = scene(seed=seed, height_px=640, width_px=600, a_px=16, **settings)
    lattice = find_lattice(image, get_material(settings["material"]))
    errors = errors_a(lattice, truth)
    assert lattice.bending is not None
    assert np.quantile(errors, 0.95) < 0.06
    assert errors.max() < 0.25
    straight = Lattice(lattice.origin_px, lattice.matrix_px)
    assert np.quantile(errors_a(straight, truth), 0.95) > 0.12


@pytest.mark.parametrize("counts", [20, 400])
@pytest.mark.parametrize("seed", [1, 2])
def test_straight_lattices_stay_straight(seed, counts):
    truth, image = scene(
        counts,
        seed,
        material="MoSe2",
        height_px=400,
        width_px=500,
        a_px=18,
        angle_deg=9,
        jitter_a=0.02,
        contamination=0.3,
        defect_rates=(0.1, 0.03, 0.02, 0.01, 0.01),
    )
    lattice = find_lattice(image, get_material("MoSe2"))
    assert lattice.bending is None
    assert errors_a(lattice, truth).max() < 0.05


def test_noise_only_makes_the_field_smoother():
    settings = {"material": "MoS2", "height_px": 512, "width_px": 512, "a_px": 16, "drift_a": 0.7}
    for counts in (20, 2000):
        truth, image = scene(counts, 6, **settings)
        lattice = find_lattice(image, get_material("MoS2"))
        assert lattice.bending is not None
        assert np.quantile(errors_a(lattice, truth), 0.95) < 0.1


def test_bending_is_kept_in_training_sets(tmp_path):
    lattice = bent()
    item = LabelledImage(
        np.zeros(SHAPE, np.uint8),
        lattice,
        "MoS2",
        lattice.to_image(np.zeros((1, 2))),
        *(lattice.to_image(sites[:1]) for sites in (CHALCOGEN_SITES, METAL_SITES)),
        np.zeros(1, int),
    )
    writer = TrainingSetWriter(tmp_path / "train")
    writer.add(item)
    writer.close()
    (read,) = TrainingSet(tmp_path / "train")
    points = np.random.default_rng(2).uniform(0, 300, (50, 2))
    assert read.lattice.to_canonical(points) == pytest.approx(
        lattice.to_canonical(points), abs=1e-3
    )


def test_bending_is_kept_in_the_label_store(tmp_path):
    image = StemImage(np.random.default_rng(3).normal(size=SHAPE).astype(np.float32), "bent")
    store = LabelStore(tmp_path)
    details = {"material": "MoS2", "pixel_size_nm": None, "pixel_size_source": "none"}
    store.register(image, lattice=bent(), **details)
    points = np.random.default_rng(2).uniform(0, 300, (50, 2))
    expected = bent().to_canonical(points)
    found = LabelStore(tmp_path).find(image).lattice
    assert found.to_canonical(points) == pytest.approx(expected, abs=1e-3)
    # a later analysis found it straight
    straight = Lattice(bent().origin_px, bent().matrix_px)
    store.register(image, lattice=straight, **details)
    assert LabelStore(tmp_path).find(image).lattice.bending is None


def test_stores_of_older_programs_open(tmp_path):
    LabelStore(tmp_path).connection.execute("DROP TABLE bendings")
    image = StemImage(np.random.default_rng(3).normal(size=SHAPE).astype(np.float32), "bent")
    details = {"material": "MoS2", "pixel_size_nm": None, "pixel_size_source": "none"}
    LabelStore(tmp_path).register(image, lattice=bent(), **details)
    assert LabelStore(tmp_path).images()[0].lattice.bending is not None


def test_exported_lattices_are_checked():
    fields = bending_fields(bent().bending)
    assert bending_of(fields).field_px == pytest.approx(bent().bending.field_px, abs=1e-3)
    assert bending_of(None) is None
    for broken in (
        {"field": [[1.0, 2.0]]},
        {"step": [0.0, 1.0]},
        {"origin": [np.nan, 0.0]},
        {"origin": [0.0]},
    ):
        with pytest.raises(ValueError, match="bending"):
            bending_of(fields | broken)
