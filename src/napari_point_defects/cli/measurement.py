"""The command that measures how images were recorded: measure."""

from __future__ import annotations

import math
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from napari_point_defects.cli.common import (
    MaterialOption,
    OverwriteOption,
    PixelSizeOption,
    SignalOption,
    SublatticeOption,
    analysis_settings,
    progress_bar,
)
from napari_point_defects.errors import PointDefectsError

if TYPE_CHECKING:
    from napari_point_defects.measured import Estimate, Measurement

ROWS = (
    ("poisson_lambda", "λ, counts in a pixel at an X₂ column", ""),
    ("column_counts", "counts in a whole X₂ column", ""),
    ("counts_per_level", "counts per unit of intensity", ""),
    ("read_noise", "read noise, standard deviation", "intensity"),
    ("offset", "black level", "intensity"),
    ("probe_fwhm_nm", "effective probe, FWHM", "nm"),
    ("tail_fraction", "share of its wide tail", ""),
    ("tail_fwhm_nm", "width of the tail, FWHM", "nm"),
    ("jitter_px", "row jitter, rms", "px"),
    ("shear", "shear of the scan", ""),
    ("stretch", "stretch of the scan", ""),
    ("contamination", "contamination over the brightest column", ""),
    ("contamination_length_nm", "its correlation length", "nm"),
    ("contrast_ratio", "X₂/M contrast", ""),
)
"""Field, what it is, unit: the lines of the table."""


def measure(
    images: Annotated[list[Path], typer.Argument(help="Image files", metavar="IMAGE...")],
    material: MaterialOption = "MoTe2",
    pixel_size_nm: PixelSizeOption = None,
    signal: SignalOption = None,
    sublattice_rank: SublatticeOption = 0,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Folder for <image>_measurement.json")
    ] = None,
    overwrite: OverwriteOption = False,
) -> None:
    """Measure noise, probe, scan errors, contamination and contrast of one or many images."""
    settings = analysis_settings(
        material=material, pixel_size_nm=pixel_size_nm, sublattice_rank=sublattice_rank
    )
    targets = [out / f"{path.stem}_measurement.json" for path in images] if out else []
    if len(set(targets)) < len(targets):
        raise PointDefectsError(
            "two images have the same name: measure them into different folders"
        )
    if targets:
        from napari_point_defects.outputs import check_outputs

        check_outputs(targets, overwrite)
    failed = []
    for number, path in enumerate(images):
        try:
            _measure_one(path, settings, signal, targets[number] if targets else None, overwrite)
        except PointDefectsError as error:
            if len(images) == 1:
                raise
            print(f"point-defects: {path}: {error}", file=sys.stderr)
            failed.append(path.name)
    if failed:
        raise PointDefectsError(
            f"{len(failed)} of {len(images)} images failed: {', '.join(failed)}"
        )


def _measure_one(path: Path, settings, signal: str | None, target: Path | None, overwrite: bool):
    from napari_point_defects import appraisal, pipeline
    from napari_point_defects.io import read_image
    from napari_point_defects.outputs import write_json

    image = read_image(path, signal=signal, pixel_size_nm=settings.pixel_size_nm)
    with progress_bar(path.name) as on_progress:
        detection = pipeline.detect(
            image, settings, on_progress=lambda share, text: on_progress(0.5 * share, text)
        )
        cells = pipeline.classify(
            image,
            detection,
            settings,
            on_progress=lambda share, text: on_progress(0.5 + 0.5 * share, text),
        )
        measurement = appraisal.measure(image, detection, cells, settings)
    for warning in detection.warnings:
        print(f"point-defects: {path.name}: warning: {warning}", file=sys.stderr)
    if target is not None:
        content = {
            "image": image.name,
            "material": settings.material,
            "pixel_size_nm": list(detection.pixel_size_nm),
            "pixel_size_source": detection.pixel_size_source,
            "measurement": measurement.as_dict(),
        }
        target.parent.mkdir(parents=True, exist_ok=True)
        write_json(content, target, overwrite)
    print_measurement(measurement, path.name)
    if target is not None:
        typer.echo(f"  {target}")


def print_measurement(measurement: Measurement, title: str) -> None:
    """Print a measurement as a table, its remarks below."""
    from rich.console import Console
    from rich.table import Table

    table = Table(title=f"{title}: measured on {measurement.cells} cells", title_justify="left")
    for heading in ("quantity", "value", "95 % interval", "unit"):
        table.add_column(heading, justify="left" if heading in ("quantity", "unit") else "right")
    for field, text, unit in ROWS:
        estimate: Estimate = getattr(measurement, field)
        if field == "contrast_ratio":
            low, high = measurement.expected_contrast
            text += f" (expected {low:.2f} – {high:.2f})"
        table.add_row(text, *_written(estimate), unit)
    for text, share in (
        ("clipped at the lowest value", measurement.clipped_low),
        ("clipped at the highest value", measurement.clipped_high),
    ):
        table.add_row(text, "–" if math.isnan(share) else f"{share:.2%}", "", "of pixels")
    console = Console()
    console.print(table)
    for remark in measurement.remarks:
        console.print(f"  • {remark}", markup=False, highlight=False)


def _written(estimate: Estimate) -> tuple[str, str]:
    """Return value and interval with as many digits as the interval allows."""
    if math.isnan(estimate.value):
        return "–", ""
    width = estimate.high - estimate.low
    size = width if width > 0 and math.isfinite(width) else abs(estimate.value) or 1.0
    digits = min(max(1 - math.floor(math.log10(size)), 0), 6)
    return (
        f"{estimate.value:.{digits}f}",
        f"{estimate.low:.{digits}f} – {estimate.high:.{digits}f}",
    )
