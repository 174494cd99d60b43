"""Bond profiles of images that are known functions of position."""

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure
from PIL import Image

from napari_point_defects.errors import PointDefectsError
from napari_point_defects.materials import (
    BOND,
    CHALCOGEN_SITES,
    LATTICE_VECTORS,
    MATERIALS,
    METAL_SITES,
    DefectClass,
)
from napari_point_defects.profile_outputs import (
    profile_figure,
    profile_table,
    write_profile_csv,
    write_profile_figure,
)
from napari_point_defects.profiles import (
    LENGTH_A,
    ProfileComparison,
    bond_profile,
    mean_profile,
    sample_positions,
    surrounding_levels,
)
from napari_point_defects.records import Lattice

SHAPE = (200, 240)
MOTE2 = MATERIALS["MoTe2"]
BOND_VECTOR = METAL_SITES[0] - CHALCOGEN_SITES[0]


def image_of(lattice, function):
    """An image whose value depends on the canonical position (..., 2)."""
    y, x = np.mgrid[: SHAPE[0], : SHAPE[1]]
    return function(lattice.to_canonical(np.stack([y, x], -1).astype(float))).astype(np.float32)


def cell_at(lattice, hollow=(0.0, 0.0)):
    """Columns of the upper left bond of the hexagon there."""
    return lattice.to_image(np.array([hollow + CHALCOGEN_SITES[0], hollow + METAL_SITES[0]]))


@pytest.fixture(params=["upright", "turned and sheared", "stretched, mirrored angle"])
def lattice(request):
    turn, scan = {
        "upright": (0.0, [[1.0, 0.0], [0.0, 1.0]]),
        "turned and sheared": (0.5, [[1.0, 0.0], [0.15, 1.0]]),
        "stretched, mirrored angle": (-1.2, [[0.9, 0.0], [-0.1, 1.12]]),
    }[request.param]
    rotation = np.array([[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]])
    return Lattice(np.array([100.3, 118.7]), 25.0 * np.array(scan) @ rotation)


def test_a_slope_along_the_bond_is_measured_in_lengths_of_the_crystal(lattice):
    along = BOND_VECTOR / BOND
    start = CHALCOGEN_SITES[0]
    data = image_of(lattice, lambda p: 7.0 + 3.0 * ((p - start) @ along))
    profile = bond_profile(data, lattice, *cell_at(lattice), width_a=0.6)
    assert profile.intensity.shape == profile.standard_error.shape == (105,)
    np.testing.assert_allclose(profile.intensity, 7.0 + 3.0 * profile.position_a, atol=1e-3)
    assert profile.standard_error.max() < 1e-3
    # the ends are the hollows before X and behind M
    assert profile.position_a[[0, -1]] == pytest.approx([-BOND, 2 * BOND])
    assert profile.distance_nm(0.352)[-1] == pytest.approx(2 * BOND * 0.352)


def test_a_slope_across_the_bond_cancels_and_is_no_noise(lattice):
    across = (BOND_VECTOR / BOND)[::-1] * [1, -1]
    middle = (CHALCOGEN_SITES[0] + METAL_SITES[0]) / 2
    data = image_of(lattice, lambda p: 50.0 + 20.0 * ((p - middle) @ across))
    profile = bond_profile(data, lattice, *cell_at(lattice), width_a=0.5)
    np.testing.assert_allclose(profile.intensity, 50.0, atol=0.01)
    assert profile.standard_error.max() < 0.01


@pytest.mark.parametrize("width_a", [0.1, 0.4, 0.8])
def test_the_mean_is_over_the_width_that_was_asked_for(width_a):
    lattice = Lattice(np.array([100.0, 120.0]), 40.0 * np.eye(2))
    across = (BOND_VECTOR / BOND)[::-1] * [1, -1]
    middle = (CHALCOGEN_SITES[0] + METAL_SITES[0]) / 2
    data = image_of(lattice, lambda p: ((p - middle) @ across) ** 2)
    profile = bond_profile(data, lattice, *cell_at(lattice), width_a=width_a)
    # the mean of s² over a band of width w is w²/12
    np.testing.assert_allclose(profile.intensity, width_a**2 / 12, rtol=0.05, atol=1e-4)


def test_a_line_without_width_has_no_standard_error(lattice):
    data = image_of(lattice, lambda p: p[..., 0])
    profile = bond_profile(data, lattice, *cell_at(lattice), width_a=0.0)
    assert np.isfinite(profile.intensity).all()
    assert np.isnan(profile.standard_error).all()


def test_standard_error_is_the_scatter_that_noise_makes(lattice):
    rng = np.random.default_rng(4)
    data = 100 + rng.normal(0, 5, SHAPE).astype(np.float32)
    steps = np.stack(np.meshgrid([-1, 0, 1], [-1, 0, 1]), -1).reshape(-1, 2) @ LATTICE_VECTORS
    cells = np.array([cell_at(lattice, s) for s in steps])
    profiles = bond_profile(data, lattice, cells[:, 0], cells[:, 1], width_a=0.4)
    assert profiles.intensity.shape == (9, 105)
    claimed = np.sqrt((profiles.standard_error**2).mean())
    assert claimed == pytest.approx(profiles.intensity.std(), rel=0.2)


def test_coarse_samples_use_every_pixel():
    rng = np.random.default_rng(5)
    lattice = Lattice(np.array([100.0, 120.0]), 60.0 * np.eye(2))
    data = rng.normal(0, 1, SHAPE).astype(np.float32)
    options = {"width_a": 0.2, "length_a": 1.0}
    few = bond_profile(data, lattice, *cell_at(lattice), samples=5, **options)
    many = bond_profile(data, lattice, *cell_at(lattice), samples=60, **options)
    assert few.standard_error.mean() < 0.5 * many.standard_error.mean()
    assert few.intensity.std() < 0.5 * many.intensity.std()


def test_one_cell_is_one_of_many(lattice):
    rng = np.random.default_rng(6)
    data = rng.normal(0, 1, SHAPE).astype(np.float32)
    cells = np.array([cell_at(lattice), cell_at(lattice, LATTICE_VECTORS[1])])
    both = bond_profile(data, lattice, cells[:, 0], cells[:, 1])
    for i, (x, m) in enumerate(cells):
        one = bond_profile(data, lattice, x, m)
        np.testing.assert_allclose(one.intensity, both.intensity[i], rtol=1e-5)
        np.testing.assert_allclose(one.standard_error, both.standard_error[i], rtol=1e-5)


def test_nothing_is_measured_outside_the_image_or_where_nothing_was_recorded():
    lattice = Lattice(np.array([100.0, 120.0]), 25.0 * np.eye(2))
    data = np.ones(SHAPE, np.float32)
    corner = np.array([[12.0, 2.0], [12.0, 2.0] + 25.0 * BOND_VECTOR])
    profile = bond_profile(data, lattice, *corner)
    inside = np.isfinite(profile.intensity)
    assert 0 < inside.sum() < 105
    assert np.array_equal(inside, np.isfinite(profile.standard_error))
    away = bond_profile(data, lattice, corner[0] - 500, corner[1] - 500)
    assert np.isnan(away.intensity).all()
    x, m = cell_at(lattice)
    data[int(x[0]) - 3 : int(x[0]) + 4, int(x[1]) - 3 : int(x[1]) + 4] = np.nan
    data[int(m[0]), int(m[1])] = np.inf
    profile = bond_profile(data, lattice, x, m)
    at = [np.abs(profile.position_a - place).argmin() for place in (0.0, BOND, BOND / 2)]
    assert np.isfinite(profile.intensity[at]).tolist() == [False, False, True]
    assert np.isnan(bond_profile(data, lattice, x, x).intensity).all()


def test_whole_numbers_and_read_only_images_are_fine(lattice):
    data = image_of(lattice, lambda p: 1000 + 100 * p[..., 0])
    whole = np.rint(data).astype(np.uint16)
    whole.flags.writeable = False
    exact, rounded = (bond_profile(d, lattice, *cell_at(lattice)) for d in (data, whole))
    np.testing.assert_allclose(rounded.intensity, exact.intensity, atol=0.6)


def test_mean_profile_leaves_outliers_out(lattice):
    data = image_of(lattice, lambda p: np.full(p.shape[:-1], 10.0))
    steps = np.stack(np.meshgrid([-1, 0, 1], [-1, 0, 1]), -1).reshape(-1, 2) @ LATTICE_VECTORS
    cells = np.array([cell_at(lattice, s) for s in steps])
    y, x = np.rint(cells[0].mean(axis=0)).astype(int)
    data[y - 4 : y + 5, x - 4 : x + 5] = 1e6
    mean = mean_profile(data, lattice, cells[:, 0], cells[:, 1], width_a=0.2)
    np.testing.assert_allclose(mean.intensity, 10.0)
    assert mean.intensity.shape == mean.standard_error.shape == (105,)
    nobody = mean_profile(data, lattice, np.empty((0, 2)), np.empty((0, 2)))
    assert np.isnan(nobody.intensity).all()


def test_mean_profiles_standard_error_is_that_of_repeated_images():
    rng = np.random.default_rng(8)
    lattice = Lattice(np.array([100.0, 120.0]), 25.0 * np.eye(2))
    steps = np.stack(np.meshgrid([-2, -1, 0, 1, 2], [-2, -1, 0, 1, 2]), -1).reshape(-1, 2)
    cells = np.array([cell_at(lattice, s) for s in steps @ LATTICE_VECTORS])
    means, errors = [], []
    for _ in range(40):
        data = rng.normal(0, 1, SHAPE).astype(np.float32)
        mean = mean_profile(data, lattice, cells[:, 0], cells[:, 1], width_a=0.2)
        means.append(mean.intensity)
        errors.append(mean.standard_error)
    assert np.mean(errors) == pytest.approx(np.std(means, axis=0).mean(), rel=0.25)


def test_surroundings_tell_the_local_background(lattice):
    typical = np.linspace(3.0, 9.0, 105)
    flat = image_of(lattice, lambda p: np.full(p.shape[:-1], 20.0))
    x, m = cell_at(lattice)
    levels = surrounding_levels(
        flat, lattice, np.array([x, [-900.0, -900.0]]), np.array([m, [-910.0, -890.0]]), typical
    )
    assert levels == pytest.approx([np.median(20.0 - typical), 0.0], abs=1e-3)


# --- tables and figures ----------------------------------------------------------------------


@pytest.fixture
def comparison():
    lattice = Lattice(np.array([100.0, 120.0]), 25.0 * np.eye(2))
    rng = np.random.default_rng(0)
    data = 100 + rng.normal(0, 3, SHAPE).astype(np.float32)
    profile = bond_profile(data, lattice, *cell_at(lattice))
    curves = 100.0 + np.arange(6)[::-1, None] + np.zeros(105)
    return ProfileComparison(profile, curves, np.arange(6)[::-1] + 1.0)


def test_best_is_the_least_misfit_or_nothing(comparison):
    assert comparison.best is DefectClass.V_X2_V_M
    unknown = ProfileComparison(comparison.profile, comparison.curves, np.full(6, np.nan))
    assert unknown.best is None


def test_table_round_trips_through_csv(comparison, tmp_path):
    table = profile_table(comparison.profile, comparison, MOTE2, image="field", cell_id=17)
    path = tmp_path / "cell.csv"
    write_profile_csv(table, path)
    read = pd.read_csv(path)
    assert list(read) == [
        *("image", "cell_id", "width_nm", "distance_nm", "measured", "standard_error"),
        *MOTE2.class_labels,
    ]
    assert set(read["cell_id"]) == {17}
    assert set(read["image"]) == {"field"}
    assert read["width_nm"].iloc[0] == pytest.approx(0.3 * MOTE2.lattice_constant_nm)
    np.testing.assert_allclose(read["measured"], comparison.profile.intensity, rtol=1e-6)
    np.testing.assert_allclose(read[list(MOTE2.class_labels)].T, comparison.curves, rtol=1e-6)
    span = read["distance_nm"].iloc[-1] - read["distance_nm"].iloc[0]
    assert span == pytest.approx(LENGTH_A * MOTE2.lattice_constant_nm)


def test_without_simulation_the_table_holds_what_was_measured(comparison):
    table = profile_table(comparison.profile, None, MOTE2)
    assert list(table)[-1] == "standard_error"
    assert len(table) == len(sample_positions())


def test_files_are_not_overwritten_unasked(comparison, tmp_path):
    table = profile_table(comparison.profile, comparison, MOTE2)
    figure = profile_figure(comparison.profile, comparison, MOTE2)
    for path, write, content in (
        (tmp_path / "a.csv", write_profile_csv, table),
        (tmp_path / "a.png", write_profile_figure, figure),
    ):
        path.write_bytes(b"precious")
        with pytest.raises(PointDefectsError, match="exists"):
            write(content, path)
        assert path.read_bytes() == b"precious"
        write(content, path, overwrite=True)
        assert path.read_bytes() != b"precious"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.csv", "a.png"]


@pytest.mark.parametrize(
    ("name", "start"), [("f.png", b"\x89PNG"), ("f.svg", b"<?xml"), ("f.PDF", b"%PDF")]
)
def test_figure_formats(comparison, tmp_path, name, start):
    figure = profile_figure(comparison.profile, comparison, MOTE2, title="field, cell 17")
    assert isinstance(figure, Figure)
    write_profile_figure(figure, tmp_path / name)
    assert (tmp_path / name).read_bytes().startswith(start)


def test_other_figure_formats_are_refused(comparison, tmp_path):
    figure = profile_figure(comparison.profile, None, MOTE2)
    with pytest.raises(PointDefectsError, match=r"\.png, \.svg, \.pdf"):
        write_profile_figure(figure, tmp_path / "f.xyz")
    assert not list(tmp_path.iterdir())


def test_figure_shows_the_best_class_bold_and_names_all(comparison, tmp_path):
    figure = profile_figure(comparison.profile, comparison, MOTE2)
    lines = {line.get_label().split(" (")[0]: line for line in figure.axes[0].get_lines()}
    assert {*MOTE2.class_labels, "measured"} <= set(lines)
    widths = {name: lines[name].get_linewidth() for name in MOTE2.class_labels}
    assert max(widths, key=widths.get) == "V_Te2+V_Mo"
    write_profile_figure(figure, tmp_path / "f.png")
    pixels = np.asarray(Image.open(tmp_path / "f.png").convert("RGB"))
    purple = np.abs(pixels.astype(int) - [0x9C, 0x27, 0xB0]).sum(axis=-1) < 30
    assert purple.sum() > 300


def test_figures_leave_pyplot_alone(comparison):
    profile_figure(comparison.profile, comparison, MOTE2)
    import sys

    assert (
        "matplotlib.pyplot" not in sys.modules or not sys.modules["matplotlib.pyplot"].get_fignums()
    )
