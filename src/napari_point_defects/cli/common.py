"""What the commands share: options, progress, one line for a user's mistake."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from napari_point_defects.errors import PointDefectsError

OutOption = Annotated[Path, typer.Option("--out", "-o", help="Folder the results go to")]
OverwriteOption = Annotated[bool, typer.Option("--overwrite", help="Replace existing results")]
MaterialOption = Annotated[str, typer.Option(help="Formula of the 2H monolayer")]
PixelSizeOption = Annotated[
    float | None, typer.Option(help="Pixel size [nm] in place of the file's")
]
SignalOption = Annotated[
    str | None, typer.Option(help="Name or index of the signal, where a file has several")
]
TrustOption = Annotated[
    bool, typer.Option("--trust-pixel-size", help="Even where the lattice disagrees")
]
RegionOption = Annotated[
    Path | None,
    typer.Option(help="Analyse only inside these polygons: a csv of napari's Shapes, or json"),
]
AlphaOption = Annotated[float, typer.Option(help="Width of the paper's crop over W_H")]
BetaOption = Annotated[float, typer.Option(help="Height of the paper's crop over H_H")]
MinScoreOption = Annotated[float, typer.Option(help="Lowest score of a hexagon")]
UnsureOption = Annotated[
    float, typer.Option(help="Flag cells whose likeliest class is less probable than this")
]
DetectorOption = Annotated[Path | None, typer.Option(help="CNN-1, .safetensors")]
ClassifierOption = Annotated[Path | None, typer.Option(help="CNN-2, .safetensors")]
DeviceOption = Annotated[str, typer.Option(help="auto, cpu or cuda")]
SchedulerOption = Annotated[
    str | None,
    typer.Option(help="Address of a running Dask scheduler, such as tcp://10.0.0.1:8786"),
]
SublatticeOption = Annotated[
    int, typer.Option(help="0: likeliest choice of X, M and hollow; 1: the next; up to 5")
]


def settings_of(model, values: Mapping[str, Any]):
    """Return settings of a pydantic model.

    Raises
    ------
    PointDefectsError
        If a value is out of bounds; the line says which option's.
    """
    from pydantic import ValidationError

    try:
        return model.model_validate(dict(values))
    except ValidationError as error:
        raise _as_user_error(error) from error


def analysis_settings(**given: Any):
    """Return the settings of an analysis from the options that were given; None is not given.

    Raises
    ------
    PointDefectsError
        If the material is unknown or a value is out of bounds.
    """
    from napari_point_defects.analysis_settings import AnalysisSettings
    from napari_point_defects.materials import get_material

    given = {name: value for name, value in given.items() if value is not None}
    if "material" in given:
        get_material(given["material"])
    return settings_of(AnalysisSettings, given)


def region_of(path: Path | None):
    """Return the region that a file draws; None without one."""
    from napari_point_defects.region import read_region

    return None if path is None else read_region(path)


def _as_user_error(error) -> PointDefectsError:
    """Say in one line which option a settings model refused."""
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"])
    value = first.get("input")
    given = f" {value}" if isinstance(value, int | float | str) else ""
    option = f"--{where.replace('_', '-')}{given}: " if where else ""
    return PointDefectsError(f"{option}{first['msg']}")


def progress_bar(title: str):
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
