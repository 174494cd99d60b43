"""Make the README's screenshot, ``docs/images/plugin.png``, of the plugin on a bundled sample.

Run it with the package installed with its ``napari`` extra, on a display or a virtual one::

    xvfb-run -a -s "-screen 0 1600x1100x24" python docs/make_screenshot.py
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import napari
from qtpy.QtWidgets import QApplication, QWidget

PLUGIN = "napari-point-defects"
OUTPUT = Path(__file__).parent / "images" / "plugin.png"
SIZE = 1440, 960
ZOOM = 2.2
TIMEOUT_S = 300


def main(sample: str = "mote2_pristine") -> None:
    """Open a sample, run both widgets, write the picture."""
    viewer = napari.Viewer()
    viewer.window.resize(*SIZE)
    viewer.open_sample(PLUGIN, sample)
    viewer.canvas.overlays.scale_bar.visible = True
    for name in ("Detect unit cells", "Classify point defects"):
        _, widget = viewer.window.add_plugin_dock_widget(PLUGIN, name)
        _let_pass(0.5)
        widget.run.button.click()
        _wait_for(widget)
    viewer.reset_view()
    viewer.scene.camera.zoom *= ZOOM
    points = viewer.layers[-1]
    _let_pass(1)
    OUTPUT.parent.mkdir(exist_ok=True)
    picture = viewer.screenshot(OUTPUT, canvas_only=False, flash=False)
    print(f"{OUTPUT}: {picture.shape[1]} × {picture.shape[0]}, {len(points.data)} cells")
    viewer.close()


def _wait_for(widget: QWidget) -> None:
    deadline = time.monotonic() + TIMEOUT_S
    while widget.run.is_running:
        if time.monotonic() > deadline:
            sys.exit(f"not ready after {TIMEOUT_S} s: {widget.run.message.text()}")
        _let_pass(0.1)


def _let_pass(seconds: float) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        QApplication.processEvents()
        time.sleep(0.01)


if __name__ == "__main__":
    main(*sys.argv[1:])
