"""Make ``docs/images/inspecting.png``: the cell inspector on a vacancy of a bundled sample.

Run it with the package installed with its ``napari`` extra, on a display or a virtual one::

    xvfb-run -a -s "-screen 0 1600x1100x24" python docs/make_inspecting_screenshot.py
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import numpy as np
from PIL import Image
from qtpy.QtWidgets import QApplication

import napari_point_defects.napari_ui  # noqa: F401  (before torch is loaded)
from napari_point_defects import pipeline
from napari_point_defects.io import read_image, sample_path
from napari_point_defects.napari_ui.show import show_analysis

PLUGIN = "napari-point-defects"
OUTPUT = Path(__file__).parent / "images" / "inspecting.png"
SIZE = 1040, 920
ZOOM = 5
GREY_STEP = 16
"""Noise makes a large file, and of its grey levels few are enough."""
TIMEOUT_S = 60


def main(sample: str = "MoTe2_pristine.tif", label: str = "V_Te1") -> None:
    """Analyse a sample, select a vacancy near its middle, write the picture."""
    settings = pipeline.AnalysisSettings()
    analysis = pipeline.analyze(read_image(sample_path(sample)), settings)
    viewer = show_analysis(analysis, settings, block=False)
    viewer.window.resize(*SIZE)
    _, inspector = viewer.window.add_plugin_dock_widget(PLUGIN, "Cell inspector", tabify=True)
    cells = viewer.layers[-1]
    rows = np.flatnonzero(cells.features["label"].astype(str) == label)
    middle = np.array(analysis.image.data.shape) / 2
    row = int(rows[np.linalg.norm(cells.data[rows] - middle, axis=1).argmin()])
    cells.selected_data = {row}
    deadline = time.monotonic() + TIMEOUT_S
    while inspector.shown is None or inspector.shown.comparison is None:
        if time.monotonic() > deadline:
            sys.exit(f"not ready after {TIMEOUT_S} s: {inspector.verdict.text()}")
        _let_pass(0.1)
    viewer.reset_view()
    viewer.scene.camera.center = tuple(cells.data_to_world(cells.data[row]))
    viewer.scene.camera.zoom *= ZOOM
    _let_pass(1)
    picture = viewer.screenshot(canvas_only=False, flash=False)
    picture = picture[..., :3].copy()
    grey = np.ptp(picture, axis=-1) == 0
    picture[grey] = picture[grey] // GREY_STEP * GREY_STEP
    colours, counts = np.unique(picture.reshape(-1, 3), axis=0, return_counts=True)
    palette = Image.new("P", (1, 1))
    palette.putpalette(colours[np.argsort(-counts)[:256]].tobytes())
    few = Image.fromarray(picture).quantize(palette=palette, dither=Image.Dither.NONE)
    few.save(OUTPUT, optimize=True)
    print(f"{OUTPUT}: {few.width} × {few.height}, {OUTPUT.stat().st_size / 1000:.0f} kB")
    viewer.close()


def _let_pass(seconds: float) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        QApplication.processEvents()
        time.sleep(0.01)


if __name__ == "__main__":
    main(*sys.argv[1:])
