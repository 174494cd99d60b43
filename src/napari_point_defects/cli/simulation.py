"""Commands that simulate: training sets and single images."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from napari_point_defects.cli.common import (
    OutOption,
    OverwriteOption,
    SchedulerOption,
    progress_bar,
    settings_of,
)
from napari_point_defects.errors import PointDefectsError

if TYPE_CHECKING:
    from napari_point_defects.simulation.presets import TrainingSetSettings


def simulate(
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Folder the results go to")
    ] = None,
    preset: Annotated[str, typer.Option(help="wide, paper-cnn1 or paper-cnn2")] = "wide",
    settings: Annotated[
        Path | None, typer.Option(help="TOML or JSON file of settings that replace the preset's")
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
    scheduler: SchedulerOption = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Finish the set in the folder, with its settings")
    ] = False,
    save_settings: Annotated[
        Path | None,
        typer.Option(help="Write the settings to a new TOML or JSON file; no set without --out"),
    ] = None,
    like: Annotated[
        Path | None,
        typer.Option(help="Image to match: it is measured, and the set is made around it"),
    ] = None,
    pixel_size_nm: Annotated[
        float | None, typer.Option(help="Pixel size of --like [nm] in place of the file's")
    ] = None,
) -> None:
    """Make a training set: images, COCO JSON, and the settings they were made with.

    With --like the set looks like an image of yours. Beside the set are then settings.toml, the
    likeness of the image as a recipe (likeness.toml), and both side by side with histograms and
    power spectra (likeness.png, likeness.json).
    """
    from napari_point_defects.settings_files import write_settings
    from napari_point_defects.simulation.presets import with_formulas
    from napari_point_defects.simulation.set_records import beside_settings

    if out is None and save_settings is None:
        raise PointDefectsError("give --out for a set, or --save-settings for its settings alone")
    if like is not None and resume:
        raise PointDefectsError("--resume goes on with the settings of the set: leave out --like")
    if pixel_size_nm is not None and like is None:
        raise PointDefectsError("--pixel-size-nm is that of an image: give --like too")
    if scheduler is not None and workers is not None:
        raise PointDefectsError("--workers is for processes here: with --scheduler leave it out")
    given = {
        "materials": material or None,
        "train_images": images,
        "validation_images": validation_images,
        "seed": seed,
    }
    given = {key: value for key, value in given.items() if value is not None}
    if resume and settings is None and out is not None:
        settings = out / "settings.json"
    chosen = with_formulas(_chosen(preset, settings, given))
    if like is not None:
        from napari_point_defects.cli.matching import match_to

        formula = chosen.materials[0] if material else None
        chosen = match_to(like, chosen, out, formula, pixel_size_nm)
    if save_settings is not None:
        write_settings(save_settings, chosen, beside=beside_settings(chosen.materials))
        typer.echo(f"settings in {save_settings}")
    if out is not None:
        _make(chosen, out, resume, workers=workers, scheduler=scheduler)


def _chosen(preset: str, path: Path | None, given: dict) -> TrainingSetSettings:
    from napari_point_defects.settings_files import read_settings
    from napari_point_defects.simulation.presets import PRESETS, TrainingSetSettings
    from napari_point_defects.simulation.set_records import settings_alone

    if preset not in PRESETS:
        raise PointDefectsError(f"unknown preset {preset!r}: choose one of {', '.join(PRESETS)}")
    read = settings_alone(read_settings(path), str(path)) if path else {}
    values = PRESETS[preset].model_dump() | read | given
    return settings_of(TrainingSetSettings, values)


def _make(settings: TrainingSetSettings, out: Path, resume: bool, **workers) -> None:
    from napari_point_defects.materials import DefectClass
    from napari_point_defects.simulation.sets import find_set, simulate_training_set

    try:
        with progress_bar("simulate") as on_progress:
            counts = simulate_training_set(
                settings, out, **workers, resume=resume, on_progress=on_progress
            )
    except KeyboardInterrupt:
        found = find_set(out)
        done = sum(found.images) if found else 0
        typer.echo(f"stopped after {done} images in {out}: go on with --resume", err=True)
        raise typer.Exit(130) from None
    total = settings.train_images + settings.validation_images
    typer.echo(f"{total} images in {out}")
    cells = zip(DefectClass, counts.sum(axis=0), strict=True)
    typer.echo("cells: " + ", ".join(f"{n:,} {c.name}" for c, n in cells))


def simulate_image(
    recipe: Annotated[Path, typer.Argument(help="TOML or JSON: scene, noise, microscope, seed")],
    out: OutOption,
    overwrite: OverwriteOption = False,
) -> None:
    """Make one image and the table of its unit cells; the bundled samples are made so."""
    from napari_point_defects.settings_files import read_settings
    from napari_point_defects.simulation.recipes import Recipe, write_recipe
    from napari_point_defects.simulation.set_records import settings_alone

    chosen = settings_of(Recipe, settings_alone(read_settings(recipe), str(recipe)))
    paths = write_recipe(chosen, recipe.stem, out, overwrite)
    typer.echo(", ".join(str(p) for p in paths))
