"""What keeps the window fast: drawing once, in the background, and no more than was edited."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pandas as pd
import pytest

pytest.importorskip("napari")
pytest.importorskip("qtpy.QtWidgets", exc_type=ImportError)

from matplotlib.figure import Figure

from napari_point_defects import networks, pipeline
from napari_point_defects.errors import PointDefectsError
from napari_point_defects.labels.tables import CELLS, complete
from napari_point_defects.napari_ui import detect_widget
from napari_point_defects.napari_ui.box_correction import box_correction
from napari_point_defects.napari_ui.hexagon_tables import hexagon_table, shapes_of
from napari_point_defects.napari_ui.label_session import LabelSession
from napari_point_defects.napari_ui.labelling import labelling
from napari_point_defects.napari_ui.plot_view import PlotView
from napari_point_defects.napari_ui.stored_table import StoredTable, rows_with
from napari_point_defects.records import StemImage

pytestmark = pytest.mark.gui


def rows(ids, label=0):
    n = len(ids)
    return complete(
        pd.DataFrame({"cell_id": ids, "state": ["predicted"] * n, "label": [label] * n}), CELLS
    )


def test_a_stored_table_takes_in_what_was_written():
    stored = StoredTable(CELLS)
    stored.table = rows([1, 2, 3])
    stored.note(rows([2], 4), rows([3]))
    stored.note(rows([9], 5), rows([]))
    assert stored.table[["cell_id", "label"]].to_numpy().tolist() == [[1, 0], [2, 4], [9, 5]]
    stored.note(rows([1], 2), rows([]))
    stored.table = rows([7])  # read again: what was noted is in it or overtaken
    assert stored.table["cell_id"].tolist() == [7]
    assert rows_with(rows([4, 8, 6]), "cell_id", [6, 5, 4])["cell_id"].tolist() == [6, 4]


def test_what_is_done_at_once_is_drawn_once(classified, classify):
    editor = classify.census.editor
    drawn = []
    classified.events.set_data.connect(lambda: drawn.append(True))
    with editor.drawn_once():
        editor.decide([3], "V_Mo")
        editor.select([5])
        assert not drawn
    assert len(drawn) == 1
    assert editor.current_id == 5


def test_an_edit_compares_its_own_cells_with_the_store(
    classified, classify, viewer, qtbot, monkeypatch
):
    qtbot.waitUntil(lambda: labelling(viewer).session(classified) is not None)
    session, editor = labelling(viewer).session(classified), classify.census.editor
    editor.decide([3], "V_Mo")  # the first edit compares all
    sizes = []
    changes = LabelSession._changes

    def noted(self):
        found = changes(self)
        sizes.append((len(found), len(self._touched)))
        return found

    monkeypatch.setattr(LabelSession, "_changes", noted)
    editor.decide([4, 7], "V_Te1")
    editor.layer.selected_data = {9}
    editor.layer.remove_selected()
    assert sizes[0] == (2, 2)
    assert (1, 1) in sizes[1:]
    store = labelling(viewer).store
    stored = store.cells(session.entry.id).set_index("cell_id")
    assert stored.loc[[3, 4, 7], "label"].tolist() == [3, 1, 1]
    assert stored.loc[9, "state"] == "deleted"
    pd.testing.assert_frame_equal(session._cells.table, store.cells(session.entry.id))


def test_many_hexagons_are_made_in_the_background(viewer, detect, core, run, monkeypatch):
    run(detect)
    plain = hexagon_table(viewer.layers["field hexagons"])
    monkeypatch.setattr(detect_widget, "_AT_ONCE", 0)
    told = []
    say = detect.run.say
    monkeypatch.setattr(detect.run, "say", lambda text: (told.append(text), say(text)))
    run(detect)
    assert f"Drawing {len(core.hexagons)} hexagons…" in told
    assert detect.run.message.text() == ""
    pd.testing.assert_frame_equal(hexagon_table(viewer.layers["field hexagons"]), plain)


def test_an_edit_meanwhile_is_not_lost(viewer, detect, core, run, monkeypatch):
    run(detect)
    first = viewer.layers["field hexagons"]
    monkeypatch.setattr(detect_widget, "_AT_ONCE", 0)
    make = detect_widget.DrawingPlan.layer
    calls = []

    def slow(plan):
        calls.append(plan)
        layer = make(plan)
        if len(calls) == 1:
            first.remove([4])  # as the user does
        return layer

    monkeypatch.setattr(detect_widget.DrawingPlan, "layer", slow)
    run(detect)
    layer = viewer.layers["field hexagons"]
    assert layer is not first
    assert 4 not in box_correction(viewer).editor(layer).table()["hexagon_id"].to_numpy()
    assert len(calls) == 2


def test_shapes_of_different_kinds_stay_a_list(viewer):
    square = np.array([[0, 0], [0, 9], [9, 9], [9, 0]])
    layer = viewer.add_shapes([square[:3], square], shape_type="polygon")
    assert [len(shape) for shape in shapes_of(layer)] == [3, 4]
    layer.remove([0])
    assert shapes_of(layer).shape == (1, 4, 2)


def test_a_figure_is_drawn_in_the_background(qtbot):
    figure = Figure()
    axes = figure.subplots()
    view = PlotView(figure, 120)
    qtbot.addWidget(view)
    view.redraw()
    assert view._task is None  # nobody sees it
    view.resize(300, 120)
    view.show()
    qtbot.waitUntil(lambda: view._picture is not None and view._task is None)
    white = view._picture
    with view.lock:
        axes.set_facecolor("#ff0000")
    view.redraw()
    view.redraw()
    qtbot.waitUntil(lambda: view._picture is not white)
    middle = view._picture.pixelColor(view._picture.width() // 2, view._picture.height() // 2)
    assert middle.name() == "#ff0000"
    assert view.grab().toImage().pixelColor(150, 60).name() == "#ff0000"


def test_the_first_run_says_what_it_is_doing(monkeypatch):
    def fail(settings):
        raise PointDefectsError("no weights")

    monkeypatch.setattr(networks, "detector_of", fail)
    told = []
    image = StemImage(np.zeros((64, 64), np.float32))
    with pytest.raises(PointDefectsError):
        pipeline.detect(
            image,
            pipeline.AnalysisSettings(),
            on_progress=lambda share, text: told.append((share, text)),
        )
    assert told == [(0.0, pipeline.LOADING)]


def test_a_panel_opens_without_pytorch():
    code = (
        "import sys, napari_point_defects.napari_ui.classify_widget, "
        "napari_point_defects.napari_ui.detect_widget; sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_rows_written_since_are_found_without_the_whole_table():
    stored = StoredTable(CELLS)
    stored.table = whole = rows([1, 2, 3])
    stored.note(rows([2, 9], 4), rows([3]))
    stored.note(rows([2], 5), rows([]))
    assert stored.rows([9, 1, 3, 2, 7])[["cell_id", "label"]].to_numpy().tolist() == [
        [1, 0],
        [2, 5],
        [9, 4],
    ]
    assert stored._table is whole
    assert stored.table["cell_id"].tolist() == [1, 2, 9]


def test_deleted_points_are_drawn_once_and_come_back(classified, classify):
    editor, before = classify.census.editor, classify.census.editor.table()
    drawn, compared = [], []
    classified.events.set_data.connect(lambda: drawn.append(True))
    editor.changed.connect(lambda: compared.append(editor.touched.tolist()))
    classified.selected_data = {5, 9, 2}
    drawn.clear()
    classified.remove_selected()
    assert len(drawn) == 1
    assert compared == [[2, 5, 9]]
    assert not classified.selected_data
    pd.testing.assert_frame_equal(editor.table(), before.drop([2, 5, 9]).reset_index(drop=True))
    drawn.clear()
    editor._history.undo()
    assert 0 < len(drawn) <= 3
    again = editor.table().sort_values("cell_id", ignore_index=True)
    pd.testing.assert_frame_equal(again, before)


def test_points_whose_deletion_fails_are_drawn_again(classified, classify, qtbot):
    drawn = []
    classified.events.set_data.connect(lambda: drawn.append(True))
    n = len(classified.data)
    # as if napari had stumbled between telling what it is about to do and doing it
    classified.events.data(value=classified.data, action="removing", data_indices=(1,))
    classified.refresh()
    assert not drawn
    qtbot.waitUntil(lambda: bool(drawn))
    classify.census.editor.decide([4], "V_Mo")
    assert classified.features["label"][4] == "V_Mo"
    assert len(classify.census.editor.table()) == n


def test_a_deletion_with_other_changes_is_seen_whole(classified, classify):
    editor = classify.census.editor
    classified.features.loc[3, "label"] = "V_Mo"  # as napari's own table does: without an event
    classified.remove([1, 0])
    table = editor.table().set_index("cell_id")
    assert 0 not in table.index
    assert (table["label"][3], table["state"][3]) == ("V_Mo", "corrected")


def test_the_symbols_of_all_points_are_plain_names(classified, classify):
    assert {type(symbol) for symbol in classified.symbol} == {str}
    classified.add([[40.0, 40.0]])
    assert {type(symbol) for symbol in classified.symbol} == {str}
    classified.selected_data = {0, 1}
    assert str(classified.current_symbol) in set(classified.symbol)


def test_no_thumbnail_is_made_of_boxes_without_a_filling(viewer, detect, core, run, monkeypatch):
    run(detect)
    layer = viewer.layers["field hexagons"]
    made = []
    layer.events.thumbnail.connect(lambda: made.append(True))
    layer.remove([3])
    assert not made
    viewer.layers.remove(layer)  # nobody watches it any more
    layer.refresh()
    assert made
