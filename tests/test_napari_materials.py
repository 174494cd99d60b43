"""A material of one's own in napari: added in a dialog, chosen, simulated, analysed, labelled."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("napari")
pytest.importorskip("qtpy.QtWidgets", exc_type=ImportError)

from qtpy.QtCore import Qt
from qtpy.QtWidgets import QDialogButtonBox

from napari_point_defects.labels.exchange import export_labels
from napari_point_defects.labels.store import LabelStore
from napari_point_defects.materials import (
    CLASS_COLOURS,
    MATERIALS,
    define_material,
    get_material,
    own_materials,
)
from napari_point_defects.napari_ui.labelling import labelling
from napari_point_defects.napari_ui.material_dialog import MaterialDialog, material_news
from napari_point_defects.napari_ui.material_editors import MaterialEditor, MaterialsEditor
from napari_point_defects.napari_ui.simulate_form import SimulateForm
from napari_point_defects.own_materials import add_material

pytestmark = pytest.mark.gui

NBSE2 = define_material("Nb", "Se", 0.3442, 0.3337, "a test")
NAMES = ("Perfect", "V_Se1", "V_Se2", "V_Nb", "V_Se1+V_Nb", "V_Se2+V_Nb")


@pytest.fixture
def dialog(qtbot):
    dialog = MaterialDialog()
    qtbot.addWidget(dialog)
    dialog.show()
    return dialog


def type_into(qtbot, dialog, **texts):
    """Replace what fields hold, key by key."""
    for name, text in texts.items():
        field = getattr(dialog, name)
        line = field.lineEdit() if hasattr(field, "lineEdit") else field
        line.selectAll()
        qtbot.keyClicks(line, text)


def test_a_material_is_typed_and_added(dialog, qtbot, materials_toml):
    assert not dialog.add.isEnabled()
    type_into(qtbot, dialog, metal="Nb", chalcogen="Se", a="0.3442", source="Marezio 1972")
    assert dialog.x_x.placeholderText() == "nm; empty: 0.3353, estimated"
    assert "NbSe2" in dialog.message.text()
    assert "0.10260 nm²" in dialog.message.text()
    with qtbot.waitSignal(material_news.changed):
        qtbot.keyClick(dialog.a, Qt.Key.Key_Return)
    assert dialog.material == get_material("NbSe2")
    assert materials_toml.is_file()
    assert dialog.material.source.startswith("Marezio 1972; X–X")


@pytest.mark.parametrize(
    ("texts", "match"),
    [
        ({"metal": "Nb", "chalcogen": "Se", "a": "3.442"}, "1 nm is 10 Å"),
        ({"metal": "Qq", "chalcogen": "Se", "a": "0.34"}, "'Qq' is no element"),
        ({"metal": "Mo", "chalcogen": "S", "a": "0.32"}, "MoS2 is shipped"),
        ({"metal": "Te", "chalcogen": "Te", "a": "0.32"}, "both Te"),
        ({"metal": "Nb", "chalcogen": "Se", "a": "0.34", "x_x": "wide"}, "X–X distance is missing"),
        ({"metal": "Nb", "chalcogen": "Se", "a": "zero"}, "lattice constant is missing"),
    ],
)
def test_mistakes_are_said_at_once_and_never_written(dialog, qtbot, materials_toml, texts, match):
    type_into(qtbot, dialog, **texts)
    assert match in dialog.message.text()
    assert not dialog.add.isEnabled()
    qtbot.keyClick(dialog.a, Qt.Key.Key_Return)  # neither adds nor closes
    assert dialog.isVisible()
    assert not materials_toml.exists()
    # and are mended
    type_into(qtbot, dialog, metal="Nb", chalcogen="Se", a="0,3442", x_x="0.33 nm")
    assert dialog.add.isEnabled()


def test_one_that_is_there_is_replaced_knowingly(dialog, qtbot):
    add_material(NBSE2)
    type_into(qtbot, dialog, metal="Nb", chalcogen="Se", a="0.345")
    assert dialog.add.text() == "Replace"
    assert "Replaces a = 0.3442 nm" in dialog.message.text()
    qtbot.mouseClick(
        dialog.buttons.button(QDialogButtonBox.StandardButton.Cancel), Qt.MouseButton.LeftButton
    )
    assert get_material("NbSe2") == NBSE2
    dialog.show()
    qtbot.mouseClick(dialog.add, Qt.MouseButton.LeftButton)
    assert get_material("NbSe2").lattice_constant_nm == 0.345


def test_a_file_that_cannot_be_written_is_said(dialog, qtbot, materials_toml):
    materials_toml.parent.write_text("a file where a folder must be")
    type_into(qtbot, dialog, metal="Nb", chalcogen="Se", a="0.3442")
    qtbot.mouseClick(dialog.add, Qt.MouseButton.LeftButton)
    assert dialog.isVisible()
    assert "cannot" in dialog.message.text()
    assert dialog.material is None


def test_all_choosers_follow(qtbot, detect):
    form, other = SimulateForm(), MaterialEditor()
    for widget in (form, other):
        qtbot.addWidget(widget)
    one, many = detect.form.editors["material"], form.main.editors["materials"]
    assert isinstance(one, MaterialEditor)
    assert isinstance(many, MaterialsEditor)
    qtbot.mouseClick(one.other, Qt.MouseButton.LeftButton)
    type_into(qtbot, one.dialog, metal="Nb", chalcogen="Se", a="0.3442")
    qtbot.mouseClick(one.dialog.add, Qt.MouseButton.LeftButton)
    assert detect.settings().material == "NbSe2"
    assert list(many.boxes) == [*MATERIALS, "NbSe2"]
    assert "NbSe2" not in form.settings().materials
    assert [other.box.itemText(i) for i in range(other.box.count())] == [*MATERIALS, "NbSe2"]
    assert other.get() == "MoTe2"
    # asked from the form that ticks
    qtbot.mouseClick(many.other, Qt.MouseButton.LeftButton)
    type_into(qtbot, many.dialog, metal="Ta", chalcogen="S", a="0.3314")
    qtbot.mouseClick(many.dialog.add, Qt.MouseButton.LeftButton)
    assert form.settings().materials == (*MATERIALS, "TaS2")
    assert detect.settings().material == "NbSe2"
    # settings of a file may name what was added since
    add_material(define_material("V", "Te", 0.36))
    many.set(("VTe2",))
    assert form.settings().materials == ("VTe2",)


def test_a_chooser_that_is_gone_hears_nothing(qtbot):
    gone = MaterialsEditor()
    with qtbot.waitSignal(gone.destroyed):
        gone.deleteLater()
    add_material(NBSE2)
    material_news.changed.emit()
    assert "NbSe2" not in gone.boxes


def test_a_broken_file_is_said_and_the_shipped_ones_stay(qtbot, materials_toml, notes):
    materials_toml.parent.mkdir()
    materials_toml.write_text("[[material")
    editor = MaterialEditor()
    qtbot.addWidget(editor)
    assert editor.box.count() == len(MATERIALS)
    assert "cannot read materials" in notes[0].message


def test_labels_colours_and_legend_are_written_with_its_elements(
    viewer, detect, classify, core, run, qtbot, data_folder
):
    add_material(NBSE2)
    material_news.changed.emit()
    detect.form.set_values({"material": "NbSe2"})
    run(detect)
    run(classify)
    layer = viewer.layers["field cells"]
    named = np.array(NAMES)[core.cells.classes]
    np.testing.assert_array_equal(layer.features["label"].to_numpy(str), named)
    colours = {str(n): tuple(c) for n, c in zip(named, layer.face_color.round(3), strict=True)}
    expected = [
        tuple(int(c[i : i + 2], 16) / 255 for i in (1, 3, 5)) for c in CLASS_COLOURS.values()
    ]
    for name, colour in zip(NAMES, expected, strict=True):
        assert colours[name][:3] == pytest.approx(colour, abs=2e-3)
    assert [label for label in classify.census.legend.cells if label in NAMES] == list(NAMES)
    qtbot.waitUntil(lambda: labelling(viewer).last_saved != "")
    with LabelStore(data_folder / "labels", create=False) as store:
        (entry,) = store.images()
        assert entry.material == "NbSe2"
        (path,) = export_labels(store, data_folder / "sent")
    assert '"NbSe2"' in path.read_text()
    assert list(own_materials()) == ["NbSe2"]
    # nothing is to be written any more when the material is forgotten with the test
    viewer.layers.clear()
    qtbot.wait(50)
    labelling(viewer).close()
