"""Images of single atomic columns, by abTEM multislice: the building blocks of every scene.

This is the only module that imports abTEM. A column's image is, in the mean over frozen
phonons, symmetric about its axis, so it is kept as a radial profile.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, model_validator

from napari_point_defects.materials import MATERIALS, Material

PROFILE_STEP_NM = 0.02  # the image's band limit, 2 α/λ, asks for 0.039 nm or finer
PROFILE_RADIUS_NM = 0.7
_CELL_NM = 1.8  # lateral size of the multislice cell: its next image is > 1 nm from any probe
_SAMPLING_NM = 0.0045  # 2/3 of Nyquist = 74 nm⁻¹: above the 66.5 nm⁻¹ of 277.9 mrad at 80 kV


class MicroscopeSettings(BaseModel):
    """What fixes a column's image. Defaults are the paper's (Methods)."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    energy_ev: float = Field(
        80e3, gt=1e3, le=1e6, title="Electron energy", description="Electron energy [eV]"
    )
    semiangle_mrad: float = Field(
        27.0, gt=1, le=100, title="Condenser semi-angle", description="Condenser semi-angle [mrad]"
    )
    inner_mrad: float = Field(
        70.0, gt=0, title="Detector, inner", description="Detector inner angle [mrad]"
    )
    outer_mrad: float = Field(
        277.9, gt=0, title="Detector, outer", description="Detector outer angle [mrad]"
    )
    thermal_sigma_nm: float = Field(
        0.0075,
        ge=0,
        title="Thermal displacement",
        description="Root-mean-square displacement along one axis [nm]",
    )
    phonon_configurations: int = Field(
        16,
        ge=1,
        title="Frozen phonons",
        description="Frozen-phonon configurations; powers of two are spread most evenly",
    )
    seed: int = Field(1, ge=0, title="Phonon seed", description="Seed of the frozen phonons")

    @model_validator(mode="after")
    def _detector_has_a_width(self) -> MicroscopeSettings:
        if self.inner_mrad >= self.outer_mrad:
            raise ValueError(
                f"inner_mrad {self.inner_mrad:g} must be below outer_mrad {self.outer_mrad:g}"
            )
        return self

    def digest(self) -> str:
        """Return a short hash that changes with any setting."""
        text = json.dumps(self.model_dump(), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]


@dataclass(frozen=True, slots=True)
class ColumnProfiles:
    """Radial HAADF profiles of the columns of one material, without source size.

    Attributes
    ----------
    radius_nm : ndarray of shape (R,)
    metal, chalcogen_pair, chalcogen_single : ndarray of shape (R,)
        Detected fraction of the beam against the probe's distance from the column.
    """

    radius_nm: np.ndarray
    metal: np.ndarray
    chalcogen_pair: np.ndarray
    chalcogen_single: np.ndarray

    def scaled(self, chalcogen_gain: float) -> ColumnProfiles:
        """Return profiles whose X columns are that much brighter."""
        return ColumnProfiles(
            self.radius_nm,
            self.metal,
            self.chalcogen_pair * chalcogen_gain,
            self.chalcogen_single * chalcogen_gain,
        )


def simulate_columns(material: Material, microscope: MicroscopeSettings) -> ColumnProfiles:
    """Run abTEM multislice on one isolated column of each kind.

    Parameters
    ----------
    material : Material
    microscope : MicroscopeSettings

    Returns
    -------
    ColumnProfiles
        On ``PROFILE_STEP_NM`` up to ``PROFILE_RADIUS_NM``.
    """
    half = material.chalcogen_distance_nm / 2
    kinds = {
        "metal": ([material.metal], [0.0]),
        "chalcogen_pair": ([material.chalcogen] * 2, [-half, half]),
        "chalcogen_single": ([material.chalcogen], [-half]),
    }
    profiles = {
        name: _radial_profile(symbols, heights, microscope)
        for name, (symbols, heights) in kinds.items()
    }
    radius = np.arange(len(profiles["metal"])) * PROFILE_STEP_NM
    return ColumnProfiles(radius, **profiles)


def _radial_profile(
    symbols: list[str], heights_nm: list[float], microscope: MicroscopeSettings
) -> np.ndarray:
    """Mean over frozen phonons of line scans away from the column along two directions."""
    import abtem
    from ase import Atoms

    abtem.config.set({"diagnostics.progress_bar": False, "precision": "float32"})
    cell, depth = _CELL_NM * 10, 8.0  # ångström from here on, as abTEM has it
    middle = cell / 2
    positions = [(middle, middle, depth / 2 + 10 * h) for h in heights_nm]
    atoms = Atoms(symbols, positions=positions, cell=(cell, cell, depth))
    potential = abtem.Potential(
        abtem.AtomsEnsemble(_displaced(atoms, microscope)),
        sampling=_SAMPLING_NM * 10,
        slice_thickness=2.0,
        projection="infinite",
    )
    probe = abtem.Probe(
        energy=microscope.energy_ev,
        semiangle_cutoff=microscope.semiangle_mrad,
        # Focused on the middle of the layer; abTEM measures from the entrance face.
        defocus=depth / 2,
    )
    detector = abtem.AnnularDetector(inner=microscope.inner_mrad, outer=microscope.outer_mrad)
    radius = np.arange(0, PROFILE_RADIUS_NM + PROFILE_STEP_NM / 2, PROFILE_STEP_NM) * 10
    directions = np.radians([15.0, 195.0])
    points = np.stack(
        [
            middle + np.multiply.outer(np.cos(directions), radius),
            middle + np.multiply.outer(np.sin(directions), radius),
        ],
        axis=-1,
    )
    scan = abtem.CustomScan(points.reshape(-1, 2))
    signal = probe.scan(potential, scan=scan, detectors=detector).compute().array
    return np.asarray(signal, float).reshape(len(directions), -1).mean(axis=0)


def _displaced(atoms, microscope: MicroscopeSettings) -> list:
    """Frozen phonons: copies of the atoms, displaced in the plane as an Einstein model has it.

    The displacements are a scrambled Sobol sequence put through the normal distribution. How
    strongly the first X atom feeds the second depends on how the two are displaced, so random
    draws would need hundreds of configurations for a pair's brightness to settle within 1 %.
    """
    import warnings

    from scipy.stats import norm, qmc

    sequence = qmc.Sobol(2 * len(atoms), seed=microscope.seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # not a power of two: still even enough
        points = sequence.random(microscope.phonon_configurations)
    shifts = norm.ppf(points).reshape(-1, len(atoms), 2) * microscope.thermal_sigma_nm * 10
    trajectory = []
    for shift in shifts:
        copy = atoms.copy()
        copy.positions[:, :2] += shift
        trajectory.append(copy)
    return trajectory


def cache_folder() -> Path:
    """Return the folder where simulated columns are kept between runs."""
    base = os.environ.get("POINT_DEFECTS_CACHE") or os.environ.get("XDG_CACHE_HOME")
    root = Path(base) if base else Path.home() / ".cache"
    return root / "napari-point-defects" / "columns"


_carried: dict[str, str] = {}
"""Columns that another process sent along, by the name of their file in the cache."""


def columns_to_carry(
    materials: Iterable[Material], microscope: MicroscopeSettings
) -> dict[str, str]:
    """Return what other machines must know of columns that are in this one's cache."""
    places = [_places(material, microscope) for material in materials]
    return {
        cached.name: _carried.get(cached.name) or cached.read_text()
        for bundled, cached in places
        if bundled is None
    }


def carry_columns(texts: Mapping[str, str]) -> None:
    """Know the columns of another process: the same to the last digit, and without abTEM."""
    _carried.update(texts)


def load_columns(
    material: Material, microscope: MicroscopeSettings = MicroscopeSettings()
) -> ColumnProfiles:
    """Return the columns' profiles: bundled, cached on disk, or simulated now (about a minute).

    Parameters
    ----------
    material : Material
    microscope : MicroscopeSettings

    Returns
    -------
    ColumnProfiles
    """
    bundled, cached = _places(material, microscope)
    if bundled is not None:
        return _decode(bundled.read_text())
    if cached.name in _carried:
        return _decode(_carried[cached.name])
    if cached.is_file():
        return _decode(cached.read_text())
    columns = simulate_columns(material, microscope)
    temporary = cached.with_suffix(f".{os.getpid()}.tmp")
    try:
        cached.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_text(encode_columns(columns, microscope))
        temporary.replace(cached)
    except OSError:  # a full disk or a folder that may not be written costs the time, not the run
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
    return columns


def columns_are_known(material: Material, microscope: MicroscopeSettings) -> bool:
    """Tell whether :func:`load_columns` would answer at once."""
    bundled, cached = _places(material, microscope)
    return bundled is not None or cached.name in _carried or cached.is_file()


def _places(material: Material, microscope: MicroscopeSettings) -> tuple[Traversable | None, Path]:
    """Return the bundled file, if there is one, and the place in the cache."""
    name = f"{material.formula}_{microscope.digest()}.json"
    bundled = files("napari_point_defects.simulation") / "column_profiles" / name
    # A user's own material may share a formula with a bundled one.
    if MATERIALS.get(material.formula) != material or not bundled.is_file():
        bundled = None
    # what a column is made of; its image knows nothing of the lattice constant, nor of a source
    column = repr((material.metal, material.chalcogen, material.chalcogen_distance_nm))
    own = repr(material) if material.formula in MATERIALS else column
    return bundled, cache_folder() / f"{hashlib.sha256(own.encode()).hexdigest()[:8]}_{name}"


def encode_columns(columns: ColumnProfiles, microscope: MicroscopeSettings) -> str:
    """Return profiles and the settings they were made with as JSON."""
    arrays = {key: [float(f"{v:.6g}") for v in getattr(columns, key)] for key in columns.__slots__}
    return json.dumps({"microscope": microscope.model_dump(), **arrays})


def _decode(text: str) -> ColumnProfiles:
    content = json.loads(text)
    return ColumnProfiles(**{k: np.asarray(content[k]) for k in ColumnProfiles.__slots__})
