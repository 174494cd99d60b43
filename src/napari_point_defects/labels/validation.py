"""What labels from a file must look like before they may enter a store."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from datetime import datetime
from pathlib import PurePath
from typing import Any

import numpy as np
import pandas as pd

from napari_point_defects.labels.domain_fields import (
    domain_fields,
    domains_of,
    lattice_fields,
    lattice_of,
)
from napari_point_defects.labels.images import ImageEntry, know_material, safe_path
from napari_point_defects.labels.tables import STATES, UNLABELLED, Kind, complete, empty
from napari_point_defects.materials import DefectClass, get_material

_LARGEST = 2**53
"""Whole numbers up to this are exact in JSON."""

_TEXT_LENGTH = 500


def class_name(code: int) -> str:
    """Return the class's name in files, empty where there is none."""
    return "" if code == UNLABELLED else DefectClass(code).name


def class_code(name: str) -> int:
    """Return the class that a name means."""
    return int(DefectClass[name]) if name else UNLABELLED


def image_fields(entry: ImageEntry) -> dict[str, Any]:
    """Return what is exported of an image, as JSON knows it."""
    size, domains = entry.pixel_size_nm, domain_fields(entry.domains, entry.area)
    return {
        "sha256": entry.sha256,
        "name": entry.name,
        "path": entry.path,
        "signal": entry.signal,
        "height": int(entry.shape[0]),
        "width": int(entry.shape[1]),
        "material": entry.material,
        "pixel_size_nm": None if size is None else [float(s) for s in size],
        "pixel_size_source": entry.pixel_size_source,
        "lattice": lattice_fields(entry.lattice),
        **({} if domains is None else {"domains": domains}),
        "settings": entry.settings,
    }


def image_entry(fields: dict[str, Any]) -> ImageEntry:
    """Check an imported image's fields.

    Raises
    ------
    KeyError, TypeError, ValueError
        If one is missing or not as it must be.
    """
    path = _text(fields["path"])
    if path and safe_path(path) is None:
        raise ValueError(f"the image's file {path!r} is not inside the folder")
    name = _text(fields["name"])
    if not name or name != PurePath(name).name or "\\" in name or name in (".", ".."):
        raise ValueError(f"{name!r} is no name of an image")
    sha256 = _text(fields["sha256"])
    if not re.fullmatch(r"[0-9a-f]{64}", sha256):
        raise ValueError("an image has no valid sha256")
    lattice, size = lattice_of(fields["lattice"]), fields["pixel_size_nm"]
    shape = (_whole(fields["height"], 1), _whole(fields["width"], 1))
    domains, area = domains_of(fields.get("domains"), lattice, shape)
    if not isinstance(fields["settings"], dict):
        raise TypeError("settings must be an object")
    know_material(fields["settings"], f"the labels of {name}")
    return ImageEntry(
        id=0,
        sha256=sha256,
        name=name,
        path=path,
        signal=_text(fields["signal"]),
        shape=shape,
        material=get_material(_text(fields["material"])).formula,
        lattice=lattice,
        pixel_size_nm=None if size is None else tuple(_finite(size, (2,)).tolist()),
        pixel_size_source=_text(fields["pixel_size_source"]),
        settings=fields["settings"],
        domains=domains,
        area=area,
    )


def items(rows: Sequence[dict[str, Any]], kind: Kind) -> pd.DataFrame:
    """Make a table of imported rows, unknown numbers None.

    Raises
    ------
    KeyError, TypeError, ValueError
        If a row is not as it must be.
    """
    if not rows:
        return empty(kind)
    columns: dict[str, Any] = {}
    for name in kind.columns:
        values = [row[name] for row in rows]
        if name == "state":
            if not set(values) <= set(STATES):
                raise ValueError(f"unknown state; use one of {', '.join(STATES)}")
            columns[name] = values
        elif name in kind.floats:
            columns[name] = [math.nan if v is None else float(_finite(v, ())) for v in values]
        elif name in kind.codes:
            columns[name] = [_whole(v, UNLABELLED) for v in values]
        elif name in (kind.id, *kind.integers):
            columns[name] = [_whole(v, 0) for v in values]
        elif name == "revision":
            columns[name] = [_whole(v, 1) for v in values]
        else:
            columns[name] = pd.Series([_text(v) for v in values], dtype=object)
    for time in set(columns["time"]):
        datetime.fromisoformat(time)
    if len(set(columns[kind.id])) != len(rows):
        raise ValueError(f"two {kind.name}s of an image have the same {kind.id}")
    return complete(pd.DataFrame(columns), kind)


def _text(value: Any) -> str:
    if not isinstance(value, str) or len(value) > _TEXT_LENGTH or "\0" in value:
        raise ValueError(f"{str(value)[:40]!r} is no short text")
    return value


def _whole(value: Any, least: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= _LARGEST:
        raise ValueError(f"{str(value)[:40]!r} is no whole number from {least}")
    return value


def _finite(value: Any, shape: tuple[int, ...]) -> np.ndarray:
    array = np.array(value, float)
    if array.shape != shape or not np.isfinite(array).all():
        raise ValueError(f"{str(value)[:40]!r} is no finite number")
    return array
