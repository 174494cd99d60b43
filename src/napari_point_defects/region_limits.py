"""Keep an analysis to the user's region: which hexagons, which unit cells, what the census says."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

import numpy as np

from napari_point_defects.errors import PointDefectsError
from napari_point_defects.materials import HEXAGON_SIZE
from napari_point_defects.netcasting import Recast, bond_centres
from napari_point_defects.records import Hexagons, UnitCells, hexagon_boxes
from napari_point_defects.region import Region, inside_region, region_area_px

_BONDS = np.stack([np.ravel(bond) for bond in bond_centres(hexagon_boxes([0, 0]))]) / HEXAGON_SIZE
"""Middles of a hexagon's two bonds from its own, shape (2, 2), as shares of its height and width"""


def hexagons_within(hexagons: Hexagons, region: Region | None) -> Hexagons:
    """Keep the hexagons that vote for a cell in the region.

    Those whose middle lies outside it are kept where one of their two cells lies inside: cells
    at the region's edge keep both votes.
    """
    if region is None or not len(hexagons):
        return hexagons
    corners = np.asarray(hexagons.corners_px, float)  # (N, 4, 2)
    height, width = corners[:, 3] - corners[:, 0], corners[:, 1] - corners[:, 0]
    bonds = corners.mean(axis=1)[:, None] + (
        _BONDS[:, :1] * height[:, None] + _BONDS[:, 1:] * width[:, None]
    )  # (N, 2, 2)
    kept = inside_region(bonds.reshape(-1, 2), region).reshape(-1, 2).any(axis=1)
    # whatever else is known of each
    return replace(hexagons, **{f.name: getattr(hexagons, f.name)[kept] for f in fields(hexagons)})


def cells_within(cells: UnitCells, region: Region | None) -> UnitCells:
    """Keep the cells whose bond has its middle in the region.

    Raises
    ------
    PointDefectsError
        If none is left of some.
    """
    if region is None or not len(cells):
        return cells
    kept = inside_region(cells.centres_px, region)
    if not kept.any():
        raise PointDefectsError("the region holds no unit cell: draw it on the crystal, and larger")
    return cells.take(kept)


def recast_within(change: Recast, region: Region | None) -> Recast:
    """Leave out the new cells that edited hexagons would bring outside the region."""
    if region is None:
        return change
    kept = inside_region(change.cells.centres_px, region)
    return replace(change, cells=change.cells.take(kept), successor_of=change.successor_of[kept])


def region_entry(
    region: Region | None, shape: tuple[int, int], pixel_size_nm: tuple[float, float]
) -> dict[str, Any] | None:
    """Return what the census says of the region: its polygons and area; None for none."""
    if region is None:
        return None
    area = region_area_px(region, shape)
    return {
        "polygons_px": [[list(corner) for corner in polygon] for polygon in region],
        "area_nm2": area * pixel_size_nm[0] * pixel_size_nm[1],
        "share_of_image": area / (shape[0] * shape[1]),
    }
