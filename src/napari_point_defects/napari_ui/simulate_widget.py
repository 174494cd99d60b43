"""The dock widget *Simulate training set*: settings in, a folder of labelled images out."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import replace
from functools import partial
from html import escape
from pathlib import Path
from typing import Any

import napari
import numpy as np
from napari.layers import Image
from qtpy.QtCore import QTimer
from qtpy.QtWidgets import (
    QFileDialog,
    QFormLayout,
    QHBoxLayout,
    QLabel,
    QPushButton,
    QVBoxLayout,
    QWidget,
)

from napari_point_defects.errors import PointDefectsError
from napari_point_defects.materials import DefectClass
from napari_point_defects.napari_ui.docks import adapt_to
from napari_point_defects.napari_ui.image_layers import check_image
from napari_point_defects.napari_ui.links import image_layer
from napari_point_defects.napari_ui.outside_note import INSIDE, OutsideNote
from napari_point_defects.napari_ui.pace import Pace
from napari_point_defects.napari_ui.pane import Pane
from napari_point_defects.napari_ui.remembered import Part, Remembered
from napari_point_defects.napari_ui.run_panel import RunPanel
from napari_point_defects.napari_ui.settings_editors import FolderEditor
from napari_point_defects.napari_ui.settings_form import make_settings
from napari_point_defects.napari_ui.simulate_form import SimulateForm, class_names
from napari_point_defects.napari_ui.simulate_match import Matched, match_work
from napari_point_defects.napari_ui.simulate_preview import SimulatePreview
from napari_point_defects.napari_ui.viewers import own_viewer
from napari_point_defects.palettes import colours_in_use
from napari_point_defects.settings_files import SUFFIXES, write_settings
from napari_point_defects.simulation.images import unknown_columns
from napari_point_defects.simulation.presets import TrainingSetSettings, load_settings
from napari_point_defects.simulation.process import make_set_apart, prepare_columns_apart
from napari_point_defects.simulation.set_records import beside_settings
from napari_point_defects.simulation.sets import FoundSet, find_set

_SIMULATE = "Simulate", "<p>Write the training set into the output folder.</p>"
_RESUME = "Resume", "<p>Finish the set that the output folder holds.</p>"
_FILES = "Settings (*.toml *.json)"
_LOOK_MS = 300
_LEAST_FORM_PX = 150


class SimulateWidget(QWidget):
    """Makes training sets, with a live example beside the user's image.

    Parameters
    ----------
    napari_viewer : napari.Viewer
    """

    def __init__(self, napari_viewer: napari.Viewer) -> None:
        super().__init__()
        self._viewer = viewer = own_viewer(napari_viewer)
        self.form = SimulateForm()
        self.preview = SimulatePreview(viewer, self.form.settings)
        self.load = QPushButton("Load…")
        self.load.setToolTip("<p>Read settings from a TOML or JSON file, or a set's record.</p>")
        self.save = QPushButton("Save…")
        self.save.setToolTip(
            "<p>Write these settings as TOML or JSON; <code>point-defects simulate --settings"
            "</code> takes the file.</p>"
        )
        self.folder = FolderEditor("choose or type a folder")
        self.folder.setToolTip("<p>The folder that the training set goes to.</p>")
        self.run = RunPanel(*_SIMULATE)
        self.result = QLabel()
        self.result.setWordWrap(True)
        self.outside = OutsideNote(INSIDE)
        self._found: FoundSet | None = None
        self._matched: tuple[Hashable, Matched] | None = None
        Remembered("simulate", self.run, Part(self._settings, self._set_settings))
        self._lay_out()

        self._look = QTimer(self, singleShot=True, interval=_LOOK_MS)
        self._look.timeout.connect(self._look_into_folder)
        self.load.clicked.connect(self._ask_for_file)
        self.save.clicked.connect(self._ask_where_to_save)
        self.form.changed.connect(self.preview.refresh)
        self.form.changed.connect(self._name_button)
        self.folder.changed.connect(self._look.start)
        self.run.run_requested.connect(self.simulate)
        self.run.finished.connect(self._on_finished)
        self.preview.columns_wanted.connect(self.simulate_columns)
        self.preview.match_wanted.connect(self.match_image)
        self.preview.images.layer_changed.connect(self._show_outside)
        self.outside.adapt_requested.connect(self.adapt)
        self.preview.refresh()

    def _settings(self) -> dict[str, Any]:
        try:
            return self.form.settings().model_dump(mode="json")
        except PointDefectsError:  # half typed
            return {}

    def _set_settings(self, values: dict[str, Any]) -> None:
        if values:
            self.form.set_settings(make_settings(TrainingSetSettings, values))

    def simulate(self) -> None:
        """Start a run or go on with one, or say why it cannot start."""
        self.result.clear()
        try:
            settings, folder = self.form.settings(), self._chosen_folder()
            found = find_set(folder)
        except PointDefectsError as error:
            self.run.fail(error)
            return
        resume = found is not None and not found.is_whole
        total = settings.train_images + settings.validation_images
        pace = Pace(total, "images")

        def work(on_progress: Any, should_stop: Any) -> np.ndarray:
            def report(share: float, text: str) -> None:
                rate = pace.describe(share) if text.startswith("image") else ""
                on_progress(share, f"{text}, {rate}" if rate else text)

            return make_set_apart(
                settings, folder, resume=resume, on_progress=report, should_stop=should_stop
            )

        self.run.start(
            f"Simulate {total} images",
            work,
            partial(self._report, settings, folder),
            cancel_tip="Stop; the images made so far are a valid set, and it can be resumed",
        )

    def simulate_columns(self) -> None:
        """Have abTEM simulate the columns of this microscope."""
        try:
            settings = self.form.settings()
            missing = unknown_columns(settings.materials, settings.microscope)
        except PointDefectsError as error:
            self.run.fail(error)
            return

        def done(result: Any) -> None:
            self.run.say("The columns are known now.")
            self.preview.refresh()

        self.run.start(
            f"abTEM: {len(missing)} materials",
            partial(prepare_columns_apart, missing, settings.microscope),
            done,
            cancel_tip="Stop abTEM",
        )

    def match_image(self) -> None:
        """Set the form to the image chosen, and show its likeness."""
        self.result.clear()
        try:
            layer = check_image(self.preview.images.layer)
            work = match_work(self._viewer, layer, self.form.settings())
        except PointDefectsError as error:
            self.run.fail(error)
            return
        self.run.start(
            f"Match {layer.name}",
            work,
            partial(self._take_match, layer),
            cancel_tip="Stop; the settings stay as they are",
        )

    def _take_match(self, layer: Image, matched: Matched) -> None:
        found = matched.match
        self.form.set_settings(found.likeness.settings)
        self.preview.show_likeness(found, layer)
        self.run.say(f"Set to {found.image.name}.")
        self.result.setText("<br>".join(f"⚠ {escape(line)}" for line in found.likeness.remarks))
        self._matched = layer.unique_id, matched
        self._show_outside()

    def adapt(self) -> None:
        """Open *Adapt to image* on the image matched, with the ranges that the form shows."""
        image_id, matched = self._matched
        try:
            likeness = replace(matched.match.likeness, settings=self.form.settings())
            matched = replace(matched, match=replace(matched.match, likeness=likeness))
            adapt_to(self._viewer, image_layer(self._viewer.layers, image_id), matched)
        except PointDefectsError as error:
            self.run.fail(error)

    def _show_outside(self) -> None:
        """Say of the image that was matched, while it is chosen, what the weights make of it."""
        image_id, matched = self._matched or (None, None)
        layer = self.preview.images.layer
        shown = matched is not None and layer is not None and layer.unique_id == image_id
        self.outside.show_lines(matched.outside if shown else None)

    def load_settings(self, path: Path) -> None:
        """Show the settings of a file."""
        try:
            self.form.set_settings(load_settings(path))
        except PointDefectsError as error:
            self.run.fail(error)
        else:
            self.run.say(f"Settings read from {path}")

    def save_settings(self, path: Path, *, overwrite: bool = False) -> None:
        """Write the settings that the form shows; without an ending as TOML."""
        if not path.suffix:
            path = path.with_suffix(SUFFIXES[0])
        try:
            settings = self.form.settings()
            beside = beside_settings(settings.materials)
            write_settings(path, settings, overwrite, beside=beside)
        except PointDefectsError as error:
            self.run.fail(error)
        else:
            self.run.say(f"Settings written to {path}")

    def _ask_for_file(self) -> None:
        name, _ = QFileDialog.getOpenFileName(self, "Load settings", "", _FILES)
        if name:
            self.load_settings(Path(name))

    def _ask_where_to_save(self) -> None:
        name, _ = QFileDialog.getSaveFileName(self, "Save settings", "training-set.toml", _FILES)
        if name:
            # the dialog has asked about the name that it returns, not about a longer one
            self.save_settings(Path(name), overwrite=bool(Path(name).suffix))

    def _chosen_folder(self) -> Path:
        folder = self.folder.get()
        if folder is None:
            raise PointDefectsError("choose the output folder first")
        return folder

    def _report(self, settings: TrainingSetSettings, folder: Path, counts: np.ndarray) -> None:
        self.run.say("")
        images = f"{settings.train_images:,} + {settings.validation_images:,} images"
        self.result.setText(
            f"<b>{images}</b> (training + validation) in {folder}.<br>Cells: "
            + _counts_in_words(settings, counts)
        )

    def _on_finished(self) -> None:
        self._look_into_folder()
        if self.run.was_cancelled:
            found = self._found
            made = f"{sum(found.images):,} images are in {self.folder.get()}" if found else ""
            self.run.say(
                f"Cancelled. {made}: a valid set; Resume goes on." if made else "Cancelled."
            )

    def _look_into_folder(self) -> None:
        """See what the output folder holds."""
        folder = self.folder.get()
        try:
            self._found = find_set(folder) if folder is not None else None
        except PointDefectsError:
            self._found = None  # the button says so when it is pressed
        self._name_button()

    def _name_button(self) -> None:
        found = self._found
        try:
            same = found is not None and found.settings == self.form.settings()
        except PointDefectsError:
            same = False
        self.run.rename(*(_RESUME if same and not found.is_whole else _SIMULATE))

    def _lay_out(self) -> None:
        files = QHBoxLayout()
        files.addWidget(QLabel("Settings"), 1)
        files.addWidget(self.load)
        files.addWidget(self.save)
        folder = QFormLayout()
        folder.setContentsMargins(0, 0, 0, 0)
        folder.addRow("Output folder", self.folder)
        self.form.size.side_by_side()
        form = Pane()
        form.stack(self.form)
        # scrolls on a low screen, so that the preview and the button stay in sight
        form.setMinimumHeight(_LEAST_FORM_PX)
        layout = QVBoxLayout(self)
        layout.setSpacing(6)
        layout.addWidget(self.preview)
        layout.addWidget(self.outside)
        layout.addLayout(files)
        layout.addWidget(form, 1)
        layout.addWidget(self.form.size)
        layout.addLayout(folder)
        layout.addWidget(self.run)
        layout.addWidget(self.result)


def _counts_in_words(settings: TrainingSetSettings, counts: np.ndarray) -> str:
    """Return the number of cells of each class in both splits, as rich text."""
    return ", ".join(
        # one class is not broken over two lines
        f"<font color='{colours_in_use()[c]}'>■</font>&nbsp;{name}&nbsp;{train:,}\u2009+\u2009"
        f"{validation:,}"
        for c, name, train, validation in zip(
            DefectClass, class_names(settings.materials), *counts, strict=True
        )
    )
