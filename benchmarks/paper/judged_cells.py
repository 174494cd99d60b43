"""Cells of the experiments with what they truly are, and how judgements of them are counted."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy.spatial import cKDTree

from benchmarks.paper.experiments import experiments
from napari_point_defects.analysis_settings import AnalysisSettings
from napari_point_defects.baselines.column_intensity import ColumnIntensities, column_intensities
from napari_point_defects.classification.training import confusion_matrix
from napari_point_defects.detections import Analysis
from napari_point_defects.materials import DefectClass, get_material
from napari_point_defects.pipeline import analyze
from napari_point_defects.records import StemImage

PAPER_MIX = np.array([3037 - 147 - 9 - 3, 147, 9, 3, 0, 0]) / 3037
"""Shares of the six classes in the paper's experimental images (Fig. 6)."""


@dataclass(frozen=True)
class JudgedImage:
    """An image of MoTe₂, its analysis, and the true class of the cells that were found.

    Attributes
    ----------
    rows : ndarray of int
        Of the analysis' cells: those that truly are one.
    classes : ndarray of int
        What they are.
    ideal : ndarray of int, optional
        What the ideal observer says of them, where it knows enough.
    """

    image: StemImage
    analysis: Analysis
    rows: np.ndarray
    classes: np.ndarray
    ideal: np.ndarray | None = None

    @cached_property
    def intensities(self) -> ColumnIntensities:
        """What the column-intensity rule reads of all cells of the analysis."""
        lattice = self.analysis.detection.lattice
        material = get_material("MoTe2")
        return column_intensities(self.image.data, lattice, self.analysis.cells, material)


def judged_images(count: int, seed: int) -> list[JudgedImage]:
    """Record and analyse experiments with the shipped weights."""
    found = []
    for image, truth, _ in experiments(count, seed):
        analysis = analyze(image, AnalysisSettings())
        middles, classes = truth.cells(analysis.detection.lattice)
        reach = 0.3 * truth.lattice.a_px
        distance, owner = cKDTree(middles).query(analysis.cells.centres_px)
        rows = np.flatnonzero(distance < reach)
        found.append(JudgedImage(image, analysis, rows, classes[owner[rows]]))
    return found


def scores(truth: np.ndarray, judged: np.ndarray) -> dict:
    """Return recall by class and accuracy, with the paper's mix of classes and with all alike."""
    confusion = confusion_matrix(truth, judged)
    support = confusion.sum(axis=1)
    recall = np.diag(confusion) / np.maximum(support, 1)
    return {
        "cells": int(support.sum()),
        "support": {c.name: int(support[c]) for c in DefectClass},
        "recall": {c.name: float(recall[c]) for c in DefectClass if support[c]},
        "accuracy_paper_mix": float(recall @ PAPER_MIX),
        "accuracy_balanced": float(recall[support > 0].mean()),
        "confusion": confusion.tolist(),
    }
