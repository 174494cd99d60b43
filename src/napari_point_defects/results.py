"""What is written of an analysis: table, census and overlay."""

from __future__ import annotations

from pathlib import Path

from napari_point_defects.census import cells_table
from napari_point_defects.detections import Analysis
from napari_point_defects.materials import get_material
from napari_point_defects.outputs import (
    write_json,
    write_overlay,
    write_table,
    write_together,
)


def output_paths(name: str, folder: Path) -> dict[str, Path]:
    """Where the results of an image of that name go."""
    return {
        "cells": folder / f"{name}_cells.csv",
        "census": folder / f"{name}_census.json",
        "overlay": folder / f"{name}_overlay.png",
    }


def write_results(
    analysis: Analysis, folder: Path, overwrite: bool = False, *, overlay: bool = True
) -> dict[str, Path]:
    """Write the table, the census and the overlay of an analysis.

    Parameters
    ----------
    analysis : Analysis
    folder : Path
        Made if absent.
    overwrite : bool
    overlay : bool
        Whether to draw one: it is most of what is written, and takes longest.

    Returns
    -------
    dict of Path
        ``cells``, ``census`` and ``overlay``.

    Raises
    ------
    PointDefectsError
        If a file exists and may not be overwritten, or the folder cannot be written.
    """
    paths = output_paths(analysis.image.name, folder)
    if not overlay:
        paths.pop("overlay")
    material = get_material(analysis.census["material"])
    with write_together(paths, overwrite) as temporary:
        below = float(analysis.census["settings"]["unsure_below"])
        table = cells_table(analysis.cells, material, unsure_below=below)
        write_table(table, temporary["cells"], True)
        write_json(analysis.census, temporary["census"], True)
        if overlay:
            write_overlay(
                analysis.image,
                analysis.cells,
                analysis.detection.lattice,
                material,
                temporary["overlay"],
                True,
                pixel_size_nm=analysis.detection.pixel_size_nm,
                unsure=table["unsure"].to_numpy(bool),
                where=analysis.detection.domain_map,
            )
    return paths
