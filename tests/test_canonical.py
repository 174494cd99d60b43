"""Resampling into the canonical frame, on images that are known functions of position."""

import numpy as np
import pytest

from napari_point_defects import canonical
from napari_point_defects.canonical import sample_windows, smooth_for_step, to_canonical_image
from napari_point_defects.materials import BOND, CHALCOGEN_SITES, LATTICE_VECTORS, METAL_SITES
from napari_point_defects.records import Lattice

SHAPE = (220, 260)


def tilted_lattice(a_px=22.0):
    angle = np.radians(-29)
    cos, sin = np.cos(angle), np.sin(angle)
    scan = np.array([[1.0, 0.0], [-0.1, 0.93]])
    return Lattice(np.array([110.0, 130.0]), a_px * scan @ np.array([[cos, sin], [-sin, cos]]))


def crystal(lattice, metal=0.6):
    """Cosines with X at 1 and M at ``metal`` times that: the lattice's first harmonics."""
    y, x = np.mgrid[: SHAPE[0], : SHAPE[1]]
    canonical = lattice.to_canonical(np.stack([y, x], -1).astype(float))
    reciprocal = np.linalg.inv(LATTICE_VECTORS).T
    waves = np.stack([reciprocal[0], reciprocal[1], reciprocal[0] - reciprocal[1]])

    def columns(site):
        phase = 2 * np.pi * (canonical - site) @ waves.T
        return np.exp(np.cos(phase).sum(axis=-1) - 3)

    image = columns(CHALCOGEN_SITES[0]) + metal * columns(METAL_SITES[0])
    return image.astype(np.float32)


def ramp():
    y, x = np.mgrid[: SHAPE[0], : SHAPE[1]]
    return (3.0 * y - 2.0 * x + 500).astype(np.float32)


def read_at(image, points):
    rows, cols = np.rint(image.to_pixels(points)).astype(int).T
    return image.pixels[rows, cols]


@pytest.mark.parametrize("a_px", [9.0, 22.0, 60.0])
def test_columns_land_on_their_canonical_sites(a_px):
    lattice = tilted_lattice(a_px)
    image = to_canonical_image(crystal(lattice), lattice, 24.0)
    assert image.pixels_per_a == 24.0
    steps = np.stack(np.meshgrid([-1, 0, 1], [-1, 0, 1]), -1).reshape(-1, 2) @ LATTICE_VECTORS
    chalcogen = read_at(image, steps + CHALCOGEN_SITES[0])
    metal = read_at(image, steps + METAL_SITES[0])
    hollow = read_at(image, steps)
    assert chalcogen.min() > metal.max() > metal.min() > hollow.max() + 1
    # nothing about the site is brighter than the site itself
    for dy, dx in ((0, 0.2), (0, -0.2), (0.2, 0), (-0.2, 0)):
        assert np.all(read_at(image, steps + CHALCOGEN_SITES[0] + [dy, dx]) < chalcogen)


def test_positions_go_there_and_back():
    lattice = tilted_lattice()
    image = to_canonical_image(crystal(lattice), lattice, 19.0)
    points = np.random.default_rng(0).uniform(-5, 5, (8, 2))
    assert image.to_canonical(image.to_pixels(points)) == pytest.approx(points)


def test_whole_image_is_kept_with_an_empty_border():
    lattice = Lattice(np.array([0.0, 0.0]), 20 * np.eye(2))
    image = to_canonical_image(crystal(lattice), lattice, 20.0, margin_a=2.0)
    # at its own magnification an upright image only gains the border of 2 a = 40 px
    assert np.abs(np.array(image.pixels.shape) - np.array(SHAPE) - 80).max() <= 1
    border = np.ones(image.pixels.shape, bool)
    border[39 : 41 + SHAPE[0], 39 : 41 + SHAPE[1]] = False
    assert np.all(image.pixels[border] == 0)
    assert np.count_nonzero(image.pixels[41 : 39 + SHAPE[0], 41 : 39 + SHAPE[1]]) > 50_000


@pytest.mark.parametrize(("gain", "offset"), [(1000.0, 0.0), (0.01, 5.0), (3.0, -700.0)])
def test_gain_and_offset_do_not_matter(gain, offset):
    lattice = tilted_lattice()
    data = crystal(lattice)
    plain = to_canonical_image(data, lattice, 24.0).pixels
    other = to_canonical_image(gain * data + offset, lattice, 24.0).pixels
    assert np.abs(other - plain).max() < 0.02


def test_spread_is_one_and_a_slope_of_the_background_is_gone():
    lattice = tilted_lattice()
    y, _ = np.mgrid[: SHAPE[0], : SHAPE[1]]
    image = to_canonical_image(crystal(lattice) + 0.01 * y, lattice, 24.0)
    shown = image.pixels[image.pixels != 0]
    assert shown.std() == pytest.approx(1, abs=0.02)
    levels = []
    for top in (60, 120):
        rows, cols = np.arange(top, top + 40.0), np.arange(50, 210.0)
        points = np.stack(np.meshgrid(rows, cols), -1).reshape(-1, 2)
        levels.append(read_at(image, lattice.to_canonical(points)).mean())
    assert levels == pytest.approx([0, 0], abs=0.1)


def test_nothing_is_shown_where_nothing_was_recorded():
    lattice = tilted_lattice()
    data = crystal(lattice)
    data[80:120, 100:150] = np.nan
    image = to_canonical_image(data, lattice, 24.0)
    assert np.isfinite(image.pixels).all()
    inside = np.stack(np.meshgrid(np.arange(82, 118, 4), np.arange(102, 148, 4)), -1)
    assert np.all(read_at(image, lattice.to_canonical(inside.reshape(-1, 2).astype(float))) == 0)


@pytest.mark.parametrize("samples", [48, 12])  # finer than the image, and 6 px apart
def test_windows_of_a_ramp_are_exact(samples):
    lattice = tilted_lattice()
    centres = np.array([[110.0, 130.0], [101.3, 140.8]])
    windows = sample_windows(ramp(), lattice, centres, (3.2, 3.2), (samples, samples))
    assert windows.shape == (2, samples, samples)
    axis = (np.arange(samples) - (samples - 1) / 2) * 3.2 / samples
    offsets = np.stack(np.meshgrid(axis, axis, indexing="ij"), -1) @ lattice.matrix_px.T
    where = centres[:, None, None, :] + offsets
    expected = 3.0 * where[..., 0] - 2.0 * where[..., 1] + 500
    assert windows == pytest.approx(expected, abs=0.1)


def test_windows_are_not_square_when_asked():
    lattice = Lattice(np.zeros(2), 20 * np.eye(2))
    (window,) = sample_windows(ramp(), lattice, np.array([[100.0, 120.0]]), (0.5, 1.0), (5, 20))
    # rows are 0.1 a = 2 px apart, columns 0.05 a = 1 px
    assert np.diff(window, axis=0) == pytest.approx(3.0 * 2, abs=1e-2)
    assert np.diff(window, axis=1) == pytest.approx(-2.0, abs=1e-2)


def test_windows_hold_nan_exactly_outside_the_image():
    lattice = Lattice(np.zeros(2), 20 * np.eye(2))
    (window,) = sample_windows(ramp(), lattice, np.array([[0.0, 130.0]]), (2.0, 2.0), (40, 40))
    # samples sit at −19.5 … 19.5 px: half of them above the first row
    assert np.isnan(window[:20]).all()
    assert np.isfinite(window[20:]).all()


def test_windows_hold_nan_where_nothing_was_recorded():
    lattice = Lattice(np.zeros(2), 20 * np.eye(2))
    data = ramp()
    data[:, 130:] = np.nan
    (window,) = sample_windows(data, lattice, np.array([[100.0, 130.0]]), (1.0, 1.0), (20, 20))
    assert np.isnan(window[:, 10:]).all()
    assert np.isfinite(window[:, :9]).all()


def test_input_is_left_alone_and_may_be_read_only():
    lattice = tilted_lattice()
    data = crystal(lattice)
    data[3, 4] = np.nan
    before = data.copy()
    data.flags.writeable = False
    sample_windows(data, lattice, np.array([[100.0, 120.0]]), (3.2, 3.2), (48, 48))
    to_canonical_image(data, lattice, 24.0)
    assert np.array_equal(data, before, equal_nan=True)
    whole = np.nan_to_num(before)
    whole.flags.writeable = False
    # finer than the image and without gaps nothing needs to be changed at all
    window = sample_windows(whole, lattice, np.array([[100.0, 120.0]]), (1.0, 1.0), (48, 48))
    assert np.isfinite(window).all()


def test_smoothing_only_where_samples_are_coarser_than_pixels():
    rng = np.random.default_rng(2)
    data = rng.normal(10, 1, (128, 128)).astype(np.float32)
    assert np.array_equal(smooth_for_step(data, 1.0), data)
    smooth = smooth_for_step(data, 3.0)
    assert smooth.mean() == pytest.approx(data.mean(), abs=0.05)
    # a Gaussian of width s leaves 1 / (2 s √π) of white noise
    width = 0.45 * np.sqrt(8)
    assert smooth[10:-10, 10:-10].std() == pytest.approx(1 / (2 * width * np.sqrt(np.pi)), rel=0.1)


def test_gaps_are_filled_with_the_median():
    data = np.full((64, 64), 7.0)
    data[10:20, 10:20] = np.nan
    data[0, 0] = np.inf
    assert np.all(smooth_for_step(data, 1.0) == 7.0)


def test_bond_is_the_distance_of_first_neighbours():
    assert np.linalg.norm(METAL_SITES[0] - CHALCOGEN_SITES[0]) == pytest.approx(BOND)


def test_parts_are_the_whole(monkeypatch):
    lattice = tilted_lattice()
    image = crystal(lattice)
    image[40:60, 100:140] = np.nan
    whole = to_canonical_image(image, lattice, 24.0)
    monkeypatch.setattr(canonical, "_PART_PX", 20_000)
    assert to_canonical_image(image, lattice, 24.0).pixels == pytest.approx(whole.pixels, abs=1e-4)
    source = canonical.Resampler(image, lattice, 24.0)
    assert source.shape == whole.pixels.shape
    flat, valid = source.part(70, 90, 100, 80)
    part = whole.pixels[70:170, 90:170]
    assert flat / source.spread == pytest.approx(part, abs=0.1)
    assert np.array_equal(valid, part != 0)
    outside, nothing = source.part(0, 0, 3, 3)
    assert not outside.any()
    assert not nothing.any()


@pytest.mark.parametrize("a_px", [14.0, 40.0])
def test_windows_are_the_same_wherever_they_are_cut_together(monkeypatch, a_px):
    lattice = tilted_lattice(a_px)
    image = np.random.default_rng(0).normal(size=SHAPE).astype(np.float32)
    centres = np.random.default_rng(1).uniform(-5, 265, (300, 2))
    options = (3.2, 3.2), (48, 48)
    together = sample_windows(image, lattice, centres, *options)
    monkeypatch.setattr(canonical, "_TILE_PX", 30)
    monkeypatch.setattr(canonical.neighbourhoods, "__defaults__", (30, None))
    apart = sample_windows(image, lattice, centres, *options)
    assert np.array_equal(np.isnan(together), np.isnan(apart))
    assert np.nan_to_num(apart) == pytest.approx(np.nan_to_num(together), abs=1e-5)


def test_neighbourhoods_hold_every_point_once():
    points = np.random.default_rng(2).uniform(0, 1000, (500, 2))
    groups = list(canonical.neighbourhoods(points, 100, most=3))
    assert np.array_equal(np.sort(np.concatenate(groups)), np.arange(500))
    assert all(len(group) <= 3 and np.ptp(points[group], axis=0).max() <= 100 for group in groups)
    assert list(canonical.neighbourhoods(np.zeros((0, 2)))) == []
