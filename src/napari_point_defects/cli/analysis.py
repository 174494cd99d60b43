"""Commands that analyse images: analyze and demo."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from napari_point_defects.cli.common import (
    AlphaOption,
    BetaOption,
    ClassifierOption,
    DetectorOption,
    DeviceOption,
    MaterialOption,
    MinScoreOption,
    OutOption,
    OverwriteOption,
    PixelSizeOption,
    RegionOption,
    SignalOption,
    SublatticeOption,
    TrustOption,
    UnsureOption,
    analysis_settings,
    progress_bar,
    region_of,
)
from napari_point_defects.errors import PointDefectsError


def analyze(
    images: Annotated[list[Path], typer.Argument(help="Image files", metavar="IMAGE...")],
    out: OutOption,
    material: MaterialOption = "MoTe2",
    pixel_size_nm: PixelSizeOption = None,
    trust_pixel_size: TrustOption = False,
    signal: SignalOption = None,
    region: RegionOption = None,
    sublattice_rank: SublatticeOption = 0,
    alpha: AlphaOption = 0.65,
    beta: BetaOption = 0.5,
    min_score: MinScoreOption = 0.4,
    unsure_below: UnsureOption = 0.95,
    detector_weights: DetectorOption = None,
    classifier_weights: ClassifierOption = None,
    device: DeviceOption = "auto",
    report: Annotated[
        Path | None,
        typer.Option(help="Write a page of one image, .html, with all of it for a browser"),
    ] = None,
    overwrite: OverwriteOption = False,
) -> None:
    """Find, classify and count every unit cell of one or many images."""
    settings = analysis_settings(
        material=material,
        pixel_size_nm=pixel_size_nm,
        trust_pixel_size=trust_pixel_size,
        region=region_of(region),
        sublattice_rank=sublattice_rank,
        alpha=alpha,
        beta=beta,
        min_score=min_score,
        unsure_below=unsure_below,
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
    if report is not None and len(images) > 1:
        raise PointDefectsError("--report takes one image: give each a page of its own")
    failed = []
    for path in images:
        try:
            _analyze_one(path, out, settings, signal, overwrite, report)
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


def _analyze_one(
    path: Path,
    out: Path,
    settings,
    signal: str | None,
    overwrite: bool,
    report: Path | None = None,
):
    from napari_point_defects.io import read_image
    from napari_point_defects.outputs import check_outputs
    from napari_point_defects.pipeline import analyze as run
    from napari_point_defects.results import output_paths, write_results

    targets = output_paths(path.stem, out)
    files = list(targets.values())
    if report is not None:
        from napari_point_defects.report.writing import report_path, report_paths, write_report

        files += report_paths(report_path(report), targets).values()
    check_outputs(files, overwrite)
    image = read_image(path, signal=signal, pixel_size_nm=settings.pixel_size_nm)
    with progress_bar(path.name) as on_progress:
        analysis = run(image, settings, on_progress=on_progress)
    for warning in analysis.detection.warnings:
        print(f"point-defects: {path.name}: warning: {warning}", file=sys.stderr)
    paths = write_results(analysis, out, overwrite)
    if report is not None:
        paths |= write_report(analysis, report, overwrite, written=paths)
    _print_census(analysis.census, path.name)
    typer.echo("  " + ", ".join(str(p) for p in paths.values()))
    return analysis


def _print_census(census: dict, title: str) -> None:
    from rich.console import Console
    from rich.table import Table

    from napari_point_defects.quality import quality_lines

    lattice = census["lattice"]
    table = Table(
        title=f"{title}: {census['n_cells']} unit cells of {census['material']}, "
        f"{census['area_nm2']:.1f} nm² "
        f"(a = {lattice['a_px']:.2f} px, {lattice['angle_deg']:.1f}°)",
        title_justify="left",
    )
    for heading in ("class", "cells", "unsure", "per nm²", "estimate per cm²", "95 % interval"):
        table.add_column(heading, justify="left" if heading == "class" else "right")
    for label, row in census["classes"].items():
        estimate = row["estimate"]
        low, high = estimate["density_per_cm2_interval95"]
        table.add_row(
            label,
            str(row["count"]),
            str(row["unsure"]),
            f"{row['density_per_nm2']:.4f}",
            f"{estimate['density_per_cm2']:.2e}",
            f"{low:.2e} – {high:.2e}",
        )
    console = Console()
    console.print(table)
    for line in quality_lines(census["quality"]):
        console.print(line, highlight=False, soft_wrap=True)


def demo(
    out: OutOption = Path("point-defects-demo"),
    no_gui: Annotated[bool, typer.Option("--no-gui", help="Do not open napari")] = False,
    overwrite: OverwriteOption = False,
) -> None:
    """Analyse a bundled MoTe₂ image, write and print its census, and open it in napari."""
    from napari_point_defects.io import sample_path

    # Before the analysis: the viewer's package must be there before torch is.
    show_analysis = None if no_gui or not _has_display() else _load_viewer()
    settings = analysis_settings(material="MoTe2")
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
