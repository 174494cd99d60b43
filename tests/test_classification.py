"""CNN-2: its training data, presets, training and probabilities."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from napari_point_defects.classification.data import CellDataset, collate, misplace, turn
from napari_point_defects.classification.model import (
    CLASSIFIER_PRESETS,
    ClassifierSettings,
    build_classifier,
    cell_inputs,
)
from napari_point_defects.classification.prediction import Classifier
from napari_point_defects.classification.training import (
    ClassifierModule,
    confusion_matrix,
    mean_f1,
    train_classifier,
)
from napari_point_defects.errors import PointDefectsError, Stopped
from napari_point_defects.fitting import FitSettings
from napari_point_defects.materials import BOND, DefectClass
from napari_point_defects.records import Lattice, UnitCells
from napari_point_defects.simulation.presets import TrainingSetSettings
from napari_point_defects.simulation.scenes import SceneSettings, lattice_nodes, make_scene
from napari_point_defects.simulation.sets import simulate_image
from napari_point_defects.training_set import (
    UNLABELLED,
    LabelledImage,
    TrainingSet,
    TrainingSetWriter,
)
from napari_point_defects.weights import save_weights

TINY = ClassifierSettings(
    side=32,
    perfect_cells=6,
    fit=FitSettings(epochs=1, batch_images=2, bfloat16=False, loader_workers=0, device="cpu"),
)


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """Three and one bright images, 7 lattice constants wide, with many defects."""
    settings = TrainingSetSettings(
        side_a=7.0,
        a_px=(12.0, 14.0),
        column_counts=(5e3, 5e3),
        contamination_share=0.0,
        vacuum_share=0.0,
        drift_a=(0.0, 0.0),
        defect_rate=(0.3, 0.4),
        seed=5,
    )
    folder = tmp_path_factory.mktemp("cells")
    for split, (name, count) in enumerate((("train", 3), ("validation", 1))):
        writer = TrainingSetWriter(folder / name)
        for index in range(count):
            writer.add(simulate_image(settings, split, index))
        writer.close()
    return folder


@pytest.fixture(scope="module")
def island():
    """A labelled image whose defects all lie far from its edges."""
    settings = SceneSettings(height_px=220, width_px=240, a_px=14.0, angle_deg=31.0, shear=0.08)
    rng = np.random.default_rng(1)
    nodes = lattice_nodes(settings.lattice(), (220, 240))
    classes = np.zeros(len(nodes), int)
    inner = np.linalg.norm(nodes, axis=1) < 4.5
    classes[inner] = rng.choice(6, inner.sum(), p=[0.4, 0.2, 0.1, 0.1, 0.1, 0.1])
    scene = make_scene(settings, rng, classes=classes)
    return LabelledImage(
        np.zeros((220, 240), np.uint8),
        scene.lattice,
        "MoTe2",
        scene.hexagons_px,
        scene.chalcogen_px,
        scene.metal_px,
        scene.classes,
    )


def vacancies(classes):
    """Missing chalcogens and metals."""
    return int((classes % 3).sum()), int((classes >= DefectClass.V_M).sum())


# --- the six frames --------------------------------------------------------------------------


@pytest.mark.parametrize("turns", [0, 1, 2])
@pytest.mark.parametrize("mirror", [False, True])
def test_turned_image_has_as_many_vacancies(island, turns, mirror):
    lattice, cells, classes = turn(island, turns=turns, mirror=mirror)
    assert min(vacancies(island.classes)) > 5
    assert vacancies(classes) == vacancies(island.classes)
    # a cell is still the bond that runs from X towards the upper right of its own frame
    bond = lattice.to_canonical(cells.metal_px) - lattice.to_canonical(cells.chalcogen_px)
    assert bond == pytest.approx(np.tile([-BOND / 2, 0.5], (len(bond), 1)), abs=1e-6)
    assert len(np.unique(cells.metal_px.round(3), axis=0)) == len(cells)
    assert 0.85 * len(island.classes) < len(cells) <= len(island.classes)


def test_no_turn_changes_nothing(island):
    lattice, cells, classes = turn(island, turns=0, mirror=False)
    assert np.array_equal(classes, island.classes)
    assert np.array_equal(cells.chalcogen_px, island.chalcogen_px)
    assert np.array_equal(cells.metal_px, island.metal_px)
    assert lattice.matrix_px == pytest.approx(island.lattice.matrix_px)


def test_a_turn_pairs_the_columns_anew(island):
    _, cells, classes = turn(island, turns=1, mirror=False)
    columns = {tuple(p) for p in island.chalcogen_px}
    assert {tuple(p) for p in cells.chalcogen_px} <= columns
    assert not np.allclose(
        cells.metal_px - cells.chalcogen_px, (island.metal_px - island.chalcogen_px)[: len(cells)]
    )
    # every column keeps its own vacancies
    before = dict(zip(map(tuple, island.chalcogen_px), island.classes % 3, strict=True))
    after = dict(zip(map(tuple, cells.chalcogen_px), classes % 3, strict=True))
    assert all(before[column] == missing for column, missing in after.items())


def test_frames_are_turned_by_120_degrees_and_mirrored(island):
    plain = turn(island, turns=0, mirror=False)[0]
    turned = turn(island, turns=1, mirror=False)[0]
    relative = np.linalg.inv(plain.matrix_px) @ turned.matrix_px
    assert np.trace(relative) == pytest.approx(2 * np.cos(2 * np.pi / 3))
    assert np.linalg.matrix_power(relative, 3) == pytest.approx(np.eye(2), abs=1e-9)
    mirrored = turn(island, turns=0, mirror=True)[0]
    assert np.linalg.det(mirrored.matrix_px) == pytest.approx(-np.linalg.det(plain.matrix_px))


def test_misplacement_is_as_large_as_cnn1_leaves_it(island):
    cells = island.cells
    rng = np.random.default_rng(2)
    shifts = []
    for _ in range(60):
        lattice, moved = misplace(island.lattice, cells, rng)
        shift = (moved.chalcogen_px - cells.chalcogen_px) / island.lattice.a_px
        # both columns move together
        assert moved.metal_px - cells.metal_px == pytest.approx(shift * island.lattice.a_px)
        shifts.append(shift)
        assert lattice.a_px == pytest.approx(island.lattice.a_px, rel=0.04)
    shifts = np.array(shifts)
    assert shifts.std() == pytest.approx(np.hypot(0.02, 0.015), rel=0.15)
    assert (shifts - shifts.mean(axis=1, keepdims=True)).std() == pytest.approx(0.015, rel=0.1)


# --- training data ---------------------------------------------------------------------------


def test_perfect_cells_are_thinned_out_at_their_true_weight(images):
    torch.manual_seed(0)
    split = TrainingSet(images / "train")
    item = split[0]
    inputs, classes, weights, _ = CellDataset(split, TINY, augment=True)[0]
    assert inputs.shape == (len(classes), 3, 32, 32)
    perfect = classes == 0
    assert perfect.sum() == 6
    assert torch.all(weights[~perfect] == 1)
    # all cells count, though most perfect ones are not shown; a turn loses some at the edges
    assert 0.7 * len(item.classes) < weights.sum() <= len(item.classes)


def test_validation_shows_every_cell_once_and_always_the_same(images):
    split = TrainingSet(images / "validation")
    data = CellDataset(split, TINY, augment=False)
    inputs, classes, weights, _ = data[0]
    assert classes.tolist() == split[0].classes.tolist()
    assert torch.all(weights == 1)
    assert torch.equal(data[0][0], inputs)


def test_batches_join_the_cells_of_images(images):
    data = CellDataset(TrainingSet(images / "train"), TINY, augment=False)
    inputs, classes, weights, _ = collate([data[0], data[1]])
    assert len(inputs) == len(classes) == len(weights) == len(data[0][1]) + len(data[1][1])


# --- networks --------------------------------------------------------------------------------


@pytest.mark.parametrize(("crop", "channels"), [("window", 3), ("bond1", 1), ("bond2", 2)])
def test_inputs_fit_their_network(images, crop, channels):
    settings = TINY.model_copy(update={"crop": crop})
    item = TrainingSet(images / "train")[0]
    cells = item.cells
    inputs = cell_inputs(item.pixels.astype(np.float32), item.lattice, cells, settings)
    assert inputs.shape == (len(cells), channels, 32, 32)
    network = build_classifier(settings).eval()
    with torch.inference_mode():
        assert network(inputs[:2]).shape == (2, 6)


@pytest.mark.parametrize("preset", ["compact", "paper", "paper-1channel"])
def test_presets_build_and_take_one_training_step(images, preset):
    settings = CLASSIFIER_PRESETS[preset].model_copy(update={"perfect_cells": 2})
    assert settings.preset == preset
    torch.manual_seed(0)
    data = CellDataset(TrainingSet(images / "train"), settings, augment=True)
    inputs, classes, *_ = data[0]
    module = ClassifierModule(settings, total_steps=10).train()
    before = {n: p.detach().clone() for n, p in module.named_parameters()}
    optimizer = module.configure_optimizers()
    if isinstance(optimizer, dict):
        optimizer = optimizer["optimizer"]
    loss = nn.functional.cross_entropy(module.network(inputs[:4]), classes[:4])
    loss.backward()
    optimizer.step()
    after = dict(module.named_parameters())
    assert all(torch.isfinite(after[n]).all() for n in before)
    assert sum(not torch.equal(p, after[n]) for n, p in before.items()) > 0.9 * len(before)


def test_paper_presets_are_the_papers():
    for preset, crop in (("paper", "bond2"), ("paper-1channel", "bond1")):
        settings = CLASSIFIER_PRESETS[preset]
        assert (settings.crop, settings.side) == (crop, 224)
        fit = settings.fit
        assert (fit.epochs, fit.learning_rate, fit.weight_decay) == (40, 2e-6, 0)
    assert CLASSIFIER_PRESETS["compact"].crop == "window"


# --- figures of merit ------------------------------------------------------------------------


def test_confusion_matrix_and_mean_f1():
    truth = np.array([0, 0, 0, 0, 1, 1, 5])
    predicted = np.array([0, 0, 0, 1, 1, 2, 5])
    confusion = confusion_matrix(truth, predicted)
    assert confusion.sum() == 7
    assert (confusion[0, 0], confusion[0, 1], confusion[1, 2], confusion[5, 5]) == (3, 1, 1, 1)
    # F1: perfect 6/7, V_X1 2/4, V_X2+V_M 1; classes that do not occur do not count
    assert mean_f1(confusion) == pytest.approx((6 / 7 + 0.5 + 1) / 3)
    assert mean_f1(np.zeros((6, 6), int)) == 0


# --- training and prediction -----------------------------------------------------------------


@pytest.fixture(scope="module")
def trained(images, tmp_path_factory):
    """One epoch on three images: nothing learnt, but everything a run leaves behind."""
    folder = tmp_path_factory.mktemp("run")
    tensors, metrics = train_classifier(images, folder, TINY)
    return folder, tensors, metrics


def test_training_leaves_metrics_and_a_checkpoint(trained, images):
    folder, _, metrics = trained
    assert (folder / "last.ckpt").is_file()
    assert "val_score" in (folder / "metrics.csv").read_text()
    assert metrics["epochs"] == 1
    assert metrics["calibration"]["temperature"] > 0
    confusion = np.array(metrics["val_confusion"])
    truth = TrainingSet(images / "validation").class_counts()
    assert confusion.sum(axis=1).tolist() == truth.tolist()
    assert metrics["val_accuracy"] == pytest.approx(np.trace(confusion) / confusion.sum())


def save(path, tensors, settings, temperature):
    save_weights(
        path,
        tensors,
        kind="classifier",
        settings=settings.model_dump(mode="json"),
        training_set={"seed": 5},
        metrics={"temperature": temperature},
    )
    return path


def predict(path, images, **options):
    item = TrainingSet(images / "validation")[0]
    cells = item.cells
    data = item.pixels.astype(np.float32)
    classifier = Classifier(path, "cpu")
    return classifier, data, item.lattice, classifier.predict(data, item.lattice, cells, **options)


def test_trained_weights_can_be_shipped_and_used(trained, images, tmp_path):
    _, tensors, _ = trained
    path = save(tmp_path / "classifier.safetensors", tensors, TINY, 1.3)
    shares = []
    _, _, _, cells = predict(path, images, on_progress=lambda share, text: shares.append(share))
    item = TrainingSet(images / "validation")[0]
    assert np.array_equal(cells.chalcogen_px, item.chalcogen_px)
    assert cells.probabilities.shape == (len(item.classes), 6)
    assert cells.probabilities.sum(axis=1) == pytest.approx(1)
    assert shares == sorted(shares)
    assert shares[-1] == 1


def test_temperature_flattens_the_probabilities(trained, images, tmp_path):
    _, tensors, _ = trained
    confidence = [
        predict(save(tmp_path / f"{t}.safetensors", tensors, TINY, t), images)[-1].confidence
        for t in (0.1, 1.0, 1e6)
    ]
    assert np.all(confidence[0] >= confidence[1])
    assert np.all(confidence[1] > confidence[2])
    assert confidence[2] == pytest.approx(1 / 6, abs=1e-3)


def test_the_papers_crop_is_judged_from_both_hexagons(images, tmp_path):
    settings = TINY.model_copy(update={"crop": "bond2"})
    torch.manual_seed(1)
    network = build_classifier(settings)
    path = save(tmp_path / "bond.safetensors", network.state_dict(), settings, 1.0)
    classifier, data, lattice, cells = predict(path, images)
    views = []
    for upper in (True, False):
        inputs = cell_inputs(data, lattice, cells, settings, upper=upper)
        with torch.inference_mode():
            views.append(torch.softmax(classifier.network(inputs).double(), 1).numpy())
    assert np.abs(views[0] - views[1]).max() > 1e-4
    assert cells.probabilities == pytest.approx((views[0] + views[1]) / 2, abs=0.02)


def test_no_cells_no_probabilities(trained, images, tmp_path):
    _, tensors, _ = trained
    classifier = Classifier(save(tmp_path / "c.safetensors", tensors, TINY, 1.0), "cpu")
    item = TrainingSet(images / "validation")[0]
    none = UnitCells.unclassified(np.zeros((0, 2)), np.zeros((0, 2)), np.zeros(0, int))
    found = classifier.predict(item.pixels.astype(np.float32), item.lattice, none)
    assert found.probabilities.shape == (0, 6)


def test_wish_to_stop_is_heard(trained, images, tmp_path):
    _, tensors, _ = trained
    path = save(tmp_path / "classifier.safetensors", tensors, TINY, 1.0)
    with pytest.raises(Stopped):
        predict(path, images, should_stop=lambda: True)


@pytest.mark.parametrize("wrong", ["crop", "temperature", "unknown setting"])
def test_weights_of_another_network_are_refused(trained, tmp_path, wrong):
    _, tensors, _ = trained
    settings, metrics = TINY.model_dump(mode="json"), {"temperature": 1.0}
    if wrong == "crop":
        settings["crop"] = "bond1"
    elif wrong == "temperature":
        metrics = {}
    else:
        settings["surprise"] = 1
    path = tmp_path / "classifier.safetensors"
    save_weights(
        path, tensors, kind="classifier", settings=settings, training_set={}, metrics=metrics
    )
    with pytest.raises(PointDefectsError, match="train it again"):
        Classifier(path, "cpu")


def test_cells_of_one_image_are_judged_alike_in_any_order(trained, images, tmp_path):
    _, tensors, _ = trained
    path = save(tmp_path / "classifier.safetensors", tensors, TINY, 1.0)
    classifier, data, lattice, cells = predict(path, images)
    order = np.random.default_rng(0).permutation(len(cells))
    shuffled = UnitCells.unclassified(
        cells.chalcogen_px[order], cells.metal_px[order], cells.votes[order]
    )
    again = classifier.predict(data, lattice, shuffled)
    assert again.probabilities == pytest.approx(cells.probabilities[order], abs=0.01)


def test_single_cell_images_are_not_turned(tmp_path):
    item = LabelledImage(
        np.random.default_rng(0).integers(0, 255, (60, 60)).astype(np.uint8),
        Lattice(np.array([29.5, 29.5]), 19 * np.eye(2)),
        "MoTe2",
        np.zeros((0, 2)),
        np.array([[24.0, 20.0]]),
        np.array([[18.5, 29.5]]),
        np.array([3]),
    )
    writer = TrainingSetWriter(tmp_path)
    writer.add(item)
    writer.close()
    data = CellDataset(TrainingSet(tmp_path), TINY.model_copy(update={"crop": "bond2"}), True)
    for seed in range(4):
        torch.manual_seed(seed)
        _, classes, weights, _ = data[0]
        assert classes.tolist() == [3]
        assert weights.tolist() == [1]


def test_cells_that_nobody_judged_are_not_learned(island):
    classes = np.full(len(island.classes), UNLABELLED)
    classes[:3] = island.classes[:3]
    dataset = CellDataset([replace(island, classes=classes)], CLASSIFIER_PRESETS["compact"], True)
    for _ in range(6):
        inputs, targets, weights, _ = dataset[0]
        assert sorted(targets.tolist()) == sorted(island.classes[:3].tolist())
        assert len(inputs) == len(weights) == 3


@pytest.mark.parametrize("mirror", [False, True])
def test_the_frames_of_partly_judged_images_keep_every_bond(mirror, island):
    turns = (0, 1)[mirror]
    _, cells, classes = turn(island, turns=turns, mirror=mirror)
    assert np.allclose(cells.chalcogen_px, island.chalcogen_px)
    assert np.allclose(cells.metal_px, island.metal_px)
    assert np.array_equal(classes, island.classes)
