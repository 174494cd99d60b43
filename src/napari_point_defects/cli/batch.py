"""The command that analyses every image of a folder: batch."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
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
    PixelSizeOption,
    RegionOption,
    SchedulerOption,
    SignalOption,
    SublatticeOption,
    TrustOption,
    UnsureOption,
    analysis_settings,
    progress_bar,
    region_of,
)
from napari_point_defects.errors import PointDefectsError

_LINE_S = 60.0
_LISTED = 20
"""Failures that are printed; all are in the table."""


def batch(
    folder: Annotated[Path, typer.Argument(help="Folder of the images")],
    out: OutOption,
    material: MaterialOption = "MoTe2",
    pattern: Annotated[
        list[str] | None,
        typer.Option(help="Such as '*HAADF*.emd'; give it again for more; default: all images"),
    ] = None,
    recursive: Annotated[
        bool, typer.Option("--recursive", "-r", help="Also in the folders below")
    ] = False,
    scheduler: SchedulerOption = None,
    workers: Annotated[
        int | None, typer.Option(min=1, help="Processes here; default: one per core")
    ] = None,
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
    overlay: Annotated[
        bool,
        typer.Option("--overlay/--no-overlay", help="Draw a picture of each; most of the disk"),
    ] = True,
    time_limit: Annotated[
        float | None,
        typer.Option(
            metavar="SECONDS",
            min=0,
            help="Leave out, as a failure, an image that takes longer; default: no limit",
        ),
    ] = None,
    overwrite: Annotated[
        bool,
        typer.Option(
            "--overwrite", help="Replace results made with other settings, weights or contents"
        ),
    ] = False,
    retry_failed: Annotated[
        bool, typer.Option("--retry-failed", help="Try images again that could not be analysed")
    ] = False,
    verify: Annotated[
        bool,
        typer.Option("--verify", help="Compare whole files with those analysed, not size and time"),
    ] = False,
) -> None:
    """Analyse every image of a folder into one table; go on where an earlier run was ended.

    A bad file stops nothing: failures are listed at the end and in failures.csv, and make the exit
    code 2. The same command again does what is missing.
    """
    from napari_point_defects.batch.run import BatchRequest, run_batch
    from napari_point_defects.clusters import open_cluster

    if scheduler is not None and workers is not None:
        raise PointDefectsError("--workers is for processes here: with --scheduler leave it out")
    request = BatchRequest(
        folder,
        out,
        analysis_settings(
            material=material,
            pixel_size_nm=pixel_size_nm,
            trust_pixel_size=trust_pixel_size,
            region=region_of(region),
            sublattice_rank=sublattice_rank,
            alpha=alpha,
            beta=beta,
            min_score=min_score,
            unsure_below=unsure_below,
            detector_weights=detector_weights and detector_weights.absolute(),
            classifier_weights=classifier_weights and classifier_weights.absolute(),
            device=device,
        ),
        signal,
        tuple(pattern or ()),
        recursive=recursive,
        overwrite=overwrite,
        retry_refused=retry_failed,
        verify=verify,
        overlay=overlay,
        time_limit_s=time_limit,
    )
    try:
        with progress_bar(folder.name or "batch") as on_progress:
            summary = run_batch(
                request,
                lambda needs: open_cluster(scheduler, workers, needs, on_note=_note),
                on_progress=on_progress if sys.stderr.isatty() else _now_and_then(),
                on_note=_note,
            )
    except KeyboardInterrupt:
        typer.echo(
            f"stopped; what is done is in {out}: give the same command again to go on", err=True
        )
        raise typer.Exit(130) from None
    _report(summary, out)


def _note(text: str) -> None:
    print(f"point-defects: {text}", file=sys.stderr)


def _now_and_then() -> Callable[[float, str], None]:
    """Report progress for a log: a line a minute."""
    last = time.monotonic()

    def on_progress(share: float, text: str) -> None:
        nonlocal last
        if time.monotonic() - last > _LINE_S:
            last = time.monotonic()
            _note(text)

    return on_progress


def _report(summary, out: Path) -> None:
    from napari_point_defects.batch.record import CELLS, CENSUS, CENSUS_CSV, FAILURES

    before = f", {summary.before} of them before" if summary.before else ""
    typer.echo(
        f"{summary.analysed} of {summary.images} images analysed{before}: "
        f"{summary.n_cells:,} unit cells"
    )
    if summary.analysed:
        typer.echo("  " + ", ".join(str(out / name) for name in (CENSUS, CENSUS_CSV, CELLS)))
    if not summary.failures:
        return
    for image, _, error in summary.failures[:_LISTED]:
        _note(f"{image}: {error}")
    if len(summary.failures) > _LISTED:
        _note(f"and {len(summary.failures) - _LISTED} more")
    raise PointDefectsError(
        f"{len(summary.failures)} failed, see {out / FAILURES}; the same command tries those again "
        "that crashed or took too long, --retry-failed all"
    )
