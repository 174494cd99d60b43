"""Smooth displacements as thin plates of B-splines, as stiff as the evidence prefers."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from scipy import linalg
from scipy.interpolate import BSpline


@dataclass(frozen=True, slots=True)
class Surface:
    """A displacement of the lattice over the image, as the phases show it.

    The column seen at r stands at r − u(r) in the straight lattice.

    Attributes
    ----------
    coefficients : ndarray of shape (h, w, 2)
        Of cubic B-splines, in pixels.
    knots : (ndarray of shape (h - 3,), ndarray of shape (w - 3,))
        Where the spline's pieces meet, along y and x.
    """

    coefficients: np.ndarray
    knots: tuple[np.ndarray, np.ndarray]

    def on_grid(self, y: np.ndarray, x: np.ndarray) -> np.ndarray:
        """Return u at all pairs of y, shape (M,), and x, shape (N,): shape (M, N, 2)."""
        rows, cols = (spline_matrix(k, at) for k, at in zip(self.knots, (y, x), strict=True))
        return np.einsum("yi,ijc,xj->yxc", rows, self.coefficients, cols, optimize=True)


def penalised(
    rows: np.ndarray,
    cols: np.ndarray,
    weight: np.ndarray,
    aim: np.ndarray,
    energy: np.ndarray,
    modes: np.ndarray,
) -> tuple[np.ndarray, float, float]:
    """Fit spline coefficients with the stiffness that the evidence prefers.

    Returns
    -------
    coefficients : ndarray of shape (h, w, 2)
    gain : float
        Log-evidence over that of a plane.
    freedom : float
        Effective number of coefficients per component.
    """
    h, w = rows.shape[1], cols.shape[1]
    across = (rows[:, :, None] * rows[:, None, :]).reshape(len(rows), -1)
    along = (cols[:, :, None] * cols[:, None, :]).reshape(len(cols), -1)
    data = (across.T @ weight @ along).reshape(h, h, w, w).transpose(0, 2, 1, 3)
    data = data.reshape(h * w, h * w)
    right = np.einsum("yi,yxc,xj->ijc", rows, weight[..., None] * aim, cols, optimize=True)
    total = (weight[..., None] * aim**2).sum()
    scale = np.trace(data) / energy.sum()
    data = modes.T @ data @ modes
    right = modes.T @ right.reshape(h * w, 2)
    ridge = 1e-9 * np.diag(data).mean()
    best = None
    for power in np.arange(12.0, -4.0, -1):  # the first is a plane to all intents
        penalty = 10**power * scale
        # scaled to a unit diagonal: stiff and free modes differ by many orders of magnitude
        unit = 1 / np.sqrt(np.diag(data) + penalty * energy + ridge)
        matrix = unit[:, None] * data * unit
        np.fill_diagonal(matrix, 1 + 1e-9)
        factor = linalg.cho_factor(matrix)
        found = unit[:, None] * linalg.cho_solve(factor, unit[:, None] * right)
        misfit = total - (right * found).sum()
        logdet = 2 * (np.log(np.diag(factor[0])).sum() - np.log(unit).sum())
        evidence = (len(data) - 3) * np.log(penalty) - logdet - misfit / 2
        if best is None:
            plane = evidence
        if best is None or evidence > best[0]:
            best = evidence, found, factor, unit
    evidence, found, factor, unit = best
    held = linalg.cho_solve(factor, unit[:, None] * data * unit)
    coefficients = (modes @ found).reshape(h, w, 2)
    return coefficients, float(evidence - plane), float(np.trace(held))


def spline_matrix(knots: np.ndarray, at: np.ndarray) -> np.ndarray:
    """Cubic B-splines with evenly spaced knots (n + 1,) at places (M,): (M, n + 3)."""
    step = knots[1] - knots[0]
    whole = np.concatenate(
        [knots[0] + step * np.arange(-3, 0), knots, knots[-1] + step * np.arange(1, 4)]
    )
    return BSpline.design_matrix(np.clip(at, knots[0], knots[-1]), whole, 3).toarray()


@lru_cache(maxsize=8)
def plate_modes(pieces_y: int, pieces_x: int) -> tuple[np.ndarray, np.ndarray]:
    """Modes of a thin plate of B-splines and their bending energy.

    The energy is the integral of u_yy² + 2 u_xy² + u_xx²; that of planes is none.

    Returns
    -------
    energy : ndarray of shape (K,)
    modes : ndarray of shape (K, K)
        One per column.
    """

    def overlap(pieces: int, order: int) -> np.ndarray:
        at, weight = np.polynomial.legendre.leggauss(4)
        places = (np.arange(pieces)[:, None] + (at + 1) / 2).ravel()
        splines = BSpline(np.arange(-3.0, pieces + 4), np.eye(pieces + 3), 3)
        values = (splines.derivative(order) if order else splines)(places)
        return values.T @ (np.tile(weight / 2, pieces)[:, None] * values)

    y, x = ([overlap(pieces, order) for order in range(3)] for pieces in (pieces_y, pieces_x))
    plate = np.kron(y[2], x[0]) + 2 * np.kron(y[1], x[1]) + np.kron(y[0], x[2])
    energy, modes = linalg.eigh(plate)
    energy[:3] = 0.0
    return energy, modes
