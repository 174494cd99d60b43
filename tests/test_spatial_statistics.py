"""Pair correlation, clusters and association of vacancies whose arrangement is known."""

import numpy as np
import pytest
from scipy.spatial.distance import cdist

from napari_point_defects.analysed_area import AnalysedArea, Domain
from napari_point_defects.domains.casting import DomainMap
from napari_point_defects.errors import PointDefectsError
from napari_point_defects.lattice_nodes import CELL_MIDDLE, node_grids
from napari_point_defects.materials import (
    CHALCOGEN_SITES,
    LATTICE_VECTORS,
    METAL_SITES,
    DefectClass,
)
from napari_point_defects.records import Lattice, UnitCells
from napari_point_defects.spatial_statistics import spatial_statistics

SHEARED = Lattice(np.array([7.0, -3.0]), np.array([[19.0, 6.0], [-8.0, 21.0]]))


def cells_at(nodes, classes, lattice=SHEARED, domain=1):
    nodes = np.asarray(nodes) @ LATTICE_VECTORS
    return UnitCells(
        lattice.to_image(nodes + CHALCOGEN_SITES[0]),
        lattice.to_image(nodes + METAL_SITES[0]),
        np.full(len(nodes), 2),
        np.eye(6)[np.asarray(classes)],
        np.full(len(nodes), domain),
    )


def sheet(rows=40, columns=50):
    grid = np.stack(np.meshgrid(np.arange(rows), np.arange(columns), indexing="ij"), -1)
    return grid.reshape(-1, 2)


def random_classes(n, rng, share=0.06):
    """X and M vacancies that know nothing of each other."""
    return rng.choice(3, n, p=[1 - share, share / 2, share / 2]) + 3 * (rng.uniform(size=n) < share)


def test_nodes_are_found_whatever_the_order_the_distortion_and_the_scatter():
    rng = np.random.default_rng(0)
    nodes = rng.permutation(sheet(12, 9))
    cells = cells_at(nodes, np.zeros(len(nodes), int))
    moved = UnitCells(
        cells.chalcogen_px + rng.normal(0, 1, (len(cells), 2)),
        cells.metal_px,
        cells.votes,
        cells.probabilities,
        cells.domain,
    )
    (grid,) = node_grids(moved, DomainMap.one(SHEARED))
    assert grid.shape == (12, 9)
    np.testing.assert_array_equal(nodes[grid.rows], grid.nodes)
    values = np.arange(len(cells))
    np.testing.assert_array_equal(grid.image_of(values)[tuple(nodes.T)], values)
    middle = SHEARED.to_canonical(cells.centres_px[:1]) - nodes[:1] @ LATTICE_VECTORS
    np.testing.assert_allclose(middle[0], CELL_MIDDLE, atol=1e-9)


def test_pairs_are_those_counted_one_by_one():
    rng = np.random.default_rng(1)
    nodes = sheet(14, 17)
    nodes = nodes[rng.uniform(size=len(nodes)) < 0.8]  # holes
    classes = random_classes(len(nodes), rng, 0.3)
    found = spatial_statistics(cells_at(nodes, classes), DomainMap.one(SHEARED), draws=9)
    places = nodes @ LATTICE_VECTORS
    lacks_x, lacks_m = classes % 3 > 0, classes >= DefectClass.V_M
    x, m = places + CHALCOGEN_SITES[0], places + METAL_SITES[0]

    def counted(distances, at):
        return np.array([np.isclose(distances, d, atol=1e-6).sum() for d in at])

    for result, marked in ((found.chalcogen, lacks_x), (found.metal, lacks_m)):
        expected = counted(cdist(x[marked], x[marked]), result.distance_a) // 2
        np.testing.assert_array_equal(result.pairs, expected)
        n, k = len(nodes), marked.sum()
        possible = counted(cdist(x, x), result.distance_a) / 2
        np.testing.assert_allclose(result.expected, possible * k * (k - 1) / (n * (n - 1)))
    cross = counted(cdist(x[lacks_x], m[lacks_m]), found.association.distance_a)
    np.testing.assert_array_equal(found.association.pairs, cross)
    np.testing.assert_allclose(found.chalcogen.distance_a[:4], [1, np.sqrt(3), 2, np.sqrt(7)])
    np.testing.assert_allclose(
        found.association.distance_a[:3], np.sqrt([1 / 3, 4 / 3, 7 / 3]), atol=1e-6
    )


def test_vacancies_placed_at_random_are_called_random():
    nodes = sheet()
    p_values, outside = [], []
    for seed in range(40):
        rng = np.random.default_rng(seed)
        cells = cells_at(nodes, random_classes(len(nodes), rng))
        found = spatial_statistics(cells, DomainMap.one(SHEARED), draws=99, seed=seed)
        for each in (found.chalcogen, found.metal, found.association):
            p_values.append(each.p_value)
            outside.append(((each.pairs < each.low) | (each.pairs > each.high)).mean())
    # uniform: of 120 values 30 below a quarter, give or take 5
    assert 0.12 < np.mean(np.array(p_values) < 0.25) < 0.40
    assert np.mean(p_values) == pytest.approx(0.5, abs=0.1)
    assert np.mean(outside) < 0.07


def test_pairs_that_attract_are_seen_at_their_distance():
    rng = np.random.default_rng(2)
    nodes = sheet()
    classes = np.zeros((40, 50), int)
    for i, j in rng.integers(0, (39, 49), (30, 2)):
        classes[i, j] = classes[i, j + 1] = DefectClass.V_X2
    found = spatial_statistics(cells_at(nodes, classes.ravel()), DomainMap.one(SHEARED))
    assert found.chalcogen.g[0] > 5
    assert found.chalcogen.pairs[0] > found.chalcogen.high[0]
    assert found.chalcogen.p_value == pytest.approx(1 / 500)
    assert found.clusters.count[1] > 20 > found.clusters.high[1]
    assert np.isnan(found.metal.p_value)
    assert np.isnan(found.metal.g).all()


def test_vacancies_that_avoid_each_other_are_seen():
    nodes = sheet()
    classes = np.where((nodes % 3 == 0).all(axis=1), DefectClass.V_X1, 0)
    found = spatial_statistics(cells_at(nodes, classes), DomainMap.one(SHEARED), draws=199)
    assert found.chalcogen.pairs[0] == 0 < found.chalcogen.low[0]
    assert found.chalcogen.g[found.chalcogen.distance_a == 3] > 4
    assert found.chalcogen.p_value == pytest.approx(1 / 200)
    assert found.clusters.count[0] == (classes > 0).sum()


def test_an_m_vacancy_beside_each_x_vacancy_is_an_association():
    rng = np.random.default_rng(3)
    nodes = sheet()
    classes = rng.choice(6, len(nodes), p=[0.97, 0, 0, 0, 0.03, 0])
    found = spatial_statistics(cells_at(nodes, classes), DomainMap.one(SHEARED), draws=199)
    # one of the three M columns about each X₂ is empty, in place of 3 %
    assert found.association.g[0] == pytest.approx(1 / 3 / 0.03, rel=0.25)
    assert found.association.p_value == pytest.approx(1 / 200)
    assert found.chalcogen.p_value > 0.01


def test_pairs_across_a_grain_boundary_do_not_count():
    lattice = Lattice(np.zeros(2), 20 * np.eye(2))
    other = Lattice(np.array([0.0, 3.3]), 20 * np.eye(2))
    left = cells_at(sheet(10, 5), np.full(50, DefectClass.V_X2), lattice, 1)
    right = cells_at(sheet(10, 5) + [0, 5], np.full(50, DefectClass.V_X2), other, 2)
    area = AnalysedArea.whole((400, 400))
    where = DomainMap((Domain(1, lattice), Domain(2, other)), area)
    both = spatial_statistics(UnitCells.joined([left, right]), where, draws=9)
    one = spatial_statistics(left, DomainMap.one(lattice), draws=9)
    np.testing.assert_array_equal(both.chalcogen.pairs, 2 * one.chalcogen.pairs)
    assert both.clusters.number.max() == 2
    assert both.clusters.count[-1] == 2


def test_tables_have_units_and_say_where_nothing_can_be_known():
    rng = np.random.default_rng(4)
    nodes = sheet(15, 15)
    cells = cells_at(nodes, random_classes(len(nodes), rng))
    found = spatial_statistics(cells, DomainMap.one(SHEARED), draws=19)
    table = found.chalcogen.table(0.352)
    np.testing.assert_allclose(table["distance_nm"], 0.352 * table["distance_a"])
    assert (table["g_low"] <= table["g_high"]).all()
    assert found.clusters.table()["size"].iloc[-1] == "6 or more"
    assert found.clusters.table()["clusters"].sum() == found.clusters.number.max()


def test_cells_that_are_not_classified_are_refused():
    cells = cells_at(sheet(3, 3), np.zeros(9, int))
    unknown = UnitCells.unclassified(cells.chalcogen_px, cells.metal_px, cells.votes)
    for bad in (unknown, cells.take(np.zeros(0, int))):
        with pytest.raises(PointDefectsError, match="classify the cells"):
            spatial_statistics(bad, DomainMap.one(SHEARED))
