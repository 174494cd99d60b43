"""Does adapting to one image of a microscope help on its other images, and in what time?

    python -m benchmarks.adapting [--microscope NAME] [--seeds N] [--quick] [--check]
                                                             # writes results/adapting.json

Each microscope lies outside the range that the shipped weights were trained on. One of its
images is analysed with the shipped weights and measured; the simulator is set to it, and the
weights are trained on a narrow set of such images. Nothing of the truth is used, neither the
classes nor how the image was made; the columns are always those of the program's default
microscope. Counted are the errors of shipped and adapted weights on *other* images of the same
microscope, from finding the lattice on, with the seconds from the image to the weights. The
images' seeds are used nowhere else.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.accuracy import Truth, score
from napari_point_defects.analysis_settings import AnalysisSettings
from napari_point_defects.detections import Analysis
from napari_point_defects.errors import PointDefectsError
from napari_point_defects.image_matching import analyze_and_match
from napari_point_defects.materials import DefectClass
from napari_point_defects.pipeline import classify, detect
from napari_point_defects.records import StemImage
from napari_point_defects.retraining.adapting import AdaptSettings, adapt
from napari_point_defects.simulation.columns import MicroscopeSettings
from napari_point_defects.simulation.noise import NoiseSettings, add_noise
from napari_point_defects.simulation.scenes import SceneSettings, make_scene
from napari_point_defects.training_check import outside_training

RESULTS = Path(__file__).parent / "results"
OWN_SIDE, TEST_SIDE = 640, 448
SEED = 7_800_000
LIMIT_S = 300
_RATES = (0.05, 0.02, 0.02, 0.01, 0.01)


@dataclass(frozen=True)
class Bench:
    """A microscope: how it images, and how it counts."""

    microscope: MicroscopeSettings
    scene: SceneSettings
    counts: float
    noise: NoiseSettings


BENCHES = {
    # a poor probe: columns run into each other
    "wide-probe": Bench(
        MicroscopeSettings(),
        SceneSettings(
            material="MoS2",
            a_px=24.0,
            source_fwhm_nm=0.17,
            tail_fraction=0.35,
            tail_fwhm_nm=0.35,
            jitter_a=0.02,
            defect_rates=_RATES,
        ),
        4_000,
        NoiseSettings(gaussian_mu=6),
    ),
    # another voltage and a low-angle detector: X is far brighter, dirt too, rows jump
    "low-angle": Bench(
        MicroscopeSettings(energy_ev=100e3, semiangle_mrad=24, inner_mrad=35, outer_mrad=110),
        SceneSettings(
            material="MoS2",
            a_px=20.0,
            source_fwhm_nm=0.11,
            tail_fraction=0.45,
            tail_fwhm_nm=0.45,
            jitter_a=0.055,
            chalcogen_gain=1.25,
            contamination=0.35,
            contamination_length_nm=1.2,
            defect_rates=_RATES,
        ),
        1_500,
        NoiseSettings(gaussian_mu=10),
    ),
}


def make_image(bench: Bench, number: int, side: int) -> tuple[StemImage, Truth]:
    """Simulate one image, rotated and sheared at random."""
    rng = np.random.default_rng([SEED, number])
    settings = bench.scene.model_copy(
        update={
            "height_px": side,
            "width_px": side,
            "angle_deg": float(rng.uniform(-180, 180)),
            "shear": float(rng.uniform(-0.04, 0.04)),
        }
    )
    scene = make_scene(settings, rng, microscope=bench.microscope)
    lam = bench.counts * scene.peak / scene.pair_volume_px
    noise = bench.noise.model_copy(update={"poisson_lambda": lam})
    data = add_noise(scene, noise, rng).astype(np.float32)
    truth = Truth(
        scene.lattice,
        scene.chalcogen_px,
        scene.classes % 3,
        scene.metal_px,
        (scene.classes >= DefectClass.V_M).astype(int),
        scene.hexagons_px,
        scene.clean.shape,
    )
    return StemImage(data, f"image{number}"), truth


def measure(tests: list[tuple[StemImage, Truth]], settings: AnalysisSettings) -> dict:
    """Analyse images with some weights and count errors, and images that were refused."""
    confusion = np.zeros((6, 6), int)
    refused = 0
    for image, truth in tests:
        try:
            detection = detect(image, settings)
        except PointDefectsError:
            refused += 1
            continue
        cells = classify(image, detection, settings)
        confusion += np.asarray(score(Analysis(image, detection, cells, {}), truth)["confusion"])
    defects = confusion[1:].sum()
    wrong = int(confusion.sum() - np.trace(confusion))
    return {
        "refused": refused,
        "cells": int(confusion.sum()),
        "errors": wrong,
        "error_rate": wrong / max(int(confusion.sum()), 1),
        "false_defects": int(confusion[0, 1:].sum()),
        "missed_defects": int(confusion[1:, 0].sum()),
        "defects": int(defects),
        "confusion": confusion.tolist(),
    }


def run(bench: Bench, seed: int, tests, before: dict, settings: AdaptSettings) -> dict:
    """Adapt to one image and measure on the others."""
    image, _ = make_image(bench, seed, OWN_SIDE)
    plain = AnalysisSettings(material=bench.scene.material)
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        found = analyze_and_match(image, plain)
        matched = time.perf_counter()
        adapted = adapt(found, Path(folder) / "adapted", settings, plain)
        end = time.perf_counter()
        weights = {f"{kind}_weights": path for kind, path in adapted.weights.items()}
        after = measure(tests, plain.model_copy(update=weights))
    scene = found.likeness.recipe.scene
    return {
        "seed": seed,
        "outside": list(outside_training(found.observed, plain)),
        "matched": scene.model_dump(),
        "distances": [
            found.comparison.histogram_distance,
            found.comparison.spectrum_distance,
        ],
        "detector_learned": adapted.detector is not None,
        "seconds": {"match": round(matched - start, 1), "adapt": round(end - matched, 1)},
        "total_seconds": round(end - start, 1),
        "after": after,
        "reduction": 1 - after["errors"] / max(before["errors"], 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--microscope", choices=list(BENCHES), action="append")
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--quick", action="store_true", help="one seed, two test images")
    parser.add_argument("--check", action="store_true", help="fail where it takes over 5 minutes")
    options = parser.parse_args()
    n_seeds, n_tests = (1, 2) if options.quick else (options.seeds, 6)
    path = RESULTS / ("adapting_quick.json" if options.quick else "adapting.json")
    report = json.loads(path.read_text()) if options.microscope and path.exists() else {}
    slow = []
    for name in options.microscope or BENCHES:
        bench = BENCHES[name]
        tests = [make_image(bench, 1000 + number, TEST_SIDE) for number in range(n_tests)]
        before = measure(tests, AnalysisSettings(material=bench.scene.material))
        print(f"{name}: shipped {before['errors']} errors of {before['cells']}", flush=True)
        runs = []
        for seed in range(n_seeds):
            result = run(bench, seed, tests, before, AdaptSettings(seed=seed))
            runs.append(result)
            print(
                f"  seed {seed}: {before['errors']} -> {result['after']['errors']} errors of "
                f"{result['after']['cells']} ({-100 * result['reduction']:.0f} %), "
                f"{result['total_seconds']:.0f} s",
                flush=True,
            )
            if result["total_seconds"] > LIMIT_S:
                slow.append(f"{name}, seed {seed}")
        report[name] = {
            "command": " ".join(["python -m benchmarks.adapting", *sys.argv[1:]]),
            "scene": bench.scene.model_dump(),
            "microscope": bench.microscope.model_dump(),
            "counts": bench.counts,
            "noise": bench.noise.model_dump(),
            "before": before,
            "runs": runs,
        }
        RESULTS.mkdir(exist_ok=True)
        path.write_text(json.dumps(report, indent=1) + "\n")
    if options.check and slow:
        sys.exit(f"over {LIMIT_S} s: {', '.join(slow)}")


if __name__ == "__main__":
    main()
