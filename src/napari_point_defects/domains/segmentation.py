"""Divide an image into domains, each with its own lattice, and what is none of them.

Every place is explained by one of the lattices found, as it is or mirrored, or by none. Lattices
are looked for one after the other where those before explain nothing.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from scipy import ndimage

from napari_point_defects.analysed_area import (
    BOUNDARY,
    FIRST_CODE,
    NO_LATTICE,
    VACUUM,
    AnalysedArea,
    Domain,
)
from napari_point_defects.domains.covers import Reference, cover_codes, reference_of
from napari_point_defects.domains.layers import (
    CRYSTAL,
    LEAST_TWIN_CELLS,
    WEAK_CRYSTAL,
    Layer,
    measure_layer,
    on_grid,
)
from napari_point_defects.domains.local_cells import (
    FINE_SHIFTS,
    SHELLS,
    USED,
    image_limits,
    match,
)
from napari_point_defects.domains.parts import alike, cut_out, grains_in, lattice_in, name_domains
from napari_point_defects.errors import PointDefectsError
from napari_point_defects.lattice import DoubtfulLattice, find_lattice, turned_like
from napari_point_defects.lattice_sites import SITES, expected_brightness_ratio
from napari_point_defects.materials import Material
from napari_point_defects.records import Lattice

MOST_LATTICES = 6

_LEAST_CELLS = 30  # of a grain
_SPECK_CELLS = 6  # smaller areas are part of what surrounds them
_HOLE_CELLS = 2.0  # that show no columns: a hole of five; fewer are a cluster of defects
_BAND_A = 1.0  # on either side of a boundary

# Of what the material's columns should show: bilayers and triangular lattices reach 0.06 under
# dirt, MoS2 through a blurred probe onto a low-angle detector falls to 0.1.
_LEAST_ASYMMETRY = 0.07
_TELLING_ASYMMETRY = 0.06  # score's loss from which on it is plain to see

_SYMMETRIC = (
    "the columns are alike in opposite directions, as in a bilayer, graphene or a triangular "
    "lattice: use an image of a 2H monolayer, or check the material"
)
_MOIRE = (
    "two lattices lie on each other, as in a twisted bilayer: crop the image to a monolayer, or "
    "use another one"
)


def find_domains(
    data: np.ndarray, material: Material, *, rank: int = 0, start: Lattice | None = None
) -> tuple[tuple[Domain, ...], AnalysedArea]:
    """Find the lattices of an image, where each holds, and what is not to be counted.

    Parameters
    ----------
    data : ndarray of shape (M, N)
        NaN where nothing was recorded.
    material : Material
    rank : int
        As in :func:`~napari_point_defects.lattice.find_lattice`; what it says of the largest
        domain holds for all.
    start : Lattice, optional
        Of a frame before, as in :func:`~napari_point_defects.lattice.find_lattice`: the domains
        take the orientations nearest to it.

    Returns
    -------
    domains : tuple of Domain
        The largest first.
    area : AnalysedArea

    Raises
    ------
    PointDefectsError
        If no part of the image shows a single 2H monolayer.
    """
    data = np.asarray(data)
    in_doubt = False
    try:
        lattice = find_lattice(data, material, rank=rank, start=start)
    except DoubtfulLattice:
        in_doubt = True
        lattice = find_lattice(data, material, rank=rank, doubtful=True)
    limits = image_limits(data)
    layers = [
        measure_layer(data, each, limits)
        for each in grains_in(data, material, lattice, limits, rank)
    ]
    _refuse_symmetric(layers[0], material)
    reference = reference_of(layers[0].cells, layers[0].score, layers[0].template)
    while len(layers) < MOST_LATTICES:
        found = _next_lattice(data, material, layers, reference, limits)
        if found is None:
            break
        layers.append(measure_layer(data, found, limits))
    if len(layers) > 1:
        layers = _settled(data, material, rank, layers, limits)
        reference = reference_of(layers[0].cells, layers[0].score, layers[0].template)
    _refuse_moire(layers)
    area, states = _label(layers, reference, data.shape)
    if in_doubt:
        _refuse_mixture(data, material, area)
    domains, area = name_domains(data, material, rank, layers, states, area)
    if start is not None:
        domains = tuple(replace(d, lattice=turned_like(d.lattice, start)) for d in domains)
    return domains, area


def _explained(layers: list[Layer], reference: Reference) -> np.ndarray:
    """Where one of the lattices holds in register over many cells, on the first one's grid."""
    shape = layers[0].score.shape
    level = layers[0].cells.level
    found = np.zeros(shape, bool)
    for layer in layers:
        score, wide = on_grid(layer.score, shape), on_grid(layer.wide, shape)
        holds = (score > CRYSTAL) | ((score > WEAK_CRYSTAL) & reference.is_crystal_level(level))
        found |= holds & (wide > 0.45 * score)
    return found


def _next_lattice(
    data: np.ndarray,
    material: Material,
    layers: list[Layer],
    reference: Reference,
    limits: tuple[float, float],
) -> Lattice | None:
    """Look for a lattice where those before explain nothing; None if there is none."""
    first = layers[0]
    step = first.cells.step_px
    left = ~_explained(layers, reference) & (first.cells.seen > 0.5)
    left &= first.cells.level > reference.vacuum_level
    left = ndimage.binary_opening(left, iterations=2)
    per_cell = first.lattice.cell_area_px / step**2
    parts, count = ndimage.label(left)
    if not count:
        return None
    sizes = ndimage.sum_labels(left, parts, np.arange(1, count + 1))
    if sizes.max() < _LEAST_CELLS * per_cell:
        return None
    for part in np.argsort(sizes)[::-1][:3] + 1:
        if sizes[part - 1] < _LEAST_CELLS * per_cell:
            break
        found = lattice_in(data, material, parts == part, step, limits)
        if found is not None and not any(alike(found, layer.lattice) for layer in layers):
            return found
    return None


def _settled(
    data: np.ndarray,
    material: Material,
    rank: int,
    layers: list[Layer],
    limits: tuple[float, float],
) -> list[Layer]:
    """Measure each lattice again where it alone is the best: the first was seen in all of it.

    Grains of nearly the same angle look there like one lattice, bent, that is neither's.
    """
    shape, step = layers[0].score.shape, layers[0].cells.step_px
    best = _best_of(layers, shape)
    settled: list[Layer] = []
    for index, layer in enumerate(layers):
        where = (best == index) & (on_grid(layer.score, shape) > CRYSTAL)
        if where.sum() * step**2 < _LEAST_CELLS * layer.lattice.cell_area_px:
            continue
        found = lattice_in(data, material, where, step, limits, 0 if settled else rank)
        found = found or layer.lattice
        if not any(alike(found, other.lattice) for other in settled):
            settled.append(measure_layer(data, found, limits))
    return settled or layers


def _best_of(layers: list[Layer], shape: tuple[int, int]) -> np.ndarray:
    """Which lattice explains each place best, shape (By, Bx), int."""
    return np.argmax([on_grid(layer.wide, shape) for layer in layers], axis=0)


def _refuse_symmetric(layer: Layer, material: Material) -> None:
    """Refuse a cell that looks the same turned by 180°: that of one 2H layer does not.

    Judged only where the material's two columns differ enough; a single column of three, or two
    of equal brightness, are lattices of something else.
    """
    template, noise = layer.template, layer.cells.noise
    moduli = [np.sqrt(np.mean(np.abs(template[shell == SHELLS]) ** 2)) for shell in (1, 4)]
    fall = np.clip(np.log(moduli[0] / max(moduli[1], 1e-9)) / 3, 0.1, 0.6)
    bright = np.array([0, expected_brightness_ratio(material), 1])
    ideal = np.exp(-fall * SHELLS) * (np.exp(-2j * np.pi * USED @ SITES.T) @ bright)
    ideal *= np.linalg.norm(template) / np.linalg.norm(ideal)

    def asymmetry(cell: np.ndarray) -> float:
        return 1 - float(match(cell[:, None], cell.conj(), noise, FINE_SHIFTS).score[0])

    expected = asymmetry(ideal)
    if expected > _TELLING_ASYMMETRY and asymmetry(template) < _LEAST_ASYMMETRY * expected:
        raise PointDefectsError(_SYMMETRIC)


def _refuse_moire(layers: list[Layer]) -> None:
    """Refuse two lattices that are seen in the same places."""
    if len(layers) < 2:
        return
    shape = layers[0].wide.shape
    ranked = np.sort([on_grid(layer.wide, shape) for layer in layers], axis=0)
    crystal = ranked[-1] > CRYSTAL
    both = crystal & (ranked[-2] > 0.6 * ranked[-1])
    if both.sum() > 0.4 * max(crystal.sum(), 1):
        raise PointDefectsError(_MOIRE)


def _label(
    layers: list[Layer], reference: Reference, shape: tuple[int, int]
) -> tuple[AnalysedArea, list[tuple[int, bool]]]:
    """Label every sample with a state (lattice, mirrored), from 1, or the code of what it is."""
    first = layers[0]
    grid, step = first.score.shape, first.cells.step_px
    scores = np.array([on_grid(layer.score, grid) for layer in layers])
    best = _best_of(layers, grid)
    score = np.take_along_axis(scores, best[None], 0)[0]
    mirrored = np.choose(best, [on_grid(layer.mirrored, grid) for layer in layers])
    state = (1 + 2 * best + mirrored).astype(np.uint8)
    level = first.cells.level
    crystal = (score > CRYSTAL) | ((score > WEAK_CRYSTAL) & reference.is_crystal_level(level))
    crystal &= first.cells.seen > 0.3
    per_cell = first.lattice.cell_area_px / step**2
    codes = cover_codes(first.cells, crystal, reference, first.lattice.a_px)
    labels = np.where(codes > 0, codes, state).astype(np.uint8)
    labels = _without_specks(labels, LEAST_TWIN_CELLS * per_cell)
    labels = _fill_specks(labels, _SPECK_CELLS * per_cell)
    labels = _with_holes(labels, layers, best, reference, _HOLE_CELLS * per_cell)
    labels = _with_boundaries(labels, _BAND_A * first.lattice.a_px / step)
    found = sorted(
        (int(s) for s in np.unique(labels) if s < FIRST_CODE),
        key=lambda s: -(labels == s).sum(),
    )
    if not found:
        raise PointDefectsError(
            "no part of the image shows a single clean 2H monolayer: choose another image, or "
            "check the material"
        )
    table = np.arange(256, dtype=np.uint8)
    for number, s in enumerate(found, 1):
        table[s] = number
    states = [((s - 1) // 2, bool((s - 1) % 2)) for s in found]
    return AnalysedArea(table[labels], step, (int(shape[0]), int(shape[1]))), states


def _without_specks(labels: np.ndarray, least: float) -> np.ndarray:
    """Give parts of a domain that are too small for one to the domains next to them."""
    is_domain = labels < FIRST_CODE
    kept = is_domain.copy()
    for value in np.unique(labels[is_domain]):
        parts, count = ndimage.label(labels == value)
        sizes = np.bincount(parts.ravel(), minlength=count + 1)
        kept &= ~((sizes[parts] < least) & (parts > 0))
    lost = is_domain & ~kept
    if not lost.any() or not kept.any():
        return labels
    distance, (rows, cols) = ndimage.distance_transform_edt(~kept, return_indices=True)
    near = distance**2 < least
    return np.where(lost, np.where(near, labels[rows, cols], NO_LATTICE), labels).astype(np.uint8)


def _fill_specks(labels: np.ndarray, least: float) -> np.ndarray:
    """Give holes that are smaller than a few cells to the domain around them."""
    off = labels >= FIRST_CODE
    parts, count = ndimage.label(off)
    sizes = np.bincount(parts.ravel(), minlength=count + 1)
    small = off & (sizes[parts] < least)
    if not small.any() or off.all():
        return labels
    _, (rows, cols) = ndimage.distance_transform_edt(off, return_indices=True)
    return np.where(small, labels[rows, cols], labels)


def _with_holes(
    labels: np.ndarray, layers: list[Layer], best: np.ndarray, reference: Reference, least: float
) -> np.ndarray:
    """Leave out holes of a few cells, which the wider window sees through."""
    shape = labels.shape
    fine = np.choose(best, [on_grid(layer.fine, shape) for layer in layers])
    dip = layers[0].cells.level - layers[0].fine_level
    parts, count = ndimage.label((fine < WEAK_CRYSTAL) & (labels < FIRST_CODE))
    index = np.arange(count + 1)
    sizes, depth = ndimage.sum_labels(fine < np.inf, parts, index), ndimage.mean(dip, parts, index)
    # noise and vacancies weaken a lattice, but hardly where it is dark as well
    hole = (sizes >= least) & (depth > reference.level - reference.vacuum_level) & (index > 0)
    return np.where(hole[parts], np.uint8(VACUUM), labels)


def _with_boundaries(labels: np.ndarray, band: float) -> np.ndarray:
    """Mark the band between domains: within ``band`` samples of both of two, or in a gap."""
    domains = [value for value in np.unique(labels) if value < FIRST_CODE]
    if len(domains) < 2:
        return labels
    distance = np.array([ndimage.distance_transform_edt(labels != value) for value in domains])
    ranked = np.sort(distance, axis=0)
    near_two = ranked[1] <= band + 0.5
    in_gap = (labels == NO_LATTICE) & (ranked[1] <= 3 * band)
    return np.where(((labels < FIRST_CODE) & near_two) | in_gap, np.uint8(BOUNDARY), labels)


def _refuse_mixture(data: np.ndarray, material: Material, area: AnalysedArea) -> None:
    """Refuse an image whose largest domain on its own is no single 2H monolayer either."""
    where = area.labels == 1
    inner = ndimage.binary_erosion(where, iterations=2)
    _, part = cut_out(data, inner if inner.any() else where, area.step_px, image_limits(data))
    find_lattice(part, material)
