"""The Run button that turns into Cancel, with progress, messages and errors."""

from __future__ import annotations

from collections.abc import Callable
from html import escape
from pathlib import Path
from typing import Any

from napari.utils.notifications import notification_manager, show_error
from qtpy.QtCore import QTimer, QUrl, Signal
from qtpy.QtWidgets import QHBoxLayout, QLabel, QProgressBar, QPushButton, QVBoxLayout, QWidget

from napari_point_defects.errors import PointDefectsError
from napari_point_defects.napari_ui.lifetime import when_destroyed
from napari_point_defects.napari_ui.pace import TimeLeft
from napari_point_defects.napari_ui.tasks import Task

POLL_MS = 80
_PAINT_MS = 30
WARNING_COLOUR = "#bf6a00"
"""An orange with a contrast of over 3 on napari's dark and on its light window."""
WARNING_STYLE = f"color: {WARNING_COLOUR};"


def report_error(error: Exception) -> str:
    """Notify the user and return the line for the widget.

    A user's mistake is one line; anything else is a defect of ours and comes with a traceback.
    """
    if isinstance(error, PointDefectsError):
        message = " ".join(str(error).split())
        show_error(message)
        return message
    notification_manager.receive_error(type(error), error, error.__traceback__)
    return f"Something went wrong in the program: {error!r}"


def link_to(path: Path) -> str:
    """Return a link for a panel's message that opens a file with the user's own program."""
    return f'<a href="{QUrl.fromLocalFile(str(path)).toString()}">{escape(path.name)}</a>'


class RunPanel(QWidget):
    """Runs one task at a time.

    Parameters
    ----------
    text, tooltip : str
        Of the button.
    parent : QWidget, optional
    """

    run_requested = Signal()
    started = Signal()
    """A task was started."""
    finished = Signal()
    """After every run, whatever came of it."""

    def __init__(self, text: str, tooltip: str, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._text, self._tooltip = text, tooltip
        self._task: Task | None = None
        self._on_result: Callable[[Any], None] | None = None
        self._deferred: Callable[[], None] | None = None
        self.was_cancelled = False
        """Whether the last run was."""

        self.button = QPushButton(text)
        self.button.setToolTip(tooltip)
        self.button.clicked.connect(self._on_click)
        self.bar = QProgressBar()
        self.bar.setRange(0, 1000)
        self.bar.setTextVisible(False)
        self.bar.setFixedHeight(6)
        self.message = QLabel()
        self.message.setWordWrap(True)
        self.message.setOpenExternalLinks(True)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(4)
        self._row = QHBoxLayout()
        self._row.setSpacing(4)
        self._row.addWidget(self.button, stretch=1)
        layout.addLayout(self._row)
        for widget in (self.bar, self.message):
            layout.addWidget(widget)
        self.bar.hide()
        self.message.hide()

        self._poll = QTimer(self, interval=POLL_MS)
        self._poll.timeout.connect(self._show_progress)
        # belongs to this widget: it never fires after the widget is gone
        self._later = QTimer(self, singleShot=True, interval=_PAINT_MS)
        self._later.timeout.connect(self._run_deferred)
        running: list[Task] = []
        self._running = running
        when_destroyed(self, lambda: [task.stop() for task in running])

    @property
    def is_running(self) -> bool:
        """Whether a task runs or its result is being drawn."""
        return self._task is not None or self._deferred is not None

    def say(self, text: str) -> None:
        """Show a line under the button, or hide it."""
        self.message.setText(text)
        self.message.setVisible(bool(text))

    def add_beside(self, widget: QWidget) -> None:
        """Put a small widget to the right of the button."""
        self._row.addWidget(widget)

    def rename(self, text: str, tooltip: str) -> None:
        """Give the button other words for the next run."""
        self._text, self._tooltip = text, tooltip
        if self._task is None:
            self.button.setText(text)
            self.button.setToolTip(tooltip)

    def fail(self, error: Exception) -> None:
        """Report an error; the panel stays ready for the next run."""
        self.say(report_error(error))

    def start(
        self,
        title: str,
        function: Callable[..., Any],
        on_result: Callable[[Any], None],
        *,
        cancel_tip: str = "Stop; layers stay as they are",
        keeps_late: bool = False,
    ) -> None:
        """Run ``function(on_progress=…, should_stop=…)`` in the background.

        ``on_result`` gets what it returned, in the main thread; neither an error nor a
        cancelled run calls it. With ``keeps_late`` a cancel that came too late is none: files
        that are written cannot be said not to be.
        """
        if self.is_running:
            return
        self._task = Task(title, function, keeps_late=keeps_late)
        self._on_result = on_result
        self._left = TimeLeft()
        self._running[:] = [self._task]
        self.button.setText("Cancel")
        self.button.setToolTip(cancel_tip)
        self.bar.setRange(0, 1000)
        self.bar.show()
        self._show_progress()
        self._poll.start()
        self._task.start(self._on_finished)
        self.started.emit()

    def defer(self, text: str, action: Callable[[], None]) -> None:
        """Show a busy text, let it be painted, then do something that blocks the window."""
        self._deferred = action
        self.button.setEnabled(False)
        self.bar.setRange(0, 0)
        self.bar.show()
        self.say(text)
        self._later.start()

    def cancel(self) -> None:
        """Ask the running task to stop."""
        if self._task is not None:
            self._task.stop()
            self.button.setEnabled(False)
            self.button.setText("Stopping…")

    def _on_click(self) -> None:
        if self._task is not None:
            self.cancel()
        elif not self.is_running:
            self.run_requested.emit()

    def _show_progress(self) -> None:
        if self._task is not None:
            fraction, stage = self._task.progress
            self.bar.setValue(round(1000 * min(max(fraction, 0.0), 1.0)))
            # a task that knows its own pace says it in the stage's name
            left = "" if " left" in stage else self._left.describe(min(max(fraction, 0.0), 1.0))
            self.say(f"{stage}… {left}".rstrip())

    def _on_finished(self) -> None:
        task, on_result = self._task, self._on_result
        self._task = self._on_result = None
        self._running.clear()
        self._reset()
        if task is None:
            return
        self.was_cancelled = task.stopped
        if task.error is not None:
            self.fail(task.error)
        elif task.stopped:
            self.say("Cancelled: nothing was changed.")
        else:
            self._guarded(lambda: on_result(task.result))
        if not self.is_running:
            self.finished.emit()

    def _run_deferred(self) -> None:
        action = self._deferred
        self._guarded(action)
        self._deferred = None
        self._reset()
        self.finished.emit()

    def _guarded(self, action: Callable[[], None]) -> None:
        try:
            action()
        except Exception as error:
            self.fail(error)

    def _reset(self) -> None:
        self._poll.stop()
        self.bar.hide()
        self.button.setText(self._text)
        self.button.setToolTip(self._tooltip)
        self.button.setEnabled(True)
