"""The simulated X–M bond profile of every class, in the grey levels of a given image.

A monolayer's image is the sum of its columns' images, and a column's is a radial profile: its
two-dimensional transform times that of the microscope's broadening. So is the profile along a
bond. What the microscope adds is not known; it is fitted to the image's own perfect cells.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from scipy.optimize import least_squares
from scipy.special import j0

from napari_point_defects.errors import PointDefectsError
from napari_point_defects.materials import (
    BOND,
    CHALCOGEN_SITES,
    LATTICE_VECTORS,
    METAL_SITES,
    DefectClass,
    Material,
)
from napari_point_defects.profiles import (
    LENGTH_A,
    SAMPLES,
    WIDTH_A,
    BondProfile,
    ProfileComparison,
    bond_profile,
    mean_profile,
    sample_positions,
    surrounding_levels,
)
from napari_point_defects.records import Lattice
from napari_point_defects.simulation.columns import MicroscopeSettings, load_columns
from napari_point_defects.simulation.superposition import column_transforms

TAIL_FWHM_NM = 0.25
FEWEST_CELLS = 5

_K_MAX = 25.0  # 1/nm: the band limit 2 α/λ is 13 at 80 kV, and the source ends it sooner
_K = np.linspace(0, _K_MAX, 501)
_REACH_NM = 1.3  # a column's own 0.7 nm, and its blur
_RADIUS = np.arange(0, _REACH_NM + 0.0025, 0.005)
_ACROSS = 9
_SOURCE_LIMITS_NM = (0.01, 0.22)
_TAIL_LIMITS = (0.0, 0.6)
_NO_TAIL = 0.05  # a tail and a dark level look much alike: without need, no tail
_KINDS = ("metal", "chalcogen_pair", "chalcogen_single")


@dataclass(frozen=True, slots=True)
class BondModel:
    """The microscope behind an image, as its perfect cells tell it.

    Attributes
    ----------
    material : Material
    microscope : MicroscopeSettings
        What the columns were simulated with.
    source_fwhm_nm : float
        Width of the broadening: source, vibration, and pixels.
    tail_fraction : float
        Share of a tail of ``TAIL_FWHM_NM``.
    gain, offset : float
        Grey levels of the whole beam, and of none.
    chalcogen_gain : float
        Brightness of X over M columns, over the simulated one: other detectors and voltages.
    rms : float
        Misfit of the perfect profile [grey levels].
    """

    material: Material
    microscope: MicroscopeSettings
    source_fwhm_nm: float
    tail_fraction: float
    gain: float
    offset: float
    chalcogen_gain: float
    rms: float

    def curves(
        self, width_a: float, length_a: float = LENGTH_A, samples: int = SAMPLES
    ) -> np.ndarray:
        """Return the profile of every class [grey levels], shape (6, S).

        Parameters
        ----------
        width_a, length_a, samples
            As in :func:`napari_point_defects.profiles.bond_profile`.
        """
        parts = _parts(self.material, self.microscope, width_a, length_a, samples).blurred(
            self.source_fwhm_nm, self.tail_fraction
        )
        x, m = self.chalcogen_gain, 1.0
        cell_x = (parts["cell_pair"], parts["cell_single"], 0.0)
        others = x * parts["other_pairs"] + m * parts["other_metals"]
        return np.stack(
            [
                self.offset
                + self.gain
                * (
                    others
                    + x * cell_x[c.missing_chalcogens]
                    + (0.0 if c.metal_missing else m * parts["cell_metal"])
                )
                for c in DefectClass
            ]
        )


def fit_bond_model(
    perfect: BondProfile,
    material: Material,
    microscope: MicroscopeSettings = MicroscopeSettings(),
) -> BondModel:
    """Fit the microscope's broadening, gain and offset to the mean profile of perfect cells.

    Parameters
    ----------
    perfect : BondProfile
        Of shape (S,), see :func:`napari_point_defects.profiles.mean_profile`.
    material : Material
    microscope : MicroscopeSettings

    Returns
    -------
    BondModel

    Raises
    ------
    PointDefectsError
        If the profile shows no columns.
    """
    length_a = float(perfect.position_a[-1] - perfect.position_a[0])
    parts = _parts(material, microscope, perfect.width_a, length_a, len(perfect.position_a))
    measured = np.isfinite(perfect.intensity)
    target = perfect.intensity[measured]
    if measured.mean() < 0.5 or np.ptp(target) == 0:
        raise PointDefectsError("the perfect cells show no profile to fit the simulation to")
    scale = np.ptp(target)

    def solve(source_fwhm_nm: float, tail_fraction: float) -> tuple[np.ndarray, np.ndarray]:
        part = parts.blurred(source_fwhm_nm, tail_fraction)
        design = np.stack(
            [
                part["other_metals"] + part["cell_metal"],
                part["other_pairs"] + part["cell_pair"],
                np.ones(len(measured)),
            ],
            axis=1,
        )[measured]
        size = np.linalg.norm(design, axis=0)
        solution, *_ = np.linalg.lstsq(design / size, target, rcond=None)
        solution = solution / size
        return solution, design @ solution - target

    low, high = zip(_SOURCE_LIMITS_NM, _TAIL_LIMITS, strict=True)
    found = least_squares(
        lambda p: np.append(solve(*p)[1] / scale, _NO_TAIL * p[1]),
        (0.08, 0.05),
        bounds=(low, high),
        x_scale=(0.02, 0.1),
    )
    (metal, chalcogen, offset), residual = solve(*found.x)
    if min(metal, chalcogen) <= 0:
        raise PointDefectsError(
            "the perfect cells' profile is not that of this material: check the material and "
            "the choice of sublattices"
        )
    return BondModel(
        material=material,
        microscope=microscope,
        source_fwhm_nm=float(found.x[0]),
        tail_fraction=float(found.x[1]),
        gain=float(metal),
        offset=float(offset),
        chalcogen_gain=float(chalcogen / metal),
        rms=float(np.sqrt(np.mean(residual**2))),
    )


def model_of_image(
    data: np.ndarray,
    lattice: Lattice,
    chalcogen_px: np.ndarray,
    metal_px: np.ndarray,
    material: Material,
) -> BondModel:
    """Fit a model to an image's perfect cells.

    Parameters
    ----------
    data : ndarray of shape (M, N)
    lattice : Lattice
    chalcogen_px, metal_px : ndarray of shape (K, 2)
        Of the cells called perfect.
    material : Material

    Raises
    ------
    PointDefectsError
        If there are too few, or they show no columns.
    """
    if len(chalcogen_px) < FEWEST_CELLS:
        raise PointDefectsError(
            f"only {len(chalcogen_px)} cells are Perfect: the simulated profiles need "
            f"{FEWEST_CELLS} to be brought to the image's grey levels"
        )
    return fit_bond_model(mean_profile(data, lattice, chalcogen_px, metal_px), material)


def compare_classes(
    data: np.ndarray,
    lattice: Lattice,
    chalcogen_px: np.ndarray,
    metal_px: np.ndarray,
    model: BondModel,
    *,
    width_a: float = WIDTH_A,
) -> ProfileComparison:
    """Measure profiles of cells and set the simulated one of every class beside each.

    Parameters
    ----------
    data : ndarray of shape (M, N)
        The original image; NaN where nothing was recorded.
    lattice : Lattice
    chalcogen_px, metal_px : ndarray of shape (2,) or (K, 2)
        Columns (y, x) in image pixels.
    model : BondModel
        Of this image.
    width_a : float
        Width of the band, in units of a.

    Returns
    -------
    ProfileComparison
        Of one cell, or of K.
    """
    shape = np.shape(chalcogen_px)[:-1]
    chalcogen, metal = (np.reshape(p, (-1, 2)) for p in (chalcogen_px, metal_px))
    profile = bond_profile(data, lattice, chalcogen, metal, width_a=width_a)
    curves = model.curves(width_a)
    level = surrounding_levels(
        data, lattice, chalcogen, metal, curves[DefectClass.PERFECT], width_a=width_a
    )
    curves = curves + level[:, None, None]  # (K, 6, S)
    squares = (profile.intensity[:, None] - curves) ** 2
    known = np.isfinite(squares)
    with np.errstate(invalid="ignore"):  # NaN where nothing was measured
        rms = np.sqrt(np.where(known, squares, 0).sum(axis=-1) / known.sum(axis=-1))
    return ProfileComparison(
        BondProfile(
            profile.position_a,
            profile.intensity.reshape(*shape, -1),
            profile.standard_error.reshape(*shape, -1),
            profile.width_a,
        ),
        curves.reshape(*shape, *curves.shape[1:]),
        rms.reshape(*shape, -1),
    )


class _Parts:
    """What each group of columns adds to the profile, before the microscope's broadening.

    Parameters
    ----------
    material : Material
    microscope : MicroscopeSettings
    width_a, length_a, samples
        Of the profile.
    """

    def __init__(self, material, microscope, width_a, length_a, samples) -> None:
        a_nm = material.lattice_constant_nm
        spectra, rings = _spectra(material, microscope), _rings(a_nm, width_a, length_a, samples)
        # rows: samples; columns: frequencies, so that a blur is one product
        self._matrices = {
            name: (rings[group] @ _hankel()) * spectra[kind]
            for name, group, kind in (
                ("cell_metal", "cell_metal", "metal"),
                ("other_metals", "other_metals", "metal"),
                ("cell_pair", "cell_chalcogen", "chalcogen_pair"),
                ("cell_single", "cell_chalcogen", "chalcogen_single"),
                ("other_pairs", "other_chalcogens", "chalcogen_pair"),
            )
        }

    def blurred(self, source_fwhm_nm: float, tail_fraction: float) -> dict[str, np.ndarray]:
        """Return each group's profile, shape (S,), detected fraction of the beam."""
        core, tail = _gaussian(source_fwhm_nm), _gaussian(TAIL_FWHM_NM)
        blur = (1 - tail_fraction) * core + tail_fraction * tail
        return {name: matrix @ blur for name, matrix in self._matrices.items()}


_parts = lru_cache(maxsize=64)(_Parts)


@lru_cache(maxsize=16)
def _spectra(material: Material, microscope: MicroscopeSettings) -> dict[str, np.ndarray]:
    transforms = column_transforms(load_columns(material, microscope), _K_MAX)
    return {kind: transforms[kind](_K) for kind in _KINDS}


@lru_cache(maxsize=1)
def _hankel() -> np.ndarray:
    """Matrix (R, K) from a radial spectrum to the radial profile."""
    weight = np.full(len(_K), _K[1])
    weight[[0, -1]] /= 2
    return j0(2 * np.pi * np.outer(_RADIUS, _K)) * (2 * np.pi * _K * weight)


@lru_cache(maxsize=64)
def _rings(a_nm: float, width_a: float, length_a: float, samples: int) -> dict[str, np.ndarray]:
    """How much of each radius every sample sees of each group of columns, each (S, R)."""
    bond = METAL_SITES[0] - CHALCOGEN_SITES[0]
    along = bond / BOND
    across = along[::-1] * [1, -1]
    line = sample_positions(length_a, samples)
    band = ((np.arange(_ACROSS) + 0.5) / _ACROSS - 0.5) * width_a
    points = line[:, None, None] * along + band[:, None] * across  # (S, A, 2), X at the origin
    steps = np.arange(-12, 13)
    cells = np.stack(np.meshgrid(steps, steps, indexing="ij"), -1).reshape(-1, 2) @ LATTICE_VECTORS
    near = np.linalg.norm(cells - bond / 2, axis=1) < length_a / 2 + _REACH_NM / a_nm + 1
    others = cells[near & cells.any(axis=1)]
    here = np.zeros((1, 2))
    groups = {
        "cell_chalcogen": here,
        "other_chalcogens": others,
        "cell_metal": here + bond,
        "other_metals": others + bond,
    }
    return {name: _radii(points, sites, a_nm) for name, sites in groups.items()}


def _radii(points: np.ndarray, sites: np.ndarray, a_nm: float) -> np.ndarray:
    """Spread the distances of points (S, A, 2) from sites (C, 2) on the radii: mean over A."""
    offsets = points[:, :, None] - sites
    radius = np.hypot(offsets[..., 0], offsets[..., 1]) * (a_nm / _RADIUS[1])
    lower = np.floor(radius).astype(int)
    share = radius - lower
    row = np.broadcast_to(np.arange(len(points))[:, None, None], radius.shape)
    kept = lower < len(_RADIUS) - 1
    n = len(_RADIUS)
    index = (row * n + lower)[kept]
    share = share[kept]
    flat = np.bincount(index, 1 - share, minlength=len(points) * n)
    flat += np.bincount(index + 1, share, minlength=len(points) * n)
    return flat.reshape(len(points), n) / points.shape[1]


def _gaussian(fwhm_nm: float) -> np.ndarray:
    """Transform of a normalised Gaussian of that width."""
    sigma = fwhm_nm / np.sqrt(8 * np.log(2))
    return np.exp(-2 * (np.pi * sigma * _K) ** 2)
