"""Net-casting on lattices whose hexagons and unit cells are known."""

import numpy as np
import pytest
from scipy.spatial import cKDTree

from napari_point_defects.materials import (
    BOND,
    CELL_AREA,
    CHALCOGEN_SITES,
    HEXAGON_SIZE,
    LATTICE_VECTORS,
    METAL_SITES,
)
from napari_point_defects.netcasting import (
    ALPHA,
    BETA,
    bond_centres,
    cast_net,
    merge_votes,
    smooth_positions,
    unit_cell_boxes,
    without_overlaps,
)
from napari_point_defects.records import Hexagons, Lattice, hexagon_boxes

SHAPE = (300, 340)


def tilted_lattice():
    angle = np.radians(17)
    cos, sin = np.cos(angle), np.sin(angle)
    scan = np.array([[1.0, 0.0], [0.08, 1.06]])
    matrix = 21 * scan @ np.array([[cos, sin], [-sin, cos]])
    return Lattice(np.array([140.0, 160.0]), matrix)


def in_frame(points):
    return np.all((points >= 0) & (points <= np.array(SHAPE) - 1), axis=-1)


def nodes_in(lattice):
    """Canonical hollows of the hexagons whose six columns lie in the frame."""
    ij = np.stack(np.meshgrid(*[np.arange(-40, 41)] * 2), -1).reshape(-1, 2)
    nodes = ij @ LATTICE_VECTORS
    sites = np.concatenate([CHALCOGEN_SITES, METAL_SITES])
    return nodes[in_frame(lattice.to_image(nodes[:, None] + sites)).all(axis=1)]


def hexagons_at(nodes, lattice):
    return Hexagons.from_canonical_boxes(hexagon_boxes(nodes), np.ones(len(nodes)), lattice)


def expected_cells(nodes, lattice):
    """Bond middles [px] with the number of hexagons that border each: by counting alone."""
    upper = nodes + (CHALCOGEN_SITES[0] + METAL_SITES[0]) / 2
    lower = nodes + (CHALCOGEN_SITES[2] + METAL_SITES[2]) / 2
    keys = np.round(np.concatenate([upper, lower]), 6)
    middles, votes = np.unique(keys, axis=0, return_counts=True)
    return lattice.to_image(middles), votes


def test_corners_of_the_two_cells():
    upper, lower = unit_cell_boxes([[100, 200, 110, 220]], alpha=0.65, beta=0.5)
    assert upper[0] == pytest.approx([100, 200, 105, 213])  # A, B
    assert lower[0] == pytest.approx([105, 207, 110, 220])  # C, D


def test_cell_of_width_a_has_the_primitive_area():
    boxes = hexagon_boxes([0, 0])
    for y0, x0, y1, x1 in np.concatenate(unit_cell_boxes(boxes, alpha=1 / HEXAGON_SIZE[1])):
        assert x1 - x0 == pytest.approx(1)
        assert (y1 - y0) * (x1 - x0) == pytest.approx(CELL_AREA)
    # the paper's rounded 0.65 makes it 2.5 % wider
    assert ALPHA * HEXAGON_SIZE[1] == pytest.approx(1.025, abs=1e-3)
    assert BETA * HEXAGON_SIZE[0] == pytest.approx(CELL_AREA)


@pytest.mark.parametrize(("which", "x_site", "m_site"), [(0, 0, 0), (1, 2, 2)])
def test_chalcogen_is_lower_left_and_metal_upper_right(which, x_site, m_site):
    y0, x0, y1, x1 = unit_cell_boxes(hexagon_boxes([0, 0]))[which][0]
    for (y, x), lower, left in ((CHALCOGEN_SITES[x_site], 1, 1), (METAL_SITES[m_site], 0, 0)):
        assert y0 < y < y1
        assert x0 < x < x1
        assert (y > (y0 + y1) / 2) == bool(lower)
        assert (x < (x0 + x1) / 2) == bool(left)


def test_bond_centres_scale_with_the_box():
    upper, lower = bond_centres(hexagon_boxes([0, 0]))
    assert upper[0] == pytest.approx([-0.75 * BOND, -0.25])
    assert lower[0] == pytest.approx([0.75 * BOND, 0.25])
    twice = 2 * hexagon_boxes([0, 0]) + 7
    for small, large in zip((upper, lower), bond_centres(twice), strict=True):
        assert large == pytest.approx(2 * small + 7)


def test_each_cell_of_a_perfect_lattice_exactly_once():
    lattice = tilted_lattice()
    nodes = nodes_in(lattice)
    cells = cast_net(hexagons_at(nodes, lattice), lattice, SHAPE)
    middles, votes = expected_cells(nodes, lattice)
    assert len(cells) == len(middles)
    distance, index = cKDTree(middles).query(cells.centres_px)
    assert distance.max() < 1e-4
    assert len(np.unique(index)) == len(cells)
    assert np.array_equal(cells.votes, votes[index])
    deep = np.all((middles > 60) & (middles < np.array(SHAPE) - 60), axis=1)
    assert deep.sum() > 80
    assert np.all(votes[deep] == 2)
    # a cell inside for every primitive cell's area of the image's inside
    area = deep.sum() * lattice.cell_area_px
    assert area == pytest.approx((SHAPE[0] - 120) * (SHAPE[1] - 120), rel=0.05)


def test_both_columns_sit_on_their_sites():
    lattice = tilted_lattice()
    cells = cast_net(hexagons_at(nodes_in(lattice), lattice), lattice, SHAPE)
    for points, site in (
        (cells.chalcogen_px, CHALCOGEN_SITES[0]),
        (cells.metal_px, METAL_SITES[0]),
    ):
        steps = (lattice.to_canonical(points) - site) @ np.linalg.inv(LATTICE_VECTORS)
        assert steps == pytest.approx(np.rint(steps), abs=1e-4)


def test_a_missed_hexagon_costs_two_votes_and_no_cell():
    lattice = tilted_lattice()
    nodes = nodes_in(lattice)
    whole = cast_net(hexagons_at(nodes, lattice), lattice, SHAPE)
    middle = np.argmin((nodes**2).sum(axis=1))
    fewer = cast_net(hexagons_at(np.delete(nodes, middle, axis=0), lattice), lattice, SHAPE)
    assert len(fewer) == len(whole)
    assert whole.votes.sum() - fewer.votes.sum() == 2


def test_imprecise_hexagons_still_give_each_cell_once_and_better_placed():
    lattice = tilted_lattice()
    nodes = nodes_in(lattice)
    # noise could push a cell at the very edge out of the image
    nodes = nodes[
        in_frame(lattice.to_image(nodes[:, None] + [[-2, 0], [2, 0], [0, -2], [0, 2]])).all(axis=1)
    ]
    rng = np.random.default_rng(4)
    boxes = hexagon_boxes(nodes) + rng.normal(0, 0.04, (len(nodes), 4))
    hexagons = Hexagons.from_canonical_boxes(boxes, np.ones(len(nodes)), lattice)
    cells = cast_net(hexagons, lattice, SHAPE)
    middles, _ = expected_cells(nodes, lattice)
    distance, index = cKDTree(middles).query(cells.centres_px)
    assert 100 < len(cells) == len(middles) == len(np.unique(index))
    raw, _ = merge_votes(*bond_centres(boxes))
    raw_error = cKDTree(middles).query(lattice.to_image(raw))[0]
    assert distance.mean() < 0.6 * raw_error.mean()


def test_cells_outside_the_image_are_dropped():
    lattice = tilted_lattice()
    nodes = nodes_in(lattice)
    smaller = (200, 240)
    cells = cast_net(hexagons_at(nodes, lattice), lattice, smaller)
    whole = cast_net(hexagons_at(nodes, lattice), lattice, SHAPE)
    both = np.stack([whole.chalcogen_px, whole.metal_px], axis=1)
    inside = np.all((both >= 0) & (both <= np.array(smaller) - 1), axis=(1, 2))
    assert 0 < len(cells) == inside.sum() < len(whole)
    assert np.allclose(cells.chalcogen_px, whole.chalcogen_px[inside])


def test_cells_run_from_top_to_bottom_and_left_to_right():
    lattice = Lattice(np.array([150.0, 170.0]), 20 * np.eye(2))
    cells = cast_net(hexagons_at(nodes_in(lattice), lattice), lattice, SHAPE)
    y, x = np.round(cells.chalcogen_px, 3).T
    same_row = np.isclose(np.diff(y), 0)
    assert np.all(np.diff(x)[same_row] > 0)
    assert np.all(np.diff(y)[~same_row] > 0)


def test_no_hexagons_no_cells():
    lattice = tilted_lattice()
    cells = cast_net(hexagons_at(np.zeros((0, 2)), lattice), lattice, SHAPE)
    assert len(cells) == 0
    assert cells.chalcogen_px.shape == cells.metal_px.shape == (0, 2)


def test_one_hexagon_has_two_cells_of_one_vote():
    lattice = tilted_lattice()
    cells = cast_net(hexagons_at(np.zeros((1, 2)), lattice), lattice, SHAPE)
    assert cells.votes.tolist() == [1, 1]


def test_votes_merge_below_and_not_above_the_distance():
    upper, lower = np.array([[0.0, 0.0], [5.0, 5.0]]), np.array([[0.0, 0.3], [5.0, 5.4]])
    centres, votes = merge_votes(upper, lower)
    order = np.lexsort(centres.T)
    assert centres[order] == pytest.approx(np.array([[0, 0.15], [5, 5], [5, 5.4]]))
    assert votes[order].tolist() == [2, 1, 1]


def test_smoothing_leaves_a_lattice_alone_and_follows_a_slow_bend():
    ij = np.stack(np.meshgrid(*[np.arange(20)] * 2), -1).reshape(-1, 2)
    straight = ij @ LATTICE_VECTORS
    assert smooth_positions(straight)[0] == pytest.approx(straight)
    bent = straight + 0.15 * np.sin(2 * np.pi * straight[:, :1] / 17) * [0.3, 1.0]
    inner = np.all((ij > 1) & (ij < 18), axis=1)
    assert np.abs(smooth_positions(bent)[0] - bent)[inner].max() < 0.015


def test_smoothing_averages_the_noise_of_seven_cells():
    ij = np.stack(np.meshgrid(*[np.arange(30)] * 2), -1).reshape(-1, 2)
    straight = ij @ LATTICE_VECTORS
    noise = np.random.default_rng(5).normal(0, 0.03, straight.shape)
    inner = np.all((ij > 1) & (ij < 28), axis=1)
    left = (smooth_positions(straight + noise)[0] - straight)[inner]
    # the six neighbours within 1.6 a and the cell itself
    assert left.std() == pytest.approx(0.03 / np.sqrt(7), rel=0.1)


def test_smoothing_is_not_misled_by_a_stray_cell():
    ij = np.stack(np.meshgrid(*[np.arange(9)] * 2), -1).reshape(-1, 2)
    straight = ij @ LATTICE_VECTORS
    stray = np.concatenate([straight, straight[40:41] + [0.5, 0.45]])
    assert smooth_positions(stray)[0][:-1] == pytest.approx(straight, abs=1e-12)


def test_of_two_cells_on_one_another_the_weaker_goes():
    centres = np.array([[0, 0], [0, 0.5], [0, 1.05], [5, 5], [5, 5.61]])
    # the middle one of three in a row has the least support: both its neighbours stay
    assert without_overlaps(centres, np.array([3, 1, 2, 1, 1])).tolist() == [1, 0, 1, 1, 1]
    assert without_overlaps(centres, np.array([1, 3, 2, 1, 1])).tolist() == [0, 1, 0, 1, 1]
    assert without_overlaps(centres[:0], np.zeros(0, int)).tolist() == []


@pytest.mark.parametrize("shift", [(0.3, 0.4), (-0.2, 0.3), (0.0, -0.5)])
def test_a_hexagon_seen_askew_adds_no_cell(shift):
    lattice = tilted_lattice()
    nodes = nodes_in(lattice)
    askew = np.concatenate([nodes, [shift]])
    cells = cast_net(hexagons_at(askew, lattice), lattice, SHAPE)
    middles, _ = expected_cells(nodes, lattice)
    assert len(cells) == len(middles)
    assert cKDTree(middles).query(cells.centres_px)[0].max() < 0.1 * lattice.a_px
