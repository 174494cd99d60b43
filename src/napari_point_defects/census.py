"""Count the classified cells: numbers, area, densities and their intervals."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
from scipy.special import gammainccinv, gammaincinv

from napari_point_defects.concentrations import Share
from napari_point_defects.errors import PointDefectsError
from napari_point_defects.materials import DefectClass, Material
from napari_point_defects.measured import Measurement
from napari_point_defects.records import Lattice, UnitCells
from napari_point_defects.review import UNSURE_BELOW, is_unsure

NM2_PER_CM2 = 1e14

_ESTIMATE = (
    "every cell weighed with its calibrated probability of each class, Jeffreys' prior; "
    "95 % interval of the classifier's doubt and the counting together"
)


@dataclass(frozen=True, slots=True)
class Census:
    """How many cells of each class there are, and on what area.

    Attributes
    ----------
    counts : ndarray of shape (6,), int
        Cells of each class.
    cell_area_nm2 : float
        Area of one primitive cell.
    material : Material
    unsure : ndarray of shape (6,), int
        How many of them the network is unsure of.
    """

    counts: np.ndarray
    cell_area_nm2: float
    material: Material
    unsure: np.ndarray = field(default_factory=lambda: np.zeros(len(DefectClass), int))

    @property
    def n_cells(self) -> int:
        """Number of unit cells."""
        return int(self.counts.sum())

    @property
    def area_nm2(self) -> float:
        """Analysed area: as many primitive cells as were counted."""
        return self.n_cells * self.cell_area_nm2

    @property
    def defect_count(self) -> int:
        """Number of cells that are not perfect."""
        return self.n_cells - int(self.counts[DefectClass.PERFECT])

    @property
    def chalcogen_vacancies(self) -> int:
        """Missing X atoms: one for each X₁, two for each empty X₂ column."""
        return sum(int(self.counts[c]) * c.missing_chalcogens for c in DefectClass)

    @property
    def metal_vacancies(self) -> int:
        """Missing M atoms."""
        return sum(int(self.counts[c]) * c.metal_missing for c in DefectClass)


def take_census(
    cells: UnitCells,
    lattice: Lattice,
    material: Material,
    pixel_size_nm: tuple[float, float],
    *,
    unsure_below: float = UNSURE_BELOW,
) -> Census:
    """Count classified cells.

    Parameters
    ----------
    cells : UnitCells
        Classified cells, each once.
    lattice : Lattice
    material : Material
    pixel_size_nm : (float, float)
        Height and width of a pixel [nm], see
        :func:`~napari_point_defects.calibration.choose_pixel_size`. One that comes from the
        lattice gives every cell exactly the material's cell area.
    unsure_below : float
        See :func:`~napari_point_defects.review.is_unsure`.

    Raises
    ------
    PointDefectsError
        If there are no cells, or they are not classified.
    """
    if len(cells) == 0:
        raise PointDefectsError(
            "no unit cells were found: check the material and that the image shows its lattice"
        )
    _require_classes(cells)
    unsure = cells.classes[is_unsure(cells.probabilities, unsure_below)]
    return Census(
        counts=np.bincount(cells.classes, minlength=len(DefectClass)),
        unsure=np.bincount(unsure, minlength=len(DefectClass)),
        cell_area_nm2=float(lattice.cell_area_px * pixel_size_nm[0] * pixel_size_nm[1]),
        material=material,
    )


def _require_classes(cells: UnitCells) -> None:
    """Refuse cells whose class is unknown: their most probable class would read as perfect."""
    if not np.isfinite(cells.probabilities).all():
        raise PointDefectsError("the unit cells are not classified yet: classify them first")


def count_interval(count: int, level: float = 0.95) -> tuple[float, float]:
    """Return the exact (Garwood) interval of a Poisson mean of which ``count`` were seen.

    It covers the mean at least as often as ``level`` says, for rare and for no events: nothing
    seen is compatible with up to 3.69 expected. Cells that share a vacancy-forming event (a
    cluster, a scratch) scatter more than that.

    References
    ----------
    .. [1] F. Garwood, Biometrika 28 (1936) 437, doi:10.1093/biomet/28.3-4.437.

    Examples
    --------
    >>> [round(limit, 2) for limit in count_interval(0)]
    [0.0, 3.69]
    """
    tail = (1 - level) / 2
    # Half the quantile of chi-squared with 2k degrees of freedom is that of a gamma of shape k.
    low = gammaincinv(count, tail) if count else 0.0
    return float(low), float(gammainccinv(count + 1, tail))


def cells_table(
    cells: UnitCells, material: Material, *, unsure_below: float = UNSURE_BELOW
) -> pd.DataFrame:
    """Return one row per unit cell, positions in pixels of the original image.

    Pixel centres are at integers. ``cell_id`` counts from 0 in the order of ``cells``; ``unsure``
    is 1 where the most probable class is less probable than ``unsure_below``, else 0.

    Raises
    ------
    PointDefectsError
        If the cells are not classified.
    """
    _require_classes(cells)
    labels = np.array(material.class_labels)
    table = {
        "cell_id": np.arange(len(cells)),
        "chalcogen_y": cells.chalcogen_px[:, 0],
        "chalcogen_x": cells.chalcogen_px[:, 1],
        "metal_y": cells.metal_px[:, 0],
        "metal_x": cells.metal_px[:, 1],
        "label": labels[cells.classes],
        "confidence": cells.confidence,
        **{f"p_{label}": cells.probabilities[:, i] for i, label in enumerate(labels)},
        "votes": cells.votes,
        "unsure": is_unsure(cells.probabilities, unsure_below).astype(int),
        "domain": np.maximum(cells.domain, 1),
    }
    return pd.DataFrame(table)


def census_table(census: Census) -> pd.DataFrame:
    """Return one row per class: count, fraction, density and its 95 % interval."""
    return pd.DataFrame(
        [{"label": label, **_densities(int(n), census)} for label, n in _rows(census)]
    )


def census_dict(
    census: Census,
    lattice: Lattice,
    pixel_size_nm: tuple[float, float],
    pixel_size_source: str,
    *,
    warnings: Sequence[str] = (),
    weights: Mapping[str, Any] | None = None,
    versions: Mapping[str, str] | None = None,
    settings: Mapping[str, Any] | None = None,
    measurement: Measurement | None = None,
    quality: Mapping[str, Any] | None = None,
    estimates: tuple[Sequence[Share], Share] | None = None,
) -> dict[str, Any]:
    """Return everything a census is, ready for JSON.

    Parameters
    ----------
    census : Census
    lattice : Lattice
    pixel_size_nm : (float, float)
        Height and width of a pixel [nm] that was used.
    pixel_size_source : str
        ``"user"``, ``"file"`` or ``"lattice"``.
    warnings : sequence of str
    weights, versions, settings : mapping
        Name and hash of the weights, versions of the programs, settings of every stage.
    measurement : Measurement, optional
        How the image was recorded; left out where it was not measured.
    quality : mapping
        See :meth:`~napari_point_defects.quality.Quality.as_dict`.
    estimates : (sequence of Share, Share), optional
        See :func:`~napari_point_defects.concentrations.class_shares`.
    """
    by_class, defective = estimates or ([None] * len(DefectClass), None)
    a_nm = math.sqrt(census.cell_area_nm2 * 2 / math.sqrt(3))
    return {
        "material": census.material.formula,
        "material_definition": census.material.definition(),
        "pixel_size_nm": [float(size) for size in pixel_size_nm],
        "pixel_size_source": pixel_size_source,
        "lattice": {
            "a_px": lattice.a_px,
            "a_nm": a_nm,
            "angle_deg": lattice.angle_deg,
            "shear": lattice.shear,
            "stretch": lattice.stretch,
            "quality": lattice.quality,
            "sublattice_confidence": lattice.sublattice_confidence,
        },
        "area_nm2": census.area_nm2,
        "n_cells": census.n_cells,
        "classes": {
            label: _densities(n, census) | {"unsure": int(unsure)} | _estimate(share, census)
            for (label, n), unsure, share in zip(
                _rows(census), census.unsure, by_class, strict=True
            )
        },
        "defects": _densities(census.defect_count, census) | _estimate(defective, census),
        "vacancies": {
            census.material.chalcogen: _vacancies(census.chalcogen_vacancies, 2, census),
            census.material.metal: _vacancies(census.metal_vacancies, 1, census),
        },
        "interval": "95 % exact Poisson (Garwood 1936) of the counting alone; "
        "unsure cells are counted under their most probable class",
        **({"estimate": _ESTIMATE} if estimates else {}),
        "unsure": {
            "count": int(census.unsure.sum()),
            "fraction": int(census.unsure.sum()) / census.n_cells,
        },
        "quality": dict(quality or {}),
        **({"measurement": measurement.as_dict()} if measurement is not None else {}),
        "warnings": list(warnings),
        "weights": dict(weights or {}),
        "versions": dict(versions or {}),
        "settings": dict(settings or {}),
    }


def _estimate(share: Share | None, census: Census) -> dict[str, Any]:
    """Return a class' share and density with their interval, doubt about cells included."""
    if share is None:
        return {}
    per_cm2 = NM2_PER_CM2 / census.cell_area_nm2
    return {
        "estimate": {
            "fraction": share.value,
            "fraction_interval95": [share.low, share.high],
            "density_per_cm2": share.value * per_cm2,
            "density_per_cm2_interval95": [share.low * per_cm2, share.high * per_cm2],
        }
    }


def _rows(census: Census) -> list[tuple[str, int]]:
    """Pair each class's label with its count."""
    return list(zip(census.material.class_labels, map(int, census.counts), strict=True))


def _densities(count: int, census: Census) -> dict[str, Any]:
    """Return a count as fraction of the cells and per area, with the interval of the density."""
    interval = [limit / census.area_nm2 for limit in count_interval(count)]
    density = count / census.area_nm2
    return {
        "count": count,
        "fraction": count / census.n_cells,
        "density_per_nm2": density,
        "density_per_nm2_interval95": interval,
        "density_per_cm2": density * NM2_PER_CM2,
        "density_per_cm2_interval95": [limit * NM2_PER_CM2 for limit in interval],
    }


def _vacancies(count: int, atoms_per_cell: int, census: Census) -> dict[str, Any]:
    """Return the missing atoms of one sublattice.

    Without an interval: the two of a double vacancy are not independent.
    """
    density = count / census.area_nm2
    return {
        "count": count,
        "fraction": count / (atoms_per_cell * census.n_cells),
        "density_per_nm2": density,
        "density_per_cm2": density * NM2_PER_CM2,
    }
