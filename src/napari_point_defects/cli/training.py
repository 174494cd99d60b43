"""Commands that train: detector and classifier."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import Annotated

import typer

from napari_point_defects.cli.common import OutOption, progress_bar, settings_of
from napari_point_defects.errors import PointDefectsError

train_app = typer.Typer(
    help="Train the networks on simulated sets and on labels.", no_args_is_help=True
)

DataOption = Annotated[
    list[Path] | None,
    typer.Option(help="Training set made by `simulate`; give it again for more"),
]
LabelsOption = Annotated[
    Path | None, typer.Option(help="Project folder whose confirmed and corrected cells to learn")
]
ImageOption = Annotated[
    list[int] | None,
    typer.Option(help="Image of the labels, by its number; give it again for more; none for all"),
]
PresetOption = Annotated[
    str | None,
    typer.Option(
        help="compact, paper or another; a wrong name lists them; by default compact, with "
        "--labels that of the weights"
    ),
]
EpochsOption = Annotated[int | None, typer.Option(min=1, help="Passes, in place of the preset's")]
ImagesOption = Annotated[int | None, typer.Option(min=1, help="Images drawn per epoch")]
RateOption = Annotated[float | None, typer.Option(help="Peak learning rate")]
HeldOutOption = Annotated[
    float, typer.Option(help="Share of the labels that measures the result and is not learned")
]
SeedOption = Annotated[int, typer.Option(min=0, help="Seed of weights and order")]
StartOption = Annotated[
    str | None,
    typer.Option(
        help="Weights to start from: a .safetensors file, `shipped`, or `scratch`; "
        "by default shipped with --labels, else scratch"
    ),
]
ResumeOption = Annotated[bool, typer.Option("--resume", help="Go on from the last checkpoint")]
DeviceOption = Annotated[str, typer.Option(help="auto, cpu or cuda")]
DevicesOption = Annotated[
    str, typer.Option(help="How many devices to train on, each with batches of its own; auto: all")
]
StrategyOption = Annotated[
    str, typer.Option(help="How several devices work together: Lightning's name, such as ddp")
]


@train_app.command("detector")
def train_detector(
    out: OutOption,
    data: DataOption = None,
    labels: LabelsOption = None,
    image: ImageOption = None,
    preset: PresetOption = None,
    epochs: EpochsOption = None,
    images_per_epoch: ImagesOption = None,
    learning_rate: RateOption = None,
    held_out: HeldOutOption = 0.2,
    seed: SeedOption = 0,
    start: StartOption = None,
    imagenet: Annotated[
        Path | None, typer.Option(help="ImageNet MobileNetV2 weights (paper preset)")
    ] = None,
    resume: ResumeOption = False,
    device: DeviceOption = "auto",
    devices: DevicesOption = "1",
    strategy: StrategyOption = "auto",
) -> None:
    """Train CNN-1, which finds the hexagonal cells."""
    _train(
        out,
        resume,
        start,
        kind="detector",
        data=data,
        labels=labels,
        images=image,
        preset=preset,
        epochs=epochs,
        images_per_epoch=images_per_epoch,
        learning_rate=learning_rate,
        held_out=held_out,
        seed=seed,
        backbone_weights=imagenet,
        device=device,
        devices=_devices(devices),
        strategy=strategy,
    )


@train_app.command("classifier")
def train_classifier(
    out: OutOption,
    data: DataOption = None,
    labels: LabelsOption = None,
    image: ImageOption = None,
    preset: PresetOption = None,
    epochs: EpochsOption = None,
    images_per_epoch: ImagesOption = None,
    learning_rate: RateOption = None,
    held_out: HeldOutOption = 0.2,
    seed: SeedOption = 0,
    start: StartOption = None,
    resume: ResumeOption = False,
    device: DeviceOption = "auto",
    devices: DevicesOption = "1",
    strategy: StrategyOption = "auto",
) -> None:
    """Train CNN-2, which classifies the unit cells."""
    _train(
        out,
        resume,
        start,
        kind="classifier",
        data=data,
        labels=labels,
        images=image,
        preset=preset,
        epochs=epochs,
        images_per_epoch=images_per_epoch,
        learning_rate=learning_rate,
        held_out=held_out,
        seed=seed,
        device=device,
        devices=_devices(devices),
        strategy=strategy,
    )


def _devices(text: str) -> int | str:
    if text == "auto" or (text.isdecimal() and int(text) > 0):
        return text if text == "auto" else int(text)
    raise PointDefectsError(f"--devices {text}: give a number from 1 on, or auto")


def _train(out: Path, resume: bool, start: str | None, **values) -> None:
    """Train and print what came of it, before and after."""
    from napari_point_defects.many_devices import is_helper
    from napari_point_defects.retraining.folder import result_path
    from napari_point_defects.retraining.run import retrain
    from napari_point_defects.retraining.settings import RetrainSettings

    if start is None:
        start = "scratch" if values["labels"] is None else "shipped"
    weights = None if start in ("scratch", "shipped") else Path(start)
    values["data"] = tuple(values["data"] or ())
    if values["labels"] is None:
        values["preset"] = values["preset"] or "compact"
    values["images"] = tuple(values["images"]) if values["images"] else None
    values |= {"start": weights, "from_scratch": start == "scratch"}
    settings = settings_of(RetrainSettings, values)
    # one that helps on another device would draw a bar of its own
    quiet = nullcontext(lambda share, text: None)
    helps = is_helper(settings.devices)
    with quiet if helps else progress_bar(f"train {settings.kind}") as on_progress:
        retrained = retrain(settings, out, resume=resume, on_progress=on_progress)
    card = retrained.weights.card
    shown = {k: v for k, v in card["metrics"].items() if isinstance(v, int | float)}
    typer.echo(", ".join(f"{k} {v:.4g}" for k, v in shown.items()))
    for comparison in retrained.comparisons:
        where = "held-out labels" if comparison.source == "labels" else "held-out simulated images"
        for when, scores in (
            (f"before ({retrained.compared_with})", comparison.before),
            ("after", comparison.after),
        ):
            typer.echo(f"\n{where}, {when}\n{scores.table()}")
    path = result_path(out, settings.kind, card["settings"]["preset"])
    typer.echo(f"\n{path}, with its model card beside it")
