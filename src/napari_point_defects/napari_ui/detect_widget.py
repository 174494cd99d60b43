"""The dock widget *Detect unit cells*: an image in, a Shapes layer of hexagons out."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import napari
from napari.utils.notifications import show_warning
from qtpy.QtWidgets import QLabel

from napari_point_defects import pipeline
from napari_point_defects.errors import PointDefectsError
from napari_point_defects.napari_ui.area_layers import area_legend, draw_area
from napari_point_defects.napari_ui.box_correction import box_correction
from napari_point_defects.napari_ui.hexagon_drawing import DrawingPlan
from napari_point_defects.napari_ui.history import history_of
from napari_point_defects.napari_ui.image_layers import (
    check_image,
    is_micrograph,
    pixel_size_nm,
    placement,
    stem_image,
)
from napari_point_defects.napari_ui.layer_chooser import LayerChooser
from napari_point_defects.napari_ui.links import (
    HexagonsLink,
    image_layer,
    link_of,
    own_layer,
    replace_layer,
    set_aside,
)
from napari_point_defects.napari_ui.material_editors import MaterialEditor
from napari_point_defects.napari_ui.pane import Pane
from napari_point_defects.napari_ui.region_chooser import RegionChooser
from napari_point_defects.napari_ui.region_layers import region_of
from napari_point_defects.napari_ui.remembered import Remembered, form_part
from napari_point_defects.napari_ui.run_panel import WARNING_STYLE, RunPanel
from napari_point_defects.napari_ui.settings_form import (
    SettingsForm,
    advanced_box,
    make_settings,
)
from napari_point_defects.napari_ui.viewers import own_viewer

if TYPE_CHECKING:
    from napari.layers import Shapes

    from napari_point_defects.analysis_settings import AnalysisSettings
    from napari_point_defects.detections import Detection

MAIN_FIELDS = ("material", "pixel_size_nm")
ADVANCED_FIELDS = (
    "trust_pixel_size",
    "sublattice_rank",
    "min_score",
    "detector_weights",
    "device",
)


_AT_ONCE = 500
"""Up to so many hexagons are drawn without a thread, in 50 ms."""


class DetectWidget(Pane):
    """Finds the lattice and the hexagonal cells of an image.

    A second run replaces the layer of the first and keeps the boxes that the user edited; see
    :mod:`napari_point_defects.napari_ui.hexagon_corrections`.

    Parameters
    ----------
    napari_viewer : napari.Viewer
    """

    def __init__(self, napari_viewer: napari.Viewer) -> None:
        super().__init__()
        self._viewer = viewer = own_viewer(napari_viewer)
        self.images = LayerChooser(viewer, is_micrograph, "open an image")
        self.regions = RegionChooser(viewer)
        self.form = SettingsForm(
            pipeline.AnalysisSettings, MAIN_FIELDS, editors={"material": MaterialEditor}
        )
        self.advanced = SettingsForm(
            pipeline.AnalysisSettings,
            ADVANCED_FIELDS,
            choices={"device": ("auto", "cpu", "cuda", "mps")},
            empty={"detector_weights": "shipped"},
        )
        self.run = RunPanel(
            "Detect unit cells",
            "Find the lattice and the hexagonal cells; draws them into a Shapes layer.",
        )
        self.result = QLabel()
        self.result.setWordWrap(True)
        self.area = QLabel()
        self.area.setWordWrap(True)
        self.area.setToolTip(
            "<p>What the layer <i>analysed area</i> shows. Each domain has a lattice of its own; "
            "cells in what was left out are neither drawn nor counted.</p>"
        )
        self.area.hide()
        self.warnings = QLabel()
        self.warnings.setWordWrap(True)
        self.warnings.setStyleSheet(WARNING_STYLE)
        self.warnings.hide()
        Remembered("detect", self.run, form_part(self.form), form_part(self.advanced))
        self._lay_out()

        self.run.run_requested.connect(self.detect)
        self.regions.draw_requested.connect(self._draw_region)
        for signal in (self.images.layer_changed, self.images.scale_changed):
            signal.connect(self._show_pixel_size)
            signal.connect(self._look)
        self._show_pixel_size()
        box_correction(viewer)  # from now on, edited boxes become hexagons

    def settings(self) -> AnalysisSettings:
        """Return the settings the form shows.

        Raises
        ------
        PointDefectsError
            If one is not allowed.
        """
        values = {**self.form.values(), **self.advanced.values()}
        if self.regions.layer is not None and self.images.layer is not None:
            values["region"] = region_of(self.regions.layer, self.images.layer)
        return make_settings(pipeline.AnalysisSettings, values)

    def detect(self) -> None:
        """Start a run, or say why it cannot start."""
        layer = self.images.layer
        try:
            if layer is None and self._viewer.layers.selection.active is not None:
                check_image(self._viewer.layers.selection.active)
            image, settings = stem_image(layer), self.settings()
        except PointDefectsError as error:
            self.run.fail(error)
            return
        self._show_warnings(())
        self.result.clear()
        self.area.hide()
        image_id = layer.unique_id

        def work(**callbacks: Any) -> Detection:
            return pipeline.detect(image, settings, **callbacks)

        def done(detection: Detection) -> None:
            n = len(detection.hexagons)
            if n <= _AT_ONCE:
                self.run.defer(
                    f"Drawing {n:,} hexagons…", lambda: self.draw(image_id, detection, settings)
                )
            else:
                self._draw_apart(image_id, detection, settings)

        self.run.start(f"Detect unit cells in {layer.name}", work, done)

    def use_weights(self, path: Path) -> None:
        """Detect with other weights from now on, and in the image that is there at once."""
        self.advanced.set_values({"detector_weights": path})
        if self.images.layer is not None and not self.run.is_running:
            self.detect()

    def draw(self, image_id: Any, detection: Detection, settings: AnalysisSettings) -> None:
        """Show a detection of the image layer with that ``unique_id``."""
        plan = self._plan(image_id, detection, settings)
        self._place(plan, plan.layer())

    def _draw_apart(self, image_id: Any, detection: Detection, settings: AnalysisSettings) -> None:
        """Do the same, but make the layer in the background: 0.1 ms for each hexagon."""
        plan = self._plan(image_id, detection, settings)
        text = f"Drawing {len(plan.link.detection.hexagons):,} hexagons"

        def work(on_progress: Any, should_stop: Any) -> Shapes:
            on_progress(0.0, text)
            return plan.layer()

        def done(new: Shapes) -> None:
            if plan.is_outdated(self._viewer):
                self.draw(image_id, detection, settings)
            else:
                self._place(plan, new)

        self.run.start(text, work, done)
        self.run.say(f"{text}…")

    def _plan(self, image_id: Any, detection: Detection, settings: AnalysisSettings) -> DrawingPlan:
        """Join a detection with the user's edits of the one before."""
        layers = self._viewer.layers
        image = image_layer(layers, image_id)
        if image is None:
            raise PointDefectsError("the image was closed while it was analysed: nothing was drawn")
        name = f"{image.name} hexagons"
        old = own_layer(layers, image_id, HexagonsLink)
        link, features = HexagonsLink(image_id, detection, settings), None
        seen, n_homeless = None, 0
        if old is not None:
            editor = box_correction(self._viewer).editor(old)
            merged = editor.redetected(detection)
            seen, n_homeless, features = editor.seen, merged.n_homeless, merged.features
            link = replace(
                link,
                detection=replace(detection, hexagons=merged.hexagons),
                written_ids=features["hexagon_id"].to_numpy(),
                deleted_px=merged.deleted_px,
            )
        return DrawingPlan(image, placement(image), link, name, features, old, seen, n_homeless)

    def _place(self, plan: DrawingPlan, new: Shapes) -> None:
        """Put the layer that was planned in the place of the one before."""
        old, detection = plan.old, plan.link.detection
        if plan.n_homeless:
            set_aside(old, plan.name)
            show_warning(
                f"{plan.n_homeless} of the hexagons that you edited have no place in this "
                f"run: the layer with them is kept as {old.name!r}"
            )
            old = None
        draw_area(self._viewer, plan.image, detection)
        # what the steps before would bring back is another run's
        history_of(self._viewer, plan.link.image_id).clear()
        replace_layer(self._viewer, old, new)
        self.run.say("")
        self._report(detection, plan.link.settings)
        for warning in detection.warnings:
            show_warning(warning)

    def _look(self) -> None:
        """Show what is known of the chosen image: it may be calibrated otherwise now."""
        layer = self.images.layer
        if layer is None:
            return
        hexagons = own_layer(self._viewer.layers, layer.unique_id, HexagonsLink)
        if hexagons is not None:
            link = link_of(hexagons, HexagonsLink)
            self._report(link.detection, link.settings)

    def _report(self, detection: Detection, settings: AnalysisSettings) -> None:
        lattice, (height, width) = detection.lattice, detection.pixel_size_nm
        self.result.setText(
            f"<b>{len(detection.hexagons):,} hexagons</b> of {settings.material}"
            f"{' in the region' if settings.region else ''}<br>"
            f"a = {lattice.a_px:.2f} px; lattice row at {lattice.angle_deg:.1f}°<br>"
            f"shear {100 * lattice.shear:.1f} %, stretch {100 * lattice.stretch:.1f} %<br>"
            f"pixel {height:.5f} × {width:.5f} nm (from the {detection.pixel_size_source})"
        )
        self.area.setText(area_legend(detection))
        self.area.setVisible(bool(self.area.text()))
        self._show_warnings(detection.warnings)

    def _show_warnings(self, warnings: tuple[str, ...]) -> None:
        self.warnings.setText("\n".join(f"⚠ {warning}" for warning in warnings))
        self.warnings.setVisible(bool(warnings))

    def _show_pixel_size(self) -> None:
        layer = self.images.layer
        size = pixel_size_nm(layer) if layer is not None and layer.ndim >= 2 else None
        text = f"auto ({size[0]:.5f} in the image)" if size else "auto (from the lattice)"
        self.form.set_empty_text("pixel_size_nm", text)

    def _draw_region(self) -> None:
        try:
            self.regions.start_drawing(check_image(self.images.layer))
        except PointDefectsError as error:
            self.run.fail(error)

    def _lay_out(self) -> None:
        self.form.layout_.insertRow(0, "Image", self.images)
        self.form.layout_.insertRow(1, "Region", self.regions)
        self.stack(
            self.form, advanced_box(self.advanced), self.run, self.result, self.area, self.warnings
        )
