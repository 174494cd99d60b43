"""What of an image lies outside what the weights learned, with the way to weights that do."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from qtpy.QtCore import Qt, Signal
from qtpy.QtWidgets import QLabel, QPushButton, QVBoxLayout, QWidget

from napari_point_defects.napari_ui.run_panel import WARNING_STYLE
from napari_point_defects.simulation.training_range import ADVICE

INSIDE = "The weights learned images like this one: adapting may gain little."


def outside_text(lines: Sequence[str]) -> str:
    """Return the lines as rich text; the advice that ends them is for the command line."""
    shown = [f"⚠ {escape(line.removesuffix(f': {ADVICE}'))}" for line in lines]
    return "<br>".join(["<b>Unlike the images that the weights learned:</b>", *shown])


class OutsideNote(QWidget):
    """Shows the lines and offers to adapt the weights; hidden until there is something to say.

    Parameters
    ----------
    inside : str
        Shown, with the offer, of an image inside the training range; where empty, nothing is.
    """

    adapt_requested = Signal()

    def __init__(self, inside: str = "") -> None:
        super().__init__()
        self._inside = inside
        self._shown: tuple[str, bool] | None = None
        self.label = QLabel()
        self.label.setWordWrap(True)
        self.label.setTextFormat(Qt.TextFormat.RichText)
        self.button = QPushButton("Adapt to this image…")
        self.button.setToolTip(
            "<p>Train the weights on simulated images like this one: some minutes, in the "
            "background. You see what it gained before anything is replaced.</p>"
        )
        self.button.clicked.connect(self.adapt_requested)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(4)
        layout.addWidget(self.label)
        layout.addWidget(self.button)
        self.hide()

    def show_lines(self, lines: Sequence[str] | None) -> None:
        """Show what lies outside; None where it is not known."""
        text = outside_text(lines) if lines else self._inside
        if (text, bool(lines)) != self._shown:  # a style sheet takes a while
            self._shown = text, bool(lines)
            self.label.setText(text)
            self.label.setStyleSheet(WARNING_STYLE if lines else "")
        self.setVisible(lines is not None and bool(text))
