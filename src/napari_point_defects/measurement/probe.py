"""The effective probe: the image of one column, from the harmonics of the mean cell.

The mean cell is a sum of equal columns at X₂ and M, so its harmonics are two phase factors times
the transform of one column. That is the transfer function of an ideal incoherent probe, a cone
with its cut-off at 2 α/λ (Nellist & Pennycook, Adv. Imaging Electron Phys. 113 (2000) 147), times
a Gaussian for source and atom, plus a wide Gaussian tail. The lattice shows the transform only at
its reciprocal points; between them, and towards 0, the model bridges.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import optimize
from scipy.special import j0

from napari_point_defects.measured import Estimate
from napari_point_defects.measurement.folding import MeanCell

_CUT_OFF = 13.0
"""2 α/λ of common instruments [1/nm]: 27 mrad at 80 kV gives 12.9, 30 mrad at 60 kV 12.3."""
_CUT_OFF_ERROR = 0.25
_TO_FWHM = float(np.sqrt(8 * np.log(2)))
_MODEL_ERROR = 0.01
"""Share of a harmonic that the model may miss: columns differ a little in shape."""
_SHAPE_ERROR = 0.01
"""Share of a width or a brightness that the model's shape may miss."""
_X2, _M = 2 / 3, 1 / 3


@dataclass(frozen=True, slots=True)
class ColumnFit:
    """One column's image, fitted.

    Attributes
    ----------
    parameters : ndarray of shape (P,)
        As :func:`_unpack` has them.
    influence : ndarray of shape (P, 2K)
        How parameters follow the harmonics' real and imaginary parts.
    systematic : ndarray of shape (P, P)
        Covariance from what the model does not know.
    pixel_nm : float
        Side of a pixel as used.
    cell_area_px : float
    """

    parameters: np.ndarray
    influence: np.ndarray
    systematic: np.ndarray
    pixel_nm: float
    cell_area_px: float

    def derived(self) -> dict[str, float]:
        """Return all quantities of interest, by name."""
        return _derive(self.parameters, self.pixel_nm, self.cell_area_px)

    def estimates(self, spread: np.ndarray) -> dict[str, Estimate]:
        """Return the quantities with intervals.

        Parameters
        ----------
        spread : ndarray of shape (G, K), complex
            Each block's share in the error of the harmonics.
        """
        blocks = np.concatenate([spread.real, spread.imag], axis=1) @ self.influence.T
        covariance = blocks.T @ blocks + self.systematic
        values = self.derived()
        gradient = {name: np.zeros(len(self.parameters)) for name in values}
        for i in range(len(self.parameters)):
            step = np.zeros(len(self.parameters))
            step[i] = max(1e-3 * np.sqrt(covariance[i, i]), 1e-6)
            up = _derive(self.parameters + step, self.pixel_nm, self.cell_area_px)
            for name, value in values.items():
                gradient[name][i] = (up[name] - value) / step[i]
        found = {}
        for name, value in values.items():
            power = gradient[name] @ covariance @ gradient[name]
            half = 1.96 * float(np.sqrt(power + (_SHAPE_ERROR * value) ** 2))
            found[name] = Estimate(value, max(value - half, 0.0), value + half)
        return found


def _unpack(p: np.ndarray) -> tuple[float, ...]:
    """Volume of M, X₂ over M, cut-off, source FWHM, tail share, tail FWHM, oval (2), shift (2)."""
    return (
        np.exp(p[0]),
        np.exp(p[1]),
        _CUT_OFF * np.exp(p[2]),
        np.exp(p[3]),
        0.6 / (1 + np.exp(-p[4])),
        np.exp(p[5]),
        *p[6:10],
    )


def transfer(k: np.ndarray, cut_off: float, source: float, tail: float, wide: float) -> np.ndarray:
    """Return the transform of one column, 1 at k = 0.

    Parameters
    ----------
    k : ndarray
        Spatial frequency [1/nm].
    cut_off : float
        [1/nm]
    source, wide : float
        FWHM of the narrow and of the wide Gaussian [nm].
    tail : float
        Share of the wide one.
    """
    x = np.clip(k / cut_off, 0, 1)
    cone = 2 / np.pi * (np.arccos(x) - x * np.sqrt(1 - x * x))
    narrow = np.exp(-2 * (np.pi * source / _TO_FWHM * k) ** 2)
    broad = np.exp(-2 * (np.pi * wide / _TO_FWHM * k) ** 2)
    return cone * ((1 - tail) * narrow + tail * broad)


def profile(radius_nm: np.ndarray, shape: tuple[float, float, float, float]) -> np.ndarray:
    """Return a column's intensity per unit volume against the distance from its axis [1/nm²]."""
    k = (np.arange(160) + 0.5) / 160 * shape[0]
    return j0(2 * np.pi * np.outer(radius_nm, k)) @ (
        2 * np.pi * k * transfer(k, *shape) * shape[0] / 160
    )


_RADII = np.linspace(0, 0.4, 161)


def _derive(p: np.ndarray, pixel_nm: float, cell_area_px: float) -> dict[str, float]:
    volume, ratio, *rest = _unpack(p)
    shape = tuple(rest[:4])
    curve = profile(_RADII, shape)
    half = np.flatnonzero(curve < curve[0] / 2)
    i = int(half[0]) if len(half) else len(curve) - 1
    part = (curve[i - 1] - curve[0] / 2) / max(curve[i - 1] - curve[i], 1e-30)
    fwhm = 2 * float(_RADII[i - 1] + part * (_RADII[i] - _RADII[i - 1]))
    peak = float(curve[0]) * pixel_nm**2
    return {
        "fwhm_nm": fwhm,
        "tail": rest[2],
        "tail_fwhm_nm": rest[3],
        "ratio": ratio,
        "x2_volume": volume * ratio,
        "m_volume": volume,
        "x2_peak": volume * ratio * peak,
        "m_peak": volume * peak,
        "columns_level": volume * (1 + ratio) / cell_area_px,
    }


def fit_column(
    cell: MeanCell,
    error: np.ndarray,
    pixel_size_nm: tuple[float, float],
    cell_area_px: float,
    *,
    expected_ratio: float,
    level: tuple[float, float] | None = None,
) -> ColumnFit | None:
    """Fit the column's image to the harmonics.

    Parameters
    ----------
    cell : MeanCell
    error : ndarray of shape (K,)
        Standard error of each harmonic's modulus.
    pixel_size_nm : (float, float)
        Height and width of a pixel.
    cell_area_px : float
    expected_ratio : float
        Where to start: X₂ over M.
    level : (float, float), optional
        Mean intensity that all columns make together, and its standard error, where it is known:
        it tells how much the tails hold.

    Returns
    -------
    ColumnFit or None
        None where the harmonics do not show columns.
    """
    frequency = cell.frequencies[1:] / np.asarray(pixel_size_nm)
    k = np.linalg.norm(frequency, axis=1)
    values = cell.values[1:] / 2  # a real series holds each harmonic twice
    strongest = np.abs(values).max()
    if not strongest > 6 * np.median(error[1:]):
        return None
    sigma = np.sqrt((error[1:] / 2) ** 2 + (_MODEL_ERROR * strongest * 0.3) ** 2
                    + (_MODEL_ERROR * np.abs(values)) ** 2)  # fmt: skip
    direction = np.stack(
        [(frequency[:, 0] ** 2 - frequency[:, 1] ** 2), 2 * frequency[:, 0] * frequency[:, 1]], 1
    )
    at_x2 = np.exp(-2j * np.pi * cell.indices[1:] @ np.full(2, _X2))
    at_m = np.exp(-2j * np.pi * cell.indices[1:] @ np.full(2, _M))

    def model(p: np.ndarray) -> np.ndarray:
        volume, ratio, cut, source, tail, wide, oval, skew, dy, dx = _unpack(p)
        blur = np.exp(-2 * (np.pi / _TO_FWHM) ** 2 * (direction @ np.array([oval, skew])) * 0.01)
        phase = np.exp(-2j * np.pi * (frequency @ np.array([dy, dx])))
        shape = transfer(k, cut, source, tail, wide) * blur
        return volume / cell_area_px * (ratio * at_x2 + at_m) * shape * phase

    prior = np.array([0, np.log(expected_ratio), 0, np.log(0.08), -2.2, np.log(0.28), 0, 0, 0, 0])
    width = np.array([np.inf, 1.5, _CUT_OFF_ERROR, 0.6, 2.0, 0.25, 0.5, 0.5, 0.05, 0.05])

    def residuals(p: np.ndarray) -> np.ndarray:
        off = (model(p) - values) / sigma
        parts = [off.real, off.imag, ((p - prior) / width)[1:]]
        if level is not None:
            volume, ratio = np.exp(p[:2])
            parts.append([(volume * (1 + ratio) / cell_area_px - level[0]) / level[1]])
        return np.concatenate(parts)

    first = prior.copy()
    first[0] = np.log(strongest * cell_area_px)
    found = optimize.least_squares(residuals, first, x_scale="jac", max_nfev=60)
    count = len(values)
    jacobian = found.jac
    inverse = np.linalg.pinv(jacobian.T @ jacobian)
    response = inverse @ jacobian[: 2 * count].T / np.tile(sigma, 2) / 2
    # harmonic 0 does not enter
    influence = np.zeros((len(first), 2 * (count + 1)))
    influence[:, 1 : count + 1] = response[:, :count]
    influence[:, count + 2 :] = response[:, count:]
    side = float(np.sqrt(pixel_size_nm[0] * pixel_size_nm[1]))
    return ColumnFit(found.x, influence, inverse, side, cell_area_px)
