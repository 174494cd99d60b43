"""The command that follows a movie: movie."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from napari_point_defects.cli.common import (
    ClassifierOption,
    DetectorOption,
    DeviceOption,
    MaterialOption,
    MinScoreOption,
    OutOption,
    OverwriteOption,
    PixelSizeOption,
    SignalOption,
    SublatticeOption,
    analysis_settings,
    progress_bar,
    settings_of,
)


def movie(
    files: Annotated[
        list[Path],
        typer.Argument(help="A stack (T, Y, X), or the frames in order", metavar="FILE..."),
    ],
    out: OutOption,
    material: MaterialOption = "MoTe2",
    pixel_size_nm: PixelSizeOption = None,
    signal: SignalOption = None,
    sublattice_rank: SublatticeOption = 0,
    dose_per_frame: Annotated[
        float | None, typer.Option(help="Electrons that one frame takes [e/nm²]")
    ] = None,
    beam_current_pa: Annotated[
        float | None, typer.Option(help="Beam current [pA]: with --dwell-us, gives the dose")
    ] = None,
    dwell_us: Annotated[float | None, typer.Option(help="Dwell time at a pixel [µs]")] = None,
    frame_time_s: Annotated[
        float | None, typer.Option(help="Time per frame [s] in place of the file's")
    ] = None,
    largest_drift_a: Annotated[
        float | None,
        typer.Option(help="Largest drift from frame to frame, in lattice constants, if known"),
    ] = None,
    min_score: MinScoreOption = 0.4,
    detector_weights: DetectorOption = None,
    classifier_weights: ClassifierOption = None,
    device: DeviceOption = "auto",
    overwrite: OverwriteOption = False,
) -> None:
    """Follow every unit cell through a movie: when each vacancy was made, and how often."""
    from napari_point_defects.movies.analysis import analyze_movie
    from napari_point_defects.movies.journal import FrameJournal
    from napari_point_defects.movies.results import journal_folder, movie_paths, write_movie
    from napari_point_defects.movies.settings import MovieSettings
    from napari_point_defects.movies.tables import findings
    from napari_point_defects.outputs import check_outputs
    from napari_point_defects.stacks import open_stack

    settings = analysis_settings(
        material=material,
        pixel_size_nm=pixel_size_nm,
        sublattice_rank=sublattice_rank,
        min_score=min_score,
        detector_weights=detector_weights,
        classifier_weights=classifier_weights,
        device=device,
    )
    options = settings_of(
        MovieSettings,
        {
            "dose_per_frame_e_nm2": dose_per_frame,
            "beam_current_pa": beam_current_pa,
            "dwell_us": dwell_us,
            "frame_time_s": frame_time_s,
            "largest_drift_a": largest_drift_a,
        },
    )
    options.check_dose()
    stack = open_stack(files, signal=signal, pixel_size_nm=settings.pixel_size_nm)
    check_outputs(movie_paths(stack.name, out).values(), overwrite)
    journal = FrameJournal.open(
        journal_folder(stack.name, out), stack, settings, overwrite=overwrite
    )
    with progress_bar(stack.name) as on_progress:
        found = analyze_movie(stack, settings, options, store=journal, on_progress=on_progress)
    for refusal in found.refusals:
        text = f"frame {refusal.index} skipped: {refusal.reason}"
        print(f"point-defects: {stack.name}: {text}", file=sys.stderr)
    for warning in found.warnings():
        print(f"point-defects: {stack.name}: warning: {warning}", file=sys.stderr)
    paths = write_movie(found, out, overwrite)
    journal.remove()
    for line in findings(found):
        typer.echo(line)
    typer.echo("  " + ", ".join(str(path) for path in paths.values()))
