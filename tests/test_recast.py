"""Edited hexagons: the cells they concern, and only they, are cast and classified again."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial import cKDTree

from napari_point_defects import pipeline
from napari_point_defects.analysis_settings import AnalysisSettings
from napari_point_defects.classification.prediction import Classifier
from napari_point_defects.detections import Detection
from napari_point_defects.materials import LATTICE_VECTORS
from napari_point_defects.netcasting import cast_net, changed_hexagons, recast
from napari_point_defects.records import Hexagons, Lattice, StemImage, UnitCells, hexagon_boxes
from napari_point_defects.simulation.scenes import SceneSettings, make_scene

SHAPE = (300, 340)
ANGLE = np.radians(17)
LATTICE = Lattice(
    np.array([140.0, 160.0]),
    21
    * np.array([[1.0, 0.0], [0.08, 1.06]])
    @ np.array([[np.cos(ANGLE), np.sin(ANGLE)], [-np.sin(ANGLE), np.cos(ANGLE)]]),
)
NODES = np.stack(np.meshgrid(*[np.arange(-4, 5)] * 2), -1).reshape(-1, 2) @ LATTICE_VECTORS


def hexagons_at(nodes):
    return Hexagons.from_canonical_boxes(hexagon_boxes(nodes), np.ones(len(nodes)), LATTICE)


def taken(hexagons, rows):
    return Hexagons(hexagons.corners_px[rows], hexagons.scores[rows])


def classified(cells):
    """Give every cell probabilities of its own, so that one that was kept is known again."""
    draws = np.random.default_rng(len(cells)).dirichlet(np.ones(6), len(cells))
    return UnitCells(cells.chalcogen_px, cells.metal_px, cells.votes, draws)


def cells_of(hexagons):
    return classified(cast_net(hexagons, LATTICE, SHAPE))


def assert_same_cells(found, expected):
    """Compare two sets of cells, place by place.

    A full run averages each cell's place with its neighbours', here the neighbours of an edited
    box keep theirs. Vote and average share a shift of up to 0.35 a, beyond which it is another
    cell, so that a third of it is what the two may differ by.
    """
    assert len(found) == len(expected)
    if len(expected):
        distance, match = cKDTree(expected.centres_px).query(found.centres_px)
        assert distance.max() <= 0.35 / 3 * LATTICE.a_px
        assert len(set(match)) == len(found)
        np.testing.assert_array_equal(found.votes, expected.votes[match])


@pytest.fixture(scope="module")
def full():
    return hexagons_at(NODES)


@pytest.fixture(scope="module")
def full_cells(full):
    return cells_of(full)


@st.composite
def edits(draw):
    """Indices to delete, shifts of others, places of new boxes; lengths in units of a."""
    order = draw(st.permutations(range(len(NODES))))
    n_deleted, n_moved = draw(st.integers(0, 12)), draw(st.integers(0, 12))
    number = st.floats(-0.6, 0.6)
    moved = {i: draw(st.tuples(number, number)) for i in order[n_deleted : n_deleted + n_moved]}
    place = st.tuples(st.floats(-8, 8), st.floats(-8, 8))
    return set(order[:n_deleted]), moved, draw(st.lists(place, max_size=6))


def edited(nodes, edit):
    deleted, moved, added = edit
    nodes = nodes.copy()
    for i, shift in moved.items():
        nodes[i] += shift
    nodes = nodes[[i for i in range(len(nodes)) if i not in deleted]]
    return np.concatenate([nodes, np.reshape(added, (-1, 2))])


@settings(max_examples=60, deadline=None)
@given(edits())
def test_any_edit_leads_to_the_cells_that_the_new_boxes_give(edit):
    before, after = hexagons_at(NODES), hexagons_at(edited(NODES, edit))
    cells = cells_of(before)
    change = recast(before, after, cells, LATTICE, SHAPE)
    assert sorted([*change.kept, *change.dropped]) == list(range(len(cells)))
    assert np.isnan(change.cells.probabilities).all()
    assert_same_cells(change.applied_to(cells), cast_net(after, LATTICE, SHAPE))


def test_nothing_edited_nothing_touched(full, full_cells):
    change = recast(full, full, full_cells, LATTICE, SHAPE)
    assert len(change.kept) == len(full_cells)
    assert len(change.dropped) == len(change.cells) == 0


def test_boxes_kept_as_32_bit_floats_are_the_same_boxes(full, full_cells):
    rounded = Hexagons(full.corners_px.astype(np.float32), full.scores)
    gone, come = changed_hexagons(full, rounded, LATTICE)
    assert not gone.any()
    assert not come.any()


def test_a_deleted_box_leaves_what_its_neighbours_support(full, full_cells):
    middle = int(np.argmin(np.abs(NODES).sum(axis=1)))
    after = taken(full, np.arange(len(full)) != middle)
    change = recast(full, after, full_cells, LATTICE, SHAPE)
    # both its cells are another box's too
    assert len(change.dropped) == len(change.cells) == 2
    assert sorted(change.successor_of) == sorted(change.dropped)
    assert change.cells.votes.tolist() == [1, 1]
    distance = cKDTree(full_cells.centres_px[change.dropped]).query(change.cells.centres_px)[0]
    assert distance.max() < 0.02 * LATTICE.a_px
    # all others are exactly what they were
    kept = full_cells.take(change.kept)
    where = cKDTree(full_cells.centres_px).query(kept.centres_px)[1]
    np.testing.assert_array_equal(kept.probabilities, full_cells.probabilities[where])


def test_the_cell_of_a_deleted_box_alone_goes(full_cells):
    pair = hexagons_at(np.array([[0.0, 0.0], [0.0, 5.0]]))
    cells = cells_of(pair)
    change = recast(pair, taken(pair, [0]), cells, LATTICE, SHAPE)
    assert (len(change.kept), len(change.dropped), len(change.cells)) == (2, 2, 0)


def test_a_moved_box_takes_its_cells_along():
    apart = np.array([[0.0, 0.0], [0.0, 5.0]])
    before, after = hexagons_at(apart), hexagons_at(apart + [[0.1, 0.15], [0.0, 0.0]])
    cells = cells_of(before)
    change = recast(before, after, cells, LATTICE, SHAPE)
    assert len(change.dropped) == len(change.cells) == 2
    assert sorted(change.successor_of) == sorted(change.dropped)
    far = recast(before, hexagons_at(apart + [[0.5, 0.5], [0, 0]]), cells, LATTICE, SHAPE)
    assert far.successor_of.tolist() == [-1, -1]
    np.testing.assert_allclose(
        np.sort(change.cells.centres_px - cells.centres_px[change.successor_of], axis=0),
        np.tile(np.array([0.1, 0.15]) @ LATTICE.matrix_px.T, (2, 1)),
        atol=1e-6,
    )


def test_what_the_user_did_to_cells_outlives_the_boxes_edits(full, full_cells):
    middle = int(np.argmin(np.abs(NODES).sum(axis=1)))
    theirs = recast(
        full, taken(full, np.arange(len(full)) != middle), full_cells, LATTICE, SHAPE
    ).dropped
    away = int(theirs[0])
    fewer = full_cells.take(np.arange(len(full_cells)) != away)
    # a cell far from every box, added by hand
    lonely = UnitCells.unclassified(np.array([[5.0, 5.0]]), np.array([[2.0, 16.0]]), np.zeros(1))
    cells = UnitCells.joined([fewer, lonely])
    nodes = NODES.copy()
    nodes[middle] += [0.05, 0.1]
    change = recast(full, hexagons_at(nodes), cells, LATTICE, SHAPE)
    assert len(cells) - 1 in change.kept
    assert len(change.dropped) == len(change.cells) == 1  # the one taken out stays out


def test_a_cell_added_by_hand_is_taken_over_by_the_box_drawn_there():
    apart = hexagons_at(np.array([[0.0, 0.0], [0.0, 5.0]]))
    cells = cells_of(apart)
    change = recast(taken(apart, [0]), apart, cells, LATTICE, SHAPE)
    assert len(change.dropped) == len(change.cells) == 2
    assert (change.successor_of >= 0).all()


def test_from_no_box_to_some_and_back():
    some, none = hexagons_at(NODES[:9]), hexagons_at(np.zeros((0, 2)))
    nothing = cells_of(none)
    change = recast(none, some, nothing, LATTICE, SHAPE)
    assert_same_cells(change.applied_to(nothing), cast_net(some, LATTICE, SHAPE))
    cells = cells_of(some)
    change = recast(some, none, cells, LATTICE, SHAPE)
    assert len(change.applied_to(cells)) == 0


def test_boxes_over_the_edge_give_no_cells_there():
    node = LATTICE.to_canonical(np.array([[150.0, -4.0]]))
    none = hexagons_at(np.zeros((0, 2)))
    change = recast(none, hexagons_at(node), cells_of(none), LATTICE, SHAPE)
    expected = cast_net(hexagons_at(node), LATTICE, SHAPE)
    assert len(expected) < 2
    assert_same_cells(change.cells, expected)


# With the shipped classifier


@pytest.fixture(scope="module")
def scene():
    return make_scene(
        SceneSettings(height_px=260, width_px=260, a_px=20, angle_deg=9),
        np.random.default_rng(3),
    )


@pytest.fixture(scope="module")
def image(scene):
    noise = np.random.default_rng(4).normal(0, 0.03 * scene.peak, scene.clean.shape)
    return StemImage(np.asarray(scene.clean + noise, np.float32), "scene")


@pytest.fixture(scope="module")
def detection(scene):
    boxes = hexagon_boxes(scene.lattice.to_canonical(scene.hexagons_px))
    hexagons = Hexagons.from_canonical_boxes(boxes, np.ones(len(boxes)), scene.lattice)
    return Detection(scene.lattice, hexagons, (0.01, 0.01), "lattice")


@pytest.fixture(scope="module")
def found(image, detection):
    return pipeline.classify(image, detection, AnalysisSettings(device="cpu"))


def test_some_cells_get_the_answers_of_a_full_run(image, detection, found):
    classifier = Classifier(device="cpu")
    blank = UnitCells.unclassified(found.chalcogen_px, found.metal_px, found.votes)
    rows = np.arange(0, len(found), 7)
    part = classifier.predict(image.data, detection.lattice, blank, rows=rows)
    # the counts' evidence is found in rounds, from another start
    np.testing.assert_allclose(part.probabilities[rows], found.probabilities[rows], atol=1e-4)
    others = np.setdiff1d(np.arange(len(found)), rows)
    assert np.isnan(part.probabilities[others]).all()
    mask = np.isin(np.arange(len(found)), rows)
    again = classifier.predict(image.data, detection.lattice, found, rows=mask)
    np.testing.assert_allclose(again.probabilities, found.probabilities, atol=1e-4)
    none = classifier.predict(image.data, detection.lattice, found, rows=np.zeros(0, int))
    np.testing.assert_array_equal(none.probabilities, found.probabilities)


def test_edits_in_a_row_are_classified_together(image, detection, found):
    hexagons, setting = detection.hexagons, AnalysisSettings(device="cpu")
    fewer = taken(hexagons, np.arange(2, len(hexagons)))
    shifted = Hexagons(fewer.corners_px.copy(), fewer.scores)
    shifted.corners_px[40] += 1.5
    said = []
    changes = pipeline.reclassify(
        image,
        detection,
        found,
        [fewer, shifted, hexagons],
        setting,
        on_progress=lambda share, text: said.append(text),
    )
    cells, counted = found, 0
    for change in changes:
        cells, counted = change.applied_to(cells), counted + len(change.cells)
    assert said[-1] == f"100% of {counted} cells"
    assert counted < 12
    # back where it began: the same cells with the same classes
    distance, match = cKDTree(found.centres_px).query(cells.centres_px)
    assert len(cells) == len(found)
    assert distance.max() < 0.05 * detection.lattice.a_px
    np.testing.assert_array_equal(cells.classes, found.classes[match])
    assert np.abs(cells.probabilities - found.probabilities[match]).max() < 0.05


def test_the_reference_can_be_kept(image, detection, found):
    setting = AnalysisSettings(device="cpu")
    kept = pipeline.reference_of(image, detection, found, setting)
    edit = [taken(detection.hexagons, np.arange(1, len(detection.hexagons)))]
    once = pipeline.reclassify(image, detection, found, edit, setting)
    again = pipeline.reclassify(image, detection, found, edit, setting, reference=kept)
    np.testing.assert_array_equal(once[0].cells.probabilities, again[0].cells.probabilities)
