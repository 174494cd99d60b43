"""The command that measures weights."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from napari_point_defects.cli.common import OverwriteOption, progress_bar, settings_of
from napari_point_defects.errors import PointDefectsError
from napari_point_defects.json_files import read_json


def evaluate(
    weights: Annotated[str, typer.Option(help="A .safetensors file, or `shipped`")] = "shipped",
    data: Annotated[
        list[Path] | None,
        typer.Option(help="Training set made by `simulate`; give it again for more"),
    ] = None,
    labels: Annotated[
        Path | None, typer.Option(help="Project folder whose labels to measure on")
    ] = None,
    image: Annotated[
        list[int] | None,
        typer.Option(help="Image of the labels, by its number; none for all"),
    ] = None,
    kind: Annotated[
        str | None,
        typer.Option(help="classifier or detector; by default what the weights are"),
    ] = None,
    split: Annotated[
        str, typer.Option(help="Split of the training sets: validation or train")
    ] = "validation",
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="JSON file the scores go to")
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda")] = "auto",
    overwrite: OverwriteOption = False,
) -> None:
    """Measure weights: precision, recall and F1 per class, and the confusion matrix."""
    from napari_point_defects.outputs import check_outputs, write_json
    from napari_point_defects.retraining.measure import measure_weights
    from napari_point_defects.retraining.settings import RetrainSettings

    if split not in ("validation", "train"):
        raise PointDefectsError(f"unknown split {split!r}: choose validation or train")
    if out is not None:
        check_outputs([out], overwrite)
    path = None if weights == "shipped" else Path(weights)
    settings = settings_of(
        RetrainSettings,
        {
            "kind": kind or _kind_of(path),
            "start": path,
            "data": tuple(data or ()),
            "labels": labels,
            "images": tuple(image) if image else None,
            "device": device,
        },
    )
    with progress_bar("evaluate") as on_progress:
        version, scores = measure_weights(settings, split=split, on_progress=on_progress)
    for source, score in scores.items():
        where = "labels" if source == "labels" else f"simulated images ({split})"
        typer.echo(f"{version} on {where}\n{score.table()}\n")
    if out is not None:
        report = {"kind": settings.kind, "weights": version, "split": split}
        report |= {source: score.as_dict() for source, score in scores.items()}
        write_json(report, out, overwrite)
        typer.echo(str(out))


def _kind_of(weights: Path | None) -> str:
    """Read from the model card which network the weights are for."""
    if weights is None:
        return "classifier"
    try:
        return str(read_json(weights.with_suffix(".json"))["kind"])
    except (OSError, ValueError, KeyError, TypeError):
        return "classifier"  # loading the weights says what is wrong with them
