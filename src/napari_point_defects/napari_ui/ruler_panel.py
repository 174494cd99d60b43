"""Say how long a drawn line is."""

from __future__ import annotations

from qtpy.QtCore import Signal
from qtpy.QtWidgets import QComboBox, QGridLayout, QLabel, QPushButton, QWidget

from napari_point_defects.materials import Material
from napari_point_defects.napari_ui.settings_editors import NumberEditor
from napari_point_defects.napari_ui.size_editor import UNITS

LATTICE_CONSTANTS = "lattice constants"


class RulerPanel(QWidget):
    """A button that lets one draw, the line's length, and a button that takes it."""

    draw_requested = Signal()
    set_requested = Signal()

    def __init__(self) -> None:
        super().__init__()
        self.draw = QPushButton("Draw a line")
        self.draw.setToolTip(
            "<p>Draw over a known length: drag the mouse, in the image's own scale bar or along a "
            "row of columns. The longer the line, the better.</p>"
        )
        self.line = QLabel()
        self.line.setWordWrap(True)
        self.length = NumberEditor(0, 1e9, typical=0.1)
        self.unit = QComboBox()
        self.unit.addItems([*UNITS, LATTICE_CONSTANTS])
        self.unit.setToolTip(
            "<p>Lattice constants: how many steps from one column to the next of its kind, along "
            "a row.</p>"
        )
        self.apply = QPushButton("Set from the line")
        layout = QGridLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(4)
        layout.addWidget(self.draw, 0, 0, 1, 3)
        layout.addWidget(self.line, 1, 0, 1, 3)
        layout.addWidget(QLabel("It is"), 2, 0)
        layout.addWidget(self.length, 2, 1)
        layout.addWidget(self.unit, 2, 2)
        layout.addWidget(self.apply, 3, 0, 1, 3)
        layout.setColumnStretch(1, 1)
        self.draw.clicked.connect(self.draw_requested)
        self.apply.clicked.connect(self.set_requested)
        self.show_line("", False)

    def show_line(self, text: str, is_drawn: bool) -> None:
        """Describe the line; it can be taken once it is drawn."""
        self.line.setText(text)
        self.line.setVisible(bool(text))
        self.apply.setEnabled(is_drawn)

    def length_nm(self, material: Material) -> float:
        """Return how long the line is said to be [nm]."""
        unit = UNITS.get(self.unit.currentText(), material.lattice_constant_nm)
        return self.length.get() * unit
