"""Edit the height and width of a pixel by hand, in any unit of length."""

from __future__ import annotations

import math

from qtpy.QtCore import Signal
from qtpy.QtWidgets import QAbstractSpinBox, QCheckBox, QComboBox, QGridLayout, QLabel, QWidget

from napari_point_defects.napari_ui.settings_editors import NumberEditor

UNITS = {"nm": 1.0, "Å": 0.1, "pm": 1e-3, "µm": 1e3}
"""Length of each unit [nm]."""

_LARGEST = 1e9


class SizeEditor(QWidget):
    """Height and width in a unit; one of them where pixels are square."""

    changed = Signal()

    def __init__(self) -> None:
        super().__init__()
        self.height_, self.width_ = (NumberEditor(0, _LARGEST, typical=1e-3) for _ in range(2))
        for editor in (self.height_, self.width_):
            # the arrows would take the room of the numbers; keys and wheel do as well
            editor.setButtonSymbols(QAbstractSpinBox.ButtonSymbols.NoButtons)
        self.unit = QComboBox()
        self.unit.addItems(list(UNITS))
        self.square = QCheckBox("Square pixels")
        self.square.setToolTip("<p>Untick to give height and width apart.</p>")
        self._unit = 1.0
        layout = QGridLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(3)
        for column, (title, editor) in enumerate(
            (("Height", self.height_), ("Width", self.width_), ("", self.unit))
        ):
            layout.addWidget(QLabel(title), 0, column)
            layout.addWidget(editor, 1, column)
        layout.addWidget(self.square, 2, 0, 1, 3)
        layout.setColumnStretch(0, 1)
        layout.setColumnStretch(1, 1)
        self.square.toggled.connect(self._on_square)
        self.unit.currentTextChanged.connect(self._on_unit)
        self.height_.changed.connect(self._on_height)
        self.width_.changed.connect(self.changed)
        self.square.setChecked(True)

    def get_nm(self) -> tuple[float, float]:
        """Return height and width [nm]; 0 where nothing was given."""
        return self.height_.get() * self._unit, self.width_.get() * self._unit

    def set_nm(self, size_nm: tuple[float, float] | None) -> None:
        """Show another size, in the unit that is chosen; None for none."""
        height, width = size_nm or (0.0, 0.0)
        self.square.setChecked(math.isclose(height, width))
        self.height_.set(height / self._unit)
        self.width_.set(width / self._unit)

    def _on_height(self) -> None:
        if self.square.isChecked():
            self.width_.set(self.height_.get())
        self.changed.emit()

    def _on_square(self, square: bool) -> None:
        self.width_.setEnabled(not square)
        if square:
            self.width_.set(self.height_.get())

    def _on_unit(self, unit: str) -> None:
        size = self.get_nm()
        self._unit = UNITS[unit]
        for editor, length in zip((self.height_, self.width_), size, strict=True):
            editor.set(length / self._unit)
