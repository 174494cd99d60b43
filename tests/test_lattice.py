"""The lattice search against simulated images with known answers, real frames and impostors."""

import logging
from pathlib import Path

import numpy as np
import pytest

from napari_point_defects import lattice as lattice_module
from napari_point_defects import lattice_windows
from napari_point_defects.errors import PointDefectsError
from napari_point_defects.lattice import find_lattice
from napari_point_defects.lattice_sites import expected_brightness_ratio
from napari_point_defects.materials import BOND, LATTICE_VECTORS, MATERIALS
from napari_point_defects.records import Lattice

DATA = Path(__file__).parents[2] / "shared/data"
needs_data = pytest.mark.skipif(not DATA.is_dir(), reason=f"no public test data in {DATA}")


def make_lattice(shape, a_px, angle_deg=0.0, shear=0.0, stretch=0.0, origin=(0.3, -0.2)):
    """Lattice with a hollow near the middle; ``origin`` offsets it, in units of a."""
    angle = np.radians(angle_deg)
    rotation = np.array(
        [[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]],
    )
    scan = np.array([[1, 0], [shear, 1 + stretch]]) / np.sqrt(1 + stretch)
    return Lattice(np.array(shape) / 2 + np.multiply(origin, a_px), a_px * scan @ rotation)


def draw(lattice, shape, weights, sigma_a=0.13, rng=None, defects=0.0):
    """Sum of Gaussian columns of the given weights (hollow, X₂, M) at the three sites."""
    a_px, reach = lattice.a_px, int(1.3 * np.hypot(*shape) / lattice.a_px) + 3
    ij = np.stack(np.meshgrid(*[np.arange(-reach, reach + 1)] * 2), -1).reshape(-1, 2)
    image, sigma = np.zeros(shape), sigma_a * a_px
    half = int(np.ceil(4 * sigma))
    for weight, site in zip(weights, ([0, 0], [BOND, 0], [-BOND, 0]), strict=True):
        points = lattice.to_image(ij @ LATTICE_VECTORS + site)
        points = points[((points > -half) & (points < np.array(shape) + half)).all(1)]
        left = np.ones(len(points))
        if rng is not None:
            points = points + rng.normal(0, 0.015 * a_px, points.shape)
            left[rng.random(len(points)) < defects] = 0
        for (y, x), share in zip(points, weight * left, strict=True):
            rows = slice(max(int(y) - half, 0), int(y) + half + 1)
            cols = slice(max(int(x) - half, 0), int(x) + half + 1)
            gy = np.exp(-(((np.arange(shape[0])[rows] - y) / sigma) ** 2) / 2)
            gx = np.exp(-(((np.arange(shape[1])[cols] - x) / sigma) ** 2) / 2)
            image[rows, cols] += share / (2 * np.pi * sigma**2) * np.outer(gy, gx)
    return image


def simulate(lattice, shape, material, counts, rng, defects=0.05, background=0.1):
    """Poisson image; ``counts`` are expected in the brighter kind of column."""
    ratio = expected_brightness_ratio(material)
    weights = np.array([0, ratio, 1]) * counts / max(ratio, 1)
    image = draw(lattice, shape, weights, rng=rng, defects=defects)
    return rng.poisson(image + background * image.max()).astype(float)


def errors(found, true, shape):
    """Position error accumulated across the image and hollow's error in a; right assignment."""
    across = np.array([[shape[0], 0], [0, shape[1]], shape, [shape[0], -shape[1]]], float).T
    drifts = []
    for turn in range(6):
        c, s = np.cos(turn * np.pi / 3), np.sin(turn * np.pi / 3)
        matrix = true.matrix_px @ np.array([[c, s], [-s, c]])
        difference = np.linalg.inv(found.matrix_px) - np.linalg.inv(matrix)
        drifts.append(np.linalg.norm(difference @ across, axis=0).max())
    cells = true.to_canonical(found.origin_px) @ np.linalg.inv(LATTICE_VECTORS)
    hollow = np.linalg.norm((cells - np.rint(cells)) @ LATTICE_VECTORS)
    return min(drifts), hollow, np.argmin(drifts) % 2 == 0


def assert_found(found, true, shape):
    drift, hollow, assigned = errors(found, true, shape)
    assert drift < 0.1
    assert hollow < 0.05
    assert assigned


@pytest.mark.parametrize("formula", MATERIALS)
@pytest.mark.parametrize("counts", [40, 1000])
def test_finds_known_lattice_of_every_material(formula, counts):
    rng = np.random.default_rng([counts, *formula.encode()])
    shape = (300, 340)
    true = make_lattice(
        shape, rng.uniform(15, 25), rng.uniform(-60, 60), *rng.uniform(-0.15, 0.15, 2)
    )
    found = find_lattice(simulate(true, shape, MATERIALS[formula], counts, rng), MATERIALS[formula])
    drift, hollow, assigned = errors(found, true, shape)
    assert drift < 0.1
    assert hollow < 0.05
    # X₂ and M of WTe₂ differ by 10 %: no assignment is sure, and the confidence says so
    assert assigned or (formula == "WTe2" and found.sublattice_confidence < 0.75)


def test_finds_lattice_invisible_to_the_eye():
    rng = np.random.default_rng(3)
    shape, material = (512, 512), MATERIALS["MoTe2"]
    true = make_lattice(shape, 22.0, 17.0, 0.12, -0.13)
    image = simulate(true, shape, material, 20, rng, defects=0.16, background=0.3)
    assert_found(find_lattice(image, material), true, shape)


@pytest.mark.parametrize(("side", "a_px"), [(96, 8.5), (128, 18.0), (700, 150.0)])
def test_finds_small_and_large_cells(side, a_px):
    rng = np.random.default_rng(side)
    true = make_lattice((side, side), a_px, -25.0, 0.1, 0.1)
    image = simulate(true, (side, side), MATERIALS["WSe2"], 2000, rng)
    assert_found(find_lattice(image, MATERIALS["WSe2"]), true, (side, side))


def test_large_images_are_searched_in_windows_and_refined_over_all(monkeypatch):
    shape, material = (700, 900), MATERIALS["WS2"]
    true = make_lattice(shape, 14.0, 12.0, -0.06, 0.05)
    image = simulate(true, shape, material, 200, np.random.default_rng(8))
    image[200:500, 300:600] = np.nan  # the middle window shows nothing
    whole = find_lattice(image, material)
    monkeypatch.setattr(lattice_module, "LARGEST_WHOLE_PX", 1000)
    monkeypatch.setattr(lattice_windows, "WINDOW_PX", 256)
    windowed = find_lattice(image, material)
    assert_found(windowed, true, shape)
    assert windowed.matrix_px == pytest.approx(whole.matrix_px, abs=2e-3)
    with pytest.raises(PointDefectsError, match="lattice"):
        find_lattice(np.random.default_rng(9).normal(size=shape), material)


def test_conventional_orientation_and_distortion():
    shape = (300, 300)
    true = make_lattice(shape, 20.0, 31.0, 0.11, -0.09)
    rng = np.random.default_rng(5)
    found = find_lattice(simulate(true, shape, MATERIALS["MoS2"], 500, rng), MATERIALS["MoS2"])
    assert found.angle_deg == pytest.approx(31.0, abs=0.2)
    assert found.shear == pytest.approx(0.11, abs=0.005)
    assert found.stretch == pytest.approx(-0.09, abs=0.005)
    assert found.a_px == pytest.approx(20.0, rel=0.002)
    assert np.linalg.norm(found.origin_px - 150) < 20
    assert 0 < found.quality <= 1


def test_holes_contamination_nan_and_jitter():
    rng = np.random.default_rng(6)
    shape, material = (384, 400), MATERIALS["MoSe2"]
    true = make_lattice(shape, 19.0, -40.0, -0.1, 0.06)
    image = draw(true, shape, [0, 300, 215], rng=rng, defects=0.05)
    y, x = np.mgrid[: shape[0], : shape[1]]
    image += 2 * image.max() * np.exp(-((y - 100) ** 2 + (x - 300) ** 2) / 2 / 60**2)
    image = rng.poisson(image + 0.05).astype(float)
    image[:, :170] = rng.poisson(0.05, (shape[0], 170))
    image = np.stack([np.roll(row, rng.integers(-1, 2)) for row in image])
    image[200:215, 220:260] = np.nan
    image = np.minimum(image, np.nanpercentile(image, 99.5))
    found = find_lattice(image, material)
    assert_found(found, true, shape)
    assert found.origin_px[1] > 200  # the material's centre, not the image's


def test_ranks_are_the_six_assignments():
    rng = np.random.default_rng(7)
    shape, material = (256, 256), MATERIALS["MoTe2"]
    true = make_lattice(shape, 20.0, 5.0)
    image = simulate(true, shape, material, 300, rng)
    found = [find_lattice(image, material, rank=rank) for rank in range(6)]
    kinds = set()
    for lattice in found:
        at = (true.to_canonical(lattice.to_image(np.array([[0, 0], [BOND, 0]]))) + 1e-9) / BOND
        # row number modulo 3 of hollow and X₂ among the rows of sites, d/2 apart
        kinds.add(tuple(np.rint(2 * at[:, 0]).astype(int) % 3))
    assert len(kinds) == 6
    assert_found(found[0], true, shape)
    confidences = [lattice.sublattice_confidence for lattice in found]
    assert confidences[0] > 0.95
    assert max(confidences[1:]) == 0.5
    with pytest.raises(PointDefectsError, match="rank"):
        find_lattice(image, material, rank=6)


def test_confidence_follows_brightness_ratio():
    rng = np.random.default_rng(8)
    shape = (300, 300)
    true = make_lattice(shape, 20.0, 12.0)
    sure = find_lattice(simulate(true, shape, MATERIALS["MoS2"], 500, rng), MATERIALS["MoS2"])
    unsure = find_lattice(simulate(true, shape, MATERIALS["WTe2"], 500, rng), MATERIALS["WTe2"])
    assert sure.sublattice_confidence > 0.99
    assert 0.5 <= unsure.sublattice_confidence < 0.75


def _square(shape, period, aspect, angle, centred=False):
    """Rows of columns at right angles; ``centred`` adds one of another brightness in the middle."""
    y, x = np.mgrid[: shape[0], : shape[1]]
    u = (y * np.cos(angle) - x * np.sin(angle)) / period
    v = (y * np.sin(angle) + x * np.cos(angle)) / period / aspect

    def columns(u, v):
        return np.exp(-((u - np.rint(u)) ** 2 + ((v - np.rint(v)) * aspect) ** 2) / 0.04)

    return columns(u, v) + (0.5 * columns(u + 0.5, v + 0.5) if centred else 0)


@pytest.mark.parametrize("seed", range(2))
def test_refuses_what_is_not_a_hexagonal_lattice(seed):
    rng = np.random.default_rng(seed)
    shape = (200, 220)
    y, x = np.mgrid[: shape[0], : shape[1]]
    angle, period = rng.uniform(0, np.pi), rng.uniform(12, 25)
    noise = rng.normal(size=shape)
    radius = np.hypot(np.fft.fftfreq(shape[0])[:, None], np.fft.fftfreq(shape[1]))
    ring = np.exp(-(((radius - 1 / period) / 0.02) ** 2) / 2)
    impostors = {
        "noise": noise,
        "counts": rng.poisson(0.3, shape),
        "amorphous": np.fft.ifft2(np.fft.fft2(noise) * ring).real + 0.02 * noise,
        "lines": np.cos(2 * np.pi * (y * np.cos(angle) + x * np.sin(angle)) / period) + noise,
        "square": rng.poisson(8 * _square(shape, period, 1.0, angle) + 1),
        "centred square": rng.poisson(8 * _square(shape, period, 1.0, angle, True) + 1),
        "rectangular": rng.poisson(8 * _square(shape, period, 1.3, angle) + 1),
    }
    for image in impostors.values():
        with pytest.raises(PointDefectsError):
            find_lattice(image, MATERIALS["MoS2"])


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (np.zeros((100, 100)), "constant"),
        (np.full((100, 100), np.nan), "NaN"),
        (np.ones((40, 500)), "too small"),
        (np.ones((100, 100, 3)), "2-D"),
    ],
)
def test_refuses_unusable_images(image, message):
    with pytest.raises(PointDefectsError, match=message) as caught:
        find_lattice(image, MATERIALS["MoTe2"])
    assert "\n" not in str(caught.value)


def _read_real(path):
    if path.suffix == ".npy":
        return np.load(path)
    logging.disable(logging.ERROR)  # the readers grumble about units
    try:
        if path.suffix == ".ser":
            from rsciio.tia import file_reader
        else:
            from rsciio.digitalmicrograph import file_reader
        return np.asarray(file_reader(str(path))[0]["data"], float)
    finally:
        logging.disable(logging.NOTSET)


@needs_data
@pytest.mark.parametrize(
    ("name", "a_px"),
    [
        ("MoS2_Se_implanted/example_Se_implanted_MoS2.dm3", 23.6),
        ("MoS2_MOCVD/MoS2_stem_Exp-000-2.npy", 18.0),
        ("MoS2_MOCVD/MoS2_stem_Exp-001-5.npy", 24.8),
        ("MoS2_MOCVD/MoS2_stem_Exp-002-5.npy", 24.5),
    ],
)
def test_real_frames(name, a_px):
    image = _read_real(DATA / "real" / name)
    found = find_lattice(image, MATERIALS["MoS2"])
    assert found.a_px == pytest.approx(a_px, rel=0.01)
    assert found.sublattice_confidence > 0.9
    # Mo must be the brightest site and the hollow the darkest
    reach = np.arange(-60, 61)
    cells = np.stack(np.meshgrid(reach, reach), -1).reshape(-1, 2) @ LATTICE_VECTORS
    brightness = []
    for site in ([0, 0], [BOND, 0], [-BOND, 0]):
        y, x = np.rint(found.to_image(cells + site)).astype(int).T
        inside = (y >= 0) & (x >= 0) & (y < image.shape[0]) & (x < image.shape[1])
        brightness.append(image[y[inside], x[inside]].mean())
    hollow, chalcogen, metal = brightness
    assert hollow < chalcogen < metal


@needs_data
@pytest.mark.parametrize(
    "name",
    [
        "openNCEM/ncempy/data/16_STOimage_1.ser",
        "openNCEM/ncempy/data/L2083-K-4-1/ConvertBrukerToEMD/Input/After HAADF 130mm_1.ser",
        "openNCEM/ncempy/data/08_carbon.dm3",
    ],
)
def test_refuses_real_frames_of_other_things(name):
    image = _read_real(DATA / "formats" / name)
    while image.ndim > 2:
        image = image[0]
    with pytest.raises(PointDefectsError):
        find_lattice(image, MATERIALS["MoS2"])
