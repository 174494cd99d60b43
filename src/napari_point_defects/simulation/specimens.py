"""Specimens with known areas: twins, grains, holes, torn edges, bilayer islands, thick dirt.

The scenes of training show one crystal. These show what else real images hold, with a map of the
truth, to test what finds it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field
from scipy.ndimage import gaussian_filter
from scipy.spatial import cKDTree

from napari_point_defects.analysed_area import (
    BILAYER,
    CONTAMINATED,
    FIRST_CODE,
    NO_LATTICE,
    VACUUM,
)
from napari_point_defects.materials import BOND, DefectClass, get_material
from napari_point_defects.records import Lattice, missing_chalcogens, missing_metals
from napari_point_defects.simulation.columns import MicroscopeSettings, load_columns
from napari_point_defects.simulation.scenes import (
    CELL_CHALCOGEN,
    CELL_METAL,
    Scene,
    SceneSettings,
    contamination_field,
    lattice_nodes,
)
from napari_point_defects.simulation.superposition import Blur, Superposer

Kind = Literal["crystal", "twin", "grain", "vacuum", "bilayer", "dirt", "amorphous"]
Stacking = Literal["AA'", "AB"]


class PatchSettings(BaseModel):
    """One area that differs from the crystal around it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Kind = Field("vacuum", description="What the area shows")
    outline: Literal["half", "disc", "triangle"] = Field(
        "disc", description="half: all on one side of a line through the centre"
    )
    centre: tuple[float, float] = Field(
        (0.5, 0.5), description="Middle (y, x) as shares of the image's height and width"
    )
    radius: float = Field(0.2, gt=0, description="Share of the image's shorter side")
    direction_deg: float = Field(
        0.0, description="Where a half lies from its line, or a triangle's corner [°]"
    )
    tilt_deg: float = Field(0.0, description="grain: its rotation against the crystal [°]")
    shift_a: tuple[float, float] = Field(
        (0.0, 0.0), description="twin, grain: further shift of its lattice [a]"
    )
    stacking: Stacking = Field("AA'", description="bilayer: M over X₂ and X₂ over M, or 3R")
    thickness: float = Field(
        2.0, ge=0, description="dirt, amorphous: signal in units of the brightest column's peak"
    )

    def predicate(self, shape: tuple[int, int]) -> Callable[[np.ndarray], np.ndarray]:
        """Return a function that tells which points (..., 2) in pixels lie in the area."""
        middle = np.array(self.centre) * (np.array(shape) - 1)
        radius = self.radius * min(shape)
        angle = np.radians(self.direction_deg)

        def depth(points: np.ndarray, turn: float) -> np.ndarray:
            return (points - middle) @ np.array([np.sin(angle + turn), np.cos(angle + turn)])

        if self.outline == "half":
            return lambda points: depth(points, 0.0) > 0
        if self.outline == "disc":
            return lambda points: np.linalg.norm(points - middle, axis=-1) < radius
        thirds = [np.pi / 3 + k * 2 * np.pi / 3 for k in range(3)]
        return lambda points: np.all([depth(points, t) < radius / 2 for t in thirds], axis=0)


@dataclass(frozen=True, slots=True)
class Specimen:
    """A scene of more than one crystal.

    Attributes
    ----------
    scene : Scene
        Its cells are those of crystals, twins and grains that are not covered by anything.
    domain : ndarray of shape (K,), int
        Number of the crystal that each cell belongs to: 1, then the patches' in their order.
    sites_px : ndarray of shape (S, 2)
        X₂ sites, empty ones too, of crystals that nothing covers, also beyond the frame: a cell
        found elsewhere is invented, whichever of an X₂'s three bonds it is.
    lattices : tuple of Lattice
        Of the crystals, by number.
    labels : ndarray of shape (M, N), uint8
        Truth of every pixel, as in :class:`~napari_point_defects.analysed_area.AnalysedArea`.
    """

    scene: Scene
    domain: np.ndarray
    sites_px: np.ndarray
    lattices: tuple[Lattice, ...]
    labels: np.ndarray


@dataclass(frozen=True, slots=True)
class _Crystal:
    """Columns of one lattice where it holds."""

    lattice: Lattice
    chalcogen: np.ndarray
    metal: np.ndarray
    classes: np.ndarray
    has_chalcogen: np.ndarray
    has_metal: np.ndarray


def make_specimen(
    settings: SceneSettings,
    patches: tuple[PatchSettings, ...],
    rng: np.random.Generator,
    *,
    microscope: MicroscopeSettings = MicroscopeSettings(),
) -> Specimen:
    """Place crystals, patches and defects and render the clean image.

    Parameters
    ----------
    settings : SceneSettings
        The crystal around the patches; its ``vacuum`` and ``drift_a`` are not used.
    patches : tuple of PatchSettings
        Later ones lie over earlier ones.
    rng : numpy.random.Generator
    microscope : MicroscopeSettings

    Returns
    -------
    Specimen
    """
    shape = (settings.height_px, settings.width_px)
    # column positions reach beyond the image, the map of the truth does not
    lattices, codes = [settings.lattice()], []
    for patch in patches:
        if patch.kind in ("twin", "grain"):
            lattices.append(_other_lattice(lattices[0], patch))
        codes.append(_code(patch, len(lattices)))
    inside = [patch.predicate(shape) for patch in patches]

    def label(points: np.ndarray) -> np.ndarray:
        found = np.ones(points.shape[:-1], np.uint8)
        for code, predicate in zip(codes, inside, strict=True):
            found = np.where(predicate(points), np.uint8(code), found)
        return found

    def ground(points: np.ndarray) -> np.ndarray:
        """Crystal at each point, below what covers it: bilayer and dirt lie on a crystal."""
        found = np.ones(points.shape[:-1], int)
        for code, patch, predicate in zip(codes, patches, inside, strict=True):
            if patch.kind not in ("bilayer", "dirt"):
                found = np.where(predicate(points), code, found)
        return found

    crystals, taken = [], None
    for number, lattice in enumerate(lattices, 1):
        crystal = _grow(lattice, shape, settings.defect_rates, ground, number, rng)
        crystals.append(crystal if taken is None else _without(crystal, taken))
        points = np.concatenate([c.chalcogen[c.has_chalcogen] for c in crystals])
        metals = np.concatenate([c.metal[c.has_metal] for c in crystals])
        taken = cKDTree(np.concatenate([points, metals]))
    columns = _columns(crystals)
    for patch, predicate in zip(patches, inside, strict=True):
        if patch.kind == "bilayer":
            upper = _upper_layer(lattices[0], shape, patch.stacking, predicate)
            columns = {name: np.concatenate([columns[name], upper[name]]) for name in columns}
    superposer = _superposer(settings, microscope)
    jitter = rng.normal(0, settings.jitter_a * settings.a_px, shape[0])
    clean = superposer.render(columns, jitter if settings.jitter_a else None)
    brightest = max(superposer.peak["metal"], superposer.peak["chalcogen_pair"])
    if settings.contamination:
        clean += brightest * contamination_field(settings, rng)
    grid = np.stack(np.indices(shape), axis=-1).astype(float)
    for patch, predicate in zip(patches, inside, strict=True):
        if patch.kind in ("dirt", "amorphous"):
            cloud = _cloud(predicate(grid), patch.thickness, settings, rng)
            clean += np.float32(brightest) * cloud
    chalcogen, metal, classes, number = (
        np.concatenate(parts)
        for parts in zip(
            *((c.chalcogen, c.metal, c.classes, np.full(len(c.classes), n))
              for n, c in enumerate(crystals, 1)),
            strict=True,
        )
    )  # fmt: skip
    own = np.concatenate([c.has_chalcogen & c.has_metal for c in crystals])  # classes apart
    limits = np.array(shape) - 1
    framed = np.all((chalcogen >= 0) & (chalcogen <= limits), axis=1) & np.all(
        (metal >= 0) & (metal <= limits), axis=1
    )
    uncovered = (label(chalcogen) == number) & (label(metal) == number)
    kept = framed & uncovered & own
    scene = Scene(
        clean=clean,
        lattice=lattices[0],
        chalcogen_px=chalcogen[kept],
        metal_px=metal[kept],
        classes=classes[kept],
        hexagons_px=np.zeros((0, 2)),
        peak=superposer.peak["chalcogen_pair"],
        brightest_peak=brightest,
        pair_volume_px=superposer.volume_px["chalcogen_pair"],
    )
    grown = np.concatenate([c.has_chalcogen for c in crystals])
    sites = chalcogen[grown & (label(chalcogen) == number)]
    return Specimen(scene, number[kept], sites, tuple(lattices), label(grid))


def _code(patch: PatchSettings, crystals: int) -> int:
    codes = {"vacuum": VACUUM, "bilayer": BILAYER, "dirt": CONTAMINATED, "amorphous": NO_LATTICE}
    if patch.kind in ("twin", "grain"):
        return crystals
    return codes.get(patch.kind, 1)


def _other_lattice(lattice: Lattice, patch: PatchSettings) -> Lattice:
    """Return the lattice of a twin or of a grain: turned before the scan distorts it."""
    turn = np.pi / 3 if patch.kind == "twin" else np.radians(patch.tilt_deg)
    c, s = np.cos(turn), np.sin(turn)
    rotation = np.array([[c, s], [-s, c]])
    origin = lattice.to_image(np.array(patch.shift_a))
    return Lattice(origin, lattice.matrix_px @ rotation)


def _grow(lattice, shape, rates, ground, number, rng) -> _Crystal:
    """Fill a crystal's area with cells, each of a class of its own."""
    nodes = lattice_nodes(lattice, shape)
    chalcogen = lattice.to_image(nodes + CELL_CHALCOGEN)
    metal = lattice.to_image(nodes + CELL_METAL)
    share = np.array(rates)
    classes = rng.choice(len(DefectClass), size=len(nodes), p=[1 - share.sum(), *share])
    return _Crystal(
        lattice,
        chalcogen,
        metal,
        classes,
        ground(chalcogen) == number,
        ground(metal) == number,
    )


def _without(crystal: _Crystal, taken: cKDTree) -> _Crystal:
    """Leave out columns that the crystals before have in the way: a boundary is no overlap."""
    reach = 0.75 * BOND * crystal.lattice.a_px
    free = [taken.query(p, distance_upper_bound=reach)[0] > reach for p in
            (crystal.chalcogen, crystal.metal)]  # fmt: skip
    return replace(
        crystal,
        has_chalcogen=crystal.has_chalcogen & free[0],
        has_metal=crystal.has_metal & free[1],
    )


def _columns(crystals: list[_Crystal]) -> dict[str, np.ndarray]:
    """Positions of all columns by kind."""
    parts: dict[str, list[np.ndarray]] = {"metal": [], "chalcogen_pair": [], "chalcogen_single": []}
    for c in crystals:
        missing = missing_chalcogens(c.classes)
        parts["metal"].append(c.metal[c.has_metal & ~missing_metals(c.classes)])
        parts["chalcogen_pair"].append(c.chalcogen[c.has_chalcogen & (missing == 0)])
        parts["chalcogen_single"].append(c.chalcogen[c.has_chalcogen & (missing == 1)])
    return {name: np.concatenate(points) for name, points in parts.items()}


def _upper_layer(lattice, shape, stacking, predicate) -> dict[str, np.ndarray]:
    """Columns of a second layer: their signals add to those below."""
    nodes = lattice_nodes(lattice, shape)
    chalcogen, metal = nodes + CELL_CHALCOGEN, nodes + CELL_METAL
    if stacking == "AA'":
        chalcogen, metal = metal, chalcogen
    else:  # 3R: the same orientation, shifted so that M lies over X₂
        shift = CELL_CHALCOGEN - CELL_METAL
        chalcogen, metal = chalcogen + shift, metal + shift
    chalcogen, metal = lattice.to_image(chalcogen), lattice.to_image(metal)
    return {
        "metal": metal[predicate(metal)],
        "chalcogen_pair": chalcogen[predicate(chalcogen)],
        "chalcogen_single": np.zeros((0, 2)),
    }


def _cloud(mask: np.ndarray, thickness: float, settings: SceneSettings, rng) -> np.ndarray:
    """Return an uneven layer with a soft edge, mean ``thickness`` inside."""
    soft = gaussian_filter(mask.astype(np.float32), 0.5 * settings.a_px)
    uneven = gaussian_filter(rng.standard_normal(mask.shape, dtype=np.float32), 0.4 * settings.a_px)
    return thickness * soft * (1 + 0.2 * uneven / uneven.std())


def _superposer(settings: SceneSettings, microscope: MicroscopeSettings) -> Superposer:
    columns = load_columns(get_material(settings.material), microscope)
    blur = Blur(
        settings.source_fwhm_nm,
        settings.tail_fraction,
        settings.tail_fwhm_nm,
        settings.defocus_nm,
        settings.astigmatism_nm,
        settings.astigmatism_deg,
    )
    shape = (settings.height_px, settings.width_px)
    return Superposer(
        shape,
        settings.pixel_size_nm,
        columns.scaled(settings.chalcogen_gain),
        microscope,
        blur,
    )


def crystal_share(specimen: Specimen) -> float:
    """Return the share of the image that crystals cover and nothing covers them."""
    return float((specimen.labels < FIRST_CODE).mean())
