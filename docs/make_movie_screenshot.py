"""Make ``docs/images/movie.png``: *Analyse movie* on a simulated movie.

Run it with the package installed with its ``napari`` extra, on a display or a virtual one::

    xvfb-run -a -s "-screen 0 1600x1400x24" python docs/make_movie_screenshot.py
"""

from __future__ import annotations

import napari
from picturing import PLUGIN, let_pass, picture, wait_for
from qtpy.QtWidgets import QApplication

from napari_point_defects.simulation.movies import MoviePlan, SimulatedMovie
from napari_point_defects.simulation.noise import NoiseSettings
from napari_point_defects.simulation.scenes import SceneSettings

SIZE = 1320, 960
SCENE = SceneSettings(
    height_px=352,
    width_px=352,
    a_px=19.0,
    angle_deg=12.0,
    contamination=0.1,
    jitter_a=0.01,
    defect_rates=(0.015, 0.005, 0.003, 0.0, 0.0),
)
NOISE = NoiseSettings(poisson_lambda=10.0, gaussian_mu=4.0)
HISTORY = {"births": 0.008, "growth": 0.03, "healing": 0.01, "hops": 0.005}
SEED = 12


def main(frames: int = 14) -> None:
    """Simulate a movie, analyse it, go to a late frame, write the picture."""
    plan = MoviePlan(
        scene=SCENE, noise=NOISE, frames=frames, drift_a=0.8, wander_a=0.3, turn_deg=0.1, **HISTORY
    )
    size = SCENE.pixel_size_nm
    viewer = napari.Viewer()
    viewer.window.resize(*SIZE)
    viewer.add_image(
        SimulatedMovie(plan, SEED).stack(),
        name="MoTe2 movie",
        scale=(1.0, size, size),
        units=("s", "nm", "nm"),
        axis_labels=("t", "y", "x"),
    )
    viewer.canvas.overlays.scale_bar.visible = True
    _, widget = viewer.window.add_plugin_dock_widget(PLUGIN, "Analyse movie")
    dose = widget.dose.editors["dose_per_frame_e_nm2"]
    dose.set(2e6)
    let_pass(0.5)
    widget.run.button.click()
    wait_for(lambda: not widget.run.is_running)
    viewer.dims.set_current_step(0, frames - 4)
    viewer.reset_view()
    for window in QApplication.allWidgets():
        if type(window).__name__ == "NapariQtNotification":  # it hides the scale bar
            window.close()
    let_pass(1)
    picture(viewer, "movie.png")
    viewer.close()


if __name__ == "__main__":
    main()
