"""Settings on disk: any settings model as TOML or JSON, the file's ending says which."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import tomli_w
from pydantic import BaseModel, ValidationError

from napari_point_defects.errors import PointDefectsError
from napari_point_defects.json_files import brief, load_json
from napari_point_defects.outputs import atomic_write

SUFFIXES = (".toml", ".json")
NONE = "none"
"""Stands in TOML for a value that is None where the model's default is not."""

_Model = TypeVar("_Model", bound=BaseModel)


def read_settings(path: Path) -> dict[str, Any]:
    """Read a settings file as it is; :func:`make_settings` checks it.

    Raises
    ------
    PointDefectsError
        If it cannot be read or is neither a TOML table nor a JSON object.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
        values = tomllib.loads(text) if _is_toml(path) else load_json(text)
    except (OSError, RecursionError, ValueError) as error:
        raise PointDefectsError(f"cannot read settings from {path}: {brief(error)}") from error
    if not isinstance(values, dict):
        raise PointDefectsError(f"{path} holds no settings: it must be a JSON object")
    return values


def make_settings(model: type[_Model], values: Mapping[str, Any], source: str) -> _Model:
    """Build settings from what a file said.

    Raises
    ------
    PointDefectsError
        With one line that names the source and the setting, if a value is not allowed.
    """
    try:
        return model.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part)[:40] for part in first["loc"])
        raise PointDefectsError(f"{source}: {where}{': ' * bool(where)}{first['msg']}") from error
    except (ArithmeticError, RecursionError) as error:  # of numbers that no setting can have
        raise PointDefectsError(f"{source}: {brief(error)}") from error


def write_settings(
    path: Path,
    settings: BaseModel,
    overwrite: bool = False,
    *,
    beside: Mapping[str, Any] | None = None,
) -> None:
    """Write settings whole; reading them back gives the same settings.

    Parameters
    ----------
    path : Path
    settings : BaseModel
    overwrite : bool
    beside : mapping, optional
        What else the file is to say; who reads it takes that out before the settings are made.

    Raises
    ------
    PointDefectsError
        If the ending is neither .toml nor .json, or the file exists and may not be overwritten,
        or it cannot be written.
    """
    if path.suffix.lower() not in SUFFIXES:
        raise PointDefectsError(f"{path.name!r}: end the name in .toml or .json")
    if _is_toml(path):
        text = tomli_w.dumps(_without_none(settings) | dict(beside or {}))
    elif beside:
        values = settings.model_dump(mode="json") | dict(beside)
        text = json.dumps(values, indent=2, ensure_ascii=False) + "\n"
    else:
        text = settings.model_dump_json(indent=2) + "\n"
    with atomic_write(path, overwrite) as temporary:
        # bytes: text mode would give Windows other line ends
        temporary.write_bytes(text.encode())


def _is_toml(path: Path) -> bool:
    return path.suffix.lower() == ".toml"


def _without_none(settings: BaseModel) -> dict[str, Any]:
    """Leave None out where leaving it out means None, and name it elsewhere."""
    values = settings.model_dump(mode="json")
    for name, field in type(settings).model_fields.items():
        value = getattr(settings, name)
        if isinstance(value, BaseModel):
            values[name] = _without_none(value)
        elif value is None:
            del values[name]
            if field.get_default(call_default_factory=True) is not None:
                values[name] = NONE
    return values
