"""The dock widget *Measure image*: how an image was recorded, as far as it tells."""

from __future__ import annotations

from collections.abc import Callable
from html import escape
from pathlib import Path

import napari
from napari.layers import Image
from qtpy.QtCore import QTimer
from qtpy.QtGui import QGuiApplication
from qtpy.QtWidgets import QFormLayout, QHBoxLayout, QLabel, QPushButton, QWidget

from napari_point_defects.errors import PointDefectsError
from napari_point_defects.materials import get_material
from napari_point_defects.measured_quantities import as_text
from napari_point_defects.napari_ui.docks import SIMULATE, adapt_to, open_dock
from napari_point_defects.napari_ui.image_layers import check_image, is_micrograph
from napari_point_defects.napari_ui.inspector_export import ask_path
from napari_point_defects.napari_ui.material_editors import MaterialEditor
from napari_point_defects.napari_ui.measure_plots import MeasurePlots
from napari_point_defects.napari_ui.measure_table import MeasureTable
from napari_point_defects.napari_ui.measured_layer import (
    Basis,
    MeasuredLayer,
    basis_of,
    measuring,
)
from napari_point_defects.napari_ui.outside_note import OutsideNote
from napari_point_defects.napari_ui.remembered import Remembered, editor_part
from napari_point_defects.napari_ui.result_pane import ResultPane
from napari_point_defects.napari_ui.run_panel import WARNING_STYLE, RunPanel
from napari_point_defects.outputs import write_json

WATCH_MS = 800
_USUAL_LINE = "    Counts per grey level    1,000,000    0.0001 – 0.0002    % of pixels    "


class MeasureWidget(ResultPane[MeasuredLayer]):
    """Measures the chosen image: noise, probe, scan, contamination and contrast.

    What was measured of each image stays until its layer is closed.

    Parameters
    ----------
    napari_viewer : napari.Viewer
    """

    def __init__(self, napari_viewer: napari.Viewer) -> None:
        super().__init__(napari_viewer, is_micrograph, "open an image")
        self.material = MaterialEditor()
        self.run = RunPanel(
            "Measure image",
            "<p>Measure noise, probe, scan, contamination and contrast from what repeats in the "
            "lattice.</p>",
        )
        self.source, self.stale, self.warnings = QLabel(), QLabel(), QLabel()
        for label in (self.source, self.stale, self.warnings):
            label.setWordWrap(True)
        for label in (self.stale, self.warnings):
            label.setStyleSheet(WARNING_STYLE)
        self.outside = OutsideNote()
        self.table = MeasureTable()
        self.plots = MeasurePlots(self._viewer.theme)
        self.copy, self.export, self.match = (
            QPushButton(text) for text in ("Copy", "Export…", "Match this image")
        )
        self.buttons = QWidget()
        Remembered("measure", self.run, editor_part("material", self.material))
        self._lay_out()

        self.run.run_requested.connect(self.measure)
        self.material.changed.connect(self.look)
        self.copy.clicked.connect(self.copy_table)
        self.export.clicked.connect(self._ask)
        self.match.clicked.connect(self.match_image)
        self.outside.adapt_requested.connect(self._adapt)
        # napari's features table edits a layer without an event
        self._timer = QTimer(self, interval=WATCH_MS)
        self._timer.timeout.connect(self._look_if_visible)
        self._timer.start()
        self._begin()

    def measure(self) -> None:
        """Start a run, or say why it cannot start."""
        try:
            layer = self.images.layer
            if layer is None and self._viewer.layers.selection.active is not None:
                check_image(self._viewer.layers.selection.active)
            layer = check_image(layer)
            work = measuring(self._basis(layer), self.material.get())
        except PointDefectsError as error:
            self.run.fail(error)
            return
        self.run.start(
            f"Measure {layer.name}",
            work,
            self._take,
            cancel_tip="Stop; what was measured before stays",
        )

    def look(self) -> None:
        """Show what is known of the chosen image, and whether it still holds."""
        layer = self.images.layer
        found = self._found_of_chosen()
        if found is not self.shown:
            self._show(found)
        try:
            basis = None if layer is None else self._basis(check_image(layer))
        except PointDefectsError as error:
            self._say(self.source, escape(str(error)))
            self._say(self.stale, "")
            return
        holds = found is not None and found.basis.same_as(basis)
        self._show_basis(basis, found if holds else None)
        late = found is not None and not holds
        change = f"⚠ Out of date: {_change(found.basis, basis)}. Measure again." if late else ""
        self._say(self.stale, change)

    def copy_table(self) -> None:
        """Put the table on the clipboard, for a spreadsheet."""
        QGuiApplication.clipboard().setText(as_text(*self.shown.table))
        self.run.say("Copied as a table.")

    def export_json(self, path: Path, *, overwrite: bool = False) -> None:
        """Write what was measured, as ``point-defects measure`` does."""
        self._guarded(
            lambda: write_json(self.shown.as_dict(), path, overwrite), f"Written to {path}"
        )

    def match_image(self) -> None:
        """Open the simulator, and set it to this image."""
        shown = self.shown
        self._guarded(lambda: self._match(shown), "The simulator is being set to this image.")

    def _match(self, shown: MeasuredLayer) -> None:
        simulate = open_dock(self._viewer, SIMULATE, in_front=True)
        if simulate.run.is_running:
            raise PointDefectsError("the simulator is at work: wait for it, or cancel it first")
        # of an image that is not detected, the form says the material
        simulate.form.main.set_values({"materials": (shown.settings.material,)})
        simulate.preview.images.choose(shown.basis.image)
        simulate.match_image()

    def _adapt(self) -> None:
        self._guarded(lambda: adapt_to(self._viewer, self.shown.basis.image), "")

    def _take(self, found: MeasuredLayer) -> None:
        image = found.basis.image
        if image not in self._viewer.layers:
            raise PointDefectsError("the image was closed while it was measured")
        self.run.say("")
        self._keep(found, image.unique_id)

    def _basis(self, layer: Image) -> Basis:
        return basis_of(self._viewer, layer, self.material.get())

    def _show(self, found: MeasuredLayer | None) -> None:
        self.shown = found
        told = found is not None and found.details is not None
        if told:
            material = get_material(found.settings.material)
            self.table.show_measurement(*found.table)
            self.plots.show_details(found.measurement, found.details, material)
        for widget in (self.table, self.plots, self.buttons):
            widget.setVisible(told)
        lines = found.warnings if found is not None else ()
        self.warnings.setText("<br>".join(f"⚠ {escape(line)}" for line in lines))
        self.warnings.setVisible(bool(lines))
        self.outside.show_lines(found.outside if found is not None else None)

    def _show_basis(self, basis: Basis | None, found: MeasuredLayer | None) -> None:
        """Say what would be measured now, or what has been."""
        link = basis.link if basis is not None else None
        self.material.setEnabled(link is None)
        if link is not None and self.material.get() != link.settings.material:
            self.material.blockSignals(True)
            self.material.set(link.settings.material)
            self.material.blockSignals(False)
        self._say(self.source, "" if basis is None else _rests_on(basis, found))

    def _say(self, label: QLabel, text: str) -> None:
        if label.text() != text:
            label.setText(text)
        label.setVisible(bool(text))

    def _guarded(self, action: Callable[[], None], done: str) -> None:
        try:
            action()
        except PointDefectsError as error:
            self.run.fail(error)
        else:
            self.run.say(done)

    def _ask(self) -> None:
        name = f"{self.shown.image.name}_measurement.json"
        answer = ask_path(self, "Export the measurement", name, "Measurements (*.json)")
        if answer is not None:
            path, overwrite = answer
            self.export_json(path, overwrite=overwrite)

    def _look_if_visible(self) -> None:
        if self.isVisible():
            self.look()

    def _lay_out(self) -> None:
        form_widget = QWidget()
        # as wide at once as the table will be: a dock that grows later moves the image
        form_widget.setMinimumWidth(self.fontMetrics().horizontalAdvance(_USUAL_LINE))
        form = QFormLayout(form_widget)
        form.setContentsMargins(0, 0, 0, 0)
        form.addRow("Image", self.images)
        form.addRow("Material", self.material)
        self.material.setToolTip(
            "<p>What the image shows. A detection brings its own; without one, choose it here.</p>"
        )
        row = QHBoxLayout(self.buttons)
        row.setContentsMargins(0, 0, 0, 0)
        for button, tip in (
            (self.copy, "Copy the table, for a spreadsheet"),
            (self.export, "<p>Save all values and remarks as JSON.</p>"),
            (
                self.match,
                "<p>Open <i>Simulate training set</i> with all ranges set narrowly around what "
                "this image shows.</p>",
            ),
        ):
            button.setToolTip(tip)
            row.addWidget(button)
        self.stack(
            form_widget,
            self.run,
            self.source,
            self.stale,
            self.warnings,
            self.outside,
            self.table,
            self.buttons,
            self.plots,
        )


def _rests_on(basis: Basis, found: MeasuredLayer | None) -> str:
    """Say what a measurement would rest on, or what the one found does."""
    if basis.source is not None:
        n = len(basis.source.data)
        what = "classified cells" if basis.is_classified else "hexagons, not classified yet"
        text = f"Rests on {n:,} {what}."
    elif found is None:
        return "Nothing is detected in this image yet: its cells are found first."
    else:
        text = f"Rests on {len(found.detection.hexagons):,} hexagons, found for this and not drawn."
    if found is None or found.details is None:
        return text
    height, width = found.details.window[1]
    part = f"of {height:,} × {width:,} px" if found.is_part else "of the image"
    domains = len(found.detection.domains)
    where = f", in the largest of {domains} domains" if domains > 1 else ""
    return f"{text} Measured: {found.measurement.cells:,} perfect cells {part}{where}."


def _change(before: Basis, now: Basis) -> str:
    """Say what changed since something was measured."""
    if before.parts[0] is not now.parts[0]:
        return "the image changed"
    if before.source is None and now.source is None:
        return "another material or pixel size was set"
    if now.source is None:
        return "the detection is gone"
    if now.is_classified and not before.is_classified:
        return "the cells are classified now"
    return "the cells changed" if now.is_classified else "the detection changed"
