"""Make ``docs/images/simulate.png``: *Simulate training set* beside a bundled sample.

Run it with the package installed with its ``napari`` extra, on a display or a virtual one::

    xvfb-run -a -s "-screen 0 1600x1100x24" python docs/make_simulate_screenshot.py
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import napari
from PIL import Image
from qtpy.QtWidgets import QApplication

PLUGIN = "napari-point-defects"
OUTPUT = Path(__file__).parent / "images" / "simulate.png"
SIZE = 1280, 900
EXAMPLE = 3
TIMEOUT_S = 300
COLOURS = 64
"""Enough for a dark window with grey pictures, in a third of the bytes."""


def main(sample: str = "mote2_contaminated") -> None:
    """Open a sample, set ranges like it, start a set, write the picture."""
    viewer = napari.Viewer()
    viewer.window.resize(*SIZE)
    viewer.open_sample(PLUGIN, sample)
    viewer.canvas.overlays.scale_bar.visible = True
    _, widget = viewer.window.add_plugin_dock_widget(PLUGIN, "Simulate training set")
    form, preview = widget.form, widget.preview
    form.main.set_values(
        {
            "materials": ("MoTe2",),
            "a_px": (30.0, 60.0),
            "column_counts": None,
            "gaussian_mu": (15.0, 25.0),
        }
    )
    form.sections["Geometry"].set_values({"angle_deg": (-5.0, 5.0)})
    form.boxes["Scan distortions"].expand(animate=False)
    preview.index = EXAMPLE
    preview.refresh()
    _let_pass(1)
    _wait_for(lambda: preview.example is not None)
    with tempfile.TemporaryDirectory() as folder:
        widget.folder.set(Path(folder) / "my-microscope")
        widget.run.button.click()
        _wait_for(lambda: "left" in widget.run.message.text())
        _let_pass(8)  # until the rate is that of a run, not of its start
        viewer.reset_view()
        _let_pass(0.5)
        OUTPUT.parent.mkdir(exist_ok=True)
        picture = viewer.screenshot(canvas_only=False, flash=False)
        few = Image.fromarray(picture).convert("RGB").quantize(COLOURS)
        few.save(OUTPUT, optimize=True)
        print(f"{OUTPUT}: {picture.shape[1]} × {picture.shape[0]}, {widget.run.message.text()}")
        widget.run.cancel()
        _wait_for(lambda: not widget.run.is_running)
    viewer.close()


def _wait_for(ready: Callable[[], bool]) -> None:
    deadline = time.monotonic() + TIMEOUT_S
    while not ready():
        if time.monotonic() > deadline:
            sys.exit(f"not ready after {TIMEOUT_S} s")
        _let_pass(0.1)


def _let_pass(seconds: float) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        QApplication.processEvents()
        time.sleep(0.01)


if __name__ == "__main__":
    main(*sys.argv[1:])
