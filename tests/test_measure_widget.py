"""*Measure image*: what it rests on, the table, the plots, and what leaves the panel."""

from __future__ import annotations

import json
import threading
from dataclasses import replace

import numpy as np
import pytest

pytest.importorskip("napari")
pytest.importorskip("qtpy.QtWidgets", exc_type=ImportError)

from napari.components import ViewerModel
from napari.layers import Layer
from qtpy.QtCore import Qt
from qtpy.QtGui import QGuiApplication
from qtpy.QtWidgets import QFileDialog

from napari_point_defects import detections, pipeline
from napari_point_defects.analysed_area import AnalysedArea, Domain
from napari_point_defects.analysis_settings import AnalysisSettings
from napari_point_defects.errors import PointDefectsError, Stopped
from napari_point_defects.materials import CHALCOGEN_SITES, get_material
from napari_point_defects.measured import Estimate
from napari_point_defects.measured_quantities import quantities, written
from napari_point_defects.measurement.image import nothing_measured
from napari_point_defects.napari_ui.cell_layers import cells_layer_data
from napari_point_defects.napari_ui.cell_tables import cell_table, centres_px
from napari_point_defects.napari_ui.hexagon_layers import hexagons_layer_data
from napari_point_defects.napari_ui.image_layers import placement
from napari_point_defects.napari_ui.links import CellsLink, HexagonsLink, replace_layer
from napari_point_defects.napari_ui.measure_plots import MeasurePlots, unfolded
from napari_point_defects.napari_ui.measure_table import ODD_COLOUR, MeasureTable
from napari_point_defects.napari_ui.measure_widget import MeasureWidget
from napari_point_defects.napari_ui.measured_layer import basis_of, measuring
from napari_point_defects.records import Hexagons, UnitCells, hexagon_boxes
from napari_point_defects.simulation.noise import NoiseSettings, add_noise
from napari_point_defects.simulation.scenes import SceneSettings, make_scene

pytestmark = pytest.mark.gui

SCENE = SceneSettings(
    material="MoSe2", height_px=288, width_px=288, a_px=16.0, angle_deg=11.0, shear=0.06
)
LAMBDA = 30.0
WARNING = "the lattice disagrees with the pixel size"


class Known:
    """A simulated image, what was put into it, and what a detection of it finds."""

    def __init__(self) -> None:
        self.scene = scene = make_scene(SCENE, np.random.default_rng(5))
        noise = NoiseSettings(poisson_lambda=LAMBDA)
        self.data = add_noise(scene, noise, np.random.default_rng(7)).astype(np.float32)
        votes = np.full(len(scene.classes), 2)
        self.cells = UnitCells(scene.chalcogen_px, scene.metal_px, votes, np.eye(6)[scene.classes])
        hollow = scene.lattice.to_canonical(scene.chalcogen_px) - CHALCOGEN_SITES[0]
        self.hexagons = Hexagons.from_canonical_boxes(
            hexagon_boxes(hollow), np.ones(len(hollow)), scene.lattice
        )
        size = (SCENE.pixel_size_nm,) * 2
        self.detection = detections.Detection(
            scene.lattice, self.hexagons, size, "file", (WARNING,)
        )


@pytest.fixture(scope="module")
def known():
    return Known()


@pytest.fixture
def asked(monkeypatch, known):
    """The settings that a detection was asked for with; the answer is known."""
    asked = []

    def detect(image, settings, *, on_progress, should_stop):
        asked.append(settings)
        on_progress(0.5, "finding the lattice")
        return known.detection

    monkeypatch.setattr(pipeline, "detect", detect)
    return asked


@pytest.fixture
def viewer(known):
    viewer = ViewerModel()
    size = (SCENE.pixel_size_nm,) * 2
    viewer.add_image(known.data, name="field", scale=size, units=("nm", "nm"))
    return viewer


@pytest.fixture
def widget(viewer, asked, qtbot):
    widget = MeasureWidget(viewer)
    qtbot.addWidget(widget)
    widget.material.set("MoSe2")
    widget.show()
    yield widget
    qtbot.waitUntil(lambda: not widget.run.is_running, timeout=20_000)


def press(widget, qtbot, button=None):
    qtbot.mouseClick(button or widget.run.button, Qt.MouseButton.LeftButton)
    qtbot.waitUntil(lambda: not widget.run.is_running, timeout=20_000)


def draw_hexagons(viewer, known, detection=None):
    image = viewer.layers["field"]
    link = HexagonsLink(
        image.unique_id, detection or known.detection, AnalysisSettings(material="MoSe2")
    )
    layer = Layer.create(*hexagons_layer_data(link, "hexagons", placement(image)))
    replace_layer(viewer, None, layer)
    return layer


def draw_cells(viewer, known, detection=None):
    image = viewer.layers["field"]
    table = cell_table(known.cells, get_material("MoSe2"))
    link = CellsLink(
        image.unique_id,
        detection or known.detection,
        AnalysisSettings(material="MoSe2"),
        written_ids=table["cell_id"].to_numpy(),
        written_px=centres_px(table),
        next_id=len(table),
    )
    layer = Layer.create(*cells_layer_data(table, link, "cells", placement(image)))
    replace_layer(viewer, None, layer)
    return layer


def line(widget, name):
    return next(line for line in widget.table.lines() if line[0].strip() == name)


def number(text):
    return float(text.replace(",", "").replace("−", "-"))


def test_an_image_without_a_detection_is_detected_first(widget, viewer, qtbot, asked):
    assert "found first" in widget.source.text()
    assert widget.material.isEnabled()
    press(widget, qtbot)
    (settings,) = asked
    assert settings.material == "MoSe2"
    assert [layer.name for layer in viewer.layers] == ["field"]
    # what was put in is what is shown
    _, value, interval, unit = line(widget, "Counts at X₂ (λ)")
    assert number(value) == pytest.approx(LAMBDA, rel=0.1)
    assert unit == "counts/px"
    low, high = (number(end) for end in interval.split(" – "))
    assert low < number(value) < high
    assert number(line(widget, "Shear")[1]) == pytest.approx(6.0, abs=0.2)
    assert WARNING in widget.warnings.text()
    assert "found for this" in widget.source.text()
    assert "perfect cells of the image." in widget.source.text()
    assert widget.stale.isHidden()
    assert not widget.run.message.isVisible()


def test_hexagons_that_are_drawn_are_measured(widget, viewer, known, qtbot, asked):
    layer = draw_hexagons(viewer, known)
    widget.look()
    assert f"{len(layer.data):,} hexagons" in widget.source.text()
    assert not widget.material.isEnabled()
    press(widget, qtbot)
    assert not asked
    assert number(line(widget, "Counts at X₂ (λ)")[1]) == pytest.approx(LAMBDA, rel=0.1)
    layer.data = layer.data[:-3]
    widget.look()
    assert "the detection changed" in widget.stale.text()


def test_cells_are_measured_as_they_are_classified(widget, viewer, known, qtbot, asked):
    draw_hexagons(viewer, known)
    widget.material.set("MoS2")
    layer = draw_cells(viewer, known)
    widget.look()
    assert f"{len(layer.data):,} classified cells" in widget.source.text()
    assert widget.material.get() == "MoSe2"
    press(widget, qtbot)
    assert not asked
    assert widget.stale.isHidden()
    first = widget.shown

    labels = layer.features["label"].astype(str).to_numpy(object)
    labels[: len(labels) // 2] = "V_Mo"
    layer.features["label"] = labels
    qtbot.waitUntil(lambda: "the cells changed" in widget.stale.text())
    assert widget.shown is first  # only on request
    press(widget, qtbot)
    assert widget.stale.isHidden()
    assert widget.shown.measurement.cells < 0.7 * first.measurement.cells


def test_cells_of_an_earlier_detection_do_not_count(viewer, known):
    moved = replace(known.scene.lattice, origin_px=known.scene.lattice.origin_px + 0.5)
    draw_cells(viewer, known, replace(known.detection, lattice=moved))
    image = viewer.layers["field"]
    assert basis_of(viewer, image, "MoSe2").is_classified
    draw_hexagons(viewer, known)
    basis = basis_of(viewer, image, "MoSe2")
    assert not basis.is_classified
    assert basis.source is viewer.layers["hexagons"]


def test_what_changes_what_would_be_found(viewer, known):
    image = viewer.layers["field"]
    before = basis_of(viewer, image, "MoSe2")
    assert before.same_as(basis_of(viewer, image, "MoSe2"))
    assert not before.same_as(basis_of(viewer, image, "WSe2"))
    image.scale = (0.03, 0.03)
    assert not before.same_as(basis_of(viewer, image, "MoSe2"))
    cells = draw_cells(viewer, known)
    drawn = basis_of(viewer, image, "MoSe2")
    assert not before.same_as(drawn)
    assert drawn.same_as(basis_of(viewer, image, "WSe2"))  # its detection says the material
    cells.data = cells.data + [0.0, 0.7]
    assert not drawn.same_as(basis_of(viewer, image, "MoSe2"))
    viewer.layers.remove(cells)
    image.data = image.data * 2
    assert not before.same_as(basis_of(viewer, image, "MoSe2"))


def test_only_the_main_domain_is_folded(viewer, known):
    """A twin's cells would not lie on the main lattice."""
    labels = np.ones(known.data.shape, np.uint8)
    labels[:, known.data.shape[1] // 2 :] = 2
    lattice = known.scene.lattice
    two = (Domain(1, lattice), Domain(2, lattice))
    right = known.cells.centres_px[:, 1] >= known.data.shape[1] // 2
    detection = replace(
        known.detection, domains=two, area=AnalysedArea(labels, 1, known.data.shape)
    )
    draw_cells(viewer, known, detection)
    basis = basis_of(viewer, viewer.layers["field"], "MoSe2")
    found = measuring(basis, "MoSe2")(lambda share, text: None, lambda: False)
    draw_cells(viewer, known)
    viewer.layers.remove("cells")
    whole = measuring(basis_of(viewer, viewer.layers["field"], "MoSe2"), "MoSe2")(
        lambda share, text: None, lambda: False
    )
    assert right.any()
    assert found.measurement.cells < 0.65 * whole.measurement.cells


def test_it_says_which_part_was_measured(widget, viewer, known, qtbot, monkeypatch):
    monkeypatch.setattr("napari_point_defects.measurement.image.MOST_PX", 288 * 200)
    two = tuple(Domain(number, known.scene.lattice) for number in (1, 2))
    area = AnalysedArea(np.ones(known.data.shape, np.uint8), 1, known.data.shape)
    draw_cells(viewer, known, replace(known.detection, domains=two, area=area))
    press(widget, qtbot)
    height, width = widget.shown.details.window[1]
    assert height * width < known.data.size
    assert f"perfect cells of {height} × {width} px" in widget.source.text()
    assert "largest of 2 domains" in widget.source.text()


def test_nothing_of_the_table_is_cut_off(widget, qtbot):
    press(widget, qtbot)
    check_room(widget, qtbot)
    # intensities of a detector that counts in millions
    found, width, formula = widget.shown.table
    found = replace(
        found,
        offset=Estimate(2976300.0, 2975300.0, 2977400.0),
        counts_per_level=Estimate(8.98e-5, 8.78e-5, 9.19e-5),
    )
    widget.table.show_measurement(found, width, formula)
    assert line(widget, "Black level")[2] == "2,975,300 – 2,977,400"
    check_room(widget, qtbot)


def check_room(widget, qtbot):
    widget.resize(widget.minimumSizeHint())
    qtbot.wait(50)
    table = widget.table
    check_columns(table)
    assert table.horizontalScrollBar().maximum() == 0
    assert table.verticalScrollBar().maximum() == 0
    last = table.visualItemRect(table.item(table.rowCount() - 1, 0))
    assert last.bottom() <= table.viewport().height()
    assert widget.widget().width() <= widget.viewport().width()
    widget.grab()  # paints


def check_columns(table):
    for column in range(table.columnCount()):
        assert table.columnWidth(column) >= table.sizeHintForColumn(column)
        assert table.columnWidth(column) >= table.horizontalHeader().sectionSizeHint(column)


def test_every_line_says_what_it_is(widget, qtbot):
    press(widget, qtbot)
    groups = quantities(*widget.shown.table)
    for _, rows in groups:
        for row in rows:
            assert row.meaning.endswith(".")
            assert row.meaning.count(". ") == 1  # what it is, and what a wrong value does
    table = widget.table
    tips = [table.item(i, 1).toolTip() for i in range(table.rowCount()) if table.item(i, 1)]
    assert len(tips) == sum(len(rows) for _, rows in groups)
    assert all(tips)


def test_what_is_odd_stands_out(known, qtbot, viewer):
    draw_cells(viewer, known)
    work = measuring(basis_of(viewer, viewer.layers["field"], "MoSe2"), "MoSe2")
    found, width, formula = work(lambda share, text: None, lambda: False).table
    table = MeasureTable()
    qtbot.addWidget(table)
    found = replace(found, clipped_low=0.0, clipped_high=0.0)

    def odd(found):
        table.show_measurement(found, width, formula)
        items = [table.item(row, 0) for row in range(table.rowCount())]
        return [i.text().strip() for i in items if i.foreground().color().name() == ODD_COLOUR]

    assert odd(found) == []
    foreign = replace(found, clipped_high=0.02, contrast_ratio=Estimate(0.4, 0.38, 0.42))
    assert odd(foreign) == ["Clipped, bright", "X₂ over M"]
    # nothing is said of what is not known
    assert odd(replace(found, contrast_ratio=Estimate(*[np.nan] * 3))) == []


@pytest.mark.parametrize(
    ("estimate", "texts"),
    [
        ((29.48, 28.07, 30.96), ("29.5", "28.1 – 31.0")),
        ((1442.6, 1202.9, 1730.1), ("1,440", "1,200 – 1,730")),
        ((-0.07, -0.133, -0.002), ("−0.07", "−0.13 – 0.00")),
        ((3e-7, 2e-7, 4e-7), ("3.0e−07", "2.0e−07 – 4.0e−07")),
        ((1.357, 0.648, np.inf), ("1.36", "> 0.65")),
        ((0.43796, np.nan, np.nan), ("0.44", "")),
        ((np.nan, 1.204, 2.039), ("", "1.20 – 2.04")),
        ((np.nan,) * 3, ("–", "")),
        ((0.0, 0.0, 0.0), ("0", "0 – 0")),
        ((5.0, 5.0, 5.0), ("5.00", "5.00 – 5.00")),
    ],
)
def test_digits(estimate, texts):
    assert written(Estimate(*estimate)) == texts


def test_export_asks_and_writes_what_the_command_line_writes(widget, qtbot, tmp_path, monkeypatch):
    press(widget, qtbot)
    path = tmp_path / "found.json"
    answers = iter([(str(path), ""), ("", ""), (str(tmp_path / "found"), ""), (str(path), "")])
    offered = []

    def ask(parent, title, name, kinds):
        offered.append(name)
        return next(answers)

    monkeypatch.setattr(QFileDialog, "getSaveFileName", ask)
    press(widget, qtbot, widget.export)
    content = json.loads(path.read_text())
    assert set(content) == {
        "image", "material", "pixel_size_nm", "pixel_size_source", "measurement",
    }  # fmt: skip
    found = widget.shown.measurement
    assert content["material"] == "MoSe2"
    assert content["measurement"]["poisson_lambda"]["value"] == found.poisson_lambda.value
    assert offered == ["field_measurement.json"]
    assert str(path) in widget.run.message.text()

    press(widget, qtbot, widget.export)  # thought better of it
    path.write_text("mine")
    press(widget, qtbot, widget.export)  # the dialog asked about a name without its ending
    assert path.read_text() == "mine"
    assert "exists" in widget.run.message.text()
    press(widget, qtbot, widget.export)  # the dialog asked, and the user agreed
    assert json.loads(path.read_text()) == content


def test_copy_is_a_table(widget, qtbot):
    press(widget, qtbot)
    press(widget, qtbot, widget.copy)
    rows = [row.split("\t") for row in QGuiApplication.clipboard().text().splitlines()]
    assert rows[0] == ["quantity", "value", "low", "high", "unit"]
    assert {len(row) for row in rows} == {5}
    cells = {row[0]: row for row in rows}
    found = widget.shown.measurement
    dose = cells["Dose and detector: Counts at X₂ (λ)"]
    assert float(dose[1]) == pytest.approx(found.poisson_lambda.value, rel=1e-6)
    probe = cells["Probe: Probe, FWHM"]
    assert float(probe[2]) == pytest.approx(1000 * found.probe_fwhm_nm.low, rel=1e-6)
    assert probe[4] == "pm"


def test_what_cannot_be_measured_is_said_alone(widget, viewer, qtbot, monkeypatch):
    from napari_point_defects.napari_ui import measured_layer

    nothing = nothing_measured((0.5, 1.0), "the image is constant: nothing could be measured")
    monkeypatch.setattr(measured_layer, "measure_in_detail", lambda *args: (nothing, None))
    press(widget, qtbot)
    assert "the image is constant" in widget.warnings.text()
    assert not widget.table.isVisible()
    assert not widget.plots.isVisible()
    assert not widget.buttons.isVisible()


def test_each_image_keeps_its_own(widget, viewer, known, qtbot):
    press(widget, qtbot)
    first = widget.shown
    other = viewer.add_image(known.data[:200], name="other")
    assert widget.images.layer is other
    assert widget.shown is None
    assert not widget.table.isVisible()
    viewer.layers.selection.active = viewer.layers["field"]
    assert widget.shown is first
    assert widget.table.isVisible()
    viewer.layers.remove("field")
    assert widget.shown is None
    assert not widget._found


def test_errors_are_told(widget, viewer, known, qtbot, notes, monkeypatch):
    viewer.add_image(np.zeros((20, 20, 3), np.uint8), name="colours", rgb=True)
    press(widget, qtbot)
    assert "'colours' is a colour image" in widget.run.message.text()
    viewer.layers.clear()
    press(widget, qtbot)
    assert "no image is open" in widget.run.message.text()
    viewer.add_image(known.data, name="field")

    def refuse(image, settings, *, on_progress, should_stop):
        raise PointDefectsError("field shows no 2H lattice")

    monkeypatch.setattr(pipeline, "detect", refuse)
    press(widget, qtbot)
    assert "no 2H lattice" in widget.run.message.text()
    assert len(notes) == 3


def test_cancel_and_a_closed_image(widget, viewer, known, qtbot, monkeypatch):
    press(widget, qtbot)
    first = widget.shown
    entered, go = threading.Event(), threading.Event()

    def wait(image, settings, *, on_progress, should_stop):
        entered.set()
        while not go.wait(0.005):
            if should_stop():
                raise Stopped
        return known.detection

    monkeypatch.setattr(pipeline, "detect", wait)
    qtbot.mouseClick(widget.run.button, Qt.MouseButton.LeftButton)
    qtbot.waitUntil(entered.is_set)
    press(widget, qtbot)
    assert "Cancelled" in widget.run.message.text()
    assert widget.shown is first

    entered.clear()
    qtbot.mouseClick(widget.run.button, Qt.MouseButton.LeftButton)
    qtbot.waitUntil(entered.is_set)
    viewer.layers.clear()
    go.set()
    qtbot.waitUntil(lambda: not widget.run.is_running)
    assert "closed while it was measured" in widget.run.message.text()


def test_the_mean_cell_is_drawn_where_its_columns_are(known, viewer, qtbot):
    # one spot, at the place of X₂ in the table
    table = np.zeros((90, 90))
    table[60, 60] = 1
    picture = unfolded(table)
    bright = np.argwhere(picture > 0) + 0.5 - np.array(picture.shape) / 2
    nearest = bright[np.argsort(np.hypot(*bright.T))[:1]] / 64
    # X₂ lies 1/6 of both lattice vectors from the middle of the table
    np.testing.assert_allclose(nearest[0], [np.sqrt(3) / 12, 0.25], atol=0.03)

    draw_cells(viewer, known)
    work = measuring(basis_of(viewer, viewer.layers["field"], "MoSe2"), "MoSe2")
    found = work(lambda share, text: None, lambda: False)
    plots = MeasurePlots("dark")
    qtbot.addWidget(plots)
    plots.show_details(found.measurement, found.details, get_material("MoSe2"))
    assert f"{found.measurement.cells} cells" in plots.cell.get_title()
    dots, fit = plots.noise.lines
    assert len(dots.get_xdata()) == len(found.details.level)
    # the fitted noise runs through what was measured
    assert np.median(fit.get_ydata() / dots.get_ydata()) == pytest.approx(1, abs=0.1)
    assert len(plots.rows.lines[0].get_xdata()) == known.data.shape[0]
    plots.set_theme("light")
    assert sum(plots.figure.get_facecolor()[:3]) > 2
    assert plots.noise.lines
    # of a detector that counts in millions, ticks stay short
    large = replace(found.details, variance=4e8 * found.details.variance)
    plots.show_details(found.measurement, large, get_material("MoSe2"))
    assert plots.noise.lines[0].get_ydata().max() < 10
    assert "$10^{1" in plots.noise.get_title()
    plots.grab()


def test_match_opens_the_simulator_on_this_image(
    make_napari_viewer, known, asked, qtbot, monkeypatch
):
    from napari_point_defects.napari_ui.simulate_widget import SimulateWidget

    viewer = make_napari_viewer(show=True)
    viewer.add_image(known.data, name="field", scale=(SCENE.pixel_size_nm,) * 2)
    viewer.add_image(known.data, name="another")
    matched = []
    monkeypatch.setattr(
        SimulateWidget,
        "match_image",
        lambda self: matched.append((self.preview.images.layer, self.form.settings().materials)),
    )
    widget = MeasureWidget(viewer)
    dock = viewer.window.add_dock_widget(widget, name="Measure image")
    widget.material.set("MoSe2")
    widget.images.choose(viewer.layers["field"])
    press(widget, qtbot)
    assert widget.table.isVisible()
    check_columns(widget.table)  # in napari's own style
    press(widget, qtbot, widget.match)
    assert matched == [(viewer.layers["field"], ("MoSe2",))]
    _, simulate = viewer.window.add_plugin_dock_widget(
        "napari-point-defects", "Simulate training set"
    )
    assert simulate.isVisible()
    assert "simulator" in widget.run.message.text()
    preview = simulate.preview
    qtbot.waitUntil(lambda: preview._task is None and not preview._rest.isActive(), timeout=60_000)
    viewer.window.remove_dock_widget(dock)
