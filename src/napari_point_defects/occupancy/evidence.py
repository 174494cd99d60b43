"""How likely each class of every cell makes the counts around it.

A mean field: every cell is judged as if each other column held what is expected of it, until that
no longer changes (C. M. Bishop, *Pattern Recognition and Machine Learning*, Springer 2006, ch.
10). In the same rounds the columns' images, the noise and the dirt are learned with the missing
atoms put back. It comes near the ideal observer, which knows all of that.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

import numpy as np
from scipy.spatial import cKDTree
from scipy.special import softmax

from napari_point_defects.errors import Stopped
from napari_point_defects.materials import DefectClass
from napari_point_defects.occupancy.column_model import USUAL_RATES, ColumnModel, fit_columns
from napari_point_defects.occupancy.dirt import dirt_of, learn_dirt
from napari_point_defects.occupancy.placing import (
    SAME_A,
    STEP_A,
    Crop,
    groups_of,
    steadied,
)
from napari_point_defects.records import Lattice, UnitCells
from napari_point_defects.threads import side_by_side, small_matrices

SINGLE = 0.42
"""Brightness of one X atom over that of two, which channel: 0.40–0.43 in all six materials
(multislice, ``simulation.columns``)."""
_CHALCOGEN = np.array([1.0, SINGLE, 0.0, 1.0, SINGLE, 0.0])
_METAL = np.array([1.0, 1.0, 1.0, 0.0, 0.0, 0.0])
_RATES = np.array(USUAL_RATES)
_RATES_CELLS = 20.0  # that they count for against an image's own
_OUTSIDE = np.array([0.8, 0.04, 0.04, 0.04, 0.04, 0.04])
_ROUNDS = 6
_COLUMNS_IN = (0, 1, 2, 4)  # rounds in which the columns' images are learned, and the dirt
_DIRT_IN = (0, 2)
_STEP = 0.6  # of the way to the new expectation
_FLOOR = 0.03  # of the light at a pixel that stays when a column goes: others' far tails
_FEWEST_CELLS = 12
_MOST_LEARNED = 600  # cells
_LEARNED_PARTS = 4
_BREADTH_A = 0.4
_JUDGED_TOGETHER = 192  # cells: what is made for them stays in the processor's cache
_AROUND_A = 2.6  # cells this near are solved with a group, and not kept


class ColumnEvidence:
    """Judges the cells of one image, or of one of its domains, by their counts.

    Parameters
    ----------
    data : ndarray of shape (M, N)
        NaN where nothing was recorded.
    lattice : Lattice
    cells : UnitCells
        All cells that are there: the columns' images and the noise are learned from them.

    Attributes
    ----------
    model : ColumnModel or None
        None where there are too few cells to learn from.
    """

    @small_matrices()
    def __init__(self, data: np.ndarray, lattice: Lattice, cells: UnitCells) -> None:
        self.model: ColumnModel | None = None
        self._learned_from: np.ndarray | None = None
        if len(cells) < _FEWEST_CELLS:
            return
        centres = steadied(lattice, cells.centres_px)
        parts = _to_learn_from(lattice, centres)
        crops = list(side_by_side(lambda rows: Crop(data, lattice, centres[rows]), parts))
        if sum(len(crop.judged) for crop in crops) < 50 * len(DefectClass):
            return
        self.model, found = _solve(crops, None)
        if len(crops) == 1 and crops[0].known.sum() == len(cells):
            # judging the same cells again would only repeat the last round
            self._learned_from, self._settled = cells.centres_px, found[0]

    @property
    def reservations(self) -> np.ndarray:
        """What speaks against the evidence, shape (2,).

        The logarithm of the doubt (:class:`~.column_model.ColumnModel`), and how bright an X₂
        column still is, over its middle, at 0.4 a: broad columns are hard to tell from ground.
        """
        if self.model is None:
            return np.zeros(2)
        column = self.model.chalcogen
        breadth = column[round(_BREADTH_A / STEP_A)] / max(float(column[0]), 1e-30)
        return np.array([np.log(np.mean(self.model.doubt)), min(float(breadth), 1.0)])

    @small_matrices()
    def of(
        self,
        data: np.ndarray,
        lattice: Lattice,
        cells: UnitCells,
        beside: UnitCells | None = None,
        *,
        on_progress: Callable[[float], None] = lambda share: None,
        should_stop: Callable[[], bool] = lambda: False,
    ) -> np.ndarray:
        """Return log likelihoods of the classes over that of ``Perfect``.

        Parameters
        ----------
        data : ndarray of shape (M, N)
        lattice : Lattice
        cells : UnitCells
            Those to judge.
        beside : UnitCells, optional
            Others that are known to be there; some may be the same ones.
        on_progress, should_stop : callable

        Returns
        -------
        ndarray of shape (K, 6)
            In units of the scatter that perfect cells really show; 0 where nothing is known.

        Raises
        ------
        Stopped
            If ``should_stop`` said yes.
        """
        found = np.zeros((len(cells), len(DefectClass)))
        if self.model is None or not len(cells):
            return found
        if self._learned_from is not None and np.array_equal(cells.centres_px, self._learned_from):
            return self._settled
        given = cells.centres_px
        if beside is not None:
            given = np.concatenate([given, beside.centres_px])
        there, place = _distinct(given, SAME_A * lattice.a_px)
        wanted = np.unique(place[: len(cells)])
        centres = steadied(lattice, there)
        tree, judged = cKDTree(centres), np.zeros((len(there), len(DefectClass)))

        def judge(mine: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            if should_stop():
                raise Stopped
            near = tree.query_ball_point(centres[mine], _AROUND_A * lattice.a_px)
            others = np.setdiff1d(np.concatenate(near).astype(int), mine)
            crop = Crop(data, lattice, centres[np.concatenate([mine, others])])
            return mine, _solve([crop], self.model)[1][0][: len(mine)]

        done = 0
        groups = (wanted[group] for group in groups_of(lattice, centres[wanted]))
        for mine, said in side_by_side(judge, groups):
            judged[mine] = said
            done += len(mine)
            on_progress(done / len(wanted))
        return judged[place[: len(cells)]]


def _distinct(centres_px: np.ndarray, apart_px: float) -> tuple[np.ndarray, np.ndarray]:
    """Return the middles without those that repeat an earlier one, and each one's row in them."""
    first = np.arange(len(centres_px))
    for one, other in cKDTree(centres_px).query_pairs(apart_px):
        low, high = sorted((one, other))
        first[high] = min(first[high], low)
    kept, place = np.unique(first[first], return_inverse=True)
    return centres_px[kept], place


def _to_learn_from(lattice: Lattice, centres_px: np.ndarray) -> list[np.ndarray]:
    """Return rows of the cells to learn from: all, or some from places all over the image."""
    if len(centres_px) <= _MOST_LEARNED:
        return [np.arange(len(centres_px))]
    groups = [group for group in groups_of(lattice, centres_px) if len(group) >= _FEWEST_CELLS]
    picked = np.linspace(0, len(groups) - 1, min(len(groups), _LEARNED_PARTS)).astype(int)
    parts = []
    for group in (groups[i] for i in picked):
        middle = np.median(centres_px[group], axis=0)
        near = np.argsort(np.linalg.norm(centres_px[group] - middle, axis=1))
        parts.append(group[near[: _MOST_LEARNED // _LEARNED_PARTS]])
    return parts


def _solve(
    crops: Sequence[Crop], model: ColumnModel | None
) -> tuple[ColumnModel, list[np.ndarray]]:
    """Find what the cells of the crops lack; learn the model as well where there is none.

    Returns
    -------
    model : ColumnModel
    evidence : list of ndarray of shape (K, 6)
        Of each crop's known cells.
    """
    learning = model is None
    rates = _RATES if model is None else np.array(model.rates)
    held = [(np.ones(len(crop.known)), np.ones(len(crop.known))) for crop in crops]
    dirt = [np.zeros(crop.data.size) for crop in crops]
    for number in range(_ROUNDS):
        if learning and number in _COLUMNS_IN:
            model = fit_columns(crops, held, dirt, model)
        bright = [model.painted(crop, *each) for crop, each in zip(crops, held, strict=True)]
        noise = [model.variance(b + d) for b, d in zip(bright, dirt, strict=True)]
        if learning and number in _DIRT_IN:
            variance, length = learn_dirt(crops, bright, noise)
            model = replace(model, dirt_variance=variance, dirt_length=length)
        parts = zip(crops, bright, noise, held, strict=True)
        dirt, judged = zip(*side_by_side(partial(_look, model), parts), strict=True)
        beliefs = [
            softmax(found[0] + np.log(np.where(crop.known[:, None], rates, _OUTSIDE)), axis=1)
            for crop, found in zip(crops, judged, strict=True)
        ]
        if learning:
            mine = np.concatenate([b[crop.known] for crop, b in zip(crops, beliefs, strict=True)])
            rates = (mine.sum(axis=0) + _RATES_CELLS * _RATES) / (len(mine) + _RATES_CELLS)
        step = 1.0 if number == 0 else _STEP
        held = [
            (x + step * (belief @ _CHALCOGEN - x), m + step * (belief @ _METAL - m))
            for (x, m), belief in zip(held, beliefs, strict=True)
        ]
    if learning:
        doubt = _doubt(crops, [found[1] for found in judged], beliefs)
        model = replace(model, rates=tuple(map(float, rates)), doubt=doubt)
    return model, [
        _scaled(found[0][crop.known], model.doubt)
        for crop, found in zip(crops, judged, strict=True)
    ]


def _look(
    model: ColumnModel,
    part: tuple[Crop, np.ndarray, np.ndarray, tuple[np.ndarray, np.ndarray]],
) -> tuple[np.ndarray, tuple[np.ndarray, np.ndarray]]:
    """Return the dirt of a crop and what :func:`_judge` finds above it.

    The part is the crop, the brightness of its columns, the noise and the columns' occupancy.
    """
    crop, bright, noise, held = part
    dirt = dirt_of(crop, bright, noise, model.dirt_variance, model.dirt_length)
    return dirt, _judge(crop, model, bright + dirt, *held)


def _judge(
    crop: Crop, model: ColumnModel, bright: np.ndarray, held_x: np.ndarray, held_m: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Compare the six classes of every cell, the others as they stand.

    Counts with a gain and a detector's noise are taken as Poisson about a shifted mean, which
    has the right variance at every brightness.

    Returns
    -------
    evidence : ndarray of shape (C, 6)
        Log likelihood of each class over that of Perfect.
    surprise : ndarray of shape (C, 2)
        How far the evidence for V_X1 and V_M is from what a perfect cell's is on average, in the
        standard deviations that the noise makes.
    """
    evidence = np.zeros((len(crop.known), len(DefectClass)))
    surprise = np.zeros((len(crop.known), 2))
    shift = model.offset / model.gain**2
    explained, counts = bright / model.gain + shift, crop.values / model.gain + shift
    # what is not seen speaks for no class: nothing was counted there, and no column is near
    explained, counts = np.append(explained, 1.0), np.append(counts, 0.0)
    chalcogen, metal = model.chalcogen / model.gain, model.metal / model.gain
    for first in range(0, len(crop.known), _JUDGED_TOGETHER):
        rows = slice(first, first + _JUDGED_TOGETHER)
        patch = crop.patch[rows]
        x, m = chalcogen[crop.to_chalcogen[rows]], metal[crop.to_metal[rows]]
        whole = explained[patch] + (1 - held_x[rows, None]) * x + (1 - held_m[rows, None]) * m
        perfect = np.maximum(whole, 1e-6)
        least, seen_counts = _FLOOR * perfect, counts[patch]
        for c in range(1, len(DefectClass)):
            mean = whole - (1 - _CHALCOGEN[c]) * x
            if not _METAL[c]:
                mean -= m
            np.maximum(mean, least, out=mean)
            fewer = mean.sum(axis=1) - perfect.sum(axis=1)
            mean /= perfect
            ratio = np.log(mean, out=mean)
            found = np.einsum("kp,kp->k", seen_counts, ratio) - fewer
            evidence[rows, c] = found
            if c in (DefectClass.V_X1, DefectClass.V_M):
                expected = np.einsum("kp,kp->k", perfect, ratio) - fewer
                spread = np.sqrt(np.einsum("kp,kp,kp->k", perfect, ratio, ratio))
                off = (found - expected) / np.maximum(spread, 1e-6)
                surprise[rows, int(c == DefectClass.V_M)] = off
    return evidence, surprise


def _doubt(
    crops: Sequence[Crop], surprise: Sequence[np.ndarray], beliefs: Sequence[np.ndarray]
) -> tuple[float, float]:
    """Return by how much perfect cells' evidence scatters more than the noise explains."""
    kept = [
        each[crop.known & (belief[:, 0] > 0.5) & (crop.seen_share > 0.8)]
        for crop, each, belief in zip(crops, surprise, beliefs, strict=True)
    ]
    found = np.concatenate(kept)
    if len(found) < _FEWEST_CELLS:
        return 1.0, 1.0
    lowest, low, middle, high, highest = np.percentile(found, [5, 16, 50, 84, 95], axis=0)
    scatter = np.maximum((high - low) / 2, (highest - lowest) / 3.29)
    return tuple(float(v) for v in np.maximum(scatter**2 + middle**2, 1.0))


def _scaled(evidence: np.ndarray, doubt: tuple[float, float]) -> np.ndarray:
    """Weaken the evidence by the doubt: that on X, and what M adds to it."""
    chalcogen = evidence[:, [0, 1, 2, 0, 1, 2]]
    return chalcogen / doubt[0] + (evidence - chalcogen) / doubt[1]
