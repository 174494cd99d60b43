"""The review's buttons: how far it has come, what is under review, previous, confirm, next."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape

from qtpy.QtCore import Qt
from qtpy.QtOpenGLWidgets import QOpenGLWidget
from qtpy.QtWidgets import (
    QCheckBox,
    QHBoxLayout,
    QLabel,
    QProgressBar,
    QPushButton,
    QVBoxLayout,
    QWidget,
)

from napari_point_defects.napari_ui.cell_tables import probable_classes
from napari_point_defects.napari_ui.review_session import ReviewSession, shown_key
from napari_point_defects.napari_ui.settings_form import advanced_box

_MOUSE = {"Click": "select a cell", "Shift+click": "add it, or take it away"}
"""See :func:`~napari_point_defects.napari_ui.cell_tools.click_selects`."""
_NOTHING = "No cell selected: click one, or press N<br>for the one the network is least sure of"


def shortcuts_table(shortcuts: Mapping[str, str]) -> str:
    """Return keys, and what the mouse does, with their meaning as a table for a label."""
    lines = {shown_key(key): text for key, text in shortcuts.items()} | _MOUSE
    rows = (
        f"<tr><td><b>{escape(key)}</b>&nbsp;&nbsp;</td><td>{escape(text)}</td></tr>"
        for key, text in lines.items()
    )
    return f"<table cellspacing='0' cellpadding='1'>{''.join(rows)}</table>"


class ReviewPanel(QWidget):
    """Shows one session; its buttons do what the keys do."""

    def __init__(self) -> None:
        super().__init__()
        self.session: ReviewSession | None = None
        self.progress = QLabel()
        self.bar = QProgressBar()
        self.bar.setTextVisible(False)
        self.bar.setFixedHeight(6)
        self.current = QLabel()
        self.current.setMinimumHeight(2 * self.current.fontMetrics().lineSpacing())
        self.current.setAlignment(Qt.AlignmentFlag.AlignLeft | Qt.AlignmentFlag.AlignTop)
        self.previous_button = QPushButton("◀ Previous")
        self.confirm_button = QPushButton("Confirm")
        self.next_button = QPushButton("Next ▶")
        self.advance = QCheckBox("Go on to the next after setting a class")
        self.advance.setChecked(True)
        self.advance.setToolTip(
            "<p>While you review with N and P, a class key also goes on to the next cell. "
            "Ctrl+Z takes the class back and returns to the cell.</p>"
        )
        self.keys = QLabel()
        self.keys.setTextFormat(Qt.TextFormat.RichText)
        self.shortcuts = advanced_box(self.keys, "Keys and mouse on the image")
        buttons = QHBoxLayout()
        for button, tooltip in (
            (self.previous_button, "Key P: the cell of the queue before this"),
            (self.confirm_button, "Key Enter: the class is right; go on"),
            (self.next_button, "Key N: the shown cell that the network is least sure of, next"),
        ):
            button.setToolTip(tooltip)
            button.setFocusPolicy(Qt.FocusPolicy.NoFocus)
            buttons.addWidget(button)
        self.advance.setFocusPolicy(Qt.FocusPolicy.NoFocus)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(4)
        layout.addWidget(self.progress)
        layout.addWidget(self.bar)
        layout.addLayout(buttons)
        for widget in (self.current, self.advance, self.shortcuts):
            layout.addWidget(widget)

        self.previous_button.clicked.connect(lambda: self._act("previous"))
        self.confirm_button.clicked.connect(lambda: self._act("confirm"))
        self.next_button.clicked.connect(lambda: self._act("next"))
        self.advance.toggled.connect(self._set_advance)

    def set_session(self, session: ReviewSession | None) -> None:
        """Show another session, or none."""
        self.session = session
        if session is not None:
            session.advance = self.advance.isChecked()
            self.keys.setText(shortcuts_table(session.shortcuts))
            self.refresh()

    def refresh(self) -> None:
        """Count again."""
        queue = self.session.queue()
        self.bar.setRange(0, max(queue.n_unsure, 1))
        self.bar.setValue(queue.n_reviewed if queue.n_unsure else 1)
        self.progress.setText(
            f"{queue.n_reviewed:,} of {queue.n_unsure:,} unsure cells reviewed"
            if queue.n_unsure
            else "The network is sure of every cell"
        )
        self.progress.setToolTip(
            "<p>Unsure: the most probable class is less probable than "
            f"{self.session.editor.link.settings.unsure_below:.0%}. {len(queue):,} shown cells "
            "that you have not decided on are in the queue, sure ones last.</p>"
        )
        for button in (self.previous_button, self.next_button):
            button.setEnabled(bool(len(queue)))
        self.show_selection()

    def show_selection(self) -> None:
        """Say what the one selected cell is."""
        editor = self.session.editor
        n_selected = len(editor.layer.selected_data)
        self.confirm_button.setEnabled(bool(n_selected))
        if n_selected == 1:
            (row,) = editor.layer.selected_data
            text = probable_classes(editor.snapshot.iloc[row], editor.material)
        else:
            text = f"{n_selected:,} cells selected" if n_selected else _NOTHING
        self.current.setText(text)

    def focus_canvas(self) -> None:
        """Give the keys to the image, so that they work after a click in the panel."""
        for canvas in self.window().findChildren(QOpenGLWidget):
            canvas.setFocus()

    def _act(self, name: str) -> None:
        if self.session is not None:
            getattr(self.session, name)()
            self.focus_canvas()

    def _set_advance(self, checked: bool) -> None:
        if self.session is not None:
            self.session.advance = checked
