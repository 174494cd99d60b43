"""The command that looks beyond the census: study."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from napari_point_defects.cli.common import (
    MaterialOption,
    OutOption,
    OverwriteOption,
    PixelSizeOption,
    SignalOption,
    SublatticeOption,
    analysis_settings,
    progress_bar,
)


def study(
    image: Annotated[Path, typer.Argument(help="Image file")],
    out: OutOption,
    material: MaterialOption = "MoTe2",
    pixel_size_nm: PixelSizeOption = None,
    signal: SignalOption = None,
    sublattice_rank: SublatticeOption = 0,
    overwrite: OverwriteOption = False,
) -> None:
    """Pair correlations, clusters and strain of an image; its atoms, and its simulated twin."""
    from napari_point_defects.io import read_image
    from napari_point_defects.outputs import check_outputs
    from napari_point_defects.pipeline import analyze
    from napari_point_defects.study import study as run
    from napari_point_defects.study import study_paths, write_study

    settings = analysis_settings(
        material=material, pixel_size_nm=pixel_size_nm, sublattice_rank=sublattice_rank
    )
    check_outputs(study_paths(image.stem, out).values(), overwrite)
    loaded = read_image(image, signal=signal, pixel_size_nm=settings.pixel_size_nm)
    with progress_bar(image.name) as on_progress:
        analysis = analyze(
            loaded, settings, on_progress=lambda share, text: on_progress(0.7 * share, text)
        )
        found = run(
            loaded,
            analysis.detection,
            analysis.cells,
            settings,
            measurement=analysis.measurement,
            on_progress=lambda share, text: on_progress(0.7 + 0.3 * share, text),
        )
    for line in (*analysis.detection.warnings, *found.remarks):
        print(f"point-defects: {image.name}: warning: {line}", file=sys.stderr)
    paths = write_study(found, out, overwrite)
    for line in found.findings():
        typer.echo(line)
    typer.echo("  " + ", ".join(str(path) for path in paths.values()))
