"""How wide and how bright a column's image is behind a given blur, and which blur makes it so."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
from scipy.optimize import brentq
from scipy.special import j0

from napari_point_defects.materials import Material
from napari_point_defects.simulation.columns import MicroscopeSettings, load_columns
from napari_point_defects.simulation.probe import aberration_filter
from napari_point_defects.simulation.superposition import Blur, column_transforms

_K_MAX = 25.0  # 1/nm: the band limit 2 α/λ is 13 at 80 kV, and the source ends it sooner
_K = np.linspace(0, _K_MAX, 501)
_RADIUS = np.arange(0, 1.3, 0.002)
_KINDS = ("metal", "chalcogen_pair")
WIDEST_SOURCE_NM = 0.6
"""Largest source that is looked for: wider than that no lattice is resolved."""


@dataclass(frozen=True, slots=True)
class ColumnImage:
    """The image of single columns of one material.

    Attributes
    ----------
    fwhm_nm : float
        Full width at half maximum, mean of the X₂ and the M column's.
    pair_peak, metal_peak : float
        Signal in the middle [fraction of the beam].
    pair_volume_nm2, metal_volume_nm2 : float
        Integral over the plane [fraction of the beam × nm²].
    """

    fwhm_nm: float
    pair_peak: float
    metal_peak: float
    pair_volume_nm2: float
    metal_volume_nm2: float

    @property
    def contrast_ratio(self) -> float:
        """Integrated signal of a perfect X₂ column over that of an M column."""
        return self.pair_volume_nm2 / self.metal_volume_nm2

    def brightest(self, chalcogen_gain: float = 1.0) -> float:
        """Peak of the brighter kind of column, in units of the X₂ column's."""
        return max(1.0, self.metal_peak / (chalcogen_gain * self.pair_peak))

    def peak_share(self, pixel_size_nm: float) -> float:
        """Share of an X₂ column's whole signal that falls into the pixel at its middle."""
        return self.pair_peak * pixel_size_nm**2 / self.pair_volume_nm2


@lru_cache(maxsize=512)
def column_image(material: Material, microscope: MicroscopeSettings, blur: Blur) -> ColumnImage:
    """Return width and brightness of the material's columns behind a blur.

    Parameters
    ----------
    material : Material
    microscope : MicroscopeSettings
    blur : Blur
        Its astigmatism is left out: a column's image has one width here.

    Returns
    -------
    ColumnImage
    """
    metal, pair = (_profile(material, microscope, blur, kind) for kind in _KINDS)
    spectra = _spectra(material, microscope)
    return ColumnImage(
        fwhm_nm=(_fwhm(metal) + _fwhm(pair)) / 2,
        pair_peak=float(pair[0]),
        metal_peak=float(metal[0]),
        pair_volume_nm2=float(spectra["chalcogen_pair"][0]),
        metal_volume_nm2=float(spectra["metal"][0]),
    )


def source_for_fwhm(
    fwhm_nm: float, material: Material, microscope: MicroscopeSettings, blur: Blur
) -> float:
    """Return the source size with which a column's image gets that width.

    Parameters
    ----------
    fwhm_nm : float
        Wanted full width at half maximum [nm].
    material : Material
    microscope : MicroscopeSettings
    blur : Blur
        Its tail and aberrations are kept.

    Returns
    -------
    float
        FWHM of the Gaussian source [nm]; 0 where the probe alone is as wide or wider, and
        ``WIDEST_SOURCE_NM`` where nothing is wide enough.
    """

    def excess(source_fwhm_nm: float) -> float:
        wider = replace(blur, source_fwhm_nm=source_fwhm_nm)
        return column_image(material, microscope, wider).fwhm_nm - fwhm_nm

    if excess(0.0) >= 0:
        return 0.0
    if excess(WIDEST_SOURCE_NM) <= 0:
        return WIDEST_SOURCE_NM
    return float(brentq(excess, 0.0, WIDEST_SOURCE_NM, xtol=1e-4))


@lru_cache(maxsize=32)
def _spectra(material: Material, microscope: MicroscopeSettings) -> dict[str, np.ndarray]:
    transforms = column_transforms(load_columns(material, microscope), _K_MAX)
    return {kind: transforms[kind](_K) for kind in _KINDS}


@lru_cache(maxsize=1)
def _hankel() -> np.ndarray:
    """Matrix (R, K) from a radial spectrum to the radial profile."""
    weight = np.full(len(_K), _K[1])
    weight[[0, -1]] /= 2
    return j0(2 * np.pi * np.outer(_RADIUS, _K)) * (2 * np.pi * _K * weight)


def _profile(
    material: Material, microscope: MicroscopeSettings, blur: Blur, kind: str
) -> np.ndarray:
    """Return a column's radial profile, shape (R,) [fraction of the beam]."""
    transfer = (1 - blur.tail_fraction) * _gaussian(blur.source_fwhm_nm)
    transfer = transfer + blur.tail_fraction * _gaussian(blur.tail_fwhm_nm)
    if blur.defocus_nm:
        transfer = transfer * np.real(
            aberration_filter(
                np.zeros_like(_K),
                _K,
                energy_ev=microscope.energy_ev,
                semiangle_mrad=microscope.semiangle_mrad,
                defocus_nm=blur.defocus_nm,
            )
        )
    return _hankel() @ (_spectra(material, microscope)[kind] * transfer)


def _fwhm(profile: np.ndarray) -> float:
    below = int(np.argmax(profile < profile[0] / 2))
    if not below:
        return 2 * float(_RADIUS[-1])
    upper, lower = profile[below - 1], profile[below]
    share = (upper - profile[0] / 2) / (upper - lower)
    return 2 * float(_RADIUS[below - 1] + share * _RADIUS[1])


def _gaussian(fwhm_nm: float) -> np.ndarray:
    """Transform of a normalised Gaussian of that width."""
    sigma = fwhm_nm / np.sqrt(8 * np.log(2))
    return np.exp(-2 * (np.pi * sigma * _K) ** 2)
