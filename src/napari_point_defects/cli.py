"""The command line: analyze, demo, simulate, train."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from napari_point_defects import __version__
from napari_point_defects.errors import PointDefectsError

app = typer.Typer(
    help="Count the point defects in atomic-resolution HAADF-STEM images of 2H-MX₂ monolayers.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
train_app = typer.Typer(help="Train the networks on a training set.", no_args_is_help=True)
app.add_typer(train_app, name="train")

OutOption = Annotated[Path, typer.Option("--out", "-o", help="Folder the results go to")]
OverwriteOption = Annotated[bool, typer.Option("--overwrite", help="Replace existing results")]


def main() -> None:
    """Run the command line: exit code 2 and one line for a user's mistake."""
    try:
        app()
    except PointDefectsError as error:
        print(f"point-defects: {' '.join(str(error).split())}", file=sys.stderr)
        sys.exit(2)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"point-defects {__version__}")
        raise typer.Exit


@app.callback()
def _common(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Show it")
    ] = False,
) -> None:
    """Take the options that stand before the command."""


@app.command()
def analyze(
    images: Annotated[list[Path], typer.Argument(help="Image files", metavar="IMAGE...")],
    out: OutOption,
    material: Annotated[str, typer.Option(help="Formula of the 2H monolayer")] = "MoTe2",
    pixel_size_nm: Annotated[
        float | None, typer.Option(help="Pixel size [nm] in place of the file's")
    ] = None,
    trust_pixel_size: Annotated[
        bool, typer.Option("--trust-pixel-size", help="Even where the lattice disagrees")
    ] = False,
    signal: Annotated[
        str | None, typer.Option(help="Name or index of the signal, where a file has several")
    ] = None,
    sublattice_rank: Annotated[
        int, typer.Option(help="0: likeliest choice of X, M and hollow; 1: the next; up to 5")
    ] = 0,
    alpha: Annotated[float, typer.Option(help="Width of the paper's crop over W_H")] = 0.65,
    beta: Annotated[float, typer.Option(help="Height of the paper's crop over H_H")] = 0.5,
    min_score: Annotated[float, typer.Option(help="Lowest score of a hexagon")] = 0.4,
    detector_weights: Annotated[Path | None, typer.Option(help="CNN-1, .safetensors")] = None,
    classifier_weights: Annotated[Path | None, typer.Option(help="CNN-2, .safetensors")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda")] = "auto",
    overwrite: OverwriteOption = False,
) -> None:
    """Find, classify and count every unit cell of one or many images."""
    settings = _analysis_settings(
        material=material,
        pixel_size_nm=pixel_size_nm,
        trust_pixel_size=trust_pixel_size,
        sublattice_rank=sublattice_rank,
        alpha=alpha,
        beta=beta,
        min_score=min_score,
        detector_weights=detector_weights,
        classifier_weights=classifier_weights,
        device=device,
    )
    names = [path.stem for path in images]
    twice = {name for name in names if names.count(name) > 1}
    if twice:
        raise PointDefectsError(
            f"two images are called {min(twice)!r}: analyse them into different folders"
        )
    failed = []
    for path in images:
        try:
            _analyze_one(path, out, settings, signal, overwrite)
        except PointDefectsError as error:
            if len(images) == 1:
                raise
            # One bad file never stops the rest.
            print(f"point-defects: {path}: {error}", file=sys.stderr)
            failed.append(path.name)
    if failed:
        raise PointDefectsError(
            f"{len(failed)} of {len(images)} images failed: {', '.join(failed)}"
        )


def _analysis_settings(**values):
    """Make the settings, or say in one line which option is out of bounds."""
    from pydantic import ValidationError

    from napari_point_defects.materials import get_material
    from napari_point_defects.pipeline import AnalysisSettings

    get_material(values["material"])
    try:
        return AnalysisSettings(**values)
    except ValidationError as error:
        raise _as_user_error(error) from error


def _as_user_error(error) -> PointDefectsError:
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"])
    value = first.get("input")
    given = f" {value}" if isinstance(value, int | float | str) else ""
    option = f"--{where.replace('_', '-')}{given}: " if where else ""
    return PointDefectsError(f"{option}{first['msg']}")


def _analyze_one(path: Path, out: Path, settings, signal: str | None, overwrite: bool):
    from napari_point_defects.io import read_image
    from napari_point_defects.outputs import check_outputs
    from napari_point_defects.pipeline import analyze as run
    from napari_point_defects.pipeline import output_paths, write_results

    check_outputs(list(output_paths(path.stem, out).values()), overwrite)
    image = read_image(path, signal=signal, pixel_size_nm=settings.pixel_size_nm)
    with _progress_bar(path.name) as on_progress:
        analysis = run(image, settings, on_progress=on_progress)
    for warning in analysis.detection.warnings:
        print(f"point-defects: {path.name}: warning: {warning}", file=sys.stderr)
    paths = write_results(analysis, out, overwrite)
    _print_census(analysis.census, path.name)
    typer.echo("  " + ", ".join(str(p) for p in paths.values()))
    return analysis


def _progress_bar(title: str):
    """Return a context manager that gives an ``on_progress``; silent where output is piped."""
    from contextlib import contextmanager

    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    @contextmanager
    def bar():
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.fields[text]}"),
            TimeRemainingColumn(),
        )
        console = Console(stderr=True)
        options = {"console": console, "transient": True, "disable": not console.is_terminal}
        with Progress(*columns, **options) as progress:
            task = progress.add_task(title, total=1.0, text="")
            yield lambda share, text: progress.update(task, completed=share, text=text)

    return bar()


def _print_census(census: dict, title: str) -> None:
    from rich.console import Console
    from rich.table import Table

    lattice = census["lattice"]
    table = Table(
        title=f"{title}: {census['n_cells']} unit cells of {census['material']}, "
        f"{census['area_nm2']:.1f} nm² "
        f"(a = {lattice['a_px']:.2f} px, {lattice['angle_deg']:.1f}°)",
        title_justify="left",
    )
    for heading in ("class", "cells", "per nm²", "per cm²", "95 % interval per cm²"):
        table.add_column(heading, justify="left" if heading == "class" else "right")
    for label, row in census["classes"].items():
        low, high = row["density_per_cm2_interval95"]
        table.add_row(
            label,
            str(row["count"]),
            f"{row['density_per_nm2']:.4f}",
            f"{row['density_per_cm2']:.2e}",
            f"{low:.2e} – {high:.2e}",
        )
    Console().print(table)


@app.command()
def demo(
    out: OutOption = Path("point-defects-demo"),
    no_gui: Annotated[bool, typer.Option("--no-gui", help="Do not open napari")] = False,
    overwrite: OverwriteOption = False,
) -> None:
    """Analyse a bundled MoTe₂ image, write and print its census, and open it in napari."""
    from napari_point_defects.io import sample_path

    # Before the analysis: the viewer's package must be there before torch is.
    show_analysis = None if no_gui or not _has_display() else _load_viewer()
    settings = _analysis_settings(material="MoTe2")
    analysis = _analyze_one(sample_path("MoTe2_pristine.tif"), out, settings, None, overwrite)
    if show_analysis is not None:
        show_analysis(analysis, settings)


def _load_viewer():
    """Return the function that opens napari, or say how to install it."""
    try:
        from napari_point_defects.napari_ui.show import show_analysis
    except ImportError:
        typer.echo('to see it in napari: pip install "napari-point-defects[napari]"')
        return None
    return show_analysis


def _has_display() -> bool:
    if sys.platform in ("win32", "darwin"):
        return True
    return bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))


@app.command()
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
    values = PRESETS[preset].model_dump() | _read_settings(settings)
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
        raise _as_user_error(error) from error
    with _progress_bar("simulate") as on_progress:
        simulate_training_set(chosen, out, workers=workers, on_progress=on_progress)
    total = chosen.train_images + chosen.validation_images
    typer.echo(f"{total} images in {out}")


@app.command("simulate-image")
def simulate_image(
    recipe: Annotated[Path, typer.Argument(help="JSON: scene, noise, microscope and seed")],
    out: OutOption,
    overwrite: OverwriteOption = False,
) -> None:
    """Make one image and the table of its unit cells; the bundled samples are made so."""
    from pydantic import ValidationError

    from napari_point_defects.simulation.recipes import Recipe, write_recipe

    try:
        chosen = Recipe.model_validate(_read_settings(recipe))
    except ValidationError as error:
        raise _as_user_error(error) from error
    paths = write_recipe(chosen, recipe.stem, out, overwrite)
    typer.echo(", ".join(str(p) for p in paths))


def _read_settings(path: Path | None) -> dict:
    if path is None:
        return {}
    try:
        values = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise PointDefectsError(f"cannot read settings from {path}: {error}") from error
    if not isinstance(values, dict):
        raise PointDefectsError(f"{path} holds no settings: it must be a JSON object")
    return values


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
    training_set = _read_settings(data / "settings.json")
    with _progress_bar(f"train {kind}") as on_progress:
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
