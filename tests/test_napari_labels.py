"""Labels are in the store as soon as they are made, and come back as they were."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta

import numpy as np
import pandas as pd
import pytest

pytest.importorskip("napari")
pytest.importorskip("qtpy.QtWidgets", exc_type=ImportError)

from hypothesis import given, settings
from labels_strategies import tables
from napari.components import ViewerModel
from qtpy.QtWidgets import QFileDialog, QMessageBox
from wrapt import ObjectProxy

from napari_point_defects.labels.store import LabelStore
from napari_point_defects.labels.tables import (
    CELLS,
    CORNER_COLUMNS,
    HEXAGONS,
    from_named,
    table_changes,
)
from napari_point_defects.materials import get_material
from napari_point_defects.napari_ui import label_folder
from napari_point_defects.napari_ui.cell_tables import centres_px
from napari_point_defects.napari_ui.hexagon_tables import with_corners
from napari_point_defects.napari_ui.history import history_of
from napari_point_defects.napari_ui.label_panel import when
from napari_point_defects.napari_ui.label_rows import (
    living,
    store_hexagons,
    viewer_cells,
    viewer_hexagons,
)
from napari_point_defects.napari_ui.label_widget import LabelWidget
from napari_point_defects.napari_ui.labelling import labelling
from napari_point_defects.napari_ui.links import CellsLink, HexagonsLink, link_of

pytestmark = pytest.mark.gui


@pytest.fixture
def folder(data_folder):
    return data_folder / "labels"


@pytest.fixture
def store(folder, qtbot, viewer, classified):
    """The store as another program sees it, after the first cells were drawn."""
    qtbot.waitUntil(lambda: labelling(viewer).last_saved != "")
    with LabelStore(folder, create=False) as store:
        yield store


@pytest.fixture
def labels(viewer, qtbot):
    widget = LabelWidget(viewer)
    qtbot.addWidget(widget)
    return widget


def rows(store, entry_id=1):
    return store.cells(entry_id).set_index("cell_id")


def set_class(classify, layer, ids, label):
    layer.selected_data = set(np.flatnonzero(layer.features["cell_id"].isin(ids)).tolist())
    classify.census.editor.set_selected(label)


def write(store, changed, author="bob", entry_id=1):
    """Change the store as another window does: ``changed`` edits a copy of the table of cells."""
    before = store.cells(entry_id)
    after = changed(before.copy())
    store.write(entry_id, cells=table_changes(before, after), author=author)


def relabel(cell_id, label):
    def change(table):
        table.loc[table["cell_id"] == cell_id, ["label", "state"]] = [label, "corrected"]
        return table

    return change


def test_drawn_cells_are_saved_unasked(viewer, classified, core, store, stem_data, folder):
    (entry,) = store.images()
    assert entry.material == "MoTe2"
    assert entry.pixel_size_nm == (0.01, 0.01)
    np.testing.assert_array_equal(store.read_image(entry).data, stem_data)
    cells = rows(store)
    assert set(cells["state"]) == {"predicted"}
    np.testing.assert_array_equal(cells["label"], core.cells.classes)
    np.testing.assert_array_equal(cells[["chalcogen_y", "chalcogen_x"]], core.cells.chalcogen_px)
    assert cells["weights"].str.match(r"classifier-compact@[0-9a-f]{12}").all()
    hexagons = store.hexagons(1)
    assert len(hexagons) == len(core.hexagons)
    corners = hexagons.filter(like="corner").to_numpy().reshape(-1, 4, 2)
    np.testing.assert_allclose(corners, core.hexagons.corners_px, atol=1e-4)


def test_all_widgets_of_a_viewer_share_its_labels(viewer):
    """napari gives a widget from a manifest the viewer in a wrapper."""
    assert labelling(ObjectProxy(viewer)) is labelling(viewer)


def test_every_edit_of_a_cell_is_in_the_store_at_once(classify, classified, core, store):
    set_class(classify, classified, [3, 4], "V_Mo")
    assert rows(store).loc[[3, 4], "label"].tolist() == [3, 3]
    assert rows(store).loc[3, "author"] == label_folder.user_name()
    classified.selected_data = {8}
    classified.remove_selected()
    assert rows(store).loc[8, "state"] == "deleted"
    classify.census.new_class.setCurrentText("V_Te1")
    classified.add([[5.0, 6.0]])
    new = rows(store).iloc[-1]
    assert (new["state"], new["label"]) == ("added", 1)
    np.testing.assert_allclose(centres_px(rows(store).iloc[[-1]]), [[5.0, 6.0]])
    assert new.name == len(core.cells)
    # silently, as napari's features table does it
    features = classified.features
    features.iloc[1, features.columns.get_loc("label")] = "V_Te2+V_Mo"
    classify.census.editor.table()
    assert rows(store).loc[1, "label"] == 5
    assert store.history(1, 8)["action"].tolist() == ["deleted"]


def test_undo_is_saved_too(viewer, classify, classified, store):
    set_class(classify, classified, [3], "V_Mo")
    classified.selected_data = {8}
    classified.remove_selected()
    history = history_of(viewer, link_of(classified, CellsLink).image_id)
    history.undo()
    assert rows(store).loc[8, "state"] == "predicted"
    history.undo()
    assert rows(store).loc[3, "state"] == "predicted"
    history.redo()
    assert rows(store).loc[3, "label"] == 3
    actions = store.history(1, 3)["action"].tolist()
    assert actions == ["corrected", "taken back", "corrected"]


def test_edits_of_hexagons_are_saved(viewer, detect, classified, core, store, qtbot):
    layer = viewer.layers["field hexagons"]
    layer.selected_data = {2}
    layer.remove_selected()

    def deleted():
        hexagons = store.hexagons(1)
        return hexagons.loc[hexagons["state"] == "deleted", "hexagon_id"].tolist()

    qtbot.waitUntil(lambda: deleted() == [2])
    box = np.array(layer.data[5]) + [3.0, 2.0]
    layer.selected_data = {5}
    layer.remove_selected()
    layer.add([box], shape_type="rectangle")
    qtbot.waitUntil(lambda: (store.hexagons(1)["state"] == "added").sum() == 1)


def test_cells_that_a_run_no_longer_finds_are_not_deleted(
    viewer, classify, core, run, store, qtbot, classified
):
    set_class(classify, classified, [3], "V_Mo")
    classified.selected_data = {8}
    classified.remove_selected()
    core.cells = replace(
        core.cells,
        chalcogen_px=core.cells.chalcogen_px[:-5],
        metal_px=core.cells.metal_px[:-5],
        votes=core.cells.votes[:-5],
        probabilities=core.cells.probabilities[:-5],
        domain=core.cells.domain[:-5],
    )
    run(classify)
    n = len(core.cells)
    qtbot.waitUntil(lambda: len(rows(store)) == n)
    cells = rows(store)
    assert cells["state"].value_counts()[["predicted", "corrected", "deleted"]].tolist() == [
        n - 2,
        1,
        1,
    ]
    assert cells.loc[3, "label"] == 3
    assert len(store.labelled_images().__next__().classes) == n - 1


@settings(max_examples=25, deadline=None)
@given(cells=tables(CELLS), hexagons=tables(HEXAGONS))
def test_any_rows_are_the_same_in_the_viewer(cells, hexagons):
    cells, hexagons = living(cells), living(hexagons)
    named = viewer_cells(cells, get_material("WSe2"))
    again = from_named(named, get_material("WSe2"))
    columns = ["cell_id", *CELLS.content]
    pd.testing.assert_frame_equal(again[columns], cells[columns])
    features, corners = viewer_hexagons(hexagons)
    again = store_hexagons(with_corners(features, corners.astype(np.float32)), hexagons)
    columns = ["hexagon_id", "state", "score"]
    pd.testing.assert_frame_equal(again[columns], hexagons[columns])
    corners = list(CORNER_COLUMNS)
    small = (hexagons[corners].abs() < 1e4).all(axis=1)  # as large as images are
    pd.testing.assert_frame_equal(again[corners][small], hexagons[corners][small])


# --- another day ----------------------------------------------------------------------------


@pytest.fixture
def decided(viewer, classify, classified, store):
    """Decisions of the day before; the viewer is empty again."""
    set_class(classify, classified, [3, 4], "V_Mo")
    set_class(classify, classified, [5], classified.features["label"].iloc[5])
    classified.selected_data = {8}
    classified.remove_selected()
    classified.add([[5.0, 6.0]])
    table = classify.census.editor.table()
    hexagons = [np.array(d) for d in viewer.layers["field hexagons"].data]
    viewer.layers.clear()
    return table, hexagons


def test_resume_brings_back_the_layers_as_they_stood(viewer, classify, decided, store, qtbot):
    table, hexagons = decided
    qtbot.waitUntil(lambda: not classify.resume.isHidden())
    assert "<b>field</b>: 4 cells decided, last edit " in classify.resume.text.text()
    before = rows(store)
    classify.resume.button.click()
    assert [layer.name for layer in viewer.layers] == ["field", "field hexagons", "field cells"]
    layer = viewer.layers["field cells"]
    again = classify.census.editor.table()
    key = "cell_id"
    pd.testing.assert_frame_equal(
        again.sort_values(key, ignore_index=True), table.sort_values(key, ignore_index=True)
    )
    np.testing.assert_allclose(layer.data, centres_px(again))
    np.testing.assert_allclose(viewer.layers["field"].scale, [0.02, 0.02])
    np.testing.assert_allclose(layer.scale, [0.02, 0.02])
    for box, other in zip(viewer.layers["field hexagons"].data, hexagons, strict=True):
        np.testing.assert_allclose(box, other, atol=1e-4)
    link = link_of(layer, CellsLink)
    assert link.image_id == viewer.layers["field"].unique_id
    assert link_of(viewer.layers["field hexagons"], HexagonsLink).layer_id
    # opening writes nothing, and editing goes on
    pd.testing.assert_frame_equal(rows(store), before)
    qtbot.waitUntil(classify.resume.isHidden)
    set_class(classify, layer, [9], "V_Te2")
    assert rows(store).loc[9, "label"] == 2
    layer.add([[50.0, 6.0]])
    assert rows(store).index.max() == table[key].max() + 1


def test_decisions_are_applied_to_the_image_opened_and_analysed_again(
    viewer, detect, classify, decided, store, stem_data, core, run, qtbot
):
    viewer.add_image(stem_data, name="renamed", scale=(0.02, 0.02), units=("nm", "nm"))
    order = np.random.default_rng(0).permutation(len(core.cells))
    core.cells = replace(
        core.cells,
        chalcogen_px=core.cells.chalcogen_px[order] + 0.5,
        metal_px=core.cells.metal_px[order] + 0.5,
        votes=core.cells.votes[order],
        probabilities=core.cells.probabilities[order],
    )
    run(detect)
    run(classify)
    layer = viewer.layers["renamed cells"]
    qtbot.waitUntil(lambda: classify.census.editor.n_decided() == 4)
    features = layer.features.set_index("cell_id")
    assert features.loc[[3, 4], "label"].tolist() == ["V_Mo", "V_Mo"]
    assert features.loc[[3, 4], "state"].tolist() == ["corrected", "corrected"]
    assert features.loc[5, "state"] == "confirmed"
    assert 8 not in features.index
    assert len(store.images()) == 1
    cells = rows(store)
    assert cells["state"].value_counts()["deleted"] == 1
    assert len(cells) == len(core.cells) + 1
    assert cells["author"].loc[[3]].tolist() == [label_folder.user_name()]
    # a run after this one keeps them too, under the same ids and states
    before = rows(store)["state"]
    run(classify)
    qtbot.waitUntil(lambda: labelling(viewer).session(viewer.layers["renamed cells"]) is not None)
    pd.testing.assert_series_equal(rows(store)["state"], before)
    assert viewer.layers["renamed cells"].features.set_index("cell_id").loc[3, "label"] == "V_Mo"


def test_edits_of_hexagons_are_done_again_on_the_image_opened_anew(
    viewer, detect, classified, store, stem_data, core, run, qtbot
):
    layer, a_px = viewer.layers["field hexagons"], core.lattice.a_px
    drawn = np.array(layer.data[5])
    layer.selected_data = {2, 5}
    layer.remove_selected()
    layer.add([drawn + 0.1 * a_px], shape_type="rectangle")
    qtbot.waitUntil(lambda: (store.hexagons(1)["state"] == "added").sum() == 1)
    qtbot.waitUntil(lambda: (store.hexagons(1)["state"] == "deleted").sum() == 2)
    viewer.layers.clear()
    viewer.add_image(stem_data, name="again", scale=(0.02, 0.02), units=("nm", "nm"))
    run(detect)
    layer = viewer.layers["again hexagons"]
    n = len(core.hexagons)
    qtbot.waitUntil(lambda: len(layer.data) == n - 1)
    middles = np.array([np.mean(shape, axis=0) for shape in layer.data])
    wanted = drawn.mean(axis=0) + 0.1 * a_px
    assert np.abs(middles - wanted).max(axis=1).min() < 0.05
    gone = core.hexagons.corners_px[2].mean(axis=0)
    assert np.linalg.norm(middles - gone, axis=1).min() > 0.5 * a_px


def test_boxes_changed_in_two_windows_are_not_overwritten(viewer, classified, store, notes, qtbot):
    before = store.hexagons(1)
    changes = table_changes(before, before[before["hexagon_id"] != 4])
    store.write(1, hexagons=changes, author="bob")
    layer = viewer.layers["field hexagons"]
    layer.selected_data = {4, 5}
    layer.remove_selected()
    qtbot.waitUntil(lambda: (store.hexagons(1)["state"] == "deleted").sum() == 2)
    assert any("bob changed 1 hexagon" in note.message for note in notes)
    assert store.hexagons(1).set_index("hexagon_id").loc[[4, 5], "author"].tolist() == [
        "bob",
        label_folder.user_name(),
    ]


def test_an_offer_can_be_declined(viewer, classify, labels, decided, qtbot):
    qtbot.waitUntil(lambda: not classify.resume.isHidden())
    classify.resume.dismiss.click()
    assert classify.resume.isHidden()
    assert len(viewer.layers) == 0


def test_a_lost_image_is_reported(viewer, labels, decided, folder, notes, qtbot):
    for path in (folder / "images").iterdir():
        path.unlink()
    qtbot.waitUntil(lambda: labels.images.rowCount() == 1)
    labels.resume_button.click()
    assert "its labels are kept" in notes[-1].message
    assert len(viewer.layers) == 0


# --- two windows ----------------------------------------------------------------------------


def test_what_another_window_writes_is_shown(viewer, classify, classified, store, notes, qtbot):
    write(store, relabel(3, 2))
    qtbot.waitUntil(lambda: classified.features["label"].iloc[3] == "V_Te2")
    assert classified.features["state"].iloc[3] == "corrected"
    assert notes[-1].message == "bob changed 1 cell"
    write(store, lambda table: table[table["cell_id"] != 8])
    qtbot.waitUntil(lambda: 8 not in set(classified.features["cell_id"]))
    write(
        store,
        lambda table: pd.concat(
            [table, table[:1].assign(cell_id=900, state="added", label=4, chalcogen_y=1.0)],
            ignore_index=True,
        ),
    )
    qtbot.waitUntil(lambda: classified.features["cell_id"].iloc[-1] == 900)
    assert classified.features["label"].iloc[-1] == "V_Te1+V_Mo"
    assert not (store.cells(1)["author"] == label_folder.user_name()).loc[[3]].any()


def test_of_two_edits_of_one_cell_neither_is_lost(classify, classified, store, notes):
    """The window that is later shows the earlier one's version, and says whose it is."""
    write(store, relabel(3, 2))
    set_class(classify, classified, [3, 4], "V_Mo")
    assert rows(store).loc[[3, 4], "label"].tolist() == [2, 3]
    assert classified.features["label"].iloc[[3, 4]].tolist() == ["V_Te2", "V_Mo"]
    assert notes[-1].message == "bob changed 1 cell"
    # seen, it may be changed
    set_class(classify, classified, [3], "V_Mo")
    assert rows(store).loc[3, "label"] == 3
    assert store.history(1, 3)["author"].tolist() == ["bob", label_folder.user_name()]


def test_cells_added_in_two_windows_are_both_kept(classify, classified, store):
    new_id = len(classified.data)
    write(
        store,
        lambda table: pd.concat(
            [table, table[:1].assign(cell_id=new_id, state="added", label=4)], ignore_index=True
        ),
    )
    classified.add([[7.0, 7.0]])
    cells = rows(store)
    assert cells.loc[new_id, "author"] == "bob"
    assert cells.loc[new_id + 1, "author"] == label_folder.user_name()
    shown = classified.features.set_index("cell_id")
    assert shown.loc[new_id, "label"] == "V_Te1+V_Mo"
    assert shown.loc[new_id + 1, "chalcogen_y"] == pytest.approx(
        cells.loc[new_id + 1, "chalcogen_y"]
    )


def test_two_viewers_on_one_folder_agree(viewer, classify, classified, store, stem_data, qtbot):
    set_class(classify, classified, [3], "V_Mo")
    other = ViewerModel()
    labelling(other).author = "eve"
    labelling(other).resume(labelling(other).offer().entry)
    layer = other.layers["field cells"]
    rows_there = layer.features.index[layer.features["cell_id"] == 4]
    layer.features.loc[rows_there, ["label", "state"]] = ["V_Te2", "corrected"]
    layer.refresh_colors()
    qtbot.waitUntil(lambda: classified.features["label"].iloc[4] == "V_Te2")
    set_class(classify, classified, [5], "V_Mo")
    qtbot.waitUntil(lambda: layer.features.set_index("cell_id").loc[5, "label"] == "V_Mo")
    assert rows(store).loc[[3, 4, 5], "author"].tolist() == [
        label_folder.user_name(),
        "eve",
        label_folder.user_name(),
    ]


# --- the widget -----------------------------------------------------------------------------


def test_the_widget_shows_what_is_saved_where(labels, classify, classified, store, folder, qtbot):
    set_class(classify, classified, [3, 4], "V_Mo")
    qtbot.waitUntil(lambda: "2 cells decided" in labels.state.text())
    assert "in 1 image; last saved " in labels.state.text()
    assert labels.folder.text() == str(folder)
    texts = [labels.images.item(0, column).text() for column in range(4)]
    assert texts == ["field", "MoTe2", f"{len(classified.data):,}", "2"]
    labels.author.setText("  Ada  Lovelace ")
    labels.author.editingFinished.emit()
    set_class(classify, classified, [5], "V_Mo")
    assert rows(store).loc[5, "author"] == "Ada Lovelace"


def test_another_folder_gets_the_open_labels_and_is_remembered(
    labels, viewer, classify, classified, store, tmp_path, monkeypatch, notes
):
    set_class(classify, classified, [3], "V_Mo")
    monkeypatch.setattr(QFileDialog, "getExistingDirectory", lambda *_: str(tmp_path / "project"))
    (tmp_path / "project").mkdir()
    labels.choose_button.click()
    with LabelStore(tmp_path / "project", create=False) as other:
        assert rows(other).loc[3, "label"] == 3
        set_class(classify, classified, [4], "V_Mo")
        assert rows(other).loc[4, "label"] == 3
    assert rows(store).loc[4, "state"] == "predicted"
    assert label_folder.default_folder() == tmp_path / "project"
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "labels.sqlite").write_bytes(b"something else " * 99)
    monkeypatch.setattr(QFileDialog, "getExistingDirectory", lambda *_: str(tmp_path / "bad"))
    labels.choose_button.click()
    assert "no label store" in notes[-1].message
    assert labelling(viewer).folder == tmp_path / "project"


def test_export_and_import_through_the_widget(
    labels, viewer, classify, classified, store, tmp_path, monkeypatch, qtbot
):
    set_class(classify, classified, [3, 4], "V_Mo")
    qtbot.waitUntil(lambda: labels.export.button.isEnabled())
    monkeypatch.setattr(QFileDialog, "getExistingDirectory", lambda *_: str(tmp_path / "out"))
    answers = [QMessageBox.StandardButton.Yes] * 2
    monkeypatch.setattr(QMessageBox, "question", lambda *_: answers.pop(0))
    for expected in (2, 1):  # the second time it asks
        labels.export.button.click()
        qtbot.waitUntil(lambda: not labels.export.is_running)
        assert "labels.json" in labels.export.message.text()
        assert len(answers) == expected
    set_class(classify, classified, [3, 9], "V_Te2")
    path = tmp_path / "out" / "labels.json"
    monkeypatch.setattr(QFileDialog, "getOpenFileName", lambda *_: (str(path), ""))
    labels.import_.button.click()
    qtbot.waitUntil(lambda: "1 replaced" in labels.import_.message.text())
    assert answers == []
    # the layer shows the imported class, and keeps what the import says nothing about
    qtbot.waitUntil(lambda: classified.features["label"].iloc[3] == "V_Mo")
    assert classified.features["label"].iloc[9] == "V_Te2"
    assert rows(store).loc[[3, 9], "label"].tolist() == [3, 2]


def test_a_store_that_cannot_be_written_is_reported_and_tried_again(
    labels, viewer, classify, classified, store, notes, qtbot
):
    labelling(viewer).store.connection.execute("PRAGMA busy_timeout = 10")
    store.connection.execute("BEGIN IMMEDIATE")
    set_class(classify, classified, [3], "V_Mo")
    assert "labels are not saved" in notes[-1].message
    qtbot.waitUntil(lambda: "⚠" in labels.state.text())
    store.connection.execute("ROLLBACK")
    qtbot.waitUntil(lambda: rows(store).loc[3, "label"] == 3)
    qtbot.waitUntil(lambda: "1 cell decided" in labels.state.text())


def test_times_are_the_users():
    time = "2024-03-01T12:00:00.000+00:00"
    there = datetime.fromisoformat(time).astimezone()
    assert when(time) == f"{there:%d %b %Y, %H:%M}"
    assert when(time, there + timedelta(minutes=1)) == f"{there:%H:%M}"
