"""Commands that train: detector and classifier."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from napari_point_defects.cli.common import OutOption, progress_bar
from napari_point_defects.errors import PointDefectsError
from napari_point_defects.settings_files import read_settings

train_app = typer.Typer(help="Train the networks on a training set.", no_args_is_help=True)

DataOption = Annotated[Path, typer.Option(help="Training set made by `simulate`")]
PresetOption = Annotated[str, typer.Option(help="compact or paper")]
EpochsOption = Annotated[int | None, typer.Option(min=1, help="Passes, in place of the preset's")]
ImagesOption = Annotated[int | None, typer.Option(min=1, help="Images drawn per epoch")]
SeedOption = Annotated[int, typer.Option(min=0, help="Seed of weights and order")]
StartOption = Annotated[Path | None, typer.Option(help="Weights to start from, .safetensors")]
ResumeOption = Annotated[bool, typer.Option("--resume", help="Go on from the last checkpoint")]
DeviceOption = Annotated[str, typer.Option(help="auto, cpu or cuda")]


@train_app.command("detector")
def train_detector(
    data: DataOption,
    out: OutOption,
    preset: PresetOption = "compact",
    epochs: EpochsOption = None,
    images_per_epoch: ImagesOption = None,
    seed: SeedOption = 0,
    start: StartOption = None,
    imagenet: Annotated[
        Path | None, typer.Option(help="ImageNet MobileNetV2 weights (paper preset)")
    ] = None,
    resume: ResumeOption = False,
    device: DeviceOption = "auto",
) -> None:
    """Train CNN-1, which finds the hexagonal cells."""
    from napari_point_defects.detection.model import DETECTOR_PRESETS
    from napari_point_defects.detection.training import train_detector as run

    settings = _fit_settings(DETECTOR_PRESETS, preset, epochs, images_per_epoch, seed, device)
    settings = settings.model_copy(update={"backbone_weights": imagenet})
    _train("detector", run, settings, data, out, start, resume)


@train_app.command("classifier")
def train_classifier(
    data: DataOption,
    out: OutOption,
    preset: Annotated[str, typer.Option(help="compact, paper or paper-1channel")] = "compact",
    epochs: EpochsOption = None,
    images_per_epoch: ImagesOption = None,
    seed: SeedOption = 0,
    start: StartOption = None,
    resume: ResumeOption = False,
    device: DeviceOption = "auto",
) -> None:
    """Train CNN-2, which classifies the unit cells."""
    from napari_point_defects.classification.model import CLASSIFIER_PRESETS
    from napari_point_defects.classification.training import train_classifier as run

    settings = _fit_settings(CLASSIFIER_PRESETS, preset, epochs, images_per_epoch, seed, device)
    _train("classifier", run, settings, data, out, start, resume)


def _fit_settings(presets: dict, preset: str, epochs, images_per_epoch, seed, device):
    if preset not in presets:
        raise PointDefectsError(f"unknown preset {preset!r}: choose one of {', '.join(presets)}")
    settings = presets[preset]
    changes = {"epochs": epochs, "images_per_epoch": images_per_epoch, "seed": seed}
    changes = {key: value for key, value in changes.items() if value is not None}
    return settings.model_copy(
        update={"fit": settings.fit.model_copy(update=changes | {"device": device})}
    )


def _train(kind: str, run, settings, data: Path, out: Path, start: Path | None, resume: bool):
    from napari_point_defects.weights import load_weights, save_weights

    tensors = load_weights(kind, start).tensors if start else None
    training_set = read_settings(data / "settings.json")
    with progress_bar(f"train {kind}") as on_progress:
        weights, metrics = run(
            data, out, settings, start=tensors, resume=resume, on_progress=on_progress
        )
    path = out / f"{kind}-{settings.preset}.safetensors"
    save_weights(
        path,
        weights,
        kind=kind,
        settings=settings.model_dump(mode="json"),
        training_set=training_set,
        metrics=metrics,
    )
    shown = {k: v for k, v in metrics.items() if isinstance(v, int | float)}
    typer.echo(", ".join(f"{k} {v:.4g}" for k, v in shown.items()))
    typer.echo(f"{path}, with its model card beside it")
