"""Whether the probabilities are honest, and whether the unsure cells hold the errors.

    python -m benchmarks.calibration [--images N] [--seconds S] [--held-out N]

writes benchmarks/results/calibration.json and calibration.png. Two sets of images, both analysed
as a user's are, from the pixels alone:

* *wide*: drawn from preset ``wide``, all six materials, with a seed of their own;
* *held-out*: scans over the multislice fields of ``multislice_fields``, at 20–2,500 counts in a
  full X₂ column beside those of the accuracy benchmark.

For each, and by dose: expected calibration error of the most probable class and of every class,
15 bins of equal width and of equal mass, beside the error that honest probabilities show by
chance; the share of cells that are flagged unsure, and of the errors among them. Half of the
images of ``wide`` fit other calibrations (temperature; bias; noise; prior), which the other half
judges: what a retrained model gains from each.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import numpy as np
from scipy.spatial import cKDTree

from benchmarks.accuracy import SEED, scan
from benchmarks.multislice_fields import PLAN, field_path, load_field
from napari_point_defects.analysis_settings import AnalysisSettings
from napari_point_defects.appraisal import quality_of
from napari_point_defects.classification.calibration import adapt_prior, fit_calibration
from napari_point_defects.classification.reliability import (
    chance_error,
    class_wise_error,
    reliability,
    top_label_error,
)
from napari_point_defects.errors import PointDefectsError
from napari_point_defects.materials import CHALCOGEN_SITES, METAL_SITES, DefectClass
from napari_point_defects.pipeline import classify, detect
from napari_point_defects.records import Lattice, StemImage, UnitCells
from napari_point_defects.review import UNSURE_BELOW, is_unsure
from napari_point_defects.simulation.images import simulate_example
from napari_point_defects.simulation.presets import PRESETS

RESULTS = Path(__file__).parent / "results"
WIDE_SEED = 7_700_000
DOSES = (0, 40, 160, 640, 2500, np.inf)
COUNTS = (20, 40, 80, 160, 320, 640, 2500)
_NAMES = ("cells", "truth", "image", "counts", "noise")


def wide_images(count: int) -> Iterator[tuple[str, float, np.ndarray, tuple]]:
    """Yield material, counts, pixels, and X columns, M columns and classes."""
    settings = PRESETS["wide"].model_copy(update={"seed": WIDE_SEED})
    for index in range(count):
        example = simulate_example(settings, index)
        item = example.image
        truth = item.chalcogen_px, item.metal_px, item.classes % 3, item.classes >= DefectClass.V_M
        yield item.material, example.column_counts, item.pixels.astype(np.float32), truth


def held_out_images(count: int) -> Iterator[tuple[str, float, np.ndarray, tuple]]:
    """Yield so many scans of each field, the doses in turn; see :func:`wide_images`."""
    for number, (material, fields) in enumerate(PLAN):
        for index in range(fields):
            if not field_path(material, index).exists():
                continue
            field = load_field(material, index)
            for image in range(count):
                rng = np.random.default_rng([SEED, 88, number, index, image])
                counts = COUNTS[(image + number) % len(COUNTS)]
                data, truth, _ = scan(field, rng, counts, image % 3 == 0, 8 + 8 * (image % 2))
                columns = truth.chalcogen_px, truth.metal_px, truth.missing_chalcogens
                yield material, counts, data, (*columns, truth.metal_missing.astype(bool))


def true_classes(cells: UnitCells, lattice: Lattice, truth: tuple) -> np.ndarray:
    """Return the class of each cell found, −1 where none is."""
    chalcogen, metal, missing, metal_missing = truth
    bond = (METAL_SITES[0] - CHALCOGEN_SITES[0]) @ lattice.matrix_px.T
    reach = 0.3 * lattice.a_px
    apart, partner = cKDTree(metal).query(chalcogen + bond)
    paired = apart < reach
    if not paired.any():
        return np.full(len(cells), -1)
    partner = partner[paired]
    middles = (chalcogen[paired] + metal[partner]) / 2
    classes = missing[paired] + DefectClass.V_M * metal_missing[partner]
    off, nearest = cKDTree(middles).query(cells.centres_px)
    return np.where(off < reach, classes[nearest], -1).astype(int)


def gather(images: Iterator, seconds: float) -> tuple[dict[str, np.ndarray], int, int]:
    """Analyse images until the time is over; return their cells, how many, how many refused."""
    parts: dict[str, list] = {name: [] for name in _NAMES}
    start, done, refused = time.perf_counter(), 0, 0
    for material, counts, data, truth in images:
        image, settings = StemImage(data), AnalysisSettings(material=material)
        try:
            detection = detect(image, settings)
            cells = classify(image, detection, settings)
        except PointDefectsError:
            refused += 1
            continue
        classes = true_classes(cells, detection.lattice, truth)
        snr = quality_of(image, detection, cells, settings).figures["chalcogen_signal_to_noise"]
        known = classes >= 0
        n = int(known.sum())
        values = (
            cells.probabilities[known],
            classes[known],
            *map(np.full, [n] * 3, (done, counts, 1 / snr.value)),
        )
        for name, value in zip(_NAMES, values, strict=True):
            parts[name].append(value)
        done += 1
        if time.perf_counter() - start > seconds:
            break
    return {name: np.concatenate(part) for name, part in parts.items()}, done, refused


def figures(probabilities: np.ndarray, classes: np.ndarray) -> dict:
    """Return the errors of calibration and what the flag is worth."""
    wrong = probabilities.argmax(axis=1) != classes
    unsure = is_unsure(probabilities)
    rng = np.random.default_rng(0)
    return {
        "cells": len(classes),
        "error": float(wrong.mean()),
        "mean_confidence": float(probabilities.max(axis=1).mean()),
        "ece_top": top_label_error(probabilities, classes),
        "ece_top_equal_mass": top_label_error(probabilities, classes, equal_mass=True),
        "ece_class_wise": class_wise_error(probabilities, classes),
        "ece_class_wise_equal_mass": class_wise_error(probabilities, classes, equal_mass=True),
        "ece_top_by_chance": chance_error(probabilities, rng),
        "unsure_share": float(unsure.mean()),
        "errors_among_unsure": float(unsure[wrong].mean()) if wrong.any() else None,
    }


def by_dose(found: dict[str, np.ndarray]) -> dict:
    """Return the figures of all cells, and of those of each band of counts."""
    groups = {"all": np.ones(len(found["truth"]), bool)}
    for low, high in pairwise(DOSES):
        groups[f"{low}–{high} counts"] = (found["counts"] > low) & (found["counts"] <= high)
    return {
        name: figures(found["cells"][rows], found["truth"][rows])
        for name, rows in groups.items()
        if rows.any()
    }


def refits(found: dict[str, np.ndarray]) -> dict:
    """Fit calibrations to every second image and judge them on the others."""
    logits = np.log(np.maximum(found["cells"], 1e-12))
    fitted = found["image"] % 2 == 0
    judged, truth, noise = ~fitted, found["truth"], found["noise"]
    if not judged.any():
        return {}
    report = {"as shipped": figures(found["cells"][judged], truth[judged])}
    variants = {
        "temperature": {"vector": False},
        "temperature and bias": {"vector": True},
        "temperature by noise, and bias": {"vector": True, "noise": noise[fitted]},
    }
    for name, options in variants.items():
        calibration = fit_calibration(logits[fitted], truth[fitted], **options)
        by_noise = noise[judged] if "noise" in options else None
        probabilities = calibration.probabilities(logits[judged], by_noise)
        report[name] = figures(probabilities, truth[judged]) | {"fit": calibration.as_card()}
    counts = np.bincount(truth[fitted], minlength=len(DefectClass)) + 1
    adapted = found["cells"].copy()
    for image in np.unique(found["image"]):
        rows = found["image"] == image
        adapted[rows] = adapt_prior(adapted[rows], counts / counts.sum())[0]
    report["prior of each image"] = figures(adapted[judged], truth[judged])
    return report


def draw(sets: dict[str, dict[str, np.ndarray]], path: Path) -> None:
    """Draw a reliability diagram of each set, with the cells of every bin below."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5 * len(sets), 6), dpi=110, layout="constrained")
    grid = figure.subplots(2, len(sets), height_ratios=[3, 1], sharex=True, squeeze=False)
    for column, (name, found) in enumerate(sets.items()):
        above, below = grid[:, column]
        confidence = found["cells"].max(axis=1)
        correct = found["cells"].argmax(axis=1) == found["truth"]
        above.plot([0, 1], [0, 1], color="0.6", linewidth=1)
        for equal_mass, mark in ((False, "o-"), (True, "x:")):
            bins = reliability(confidence, correct, equal_mass=equal_mass)
            label = f"{'equal mass' if equal_mass else 'equal width'}: ECE {bins.error:.4f}"
            above.plot(bins.confidence, bins.accuracy, mark, label=label, markersize=5)
        above.set(title=f"{name}: {len(correct):,} cells", ylabel="share right", ylim=(0, 1.02))
        above.legend(loc="upper left")
        below.hist(confidence, np.linspace(0, 1, 16), color="0.4", log=True)
        below.axvline(UNSURE_BELOW, color="tab:red", linewidth=1)
        below.set(xlabel="probability of the most probable class", ylabel="cells", xlim=(0, 1))
    figure.savefig(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=400, help="images of preset wide")
    parser.add_argument("--held-out", type=int, default=21, help="scans of every held-out field")
    parser.add_argument("--seconds", type=float, default=3600, help="at most, for each set")
    options = parser.parse_args()
    report: dict = {
        "command": "python -m benchmarks.calibration",
        "options": vars(options),
        "seed": WIDE_SEED,
        "unsure_below": UNSURE_BELOW,
        "sets": {},
    }
    sets = {}
    for name, images in (
        ("wide", wide_images(options.images)),
        ("held-out", held_out_images(options.held_out)),
    ):
        found, done, refused = gather(images, options.seconds)
        sets[name] = found
        report["sets"][name] = {"images": done, "refused": refused, "by_dose": by_dose(found)}
    report["refits"] = refits(sets["wide"])
    RESULTS.mkdir(exist_ok=True)
    text = json.dumps(report, indent=1, ensure_ascii=False)
    (RESULTS / "calibration.json").write_text(text + "\n", encoding="utf-8")
    draw(sets, RESULTS / "calibration.png")
    print(text)


if __name__ == "__main__":
    main()
