"""The dock widget *Classify point defects*: hexagons in, a Points layer of unit cells out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import napari
import numpy as np
from napari.layers import Layer, Shapes
from napari.utils.notifications import show_info, show_warning
from qtpy.QtWidgets import QCheckBox, QLabel

from napari_point_defects import appraisal, pipeline
from napari_point_defects.errors import PointDefectsError
from napari_point_defects.materials import get_material
from napari_point_defects.napari_ui.box_correction import box_correction
from napari_point_defects.napari_ui.cell_editor import CellEditor
from napari_point_defects.napari_ui.cell_layers import (
    cell_mask,
    cells_layer_data,
    mask_layer_data,
)
from napari_point_defects.napari_ui.cell_tables import cell_table, centres_px, translated
from napari_point_defects.napari_ui.census_panel import CensusPanel
from napari_point_defects.napari_ui.corrections import apply_corrections
from napari_point_defects.napari_ui.docks import adapt_to
from napari_point_defects.napari_ui.export import (
    STOP_WRITING,
    ask_folder,
    ask_report,
    report_writer,
    writer,
)
from napari_point_defects.napari_ui.hexagon_layers import current_hexagons
from napari_point_defects.napari_ui.hexagon_tables import tidy_features
from napari_point_defects.napari_ui.history import forget
from napari_point_defects.napari_ui.image_layers import placement, stem_image
from napari_point_defects.napari_ui.label_panel import ResumeBar
from napari_point_defects.napari_ui.labelling import labelling
from napari_point_defects.napari_ui.layer_cells import layer_corrections
from napari_point_defects.napari_ui.layer_chooser import LayerChooser
from napari_point_defects.napari_ui.lifetime import listen
from napari_point_defects.napari_ui.links import (
    KEY,
    CellsLink,
    HexagonsLink,
    MaskLink,
    image_layer,
    link_of,
    own_layer,
    replace_layer,
    set_aside,
)
from napari_point_defects.napari_ui.pane import Pane
from napari_point_defects.napari_ui.remembered import Remembered, form_part
from napari_point_defects.napari_ui.run_panel import RunPanel, link_to
from napari_point_defects.napari_ui.settings_form import (
    SettingsForm,
    advanced_box,
    make_settings,
)
from napari_point_defects.napari_ui.training_checks import TrainingChecks
from napari_point_defects.napari_ui.viewers import own_viewer
from napari_point_defects.results import output_paths

if TYPE_CHECKING:
    from napari_point_defects.quality import Quality
    from napari_point_defects.records import StemImage, UnitCells

FIELDS = ("alpha", "beta", "unsure_below", "classifier_weights")


class ClassifyWidget(Pane):
    """Cuts unit cells out of hexagons, classifies and counts them.

    A second run replaces the layers of the first and keeps what the user decided; see
    :mod:`napari_point_defects.napari_ui.corrections`.

    Parameters
    ----------
    napari_viewer : napari.Viewer
    """

    def __init__(self, napari_viewer: napari.Viewer) -> None:
        super().__init__()
        self._viewer = viewer = own_viewer(napari_viewer)
        self.resume = ResumeBar(labelling(viewer))
        self.hexagons = LayerChooser(viewer, _has_hexagons, "detect unit cells first")
        self.form = SettingsForm(
            pipeline.AnalysisSettings, FIELDS, empty={"classifier_weights": "shipped"}
        )
        self.areas = QCheckBox("Draw the cells' areas too")
        self.areas.setToolTip(
            "<p>A Labels layer in which every unit cell, a × (√3/2) a, has its class's colour.</p>"
        )
        self.run = RunPanel(
            "Classify point defects",
            "Cut two unit cells out of every hexagon, merge and classify them.",
        )
        self.census = CensusPanel(viewer)
        self.checks = TrainingChecks(viewer, self)
        Remembered("classify", self.run, form_part(self.form))
        self._lay_out()

        self.run.run_requested.connect(self.classify)
        self.areas.toggled.connect(self._on_areas_toggled)
        self.census.export_requested.connect(self._ask_export)
        self.census.report_requested.connect(self._ask_report)
        self.census.outside.adapt_requested.connect(self._adapt)
        self.checks.told.connect(self.census.refresh)
        box_correction(viewer).told.connect(self.run.say)
        listen(
            self, self._follow, viewer.layers.selection.events.active, viewer.layers.events.removed
        )
        self._follow()

    def classify(self) -> None:
        """Start a run, or say why it cannot start."""
        try:
            layer, link = self._chosen()
            source = image_layer(self._viewer.layers, link.image_id)
            if source is None:
                raise PointDefectsError(
                    f"the image of {layer.name!r} is closed: open it and detect its unit cells"
                )
            image = stem_image(source)
            settings = make_settings(
                pipeline.AnalysisSettings, {**link.settings.model_dump(), **self.form.values()}
            )
            features = tidy_features(layer.features, len(layer.data))
            hexagons = current_hexagons(
                layer.data, layer.features["score"].to_numpy(), link, features["domain"].to_numpy()
            )
            if not len(hexagons):
                raise PointDefectsError(f"{layer.name!r} holds no hexagons: detect or draw some")
        except PointDefectsError as error:
            self.run.fail(error)
            return
        detection = replace(link.detection, hexagons=hexagons)
        cells_link = CellsLink(link.image_id, detection, settings)

        def work(**callbacks: Any) -> tuple[UnitCells, Quality]:
            cells = pipeline.classify(image, detection, settings, **callbacks)
            return cells, appraisal.quality_of(image, detection, cells, settings)

        def done(found: tuple[UnitCells, Quality]) -> None:
            cells, quality = found
            self.draw(cells, replace(cells_link, quality=quality))
            layer.visible = False  # the boxes would lie across the cells
            if self.areas.isChecked():
                self.draw_areas()

        self.run.start(f"Classify point defects in {source.name}", work, done)

    def use_weights(self, path: Path) -> None:
        """Classify with other weights from now on, and the hexagons that are there at once."""
        self.form.set_values({"classifier_weights": path})
        if self.hexagons.layer is not None and not self.run.is_running:
            self.classify()

    def draw_areas(self) -> None:
        """Draw the Labels layer of the cells shown in the legend."""
        editor = self.census.editor
        if editor is None:
            return
        link, points = editor.link, np.array(editor.layer.data)
        cells = editor.cells()
        classes, domain = cells.classes, cells.domain
        image = image_layer(self._viewer.layers, link.image_id)
        if image is None:
            raise PointDefectsError("the image of these cells is closed: open it again")
        shape = image.data.shape[-2:]

        def work(on_progress: Any, should_stop: Any) -> np.ndarray:
            on_progress(0.0, "Drawing areas")
            return cell_mask(points, classes, link.detection.domain_map, shape, domain)

        def done(mask: np.ndarray) -> None:
            layer_data = mask_layer_data(
                mask, editor.material, f"{image.name} cell areas", placement(image)
            )
            new = Layer.create(*layer_data)
            new.metadata[KEY] = MaskLink(link.image_id)
            old = own_layer(self._viewer.layers, link.image_id, MaskLink)
            active = self._viewer.layers.selection.active
            replace_layer(self._viewer, old, new)
            new.editable = False  # it is redrawn from the points, which are what to edit
            if old is None:  # under the points
                self._viewer.layers.move(
                    self._viewer.layers.index(new), self._viewer.layers.index(editor.layer)
                )
            self._viewer.layers.selection.active = active
            self.run.say("")

        self.run.start("Draw the areas of the cells", work, done)

    def export(self, folder: Path, *, overwrite: bool = False) -> None:
        """Write table, census and overlay of the cells as they stand."""
        shown = self._shown("export")
        if shown is None:
            return
        image, link, cells = shown

        def done(_: bool) -> None:
            self.run.say(f"Written to {folder}")
            show_info(f"Table, census and overlay of {image.name} written to {folder}")

        work = writer(image, link, cells, folder, overwrite=overwrite)
        self._write(f"Write the results of {image.name}", work, done)

    def export_report(self, path: Path, *, overwrite: bool = False) -> None:
        """Write a page of the cells as they stand, and its data beside it."""
        shown = self._shown("report")
        if shown is None:
            return
        image, link, cells = shown
        states = self.census.editor.snapshot["state"].value_counts()
        decided = {state: int(n) for state, n in states.items() if state != "predicted"}

        def done(page: Path) -> None:
            self.run.say(f"Written: {link_to(page)}")
            show_info(f"Report of {image.name} written to {page}")

        work = report_writer(image, link, cells, path, decided, overwrite=overwrite)
        self._write(f"Write a report of {image.name}", work, done)

    def _shown(self, to_do: str) -> tuple[StemImage, CellsLink, UnitCells] | None:
        """Return the image and its cells as they stand; None, said why, where there are none."""
        editor = self.census.editor
        try:
            if editor is None:
                raise PointDefectsError(
                    f"there is nothing to {to_do}: classify point defects first"
                )
            link, cells = editor.link, editor.cells()
            return stem_image(image_layer(self._viewer.layers, link.image_id)), link, cells
        except PointDefectsError as error:
            self.run.fail(error)
            return None

    def _write(self, title: str, work: Callable[..., Any], done: Callable[[Any], None]) -> None:
        self.run.start(title, work, done, cancel_tip=STOP_WRITING, keeps_late=True)

    def _chosen(self) -> tuple[Shapes, HexagonsLink]:
        layer = self.hexagons.layer
        if layer is None:
            raise PointDefectsError(
                "there are no hexagons yet: run Plugins ▸ Detect unit cells on an image first"
            )
        return layer, link_of(layer, HexagonsLink)

    def draw(self, cells: UnitCells, link: CellsLink) -> None:
        """Show classified cells in place of the ones drawn before, and keep corrections."""
        layers = self._viewer.layers
        image = image_layer(layers, link.image_id)
        if image is None:
            raise PointDefectsError("the image was closed while it was analysed: nothing was drawn")
        name, material = f"{image.name} cells", get_material(link.settings.material)
        table = cell_table(cells, material, unsure_below=link.settings.unsure_below)
        deleted = np.empty((0, 2))
        next_id = len(table)
        old = own_layer(layers, link.image_id, CellsLink)
        if old is not None:
            decided = layer_corrections(old)
            before = get_material(link_of(old, CellsLink).settings.material)
            # numbers of domains are those of one run: a decided cell finds its domain anew
            kept = translated(decided.kept, before, material).assign(domain=0)
            decided = replace(decided, kept=kept)
            table, deleted, homeless = apply_corrections(
                table, decided, a_px=link.detection.lattice.a_px
            )
            next_id = max(decided.next_id, int(table["cell_id"].max()) + 1 if len(table) else 0)
            if homeless:
                set_aside(old, name)
                show_warning(
                    f"{homeless} of your corrections have no cell in this run: "
                    f"the layer with them is kept as {old.name!r}"
                )
                old = None
        link = replace(
            link,
            written_ids=table["cell_id"].to_numpy(),
            written_px=centres_px(table),
            deleted_px=deleted,
            next_id=next_id,
        )
        new = Layer.create(*cells_layer_data(table, link, name, placement(image)))
        # what the steps before would bring back is another run's
        forget(self._viewer, link.image_id)
        replace_layer(self._viewer, old, new)
        self.run.say("")
        self._watch(new)

    def _follow(self, event: Any = None) -> None:
        """Let the legend show the cells that the user selects, or else the last drawn."""
        layers = self._viewer.layers
        cells = [layer for layer in layers if link_of(layer, CellsLink)]
        current = self.census.editor.layer if self.census.editor else None
        active = layers.selection.active
        if active in cells:
            self._watch(active)
        elif current not in cells:
            self._watch(cells[-1] if cells else None)

    def _watch(self, layer: Layer | None) -> None:
        current = self.census.editor
        if (current.layer if current else None) is layer:
            return
        self.census.set_editor(CellEditor(layer, self._viewer, self) if layer is not None else None)
        if layer is not None:
            self.checks.check(layer)

    def _on_areas_toggled(self, checked: bool) -> None:
        if checked and self.census.editor is not None and not self.run.is_running:
            try:
                self.draw_areas()
            except PointDefectsError as error:
                self.run.fail(error)

    def _adapt(self) -> None:
        try:
            image_id = self.census.editor.link.image_id
            adapt_to(self._viewer, image_layer(self._viewer.layers, image_id))
        except PointDefectsError as error:
            self.run.fail(error)

    def _ask_export(self) -> None:
        try:
            source = image_layer(self._viewer.layers, self.census.editor.link.image_id)
            name = stem_image(source).name
        except PointDefectsError as error:
            self.run.fail(error)
            return
        answer = ask_folder(
            self,
            "Export table, census and overlay to",
            lambda folder: output_paths(name, folder).values(),
        )
        if answer is not None:
            folder, overwrite = answer
            self.export(folder, overwrite=overwrite)

    def _ask_report(self) -> None:
        try:
            source = image_layer(self._viewer.layers, self.census.editor.link.image_id)
            name = stem_image(source).name
        except PointDefectsError as error:
            self.run.fail(error)
            return
        answer = ask_report(self, name)
        if answer is not None:
            path, overwrite = answer
            self.export_report(path, overwrite=overwrite)

    def _lay_out(self) -> None:
        label = QLabel("Hexagons")
        label.setToolTip("The Shapes layer to cut unit cells from; edited shapes count as they are")
        self.stack(
            self.resume,
            label,
            self.hexagons,
            advanced_box(self.form),
            self.areas,
            self.run,
            self.census,
        )


def _has_hexagons(layer: Layer) -> bool:
    return isinstance(layer, Shapes) and link_of(layer, HexagonsLink) is not None
