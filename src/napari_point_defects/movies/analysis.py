"""A movie from its frames to births, changes and rates."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Protocol

import numpy as np

from napari_point_defects.analysis_settings import AnalysisSettings
from napari_point_defects.errors import PointDefectsError, Stopped
from napari_point_defects.materials import Material, get_material
from napari_point_defects.movies.events import Event, find_events, with_migrations
from napari_point_defects.movies.frames import Frame, FrameReader, Refusal
from napari_point_defects.movies.histories import (
    Histories,
    Looks,
    find_histories,
    likelihoods,
)
from napari_point_defects.movies.linking import Linker, Links
from napari_point_defects.movies.rates import Rate, find_rates, without_migrations
from napari_point_defects.movies.settings import MovieSettings
from napari_point_defects.stacks import Stack

_FADED = 0.35  # of the lattice's usual share of the image: a frame that lost its focus
_USUAL_FRAMES = 15
_NUMBER = re.compile(r"[-−+]?\d[\d.,]*")
_HISTORIES = 0.95  # share of the time after which the frames are done

Progress = Callable[[float, str], None]


class FrameStore(Protocol):
    """Keeps what was found in each frame, so that a run that was killed can go on."""

    def load(self, index: int) -> Frame | Refusal | None:
        """Return what was kept of a frame; None if nothing was."""

    def save(self, found: Frame | Refusal) -> None:
        """Keep what was found in a frame."""


@dataclass(frozen=True, slots=True)
class Movie:
    """Everything found in a movie.

    Attributes
    ----------
    stack : Stack
    settings : AnalysisSettings
    options : MovieSettings
    frames : tuple of Frame
        Those that were read, in their order.
    refusals : tuple of Refusal
        Those that were skipped.
    links : Links
        One link per frame of ``frames``.
    histories : Histories
        By track and number of the frame in the movie.
    events : tuple of Event
    rates : dict of Rate
        Vacancies that migrated are neither made nor healed.
    rates_with_migrations : dict of Rate
        The same with every change of a cell counted.
    """

    stack: Stack
    settings: AnalysisSettings
    options: MovieSettings
    frames: tuple[Frame, ...]
    refusals: tuple[Refusal, ...]
    links: Links
    histories: Histories
    events: tuple[Event, ...]
    rates: dict[str, Rate]
    rates_with_migrations: dict[str, Rate]

    @property
    def material(self) -> Material:
        """The material."""
        return get_material(self.settings.material)

    @property
    def pixel_size_nm(self) -> tuple[float, float]:
        """Height and width of a pixel, as used for the first frame."""
        return self.frames[0].pixel_size_nm

    @property
    def cell_area_nm2(self) -> float:
        """Area of a unit cell, the mean over all frames."""
        areas = [f.lattice.cell_area_px * np.prod(f.pixel_size_nm) for f in self.frames]
        return float(np.mean(areas))

    @property
    def dose_e_nm2(self) -> float | None:
        """Dose per frame."""
        return self.options.dose_e_nm2(self.pixel_size_nm)

    @property
    def frame_time_s(self) -> float | None:
        """Time per frame: the user's, else the file's."""
        return self.options.frame_time_s or self.stack.frame_time_s

    @property
    def track_of(self) -> dict[int, np.ndarray]:
        """Tracks of the cells of each frame that was read, by the frame's number."""
        return {link.index: link.tracks for link in self.links.links}

    def warnings(self) -> list[str]:
        """Return what the user should know, each line once, with the frames it is true of."""
        lines: dict[str, tuple[str, list[int]]] = {}
        for frame in self.frames:
            for text in frame.warnings:
                # the same but for its numbers: that of the first frame stands for all
                lines.setdefault(_NUMBER.sub("#", text), (text, []))[1].append(frame.index)
        found = [f"{text} (frame{_listed(indices)})" for text, indices in lines.values()]
        others = [frame.index for frame in self.frames if frame.other_cells]
        if others:
            found.append(
                "only the largest domain is followed; frames with others, whose cells are not "
                f"in the movie's census:{_listed(others)}"
            )
        if self.links.unlinked:
            found.append(
                "frames whose offset from the rest is not certain, and whose cells are not linked:"
                f"{_listed(self.links.unlinked)}; if the sheet drifts by less than half a lattice "
                "constant a frame, say so with --largest-drift-a 0.45"
            )
        parts = len(set(self.links.segments.tolist()))
        if parts > 1:
            found.append(f"the movie falls into {parts} parts that could not be linked")
        return found


def analyze_movie(
    stack: Stack,
    settings: AnalysisSettings,
    options: MovieSettings | None = None,
    *,
    store: FrameStore | None = None,
    on_progress: Progress = lambda share, text: None,
    should_stop: Callable[[], bool] = lambda: False,
) -> Movie:
    """Find, classify and follow every unit cell of a movie.

    Parameters
    ----------
    stack : Stack
    settings : AnalysisSettings
        Of every frame.
    options : MovieSettings, optional
    store : FrameStore, optional
        Keeps the frames of a run that may be killed.
    on_progress, should_stop : callable

    Returns
    -------
    Movie

    Raises
    ------
    PointDefectsError
        If fewer than two frames can be used, or a setting cannot be.
    Stopped
        If ``should_stop`` said yes.
    """
    options = options or MovieSettings()
    options.dose_e_nm2((1.0, 1.0))  # refuse what cannot be before the work
    if settings.region is not None:
        raise PointDefectsError(
            "a region cannot be analysed in a movie, for the sheet drifts: crop the stack"
        )
    get_material(settings.material)
    frames, refusals = _read_frames(stack, settings, store, on_progress, should_stop)
    if len(frames) < 2:
        why = f": frame {refusals[0].index}: {refusals[0].reason}" if refusals else ""
        raise PointDefectsError(
            f"{stack.name}: only {len(frames)} of {len(stack)} frames can be analysed{why}"
        )
    linker = Linker(options)
    for frame in frames:
        linker.add(frame)
    return follow(
        stack,
        settings,
        options,
        frames,
        refusals,
        linker.links(),
        on_progress=lambda share, text: on_progress(_HISTORIES + (1 - _HISTORIES) * share, text),
        should_stop=should_stop,
    )


def follow(
    stack: Stack,
    settings: AnalysisSettings,
    options: MovieSettings,
    frames: Sequence[Frame],
    refusals: Sequence[Refusal],
    links: Links,
    *,
    on_progress: Progress = lambda share, text: None,
    should_stop: Callable[[], bool] = lambda: False,
) -> Movie:
    """Find what became of the cells of frames that are linked; see :func:`analyze_movie`."""
    looks = looks_of(frames, links, len(stack), options.misjudged)
    histories = find_histories(
        looks,
        on_progress=lambda share, text: on_progress(0.5 * share, text),
        should_stop=should_stop,
    )
    events = with_migrations(find_events(histories), links.nodes, links.segments)
    on_progress(0.5, "rates")
    every = find_rates(looks, histories)
    if should_stop():
        raise Stopped
    if any(event.migration >= 0 for event in events):
        rates = find_rates(without_migrations(looks, events), histories)
    else:
        rates = every
    on_progress(1.0, "done")
    return Movie(
        stack,
        settings,
        options,
        tuple(frames),
        tuple(refusals),
        links,
        histories,
        tuple(events),
        rates,
        every,
    )


def looks_of(frames: Sequence[Frame], links: Links, frame_count: int, misjudged: float) -> Looks:
    """Arrange what the frames say of every track.

    Parameters
    ----------
    frames : sequence of Frame
    links : Links
    frame_count : int
        Of the movie, those that were skipped too.
    misjudged : float
        See :class:`~napari_point_defects.movies.settings.MovieSettings`.
    """
    count = len(links.nodes)
    likelihood = np.ones((count, frame_count, 6), np.float32)
    begin, end = np.full(count, frame_count), np.full(count, -1)
    for frame, link in zip(frames, links.links, strict=True):
        seen = link.tracks >= 0
        tracks = link.tracks[seen]
        likelihood[tracks, frame.index] = likelihoods(
            frame.cells.probabilities[seen], frame.shares, misjudged
        )
        begin[tracks] = np.minimum(begin[tracks], frame.index)
        end[tracks] = np.maximum(end[tracks], frame.index)
    return Looks(likelihood, begin, end)


def _read_frames(
    stack: Stack,
    settings: AnalysisSettings,
    store: FrameStore | None,
    on_progress: Progress,
    should_stop: Callable[[], bool],
) -> tuple[list[Frame], list[Refusal]]:
    """Read every frame or note why not."""
    reader = FrameReader(settings)
    frames: list[Frame] = []
    refusals: list[Refusal] = []
    share = _HISTORIES / len(stack)
    for index in range(len(stack)):
        if should_stop():
            raise Stopped
        found = store.load(index) if store is not None else None
        if found is None:

            def step(part: float, text: str, index: int = index) -> None:
                on_progress((index + part) * share, f"frame {index + 1} of {len(stack)}: {text}")

            found = _read(reader, stack, index, frames, step, should_stop)
            if store is not None:
                store.save(found)
        (frames if isinstance(found, Frame) else refusals).append(found)
    return frames, refusals


def _read(
    reader: FrameReader,
    stack: Stack,
    index: int,
    frames: list[Frame],
    on_progress: Progress,
    should_stop: Callable[[], bool],
) -> Frame | Refusal:
    """Read one frame, or say why it is skipped."""
    before = frames[-1].lattice if frames else None
    try:
        image = stack.frame(index)
        found = reader.read(image, index, before, on_progress=on_progress, should_stop=should_stop)
    except PointDefectsError as error:
        return Refusal(index, " ".join(str(error).split()).removesuffix(": give another image"))
    usual = [frame.lattice.quality for frame in frames[-_USUAL_FRAMES:]]
    if len(usual) >= 3 and found.lattice.quality < _FADED * median(usual):
        return Refusal(
            index,
            "its lattice is far fainter than in the frames before: out of focus, or something "
            "lies on it",
        )
    return found


def _listed(indices: list[int]) -> str:
    """Write frames' numbers as ranges, e.g. ``s 0–3, 7``."""
    runs: list[list[int]] = []
    for index in sorted(indices):
        if runs and index == runs[-1][1] + 1:
            runs[-1][1] = index
        else:
            runs.append([index, index])
    text = ", ".join(f"{a}" if a == b else f"{a}–{b}" for a, b in runs[:12])
    return ("s " if len(indices) > 1 else " ") + text + (", …" if len(runs) > 12 else "")
