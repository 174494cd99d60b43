"""Do vacancies attract each other? Their pair correlation, clusters and association.

All are judged against *random placement on the lattice*: as many vacancies as were found, on
analysed cells drawn at random. Edges, holes and grain boundaries then need no correction, for
they leave out the same pairs in both; and a handful of vacancies is never read for more than it
can say, because the envelope is that of the same handful.

Join counts on a grid with random labels: P. A. P. Moran, J. R. Stat. Soc. B 10 (1948) 243.
Envelopes from random relabelling: P. J. Diggle, Statistical Analysis of Spatial Point Patterns
(2003), and J. Besag and P. J. Diggle, J. R. Stat. Soc. C 26 (1977) 327.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import fft, ndimage

from napari_point_defects.domains.casting import DomainMap
from napari_point_defects.lattice_nodes import NodeGrid, lengths_a, node_grids
from napari_point_defects.materials import CHALCOGEN_SITES, METAL_SITES, DefectClass
from napari_point_defects.records import (
    UnitCells,
    missing_chalcogens,
    missing_metals,
    require_classified,
)

REACH_A = 6.0
"""Distances up to which pairs are counted, in a."""

DRAWS = 499
"""Random placements: an envelope's ends are then the 12th and the 488th of them."""

_BOND = METAL_SITES[0] - CHALCOGEN_SITES[0]
_TOUCHING = np.array([[0, 1, 1], [1, 1, 1], [1, 1, 0]])  # a node's six neighbours on the grid
_SAME_LENGTH = 1e-6
_LEVEL = 0.95
_LARGEST = 6  # clusters of more are counted together


@dataclass(frozen=True, slots=True)
class PairCorrelation:
    """How often two vacancies lie so far apart, against random placement.

    Attributes
    ----------
    distance_a : ndarray of shape (S,)
        The distances that occur on the lattice, in a.
    pairs : ndarray of shape (S,), int
        Pairs of vacancies at each.
    expected : ndarray of shape (S,)
        Pairs expected of as many vacancies placed at random.
    low, high : ndarray of shape (S,)
        Between these lie 95 % of random placements, at each distance by itself.
    p_value : float
        Share of random placements that depart as far from what is expected, over all distances
        together; NaN where there are no pairs to judge.
    """

    distance_a: np.ndarray
    pairs: np.ndarray
    expected: np.ndarray
    low: np.ndarray
    high: np.ndarray
    p_value: float

    @property
    def g(self) -> np.ndarray:
        """Pair correlation function: 1 for random placement; NaN where no pair is possible."""
        return self._over_expected(self.pairs)

    def table(self, lattice_constant_nm: float) -> pd.DataFrame:
        """Return one row per distance."""
        return pd.DataFrame(
            {
                "distance_a": self.distance_a,
                "distance_nm": self.distance_a * lattice_constant_nm,
                "pairs": self.pairs,
                "expected": self.expected,
                "g": self.g,
                "g_low": self._over_expected(self.low),
                "g_high": self._over_expected(self.high),
            }
        )

    def _over_expected(self, pairs: np.ndarray) -> np.ndarray:
        possible = self.expected > 0
        return np.where(possible, pairs / np.where(possible, self.expected, 1), np.nan)


@dataclass(frozen=True, slots=True)
class Clusters:
    """Defective cells that touch, against random placement.

    Attributes
    ----------
    number : ndarray of shape (N,), int
        Cluster of every cell, from 1; 0 for cells without a defect.
    sizes : ndarray of shape (S,), int
        1, 2, …; the last stands for that many and more.
    count, expected, low, high : ndarray of shape (S,)
        Clusters of each size, and of as many defects placed at random: mean and 95 %.
    """

    number: np.ndarray
    sizes: np.ndarray
    count: np.ndarray
    expected: np.ndarray
    low: np.ndarray
    high: np.ndarray

    def table(self) -> pd.DataFrame:
        """Return one row per size."""
        sizes = [str(size) for size in self.sizes[:-1]] + [f"{self.sizes[-1]} or more"]
        return pd.DataFrame(
            {
                "size": sizes,
                "clusters": self.count,
                "expected": self.expected,
                "low": self.low,
                "high": self.high,
            }
        )


@dataclass(frozen=True, slots=True)
class SpatialStatistics:
    """Second-order statistics of an image's vacancies.

    Attributes
    ----------
    chalcogen, metal : PairCorrelation
        Of X₂ columns that lack an atom, and of empty M columns, each among themselves.
    association : PairCorrelation
        Between X₂ columns that lack an atom and empty M columns.
    clusters : Clusters
        Of cells that are not perfect.
    """

    chalcogen: PairCorrelation
    metal: PairCorrelation
    association: PairCorrelation
    clusters: Clusters


def spatial_statistics(
    cells: UnitCells,
    where: DomainMap,
    *,
    reach_a: float = REACH_A,
    draws: int = DRAWS,
    seed: int = 0,
) -> SpatialStatistics:
    """Measure how an image's vacancies lie to each other.

    Pairs count within a domain. For the association, the X vacancies stay and the M vacancies
    are placed at random.

    Parameters
    ----------
    cells : UnitCells
        Classified.
    where : DomainMap
    reach_a : float
    draws : int
        Random placements.
    seed : int

    Raises
    ------
    PointDefectsError
        If there are no cells, or they are not classified.
    """
    require_classified(cells)
    grids = node_grids(cells, where)
    classes = cells.classes
    chalcogen, metal = missing_chalcogens(classes) > 0, missing_metals(classes)
    rng = np.random.default_rng(seed)
    pairs = _PairCounter(grids, len(cells), reach_a)
    cross = _PairCounter(grids, len(cells), reach_a, offset=_BOND)
    return SpatialStatistics(
        chalcogen=_correlation(pairs, chalcogen, None, draws, rng),
        metal=_correlation(pairs, metal, None, draws, rng),
        association=_correlation(cross, chalcogen, metal, draws, rng),
        clusters=_clusters(grids, classes != DefectClass.PERFECT, draws, rng),
    )


class _PairCounter:
    """Counts pairs of marked cells by distance: correlations of grids, by Fourier transform.

    With an ``offset`` the second of a pair lies that far from its node, and order matters.
    """

    def __init__(
        self,
        grids: Sequence[NodeGrid],
        n_cells: int,
        reach_a: float,
        offset: np.ndarray | None = None,
    ) -> None:
        self.grids, self.n_cells, self.cross = grids, n_cells, offset is not None
        span = int(np.ceil(1.2 * reach_a)) + 1
        steps = np.stack(np.meshgrid(*[np.arange(-span, span + 1)] * 2, indexing="ij"), -1)
        steps = steps.reshape(-1, 2)
        length = lengths_a(steps, offset)
        near = (length <= reach_a + _SAME_LENGTH) & (length > _SAME_LENGTH)
        self.steps, length = steps[near], length[near]
        _, first, self.shell = np.unique(
            np.round(length / _SAME_LENGTH).astype(np.int64), return_index=True, return_inverse=True
        )
        self.distance_a = length[first]
        # room for the longest step on every side: nothing wraps around
        self.sizes = [tuple(fft.next_fast_len(n + span, real=True) for n in g.shape) for g in grids]
        self.whole = self.transform(np.ones(n_cells, bool))
        self.possible = self.count(self.whole, self.whole)

    def transform(self, marked: np.ndarray) -> list[np.ndarray]:
        """Return the Fourier transform of marked cells, (N,) bool, on every grid."""
        values = marked.astype(float)
        return [
            fft.rfft2(grid.image_of(values), size)
            for grid, size in zip(self.grids, self.sizes, strict=True)
        ]

    def count(self, first: Sequence[np.ndarray], second: Sequence[np.ndarray]) -> np.ndarray:
        """Return pairs at each distance of cells of which the transforms are given."""
        total = np.zeros(len(self.distance_a))
        for one, two, size in zip(first, second, self.sizes, strict=True):
            pairs = np.rint(fft.irfft2(one.conj() * two, size))
            found = pairs[self.steps[:, 0] % size[0], self.steps[:, 1] % size[1]]
            total += np.bincount(self.shell, found, minlength=len(total))
        return total if self.cross else total / 2


def _correlation(
    pairs: _PairCounter,
    first: np.ndarray,
    second: np.ndarray | None,
    draws: int,
    rng: np.random.Generator,
) -> PairCorrelation:
    """Count pairs, and those of random placements of the second kind, or of the only one."""
    moved = first if second is None else second
    stay = None if second is None else pairs.transform(first)  # the same in all draws

    def count(placed: np.ndarray) -> np.ndarray:
        there = pairs.transform(placed)
        return pairs.count(there if stay is None else stay, there)

    seen = count(moved)
    random = np.stack([count(rng.permutation(moved)) for _ in range(draws)])
    expected = _expected(pairs, int(moved.sum()), stay)
    low, high = _envelope(random)
    return PairCorrelation(
        distance_a=pairs.distance_a,
        pairs=seen.astype(int),
        expected=expected,
        low=low,
        high=high,
        p_value=_p_value(seen, random, expected),
    )


def _envelope(random: np.ndarray) -> np.ndarray:
    """Return between what 95 % of random placements (draws, S) lie, each count by itself."""
    tail = 100 * (1 - _LEVEL) / 2
    return np.percentile(random, (tail, 100 - tail), axis=0)


def _expected(pairs: _PairCounter, moved: int, stay: list[np.ndarray] | None) -> np.ndarray:
    """Return the mean of all placements: every possible pair is as likely as any other."""
    n = pairs.n_cells
    if stay is None:
        return pairs.possible * (moved * (moved - 1) / max(n * (n - 1), 1))
    return pairs.count(stay, pairs.whole) * (moved / n)


def _p_value(seen: np.ndarray, random: np.ndarray, expected: np.ndarray) -> float:
    """Rank the largest departure, in units of its own scatter, among those of random placements."""
    spread = random.std(axis=0)
    judged = spread > 0
    if not judged.any():
        return float("nan")

    def departure(counts: np.ndarray) -> np.ndarray:
        return (np.abs(counts - expected)[..., judged] / spread[judged]).max(axis=-1)

    as_far = (departure(random) >= departure(seen) - 1e-9).sum()
    return float((1 + as_far) / (1 + len(random)))


def _clusters(
    grids: Sequence[NodeGrid], defective: np.ndarray, draws: int, rng: np.random.Generator
) -> Clusters:
    number = np.zeros(len(defective), int)
    for grid in grids:
        labels, _ = ndimage.label(grid.image_of(defective), _TOUCHING)
        own = labels[tuple(grid.nodes.T)]
        number[grid.rows] = np.where(own > 0, own + number.max(initial=0), 0)
    random = np.empty((draws, _LARGEST))
    for draw in range(draws):
        placed = rng.permutation(defective)
        random[draw] = sum(_sizes(grid.image_of(placed)) for grid in grids)
    low, high = _envelope(random)
    return Clusters(
        number=number,
        sizes=np.arange(1, _LARGEST + 1),
        count=sum(_sizes(grid.image_of(defective)) for grid in grids),
        expected=random.mean(axis=0),
        low=low,
        high=high,
    )


def _sizes(marked: np.ndarray) -> np.ndarray:
    """Return how many clusters of 1, 2, … cells a grid has; the last of more, too."""
    labels, _ = ndimage.label(marked, _TOUCHING)
    size = np.minimum(np.bincount(labels[labels > 0])[1:], _LARGEST)
    return np.bincount(size, minlength=_LARGEST + 1)[1:]
