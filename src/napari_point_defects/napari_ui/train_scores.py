"""What a training changed: scores per class before and after, and two confusion matrices."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from matplotlib.figure import Figure
from qtpy.QtWidgets import QComboBox, QLabel, QVBoxLayout, QWidget

from napari_point_defects.materials import CLASS_NAMES
from napari_point_defects.napari_ui.colours import palette_news
from napari_point_defects.napari_ui.plot_view import PlotView
from napari_point_defects.palettes import colours_in_use

if TYPE_CHECKING:
    from napari_point_defects.evaluation import BoxScores, ClassScores
    from napari_point_defects.retraining.folder import Retrained

_BETTER, _WORSE = "#5fd38d", "#ff7b72"
_RIGHT_CELL, _WRONG_CELL = np.array([43, 108, 255]) / 255, np.array([214, 84, 0]) / 255
_SOURCES = {
    "labels": "held-out labels",
    "simulated": "held-out simulated images",
    "all": "all that was held out",
}


class ScoresView(QWidget):
    """Shows a finished run; the user chooses on which held-out images."""

    def __init__(self) -> None:
        super().__init__()
        self._retrained: Retrained | None = None
        self._colours = ("#f0f1f2", "#23242b")
        self.headline = QLabel()
        self.headline.setWordWrap(True)
        self.source = QComboBox()
        self.source.setToolTip(
            "<p>The images that the scores are measured on: none was learned.</p>"
        )
        self.table = QLabel()
        self.figure = Figure(figsize=(4, 2.1))
        self.canvas = PlotView(self.figure, 190)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        for widget in (self.headline, self.source, self.table, self.canvas):
            layout.addWidget(widget)
        self.source.currentIndexChanged.connect(self._show)
        palette_news.changed.connect(self._recolour)
        self.hide()

    def show_run(self, retrained: Retrained) -> None:
        """Show a run's scores, on the user's labels first."""
        self._retrained = retrained
        names = [comparison.source for comparison in retrained.comparisons]
        self.source.blockSignals(True)
        self.source.clear()
        for name in [*names, *(["all"] if len(names) > 1 else [])]:
            self.source.addItem(_SOURCES[name], name)
        self.source.blockSignals(False)
        self._show()
        self.show()

    def forget(self) -> None:
        """Show nothing."""
        self._retrained = None
        self.hide()

    def set_colours(self, text: str, background: str) -> None:
        """Draw as the window's theme does."""
        self._colours = (text, background)
        self._recolour()

    def _recolour(self) -> None:
        if self._retrained is not None:
            self._show()

    def _show(self) -> None:
        retrained, name = self._retrained, self.source.currentData()
        if retrained is None or name is None:
            return
        chosen = {c.source: (c.before, c.after) for c in retrained.comparisons}
        before, after = chosen.get(name) or (retrained.before, retrained.after)
        if retrained.kind == "classifier":
            self.headline.setText(classifier_headline(before, after, retrained.compared_with))
            self.table.setText(class_table(before, after))
            with self.canvas.lock:
                self._draw_matrices(before, after)
            self.canvas.redraw()
        else:
            self.headline.setText(detector_headline(before, after, retrained.compared_with))
            self.table.setText(box_table(before, after))
        self.canvas.setVisible(retrained.kind == "classifier")

    def _draw_matrices(self, before: ClassScores, after: ClassScores) -> None:
        text, background = self._colours
        self.figure.clear()
        self.figure.subplots_adjust(left=0.1, right=0.99, top=0.83, bottom=0.09, wspace=0.25)
        self.figure.set_facecolor(background)
        for axes, scores, title in zip(
            self.figure.subplots(1, 2), (before, after), ("before", "after"), strict=True
        ):
            _draw_matrix(axes, scores, title, text, background)


def _draw_matrix(axes, scores: ClassScores, title: str, text: str, background: str) -> None:
    """Draw true classes as rows and predicted as columns, each headed by its colour."""
    confusion = scores.confusion
    n = len(confusion)
    axes.set_facecolor(background)
    shares = confusion / np.maximum(confusion.sum(axis=1, keepdims=True), 1)
    colours = np.where(np.eye(n, dtype=bool)[..., None], _RIGHT_CELL, _WRONG_CELL)
    alpha = np.where(confusion > 0, 0.45 + 0.55 * shares, 0.0)
    axes.imshow(np.concatenate([colours, alpha[..., None]], axis=-1))
    for row in range(n):
        for column in range(n):
            if count := confusion[row, column]:
                axes.text(
                    column,
                    row,
                    _short(int(count)),
                    ha="center",
                    va="center",
                    fontsize=6.5,
                    color=text,
                )
    places = np.arange(n)
    colours = list(colours_in_use().values())
    axes.scatter(places, np.full(n, -0.85), c=colours, s=26, clip_on=False, edgecolors=text, lw=0.4)
    axes.scatter(np.full(n, -0.85), places, c=colours, s=26, clip_on=False, edgecolors=text, lw=0.4)
    axes.set(xticks=[], yticks=[], xlim=(-0.5, n - 0.5), ylim=(n - 0.5, -0.5))
    axes.set_title(title, fontsize=8, color=text, pad=14)
    axes.set_xlabel("predicted", fontsize=7, color=text)
    axes.set_ylabel("true", fontsize=7, color=text, labelpad=14)
    for spine in axes.spines.values():
        spine.set(color=text, alpha=0.5)


def classifier_headline(before: ClassScores, after: ClassScores, start: str) -> str:
    """Say in a line what changed over all cells."""
    wrong = [round(s.n_cells * (1 - s.accuracy)) if s.n_cells else 0 for s in (before, after)]
    return (
        f"<b>{_arrow(before.accuracy, after.accuracy, 100, 2)} % of {after.n_cells:,} cells "
        f"right</b>: {wrong[0]:,} → {wrong[1]:,} wrong<br>mean F1 "
        f"{_arrow(before.mean_f1, after.mean_f1)}<br><small>before: {start}</small>"
    )


def detector_headline(before: BoxScores, after: BoxScores, start: str) -> str:
    """Say in a line what changed over all hexagons."""
    return (
        f"<b>F1 {_arrow(before.f1, after.f1)} of {after.wanted:,} hexagons</b>"
        f"<br><small>before: {start}</small>"
    )


def class_table(before: ClassScores, after: ClassScores) -> str:
    """Write precision, recall and F1 of every class, before → after, as rich text."""
    rows = [_row("th", "", "class", "precision", "recall", "F1", "cells")]
    colours = colours_in_use().values()
    for c, (name, colour) in enumerate(zip(CLASS_NAMES, colours, strict=True)):
        rows.append(
            _row(
                "td",
                f"<font color='{colour}'>⬤</font>",
                name,
                *(
                    _arrow(old[c], new[c])
                    for old, new in (
                        (before.precision, after.precision),
                        (before.recall, after.recall),
                        (before.f1, after.f1),
                    )
                ),
                f"{after.support[c]:,}",
            )
        )
    return f"<table cellspacing='0' cellpadding='2'>{''.join(rows)}</table>"


def box_table(before: BoxScores, after: BoxScores) -> str:
    """Write recall, precision, F1 and mean IoU, before → after, as rich text."""
    named = (("recall", "recall"), ("precision", "precision"), ("f1", "F1"), ("mean_iou", "IoU"))
    rows = [
        _row("td", "", title, _arrow(getattr(before, name), getattr(after, name)))
        for name, title in named
    ]
    return f"<table cellspacing='0' cellpadding='2'>{''.join(rows)}</table>"


def _row(tag: str, first: str, name: str, *figures: str) -> str:
    cells = "".join(f"<{tag} align='right'>&nbsp;{text}</{tag}>" for text in figures)
    return f"<tr><td>{first}</td><{tag} align='left'>{name}</{tag}>{cells}</tr>"


def _arrow(old: float, new: float, scale: float = 1, digits: int = 3) -> str:
    """Write two figures; the second in green or red where it has changed."""
    before, after = (_figure(value, scale, digits) for value in (old, new))
    if before == after:
        return after
    if np.isfinite(old) and np.isfinite(new):
        after = f"<font color='{_BETTER if new > old else _WORSE}'>{after}</font>"
    return f"{before} → {after}"


def _figure(value: float, scale: float, digits: int) -> str:
    return f"{value * scale:.{digits}f}" if np.isfinite(value) else "–"


def _short(count: int) -> str:
    """Write a number in four characters at most."""
    if count < 10_000:
        return str(count)
    return f"{count / 1e3:.0f}k" if count < 1e6 else f"{count / 1e6:.0f}M"
