"""The analysed sheet as atoms, with its vacancies: a supercell for calculations, or all of it.

HAADF-STEM shows a projection: which of the two X atoms of a column is missing, the upper or the
lower, cannot be seen. The lower one is left out.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from napari_point_defects.domains.casting import DomainMap
from napari_point_defects.errors import PointDefectsError
from napari_point_defects.lattice_nodes import NodeGrid, node_grids
from napari_point_defects.materials import (
    CHALCOGEN_SITES,
    LATTICE_VECTORS,
    METAL_SITES,
    Material,
)
from napari_point_defects.outputs import atomic_write
from napari_point_defects.records import (
    UnitCells,
    missing_chalcogens,
    missing_metals,
    require_classified,
)

if TYPE_CHECKING:
    from ase import Atoms

VACUUM_NM = 2.0
"""Between a sheet and its next image along c."""

FORMATS = {".xyz": "extxyz", ".cif": "cif"}

_ANGSTROM_PER_NM = 10.0
_UPRIGHT = np.array([[0.0, 1.0], [-1.0, 0.0]])  # (y down, x) to (x, y up): the picture as seen


def supercell(
    cells: UnitCells, where: DomainMap, material: Material, *, vacuum_nm: float = VACUUM_NM
) -> Atoms:
    """Return the largest whole supercell of the sheet, periodic in its plane.

    It is the largest parallelogram of the primitive cell's two vectors in which every cell was
    analysed. Atoms sit on the material's own lattice: relax them before anything is read off
    their distances. What lies across its edges is no longer what the image shows.

    Parameters
    ----------
    cells : UnitCells
        Classified.
    where : DomainMap
    material : Material
    vacuum_nm : float

    Returns
    -------
    ase.Atoms
        In ångström, periodic along all three axes. The array ``unit_cell`` holds each atom's row
        in ``cells``.

    Raises
    ------
    PointDefectsError
        If there are no cells, or they are not classified.
    """
    require_classified(cells)
    found = [(grid, *_largest_block(grid)) for grid in node_grids(cells, where)]
    grid, start, size = max(found, key=lambda each: each[2].prod())
    inside = ((grid.nodes >= start) & (grid.nodes < start + size)).all(axis=1)
    rows, nodes = grid.rows[inside], grid.nodes[inside] - start
    a = material.lattice_constant_nm
    places = {site: a * (nodes @ LATTICE_VECTORS + _SITES[site]) for site in _SITES}
    vectors = np.zeros((3, 3))
    vectors[:2, :2] = a * (size[:, None] * LATTICE_VECTORS) @ _UPRIGHT.T
    vectors[2, 2] = material.chalcogen_distance_nm + vacuum_nm
    # the second vector points down in the image: the other way round the three are right-handed
    vectors[:2] = vectors[1::-1] if np.linalg.det(vectors) < 0 else vectors[:2]
    return _atoms(cells.classes[rows], rows, places, material, vectors, (True, True, True))


def whole_sheet(
    cells: UnitCells,
    where: DomainMap,
    material: Material,
    pixel_size_nm: tuple[float, float],
    *,
    vacuum_nm: float = VACUUM_NM,
) -> Atoms:
    """Return all analysed cells as atoms where the image shows them, not periodic.

    Parameters
    ----------
    cells, where, material, vacuum_nm
        As for :func:`supercell`.
    pixel_size_nm : (float, float)
        Height and width of a pixel.

    Returns
    -------
    ase.Atoms
        In ångström, x along the image's rows and y up. The array ``unit_cell`` holds each
        atom's row in ``cells``.

    Raises
    ------
    PointDefectsError
        If there are no cells, or they are not classified.
    """
    require_classified(cells)
    rows = np.sort(np.concatenate([grid.rows for grid in node_grids(cells, where)]))
    places = {
        "chalcogen": cells.chalcogen_px[rows] * np.asarray(pixel_size_nm),
        "metal": cells.metal_px[rows] * np.asarray(pixel_size_nm),
    }
    every = np.concatenate(list(places.values()))
    margin = vacuum_nm / 2
    low, high = every.min(axis=0) - margin, every.max(axis=0) + margin
    places = {site: points - [high[0], low[1]] for site, points in places.items()}
    height, width = high - low
    vectors = np.diag([width, height, material.chalcogen_distance_nm + vacuum_nm])
    return _atoms(cells.classes[rows], rows, places, material, vectors, (False, False, False))


def write_structure(atoms: Atoms, path: str | Path, overwrite: bool = False) -> None:
    """Write atoms as extended XYZ or CIF, by the name's ending.

    Raises
    ------
    PointDefectsError
        If the ending is another, or the file exists and may not be overwritten.
    """
    from ase.io import write

    path = Path(path)
    if path.suffix not in FORMATS:
        raise PointDefectsError(
            f"a structure cannot be written as {path.suffix or path.name!r}: "
            f"choose a name that ends in {' or '.join(FORMATS)}"
        )
    with atomic_write(path, overwrite) as temporary:
        write(temporary, atoms, format=FORMATS[path.suffix])


_SITES = {"chalcogen": CHALCOGEN_SITES[0], "metal": METAL_SITES[0]}


def _atoms(
    classes: np.ndarray,
    rows: np.ndarray,
    places_nm: dict[str, np.ndarray],
    material: Material,
    vectors_nm: np.ndarray,
    periodic: tuple[bool, bool, bool],
) -> Atoms:
    """Put atoms on the sites (y, x) [nm] of cells, but for what their classes lack."""
    from ase import Atoms

    middle = vectors_nm[2, 2] / 2
    half = material.chalcogen_distance_nm / 2
    missing, without_metal = missing_chalcogens(classes), missing_metals(classes)
    # the upper X goes last, the lower one first
    layers = (
        (material.metal, "metal", 0.0, ~without_metal),
        (material.chalcogen, "chalcogen", half, missing < 2),
        (material.chalcogen, "chalcogen", -half, missing < 1),
    )
    symbols, positions, owners = [], [], []
    for symbol, site, height, there in layers:
        points = places_nm[site][there] @ _UPRIGHT.T
        positions.append(np.column_stack([points, np.full(len(points), middle + height)]))
        symbols += [symbol] * len(points)
        owners.append(rows[there])
    atoms = Atoms(
        symbols,
        positions=_ANGSTROM_PER_NM * np.concatenate(positions),
        cell=_ANGSTROM_PER_NM * vectors_nm,
        pbc=periodic,
    )
    if any(periodic):
        atoms.wrap()
    atoms.set_array("unit_cell", np.concatenate(owners).astype(int))
    atoms.info |= {
        "material": material.formula,
        "unit_cells": len(rows),
        "missing_chalcogens": int(missing.sum()),
        "missing_metals": int(without_metal.sum()),
    }
    return atoms


def _largest_block(grid: NodeGrid) -> tuple[np.ndarray, np.ndarray]:
    """Return start and size of the largest rectangle of nodes that all have a cell.

    Row by row, heights of the full columns so far are a histogram, whose largest rectangle a
    stack of rising heights finds in one pass.
    """
    full = grid.image_of(np.ones(grid.rows.max() + 1, bool))
    heights = np.zeros(full.shape[1] + 1, int)  # the last stays 0 and closes every rectangle
    best, start, size = 0, np.zeros(2, int), np.zeros(2, int)
    for row, line in enumerate(full):
        heights[:-1] = np.where(line, heights[:-1] + 1, 0)
        rising: list[int] = []
        for column, height in enumerate(heights.tolist()):
            while rising and heights[rising[-1]] >= height:
                tall = int(heights[rising.pop()])
                left = rising[-1] + 1 if rising else 0
                if tall * (column - left) > best:
                    best = tall * (column - left)
                    start = np.array([row - tall + 1, left])
                    size = np.array([tall, column - left])
            rising.append(column)
    return start, size
