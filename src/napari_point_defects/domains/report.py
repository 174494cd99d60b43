"""What the census says of the domains and of the area."""

from __future__ import annotations

from typing import Any

import numpy as np

from napari_point_defects.analysed_area import AREA_NAMES
from napari_point_defects.domains.casting import DomainMap
from napari_point_defects.records import UnitCells

_WORTH_TELLING = 0.005  # share of the image


def area_notes(where: DomainMap) -> list[str]:
    """Return one line on several domains, and one on what was left out, where there is any."""
    notes = []
    if len(where.domains) > 1:
        twins = sum(domain.twin_of > 0 for domain in where.domains)
        notes.append(
            f"{len(where.domains)} domains"
            + (f", {twins} of them mirror twins of others" if twins else "")
            + ": each is analysed in its own lattice, the boundaries are not counted"
        )
    if where.area is not None:
        shares = where.area.shares()
        left = {name: shares[name] for name in AREA_NAMES.values()}
        told = [f"{name} {share:.1%}" for name, share in left.items() if share > _WORTH_TELLING]
        if told:
            notes.append(f"not counted: {', '.join(told)} of the image")
    return notes


def domains_report(
    where: DomainMap, cells: UnitCells, pixel_size_nm: tuple[float, float]
) -> dict[str, Any]:
    """Return the entries ``domains`` and ``area`` of a census, ready for JSON.

    Parameters
    ----------
    where : DomainMap
    cells : UnitCells
    pixel_size_nm : (float, float)
        Height and width of a pixel.

    Returns
    -------
    dict
        ``domains``: lattice, cells and area of each. ``area``: nm² of the image, of what the map
        says was analysed, and of what was left out by reason. The census' own ``area_nm2`` is
        that of the cells counted: cells cut off by an edge of the image or of a domain are not
        among them, so it is smaller.
    """
    pixel_nm2 = float(pixel_size_nm[0] * pixel_size_nm[1])
    own = where.of_cells(cells)
    entries = []
    for domain in where.domains:
        lattice, count = domain.lattice, int((own == domain.number).sum())
        entries.append(
            {
                "number": domain.number,
                "twin_of": domain.twin_of or None,
                "lattice": {
                    "a_px": lattice.a_px,
                    "angle_deg": lattice.angle_deg,
                    "shear": lattice.shear,
                    "stretch": lattice.stretch,
                },
                "n_cells": count,
                "area_nm2": count * lattice.cell_area_px * pixel_nm2,
            }
        )
    if where.area is None:
        return {"domains": entries}
    image_nm2 = float(np.prod(where.area.shape)) * pixel_nm2
    shares = where.area.shares()
    left_out = {name: shares[name] * image_nm2 for name in AREA_NAMES.values()}
    area = {
        "image_nm2": image_nm2,
        "analysed_nm2": shares["analysed"] * image_nm2,
        "left_out_nm2": left_out,
    }
    return {"domains": entries, "area": area}
