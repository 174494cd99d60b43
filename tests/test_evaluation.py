"""Scores of classifiers and detectors whose mistakes are known."""

import json

import numpy as np
import pytest

from napari_point_defects.errors import Stopped
from napari_point_defects.evaluation import (
    BoxScores,
    ClassScores,
    evaluate_classifier,
    evaluate_detector,
)
from napari_point_defects.records import Hexagons, UnitCells, hexagon_boxes
from napari_point_defects.training_set import UNLABELLED, LabelledImage


class Oracle:
    """Answers with the classes or hexagons it is told to."""

    def __init__(self, answers):
        self.answers, self.seen = list(answers), []

    def predict(self, data, lattice, cells=None, **options):
        self.seen.append((data, cells))
        answer = self.answers.pop(0)
        if cells is None:
            return answer
        return UnitCells(cells.chalcogen_px, cells.metal_px, cells.votes, np.eye(6)[answer])


def image_of(lattice, cells, classes, hexagons_px=None, side=256):
    none = np.zeros((0, 2))
    return LabelledImage(
        np.zeros((side, side), np.uint8),
        lattice,
        "MoTe2",
        none if hexagons_px is None else hexagons_px,
        cells.chalcogen_px,
        cells.metal_px,
        classes,
    )


def matrix(**counts):
    confusion = np.zeros((6, 6), int)
    for place, count in counts.items():
        confusion[int(place[1]), int(place[2])] = count
    return confusion


def test_figures_of_a_confusion_matrix():
    scores = ClassScores(matrix(c00=90, c01=2, c10=1, c11=3, c33=4))
    assert scores.n_cells == 100
    assert scores.accuracy == pytest.approx(0.97)
    np.testing.assert_array_equal(scores.support, [92, 4, 0, 4, 0, 0])
    np.testing.assert_allclose(scores.recall, [90 / 92, 0.75, np.nan, 1, np.nan, np.nan])
    np.testing.assert_allclose(scores.precision, [90 / 91, 0.6, np.nan, 1, np.nan, np.nan])
    np.testing.assert_allclose(scores.f1, [180 / 183, 6 / 9, np.nan, 1, np.nan, np.nan])
    assert scores.mean_f1 == pytest.approx(np.nanmean(scores.f1))
    assert (scores + scores).n_cells == 200


def test_class_scores_survive_json():
    scores = ClassScores(matrix(c00=9, c01=1))
    values = json.loads(json.dumps(scores.as_dict(), allow_nan=False))
    assert values["classes"]["PERFECT"] == {
        "precision": 1.0,
        "recall": 0.9,
        "f1": pytest.approx(18 / 19),
        "support": 10,
    }
    assert values["classes"]["V_M"]["recall"] is None
    np.testing.assert_array_equal(ClassScores.from_dict(values).confusion, scores.confusion)


def test_table_says_it_all():
    text = ClassScores(matrix(c00=1200, c50=1, c55=3)).table()
    perfect, last = (
        next(line for line in text.splitlines() if line.startswith(name))
        for name in ("Perfect", "V_X2+V_M")
    )
    assert perfect.split() == ["Perfect", "0.9992", "1.0000", "0.9996", "1,200"]
    assert last.split() == ["V_X2+V_M", "1.0000", "0.7500", "0.8571", "4"]
    assert "accuracy 0.9992 of 1,204 cells" in text
    assert text.splitlines()[-1].split() == ["V_X2+V_M", "1", "0", "0", "0", "0", "3"]
    empty = ClassScores(np.zeros((6, 6), int))
    assert np.isnan(empty.accuracy)
    assert "accuracy – of 0 cells" in empty.table()


def test_cells_that_nobody_judged_are_seen_and_not_scored(lattice, cells):
    truth = cells.classes.copy()
    truth[::2] = UNLABELLED
    answer = cells.classes.copy()
    answer[1] = 3
    answer[0] = 5  # not judged: not scored
    oracle = Oracle([answer, answer])
    nothing = image_of(lattice, cells, np.full(len(cells), UNLABELLED))
    scores = evaluate_classifier([image_of(lattice, cells, truth), nothing], oracle)
    assert len(oracle.seen) == 1
    assert len(oracle.seen[0][1]) == len(cells)
    assert scores.n_cells == (truth != UNLABELLED).sum()
    assert scores.confusion[truth[1], 3] == 1 + (truth[1] == 3)
    assert scores.n_cells - np.trace(scores.confusion) == 1


def test_progress_and_stop(lattice, cells):
    images = [image_of(lattice, cells, cells.classes)] * 3
    told = []
    oracle = Oracle([cells.classes] * 3)
    evaluate_classifier(images, oracle, on_progress=lambda *args: told.append(args))
    assert [share for share, _ in told] == pytest.approx([1 / 3, 2 / 3, 1])
    assert told[-1][1] == "image 3 of 3"
    for evaluate in (evaluate_classifier, evaluate_detector):
        with pytest.raises(Stopped):
            evaluate(images, Oracle([]), should_stop=lambda: True)


def test_hexagons_are_matched_by_overlap(lattice, hexagons, cells):
    centres = hexagons.corners_px.mean(axis=1)
    item = image_of(lattice, cells, cells.classes, centres)
    boxes = hexagon_boxes(lattice.to_canonical(centres))
    boxes[0] += 0.9  # elsewhere: one missed, one false if it lies in the image
    middle = np.argmin(np.linalg.norm(centres - 128, axis=1))
    boxes[middle] += 0.1
    found = Hexagons.from_canonical_boxes(boxes[1:], np.ones(len(boxes) - 1), lattice)
    scores = evaluate_detector([item], Oracle([found]))
    n = len(centres)
    assert (scores.hits, scores.wanted, scores.found) == (n - 1, n, n - 1)
    assert scores.recall == pytest.approx((n - 1) / n)
    assert scores.precision == 1
    assert 0.95 < scores.mean_iou < 1
    doubled = Hexagons.from_canonical_boxes(
        np.concatenate([boxes[1:], boxes[[middle]] + [0.5, 0, 0.5, 0]]), np.ones(n), lattice
    )
    assert evaluate_detector([item], Oracle([doubled])).found == n


def test_hexagons_beyond_the_edge_are_not_held_against_the_detector(lattice, hexagons, cells):
    centres = hexagons.corners_px.mean(axis=1)
    item = image_of(lattice, cells, cells.classes, centres)
    outside = lattice.to_canonical(np.array([[3.0, 128.0]]))
    boxes = np.concatenate([hexagons.canonical_boxes(lattice), hexagon_boxes(outside)])
    found = Hexagons.from_canonical_boxes(boxes, np.ones(len(boxes)), lattice)
    scores = evaluate_detector([item], Oracle([found]))
    assert (scores.hits, scores.found) == (len(centres), len(centres))


def test_no_hexagon_at_all(lattice, cells):
    empty = Hexagons(np.zeros((0, 4, 2)), np.zeros(0))
    scores = evaluate_detector([image_of(lattice, cells, cells.classes)], Oracle([empty]))
    assert (scores.hits, scores.wanted, scores.found) == (0, 0, 0)
    values = json.loads(json.dumps(scores.as_dict(), allow_nan=False))
    assert values["recall"] is None
    assert BoxScores.from_dict(values) == scores
    assert "–" in scores.table()
