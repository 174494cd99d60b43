"""The lower part of *Classify point defects*: legend, totals, review, filters, export."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from qtpy.QtCore import Qt, Signal
from qtpy.QtWidgets import (
    QComboBox,
    QGroupBox,
    QHBoxLayout,
    QLabel,
    QPushButton,
    QVBoxLayout,
    QWidget,
)
from superqt import QElidingLabel

from napari_point_defects.materials import Material
from napari_point_defects.napari_ui.cell_editor import CellEditor
from napari_point_defects.napari_ui.cell_tables import STATES, open_questions
from napari_point_defects.napari_ui.colours import palette_news, watch_palette
from napari_point_defects.napari_ui.filter_panel import FilterPanel
from napari_point_defects.napari_ui.lasso import Lasso
from napari_point_defects.napari_ui.legend import ClassLegend, legend_rows
from napari_point_defects.napari_ui.outside_note import OutsideNote
from napari_point_defects.napari_ui.quality_texts import quality_table, quality_text
from napari_point_defects.napari_ui.review_panel import ReviewPanel
from napari_point_defects.napari_ui.review_session import ReviewSession

if TYPE_CHECKING:
    from napari import Viewer

    from napari_point_defects.quality import Quality


class CensusPanel(QWidget):
    """Shows the census of one layer of unit cells as it stands, and lets the user correct it.

    Parameters
    ----------
    viewer : napari.Viewer
    """

    export_requested = Signal()
    report_requested = Signal()

    def __init__(self, viewer: Viewer) -> None:
        super().__init__()
        self._viewer = viewer
        self.editor: CellEditor | None = None
        self.session: ReviewSession | None = None
        self.legend: ClassLegend | None = None
        self._quality: Quality | None = None
        self.review = ReviewPanel()
        self.filters = FilterPanel()
        self.title = QElidingLabel()
        self.title.setStyleSheet("font-weight: bold;")
        self.total = QLabel()
        self.total.setWordWrap(True)
        self.quality = QLabel()
        self.quality.setWordWrap(True)
        self.quality.setTextFormat(Qt.TextFormat.RichText)
        self.quality.hide()
        self.outside = OutsideNote()
        self.new_class = QComboBox()
        self.new_class.setToolTip("<p>The class to set; a point that you add gets it too.</p>")
        self.set_button = QPushButton("Set selected to")
        self.set_button.setToolTip(
            "<p>Give the selected points this class. Click a point to select it; the arrow tool "
            "of the layer selects many in a box, key L in a line drawn around them. Setting the "
            "class they have confirms it.</p>"
        )
        self.export_button = QPushButton("Export…")
        self.export_button.setToolTip(
            "<p>Write the table of cells (csv), the census (json) and an overlay (png), with "
            "your corrections, hidden cells too.</p>"
        )
        self.report_button = QPushButton("Export report…")
        self.report_button.setToolTip(
            "<p>Write one page that opens in any browser: overlay, census, histograms, the "
            "classifier's confusion matrix, settings and versions, with the tables beside it.</p>"
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
        layout.addWidget(self.quality)
        layout.addWidget(self.outside)
        layout.addLayout(row)
        layout.addWidget(_group("Review", self.review))
        layout.addWidget(_group("Shown cells", self.filters))
        exports = QHBoxLayout()
        exports.addWidget(self.export_button)
        exports.addWidget(self.report_button)
        layout.addLayout(exports)

        self.set_button.clicked.connect(lambda: self._pick(self.new_class.currentText()))
        self.new_class.currentTextChanged.connect(self._set_new_label)
        self.filters.changed.connect(self._filter)
        self.filters.reset_requested.connect(self._show_all)
        self.export_button.clicked.connect(self.export_requested)
        self.report_button.clicked.connect(self.report_requested)
        watch_palette(viewer)
        palette_news.changed.connect(self._recolour)
        self.hide()

    def set_editor(self, editor: CellEditor | None) -> None:
        """Show another layer's cells, or none."""
        if self.editor is not None:
            self.editor.changed.disconnect(self.refresh)
            self.editor.selection_changed.disconnect(self._show_selection)
            self.editor.shown_changed.disconnect(self._show_filtered)
            self.session.close()
            self.editor.detach()
        self.editor = self.session = None
        self.review.set_session(None)
        if editor is not None:
            self._show_material(editor.material)
            editor.set_filter(self.filters.filter(self.legend.hidden))
            editor.set_new_label(self.new_class.currentText())
            self.editor = editor
            self.session = ReviewSession(self._viewer, editor, editor)
            self.session.lasso_requested.connect(self._lasso)
            editor.changed.connect(self.refresh)
            editor.selection_changed.connect(self._show_selection)
            editor.shown_changed.connect(self._show_filtered)
            self.review.set_session(self.session)
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
        unsure = f", {k:,} unsure" if (k := int(census.unsure.sum())) else ""
        self.total.setText(
            f"{census.n_cells:,} cells{by_you} on {census.area_nm2:,.1f} nm²{unsure}"
        )
        self._show_quality(editor.link.quality)
        self.outside.show_lines(editor.link.outside)
        self._show_filtered()
        self._show_selection()

    def _show_quality(self, quality: Quality | None) -> None:
        """Say how far the census can be trusted; every figure is in the tooltip."""
        if quality is self._quality:
            return
        self._quality = quality
        self.quality.setVisible(quality is not None)
        if quality is None:
            return
        self.quality.setText(quality_text(quality))
        self.quality.setToolTip(quality_table(quality))

    def _show_selection(self) -> None:
        n_selected = len(self.editor.layer.selected_data)
        self.set_button.setText(
            f"Set {n_selected:,} selected to" if n_selected else "Set selected to"
        )
        self.set_button.setEnabled(bool(n_selected))
        self.review.show_selection()

    def _show_filtered(self) -> None:
        states = self.editor.snapshot["state"].cat.codes.to_numpy()
        counts = dict(zip(STATES, np.bincount(states, minlength=len(STATES)), strict=True))
        shown = self.editor.layer.shown
        n_unsure = int(open_questions(self.editor.snapshot).sum())
        self.filters.show_counts(counts, int(shown.sum()), len(shown), n_unsure)
        self.review.refresh()

    def _show_material(self, material: Material) -> None:
        """Make the legend of a material, unless it is there."""
        if self.legend is not None and tuple(self.legend.boxes) == material.class_labels:
            return
        if self.legend is not None:
            self._place.removeWidget(self.legend)
            self.legend.deleteLater()
        self.legend = ClassLegend(material)
        self.legend.hidden_changed.connect(self._filter)
        self.legend.picked.connect(self._pick)
        self._place.addWidget(self.legend)
        self.new_class.blockSignals(True)
        self.new_class.clear()
        self.new_class.addItems(material.class_labels)
        self.new_class.blockSignals(False)

    def _recolour(self) -> None:
        if self.legend is not None:
            self.legend.recolour()
        self.filters.recolour()

    def _filter(self) -> None:
        if self.editor is not None:
            self.editor.set_filter(self.filters.filter(self.legend.hidden))

    def _show_all(self) -> None:
        for box in self.legend.boxes.values():
            box.setChecked(True)
        self.filters.reset()

    def _set_new_label(self, label: str) -> None:
        if self.editor is not None and label:
            self.editor.set_new_label(label)

    def _pick(self, label: str) -> None:
        """Set the selected cells to a class; points added later get it too."""
        if self.session is None:
            return
        self.new_class.setCurrentText(label)
        if self.editor.layer.selected_data:
            self.session.set_class(label)
        else:
            self._viewer.status = f"Points that you add are {label} now: no cell is selected"
        self.review.focus_canvas()

    def _lasso(self) -> None:
        Lasso(self._viewer, self.editor)


def _group(title: str, widget: QWidget) -> QGroupBox:
    box = QGroupBox(title)
    layout = QVBoxLayout(box)
    layout.setContentsMargins(6, 6, 6, 6)
    layout.addWidget(widget)
    return box
