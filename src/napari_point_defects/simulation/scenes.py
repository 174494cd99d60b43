"""Scenes: a defective monolayer, seen through a distorting scan, as a clean image with truth."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, field_validator
from scipy import fft
from scipy.ndimage import gaussian_filter1d

from napari_point_defects.materials import (
    CHALCOGEN_SITES,
    LATTICE_VECTORS,
    METAL_SITES,
    DefectClass,
    get_material,
)
from napari_point_defects.records import Lattice, missing_chalcogens, missing_metals
from napari_point_defects.simulation.columns import MicroscopeSettings, load_columns
from napari_point_defects.simulation.superposition import Blur, Superposer

CELL_CHALCOGEN = CHALCOGEN_SITES[0]
CELL_METAL = METAL_SITES[0]
"""The unit cell that belongs to the hexagon at (0, 0): its upper left bond."""


class SceneSettings(BaseModel):
    """Everything that fixes a scene but its random seed."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    material: str = Field("MoTe2", description="Formula of the 2H monolayer")
    height_px: int = Field(512, ge=16, le=16384, description="Rows [px]")
    width_px: int = Field(512, ge=16, le=16384, description="Columns [px]")
    a_px: float = Field(19.0, ge=4, le=400, description="Lattice constant [px]")
    angle_deg: float = Field(0.0, description="Lattice row from the image's x axis [°]")
    shear: float = Field(0.0, ge=-0.3, le=0.3, description="Sideways slide of rows per row")
    stretch: float = Field(0.0, ge=-0.3, le=0.3, description="Horizontal over vertical scale − 1")
    drift_a: float = Field(0.0, ge=0, description="Amplitude of slow non-linear drift [a]")
    jitter_a: float = Field(0.0, ge=0, description="RMS sideways error of a scan row [a]")
    source_fwhm_nm: float = Field(0.06, ge=0, description="Source size, FWHM [nm]")
    tail_fraction: float = Field(0.0, ge=0, le=0.6, description="Share of a wide probe tail")
    tail_fwhm_nm: float = Field(0.25, ge=0, description="Width of that tail, FWHM [nm]")
    defocus_nm: float = Field(0.0, description="Residual defocus [nm]")
    astigmatism_nm: float = Field(0.0, description="Residual twofold astigmatism [nm]")
    astigmatism_deg: float = Field(0.0, description="Direction of the astigmatism [°]")
    chalcogen_gain: float = Field(
        1.0, gt=0, description="Factor on the X columns' intensity (other detectors and voltages)"
    )
    contamination: float = Field(
        0.0, ge=0, description="Mean contamination signal, share of the brightest column's peak"
    )
    contamination_length_nm: float = Field(1.5, gt=0, description="Its correlation length [nm]")
    vacuum: str = Field("none", pattern="^(none|edge|hole)$", description="Torn edge or hole")
    vacuum_fraction: float = Field(0.2, ge=0, le=0.9, description="Share of the image it takes")
    defect_rates: tuple[float, float, float, float, float] = Field(
        (0.04, 0.01, 0.005, 0.002, 0.001),
        description="Share of cells that are V_X1, V_X2, V_M, V_X1+V_M, V_X2+V_M",
    )

    @field_validator("defect_rates")
    @classmethod
    def _rates_are_shares(cls, rates: tuple[float, ...]) -> tuple[float, ...]:
        if min(rates) < 0 or sum(rates) > 1:
            raise ValueError("must each be at least 0 and at most 1 together")
        return rates

    @property
    def pixel_size_nm(self) -> float:
        """Pixel size that follows from the lattice constant in pixels."""
        return get_material(self.material).lattice_constant_nm / self.a_px

    def lattice(self) -> Lattice:
        """Return the lattice of the scene; the image's centre is a hollow before drift."""
        theta = np.radians(self.angle_deg)
        rotation = np.array(
            [[np.cos(theta), np.sin(theta)], [-np.sin(theta), np.cos(theta)]]
        )  # (y, x) order: the canonical x axis turns towards +y
        root = np.sqrt(1 + self.stretch)
        scan = np.array([[1 / root, 0.0], [self.shear / root, root]])
        centre = (np.array([self.height_px, self.width_px]) - 1) / 2
        return Lattice(centre, self.a_px * scan @ rotation)


@dataclass(frozen=True, slots=True)
class Scene:
    """A clean image and what is in it.

    Attributes
    ----------
    clean : ndarray of shape (M, N), float32
        Detected fraction of the beam.
    lattice : Lattice
        The affine lattice, without drift and jitter.
    chalcogen_px, metal_px : ndarray of shape (K, 2)
        Column positions of every unit cell in the image and the material, drift included.
    classes : ndarray of shape (K,), int
        ``DefectClass`` of each.
    hexagons_px : ndarray of shape (H, 2)
        Centres of hexagons whose six sites lie in the image and the material.
    peak : float
        Signal at the middle of a perfect X₂ column.
    brightest_peak : float
        Signal at the middle of the brightest kind of perfect column.
    pair_volume_px : float
        Sum over pixels of a perfect X₂ column.
    """

    clean: np.ndarray
    lattice: Lattice
    chalcogen_px: np.ndarray
    metal_px: np.ndarray
    classes: np.ndarray
    hexagons_px: np.ndarray
    peak: float
    brightest_peak: float
    pair_volume_px: float


def make_scene(
    settings: SceneSettings,
    rng: np.random.Generator,
    *,
    microscope: MicroscopeSettings = MicroscopeSettings(),
    classes: np.ndarray | None = None,
) -> Scene:
    """Place columns and defects, distort them as the scan does, and render the clean image.

    Parameters
    ----------
    settings : SceneSettings
    rng : numpy.random.Generator
    microscope : MicroscopeSettings
    classes : ndarray of int, optional
        Class of every cell in the order of ``lattice_nodes``; drawn from the rates otherwise.

    Returns
    -------
    Scene
    """
    lattice = settings.lattice()
    shape = (settings.height_px, settings.width_px)
    nodes = lattice_nodes(lattice, shape)
    bend = slow_drift(settings, rng)
    chalcogen = bend(lattice.to_image(nodes + CELL_CHALCOGEN))
    metal = bend(lattice.to_image(nodes + CELL_METAL))
    if classes is None:
        rates = np.array(settings.defect_rates)
        classes = rng.choice(len(DefectClass), size=len(nodes), p=[1 - rates.sum(), *rates])
    inside = _material_mask(settings, rng)
    missing_x = missing_chalcogens(classes)
    has_metal = ~missing_metals(classes)
    in_x, in_m = inside(chalcogen), inside(metal)
    superposer = _superposer(
        shape,
        settings.pixel_size_nm,
        get_material(settings.material),  # not its formula: the user may change what it means
        microscope,
        Blur(
            settings.source_fwhm_nm,
            settings.tail_fraction,
            settings.tail_fwhm_nm,
            settings.defocus_nm,
            settings.astigmatism_nm,
            settings.astigmatism_deg,
        ),
        settings.chalcogen_gain,
    )
    jitter = rng.normal(0, settings.jitter_a * settings.a_px, shape[0])
    clean = superposer.render(
        {
            "metal": metal[has_metal & in_m],
            "chalcogen_pair": chalcogen[(missing_x == 0) & in_x],
            "chalcogen_single": chalcogen[(missing_x == 1) & in_x],
        },
        jitter if settings.jitter_a else None,
    )
    brightest = max(superposer.peak["metal"], superposer.peak["chalcogen_pair"])
    if settings.contamination:
        clean += brightest * contamination_field(settings, rng, inside)
    hollows = bend(lattice.to_image(nodes))
    six = np.concatenate([CHALCOGEN_SITES, METAL_SITES])
    sites = bend(lattice.to_image(nodes[:, None] + six).reshape(-1, 2))
    whole = (inside(sites) & _in_frame(sites, shape)).reshape(-1, 6).all(axis=1)
    kept = in_x & in_m & _in_frame(chalcogen, shape) & _in_frame(metal, shape)
    return Scene(
        clean=clean,
        lattice=lattice,
        chalcogen_px=chalcogen[kept],
        metal_px=metal[kept],
        classes=classes[kept],
        hexagons_px=hollows[whole],
        peak=superposer.peak["chalcogen_pair"],
        brightest_peak=brightest,
        pair_volume_px=superposer.volume_px["chalcogen_pair"],
    )


@lru_cache(maxsize=4)
def _superposer(shape, pixel_size_nm, material, microscope, blur, chalcogen_gain) -> Superposer:
    columns = load_columns(material, microscope)
    return Superposer(shape, pixel_size_nm, columns.scaled(chalcogen_gain), microscope, blur)


def lattice_nodes(lattice: Lattice, shape: tuple[int, int], margin: float = 3.0) -> np.ndarray:
    """Return canonical positions of the hollows in and around an image.

    Parameters
    ----------
    lattice : Lattice
    shape : (int, int)
    margin : float
        How far beyond the image nodes are kept, in units of a.

    Returns
    -------
    ndarray of shape (K, 2)
        (y, x) in units of a, in a fixed order.
    """
    corners = np.array([[0, 0], [0, shape[1]], [shape[0], 0], [shape[0], shape[1]]], float)
    steps = lattice.to_canonical(corners) @ np.linalg.inv(LATTICE_VECTORS)
    low = np.floor(steps.min(axis=0) - 2 * margin).astype(int)
    high = np.ceil(steps.max(axis=0) + 2 * margin).astype(int) + 1
    grid = np.stack(
        np.meshgrid(np.arange(low[0], high[0]), np.arange(low[1], high[1]), indexing="ij"), -1
    )
    nodes = grid.reshape(-1, 2) @ LATTICE_VECTORS
    pixels = lattice.to_image(nodes)
    reach = margin * lattice.a_px
    near = np.all((pixels > -reach) & (pixels < np.array(shape) + reach), axis=1)
    return nodes[near]


def _in_frame(points: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    return np.all((points >= 0) & (points <= np.array(shape) - 1), axis=-1)


def slow_drift(
    settings: SceneSettings, rng: np.random.Generator
) -> Callable[[np.ndarray], np.ndarray]:
    """Draw a slow drift: rows slide smoothly in x and y, by about ``drift_a`` at most.

    Parameters
    ----------
    settings : SceneSettings
    rng : numpy.random.Generator

    Returns
    -------
    callable
        Takes points (..., 2) [px] and returns where the scan shows them.
    """
    phase = rng.uniform(0, 2 * np.pi, (2, 2))
    amplitude = settings.drift_a * settings.a_px * rng.normal(0, 0.5, (2, 2))
    # Half and one and a half waves over the frame, as a stage settles.
    waves = np.array([0.5, 1.5])

    def bend(points: np.ndarray) -> np.ndarray:
        if not settings.drift_a:
            return points
        turns = 2 * np.pi * points[..., 0, None] / settings.height_px * waves
        return points + np.stack(
            [(amplitude[i] * np.sin(turns + phase[i])).sum(axis=-1) for i in range(2)], axis=-1
        )

    return bend


def _material_mask(settings: SceneSettings, rng: np.random.Generator):
    """Return a predicate that tells whether points lie in the material, off hole and vacuum."""
    shape = np.array([settings.height_px, settings.width_px], float)
    theta = rng.uniform(0, 2 * np.pi)
    normal = np.array([np.sin(theta), np.cos(theta)])
    rough = rng.normal(0, 0.5 * settings.a_px, 5)
    centre = rng.uniform(0.2, 0.8, 2) * shape
    if settings.vacuum == "edge":
        corners = np.array([[0, 0], [0, 1], [1, 0], [1, 1]]) * shape
        along = corners @ normal
        limit = along.min() + (1 - settings.vacuum_fraction) * (along.max() - along.min())

        def inside(points: np.ndarray) -> np.ndarray:
            t = points @ normal[::-1] / shape.max() * 2 * np.pi
            wave = sum(r * np.sin((n + 1) * t) for n, r in enumerate(rough))
            return points @ normal + wave < limit

    elif settings.vacuum == "hole":
        radius = np.sqrt(settings.vacuum_fraction * shape.prod() / np.pi)

        def inside(points: np.ndarray) -> np.ndarray:
            from_centre = points - centre
            azimuth = np.arctan2(from_centre[..., 0], from_centre[..., 1])
            wave = sum(r * np.cos((n + 1) * azimuth + n) for n, r in enumerate(rough))
            return np.hypot(from_centre[..., 0], from_centre[..., 1]) > radius + wave

    else:

        def inside(points: np.ndarray) -> np.ndarray:
            return np.ones(points.shape[:-1], bool)

    return inside


def contamination_field(
    settings: SceneSettings, rng: np.random.Generator, inside=None
) -> np.ndarray:
    """Return a smooth positive random field with the settings' mean.

    Parameters
    ----------
    settings : SceneSettings
    rng : numpy.random.Generator
    inside : callable, optional
        Tells which points (..., 2) lie in the material: none over vacuum.

    Returns
    -------
    ndarray of shape (M, N), float32
        In units of the brightest column's peak.
    """
    shape = (settings.height_px, settings.width_px)
    length_px = settings.contamination_length_nm / settings.pixel_size_nm
    grid = [fft.next_fast_len(int(n + 2 * length_px)) for n in shape]
    ky, kx = fft.fftfreq(grid[0])[:, None], fft.rfftfreq(grid[1])[None, :]
    spectrum = fft.rfft2(rng.standard_normal(grid, dtype=np.float32))
    spectrum = spectrum * np.exp(-((np.pi * length_px) ** 2) * (ky**2 + kx**2))
    spectrum[0, 0] = 0
    field = fft.irfft2(spectrum, s=grid)[: shape[0], : shape[1]]
    field = np.exp(0.6 * field / max(field.std(), 1e-12))
    field *= settings.contamination / field.mean()
    if inside is not None and settings.vacuum != "none":
        rows = np.stack(np.indices(shape), axis=-1)
        mask = inside(rows.astype(float)).astype(np.float32)
        blur = 0.3 * settings.a_px
        field *= gaussian_filter1d(gaussian_filter1d(mask, blur, axis=0), blur, axis=1)
    return field.astype(np.float32)
