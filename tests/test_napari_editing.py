"""Edits of unit cells in their layer: replacing rows, ids, undo and redo."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

pytest.importorskip("napari")
pytest.importorskip("qtpy.QtWidgets", exc_type=ImportError)

from napari.layers import Layer
from qtpy.QtWidgets import QWidget

from napari_point_defects.analysis_settings import AnalysisSettings
from napari_point_defects.detections import Detection
from napari_point_defects.domains.casting import DomainMap
from napari_point_defects.materials import MATERIALS
from napari_point_defects.napari_ui.cell_editor import CellEditor
from napari_point_defects.napari_ui.cell_layers import cells_layer_data, class_colours
from napari_point_defects.napari_ui.cell_rows import rows_of
from napari_point_defects.napari_ui.cell_tables import (
    NEW_ID,
    cell_table,
    centres_px,
    changes,
    describe,
    labelled,
    new_row,
    tidy,
    with_domains,
)
from napari_point_defects.napari_ui.history import history_of
from napari_point_defects.napari_ui.layer_cells import layer_corrections
from napari_point_defects.napari_ui.links import CellsLink, own
from napari_point_defects.records import UnitCells

pytestmark = pytest.mark.gui
MATERIAL = MATERIALS["MoTe2"]


@pytest.fixture
def editor(viewer, qtbot, lattice, hexagons, cells):
    """An editor of the cells of the image "field", without the widgets."""
    table = cell_table(cells, MATERIAL)
    image = viewer.layers["field"]
    link = CellsLink(
        image.unique_id,
        Detection(lattice, hexagons, (0.01, 0.01), "lattice", ()),
        AnalysisSettings(),
        table["cell_id"].to_numpy(),
        centres_px(table),
        next_id=len(table),
    )
    layer = viewer.add_layer(Layer.create(*cells_layer_data(table, link, "cells", {})))
    own(layer)
    parent = QWidget()
    qtbot.addWidget(parent)
    yield CellEditor(layer, viewer, parent)
    parent.deleteLater()


@pytest.fixture
def history(viewer, editor):
    return history_of(viewer, editor.link.image_id)


def by_id(table):
    return table.sort_values("cell_id", ignore_index=True)


def assert_in_step(editor):
    """Layer, table and looks tell the same story."""
    layer, table = editor.layer, editor.table()
    assert table["cell_id"].is_unique
    np.testing.assert_allclose(centres_px(table), layer.data, atol=1e-6)
    colours = class_colours(MATERIAL)
    expected = [
        [int(colours[label][i : i + 2], 16) / 255 for i in (1, 3, 5)] for label in table["label"]
    ]
    np.testing.assert_allclose(layer.face_color[:, :3], expected, atol=1e-6)
    pd.testing.assert_frame_equal(layer.features, table)
    arrays = (layer.size, layer.symbol, layer.border_width, layer.shown, layer.border_color)
    assert {len(array) for array in arrays} == {len(table)}
    assert (table.dtypes == cell_table_dtypes()).all()


def cell_table_dtypes():
    return new_row(MATERIAL).dtypes


# Rows


def test_apply_replaces_removes_and_adds_rows(editor, history, qtbot):
    before = editor.table()
    rows = before.iloc[[3, 7]].copy()
    rows["votes"] = [5, 6]
    rows["label"] = pd.Categorical(["V_Mo", "V_Te1"], rows["label"].cat.categories)
    new = before.iloc[[9]].assign(cell_id=NEW_ID)
    with qtbot.waitSignal(editor.changed):
        ids = editor.apply([11, 12, 9999], pd.concat([rows, new]), remember="Shift a box")
    after = editor.table()
    assert ids.tolist() == [3, 7, len(before)]
    assert len(after) == len(before) - 2 + 1
    assert not {11, 12} & set(after["cell_id"])
    assert after.set_index("cell_id").loc[[3, 7], "votes"].tolist() == [5, 6]
    assert_in_step(editor)
    assert (history.count(), history.undoText()) == (1, "Shift a box")
    history.undo()
    pd.testing.assert_frame_equal(by_id(editor.table()), before)
    assert_in_step(editor)
    history.redo()
    pd.testing.assert_frame_equal(by_id(editor.table()), by_id(after))


def test_what_others_write_is_not_the_users_step(editor, history, qtbot):
    rows = labelled(editor.table().iloc[[3]], "V_Mo")
    editor.layer.selected_data = {20, 21}
    with qtbot.waitSignal(editor.changed):
        editor.apply([2], rows, remember=None)
    assert history.count() == 0
    # the user's selection stays with its cells
    chosen = editor.layer.features["cell_id"].iloc[list(editor.layer.selected_data)]
    assert set(chosen) == {20, 21}


def test_a_cell_applied_and_then_deleted_stays_deleted(editor):
    new = editor.table().iloc[[9]].assign(cell_id=NEW_ID)
    editor.apply([9], new, remember=None)
    editor.layer.selected_data = {len(editor.layer.data) - 1}
    editor.layer.remove_selected()
    assert len(layer_corrections(editor.layer).deleted_px) == 2


def test_rows_may_come_from_a_file(editor):
    """Their columns are plain text and numbers of any kind."""
    rows = editor.table().iloc[[3, 4]].astype({"label": str, "state": str, "votes": float})
    rows["label"], rows["state"] = "V_Mo", "corrected"
    editor.apply([], rows.drop(columns="votes").assign(votes=[1.0, 2.0]), remember=None)
    assert editor.table()["label"].iloc[[3, 4]].tolist() == ["V_Mo", "V_Mo"]
    assert editor.table()["votes"].iloc[[3, 4]].tolist() == [1, 2]
    assert_in_step(editor)


# Undo


def test_each_action_is_one_step(editor, history):
    layer, before = editor.layer, editor.table()
    layer.selected_data = {3, 4, 5}
    editor.set_selected("V_Mo")
    set_three = editor.table()
    layer.selected_data = {8}
    layer.remove_selected()
    deleted = editor.table()
    layer.add([[3.0, 4.0]])
    added = editor.table()
    layer.data[20] += 2.0
    layer.events.data(value=layer.data, action="changed", data_indices=(20,), vertex_indices=((),))
    moved = editor.table()
    texts = [history.text(i) for i in range(history.count())]
    assert texts == ["Set 3 cells to V_Mo", "Delete 1 cell", "Add 1 cell", "Move 1 cell"]
    for expected in (added, deleted, set_three, before):
        history.undo()
        pd.testing.assert_frame_equal(by_id(editor.table()), by_id(expected))
        assert_in_step(editor)
    for expected in (set_three, deleted, added, moved):
        history.redo()
        pd.testing.assert_frame_equal(by_id(editor.table()), by_id(expected))
        assert_in_step(editor)


def test_undoing_a_deletion_brings_the_same_cell_back(editor, history):
    before = editor.table()
    editor.layer.selected_data = {8}
    editor.layer.remove_selected()
    editor.layer.add([[3.0, 4.0]])
    (fresh,) = set(editor.table()["cell_id"]) - set(before["cell_id"])
    assert fresh == len(before)
    history.undo()
    history.undo()
    assert set(editor.table()["cell_id"]) == set(before["cell_id"])
    # the id of a cell added and taken back is not given to another
    editor.layer.add([[9.0, 9.0]])
    assert editor.table()["cell_id"].max() == fresh + 1


def test_deciding_what_was_decided_is_no_step(editor, history):
    assert editor.decide([3, 4]) == 2
    assert editor.table()["state"].iloc[[3, 4]].tolist() == ["confirmed"] * 2
    assert editor.decide([3, 4]) == 2
    assert (history.count(), history.undoText()) == (1, "Confirm 2 cells")


def test_an_added_cell_has_the_chosen_class_whatever_was_selected(editor):
    """napari offers the features of the cell selected last to the next point."""
    other = int(np.flatnonzero(editor.table()["label"] == "V_Mo")[0])
    editor.set_new_label("V_Te2")
    editor.layer.selected_data = {other}
    editor.layer.add([[3.0, 4.0]])
    row = editor.table().iloc[-1]
    assert (row["label"], row["state"], row["votes"]) == ("V_Te2", "added", 0)
    assert np.isnan(row["p_V_Mo"])
    assert_in_step(editor)


def test_steps_reach_the_layer_without_its_editor(viewer, editor, history):
    editor.decide([3], "V_Te2")
    layer = editor.layer
    editor.detach()
    history.undo()
    assert layer.features["label"].iloc[3] != "V_Te2"
    other = CellEditor(layer, viewer, editor.parent())
    history.redo()
    assert other.table()["label"].iloc[3] == "V_Te2"
    assert_in_step(other)


def test_a_new_run_keeps_ids_and_starts_a_new_history(viewer, classify, core, run, classified):
    editor = classify.census.editor
    n = len(core.cells)
    editor.decide([3], "V_Mo")
    classified.selected_data = {5}
    classified.remove_selected()
    classified.add([[2.0, 2.0]])
    before = by_id(editor.table())
    history = history_of(viewer, editor.link.image_id)
    assert history.count() == 3
    order = np.random.default_rng(4).permutation(n)
    core.cells = UnitCells(
        core.cells.chalcogen_px[order],
        core.cells.metal_px[order],
        core.cells.votes[order],
        core.cells.probabilities[order],
    )
    run(classify)
    editor = classify.census.editor
    assert editor.layer is not classified
    after = by_id(editor.table())
    assert after["cell_id"].tolist() == before["cell_id"].tolist()
    np.testing.assert_allclose(centres_px(after), centres_px(before))
    assert history.count() == 0
    editor.layer.add([[4.0, 90.0]])
    assert editor.table()["cell_id"].max() == n + 1


# Marks


def test_states_differ_by_more_than_colour(editor):
    same = editor.table().query("label == 'V_Mo'")["cell_id"].tolist()[:2]
    other = editor.table().query("label == 'Perfect'")["cell_id"].iloc[0]
    editor.decide(same[1:])
    editor.decide([other], "V_Mo")
    editor.set_new_label("V_Mo")
    editor.layer.add([[3.0, 4.0]])
    editor.select([])
    layer = editor.layer
    rows = [*rows_of(layer, same), *rows_of(layer, [other]), len(layer.data) - 1]
    states = editor.table()["state"].iloc[rows].tolist()
    assert states == ["predicted", "confirmed", "corrected", "added"]
    looks = {
        (str(layer.symbol[i]), round(layer.border_width[i], 3), *layer.border_color[i])
        for i in rows
    }
    assert len(looks) == 4
    assert len({tuple(layer.face_color[i]) for i in rows}) == 1


def test_the_mark_of_the_one_selected_cell_is_open(editor):
    layer = editor.layer
    closed = layer.size[7]
    editor.select([7])
    assert editor.current_id == 7
    assert layer.face_color[7, 3] == 0
    assert layer.size[7] > 2 * closed
    editor.select([7, 8])
    assert editor.current_id is None
    assert layer.face_color[7, 3] == 1
    assert layer.size[7] == closed


# Tables


def test_changes_are_found_by_id(cells):
    before = cell_table(cells, MATERIAL)
    after = before.drop(index=[4]).sample(frac=1, random_state=1).reset_index(drop=True)
    after.loc[after["cell_id"] == 7, "label"] = "V_Te2"
    old, new = changes(before, after)
    assert (old["cell_id"].tolist(), new["cell_id"].tolist()) == ([4, 7], [7])
    assert describe(old, new) == "Delete 1 cell"
    assert [len(rows) for rows in changes(after, after)] == [0, 0]
    nan = pd.concat([before, new_row(MATERIAL)], ignore_index=True)
    assert [len(rows) for rows in changes(nan, nan)] == [0, 0]


def test_labelled_rows_have_the_state_that_tidy_gives(cells, lattice):
    where = DomainMap.one(lattice)
    rows = with_domains(cell_table(cells, MATERIAL).iloc[:12], where)
    for label in (None, "V_Te1"):
        decided = labelled(rows, label)
        assert (decided["state"] != "predicted").all()
        again = tidy(decided, centres_px(decided), where)
        pd.testing.assert_frame_equal(again, decided)
