"""A form made from the fields of a settings model: titles, tooltips, bounds and defaults."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError
from qtpy.QtCore import Qt, Signal
from qtpy.QtWidgets import (
    QCheckBox,
    QComboBox,
    QDoubleSpinBox,
    QFileDialog,
    QFormLayout,
    QHBoxLayout,
    QLabel,
    QLineEdit,
    QSpinBox,
    QToolButton,
    QVBoxLayout,
    QWidget,
)
from superqt import QCollapsible

from napari_point_defects.errors import PointDefectsError
from napari_point_defects.napari_ui.settings_editors import (
    LARGEST,
    ChoiceEditor,
    ChoicesEditor,
    IntegerEditor,
    NumberEditor,
    OptionalEditor,
    RangeEditor,
    TickEditor,
    WeightsEditor,
)

_UNIT = re.compile(r"\[([^]\s]+)\]")
"""A unit in a field's description."""
_NO_BOUND = 1e6


class FileField(QWidget):
    """A path with a browse button; empty means the default.

    Parameters
    ----------
    placeholder : str
        What an empty field stands for.
    """

    def __init__(self, placeholder: str) -> None:
        super().__init__()
        self.line = QLineEdit()
        self.line.setPlaceholderText(placeholder)
        browse = QToolButton()
        browse.setText("…")
        browse.setToolTip("Choose a file")
        browse.clicked.connect(self._browse)
        layout = QHBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(2)
        layout.addWidget(self.line)
        layout.addWidget(browse)

    def _browse(self) -> None:
        name, _ = QFileDialog.getOpenFileName(
            self, "Choose weights", self.line.text(), "Weights (*.safetensors);;All files (*)"
        )
        if name:
            self.line.setText(name)


class SettingsForm(QWidget):
    """Editors for some fields of a pydantic model.

    Parameters
    ----------
    model : type of BaseModel
    fields : sequence of str
        In the order shown.
    choices : mapping of str to sequence, optional
        Values to choose from, for text fields that do not list their own.
    empty : mapping of str to str, optional
        What an optional field shows while it is None.
    editors : mapping of str to callable, optional
        Make the editors of fields that have one of their own, with ``get``, ``set``, ``changed``.
    exact : bool
        Edit numbers so that those set are kept to the last digit, and the wheel scrolls the form.
    """

    changed = Signal()
    """An exact editor holds another value."""

    def __init__(
        self,
        model: type[BaseModel],
        fields: Sequence[str],
        *,
        choices: Mapping[str, Sequence[str]] | None = None,
        empty: Mapping[str, str] | None = None,
        editors: Mapping[str, Callable[[], QWidget]] | None = None,
        exact: bool = False,
    ) -> None:
        super().__init__()
        self.model = model
        self.layout_ = QFormLayout(self)
        self.layout_.setContentsMargins(0, 0, 0, 0)
        self.layout_.setFieldGrowthPolicy(QFormLayout.FieldGrowthPolicy.AllNonFixedFieldsGrow)
        self.layout_.setLabelAlignment(Qt.AlignmentFlag.AlignLeft)
        properties = model.model_json_schema()["properties"]
        self.editors: dict[str, QWidget] = {}
        for name in fields:
            schema = _flat(properties[name])
            options = schema.get("enum") or (choices or {}).get(name)
            if name in (editors or {}):
                editor = editors[name]()
                editor.changed.connect(self.changed)
            elif exact:
                editor = _exact_editor(schema, options)
                editor.changed.connect(self.changed)
            else:
                editor = _editor(schema, options, (empty or {}).get(name, "default"))
            tooltip = tooltip_of(schema)
            editor.setToolTip(tooltip)
            label = QLabel("" if isinstance(editor, QCheckBox) else schema["title"])
            label.setBuddy(editor)
            if isinstance(editor, QCheckBox):
                editor.setText(schema["title"])
            label.setToolTip(tooltip)
            self.layout_.addRow(label, editor)
            self.editors[name] = editor
        self.set_values({name: properties[name].get("default") for name in fields})

    def side_by_side(self) -> None:
        """Put the editors next to each other under their titles."""
        row = QHBoxLayout()
        for editor in self.editors.values():
            label = self.layout_.labelForField(editor)
            column = QVBoxLayout()
            column.setSpacing(1)
            column.addWidget(label)
            column.addWidget(editor)
            row.addLayout(column)
        self.layout_.addRow(row)

    def values(self) -> dict[str, Any]:
        """Return what the editors hold, by field name."""
        return {name: _get(editor) for name, editor in self.editors.items()}

    def set_values(self, values: Mapping[str, Any]) -> None:
        """Show other values."""
        for name, value in values.items():
            _set(self.editors[name], value)

    def set_empty_text(self, name: str, text: str) -> None:
        """Change what an optional number shows while it is None."""
        self.editors[name].setSpecialValueText(text)


def advanced_box(form: QWidget, title: str = "Advanced") -> QCollapsible:
    """Fold a form away under a title."""
    box = QCollapsible(title, expandedIcon="▾", collapsedIcon="▸")
    box.layout().setContentsMargins(0, 0, 0, 0)
    box.addWidget(form)
    return box


def make_settings(model: type[BaseModel], values: Mapping[str, Any]) -> BaseModel:
    """Build the settings.

    Raises
    ------
    PointDefectsError
        With one line that names the field, if a value is not allowed.
    """
    try:
        return model(**values)
    except ValidationError as error:
        first = error.errors()[0]
        name = str(first["loc"][0]) if first["loc"] else ""
        title = model.model_fields[name].title if name in model.model_fields else name
        raise PointDefectsError(f"{title or name}: {first['msg']}") from error


def _flat(schema: Mapping[str, Any]) -> dict[str, Any]:
    """Merge the type of an optional field into its schema."""
    flat = dict(schema)
    options = flat.pop("anyOf", [])
    for option in options:
        if option.get("type") == "null":
            flat["nullable"] = True
        else:
            flat = {**option, **flat}
    return flat


def tooltip_of(schema: Mapping[str, Any]) -> str:
    """Return a field's description, bounds and default as markup, so that Qt wraps it."""
    text = f"<p>{escape(schema.get('description', ''), quote=False)}</p>"
    if schema.get("type") not in ("integer", "number"):
        return text
    unit = _unit_of(schema)
    low, over = schema.get("minimum"), schema.get("exclusiveMinimum")
    high, under = schema.get("maximum"), schema.get("exclusiveMaximum")
    # what is only kept from overflowing is no bound for a person
    bounds = [
        f"{sign} {bound:g}"
        for sign, bound in (("≥", low), (">", over), ("≤", high), ("<", under))
        if bound is not None and abs(bound) < _NO_BOUND
    ]
    default = schema.get("default")
    known = [f"{', '.join(bounds)}"] if bounds else []
    known += [f"default {default:g}"] if isinstance(default, int | float) else []
    line = "; ".join(known) + (f" {unit}" if unit and known else "")
    return f"{text}<p>{escape(line, quote=False)}</p>" if line else text


def _unit_of(schema: Mapping[str, Any]) -> str:
    """Return the unit that a field's description gives in brackets, or nothing."""
    found = _UNIT.search(schema.get("description", ""))
    return found.group(1) if found else ""


def _editor(schema: Mapping[str, Any], options: Sequence[str] | None, empty: str) -> QWidget:
    if options:
        editor = QComboBox()
        editor.addItems([str(option) for option in options])
        return editor
    kind, text_format = schema.get("type"), schema.get("format", "")
    if kind == "boolean":
        return QCheckBox()
    if kind == "string" and "path" in text_format:
        return FileField(empty)
    if kind not in ("integer", "number"):
        return QLineEdit()
    low = schema.get("minimum", schema.get("exclusiveMinimum", 0))
    high = schema.get("maximum", schema.get("exclusiveMaximum", 1e6))
    if kind == "integer":
        editor = QSpinBox()
        editor.setRange(int(low), int(high))
    else:
        editor = QDoubleSpinBox()
        fine = schema.get("nullable") or high <= 0.2
        editor.setDecimals(5 if fine else 2)
        editor.setSingleStep(0.0005 if fine else 0.05)
        editor.setRange(0.0 if schema.get("nullable") else low, high)
    if unit := _unit_of(schema):
        editor.setSuffix(f" {unit}")
    if schema.get("nullable"):
        editor.setSpecialValueText(empty)
    editor.setProperty("nullable", bool(schema.get("nullable")))
    return editor


def _exact_editor(schema: Mapping[str, Any], options: Sequence[str] | None) -> QWidget:
    kind, default = schema.get("type"), schema.get("default")
    if kind == "boolean":
        return TickEditor()
    if kind == "string":
        return ChoiceEditor(options or ())
    if kind == "integer":
        return IntegerEditor(schema.get("minimum", 0))
    unit = _unit_of(schema)
    if kind == "number":
        return NumberEditor(*_bounds(schema), typical=default or 1.0, unit=unit)
    parts = schema.get("prefixItems")
    if parts is None:
        return ChoicesEditor(options or schema["items"]["enum"])
    low, high = _bounds(parts[0])
    if len(parts) != 2:
        return WeightsEditor(options, low, high)
    typical = min((abs(value) for value in default or () if value), default=1.0)
    editor = RangeEditor(low, high, typical=typical, unit=unit)
    return OptionalEditor(editor) if schema.get("nullable") else editor


def _bounds(schema: Mapping[str, Any]) -> tuple[float, float]:
    low = schema.get("minimum", schema.get("exclusiveMinimum", -LARGEST))
    return low, schema.get("maximum", schema.get("exclusiveMaximum", LARGEST))


def _get(editor: QWidget) -> Any:
    if hasattr(editor, "get"):
        return editor.get()
    if isinstance(editor, QComboBox):
        return editor.currentText()
    if isinstance(editor, QCheckBox):
        return editor.isChecked()
    if isinstance(editor, FileField):
        return Path(text).expanduser() if (text := editor.line.text().strip()) else None
    if isinstance(editor, QLineEdit):
        return editor.text()
    value = editor.value()
    return None if editor.property("nullable") and value == editor.minimum() else value


def _set(editor: QWidget, value: Any) -> None:
    if hasattr(editor, "set"):
        editor.set(value)
        return
    if isinstance(editor, QComboBox):
        editor.setCurrentText(str(value))
    elif isinstance(editor, QCheckBox):
        editor.setChecked(bool(value))
    elif isinstance(editor, FileField):
        editor.line.setText("" if value is None else str(value))
    elif isinstance(editor, QLineEdit):
        editor.setText("" if value is None else str(value))
    else:
        editor.setValue(editor.minimum() if value is None else value)
