"""What to learn from: simulated sets, a project's labels, and how many cells of each class."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from qtpy.QtCore import Qt, QTimer, Signal
from qtpy.QtWidgets import (
    QAbstractItemView,
    QFileDialog,
    QHBoxLayout,
    QLabel,
    QListWidget,
    QListWidgetItem,
    QPushButton,
    QVBoxLayout,
    QWidget,
)

from napari_point_defects.errors import PointDefectsError
from napari_point_defects.materials import CLASS_NAMES, DefectClass
from napari_point_defects.napari_ui.run_panel import WARNING_STYLE
from napari_point_defects.napari_ui.settings_form import FileField
from napari_point_defects.napari_ui.tasks import Task
from napari_point_defects.palettes import colours_in_use
from napari_point_defects.retraining.data import LabelledEntry, survey_labels
from napari_point_defects.training_set_survey import count_classes

FEW_LABELS = 10
FEW_CELLS = 50

_ROWS = 4
_TYPING_MS = 400


class FolderField(FileField):
    """A folder with a browse button."""

    def __init__(self, placeholder: str, question: str) -> None:
        super().__init__(placeholder)
        self._question = question

    @property
    def folder(self) -> Path | None:
        """The folder named; None while the field is empty."""
        text = self.line.text().strip()
        return Path(text).expanduser() if text else None

    def _browse(self) -> None:
        name = QFileDialog.getExistingDirectory(self, self._question, self.line.text())
        if name:
            self.line.setText(name)


class DataPanel(QWidget):
    """Simulated sets and labelled images to choose from, and the cells they hold.

    Files are read in the background. ``changed`` tells that the choice or a count is another.
    """

    changed = Signal()

    def __init__(self) -> None:
        super().__init__()
        self._counts: dict[Path, np.ndarray | str] = {}
        self._entries: list[LabelledEntry] = []
        self._labels_read: Path | None = None
        self._problem_with_labels = ""
        self._task: Task | None = None
        self.sets = _low_list("Folders made by Simulate training set, or `point-defects simulate`")
        self.add_button = QPushButton("Add set…")
        self.remove_button = QPushButton("Remove")
        self.remove_button.setEnabled(False)
        self.labels = FolderField("none: a folder with labels", "Choose a project folder")
        self.labels.setToolTip("<p>The project folder that your corrections are kept in.</p>")
        self.images = _low_list("Images to learn from, with their confirmed and corrected cells")
        self.images.hide()
        self.table = QLabel()
        self.problem = QLabel()
        self.problem.setWordWrap(True)
        self.problem.setStyleSheet(WARNING_STYLE)
        self._lay_out()

        self._typing = QTimer(self, singleShot=True, interval=_TYPING_MS)
        self._typing.timeout.connect(self._read)
        self.add_button.clicked.connect(self._ask_set)
        self.remove_button.clicked.connect(self._remove_sets)
        self.sets.itemSelectionChanged.connect(self._on_selection)
        self.labels.line.textChanged.connect(lambda _: self._typing.start())
        self.images.itemChanged.connect(lambda _: self._show())
        self._show()

    @property
    def data(self) -> tuple[Path, ...]:
        """The simulated sets."""
        items = (self.sets.item(i) for i in range(self.sets.count()))
        return tuple(Path(item.data(Qt.ItemDataRole.UserRole)) for item in items)

    @property
    def chosen_images(self) -> tuple[int, ...] | None:
        """Ids of the ticked images; None where all are."""
        ticked = tuple(entry.id for entry, item in self._image_items() if _is_ticked(item))
        return None if len(ticked) == len(self._entries) else ticked

    def values(self) -> dict[str, Any]:
        """Return the fields of the settings that are chosen here."""
        labels = self.labels.folder
        if labels is not None and labels == self._labels_read and self.chosen_images == ():
            labels = None  # no image is ticked
        return {
            "data": self.data,
            "labels": labels,
            "images": self.chosen_images if labels is not None else None,
        }

    def set_values(self, data: Sequence[Path], labels: Path | None) -> None:
        """Choose other sets and labels."""
        self.sets.clear()
        for folder in data:
            self._add(folder)
        self.labels.line.setText("" if labels is None else str(labels))
        self._read()

    def add_set(self, folder: Path) -> None:
        """Choose one more simulated set."""
        if folder not in self.data:
            self._add(folder)
            self._read()

    def refresh(self) -> None:
        """Read everything again: labels may have come meanwhile."""
        self._counts.clear()
        self._labels_read = None
        self._read()

    @property
    def is_reading(self) -> bool:
        """Whether files are being read in the background."""
        return self._task is not None or self._typing.isActive()

    def counts(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the cells of each class, labelled and simulated, each of shape (6,)."""
        none = np.zeros(len(DefectClass), int)
        labelled = [entry.counts for entry, item in self._image_items() if _is_ticked(item)]
        known = [self._counts.get(folder) for folder in self.data]
        simulated = [counts for counts in known if isinstance(counts, np.ndarray)]
        return sum(labelled, none), sum(simulated, none)

    def _add(self, folder: Path) -> None:
        item = QListWidgetItem(folder.name)
        item.setData(Qt.ItemDataRole.UserRole, str(folder))
        item.setToolTip(str(folder))
        self.sets.addItem(item)

    def _ask_set(self) -> None:
        name = QFileDialog.getExistingDirectory(self, "Choose a simulated training set")
        if name:
            self.add_set(Path(name))

    def _remove_sets(self) -> None:
        for item in self.sets.selectedItems():
            self.sets.takeItem(self.sets.row(item))
        self._show()

    def _on_selection(self) -> None:
        self.remove_button.setEnabled(bool(self.sets.selectedItems()))

    def _image_items(self) -> list[tuple[LabelledEntry, QListWidgetItem]]:
        return [(entry, self.images.item(i)) for i, entry in enumerate(self._entries)]

    def _read(self) -> None:
        """Count in the background what is not counted yet."""
        if self._task is not None:
            self._typing.start()  # again when it is done
            return
        self._typing.stop()
        folders = [folder for folder in self.data if folder not in self._counts]
        labels = self.labels.folder
        wants_labels = labels != self._labels_read
        if not folders and not wants_labels:
            self._show()
            return

        def work(**_: Any) -> tuple[dict, list | str]:
            counts = {folder: _or_problem(count_classes, folder / "train") for folder in folders}
            entries = _or_problem(survey_labels, labels) if wants_labels and labels else []
            return counts, entries

        self._task, self._read_for = Task("Count labels", work), (labels, wants_labels)
        # a method of this widget, which Qt forgets with it: a lambda would outlive it
        self._task.start(self._on_read)
        self._show()

    def _on_read(self) -> None:
        task, (labels, wants_labels), self._task = self._task, self._read_for, None
        counts, entries = task.result if task.result is not None else ({}, str(task.error))
        self._counts |= counts
        if wants_labels:
            self._labels_read = labels
            self._problem_with_labels = entries if isinstance(entries, str) else ""
            self._show_images([] if isinstance(entries, str) else entries)
        self._show()

    def _show_images(self, entries: list[LabelledEntry]) -> None:
        unticked = {entry.id for entry, item in self._image_items() if not _is_ticked(item)}
        self._entries = entries
        self.images.blockSignals(True)
        self.images.clear()
        for entry in entries:
            n = int(entry.counts.sum())
            item = QListWidgetItem(f"{entry.name}: {n:,} cell{'' if n == 1 else 's'}")
            item.setFlags(item.flags() | Qt.ItemFlag.ItemIsUserCheckable)
            off = entry.id in unticked or not n
            item.setCheckState(Qt.CheckState.Unchecked if off else Qt.CheckState.Checked)
            self.images.addItem(item)
        self.images.blockSignals(False)
        self.images.setVisible(bool(entries))

    def _show(self) -> None:
        for i, folder in enumerate(self.data):
            counts = self._counts.get(folder)
            known = f"{counts.sum():,} cells" if isinstance(counts, np.ndarray) else counts
            self.sets.item(i).setText(f"{folder.name}: {known or 'counting…'}")
        labelled, simulated = self.counts()
        self.table.setText(counts_table(labelled, simulated))
        problems = [c for c in self._counts.values() if isinstance(c, str)]
        text = self._problem_with_labels or next(iter(problems), "")
        text = text or few_examples(labelled, simulated, bool(self.data))
        self.problem.setText(text)
        self.problem.setVisible(bool(text))
        self.changed.emit()

    def _lay_out(self) -> None:
        buttons = QHBoxLayout()
        buttons.addWidget(self.add_button)
        buttons.addWidget(self.remove_button)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(4)
        layout.addWidget(QLabel("Simulated sets"))
        layout.addWidget(self.sets)
        layout.addLayout(buttons)
        layout.addWidget(QLabel("Labels"))
        for widget in (self.labels, self.images, self.table, self.problem):
            layout.addWidget(widget)


def counts_table(labelled: np.ndarray, simulated: np.ndarray) -> str:
    """Write how many cells there are of each class, as rich text."""
    head = (
        "<tr><td></td><td><b>to learn</b></td><th>&nbsp;labelled</th><th>&nbsp;simulated</th></tr>"
    )
    rows = [
        f"<tr><td><font color='{colour}'>⬤</font></td><td>{name}</td>"
        f"<td align='right'>{ours:,}</td><td align='right'>{theirs:,}</td></tr>"
        for name, colour, ours, theirs in zip(
            CLASS_NAMES, colours_in_use().values(), labelled, simulated, strict=True
        )
    ]
    return f"<table cellspacing='0' cellpadding='2'>{head}{''.join(rows)}</table>"


def few_examples(labelled: np.ndarray, simulated: np.ndarray, has_sets: bool) -> str:
    """Say which classes have few examples; empty where all have enough."""
    if not labelled.any() and not has_sets:
        return "Add a simulated set, or a project folder with labels."
    if labelled.any():
        few = [n for n, k in zip(CLASS_NAMES, labelled, strict=True) if k < FEW_LABELS]
        where = f"fewer than {FEW_LABELS} labelled cells"
    else:
        few = [n for n, k in zip(CLASS_NAMES, simulated, strict=True) if k < FEW_CELLS]
        where = f"fewer than {FEW_CELLS} cells"
        if not simulated.any():
            return ""  # not counted yet
    lines = [f"⚠ {', '.join(few)}: {where}; label more if these classes matter."] if few else []
    if labelled.any() and not has_sets:
        lines.append("Simulated images of all classes are shown again, so that none is forgotten.")
    return "\n".join(lines)


def _or_problem(function: Callable[[Path], Any], path: Path) -> Any:
    """Call a function; what the user did wrong comes back as text."""
    try:
        return function(path)
    except PointDefectsError as error:
        return str(error)


def _is_ticked(item: QListWidgetItem) -> bool:
    return item.checkState() == Qt.CheckState.Checked


def _low_list(tooltip: str) -> QListWidget:
    found = QListWidget()
    found.setToolTip(f"<p>{tooltip}</p>")
    found.setSelectionMode(QAbstractItemView.SelectionMode.ExtendedSelection)
    found.setTextElideMode(Qt.TextElideMode.ElideMiddle)
    found.setFixedHeight(_ROWS * found.fontMetrics().height() + 16)
    return found
