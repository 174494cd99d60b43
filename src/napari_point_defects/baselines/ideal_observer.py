"""The ideal observer: the most probable occupancy of all columns, knowing all but that.

It is given what nobody has: the exact image of each column, all positions, the noise and the
defects' rates. What it still gets wrong, no method can get right from that image on average.

The image's counts are Poisson, their mean the sum of the columns' images; cells are occupied
independently by the rates of the six classes. The joint maximum a posteriori occupancy is
climbed to cell by cell: a cell's six states are compared with all others as they stand, until
none changes. Pairs of neighbours are compared in all 36 states as well, since two faults that
explain each other are not undone one by one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.spatial import cKDTree

from napari_point_defects.materials import DefectClass

_CLASSES = len(DefectClass)
_PRESENT = tuple(
    [["chalcogen_pair"], ["chalcogen_single"], []][c.missing_chalcogens]
    + ([] if c.metal_missing else ["metal"])
    for c in DefectClass
)
"""Kinds of column that a cell of each class shows."""
_MOST_SWEEPS = 20


@dataclass(frozen=True, slots=True)
class ColumnImages:
    """Expected counts of single columns, round on the sample, distorted as the scan does.

    Attributes
    ----------
    metal, chalcogen_pair, chalcogen_single : callable
        Take distances on the sample [nm], return expected counts per pixel.
    radius_nm : float
        Beyond it they are 0.
    nm_per_px : ndarray of shape (2, 2)
        Takes (y, x) in image pixels to the sample.
    row_shift_px : ndarray of shape (M,), optional
        Row ``i`` shows the sample at x + shift.
    """

    metal: Callable[[np.ndarray], np.ndarray]
    chalcogen_pair: Callable[[np.ndarray], np.ndarray]
    chalcogen_single: Callable[[np.ndarray], np.ndarray]
    radius_nm: float
    nm_per_px: np.ndarray
    row_shift_px: np.ndarray | None = None

    @property
    def reach_px(self) -> np.ndarray:
        """How far a column reaches up and sideways in the image, shape (2,)."""
        reach = self.radius_nm * np.linalg.norm(np.linalg.inv(self.nm_per_px), axis=1)
        shift = 0.0 if self.row_shift_px is None else float(np.abs(self.row_shift_px).max())
        return reach + np.array([0.0, shift])

    def stamp(
        self, kind: str, point: np.ndarray, shape: tuple[int, int]
    ) -> tuple[tuple[slice, slice], np.ndarray]:
        """Return the part of the image that a column reaches, as slices, and its counts there."""
        low = np.maximum(np.ceil(point - self.reach_px), 0).astype(int)
        high = np.minimum(np.floor(point + self.reach_px) + 1, shape).astype(int)
        high = np.maximum(high, low)
        y = np.arange(low[0], high[0])[:, None] - point[0]
        x = np.arange(low[1], high[1])[None, :] - point[1]
        if self.row_shift_px is not None:
            x = x + self.row_shift_px[low[0] : high[0], None]
        (yy, yx), (xy, xx) = self.nm_per_px
        distance = np.hypot(yy * y + yx * x, xy * y + xx * x)
        return np.s_[low[0] : high[0], low[1] : high[1]], getattr(self, kind)(distance)


class IdealObserver:
    """Finds the most probable classes of the cells of one image.

    Parameters
    ----------
    counts : ndarray of shape (M, N)
        Poisson counts.
    chalcogen_px, metal_px : ndarray of shape (K, 2)
        Exact columns (y, x) of every cell that reaches into the image.
    columns : ColumnImages
    rates : sequence of 6 floats
        Share of the cells in each class.
    background : float or ndarray of shape (M, N)
        Expected counts per pixel that no column gives: contamination.
    """

    def __init__(
        self,
        counts: np.ndarray,
        chalcogen_px: np.ndarray,
        metal_px: np.ndarray,
        columns: ColumnImages,
        rates: Sequence[float],
        background: float | np.ndarray = 0.0,
    ) -> None:
        self.counts = np.asarray(counts, float)
        self.x, self.m = np.asarray(chalcogen_px, float), np.asarray(metal_px, float)
        self.columns, self.background = columns, background
        with np.errstate(divide="ignore"):
            self.log_rates = np.log(np.asarray(rates, float))
        middles = (self.x + self.m) / 2
        nearest, _ = cKDTree(middles).query(middles, k=2)
        self.pairs = cKDTree(middles).query_pairs(
            1.5 * float(np.median(nearest[:, 1])), output_type="ndarray"
        )
        self.parts = [
            {
                kind: columns.stamp(kind, point, self.counts.shape)
                for kind, point in (
                    ("metal", m),
                    ("chalcogen_pair", x),
                    ("chalcogen_single", x),
                )
            }
            for x, m in zip(self.x, self.m, strict=True)
        ]

    def expected(self, classes: np.ndarray) -> np.ndarray:
        """Return the expected counts of an occupancy, shape (M, N)."""
        mean = np.zeros(self.counts.shape) + self.background
        for parts, cls in zip(self.parts, classes, strict=True):
            for kind in _PRESENT[cls]:
                where, stamp = parts[kind]
                mean[where] += stamp
        return mean

    def solve(self, *starts: np.ndarray) -> np.ndarray:
        """Return the classes of highest posterior found from any of the starts, shape (K,).

        More starts only help to find the maximum. Without one, all cells start as perfect.
        """
        starts = starts or (np.zeros(len(self.x), int),)
        found = [self._climb(np.array(start, int)) for start in starts]
        return max(found, key=self.log_posterior)

    def log_posterior(self, classes: np.ndarray) -> float:
        """Return log likelihood plus log prior of an occupancy, up to a constant."""
        mean = np.maximum(self.expected(classes), 1e-12)
        likelihood = (self.counts * np.log(mean) - mean).sum()
        return float(likelihood + self.log_rates[classes].sum())

    def _climb(self, classes: np.ndarray) -> np.ndarray:
        counted = _CountedPixels(self)
        mean = counted.mean(classes)
        active = np.ones(len(classes), bool)
        middles = (self.x + self.m) / 2
        reach = 2.2 * float(self.columns.reach_px.max())
        neighbours = cKDTree(middles).query_ball_point(middles, reach)
        for _ in range(_MOST_SWEEPS):
            changed = False
            for k in np.flatnonzero(active):
                active[k] = False
                if self._improve(classes, mean, counted, [k]):
                    active[neighbours[k]] = True
                    changed = True
            if changed:
                continue
            for pair in self.pairs[(classes[self.pairs] > 0).any(axis=1)]:
                if self._improve(classes, mean, counted, list(pair)):
                    active[neighbours[pair[0]]] = True
                    changed = True
            if not changed:
                break
        return classes

    def _improve(
        self, classes: np.ndarray, mean: np.ndarray, counted: _CountedPixels, cells: list[int]
    ) -> bool:
        """Put one or two cells into their best joint state; tell whether that changed them."""
        pixels, images, totals = counted.around(cells)
        counts = counted.counts[pixels]
        now = tuple(classes[cells])
        without = mean[pixels] - sum(image[cls] for image, cls in zip(images, now, strict=True))
        best, best_gain = now, -np.inf
        for state in np.ndindex((_CLASSES,) * len(cells)):
            image = without + sum(each[cls] for each, cls in zip(images, state, strict=True))
            gain = float((counts * np.log(np.maximum(image, 1e-12))).sum())
            gain -= sum(total[cls] for total, cls in zip(totals, state, strict=True))
            gain += float(self.log_rates[list(state)].sum())
            if gain > best_gain + (1e-9 if state != now else -1e-9):
                best, best_gain = state, gain
        if best == now:
            return False
        mean[pixels] = without + sum(image[cls] for image, cls in zip(images, best, strict=True))
        classes[cells] = best
        return True


class _CountedPixels:
    """The pixels that counted anything: of the others a likelihood needs only the sum.

    At few counts per pixel these are a small part of an image.
    """

    def __init__(self, observer: IdealObserver) -> None:
        counted = observer.counts > 0
        place = np.full(counted.shape, -1, np.int32)
        place[counted] = np.arange(np.count_nonzero(counted))
        self.counts = observer.counts[counted]
        background = np.broadcast_to(np.asarray(observer.background, float), counted.shape)
        self.background = background[counted]
        self.parts = [
            {kind: _at_counted(place, *part) for kind, part in parts.items()}
            for parts in observer.parts
        ]
        self._around = {}

    def mean(self, classes: np.ndarray) -> np.ndarray:
        """Return the expected counts at these pixels."""
        mean = self.background.copy()
        for parts, cls in zip(self.parts, classes, strict=True):
            for kind in _PRESENT[cls]:
                pixels, values, _ = parts[kind]
                mean[pixels] += values
        return mean

    def around(self, cells: list[int]) -> tuple[np.ndarray, list[np.ndarray], list[np.ndarray]]:
        """Return the pixels (P,) that cells reach, and of each cell its six images and sums."""
        key = tuple(cells)
        if key not in self._around:
            self._around[key] = self._seen_around(cells)
        return self._around[key]

    def _seen_around(self, cells: list[int]) -> tuple[np.ndarray, list, list]:
        pixels = np.unique(np.concatenate([p for k in cells for p, _, _ in self.parts[k].values()]))
        images, totals = [], []
        for k in cells:
            each, total = np.zeros((_CLASSES, len(pixels))), np.zeros(_CLASSES)
            for kind, (reached, values, whole) in self.parts[k].items():
                has = [c for c in range(_CLASSES) if kind in _PRESENT[c]]
                each[np.ix_(has, np.searchsorted(pixels, reached))] += values
                total[has] += whole
            images.append(each)
            totals.append(total)
        return pixels, images, totals


def _at_counted(
    place: np.ndarray, where: tuple[slice, slice], stamp: np.ndarray
) -> tuple[np.ndarray, np.ndarray, float]:
    """Return a column's counted pixels, what it adds to each, and all that it adds."""
    found = place[where]
    here = found >= 0
    return found[here], stamp[here], float(stamp.sum())
