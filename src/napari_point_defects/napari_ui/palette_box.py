"""Choose the palette where its colours are seen; napari's preferences hold the same choice."""

from __future__ import annotations

from qtpy.QtCore import Qt
from qtpy.QtWidgets import QComboBox

from napari_point_defects.napari_ui import preferences
from napari_point_defects.napari_ui.colours import palette_news
from napari_point_defects.palettes import COLOUR_BLIND, PAPER, palette_in_use

_TEXTS = {PAPER: "the paper's", COLOUR_BLIND: "colour-blind safe"}


class PaletteBox(QComboBox):
    """Shows the palette in use, wherever it was chosen."""

    def __init__(self) -> None:
        super().__init__()
        for name, text in _TEXTS.items():
            self.addItem(text, name)
        # the keys belong to the canvas
        self.setFocusPolicy(Qt.FocusPolicy.NoFocus)
        self.setToolTip(
            "<p>Colours of the classes, in layers, legends, plots and exports. With red-green "
            "blindness the paper's red and olive are one colour; the others, after Okabe and Ito, "
            "can be told apart.</p>"
        )
        self._show()
        self.activated.connect(lambda _: preferences.set_palette(self.currentData()))
        palette_news.changed.connect(self._show)

    def _show(self) -> None:
        self.setCurrentIndex(self.findData(palette_in_use()))
