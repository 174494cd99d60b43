"""What stands in a settings file beside the settings: the program, and the user's own materials.

A formula of the user's own means nothing elsewhere, so its definition goes along.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from napari_point_defects.materials import adopt_definitions, own_definitions

DEFINITIONS = "material_definitions"
_PROGRAM = "program"


def beside_settings(materials: Sequence[str]) -> dict[str, Any]:
    """Return what is to be written beside settings of these formulas; nothing for shipped ones.

    Raises
    ------
    PointDefectsError
        If a formula is not known.
    """
    definitions = own_definitions(materials)
    return {DEFINITIONS: definitions} if definitions else {}


def settings_alone(values: Mapping[str, Any], where: str, *, same: bool = True) -> dict[str, Any]:
    """Return a file's settings without what stands beside them; its materials are known then.

    Parameters
    ----------
    values : mapping
        As read from the file.
    where : str
        The file, for an error.
    same : bool
        Refuse a material whose formula means other lengths here.

    Raises
    ------
    PointDefectsError
        If a definition is wrong, or contradicts what its formula means here.
    """
    adopt_definitions(values.get(DEFINITIONS, ()), where, same=same)
    return {key: v for key, v in values.items() if key not in (DEFINITIONS, _PROGRAM)}
