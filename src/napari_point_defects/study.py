"""Beyond counting: how defects lie to each other, the strain about them, the sheet's atoms."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import tifffile

from napari_point_defects.analysis_settings import AnalysisSettings
from napari_point_defects.detections import Detection
from napari_point_defects.errors import PointDefectsError, Stopped
from napari_point_defects.image_twin import twin_of_image
from napari_point_defects.materials import Material, get_material
from napari_point_defects.measured import Measurement
from napari_point_defects.outputs import write_json, write_table, write_together
from napari_point_defects.records import StemImage, UnitCells
from napari_point_defects.simulation.twin import Twin
from napari_point_defects.spatial_statistics import (
    PairCorrelation,
    SpatialStatistics,
    spatial_statistics,
)
from napari_point_defects.strain import COMPONENTS, StrainMap, strain_map
from napari_point_defects.structures import supercell, whole_sheet, write_structure

Progress = Callable[[float, str], None]

DOUBTFUL_SIGMAS = 5.0
"""A column that its twin misses by more deserves a look."""

_DOUBTED = 0.01  # p value below which placement is not called random: three are looked at


@dataclass(frozen=True, slots=True)
class Study:
    """What an analysed image tells beyond its census.

    Attributes
    ----------
    image : StemImage
    detection : Detection
    cells : UnitCells
        Classified.
    material : Material
    statistics : SpatialStatistics
    strain : StrainMap
    twin : Twin or None
        None where the image could not be measured.
    remarks : tuple of str
        What could not be done, and why.
    """

    image: StemImage
    detection: Detection
    cells: UnitCells
    material: Material
    statistics: SpatialStatistics
    strain: StrainMap
    twin: Twin | None
    remarks: tuple[str, ...] = ()

    def pairs_table(self) -> pd.DataFrame:
        """Return the three pair correlations, one row per kind and distance."""
        a_nm = self.material.lattice_constant_nm
        parts = [each.table(a_nm).assign(pair=name) for name, each in self.correlations().items()]
        table = pd.concat(parts, ignore_index=True)
        return table[["pair", *table.columns.drop("pair")]]

    def correlations(self) -> dict[str, Any]:
        """Return the pair correlations by what they are between, e.g. ``V_Te–V_Te``."""
        x, m = f"V_{self.material.chalcogen}", f"V_{self.material.metal}"
        found = self.statistics
        return {f"{x}–{x}": found.chalcogen, f"{m}–{m}": found.metal, f"{x}–{m}": found.association}

    def findings(self) -> list[str]:
        """Say in a line each what was found."""
        a_nm = self.material.lattice_constant_nm
        lines = [f"{name}: {_verdict(each, a_nm)}" for name, each in self.correlations().items()]
        clusters = self.statistics.clusters
        several, usual = clusters.count[1:].sum(), clusters.expected[1:].sum()
        lines.append(f"clusters of two and more defective cells: {several}, {usual:.1f} if random")
        spread = self.strain.moments()[:, 1] * [100, 100, 100, 1]
        if np.isfinite(spread).all():
            along_x, along_y, shear, turn = spread
            lines.append(
                f"strain ±{along_x:.2f} % along x, ±{along_y:.2f} % along y, ±{shear:.2f} % shear, "
                f"rotation ±{turn:.2f}° (standard deviations; scan drift included)"
            )
        if self.twin is not None:
            sites = np.concatenate([self.twin.chalcogen_residual, self.twin.metal_residual])
            off = int((np.abs(sites) > DOUBTFUL_SIGMAS).sum())
            lines.append(
                f"twin: differs from the image by {self.twin.misfit:.2f} times the measured noise; "
                f"{off} of {len(sites)} columns are off by more than {DOUBTFUL_SIGMAS:g} σ"
            )
        return lines

    def summary(self) -> dict[str, Any]:
        """Return what matters in few numbers, ready for JSON."""
        pairs = {
            name: {
                "pairs": int(each.pairs.sum()),
                "nearest_distance_a": float(each.distance_a[0]),
                "nearest_pairs": int(each.pairs[0]),
                "nearest_expected": float(each.expected[0]),
                "p_value": each.p_value,
            }
            for name, each in self.correlations().items()
        }
        strain = {
            name: {"mean": float(mean), "standard_deviation": float(spread)}
            for name, (mean, spread) in zip(COMPONENTS, self.strain.moments(), strict=True)
        }
        return {
            "image": self.image.name,
            "material": self.material.formula,
            "n_cells": len(self.cells),
            "pair_correlation": pairs,
            "clusters": self.statistics.clusters.table().to_dict("records"),
            "strain": strain | {"window_a": self.strain.window_a},
            "twin": None if self.twin is None else {"misfit": self.twin.misfit},
            "remarks": list(self.remarks),
        }


def study(
    image: StemImage,
    detection: Detection,
    cells: UnitCells,
    settings: AnalysisSettings,
    *,
    measurement: Measurement | None = None,
    on_progress: Progress = lambda share, text: None,
    should_stop: Callable[[], bool] = lambda: False,
) -> Study:
    """Study an analysed image.

    Parameters
    ----------
    image : StemImage
    detection : Detection
    cells : UnitCells
        Classified.
    settings : AnalysisSettings
        Of the analysis.
    measurement : Measurement, optional
        Of that image and those cells; made now where it is not given.
    on_progress, should_stop : callable

    Raises
    ------
    PointDefectsError
        If there are no classified cells.
    Stopped
        If ``should_stop`` said yes.
    """
    where = detection.domain_map

    def step(share: float, text: str) -> None:
        if should_stop():
            raise Stopped
        on_progress(share, text)

    step(0.0, "pairs and clusters")
    statistics = spatial_statistics(cells, where)
    step(0.4, "strain")
    strain = strain_map(cells, where, detection.pixel_size_nm)
    step(0.6, "simulating the twin")
    remarks, twin = [], None
    try:
        twin = twin_of_image(image, detection, cells, settings, measurement)
    except PointDefectsError as error:
        remarks.append(str(error))
    step(1.0, "done")
    material = get_material(settings.material)
    return Study(image, detection, cells, material, statistics, strain, twin, tuple(remarks))


def _verdict(found: PairCorrelation, a_nm: float) -> str:
    """Say whether pairs are as random placement has them, and where not."""
    if np.isnan(found.p_value):
        return "too few to judge"
    if found.p_value >= _DOUBTED:
        return f"as if placed at random (p = {found.p_value:.2g})"
    outside = np.flatnonzero((found.pairs < found.low) | (found.pairs > found.high))
    text = f"not placed at random (p = {found.p_value:.2g})"
    if not len(outside):
        return text
    nearest = outside[0]
    return (
        f"{text}: {found.pairs[nearest]} pairs at {found.distance_a[nearest] * a_nm:.3f} nm, "
        f"{found.expected[nearest]:.1f} if random"
    )


def study_paths(name: str, folder: Path) -> dict[str, Path]:
    """Where the files of a study of an image of that name go."""
    endings = {
        "summary": "study.json",
        "figure": "study.png",
        "pairs": "pairs.csv",
        "clusters": "clusters.csv",
        "strain": "strain.csv",
        "residual": "residual.tif",
        "supercell": "supercell.cif",
        "supercell_xyz": "supercell.xyz",
        "sheet": "sheet.xyz",
    }
    return {kind: folder / f"{name}_{ending}" for kind, ending in endings.items()}


def write_study(found: Study, folder: Path, overwrite: bool = False) -> dict[str, Path]:
    """Write tables, figure, residual and atoms of a study.

    Parameters
    ----------
    found : Study
    folder : Path
        Made if absent.
    overwrite : bool

    Returns
    -------
    dict of Path
        What was written: without ``residual`` where there is no twin.

    Raises
    ------
    PointDefectsError
        If a file exists and may not be overwritten, or the folder cannot be written.
    """
    from napari_point_defects.study_figure import study_figure

    paths = study_paths(found.image.name, folder)
    if found.twin is None:
        del paths["residual"]
    cells, where, material = found.cells, found.detection.domain_map, found.material
    block = supercell(cells, where, material)
    atoms = {
        "supercell": block,
        "supercell_xyz": block,
        "sheet": whole_sheet(cells, where, material, found.detection.pixel_size_nm),
    }
    with write_together(paths, overwrite) as temporary:
        write_json(found.summary(), temporary["summary"], True)
        study_figure(found).savefig(temporary["figure"], format="png", dpi=150)
        write_table(found.pairs_table(), temporary["pairs"], True)
        write_table(found.statistics.clusters.table(), temporary["clusters"], True)
        write_table(found.strain.table(), temporary["strain"], True)
        if found.twin is not None:
            tifffile.imwrite(temporary["residual"], found.twin.residual, compression="zlib")
        for kind, each in atoms.items():
            write_structure(each, temporary[kind], True)
    return paths
