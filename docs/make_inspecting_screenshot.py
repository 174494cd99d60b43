"""Make ``docs/images/inspecting.png``: the cell inspector on a vacancy of a bundled sample.

Run it with the package installed with its ``napari`` extra, on a display or a virtual one::

    xvfb-run -a -s "-screen 0 1600x1100x24" python docs/make_inspecting_screenshot.py
"""

from __future__ import annotations

import sys

import numpy as np
from picturing import PLUGIN, let_pass, picture, wait_for

import napari_point_defects.napari_ui  # noqa: F401  (before torch is loaded)
from napari_point_defects import pipeline
from napari_point_defects.io import read_image, sample_path
from napari_point_defects.napari_ui.show import show_analysis

SIZE = 1040, 920
ZOOM = 5


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
    wait_for(lambda: inspector.shown is not None and inspector.shown.comparison is not None)
    viewer.reset_view()
    viewer.scene.camera.center = tuple(cells.data_to_world(cells.data[row]))
    viewer.scene.camera.zoom *= ZOOM
    let_pass(1)
    picture(viewer, "inspecting.png")
    viewer.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
