"""Divide an image into domains, each with its own lattice, and what is none of them.

Every place is explained by one of the lattices found, as it is or mirrored, or by none. Lattices
are looked for one after the other where those before explain nothing.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from scipy import ndimage

from napari_point_defects.analysed_area import (
    BILAYER,
    BOUNDARY,
    FIRST_CODE,
    NO_LATTICE,
    AnalysedArea,
    Domain,
)
from napari_point_defects.domains.casting import moved
from napari_point_defects.domains.covers import Reference, cover_codes, reference_of
from napari_point_defects.domains.local_cells import (
    SHELLS,
    USED,
    LocalCells,
    Match,
    handedness,
    image_limits,
    local_cells,
    match,
    mean_template,
)
from napari_point_defects.errors import PointDefectsError
from napari_point_defects.lattice import DoubtfulLattice, find_lattice
from napari_point_defects.lattice_sites import CANONICAL_CELL, SITES, expected_brightness_ratio
from napari_point_defects.materials import LATTICE_VECTORS, Material
from napari_point_defects.records import Lattice

MOST_LATTICES = 6
CRYSTAL = 0.5
"""Share of the mean cell's amplitude at which a crystal ends: where half the window holds it."""

_WEAK_CRYSTAL = 0.4  # enough where the level is that of the crystal: defocus, tilt, damage
_LEAST_CELLS = 30  # of a grain
_LEAST_TWIN_CELLS = 16
_SPECK_CELLS = 6  # smaller areas are part of what surrounds them
_BAND_A = 1.0  # on either side of a boundary
_WIDE_A = 3.5  # a window that tells lattices apart that differ by 4° or 4 %
_SAME_ANGLE, _SAME_SIZE = np.radians(3.5), 0.04
_MISLEADING = 0.03  # share of the image from which on bilayers may mislead the choice of sites
_SURE = 4.0  # standard deviations between a crystal and its mirror twin
_WIDEST_TWIN_A = 8.0

_LEAST_ASYMMETRY = 0.1  # of what the material's columns should show
_TELLING_ASYMMETRY = 0.06  # score's loss from which on it is plain to see

_SYMMETRIC = (
    "the columns are alike in opposite directions, as in a bilayer, graphene or a triangular "
    "lattice: use an image of a 2H monolayer, or check the material"
)
_MOIRE = (
    "two lattices lie on each other, as in a twisted bilayer: crop the image to a monolayer, or "
    "use another one"
)


@dataclass(frozen=True, slots=True)
class _Layer:
    """One lattice and how each place agrees with it, as it is and mirrored."""

    lattice: Lattice
    cells: LocalCells
    template: np.ndarray
    upright: Match
    mirrored: np.ndarray  # (By, Bx), bool
    wide: np.ndarray  # (By, Bx): score through a wide window

    @property
    def score(self) -> np.ndarray:
        return self.upright.score


def find_domains(
    data: np.ndarray, material: Material, *, rank: int = 0
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
        lattice = find_lattice(data, material, rank=rank)
    except DoubtfulLattice:
        in_doubt = True
        lattice = find_lattice(data, material, rank=rank, doubtful=True)
    limits = image_limits(data)
    layers = [_layer(data, lattice, limits)]
    _refuse_symmetric(layers[0], material)
    reference = reference_of(layers[0].cells, layers[0].score, layers[0].template)
    while len(layers) < MOST_LATTICES:
        found = _next_lattice(data, material, layers, reference, limits)
        if found is None:
            break
        layers.append(_layer(data, found, limits, layers[0]))
    _refuse_moire(layers)
    area, states = _label(layers, reference, data.shape)
    if in_doubt:
        _refuse_mixture(data, material, area)
    return _named(data, material, rank, layers, states, area)


def _layer(
    data: np.ndarray,
    lattice: Lattice,
    limits: tuple[float, float],
    first: _Layer | None = None,
) -> _Layer:
    """Measure how the image agrees with a lattice everywhere."""
    cells = local_cells(data, lattice, limits)
    power = (np.abs(cells.values) ** 2 / cells.noise[:, None, None]).sum(0)
    strong = (power > 0.25 * np.percentile(power[cells.seen > 0.3], 95)) & (cells.seen > 0.5)
    hand = handedness(cells.values)
    major = strong & (hand * np.sign(hand[strong].sum()) > 0)
    template = mean_template(cells, major if major.any() else strong)
    upright = match(cells.values, template, cells.noise)
    mirror = match(cells.values, template.conj(), cells.noise)
    # a second round: what the first took for the crystal, and only that
    keep = (upright.score > max(CRYSTAL, 0)) & (upright.score >= mirror.score)
    if keep.sum() > 20:
        template = mean_template(cells, keep & (cells.seen > 0.5))
        upright = match(cells.values, template, cells.noise)
        mirror = match(cells.values, template.conj(), cells.noise)
    mirrored = _mirrored(upright, mirror, template, cells, lattice)
    score = np.where(mirrored, mirror.score, upright.score)
    shift = np.where(mirrored[..., None], mirror.shift, upright.shift)
    wide = cells.smoothed(_WIDE_A, lattice.a_px)
    both = [match(wide.values, t, wide.noise).score for t in (template, template.conj())]
    return _Layer(lattice, cells, template, Match(score, shift), mirrored, np.maximum(*both))


def _mirrored(
    upright: Match, mirror: Match, template: np.ndarray, cells: LocalCells, lattice: Lattice
) -> np.ndarray:
    """Where the image shows the mirror twin; nowhere if noise hides the difference."""
    none = np.zeros(upright.score.shape, bool)
    # what the twin's best register leaves of a perfect crystal's score, and the noise of that
    alike = float(match(template[:, None], template.conj(), cells.noise).score[0])
    difference = 1 - alike
    weight = 1 / (cells.noise + 0.02 * np.abs(template).max() ** 2)
    total = (weight * np.abs(template) ** 2).sum()
    variance = difference / total  # of the score's difference, where weight * noise is 1
    noise = np.sqrt(max(variance, 0))
    width = cells.sigma_a * max(_SURE * noise / max(difference, 1e-6), 1.1)
    if width > _WIDEST_TWIN_A:
        return none
    sigma = np.sqrt(width**2 - cells.sigma_a**2) * lattice.a_px / cells.step_px
    crystal = np.maximum(upright.score, mirror.score) > _WEAK_CRYSTAL
    gain = np.where(crystal, upright.score - mirror.score, 0)
    weight = ndimage.gaussian_filter(crystal.astype(np.float32), sigma)
    smooth = ndimage.gaussian_filter(gain, sigma) / np.maximum(weight, 1e-3)
    least = _LEAST_TWIN_CELLS * lattice.cell_area_px / cells.step_px**2
    twin = smooth < 0
    parts, count = ndimage.label(twin & crystal)
    if not count:
        return none
    index = np.arange(1, count + 1)
    sizes = ndimage.sum_labels(twin & crystal, parts, index)
    depth = ndimage.minimum(smooth, parts, index)
    real = (sizes >= least) & (depth < -0.5 * difference)
    marked = np.concatenate([[False], real])[parts]
    return twin & _grown(marked, 2 * sigma)


def _grown(mask: np.ndarray, samples: float) -> np.ndarray:
    """Points within a distance of a mask."""
    if not mask.any():
        return mask
    return ndimage.distance_transform_edt(~mask) <= samples


def _on_grid(field: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Sample a field of another layer's grid (both cover the same image)."""
    if field.shape == shape:
        return field
    rows, cols = (
        np.minimum(((np.arange(n) + 0.5) * k / n).astype(int), k - 1)
        for n, k in zip(shape, field.shape, strict=True)
    )
    return field[rows][:, cols]


def _explained(layers: list[_Layer], reference: Reference) -> np.ndarray:
    """Where one of the lattices holds in register over many cells, on the first one's grid."""
    shape = layers[0].score.shape
    level = layers[0].cells.level
    found = np.zeros(shape, bool)
    for layer in layers:
        score, wide = _on_grid(layer.score, shape), _on_grid(layer.wide, shape)
        holds = (score > CRYSTAL) | ((score > _WEAK_CRYSTAL) & reference.is_crystal_level(level))
        found |= holds & (wide > 0.45 * score)
    return found


def _next_lattice(
    data: np.ndarray,
    material: Material,
    layers: list[_Layer],
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
        found = _lattice_in(data, material, parts == part, step, limits)
        if found is not None and not any(_alike(found, layer.lattice) for layer in layers):
            return found
    return None


def _lattice_in(
    data: np.ndarray,
    material: Material,
    where: np.ndarray,
    step: int,
    limits: tuple[float, float],
    rank: int = 0,
) -> Lattice | None:
    """Find the lattice of a part of the image, (By, Bx) bool; None if it shows none."""
    corner, part = cut_out(data, where, step, limits)
    try:
        found = find_lattice(part, material, rank=rank, doubtful=True)
    except PointDefectsError:
        return None
    return moved(found, corner)


def cut_out(
    data: np.ndarray, where: np.ndarray, step: int, limits: tuple[float, float]
) -> tuple[np.ndarray, np.ndarray]:
    """Return the corner and the pixels of the box about a part; flat, with a soft edge, outside."""
    rows, cols = np.nonzero(where)
    low = np.array([rows.min(), cols.min()])
    high = np.array([rows.max(), cols.max()]) + 1
    room = np.maximum(-(-96 // step) - (high - low), 0)  # a lattice search wants some pixels
    low = np.maximum(low - room // 2, 0)
    high = np.minimum(np.maximum(high, low + -(-96 // step)), where.shape)
    inner = where[low[0] : high[0], low[1] : high[1]]
    corner = low * step
    part = np.asarray(data[corner[0] : high[0] * step, corner[1] : high[1] * step], np.float32)
    weight = ndimage.gaussian_filter(inner.astype(np.float32), 1.0) * inner
    weight = np.repeat(np.repeat(weight, step, 0), step, 1)[: part.shape[0], : part.shape[1]]
    finite = np.isfinite(part)
    part = np.where(finite, np.clip(part, *limits), 0)
    weight = weight * finite
    mean = (part * weight).sum() / max(weight.sum(), 1)
    return corner, (part - mean) * weight


def _alike(lattice: Lattice, other: Lattice) -> bool:
    """Whether two lattices differ by no more than slow bending does, but for a turn by 60°."""
    change = np.linalg.inv(other.matrix_px) @ lattice.matrix_px
    size = np.sqrt(abs(np.linalg.det(change)))
    angle = np.arctan2(change[0, 1] - change[1, 0], change[0, 0] + change[1, 1])
    angle = (angle + np.pi / 6) % (np.pi / 3) - np.pi / 6
    return bool(abs(angle) < _SAME_ANGLE and abs(np.log(size)) < _SAME_SIZE)


def _refuse_symmetric(layer: _Layer, material: Material) -> None:
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
        return 1 - float(match(cell[:, None], cell.conj(), noise).score[0])

    expected = asymmetry(ideal)
    if expected > _TELLING_ASYMMETRY and asymmetry(template) < _LEAST_ASYMMETRY * expected:
        raise PointDefectsError(_SYMMETRIC)


def _refuse_moire(layers: list[_Layer]) -> None:
    """Refuse two lattices that are seen in the same places."""
    if len(layers) < 2:
        return
    shape = layers[0].wide.shape
    ranked = np.sort([_on_grid(layer.wide, shape) for layer in layers], axis=0)
    crystal = ranked[-1] > CRYSTAL
    both = crystal & (ranked[-2] > 0.6 * ranked[-1])
    if both.sum() > 0.4 * max(crystal.sum(), 1):
        raise PointDefectsError(_MOIRE)


def _label(
    layers: list[_Layer], reference: Reference, shape: tuple[int, int]
) -> tuple[AnalysedArea, list[tuple[int, bool]]]:
    """Label every sample with a state (lattice, mirrored), from 1, or the code of what it is."""
    first = layers[0]
    grid, step = first.score.shape, first.cells.step_px
    scores = np.array([_on_grid(layer.score, grid) for layer in layers])
    best = np.zeros(grid, int)
    if len(layers) > 1:
        best = np.argmax([_on_grid(layer.wide, grid) for layer in layers], axis=0)
    score = np.take_along_axis(scores, best[None], 0)[0]
    mirrored = np.choose(best, [_on_grid(layer.mirrored, grid) for layer in layers])
    state = (1 + 2 * best + mirrored).astype(np.uint8)
    level = first.cells.level
    crystal = (score > CRYSTAL) | ((score > _WEAK_CRYSTAL) & reference.is_crystal_level(level))
    crystal &= first.cells.seen > 0.3
    per_cell = first.lattice.cell_area_px / step**2
    codes = cover_codes(first.cells, crystal, reference, first.lattice.a_px)
    labels = np.where(codes > 0, codes, state).astype(np.uint8)
    labels = _without_specks(labels, _LEAST_TWIN_CELLS * per_cell)
    labels = _fill_specks(labels, _SPECK_CELLS * per_cell)
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


def _named(
    data: np.ndarray,
    material: Material,
    rank: int,
    layers: list[_Layer],
    states: list[tuple[int, bool]],
    area: AnalysedArea,
) -> tuple[tuple[Domain, ...], AnalysedArea]:
    """Give each domain its lattice, sites named alike in all of them."""
    misled = area.share_of(BILAYER) > _MISLEADING
    if states == [(0, False)] and not misled:
        return (Domain(1, layers[0].lattice),), area
    limits = image_limits(data)
    lattices: list[Lattice] = []
    template = None
    for number, (index, _) in enumerate(states, 1):
        base = layers[index].lattice
        where = area.labels == number
        found = _lattice_in(data, material, where, area.step_px, limits, rank if number == 1 else 0)
        if found is None or not _alike(found, base):
            found = base
        named, template = _named_like(data, found, where, limits, template)
        lattices.append(named)
    domains = []
    for number, (index, mirrored) in enumerate(states, 1):
        twins = [
            n for n, (i, m) in enumerate(states[: number - 1], 1) if i == index and m != mirrored
        ]
        domains.append(Domain(number, lattices[number - 1], twins[0] if twins else 0))
    return tuple(domains), area


def _named_like(
    data: np.ndarray,
    lattice: Lattice,
    where: np.ndarray,
    limits: tuple[float, float],
    template: np.ndarray | None,
) -> tuple[Lattice, np.ndarray]:
    """Name the sites of a domain's lattice after the template of the largest one.

    Returns
    -------
    lattice : Lattice
    template : ndarray of shape (K,)
        Mean cell about a hollow, in the canonical frame.
    """
    cells = local_cells(data, lattice, limits)
    where = _on_grid(where, cells.level.shape)
    mean = mean_template(cells, where)
    here = _about_a_hollow(cells, lattice, where)
    if template is None:
        shift = match(here[:, None], mean, cells.noise).shift[0]
        return lattice, mean * np.exp(-2j * np.pi * (USED @ shift))
    upright, turned = (
        match(mean[:, None], t, cells.noise).score[0] for t in (template, template.conj())
    )
    flip = turned > upright
    shift = match(here[:, None], template.conj() if flip else template, cells.noise).shift[0]
    origin = lattice.origin_px + lattice.matrix_px @ CANONICAL_CELL @ (shift - np.rint(shift))
    matrix = lattice.matrix_px
    if flip:
        c, s = np.cos(np.pi / 3), np.sin(np.pi / 3)
        matrix = matrix @ np.array([[c, s], [-s, c]])
    return replace(lattice, origin_px=origin, matrix_px=matrix), template


def _about_a_hollow(cells: LocalCells, lattice: Lattice, where: np.ndarray) -> np.ndarray:
    """Local mean cell (K,), its phases taken at a hollow of the lattice in the thick of a domain.

    There the lattice is right even where it is bent.
    """
    depth = ndimage.distance_transform_edt(np.pad(where, 1))[1:-1, 1:-1]
    middle = np.array(np.unravel_index(depth.argmax(), depth.shape))
    reach = max(1, int(3 * lattice.a_px / cells.step_px))
    low = np.maximum(middle - reach, 0)
    box = slice(low[0], middle[0] + reach + 1), slice(low[1], middle[1] + reach + 1)
    centre = (middle + 0.5) * cells.step_px - 0.5
    steps = lattice.to_canonical(centre) @ np.linalg.inv(LATTICE_VECTORS)
    hollow = lattice.to_image(np.rint(steps) @ LATTICE_VECTORS)
    basis = np.linalg.inv(lattice.matrix_px @ CANONICAL_CELL)
    turn = np.exp(2j * np.pi * (USED @ basis @ (hollow - lattice.origin_px)))
    return cells.values[:, box[0], box[1]][:, where[box]].mean(1) * turn
