"""Pair correlations and clusters of a study, in napari's colours."""

from __future__ import annotations

from typing import TYPE_CHECKING

from napari_point_defects.napari_ui.themed_canvas import ThemedCanvas
from napari_point_defects.study_figure import draw_clusters, draw_pair_correlation

if TYPE_CHECKING:
    from napari_point_defects.study import Study

_MARGINS = {"left": 0.11, "right": 0.98, "bottom": 0.1, "top": 0.93, "wspace": 0.34, "hspace": 0.55}


class StudyPlot(ThemedCanvas):
    """Four plots: pairs of X vacancies, of M vacancies, of both, and clusters.

    Parameters
    ----------
    theme : str
        Name of napari's theme.
    """

    HEIGHT = 380
    LEAST_WIDTH, USUAL_WIDTH = 340, 360

    _shown: Study | None = None

    def add_axes(self) -> None:
        """Lay out two rows of two."""
        self.figure.subplots_adjust(**_MARGINS)
        self.axes = self.figure.subplots(2, 2)
        self.setToolTip(
            "<p>How often two vacancies lie so far apart, over how often they would if as many "
            "were placed at random on the cells that were analysed: above 1 they attract, below "
            "they avoid each other. Grey, where 95 % of random placements lie; p, the share of "
            "them that depart as far, over all distances. Lower right, how many defective cells "
            "touch.</p>"
        )

    def show_study(self, found: Study) -> None:
        """Draw a study."""
        self._shown = found
        self.draw_again()

    def draw_again(self) -> None:
        """Draw the study, if there is one."""
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
