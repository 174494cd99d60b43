"""The legend of classes: colour, key, count, fraction, density, doubt; set, show and hide."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache, partial

from qtpy.QtCore import QSize, Qt, Signal
from qtpy.QtGui import QColor, QFont, QIcon, QPainter, QPixmap
from qtpy.QtWidgets import QCheckBox, QGridLayout, QLabel, QSizePolicy, QToolButton, QWidget

from napari_point_defects.census import NM2_PER_CM2, Census, count_interval
from napari_point_defects.materials import CLASS_DESCRIPTIONS, Material
from napari_point_defects.napari_ui.cell_layers import class_colours
from napari_point_defects.palettes import colours_in_use


@dataclass(frozen=True, slots=True)
class LegendRow:
    """One class as text.

    Attributes
    ----------
    count, fraction, density : str
        Number of cells, share of all in %, and number per nm².
    unsure : str
        How many of them the network is unsure of.
    tooltip : str
        The same in words, with the density per cm².
    """

    count: str
    fraction: str
    density: str
    tooltip: str
    unsure: str = "–"


def legend_rows(census: Census) -> dict[str, LegendRow]:
    """Write a census as rows of the legend, by class name."""
    material, area_nm2 = census.material, census.area_nm2
    rows = {}
    texts = CLASS_DESCRIPTIONS.values()
    counted = zip(material.class_labels, census.counts, census.unsure, texts, strict=True)
    for label, count, unsure, words in counted:
        words = words.format(x=material.chalcogen, m=material.metal)
        if not census.n_cells:
            rows[label] = LegendRow("0", "–", "–", f"<p><b>{label}</b>: {words}</p>")
            continue
        density = count / area_nm2
        low, high = (limit / area_nm2 * NM2_PER_CM2 for limit in _interval(int(count)))
        rows[label] = LegendRow(
            count=f"{count:,}",
            fraction=f"{100 * count / census.n_cells:.2f}",
            density=f"{density:#.3g}",
            unsure=f"{unsure:,}",
            tooltip=f"<p><b>{label}</b>: {words}.<br>{count:,} of {census.n_cells:,} cells<br>"
            f"{density:.3g} nm⁻² = {density * NM2_PER_CM2:.3g} cm⁻²<br>"
            f"95 % interval {low:.3g} to {high:.3g} cm⁻²<br>"
            f"{unsure:,} of them unsure (hollow marks)</p>",
        )
    return rows


@lru_cache(maxsize=1024)
def _interval(count: int) -> tuple[float, float]:
    """Remember intervals: after an edit all counts but two are the same."""
    return count_interval(count)


class ClassLegend(QWidget):
    """Shows one row per class; unticking a row hides its cells, clicking its name sets it."""

    hidden_changed = Signal(set)
    picked = Signal(str)

    _HEADERS = (
        ("class", ""),
        ("cells", "Number of unit cells, hidden ones too"),
        ("%", "Share of all unit cells, in per cent"),
        ("nm⁻²", "Number per square nanometre of the area counted"),
        ("unsure", "Cells that the network is unsure of and you have not decided on"),
    )

    def __init__(self, material: Material) -> None:
        super().__init__()
        self.boxes: dict[str, QCheckBox] = {}
        self.names: dict[str, QToolButton] = {}
        self.cells: dict[str, tuple[QLabel, QLabel, QLabel, QLabel]] = {}
        grid = QGridLayout(self)
        grid.setContentsMargins(0, 0, 0, 0)
        grid.setHorizontalSpacing(8)
        grid.setVerticalSpacing(0)
        grid.setColumnStretch(1, 1)
        for column, (text, tooltip) in enumerate(self._HEADERS):
            header = QLabel(f"<small>{text}</small>")
            header.setToolTip(tooltip)
            header.setAlignment(_LEFT if column == 0 else _RIGHT)
            grid.addWidget(header, 0, column + 1)
        for row, (label, colour) in enumerate(class_colours(material).items(), start=1):
            box = QCheckBox()
            box.setChecked(True)
            box.setFocusPolicy(Qt.FocusPolicy.NoFocus)
            box.toggled.connect(self._on_toggled)
            name = QToolButton()
            name.setText(f" {label}")
            name.setIcon(key_icon(colour, str(row)))
            name.setIconSize(QSize(_ICON_PX, _ICON_PX))
            name.setToolButtonStyle(Qt.ToolButtonStyle.ToolButtonTextBesideIcon)
            name.setAutoRaise(True)
            # the keys belong to the canvas: a click here must not take them away
            name.setFocusPolicy(Qt.FocusPolicy.NoFocus)
            name.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Fixed)
            name.clicked.connect(partial(self.picked.emit, label))
            numbers = tuple(QLabel("–") for _ in range(4))
            grid.addWidget(box, row, 0)
            grid.addWidget(name, row, 1)
            for column, number in enumerate(numbers, start=2):
                number.setAlignment(_RIGHT)
                grid.addWidget(number, row, column)
            self.boxes[label], self.names[label], self.cells[label] = box, name, numbers

    @property
    def hidden(self) -> set[str]:
        """Names of the classes that are not shown."""
        return {label for label, box in self.boxes.items() if not box.isChecked()}

    def show_rows(self, rows: Mapping[str, LegendRow]) -> None:
        """Show other numbers."""
        for label, row in rows.items():
            for number, text in zip(
                self.cells[label],
                (row.count, row.fraction, row.density, row.unsure),
                strict=True,
            ):
                number.setText(text)
                number.setToolTip(row.tooltip)
            self.boxes[label].setToolTip(f"{row.tooltip}<p>Untick to hide these cells.</p>")
            key = list(self.boxes).index(label) + 1
            self.names[label].setToolTip(
                f"{row.tooltip}<p>Click, or press {key}, to give the selected cells this class.</p>"
            )

    def recolour(self) -> None:
        """Take the colours of the palette in use."""
        colours = colours_in_use().values()
        for key, (name, colour) in enumerate(zip(self.names.values(), colours, strict=True), 1):
            name.setIcon(key_icon(colour, str(key)))

    def _on_toggled(self) -> None:
        self.hidden_changed.emit(self.hidden)


def key_icon(colour: str, text: str) -> QIcon:
    """Draw a disc of a colour with a key's name in it."""
    pixmap = QPixmap(2 * _ICON_PX, 2 * _ICON_PX)  # twice as fine, for dense screens
    pixmap.fill(Qt.GlobalColor.transparent)
    painter = QPainter(pixmap)
    painter.setRenderHint(QPainter.RenderHint.Antialiasing)
    fill = QColor(colour)
    painter.setBrush(fill)
    painter.setPen(QColor("#606060"))
    inside = pixmap.rect().adjusted(1, 1, -1, -1)
    painter.drawEllipse(inside)
    font = QFont()
    font.setPixelSize(int(1.4 * _ICON_PX))
    font.setBold(True)
    painter.setFont(font)
    painter.setPen(QColor("#000000" if fill.lightnessF() > _LIGHT else "#ffffff"))
    painter.drawText(inside, Qt.AlignmentFlag.AlignCenter, text)
    painter.end()
    return QIcon(pixmap)


_ICON_PX = 16
_LIGHT = 0.45
_LEFT = Qt.AlignmentFlag.AlignLeft | Qt.AlignmentFlag.AlignVCenter
_RIGHT = Qt.AlignmentFlag.AlignRight | Qt.AlignmentFlag.AlignVCenter
