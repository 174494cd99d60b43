"""What is written of a movie: three tables, a summary and a figure."""

from __future__ import annotations

from pathlib import Path

from napari_point_defects.movies.analysis import Movie
from napari_point_defects.movies.figure import movie_figure
from napari_point_defects.movies.tables import cells_table, events_table, frames_table, summary
from napari_point_defects.outputs import write_json, write_table, write_together


def movie_paths(name: str, folder: Path) -> dict[str, Path]:
    """Where the results of a movie of that name go."""
    return {
        "events": folder / f"{name}_events.csv",
        "frames": folder / f"{name}_frames.csv",
        "cells": folder / f"{name}_cells.csv",
        "summary": folder / f"{name}_movie.json",
        "figure": folder / f"{name}_movie.png",
    }


def journal_folder(name: str, folder: Path) -> Path:
    """Where the frames of a movie of that name are kept until it is done."""
    return folder / f"{name}_movie_unfinished"


def write_movie(movie: Movie, folder: Path, overwrite: bool = False) -> dict[str, Path]:
    """Write the tables, the summary and the figure of a movie: all of them or none.

    Raises
    ------
    PointDefectsError
        If a file exists and may not be overwritten, or the folder cannot be written.
    """
    paths = movie_paths(movie.stack.name, folder)
    with write_together(paths, overwrite) as temporary:
        write_table(events_table(movie), temporary["events"], True)
        write_table(frames_table(movie), temporary["frames"], True)
        write_table(cells_table(movie), temporary["cells"], True)
        write_json(summary(movie), temporary["summary"], True)
        movie_figure(movie).savefig(temporary["figure"], format="png", dpi=130)
    return paths
