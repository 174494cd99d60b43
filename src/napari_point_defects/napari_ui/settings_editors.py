"""Editors for one setting: numbers that stay exact, ranges, several choices, optional values.

Each has ``get``, ``set`` and a signal ``changed``. What was set is what one gets until the user
edits it, though fewer digits are shown.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from qtpy.QtCore import QLocale, QSize, Qt, Signal
from qtpy.QtGui import QWheelEvent
from qtpy.QtWidgets import (
    QAbstractSpinBox,
    QCheckBox,
    QComboBox,
    QDoubleSpinBox,
    QFileDialog,
    QGridLayout,
    QHBoxLayout,
    QLabel,
    QLineEdit,
    QToolButton,
    QWidget,
)
from superqt import QLargeIntSpinBox

_USUAL = "00000.00"
_FRAME_PX = 30
LARGEST = 1e15
"""Bound of a number that has none."""
_SHOWN_DIGITS = 6
_EXACT_DECIMALS = 30  # more than a double has, for every number of a sensible size
_NARROW = "min-width: 46px; padding-left: 5px; padding-right: 5px;"
"""napari's own spin boxes are too wide for two in a row of a dock."""


class _NoWheel:
    """Leaves the wheel to the form's scroll bar, unless the editor has the focus."""

    def wheelEvent(self, event: QWheelEvent) -> None:
        if self.hasFocus():
            super().wheelEvent(event)
        else:
            event.ignore()


class NumberEditor(_NoWheel, QDoubleSpinBox):
    """A number; an arrow changes its second digit.

    Parameters
    ----------
    low, high : float
        Bounds.
    typical : float
        A small value, which says how fine the smallest steps are.
    unit : str
        Shown behind the number.
    """

    changed = Signal()

    def __init__(
        self, low: float = -LARGEST, high: float = LARGEST, *, typical: float = 1.0, unit: str = ""
    ) -> None:
        super().__init__()
        self._smallest_step = 10.0 ** (math.floor(math.log10(abs(typical) or 1.0)) - 1)
        # the digits on the screen are those that the validator reads
        locale = QLocale.c()
        locale.setNumberOptions(QLocale.NumberOption.OmitGroupSeparator)
        self.setLocale(locale)
        self.setDecimals(_EXACT_DECIMALS)
        self.setRange(low, high)
        self.setSuffix(f" {unit}" if unit else "")
        self.setFocusPolicy(Qt.FocusPolicy.StrongFocus)
        self.setStyleSheet(f"QDoubleSpinBox {{ {_NARROW} }}")
        self.valueChanged.connect(lambda _: self.changed.emit())

    def get(self) -> float:
        """Return the number."""
        return self.value()

    def set(self, value: float) -> None:
        """Show another number."""
        self.setValue(value)

    def sizeHint(self) -> QSize:
        """Ask for the room of usual numbers; Qt would take that of the largest."""
        return self._usual(super().sizeHint())

    def minimumSizeHint(self) -> QSize:
        """Insist on no more."""
        return self._usual(super().minimumSizeHint())

    def _usual(self, hint: QSize) -> QSize:
        width = self.fontMetrics().horizontalAdvance(f"{_USUAL}{self.suffix()}")
        return QSize(min(hint.width(), width + _FRAME_PX), hint.height())

    def textFromValue(self, value: float) -> str:
        """Show a few digits, never an exponent."""
        return np.format_float_positional(float(f"{value:.{_SHOWN_DIGITS}g}"), trim="-")

    def valueFromText(self, text: str) -> float:
        """Read what was typed; digits that are not shown are not lost by leaving the field."""
        plain = text.removesuffix(self.suffix()).strip()
        if plain == self.textFromValue(self.value()):
            return self.value()
        return super().valueFromText(text)

    def stepBy(self, steps: int) -> None:
        """Go by a tenth of the leading digit."""
        value = self.value()
        size = 10.0 ** (math.floor(math.log10(abs(value))) - 1) if value else 0.0
        size = max(size, self._smallest_step)  # so that steps reach 0
        self.setValue(round(value / size + steps) * size)
        self.selectAll()


class IntegerEditor(_NoWheel, QLargeIntSpinBox):
    """A whole number of any size."""

    changed = Signal()

    def __init__(self, low: int = 0, high: int = 2**128) -> None:
        super().__init__()
        self.setRange(low, high)
        self.setFocusPolicy(Qt.FocusPolicy.StrongFocus)
        self.valueChanged.connect(lambda *_: self.changed.emit())

    def get(self) -> int:
        """Return the number."""
        return int(self.value())

    def set(self, value: int) -> None:
        """Show another number."""
        self.setValue(value)


class RangeEditor(QWidget):
    """A lowest and a highest value."""

    changed = Signal()

    def __init__(
        self, low: float, high: float, *, typical: float = 1.0, unit: str = "", parent=None
    ) -> None:
        super().__init__(parent)
        self.low = NumberEditor(low, high, typical=typical)
        self.high = NumberEditor(low, high, typical=typical)
        layout = _row(self)
        layout.addWidget(self.low, 1)
        layout.addWidget(QLabel("–"))
        layout.addWidget(self.high, 1)
        unit_label = QLabel(unit)
        unit_label.setMinimumWidth(22)
        layout.addWidget(unit_label)
        for editor in (self.low, self.high):
            # the arrows would take the room of the numbers; keys and wheel do as well
            editor.setButtonSymbols(QAbstractSpinBox.ButtonSymbols.NoButtons)
            editor.changed.connect(self.changed)

    def get(self) -> tuple[float, float]:
        """Return both ends."""
        return self.low.get(), self.high.get()

    def set(self, value: Sequence[float]) -> None:
        """Show other ends."""
        self.low.set(value[0])
        self.high.set(value[1])


class ChoicesEditor(QWidget):
    """Any of some values, each with a box to tick."""

    changed = Signal()

    def __init__(self, options: Sequence[Any], columns: int = 3) -> None:
        super().__init__()
        self.boxes: dict[Any, QCheckBox] = {}
        self._columns = columns
        self._given: tuple[Any, ...] = ()
        layout = QGridLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(2)
        for option in options:
            self.add_option(option)

    def add_option(self, option: Any) -> None:
        """Offer one more value."""
        box = QCheckBox(str(option))
        self.layout().addWidget(box, *self._place(len(self.boxes)))
        self.boxes[option] = box
        box.toggled.connect(lambda _: self.changed.emit())

    def _place(self, index: int) -> tuple[int, int]:
        """Return the row and the column of the grid that a number stands for."""
        return divmod(index, self._columns)

    def get(self) -> tuple[Any, ...]:
        """Return the ticked values, in the order they were set if those are the same."""
        ticked = tuple(option for option, box in self.boxes.items() if box.isChecked())
        return self._given if set(self._given) == set(ticked) else ticked

    def set(self, value: Sequence[Any]) -> None:
        """Tick others; what is no option is left out."""
        self._given = tuple(value)
        for option, box in self.boxes.items():
            box.setChecked(option in self._given)


class WeightsEditor(QWidget):
    """A number for each of some names."""

    changed = Signal()

    def __init__(self, names: Sequence[str], low: float, high: float) -> None:
        super().__init__()
        self.numbers = [NumberEditor(low, high) for _ in names]
        layout = QGridLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(2)
        for i, (name, number) in enumerate(zip(names, self.numbers, strict=True)):
            number.setButtonSymbols(QAbstractSpinBox.ButtonSymbols.NoButtons)
            number.changed.connect(self.changed)
            layout.addWidget(QLabel(name), i, 0)
            layout.addWidget(number, i, 1)

    def get(self) -> tuple[float, ...]:
        """Return the numbers."""
        return tuple(number.get() for number in self.numbers)

    def set(self, value: Sequence[float]) -> None:
        """Show other numbers."""
        for number, weight in zip(self.numbers, value, strict=True):
            number.set(weight)


class OptionalEditor(QWidget):
    """Another editor with a box to tick; None where it is not ticked."""

    changed = Signal()

    def __init__(self, editor: QWidget) -> None:
        super().__init__()
        self.box, self.editor = QCheckBox(), editor
        layout = _row(self)
        layout.addWidget(self.box)
        layout.addWidget(editor, 1)
        self.box.toggled.connect(editor.setEnabled)
        self.box.toggled.connect(lambda _: self.changed.emit())
        editor.changed.connect(self.changed)
        editor.setEnabled(False)

    def get(self) -> Any:
        """Return the editor's value, or None."""
        return self.editor.get() if self.box.isChecked() else None

    def set(self, value: Any) -> None:
        """Show another value; None keeps the editor's, switched off."""
        if value is not None:
            self.editor.set(value)
        self.box.setChecked(value is not None)


class TickEditor(QCheckBox):
    """Yes or no."""

    changed = Signal()

    def __init__(self) -> None:
        super().__init__()
        self.toggled.connect(lambda _: self.changed.emit())

    def get(self) -> bool:
        """Tell whether it is ticked."""
        return self.isChecked()

    def set(self, value: bool) -> None:
        """Tick it or not."""
        self.setChecked(value)


class ChoiceEditor(_NoWheel, QComboBox):
    """One of some names; another one that is set is added."""

    changed = Signal()

    def __init__(self, options: Sequence[str]) -> None:
        super().__init__()
        self.addItems(options)
        self.setFocusPolicy(Qt.FocusPolicy.StrongFocus)
        self.setMinimumContentsLength(6)
        self.currentIndexChanged.connect(lambda _: self.changed.emit())

    def get(self) -> str:
        """Return the name."""
        return self.currentText()

    def set(self, value: str) -> None:
        """Choose another name."""
        if self.findText(value, Qt.MatchFlag.MatchExactly | Qt.MatchFlag.MatchCaseSensitive) < 0:
            self.addItem(value)
        self.setCurrentIndex(
            self.findText(value, Qt.MatchFlag.MatchExactly | Qt.MatchFlag.MatchCaseSensitive)
        )


class FolderEditor(QWidget):
    """A folder that need not exist yet."""

    changed = Signal()

    def __init__(self, placeholder: str) -> None:
        super().__init__()
        self.line = QLineEdit()
        self.line.setPlaceholderText(placeholder)
        self.line.textChanged.connect(lambda _: self.changed.emit())
        browse = QToolButton()
        browse.setText("…")
        browse.setToolTip("Choose a folder, or make a new one")
        browse.clicked.connect(self._browse)
        layout = _row(self)
        layout.addWidget(self.line)
        layout.addWidget(browse)

    def get(self) -> Path | None:
        """Return the folder."""
        text = self.line.text().strip()
        return Path(text).expanduser() if text else None

    def set(self, value: Path | None) -> None:
        """Show another folder."""
        self.line.setText("" if value is None else str(value))

    def _browse(self) -> None:
        name = QFileDialog.getExistingDirectory(self, "Output folder", self.line.text())
        if name:
            self.line.setText(name)


def _row(widget: QWidget) -> QHBoxLayout:
    layout = QHBoxLayout(widget)
    layout.setContentsMargins(0, 0, 0, 0)
    layout.setSpacing(3)
    return layout
