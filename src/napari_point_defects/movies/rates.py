"""How often vacancies are made and heal, per cell, frame, area and dose, with an interval.

The likelihood of a rate is that of all looks under the model of the cells' histories, in which the
changes asked for are so many times as frequent; the rest stays as learned. It holds both doubts:
whether a change took place, and how many a rate happens to give. With Jeffreys' prior for a rate,
1/√rate, its posterior's 2.5 % and 97.5 % are the interval; for changes that are plain to see it is
that of Brown, Cai and DasGupta (Ann. Statist. 30 (2002) 160) for a Poisson mean.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.interpolate import CubicSpline

from napari_point_defects.materials import DefectClass
from napari_point_defects.movies.events import Event
from napari_point_defects.movies.histories import Histories, Looks, log_likelihoods

_POINTS = 33
_FINE = 2001
_BARN_NM2 = 1e-10


def _which(change: Callable[[int, int, int, int], bool]) -> tuple[np.ndarray, tuple[int, ...]]:
    table = np.array(
        [
            [
                change(a.missing_chalcogens, a.metal_missing, b.missing_chalcogens, b.metal_missing)
                for b in DefectClass
            ]
            for a in DefectClass
        ],
        bool,
    )
    return table, tuple(np.flatnonzero(table.any(axis=1)).tolist())


KINDS: dict[str, tuple[np.ndarray, tuple[int, ...]]] = {
    "cells becoming defective": _which(lambda x, m, y, n: x + m == 0 and y + n > 0),
    "X atoms lost": _which(lambda x, m, y, n: y > x),
    "M atoms lost": _which(lambda x, m, y, n: n > m),
    "cells healing": _which(lambda x, m, y, n: x + m > 0 and y + n == 0),
}
"""Which changes each rate counts, and the classes that can undergo them."""


@dataclass(frozen=True, slots=True)
class Rate:
    """How often something happens to a cell.

    Attributes
    ----------
    events : float
        Most likely number in the movie.
    low, high : float
        95 % interval of the number that the rate would give on average.
    cell_frames : float
        Cells that it could have happened to, times the frames that they could have in.
    """

    events: float
    low: float
    high: float
    cell_frames: float

    def as_dict(self, cell_area_nm2: float, dose_e_nm2: float | None) -> dict[str, Any]:
        """Return the rate in all its units, ready for JSON.

        Parameters
        ----------
        cell_area_nm2 : float
        dose_e_nm2 : float or None
            Per frame.
        """

        def per(unit: float) -> list[float]:
            return [float(value / unit) for value in (self.events, self.low, self.high)]

        frames = max(self.cell_frames, 1e-12)
        found = {
            "events": self.events,
            "events_interval95": [self.low, self.high],
            "cell_frames": self.cell_frames,
            **_named("per_cell_per_frame", per(frames)),
            **_named("per_nm2_per_frame", per(frames * cell_area_nm2)),
        }
        if dose_e_nm2 is not None:
            dose = frames * dose_e_nm2
            found |= _named("per_nm2_per_e_per_nm2", per(dose * cell_area_nm2))
            found |= _named("cross_section_per_cell_barn", per(dose * _BARN_NM2))
        return found


def _named(name: str, values: list[float]) -> dict[str, Any]:
    return {name: values[0], f"{name}_interval95": values[1:]}


def find_rates(looks: Looks, histories: Histories, level: float = 0.95) -> dict[str, Rate]:
    """Return how often cells become defective, lose X and M atoms, and heal.

    Parameters
    ----------
    looks : Looks
    histories : Histories
        Of these looks, or of more: those of migrated vacancies may be forgotten.
    level : float
        Of the intervals.
    """
    return {name: _rate(looks, histories, *kind, level) for name, kind in KINDS.items()}


def without_migrations(looks: Looks, events: list[Event]) -> Looks:
    """Forget cells from when a vacancy left them or came to them from a neighbour."""
    looks = looks.copy()
    for event in events:
        if event.migration >= 0:
            looks.until(event.track, max(event.frame, int(looks.begin[event.track]) + 1))
    return looks


def _rate(
    looks: Looks, histories: Histories, which: np.ndarray, at_risk: tuple[int, ...], level: float
) -> Rate:
    chain, matrix = histories.chain, histories.chain.matrix
    frames = np.arange(looks.likelihood.shape[1])
    within = (frames >= looks.begin[:, None]) & (frames < looks.end[:, None])
    exposed = float((np.isin(histories.classes, at_risk) & within).sum())
    chance = np.where(which, matrix, 0).sum(axis=1)[list(at_risk)]
    counts = [((histories.classes == c) & within).sum() for c in at_risk]
    expected_one = float(np.dot(counts, chance))  # events where the factor is 1
    if expected_one <= 0:
        return Rate(0.0, 0.0, float("inf"), exposed)
    seen = float(np.where(which, histories.expected, 0).sum())
    most = seen + 6 * np.sqrt(seen + 1) + 6
    limit = 0.5 / chance.max()
    root = np.linspace(0, np.sqrt(min(most / expected_one, limit)), _POINTS)
    root[0] = root[1] / 30  # the likelihood of no event at all may be nought
    values = log_likelihoods(looks, chain, which, root**2)
    fine = np.linspace(root[0], root[-1], _FINE)
    smooth = CubicSpline(root, values)(fine)
    # Jeffreys' prior is constant over the root
    density = np.exp(smooth - smooth.max())
    cumulative = np.append(0, np.cumsum((density[1:] + density[:-1]) / 2))
    cumulative /= cumulative[-1]
    tail = (1 - level) / 2
    low, high = np.interp((tail, 1 - tail), cumulative, fine) ** 2 * expected_one
    best = float(fine[smooth.argmax()] ** 2 * expected_one)
    if best < 0.5:  # nothing seen is compatible with nothing there
        low = 0.0
    return Rate(best if best > 0.05 else 0.0, float(low), float(high), exposed)
