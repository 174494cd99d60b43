"""A mirror twin in napari: what was analysed is shown, and every edit lies along its own grain."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy.ndimage import distance_transform_edt
from scipy.spatial import cKDTree

pytest.importorskip("napari")
pytest.importorskip("qtpy.QtWidgets", exc_type=ImportError)

from napari.layers import Labels, Layer
from qtpy.QtGui import QUndoStack

from napari_point_defects import networks, pipeline
from napari_point_defects.analysed_area import BOUNDARY, VACUUM, AnalysedArea, Domain
from napari_point_defects.analysis_settings import AnalysisSettings
from napari_point_defects.classification.calibration import ProbabilityCalibration
from napari_point_defects.detections import Detection
from napari_point_defects.labels.store import LabelStore
from napari_point_defects.materials import BOND, HEXAGON_SIZE, MATERIALS
from napari_point_defects.napari_ui.area_layers import area_layer_data, area_legend, draw_area
from napari_point_defects.napari_ui.box_correction import box_correction
from napari_point_defects.napari_ui.cell_layers import cell_mask, cells_layer_data
from napari_point_defects.napari_ui.cell_tables import (
    POSITION_COLUMNS,
    cell_table,
    centres_px,
    new_row,
    tidy,
)
from napari_point_defects.napari_ui.classify_widget import ClassifyWidget
from napari_point_defects.napari_ui.detect_widget import DetectWidget
from napari_point_defects.napari_ui.hexagon_editor import HexagonEditor
from napari_point_defects.napari_ui.hexagon_layers import hexagons_layer_data
from napari_point_defects.napari_ui.hexagon_tables import (
    CORNER_COLUMNS,
    corners_px,
    hexagon_table,
    hexagons_of_table,
)
from napari_point_defects.napari_ui.inspected_cell import cut_crops, read_cell
from napari_point_defects.napari_ui.label_resume import open_labels
from napari_point_defects.napari_ui.label_rows import store_hexagons
from napari_point_defects.napari_ui.labelling import labelling
from napari_point_defects.napari_ui.layer_calibration import calibrate
from napari_point_defects.napari_ui.layer_cells import current_table
from napari_point_defects.napari_ui.links import (
    AreaLink,
    CellsLink,
    HexagonsLink,
    link_of,
    own_layer,
)
from napari_point_defects.outputs import cell_outlines_px, draw_overlay
from napari_point_defects.records import Calibration, Hexagons, Lattice, StemImage, hexagon_boxes
from napari_point_defects.retraining.data import read_labels
from napari_point_defects.retraining.settings import RetrainSettings
from napari_point_defects.simulation.noise import NoiseSettings, add_noise
from napari_point_defects.simulation.scenes import SceneSettings, lattice_nodes
from napari_point_defects.simulation.specimens import PatchSettings, make_specimen

pytestmark = pytest.mark.gui

SHAPE, A_PX, PIXEL_NM = (260, 300), 16.0, 0.02
MATERIAL = MATERIALS["MoTe2"]
SITES_INSIDE = 1.2  # of a, from the edges of a grain to the middles of its hexagons


@pytest.fixture(scope="module")
def specimen():
    settings = SceneSettings(
        material="MoTe2",
        height_px=SHAPE[0],
        width_px=SHAPE[1],
        a_px=A_PX,
        angle_deg=13.0,
        defect_rates=(0.04, 0.01, 0.005, 0.002, 0.001),
    )
    twin = PatchSettings(kind="twin", outline="half", direction_deg=5, centre=(0.5, 0.6))
    return make_specimen(settings, [twin], np.random.default_rng(5))


@pytest.fixture(scope="module")
def pixels(specimen):
    rng = np.random.default_rng(6)
    noise = NoiseSettings.for_column_counts(specimen.scene, 200.0)
    return add_noise(specimen.scene, noise, rng).astype(np.float32)


@pytest.fixture(scope="module")
def area(specimen):
    labels = np.array(specimen.labels[2::4, 2::4])
    between = [distance_transform_edt(labels != number) < 2.5 for number in (1, 2)]
    labels[between[0] & between[1]] = BOUNDARY
    return AnalysedArea(labels, 4, SHAPE)


@pytest.fixture(scope="module")
def detection(specimen, area):
    """The truth, as a detection."""
    domains = tuple(
        Domain(i + 1, lattice, i) for i, lattice in enumerate(specimen.lattices)
    )  # the second is the first one's twin
    parts = []
    for domain in domains:
        nodes = lattice_nodes(domain.lattice, SHAPE, 1.0)
        boxes = Hexagons.from_canonical_boxes(
            hexagon_boxes(nodes), np.full(len(nodes), 0.9), domain.lattice
        )
        corners = boxes.corners_px
        middles = corners.mean(axis=1, keepdims=True)
        around = middles + (corners - middles) * SITES_INSIDE
        points = np.concatenate([around, (around + np.roll(around, 1, axis=1)) / 2], axis=1)
        inside = (points > 1).all((1, 2)) & (points < np.array(SHAPE) - 2).all((1, 2))
        inside &= (area.at(points) == domain.number).all(1)
        boxes = boxes.take(inside)
        parts.append(replace(boxes, domain=np.full(len(boxes), domain.number)))
        assert len(boxes) > 30
    return Detection(
        domains[0].lattice,
        Hexagons.joined(parts),
        (PIXEL_NM, PIXEL_NM),
        "lattice",
        domains=domains,
        area=area,
    )


class Truth:
    """Stands in for CNN-2: knows the class at every place, and by which lattice it was asked."""

    calibration = ProbabilityCalibration()

    def __init__(self, scene):
        middles = (scene.chalcogen_px + scene.metal_px) / 2
        self.tree, self.classes = cKDTree(middles), scene.classes

    def reference(self, data, lattice, cells):
        return None

    def predict(self, data, lattice, cells, *, should_stop, on_progress, **_):
        bonds = (cells.metal_px - cells.chalcogen_px) @ np.linalg.inv(lattice.matrix_px).T
        np.testing.assert_allclose(bonds, np.tile([-BOND / 2, 0.5], (len(cells), 1)), atol=0.02)
        found = np.full((len(cells), 6), 0.02)
        found[np.arange(len(cells)), self.classes[self.tree.query(cells.centres_px)[1]]] = 0.9
        return replace(cells, probabilities=found)


@pytest.fixture
def truth(monkeypatch, specimen):
    monkeypatch.setattr(networks, "classifier_of", lambda settings: Truth(specimen.scene))


@pytest.fixture
def boxes(detection):
    link = HexagonsLink("image", detection, AnalysisSettings())
    return Layer.create(*hexagons_layer_data(link, "hexagons", {}))


@pytest.fixture
def editor(boxes, qapp):
    stack = QUndoStack()
    editor = HexagonEditor(boxes, stack, lambda: SHAPE)
    editor.stack = stack
    yield editor
    editor.detach()


@pytest.fixture
def viewer(make_napari_viewer, pixels):
    viewer = make_napari_viewer(show=True, strict_qt="raise")
    viewer.add_image(pixels, name="twin", scale=(PIXEL_NM,) * 2, units=("nm", "nm"))
    return viewer


def of(detection, number):
    """Indices of a domain's hexagons."""
    return np.flatnonzero(detection.hexagons.domain == number)


def a_middle(detection, number):
    """Middle of a hexagon well inside a domain."""
    middles = detection.hexagons.corners_px.mean(axis=1)
    mine = middles[of(detection, number)]
    return mine[np.linalg.norm(mine - mine.mean(axis=0), axis=1).argmin()]


def rectangle(centre, half):
    return np.asarray(centre) + half * np.array([[-1, -1], [-1, 1], [1, 1], [1, -1]])


def canonical(corners, lattice):
    return Hexagons(np.reshape(corners, (-1, 4, 2)), np.ones(1)).canonical_boxes(lattice)[0]


# The map of what was analysed


def test_one_label_per_domain_and_reason(detection, viewer):
    layer = Layer.create(*area_layer_data(detection, viewer.layers["twin"]))
    assert isinstance(layer, Labels)
    assert layer.name == "twin analysed area"
    np.testing.assert_array_equal(layer.data, detection.area.to_pixels())
    names = layer.features.set_index("index")["area"]
    assert names[2] == "domain 2, mirror twin of 1"
    assert names[BOUNDARY] == "grain boundary"
    colours = {label: tuple(layer.get_color(label)) for label in (1, 2, BOUNDARY, VACUUM)}
    assert len(set(colours.values())) == 4
    assert all(0 < colour[3] < 1 for colour in colours.values())


def test_a_large_image_has_a_coarse_layer_in_the_same_place(viewer):
    shape = (2056, 2048)
    labels = np.ones((257, 256), np.uint8)
    labels[100:, 30:60] = VACUUM
    image = viewer.add_image(
        np.zeros(shape, np.uint8), scale=(0.02, 0.03), translate=(5, 6), rotate=20, units="nm"
    )
    area = AnalysedArea(labels, 8, shape)
    lattice = Lattice(np.zeros(2), 16 * np.eye(2))
    nothing = Hexagons(np.empty((0, 4, 2)), np.empty(0))
    detection = Detection(lattice, nothing, (0.02, 0.03), "file", (), (Domain(1, lattice),), area)
    draw_area(viewer, image, detection)
    layer = own_layer(viewer.layers, image.unique_id, AreaLink)
    assert layer.data.shape == (257, 256)

    def agree():
        for pixel in ((0, 0), (803, 245), (2050, 2040)):
            place = np.rint(layer.world_to_data(image.data_to_world(pixel))).astype(int)
            assert layer.data[tuple(place)] == area.at(np.array(pixel, float))
        corner = layer.data_to_world((-0.5, -0.5))
        np.testing.assert_allclose(corner, image.data_to_world((-0.5, -0.5)), atol=1e-6)

    agree()
    calibrate(viewer.layers, image, Calibration((0.05, 0.04), "user"))
    np.testing.assert_allclose(layer.scale, [0.4, 0.32])
    agree()


def test_nothing_is_drawn_where_there_is_nothing_to_see(detection, viewer):
    image = viewer.layers["twin"]
    draw_area(viewer, image, detection)
    first = viewer.layers["twin analysed area"]
    first.visible = False
    draw_area(viewer, image, detection)
    again = viewer.layers["twin analysed area"]
    assert again is not first
    assert not again.visible  # as the user had it
    assert [layer.name for layer in viewer.layers] == ["twin", "twin analysed area"]
    alone = replace(detection, domains=detection.domains[:1], area=AnalysedArea.whole(SHAPE))
    draw_area(viewer, image, alone)
    assert [layer.name for layer in viewer.layers] == ["twin"]
    assert area_legend(alone) == area_legend(replace(alone, area=None)) == ""


def test_the_legend_says_how_much_was_left_out_and_why(detection):
    text, area = area_legend(detection), detection.area
    pixel_nm2 = PIXEL_NM**2
    total = np.prod(SHAPE) * pixel_nm2
    assert f"{area.shares()['analysed'] * total:,.1f} nm² analysed" in text
    assert "domain 2, mirror twin of 1" in text
    assert f"grain boundary, left out: {area.share_of(BOUNDARY) * total:,.1f} nm²" in text
    assert "vacuum" not in text


# Boxes


def test_a_box_drawn_in_the_twin_lies_along_the_twin(detection, editor, boxes):
    at = a_middle(detection, 2)
    near = np.linalg.norm(detection.hexagons.corners_px.mean(axis=1) - at, axis=1).argmin()
    true = detection.hexagons.corners_px[near]
    boxes.selected_data = {int(near)}
    boxes.remove_selected()
    editor.look()
    boxes.add_rectangles([rectangle(at, 7.0)])
    editor.look()
    row = editor.table().iloc[-1]
    assert (row["domain"], row["state"]) == (2, "added")
    np.testing.assert_allclose(np.asarray(boxes.data[-1]), true, atol=0.01)
    box = canonical(boxes.data[-1], detection.domains[1].lattice)
    np.testing.assert_allclose(box[2:] - box[:2], HEXAGON_SIZE, atol=1e-3)
    editor.stack.undo()
    assert len(boxes.data) == len(detection.hexagons) - 1
    editor.stack.undo()
    back = hexagons_of_table(hexagon_table(boxes).sort_values("hexagon_id"))
    np.testing.assert_allclose(back.corners_px, detection.hexagons.corners_px, atol=0.01)
    np.testing.assert_array_equal(back.domain, detection.hexagons.domain)
    editor.stack.redo()
    editor.stack.redo()
    assert editor.table().iloc[-1]["domain"] == 2


def test_a_box_takes_the_frame_of_the_grain_it_is_moved_to(detection, editor, boxes):
    number = int(of(detection, 1)[3])
    goal = a_middle(detection, 2)
    rows = editor.table()
    rows = rows[rows["hexagon_id"] == number].reset_index(drop=True)
    was = corners_px(rows)[0]
    rows[CORNER_COLUMNS] += np.tile(goal - was.mean(axis=0), 4)
    editor.write([], rows)
    row = editor.table().set_index("hexagon_id").loc[number]
    assert (row["domain"], row["state"]) == (2, "corrected")
    now = row[CORNER_COLUMNS].to_numpy(float)
    box = canonical(now, detection.domains[1].lattice)
    np.testing.assert_allclose(box[2:] - box[:2], HEXAGON_SIZE, atol=1e-3)
    np.testing.assert_allclose(
        detection.domains[1].lattice.to_image((box[:2] + box[2:]) / 2), goal, atol=0.05
    )
    editor.stack.undo()
    row = editor.table().set_index("hexagon_id").loc[number]
    assert (row["domain"], row["state"]) == (1, "predicted")
    np.testing.assert_allclose(row[CORNER_COLUMNS].to_numpy(float), was.ravel(), atol=0.01)


def test_edited_boxes_find_their_domain_in_another_run(detection, editor, boxes):
    at = a_middle(detection, 2)
    boxes.add_rectangles([rectangle(at + 3.0, 7.0)])
    swapped = tuple(
        replace(domain, number=3 - domain.number, twin_of=0) for domain in detection.domains
    )
    labels = detection.area.labels.copy()
    labels[detection.area.labels == 1], labels[detection.area.labels == 2] = 2, 1
    number = 3 - detection.hexagons.domain
    again = replace(
        detection,
        hexagons=replace(detection.hexagons, domain=number),
        domains=swapped,
        area=replace(detection.area, labels=labels),
    )
    merged = editor.redetected(again)
    link = HexagonsLink("image", replace(again, hexagons=merged.hexagons), AnalysisSettings())
    layer = Layer.create(*hexagons_layer_data(link, "hexagons", {}, merged.features))
    domain = layer.features["domain"].to_numpy()
    middles = np.array([np.mean(shape, axis=0) for shape in layer.data])
    np.testing.assert_array_equal(domain, again.domain_map.number_at(middles))
    np.testing.assert_array_equal(np.bincount(domain), np.bincount(number))


# Boxes and the cells that follow them, in a window


@pytest.fixture
def session(viewer, detection, truth, qtbot, run, tmp_path):
    """The plugin with the twin, its boxes and their cells, in a project folder."""
    labelling(viewer).use(tmp_path)
    detect, classify = DetectWidget(viewer), ClassifyWidget(viewer)
    for name, widget in (("detect", detect), ("classify", classify)):
        viewer.window.add_dock_widget(widget, name=name, tabify=True)
    detect.draw(viewer.layers["twin"].unique_id, detection, AnalysisSettings())
    run(classify)
    qtbot.waitUntil(lambda: bool(labelling(viewer).last_saved), timeout=20_000)
    return detect, classify


@pytest.fixture
def settle(viewer, qtbot):
    def wait():
        correction = box_correction(viewer)
        correction.editor(viewer.layers["twin hexagons"]).look()
        qtbot.wait(10)
        qtbot.waitUntil(lambda: not correction.is_running, timeout=20_000)

    return wait


def assert_as_a_full_run(viewer, pixels, detection):
    """Cells, places and votes are those of a run on the boxes as they stand."""
    boxes = hexagons_of_table(hexagon_table(viewer.layers["twin hexagons"]))
    cells = current_table(viewer.layers["twin cells"])
    image = StemImage(pixels)
    full = pipeline.classify(image, replace(detection, hexagons=boxes), AnalysisSettings())
    assert len(full) == len(cells)
    distance, match = cKDTree(full.centres_px).query(centres_px(cells))
    assert distance.max() < 0.1 * A_PX
    np.testing.assert_array_equal(full.domain[match], cells["domain"])
    np.testing.assert_array_equal(full.votes[match], cells["votes"])


def test_delete_shift_add_and_undo_in_both_grains(
    viewer, session, settle, pixels, detection, tmp_path
):
    detect, _ = session
    assert [layer.name for layer in viewer.layers] == [
        "twin",
        "twin analysed area",
        "twin hexagons",
        "twin cells",
    ]
    assert "mirror twin of 1" in detect.area.text()
    boxes, points = viewer.layers["twin hexagons"], viewer.layers["twin cells"]
    editor = box_correction(viewer).editor(boxes)
    first_boxes, first_cells = editor.table(), current_table(points)
    assert_as_a_full_run(viewer, pixels, detection)
    rng = np.random.default_rng(0)
    deleted, added = [], []
    for number in (1, 2):
        chosen = rng.permutation(of(detection, number))[:4]
        deleted += chosen[:2].tolist()
        added += list(detection.hexagons.corners_px[chosen[:1]].mean(axis=1))
    boxes.selected_data = set(deleted)
    boxes.remove_selected()
    settle()
    assert_as_a_full_run(viewer, pixels, detection)
    boxes.add_rectangles([rectangle(middle, 5.0) for middle in added])
    settle()
    assert_as_a_full_run(viewer, pixels, detection)
    rows = editor.table()
    rows = rows[rows["domain"] == 2].iloc[[5, 9]].reset_index(drop=True)
    rows.iloc[:, -8:] += 1.5
    editor.write([], rows)
    settle()
    assert_as_a_full_run(viewer, pixels, detection)
    assert sorted(editor.table()["domain"].unique()) == [1, 2]

    with LabelStore(tmp_path) as store:  # what a training gets of it
        (entry,) = store.images()
        assert [domain.number for domain in entry.domains] == [1, 2]
        parts = list(store.labelled_images())
    assert len(parts) == 2
    table = hexagon_table(boxes)
    for part, domain in zip(parts, detection.domains, strict=True):
        assert len(part.hexagons_px) == (table["domain"] == domain.number).sum()
        nodes = part.lattice.to_canonical(part.hexagons_px)
        boxes_there = corners_px(table[table["domain"] == domain.number]).mean(axis=1)
        there = domain.lattice.to_canonical(boxes_there)
        assert cKDTree(nodes).query(there)[0].max() < 0.01

    while editor._history.canUndo():
        editor._history.undo()
        settle()
    last_boxes, last_cells = editor.table(), current_table(points)
    by_id = [t.sort_values("hexagon_id", ignore_index=True) for t in (first_boxes, last_boxes)]
    np.testing.assert_allclose(*(corners_px(t) for t in by_id), atol=0.01)
    np.testing.assert_array_equal(*(t["domain"] for t in by_id))
    by_id = [t.sort_values("cell_id", ignore_index=True) for t in (first_cells, last_cells)]
    np.testing.assert_allclose(*(t[POSITION_COLUMNS] for t in by_id), atol=0.01)
    for column in ("label", "state", "domain"):
        assert by_id[0][column].astype(str).tolist() == by_id[1][column].astype(str).tolist()


def test_resumed_labels_know_their_domains(viewer, session, detection, tmp_path, truth, qtbot):
    _, classify = session
    classify.census.editor.decide(current_table(viewer.layers["twin cells"])["cell_id"][:3], "V_Mo")
    qtbot.wait(50)
    before = current_table(viewer.layers["twin cells"])
    for layer in list(viewer.layers)[1:]:
        viewer.layers.remove(layer)
    with LabelStore(tmp_path) as store:
        (entry,) = store.images()
        cells = open_labels(viewer, store, entry)
    assert "twin analysed area" in viewer.layers
    link = link_of(cells, CellsLink)
    assert [domain.twin_of for domain in link.detection.domains] == [0, 1]
    np.testing.assert_array_equal(link.detection.area.labels, detection.area.labels)
    now = current_table(cells)
    by_id = [t.sort_values("cell_id", ignore_index=True) for t in (before, now)]
    np.testing.assert_array_equal(*(t["domain"] for t in by_id))
    features = viewer.layers["twin hexagons"].features
    expected = np.bincount(detection.hexagons.domain)
    np.testing.assert_array_equal(np.bincount(features["domain"]), expected)


# Cells


@pytest.fixture
def cells(detection, specimen, pixels, truth):
    return pipeline.classify(StemImage(pixels), detection, AnalysisSettings())


def test_an_added_cell_takes_the_bond_of_its_grain(detection, cells):
    table = cell_table(cells, MATERIAL)
    row = int(np.flatnonzero(cells.domain == 2)[7])
    points = centres_px(table)
    drawn = new_row(MATERIAL)
    table.loc[row, list(drawn.columns)] = drawn.iloc[0]
    table = table.astype({"cell_id": int, "votes": int, "domain": int})
    now = tidy(table, points, detection.domain_map).iloc[row]
    assert now["domain"] == 2
    columns = now[POSITION_COLUMNS].to_numpy(float).reshape(2, 2)
    true = [cells.chalcogen_px[row], cells.metal_px[row]]
    np.testing.assert_allclose(columns, true, atol=0.3)


def test_a_cell_moved_to_the_twin_is_turned(detection, cells):
    table = cell_table(cells, MATERIAL)
    row, goal = int(np.flatnonzero(cells.domain == 1)[0]), a_middle(detection, 2)
    points = centres_px(table)
    points[row] = goal
    now = tidy(table, points, detection.domain_map)
    assert now["domain"].iloc[row] == 2
    x, m = now.iloc[row][POSITION_COLUMNS].to_numpy(float).reshape(2, 2)
    bond = np.linalg.inv(detection.domains[1].lattice.matrix_px) @ (m - x)
    np.testing.assert_allclose(bond, [-BOND / 2, 0.5], atol=1e-6)
    np.testing.assert_allclose((x + m) / 2, goal)
    others = np.delete(np.arange(len(table)), row)
    same = now[POSITION_COLUMNS].iloc[others].to_numpy(float)
    np.testing.assert_array_equal(same, table[POSITION_COLUMNS].iloc[others].to_numpy(float))


def test_areas_and_outlines_lie_along_their_own_lattice(detection, cells):
    where = detection.domain_map
    outlines = cell_outlines_px(cells, where)
    mask = cell_mask(cells.centres_px, cells.classes, where, SHAPE, cells.domain)
    for domain in detection.domains:
        rows = cells.domain == domain.number
        sides = outlines[rows][:, 1] - outlines[rows][:, 0]
        np.testing.assert_allclose(
            sides @ np.linalg.inv(domain.lattice.matrix_px).T,
            np.tile([0, 1.0], (rows.sum(), 1)),
            atol=1e-6,
        )
    assert len(np.unique(np.round(outlines[:, 1] - outlines[:, 0], 3), axis=0)) == 2
    middles = np.rint(cells.centres_px).astype(int)
    assert (mask[tuple(middles.T)] > 0).all()


def test_the_inspector_shows_a_cell_in_the_frame_of_its_grain(detection, cells, pixels):
    perfect = cells.take(cells.classes == 0)
    inner = perfect.take((np.abs(perfect.centres_px - np.array(SHAPE) / 2) < 90).all(axis=1))
    link = CellsLink("image", detection, AnalysisSettings())
    layer = Layer.create(*cells_layer_data(cell_table(inner, MATERIAL), link, "cells", {}))
    means = []
    for number in (1, 2):
        rows = np.flatnonzero(inner.domain == number)[:25]
        crops = [cut_crops(pixels, read_cell(layer, int(row))).window for row in rows]
        means.append(np.mean(crops, axis=0).ravel())
    assert np.corrcoef(means)[0, 1] > 0.95
    wrong = replace(read_cell(layer, int(rows[0])), domain=1)
    turned = cut_crops(pixels, wrong).window.ravel()
    assert np.corrcoef(means[0], turned)[0, 1] < 0.8


def test_the_overlay_hatches_what_was_left_out(detection, cells, pixels):
    image = StemImage(pixels, "twin", Calibration((PIXEL_NM,) * 2, "user"))
    draw = [image, cells, detection.lattice, MATERIAL]
    plain, hatched = (draw_overlay(*draw, where=where) for where in (None, detection.domain_map))
    (before,), (after,) = (
        [artist.get_array() for artist in figure.artists] for figure in (plain, hatched)
    )
    changed = (before != after).any(axis=-1)
    y, x = np.indices(changed.shape)
    scale = np.array(SHAPE) / changed.shape
    label = detection.area.at(np.stack([(y + 0.5) * scale[0], (x + 0.5) * scale[1]], -1) - 0.5)
    assert not changed[label < 200].any()
    assert changed[label == BOUNDARY].mean() > 0.95
    assert any("not analysed" in text.get_text() for text in hatched.axes[1].texts)


# The label store


@pytest.fixture
def stored(tmp_path, detection, pixels):
    """A store with the twin, its boxes, and a decision in each grain."""
    store = LabelStore(tmp_path / "project")
    entry = store.register(
        StemImage(pixels, "twin"),
        material="MoTe2",
        lattice=detection.lattice,
        pixel_size_nm=detection.pixel_size_nm,
        pixel_size_source="lattice",
        domains=detection.domains,
        area=detection.area,
    )
    yield store, entry
    store.close()


def test_the_store_keeps_domains_and_area(stored, detection, tmp_path):
    with LabelStore(tmp_path / "project", create=False) as again:
        (entry,) = again.images()
    assert [(d.number, d.twin_of) for d in entry.domains] == [(1, 0), (2, 1)]
    for one, other in zip(entry.domains, detection.domains, strict=True):
        np.testing.assert_array_equal(one.lattice.matrix_px, other.lattice.matrix_px)
        np.testing.assert_array_equal(one.lattice.origin_px, other.lattice.origin_px)
    np.testing.assert_array_equal(entry.area.labels, detection.area.labels)
    assert (entry.area.step_px, entry.area.shape) == (4, SHAPE)


def test_a_store_of_an_earlier_version_opens(stored, tmp_path):
    store, _ = stored
    store.connection.execute("DROP TABLE domains")
    store.close()
    with LabelStore(tmp_path / "project") as again:
        (entry,) = again.images()
        assert entry.domains == ()
        assert entry.area is None
    with LabelStore(tmp_path / "project") as again:
        assert len(again.images()) == 1


@pytest.mark.parametrize("file_format", ["coco", "csv"])
def test_exported_labels_bring_their_domains(stored, tmp_path, file_format, detection):
    from napari_point_defects.labels.exchange import export_labels, import_labels

    store, _ = stored
    export_labels(store, tmp_path / "out", file_format=file_format)
    with LabelStore(tmp_path / "other") as other:
        import_labels(other, tmp_path / "out")
        (entry,) = other.images()
    assert [domain.twin_of for domain in entry.domains] == [0, 1]
    np.testing.assert_array_equal(entry.area.labels, detection.area.labels)


def test_a_damaged_map_is_refused(detection):
    from napari_point_defects.labels.domain_fields import domain_fields, domains_of

    fields = domain_fields(detection.domains, detection.area)
    domains_of(fields, detection.lattice, SHAPE)
    for wrong in (
        {"labels": fields["labels"][:-8]},
        {"labels": "no base64"},
        {"step": 3},
        {"domains": fields["domains"][:1]},
        {"domains": [{**fields["domains"][0], "number": 0}, fields["domains"][1]]},
    ):
        with pytest.raises(ValueError, match=r"map|number"):
            domains_of(fields | wrong, detection.lattice, SHAPE)


def test_each_domain_is_learned_in_its_own_lattice(stored, cells, detection, pixels):
    from napari_point_defects.labels.tables import HEXAGONS, empty, from_named, table_changes
    from napari_point_defects.napari_ui.hexagon_tables import hexagon_features, with_corners

    store, entry = stored
    table = from_named(cell_table(cells, MATERIAL).assign(state="confirmed"), MATERIAL)
    found = detection.hexagons
    drawn = with_corners(hexagon_features(found.scores), found.corners_px)
    boxes = store_hexagons(drawn, empty(HEXAGONS))
    store.write(
        entry.id,
        cells=table_changes(store.cells(entry.id), table),
        hexagons=table_changes(store.hexagons(entry.id), boxes),
        author="A",
    )
    for kind in ("classifier", "detector"):
        items, ids = read_labels(RetrainSettings(kind=kind, labels=store.folder))
        assert len(items) == 2
        assert len(set(ids)) == 1
    for number, item in enumerate(items, start=1):
        bonds = (item.metal_px - item.chalcogen_px) @ np.linalg.inv(item.lattice.matrix_px).T
        np.testing.assert_allclose(bonds, np.tile([-BOND / 2, 0.5], (len(bonds), 1)), atol=0.02)
        assert len(bonds) == (cells.domain == number).sum()
        nodes = item.lattice.to_canonical(item.hexagons_px)
        grid = lattice_nodes(item.lattice, item.pixels.shape, 3.0)
        assert cKDTree(grid).query(nodes)[0].max() < 0.01
        # the pixels of the columns came along, those of the other grain did not
        x = np.rint(item.chalcogen_px).astype(int)
        assert np.isfinite(item.pixels[tuple(x.T)]).all()
        assert np.isnan(item.pixels).any()
    seen = sum(np.isfinite(item.pixels).sum() for item in items)
    assert np.prod(SHAPE) * 0.9 < seen < np.prod(SHAPE) * 1.6
