"""Make ``docs/images/match.png``: *Match this image* on a bundled sample.

Run it with the package installed with its ``napari`` extra, on a display or a virtual one::

    xvfb-run -a -s "-screen 0 1600x1200x24" python docs/make_match_screenshot.py
"""

from __future__ import annotations

import sys

import napari
from picturing import PLUGIN, let_pass, picture, wait_for

SIZE = 1280, 1000


def main(sample: str = "mote2_contaminated") -> None:
    """Open a sample, match it, write the picture."""
    viewer = napari.Viewer()
    viewer.window.resize(*SIZE)
    viewer.open_sample(PLUGIN, sample)
    viewer.canvas.overlays.scale_bar.visible = True
    _, widget = viewer.window.add_plugin_dock_widget(PLUGIN, "Simulate training set")
    widget.form.main.set_values({"materials": ("MoTe2",)})
    let_pass(1)
    widget.preview.match.click()
    wait_for(lambda: not widget.run.is_running)
    let_pass(1)
    viewer.reset_view()
    let_pass(0.5)
    picture(viewer, "match.png")
    viewer.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
