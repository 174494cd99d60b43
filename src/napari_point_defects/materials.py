"""The 2H-MX₂ monolayers, the six classes of unit cell, and the canonical hexagon.

Coordinates are (y, x), y down. In the *canonical frame* a lattice row runs along x and lengths
are in units of the lattice constant a; a hexagonal cell is centred on a hollow site.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import IntEnum

import numpy as np

from napari_point_defects.errors import PointDefectsError

BOND = 1 / np.sqrt(3)
"""Distance d between first-neighbour columns, in units of a."""

LATTICE_VECTORS = np.array([[0.0, 1.0], [np.sqrt(3) / 2, 0.5]])
"""Rows: the two primitive vectors (y, x) of the canonical frame, in units of a."""

CHALCOGEN_SITES = np.array([[-BOND / 2, -0.5], [-BOND / 2, 0.5], [BOND, 0.0]])
"""The X₂ columns of the hexagon centred on (0, 0)."""

METAL_SITES = np.array([[-BOND, 0.0], [BOND / 2, -0.5], [BOND / 2, 0.5]])
"""The M columns of the hexagon centred on (0, 0)."""

HEXAGON_SIZE = np.array([3 * BOND, 1 + BOND])
"""Height and width of the hexagon's box: its six columns with d/2 on every side."""

CELL_AREA = np.sqrt(3) / 2
"""Area of the primitive cell in units of a²."""


class DefectClass(IntEnum):
    """What one unit cell lacks (paper, Fig. 1c)."""

    PERFECT = 0
    V_X1 = 1
    V_X2 = 2
    V_M = 3
    V_X1_V_M = 4
    V_X2_V_M = 5

    @property
    def missing_chalcogens(self) -> int:
        """Number of X atoms missing from the X₂ column: 0, 1 or 2."""
        return self % 3

    @property
    def metal_missing(self) -> bool:
        """Whether the M column is empty."""
        return self >= DefectClass.V_M

    @classmethod
    def from_vacancies(cls, missing_chalcogens: int, metal_missing: bool) -> DefectClass:
        """Return the class of a cell that lacks so many X atoms and, or not, its M atom."""
        return cls(missing_chalcogens + 3 * bool(metal_missing))


CLASS_COLOURS = {
    DefectClass.PERFECT: "#9e9e9e",
    DefectClass.V_X1: "#e6261f",
    DefectClass.V_X2: "#ffd92f",
    DefectClass.V_M: "#2b6cff",
    DefectClass.V_X1_V_M: "#8a8a00",
    DefectClass.V_X2_V_M: "#9c27b0",
}
"""Grey, red, yellow, blue, olive, purple: the paper's Fig. 1c."""


@dataclass(frozen=True, slots=True)
class Material:
    """A 2H-MX₂ monolayer.

    Attributes
    ----------
    metal, chalcogen : str
        Element symbols.
    lattice_constant_nm, chalcogen_distance_nm : float
        In-plane lattice constant a, and the X–X distance across the layer.
    source : str
        Where the two lengths come from.
    """

    metal: str
    chalcogen: str
    lattice_constant_nm: float
    chalcogen_distance_nm: float
    source: str

    @property
    def formula(self) -> str:
        """Formula as typed on the command line, e.g. ``MoTe2``."""
        return f"{self.metal}{self.chalcogen}2"

    @property
    def cell_area_nm2(self) -> float:
        """Area of the primitive cell."""
        return float(CELL_AREA * self.lattice_constant_nm**2)

    @property
    def class_labels(self) -> tuple[str, ...]:
        """The six class names written with this material's elements, in class order."""
        x, m = f"V_{self.chalcogen}", f"V_{self.metal}"
        return ("Perfect", f"{x}1", f"{x}2", m, f"{x}1+{m}", f"{x}2+{m}")


_BRONSEMA = "Bronsema, de Boer, Jellinek, Z. Anorg. Allg. Chem. 540 (1986) 15 (bulk 2H)"
_SCHUTTE = "Schutte, de Boer, Jellinek, J. Solid State Chem. 70 (1987) 207 (bulk 2H)"
_PUOTINEN = "Puotinen & Newnham, Acta Cryst. 14 (1961) 691 (bulk 2H)"
_AMIN = "Amin, Kaloni, Schwingenschlögl, RSC Adv. 4 (2014) 34561 (DFT; WTe2 prefers 1T')"

MATERIALS = {
    m.formula: m
    for m in (
        Material("Mo", "Te", 0.3519, 0.3604, _PUOTINEN),
        Material("Mo", "Se", 0.3289, 0.3335, _BRONSEMA),
        Material("Mo", "S", 0.3160, 0.3172, _BRONSEMA),
        Material("W", "Se", 0.3282, 0.3340, _SCHUTTE),
        Material("W", "S", 0.3153, 0.3140, _SCHUTTE),
        Material("W", "Te", 0.3550, 0.3610, _AMIN),
    )
}
"""The materials the shipped weights serve, by formula."""


def get_material(name: str) -> Material:
    """Return the material of that formula, in any case and with or without a subscript two.

    Raises
    ------
    PointDefectsError
        If the formula is not one of :data:`MATERIALS`.
    """
    key = re.sub(r"[\s_-]|^2H", "", name.strip().replace("₂", "2"), flags=re.IGNORECASE).lower()
    for formula, material in MATERIALS.items():
        if formula.lower() == key:
            return material
    raise PointDefectsError(
        f"unknown material {name!r}: choose one of {', '.join(MATERIALS)} with --material"
    )
