"""Parts of the labels' widgets: the offer to resume, and the table of images."""

from __future__ import annotations

from datetime import datetime

from qtpy.QtCore import QObject, Qt, QTimer, Signal
from qtpy.QtWidgets import (
    QAbstractItemView,
    QFrame,
    QHBoxLayout,
    QHeaderView,
    QLabel,
    QPushButton,
    QTableWidget,
    QTableWidgetItem,
    QToolButton,
    QWidget,
)

from napari_point_defects.errors import PointDefectsError
from napari_point_defects.labels.store import ImageEntry, LastEdit
from napari_point_defects.napari_ui.labelling import Labelling
from napari_point_defects.napari_ui.run_panel import report_error

_REFRESH_MS = 150
_BAR_STYLE = "#resume { border: 1px solid #5b8fd0; border-radius: 4px; }"


def when(time: str, now: datetime | None = None) -> str:
    """Write a time of the store, UTC in ISO 8601, as the user's clock shows it."""
    there = datetime.fromisoformat(time).astimezone()
    today = (now or datetime.now()).astimezone().date()
    return there.strftime("%H:%M" if there.date() == today else "%d %b %Y, %H:%M")


def offer_text(last: LastEdit) -> str:
    """Say where the user left off."""
    cells = f"{last.n_decided:,} cell" + ("" if last.n_decided == 1 else "s")
    return f"<b>{last.entry.name}</b>: {cells} decided, last edit {when(last.time)}"


class Refresher(QTimer):
    """Calls a method a little after the labels changed, once for many changes."""

    def __init__(self, owner: QObject, labelling: Labelling, refresh) -> None:
        super().__init__(owner, singleShot=True, interval=_REFRESH_MS)
        self.timeout.connect(refresh)
        labelling.changed.connect(self.start)


class ResumeBar(QFrame):
    """Offers to open the image that was labelled last; gone once it is open, or not wanted."""

    def __init__(self, labelling: Labelling) -> None:
        super().__init__()
        self._labelling = labelling
        self._refused: int | None = None
        self.setObjectName("resume")
        self.setStyleSheet(_BAR_STYLE)
        self.text = QLabel()
        self.text.setWordWrap(True)
        self.button = QPushButton("Resume")
        self.button.setToolTip("Open the image with its hexagons and cells as they stood")
        self.dismiss = QToolButton()
        self.dismiss.setText("✕")
        self.dismiss.setToolTip("Not now")
        self.dismiss.setAutoRaise(True)
        row = QHBoxLayout(self)
        row.setContentsMargins(8, 4, 4, 4)
        row.addWidget(self.text, stretch=1)
        row.addWidget(self.button)
        row.addWidget(self.dismiss)
        self.button.clicked.connect(self._resume)
        self.dismiss.clicked.connect(self._refuse)
        Refresher(self, labelling, self.refresh)
        self.refresh()

    def refresh(self) -> None:
        """Look again whether there is something to resume."""
        last = _guarded(self._labelling.offer)
        offered = last is not None and last.n_decided and last.entry.id != self._refused
        if offered:
            self.text.setText(offer_text(last))
        self.setVisible(bool(offered))

    def _resume(self) -> None:
        last = _guarded(self._labelling.offer)
        if last is not None:
            _guarded(lambda: self._labelling.resume(last.entry))
        self.refresh()

    def _refuse(self) -> None:
        last = _guarded(self._labelling.offer)
        self._refused = last.entry.id if last is not None else None
        self.refresh()


class ImagesTable(QTableWidget):
    """The images of the project folder with their numbers of cells; follows the labels."""

    resume_requested = Signal(object)

    _HEADERS = ("image", "material", "cells", "decided")

    def __init__(self, labelling: Labelling, parent: QWidget | None = None) -> None:
        super().__init__(0, len(self._HEADERS), parent)
        self._labelling = labelling
        self._entries: list[ImageEntry] = []
        self.setHorizontalHeaderLabels(self._HEADERS)
        self.verticalHeader().hide()
        header = self.horizontalHeader()
        header.setSectionResizeMode(QHeaderView.ResizeMode.ResizeToContents)
        header.setSectionResizeMode(0, QHeaderView.ResizeMode.Stretch)
        self.setSelectionBehavior(QAbstractItemView.SelectionBehavior.SelectRows)
        self.setSelectionMode(QAbstractItemView.SelectionMode.SingleSelection)
        self.setEditTriggers(QAbstractItemView.EditTrigger.NoEditTriggers)
        self.setMinimumHeight(120)
        self.setMaximumHeight(260)
        self.doubleClicked.connect(lambda _: self.resume_requested.emit(self.entry))
        Refresher(self, labelling, self.refresh)
        self.refresh()

    @property
    def entry(self) -> ImageEntry | None:
        """The selected image."""
        row = self.currentRow()
        return self._entries[row] if 0 <= row < len(self._entries) else None

    def refresh(self) -> None:
        """Read the numbers again; the selection stays."""
        images = _guarded(self._labelling.images) or []
        chosen = self.entry
        self._entries = [entry for entry, *_ in images]
        self.setRowCount(len(images))
        for row, (entry, n_cells, n_decided) in enumerate(images):
            texts = (entry.name, entry.material, f"{n_cells:,}", f"{n_decided:,}")
            for column, text in enumerate(texts):
                item = QTableWidgetItem(text)
                if column > 1:
                    item.setTextAlignment(
                        Qt.AlignmentFlag.AlignRight | Qt.AlignmentFlag.AlignVCenter
                    )
                self.setItem(row, column, item)
            self.item(row, 0).setToolTip(entry.path or "the image's file is missing")
        ids = [entry.id for entry in self._entries]
        if chosen is not None and chosen.id in ids:
            self.selectRow(ids.index(chosen.id))
        elif ids:
            self.selectRow(len(ids) - 1)


def _guarded(function):
    """Return what a function does; None, and a notification, where the store fails it."""
    try:
        return function()
    except PointDefectsError as error:
        report_error(error)
        return None
