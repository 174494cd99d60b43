"""The user's preferences: napari's page of them, where it has one, or else our own file.

The manifest's ``configurations`` declare them. napari 0.9 shows them under File ▸ Preferences ▸
Point Defects, keeps them, and tells when one changes; what an earlier napari does not keep lies
with the last settings.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from napari_point_defects.napari_ui import memory
from napari_point_defects.palettes import ENVIRONMENT, PALETTES, PAPER

PLUGIN = "napari-point-defects"
_SECTION = "preferences"
_PLACES = {
    "palette": ("display", PAPER),
    "remember_settings": ("session", True),
    "results_folder": ("session", ""),
}
"""Category and default of each, as in the manifest."""

_begun = False


def begin() -> None:
    """Follow the preferences from now on; the first widget does so, once."""
    global _begun
    if _begun:
        return
    _begun = True
    settings = _napari_settings()
    if settings is not None:
        settings.display.events.palette.connect(_on_palette)
    if not os.environ.get(ENVIRONMENT):  # which goes before
        _on_palette()


def palette() -> str:
    """Return the name of the palette preferred."""
    found = _get("palette")
    return found if found in PALETTES else PAPER


def set_palette(name: str) -> None:
    """Prefer another palette, and draw in it at once."""
    _set("palette", name)
    _on_palette()


def remembers_settings() -> bool:
    """Tell whether widgets begin with the settings of their last run."""
    return bool(_get("remember_settings"))


def results_folder() -> str:
    """Return the folder that export dialogs begin in; empty for napari's own choice."""
    found = str(_get("results_folder") or "")
    return found if found and Path(found).expanduser().is_dir() else ""


def _get(name: str) -> Any:
    category, default = _PLACES[name]
    settings = _napari_settings()
    if settings is not None:
        return getattr(getattr(settings, category), name)
    return memory.recall(_SECTION).get(name, default)


def _set(name: str, value: Any) -> None:
    settings = _napari_settings()
    if settings is not None:
        setattr(getattr(settings, _PLACES[name][0]), name, value)
    else:
        memory.keep(_SECTION, {**memory.recall(_SECTION), name: value})


def _on_palette(event: Any = None) -> None:
    from napari_point_defects.napari_ui.colours import change_palette

    change_palette(palette())


def _napari_settings() -> Any:
    """Return napari's settings of this plugin; None where it keeps none. Tests replace this."""
    try:
        from napari.settings import get_plugin_settings
    except ImportError:  # napari before 0.9
        return None
    try:
        return get_plugin_settings(PLUGIN)
    except KeyError:  # not installed as a plugin
        return None
