"""*Calibrate* and the region in a napari window, with the mouse and the keys."""

from __future__ import annotations

import threading

import numpy as np
import pytest

pytest.importorskip("napari")
pytest.importorskip("qtpy.QtWidgets", exc_type=ImportError)

from napari.layers import Image
from qtpy.QtCore import QPoint, Qt
from qtpy.QtTest import QTest
from qtpy.QtWidgets import QWidget

from napari_point_defects.materials import get_material
from napari_point_defects.napari_ui import calibrate_widget
from napari_point_defects.napari_ui.calibrate_widget import CalibrateWidget
from napari_point_defects.napari_ui.detect_widget import DetectWidget
from napari_point_defects.napari_ui.image_layers import calibration_of, pixel_size_nm
from napari_point_defects.napari_ui.region_layers import region_of
from napari_point_defects.napari_ui.ruler_panel import LATTICE_CONSTANTS
from napari_point_defects.records import Lattice
from napari_point_defects.region import region_area_px

pytestmark = pytest.mark.gui
LEFT = Qt.MouseButton.LeftButton


@pytest.fixture
def viewer(make_napari_viewer, stem_data):
    """A window with an image that says nothing of its scale."""
    viewer = make_napari_viewer(show=True, strict_qt="raise")
    viewer.add_image(stem_data, name="plain")
    return viewer


@pytest.fixture
def panel(viewer):
    widget = CalibrateWidget(viewer)
    viewer.window.add_dock_widget(widget, name="Calibrate")
    return widget


class Mouse:
    """The mouse on the canvas; places in pixels of the image."""

    def __init__(self, viewer):
        self.viewer = viewer
        children = viewer.window._qt_window.findChildren(QWidget)
        (self.canvas,) = (w for w in children if type(w).__name__ == "CanvasBackendDesktop")
        QTest.qWait(50)

    def point(self, place):
        (image,) = (layer for layer in self.viewer.layers if isinstance(layer, Image))
        world = np.asarray(image.data_to_world(place))[-2:]
        camera = self.viewer.scene.camera
        size = np.array([self.canvas.height(), self.canvas.width()])
        y, x = np.rint(size / 2 + (world - camera.center[-2:]) * camera.zoom).astype(int)
        return QPoint(int(x), int(y))

    def drag(self, start, end):
        start, end = np.asarray(start, float), np.asarray(end, float)
        QTest.mouseMove(self.canvas, self.point(start))
        QTest.qWait(20)
        QTest.mousePress(self.canvas, LEFT, pos=self.point(start))
        for share in (0.4, 0.8, 1.0):
            QTest.mouseMove(self.canvas, self.point(start + share * (end - start)))
            QTest.qWait(20)
        QTest.mouseRelease(self.canvas, LEFT, pos=self.point(end))
        QTest.qWait(30)

    def click(self, place):
        self.drag(place, place)


def test_a_line_is_drawn_and_measured(viewer, panel, qtbot):
    mouse, image = Mouse(viewer), viewer.layers["plain"]
    qtbot.mouseClick(panel.ruler_panel.draw, LEFT)
    mouse.drag((60, 50), (60, 200))
    ruler = viewer.layers["plain ruler"]
    assert len(ruler.data) == 1
    length = np.linalg.norm(ruler.data[0][1] - ruler.data[0][0])
    assert length == pytest.approx(150, abs=2)  # as near as the canvas shows pixels
    panel.ruler_panel.length.selectAll()
    qtbot.keyClicks(panel.ruler_panel.length, "6")
    panel.ruler_panel.unit.setCurrentText(LATTICE_CONSTANTS)
    seen = mouse.point((10, 20)), mouse.point((200, 230))
    qtbot.mouseClick(panel.ruler_panel.apply, LEFT)
    constant = get_material("MoTe2").lattice_constant_nm
    assert pixel_size_nm(image)[0] == pytest.approx(6 * constant / length)
    assert calibration_of(image).source == "user"
    np.testing.assert_allclose(ruler.scale, image.scale)
    # the same pixels are where they were on the screen
    for before, place in zip(seen, ((10, 20), (200, 230)), strict=True):
        now = mouse.point(place)
        assert abs(now.x() - before.x()) + abs(now.y() - before.y()) <= 2
    qtbot.mouseClick(panel.from_file, LEFT)
    assert pixel_size_nm(image) is None
    np.testing.assert_allclose(ruler.scale, [1, 1])


def test_ctrl_z_on_the_image_takes_it_back(viewer, panel, qtbot):
    mouse, image = Mouse(viewer), viewer.layers["plain"]
    seen = mouse.point((10, 20))
    for size in (0.03, 0.05):
        panel.editor.set_nm((size, size))
        qtbot.mouseClick(panel.set_by_hand, LEFT)
    viewer.layers.selection.active = image
    shift = Qt.KeyboardModifier.ControlModifier | Qt.KeyboardModifier.ShiftModifier
    for modifiers, expected in (
        (Qt.KeyboardModifier.ControlModifier, 0.03),
        (Qt.KeyboardModifier.ControlModifier, None),
        (shift, 0.03),
    ):
        qtbot.keyClick(mouse.canvas, Qt.Key.Key_Z, modifiers)
        size = pixel_size_nm(image)
        assert size == (expected and pytest.approx((expected, expected)))
        now = mouse.point((10, 20))
        assert abs(now.x() - seen.x()) + abs(now.y() - seen.y()) <= 2
    assert "0.03" in panel.size.text()
    assert not panel.message.isVisible()


def test_a_polygon_is_drawn_and_analysed(viewer, core, qtbot):
    detect = DetectWidget(viewer)
    viewer.window.add_dock_widget(detect, name="Detect")
    mouse = Mouse(viewer)
    qtbot.mouseClick(detect.regions.draw, LEFT)
    corners = [(60, 60), (60, 180), (190, 180), (190, 60)]
    for corner in corners:
        mouse.click(corner)
        QTest.qWait(500)  # two clicks in quick succession would be a double click
    QTest.mouseDClick(mouse.canvas, LEFT, pos=mouse.point(corners[-1]))
    QTest.qWait(50)
    layer = viewer.layers["plain region"]
    assert len(layer.data) == 1
    region = region_of(layer, viewer.layers["plain"])
    assert region_area_px(region, (256, 256)) == pytest.approx(130 * 120, rel=0.05)
    qtbot.mouseClick(detect.run.button, LEFT)
    qtbot.waitUntil(lambda: not detect.run.is_running)
    assert core.calls[-1][2].region == region
    assert "in the region" in detect.result.text()


def test_closing_the_window_while_the_lattice_is_sought(viewer, panel, qtbot, monkeypatch):
    entered, go = threading.Event(), threading.Event()

    def find(data, material):
        entered.set()
        assert go.wait(20)
        return Lattice(np.zeros(2), 24 * np.eye(2))

    monkeypatch.setattr(calibrate_widget, "find_lattice", find)
    image = viewer.layers["plain"]
    qtbot.mouseClick(panel.find.button, LEFT)
    qtbot.waitUntil(entered.is_set)
    viewer.close()
    go.set()
    qtbot.wait(200)
    assert pixel_size_nm(image) is None
