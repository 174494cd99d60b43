"""Add a material of one's own to the user's file, and remove one: whole or not at all."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import tomli_w

from napari_point_defects.errors import PointDefectsError
from napari_point_defects.material_files import materials_file, read_definitions
from napari_point_defects.materials import MATERIALS, Material, forget_material, shadowing
from napari_point_defects.outputs import atomic_write

_HEAD = "# Your own MX2 materials. Lengths in nm. `point-defects materials` edits this file.\n\n"


def add_material(material: Material, *, replace: bool = False) -> Path:
    """Write a material into the user's file.

    Parameters
    ----------
    material : Material
        See :func:`~napari_point_defects.materials.define_material`.
    replace : bool
        Whether it may take the place of one of the same formula.

    Returns
    -------
    Path
        The file.

    Raises
    ------
    PointDefectsError
        If the formula is a shipped one's, or is there already with other values and may not be
        replaced, or the file cannot be read or written.
    """
    if material.formula in MATERIALS:
        raise PointDefectsError(shadowing(material.formula))
    path = materials_file()
    there = [Material(**values) for values in read_definitions(path)]
    same = [known for known in there if known.formula == material.formula]
    if same and not replace:
        if same[0].has_lengths_of(material):
            return path
        raise PointDefectsError(
            f"{material.formula} is there already with a = {same[0].lattice_constant_nm:g} nm, "
            f"X–X = {same[0].chalcogen_distance_nm:g} nm: give --replace to change it"
        )
    if same:
        there[there.index(same[0])] = material
        _write(path, _HEAD, there)
    else:  # what the user wrote into the file stays as it is
        text = path.read_text(encoding="utf-8-sig").rstrip() + "\n\n" if path.is_file() else _HEAD
        _write(path, text, [material])
    return path


def remove_material(formula: str) -> Path:
    """Take a material out of the user's file; sets, weights and censuses keep their record of it.

    Raises
    ------
    PointDefectsError
        If it is not there, or the file cannot be read or written.
    """
    path = materials_file()
    there = [Material(**values) for values in read_definitions(path)]
    kept = [known for known in there if known.formula.lower() != formula.strip().lower()]
    if len(kept) == len(there):
        names = ", ".join(known.formula for known in there) or "none"
        raise PointDefectsError(f"{formula!r} is not in {path}: your own materials are {names}")
    _write(path, _HEAD, kept)
    for known in there:
        if known not in kept:
            forget_material(known.formula)
    return path


def _write(path: Path, text: str, materials: Iterable[Material]) -> None:
    """Write a text and the materials below it."""
    tables = (f"[[material]]\n{tomli_w.dumps(material.definition())}" for material in materials)
    with atomic_write(path, overwrite=True) as temporary:
        temporary.write_bytes((text + "\n".join(tables)).encode())
