"""The dock widget *Train*: simulated sets and labels in, better weights out, if one keeps them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import napari
from napari.utils.notifications import show_info
from napari.utils.theme import get_theme
from qtpy.QtGui import QShowEvent
from qtpy.QtWidgets import (
    QFileDialog,
    QFormLayout,
    QHBoxLayout,
    QLabel,
    QMessageBox,
    QPushButton,
    QVBoxLayout,
    QWidget,
)

from napari_point_defects.errors import PointDefectsError
from napari_point_defects.labels.schema import FILE_NAME
from napari_point_defects.napari_ui.labelling import labelling
from napari_point_defects.napari_ui.lifetime import listen
from napari_point_defects.napari_ui.pane import Pane
from napari_point_defects.napari_ui.remembered import Remembered, form_part
from napari_point_defects.napari_ui.run_panel import RunPanel
from napari_point_defects.napari_ui.settings_form import (
    SettingsForm,
    advanced_box,
    make_settings,
)
from napari_point_defects.napari_ui.train_curves import Curves, Live
from napari_point_defects.napari_ui.train_data import DataPanel, FolderField
from napari_point_defects.napari_ui.train_runs import (
    TimeLeft,
    describe_run,
    is_unfinished,
    new_run_folder,
    unfinished_run,
)
from napari_point_defects.napari_ui.train_scores import ScoresView
from napari_point_defects.napari_ui.train_start import StartForm
from napari_point_defects.napari_ui.use_weights import use_weights
from napari_point_defects.napari_ui.viewers import own_viewer
from napari_point_defects.retraining import apart
from napari_point_defects.retraining.folder import (
    Retrained,
    discard,
    is_finished,
    keep,
    load_run,
    read_history,
    run_settings,
)
from napari_point_defects.retraining.settings import RetrainSettings, default_fit

DEFAULTED = ("epochs", "images_per_epoch", "learning_rate")
ADVANCED_FIELDS = (
    *DEFAULTED,
    "held_out",
    "validation_images",
    "seed",
    "device",
)


class TrainWidget(Pane):
    """Trains a network in a process of its own and shows what came of it.

    Nothing is replaced until the user keeps the result under a name.

    Parameters
    ----------
    napari_viewer : napari.Viewer
    """

    def __init__(self, napari_viewer: napari.Viewer) -> None:
        super().__init__()
        self._viewer = viewer = own_viewer(napari_viewer)
        self.retrained: Retrained | None = None
        self.kept: Path | None = None
        self._running_in: Path | None = None
        self._found: Path | None = None
        self.start = StartForm()
        self.data = DataPanel()
        self.advanced = SettingsForm(
            RetrainSettings, ADVANCED_FIELDS, choices={"device": ("auto", "cpu", "cuda")}
        )
        for name in ("epochs", "images_per_epoch"):  # else their smallest value means default
            self.advanced.editors[name].setMinimum(0)
        self.advanced.set_values({"epochs": None, "images_per_epoch": None})
        self.folder = FolderField("", "Choose a folder for this run")
        self.folder.setToolTip(
            "<p>Checkpoints go there; a run that was stopped can be resumed.</p>"
        )
        self.run = RunPanel("Start training", "Train; the weights in use stay as they are.")
        self.found = QLabel()
        self.found.setWordWrap(True)
        self.resume_button = QPushButton()
        self.curves = Curves()
        self.curves.hide()
        self.scores = ScoresView()
        self.keep_button = QPushButton("Keep…")
        self.use_button = QPushButton("Use these weights")
        self.discard_button = QPushButton("Discard…")
        Remembered("train", self.run, form_part(self.advanced))
        self._lay_out()

        self.start.kind_changed.connect(self._look)
        self.start.changed.connect(self._show_defaults)
        self.data.changed.connect(self._show_defaults)
        self.folder.line.textChanged.connect(self._look)
        self.run.run_requested.connect(self.train)
        self.run.finished.connect(self._on_end)
        self.resume_button.clicked.connect(self._on_found)
        self.keep_button.clicked.connect(self._ask_keep)
        self.use_button.clicked.connect(self.use)
        self.discard_button.clicked.connect(self._ask_discard)
        listen(self, self._follow_theme, viewer.events.theme)
        self._follow_theme()
        self._show_result(None)
        self._show_defaults()
        self._look()

    def showEvent(self, event: QShowEvent) -> None:
        """Choose the labels of this viewer, unless the user chose something."""
        super().showEvent(event)
        project = labelling(self._viewer).folder
        nothing_chosen = not self.data.data and self.data.labels.folder is None
        if nothing_chosen and (project / FILE_NAME).is_file():
            self.data.set_values((), project)

    def settings(self) -> RetrainSettings:
        """Return the settings the widget shows.

        Raises
        ------
        PointDefectsError
            If one is missing or not allowed.
        """
        values = {**self.start.values(), **self.data.values(), **self.advanced.values()}
        return make_settings(RetrainSettings, values)

    def train(self) -> None:
        """Start a new run, or say why it cannot start."""
        try:
            settings = self.settings()
        except PointDefectsError as error:
            self.run.fail(error)
            return
        folder = self.folder.folder or new_run_folder(settings.kind)
        if run_settings(folder) is not None:
            self.run.fail(
                PointDefectsError(
                    f"{folder} holds a training run: resume it, or choose another folder"
                )
            )
            return
        self._start(settings, folder, resume=False)

    def resume(self, folder: Path) -> None:
        """Go on with a run that was stopped, with its own settings."""
        settings = run_settings(folder)
        if settings is None:
            self.run.fail(PointDefectsError(f"{folder} holds no training run"))
            return
        self._start(settings, folder, resume=True)

    def _start(self, settings: RetrainSettings, folder: Path, *, resume: bool) -> None:
        live, left = Live(), TimeLeft()
        live.epochs += read_history(folder) if resume else []

        def work(on_progress: Any, should_stop: Any) -> Retrained:
            return apart.retrain_apart(
                settings,
                folder,
                resume=resume,
                on_progress=left.telling(on_progress),
                should_stop=should_stop,
                on_step=live.on_step,
                on_epoch=live.on_epoch,
            )

        self._show_result(None)
        self.curves.show()
        self.curves.follow(live)
        self.found.hide()
        self.resume_button.hide()
        self._running_in = folder
        self.run.start(f"Train the {settings.kind}", work, self._show_result)

    def keep(self, path: Path, *, overwrite: bool = False) -> None:
        """Write the new weights and their model card."""
        retrained = self.retrained
        if retrained is None:
            self.run.fail(PointDefectsError("there is nothing to keep: train first"))
            return

        def work(on_progress: Any, should_stop: Any) -> Path:
            on_progress(0.0, "Writing")
            return keep(retrained, path, overwrite)

        def done(written: Path) -> None:
            self.kept = written
            self.use_button.setEnabled(True)
            self.run.say(f"Kept as {written}, with its model card beside it.")
            show_info(f"New {retrained.kind} weights kept as {written}")

        self.run.start("Keep the weights", work, done)

    def use(self) -> None:
        """Set the kept weights in the widget that uses them, and analyse again."""
        if self.kept is None or self.retrained is None:
            self.run.fail(PointDefectsError("keep the weights first, then use them"))
            return
        try:
            self.run.say(use_weights(self._viewer, {self.retrained.kind: self.kept}))
        except PointDefectsError as error:
            self.run.fail(error)

    def discard(self) -> None:
        """Forget the result and remove the run's files."""
        if self.retrained is not None:
            try:
                discard(self.retrained.folder)
            except (PointDefectsError, OSError) as error:
                self.run.fail(error)
                return
        self.curves.hide()
        self._show_result(None)
        self.run.say("")
        self._look()

    def _show_result(self, retrained: Retrained | None) -> None:
        self.retrained, self.kept = retrained, None
        if retrained is None:
            self.scores.forget()
        else:
            self.run.say("")
            self.scores.show_run(retrained)
        self.decision.setVisible(retrained is not None)
        self.use_button.setEnabled(False)
        self.use_button.setToolTip("<p>Keep the weights first.</p>")

    def _on_end(self) -> None:
        """Say how to go on after a run, whatever came of it."""
        self.curves.settle()
        folder, self._running_in = self._running_in, None
        if folder is not None and is_unfinished(folder):
            self.run.say(f"Stopped: resume whenever you like. {self.run.message.text()}")
        self._look()

    def _look(self) -> None:
        """Offer the run in the folder, or the last one that was stopped."""
        self.folder.line.setPlaceholderText(str(new_run_folder(self.start.chosen_kind)))
        if self.run.is_running:
            return
        folder = self.folder.folder or unfinished_run()
        text = describe_run(folder) if folder is not None else ""
        shown = bool(text) and (self.retrained is None or self.retrained.folder != folder)
        self._found = folder if shown else None
        self.found.setText(text)
        self.found.setVisible(shown)
        self.resume_button.setVisible(shown)
        if shown:
            self.resume_button.setText("Show its result" if is_finished(folder) else "Resume")
            self.found.setToolTip(str(folder))

    def _on_found(self) -> None:
        folder = self._found
        if folder is None or self.run.is_running:
            return
        if not is_finished(folder):
            self.resume(folder)
            return
        try:
            retrained = load_run(folder)
        except PointDefectsError as error:
            self.run.fail(error)
            return
        live = Live()
        live.epochs += retrained.history
        self.curves.show()
        self.curves.follow(live)
        self.curves.settle()
        self._show_result(retrained)
        self._look()

    def _show_defaults(self) -> None:
        """Say how long and how fast a run trains where the form is left as it is."""
        start = self.start
        gentle = self.data.values()["labels"] is not None and not start.from_scratch
        fit = default_fit(start.chosen_kind, start.preset.currentText() or "compact", gentle)
        for name in DEFAULTED:
            value = getattr(fit, name, None)
            self.advanced.set_empty_text(name, "default" if value is None else f"{value:g}")

    def _follow_theme(self, event: Any = None) -> None:
        theme = get_theme(self._viewer.theme)
        for view in (self.curves, self.scores):
            view.set_colours(theme.text.as_hex(), theme.background.as_hex())

    def _ask_keep(self) -> None:
        name, _ = QFileDialog.getSaveFileName(
            self,
            "Keep the weights as",
            f"{self.retrained.kind}-mine.safetensors",
            "Weights (*.safetensors)",
            options=QFileDialog.Option.DontConfirmOverwrite,
        )
        if not name:
            return
        path = Path(name)
        if path.suffix != ".safetensors":
            path = path.with_name(path.name + ".safetensors")
        there = path.exists() or path.with_suffix(".json").exists()
        if there and not self._agrees(f"There are weights called {path.name} already. Replace?"):
            return
        self.keep(path, overwrite=there)

    def _ask_discard(self) -> None:
        kept = "The weights you kept stay." if self.kept else "The new weights are not kept."
        if self._agrees(f"Remove this run's files from {self.retrained.folder}? {kept}"):
            self.discard()

    def _agrees(self, question: str) -> bool:
        answer = QMessageBox.question(self, "Train", question)
        return answer == QMessageBox.StandardButton.Yes

    def _lay_out(self) -> None:
        place = QWidget()
        rows = QFormLayout(place)
        rows.setContentsMargins(0, 0, 0, 0)
        rows.addRow("Run folder", self.folder)
        self.decision = QWidget()
        buttons = QHBoxLayout(self.decision)
        buttons.setContentsMargins(0, 0, 0, 0)
        for button in (self.keep_button, self.use_button, self.discard_button):
            buttons.addWidget(button)
        waiting = QWidget()
        column = QVBoxLayout(waiting)
        column.setContentsMargins(0, 0, 0, 0)
        column.addWidget(self.found)
        column.addWidget(self.resume_button)
        self.stack(
            self.start,
            self.data,
            advanced_box(self.advanced),
            place,
            waiting,
            self.run,
            self.curves,
            self.scores,
            self.decision,
        )
