"""Pair correlations and clusters of a study, in napari's colours."""

from __future__ import annotations

from typing import TYPE_CHECKING

from matplotlib.backends.backend_qtagg import FigureCanvasQTAgg
from matplotlib.figure import Figure
from napari.utils.theme import get_theme
from qtpy.QtCore import QSize
from qtpy.QtWidgets import QSizePolicy

from napari_point_defects.study_figure import draw_clusters, draw_pair_correlation

if TYPE_CHECKING:
    from napari_point_defects.study import Study

_MARGINS = {"left": 0.11, "right": 0.98, "bottom": 0.1, "top": 0.93, "wspace": 0.34, "hspace": 0.55}


class StudyPlot(FigureCanvasQTAgg):
    """Four plots: pairs of X vacancies, of M vacancies, of both, and clusters.

    Parameters
    ----------
    theme : str
        Name of napari's theme.
    """

    HEIGHT = 380

    def __init__(self, theme: str) -> None:
        super().__init__(Figure())
        self.figure.subplots_adjust(**_MARGINS)
        self.axes = self.figure.subplots(2, 2)
        self.setFixedHeight(self.HEIGHT)
        self.setMinimumWidth(340)
        self.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Fixed)
        self.setToolTip(
            "<p>How often two vacancies lie so far apart, over how often they would if as many "
            "were placed at random on the cells that were analysed: above 1 they attract, below "
            "they avoid each other. Grey, where 95 % of random placements lie; p, the share of "
            "them that depart as far, over all distances. Lower right, how many defective cells "
            "touch.</p>"
        )
        self._shown: Study | None = None
        self.set_theme(theme)

    def sizeHint(self) -> QSize:
        """Ask for no more width than a dock has."""
        return QSize(360, self.HEIGHT)

    def set_theme(self, theme: str) -> None:
        """Take the colours of one of napari's themes."""
        colours = get_theme(theme)
        self._ink, self._paper = colours.text.as_hex(), colours.background.as_hex()
        self.figure.set_facecolor(self._paper)
        self._draw_again()

    def show_study(self, found: Study) -> None:
        """Draw a study."""
        self._shown = found
        self._draw_again()

    def _draw_again(self) -> None:
        for axes in self.axes.flat:
            axes.clear()
            axes.set_facecolor(self._paper)
        if self._shown is not None:
            a_nm = self._shown.material.lattice_constant_nm
            correlations = self._shown.correlations().items()
            for axes, (name, each) in zip(self.axes.flat, correlations, strict=False):
                draw_pair_correlation(axes, each, name, a_nm, ink=self._ink)
            clusters = self._shown.statistics.clusters
            draw_clusters(self.axes[1, 1], clusters, ink=self._ink)
        self.draw_idle()
