"""Commands that simulate: training sets and single images."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from napari_point_defects.cli.common import (
    OutOption,
    OverwriteOption,
    as_user_error,
    progress_bar,
    read_settings,
)
from napari_point_defects.errors import PointDefectsError


def simulate(
    out: OutOption,
    preset: Annotated[str, typer.Option(help="wide, paper-cnn1 or paper-cnn2")] = "wide",
    settings: Annotated[
        Path | None, typer.Option(help="JSON file of settings that replace the preset's")
    ] = None,
    material: Annotated[
        list[str] | None, typer.Option(help="Formula; give it again for more")
    ] = None,
    images: Annotated[int | None, typer.Option(help="Images in the training split")] = None,
    validation_images: Annotated[
        int | None, typer.Option(help="Images in the validation split")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="The same seed gives the same bytes")] = None,
    workers: Annotated[int | None, typer.Option(min=1, help="Processes")] = None,
) -> None:
    """Make a training set: images, COCO JSON, and the settings they were made with."""
    from pydantic import ValidationError

    from napari_point_defects.materials import get_material
    from napari_point_defects.simulation.presets import PRESETS, TrainingSetSettings
    from napari_point_defects.simulation.sets import simulate_training_set

    if preset not in PRESETS:
        raise PointDefectsError(f"unknown preset {preset!r}: choose one of {', '.join(PRESETS)}")
    values = PRESETS[preset].model_dump() | read_settings(settings)
    given = {
        "materials": [get_material(m).formula for m in material] if material else None,
        "train_images": images,
        "validation_images": validation_images,
        "seed": seed,
    }
    values |= {key: value for key, value in given.items() if value is not None}
    values.pop("program", None)
    try:
        chosen = TrainingSetSettings.model_validate(values)
    except ValidationError as error:
        raise as_user_error(error) from error
    with progress_bar("simulate") as on_progress:
        simulate_training_set(chosen, out, workers=workers, on_progress=on_progress)
    total = chosen.train_images + chosen.validation_images
    typer.echo(f"{total} images in {out}")


def simulate_image(
    recipe: Annotated[Path, typer.Argument(help="JSON: scene, noise, microscope and seed")],
    out: OutOption,
    overwrite: OverwriteOption = False,
) -> None:
    """Make one image and the table of its unit cells; the bundled samples are made so."""
    from pydantic import ValidationError

    from napari_point_defects.simulation.recipes import Recipe, write_recipe

    try:
        chosen = Recipe.model_validate(read_settings(recipe))
    except ValidationError as error:
        raise as_user_error(error) from error
    paths = write_recipe(chosen, recipe.stem, out, overwrite)
    typer.echo(", ".join(str(p) for p in paths))
