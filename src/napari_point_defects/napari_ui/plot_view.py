"""A matplotlib figure that is drawn in the background.

Drawing one takes matplotlib 50 to 150 ms, in which the window would stand still.
"""

from __future__ import annotations

import threading
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from qtpy.QtCore import QRectF, QTimer
from qtpy.QtGui import QImage, QPainter, QPaintEvent, QResizeEvent, QShowEvent
from qtpy.QtWidgets import QSizePolicy, QWidget

from napari_point_defects.napari_ui.tasks import Task

_DPI = 100


class PlotView(QWidget):
    """Shows a figure as it was drawn last.

    Parameters
    ----------
    figure : Figure
        Takes the widget's size.
    height : int
        In logical pixels.

    Attributes
    ----------
    lock : threading.Lock
        Held while the figure is drawn: whoever changes the figure must hold it too.
    """

    def __init__(self, figure: Figure, height: int) -> None:
        super().__init__()
        self.figure, self.lock = figure, threading.Lock()
        self._canvas = FigureCanvasAgg(figure)
        self._picture: QImage | None = None
        self._task: Task | None = None
        self._wanted = False
        self.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Fixed)
        self.setFixedHeight(height)
        self._soon = QTimer(self, singleShot=True, interval=0)
        self._soon.timeout.connect(self._start)

    def redraw(self) -> None:
        """Draw the figure anew, once for many calls, if the widget is shown."""
        self._wanted = True
        if self.isVisible():
            self._soon.start()

    def paintEvent(self, event: QPaintEvent) -> None:
        """Show the figure as it was drawn last."""
        if self._picture is not None:
            with QPainter(self) as painter:
                painter.drawImage(QRectF(self.rect()), self._picture)

    def resizeEvent(self, event: QResizeEvent) -> None:
        """Draw the figure in the new size."""
        super().resizeEvent(event)
        self.redraw()

    def showEvent(self, event: QShowEvent) -> None:
        """Draw what was changed while the widget was hidden."""
        super().showEvent(event)
        if self._wanted or self._picture is None:
            self.redraw()

    def _start(self) -> None:
        if self._task is not None or self.width() < 2:
            return  # drawn again when that is over, or there is room
        self._wanted = False
        figure, canvas, lock = self.figure, self._canvas, self.lock
        ratio, width, height = self.devicePixelRatioF(), self.width(), self.height()

        def work(on_progress: Any, should_stop: Any) -> QImage:
            with lock:
                figure.set_dpi(_DPI * ratio)
                figure.set_size_inches(width / _DPI, height / _DPI)
                canvas.draw()
                w, h = canvas.get_width_height()
                pixels = bytes(canvas.buffer_rgba())
            return QImage(pixels, w, h, 4 * w, QImage.Format.Format_RGBA8888).copy()

        self._task = Task("Draw a figure", work)
        self._task.start(self._on_drawn)

    def _on_drawn(self) -> None:
        task, self._task = self._task, None
        if task is not None and task.result is not None:
            self._picture = task.result
            self.update()
        if self._wanted:
            self.redraw()
