"""The training loop on a network of one number, whose scores are written in advance."""

import csv
import os
from multiprocessing.context import SpawnProcess

import lightning
import numpy as np
import pytest
import torch
from pydantic import ValidationError
from torch.utils.data import DataLoader, TensorDataset

from napari_point_defects import fitting
from napari_point_defects.errors import PointDefectsError, Stopped
from napari_point_defects.fitting import (
    FitSettings,
    TrainableModule,
    choose_device,
    fit,
    has_fast_bfloat16,
    optimiser,
    train,
    warm_cosine,
)
from napari_point_defects.records import Lattice
from napari_point_defects.training_set import LabelledImage, TrainingSetWriter

STEPS = 4  # per epoch


class Line(lightning.LightningModule):
    """Learns y = 2 x; its validation score is read from a list."""

    def __init__(self, scores, learning_rate=0.05):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.scores, self.learning_rate = scores, learning_rate
        self.epochs_trained, self.after_epoch, self.steps = [], {}, 0
        self.at_start = None

    def on_train_start(self):
        self.at_start = float(self.weight.detach())

    def on_train_epoch_start(self):
        self.epochs_trained.append(self.current_epoch)

    def training_step(self, batch, index):
        self.steps += 1
        (x,) = batch
        loss = ((self.weight * x - 2 * x) ** 2).mean()
        self.log("train_loss", loss, on_step=False, on_epoch=True, batch_size=len(x))
        return loss

    def validation_step(self, batch, index):
        pass

    def on_validation_epoch_end(self):
        self.after_epoch[self.current_epoch] = float(self.weight.detach())
        self.log("val_score", float(self.scores[self.current_epoch]))

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=self.learning_rate)


def run(folder, module, *, epochs, patience=10, **options):
    data = DataLoader(TensorDataset(torch.ones(STEPS, 1)), batch_size=1)
    settings = FitSettings(
        epochs=epochs, patience=patience, bfloat16=False, device="cpu", loader_workers=0
    )
    return fit(module, data, data, settings, folder, **options)


def scores_in(folder):
    with (folder / "metrics.csv").open() as file:
        return [float(row["val_score"]) for row in csv.DictReader(file) if row["val_score"]]


def test_best_weights_are_kept_and_every_epoch_is_recorded(tmp_path):
    module = Line([0.1, 0.7, 0.3])
    outcome = run(tmp_path, module, epochs=3)
    assert outcome == {"epochs": 3, "val_score": pytest.approx(0.7)}
    assert module.steps == 3 * STEPS
    assert float(module.weight.detach()) == pytest.approx(module.after_epoch[1])
    assert module.after_epoch[1] != pytest.approx(module.after_epoch[2])
    assert scores_in(tmp_path) == pytest.approx([0.1, 0.7, 0.3])
    with (tmp_path / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 3
    assert all(float(row["train_loss"]) > 0 for row in rows)
    assert (tmp_path / "last.ckpt").is_file()


def test_stops_early(tmp_path):
    module = Line([0.2, 0.9, 0.8, 0.7, 0.6, 1.0, 1.0])
    outcome = run(tmp_path, module, epochs=7, patience=2)
    assert module.epochs_trained == [0, 1, 2, 3]
    assert outcome == {"epochs": 4, "val_score": pytest.approx(0.9)}
    assert float(module.weight.detach()) == pytest.approx(module.after_epoch[1])


def test_resume_goes_on_where_the_last_epoch_ended(tmp_path):
    whole = Line([0.1, 0.6, 0.4, 0.5])
    run(tmp_path / "whole", whole, epochs=4)
    first = Line(whole.scores)
    run(tmp_path / "parts", first, epochs=2)
    second = Line(whole.scores)
    outcome = run(tmp_path / "parts", second, epochs=4, resume=True)
    assert second.epochs_trained == [2, 3]
    assert second.at_start == pytest.approx(first.after_epoch[1])
    # Adam's memory is resumed as well: the parts arrive where the whole does
    assert second.after_epoch[3] == pytest.approx(whole.after_epoch[3], rel=1e-5)
    # the best epoch was in the first part
    assert outcome == {"epochs": 4, "val_score": pytest.approx(0.6)}
    assert float(second.weight.detach()) == pytest.approx(first.after_epoch[1])


def test_resume_keeps_the_metrics_of_the_first_part(tmp_path):
    scores = [0.1, 0.6, 0.4, 0.5]
    run(tmp_path, Line(scores), epochs=2)
    run(tmp_path, Line(scores), epochs=4, resume=True)
    assert scores_in(tmp_path) == pytest.approx(scores)


def test_an_epoch_done_again_after_a_kill_is_recorded_once(tmp_path):
    scores = [0.1, 0.6, 0.4]
    run(tmp_path, Line(scores), epochs=2)
    with (tmp_path / "metrics.csv").open("a") as file:  # killed before the checkpoint
        file.write("3,0.5,0.9\n")
    run(tmp_path, Line(scores), epochs=3, resume=True)
    assert scores_in(tmp_path) == pytest.approx(scores)


def test_patience_is_resumed(tmp_path):
    scores = [0.9, 0.5, 0.4, 0.3, 0.2, 0.1]
    run(tmp_path, Line(scores), epochs=2, patience=3)
    module = Line(scores)
    run(tmp_path, module, epochs=6, patience=3, resume=True)
    assert module.epochs_trained == [2, 3]


def test_a_finished_run_may_be_resumed(tmp_path):
    module = Line([0.3, 0.2])
    before = run(tmp_path, module, epochs=2)
    again = Line([0.3, 0.2])
    assert run(tmp_path, again, epochs=2, resume=True) == before
    assert again.steps == 0
    assert float(again.weight.detach()) == pytest.approx(module.after_epoch[0])


def test_stopped_run_goes_on_from_its_last_whole_epoch(tmp_path):
    scores = [0.1, 0.2, 0.3]
    module = Line(scores)
    with pytest.raises(Stopped):
        run(tmp_path, module, epochs=3, should_stop=lambda: module.steps >= STEPS + 2)
    assert module.steps == STEPS + 2
    again = Line(scores)
    outcome = run(tmp_path, again, epochs=3, resume=True)
    assert again.at_start == pytest.approx(module.after_epoch[0])
    assert again.epochs_trained == [1, 2]
    assert again.steps == 2 * STEPS
    assert outcome["epochs"] == 3


def test_progress_rises(tmp_path):
    seen = []
    run(tmp_path, Line([0.1, 0.2]), epochs=2, on_progress=lambda *args: seen.append(args))
    shares = [share for share, _ in seen]
    assert shares == sorted(shares)
    assert 0 <= shares[0] < 0.2
    assert 0.8 < shares[-1] <= 1
    assert any("loss" in text for _, text in seen)
    assert any("val_score 0.2" in text for _, text in seen)


def test_runs_are_neither_overwritten_nor_made_up(tmp_path):
    with pytest.raises(PointDefectsError, match="nothing to resume"):
        run(tmp_path / "new", Line([0.1]), epochs=1, resume=True)
    assert not (tmp_path / "new").exists()
    run(tmp_path, Line([0.1]), epochs=1)
    before = (tmp_path / "last.ckpt").read_bytes()
    with pytest.raises(PointDefectsError, match="--resume"):
        run(tmp_path, Line([0.1]), epochs=1)
    assert (tmp_path / "last.ckpt").read_bytes() == before


def test_unknown_device_leaves_no_trace(tmp_path):
    data = DataLoader(TensorDataset(torch.ones(1, 1)))
    with pytest.raises(PointDefectsError, match="choose auto, cpu or cuda"):
        fit(Line([0.1]), data, data, FitSettings(device="tpu"), tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_unwritable_folder_is_the_users_mistake(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(PointDefectsError, match="file"):
        run(tmp_path / "file", Line([0.1]), epochs=1)


def test_device(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert choose_device("auto") == choose_device("cpu") == torch.device("cpu")
    with pytest.raises(PointDefectsError, match="--device cpu"):
        choose_device("cuda")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert choose_device("auto") == choose_device("cuda") == torch.device("cuda")


def test_processors_without_mkldnn_have_no_fast_bfloat16(monkeypatch):
    def absent():
        raise AttributeError("'_OpNamespace' 'mkldnn' object has no such attribute")

    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", absent)
    assert has_fast_bfloat16(torch.device("cpu")) is False


@pytest.mark.parametrize(
    "wrong",
    [{"epochs": 0}, {"learning_rate": 0}, {"batch_images": 0}, {"patience": 0}, {"speed": 1}],
)
def test_settings_have_bounds(wrong):
    with pytest.raises(ValidationError):
        FitSettings(**wrong)


def test_optimiser_is_adam_or_adamw():
    parameters = [torch.nn.Parameter(torch.zeros(2))]
    plain = optimiser(parameters, FitSettings(weight_decay=0, learning_rate=2e-6))
    assert type(plain) is torch.optim.Adam
    assert plain.param_groups[0]["lr"] == 2e-6
    decayed = optimiser(parameters, FitSettings(weight_decay=0.02))
    assert type(decayed) is torch.optim.AdamW
    assert decayed.param_groups[0]["weight_decay"] == 0.02


@pytest.mark.parametrize("total", [2, 3, 40, 200])
def test_rate_rises_then_falls_to_a_hundredth(total):
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(()))], lr=0.1)
    schedule = warm_cosine(optimizer, total)
    rates = []
    for _ in range(total):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    peak = rates.index(max(rates))
    assert max(rates) == pytest.approx(0.1)
    assert peak == max(1, total // 20)
    assert rates[:peak] == sorted(rates[:peak])
    assert rates[peak:] == sorted(rates[peak:], reverse=True)
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0.001, abs=2e-5)


# --- from a training set on disk -------------------------------------------------------------


class Brightness(TrainableModule):
    """Guesses an image's mean from one random weight."""

    def __init__(self, options, total_steps):
        super().__init__(options, total_steps)
        self.network = torch.nn.Linear(1, 1)

    def training_step(self, batch, index):
        return (self.network(batch) - batch).square().mean()

    def on_validation_epoch_start(self):
        self.errors = []

    def validation_step(self, batch, index):
        self.errors.append(float((self.network(batch) - batch).abs().mean().detach()))

    def figures(self):
        return {"val_score": -float(np.mean(self.errors))}


@pytest.fixture
def images(tmp_path):
    """Six flat images to train on and two to validate with."""
    none = np.zeros((0, 2))
    for name, levels in (("train", range(0, 240, 40)), ("validation", (100, 200))):
        writer = TrainingSetWriter(tmp_path / "set" / name)
        for level in levels:
            pixels = np.full((16, 16), level, np.uint8)
            lattice = Lattice(np.zeros(2), 10 * np.eye(2))
            writer.add(LabelledImage(pixels, lattice, "MoS2", none, none, none, np.zeros(0, int)))
        writer.close()
    return tmp_path / "set"


def train_on(images, folder, *, start=None, **options):
    settings = FitSettings(
        **{"epochs": 2, "batch_images": 2, "loader_workers": 0, "device": "cpu"} | options,
        bfloat16=False,
    )
    asked = []

    def make_dataset(split, augment):
        asked.append((split.folder.name, augment))
        noise = torch.randn(len(split)) if augment else torch.zeros(len(split))
        return [
            torch.tensor([float(item.pixels.mean() / 255 + 0.1 * n)])
            for item, n in zip(split, noise, strict=True)
        ]

    weights, metrics = train(
        images,
        folder,
        make_dataset,
        lambda total_steps: Brightness(settings, total_steps),
        torch.stack,
        settings,
        start=start,
    )
    assert asked == [("train", True), ("validation", False)]
    return weights, metrics


def test_same_seed_same_weights(images, tmp_path):
    first, metrics = train_on(images, tmp_path / "a", seed=1)
    again, again_metrics = train_on(images, tmp_path / "b", seed=1)
    other, _ = train_on(images, tmp_path / "c", seed=2)
    assert torch.equal(first["weight"], again["weight"])
    assert metrics == again_metrics
    assert not torch.equal(first["weight"], other["weight"])


@pytest.fixture
def loaders(monkeypatch):
    """Processes that load, as they are started anew."""
    started, start = [], SpawnProcess._Popen
    monkeypatch.setattr(
        SpawnProcess,
        "_Popen",
        staticmethod(lambda process: started.append(process) or start(process)),
    )
    return started


def test_processes_that_load_are_not_forked(images, tmp_path, monkeypatch, loaders):
    """A process that has used OpenBLAS's threads may hang in a fork."""
    monkeypatch.setattr(os, "fork", lambda: pytest.fail("forked"), raising=False)
    monkeypatch.setattr(fitting, "_WORTH_A_PROCESS", 1)
    train_on(images, tmp_path / "run", epochs=1, loader_workers=1)
    assert loaders


def test_few_images_wait_for_no_process(images, tmp_path, loaders):
    train_on(images, tmp_path / "run", epochs=1, loader_workers=1)
    assert not loaders


def test_figures_are_those_of_the_best_weights(images, tmp_path):
    weights, metrics = train_on(images, tmp_path / "run", epochs=4, learning_rate=0.3)
    levels = torch.tensor([[100.0], [200.0]]) / 255
    guesses = levels @ weights["weight"].T + weights["bias"]
    assert metrics["val_score"] == pytest.approx(-float((guesses - levels).abs().mean()), rel=1e-4)
    assert metrics["val_score"] == pytest.approx(max(scores_in(tmp_path / "run")), rel=1e-4)


def test_starting_weights_are_used_or_refused(images, tmp_path):
    start = {"weight": torch.full((1, 1), 7.0), "bias": torch.zeros(1)}
    weights, _ = train_on(images, tmp_path / "a", epochs=1, start=start, learning_rate=1e-9)
    assert float(weights["weight"]) == pytest.approx(7.0, rel=1e-3)
    with pytest.raises(PointDefectsError, match="do not fit"):
        train_on(images, tmp_path / "b", start={"weight": torch.zeros(3, 1)})
    assert not (tmp_path / "b").exists()


def test_both_splits_need_images(images, tmp_path):
    empty = images / "validation"
    for path in empty.iterdir():
        path.unlink()
    TrainingSetWriter(empty).close()
    with pytest.raises(PointDefectsError, match="needs images in both"):
        train_on(images, tmp_path / "run")
    assert not (tmp_path / "run").exists()
