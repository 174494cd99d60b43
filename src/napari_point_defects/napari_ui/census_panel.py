"""The lower part of *Classify point defects*: legend, totals, correcting, export."""

from __future__ import annotations

from qtpy.QtCore import Signal
from qtpy.QtWidgets import (
    QComboBox,
    QHBoxLayout,
    QLabel,
    QPushButton,
    QVBoxLayout,
    QWidget,
)
from superqt import QElidingLabel

from napari_point_defects.materials import Material
from napari_point_defects.napari_ui.cell_editor import CellEditor
from napari_point_defects.napari_ui.legend import ClassLegend, legend_rows


class CensusPanel(QWidget):
    """Shows the census of one layer of unit cells as it stands."""

    export_requested = Signal()

    def __init__(self) -> None:
        super().__init__()
        self.editor: CellEditor | None = None
        self.legend: ClassLegend | None = None
        self.title = QElidingLabel()
        self.title.setStyleSheet("font-weight: bold;")
        self.total = QLabel()
        self.total.setWordWrap(True)
        self.new_class = QComboBox()
        self.new_class.setToolTip("<p>The class to set; a point that you add gets it too.</p>")
        self.set_button = QPushButton("Set selected to")
        self.set_button.setToolTip(
            "<p>Give the selected points this class. Select points with the arrow tool of the "
            "layer; a drag selects many. Setting the class they have confirms it.</p>"
        )
        self.export_button = QPushButton("Export…")
        self.export_button.setToolTip(
            "<p>Write the table of cells (csv), the census (json) and an overlay (png), with "
            "your corrections.</p>"
        )
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(6)
        self._place = QVBoxLayout()
        row = QHBoxLayout()
        row.addWidget(self.set_button)
        row.addWidget(self.new_class, stretch=1)
        layout.addWidget(self.title)
        layout.addLayout(self._place)
        layout.addWidget(self.total)
        layout.addLayout(row)
        layout.addWidget(self.export_button)

        self.set_button.clicked.connect(self._set_selected)
        self.new_class.currentTextChanged.connect(self._set_new_label)
        self.export_button.clicked.connect(self.export_requested)
        self.hide()

    def set_editor(self, editor: CellEditor | None) -> None:
        """Show another layer's cells, or none."""
        if self.editor is not None:
            self.editor.changed.disconnect(self.refresh)
            self.editor.selection_changed.disconnect(self._show_selection)
            self.editor.detach()
        self.editor = None
        if editor is not None:
            self._show_material(editor.material)
            self.editor = editor
            editor.changed.connect(self.refresh)
            editor.selection_changed.connect(self._show_selection)
            editor.set_hidden(self.legend.hidden)
            editor.set_new_label(self.new_class.currentText())
            self.refresh()
        self.setVisible(editor is not None)

    def refresh(self) -> None:
        """Count again."""
        editor = self.editor
        if editor is None:
            return
        census = editor.census()
        self.legend.show_rows(legend_rows(census))
        self.title.setText(editor.layer.name)
        self.title.setToolTip(editor.layer.name)
        by_you = f", {k:,} by you" if (k := editor.n_decided()) else ""
        self.total.setText(f"{census.n_cells:,} cells{by_you} on {census.area_nm2:,.1f} nm²")
        self._show_selection()

    def _show_selection(self) -> None:
        n_selected = len(self.editor.layer.selected_data)
        self.set_button.setText(
            f"Set {n_selected:,} selected to" if n_selected else "Set selected to"
        )
        self.set_button.setEnabled(bool(n_selected))

    def _show_material(self, material: Material) -> None:
        """Make the legend of a material, unless it is there."""
        if self.legend is not None and tuple(self.legend.boxes) == material.class_labels:
            return
        if self.legend is not None:
            self._place.removeWidget(self.legend)
            self.legend.deleteLater()
        self.legend = ClassLegend(material)
        self.legend.hidden_changed.connect(self._on_hidden_changed)
        self._place.addWidget(self.legend)
        self.new_class.blockSignals(True)
        self.new_class.clear()
        self.new_class.addItems(material.class_labels)
        self.new_class.blockSignals(False)

    def _on_hidden_changed(self, hidden: set[str]) -> None:
        if self.editor is not None:
            self.editor.set_hidden(hidden)

    def _set_new_label(self, label: str) -> None:
        if self.editor is not None and label:
            self.editor.set_new_label(label)

    def _set_selected(self) -> None:
        if self.editor is not None:
            self.editor.set_selected(self.new_class.currentText())
