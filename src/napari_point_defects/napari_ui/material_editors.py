"""Choose one or several materials, or add one's own: the editors that every form uses.

All of them follow when a material is added in any.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from napari.utils.notifications import show_warning
from qtpy.QtCore import Signal
from qtpy.QtWidgets import QHBoxLayout, QPushButton, QWidget

from napari_point_defects.errors import PointDefectsError
from napari_point_defects.materials import MATERIALS, known_materials
from napari_point_defects.napari_ui.material_dialog import MaterialDialog, material_news
from napari_point_defects.napari_ui.settings_editors import ChoiceEditor, ChoicesEditor

_OTHER = "Other…"
_OTHER_TIP = "<p>Add an MX₂ of your own: two elements and a lattice constant.</p>"


def known_formulas() -> tuple[str, ...]:
    """Return the formulas to choose from; the shipped ones where the user's file is broken."""
    try:
        return tuple(known_materials())
    except PointDefectsError as error:
        show_warning(str(error))
        return tuple(MATERIALS)


class MaterialEditor(QWidget):
    """One of the known materials."""

    changed = Signal()

    def __init__(self) -> None:
        super().__init__()
        self.box = ChoiceEditor(known_formulas())
        self.other = QPushButton(_OTHER)
        self.other.setToolTip(_OTHER_TIP)
        self.dialog: MaterialDialog | None = None
        layout = QHBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(3)
        layout.addWidget(self.box, 1)
        layout.addWidget(self.other)
        self.setFocusProxy(self.box)
        self.box.changed.connect(self.changed)
        self.other.clicked.connect(self.ask)
        material_news.changed.connect(self.refresh)

    def get(self) -> str:
        """Return the formula."""
        return self.box.get()

    def set(self, value: str) -> None:
        """Choose another material."""
        self.box.set(value)

    def refresh(self) -> None:
        """Offer what is known now; the chosen one stays."""
        for formula in known_formulas():
            if self.box.findText(formula) < 0:
                self.box.addItem(formula)

    def ask(self) -> None:
        """Open the dialog; what it adds is chosen."""
        self.dialog = _asked(self, self.set)


class MaterialsEditor(ChoicesEditor):
    """Any of the known materials, each with a box to tick."""

    def __init__(self) -> None:
        super().__init__(known_formulas())
        self.other = QPushButton(_OTHER)
        self.other.setToolTip(_OTHER_TIP)
        self.dialog: MaterialDialog | None = None
        self.layout().addWidget(self.other, *self._place(len(self.boxes)))
        self.other.clicked.connect(self.ask)
        material_news.changed.connect(self.refresh)

    def set(self, value: Sequence[Any]) -> None:
        """Tick others; what is not known is left out."""
        self.refresh()
        super().set(value)

    def refresh(self) -> None:
        """Offer what is known now; what is ticked stays."""
        for formula in known_formulas():
            if formula not in self.boxes:
                self.add_option(formula)
        self.layout().addWidget(self.other, *self._place(len(self.boxes)))

    def ask(self) -> None:
        """Open the dialog; what it adds is ticked."""
        self.dialog = _asked(self, lambda formula: self.boxes[formula].setChecked(True))


def _asked(editor: QWidget, take) -> MaterialDialog:
    """Open the dialog over an editor; ``take`` gets the formula of what it adds."""
    dialog = MaterialDialog(editor)
    dialog.accepted.connect(lambda: take(dialog.material.formula))
    dialog.finished.connect(dialog.deleteLater)
    dialog.open()
    return dialog
