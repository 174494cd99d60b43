"""The twin of simulated images: what is judged rightly leaves noise, what is not leaves a spot."""

from dataclasses import replace

import numpy as np
import pytest

from napari_point_defects.analysis_settings import AnalysisSettings
from napari_point_defects.detections import Detection
from napari_point_defects.errors import PointDefectsError
from napari_point_defects.image_twin import twin_of_image
from napari_point_defects.materials import DefectClass
from napari_point_defects.records import Hexagons, StemImage, UnitCells
from napari_point_defects.simulation.noise import NoiseSettings, add_noise
from napari_point_defects.simulation.scenes import SceneSettings, make_scene


@pytest.fixture(scope="module")
def known():
    """An image, its detection and its cells as they truly are."""
    rng = np.random.default_rng(5)
    settings = SceneSettings(
        height_px=300, width_px=280, a_px=20, angle_deg=13, source_fwhm_nm=0.09, shear=0.03
    )
    scene = make_scene(settings, rng)
    noise = NoiseSettings.for_column_counts(scene, 1000, gaussian_mu=3.0, bits=16)
    image = StemImage(add_noise(scene, noise, rng).astype(np.float32), "known")
    cells = UnitCells(
        scene.chalcogen_px,
        scene.metal_px,
        np.full(len(scene.classes), 2),
        np.eye(6)[scene.classes],
    )
    none = Hexagons(np.zeros((0, 4, 2)), np.zeros(0))
    return image, Detection(scene.lattice, none, (settings.pixel_size_nm,) * 2, "user"), cells


def twin_with(known, row=None, wrong=None):
    image, detection, cells = known
    probabilities = np.array(cells.probabilities)
    if row is not None:
        probabilities[row] = np.eye(6)[wrong]
    changed = replace(cells, probabilities=probabilities)
    return twin_of_image(image, detection, changed, AnalysisSettings())


def inner(known, defect_class):
    """Return a cell of a class in the middle of the image."""
    image, _, cells = known
    off = np.abs(cells.centres_px - np.array(image.data.shape) / 2).max(axis=1)
    off[cells.classes != defect_class] = np.inf
    return int(np.argmin(off))


def test_right_calls_leave_noise_alone(known):
    twin = twin_with(known)
    assert twin.misfit == pytest.approx(1, abs=0.35)
    sites = np.concatenate([twin.chalcogen_residual, twin.metal_residual])
    assert np.std(sites) < 2
    assert np.abs(sites).max() < 6


@pytest.mark.parametrize(
    ("truth", "called", "sublattice", "sign"),
    [
        (DefectClass.PERFECT, DefectClass.V_M, "metal", 1),
        (DefectClass.PERFECT, DefectClass.V_X2, "chalcogen", 1),
        (DefectClass.V_X1, DefectClass.PERFECT, "chalcogen", -1),
        (DefectClass.V_X1, DefectClass.V_X2, "chalcogen", 1),
        (DefectClass.V_M, DefectClass.PERFECT, "metal", -1),
    ],
)
def test_a_wrong_call_stands_out_at_its_column_and_nowhere_else(
    known, truth, called, sublattice, sign
):
    row = inner(known, truth)
    residual = getattr(twin_with(known, row, called), f"{sublattice}_residual")
    right = getattr(twin_with(known), f"{sublattice}_residual")
    assert np.sign(residual[row]) == sign
    assert abs(residual[row]) > 6
    assert np.argmax(np.abs(residual)) == row
    others = np.arange(len(right)) != row
    assert np.abs(residual - right)[others].max() < 0.35 * abs(residual[row])


def test_what_was_not_recorded_stays_empty(known):
    image, detection, cells = known
    data = image.data.copy()
    data[:40] = np.nan
    twin = twin_of_image(replace(image, data=data), detection, cells, AnalysisSettings())
    assert np.isnan(twin.residual[:40]).all()
    assert np.isfinite(twin.residual[40:]).all()


def test_an_image_that_cannot_be_measured_has_no_twin(known):
    image, detection, cells = known
    with pytest.raises(PointDefectsError, match="has no twin"):
        twin_of_image(image, detection, cells.take(np.arange(3)), AnalysisSettings())
