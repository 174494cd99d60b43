"""The probe: its transfer function with residual aberrations and a finite source."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from scipy import fft
from scipy.ndimage import map_coordinates

_PUPIL = 48  # half-width, in samples, of the grid that holds the aperture twice over


def wavelength_nm(energy_ev: float) -> float:
    """Relativistic electron wavelength.

    Parameters
    ----------
    energy_ev : float
        Kinetic energy [eV].

    Returns
    -------
    float
        Wavelength [nm].
    """
    rest = 510998.95
    return 1.23984198e3 / np.sqrt(energy_ev * (2 * rest + energy_ev))


@lru_cache(maxsize=64)
def _intensity_transfer(
    energy_ev: float,
    semiangle_mrad: float,
    defocus_nm: float,
    astigmatism_nm: float,
    astigmatism_deg: float,
) -> np.ndarray:
    """Autocorrelation of the aberrated aperture; index 0 in the middle, radius 2 α/λ."""
    k_max = semiangle_mrad * 1e-3 / wavelength_nm(energy_ev)
    axis = np.arange(-2 * _PUPIL, 2 * _PUPIL) / _PUPIL * k_max
    ky, kx = np.meshgrid(axis, axis, indexing="ij")
    k2 = kx**2 + ky**2
    azimuth = np.arctan2(ky, kx) - np.radians(astigmatism_deg)
    focus = defocus_nm + astigmatism_nm * np.cos(2 * azimuth)
    phase = np.pi * wavelength_nm(energy_ev) * k2 * focus
    # A soft edge of one sample keeps the autocorrelation smooth.
    aperture = np.clip((k_max - np.sqrt(k2)) / (k_max / _PUPIL) + 0.5, 0, 1)
    probe = fft.fft2(fft.ifftshift(aperture * np.exp(-1j * phase)))
    transfer = fft.fftshift(fft.ifft2(np.abs(probe) ** 2))
    return transfer / transfer[2 * _PUPIL, 2 * _PUPIL]


def aberration_filter(
    ky: np.ndarray,
    kx: np.ndarray,
    *,
    energy_ev: float,
    semiangle_mrad: float,
    defocus_nm: float,
    astigmatism_nm: float = 0.0,
    astigmatism_deg: float = 0.0,
) -> np.ndarray:
    """Ratio of the aberrated to the perfect intensity transfer function.

    HAADF imaging is incoherent, so residual aberrations multiply the image's spectrum by this
    ratio (Nellist & Pennycook, Adv. Imaging Electron Phys. 113 (2000) 147, §III).

    Parameters
    ----------
    ky, kx : ndarray
        Spatial frequencies [1/nm]; broadcast against each other.
    energy_ev, semiangle_mrad : float
        Energy [eV] and condenser semi-angle [mrad].
    defocus_nm, astigmatism_nm, astigmatism_deg : float
        Residual defocus, twofold astigmatism [nm] and its direction [°].

    Returns
    -------
    ndarray of complex
        The filter on the broadcast grid; 0 beyond the cut-off 2 α/λ.
    """
    perfect = _intensity_transfer(energy_ev, semiangle_mrad, 0.0, 0.0, 0.0)
    actual = _intensity_transfer(
        energy_ev, semiangle_mrad, defocus_nm, astigmatism_nm, astigmatism_deg
    )
    # The floor keeps the ratio tame where both vanish, near the cut-off.
    ratio = actual / np.maximum(np.abs(perfect), 0.01)
    k_max = semiangle_mrad * 1e-3 / wavelength_nm(energy_ev)
    ky, kx = np.broadcast_arrays(ky, kx)
    where = np.stack([ky, kx]) / k_max * _PUPIL + 2 * _PUPIL
    real = map_coordinates(ratio.real, where, order=1)
    if abs(astigmatism_nm) + abs(defocus_nm) == 0:
        return real
    return real + 1j * map_coordinates(ratio.imag, where, order=1)
