"""What CNN-2 sees, on clean images of known defects."""

import numpy as np
import pytest

from napari_point_defects.classification.crops import (
    WINDOW_A,
    WINDOW_PX,
    bond_inputs,
    normalise_windows,
    reference_window,
    trimmed_mean,
    window_inputs,
)
from napari_point_defects.materials import CHALCOGEN_SITES, MATERIALS, METAL_SITES, DefectClass
from napari_point_defects.records import UnitCells
from napari_point_defects.simulation.columns import MicroscopeSettings, load_columns
from napari_point_defects.simulation.scenes import SceneSettings, lattice_nodes, make_scene
from napari_point_defects.simulation.superposition import Blur, Superposer

SHAPE = (330, 360)
BOND_MIDDLE = (CHALCOGEN_SITES[0] + METAL_SITES[0]) / 2
WINDOW, RESIDUAL, MEAN, NOISE_RESIDUAL, NOISE_MEAN = range(5)


def field(material="MoTe2", angle_deg=21.0, a_px=24.0, one_of_each=True):
    """A clean field with one cell of each defect class, five lattice constants apart."""
    settings = SceneSettings(
        material=material,
        height_px=SHAPE[0],
        width_px=SHAPE[1],
        a_px=a_px,
        angle_deg=angle_deg,
        stretch=0.05,
    )
    nodes = lattice_nodes(settings.lattice(), SHAPE)
    classes = np.zeros(len(nodes), int)
    if one_of_each:
        for defect in list(DefectClass)[1:]:
            turn = np.radians(72 * defect)
            where = 4.3 * np.array([np.sin(turn), np.cos(turn)])
            classes[np.argmin(((nodes - where) ** 2).sum(axis=1))] = defect
    scene = make_scene(settings, np.random.default_rng(0), classes=classes)
    votes = np.full(len(scene.classes), 2)
    return scene, UnitCells.unclassified(scene.chalcogen_px, scene.metal_px, votes)


def at(window, site):
    """Mean of 3 x 3 samples of a 48 x 48 window at a canonical site."""
    row, col = np.rint((site - BOND_MIDDLE) / WINDOW_A * WINDOW_PX + (WINDOW_PX - 1) / 2).astype(
        int
    )
    return window[..., row - 1 : row + 2, col - 1 : col + 2].mean(axis=(-2, -1))


def peaks(material):
    maker = Superposer(
        (32, 32), 0.01, load_columns(MATERIALS[material]), MicroscopeSettings(), Blur()
    )
    return maker.peak


def deep_in(cells, margin=60):
    centres = cells.centres_px
    return np.all((centres > margin) & (centres < np.array(SHAPE) - margin), axis=1)


def test_shape_and_scale_of_the_default_input():
    scene, cells = field()
    inputs = window_inputs(scene.clean, scene.lattice, cells)
    assert inputs.shape == (len(cells), 5, 48, 48)
    assert inputs.dtype == np.float32
    mean = inputs[0, MEAN]
    # the brightest column is 1 and the hollow 0, in every image
    assert max(at(mean, CHALCOGEN_SITES[0]), at(mean, METAL_SITES[0])) == pytest.approx(1, abs=1e-4)
    assert at(mean, np.zeros(2)) == pytest.approx(0, abs=1e-4)
    assert np.all(inputs[:, MEAN] == mean)


@pytest.mark.parametrize("material", ["MoTe2", "WS2"])
def test_missing_atoms_show_at_their_column(material):
    scene, cells = field(material)
    inputs = window_inputs(scene.clean, scene.lattice, cells)
    peak = peaks(material)
    one_missing = (peak["chalcogen_pair"] - peak["chalcogen_single"]) / peak["chalcogen_pair"]
    metal = peak["metal"] / peak["chalcogen_pair"]
    for defect in list(DefectClass)[1:]:
        (index,) = np.flatnonzero(scene.classes == defect)
        residual = inputs[index, RESIDUAL]
        x_left = -[0, one_missing, 1][defect.missing_chalcogens]
        m_left = -metal if defect.metal_missing else 0
        assert at(residual, CHALCOGEN_SITES[0]) == pytest.approx(x_left, abs=0.06)
        # a bright metal is cut off at four columns
        assert at(residual, METAL_SITES[0]) == pytest.approx(max(m_left, -4), rel=0.05, abs=0.06)


def test_perfect_cells_leave_no_residual():
    scene, cells = field(one_of_each=False)
    inputs = window_inputs(scene.clean, scene.lattice, cells)
    assert np.abs(inputs[deep_in(cells), RESIDUAL]).max() < 0.05
    assert np.abs(inputs[deep_in(cells), WINDOW] - inputs[0, MEAN]).max() < 0.05


@pytest.mark.parametrize(("gain", "offset"), [(1e4, 0.0), (3.0, 1000.0), (250.0, -7.0)])
def test_gain_and_offset_do_not_matter(gain, offset):
    scene, cells = field()
    data = scene.clean / scene.peak
    plain = window_inputs(data, scene.lattice, cells)
    other = window_inputs(gain * data + offset, scene.lattice, cells)
    difference = np.abs(other - plain)
    assert difference[:, :NOISE_RESIDUAL].max() < 5e-3
    # of a clean image the noise is what rounding leaves
    assert difference[:, NOISE_RESIDUAL:].max() < 0.05


def test_slow_background_hardly_matters():
    scene, cells = field()
    y, x = np.mgrid[: SHAPE[0], : SHAPE[1]]
    cloud = 0.5 * scene.peak * np.exp(-((y - 100) ** 2 + (x - 90) ** 2) / 2 / 300**2)
    plain = window_inputs(scene.clean, scene.lattice, cells)
    clouded = window_inputs(scene.clean + cloud.astype(np.float32), scene.lattice, cells)
    inner = deep_in(cells)
    at_chalcogen = at(clouded[inner, RESIDUAL], CHALCOGEN_SITES[0])
    assert at_chalcogen == pytest.approx(at(plain[inner, RESIDUAL], CHALCOGEN_SITES[0]), abs=0.05)


def test_orientation_and_magnification_do_not_matter():
    mean = []
    for angle_deg, a_px in ((0.0, 24.0), (40.0, 24.0), (-77.0, 31.0)):
        scene, cells = field(angle_deg=angle_deg, a_px=a_px)
        mean.append(window_inputs(scene.clean, scene.lattice, cells)[0, MEAN])
    assert np.abs(mean[1] - mean[0]).max() < 0.12
    assert np.abs(mean[2] - mean[0]).max() < 0.12


def test_dead_pixels_are_bounded():
    scene, cells = field()
    data = scene.clean.copy()
    data[100, 100], data[200, 200] = 1e6, -1e6
    inputs = window_inputs(data, scene.lattice, cells)
    assert np.isfinite(inputs).all()
    assert np.abs(inputs[:, :NOISE_RESIDUAL]).max() <= 4
    assert np.abs(inputs[:, NOISE_RESIDUAL:]).max() <= 8
    plain = window_inputs(scene.clean, scene.lattice, cells)
    distance = np.linalg.norm(cells.centres_px[:, None] - [[100, 100], [200, 200]], axis=-1)
    untouched = distance.min(axis=1) > 80
    assert untouched.sum() > 10
    difference = np.abs(inputs[untouched] - plain[untouched])
    assert difference[:, :NOISE_RESIDUAL].max() < 0.02
    assert difference[:, NOISE_RESIDUAL:].max() < 0.1


def test_outside_the_image_there_is_nothing():
    scene, cells = field()
    inputs = window_inputs(scene.clean, scene.lattice, cells)
    first = np.argmin(np.linalg.norm(cells.centres_px, axis=1))
    assert (inputs[first, RESIDUAL] == 0).mean() > 0.3
    assert np.isfinite(inputs).all()


def test_no_cells():
    scene, _ = field()
    none = UnitCells.unclassified(np.zeros((0, 2)), np.zeros((0, 2)), np.zeros(0, int))
    assert window_inputs(scene.clean, scene.lattice, none).shape == (0, 5, 48, 48)
    cut = bond_inputs(scene.clean, scene.lattice, none, channels=2)
    assert cut.shape == (0, 2, 64, 64)


def test_image_without_contrast_gives_finite_inputs():
    flat = normalise_windows(np.full((5, 48, 48), 7.0, np.float32))
    assert np.isfinite(flat).all()
    assert np.abs(flat).max() < 0.01


@pytest.mark.parametrize("counts", [50.0, 800.0])
def test_noise_channels_measure_in_standard_deviations(counts):
    """Among perfect cells the fourth channel has the spread 1, whatever the dose."""
    scene, cells = field()
    rng = np.random.default_rng(5)
    scale = counts / scene.pair_volume_px
    data = rng.poisson(np.maximum(scene.clean, 0) * scale).astype(np.float32)
    inputs = window_inputs(data, scene.lattice, cells)
    deviations = np.sinh(inputs[:, NOISE_RESIDUAL])
    low, high = np.percentile(deviations, [16, 84])
    assert (high - low) / 2 == pytest.approx(1, abs=0.1)


def test_the_noise_channels_tell_the_dose():
    """Four times the counts double what stands out of the noise."""
    scene, cells = field()
    rng = np.random.default_rng(6)
    scale = 200 / scene.pair_volume_px
    clean = np.maximum(scene.clean, 0) * scale
    height = [
        np.sinh(window_inputs(data, scene.lattice, cells)[0, NOISE_MEAN]).mean()
        for data in (rng.poisson(clean), rng.poisson(4 * clean))
    ]
    assert height[1] / height[0] == pytest.approx(2, rel=0.1)


def test_trimmed_mean_ignores_a_minority():
    windows = np.full((8, 2, 2), 3.0)
    windows[:, 0, 1] = np.arange(8)
    windows[0], windows[1, 0, 0] = -100.0, 1e9
    # of 8 the lowest two and highest two are left out
    assert trimmed_mean(windows) == pytest.approx(np.array([[3.0, 3.5], [3.0, 3.0]]))


def test_trimmed_mean_leaves_gaps_out():
    windows = np.full((8, 1, 3), np.nan)
    windows[:4, 0, 0] = [1, 2, 4, 90]
    windows[2, 0, 1] = 5.0
    mean = trimmed_mean(windows)
    assert mean[0, :2] == pytest.approx([3.0, 5.0])
    assert np.isfinite(mean).all()


def test_trimmed_mean_of_very_many_is_of_an_even_selection():
    ramp = np.linspace(0, 1, 9001)[:, None, None]
    assert trimmed_mean(ramp)[0, 0] == pytest.approx(0.5, abs=1e-3)


def brightest(cut):
    return np.array(np.unravel_index(cut.argmax(), cut.shape))


@pytest.mark.parametrize(
    ("upper", "chalcogen", "metal"),
    # shares (y, x) of the boxes A-B and C-D at which the columns sit, by the hexagon's geometry
    [(True, (2 / 3, 0.2817), (1 / 3, 0.7695)), (False, (2 / 3, 0.2305), (1 / 3, 0.7183))],
)
def test_bond_has_chalcogen_lower_left_and_metal_upper_right(upper, chalcogen, metal):
    scene, cells = field(one_of_each=False)
    (index,) = np.flatnonzero(deep_in(cells))[:1]
    whole = bond_inputs(scene.clean, scene.lattice, cells, channels=1, upper=upper)
    assert whole.shape == (len(cells), 1, 64, 64)
    assert (whole[index].min(), whole[index].max()) == (0, 1)
    left, right = whole[index, 0, :, :32], whole[index, 0, :, 32:]
    assert brightest(left) + 0.5 == pytest.approx(64 * np.array(chalcogen), abs=1.6)
    assert brightest(right) + [0.5, 32.5] == pytest.approx(64 * np.array(metal), abs=1.6)


def test_two_channels_are_the_halves_of_the_one():
    scene, cells = field()
    whole = bond_inputs(scene.clean, scene.lattice, cells, channels=1)
    halves = bond_inputs(scene.clean, scene.lattice, cells, channels=2)
    assert halves.shape == (len(cells), 2, 64, 64)
    joined = np.concatenate([halves[:, 0, :, ::2], halves[:, 1, :, ::2]], axis=2)
    assert np.array_equal(joined, whole[:, 0])
    assert np.array_equal(halves[..., ::2], halves[..., 1::2])


def test_alpha_and_beta_set_the_size_of_the_cut():
    scene, cells = field(one_of_each=False)
    (index,) = np.flatnonzero(deep_in(cells))[:1]
    options = {"channels": 1, "upper": True}
    plain = bond_inputs(scene.clean, scene.lattice, cells, **options)[index, 0]
    wide = bond_inputs(scene.clean, scene.lattice, cells, alpha=0.9, **options)[index, 0]
    tall = bond_inputs(scene.clean, scene.lattice, cells, beta=0.7, **options)[index, 0]
    # the cut starts in the hexagon's corner, so the columns' shares shrink
    left = brightest(plain[:, :32])
    assert brightest(wide[:, :28])[1] == pytest.approx(left[1] * 0.65 / 0.9, abs=1.6)
    assert brightest(tall[:, :32])[0] == pytest.approx(left[0] * 0.5 / 0.7, abs=1.6)


def test_bonds_are_scaled_one_by_one():
    scene, cells = field()
    inputs = bond_inputs(1e3 * scene.clean + 50, scene.lattice, cells, channels=2)
    flat = inputs.reshape(len(inputs), -1)
    assert np.all(flat.min(axis=1) == 0)
    assert flat.max(axis=1) == pytest.approx(1)


@pytest.mark.parametrize("copies", [1, 12])
def test_some_cells_look_as_they_do_among_all(copies):
    """Whether the mean is taken over all cells or, in a big image, over an even selection."""
    scene, cells = field()
    cells = UnitCells.joined([cells] * copies)
    assert (len(cells) > 2000) == (copies > 1)
    everything = window_inputs(scene.clean, scene.lattice, cells)
    reference = reference_window(scene.clean, scene.lattice, cells)
    rows = np.arange(3, len(cells), 17)
    some = window_inputs(scene.clean, scene.lattice, cells.take(rows), reference)
    np.testing.assert_array_equal(some, everything[rows])
