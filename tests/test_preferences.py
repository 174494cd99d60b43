"""The user's preferences: declared in the manifest, kept by napari, followed at once."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("napari")
pytest.importorskip("qtpy.QtWidgets", exc_type=ImportError)

from npe2 import PluginManifest

from napari_point_defects.materials import get_material
from napari_point_defects.napari_ui import memory, preferences
from napari_point_defects.napari_ui.cell_layers import marks
from napari_point_defects.palettes import COLOUR_BLIND, PALETTES, PAPER, palette_in_use

pytestmark = pytest.mark.gui
MANIFEST = Path(__file__).parents[1] / "napari.yaml"


def rgba(colour):
    return [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]


@pytest.fixture
def kept_by_napari(npe2pm, tmp_path, monkeypatch):
    """napari's own settings of the plugin, in a folder of the test."""
    settings = pytest.importorskip("napari.settings")
    if not hasattr(settings, "get_plugin_settings"):
        pytest.skip("needs napari 0.9")
    npe2pm.register(PluginManifest.from_file(MANIFEST))
    settings._clear_plugin_settings_cache()
    found = settings.get_plugin_settings(preferences.PLUGIN, path_dir=tmp_path)
    monkeypatch.setattr(preferences, "_napari_settings", lambda: found)
    yield found
    settings._clear_plugin_settings_cache()


def choose(box, name):
    box.setCurrentIndex(box.findData(name))
    box.activated.emit(box.currentIndex())


def test_layers_and_legend_follow_a_palette_at_once(viewer, classify, classified, qtbot):
    classify.areas.setChecked(True)
    qtbot.waitUntil(lambda: not classify.run.is_running)
    before = np.array(classified.face_color)
    border = np.array(classified.border_color)
    icon = classify.census.legend.names["V_Te1"].icon().pixmap(16).toImage()
    choose(classify.census.filters.palette_box, COLOUR_BLIND)
    material = get_material("MoTe2")
    wanted = marks(classified.features, material, 24.0)
    np.testing.assert_allclose(classified.face_color, wanted.face_color, atol=1e-6)
    np.testing.assert_allclose(classified.border_color, wanted.border_color, atol=1e-6)
    assert not np.allclose(classified.face_color, before)
    assert classify.census.legend.names["V_Te1"].icon().pixmap(16).toImage() != icon
    mask = viewer.layers["field cell areas"]
    for number, colour in enumerate(list(PALETTES[COLOUR_BLIND].values())[1:], start=2):
        np.testing.assert_allclose(mask.colormap.map(number)[:3], rgba(colour), atol=0.01)
    # and back, to the last bit
    choose(classify.census.filters.palette_box, PAPER)
    np.testing.assert_allclose(classified.face_color, before, atol=1e-6)
    np.testing.assert_allclose(classified.border_color, border, atol=1e-6)
    # an edit draws in the palette in use
    choose(classify.census.filters.palette_box, COLOUR_BLIND)
    classified.selected_data = {1}
    classify.census.session.set_class("V_Mo")
    assert np.allclose(
        classified.face_color[1, :3], rgba(list(PALETTES[COLOUR_BLIND].values())[3]), atol=0.01
    )


def test_layers_of_others_keep_their_colours(viewer, classify, classified):
    colour = list(PALETTES[PAPER].values())[1]
    other = viewer.add_points(np.zeros((3, 2)), face_color=colour, name="dots")
    choose(classify.census.filters.palette_box, COLOUR_BLIND)
    np.testing.assert_allclose(other.face_color[:, :3], [rgba(colour)] * 3, atol=1e-6)


def test_without_napari_the_choice_is_kept_with_the_last_settings(classify, memory_file):
    preferences.set_palette(COLOUR_BLIND)
    assert memory.recall("preferences") == {"palette": COLOUR_BLIND}
    assert palette_in_use() == COLOUR_BLIND
    assert classify.census.filters.palette_box.currentData() == COLOUR_BLIND
    memory.keep("preferences", {"palette": "pink", "results_folder": "/nowhere/at/all"})
    assert preferences.palette() == PAPER
    assert preferences.results_folder() == ""


def test_napari_shows_and_keeps_them(kept_by_napari, qtbot, viewer, tmp_path):
    from napari_point_defects.napari_ui.classify_widget import ClassifyWidget

    assert preferences.palette() == PAPER
    assert preferences.remembers_settings() is True
    kept_by_napari.display.palette = COLOUR_BLIND  # as a choice in an earlier session
    widget = ClassifyWidget(viewer)
    qtbot.addWidget(widget)
    assert palette_in_use() == COLOUR_BLIND
    assert widget.census.filters.palette_box.currentData() == COLOUR_BLIND
    # a change on napari's page is followed at once; a choice in the widget is told to napari
    kept_by_napari.display.palette = PAPER
    assert palette_in_use() == PAPER
    choose(widget.census.filters.palette_box, COLOUR_BLIND)
    assert kept_by_napari.display.palette == COLOUR_BLIND
    assert COLOUR_BLIND in (tmp_path / "napari-point-defects.yaml").read_text()
    with pytest.raises(ValueError, match="pink"):
        kept_by_napari.display.palette = "pink"
    kept_by_napari.session.results_folder = str(tmp_path)
    assert preferences.results_folder() == str(tmp_path)


def test_napari_has_a_page_of_them(kept_by_napari, qtbot, monkeypatch):
    from napari._qt.dialogs.preferences_dialog import PreferencesDialog
    from napari.settings import get_settings
    from qtpy.QtWidgets import QComboBox

    monkeypatch.setattr(type(get_settings()), "save", lambda *_, **__: None)
    dialog = PreferencesDialog()
    qtbot.addWidget(dialog)
    names = [dialog._list.item(i).text() for i in range(dialog._list.count())]
    assert "Point Defects" in names
    page = dialog._stack.widget(names.index("Point Defects"))
    choices = [
        {box.itemText(i) for i in range(box.count())} for box in page.findChildren(QComboBox)
    ]
    assert set(PALETTES) in choices


def test_the_manifest_and_the_program_agree():
    manifest = PluginManifest.from_file(MANIFEST)
    declared = getattr(manifest.contributions, "configurations", None)
    if not declared:
        pytest.skip("npe2 before 0.8 does not read them")
    found = {
        name: (category, prop.default)
        for category, configuration in declared.items()
        for name, prop in configuration.properties.items()
    }
    assert found == preferences._PLACES
    assert declared["display"].properties["palette"].enum == list(PALETTES)
    assert all(p.description for c in declared.values() for p in c.properties.values())


def test_an_environment_that_names_a_palette_goes_before(monkeypatch):
    monkeypatch.setenv("POINT_DEFECTS_PALETTE", COLOUR_BLIND)
    preferences.begin()
    assert palette_in_use() == COLOUR_BLIND


def test_the_results_folder_is_where_dialogs_begin(classify, classified, monkeypatch, tmp_path):
    from qtpy.QtWidgets import QFileDialog

    memory.keep("preferences", {"results_folder": str(tmp_path)})
    asked = []
    monkeypatch.setattr(
        QFileDialog, "getExistingDirectory", lambda *given: asked.append(given[2]) or ""
    )
    monkeypatch.setattr(
        QFileDialog, "getSaveFileName", lambda *given, **_: (asked.append(given[2]) or "", "")
    )
    classify.census.export_button.click()
    classify.census.report_button.click()
    assert asked == [str(tmp_path), str(tmp_path / "field_report.html")]
