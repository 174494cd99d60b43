"""Curves of a training that runs: the loss of every step, the figures of every epoch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator
from qtpy.QtCore import QSize, QTimer
from qtpy.QtWidgets import QVBoxLayout, QWidget

from napari_point_defects.napari_ui.plot_view import PlotView

_REDRAW_MS = 500
_LOSS, _LOSS_HELD_OUT, _SCORE, _ACCURACY = "#7aa6ff", "#ffb347", "#5fd38d", "#c9a0ff"
_SHOWN_STEPS = 2000


@dataclass(slots=True)
class Live:
    """What a run has told so far; the run's thread adds to it, the widget reads it.

    Attributes
    ----------
    steps : list of (float, float)
        Epochs done and the loss.
    epochs : list of dict
        Rows of the history.
    """

    steps: list[tuple[float, float]] = field(default_factory=list)
    epochs: list[Mapping[str, float]] = field(default_factory=list)

    def on_step(self, epochs: float, loss: float) -> None:
        """Add a step."""
        self.steps.append((epochs, loss))

    def on_epoch(self, row: Mapping[str, float]) -> None:
        """Add an epoch, or put it in place of the same one before a restart."""
        self.epochs = [old for old in self.epochs if old["epoch"] < row["epoch"]] + [row]


class Curves(QWidget):
    """Loss above, held-out score below, over epochs; follows a :class:`Live` while it grows."""

    def __init__(self) -> None:
        super().__init__()
        self._live = Live()
        self._drawn = (-1, -1)
        # a fixed layout and one legend each: both are slow to work out anew
        self.figure = Figure(figsize=(4, 2.4))
        self.figure.subplots_adjust(left=0.15, right=0.98, top=0.91, bottom=0.16, hspace=0.45)
        self.canvas = PlotView(self.figure, 230)
        self.loss, self.score = self.figure.subplots(2, 1, sharex=True)
        (self._step_line,) = self.loss.plot([], [], color=_LOSS, lw=0.8, label="training")
        (self._held_out_line,) = self.loss.plot(
            [], [], color=_LOSS_HELD_OUT, marker="o", ms=3, lw=1.2, label="held out"
        )
        (self._score_line,) = self.score.plot(
            [], [], color=_SCORE, marker="o", ms=3, lw=1.2, label="F1"
        )
        (self._accuracy_line,) = self.score.plot(
            [], [], color=_ACCURACY, marker="o", ms=3, lw=1.2, label="accuracy"
        )
        self.loss.set_yscale("log")
        self.loss.set_ylabel("loss")
        self.score.set_ylabel("held-out score")
        self.score.set_xlabel("epoch", labelpad=1)
        self.score.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        self.score.yaxis.set_major_locator(MaxNLocator(3))
        self.loss.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5), numticks=4))
        self.loss.yaxis.set_major_formatter("{x:g}")
        self.loss.minorticks_off()
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(self.canvas)
        self._timer = QTimer(self, interval=_REDRAW_MS)
        self._timer.timeout.connect(self.refresh)
        self.set_colours("#f0f1f2", "#23242b")

    def follow(self, live: Live) -> None:
        """Show what a run tells, now and while it goes on."""
        self._live, self._drawn = live, (-1, -1)
        self._timer.start()
        self.refresh()

    def settle(self) -> None:
        """Draw the last of it and stop looking."""
        self._timer.stop()
        with self.canvas.lock:
            self._refresh()

    def refresh(self) -> None:
        """Draw again if there is something new, and the last drawing is done."""
        if self.canvas.lock.acquire(blocking=False):
            try:
                self._refresh()
            finally:
                self.canvas.lock.release()

    def _refresh(self) -> None:
        live = self._live
        sizes = (len(live.steps), len(live.epochs))
        if sizes == self._drawn:
            return
        self._drawn = sizes
        steps = _thinned(live.steps[: sizes[0]])
        rows = live.epochs[: sizes[1]]
        self._step_line.set_data([e for e, _ in steps], [max(loss, 1e-9) for _, loss in steps])
        for line, name in (
            (self._held_out_line, "val_loss"),
            (self._score_line, "val_score"),
            (self._accuracy_line, "val_accuracy"),
        ):
            told = [(row["epoch"], row[name]) for row in rows if name in row]
            line.set_data([x for x, _ in told], [y for _, y in told])
        for axes in (self.loss, self.score):
            axes.relim()
            axes.autoscale_view()
        self.canvas.redraw()

    def set_colours(self, text: str, background: str) -> None:
        """Draw as the window's theme does."""
        with self.canvas.lock:
            self._set_colours(text, background)
        self.canvas.redraw()

    def _set_colours(self, text: str, background: str) -> None:
        self.figure.set_facecolor(background)
        for axes in (self.loss, self.score):
            axes.set_facecolor(background)
            axes.tick_params(colors=text, labelsize=7)
            axes.xaxis.label.set(color=text, fontsize=8)
            axes.yaxis.label.set(color=text, fontsize=8)
            axes.grid(visible=True, color=text, alpha=0.15, lw=0.5)
            for spine in axes.spines.values():
                spine.set(color=text, alpha=0.5)
            axes.legend(
                fontsize=7,
                frameon=False,
                labelcolor=text,
                loc="lower right",
                bbox_to_anchor=(1.0, 0.95),
                ncols=2,
                handlelength=1.2,
                borderaxespad=0,
            )

    def sizeHint(self) -> QSize:
        """Ask for no more width than a dock has."""
        return QSize(300, 230)


def _thinned(steps: Sequence[tuple[float, float]]) -> Sequence[tuple[float, float]]:
    """Return so many steps at most that drawing them takes no time."""
    return steps[:: max(1, len(steps) // _SHOWN_STEPS)]
