"""The lattice of a part of an image, its sites named as in the largest part."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from scipy import ndimage

from napari_point_defects.analysed_area import BILAYER, AnalysedArea, Domain
from napari_point_defects.domains.layers import Layer, on_grid
from napari_point_defects.domains.local_cells import (
    FINE_SHIFTS,
    USED,
    LocalCells,
    image_limits,
    local_cells,
    match,
    mean_template,
)
from napari_point_defects.errors import PointDefectsError
from napari_point_defects.lattice import find_lattice
from napari_point_defects.lattice_sites import CANONICAL_CELL
from napari_point_defects.materials import LATTICE_VECTORS, Material
from napari_point_defects.records import Lattice

_SAME_ANGLE, _SAME_SIZE = np.radians(3.5), 0.04
_MISLEADING = 0.03  # share of the image from which on bilayers may mislead the choice of sites


def lattice_in(
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
    return found.moved(corner)


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
    part = np.array(data[corner[0] : high[0] * step, corner[1] : high[1] * step], np.float32)
    weight = ndimage.gaussian_filter(inner.astype(np.float32), 1.0) * inner
    _weigh(part, weight, step, limits)
    return corner, part


def _weigh(part: np.ndarray, weight: np.ndarray, step: int, limits: tuple[float, float]) -> None:
    """Clip an image, take off its mean and multiply it by the weights of its blocks, in place.

    By strips: it may be all of a large image. What was not recorded becomes 0.
    """
    strips = [
        (part[row * step : (row + 1) * step], np.repeat(line, step)[: part.shape[1]])
        for row, line in enumerate(weight)
    ]
    total = share = 0.0
    for strip, line in strips:
        strip[~np.isfinite(strip)] = np.nan
        np.clip(strip, *limits, out=strip)
        total += float(np.nansum(strip * line, dtype=float))
        share += float(np.isfinite(strip).sum(axis=0) @ line)
    mean = np.float32(total / max(share, 1))
    for strip, line in strips:
        strip -= mean
        strip *= line
        np.nan_to_num(strip, copy=False)


def alike(lattice: Lattice, other: Lattice) -> bool:
    """Whether two lattices differ by no more than slow bending does, but for a turn by 60°."""
    change = np.linalg.inv(other.matrix_px) @ lattice.matrix_px
    size = np.sqrt(abs(np.linalg.det(change)))
    angle = np.arctan2(change[0, 1] - change[1, 0], change[0, 0] + change[1, 1])
    angle = (angle + np.pi / 6) % (np.pi / 3) - np.pi / 6
    return bool(abs(angle) < _SAME_ANGLE and abs(np.log(size)) < _SAME_SIZE)


def grains_in(
    data: np.ndarray, material: Material, lattice: Lattice, limits: tuple[float, float], rank: int
) -> list[Lattice]:
    """Return the straight lattices of two grains across which a bent one was drawn, or that one.

    A surface through the phases of grains of nearly the same angle turns from the one to the
    other. Where the image is drawn out by drift instead, its parts are bent too, or alike.
    """
    if lattice.bending is None:
        return [lattice]
    step = max(2, round(lattice.a_px / 2))
    middles = [(np.arange(-(-n // step)) + 0.5) * step for n in data.shape]
    gradient = lattice.bending.gradient(np.stack(np.meshgrid(*middles, indexing="ij"), -1))
    turn = (gradient[..., 0, 1] - gradient[..., 1, 0]) / 2
    low, high = np.percentile(turn, [10, 90])
    if high - low < _SAME_ANGLE / 2:
        return [lattice]
    # the thirds at either end: the boundary itself belongs to none
    parts = sorted(
        (turn < low + (high - low) / 3, turn > high - (high - low) / 3),
        key=lambda part: -part.sum(),
    )
    first = lattice_in(data, material, parts[0], step, limits, rank)
    if first is None or first.bending:
        return [lattice]
    second = lattice_in(data, material, parts[1], step, limits)
    if second is None or second.bending or alike(first, second):
        return [lattice]
    return [first, second]


def name_domains(
    data: np.ndarray,
    material: Material,
    rank: int,
    layers: list[Layer],
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
        found = lattice_in(data, material, where, area.step_px, limits, rank if number == 1 else 0)
        if found is None or not alike(found, base):
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
    where = on_grid(where, cells.level.shape)
    mean = mean_template(cells, where)
    here = _about_a_hollow(cells, lattice, where)
    if template is None:
        shift = match(here[:, None], mean, cells.noise, FINE_SHIFTS).shift[0]
        return lattice, mean * np.exp(-2j * np.pi * (USED @ shift))
    upright, turned = (
        match(mean[:, None], t, cells.noise, FINE_SHIFTS).score[0]
        for t in (template, template.conj())
    )
    flip = turned > upright
    target = template.conj() if flip else template
    shift = match(here[:, None], target, cells.noise, FINE_SHIFTS).shift[0]
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
