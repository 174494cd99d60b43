"""The 2H-MX₂ monolayers, the six classes of unit cell, and the canonical hexagon.

Coordinates are (y, x), y down. In the *canonical frame* a lattice row runs along x and lengths
are in units of the lattice constant a; a hexagonal cell is centred on a hollow site.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from enum import IntEnum
from pathlib import Path
from typing import Any

import numpy as np

from napari_point_defects.errors import PointDefectsError
from napari_point_defects.material_files import (
    checked_definition,
    materials_file,
    read_definitions,
)

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

CELL_SIZE = np.array([np.sqrt(3) / 2, 1.0])
"""Height and width of the unit cell's box: a corner of its hexagon's (paper, Fig. 2b)."""

CELL_FROM_CHALCOGEN = np.array([-BOND / 4, (1 - BOND) / 2])
"""Middle of that box, seen from the cell's X₂ column."""

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

CLASS_DESCRIPTIONS = {
    DefectClass.PERFECT: "complete",
    DefectClass.V_X1: "one {x} atom missing",
    DefectClass.V_X2: "both {x} atoms of a column missing",
    DefectClass.V_M: "the {m} atom missing",
    DefectClass.V_X1_V_M: "one {x} and the {m} atom missing",
    DefectClass.V_X2_V_M: "two {x} and the {m} atom missing",
}
"""Each class in words; ``{x}`` and ``{m}`` stand for the elements."""

CLASS_NAMES = ("Perfect", *(c.name.replace("_V_", "+V_") for c in list(DefectClass)[1:]))
"""The classes in order, as tables name them where the material may be any."""


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
    def bond_nm(self) -> float:
        """Distance d between first-neighbour columns, seen along c."""
        return float(BOND * self.lattice_constant_nm)

    @property
    def cell_area_nm2(self) -> float:
        """Area of the primitive cell."""
        return float(CELL_AREA * self.lattice_constant_nm**2)

    @property
    def class_labels(self) -> tuple[str, ...]:
        """The six class names written with this material's elements, in class order."""
        x, m = f"V_{self.chalcogen}", f"V_{self.metal}"
        return ("Perfect", f"{x}1", f"{x}2", m, f"{x}1+{m}", f"{x}2+{m}")

    def definition(self) -> dict[str, Any]:
        """Return what is written beside the formula, so that it means the same elsewhere."""
        return asdict(self)

    def has_lengths_of(self, other: Material) -> bool:
        """Tell whether both are the same for an image and its census, wherever they come from."""
        lengths = (self.lattice_constant_nm, self.chalcogen_distance_nm)
        theirs = (other.lattice_constant_nm, other.chalcogen_distance_nm)
        return self.formula == other.formula and bool(np.allclose(lengths, theirs, atol=1e-6))


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


# the user's own: what files brought along, what a started process was told, what the user's file
# said when it was last read and which state of it that was
_adopted: dict[str, Material] = {}
_pinned: dict[str, Material] | None = None
_read: tuple[tuple[Path, int, int], dict[str, Material]] | None = None


def define_material(
    metal: str,
    chalcogen: str,
    lattice_constant_nm: float,
    chalcogen_distance_nm: float | None = None,
    source: str = "",
) -> Material:
    """Return a material of one's own, checked.

    Parameters
    ----------
    metal, chalcogen : str
        Element symbols.
    lattice_constant_nm : float
    chalcogen_distance_nm : float, optional
        Default: estimated from the chalcogen, which the source then says.
    source : str
        Where the lengths come from.

    Raises
    ------
    PointDefectsError
        With one line that says what is wrong.
    """
    values = {
        "metal": metal,
        "chalcogen": chalcogen,
        "lattice_constant_nm": lattice_constant_nm,
        "chalcogen_distance_nm": chalcogen_distance_nm,
        "source": source,
    }
    return Material(**checked_definition(values))


def own_materials() -> dict[str, Material]:
    """Return the user's materials by formula: those of the user's file, and adopted ones.

    Raises
    ------
    PointDefectsError
        If the file cannot be read or an entry is wrong.
    """
    if _pinned is not None:
        return dict(_pinned)
    in_file = _of_file()  # first: what has left the file is adopted
    return {**_adopted, **in_file}


def known_materials() -> dict[str, Material]:
    """Return the shipped materials and the user's own, by formula.

    Raises
    ------
    PointDefectsError
        If the user's file cannot be read or an entry is wrong.
    """
    return {**MATERIALS, **own_materials()}


def adopt_definitions(
    definitions: Iterable[Mapping[str, Any]], where: str, *, same: bool = True
) -> None:
    """Know, for as long as this program runs, the materials that a file was made with.

    Parameters
    ----------
    definitions : iterable of mapping
        As from :meth:`Material.definition`.
    where : str
        The file, for an error.
    same : bool
        Refuse one whose formula means other lengths here; otherwise it stays what it is here.

    Raises
    ------
    PointDefectsError
        If a definition is wrong, or contradicts what the formula means here.
    """
    if isinstance(definitions, str | Mapping) or not isinstance(definitions, Iterable):
        raise PointDefectsError(f"{where}: the definitions of materials must be a list of tables")
    for values in definitions:
        if not isinstance(values, Mapping):
            raise PointDefectsError(f"{where}: {str(values)[:40]!r} defines no material")
        material = Material(**checked_definition(values, where))
        here = MATERIALS.get(material.formula) or own_materials().get(material.formula)
        if here is None:
            (_adopted if _pinned is None else _pinned)[material.formula] = material
        elif same and not here.has_lengths_of(material):
            advice = "make them agree: point-defects materials add --replace"
            if material.formula in MATERIALS:
                advice = "a shipped material stays what it is"
            raise PointDefectsError(
                f"{where} was made with {material.formula} of {_lengths(material)}, but here it "
                f"has {_lengths(here)}: {advice}"
            )


def _lengths(material: Material) -> str:
    lengths = (material.lattice_constant_nm, material.chalcogen_distance_nm)
    return "a = {:g} nm, X–X = {:g} nm".format(*lengths)


def own_definitions(formulas: Iterable[str]) -> list[dict[str, Any]]:
    """Return the definitions of the user's own materials among the formulas.

    The shipped ones need none: their formula says it all.

    Raises
    ------
    PointDefectsError
        If a formula is not known.
    """
    found = {get_material(name).formula: get_material(name) for name in formulas}
    return [m.definition() for formula, m in found.items() if formula not in MATERIALS]


def definitions_to_pin() -> list[dict[str, Any]]:
    """Return the definitions that a process to be started must know, see :func:`pin_materials`.

    Without those of a file that cannot be read: what needs one of them has failed before.
    """
    try:
        materials = own_materials()
    except PointDefectsError:
        materials = _adopted
    return [material.definition() for material in materials.values()]


def pin_materials(definitions: Iterable[Mapping[str, Any]]) -> None:
    """Know these materials of the user's and no others: what a process that was started calls.

    The file may change, and what the parent adopted is in no file.
    """
    global _pinned
    materials = [Material(**checked_definition(values)) for values in definitions]
    _pinned = {material.formula: material for material in materials}


def _of_file() -> dict[str, Material]:
    """Read the user's file, again where it has changed."""
    global _read
    path = materials_file()
    try:
        state = path.stat()
    except OSError:
        return {}
    stamp = (path, state.st_mtime_ns, state.st_size)
    if _read is None or _read[0] != stamp:
        # one that is taken out of the file elsewhere may still be at work in an open window
        if _read is not None and _read[0][0] == path:
            _adopted.update(_read[1])
        materials = [Material(**values) for values in read_definitions(path)]
        for material in materials:
            if material.formula in MATERIALS:
                raise PointDefectsError(f"{path}: {shadowing(material.formula)}")
        _read = (stamp, {material.formula: material for material in materials})
    return _read[1]


def forget_material(formula: str) -> None:
    """Know a material of the user's no longer, unless the file says it again."""
    global _read
    _adopted.pop(formula, None)
    if _read is not None:
        _read = (_read[0], {known: m for known, m in _read[1].items() if known != formula})


def shadowing(formula: str) -> str:
    """Say why a shipped material cannot be defined anew."""
    return (
        f"{formula} is shipped, with a = {MATERIALS[formula].lattice_constant_nm:g} nm, and stays "
        "what it is: where your sheet is strained, give the pixel size instead"
    )


def get_material(name: str) -> Material:
    """Return the material of that formula, in any case and with or without a subscript two.

    Raises
    ------
    PointDefectsError
        If it is neither one of :data:`MATERIALS` nor one of the user's own, or their file cannot
        be read.
    """
    plain = re.sub(r"[\s_-]|^2H", "", name.strip().replace("₂", "2"), flags=re.IGNORECASE)
    # the shipped ones first: they are known whatever is wrong with the user's file
    for known in (lambda: MATERIALS, own_materials):
        materials = known()
        if plain in materials:
            return materials[plain]
        for formula, material in materials.items():
            if formula.lower() == plain.lower():
                return material
    raise PointDefectsError(
        f"unknown material {name[:40]!r}: choose one of {', '.join(known_materials())} with "
        "--material, or add your own: point-defects materials add NbSe2 --a 0.3442"
    )
