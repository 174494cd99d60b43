"""The shipped weights on materials that they never saw, beside the shipped ones most like them.

    python -m benchmarks.own_material        # writes benchmarks/results/own_material.json

NbSe₂ resembles MoSe₂, TaS₂ resembles WS₂; in VTe₂ a metal column has a ninth of X₂'s brightness,
which none of the shipped comes near. abTEM simulates the columns first (about a minute each).
Scenes are superpositions of columns, with seeds of their own: 384² px, 16–30 px per a, any
rotation, shear to 5 %, contamination, probe tails and row jitter.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from scipy.spatial import cKDTree

from napari_point_defects.analysis_settings import AnalysisSettings
from napari_point_defects.classification.training import confusion_matrix
from napari_point_defects.materials import (
    BOND,
    Material,
    adopt_definitions,
    define_material,
    get_material,
)
from napari_point_defects.pipeline import analyze
from napari_point_defects.records import StemImage
from napari_point_defects.simulation.columns import load_columns
from napari_point_defects.simulation.noise import NoiseSettings, add_noise
from napari_point_defects.simulation.scenes import Scene, SceneSettings, make_scene

RESULTS = Path(__file__).parent / "results"
SEED = 9_800_000
SCENES = 4
COUNTS = (100.0, 300.0, 3000.0)
NEW = (
    define_material("Nb", "Se", 0.3442, 0.3353, "bulk 2H, X–X estimated"),
    define_material("Ta", "S", 0.3314, 0.3125, "bulk 2H"),
    define_material("V", "Te", 0.3605, 0.3520, "DFT, 2H layer"),
)
KNOWN = ("MoSe2", "WS2")


def one_scene(material: Material, counts: float, index: int) -> np.ndarray | None:
    """Analyse a scene; return the confusion matrix, (6, 6), truth in rows."""
    rng = np.random.default_rng([SEED, index])
    settings = SceneSettings(
        material=material.formula,
        height_px=384,
        width_px=384,
        a_px=float(rng.uniform(16, 30)),
        angle_deg=float(rng.uniform(-180, 180)),
        shear=float(rng.uniform(-0.05, 0.05)),
        contamination=0.1,
        source_fwhm_nm=0.08,
        tail_fraction=0.1,
        jitter_a=0.01,
        defect_rates=(0.05, 0.015, 0.01, 0.005, 0.005),
    )
    scene = make_scene(settings, rng)
    noise = NoiseSettings.for_column_counts(scene, counts, gaussian_mu=3, bits=16)
    image = StemImage(add_noise(scene, noise, rng).astype(np.float32), material.formula)
    analysis = analyze(image, AnalysisSettings(material=material.formula))
    return _confusion(analysis.cells, scene, settings.a_px)


def _confusion(cells, scene: Scene, a_px: float) -> np.ndarray | None:
    """Compare column by column: three bonds are equivalent, the truth may be of another.

    None where the sublattices were mistaken, which makes all cells meaningless.
    """
    near = 0.35 * BOND * a_px
    x_off, x = cKDTree(scene.chalcogen_px).query(cells.chalcogen_px)
    m_off, m = cKDTree(scene.metal_px).query(cells.metal_px)
    judged = (x_off < near) & (m_off < near)
    if judged.mean() < 0.5:
        return None
    truth = scene.classes[x] % 3 + 3 * (scene.classes[m] // 3)
    return confusion_matrix(truth[judged], cells.classes[judged])


def main() -> None:
    adopt_definitions([material.definition() for material in NEW], "the benchmark")
    rows = []
    for formula in (*KNOWN, *(material.formula for material in NEW)):
        material = get_material(formula)
        columns = load_columns(material)
        for counts in COUNTS:
            scenes = [one_scene(material, counts, i) for i in range(SCENES)]
            confusion = sum(scene for scene in scenes if scene is not None)
            defects = confusion[1:].sum()
            row = {
                "material": formula,
                "learned": formula in KNOWN,
                "x2_over_m_peak": round(float(columns.chalcogen_pair[0] / columns.metal[0]), 2),
                "column_counts": counts,
                "scenes_of_mistaken_sublattices": sum(scene is None for scene in scenes),
                "cells": int(confusion.sum()),
                "error": round(float(1 - np.trace(confusion) / confusion.sum()), 5),
                "false_defects": int(confusion[0, 1:].sum()),
                "defects": int(defects),
                "defects_missed_or_mistaken": int(defects - np.trace(confusion[1:, 1:])),
                "confusion": confusion.tolist(),
            }
            rows.append(row)
            print({key: value for key, value in row.items() if key != "confusion"}, flush=True)
    report = {"command": "python -m benchmarks.own_material", "scenes": SCENES, "rows": rows}
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "own_material.json").write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
