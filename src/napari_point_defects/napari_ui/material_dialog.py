"""The dialog in which users add an MX₂ of their own: two elements and a lattice constant."""

from __future__ import annotations

from qtpy.QtCore import QObject, Qt, Signal
from qtpy.QtWidgets import (
    QComboBox,
    QCompleter,
    QDialog,
    QDialogButtonBox,
    QFormLayout,
    QLabel,
    QLineEdit,
    QVBoxLayout,
    QWidget,
)

from napari_point_defects.errors import PointDefectsError
from napari_point_defects.material_files import (
    elements,
    estimated_chalcogen_distance_nm,
    materials_file,
)
from napari_point_defects.materials import (
    MATERIALS,
    Material,
    define_material,
    own_materials,
    shadowing,
)
from napari_point_defects.napari_ui.run_panel import WARNING_STYLE
from napari_point_defects.own_materials import add_material

_METALS = ("Nb", "Ta", "V", "Ti", "Zr", "Hf", "Cr", "Mo", "W", "Re", "Pt")
_CHALCOGENS = ("S", "Se", "Te")
_MESSAGE_PX = 64  # so that the dialog does not jump while one types
_WIDTH_PX = 380


class _News(QObject):
    """Tells every chooser that there are other materials."""

    changed = Signal()


material_news = _News()


class MaterialDialog(QDialog):
    """Asks for a material, checks it as it is typed, and writes it into the user's file.

    Attributes
    ----------
    material : Material or None
        The one that was added.
    """

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.setWindowTitle("A material of your own")
        self.material: Material | None = None
        self.metal = _element_box(_METALS, "<p>M: symbol of the metal; any element.</p>")
        self.chalcogen = _element_box(_CHALCOGENS, "<p>X: symbol of the chalcogen.</p>")
        self.a = QLineEdit(placeholderText="nm, for example 0.3442")
        self.a.setToolTip(
            "<p>In-plane lattice constant of the 2H layer [nm]: it sets the pixel size and the "
            "area of the census.</p>"
        )
        self.x_x = QLineEdit()
        self.x_x.setToolTip(
            "<p>Distance of the two X atoms across the layer [nm]. Left empty it is estimated; "
            "images hardly depend on it.</p>"
        )
        self.source = QLineEdit(placeholderText="paper, or “measured” (optional)")
        self.source.setToolTip("<p>Where the lengths come from; sets and censuses record it.</p>")
        self.message = QLabel()
        self.message.setWordWrap(True)
        self.message.setMinimumHeight(_MESSAGE_PX)
        self.message.setAlignment(Qt.AlignmentFlag.AlignTop)
        self.buttons = QDialogButtonBox(QDialogButtonBox.StandardButton.Cancel)
        self.add = self.buttons.addButton("Add", QDialogButtonBox.ButtonRole.AcceptRole)
        # Enter in a field adds, or does nothing yet: it never cancels
        self.add.setDefault(True)
        self.buttons.button(QDialogButtonBox.StandardButton.Cancel).setAutoDefault(False)
        self._lay_out()

        for box in (self.metal, self.chalcogen):
            box.currentTextChanged.connect(self._check)
        for line in (self.a, self.x_x, self.source):
            line.textChanged.connect(self._check)
        self.buttons.accepted.connect(self.accept)
        self.buttons.rejected.connect(self.reject)
        self._check()

    def accept(self) -> None:
        """Write the material, or say why it cannot be written."""
        try:
            material = self._asked()
            add_material(material, replace=True)  # the button has said that it replaces
        except PointDefectsError as error:
            self._say(str(error), wrong=True)
            return
        self.material = material
        material_news.changed.emit()  # first: who asked can only choose what it offers
        super().accept()

    def _asked(self) -> Material:
        """Return the material that the fields describe."""
        material = define_material(
            self.metal.currentText(),
            self.chalcogen.currentText(),
            _number(self.a),
            _number(self.x_x) if self.x_x.text().strip() else None,
            self.source.text().strip(),
        )
        if material.formula in MATERIALS:
            raise PointDefectsError(shadowing(material.formula))
        return material

    def _check(self) -> None:
        """Say at once what is wrong, or what will be added."""
        symbol = self.chalcogen.currentText().strip().capitalize()
        known = symbol in elements()
        self.x_x.setPlaceholderText(
            f"nm; empty: {estimated_chalcogen_distance_nm(symbol):.4f}, estimated" if known else ""
        )
        try:
            material = self._asked()
            there = own_materials().get(material.formula)
        except PointDefectsError as error:
            self.add.setEnabled(False)
            # an empty form is not a mistake yet
            self._say(str(error), wrong=bool(self.a.text().strip()))
            return
        self.add.setEnabled(True)
        self.add.setText("Replace" if there else "Add")
        before = f" Replaces a = {there.lattice_constant_nm:g} nm." if there else ""
        self._say(
            f"<b>{material.formula}</b>: bond {material.bond_nm:.4f} nm in projection, cell "
            f"{material.cell_area_nm2:.5f} nm².{before}<br>Kept in {materials_file()}"
        )

    def _say(self, text: str, *, wrong: bool = False) -> None:
        self.message.setStyleSheet(WARNING_STYLE if wrong else "")
        self.message.setText(text)

    def _lay_out(self) -> None:
        form = QFormLayout()
        for title, editor in (
            ("Metal M", self.metal),
            ("Chalcogen X", self.chalcogen),
            ("Lattice constant a", self.a),
            ("X–X distance", self.x_x),
            ("Source", self.source),
        ):
            label = QLabel(title)
            label.setBuddy(editor)
            label.setToolTip(editor.toolTip())
            form.addRow(label, editor)
        layout = QVBoxLayout(self)
        layout.addLayout(form)
        layout.addWidget(self.message)
        layout.addWidget(self.buttons)
        self.setMinimumWidth(_WIDTH_PX)


def _element_box(usual: tuple[str, ...], tooltip: str) -> QComboBox:
    """Return a box of usual elements in which any other can be typed."""
    box = QComboBox(editable=True)
    box.addItems(usual)
    box.setInsertPolicy(QComboBox.InsertPolicy.NoInsert)
    completer = QCompleter(list(elements()), box)
    completer.setCaseSensitivity(Qt.CaseSensitivity.CaseInsensitive)
    box.setCompleter(completer)
    box.setToolTip(tooltip)
    return box


def _number(line: QLineEdit) -> float:
    """Return what was typed; a comma may stand for the point."""
    text = line.text().strip().replace(",", ".").removesuffix("nm")
    try:
        return float(text)
    except ValueError:
        return float("nan")  # which the check refuses in its own words
