"""Histograms and power spectra of the user's image and a simulated one, in napari's colours."""

from __future__ import annotations

from typing import TYPE_CHECKING

from matplotlib.backends.backend_qtagg import FigureCanvasQTAgg
from matplotlib.figure import Figure
from napari.utils.theme import get_theme
from qtpy.QtCore import QSize
from qtpy.QtWidgets import QSizePolicy

from napari_point_defects.simulation.comparison_figure import draw_histograms, draw_spectra

if TYPE_CHECKING:
    from napari_point_defects.simulation.comparison import ImageComparison

_MARGINS = {"left": 0.1, "right": 0.985, "bottom": 0.24, "top": 0.87, "wspace": 0.36}
_NOTHING = "Open an image, and detect its cells\nor calibrate it, to compare with."


class LikenessPlot(FigureCanvasQTAgg):
    """Two pairs of axes: grey levels on the left, spatial frequencies on the right.

    Parameters
    ----------
    theme : str
        Name of napari's theme.
    """

    HEIGHT = 175

    def __init__(self, theme: str) -> None:
        super().__init__(Figure())
        # a layout engine would cost more than all of the drawing
        self.figure.subplots_adjust(**_MARGINS)
        self.axes = self.figure.subplots(1, 2)
        self.setFixedHeight(self.HEIGHT)
        self.setMinimumWidth(260)
        self.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Fixed)
        self.setToolTip(
            "<p>Blue your image, orange the simulated one. Left, how often the grey levels occur, "
            "each image from its first to its last percentile; right, the power at each spatial "
            "frequency: the lattice's peaks, what the probe lets through, and the noise.</p>"
        )
        self.comparison: ImageComparison | None = None
        self.set_theme(theme)

    def sizeHint(self) -> QSize:
        """Ask for no more width than a dock has."""
        return QSize(320, self.HEIGHT)

    def set_theme(self, theme: str) -> None:
        """Take the colours of one of napari's themes."""
        colours = get_theme(theme)
        self._ink, self._paper = colours.text.as_hex(), colours.background.as_hex()
        self.figure.set_facecolor(self._paper)
        self._draw_again()

    def show_comparison(self, comparison: ImageComparison | None) -> None:
        """Show how alike two images are, or why that is not known."""
        self.comparison = comparison
        self._draw_again()

    def _draw_again(self) -> None:
        for text in list(self.figure.texts):
            text.remove()
        for axes in self.axes:
            axes.clear()
            axes.set_visible(self.comparison is not None)
            axes.set_facecolor(self._paper)
        if self.comparison is None:
            self.figure.text(
                0.5, 0.5, _NOTHING, color=self._ink, fontsize=8, ha="center", va="center"
            )
        else:
            draw_histograms(self.axes[0], self.comparison, ink=self._ink)
            draw_spectra(self.axes[1], self.comparison, ink=self._ink)
            # beside each other there is no room for the figure's own words
            self.axes[0].set_title(f"grey levels: {self.comparison.histogram_distance:.3f} apart")
            self.axes[1].set_title(f"spectra: {self.comparison.spectrum_distance:.2f} decades")
            for axes in self.axes:
                axes.title.set(fontsize=8, color=self._ink)
                axes.tick_params(labelsize=7)
                for label in (axes.xaxis.label, axes.yaxis.label):
                    label.set_fontsize(7)
            self.axes[0].set_ylabel("")
            self.axes[0].set_xlabel("grey level (percentiles), pixels [%]")
            self.axes[1].set_ylabel("")
            self.axes[1].set_xlabel("spatial frequency [1/a]")
        self.draw_idle()
