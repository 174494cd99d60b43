"""The legend of classes: colour, count, fraction, density, show and hide."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from qtpy.QtCore import Qt, Signal
from qtpy.QtWidgets import QCheckBox, QGridLayout, QLabel, QSizePolicy, QWidget

from napari_point_defects.census import NM2_PER_CM2, Census, count_interval
from napari_point_defects.materials import Material
from napari_point_defects.napari_ui.cell_layers import class_colours

_DESCRIPTIONS = (
    "complete",
    "one {x} atom missing",
    "both {x} atoms of a column missing",
    "the {m} atom missing",
    "one {x} and the {m} atom missing",
    "two {x} and the {m} atom missing",
)


@dataclass(frozen=True, slots=True)
class LegendRow:
    """One class as text.

    Attributes
    ----------
    count, fraction, density : str
        Number of cells, share of all in %, and number per nm².
    tooltip : str
        The same in words, with the density per cm².
    """

    count: str
    fraction: str
    density: str
    tooltip: str


def legend_rows(census: Census) -> dict[str, LegendRow]:
    """Write a census as rows of the legend, by class name."""
    material, area_nm2 = census.material, census.area_nm2
    rows = {}
    counted = zip(material.class_labels, census.counts, _DESCRIPTIONS, strict=True)
    for label, count, words in counted:
        words = words.format(x=material.chalcogen, m=material.metal)
        if not census.n_cells:
            rows[label] = LegendRow("0", "–", "–", f"<p><b>{label}</b>: {words}</p>")
            continue
        density = count / area_nm2
        low, high = (limit / area_nm2 * NM2_PER_CM2 for limit in count_interval(int(count)))
        rows[label] = LegendRow(
            count=f"{count:,}",
            fraction=f"{100 * count / census.n_cells:.2f}",
            density=f"{density:#.3g}",
            tooltip=f"<p><b>{label}</b>: {words}.<br>{count:,} of {census.n_cells:,} cells<br>"
            f"{density:.3g} nm⁻² = {density * NM2_PER_CM2:.3g} cm⁻²<br>"
            f"95 % interval {low:.3g} to {high:.3g} cm⁻²</p>",
        )
    return rows


class ClassLegend(QWidget):
    """Shows one row per class; unticking a row hides its cells."""

    hidden_changed = Signal(set)

    _HEADERS = (
        ("class", ""),
        ("cells", "Number of unit cells"),
        ("%", "Share of all unit cells, in per cent"),
        ("nm⁻²", "Number per square nanometre of the area counted"),
    )

    def __init__(self, material: Material) -> None:
        super().__init__()
        self.boxes: dict[str, QCheckBox] = {}
        self.cells: dict[str, tuple[QLabel, QLabel, QLabel]] = {}
        grid = QGridLayout(self)
        grid.setContentsMargins(0, 0, 0, 0)
        grid.setHorizontalSpacing(8)
        grid.setVerticalSpacing(2)
        grid.setColumnStretch(1, 1)
        for column, (text, tooltip) in enumerate(self._HEADERS):
            header = QLabel(f"<small>{text}</small>")
            header.setToolTip(tooltip)
            header.setAlignment(_LEFT if column == 0 else _RIGHT)
            grid.addWidget(header, 0, column + 1)
        for row, (label, colour) in enumerate(class_colours(material).items(), start=1):
            swatch = QLabel()
            swatch.setFixedSize(14, 14)
            swatch.setStyleSheet(
                f"background: {colour}; border: 1px solid #606060; border-radius: 7px;"
            )
            box = QCheckBox(label)
            box.setChecked(True)
            box.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Fixed)
            box.toggled.connect(self._on_toggled)
            numbers = tuple(QLabel("–") for _ in range(3))
            grid.addWidget(swatch, row, 0)
            grid.addWidget(box, row, 1)
            for column, number in enumerate(numbers, start=2):
                number.setAlignment(_RIGHT)
                grid.addWidget(number, row, column)
            self.boxes[label], self.cells[label] = box, numbers

    @property
    def hidden(self) -> set[str]:
        """Names of the classes that are not shown."""
        return {label for label, box in self.boxes.items() if not box.isChecked()}

    def show_rows(self, rows: Mapping[str, LegendRow]) -> None:
        """Show other numbers."""
        for label, row in rows.items():
            for number, text in zip(
                self.cells[label], (row.count, row.fraction, row.density), strict=True
            ):
                number.setText(text)
                number.setToolTip(row.tooltip)
            self.boxes[label].setToolTip(f"{row.tooltip}<p>Untick to hide these cells.</p>")

    def _on_toggled(self) -> None:
        self.hidden_changed.emit(self.hidden)


_LEFT = Qt.AlignmentFlag.AlignLeft | Qt.AlignmentFlag.AlignVCenter
_RIGHT = Qt.AlignmentFlag.AlignRight | Qt.AlignmentFlag.AlignVCenter
