"""Histograms and power spectra of the user's image and a simulated one, in napari's colours."""

from __future__ import annotations

from typing import TYPE_CHECKING

from napari_point_defects.napari_ui.themed_canvas import ThemedCanvas
from napari_point_defects.simulation.comparison_figure import draw_histograms, draw_spectra

if TYPE_CHECKING:
    from napari_point_defects.simulation.comparison import ImageComparison

_MARGINS = {"left": 0.1, "right": 0.985, "bottom": 0.24, "top": 0.87, "wspace": 0.36}
_NOTHING = "Open an image, and detect its cells\nor calibrate it, to compare with."


class LikenessPlot(ThemedCanvas):
    """Two pairs of axes: grey levels on the left, spatial frequencies on the right.

    Parameters
    ----------
    theme : str
        Name of napari's theme.
    """

    HEIGHT = 175

    comparison: ImageComparison | None = None

    def add_axes(self) -> None:
        """Lay out the two plots beside each other."""
        # a layout engine would cost more than all of the drawing
        self.figure.subplots_adjust(**_MARGINS)
        self.axes = self.figure.subplots(1, 2)
        self.setToolTip(
            "<p>Blue your image, orange the simulated one. Left, how often the grey levels occur, "
            "each image from its first to its last percentile; right, the power at each spatial "
            "frequency: the lattice's peaks, what the probe lets through, and the noise.</p>"
        )

    def show_comparison(self, comparison: ImageComparison | None) -> None:
        """Show how alike two images are, or why that is not known."""
        self.comparison = comparison
        self.draw_again()

    def draw_again(self) -> None:
        """Draw the comparison, or say why there is none."""
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
