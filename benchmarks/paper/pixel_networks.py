"""Fig. 5: naming every pixel against finding cells first, and what doubtful cells are called.

A fully convolutional network of this project and AtomAI's U-Net (M. Ziatdinov et al., Nat. Mach.
Intell. 4 (2022) 1101) name pixels; the paper's CNN-2 and this program name cells; a rule reads the
columns' intensities. The first three learn from the same images. All judge the same cells, as they
stand in the lattice's own frame: a turned image would only add to the pixel networks' errors.

The ideal observer must know each column's exact image, so it stands beside them where images are
sums of multislice columns, dose by dose; the others are judged on multislice fields as well.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch

from benchmarks.paper.cell_networks import (
    Crops,
    halves_of_own_extremes,
    predict,
    train,
    training_crops,
)
from benchmarks.paper.judged_cells import JudgedImage, judged_images
from benchmarks.paper.training_images import Noise, training_images
from benchmarks.physical_limit import Conditions, found_cells, make_field
from napari_point_defects.analysis_settings import AnalysisSettings
from napari_point_defects.baselines.fcn.data import PixelDataset
from napari_point_defects.baselines.fcn.model import N_CLASSES, FcnSettings
from napari_point_defects.baselines.fcn.prediction import FcnClassifier
from napari_point_defects.baselines.fcn.training import train_fcn
from napari_point_defects.devices import FitSettings
from napari_point_defects.materials import DefectClass
from napari_point_defects.pipeline import analyze
from napari_point_defects.records import StemImage

PAPER = {
    "accuracy": {"2DIP-Net": 0.979, "FCN": 0.957},
    "V_X1_to_V_X2_in_doubt": {"2DIP-Net": [0.896, 0.104], "FCN": [0.406, 0.594]},
}
OURS, IDEAL, FCN, ATOMAI = "this program", "ideal observer", "FCN", "AtomAI U-Net"
CNN2, RULE = "CNN-2, same images", "column intensity"
DOSES = (80, 160, 640)
DOUBTFUL = 0.1
"""Share of the V_X1 cells called doubtful: those whose X₂ column is nearest to an empty one's.

The column-intensity rule picks them, so that no network chooses its own."""

LEAST = 0.97
_JUDGED = (DefectClass.PERFECT, DefectClass.V_X1, DefectClass.V_X2)
_SEED = 5
_BATCH = 8
_TEST_SEED = 9_980_000


@dataclass(frozen=True)
class Said:
    """What a method says of cells: classes (K,), and shares of V_X1 and V_X2 (K, 2) if it can."""

    classes: np.ndarray
    shares: np.ndarray | None = None


Method = Callable[[JudgedImage], Said]


def run(quick: bool) -> dict:
    """Train the networks, let all judge, and compare."""
    count = 24 if quick else 400
    items = list(training_images(count, Noise((5.0, 80.0), 10.0), _SEED))
    methods, trained = _methods(items, quick)
    methods[OURS] = _by_this_program
    methods[RULE] = lambda test: Said(test.intensities.classes[test.rows])
    experiments = judged_images(3 if quick else 28, _SEED)
    result = {
        "training_images": count,
        "training_seconds": trained,
        "experiments": _compare(methods, experiments),
        "known_columns": {},
        "paper": PAPER,
    }
    methods[IDEAL] = lambda test: Said(test.ideal)
    for counts in DOSES[1:2] if quick else DOSES:
        tests = list(known_columns(float(counts), 1 if quick else 6))
        result["known_columns"][f"{counts} counts"] = _compare(methods, tests)
    return result


def known_columns(counts: float, images: int) -> Iterator[JudgedImage]:
    """Record sums of multislice columns, and let the ideal observer judge them."""
    conditions = Conditions(counts=counts, a_px=32.0, side_a=14.0, defect_rate=0.3)
    for number in range(images):
        field = make_field(conditions, np.random.default_rng([_TEST_SEED, int(counts), number]))
        image = StemImage(field.counts.astype(np.float32))
        analysis = analyze(image, AnalysisSettings())
        found = found_cells(field, analysis)
        ideal = field.observer.solve(np.zeros_like(field.classes), field.classes)
        yield JudgedImage(
            image, analysis, found.rows, found.classes(field.classes), found.classes(ideal)
        )


def _methods(items: list, quick: bool) -> tuple[dict[str, Method], dict]:
    """Train what is to be trained; return the methods by name, and how long each took."""
    n_held_out = max(_BATCH, len(items) // 20)
    items, held_out = items[n_held_out:], items[:n_held_out]
    settings = FcnSettings(
        fit=FitSettings(
            epochs=1 if quick else 8,
            images_per_epoch=24 if quick else 1000,
            batch_images=_BATCH,
            learning_rate=2e-3,
        )
    )
    makers = {
        FCN: lambda: _of_pixels(_own(items, held_out, settings)),
        CNN2: lambda: _of_cells(items, quick),
    }
    if find_spec("atomai"):
        makers[ATOMAI] = lambda: _of_pixels(_atomai(items, held_out, settings, quick))
    found, seconds = {}, {}
    for name, maker in makers.items():
        start = time.perf_counter()
        found[name] = maker()
        seconds[name] = round(time.perf_counter() - start, 1)
    return found, seconds


def _own(items: list, held_out: list, settings: FcnSettings) -> FcnClassifier:
    with tempfile.TemporaryDirectory() as folder:
        weights, _ = train_fcn((items, held_out), Path(folder), settings)
    return FcnClassifier.of_weights(weights, settings)


def _atomai(items: list, held_out: list, settings: FcnSettings, quick: bool) -> FcnClassifier:
    """Train AtomAI's default network as its documentation does, on crops as the FCN sees them."""
    from atomai.models import Segmentor

    torch.manual_seed(_SEED)
    each = 1 if quick else 4
    training = PixelDataset(items, settings, augment=True)
    crops = [training[i] for i in [*range(len(items))] * each]
    held_out_crops = PixelDataset(held_out, settings, augment=False)
    test = [held_out_crops[i] for i in range(len(held_out))]
    pixels, classes = (torch.stack(part).numpy() for part in zip(*crops, strict=True))
    test_pixels, test_classes = (torch.stack(part).numpy() for part in zip(*test, strict=True))
    segmentor = Segmentor("Unet", nb_classes=N_CLASSES, nb_filters=settings.filters, seed=_SEED)
    with tempfile.TemporaryDirectory() as folder:
        segmentor.fit(
            pixels,
            classes,
            test_pixels,
            test_classes,
            training_cycles=6 if quick else 1000,
            batch_size=_BATCH,
            swa=not quick,
            filename=f"{folder}/atomai",
            plot_training_history=False,
        )
    return FcnClassifier(segmentor.net.cpu(), settings)


def _of_pixels(network: FcnClassifier) -> Method:
    def says(test: JudgedImage) -> Said:
        found = network.predict(
            test.image.data, test.analysis.detection.lattice, test.analysis.cells
        )
        return Said(
            found.probabilities.argmax(axis=1)[test.rows], found.confidence[test.rows][:, 1:]
        )

    return says


def _of_cells(items: list, quick: bool) -> Method:
    crops, classes = training_crops(iter(items), _SEED)
    network = train(halves_of_own_extremes(crops), classes, epochs=1 if quick else 10)

    def says(test: JudgedImage) -> Said:
        places = test.analysis.cells.chalcogen_px[test.rows]
        cut = Crops.cut(test.image.data, test.analysis.detection.lattice, places)
        found = predict(network, halves_of_own_extremes(cut))
        return Said(found.argmax(axis=1), _chalcogen_shares(found))

    return says


def _by_this_program(test: JudgedImage) -> Said:
    found = test.analysis.cells.probabilities[test.rows]
    return Said(found.argmax(axis=1), _chalcogen_shares(found))


def _chalcogen_shares(probabilities: np.ndarray) -> np.ndarray:
    """Return how probable one and two missing X atoms are, whatever M is."""
    return probabilities[:, 1:3] + probabilities[:, 4:6]


def _compare(methods: dict[str, Method], tests: list[JudgedImage]) -> dict:
    truth = np.concatenate([test.classes for test in tests])
    read = np.concatenate([_above_empty(test) for test in tests])
    singles = np.flatnonzero(truth == DefectClass.V_X1)
    doubtful = singles[np.argsort(read[singles])[: max(1, round(DOUBTFUL * len(singles)))]]
    judged = np.isin(truth, _JUDGED)
    found = {}
    for name, method in methods.items():
        said = [method(test) for test in tests]
        classes = np.concatenate([each.classes for each in said])
        row = {
            "confusion": [
                [int(((truth == true) & (classes == as_)).sum()) for as_ in _JUDGED]
                + [int(((truth == true) & ~np.isin(classes, _JUDGED)).sum())]
                for true in _JUDGED
            ],
            "accuracy": float((classes == truth)[judged].mean()),
            "accuracy_all_classes": float((classes == truth).mean()),
            "doubtful_called_right": float((classes == truth)[doubtful].mean()),
        }
        if all(each.shares is not None for each in said):
            shares = np.concatenate([each.shares for each in said])[doubtful].astype(float)
            shares = shares[shares.sum(axis=1) > 0]
            if len(shares):
                proportion = shares / shares.sum(axis=1, keepdims=True)
                row["V_X1_to_V_X2_in_doubt"] = [float(v) for v in proportion.mean(axis=0)]
        found[name] = row
    return {
        "cells": {c.name: int((truth == c).sum()) for c in _JUDGED},
        "doubtful_cells": len(doubtful),
        "columns": [c.name for c in _JUDGED] + ["another class"],
        "methods": found,
    }


def _above_empty(test: JudgedImage) -> np.ndarray:
    """Return how far each cell's X₂ column reads above the rule's threshold for an empty one."""
    read = test.intensities
    return np.nan_to_num(read.chalcogen[test.rows] - read.chalcogen_thresholds[0], nan=np.inf)


def check(result: dict) -> list[str]:
    """Say what has fallen behind."""
    rows = result["experiments"]["methods"]
    ours = rows[OURS]["accuracy"]
    problems = [] if ours >= LEAST else [f"accuracy {ours:.4f} < {LEAST}"]
    best = max(row["accuracy"] for name, row in rows.items() if name != OURS)
    if ours < best - 0.005:
        problems.append(f"accuracy {ours:.4f}, another method reaches {best:.4f}")
    return problems
