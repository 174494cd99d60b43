"""*Match this image*: the button, the form it fills, and what is drawn of the likeness."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

pytest.importorskip("napari")
pytest.importorskip("qtpy.QtWidgets", exc_type=ImportError)

from qtpy.QtCore import Qt
from test_likeness import RECIPES, observed

from napari_point_defects import image_matching
from napari_point_defects.image_matching import match_image
from napari_point_defects.measured import Estimate
from napari_point_defects.napari_ui import simulate_match
from napari_point_defects.napari_ui.likeness_plot import LikenessPlot
from napari_point_defects.napari_ui.simulate_widget import SimulateWidget
from napari_point_defects.records import StemImage
from napari_point_defects.simulation.presets import PRESETS
from napari_point_defects.simulation.recipes import simulate_recipe

pytestmark = pytest.mark.gui


@pytest.fixture(scope="module")
def known():
    """Pixels of an image outside the training range, and what a perfect measurement says of it."""
    recipe = RECIPES["dirty"]
    pixels, found = observed(recipe, contamination=Estimate(0.9, 0.85, 0.95))
    return pixels.astype(np.float32), found


@pytest.fixture
def asked(monkeypatch, known):
    """The analysis is known; the settings and bases it was asked for."""
    asked = []

    def analyse(image, settings, *, base, on_progress, should_stop):
        asked.append((settings, base))
        on_progress(0.5, "half way")
        return match_image(image, known[1], base=base)

    monkeypatch.setattr(simulate_match, "analyze_and_match", analyse)
    monkeypatch.setattr(image_matching, "measure", lambda *args: known[1].measurement)
    return asked


@pytest.fixture
def widget(viewer, qtbot, known, asked):
    viewer.layers.clear()
    viewer.add_image(known[0], name="mine")
    widget = SimulateWidget(viewer)
    qtbot.addWidget(widget)
    widget.resize(420, 900)
    widget.show()
    wait(widget, qtbot)
    yield widget
    qtbot.waitUntil(lambda: not widget.run.is_running, timeout=60_000)


def wait(widget, qtbot):
    """Wait until nothing is being made."""
    preview = widget.preview
    qtbot.waitUntil(
        lambda: (
            not widget.run.is_running and preview._task is None and not preview._rest.isActive()
        ),
        timeout=60_000,
    )


def press(widget, qtbot):
    qtbot.mouseClick(widget.preview.match, Qt.MouseButton.LeftButton)
    wait(widget, qtbot)


def test_one_click_sets_the_form_and_shows_the_likeness(widget, viewer, qtbot, known, asked):
    widget.form.main.editors["materials"].set(("MoS2",))
    widget.form.size.editors["train_images"].set(17)
    wait(widget, qtbot)
    press(widget, qtbot)
    ((settings, base),) = asked
    assert settings.material == "MoS2"
    expected = match_image(simulate_match.stem_image(viewer.layers["mine"]), known[1], base=base)
    assert widget.form.settings() == expected.likeness.settings
    assert widget.form.settings().train_images == 17
    assert widget.form.main.editors["preset"].get() == "like"

    preview = widget.preview
    likeness, _ = simulate_recipe(expected.likeness.recipe)
    np.testing.assert_array_equal(preview.example.image.pixels, likeness)
    assert preview.canvas.picture(0).title == "Simulated, likeness"
    # the match knows the scale of an image that has none
    assert preview.canvas.picture(1).title == "mine"
    assert preview.plot_box.isExpanded()
    np.testing.assert_array_equal(preview.plot.comparison.spectra, expected.comparison.spectra)
    assert "Set to mine" in widget.run.message.text()
    assert widget.outside.isVisible()
    assert "the contamination is 0.9" in widget.outside.label.text()
    widget.grab()  # paints


def test_the_likeness_goes_with_the_next_example(widget, qtbot):
    widget.form.main.editors["materials"].set(("MoS2",))
    press(widget, qtbot)
    preview = widget.preview
    before = preview.plot.comparison
    qtbot.mouseClick(preview.next, Qt.MouseButton.LeftButton)
    wait(widget, qtbot)
    assert preview.canvas.picture(0).title == "Simulated, example 2"
    # an example of the set, compared with the same image
    assert preview.plot.comparison is not before
    assert preview.plot.comparison.histogram_distance < 0.5
    press(widget, qtbot)
    assert preview.canvas.picture(0).title == "Simulated, likeness"
    widget.form.main.editors["a_px"].set((12.0, 13.0))
    wait(widget, qtbot)
    assert preview.example.scene.a_px < 13.1


def test_likeness_as_a_layer(widget, viewer, qtbot):
    widget.form.main.editors["materials"].set(("MoS2",))
    press(widget, qtbot)
    qtbot.mouseClick(widget.preview.to_viewer, Qt.MouseButton.LeftButton)
    assert viewer.layers[-1].name == "simulated MoS2, likeness"
    # both have the same lattice constant, so the same pixels
    np.testing.assert_allclose(viewer.layers[-1].scale, 1, rtol=1e-6)


def test_cells_in_the_viewer_are_taken_as_they_stand(
    viewer, classified, qtbot, monkeypatch, known, asked
):
    image = viewer.layers["field"]
    rows = []

    def observe(image, detection, cells, settings):
        rows.append(len(cells))
        return replace(known[1], lattice=detection.lattice, shape=image.data.shape)

    monkeypatch.setattr(simulate_match, "observe", observe)
    work = simulate_match.match_work(viewer, image, PRESETS["wide"])
    matched = work(lambda share, text: None, lambda: False)
    assert rows == [len(classified.data)]
    assert not asked
    assert matched.match.shown.shape == image.data.shape


def test_the_material_is_that_of_the_hexagons(viewer, detect, core, run, known, asked):
    detect.form.set_values({"material": "WS2"})
    run(detect)
    work = simulate_match.match_work(viewer, viewer.layers["field"], PRESETS["wide"])
    work(lambda share, text: None, lambda: False)
    assert asked[0][0].material == "WS2"


def test_without_an_image_nothing_is_matched(widget, viewer, qtbot, notes):
    viewer.layers.clear()
    qtbot.mouseClick(widget.preview.match, Qt.MouseButton.LeftButton)
    assert "no image is open" in widget.run.message.text()
    assert len(notes) == 1


def test_an_image_that_cannot_be_measured_leaves_the_form(widget, qtbot, monkeypatch, known):
    nothing = replace(known[1].measurement, cells=0, remarks=("too few cells",))
    monkeypatch.setattr(
        simulate_match,
        "analyze_and_match",
        lambda image, settings, **rest: match_image(image, replace(known[1], measurement=nothing)),
    )
    before = widget.form.settings()
    press(widget, qtbot)
    assert "mine cannot be matched: too few cells" in widget.run.message.text()
    assert widget.form.settings() == before


def test_plot_says_what_it_needs_and_takes_the_theme(qtbot, known):
    plot = LikenessPlot("dark")
    qtbot.addWidget(plot)
    assert "detect its cells" in plot.figure.texts[0].get_text()
    found = match_image(StemImage(known[0], "mine"), known[1])
    plot.show_comparison(found.comparison)
    assert not plot.figure.texts
    assert "decades" in plot.axes[1].get_title()
    plot.set_theme("light")
    assert sum(plot.figure.get_facecolor()[:3]) > 2
