"""Where labels go if the user says nothing, and where they went last."""

from __future__ import annotations

import getpass
from pathlib import Path

from platformdirs import user_data_path

_APP = "napari-point-defects"
_LAST = "last-labels-folder.txt"


def data_folder() -> Path:
    """Return the user's own folder for this program's data; tests replace this function."""
    return Path(user_data_path(_APP, appauthor=False))


def default_folder() -> Path:
    """Return the project folder used last, or else one in the user's data folder."""
    try:
        last = Path((data_folder() / _LAST).read_text(encoding="utf-8").strip())
        if last.is_absolute() and last.is_dir():
            return last
    except (OSError, ValueError):
        pass
    return data_folder() / "labels"


def remember_folder(folder: Path) -> None:
    """Begin with this folder the next time."""
    path = data_folder() / _LAST
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(str(folder.resolve()), encoding="utf-8")
    except OSError:
        pass  # a convenience, no more


def user_name() -> str:
    """Return the name that labels bear unless the user gives another."""
    try:
        return getpass.getuser()
    except (OSError, KeyError, ImportError):  # a system without user names
        return "someone"
