"""Records: the lattice's map and its decomposition, boxes of hexagons, cells and classes."""

from dataclasses import FrozenInstanceError, replace

import numpy as np
import pytest

from napari_point_defects.materials import (
    BOND,
    CELL_AREA,
    CHALCOGEN_SITES,
    METAL_SITES,
    DefectClass,
)
from napari_point_defects.records import (
    Bending,
    Calibration,
    Hexagons,
    Lattice,
    UnitCells,
    cell_classes,
    hexagon_boxes,
)


def make_lattice(a_px, angle_deg, shear=0.0, stretch=0.0, origin=(31.0, -7.5)):
    """A sample turned by the angle from x towards y (down), then scanned with shear and stretch."""
    angle = np.radians(angle_deg)
    # columns: where the canonical unit vectors along y and x go
    rotation = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    scan = np.array([[1.0, 0.0], [shear, 1 + stretch]]) / np.sqrt(1 + stretch)
    return Lattice(np.array(origin), a_px * scan @ rotation)


def test_lattice_row_points_where_the_angle_says():
    lattice = make_lattice(10.0, 30.0, origin=(0.0, 0.0))
    # one lattice constant along the row: x grows by cos, y (down) by sin
    assert lattice.to_image([0.0, 1.0]) == pytest.approx([5.0, 10 * np.sqrt(3) / 2])
    assert lattice.angle_deg == pytest.approx(30.0)


@pytest.mark.parametrize("angle_deg", [-179.0, -93.0, -31.0, 0.0, 17.0, 90.0, 123.0])
@pytest.mark.parametrize(("shear", "stretch"), [(0, 0), (0.15, -0.15), (-0.12, 0.11)])
def test_decomposition_returns_what_the_lattice_was_made_of(angle_deg, shear, stretch):
    lattice = make_lattice(23.5, angle_deg, shear, stretch)
    assert lattice.angle_deg == pytest.approx(angle_deg, abs=1e-9)
    assert lattice.shear == pytest.approx(shear, abs=1e-12)
    assert lattice.stretch == pytest.approx(stretch, abs=1e-12)
    assert lattice.a_px == pytest.approx(23.5)
    assert lattice.cell_area_px == pytest.approx(CELL_AREA * 23.5**2)


def test_round_trip_of_points():
    rng = np.random.default_rng(0)
    lattice = make_lattice(17.3, 41.0, 0.1, -0.08)
    points = rng.uniform(-50, 50, (4, 7, 2))
    assert lattice.to_canonical(lattice.to_image(points)) == pytest.approx(points)
    assert lattice.to_image(np.zeros(2)) == pytest.approx(lattice.origin_px)


def test_the_lattice_of_a_part_is_that_of_the_whole():
    field = np.random.default_rng(0).normal(0, 1, (4, 5, 2))
    bending = Bending(field, np.array([0.0, 3.0]), np.array([30.0, 25.0]))
    straight = make_lattice(20, 13)
    corner = np.array([17.0, 40.0])
    points = np.random.default_rng(1).uniform(0, 90, (30, 2))
    for lattice in (straight, replace(straight, bending=bending)):
        moved = lattice.moved(corner)
        expected = lattice.to_canonical(points)
        np.testing.assert_allclose(moved.to_canonical(points + corner), expected, atol=1e-6)


def test_area_of_the_image_of_a_cell():
    lattice = make_lattice(20.0, 12.0, 0.15, 0.1)
    y, x = lattice.to_image(np.array([[0, 0], [0, 1], [np.sqrt(3) / 2, 1.5]])).T
    triangle = abs((y[1] - y[0]) * (x[2] - x[0]) - (x[1] - x[0]) * (y[2] - y[0])) / 2
    assert lattice.cell_area_px == pytest.approx(2 * triangle)


def test_hexagon_box_keeps_half_a_bond_around_its_columns():
    centre = np.array([2.0, -3.0])
    (y0, x0, y1, x1) = hexagon_boxes(centre)[0]
    sites = np.concatenate([CHALCOGEN_SITES, METAL_SITES]) + centre
    margins = [sites[:, 0].min() - y0, sites[:, 1].min() - x0]
    margins += [y1 - sites[:, 0].max(), x1 - sites[:, 1].max()]
    assert margins == pytest.approx([BOND / 2] * 4)


def test_hexagons_keep_their_canonical_boxes():
    lattice = make_lattice(30.0, -25.0, 0.1, 0.05)
    boxes = hexagon_boxes(np.random.default_rng(1).uniform(-9, 9, (6, 2)))
    hexagons = Hexagons.from_canonical_boxes(boxes, np.linspace(0.5, 1, 6), lattice)
    assert len(hexagons) == 6
    assert hexagons.canonical_boxes(lattice) == pytest.approx(boxes)


def test_hexagons_corners_run_around_the_box():
    lattice = Lattice(np.array([100.0, 200.0]), 10 * np.eye(2))
    corners = Hexagons.from_canonical_boxes([[1, 2, 3, 5]], [1.0], lattice).corners_px[0]
    assert corners == pytest.approx(
        np.array([[110, 220], [110, 250], [130, 250], [130, 220]], float)
    )


def test_no_hexagons():
    lattice = make_lattice(30.0, 0.0)
    hexagons = Hexagons.from_canonical_boxes(np.zeros((0, 4)), np.zeros(0), lattice)
    assert len(hexagons) == 0
    assert hexagons.canonical_boxes(lattice).shape == (0, 4)


def test_unit_cells():
    chalcogen, metal = np.array([[0.0, 0], [10, 20]]), np.array([[2.0, 4], [12, 16]])
    probabilities = np.array([[0.1, 0.6, 0.1, 0.1, 0.1, 0.0], [0.9, 0.1, 0, 0, 0, 0]])
    cells = UnitCells(chalcogen, metal, np.array([2, 1]), probabilities)
    assert cells.classes.tolist() == [DefectClass.V_X1, DefectClass.PERFECT]
    assert cells.confidence == pytest.approx([0.6, 0.9])
    assert cells.centres_px == pytest.approx(np.array([[1.0, 2], [11, 18]]))


def test_unclassified_cells_have_no_probabilities():
    cells = UnitCells.unclassified(np.zeros((3, 2)), np.ones((3, 2)), np.full(3, 2))
    assert len(cells) == 3
    assert cells.probabilities.shape == (3, 6)
    assert np.isnan(cells.probabilities).all()


def test_cell_classes_agree_with_the_enumeration():
    missing, empty = np.meshgrid([0, 1, 2], [False, True])
    expected = [
        DefectClass.from_vacancies(m, e)
        for m, e in zip(missing.ravel(), empty.ravel(), strict=True)
    ]
    assert cell_classes(missing.ravel(), empty.ravel()).tolist() == expected


def test_records_are_frozen():
    with pytest.raises(FrozenInstanceError):
        Calibration().source = "user"
    with pytest.raises(FrozenInstanceError):
        make_lattice(10.0, 0.0).quality = 0.0
