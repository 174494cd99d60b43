"""The ideal observer, against exhaustive search and fields without doubt."""

import itertools

import numpy as np
import pytest

from napari_point_defects.baselines.ideal_observer import ColumnImages, IdealObserver
from napari_point_defects.records import Lattice
from napari_point_defects.simulation.scenes import CELL_CHALCOGEN, CELL_METAL, lattice_nodes

RATES = np.array([0.7, 0.1, 0.06, 0.06, 0.04, 0.04])


def columns(counts, nm_per_px=None, row_shift_px=None):
    """Gaussian columns, 2 px wide where a pixel is 1 nm, with so many counts in an X2 pair."""

    def gaussian(weight):
        return lambda r: weight * counts / (2 * np.pi * 4) * np.exp(-(r**2) / 8)

    matrix = np.eye(2) if nm_per_px is None else nm_per_px
    return ColumnImages(gaussian(0.4), gaussian(1.0), gaussian(0.45), 9.0, matrix, row_shift_px)


def test_two_cells_agree_with_exhaustive_search():
    """At few counts the most probable of all 36 states is found, whatever it is."""
    x = np.array([[12.0, 9.0], [12.0, 20.0]])
    m = x + [-3.2, 5.5]
    rng = np.random.default_rng(3)
    found = set()
    for _ in range(60):
        observer = IdealObserver(np.zeros((26, 34)), x, m, columns(9.0), RATES, 0.02)
        truth = rng.choice(6, size=2, p=RATES)
        observer.counts = rng.poisson(observer.expected(truth)).astype(float)
        states = [np.array(s) for s in itertools.product(range(6), repeat=2)]
        best = max(states, key=observer.log_posterior)
        np.testing.assert_array_equal(observer.solve(), best)
        found.add(tuple(best))
    assert len(found) > 6  # the search had something to find


def test_log_posterior_is_poisson_times_prior():
    x, m = np.array([[10.0, 10.0]]), np.array([[7.0, 15.0]])
    observer = IdealObserver(np.ones((20, 24)), x, m, columns(30.0), RATES, 0.1)
    mean = {c: observer.expected(np.array([c])) for c in (0, 2)}
    expected = (np.log(mean[0]) - mean[0] - np.log(mean[2]) + mean[2]).sum()
    expected += np.log(RATES[0] / RATES[2])
    difference = observer.log_posterior(np.array([0])) - observer.log_posterior(np.array([2]))
    assert difference == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("distorted", [False, True])
def test_bright_field_is_recovered(distorted):
    """With many counts nothing is in doubt, through a sheared scan with unsteady rows too."""
    scan = np.array([[1.1, 0.0], [0.12, 0.9]]) if distorted else np.eye(2)
    lattice = Lattice(np.array([60.0, 60.0]), 11.0 * scan)
    rng = np.random.default_rng(8)
    shift = rng.normal(0, 0.4, 120) if distorted else None
    nodes = lattice_nodes(lattice, (120, 120))
    classes = rng.choice(6, size=len(nodes), p=RATES)
    observer = IdealObserver(
        np.zeros((120, 120)),
        lattice.to_image(nodes + CELL_CHALCOGEN),
        lattice.to_image(nodes + CELL_METAL),
        columns(3000.0, np.linalg.inv(scan), shift),
        RATES,
        rng.uniform(0, 5, (120, 120)),
    )
    observer.counts = rng.poisson(observer.expected(classes)).astype(float)
    middles = (observer.x + observer.m) / 2
    inside = np.all((middles > 9) & (middles < 111), axis=1)
    assert inside.sum() > 60
    np.testing.assert_array_equal(observer.solve()[inside], classes[inside])


def test_a_column_is_stretched_as_the_scan_is():
    """Twice as wide a scan makes a column twice as wide; its rows slide with the row errors."""
    wide = columns(100.0, np.diag([1.0, 0.5]))
    where, stamp = wide.stamp("metal", np.array([20.0, 30.0]), (40, 60))
    image = np.zeros((40, 60))
    image[where] = stamp
    y, x = np.indices(image.shape)
    spread = [
        np.sqrt((image * (axis - c) ** 2).sum() / image.sum()) for axis, c in ((y, 20), (x, 30))
    ]
    assert spread == pytest.approx([2.0, 4.0], rel=0.02)
    moved = columns(100.0, np.eye(2), np.full(40, 2.0))
    where, stamp = moved.stamp("metal", np.array([20.0, 30.0]), (40, 60))
    image[:] = 0
    image[where] = stamp
    assert (image * x).sum() / image.sum() == pytest.approx(28.0, abs=0.01)


def test_columns_outside_the_image_do_no_harm():
    x = np.array([[-30.0, -30.0], [10.0, 10.0]])
    observer = IdealObserver(np.zeros((20, 20)), x, x + 3, columns(50.0), RATES)
    assert observer.expected(np.array([0, 2])).max() > 0
    # far outside nothing is seen, so the likeliest class is the commonest
    assert observer.solve()[0] == 0
