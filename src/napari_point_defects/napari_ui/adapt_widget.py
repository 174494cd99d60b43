"""The dock widget *Adapt to image*: weights that learned images like one, in some minutes."""

from __future__ import annotations

from collections.abc import Hashable
from pathlib import Path
from typing import Any

import napari
from napari.layers import Image
from napari.utils.theme import get_theme
from qtpy.QtCore import Qt
from qtpy.QtWidgets import QFormLayout, QLabel, QPushButton, QWidget

from napari_point_defects.errors import PointDefectsError
from napari_point_defects.napari_ui.adapt_texts import verdict, worth_using
from napari_point_defects.napari_ui.image_layers import check_image, is_micrograph
from napari_point_defects.napari_ui.layer_chooser import LayerChooser
from napari_point_defects.napari_ui.lifetime import listen
from napari_point_defects.napari_ui.links import (
    CellsLink,
    HexagonsLink,
    image_layer,
    link_of,
    own_layer,
)
from napari_point_defects.napari_ui.material_editors import MaterialEditor
from napari_point_defects.napari_ui.outside_note import INSIDE, outside_text
from napari_point_defects.napari_ui.pane import Pane
from napari_point_defects.napari_ui.remembered import Remembered, editor_part, form_part
from napari_point_defects.napari_ui.run_panel import WARNING_STYLE, RunPanel
from napari_point_defects.napari_ui.settings_form import (
    SettingsForm,
    advanced_box,
    make_settings,
)
from napari_point_defects.napari_ui.simulate_match import Matched, match_work
from napari_point_defects.napari_ui.train_data import FolderField
from napari_point_defects.napari_ui.train_runs import TimeLeft, new_run_folder
from napari_point_defects.napari_ui.train_scores import ScoresView
from napari_point_defects.napari_ui.use_weights import use_weights
from napari_point_defects.napari_ui.viewers import own_viewer
from napari_point_defects.retraining import adapting
from napari_point_defects.retraining.adapting import Adapted, AdaptSettings
from napari_point_defects.retraining.apart import retrain_apart
from napari_point_defects.simulation.presets import PRESETS
from napari_point_defects.simulation.process import make_set_apart

ADVANCED_FIELDS = (
    "train_images",
    "validation_images",
    "epochs",
    "images_per_epoch",
    "learning_rate",
    "detection_f1",
    "seed",
)


class AdaptWidget(Pane):
    """Trains the weights on to images like one, and shows what came of it.

    The image is measured, its like are simulated, and those are learned; the weights in use stay
    as they are until the user takes the new ones.

    Parameters
    ----------
    napari_viewer : napari.Viewer
    """

    def __init__(self, napari_viewer: napari.Viewer) -> None:
        super().__init__()
        self._viewer = viewer = own_viewer(napari_viewer)
        self.adapted: Adapted | None = None
        self._given: tuple[Hashable, Matched] | None = None
        self._adapted_to: Hashable | None = None
        self.images = LayerChooser(viewer, is_micrograph, "open an image")
        self.material = MaterialEditor()
        self.material.setToolTip(
            "<p>What the image shows. A detection brings its own; without one, choose it here.</p>"
        )
        self.folder = FolderField("", "Choose a new folder")
        self.folder.setToolTip(
            "<p>A new or empty folder: the simulated set and the new weights go there.</p>"
        )
        self.advanced = SettingsForm(AdaptSettings, ADVANCED_FIELDS)
        self.run = RunPanel(
            "Adapt to this image",
            "<p>Measure the image, simulate images like it, and train the weights on those: some "
            "minutes, in the background. The weights in use stay as they are.</p>",
        )
        self.basis, self.outside, self.verdict = QLabel(), QLabel(), QLabel()
        for label in (self.basis, self.outside, self.verdict):
            label.setWordWrap(True)
            label.setTextFormat(Qt.TextFormat.RichText)
        self.scores = {"classifier": ScoresView(), "detector": ScoresView()}
        self.use_button = QPushButton()
        material = editor_part("material", self.material)
        Remembered("adapt", self.run, material, form_part(self.advanced))
        self._lay_out()

        self.images.layer_changed.connect(self.look)
        self.run.run_requested.connect(self.adapt)
        self.run.finished.connect(self.look)
        self.use_button.clicked.connect(self.use)
        listen(self, self.look, viewer.layers.events.inserted, viewer.layers.events.removed)
        listen(self, self._follow_theme, viewer.events.theme)
        self._follow_theme()
        self._show_result(None)
        self.look()

    def set_image(self, layer: Image, matched: Matched | None = None) -> None:
        """Choose an image, with the ranges found for it if they are known.

        Raises
        ------
        PointDefectsError
            If a run is not over.
        """
        if self.run.is_running:
            raise PointDefectsError("the weights are being adapted: wait, or cancel it first")
        self._given = None if matched is None else (layer.unique_id, matched)
        self.images.choose(layer)
        self.look()

    def adapt(self) -> None:
        """Start a run, or say why it cannot start."""
        try:
            layer = check_image(self.images.layer)
            settings = make_settings(AdaptSettings, self.advanced.values())
            folder = self.folder.folder or new_run_folder("adapted")
            adapting.check_empty(folder)
            matched = self._matched(layer)
            if matched is None:
                base = PRESETS["wide"].model_copy(update={"materials": (self.material.get(),)})
                work = match_work(self._viewer, layer, base)
        except PointDefectsError as error:
            self.run.fail(error)
            return
        self._show_result(None)
        if matched is not None:
            self._learn(layer, matched, settings, folder)
            return

        def learn(matched: Matched) -> None:
            self._given = layer.unique_id, matched
            self.look()
            self._learn(layer, matched, settings, folder)

        self.run.start(f"Measure {layer.name}", work, learn, cancel_tip="Stop")

    def use(self) -> None:
        """Hand the new weights to *Detect* and *Classify*, and analyse the image again."""
        try:
            image = image_layer(self._viewer.layers, self._adapted_to)
            if image is None:
                raise PointDefectsError("the image is closed: open it and choose the weights there")
            files = worth_using(self.adapted) or self.adapted.weights
            self.run.say(use_weights(self._viewer, files, image))
        except PointDefectsError as error:
            self.run.fail(error)

    def look(self, event: Any = None) -> None:
        """Say what a run would rest on."""
        if self.run.is_running:
            return
        self.folder.line.setPlaceholderText(str(new_run_folder("adapted")))
        layer = self.images.layer
        hexagons = cells = matched = None
        if layer is not None:
            hexagons = own_layer(self._viewer.layers, layer.unique_id, HexagonsLink)
            cells = own_layer(self._viewer.layers, layer.unique_id, CellsLink)
            matched = self._matched(layer)
        link = link_of(hexagons, HexagonsLink) if hexagons is not None else None
        known = matched or link
        self.material.setEnabled(known is None)
        if known is not None:
            self.material.set(known.settings.material)
        if matched is not None:
            text = "The ranges are those found for this image."
        elif cells is not None:
            text = f"Measured first, with its {len(cells.data):,} classified cells."
        else:
            text = "Its cells are found, classified and measured first."
        self.basis.setText("" if layer is None else text)
        outside = link_of(cells, CellsLink).outside if cells is not None else None
        self._show_outside(matched.outside if matched is not None else outside)

    def _learn(self, layer: Image, matched: Matched, settings: AdaptSettings, folder: Path) -> None:
        left = TimeLeft()

        def work(on_progress: Any, should_stop: Any) -> Adapted:
            return adapting.adapt(
                matched.match,
                folder,
                settings,
                matched.settings,
                simulate=make_set_apart,
                train=retrain_apart,
                on_progress=left.telling(on_progress),
                should_stop=should_stop,
            )

        def done(adapted: Adapted) -> None:
            self._adapted_to = layer.unique_id
            self.run.say(f"Written to {folder}")
            self._show_result(adapted, layer.name)

        self.run.start(
            f"Adapt to {layer.name}", work, done, cancel_tip="Stop; the folder is of no use then"
        )

    def _matched(self, layer: Image) -> Matched | None:
        """Return the ranges found for an image, if they are known."""
        given = self._given
        return given[1] if given is not None and given[0] == layer.unique_id else None

    def _show_outside(self, lines: tuple[str, ...] | None) -> None:
        self.outside.setText(outside_text(lines) if lines else INSIDE)
        self.outside.setStyleSheet(WARNING_STYLE if lines else "")
        self.outside.setVisible(lines is not None)

    def _show_result(self, adapted: Adapted | None, name: str = "") -> None:
        self.adapted = adapted
        runs = {} if adapted is None else {"classifier": adapted.classifier}
        if adapted is not None:
            if adapted.detector is not None:
                runs["detector"] = adapted.detector
            better = worth_using(adapted)
            self.verdict.setText(verdict(adapted, name))
            self.verdict.setStyleSheet("" if better else WARNING_STYLE)
            self.use_button.setText("Use these weights" if better else "Use them all the same")
            files = "<br>".join(str(path) for path in (better or adapted.weights).values())
            self.use_button.setToolTip(f"<p>Analyse the image again with<br>{files}</p>")
        for kind, view in self.scores.items():
            if kind in runs:
                view.show_run(runs[kind])
            else:
                view.forget()
        for widget in (self.verdict, self.use_button):
            widget.setVisible(adapted is not None)

    def _follow_theme(self, event: Any = None) -> None:
        theme = get_theme(self._viewer.theme)
        for view in self.scores.values():
            view.set_colours(theme.text.as_hex(), theme.background.as_hex())

    def _lay_out(self) -> None:
        head = QWidget()
        form = QFormLayout(head)
        form.setContentsMargins(0, 0, 0, 0)
        form.setFieldGrowthPolicy(QFormLayout.FieldGrowthPolicy.AllNonFixedFieldsGrow)
        form.addRow("Image", self.images)
        form.addRow("Material", self.material)
        form.addRow("New folder", self.folder)
        self.stack(
            head,
            advanced_box(self.advanced),
            self.outside,
            self.basis,
            self.run,
            self.verdict,
            self.use_button,
            *self.scores.values(),
        )
