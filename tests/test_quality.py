"""Quality figures of images whose answers are known."""

import json
import math

import numpy as np
import pytest

from napari_point_defects.materials import get_material
from napari_point_defects.quality import (
    BOUNDS,
    assess_quality,
    cohens_kappa,
    position_residual,
    quality_lines,
)
from napari_point_defects.records import UnitCells
from napari_point_defects.simulation.noise import NoiseSettings, add_noise
from napari_point_defects.simulation.scenes import SceneSettings, make_scene

MOTE2 = get_material("MoTe2")
PIXEL_NM = MOTE2.lattice_constant_nm / 20


def classified(counts, *, wrong=0, unsure=0):
    """Return an image, its lattice, and its cells as a network might have classified them."""
    rng = np.random.default_rng([815, int(counts)])
    settings = SceneSettings(
        height_px=300, width_px=300, a_px=20.0, defect_rates=(0.05, 0.03, 0.03, 0.01, 0.01)
    )
    scene = make_scene(settings, rng)
    data = add_noise(scene, NoiseSettings.for_column_counts(scene, counts, bits=16), rng)
    classes = scene.classes.copy()
    classes[:wrong] = (classes[:wrong] + 1) % 6
    probabilities = np.eye(6)[classes] * 0.98 + 0.02 / 6
    probabilities[:unsure] = probabilities[:unsure] * 0.5 + 0.5 / 6
    votes = np.full(len(classes), 2)
    cells = UnitCells(scene.chalcogen_px, scene.metal_px, votes, probabilities)
    return data.astype(np.float32), scene.lattice, cells


def assess(data, lattice, cells):
    return assess_quality(data, lattice, cells, MOTE2, (PIXEL_NM, PIXEL_NM))


def test_a_bright_image_is_good():
    quality = assess(*classified(20000))
    assert quality.verdict == "good"
    assert set(quality.figures) == set(BOUNDS)
    assert quality.figures["rule_agreement"].value == 1
    assert quality.figures["rule_kappa"].value == 1
    assert quality.figures["position_residual_a"].value < 0.01
    assert quality.figures["chalcogen_signal_to_noise"].value > 15
    assert quality.line.startswith("good")


def test_few_counts_are_poor_and_the_line_says_why():
    bright, dim = assess(*classified(3000)), assess(*classified(60))
    snr = "chalcogen_signal_to_noise"
    # counting noise: the root of the dose
    assert bright.figures[snr].value / dim.figures[snr].value == pytest.approx(
        math.sqrt(3000 / 60), rel=0.35
    )
    assert dim.verdict == "poor"
    assert "signal-to-noise" in dim.line
    assert dim.figures["rule_agreement"].value < bright.figures["rule_agreement"].value


def test_what_the_classifier_says_against_the_columns_shows():
    data, lattice, cells = classified(20000, wrong=40, unsure=30)
    quality = assess(data, lattice, cells)
    share = 1 - 40 / len(cells)
    assert quality.figures["rule_agreement"].value == pytest.approx(share)
    assert quality.figures["rule_kappa"].value < share
    assert quality.figures["unsure_share"].value == pytest.approx(30 / len(cells))
    assert quality.verdict != "good"


def test_cells_found_by_one_hexagon_count_inside_the_image_alone():
    data, lattice, cells = classified(20000)
    reach = 1.6 * 20
    inside = ((cells.centres_px > reach) & (cells.centres_px < 299 - reach)).all(axis=1)
    votes = np.where(inside, 2, 1)
    edge = UnitCells(cells.chalcogen_px, cells.metal_px, votes, cells.probabilities)
    assert assess(data, lattice, edge).figures["one_vote_share"].value == 0
    votes = np.where(inside, 1, 2)
    inner = UnitCells(cells.chalcogen_px, cells.metal_px, votes, cells.probabilities)
    assert assess(data, lattice, inner).figures["one_vote_share"].value == 1
    assert assess(data, lattice, inner).verdict == "poor"


def test_residual_of_known_displacements():
    _, lattice, cells = classified(20000)
    rng = np.random.default_rng(0)
    shift = rng.normal(0, 0.03 * 20, (len(cells), 2)) + [1.3, -2.1]  # the second is common to all
    moved = UnitCells(
        cells.chalcogen_px + shift, cells.metal_px + shift, cells.votes, cells.probabilities
    )
    off_a, off_nm = position_residual(moved, lattice, (PIXEL_NM, PIXEL_NM))
    assert off_a == pytest.approx(0.03 * math.sqrt(2), rel=0.1)
    assert off_nm == pytest.approx(off_a * MOTE2.lattice_constant_nm, rel=1e-6)


def test_kappa_by_hand():
    one = np.repeat([0, 0, 1, 1], [20, 5, 10, 15])
    other = np.repeat([0, 1, 0, 1], [20, 5, 10, 15])
    assert cohens_kappa(one, other) == pytest.approx(0.4)  # Cohen's own kind of example
    assert cohens_kappa(one, one) == 1
    assert math.isnan(cohens_kappa(np.zeros(5, int), np.zeros(5, int)))


def test_figures_are_written_and_printed_even_where_undefined():
    data, lattice, cells = classified(20000)
    quality = assess(data, lattice, cells.take([0, 1]))
    content = quality.as_dict()
    assert set(content["figures"]) == set(BOUNDS)
    lines = quality_lines(content)
    assert len(lines) == 1 + len(BOUNDS)
    assert all("\n" not in line for line in lines)
    assert any("not defined" in line for line in lines)  # κ of two perfect cells
    json.dumps(assess(data, lattice, cells).as_dict(), allow_nan=False)
    assert quality_lines({}) == []
