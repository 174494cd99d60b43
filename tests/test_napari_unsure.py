"""Unsure cells and the quality of the census, as the panel shows them."""

from dataclasses import replace

import numpy as np
import pytest
from qtpy.QtCore import QPoint, Qt

from napari_point_defects.materials import get_material
from napari_point_defects.napari_ui.cell_layers import marks
from napari_point_defects.napari_ui.cell_tables import cell_table, labelled, open_questions
from napari_point_defects.napari_ui.links import CellsLink, link_of
from napari_point_defects.napari_ui.quality_texts import quality_table, quality_text
from napari_point_defects.quality import BOUNDS
from napari_point_defects.records import UnitCells

MATERIAL = get_material("MoTe2")
DOUBTFUL = [3, 10, 20]


@pytest.fixture
def cells(cells):
    """The known cells; the network is unsure of three."""
    probabilities = np.where(cells.probabilities > 0.9, 0.99, 0.002)
    for row in DOUBTFUL:
        probabilities[row] = 0.4 * probabilities[row] + 0.1
    probabilities /= probabilities.sum(axis=1, keepdims=True)
    return UnitCells(cells.chalcogen_px, cells.metal_px, cells.votes, probabilities)


def unsure_count(classify, label):
    return int(classify.census.legend.cells[label][3].text())


def test_marks_of_open_questions_are_hollow(cells):
    table = cell_table(cells, MATERIAL)
    assert np.flatnonzero(table["unsure"]).tolist() == DOUBTFUL
    look = marks(table, MATERIAL, 24.0)
    hollow = look.face_color[:, 3] == 0
    assert np.flatnonzero(hollow).tolist() == DOUBTFUL
    # the rim has the class's colour, and is broad enough to be seen
    sure = np.flatnonzero((table["label"] == table["label"][10]).to_numpy() & ~hollow)[0]
    np.testing.assert_array_equal(look.border_color[10], look.face_color[sure])
    assert (look.size * look.border_width)[DOUBTFUL].min() > 1.0
    # a decision closes the question
    table.iloc[[10]] = labelled(table.iloc[[10]])
    assert np.flatnonzero(open_questions(table)).tolist() == [3, 20]
    assert marks(table, MATERIAL, 24.0).face_color[10, 3] == 1


def test_the_threshold_is_the_settings(cells):
    assert not cell_table(cells, MATERIAL, unsure_below=0.1)["unsure"].any()
    assert cell_table(cells, MATERIAL, unsure_below=1.0)["unsure"].all()


def test_unsure_cells_are_counted_filtered_and_decided(viewer, classify, classified, qtbot):
    panel = classify.census
    labels = list(panel.legend.cells)
    counts = np.bincount(classified.features["label"].cat.codes[DOUBTFUL], minlength=6)
    assert [unsure_count(classify, label) for label in labels] == counts.tolist()
    assert panel.total.text().endswith("3 unsure")
    assert panel.filters.unsure.text() == "only unsure ones 3"

    classify.show()
    box = panel.filters.unsure
    on_the_box = QPoint(8, box.height() // 2)
    qtbot.mouseClick(box, Qt.MouseButton.LeftButton, pos=on_the_box)
    assert box.isChecked()
    assert np.flatnonzero(classified.shown).tolist() == DOUBTFUL
    assert panel.filters.count.text().startswith("3 of ")

    panel.editor.decide([DOUBTFUL[0]], "V_Te1")
    assert np.flatnonzero(classified.shown).tolist() == DOUBTFUL[1:]
    assert panel.filters.unsure.text() == "only unsure ones 2"
    assert panel.total.text().endswith("2 unsure")
    assert panel.editor.cells().probabilities[DOUBTFUL[0]].max() == 1  # written as sure

    qtbot.mouseClick(panel.filters.reset_button, Qt.MouseButton.LeftButton)
    assert not box.isChecked()
    assert classified.shown.all()


def test_the_panel_says_how_good_the_census_is(viewer, classify, classified):
    panel = classify.census
    quality = link_of(classified, CellsLink).quality
    assert set(quality.figures) == set(BOUNDS)
    assert f"Quality {quality.verdict}" in panel.quality.text()
    for figure in quality.figures.values():
        assert figure.text.partition(":")[0] in panel.quality.toolTip()
    assert panel.quality.isVisibleTo(panel)
    # cells whose image is not classified here, as those read from a label store, have none
    link = link_of(classified, CellsLink)
    classified.metadata["napari-point-defects"] = replace(link, quality=None)
    panel.refresh()
    assert not panel.quality.isVisibleTo(panel)


def test_quality_in_words_is_safe_to_show(classified):
    quality = link_of(classified, CellsLink).quality
    odd = replace(quality, line="poor: a < b & c")
    assert "a &lt; b &amp; c" in quality_text(odd)
    assert quality_table(quality).count("<tr>") == len(BOUNDS)
