"""The dock widget *Cell inspector*: one cell, its probabilities and its profile (Fig. 6a)."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import napari
import numpy as np
from qtpy.QtCore import Qt, QTimer
from qtpy.QtWidgets import QHBoxLayout, QLabel, QPushButton, QSlider, QVBoxLayout, QWidget

from napari_point_defects.errors import PointDefectsError
from napari_point_defects.materials import DefectClass
from napari_point_defects.napari_ui.cell_follower import CellFollower
from napari_point_defects.napari_ui.cell_layers import class_colours
from napari_point_defects.napari_ui.colours import palette_news
from napari_point_defects.napari_ui.image_models import ImageModels
from napari_point_defects.napari_ui.inspected_cell import (
    InspectedCell,
    cut_crops,
    image_of,
    pixels_of,
    read_cell,
)
from napari_point_defects.napari_ui.inspector_export import (
    Shown,
    ask_path,
    copy_profile,
    save_figure,
    save_table,
)
from napari_point_defects.napari_ui.inspector_views import ChannelsView, CropView, ProbabilityBars
from napari_point_defects.napari_ui.lifetime import listen
from napari_point_defects.napari_ui.pane import Pane
from napari_point_defects.napari_ui.profile_plot import ProfilePlot
from napari_point_defects.napari_ui.run_panel import report_error
from napari_point_defects.napari_ui.viewers import own_viewer
from napari_point_defects.profiles import WIDTH_A, bond_profile
from napari_point_defects.simulation.bond_profiles import compare_classes

if TYPE_CHECKING:
    from collections.abc import Callable

WATCH_MS = 300
WIDTHS_A = (0.05, 0.85)
"""Least and greatest width of the band: a line, and most of the cell."""

_NOTHING = "Click a unit cell to inspect it."
_NO_CELLS = "There are no unit cells yet: run <i>Classify point defects</i> first."


class InspectorWidget(Pane):
    """Shows the cell that is selected or clicked.

    Parameters
    ----------
    napari_viewer : napari.Viewer
    """

    def __init__(self, napari_viewer: napari.Viewer) -> None:
        super().__init__()
        self._viewer = viewer = own_viewer(napari_viewer)
        self._cell: InspectedCell | None = None
        self._pixels: Any = None
        self.shown: Shown | None = None

        self.title, self.verdict = QLabel(_NOTHING), QLabel()
        for label in (self.title, self.verdict):
            label.setWordWrap(True)
        self.crop, self.channels, self.bars = CropView(), ChannelsView(), ProbabilityBars()
        self.plot = ProfilePlot(viewer.theme)
        self.slider = QSlider(Qt.Orientation.Horizontal)
        self.slider.setRange(*(round(100 * w) for w in WIDTHS_A))
        self.slider.setValue(round(100 * WIDTH_A))
        self.width_text = QLabel()
        self.copy, self.save_csv, self.save_figure = (
            QPushButton(text) for text in ("Copy", "Save CSV…", "Save figure…")
        )
        self._lay_out()

        self.follower = CellFollower(viewer, self)
        self.models = ImageModels(viewer, self)
        self.follower.changed.connect(self.look)
        self.models.ready.connect(self._show_profile)
        self.slider.valueChanged.connect(self._on_width)
        self.copy.clicked.connect(self._on_copy)
        self.save_csv.clicked.connect(self._on_save_csv)
        self.save_figure.clicked.connect(self._on_save_figure)
        listen(self, self._on_theme, viewer.events.theme)
        palette_news.changed.connect(self._recolour)
        # napari's features table edits a layer without an event
        self._timer = QTimer(self, interval=WATCH_MS)
        self._timer.timeout.connect(self.look)
        self._timer.start()
        self._on_width()
        self._show_nothing(_NO_CELLS)
        self.look()

    def _recolour(self) -> None:
        if self._cell is not None:
            self.title.clear()
            self._show_cell()
            self._show_title()

    @property
    def width_a(self) -> float:
        """Width of the band, in units of a."""
        return self.slider.value() / 100

    def look(self) -> None:
        """Show the cell that is meant now, if it is another or was changed."""
        layer, row = self.follower.layer, self.follower.row
        cell = None if layer is None or row is None else read_cell(layer, row)
        if cell is None:
            self._show_nothing(_NO_CELLS if layer is None else _NOTHING)
            return
        try:
            pixels = pixels_of(image_of(self._viewer.layers, cell.link))
        except PointDefectsError as error:
            self._show_nothing(str(error))
            return
        if not (cell.same_as(self._cell) and pixels is self._pixels):
            self._cell, self._pixels = cell, pixels
            self._show_cell()
        self._show_title()

    def _show_cell(self) -> None:
        cell = self._cell
        crops = cut_crops(self._pixels, cell)
        colour = class_colours(cell.material).get(cell.label, "#ffffff")
        self.crop.show_crop(crops.window, colour, cell.material)
        self.channels.show_halves(crops.halves, cell.material)
        self.bars.show_values(cell.material.class_labels, cell.probabilities, cell.label)
        self._show_width()
        self._show_profile()

    def _show_title(self) -> None:
        cell, n = self._cell, self.follower.n_selected
        colour = class_colours(cell.material).get(cell.label, "#ffffff")
        doubt = " (unsure)" if cell.is_open_question else ""
        many = f"<br>{n:,} cells selected; this is the last one" if n > 1 else ""
        text = (
            f"<span style='color: {colour}'>⬤</span> <b>{cell.label}</b>{doubt} · {cell.state} · "
            f"cell {cell.cell_id}{many}"
        )
        if text != self.title.text():
            self.title.setText(text)

    def _show_profile(self) -> None:
        """Show the measured profile, and the simulated ones if the image's model is there."""
        cell = self._cell
        if cell is None or self.follower.layer is None:
            return
        where = (self._pixels, cell.lattice, cell.chalcogen_px, cell.metal_px)
        model, problem = self.models.model(self.follower.layer, cell.domain)
        if model is None:
            profile, comparison = bond_profile(*where, width_a=self.width_a), None
        else:
            comparison = compare_classes(*where, model, width_a=self.width_a)
            profile = comparison.profile
        self.shown = Shown(profile, comparison, cell, self._viewer_name(cell))
        self.plot.show_profile(profile, comparison, cell.material)
        self.verdict.setText(problem or verdict(self.shown))
        self._enable(bool(np.isfinite(profile.intensity).any()))

    def _viewer_name(self, cell: InspectedCell) -> str:
        return image_of(self._viewer.layers, cell.link).name

    def _show_nothing(self, text: str) -> None:
        if self._cell is None and self.title.text() == text:
            return
        self._cell = self._pixels = self.shown = None
        self.title.setText(text)
        self.crop.show_crop(None, "", None)
        self.channels.show_halves(None, None)
        self.bars.show_values((), np.full(len(DefectClass), np.nan), "")
        self.plot.clear()
        self.verdict.setText("")
        self._enable(False)

    def _enable(self, enabled: bool) -> None:
        for button in (self.copy, self.save_csv, self.save_figure):
            button.setEnabled(enabled)

    def _on_width(self) -> None:
        self._show_width()
        self._show_profile()

    def _show_width(self) -> None:
        text = f"{self.width_a:.2f} a"
        if self._cell is not None:
            text += f" = {1000 * self.width_a * self._cell.material.lattice_constant_nm:.0f} pm"
        self.width_text.setText(text)
        self.crop.show_band(self.width_a)

    def _on_theme(self, event: Any = None) -> None:
        self.plot.set_theme(self._viewer.theme)

    def _on_copy(self) -> None:
        self._guarded(lambda: copy_profile(self.shown), "Copied as a table and as a figure.")

    def _on_save_csv(self) -> None:
        self._save("Save the profile as CSV", ".csv", "Tables (*.csv)", save_table)

    def _on_save_figure(self) -> None:
        kinds = "Figures (*.png *.svg *.pdf)"
        self._save("Save the profile as a figure", ".png", kinds, save_figure)

    def _save(
        self, title: str, suffix: str, kinds: str, write: Callable[[Shown, Path, bool], None]
    ) -> None:
        answer = ask_path(self, title, f"{self.shown.stem}{suffix}", kinds)
        if answer is not None:
            path, overwrite = answer
            self._guarded(lambda: write(self.shown, path, overwrite), f"Written to {path}")

    def _guarded(self, action: Callable[[], None], done: str) -> None:
        try:
            action()
        except Exception as error:
            done = report_error(error)
        self.verdict.setText(done)

    def _lay_out(self) -> None:
        pictures = QHBoxLayout()
        pictures.addWidget(self.crop)
        pictures.addSpacing(6)
        pictures.addWidget(self.channels)
        pictures.addStretch()
        band = QHBoxLayout()
        name = QLabel("Averaged over")
        tip = (
            "<p>Width of the band across the bond that the profile is averaged over, in units of "
            "the lattice constant and in picometres. Wider: less noise, flatter columns.</p>"
        )
        for widget in (name, self.slider, self.width_text):
            widget.setToolTip(tip)
            band.addWidget(widget)
        self.width_text.setMinimumWidth(self.fontMetrics().horizontalAdvance("0.00 a = 000 pm "))
        buttons = QHBoxLayout()
        for button, tip in (
            (self.copy, "Copy the profile: a table for a spreadsheet, a figure for a text"),
            (self.save_csv, "Save measured and simulated profiles as a table"),
            (self.save_figure, "Save the figure as PNG, SVG or PDF"),
        ):
            button.setToolTip(tip)
            buttons.addWidget(button)
        self.stack(
            self.title,
            _row(pictures),
            self.bars,
            self.plot,
            _row(band),
            self.verdict,
            _row(buttons),
        )


def verdict(shown: Shown) -> str:
    """Say which class the profile agrees with best, and what the network says."""
    cell, comparison = shown.cell, shown.comparison
    if comparison is None:
        return ""
    best = comparison.best
    if best is None:
        return "The cell lies outside the image, or nothing was recorded there."
    labels, rms = cell.material.class_labels, comparison.rms
    second = int(np.argsort(rms)[1])
    text = (
        f"Profile agrees best with <b>{labels[best]}</b> (RMS {rms[best]:.3g}; "
        f"next {labels[second]}, {rms[second]:.3g}). "
    )
    if not cell.is_classified:
        return text + "The network has not seen this cell."
    probability = cell.probabilities.max()
    return text + f"The network says <b>{cell.predicted}</b> {probability:.2f}."


def _row(layout: QHBoxLayout | QVBoxLayout) -> QWidget:
    layout.setContentsMargins(0, 0, 0, 0)
    row = QWidget()
    row.setLayout(layout)
    return row
