"""The FCN baseline: pixel classes, cells from pixels, and that it learns."""

import numpy as np
import pytest
import torch

from napari_point_defects.baselines.fcn.data import PixelDataset, disc_pixels, pixel_classes
from napari_point_defects.baselines.fcn.model import (
    BACKGROUND,
    METAL,
    NO_CHALCOGEN,
    NO_METAL,
    PAIR,
    SINGLE,
    FcnSettings,
    FullyConvolutional,
)
from napari_point_defects.baselines.fcn.prediction import FcnClassifier
from napari_point_defects.baselines.fcn.training import train_fcn
from napari_point_defects.canonical import CanonicalImage
from napari_point_defects.devices import FitSettings
from napari_point_defects.materials import DefectClass
from napari_point_defects.simulation.noise import NoiseSettings, add_noise
from napari_point_defects.simulation.scenes import SceneSettings, make_scene
from napari_point_defects.training_set import LabelledImage


def labelled(seed, rate=0.1):
    rng = np.random.default_rng(seed)
    settings = SceneSettings(
        height_px=150, width_px=160, a_px=14, angle_deg=20, defect_rates=(rate / 5,) * 5
    )
    scene = make_scene(settings, rng)
    noise = NoiseSettings.for_column_counts(scene, 5000, gaussian_mu=1, bits=16)
    return LabelledImage(
        add_noise(scene, noise, rng),
        scene.lattice,
        "MoTe2",
        scene.hexagons_px,
        scene.chalcogen_px,
        scene.metal_px,
        scene.classes,
    )


def test_discs_hold_the_pixels_within_their_radius():
    rows, columns, owner = disc_pixels((20, 20), np.array([[5.2, 6.0], [0.0, 19.0]]), 2.5)
    assert ((rows >= 0) & (rows < 20) & (columns >= 0) & (columns < 20)).all()
    first = owner == 0
    assert np.hypot(rows[first] - 5.2, columns[first] - 6.0).max() <= 2.5
    assert abs(first.sum() - np.pi * 2.5**2) < 3
    assert 5 <= (~first).sum() <= 9  # a quarter


def test_every_class_of_cell_has_its_pixels():
    chalcogen = np.column_stack([np.full(6, 10.0), 10.0 + 20 * np.arange(6)])
    metal = chalcogen + [15, 0]
    found = pixel_classes((40, 130), chalcogen, metal, np.arange(6), 3)
    x = found[10, 10 + 20 * np.arange(6)]
    assert x.tolist() == [PAIR, SINGLE, NO_CHALCOGEN] * 2
    assert found[25, 10 + 20 * np.arange(6)].tolist() == [METAL] * 3 + [NO_METAL] * 3
    assert found[0, 0] == BACKGROUND


def test_items_agree_with_their_labels():
    item = labelled(0)
    pixels, target = PixelDataset([item], FcnSettings(crop_px=128), False)[0]
    assert pixels.shape == (1, 128, 128)
    assert target.shape == (128, 128)
    level = {kind: pixels[0][target == kind].mean() for kind in (BACKGROUND, METAL, NO_METAL, PAIR)}
    # an empty M site is darker than a hollow: it has fewer neighbours
    assert level[PAIR] > level[METAL] > level[BACKGROUND] > level[NO_METAL]


class _Known(FcnClassifier):
    """Names pixels as a picture says."""

    def __init__(self, settings, classes):
        super().__init__(FullyConvolutional(settings.filters), settings)
        self.classes = classes

    def pixel_probabilities(self, image):
        item = self.classes
        chalcogen, metal = (
            image.to_pixels(item.lattice.to_canonical(points))
            for points in (item.chalcogen_px, item.metal_px)
        )
        radius = self.settings.disc_a * self.settings.pixels_per_a
        named = pixel_classes(image.pixels.shape, chalcogen, metal, item.classes, radius)
        return np.moveaxis(np.eye(6, dtype=np.float32)[named], -1, 0)


def test_pixels_named_rightly_make_cells_of_the_right_class():
    item = labelled(1, rate=0.5)
    cells = item.cells
    found = _Known(FcnSettings(), item).predict(item.pixels.astype(np.float32), item.lattice, cells)
    np.testing.assert_array_equal(found.probabilities.argmax(axis=1), item.classes)
    np.testing.assert_allclose(found.probabilities.sum(axis=1), 1, rtol=1e-5)
    single = item.classes % 3 == 1
    np.testing.assert_allclose(found.confidence[single], [[0, 1, 0]] * single.sum())


def test_tiles_give_what_the_whole_gives(monkeypatch):
    torch.manual_seed(0)
    settings = FcnSettings(filters=4)
    fcn = FcnClassifier(FullyConvolutional(4), settings)
    pixels = np.random.default_rng(0).normal(size=(200, 264)).astype(np.float32)
    image = CanonicalImage(pixels, np.zeros(2), 16)
    whole = fcn.pixel_probabilities(image)
    monkeypatch.setattr("napari_point_defects.baselines.fcn.prediction._TILE_PX", 96)
    np.testing.assert_allclose(fcn.pixel_probabilities(image), whole, atol=1e-5)


def test_it_learns_where_columns_are(tmp_path):
    images = [labelled(seed, 0.4) for seed in range(6)]
    settings = FcnSettings(
        filters=8, crop_px=96, fit=FitSettings(epochs=5, images_per_epoch=96, learning_rate=5e-3)
    )
    weights, metrics = train_fcn((images, images[:2]), tmp_path, settings)
    assert metrics["val_accuracy"] > 0.8
    item = labelled(99, 0.0)
    cells = item.cells
    found = FcnClassifier.of_weights(weights, settings).predict(
        item.pixels.astype(np.float32), item.lattice, cells
    )
    assert np.mean(found.probabilities.argmax(axis=1) == DefectClass.PERFECT) == pytest.approx(
        1, abs=0.1
    )
