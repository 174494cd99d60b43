"""Others on the same image and the same cells, in turns with this program, in one process.

The ``paper`` presets, the FCN and AtomAI's network are untrained: what they find is noise, what
they take is what trained ones take, but for the few boxes more or less that survive. The ones that
only classify are given this program's lattice and cells.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from napari_point_defects import pipeline
from napari_point_defects.analysis_settings import AnalysisSettings
from napari_point_defects.baselines.column_intensity import column_intensities
from napari_point_defects.baselines.fcn.model import N_CLASSES, FcnSettings, FullyConvolutional
from napari_point_defects.baselines.fcn.prediction import FcnClassifier
from napari_point_defects.canonical import to_canonical_image
from napari_point_defects.classification.model import CLASSIFIER_PRESETS, build_classifier
from napari_point_defects.classification.prediction import Classifier
from napari_point_defects.detection.model import DETECTOR_PRESETS, build_detector
from napari_point_defects.detection.prediction import Detector
from napari_point_defects.io import read_image
from napari_point_defects.materials import get_material
from napari_point_defects.records import StemImage
from napari_point_defects.weights import save_weights

OURS, PAPER = "this program", "paper presets"
MATERIAL = "MoTe2"


def measure(path: Path, rounds: int, side: int | None = None) -> dict:
    """Time all on one image; ``side`` crops it.

    Returns
    -------
    dict
        Median wall and processor seconds by name, how many times those of this program, and who
        was left out, and why.
    """
    image = read_image(path)
    if side is not None:
        image = StemImage(np.ascontiguousarray(image.data[:side, :side]), image.name)
    settings = AnalysisSettings(material=MATERIAL, device="cpu")
    detection = pipeline.detect(image, settings)
    cells = pipeline.classify(image, detection, settings)
    data, lattice, material = image.data, detection.lattice, get_material(MATERIAL)
    detector, classifier = _paper()
    fcn = FcnSettings()
    pixels = FcnClassifier(FullyConvolutional(fcn.filters), fcn)

    def ours() -> None:
        pipeline.classify(image, pipeline.detect(image, settings), settings)

    def paper() -> None:
        pipeline.find_domains(data, material)
        detector.predict(data, lattice)
        classifier.predict(data, lattice, cells)

    methods: dict[str, Callable[[], object]] = {
        OURS: ours,
        PAPER: paper,
        "FCN": lambda: pixels.predict(data, lattice, cells),
        "column intensity": lambda: column_intensities(data, lattice, cells, material),
        "column intensity, unmixed": lambda: column_intensities(
            data, lattice, cells, material, unmixed=True
        ),
    }
    left_out = {}
    if find_spec("atomai"):
        methods["AtomAI's predictor"] = _atomai(data, lattice, fcn)
    else:
        left_out["AtomAI's predictor"] = "not installed: pip install -e '.[benchmarks]'"
    seconds = {name: {"wall": [], "cpu": []} for name in methods}
    for _ in range(rounds):
        for name, method in methods.items():
            wall, cpu = time.perf_counter(), time.process_time()
            method()
            seconds[name]["wall"].append(time.perf_counter() - wall)
            seconds[name]["cpu"].append(time.process_time() - cpu)
    medians = {
        name: {kind: statistics.median(values) for kind, values in each.items()}
        for name, each in seconds.items()
    }
    return {
        "image": image.name,
        "shape": list(data.shape),
        "cells": len(cells),
        "rounds": rounds,
        "methods": {
            name: {
                "wall_seconds": round(each["wall"], 3),
                "cpu_seconds": round(each["cpu"], 3),
                "times_this_program": round(each["wall"] / medians[OURS]["wall"], 2),
                "times_this_program_cpu": round(each["cpu"] / medians[OURS]["cpu"], 2),
            }
            for name, each in medians.items()
        },
        "left_out": left_out,
    }


def _paper() -> tuple[Detector, Classifier]:
    """Make both networks as the paper has them, untrained."""
    made = []
    kinds = (
        ("detector", Detector, DETECTOR_PRESETS["paper"], build_detector),
        ("classifier", Classifier, CLASSIFIER_PRESETS["paper"], build_classifier),
    )
    with tempfile.TemporaryDirectory() as folder:
        for kind, network, settings, build in kinds:
            path = Path(folder) / f"{kind}.safetensors"
            save_weights(
                path,
                build(settings).state_dict(),
                kind=kind,
                settings=settings.model_dump(mode="json"),
                training_set={},
                metrics={"temperature": 1.0},
            )
            made.append(network(path, "cpu"))
    return tuple(made)


def _atomai(data, lattice, settings: FcnSettings) -> Callable[[], object]:
    """Return AtomAI's own way from an image to its columns' places, on the lattice's frame."""
    from atomai.models import Segmentor

    segmentor = Segmentor("Unet", nb_classes=N_CLASSES, nb_filters=settings.filters)

    def predict() -> None:
        image = to_canonical_image(data, lattice, settings.pixels_per_a).pixels
        segmentor.predict(image, verbose=False)

    return predict
