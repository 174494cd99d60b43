"""Choose which cells are shown by state, doubt and confidence; the legend chooses by class."""

from __future__ import annotations

from collections.abc import Mapping

from qtpy.QtCore import QPointF, QRectF, QSize, Qt, Signal
from qtpy.QtGui import QColor, QIcon, QPainter, QPen, QPixmap, QPolygonF
from qtpy.QtWidgets import (
    QCheckBox,
    QFormLayout,
    QGridLayout,
    QHBoxLayout,
    QLabel,
    QPushButton,
    QWidget,
)
from superqt import QLabeledDoubleRangeSlider

from napari_point_defects.materials import DefectClass
from napari_point_defects.napari_ui.cell_filter import CellFilter
from napari_point_defects.napari_ui.cell_layers import RIM_COLOURS, STATE_MARKS, UNSURE_MARK
from napari_point_defects.napari_ui.palette_box import PaletteBox
from napari_point_defects.palettes import colours_in_use

_ICON_PX = 14
_OUTLINE = "#707070"
_TOOLTIPS = {
    "predicted": "The network's, and nobody has looked at them yet",
    "confirmed": "You agreed with the network, or moved the cell",
    "corrected": "You changed the class",
    "added": "You added the cell, or the network no longer finds it",
}


class FilterPanel(QWidget):
    """Checkboxes for the states and a slider for the confidence."""

    changed = Signal()
    reset_requested = Signal()

    def __init__(self) -> None:
        super().__init__()
        self.states: dict[str, QCheckBox] = {}
        grid = QGridLayout()
        grid.setContentsMargins(0, 0, 0, 0)
        grid.setHorizontalSpacing(12)
        for i, state in enumerate(STATE_MARKS):
            box = QCheckBox(state)
            box.setIcon(state_icon(state))
            box.setIconSize(QSize(_ICON_PX, _ICON_PX))
            box.setChecked(True)
            box.setToolTip(f"<p>{_TOOLTIPS[state]}. Untick to hide them.</p>")
            box.setFocusPolicy(Qt.FocusPolicy.NoFocus)
            box.toggled.connect(self.changed)
            self.states[state] = box
            grid.addWidget(box, i // 2, i % 2)
        self.unsure = QCheckBox("only unsure ones")
        self.unsure.setIcon(unsure_icon())
        self.unsure.setIconSize(QSize(_ICON_PX, _ICON_PX))
        self.unsure.setFocusPolicy(Qt.FocusPolicy.NoFocus)
        self.unsure.setToolTip(
            "<p>Show only the hollow marks: cells that the network is unsure of and you have not "
            "decided on. How probable a class must be is set under <i>Unsure below</i>.</p>"
        )
        self.unsure.toggled.connect(self.changed)
        self.confidence = QLabeledDoubleRangeSlider(Qt.Orientation.Horizontal)
        self.confidence.setRange(0, 1)
        self.confidence.setValue((0, 1))
        self.confidence.setDecimals(2)
        # the two values beside the slider: above it they would be cut off at its ends
        self.confidence.setHandleLabelPosition(QLabeledDoubleRangeSlider.LabelPosition.NoLabel)
        self.confidence.setEdgeLabelMode(QLabeledDoubleRangeSlider.EdgeLabelMode.LabelIsValue)
        self.confidence.setToolTip(
            "<p>Show the cells whose class the network is this sure of, 0 to 1. Cells that it "
            "never saw are always shown.</p>"
        )
        self.confidence.valueChanged.connect(self.changed)
        self.palette_box = PaletteBox()
        self.count = QLabel()
        self.reset_button = QPushButton("Show all")
        self.reset_button.setFocusPolicy(Qt.FocusPolicy.NoFocus)
        self.reset_button.clicked.connect(self.reset_requested)
        row = QHBoxLayout()
        row.addWidget(self.count, stretch=1)
        row.addWidget(self.reset_button)
        form = QFormLayout(self)
        form.setContentsMargins(0, 0, 0, 0)
        form.setVerticalSpacing(4)
        form.addRow(grid)
        form.addRow(self.unsure)
        form.addRow("Confidence", self.confidence)
        form.addRow("Colours", self.palette_box)
        form.addRow(row)

    def recolour(self) -> None:
        """Draw the marks in the palette in use."""
        for state, box in self.states.items():
            box.setIcon(state_icon(state))
        self.unsure.setIcon(unsure_icon())

    def filter(self, hidden: set[str]) -> CellFilter:
        """Return what is to be shown, with the classes that the legend hides."""
        low, high = self.confidence.value()
        states = frozenset(state for state, box in self.states.items() if box.isChecked())
        return CellFilter(
            frozenset(hidden), states, (round(low, 4), round(high, 4)), self.unsure.isChecked()
        )

    def reset(self) -> None:
        """Show all states and confidences; says so once."""
        self.blockSignals(True)
        for box in self.states.values():
            box.setChecked(True)
        self.unsure.setChecked(False)
        self.confidence.setValue((0, 1))
        self.blockSignals(False)
        self.changed.emit()

    def show_counts(
        self, counts: Mapping[str, int], n_shown: int, n_cells: int, n_unsure: int
    ) -> None:
        """Say how many cells there are of each state, how many are unsure, and how many shown."""
        self.unsure.setText(f"only unsure ones {n_unsure:,}")
        for state, box in self.states.items():
            box.setText(f"{state} {counts.get(state, 0):,}")
        self.count.setText(f"{n_shown:,} of {n_cells:,} cells shown")
        self.reset_button.setEnabled(n_shown < n_cells)


def unsure_icon() -> QIcon:
    """Draw the mark of an unsure cell as it looks in the layer."""
    side = 2 * _ICON_PX
    pixmap = QPixmap(side, side)
    pixmap.fill(Qt.GlobalColor.transparent)
    painter = QPainter(pixmap)
    painter.setRenderHint(QPainter.RenderHint.Antialiasing)
    pen = QPen(QColor(colours_in_use()[DefectClass.V_X1]))
    pen.setWidthF(UNSURE_MARK.rim * side)
    painter.setPen(pen)
    margin = UNSURE_MARK.rim * side / 2 + 1
    painter.drawEllipse(pixmap.rect().toRectF().adjusted(margin, margin, -margin, -margin))
    painter.end()
    return QIcon(pixmap)


def state_icon(state: str) -> QIcon:
    """Draw a state's mark as it looks in the layer."""
    look = STATE_MARKS[state]
    side = 2 * _ICON_PX  # twice as fine, for dense screens
    pixmap = QPixmap(side, side)
    pixmap.fill(Qt.GlobalColor.transparent)
    painter = QPainter(pixmap)
    painter.setRenderHint(QPainter.RenderHint.Antialiasing)
    rim = look.rim * side
    margin = rim / 2 + 2
    inside = pixmap.rect().toRectF().adjusted(margin, margin, -margin, -margin)
    painter.setBrush(QColor(colours_in_use()[DefectClass.V_X1]))
    # a white rim is not seen on a light window without a line about it
    for colour, width in ((_OUTLINE, rim + 3), (RIM_COLOURS[state], rim)):
        pen = QPen(QColor(colour))
        pen.setWidthF(width)
        pen.setJoinStyle(Qt.PenJoinStyle.MiterJoin)
        painter.setPen(pen)
        _draw_symbol(painter, look.symbol, inside)
    painter.end()
    return QIcon(pixmap)


def _draw_symbol(painter: QPainter, symbol: str, inside: QRectF) -> None:
    middle = inside.center()
    if symbol == "diamond":
        top, right = QPointF(middle.x(), inside.top()), QPointF(inside.right(), middle.y())
        bottom, left = QPointF(middle.x(), inside.bottom()), QPointF(inside.left(), middle.y())
        painter.drawPolygon(QPolygonF([top, right, bottom, left]))
    elif symbol == "square":
        painter.drawRect(inside)
    else:
        painter.drawEllipse(inside)
