"""*Classify point defects*, on a stand-in for the core."""

from __future__ import annotations

import json
import time
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

pytest.importorskip("napari")
pytest.importorskip("qtpy.QtWidgets", exc_type=ImportError)

from napari.layers import Points
from qtpy.QtWidgets import QFileDialog, QMessageBox

from napari_point_defects import results
from napari_point_defects.napari_ui.legend import legend_rows
from napari_point_defects.napari_ui.links import CellsLink, HexagonsLink, link_of

pytestmark = pytest.mark.gui


def names(viewer):
    return [layer.name for layer in viewer.layers]


def count(classify, label):
    return int(classify.census.legend.cells[label][0].text().replace(",", ""))


def test_classify_draws_cells_and_counts_them(viewer, classify, core, classified):
    assert isinstance(classified, Points)
    np.testing.assert_allclose(classified.data, core.cells.centres_px)
    np.testing.assert_allclose(classified.scale, [0.02, 0.02])
    assert classified.units == viewer.layers["field"].units
    assert {"cell_id", "label", "confidence", "votes", "chalcogen_y", "p_V_Te1+V_Mo"} <= set(
        classified.features
    )
    counts = np.bincount(core.cells.classes, minlength=6)
    labels = list(classify.census.legend.cells)
    assert [count(classify, label) for label in labels] == counts.tolist()
    area = len(core.cells) * core.lattice.cell_area_px * 0.01**2
    assert f"{len(core.cells):,} cells on {area:,.1f} nm²" == classify.census.total.text()
    assert "cm⁻²" in classify.census.legend.boxes["V_Mo"].toolTip()
    census = classify.census.editor.census()
    rows = legend_rows(replace(census, counts=np.array([97, 3, 0, 0, 0, 0])))
    assert (rows["V_Te1"].count, rows["V_Te1"].fraction) == ("3", "3.00")
    assert legend_rows(replace(census, counts=np.zeros(6, int)))["Perfect"].count == "0"
    assert not viewer.layers["field hexagons"].visible
    assert link_of(classified, CellsLink).detection.hexagons is core.hexagons


def test_classify_uses_the_edited_hexagons(viewer, detect, classify, core, run):
    run(detect)
    layer = viewer.layers["field hexagons"]
    layer.selected_data = {2}
    layer.remove_selected()
    run(classify)
    detection = core.calls[-1][2]
    assert len(detection.hexagons) == len(core.hexagons) - 1
    assert len(link_of(layer, HexagonsLink).detection.hexagons) == len(core.hexagons)


def test_classify_takes_the_settings_of_the_detection(detect, classify, core, run):
    detect.form.set_values({"material": "MoS2"})
    run(detect)
    classify.form.set_values({"alpha": 0.7})
    run(classify)
    settings = core.calls[-1][3]
    assert (settings.material, settings.alpha) == ("MoS2", 0.7)
    assert "V_S1" in classify.census.legend.boxes


def test_a_silent_edit_of_the_table_is_seen(classify, qtbot, classified):
    """As napari's features table does it: in place, without an event."""
    before = count(classify, "V_Te2+V_Mo")
    features = classified.features
    features.iloc[1, features.columns.get_loc("label")] = "V_Te2+V_Mo"
    qtbot.waitUntil(lambda: count(classify, "V_Te2+V_Mo") == before + 1)
    assert classified.features["state"].iloc[1] == "corrected"
    purple = np.array([0x9C, 0x27, 0xB0]) / 255
    np.testing.assert_allclose(classified.face_color[1, :3], purple, atol=1e-6)
    assert classified.size[1] == classified.size.max()

    # a point that is added has the class chosen in the panel
    before = count(classify, "V_Te1")
    classify.census.new_class.setCurrentText("V_Te1")
    classified.add([[5.0, 5.0]])
    classified.add([[6.0, 40.0]])
    assert classified.features["label"].iloc[-2:].tolist() == ["V_Te1", "V_Te1"]
    assert classified.features["cell_id"].is_unique
    assert count(classify, "V_Te1") == before + 2


def test_homeless_corrections_keep_their_layer(viewer, classify, core, run, notes, classified):
    classified.features.loc[3, "label"] = "V_Mo"
    shift = core.lattice.matrix_px @ [0.0, 0.5]
    core.cells = replace(
        core.cells,
        chalcogen_px=core.cells.chalcogen_px + shift,
        metal_px=core.cells.metal_px + shift,
    )
    run(classify)
    assert names(viewer) == ["field", "field hexagons", "field cells (edited)", "field cells"]
    assert classified.features.loc[3, "label"] == "V_Mo"
    assert any("1 of your corrections" in note.message for note in notes)


def test_the_legend_follows_the_selected_layer(viewer, classify, core, run, classified):
    other = viewer.add_points(classified.data[:0], name="dots")
    assert classify.census.editor.layer is classified
    viewer.layers.remove(other)
    viewer.layers.remove(classified)
    assert classify.census.editor is None
    assert classify.census.isHidden()
    run(classify)
    assert classify.census.editor.layer is viewer.layers["field cells"]


def test_export_writes_what_is_shown(
    monkeypatch, tmp_path, viewer, classify, core, qtbot, notes, classified
):
    written = []

    def write_results(analysis, folder, overwrite=False):
        written.append((analysis, folder, overwrite))

    monkeypatch.setattr(results, "write_results", write_results)
    classified.features.loc[3, "label"] = "V_Mo"
    classify.export(tmp_path)
    qtbot.waitUntil(lambda: not classify.run.is_running, timeout=20_000)
    ((analysis, folder, overwrite),) = written
    assert (folder, overwrite) == (tmp_path, False)
    assert analysis.image.name == "field"
    assert analysis.cells.classes[3] == 3
    assert json.loads(json.dumps(analysis.census))["n_cells"] == len(core.cells)
    assert "written" in notes[-1].message

    # from the button: asks for the folder, and before it replaces anything
    (tmp_path / "field_cells.csv").touch()
    answers = [QMessageBox.StandardButton.No, QMessageBox.StandardButton.Yes]
    monkeypatch.setattr(QFileDialog, "getExistingDirectory", lambda *_: str(tmp_path))
    monkeypatch.setattr(QMessageBox, "question", lambda *_: answers.pop(0))
    classify.census.export_button.click()
    assert not classify.run.is_running
    classify.census.export_button.click()
    qtbot.waitUntil(lambda: not classify.run.is_running, timeout=20_000)
    assert [overwrite for _, _, overwrite in written] == [False, True]


def test_the_report_holds_the_users_corrections(
    monkeypatch, tmp_path, classify, core, qtbot, notes, classified
):
    classified.features.loc[3, "label"] = "V_Mo"
    asked = []

    def choose(parent, title, name, kinds, **options):
        asked.append(name)
        return str(tmp_path / "mine"), kinds

    monkeypatch.setattr(QFileDialog, "getSaveFileName", choose)
    classify.census.report_button.click()
    qtbot.waitUntil(lambda: not classify.run.is_running, timeout=60_000)
    assert asked == ["field_report.html"]
    page = (tmp_path / "mine.html").read_text(encoding="utf-8")
    assert "A person decided on cells: 1 corrected." in page
    table = pd.read_csv(tmp_path / "mine_cells.csv")
    assert table["label"][3] == "V_Mo"
    assert "href" in classify.run.message.text()
    assert "Report of field written" in notes[-1].message

    # the page alone is gone, its data are not: they are not replaced without asking
    (tmp_path / "mine.html").unlink()
    answers = [QMessageBox.StandardButton.No, QMessageBox.StandardButton.Yes]
    questions = []

    def question(parent, title, text):
        questions.append(text)
        return answers.pop(0)

    monkeypatch.setattr(QMessageBox, "question", question)
    classify.census.report_button.click()
    assert not classify.run.is_running
    assert "mine_cells.csv" in questions[0]
    classify.census.report_button.click()
    qtbot.waitUntil(lambda: not classify.run.is_running, timeout=60_000)
    assert (tmp_path / "mine.html").exists()

    monkeypatch.setattr(QFileDialog, "getSaveFileName", lambda *_, **__: ("", ""))
    classify.census.report_button.click()
    assert not classify.run.is_running


def test_ten_thousand_cells_are_quick(viewer, classify, core, run, classified):
    copies = 10_000 // len(core.cells) + 1
    core.cells = replace(
        core.cells,
        chalcogen_px=np.concatenate([core.cells.chalcogen_px + 300 * i for i in range(copies)]),
        metal_px=np.concatenate([core.cells.metal_px + 300 * i for i in range(copies)]),
        votes=np.tile(core.cells.votes, copies),
        domain=np.tile(core.cells.domain, copies),
        probabilities=np.tile(core.cells.probabilities, (copies, 1)),
    )
    start = time.process_time()
    run(classify)
    layer = viewer.layers["field cells"]
    assert len(layer.data) > 10_000
    layer.selected_data = set(range(5_000))
    classify.census.set_button.click()
    classify.census.legend.boxes["Perfect"].setChecked(False)
    assert time.process_time() - start < 5
