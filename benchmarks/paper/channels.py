"""Fig. 3e: one channel against two, class by class, and which difference does it.

The paper's two inputs differ in three ways at once: each column has its own channel, its own
scaling where a half is scaled by itself, and its own shape. Here one changes at a time.
"""

from __future__ import annotations

import numpy as np

from benchmarks.paper.cell_networks import INPUTS, judged_crops, predict, train, training_crops
from benchmarks.paper.judged_cells import judged_images, scores
from benchmarks.paper.training_images import Noise, training_images

PAPER = {
    "1 channel": {"PERFECT": 1.0, "V_X1": 0.5248, "V_X2": 0.3571, "V_M": 0.3333},
    "2 channels": {"PERFECT": 1.0, "V_X1": 0.9787, "V_X2": 1.0, "V_M": 1.0},
}
OURS = "this program"
LEAST = 0.98
_SEED = 3


def run(quick: bool) -> dict:
    """Train a network per input and judge the same cells with each, and with this program."""
    items = training_images(16 if quick else 120, Noise(), _SEED)
    crops, classes = training_crops(items, _SEED)
    images = judged_images(3 if quick else 28, _SEED)
    test, truth = judged_crops(images)
    names = list(INPUTS)[:2] if quick else list(INPUTS)
    found = {}
    for name in names:
        network = train(INPUTS[name](crops), classes, epochs=1 if quick else 10)
        found[name] = scores(truth, predict(network, INPUTS[name](test)).argmax(axis=1))
    ours = np.concatenate([each.analysis.cells.classes[each.rows] for each in images])
    found[OURS] = scores(truth, ours)
    return {"training_cells": len(classes), "inputs": found, "paper": PAPER}


def check(result: dict) -> list[str]:
    """Say what has fallen behind."""
    ours = result["inputs"][OURS]["accuracy_balanced"]
    return [] if ours >= LEAST else [f"balanced accuracy {ours:.4f} < {LEAST}"]
