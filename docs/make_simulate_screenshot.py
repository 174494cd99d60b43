"""Make ``docs/images/simulate.png``: *Simulate training set* beside a bundled sample.

Run it with the package installed with its ``napari`` extra, on a display or a virtual one::

    xvfb-run -a -s "-screen 0 1600x1100x24" python docs/make_simulate_screenshot.py
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import napari
from picturing import PLUGIN, let_pass, picture, wait_for

SIZE = 1280, 900
EXAMPLE = 3


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
    let_pass(1)
    wait_for(lambda: preview.example is not None)
    with tempfile.TemporaryDirectory() as folder:
        widget.folder.set(Path(folder) / "my-microscope")
        widget.run.button.click()
        wait_for(lambda: "left" in widget.run.message.text())
        let_pass(8)  # until the rate is that of a run, not of its start
        viewer.reset_view()
        let_pass(0.5)
        picture(viewer, "simulate.png")
        widget.run.cancel()
        wait_for(lambda: not widget.run.is_running)
    viewer.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
