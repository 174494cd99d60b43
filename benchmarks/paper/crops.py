"""Fig. 2c: how well a cropped unit cell covers the true one, against the crop's α and β.

The true cell is a wide and (√3/2) a high, the corner of its hexagon's box (α = 0.634, β = 0.5).
The paper cuts shares α and β of the box that CNN-1 found; this program puts a whole cell where
the merged, smoothed votes of both hexagons put the bond.
"""

from __future__ import annotations

import numpy as np
from scipy.spatial import cKDTree

from benchmarks.accuracy import pairwise_iou
from benchmarks.paper.experiments import experiments
from napari_point_defects.analysis_settings import AnalysisSettings
from napari_point_defects.lattice_nodes import CELL_MIDDLE
from napari_point_defects.materials import (
    CELL_FROM_CHALCOGEN,
    CELL_SIZE,
    CHALCOGEN_SITES,
    HEXAGON_SIZE,
)
from napari_point_defects.netcasting import unit_cell_boxes
from napari_point_defects.pipeline import analyze
from napari_point_defects.records import hexagon_boxes

ALPHAS = (0.55, 0.60, 0.65, 0.70)
BETAS = (0.45, 0.50, 0.55, 0.60)
TRUE_ALPHA, TRUE_BETA = 1 / HEXAGON_SIZE[1], 0.5
PAPER = {"best_iou": 0.691, "alpha": 0.65, "beta": 0.5}
LEAST_FITTED, LEAST_BEST = 0.90, 0.85
FROM_MIDDLE = CHALCOGEN_SITES[0] - CELL_MIDDLE  # of the bond, to its X₂ column


def cell_boxes(chalcogen: np.ndarray) -> np.ndarray:
    """Return the canonical boxes of unit cells whose X₂ column lies there, (K, 4)."""
    middles = chalcogen + CELL_FROM_CHALCOGEN
    return np.concatenate([middles - CELL_SIZE / 2, middles + CELL_SIZE / 2], axis=1)


def run(quick: bool) -> dict:
    """Return the table of mean IoU, and that of the fitted crops."""
    by_share = {(alpha, beta): [] for alpha in ALPHAS for beta in BETAS}
    fitted: list[np.ndarray] = []
    for image, truth, _ in experiments(4 if quick else 24, seed=1):
        analysis = analyze(image, AnalysisSettings())
        lattice = analysis.detection.lattice
        boxes = analysis.detection.hexagons.canonical_boxes(lattice)
        true = hexagon_boxes(lattice.to_canonical(truth.hexagons()))
        middles = [(each[:, :2] + each[:, 2:]) / 2 for each in (true, boxes)]
        distance, owner = cKDTree(middles[0]).query(middles[1])
        found = distance < 0.3
        true_cells = np.concatenate(unit_cell_boxes(true[owner[found]], TRUE_ALPHA, TRUE_BETA))
        for (alpha, beta), values in by_share.items():
            cut = np.concatenate(unit_cell_boxes(boxes[found], alpha, beta))
            values.append(pairwise_iou(cut, true_cells))
        bonds = lattice.to_canonical(truth.cells(lattice)[0])
        ours = lattice.to_canonical(analysis.cells.centres_px)
        distance, owner = cKDTree(bonds).query(ours)
        near = distance < 0.3
        pair = [cell_boxes(each + FROM_MIDDLE) for each in (ours[near], bonds[owner[near]])]
        fitted.append(pairwise_iou(*pair))
    table = {
        f"{alpha:.2f}": {
            f"{beta:.2f}": float(np.concatenate(by_share[alpha, beta]).mean()) for beta in BETAS
        }
        for alpha in ALPHAS
    }
    best = max((table[a][b], a, b) for a in table for b in table[a])
    return {
        "cells": int(sum(map(len, fitted))),
        "crops": int(sum(map(len, by_share[ALPHAS[0], BETAS[0]]))),
        "mean_iou": table,
        "best": {"iou": best[0], "alpha": float(best[1]), "beta": float(best[2])},
        "fitted": float(np.concatenate(fitted).mean()),
        "paper": PAPER,
    }


def check(result: dict) -> list[str]:
    """Say what has fallen behind."""
    problems = []
    if result["fitted"] < LEAST_FITTED:
        problems.append(f"fitted crops: mean IoU {result['fitted']:.3f} < {LEAST_FITTED}")
    if result["best"]["iou"] < LEAST_BEST:
        problems.append(f"the paper's crop: best IoU {result['best']['iou']:.3f} < {LEAST_BEST}")
    return problems
