"""Fig. 6c: concentrations with intervals, and the paper's units and area set right.

A thousand censuses of sheets whose concentrations are known say how often the interval covers
them: every cell is judged by a classifier of known confusion, whose probabilities are what the
census starts from, and the area is that of the cells counted.
"""

from __future__ import annotations

import numpy as np

from napari_point_defects.concentrations import share_of
from napari_point_defects.materials import get_material

CELLS = 3037
PAPER_AREA_NM2 = 205.3
PAPER_COUNTS = {"V_Te1": 147, "V_Te2": 9, "V_Mo": 3}
COVERAGE = (0.93, 0.97)
SEED = 9_960_000
_PER_CM2 = 1e14


def units() -> dict:
    """Return the paper's concentrations as printed, with its units right, and with its area right.

    147 defects on 205.3 nm² are printed as 7.16 × 10²⁰ cm⁻²; they are 7.16 × 10¹³ cm⁻². And
    3037 primitive cells of MoTe₂ cover more than that.
    """
    area = CELLS * get_material("MoTe2").cell_area_nm2
    printed = {"V_Te1": 7.16e20, "V_Te2": 4.38e19, "V_Mo": 1.46e19}
    rows = {}
    for name, count in PAPER_COUNTS.items():
        found = share_of(np.repeat([1.0, 0.0], [count, CELLS - count]))
        per_share = CELLS / area * _PER_CM2
        rows[name] = {
            "count": count,
            "printed_per_cm2": printed[name],
            "units_right_per_cm2": count / PAPER_AREA_NM2 * _PER_CM2,
            "lattice_area_per_cm2": count / area * _PER_CM2,
            "interval95_per_cm2": [found.low * per_share, found.high * per_share],
        }
    return {
        "cells": CELLS,
        "paper_area_nm2": PAPER_AREA_NM2,
        "lattice_area_nm2": area,
        "paper_area_over_lattice_area": PAPER_AREA_NM2 / area,
        "classes": rows,
    }


def coverage(draws: int) -> dict:
    """Return how often intervals cover the true concentration, by how clear the classes are."""
    rng = np.random.default_rng(SEED)
    found = {}
    for separation in (np.inf, 4.0, 3.0):
        hits = below = above = 0
        for _ in range(draws):
            share = 10 ** rng.uniform(-2.7, -0.8)
            n = int(rng.integers(300, 3000))
            there = rng.uniform(size=n) < share
            probabilities, prior = _judged(there, separation, rng)
            interval = share_of(probabilities, prior)
            hits += interval.low <= share <= interval.high
            below += share < interval.low
            above += share > interval.high
        name = "no doubt" if np.isinf(separation) else f"{separation:g} standard deviations apart"
        found[name] = {
            "censuses": draws,
            "covered": hits / draws,
            "too_low_an_interval": above / draws,
            "too_high_an_interval": below / draws,
        }
    return found


def _judged(there: np.ndarray, separation: float, rng: np.random.Generator):
    """Judge cells as a calibrated network does that takes the prior from the image itself."""
    if np.isinf(separation):
        return there.astype(float), None
    seen = separation * there + rng.normal(size=len(there))
    ratio = np.exp(separation * seen - separation**2 / 2)
    share = 0.05
    for _ in range(200):
        probabilities = share * ratio / (1 - share + share * ratio)
        share = float(probabilities.mean())
    return probabilities, share


def run(quick: bool) -> dict:
    """Return the corrected concentrations and the coverage."""
    return {"units": units(), "coverage": coverage(300 if quick else 1000)}


def check(result: dict) -> list[str]:
    """Say which intervals cover too little or too much."""
    problems = []
    for name, row in result["coverage"].items():
        slack = 0.02 if row["censuses"] < 1000 else 0.0  # of 300 censuses, 95 ± 2.5 % are covered
        if not COVERAGE[0] - slack <= row["covered"] <= COVERAGE[1] + slack:
            problems.append(f"intervals with {name} cover {row['covered']:.1%} of the truths")
    return problems
