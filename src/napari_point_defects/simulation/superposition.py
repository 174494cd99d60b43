"""Superpose column images at any positions: a scene's clean image from its list of columns.

The image is built in Fourier space: the columns' positions are spread onto the pixel grid
with a Gaussian (whose effect is divided out again), transformed, and multiplied by the
transform of the column's profile. That is exact below the Nyquist frequency and costs one
transform per kind of column, however many columns there are.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import fft
from scipy.interpolate import CubicSpline
from scipy.special import j0

from napari_point_defects.simulation.columns import (
    PROFILE_RADIUS_NM,
    ColumnProfiles,
    MicroscopeSettings,
)
from napari_point_defects.simulation.probe import aberration_filter

_SPREAD_PX = 4  # half-width of the spreading Gaussian's support
_SPREAD_SIGMA_PX = 1.0
_FINE_ENOUGH_NM = 0.024  # above this pixel size the grid is made twice as fine, then thinned
_MARGIN_NM = PROFILE_RADIUS_NM


@dataclass(frozen=True, slots=True)
class Blur:
    """What widens every column alike.

    Attributes
    ----------
    source_fwhm_nm : float
        Full width at half maximum of the Gaussian source.
    tail_fraction, tail_fwhm_nm : float
        Share and width of a second, wide Gaussian (probe tails, instabilities).
    defocus_nm, astigmatism_nm, astigmatism_deg : float
        Residual aberrations.
    """

    source_fwhm_nm: float = 0.06
    tail_fraction: float = 0.0
    tail_fwhm_nm: float = 0.25
    defocus_nm: float = 0.0
    astigmatism_nm: float = 0.0
    astigmatism_deg: float = 0.0


def column_transforms(columns: ColumnProfiles, k_max: float) -> dict[str, CubicSpline]:
    """Two-dimensional Fourier transforms of the columns' radial profiles.

    Parameters
    ----------
    columns : ColumnProfiles
    k_max : float
        Largest frequency that is asked for [1/nm].

    Returns
    -------
    dict of CubicSpline
        ``metal``, ``chalcogen_pair``, ``chalcogen_single``: transform [nm²] against k [1/nm].
    """
    fine = np.linspace(0, columns.radius_nm[-1], 701)
    step = fine[1]
    k = np.linspace(0, k_max, 400)
    kernel = j0(2 * np.pi * np.outer(k, fine)) * (2 * np.pi * fine * step)
    return {
        name: CubicSpline(k, kernel @ CubicSpline(columns.radius_nm, getattr(columns, name))(fine))
        for name in ("metal", "chalcogen_pair", "chalcogen_single")
    }


class Superposer:
    """Renders columns for one grid, microscope and blur; keep it to render many scenes.

    Parameters
    ----------
    shape : (int, int)
        Rows and columns of the image.
    pixel_size_nm : float
        Side of a square pixel.
    columns : ColumnProfiles
    microscope : MicroscopeSettings
    blur : Blur
    """

    def __init__(
        self,
        shape: tuple[int, int],
        pixel_size_nm: float,
        columns: ColumnProfiles,
        microscope: MicroscopeSettings,
        blur: Blur,
    ) -> None:
        self.shape = tuple(shape)
        self.fineness = 1 if pixel_size_nm <= _FINE_ENOUGH_NM else 2
        step = pixel_size_nm / self.fineness
        self.margin = int(np.ceil(_MARGIN_NM / step)) + _SPREAD_PX
        self.grid = tuple(
            fft.next_fast_len(n * self.fineness + 2 * self.margin, real=True) for n in shape
        )
        ky = fft.fftfreq(self.grid[0])[:, None]
        kx = fft.rfftfreq(self.grid[1])[None, :]
        self._kx = kx[0]
        # Undo the spreading Gaussian. Large near Nyquist, but there the columns have no power.
        unspread = np.exp(2 * (np.pi * _SPREAD_SIGMA_PX) ** 2 * (ky**2 + kx**2)).astype(np.float32)
        ky, kx = ky / step, kx / step
        k = np.sqrt(ky**2 + kx**2)
        blur_filter = _gaussian(k, blur.source_fwhm_nm)
        if blur.tail_fraction:
            blur_filter = (1 - blur.tail_fraction) * blur_filter + blur.tail_fraction * _gaussian(
                k, blur.tail_fwhm_nm
            )
        if blur.defocus_nm or blur.astigmatism_nm:
            blur_filter = blur_filter * aberration_filter(
                ky,
                kx,
                energy_ev=microscope.energy_ev,
                semiangle_mrad=microscope.semiangle_mrad,
                defocus_nm=blur.defocus_nm,
                astigmatism_nm=blur.astigmatism_nm,
                astigmatism_deg=blur.astigmatism_deg,
            )
        filters = {
            name: transform(k) * blur_filter
            for name, transform in column_transforms(columns, float(k.max())).items()
        }
        single = np.complex64 if np.iscomplexobj(blur_filter) else np.float32
        common = unspread / step**2
        self._filters = {n: (f * common).astype(single) for n, f in filters.items()}
        self.peak = {name: self._integral(k, f, step) for name, f in filters.items()}
        self.volume_px = {  # a column's sum over all pixels of the final image
            name: float(np.real(f[0, 0])) / pixel_size_nm**2 for name, f in filters.items()
        }

    def _integral(self, k: np.ndarray, spectrum: np.ndarray, step: float) -> float:
        """Value at the column's centre: the integral of its transform."""
        weight = np.full(k.shape[1], 2.0)
        weight[0] = 1
        if self.grid[1] % 2 == 0:
            weight[-1] = 1
        area = 1 / (self.grid[0] * step * self.grid[1] * step)
        return float((np.real(spectrum) * weight).sum() * area)

    def render(
        self,
        positions_px: dict[str, np.ndarray],
        row_shift_px: np.ndarray | None = None,
    ) -> np.ndarray:
        """Return the clean image of columns at the given positions.

        Parameters
        ----------
        positions_px : dict of ndarray of shape (N, 2)
            (y, x) in image pixels for each kind of column; may lie outside the image.
        row_shift_px : ndarray of shape (M,), optional
            Sideways error of the scan in each row: row ``i`` shows the sample at x + shift.

        Returns
        -------
        ndarray of shape (M, N), float32
            Detected fraction of the beam.
        """
        spectrum = 0
        for name, points in positions_px.items():
            if len(points):
                spectrum = spectrum + fft.rfft2(self._spread(points)) * self._filters[name]
        if not isinstance(spectrum, np.ndarray):
            return np.zeros(self.shape, np.float32)
        m, f = self.margin, self.fineness
        rows = slice(m, m + self.shape[0] * f, f)
        image = fft.ifft(spectrum, axis=0)[rows]
        if row_shift_px is not None:
            shift = np.asarray(row_shift_px, np.float32)[:, None] * f
            image = image * np.exp(2j * np.pi * shift * self._kx).astype(np.complex64)
        image = fft.irfft(image, n=self.grid[1], axis=1)
        return image[:, m : m + self.shape[1] * f : f].astype(np.float32)

    def _spread(self, points: np.ndarray) -> np.ndarray:
        """Density of the columns on the fine grid, each a normalised narrow Gaussian."""
        fine = np.asarray(points, float) * self.fineness + self.margin
        height, width = self.grid
        keep = np.all((fine > _SPREAD_PX) & (fine < np.array(self.grid) - _SPREAD_PX - 1), axis=1)
        fine = fine[keep]
        nearest = np.rint(fine).astype(int)
        offsets = np.arange(-_SPREAD_PX, _SPREAD_PX + 1)
        taps = np.exp(
            -((offsets[None, :, None] - (fine - nearest)[:, None, :]) ** 2)
            / (2 * _SPREAD_SIGMA_PX**2)
        ) / (np.sqrt(2 * np.pi) * _SPREAD_SIGMA_PX)  # (N, taps, 2)
        weights = taps[:, :, None, 0] * taps[:, None, :, 1]
        rows = nearest[:, 0, None] + offsets
        cols = nearest[:, 1, None] + offsets
        index = rows[:, :, None] * width + cols[:, None, :]
        density = np.bincount(index.ravel(), weights.ravel(), minlength=height * width)
        return density.reshape(height, width).astype(np.float32)


def _gaussian(k: np.ndarray, fwhm_nm: float) -> np.ndarray:
    """Transform of a normalised Gaussian of that width."""
    sigma = fwhm_nm / np.sqrt(8 * np.log(2))
    return np.exp(-2 * (np.pi * sigma * k) ** 2)
