"""How well weights do on labelled images: scores per class, and of the hexagons' boxes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from napari_point_defects.classification.prediction import Classifier
from napari_point_defects.classification.training import confusion_matrix, mean_f1
from napari_point_defects.detection.prediction import Detector
from napari_point_defects.detection.training import match_boxes
from napari_point_defects.errors import Stopped
from napari_point_defects.materials import CHALCOGEN_SITES, CLASS_NAMES, METAL_SITES, DefectClass
from napari_point_defects.records import Hexagons, Lattice, hexagon_boxes
from napari_point_defects.training_set import UNLABELLED, LabelledImage

_MIN_SCORE = 0.5

Progress = Callable[[float, str], None]


def _nothing(share: float, text: str) -> None:
    """Report no progress."""


def _never() -> bool:
    """Never stop."""
    return False


@dataclass(frozen=True, slots=True)
class ClassScores:
    """What a classifier made of cells whose class is known.

    Attributes
    ----------
    confusion : ndarray of shape (6, 6), int
        Cells by true (rows) and predicted (columns) class.
    """

    confusion: np.ndarray

    @property
    def support(self) -> np.ndarray:
        """Cells of each true class, shape (6,)."""
        return self.confusion.sum(axis=1)

    @property
    def recall(self) -> np.ndarray:
        """Share of each true class that was found, shape (6,); NaN where it does not occur."""
        return _share(np.diag(self.confusion), self.support)

    @property
    def precision(self) -> np.ndarray:
        """Share of each predicted class that is right, shape (6,); NaN where never predicted."""
        return _share(np.diag(self.confusion), self.confusion.sum(axis=0))

    @property
    def f1(self) -> np.ndarray:
        """Harmonic mean of precision and recall, shape (6,); NaN where there is neither."""
        return _share(2 * np.diag(self.confusion), self.support + self.confusion.sum(axis=0))

    @property
    def n_cells(self) -> int:
        """Cells that were scored."""
        return int(self.confusion.sum())

    @property
    def accuracy(self) -> float:
        """Share of the cells that is right; NaN without cells."""
        return float(_share(np.trace(self.confusion), self.confusion.sum()))

    @property
    def mean_f1(self) -> float:
        """Mean F1 of the classes that occur."""
        return mean_f1(self.confusion)

    def __add__(self, other: ClassScores) -> ClassScores:
        return ClassScores(self.confusion + other.confusion)

    def as_dict(self) -> dict[str, Any]:
        """Return what goes into JSON; a figure that is not defined is None."""
        return {
            "cells": self.n_cells,
            "accuracy": _or_none(self.accuracy),
            "mean_f1": self.mean_f1,
            "classes": {
                c.name: {
                    "precision": _or_none(self.precision[c]),
                    "recall": _or_none(self.recall[c]),
                    "f1": _or_none(self.f1[c]),
                    "support": int(self.support[c]),
                }
                for c in DefectClass
            },
            "confusion": self.confusion.tolist(),
        }

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> ClassScores:
        """Read what :meth:`as_dict` made."""
        return cls(np.array(values["confusion"], int).reshape(len(DefectClass), len(DefectClass)))

    def table(self) -> str:
        """Return precision, recall, F1 and support of every class, and the matrix, as text."""
        lines = [f"{'class':<12} precision  recall      F1   cells"]
        for c, name in enumerate(CLASS_NAMES):
            figures = (self.precision[c], self.recall[c], self.f1[c])
            shown = "".join(f"{_figure(value):>8}" for value in figures)
            lines.append(f"{name:<12}  {shown}{self.support[c]:>8,}")
        lines += [
            f"accuracy {_figure(self.accuracy)} of {self.n_cells:,} cells, "
            f"mean F1 {_figure(self.mean_f1)}",
            "",
            "true class (rows) against predicted",
            " " * 12 + "".join(f"{name:>10}" for name in CLASS_NAMES),
        ]
        for name, row in zip(CLASS_NAMES, self.confusion, strict=True):
            lines.append(f"{name:<12}" + "".join(f"{count:>10,}" for count in row))
        return "\n".join(lines)


@dataclass(frozen=True, slots=True)
class BoxScores:
    """What a detector made of images whose hexagons are known.

    A hit is a true box with a found box of IoU above 0.5.

    Attributes
    ----------
    hits, wanted, found : int
        True boxes found, true boxes, and boxes found.
    overlap : float
        The hits' summed IoU.
    """

    hits: int
    wanted: int
    found: int
    overlap: float

    @property
    def recall(self) -> float:
        """Share of the true boxes that was found; NaN without any."""
        return float(_share(self.hits, self.wanted))

    @property
    def precision(self) -> float:
        """Share of the found boxes that is right; NaN without any."""
        return float(_share(self.hits, self.found))

    @property
    def f1(self) -> float:
        """Harmonic mean of precision and recall."""
        return float(_share(2 * self.hits, self.wanted + self.found))

    @property
    def mean_iou(self) -> float:
        """Mean IoU of the hits; NaN without any."""
        return float(_share(self.overlap, self.hits))

    def __add__(self, other: BoxScores) -> BoxScores:
        return BoxScores(
            self.hits + other.hits,
            self.wanted + other.wanted,
            self.found + other.found,
            self.overlap + other.overlap,
        )

    def as_dict(self) -> dict[str, Any]:
        """Return what goes into JSON; a figure that is not defined is None."""
        return {
            "hits": self.hits,
            "wanted": self.wanted,
            "found": self.found,
            "overlap": self.overlap,
            "recall": _or_none(self.recall),
            "precision": _or_none(self.precision),
            "f1": _or_none(self.f1),
            "mean_iou": _or_none(self.mean_iou),
        }

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> BoxScores:
        """Read what :meth:`as_dict` made."""
        return cls(*(values[name] for name in ("hits", "wanted", "found", "overlap")))

    def table(self) -> str:
        """Return the figures as text."""
        return (
            "recall  precision      F1  mean IoU  hexagons\n"
            f"{_figure(self.recall):>6}{_figure(self.precision):>11}{_figure(self.f1):>8}"
            f"{_figure(self.mean_iou):>10}{self.wanted:>10,}"
        )


def evaluate_classifier(
    images: Sequence[LabelledImage],
    classifier: Classifier,
    *,
    on_progress: Progress = _nothing,
    should_stop: Callable[[], bool] = _never,
) -> ClassScores:
    """Classify the cells of labelled images and count what comes out.

    Cells that nobody has judged are shown to the classifier, which compares every cell with
    their mean, but not scored.

    Parameters
    ----------
    images : sequence of LabelledImage
        A training set's split, for one.
    classifier : Classifier
    on_progress, should_stop : callable

    Returns
    -------
    ClassScores

    Raises
    ------
    Stopped
        If ``should_stop`` said yes.
    """
    n = len(DefectClass)
    scores = ClassScores(np.zeros((n, n), int))
    for number, item in enumerate(images):
        if should_stop():
            raise Stopped
        judged = item.classes != UNLABELLED
        if judged.any():
            data = item.pixels.astype(np.float32)
            cells = classifier.predict(data, item.lattice, item.cells, should_stop=should_stop)
            confusion = confusion_matrix(item.classes[judged], cells.classes[judged])
            scores += ClassScores(confusion)
        on_progress((number + 1) / len(images), f"image {number + 1} of {len(images)}")
    return scores


def evaluate_detector(
    images: Sequence[LabelledImage],
    detector: Detector,
    *,
    on_progress: Progress = _nothing,
    should_stop: Callable[[], bool] = _never,
) -> BoxScores:
    """Find the hexagons of labelled images and count the hits.

    Labels hold the hexagons whose six columns lie in the image. One that the detector completes
    beyond the edge is neither right nor wrong.

    Parameters
    ----------
    images : sequence of LabelledImage
    detector : Detector
    on_progress, should_stop : callable

    Returns
    -------
    BoxScores

    Raises
    ------
    Stopped
        If ``should_stop`` said yes.
    """
    scores = BoxScores(0, 0, 0, 0.0)
    for number, item in enumerate(images):
        if should_stop():
            raise Stopped
        found = detector.predict(
            item.pixels.astype(np.float32),
            item.lattice,
            min_score=_MIN_SCORE,
            should_stop=should_stop,
        )
        scores += _match(found, item)
        on_progress((number + 1) / len(images), f"image {number + 1} of {len(images)}")
    return scores


def _match(found: Hexagons, item: LabelledImage) -> BoxScores:
    """Compare the hexagons of one image with its labels, in the canonical frame."""
    lattice = item.lattice
    true = torch.from_numpy(hexagon_boxes(lattice.to_canonical(item.hexagons_px))[:, [1, 0, 3, 2]])
    boxes = torch.from_numpy(found.canonical_boxes(lattice)[:, [1, 0, 3, 2]])
    whole = _in_the_image(found, lattice, item.pixels.shape)
    hits, wanted, _, overlap = match_boxes(boxes, true)
    return BoxScores(int(hits), int(wanted), max(int(hits), int(whole.sum())), float(overlap))


def _in_the_image(hexagons: Hexagons, lattice: Lattice, shape: tuple[int, int]) -> np.ndarray:
    """Tell which hexagons have all six columns in the image, shape (N,)."""
    sites = np.concatenate([CHALCOGEN_SITES, METAL_SITES]) @ lattice.matrix_px.T
    columns = hexagons.corners_px.mean(axis=1)[:, None] + sites
    return np.all((columns >= 0) & (columns <= np.array(shape) - 1), axis=(1, 2))


def _share(part, whole) -> np.ndarray:
    """Divide; NaN where there is nothing to divide by."""
    part, whole = np.asarray(part, float), np.asarray(whole, float)
    return np.divide(part, whole, out=np.full(part.shape, np.nan), where=whole > 0)


def _or_none(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None


def _figure(value: float) -> str:
    return f"{value:.4f}" if np.isfinite(value) else "–"
