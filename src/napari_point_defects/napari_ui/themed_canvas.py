"""A plot in a dock: napari's colours, a fixed height, and no more width than the dock has."""

from __future__ import annotations

from matplotlib.backends.backend_qtagg import FigureCanvasQTAgg
from matplotlib.figure import Figure
from napari.utils.theme import get_theme
from qtpy.QtCore import QSize
from qtpy.QtWidgets import QSizePolicy


class ThemedCanvas(FigureCanvasQTAgg):
    """Base of the plots: subclasses add axes to ``figure`` and draw in ``_ink`` on ``_paper``.

    Parameters
    ----------
    theme : str
        Name of napari's theme.
    """

    HEIGHT = 250
    LEAST_WIDTH, USUAL_WIDTH = 260, 320

    def __init__(self, theme: str) -> None:
        super().__init__(Figure())
        self.add_axes()
        self.setFixedHeight(self.HEIGHT)
        self.setMinimumWidth(self.LEAST_WIDTH)
        self.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Fixed)
        self.set_theme(theme)

    def add_axes(self) -> None:
        """Lay out the figure, once."""
        raise NotImplementedError

    def draw_again(self) -> None:
        """Draw what is shown, in the colours of the theme."""
        raise NotImplementedError

    def sizeHint(self) -> QSize:
        """Ask for no more room than the plot needs; the figure's own size would fill the window."""
        return QSize(self.USUAL_WIDTH, self.HEIGHT)

    def set_theme(self, theme: str) -> None:
        """Take the colours of one of napari's themes."""
        colours = get_theme(theme)
        self._ink, self._paper = colours.text.as_hex(), colours.background.as_hex()
        self.figure.set_facecolor(self._paper)
        self.draw_again()
