"""Fig. 4b: accuracy against the noise that a network was trained with, and noise that is measured.

The paper varies λ at μ = 20, and μ at λ = 5–20. The last bar is what it could not have: the noise
measured in the images sets the training images: the range of λ that most of them have, and their
median μ.
"""

from __future__ import annotations

import numpy as np

from benchmarks.paper.cell_networks import INPUTS, judged_crops, predict, train, training_crops
from benchmarks.paper.judged_cells import judged_images, scores
from benchmarks.paper.training_images import Noise, training_images
from napari_point_defects.analysis_settings import AnalysisSettings
from napari_point_defects.appraisal import measure

LAMBDAS = ((0.0, 0.0), (5.0, 20.0), (20.0, 40.0), (40.0, 80.0))
MUS = (0.0, 10.0, 20.0, 30.0, 40.0)
INPUT = "2 channels, own extremes"
PAPER = {
    "λ": {"none": 0.4043, "5–20": 0.9593, "20–40": 0.628, "40–80": 0.6307},
    "μ": {"0": 0.0183, "10": 0.4074, "20": 0.9593, "30": 0.7764, "40": 0.5987},
}
MEASURED = "measured in the images"
_SEED = 4


def run(quick: bool) -> dict:
    """Train a network per noise and judge the same cells with each."""
    images = judged_images(3 if quick else 28, _SEED)
    test, truth = judged_crops(images)
    noises = {f"λ {_named(lam)}": Noise(lam, 20.0) for lam in LAMBDAS}
    noises |= {f"μ {mu:g}": Noise((5.0, 20.0), mu) for mu in MUS if mu != 20}
    if quick:
        noises = {"λ 5–20": noises["λ 5–20"]}
    noises[MEASURED] = measured_noise(images)
    found = {}
    for name, noise in noises.items():
        crops, classes = training_crops(training_images(16 if quick else 80, noise, _SEED), _SEED)
        network = train(INPUTS[INPUT](crops), classes, epochs=3 if quick else 8)
        found[name] = scores(truth, predict(network, INPUTS[INPUT](test)).argmax(axis=1)) | {
            "poisson_lambda": list(noise.poisson_lambda),
            "gaussian_mu": noise.gaussian_mu,
        }
    return {"trained_with": found, "paper": PAPER}


def measured_noise(images: list) -> Noise:
    """Return the range that four in five images' λ lie in, and their median μ."""
    lambdas, read = [], []
    for each in images:
        found = measure(
            each.image, each.analysis.detection, each.analysis.cells, AnalysisSettings()
        )
        lambdas.append(found.poisson_lambda.value)
        read.append(found.read_noise.value)
    low, high = np.nanpercentile(lambdas, (10, 90))
    return Noise((float(low), float(high)), float(np.nanmedian(read)))


def check(result: dict) -> list[str]:
    """Say whether measuring the noise has stopped to pay."""
    found = {name: row["accuracy_balanced"] for name, row in result["trained_with"].items()}
    best = max(value for name, value in found.items() if name != MEASURED)
    if found[MEASURED] < best - 0.1:
        return [f"trained with measured noise {found[MEASURED]:.3f}, the best guess {best:.3f}"]
    return []


def _named(lam: tuple[float, float]) -> str:
    return "none" if not lam[1] else f"{lam[0]:g}–{lam[1]:g}"
