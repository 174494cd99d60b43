"""Fig. 2d and e: hexagonal net-casting against finding unit cells directly.

One network, one training set, one number of steps; only what it is taught to find differs. A cell
counts as found if a box covers it with IoU above 0.5, one box for one cell; a box that covers
none is a false positive. Every defect class is present in training and test.

Counted are all cells that border a hexagon whose six columns lie in the image, and among them
those that the image shows whole: whose box its edge does not cut, which a person would mark.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
from scipy.spatial import cKDTree

from benchmarks.accuracy import pairwise_iou
from benchmarks.paper.crops import FROM_MIDDLE, cell_boxes
from benchmarks.paper.experiments import experiments
from benchmarks.paper.training_images import Noise, training_images
from napari_point_defects.analysis_settings import AnalysisSettings
from napari_point_defects.detection.model import DETECTOR_PRESETS, DetectorSettings
from napari_point_defects.detection.prediction import Detector
from napari_point_defects.detection.training import train_detector
from napari_point_defects.lattice import find_lattice
from napari_point_defects.materials import DefectClass, get_material
from napari_point_defects.netcasting import cast_net
from napari_point_defects.pipeline import analyze
from napari_point_defects.records import Lattice
from napari_point_defects.weights import save_weights

PAPER = {"net-casting": 0.990, "unit cells directly": 0.953, "cells": 1691}
CASTING, DIRECTLY, OURS = "net-casting", "unit cells directly", "this program"
LEAST, WHOLE = 0.985, 0.998
_SEED = 2


def run(quick: bool) -> dict:
    """Train both detectors and count what they find; and what the shipped one does."""
    items = list(training_images(12 if quick else 500, Noise((5.0, 80.0), 10.0), _SEED))
    held_out = items[: max(2, len(items) // 20)]
    with tempfile.TemporaryDirectory() as folder:
        detectors = {
            name: _trained(target, items, held_out, Path(folder) / target, quick)
            for name, target in ((CASTING, "hexagon"), (DIRECTLY, "cell"))
        }
        return _count(detectors, quick) | {"training_images": len(items), "paper": PAPER}


def _trained(target: str, items: list, held_out: list, folder: Path, quick: bool) -> Detector:
    fit = DETECTOR_PRESETS["compact"].fit.model_copy(
        update={"epochs": 1 if quick else 3, "images_per_epoch": 12 if quick else 1000}
    )
    settings = DetectorSettings(target=target, fit=fit)
    weights, metrics = train_detector((items, held_out), folder, settings)
    path = folder / "detector.safetensors"
    save_weights(
        path,
        weights,
        kind="detector",
        settings=settings.model_dump(mode="json"),
        training_set={},
        metrics=metrics,
    )
    return Detector(path)


def _count(detectors: dict[str, Detector], quick: bool) -> dict:
    tally = {name: np.zeros(5) for name in (*detectors, OURS)}
    covered: dict[str, list[np.ndarray]] = {name: [] for name in tally}
    by_class = {name: np.zeros((len(DefectClass), 2)) for name in tally}
    for image, truth, _ in experiments(3 if quick else 24, _SEED):
        analysis = analyze(image, AnalysisSettings())
        lattices = {OURS: analysis.detection.lattice}
        boxes = {OURS: cell_boxes(lattices[OURS].to_canonical(analysis.cells.chalcogen_px))}
        lattice = find_lattice(image.data, get_material("MoTe2"))
        for name, detector in detectors.items():
            lattices[name] = lattice
            found = detector.predict(image.data, lattice, min_score=0.5)
            if name == DIRECTLY:
                boxes[name] = found.canonical_boxes(lattice)
            else:
                cells = cast_net(found, lattice, image.data.shape)
                boxes[name] = cell_boxes(lattice.to_canonical(cells.chalcogen_px))
        for name, own in boxes.items():
            middles, classes = truth.cells(lattices[name])
            true = cell_boxes(lattices[name].to_canonical(middles) + FROM_MIDDLE)
            iou, extra = _matched(own, true, lattices[name], image.data.shape)
            hit, whole = iou > 0.5, _uncut(true, lattices[name], image.data.shape)
            tally[name] += [len(true), hit.sum(), extra, whole.sum(), (hit & whole).sum()]
            covered[name].append(iou)
            np.add.at(by_class[name][:, 0], classes, 1)
            np.add.at(by_class[name][:, 1], classes[hit], 1)
    return {
        "methods": {
            name: {
                "cells": int(cells),
                "found": hits / cells,
                "false_positives": int(false),
                "whole_cells": int(whole),
                "whole_found": whole_hits / whole,
                "mean_iou": float(np.concatenate(covered[name]).mean()),
                "found_by_class": {
                    c.name: float(by_class[name][c, 1] / by_class[name][c, 0])
                    for c in DefectClass
                    if by_class[name][c, 0]
                },
            }
            for name, (cells, hits, false, whole, whole_hits) in tally.items()
        }
    }


def _uncut(boxes: np.ndarray, lattice: Lattice, shape: tuple[int, int]) -> np.ndarray:
    """Tell which canonical boxes the image shows whole, its border pixels taken in whole."""
    corners = lattice.to_image(boxes[:, [[0, 1], [0, 3], [2, 3], [2, 1]]])
    return np.all((corners >= -0.5) & (corners <= np.array(shape) - 0.5), axis=(1, 2))


def _matched(
    boxes: np.ndarray, true: np.ndarray, lattice: Lattice, shape: tuple[int, int]
) -> tuple[np.ndarray, int]:
    """Return each true cell's IoU with its box, 0 for none, and how many boxes are false.

    Boxes at the edge of the image, where the truth is not counted, are neither.
    """
    iou = np.zeros(len(true))
    if not len(boxes):
        return iou, 0
    middles = [(each[:, :2] + each[:, 2:]) / 2 for each in (true, boxes)]
    _, owner = cKDTree(middles[0]).query(middles[1])
    shared = pairwise_iou(boxes, true[owner])
    np.maximum.at(iou, owner, shared)
    first = shared >= iou[owner]
    places = lattice.to_image(middles[1])
    edge = 1.7 * lattice.a_px
    inside = np.all((places > edge) & (places < np.array(shape) - edge), axis=1)
    return iou, int((((shared <= 0.5) | ~first) & inside).sum())


def check(result: dict) -> list[str]:
    """Say what has fallen behind."""
    ours = result["methods"][OURS]
    return [
        f"{ours[key]:.4f} of the {name} are found, not {least}"
        for key, name, least in (("found", "cells", LEAST), ("whole_found", "uncut cells", WHOLE))
        if ours[key] < least
    ]
