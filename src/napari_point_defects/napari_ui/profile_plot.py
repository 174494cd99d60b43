"""The profile along the bond, drawn in napari's colours."""

from __future__ import annotations

from typing import TYPE_CHECKING

from matplotlib.backends.backend_qtagg import FigureCanvasQTAgg
from matplotlib.figure import Figure
from napari.utils.theme import get_theme
from qtpy.QtCore import QSize
from qtpy.QtWidgets import QSizePolicy

from napari_point_defects.profile_outputs import draw_profile

if TYPE_CHECKING:
    from napari_point_defects.materials import Material
    from napari_point_defects.profiles import BondProfile, ProfileComparison

_MARGINS = {"left": 0.17, "right": 0.97, "bottom": 0.19, "top": 0.92}


class ProfilePlot(FigureCanvasQTAgg):
    """A canvas with one pair of axes.

    Parameters
    ----------
    theme : str
        Name of napari's theme.
    """

    HEIGHT = 250

    def __init__(self, theme: str) -> None:
        super().__init__(Figure())
        # a layout engine would cost more than all of the drawing
        self.figure.subplots_adjust(**_MARGINS)
        self.axes = self.figure.add_subplot()
        self.setFixedHeight(self.HEIGHT)
        self.setMinimumWidth(260)
        self.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Fixed)
        self._shown: tuple | None = None
        self.set_theme(theme)

    def sizeHint(self) -> QSize:
        """Ask for no more room than the plot needs; the figure's own size would fill the window."""
        return QSize(320, self.HEIGHT)

    def set_theme(self, theme: str) -> None:
        """Take the colours of one of napari's themes."""
        colours = get_theme(theme)
        self._ink = colours.text.as_hex()
        self.figure.set_facecolor(colours.background.as_hex())
        self.axes.set_facecolor(colours.background.as_hex())
        self._draw_again()

    def show_profile(
        self, profile: BondProfile, comparison: ProfileComparison | None, material: Material
    ) -> None:
        """Show a cell's profile beside the simulated ones, as far as they are known."""
        self._shown = (profile, comparison, material)
        self._draw_again()

    def clear(self) -> None:
        """Show nothing."""
        self._shown = None
        self._draw_again()

    def _draw_again(self) -> None:
        # the axes stay: making their ticks anew would take most of the time of a click
        for artist in (*self.axes.lines, *self.axes.collections, *self.axes.texts):
            artist.remove()
        self.axes.relim()
        self.axes.set_visible(self._shown is not None)
        if self._shown is not None:
            draw_profile(self.axes, *self._shown, ink=self._ink)
        self.draw_idle()
