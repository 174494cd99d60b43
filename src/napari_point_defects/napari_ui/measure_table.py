"""The table of *Measure image*: every line in sight, none scrolls or is cut off."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qtpy.QtCore import QEvent, QSize, Qt
from qtpy.QtGui import QColor
from qtpy.QtWidgets import QAbstractItemView, QHeaderView, QSizePolicy, QTableWidget
from qtpy.QtWidgets import QTableWidgetItem as Item

from napari_point_defects.measured_quantities import quantities
from napari_point_defects.napari_ui.run_panel import WARNING_COLOUR

if TYPE_CHECKING:
    from napari_point_defects.measured import Measurement
    from napari_point_defects.measured_quantities import Quantity

HEADINGS = ("Quantity", "Value", "95 % interval", "Unit")
ODD_COLOUR = WARNING_COLOUR
_RIGHT = Qt.AlignmentFlag.AlignRight | Qt.AlignmentFlag.AlignVCenter
_ROW_SPACE = 5
_BORDERS = 8
"""Room for borders that a style sheet draws, and no size tells of."""


class MeasureTable(QTableWidget):
    """Quantities in groups, as tall and as wide as they need."""

    def __init__(self) -> None:
        super().__init__(0, len(HEADINGS))
        self.setHorizontalHeaderLabels(HEADINGS)
        self.verticalHeader().hide()
        header = self.horizontalHeader()
        header.setSectionResizeMode(QHeaderView.ResizeMode.ResizeToContents)
        header.setSectionResizeMode(0, QHeaderView.ResizeMode.Stretch)
        header.setSectionsClickable(False)
        header.setHighlightSections(False)
        self.setEditTriggers(QAbstractItemView.EditTrigger.NoEditTriggers)
        self.setSelectionMode(QAbstractItemView.SelectionMode.NoSelection)
        self.setFocusPolicy(Qt.FocusPolicy.NoFocus)
        self.setShowGrid(False)
        self.setWordWrap(False)
        for policy in (self.setHorizontalScrollBarPolicy, self.setVerticalScrollBarPolicy):
            policy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        self.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Fixed)

    def show_measurement(self, found: Measurement, pixel_width_nm: float, material: str) -> None:
        """Show what was measured."""
        self.clearSpans()
        self.setRowCount(0)
        for title, rows in quantities(found, pixel_width_nm, material):
            self._add_title(title)
            for quantity in rows:
                self._add(quantity)
        self._fit()

    def lines(self) -> list[tuple[str, ...]]:
        """Return the text of every line, titles too."""
        rows = range(self.rowCount())
        items = [[self.item(row, column) for column in range(len(HEADINGS))] for row in rows]
        return [tuple(item.text() if item else "" for item in line) for line in items]

    def sizeHint(self) -> QSize:
        """Ask for the room that all lines need."""
        return QSize(self._least_width(), self.height())

    def showEvent(self, event: QEvent) -> None:
        """Fit once more: a table that was hidden did not know its style."""
        super().showEvent(event)
        self._fit()

    def changeEvent(self, event: QEvent) -> None:
        """Fit again to another font."""
        super().changeEvent(event)
        if event.type() in (QEvent.Type.FontChange, QEvent.Type.StyleChange):
            self._fit()

    def _add_title(self, title: str) -> None:
        row = self.rowCount()
        self.insertRow(row)
        item = Item(title)
        font = item.font()
        font.setBold(True)
        item.setFont(font)
        item.setFlags(Qt.ItemFlag.ItemIsEnabled)
        self.setItem(row, 0, item)
        self.setSpan(row, 0, 1, len(HEADINGS))

    def _add(self, quantity: Quantity) -> None:
        row = self.rowCount()
        self.insertRow(row)
        value, interval = quantity.written()
        name = f"  {quantity.name}"
        for column, text in enumerate((name, value, interval, quantity.unit)):
            item = Item(text)
            item.setToolTip(f"<p>{quantity.meaning}</p>")
            if column in (1, 2):
                item.setTextAlignment(_RIGHT)
            if quantity.is_odd:
                item.setForeground(QColor(ODD_COLOUR))
            self.setItem(row, column, item)

    def _fit(self) -> None:
        """Make every line as high, and the table as large, as its text."""
        self.ensurePolished()
        line = self.fontMetrics().height() + _ROW_SPACE
        self.verticalHeader().setMinimumSectionSize(line)
        self.verticalHeader().setDefaultSectionSize(line)
        for row in range(self.rowCount()):
            self.setRowHeight(row, line)
        frame = 2 * self.frameWidth()
        height = self.horizontalHeader().sizeHint().height() + self.rowCount() * line + frame
        self.setFixedHeight(height)
        self.setMinimumWidth(self._least_width())
        self.updateGeometry()

    def _least_width(self) -> int:
        columns = range(len(HEADINGS))
        header = self.horizontalHeader()
        widths = (max(self.sizeHintForColumn(c), header.sectionSizeHint(c)) for c in columns)
        return sum(widths) + 2 * self.frameWidth() + _BORDERS
