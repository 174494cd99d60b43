"""The command line: analyze, batch, movie, study, measure, simulate, train, labels and more."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from napari_point_defects import __version__
from napari_point_defects.cli.analysis import analyze, demo
from napari_point_defects.cli.batch import batch
from napari_point_defects.cli.evaluation import evaluate
from napari_point_defects.cli.labels import labels_app
from napari_point_defects.cli.matching import adapt
from napari_point_defects.cli.materials import materials_app
from napari_point_defects.cli.measurement import measure
from napari_point_defects.cli.movies import movie
from napari_point_defects.cli.simulation import simulate, simulate_image
from napari_point_defects.cli.study import study
from napari_point_defects.cli.training import train_app
from napari_point_defects.errors import PointDefectsError
from napari_point_defects.material_files import use_materials_file
from napari_point_defects.palettes import ENVIRONMENT, use_palette

app = typer.Typer(
    help="Count the point defects in atomic-resolution HAADF-STEM images of 2H-MX₂ monolayers.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # it takes units in brackets for markup, and drops them
)
app.command()(analyze)
app.command()(batch)
app.command()(movie)
app.command()(measure)
app.command()(study)
app.command()(demo)
app.command()(simulate)
app.command("simulate-image")(simulate_image)
app.command()(adapt)
app.add_typer(train_app, name="train")
app.command()(evaluate)
app.add_typer(labels_app, name="labels")
app.add_typer(materials_app, name="materials")


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
    material_file: Annotated[
        Path | None, typer.Option(help="TOML file of your own materials, instead of the usual one")
    ] = None,
    palette: Annotated[
        str | None, typer.Option(help="Colours of the classes: paper or colour-blind")
    ] = None,
) -> None:
    """Take the options that stand before the command."""
    use_materials_file(material_file)
    use_palette(palette)
    if palette is not None:
        os.environ[ENVIRONMENT] = palette  # for the processes that a batch starts
