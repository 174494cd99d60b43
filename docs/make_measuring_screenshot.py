"""Make ``docs/images/measuring.png``: *Measure image* on a bundled sample.

Run it with the package installed with its ``napari`` extra, on a display or a virtual one::

    xvfb-run -a -s "-screen 0 1600x1400x24" python docs/make_measuring_screenshot.py
"""

from __future__ import annotations

import sys

import napari
from picturing import PLUGIN, let_pass, picture, wait_for
from qtpy.QtWidgets import QApplication

SIZE = 1320, 1300


def main(sample: str = "mote2_contaminated") -> None:
    """Open a sample, find its cells and classify them, measure it, write the picture."""
    viewer = napari.Viewer()
    viewer.window.resize(*SIZE)
    viewer.open_sample(PLUGIN, sample)
    viewer.canvas.overlays.scale_bar.visible = True
    for name in ("Detect unit cells", "Classify point defects", "Measure image"):
        dock, widget = viewer.window.add_plugin_dock_widget(PLUGIN, name, tabify=True)
        let_pass(0.5)
        widget.run.button.click()
        wait_for(lambda widget=widget: not widget.run.is_running)
    dock.raise_()
    viewer.layers.selection.active = widget.shown.basis.source
    viewer.reset_view()
    for window in QApplication.allWidgets():
        if type(window).__name__ == "NapariQtNotification":  # it hides the scale bar
            window.close()
    let_pass(1)
    picture(viewer, "measuring.png")
    viewer.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
