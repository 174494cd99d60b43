"""A user's own MX₂ monolayers: what may be said of one, and the TOML file that keeps them.

The file is a list of tables, easy to write by hand::

    [[material]]
    metal = "Nb"
    chalcogen = "Se"
    lattice_constant_nm = 0.3442
    chalcogen_distance_nm = 0.3336   # may be left out: it is estimated
    source = "Marezio et al., J. Solid State Chem. 4 (1972) 425"

It lies where :func:`materials_file` says. :mod:`napari_point_defects.materials` makes materials of
what is read here.
"""

from __future__ import annotations

import math
import os
import re
import tomllib
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from napari_point_defects.errors import PointDefectsError
from napari_point_defects.json_files import brief

ENVIRONMENT = "POINT_DEFECTS_MATERIALS"
"""Names another file than the default."""

LATTICE_CONSTANT_NM = (0.2, 0.6)
CHALCOGEN_DISTANCE_NM = (0.15, 0.55)
"""Bounds. Layered MX₂ have a = 0.29–0.41 nm; a number in ångström lies far outside."""

ESTIMATED = "X–X distance estimated from the covalent radius of X"
_USER = "given by the user"
_KEYS = ("metal", "chalcogen", "lattice_constant_nm", "chalcogen_distance_nm", "source")
_FORMULA = re.compile(r"([A-Z][a-z]?)([A-Z][a-z]?)2")
_HEAVIEST = 103  # abTEM has scattering factors up to lawrencium
_CHALCOGENS = ("O", "S", "Se", "Te")
_chosen: Path | None = None


def use_materials_file(path: Path | None) -> None:
    """Keep this program's own materials in another file; None for the usual one."""
    global _chosen
    _chosen = path


def materials_file() -> Path:
    """Return where the user's materials are kept; the file need not exist.

    ``POINT_DEFECTS_MATERIALS`` names it, else it is ``napari-point-defects/materials.toml`` in
    ``XDG_CONFIG_HOME`` or in ``.config`` in the home folder.
    """
    if _chosen is not None:
        return _chosen
    if named := os.environ.get(ENVIRONMENT):
        return Path(named).expanduser()
    base = os.environ.get("XDG_CONFIG_HOME")
    root = Path(base) if base else Path.home() / ".config"
    return root / "napari-point-defects" / "materials.toml"


@lru_cache(maxsize=1)
def elements() -> dict[str, float]:
    """Return the covalent radius [nm] of each element that abTEM knows, by symbol."""
    from ase.data import chemical_symbols, covalent_radii  # here, for ase.data is slow to import

    return {chemical_symbols[z]: float(covalent_radii[z]) / 10 for z in range(1, _HEAVIEST + 1)}


def split_formula(formula: str) -> tuple[str, str]:
    """Return metal and chalcogen of a formula such as ``NbSe2``.

    Raises
    ------
    PointDefectsError
        If it is not that of an MX₂ of two elements.
    """
    found = _FORMULA.fullmatch(formula.strip().replace("₂", "2"))
    if found is None:
        raise PointDefectsError(
            f"{formula[:40]!r} is no formula of an MX2: write two elements and a 2, such as NbSe2 "
            "(alloys and Janus layers MXY are not supported)"
        )
    return found.group(1), found.group(2)


def is_formula(text: str) -> bool:
    """Tell whether a text is the formula of an MX₂ as the program writes it."""
    found = _FORMULA.fullmatch(text)
    return found is not None and all(symbol in elements() for symbol in found.groups())


def estimated_chalcogen_distance_nm(chalcogen: str) -> float:
    """Estimate the X–X distance across a 2H layer [nm] from the chalcogen alone.

    A straight line in the covalent radius of X, fitted to the six shipped materials, which it
    meets within 1 %; the crystallographic values of NbS₂, NbSe₂, TaS₂ and TaSe₂ within 2 %. The
    metal hardly matters: where it is larger, a is larger too and the layer stays as thick. Nor does
    the image depend on it much: the depth of focus is over ten times as long.
    """
    return 0.1708 + 1.371 * elements()[chalcogen]


def checked_definition(values: Mapping[str, Any], where: str = "") -> dict[str, Any]:
    """Return a material's five values, checked and completed.

    Parameters
    ----------
    values : mapping
        ``metal``, ``chalcogen``, ``lattice_constant_nm``, and ``chalcogen_distance_nm`` and
        ``source`` where they are known.
    where : str
        What an error begins with.

    Raises
    ------
    PointDefectsError
        With one line that says what is wrong.
    """
    where = where and f"{where}: "
    unknown = [key for key in values if key not in _KEYS]
    if unknown:
        raise PointDefectsError(
            f"{where}a material has no {unknown[0][:40]!r}: give {', '.join(_KEYS)}"
        )
    symbols = {}
    for key in ("metal", "chalcogen"):
        symbol = values.get(key)
        symbols[key] = symbol.strip().capitalize() if isinstance(symbol, str) else ""
        if symbols[key] not in elements():
            raise PointDefectsError(
                f"{where}{key} {str(symbol)[:40]!r} is no element: give a symbol such as Nb or Se"
                if symbol
                else f"{where}the {key} is missing: give an element's symbol"
            )
    metal, chalcogen = symbols.values()
    if metal == chalcogen:
        raise PointDefectsError(f"{where}metal and chalcogen are both {metal}: give two elements")
    if metal in _CHALCOGENS:
        raise PointDefectsError(f"{where}{metal} is a chalcogen: write the metal first")
    a_nm = _length(values.get("lattice_constant_nm"), "lattice constant", where)
    _check(a_nm, LATTICE_CONSTANT_NM, "lattice constant", where)
    given, source = values.get("chalcogen_distance_nm"), str(values.get("source") or _USER)
    if given is None:
        distance = round(estimated_chalcogen_distance_nm(chalcogen), 4)
        source = f"{source}; {ESTIMATED}"
    else:
        distance = _length(given, "X–X distance", where)
        _check(distance, CHALCOGEN_DISTANCE_NM, "X–X distance", where)
    return dict(zip(_KEYS, (metal, chalcogen, a_nm, distance, source), strict=True))


def _length(value: Any, name: str, where: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise PointDefectsError(f"{where}the {name} is missing or no number: give it in nm")
    return float(value)


def _check(value: float, bounds: tuple[float, float], name: str, where: str) -> None:
    low, high = bounds
    if low <= value <= high:
        return
    hint = " (1 nm is 10 Å)" if low <= value / 10 <= high else ""
    raise PointDefectsError(
        f"{where}a {name} of {value:g} nm is not possible: give {low:g} to {high:g} nm{hint}"
    )


def read_definitions(path: Path) -> list[dict[str, Any]]:
    """Return the checked definitions in a file; none where there is no file.

    Raises
    ------
    PointDefectsError
        With one line, if it cannot be read or an entry is wrong.
    """
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError:
        return []
    except (OSError, RecursionError, ValueError) as error:
        raise PointDefectsError(f"cannot read materials from {path}: {brief(error)}") from error
    entries = content.pop("material", [])
    if content or not isinstance(entries, list) or not all(isinstance(e, dict) for e in entries):
        raise PointDefectsError(f"{path}: begin each material with a line [[material]]")
    found = [checked_definition(e, f"{path}, material {n}") for n, e in enumerate(entries, 1)]
    pairs = [(d["metal"], d["chalcogen"]) for d in found]
    for metal, chalcogen in pairs:
        if pairs.count((metal, chalcogen)) > 1:
            raise PointDefectsError(f"{path}: {metal}{chalcogen}2 stands there twice: remove one")
    return found
