"""The dock widget *Study defects*: how they lie to each other, strain, and the simulated twin."""

from __future__ import annotations

from collections.abc import Hashable
from html import escape
from pathlib import Path

import napari
from napari.layers import Layer
from qtpy.QtWidgets import QComboBox, QHBoxLayout, QLabel, QPushButton, QWidget

from napari_point_defects.errors import PointDefectsError
from napari_point_defects.napari_ui.image_layers import check_image, is_micrograph, stem_image
from napari_point_defects.napari_ui.layer_cells import current_cells
from napari_point_defects.napari_ui.links import (
    CellsLink,
    MapLink,
    image_layer,
    link_of,
    own_layer,
    own_layers,
    replace_layer,
)
from napari_point_defects.napari_ui.result_pane import ResultPane
from napari_point_defects.napari_ui.run_panel import RunPanel
from napari_point_defects.napari_ui.study_layers import MAPS, RESIDUAL, map_layer_data
from napari_point_defects.napari_ui.study_plot import StudyPlot
from napari_point_defects.study import Study, study, study_paths, write_study


class StudyWidget(ResultPane[Study]):
    """Studies the classified cells of an image as they stand in their layer.

    Parameters
    ----------
    napari_viewer : napari.Viewer
    """

    def __init__(self, napari_viewer: napari.Viewer) -> None:
        super().__init__(napari_viewer, is_micrograph, "open an image")
        self.run = RunPanel(
            "Study defects",
            "<p>Compare how the vacancies lie to each other with random placement, map the strain "
            "of the lattice, and simulate the sheet again to see what the classes do not "
            "explain. Uses the cells as they stand in their layer.</p>",
        )
        self.findings = QLabel()
        self.findings.setWordWrap(True)
        self.plot = StudyPlot(self._viewer.theme)
        self.maps = QComboBox()
        self.draw, self.export = QPushButton("Show map"), QPushButton("Export…")
        self.buttons = QWidget()
        self._lay_out()

        self.run.run_requested.connect(self.study)
        self.draw.clicked.connect(self.draw_map)
        self.export.clicked.connect(self._ask)
        self._begin()

    def study(self) -> None:
        """Start a run, or say why it cannot start."""
        try:
            layer = check_image(self.images.layer)
            cells_layer = own_layer(self._viewer.layers, layer.unique_id, CellsLink)
            if cells_layer is None:
                raise PointDefectsError(
                    f"the cells of {layer.name!r} are not classified yet: run Detect unit cells, "
                    "then Classify point defects"
                )
            link = link_of(cells_layer, CellsLink)
            image, cells = stem_image(layer), current_cells(cells_layer)
        except PointDefectsError as error:
            self.run.fail(error)
            return
        self.run.start(
            f"Study {layer.name}",
            lambda **callbacks: study(image, link.detection, cells, link.settings, **callbacks),
            lambda found: self._take(found, layer.unique_id),
            cancel_tip="Stop; what was found before stays",
        )

    def draw_map(self) -> None:
        """Add the chosen map as a layer, in place of the one drawn before."""
        image = self.images.layer
        if self.shown is None or image is None:
            return
        choice, layers = self.maps.currentData(), self._viewer.layers
        active = layers.selection.active
        new = Layer.create(*map_layer_data(self.shown, image, choice))
        drawn = own_layers(layers, image.unique_id, MapLink)
        old = next((layer for layer, link in drawn if link.kind == choice.suffix), None)
        replace_layer(self._viewer, old, new)
        if old is None:  # under what is drawn on the image
            layers.move(layers.index(new), layers.index(image) + 1)
        layers.selection.active = active if active in layers else image

    def export_to(self, folder: Path, *, overwrite: bool = False) -> None:
        """Write tables, figure, residual and atoms, as ``point-defects study`` does."""
        found = self.shown
        title = f"Export the study of {found.image.name}"
        self._write(title, folder, lambda: write_study(found, folder, overwrite))

    def _take(self, found: Study, image_id: Hashable) -> None:
        if image_layer(self._viewer.layers, image_id) is None:
            raise PointDefectsError("the image was closed while it was studied")
        self._keep(found, image_id)

    def _show(self, found: Study | None) -> None:
        self.shown = found
        for widget in (self.findings, self.plot, self.buttons):
            widget.setVisible(found is not None)
        if found is None:
            return
        warnings = [f"⚠ {escape(line)}" for line in found.remarks]
        lines = [f"• {escape(line)}" for line in found.findings()]
        self.findings.setText("<br>".join([*warnings, *lines]))
        self.plot.show_study(found)
        self.maps.clear()
        for choice in MAPS:
            if choice is not RESIDUAL or found.twin is not None:
                self.maps.addItem(choice.title, choice)

    def _ask(self) -> None:
        name = self.shown.image.name
        self._ask_where_to_export(
            "Export the study to", lambda folder: study_paths(name, folder).values()
        )

    def _lay_out(self) -> None:
        row = QHBoxLayout(self.buttons)
        row.setContentsMargins(0, 0, 0, 0)
        row.addWidget(self.maps, 1)
        for button, tip in (
            (self.draw, "Add this map as a layer over the image"),
            (
                self.export,
                "<p>Write tables (csv), figure (png), residual (tif) and the sheet's atoms (cif, "
                "extended xyz) to a folder.</p>",
            ),
        ):
            button.setToolTip(tip)
            row.addWidget(button)
        self.maps.setToolTip(
            "<p>Strain against the mean lattice of each grain; slow scan drift looks the same. "
            "In <i>image less its twin</i>, a wrong class is a blue or red spot.</p>"
        )
        self.stack(self.images, self.run, self.findings, self.buttons, self.plot)
