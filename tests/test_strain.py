"""Strain maps of lattices whose strain is known."""

import numpy as np
import pytest

from napari_point_defects.domains.casting import DomainMap
from napari_point_defects.errors import PointDefectsError
from napari_point_defects.materials import CHALCOGEN_SITES, LATTICE_VECTORS, METAL_SITES
from napari_point_defects.records import Lattice, UnitCells
from napari_point_defects.strain import COMPONENTS, strain_map

SQUARE = (0.02, 0.02)
LATTICE = Lattice(np.array([3.0, 5.0]), np.array([[15.0, 4.0], [-5.0, 16.0]]))


def sheet(rows=30, columns=30):
    grid = np.stack(np.meshgrid(np.arange(rows), np.arange(columns), indexing="ij"), -1)
    return grid.reshape(-1, 2) @ LATTICE_VECTORS


def cells_of(nodes, moved=lambda points: points, lattice=LATTICE):
    """Cells at nodes, every point of the image moved."""
    places = [moved(lattice.to_image(nodes + s)) for s in (CHALCOGEN_SITES[0], METAL_SITES[0])]
    return UnitCells.unclassified(*places, np.full(len(nodes), 2))


def values_of(cells, pixel=SQUARE, **options):
    found = strain_map(cells, DomainMap.one(LATTICE), pixel, **options)
    return dict(zip(COMPONENTS, found.values.T, strict=True))


def bulge(points):
    """Move points by a wave along x, its strain 1 % at most."""
    length = 200.0
    amplitude = 0.01 * length / (2 * np.pi)
    moved = np.array(points, float)
    moved[..., 1] += amplitude * np.sin(2 * np.pi * points[..., 1] / length)
    return moved


def test_a_straight_lattice_has_no_strain_however_sheared():
    for values in values_of(cells_of(sheet())).values():
        np.testing.assert_allclose(values, 0, atol=1e-10)


def test_a_wave_along_x_is_a_strain_along_x_alone():
    cells = cells_of(sheet(), bulge)
    found = values_of(cells, window_a=1.0)
    truth = 0.01 * np.cos(2 * np.pi * cells.centres_px[:, 1] / 200)
    assert np.corrcoef(found["e_xx"], truth)[0, 1] > 0.99
    assert np.std(found["e_xx"] - truth) < 0.15 * np.std(truth)
    for other in ("e_yy", "e_xy"):
        assert np.abs(found[other]).max() < 5e-4  # in the corners, fitted from one side
    # a wider window smooths it
    assert np.std(values_of(cells, window_a=4.0)["e_xx"]) < 0.8 * np.std(found["e_xx"])


def test_a_turned_corner_turns_from_x_towards_y():
    def turned(points):
        angle = np.radians(0.5) * points[..., 0] / 500  # more and more, downwards
        moved = np.array(points, float)
        moved[..., 0] += angle * points[..., 1]
        moved[..., 1] -= 0.5 * np.radians(0.5) / 500 * points[..., 0] ** 2
        return moved

    cells = cells_of(sheet(), turned)
    found = values_of(cells)
    slope = np.polyfit(cells.centres_px[:, 0], found["rotation_deg"], 1)[0]
    assert slope == pytest.approx(0.5 / 500, rel=0.05)


def test_strain_is_that_of_the_sheet_whatever_the_pixels():
    # the same sheet on pixels twice as high: rows are half as many
    def squeezed(points):
        return bulge(points) * [0.5, 1.0]

    flat = Lattice(LATTICE.origin_px * [0.5, 1], np.diag([0.5, 1]) @ LATTICE.matrix_px)
    cells = cells_of(sheet(), bulge)
    narrow = UnitCells.unclassified(
        cells.chalcogen_px * [0.5, 1], cells.metal_px * [0.5, 1], cells.votes
    )
    square = strain_map(cells, DomainMap.one(LATTICE), SQUARE)
    other = strain_map(narrow, DomainMap.one(flat), (0.04, 0.02))
    np.testing.assert_allclose(other.values, square.values, atol=1e-9)


def test_scatter_averages_out_as_it_should():
    rng = np.random.default_rng(0)
    scatter = 0.02 * LATTICE.a_px
    cells = cells_of(sheet(), lambda p: p + rng.normal(0, scatter, p.shape))
    found = values_of(cells, window_a=2.0)["e_xx"]
    # a straight line through n points with weights of width s: σ / (s √n), with n = 4π s² / (√3/2)
    points = 4 * np.pi * 2.0**2 / (np.sqrt(3) / 2)
    middle = (np.abs(sheet() - sheet().mean(axis=0)) < 8).all(axis=1)
    expected = 0.02 / np.sqrt(2) / (2.0 / np.sqrt(2) * np.sqrt(points))
    assert np.std(found[middle]) == pytest.approx(expected, rel=0.4)


def test_too_few_neighbours_say_nothing():
    nodes = np.concatenate([sheet(10, 10), sheet(1, 30) + 40 * LATTICE_VECTORS[0]])
    found = strain_map(cells_of(nodes), DomainMap.one(LATTICE), SQUARE)
    assert np.isfinite(found.values[:100]).all()
    assert np.isnan(found.values[100:]).all()  # on one line
    assert list(found.table().columns) == ["cell_id", "y", "x", *COMPONENTS]


def test_pictures_show_the_nearest_cell_and_nothing_far_off():
    cells = cells_of(sheet(12, 12), bulge)
    found = strain_map(cells, DomainMap.one(LATTICE), SQUARE)
    pictures = found.picture((300, 260), 4, LATTICE.a_px)
    assert pictures.shape == (4, 75, 65)
    y, x = np.round((cells.centres_px[70] + 0.5) / 4 - 0.5).astype(int)
    np.testing.assert_allclose(pictures[:, y, x], found.values[70], rtol=1e-5)
    assert np.isnan(pictures[:, -1, 0]).all()


def test_no_cells_are_refused():
    none = UnitCells.unclassified(np.zeros((0, 2)), np.zeros((0, 2)), np.zeros(0, int))
    with pytest.raises(PointDefectsError, match="find hexagons"):
        strain_map(none, DomainMap.one(LATTICE), SQUARE)
