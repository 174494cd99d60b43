"""Fine-tuning of CNN-2 on judged cells: what a step shows, and what stays as it was."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from napari_point_defects.classification import finetuning
from napari_point_defects.classification.finetuning import FINE_TUNING, fine_tune
from napari_point_defects.classification.model import ClassifierSettings, build_classifier
from napari_point_defects.errors import Stopped
from napari_point_defects.materials import DefectClass
from napari_point_defects.simulation.images import simulate_image
from napari_point_defects.simulation.presets import TrainingSetSettings
from napari_point_defects.training_set import UNLABELLED

SETTINGS = ClassifierSettings(
    side=32,
    perfect_cells=6,
    fit=FINE_TUNING.model_copy(update={"epochs": 1, "bfloat16": False, "device": "cpu"}),
)
N_JUDGED = 7


@pytest.fixture(scope="module")
def images():
    settings = TrainingSetSettings(
        side_a=6, a_px=(12.0, 12.0), seed=4, defect_rate=(0.02, 0.16), contamination_share=0
    )
    return [simulate_image(settings, 0, index) for index in range(4)]


@pytest.fixture(scope="module")
def labelled(images):
    classes = np.full(len(images[0].classes), UNLABELLED)
    classes[:N_JUDGED] = images[0].classes[:N_JUDGED]
    return replace(images[0], classes=classes)


@pytest.fixture(scope="module")
def start():
    torch.manual_seed(0)
    return {k: v.clone() for k, v in build_classifier(SETTINGS).state_dict().items()}


@pytest.fixture(scope="module")
def steps(images, labelled, start):
    judged, unjudged = finetuning._of_labels([labelled], SETTINGS, lambda: False)
    simulated = finetuning._of_simulation(images[1:], SETTINGS, start, lambda: False)
    return finetuning._Steps(judged, unjudged, simulated, seed=3)


def test_judged_cells_keep_their_class_and_the_others_are_apart(steps, labelled):
    known = labelled.classes[:N_JUDGED]
    np.testing.assert_array_equal(steps.judged.targets.argmax(1).numpy(), known)
    assert len(steps.unjudged) == len(labelled.classes) - N_JUDGED
    assert steps.judged.inputs.shape[1:] == (N_JUDGED, 3, 32, 32)
    assert len(steps.judged.inputs) == len(steps.unjudged.inputs) > 3  # placements


def test_simulated_targets_are_half_the_truth(steps):
    targets = steps.simulated.targets
    assert torch.allclose(targets.sum(1), torch.ones(len(targets)))
    assert (targets.max(1).values >= 0.5).all()
    assert not (targets == 1).all(1).any()


def test_only_the_surest_unjudged_cells_are_shown(steps, start):
    network = build_classifier(SETTINGS)
    network.load_state_dict(start)
    steps.begin(2, network)
    views = steps.unjudged.inputs
    said = finetuning._probabilities(network, views[2 % len(views)])
    margin = said.topk(2, dim=1).values.diff(dim=1).abs()[:, 0]
    assert len(steps.surest) == round(0.8 * len(said))
    surest = torch.argsort(margin, descending=True)[: len(steps.surest)]
    assert torch.equal(steps.surest.inputs, views[:, surest])
    assert torch.equal(steps.surest.targets.argmax(1), said[surest].argmax(1))


def test_a_step_is_the_same_however_it_was_reached(steps):
    steps.begin(1, None)
    first = steps[5]
    steps.begin(4, None)
    other = steps[5]
    steps.begin(1, None)
    again = steps[5]
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not torch.equal(first[0], other[0])
    counts, weights = (32, 48, 144), first[2].split((32, 48, 144))
    assert len(first[0]) == sum(counts)
    assert [float(w.sum()) for w in weights] == pytest.approx([0.25, 1.0, 4.0])


def test_what_is_judged_is_learned_and_the_first_layers_stay(
    monkeypatch, tmp_path, images, labelled, start
):
    monkeypatch.setattr(finetuning, "_STEPS_PER_EPOCH", 12)
    monkeypatch.setattr(finetuning, "_PER_STEP", (16, 8, 8))
    tensors, metrics = fine_tune(
        [labelled], images[1:3], images[3:], tmp_path / "run", SETTINGS, start=start
    )
    assert metrics["epochs"] == 1
    assert np.sum(metrics["val_confusion"]) == len(images[3].classes)
    moved = {name for name in tensors if not torch.equal(tensors[name], start[name])}
    weights = {name for name in moved if name.endswith("weight")}
    assert "fc.weight" in weights
    assert not any(name.startswith(("conv1", "bn1", "layer1")) for name in weights)
    inputs = finetuning._of_labels([labelled], SETTINGS, lambda: False)[0].inputs[0]

    def loss(state):
        network = build_classifier(SETTINGS)
        network.load_state_dict(state)
        said = finetuning._probabilities(network, inputs)
        truth = torch.as_tensor(labelled.classes[:N_JUDGED])
        return float(-said[torch.arange(N_JUDGED), truth].log().mean())

    assert loss(tensors) < loss(start)


def test_labels_alone_can_be_learned(monkeypatch, labelled, start):
    judged, unjudged = finetuning._of_labels([labelled], SETTINGS, lambda: False)
    none = finetuning._of_simulation([], SETTINGS, start, lambda: False)
    steps = finetuning._Steps(judged, unjudged, none, seed=0)
    inputs, targets, weights = steps[0]
    assert len(inputs) == len(targets) == len(weights) == 32 + 48
    assert targets.shape[1] == len(DefectClass)


def test_stopping_while_cells_are_cut_out(tmp_path, images, labelled, start):
    with pytest.raises(Stopped):
        fine_tune(
            [labelled],
            images[1:3],
            images[3:],
            tmp_path / "run",
            SETTINGS,
            start=start,
            should_stop=lambda: True,
        )
    assert not (tmp_path / "run").exists()
