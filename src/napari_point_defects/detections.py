"""What an analysis finds in an image: lattices, hexagons, where they are; and all of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from napari_point_defects.analysed_area import AnalysedArea, Domain
from napari_point_defects.domains.casting import DomainMap
from napari_point_defects.measured import Measurement
from napari_point_defects.records import Hexagons, Lattice, StemImage, UnitCells


@dataclass(frozen=True, slots=True)
class Detection:
    """Lattice and hexagons of an image.

    Attributes
    ----------
    lattice : Lattice
    hexagons : Hexagons
    pixel_size_nm : (float, float)
        Height and width of a pixel as used in the census.
    pixel_size_source : str
    warnings : tuple of str
    domains : tuple of Domain
        Grains and mirror twins, the largest first; its lattice is ``lattice``.
    area : AnalysedArea or None
        Where they are, and what was left out; None where all of the image is one domain.
    """

    lattice: Lattice
    hexagons: Hexagons
    pixel_size_nm: tuple[float, float]
    pixel_size_source: str
    warnings: tuple[str, ...] = ()
    domains: tuple[Domain, ...] = ()
    area: AnalysedArea | None = None

    @property
    def square_pixel_nm(self) -> float:
        """Side of a square pixel of the same area [nm]."""
        height, width = self.pixel_size_nm
        return float(np.sqrt(height * width))

    @property
    def domain_map(self) -> DomainMap:
        """The domains and where they are: one, if nothing else is said."""
        return DomainMap(self.domains or (Domain(1, self.lattice),), self.area)

    def lattice_at(self, point_px: np.ndarray) -> Lattice:
        """Return the lattice of the domain at, or nearest to, a point (y, x)."""
        number = int(self.domain_map.number_at(np.asarray(point_px, float)[None])[0])
        return next(d.lattice for d in self.domain_map.domains if d.number == number)

    def in_main_domain(self, cells: UnitCells) -> UnitCells:
        """Return the cells of the main domain: what folds an image folds one lattice."""
        where = self.domain_map
        return cells.take(where.of_cells(cells) == where.domains[0].number)


@dataclass(frozen=True, slots=True)
class Analysis:
    """Everything found in one image.

    Attributes
    ----------
    image : StemImage
    detection : Detection
    cells : UnitCells
        Classified.
    census : dict
        As written to JSON.
    measurement : Measurement or None
        How the image was recorded; None where it was not measured.
    """

    image: StemImage
    detection: Detection
    cells: UnitCells
    census: dict[str, Any]
    measurement: Measurement | None = None
