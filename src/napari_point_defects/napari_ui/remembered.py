"""Widgets begin with the settings of their last run, and can go back to the defaults."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from napari.utils.notifications import show_warning
from pydantic import BaseModel, TypeAdapter, ValidationError
from qtpy.QtCore import QObject
from qtpy.QtWidgets import QComboBox, QToolButton, QWidget

from napari_point_defects.errors import PointDefectsError
from napari_point_defects.materials import get_material
from napari_point_defects.napari_ui import memory, preferences
from napari_point_defects.napari_ui.run_panel import RunPanel
from napari_point_defects.napari_ui.settings_form import SettingsForm

OF_ONE_IMAGE = frozenset(
    {
        "pixel_size_nm",
        "trust_pixel_size",
        "sublattice_rank",
        "dose_per_frame_e_nm2",
        "beam_current_pa",
        "dwell_us",
        "frame_time_s",
    }
)
"""Fields that belong to one recording: taken over to the next they would spoil its numbers."""

_MATERIAL = "material"
_TOOLTIP = (
    "<p>Back to the default settings. The widget begins with those of its last run, except for "
    "what belongs to one image, such as its pixel size; Preferences ▸ Point Defects turns that "
    "off.</p>"
)


@dataclass(frozen=True, slots=True)
class Part:
    """Something of a widget that holds settings.

    Attributes
    ----------
    get : callable
        Returns the values by name, ready for JSON.
    set : callable
        Shows values; raises where they are not allowed.
    """

    get: Callable[[], dict[str, Any]]
    set: Callable[[Mapping[str, Any]], None]


def form_part(form: SettingsForm) -> Part:
    """Return the fields of a form, each by itself: one that is not allowed spoils no other."""

    def get() -> dict[str, Any]:
        values = form.values()
        return {n: str(v) if isinstance(v, Path) else v for n, v in values.items()}

    def put(values: Mapping[str, Any]) -> None:
        refused = []
        for name in values.keys() & form.editors.keys():
            try:
                _set_field(form, name, values[name])
            except (PointDefectsError, TypeError, ValueError) as error:
                refused.append(f"{form.model.model_fields[name].title or name}: {error}")
        if refused:
            raise PointDefectsError("; ".join(sorted(refused)))

    return Part(get, put)


def editor_part(name: str, editor: QWidget) -> Part:
    """Return one editor with ``get`` and ``set``, or a combo box."""
    if isinstance(editor, QComboBox):
        read, write = editor.currentText, editor.setCurrentText
    else:
        read, write = editor.get, editor.set

    def put(values: Mapping[str, Any]) -> None:
        if name in values:
            before = read()
            if name == _MATERIAL:
                get_material(values[name])
            write(values[name])
            if read() != values[name]:
                write(before)
                raise PointDefectsError(f"{name} {values[name]!r} is not known")

    return Part(lambda: {name: read()}, put)


def _set_field(form: SettingsForm, name: str, value: Any) -> None:
    before = form.values()[name]
    allowed = _checked(form.model, name, value)
    if isinstance(allowed, Path) and not allowed.is_file():
        raise PointDefectsError(f"{allowed.name} is not there any more")
    form.set_values({name: allowed})
    shown = form.values()[name]
    if isinstance(allowed, str) and shown != allowed:
        form.set_values({name: before})
        raise PointDefectsError(f"{allowed!r} is not known")


def _checked(model: type[BaseModel], name: str, value: Any) -> Any:
    """Return the value of one field as the model would hold it, whatever the others are."""
    field = model.model_fields[name]
    try:
        allowed = TypeAdapter(Annotated[field.annotation, field]).validate_python(value)
    except ValidationError as error:
        raise PointDefectsError(error.errors()[0]["msg"]) from error
    if name == _MATERIAL:
        get_material(allowed)  # its editor takes any
    return allowed


class Remembered(QObject):
    """Keeps the settings of a widget from one session to the next.

    Parameters
    ----------
    name : str
        Of the widget, in the file.
    run : RunPanel
        Each of its runs keeps the settings; gets a button that resets them.
    parts : Part
    """

    def __init__(self, name: str, run: RunPanel, *parts: Part) -> None:
        super().__init__(run)
        self._name, self._parts = name, parts
        self._defaults = [part.get() for part in parts]
        self.button = QToolButton()
        self.button.setText("↺")
        self.button.setAccessibleName("Reset settings")
        self.button.setToolTip(_TOOLTIP)
        self.button.clicked.connect(self.reset)
        run.add_beside(self.button)
        run.started.connect(self.keep)
        self.restore()

    def keep(self) -> None:
        """Keep what is shown, unless the user does not want it."""
        if preferences.remembers_settings():
            values = {n: v for part in self._parts for n, v in part.get().items()}
            memory.keep(self._name, {n: v for n, v in values.items() if n not in OF_ONE_IMAGE})

    def restore(self) -> None:
        """Show what was kept; say what of it cannot be used any more."""
        if not preferences.remembers_settings():
            return
        found = memory.recall(self._name)
        found = {n: v for n, v in found.items() if n not in OF_ONE_IMAGE}
        refused = []
        for part in self._parts if found else ():
            try:
                part.set(found)
            except (PointDefectsError, TypeError, ValueError, KeyError) as error:
                refused.append(" ".join(str(error).split()))
        if refused:
            show_warning(f"Not all of the last settings can be used: {'; '.join(refused)}")

    def reset(self) -> None:
        """Show the defaults, and forget what was kept."""
        memory.forget(self._name)
        for part, values in zip(self._parts, self._defaults, strict=True):
            part.set(values)
