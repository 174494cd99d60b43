"""What is kept from one session to the next: a JSON file in the user's own folder.

A file that cannot be read is set aside, never overwritten, and the defaults hold.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from platformdirs import user_config_path

from napari_point_defects.errors import PointDefectsError
from napari_point_defects.json_files import read_json
from napari_point_defects.outputs import write_json

_APP = "napari-point-defects"
_VERSION = 1


def memory_file() -> Path:
    """Return where it lies; tests replace this function."""
    return Path(user_config_path(_APP, appauthor=False)) / "last-settings.json"


def recall(section: str) -> dict[str, Any]:
    """Return what was kept under a name; nothing where there is none, or it is damaged."""
    found = _read().get(section)
    return dict(found) if isinstance(found, dict) else {}


def keep(section: str, values: Mapping[str, Any]) -> None:
    """Keep values under a name, in place of those before."""
    _write({**_read(), section: dict(values)})


def forget(section: str | None = None) -> None:
    """Forget what was kept under a name, or all."""
    content = _read()
    _write({k: v for k, v in content.items() if section is not None and k != section})


def _read() -> dict[str, Any]:
    path = memory_file()
    try:
        content = read_json(path)
        if content.pop("version") != _VERSION:
            raise ValueError("another version")
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        _set_aside(path, error)
        return {}
    return content


def _set_aside(path: Path, error: Exception) -> None:
    """Keep a damaged file under another name, and say so once."""
    from napari.utils.notifications import show_warning

    aside = path.with_suffix(".damaged.json")
    try:
        path.replace(aside)
        where = f"it is kept as {aside.name}"
    except OSError:
        where = "it stays as it is"
    show_warning(f"{path} cannot be read ({error}): the default settings are used, and {where}")


def _write(content: Mapping[str, Any]) -> None:
    # a convenience, no more
    with suppress(PointDefectsError, OSError, TypeError, ValueError):
        write_json({"version": _VERSION, **content}, memory_file(), True)
