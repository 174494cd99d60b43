"""The defects of a likeness and of the set around it, from an image's census."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from napari_point_defects.simulation.presets import TrainingSetSettings

_LEAST_RATES = (0.01, 0.05)  # the set shows at least as few, and at least as many
_MOST_DEFECTIVE = 0.6
_RARE = 0.5  # added to every class's count: none stays unknown to the network
_MIX_WEIGHT = 6.0  # sum of the Dirichlet weights: the mix of an image varies by about a third


@dataclass(frozen=True, slots=True)
class DefectMix:
    """How often defects are drawn.

    Attributes
    ----------
    rates : tuple of 5 float
        Share of the cells of each defect class, of the likeness.
    rate_range : (float, float)
        Share of defective cells in the images of a set.
    class_mix : tuple of 5 float
        Dirichlet weights of the defect classes in a set.
    """

    rates: tuple[float, ...]
    rate_range: tuple[float, float]
    class_mix: tuple[float, ...]


def match_defects(counts: Sequence[int] | None, base: TrainingSetSettings) -> DefectMix:
    """Choose the defects of a likeness and their ranges in a set.

    Parameters
    ----------
    counts : sequence of 6 int, optional
        Cells of each class that an image shows.
    base : TrainingSetSettings
        Its ranges stay where there is no census.

    Returns
    -------
    DefectMix
        The share of defective cells ÷ and × 3, and at least from 1 % to 5 %.
    """
    if counts is None or not sum(counts):
        mix = np.array(base.class_mix) / sum(base.class_mix)
        rates = mix * base.defect_rate[0]
        return DefectMix(tuple(rates.tolist()), base.defect_rate, base.class_mix)
    defects = np.array(counts[1:], float)
    rate = float(min(defects.sum() / sum(counts), _MOST_DEFECTIVE))
    rates = defects / max(defects.sum(), 1) * rate
    weights = (defects + _RARE) / (defects + _RARE).sum() * _MIX_WEIGHT
    fewest = rate / 3 if rate > 3 * _LEAST_RATES[0] else min(max(rate / 3, 1e-3), _LEAST_RATES[0])
    most = min(max(3 * rate, _LEAST_RATES[1]), _MOST_DEFECTIVE)
    return DefectMix(tuple(rates.tolist()), (fewest, most), tuple(weights.tolist()))
