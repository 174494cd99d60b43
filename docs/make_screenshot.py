"""Make the README's screenshot, ``docs/images/plugin.png``, of the plugin on a bundled sample.

Run it with the package installed with its ``napari`` extra, on a display or a virtual one::

    xvfb-run -a -s "-screen 0 1600x1100x24" python docs/make_screenshot.py
"""

from __future__ import annotations

import sys

import napari
from picturing import PLUGIN, let_pass, picture, wait_for

SIZE = 1440, 960
ZOOM = 2.2


def main(sample: str = "mote2_pristine") -> None:
    """Open a sample, run both widgets, write the picture."""
    viewer = napari.Viewer()
    viewer.window.resize(*SIZE)
    viewer.open_sample(PLUGIN, sample)
    viewer.canvas.overlays.scale_bar.visible = True
    for name in ("Detect unit cells", "Classify point defects"):
        _, widget = viewer.window.add_plugin_dock_widget(PLUGIN, name, tabify=True)
        let_pass(0.5)
        widget.run.button.click()
        wait_for(lambda widget=widget: not widget.run.is_running)
    viewer.reset_view()
    viewer.scene.camera.zoom *= ZOOM
    picture(viewer, "plugin.png")
    viewer.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
