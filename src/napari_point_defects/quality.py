"""How far the census of an image can be trusted: a few figures, each with a short verdict.

The bounds between good, fair and poor are those of :data:`BOUNDS`. They were set on simulated
images with known answers: of those whose every figure is good the classifier mistakes fewer than
one cell in a thousand.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from napari_point_defects.baselines.column_intensity import column_intensities
from napari_point_defects.materials import (
    CHALCOGEN_SITES,
    LATTICE_VECTORS,
    METAL_SITES,
    DefectClass,
    Material,
)
from napari_point_defects.records import Lattice, UnitCells
from napari_point_defects.review import UNSURE_BELOW, is_unsure

Verdict = Literal["good", "fair", "poor"]

BOUNDS: dict[str, tuple[float, float]] = {
    "lattice_fit": (0.15, 0.03),
    "position_residual_a": (0.05, 0.12),
    "sublattice_confidence": (0.99, 0.9),
    "chalcogen_signal_to_noise": (9.0, 4.0),
    "metal_signal_to_noise": (5.0, 2.5),  # there or not: twice as far apart as one X and two
    "rule_agreement": (0.98, 0.93),
    "rule_kappa": (0.9, 0.6),
    "unsure_share": (0.02, 0.08),
    "one_vote_share": (0.02, 0.1),
    "border_share": (0.4, 0.7),
}
"""Good up to, or from, the first; poor beyond the second; fair in between."""

_NAMES = {
    "lattice_fit": "share of the image that the lattice explains",
    "position_residual_a": "cells off the lattice",
    "sublattice_confidence": "confidence in which sublattice is X",
    "chalcogen_signal_to_noise": "signal-to-noise of an X₂ column",
    "metal_signal_to_noise": "signal-to-noise of an M column",
    "rule_agreement": "agreement with the column-intensity rule",
    "rule_kappa": "the same beyond chance, Cohen's κ",
    "unsure_share": "unsure cells",
    "one_vote_share": "inner cells found by one hexagon alone",
    "border_share": "cells near the border",
}
_SHARES = {
    "lattice_fit",
    "sublattice_confidence",
    "rule_agreement",
    "unsure_share",
    "one_vote_share",
    "border_share",
}
_ASIDE = {"border_share", "lattice_fit", "position_residual_a"}
"""Figures that describe the image and say little of the answer: they do not make it poor."""

_BORDER_A = 1.6  # half the window that CNN-2 sees
_RANKS = ("good", "fair", "poor")


@dataclass(frozen=True, slots=True)
class Figure:
    """One figure of an image.

    Attributes
    ----------
    value : float
        NaN where it is not defined.
    verdict : {"good", "fair", "poor"} or None
        None where the value is not defined.
    text : str
        The value with its unit and what it is.
    """

    value: float
    verdict: Verdict | None
    text: str


@dataclass(frozen=True, slots=True)
class Quality:
    """All figures of an image.

    Attributes
    ----------
    figures : dict of Figure
        By the names of :data:`BOUNDS`.
    verdict : {"good", "fair", "poor"}
        The worst of the figures that bear on the answer.
    line : str
        The verdict and what it rests on, in one line.
    """

    figures: dict[str, Figure]
    verdict: Verdict
    line: str

    def as_dict(self) -> dict[str, Any]:
        """Return it ready for JSON."""
        return {
            "verdict": self.verdict,
            "line": self.line,
            "figures": {
                name: {"value": f.value, "verdict": f.verdict, "text": f.text}
                for name, f in self.figures.items()
            },
        }


def assess_quality(
    data: np.ndarray,
    lattice: Lattice,
    cells: UnitCells,
    material: Material,
    pixel_size_nm: tuple[float, float],
    *,
    unsure_below: float = UNSURE_BELOW,
) -> Quality:
    """Measure how good an image and its classification are.

    Parameters
    ----------
    data : ndarray of shape (M, N)
        The image; NaN where nothing was recorded.
    lattice : Lattice
    cells : UnitCells
        All cells of the image, classified.
    material : Material
    pixel_size_nm : (float, float)
        Height and width of a pixel [nm].
    unsure_below : float
        See :func:`~napari_point_defects.review.is_unsure`.

    Returns
    -------
    Quality
    """
    rule = column_intensities(data, lattice, cells, material, unmixed=True)
    off_a, off_nm = position_residual(cells, lattice, pixel_size_nm)
    near_border = _near_border(cells, lattice, np.shape(data))
    values = {
        "lattice_fit": lattice.quality,
        "position_residual_a": off_a,
        "sublattice_confidence": lattice.sublattice_confidence,
        "chalcogen_signal_to_noise": 1 / rule.chalcogen_noise,
        "metal_signal_to_noise": 1 / rule.metal_noise,
        "rule_agreement": _mean(cells.classes == rule.classes),
        "rule_kappa": cohens_kappa(cells.classes, rule.classes),
        "unsure_share": _mean(is_unsure(cells.probabilities, unsure_below)),
        "one_vote_share": _mean((cells.votes == 1)[~near_border]),
        "border_share": _mean(near_border),
    }
    extra = {"position_residual_a": f" ({1000 * off_nm:.1f} pm)"}
    figures = {
        name: _figure(name, float(value), extra.get(name, "")) for name, value in values.items()
    }
    verdict, line = _overall(figures)
    return Quality(figures, verdict, line)


def quality_lines(quality: Mapping[str, Any]) -> list[str]:
    """Write the figures of a census, as :meth:`Quality.as_dict` gives them, for a terminal."""
    if not quality:
        return []
    figures = quality["figures"].values()
    return [
        f"  quality {quality['line']}",
        *(f"    {figure['verdict'] or '–':5s} {figure['text']}" for figure in figures),
    ]


def position_residual(
    cells: UnitCells, lattice: Lattice, pixel_size_nm: tuple[float, float]
) -> tuple[float, float]:
    """Return how far cells lie off the lattice's own sites, root mean square, in a and in nm.

    A common shift is taken out. Half a cell is the most that can be seen.
    """
    if not len(cells):
        return math.nan, math.nan
    bond = (CHALCOGEN_SITES[0] + METAL_SITES[0]) / 2
    steps = (lattice.to_canonical(cells.centres_px) - bond) @ np.linalg.inv(LATTICE_VECTORS)
    # the shift common to all, as the mean angle of each step's fraction
    common = np.angle(np.exp(2j * np.pi * steps).mean(axis=0)) / (2 * np.pi)
    steps = steps - common
    off = (steps - np.rint(steps)) @ LATTICE_VECTORS
    off_nm = off @ lattice.matrix_px.T * np.asarray(pixel_size_nm)
    return tuple(float(np.sqrt((each**2).sum(axis=1).mean())) for each in (off, off_nm))


def cohens_kappa(one: np.ndarray, other: np.ndarray) -> float:
    """Return the agreement of two classifications beyond chance.

    J. Cohen, Educ. Psychol. Meas. 20 (1960) 37: 1 where they agree on every cell, 0 where no
    more than chance would; NaN where both see one and the same class everywhere.
    """
    n = len(DefectClass)
    table = np.bincount(np.asarray(one) * n + np.asarray(other), minlength=n * n).reshape(n, n)
    total = table.sum()
    if not total:
        return math.nan
    agreement = np.trace(table) / total
    chance = float(table.sum(axis=0) @ table.sum(axis=1)) / total**2
    return math.nan if chance >= 1 else float((agreement - chance) / (1 - chance))


def _near_border(cells: UnitCells, lattice: Lattice, shape: tuple[int, ...]) -> np.ndarray:
    """Tell which cells' surroundings are not in the image whole."""
    reach = _BORDER_A * np.abs(lattice.matrix_px).max(axis=1)
    limit = np.array(shape) - 1
    centres = cells.centres_px
    return ((centres < reach) | (centres > limit - reach)).any(axis=1)


def _mean(values: np.ndarray) -> float:
    return float(np.mean(values)) if len(values) else math.nan


def _figure(name: str, value: float, extra: str) -> Figure:
    if not math.isfinite(value):
        return Figure(math.nan, None, f"{_NAMES[name]}: not defined")
    good, poor = BOUNDS[name]
    sign = 1 if poor > good else -1
    verdict: Verdict = "good"
    if sign * value > sign * good:
        verdict = "fair" if sign * value <= sign * poor else "poor"
    shown = f"{value:.1%}" if name in _SHARES else f"{value:.3g}"
    unit = " a" if name.endswith("_a") else ""
    return Figure(value, verdict, f"{_NAMES[name]}: {shown}{unit}{extra}")


def _overall(figures: Mapping[str, Figure]) -> tuple[Verdict, str]:
    """Return the worst verdict and what it rests on."""
    judged = {
        name: figure
        for name, figure in figures.items()
        if figure.verdict is not None and name not in _ASIDE
    }
    worst = max((f.verdict for f in judged.values()), key=_RANKS.index, default="poor")
    if worst == "good":
        return "good", "good: every figure is as it should be"
    blamed = "; ".join(f.text for f in judged.values() if f.verdict == worst)
    return worst, f"{worst}: {blamed}"
