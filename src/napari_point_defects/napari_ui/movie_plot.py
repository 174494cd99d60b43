"""Defects and births of a movie against dose or time, in napari's colours."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from napari_point_defects.movies.figure import draw_births, draw_counts
from napari_point_defects.movies.tables import axis_of
from napari_point_defects.napari_ui.colours import palette_news
from napari_point_defects.napari_ui.themed_canvas import ThemedCanvas

if TYPE_CHECKING:
    from napari_point_defects.movies.analysis import Movie


class MoviePlot(ThemedCanvas):
    """Two plots under each other, and a line at the frame that the viewer shows.

    Parameters
    ----------
    theme : str
        Name of napari's theme.
    """

    HEIGHT = 380
    LEAST_WIDTH, USUAL_WIDTH = 320, 360

    _shown: Movie | None = None
    _frame = 0

    def add_axes(self) -> None:
        """Lay out two rows."""
        self.figure.subplots_adjust(left=0.13, right=0.97, bottom=0.11, top=0.93, hspace=0.5)
        self.axes = self.figure.subplots(2, 1)
        palette_news.changed.connect(self.draw_again)
        self.setToolTip(
            "<p>Above, which share of the cells in view is defective, by all frames together. "
            "Below, how many cells became defective and how many healed; vacancies that moved "
            "from a neighbour are left out. Grey, the most likely constant rate and its 95 % "
            "interval. The dotted line is the frame in view.</p>"
        )

    def show_movie(self, found: Movie) -> None:
        """Draw a movie."""
        self._shown = found
        self.draw_again()

    def show_frame(self, frame: int) -> None:
        """Move the line to another frame."""
        self._frame = frame
        if self._shown is None:
            return
        at, _ = axis_of(self._shown, np.array([frame]))
        for line in self._lines:
            line.set_xdata([at[0], at[0]])
        self.draw_idle()

    def draw_again(self) -> None:
        """Draw the movie, if there is one."""
        for axes in self.axes:
            axes.clear()
            axes.set_facecolor(self._paper)
        if self._shown is not None:
            draw_counts(self.axes[0], self._shown, ink=self._ink)
            draw_births(self.axes[1], self._shown, ink=self._ink)
            self._lines = [
                axes.axvline(0, color=self._ink, linestyle=":", linewidth=1) for axes in self.axes
            ]
            self.show_frame(self._frame)
        self.draw_idle()
