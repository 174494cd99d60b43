"""One training run: learn in a folder, and measure what came of it against the start."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from napari_point_defects.classification.finetuning import fine_tune
from napari_point_defects.classification.model import build_classifier
from napari_point_defects.classification.training import train_classifier
from napari_point_defects.detection.model import build_detector
from napari_point_defects.detection.training import train_detector
from napari_point_defects.devices import choose_device
from napari_point_defects.errors import PointDefectsError
from napari_point_defects.many_devices import check_strategy, is_helper
from napari_point_defects.retraining.data import LearningData, add_replay, gather
from napari_point_defects.retraining.folder import (
    Comparison,
    Retrained,
    check_folder,
    load_run,
    result_path,
    write_run,
)
from napari_point_defects.retraining.measure import NETWORKS
from napari_point_defects.retraining.settings import (
    RetrainSettings,
    network_settings,
    starting_weights,
)
from napari_point_defects.simulation.training_range import range_of_record
from napari_point_defects.training_set import LabelledImage
from napari_point_defects.weights import Weights, load_weights, save_weights

_FIT_SHARE = (0.1, 0.9)


def retrain(
    settings: RetrainSettings,
    folder: Path,
    *,
    resume: bool = False,
    on_progress: Callable[[float, str], None] = lambda share, text: None,
    should_stop: Callable[[], bool] = lambda: False,
    on_step: Callable[[float, float], None] = lambda epochs, loss: None,
    on_epoch: Callable[[dict[str, float]], None] = lambda row: None,
) -> Retrained:
    """Train in a folder and compare the result with what it started from.

    Nothing outside the folder is written. A run that starts from scratch is compared with the
    shipped weights.

    Parameters
    ----------
    settings : RetrainSettings
    folder : Path
        Checkpoints, metrics, replayed images and the new weights go there.
    resume : bool
        Go on with the run that the folder holds, with labels as they stand now.
    on_progress, should_stop : callable
    on_step : callable
        Takes the epochs done, a fraction, and the loss of the step.
    on_epoch : callable
        Takes a row of the history.

    Returns
    -------
    Retrained

    Raises
    ------
    PointDefectsError
        If a setting cannot be used, there is nothing to learn from, or the folder holds a run
        that was not asked for, or none where one was.
    Stopped
        If ``should_stop`` said yes; resume goes on from the last whole epoch.
    SystemExit
        At the training's end, in a process that only helped on another device.
    """
    helps = is_helper(settings.devices)
    if not helps:
        check_folder(folder, resume)
    choose_device(settings.device)
    start = starting_weights(settings)
    network = network_settings(settings, start)
    low, high = _FIT_SHARE
    data = gather(settings)
    if start is not None:
        _check_fit(settings.kind, network, start)
    check_strategy(network.fit)
    if not helps:
        write_run(settings, folder)
    if not settings.data:
        data = add_replay(
            data,
            settings,
            folder,
            on_progress=lambda share, text: on_progress(low * share, text),
            should_stop=should_stop,
        )
    run = {
        "resume": resume and (folder / "last.ckpt").is_file(),
        "on_progress": lambda share, text: on_progress(low + (high - low) * share, text),
        "should_stop": should_stop,
        "on_step": on_step,
        "on_epoch": on_epoch,
    }
    tensors, metrics = _learn(settings, network, data, start, folder, run)
    shown = range_of_record(data.record)
    card = {
        "kind": settings.kind,
        "settings": network.model_dump(mode="json"),
        "training_set": data.record,
        "started_from": start.version if start else None,
        "training_range": shown.as_dict() if shown else None,
    }
    baseline = start or load_weights(settings.kind)
    candidate = folder / "candidate.safetensors"
    save_weights(candidate, tensors, metrics=metrics, **card)
    comparisons = _compare(
        settings,
        data,
        (baseline.path, candidate),
        on_progress=lambda share, text: on_progress(high + (1 - high) * share, text),
        should_stop=should_stop,
    )
    metrics["compared_with"] = baseline.version
    metrics["comparisons"] = [
        {"source": c.source, "before": c.before.as_dict(), "after": c.after.as_dict()}
        for c in comparisons
    ]
    save_weights(
        result_path(folder, settings.kind, network.preset), tensors, metrics=metrics, **card
    )
    for path in (candidate, candidate.with_suffix(".json")):
        path.unlink(missing_ok=True)
    return load_run(folder)


def _check_fit(kind: str, network, start: Weights) -> None:
    """Refuse weights of another network, before anything is written."""
    build = build_classifier if kind == "classifier" else build_detector
    plain = {"backbone_weights": None} if kind == "detector" else {}
    expected = build(network.model_copy(update=plain)).state_dict()
    found = {name: tensor.shape for name, tensor in start.tensors.items()}
    if found != {name: tensor.shape for name, tensor in expected.items()}:
        raise PointDefectsError(
            "the weights to start from do not fit this preset: give the preset they were "
            "trained with, or start without them"
        )


def _learn(
    settings: RetrainSettings,
    network,
    data: LearningData,
    start: Weights | None,
    folder: Path,
    run: dict[str, Any],
) -> tuple[dict[str, torch.Tensor], dict]:
    """Train on what was gathered, in the way that fits it."""
    tensors = start.tensors if start else None
    held_out = [*data.simulated_held_out, *data.labelled_held_out]
    if settings.kind == "classifier" and settings.is_fine_tuning:
        return fine_tune(
            data.labelled, data.simulated, held_out, folder, network, start=tensors, **run
        )
    images: Sequence[LabelledImage] = data.simulated
    if data.labelled:
        images = _Mixed(data.labelled, data.simulated)
    train = train_classifier if settings.kind == "classifier" else train_detector
    return train((images, held_out), folder, network, start=tensors, **run)


class _Mixed(Sequence):
    """Simulated images, and the few labelled ones so often that one in five is of them."""

    def __init__(
        self, labelled: Sequence[LabelledImage], simulated: Sequence[LabelledImage]
    ) -> None:
        self.labelled, self.simulated = labelled, simulated
        self.repeats = max(1, round(len(simulated) / (4 * len(labelled))))

    def __len__(self) -> int:
        return len(self.simulated) + self.repeats * len(self.labelled)

    def __getitem__(self, index: int) -> LabelledImage:
        if index < len(self.simulated):
            return self.simulated[index]
        return self.labelled[(index - len(self.simulated)) % len(self.labelled)]


def _compare(
    settings: RetrainSettings,
    data: LearningData,
    paths: tuple[Path, Path],
    *,
    on_progress: Callable[[float, str], None],
    should_stop: Callable[[], bool],
) -> tuple[Comparison, ...]:
    """Measure the weights before and after on every source of held-out images."""
    load, evaluate = NETWORKS[settings.kind]
    models = [load(path, settings.device) for path in paths]
    sources = {"labels": data.labelled_held_out, "simulated": data.simulated_held_out}
    sources = {name: images for name, images in sources.items() if images}
    comparisons, done = [], 0
    for name, images in sources.items():
        scores = []
        for model, when in zip(models, ("before", "after"), strict=True):
            scores.append(
                evaluate(
                    images,
                    model,
                    on_progress=lambda share, text, done=done, when=when: on_progress(
                        (done + share) / (2 * len(sources)), f"measuring {when}: {text}"
                    ),
                    should_stop=should_stop,
                )
            )
            done += 1
        comparisons.append(Comparison(name, *scores))
    return tuple(comparisons)
