"""The scan's distortions: where the crystal is against the mean cell, tile by tile, row by row."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import optimize

from napari_point_defects.materials import LATTICE_VECTORS
from napari_point_defects.measured import Estimate
from napari_point_defects.measurement.folding import Fold, MeanCell, smooth_field
from napari_point_defects.records import Lattice

_LEAST_PX = 0.01
"""What an imperfect mean cell moves rows by."""

_LEAST_DISTORTION = 3e-4
"""What an imperfect mean cell moves shear and stretch by."""


@dataclass(frozen=True, slots=True)
class RowOffsets:
    """Sideways error of each row.

    Attributes
    ----------
    offset_px : ndarray of shape (M,)
        As measured; NaN where a row shows too little.
    error_px : ndarray of shape (M,)
        Standard error of each from noise.
    jitter_px : Estimate
        Root-mean-square error of the rows, noise taken off.
    """

    offset_px: np.ndarray
    error_px: np.ndarray
    jitter_px: Estimate

    def left_over(self) -> float:
        """Return the mean square of what stays after :meth:`correction` [px²]."""
        power = self.jitter_px.value**2
        error = self.error_px[np.isfinite(self.error_px)] ** 2
        if not len(error) or not power > 0:
            return 0.0
        return float(np.mean(power * error / (power + error)))

    def correction(self) -> np.ndarray:
        """Return the most probable offset of each row [px], 0 where a row tells nothing."""
        power = self.jitter_px.value**2
        if not power > 0:
            return np.zeros(len(self.offset_px))
        error = np.where(np.isfinite(self.error_px), self.error_px, np.inf) ** 2
        return np.nan_to_num(self.offset_px) * power / (power + error)


class Slopes:
    """Tables of the mean cell and of its slopes along y and x."""

    def __init__(self, cell: MeanCell) -> None:
        self.level = cell.table().ravel()
        self.along_y = cell.table(np.array([1.0, 0.0])).ravel()
        self.along_x = cell.table(np.array([0.0, 1.0])).ravel()


def follow_displacement(fold: Fold, slopes: Slopes, valid: np.ndarray) -> None:
    """Move the fold's displacement to where the mean cell fits each tile best.

    One Gauss–Newton step per tile, smoothed over its neighbours, for one tile is noisy.
    """
    cell = fold.cell[valid]
    residual = fold.flat[valid] - slopes.level[cell]
    gradient = [slopes.along_y[cell], slopes.along_x[cell]]
    count = fold.tile_sums(np.ones(len(cell), np.float32), valid)
    right = np.stack([fold.tile_sums(residual * g, valid) for g in gradient], axis=-1)
    # every whole tile has the same normal matrix; its mean slopes vanish
    normal = np.array(
        [[np.mean(a * b) for b in (slopes.along_y, slopes.along_x)] for a in
         (slopes.along_y, slopes.along_x)]
    )  # fmt: skip
    whole = count > 0.5 * np.median(count[count > 0])
    step = -right @ np.linalg.inv(normal)
    fold.displacement_px += smooth_field(
        np.where(whole[..., None], step, 0.0), np.where(whole, count, 0.0), 1.5
    )


def measure_rows(
    fold: Fold, slopes: Slopes, valid: np.ndarray, variance: tuple[float, float]
) -> RowOffsets:
    """Measure each row's sideways offset against the mean cell.

    A row's offset is its weighted least-squares shift along x; its error follows from the noise
    (``variance``: of a dark pixel, and its growth with the level).
    """
    height = fold.data.shape[0]
    row = np.broadcast_to(np.arange(height)[:, None], valid.shape)[valid]
    cell = fold.cell[valid]
    weight = (1 / np.maximum(variance[0] + variance[1] * slopes.level, 1e-12)).astype(np.float32)
    floor = 0.25 * np.median(1 / weight)  # where the line runs below the noise of dark pixels
    weight = np.minimum(weight, np.float32(1 / max(floor, 1e-12)))
    residual = fold.flat[valid] - slopes.level[cell]
    right = np.bincount(row, residual * (slopes.along_x * weight)[cell], minlength=height)
    normal = np.bincount(row, (slopes.along_x**2 * weight)[cell], minlength=height)
    enough = normal > 0.1 * np.median(normal[normal > 0]) if (normal > 0).any() else normal > 0
    safe = np.where(enough, normal, 1)
    offset = np.where(enough, -right / safe, np.nan) + fold.row_offset_px
    error = np.where(enough, 1 / np.sqrt(safe), np.nan)
    return RowOffsets(offset, error, _spread(offset[enough], error[enough]))


def _spread(offset: np.ndarray, error: np.ndarray) -> Estimate:
    """Return the maximum-likelihood spread of offsets beyond their errors, and its interval.

    The interval is where the likelihood ratio stays below the 95 % point of χ² with 1 degree.
    """
    if len(offset) < 16:
        return Estimate(np.nan, np.nan, np.nan)
    # a slip of the scan is no jitter
    centre = np.median(offset)
    wide = 1.4826 * np.median(np.abs(offset - centre))
    kept = np.abs(offset - centre) < 6 * max(wide, 1e-9)
    offset, power = offset[kept] - offset[kept].mean(), error[kept] ** 2

    def cost(spread: float) -> float:
        total = spread**2 + power
        return float((np.log(total) + offset**2 / total).sum())

    top = 3 * max(float(offset.std()), 1e-9)
    grid = np.linspace(0, top, 61)
    costs = np.array([cost(s) for s in grid])
    i = int(np.argmin(costs))
    best = optimize.minimize_scalar(
        cost, bounds=(grid[max(i - 1, 0)], grid[min(i + 1, 60)]), method="bounded"
    )
    value = float(best.x) if best.fun < costs[0] else 0.0
    least = min(float(best.fun), costs[0]) + 3.84

    def edge(inner: float, outer: float) -> float:
        if cost(outer) <= least:
            return outer
        return float(optimize.brentq(lambda s: cost(s) - least, inner, outer))

    low = edge(value, 0.0) if value else 0.0
    return Estimate(value, max(low - _LEAST_PX, 0.0), edge(value, top) + _LEAST_PX)


def measure_distortion(
    lattice: Lattice, displacement_px: np.ndarray, known: np.ndarray, noise_px: float
) -> tuple[Estimate, Estimate]:
    """Return shear and stretch of the scan, of the lattice and what the tiles add to it.

    Parameters
    ----------
    lattice : Lattice
    displacement_px : ndarray of shape (P, Q, 2)
        Smooth displacement of every tile.
    known : ndarray of shape (P, Q), bool
        Tiles to fit.
    noise_px : float
        Standard error of one tile's displacement.
    """
    nodes = np.argwhere(known) + 0.5
    points = nodes @ LATTICE_VECTORS
    points = points - points.mean(axis=0)
    if len(points) < 12:
        nothing = Estimate(np.nan, np.nan, np.nan)
        return nothing, nothing
    target = displacement_px[known]
    gram = points.T @ points
    added = np.linalg.solve(gram, points.T @ (target - target.mean(axis=0))).T
    left = target - target.mean(axis=0) - points @ added.T
    # what is left is smooth, so it counts for few independent places
    blocks = _quarters(nodes)
    error = np.zeros((2, 2))
    for block in range(blocks.max() + 1):
        error += (np.linalg.solve(gram, points[blocks == block].T @ left[blocks == block]).T) ** 2
    error += noise_px**2 * np.linalg.inv(gram).diagonal()[None, :]
    found = Lattice(lattice.origin_px, lattice.matrix_px + added)
    return tuple(_propagated(found, name, np.sqrt(error)) for name in ("shear", "stretch"))


def _quarters(nodes: np.ndarray, parts: int = 4) -> np.ndarray:
    low, high = nodes.min(axis=0), nodes.max(axis=0)
    index = np.minimum(
        ((nodes - low) / np.maximum(high - low, 1e-9) * parts).astype(int), parts - 1
    )
    return index[:, 0] * parts + index[:, 1]


def _propagated(lattice: Lattice, name: str, error: np.ndarray) -> Estimate:
    """Carry the errors of the four matrix elements through to a property of the lattice."""
    value = getattr(lattice, name)
    variance = 0.0
    for index in np.ndindex(2, 2):
        step = np.zeros((2, 2))
        step[index] = error[index]
        moved = Lattice(lattice.origin_px, lattice.matrix_px + step)
        variance += (getattr(moved, name) - value) ** 2
    half = 1.96 * np.sqrt(variance + _LEAST_DISTORTION**2)
    return Estimate(value, value - half, value + half)
