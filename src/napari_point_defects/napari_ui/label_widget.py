"""The dock widget *Labels*: the project folder, its images, resuming, export and import."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import napari
from napari.utils.notifications import show_info
from qtpy.QtWidgets import (
    QComboBox,
    QFileDialog,
    QFormLayout,
    QHBoxLayout,
    QLabel,
    QLineEdit,
    QMessageBox,
    QPushButton,
    QWidget,
)
from superqt import QElidingLabel

from napari_point_defects.errors import PointDefectsError
from napari_point_defects.labels.exchange import export_labels, export_paths, import_labels
from napari_point_defects.labels.merging import Contradiction, Merged
from napari_point_defects.labels.store import ImageEntry, LabelStore
from napari_point_defects.napari_ui.label_panel import ImagesTable, Refresher, ResumeBar
from napari_point_defects.napari_ui.labelling import labelling
from napari_point_defects.napari_ui.pane import Pane
from napari_point_defects.napari_ui.run_panel import WARNING_STYLE, RunPanel, report_error
from napari_point_defects.napari_ui.viewers import own_viewer

FORMATS = {"COCO (json)": "coco", "Tables (csv)": "csv"}


class LabelWidget(Pane):
    """Shows where labels are saved, and what of; nothing here needs to be pressed to save.

    Parameters
    ----------
    napari_viewer : napari.Viewer
    """

    def __init__(self, napari_viewer: napari.Viewer) -> None:
        super().__init__()
        self._labels = labelling(own_viewer(napari_viewer))
        self.bar = ResumeBar(self._labels)
        self.folder = QElidingLabel()
        self.choose_button = QPushButton("Choose…")
        self.choose_button.setToolTip(
            "<p>The project folder: one file holds the labels of all its images. It can be moved "
            "and copied; copies of images that lie elsewhere are in it.</p>"
        )
        self.author = QLineEdit(self._labels.author)
        self.author.setToolTip("The name that your labels bear")
        self.state = QLabel()
        self.state.setWordWrap(True)
        self.images = ImagesTable(self._labels)
        self.resume_button = QPushButton("Resume selected image")
        self.resume_button.setToolTip(
            "Open the selected image with its hexagons and cells as they stood"
        )
        self.formats = QComboBox()
        self.formats.addItems(FORMATS)
        self.export = RunPanel("Export…", "Write all labels of the project folder to files")
        self.import_ = RunPanel(
            "Import…", "Add labels from files; nothing that was decided here is replaced unasked"
        )
        self._lay_out()

        self.choose_button.clicked.connect(self._choose_folder)
        self.author.editingFinished.connect(self._set_author)
        self.resume_button.clicked.connect(lambda: self._resume(self.images.entry))
        self.images.resume_requested.connect(self._resume)
        self.export.run_requested.connect(self._ask_export)
        self.import_.run_requested.connect(self._ask_import)
        Refresher(self, self._labels, self.refresh)
        self.refresh()

    def refresh(self) -> None:
        """Show the state of the project folder."""
        self.folder.setText(str(self._labels.folder))
        self.folder.setToolTip(str(self._labels.folder))
        problem = self._labels.problem
        self.state.setText(f"⚠ {problem}" if problem else self._summary())
        self.state.setStyleSheet(WARNING_STYLE if problem else "")
        there = bool(self.images.rowCount())
        self.resume_button.setEnabled(there)
        self.export.button.setEnabled(there or self.export.is_running)

    def write(self, folder: Path, *, overwrite: bool = False) -> None:
        """Export the labels to a folder."""
        source, file_format = self._labels.folder, FORMATS[self.formats.currentText()]

        def work(on_progress: Any, should_stop: Any) -> list[Path]:
            on_progress(0.0, "Writing labels")
            with LabelStore(source, create=False) as store:  # this thread's own
                return export_labels(store, folder, file_format=file_format, overwrite=overwrite)

        def done(paths: list[Path]) -> None:
            names = ", ".join(path.name for path in paths)
            self.export.say(f"Written to {folder}: {names}")

        self.export.start("Export labels", work, done)

    def read(self, path: Path, *, overwrite: bool = False) -> None:
        """Import labels from a file; ask before decisions are replaced."""
        target = self._labels.folder

        def work(on_progress: Any, should_stop: Any) -> Merged | Contradiction:
            on_progress(0.0, "Reading labels")
            with LabelStore(target) as store:
                try:
                    return import_labels(store, path, overwrite=overwrite)
                except Contradiction as contradiction:
                    return contradiction

        def done(result: Merged | Contradiction) -> None:
            if isinstance(result, Contradiction):
                self.import_.say("Nothing was imported.")
                question = f"{str(result).split(':')[0]}. Replace what was decided there?"
                answer = QMessageBox.question(self, "Replace labels?", question)
                if answer == QMessageBox.StandardButton.Yes:
                    self.read(path, overwrite=True)
                return
            self._labels.read_again()
            text = (
                f"{result.images} images: {result.new:,} labels new, {result.replaced:,} replaced"
            )
            self.import_.say(text)
            show_info(f"Imported {path.name}: {text}")

        self.import_.start("Import labels", work, done)

    def _summary(self) -> str:
        images = self._labels.images()
        if not images:
            return "No labels yet: they are saved here as soon as unit cells are classified."
        decided = sum(n for *_, n in images)
        in_images = f"{len(images)} image" + ("" if len(images) == 1 else "s")
        saved = f"; last saved {self._labels.last_saved}" if self._labels.last_saved else ""
        cells = f"{decided:,} cell" + ("" if decided == 1 else "s")
        return f"<b>{cells} decided</b> in {in_images}{saved}"

    def _resume(self, entry: ImageEntry | None) -> None:
        if entry is not None:
            self._guarded(lambda: self._labels.resume(entry))

    def _choose_folder(self) -> None:
        name = QFileDialog.getExistingDirectory(
            self, "Project folder for labels", str(self._labels.folder)
        )
        if name:
            self._guarded(lambda: self._labels.use(Path(name)))

    def _set_author(self) -> None:
        self._labels.author = " ".join(self.author.text().split()) or self._labels.author
        self.author.setText(self._labels.author)

    def _ask_export(self) -> None:
        name = QFileDialog.getExistingDirectory(self, "Export labels to")
        if not name:
            return
        paths = export_paths(Path(name), FORMATS[self.formats.currentText()])
        there = [path.name for path in paths if path.exists()]
        if there:
            question = f"The folder already holds {', '.join(there)}. Replace?"
            answer = QMessageBox.question(self, "Replace files?", question)
            if answer != QMessageBox.StandardButton.Yes:
                return
        self.write(Path(name), overwrite=bool(there))

    def _ask_import(self) -> None:
        name, _ = QFileDialog.getOpenFileName(
            self, "Import labels", "", "Labels (labels.json cells.csv *.json *.csv)"
        )
        if name:
            self.read(Path(name))

    def _guarded(self, action: Any) -> None:
        try:
            action()
        except PointDefectsError as error:
            report_error(error)
        self.refresh()

    def _lay_out(self) -> None:
        place = QWidget()
        row = QHBoxLayout(place)
        row.setContentsMargins(0, 0, 0, 0)
        row.addWidget(self.folder, stretch=1)
        row.addWidget(self.choose_button)
        form = QWidget()
        fields = QFormLayout(form)
        fields.setContentsMargins(0, 0, 0, 0)
        fields.addRow("Folder", place)
        fields.addRow("Author", self.author)
        fields_below = QWidget()
        formats = QFormLayout(fields_below)
        formats.setContentsMargins(0, 0, 0, 0)
        formats.addRow("Format", self.formats)
        self.stack(
            self.bar,
            form,
            self.state,
            self.images,
            self.resume_button,
            fields_below,
            self.export,
            self.import_,
        )
