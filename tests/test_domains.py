"""Domains of simulated specimens with known truth: found, left out, kept."""

import json
from dataclasses import replace

import numpy as np
import pytest

from napari_point_defects import networks, pipeline
from napari_point_defects.analysed_area import (
    BILAYER,
    BOUNDARY,
    CONTAMINATED,
    FIRST_CODE,
    NO_LATTICE,
    NOT_CHOSEN,
    VACUUM,
    AnalysedArea,
    restrict,
)
from napari_point_defects.analysis_settings import AnalysisSettings
from napari_point_defects.census import cells_table
from napari_point_defects.classification.calibration import ProbabilityCalibration
from napari_point_defects.detections import Detection
from napari_point_defects.domains.casting import DomainMap, cast_domains, recast_domains
from napari_point_defects.domains.segmentation import find_domains
from napari_point_defects.materials import LATTICE_VECTORS, MATERIALS
from napari_point_defects.netcasting import cast_net
from napari_point_defects.records import Hexagons, StemImage, UnitCells, hexagon_boxes
from napari_point_defects.simulation.noise import NoiseSettings, add_noise
from napari_point_defects.simulation.scenes import SceneSettings, lattice_nodes
from napari_point_defects.simulation.specimens import PatchSettings, make_specimen

SHAPE = (300, 320)
FEW = (0.04, 0.01, 0.005, 0.002, 0.001)
MANY = (0.12, 0.06, 0.06, 0.03, 0.03)


def make(*patches, material="MoTe2", counts=60.0, seed=0, **scene):
    """Pixels and truth of a specimen."""
    rng = np.random.default_rng([77, seed])
    options = {"height_px": SHAPE[0], "width_px": SHAPE[1], "a_px": 16.0, "angle_deg": 13.0}
    settings = SceneSettings(**({"material": material, "defect_rates": FEW} | options | scene))
    specimen = make_specimen(settings, patches, rng)
    noise = NoiseSettings.for_column_counts(specimen.scene, counts, gaussian_mu=3.0)
    return add_noise(specimen.scene, noise, rng).astype(np.float32), specimen


def share(area, truth, label, found=None):
    """Share of what truly carries a label that is found to carry it, or another."""
    return float((area.to_pixels()[truth == label] == (label if found is None else found)).mean())


def is_hollow(lattice, true):
    """Distance in a between a found hollow and the nearest true one."""
    cells = true.to_canonical(lattice.origin_px) @ np.linalg.inv(LATTICE_VECTORS)
    return np.linalg.norm((cells - np.rint(cells)) @ LATTICE_VECTORS)


def orientation_error(lattice, true):
    """Degrees between two orientations; they repeat after 120° and not after 60°."""
    change = np.linalg.inv(true.matrix_px) @ lattice.matrix_px
    angle = np.degrees(np.arctan2(change[0, 1] - change[1, 0], np.trace(change)))
    return abs((angle + 60) % 120 - 60)


def test_one_crystal_is_one_domain_with_nothing_left_out():
    image, specimen = make()
    domains, area = find_domains(image, MATERIALS["MoTe2"])
    assert len(domains) == 1
    assert domains[0].twin_of == 0
    assert orientation_error(domains[0].lattice, specimen.lattices[0]) < 0.2
    assert area.shares()["analysed"] == pytest.approx(1)
    assert area.to_pixels().shape == SHAPE


@pytest.mark.parametrize(
    ("material", "counts"), [("MoTe2", 20.0), ("MoS2", 40.0), ("MoSe2", 160.0), ("WSe2", 160.0)]
)
def test_defects_are_not_masked_away(material, counts):
    image, _ = make(material=material, counts=counts, defect_rates=MANY, contamination=0.2)
    _, area = find_domains(image, MATERIALS[material])
    assert area.shares()["analysed"] > 0.995


def test_a_cluster_of_vacancies_is_kept_and_a_hole_is_not():
    image, specimen = make(
        PatchSettings(radius=0.75 * 16 / 300, centre=(0.3, 0.3)),  # two cells
        PatchSettings(radius=5 * 16 / 300, centre=(0.6, 0.65)),
        PatchSettings(radius=1.3 * 16 / 300, centre=(0.2, 0.75)),  # six cells
    )
    _, area = find_domains(image, MATERIALS["MoTe2"])
    assert area.at(np.array([0.3 * 299, 0.3 * 319])) == 1
    assert area.at(np.array([0.6 * 299, 0.65 * 319])) == VACUUM
    assert area.at(np.array([0.2 * 299, 0.75 * 319])) >= FIRST_CODE
    assert share(area, specimen.labels, 1) > 0.99


@pytest.mark.parametrize("counts", [20.0, 400.0])
def test_torn_edge(counts):
    image, specimen = make(
        PatchSettings(outline="half", direction_deg=200, centre=(0.45, 0.45)), counts=counts
    )
    domains, area = find_domains(image, MATERIALS["MoTe2"])
    assert len(domains) == 1
    assert share(area, specimen.labels, VACUUM) > 0.97
    assert share(area, specimen.labels, 1) > 0.97


@pytest.mark.parametrize(
    ("material", "counts", "shift"),
    [("MoTe2", 20.0, (0.0, 0.0)), ("MoS2", 60.0, (0.2, 0.1)), ("MoSe2", 250.0, (0.3, 0.0))],
)
def test_mirror_twin(material, counts, shift):
    image, specimen = make(
        PatchSettings(
            kind="twin", outline="half", direction_deg=30, shift_a=shift, centre=(0.55, 0.6)
        ),
        material=material,
        counts=counts,
    )
    domains, area = find_domains(image, MATERIALS[material])
    assert [d.number for d in domains] == [1, 2]
    assert [d.twin_of for d in domains] == [0, 1]
    for domain, true in zip(domains, specimen.lattices, strict=True):
        assert orientation_error(domain.lattice, true) < 0.7
        assert is_hollow(domain.lattice, true) < 0.08
        assert share(area, specimen.labels, domain.number) > 0.78  # the band is 2 a of 20 a
        other = 3 - domain.number
        assert share(area, specimen.labels, other, domain.number) < 0.01
    assert 0.02 < area.share_of(BOUNDARY) < 0.2


@pytest.mark.parametrize("tilt_deg", [7.0, 22.0])
def test_grains(tilt_deg):
    image, specimen = make(
        PatchSettings(
            kind="grain", outline="half", direction_deg=70, tilt_deg=tilt_deg, centre=(0.6, 0.5)
        )
    )
    domains, area = find_domains(image, MATERIALS["MoTe2"])
    assert len(domains) == 2
    assert domains[1].twin_of == 0
    for domain, true in zip(domains, specimen.lattices, strict=True):
        assert orientation_error(domain.lattice, true) < 0.7
        assert is_hollow(domain.lattice, true) < 0.08
        assert share(area, specimen.labels, domain.number) > 0.78  # the band is 2 a of 20 a
        assert share(area, specimen.labels, 3 - domain.number, domain.number) < 0.01


@pytest.mark.parametrize(("stacking", "material"), [("AA'", "MoS2"), ("AB", "MoSe2")])
def test_bilayer_island(stacking, material):
    image, specimen = make(
        PatchSettings(kind="bilayer", stacking=stacking, radius=0.25), material=material, counts=80
    )
    domains, area = find_domains(image, MATERIALS[material])
    assert len(domains) == 1
    assert share(area, specimen.labels, BILAYER) > 0.97
    assert share(area, specimen.labels, 1) > 0.85  # a rim of 0.8 a around it goes too
    # it must not mislead the choice of X and M either
    assert orientation_error(domains[0].lattice, specimen.lattices[0]) < 0.3


def test_thick_dirt_is_left_out_and_thin_dirt_is_not():
    image, specimen = make(
        PatchSettings(kind="dirt", radius=0.15, centre=(0.3, 0.3), thickness=2.0),
        PatchSettings(kind="dirt", radius=0.15, centre=(0.7, 0.7), thickness=0.4),
    )
    _, area = find_domains(image, MATERIALS["MoTe2"])
    assert area.at(np.array([90.0, 96.0])) == CONTAMINATED
    assert area.at(np.array([209.0, 223.0])) == 1
    assert share(area, specimen.labels, 1) > 0.98


def test_amorphous_and_unrecorded_areas_are_left_out():
    image, specimen = make(
        PatchSettings(kind="amorphous", radius=0.25, centre=(0.35, 0.4), thickness=0.3)
    )
    image[200:260, 200:280] = np.nan
    _, area = find_domains(image, MATERIALS["MoTe2"])
    labels = area.to_pixels()
    assert (labels[specimen.labels == NO_LATTICE] >= FIRST_CODE).mean() > 0.7
    assert (labels[215:245, 215:265] >= FIRST_CODE).mean() > 0.9


def test_label_map():
    labels = np.array([[1, 1, VACUUM], [2, BOUNDARY, VACUUM]], np.uint8)
    area = AnalysedArea(labels, 8, (16, 20))
    assert area.at(np.array([[0, 0], [7.4, 7.4], [7.6, 0], [15, 19], [99, 99]])).tolist() == [
        1, 1, 2, VACUUM, VACUUM,
    ]  # fmt: skip
    assert area.domain_at(np.array([[1.0, 18.0], [14.0, 8.0], [14.0, 1.0]])).tolist() == [1, 2, 2]
    shares = area.shares()
    assert shares["analysed"] == pytest.approx(3 * 64 / 320)
    assert shares["vacuum"] == pytest.approx(2 * 8 * 4 / 320)
    assert sum(shares.values()) == pytest.approx(1)
    assert np.array_equal(np.unique(area.to_pixels()), [1, 2, BOUNDARY, VACUUM])
    whole = AnalysedArea.whole((30, 50))
    assert whole.shares()["analysed"] == 1


def test_users_polygons_restrict_the_area():
    area = AnalysedArea.whole((100, 120))
    square = np.array([[20.0, 30], [20, 70], [60, 70], [60, 30]])
    found = restrict(area, [square, square + [0, 20]])
    assert restrict(area, []) is area
    assert found.share_of(1) == pytest.approx(40 * 60 / 12000, rel=0.1)
    assert found.at(np.array([[40.0, 50], [40, 85], [10, 10], [80, 50]])).tolist() == [
        1, 1, NOT_CHOSEN, NOT_CHOSEN,
    ]  # fmt: skip
    assert sum(found.shares().values()) == pytest.approx(1)


class EveryHexagon:
    """Finds every hexagon of the lattice it is given, whether there is material or not."""

    class weights:
        version = "detector@truth"

    def predict(self, data, lattice, *, min_score, on_progress, should_stop):
        nodes = lattice_nodes(lattice, data.shape, margin=0.0)
        middles = np.rint(lattice.to_image(nodes)).astype(int)
        inside = ((middles >= 0) & (middles < np.array(data.shape))).all(1)
        seen = np.zeros(len(nodes), bool)
        seen[inside] = np.isfinite(data[tuple(middles[inside].T)])
        nodes = nodes[seen]
        return Hexagons.from_canonical_boxes(hexagon_boxes(nodes), np.ones(len(nodes)), lattice)


class EveryCellPerfect:
    """Calls every cell perfect, and notes in what lattice it was asked."""

    calibration = ProbabilityCalibration()

    class weights:
        version = "classifier@truth"

    def __init__(self):
        self.calls = []

    def reference(self, data, lattice, cells):
        return np.full((2, 2), lattice.angle_deg)

    def predict(
        self,
        data,
        lattice,
        cells,
        *,
        alpha,
        beta,
        on_progress,
        should_stop,
        reference=None,
        beside=None,
    ):
        self.calls.append((lattice, len(cells), reference))
        found = np.tile(np.eye(6)[0], (len(cells), 1))
        return UnitCells(cells.chalcogen_px, cells.metal_px, cells.votes, found)


@pytest.fixture
def classifier(monkeypatch):
    classifier = EveryCellPerfect()
    monkeypatch.setattr(networks, "detector_of", lambda settings: EveryHexagon())
    monkeypatch.setattr(networks, "classifier_of", lambda settings: classifier)
    return classifier


def errors_of(cells, specimen, a_px):
    """Share of cells that are not there, and of the true ones that were not found."""
    from scipy.spatial import cKDTree

    scene = specimen.scene
    # which bond is a cell's depends on the lattice's orientation, its X₂ column does not
    true, found = scene.chalcogen_px, cells.chalcogen_px
    reach = 0.3 * a_px
    invented = cKDTree(specimen.sites_px).query(found)[0] > reach
    lost = cKDTree(found).query(true)[0] > reach
    return invented.mean(), lost.mean()


def test_census_of_twins_counts_both_and_not_the_boundary(classifier):
    image, specimen = make(
        PatchSettings(kind="twin", outline="half", direction_deg=30, shift_a=(0.2, 0.1)),
        material="MoS2",
    )
    settings = AnalysisSettings(material="MoS2")
    analysis = pipeline.analyze(StemImage(image, "twins"), settings)
    invented, lost = errors_of(analysis.cells, specimen, 16.0)
    assert invented < 0.01
    assert lost < 0.25  # the band and the image's edge
    first, second = analysis.detection.domains
    assert [call[0].angle_deg for call in classifier.calls] == [
        first.lattice.angle_deg,
        second.lattice.angle_deg,
    ]
    assert [call[2][0, 0] for call in classifier.calls] == pytest.approx(
        [first.lattice.angle_deg, second.lattice.angle_deg]
    )
    census = json.loads(json.dumps(analysis.census))
    assert [d["number"] for d in census["domains"]] == [1, 2]
    assert [d["twin_of"] for d in census["domains"]] == [None, 1]
    assert sum(d["n_cells"] for d in census["domains"]) == census["n_cells"]
    area = census["area"]
    assert area["left_out_nm2"]["grain boundary"] > 0
    assert area["analysed_nm2"] + sum(area["left_out_nm2"].values()) == pytest.approx(
        area["image_nm2"]
    )
    assert 0.75 * area["analysed_nm2"] < census["area_nm2"] < area["analysed_nm2"]
    table = cells_table(analysis.cells, MATERIALS["MoS2"])
    assert table["domain"].value_counts().to_dict() == {
        d["number"]: d["n_cells"] for d in census["domains"]
    }


def test_no_cells_are_invented_in_vacuum(classifier):
    image, specimen = make(
        PatchSettings(radius=0.25), PatchSettings(radius=0.15, centre=(0.1, 0.9))
    )
    analysis = pipeline.analyze(StemImage(image, "holes"), AnalysisSettings())
    in_vacuum = specimen.labels[tuple(np.rint(analysis.cells.centres_px).astype(int).T)] == VACUUM
    # this detector finds hexagons everywhere: a rim is left to the network
    assert in_vacuum.mean() < 0.04
    assert errors_of(analysis.cells, specimen, 16.0)[1] < 0.12


def test_recasting_in_domains_equals_casting_anew(classifier):
    image, _ = make(
        PatchSettings(kind="grain", outline="half", direction_deg=70, tilt_deg=22), counts=200
    )
    settings = AnalysisSettings()
    frame = StemImage(image, "grains")
    detection = pipeline.detect(frame, settings)
    cells = pipeline.classify(frame, detection, settings)
    where = detection.domain_map
    rng = np.random.default_rng(1)
    fewer = detection.hexagons.take(rng.random(len(detection.hexagons)) < 0.9)
    # layers hand hexagons and cells back without their domains: their places tell
    nameless = Hexagons(fewer.corners_px, fewer.scores)
    bare = replace(cells, domain=np.zeros(len(cells), int))
    change = recast_domains(detection.hexagons, nameless, bare, where, SHAPE)
    now, anew = change.applied_to(bare), cast_domains(fewer, where, SHAPE)
    assert len(now) == len(anew)
    order, other = (np.lexsort(each.chalcogen_px.round(1).T) for each in (now, anew))
    assert np.abs(now.centres_px[order] - anew.centres_px[other]).max() < 0.11 * 16
    (again,) = pipeline.reclassify(frame, detection, bare, [nameless], settings)
    assert np.isfinite(again.cells.probabilities).all()
    assert set(np.unique(again.cells.domain)) <= {1, 2}
    for domain in detection.domains:
        rows, cols = np.nonzero(detection.area.to_pixels() == domain.number)
        assert detection.lattice_at([rows.mean(), cols.mean()]) is domain.lattice


def test_a_detection_without_domains_is_one_domain(hexagons, lattice):
    detection = Detection(lattice, hexagons, (0.01, 0.01), "lattice")
    where = detection.domain_map
    assert isinstance(where, DomainMap)
    assert detection.lattice_at([3.0, 4.0]) is lattice
    plain, mapped = (
        cast_net(hexagons, lattice, (256, 256)),
        cast_domains(hexagons, where, (256, 256)),
    )
    assert np.array_equal(plain.chalcogen_px, mapped.chalcogen_px)
    assert np.unique(mapped.domain).tolist() == [1]
