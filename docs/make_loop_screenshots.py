"""Make the pictures of ``docs/correcting.md``: the whole loop, through the real plugin.

A field of a simulated microscope unlike the one the shipped weights were trained on is opened and
analysed; somebody who knows the truth presses the class keys on the cells that the review puts
first; the classifier is trained on with those labels; its new weights analyse the image again.

    xvfb-run -a -s "-screen 0 1600x1100x24" python docs/make_loop_screenshots.py
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import napari
import numpy as np
from picturing import PLUGIN, let_pass, picture, wait_for
from qtpy.QtCore import Qt
from qtpy.QtTest import QTest
from qtpy.QtWidgets import QWidget
from scipy.spatial import cKDTree

import napari_point_defects.napari_ui  # noqa: F401  (before torch is loaded)
from benchmarks.domain_shift import make_field
from napari_point_defects.napari_ui.cell_steps import editor_of
from napari_point_defects.napari_ui.image_layers import image_layer_data
from napari_point_defects.napari_ui.labelling import labelling
from napari_point_defects.napari_ui.links import CellsLink, link_of
from napari_point_defects.napari_ui.viewers import own_viewer

SIZE = 1440, 980
SIDE = 448
N_LABELS = 40


def main() -> None:
    """Go once around the loop and write a picture of each step."""
    with tempfile.TemporaryDirectory() as folder:
        go_round(Path(folder))


def go_round(folder: Path) -> None:
    """Analyse, review, train, analyse again."""
    field = make_field(42, SIDE)
    middles, truth = field.truth.cells(field.detection.lattice)
    viewer = napari.Viewer()
    viewer.window.resize(*SIZE)
    plain = own_viewer(viewer)
    labels = labelling(plain)
    labels.use(folder / "my-microscope")
    labels.author = "you"
    data, kwargs, _ = image_layer_data(field.image)
    viewer.add_image(data, gamma=4, **kwargs)  # the amplifier saturates
    _run(_dock(viewer, "Detect unit cells"))
    classify = _dock(viewer, "Classify point defects")
    _run(classify)
    cells = _cells(plain)
    before = _wrong(cells, middles, truth)
    QTest.keyClick(_canvas(viewer), Qt.Key.Key_N)
    picture(viewer, "loop_1_review.png")

    for _ in range(N_LABELS):
        editor = editor_of(cells)
        row = int(np.flatnonzero(cells.features["cell_id"] == _current(cells))[0])
        distance, nearest = cKDTree(middles).query(cells.data[row])
        label = editor.material.class_labels[truth[nearest]]
        if distance > 0.3 * link_of(cells, CellsLink).detection.lattice.a_px:
            QTest.keyClick(_canvas(viewer), Qt.Key.Key_N)  # at the edge: nobody knows
        elif label == str(cells.features["label"].iloc[row]):
            QTest.keyClick(_canvas(viewer), Qt.Key.Key_Return)
        else:
            key = Qt.Key.Key_1 + editor.material.class_labels.index(label)
            QTest.keyClick(_canvas(viewer), Qt.Key(key))
        let_pass(0.05)
    labelled = int((cells.features["state"] != "predicted").sum())
    _dock(viewer, "Labels")
    picture(viewer, "loop_2_labels.png")

    train = _dock(viewer, "Train")
    train.folder.line.setText(str(folder / "run"))
    let_pass(1)
    _run(train)
    train.verticalScrollBar().setValue(train.verticalScrollBar().maximum())
    picture(viewer, "loop_3_train.png")
    train.keep(folder / "my_microscope.safetensors")
    wait_for(lambda: not train.run.is_running)
    train.use()
    let_pass(1)
    wait_for(lambda: not classify.run.is_running)
    cells = _cells(plain)
    after = _wrong(cells, middles, truth)
    classify.parentWidget().raise_()
    viewer.reset_view()
    picture(viewer, "loop_4_again.png")
    print(f"{labelled} cells judged; wrong of {len(cells.data)}: {before} before, {after} after")
    viewer.close()


def _cells(viewer) -> napari.layers.Points:
    return next(layer for layer in viewer.layers if link_of(layer, CellsLink))


def _current(cells) -> int:
    return int(cells.features["cell_id"].iloc[next(iter(cells.selected_data))])


def _wrong(cells, middles: np.ndarray, truth: np.ndarray) -> int:
    """Count the cells whose class is not the true one."""
    distance, nearest = cKDTree(middles).query(np.asarray(cells.data))
    near = distance < 0.3 * link_of(cells, CellsLink).detection.lattice.a_px
    codes = cells.features["label"].cat.codes.to_numpy()
    return int((codes[near] != truth[nearest[near]]).sum())


def _dock(viewer, name: str) -> QWidget:
    dock, widget = viewer.window.add_plugin_dock_widget(PLUGIN, name, tabify=True)
    dock.raise_()
    let_pass(0.5)
    return widget


def _canvas(viewer) -> QWidget:
    return viewer.window._qt_viewer.canvas.native


def _run(widget: QWidget) -> None:
    widget.run.button.click()
    wait_for(lambda: not widget.run.is_running)
    let_pass(1)


if __name__ == "__main__":
    main()
