"""Cells linked from frame to frame: each node of the sheet's lattice is one track."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from napari_point_defects.materials import LATTICE_VECTORS
from napari_point_defects.movies.frames import Frame
from napari_point_defects.movies.offsets import Drift, Offset, Sheet, find_offset
from napari_point_defects.movies.settings import MovieSettings

_FIRST_SCALE_A = 3.0  # of the drift between frames, before any is known
_LEAST_SCALE_A = 0.1
_CLEAR = 0.99  # evidence from which on a link teaches how the stage drifts
_MEMORY = 0.8  # of the mean residue, per frame
_STAYS = 0.995  # of what was known of a cell, per frame
_FLOOR = 1e-4
_PATIENCE = 3
"""So many frames in a row that cannot be linked begin a new part of the movie."""


@dataclass(frozen=True, slots=True)
class Link:
    """How one frame was linked.

    Attributes
    ----------
    index : int
        Of the frame in the movie.
    segment : int
        Which part of the movie: tracks never go from one to the other. −1 where it was not linked.
    offset : Offset or None
        None for the first frame of a part, and where there was none.
    drift_a : ndarray of shape (2,)
        How far the field of view has moved on the sheet (y, x) since the first frame of its part,
        in lattice constants along the canonical axes; NaN where it is not linked.
    tracks : ndarray of shape (N,), int
        Track of each cell of the frame; −1 where it is not linked.
    """

    index: int
    segment: int
    offset: Offset | None
    drift_a: np.ndarray
    tracks: np.ndarray


@dataclass(frozen=True, slots=True)
class Links:
    """The links of all frames that were read.

    Attributes
    ----------
    links : tuple of Link
    nodes : ndarray of shape (K, 2), int
        Node of each track on the sheet of its part.
    segments : ndarray of shape (K,), int
    """

    links: tuple[Link, ...]
    nodes: np.ndarray
    segments: np.ndarray

    @property
    def unlinked(self) -> list[int]:
        """Numbers of the frames that could not be linked."""
        return [link.index for link in self.links if link.segment < 0]


class Linker:
    """Links frames in their order.

    Parameters
    ----------
    settings : MovieSettings
    """

    def __init__(self, settings: MovieSettings) -> None:
        self._settings = settings
        self._part: _Part | None = None
        self._links: list[Link] = []
        self._nodes: list[np.ndarray] = []
        self._segments: list[int] = []
        self._failed = 0
        self._count = 0

    def add(self, frame: Frame) -> Link:
        """Link the next frame."""
        if self._part is None:
            link = self._begin(frame)
        else:
            offset = self._part.offset_of(frame, self._settings.largest_drift_a)
            if offset is not None and offset.probability >= self._settings.least_link:
                self._failed = 0
                link = self._take(frame, offset)
            elif self._failed + 1 >= _PATIENCE:
                link = self._begin(frame)
            else:
                self._failed += 1
                nowhere = np.full(len(frame), -1)
                link = Link(frame.index, -1, offset, np.full(2, np.nan), nowhere)
        self._links.append(link)
        return link

    def links(self) -> Links:
        """Return what was linked so far."""
        nodes = np.concatenate(self._nodes) if self._nodes else np.empty((0, 2), int)
        return Links(tuple(self._links), nodes, np.array(self._segments, int))

    def _begin(self, frame: Frame) -> Link:
        number = 0 if self._part is None else self._part.number + 1
        self._part, self._failed = _Part(number, frame.middle), 0
        return self._take(frame, None)

    def _take(self, frame: Frame, offset: Offset | None) -> Link:
        step = np.zeros(2, int) if offset is None else offset.step
        part = self._part
        fresh = part.take(frame, step, offset, self._count)
        self._nodes.append(fresh)
        self._segments += [part.number] * len(fresh)
        self._count += len(fresh)
        moved = (frame.middle + step - part.start) @ LATTICE_VECTORS
        return Link(frame.index, part.number, offset, moved, part.tracks_at(frame.nodes + step))


def link_frames(frames: Sequence[Frame], settings: MovieSettings | None = None) -> Links:
    """Link frames in their order; see :class:`Linker`."""
    linker = Linker(settings or MovieSettings())
    for frame in frames:
        linker.add(frame)
    return linker.links()


@dataclass(slots=True)
class _Part:
    """What is known of the sheet in one part of the movie."""

    number: int
    start: np.ndarray
    rows: dict[tuple[int, int], int] = field(default_factory=dict)
    tracks: list[int] = field(default_factory=list)
    sheet: Sheet = field(
        default_factory=lambda: Sheet(np.empty((0, 2), int), np.empty((0, 6)), np.empty(0))
    )
    seen: np.ndarray = field(default_factory=lambda: np.empty(0, int))
    last_index: int = 0
    last_middle: np.ndarray | None = None
    speed: np.ndarray = field(default_factory=lambda: np.zeros(2))
    surprises: list[float] = field(default_factory=list)
    shares: np.ndarray | None = None

    def offset_of(self, frame: Frame, limit_a: float | None) -> Offset | None:
        """Find how a frame lies on what was seen last."""
        steps = frame.index - self.last_index
        scale = self._scale * np.sqrt(steps)
        expected = self.last_middle + self.speed * steps
        drift = Drift(
            expected, scale, None if limit_a is None else limit_a * steps, self.last_middle
        )
        return find_offset(
            self._known(frame.index),
            Sheet(frame.nodes, frame.cells.probabilities, frame.residue),
            frame.shares,
            frame.middle,
            drift,
            LATTICE_VECTORS,
        )

    @property
    def _scale(self) -> float:
        squares = [_FIRST_SCALE_A**2, *(x**2 for x in self.surprises)]
        return max(float(np.sqrt(np.mean(squares))), _LEAST_SCALE_A)

    def _known(self, index: int) -> Sheet:
        """Return what is expected of the cells later on: what was seen long ago fades."""
        faded = _STAYS ** (index - self.seen)[:, None]
        p = faded * self.sheet.probabilities + (1 - faded) * self.shares
        old = self.seen < index - 20
        return replace(
            self.sheet, probabilities=p, residue=np.where(old, np.nan, self.sheet.residue)
        )

    def take(self, frame: Frame, step: np.ndarray, offset: Offset | None, first: int) -> np.ndarray:
        """Add a frame; return the nodes that are new, whose tracks count from ``first``."""
        nodes = frame.nodes + step
        keys = [tuple(node) for node in nodes.tolist()]
        fresh = np.array([key not in self.rows for key in keys])
        self.shares = frame.shares
        for key in (keys[i] for i in np.flatnonzero(fresh)):
            self.rows[key] = len(self.tracks)
            self.tracks.append(first + len(self.tracks) - len(self.seen))
        count = int(fresh.sum())
        known = self._known(frame.index) if len(self.seen) else self.sheet
        p = np.concatenate([known.probabilities, np.tile(frame.shares, (count, 1))])
        residue = np.concatenate([self.sheet.residue, np.full(count, np.nan)])
        at = np.array([self.rows[key] for key in keys], int)
        likelihood = np.maximum(frame.cells.probabilities / frame.shares, _FLOOR)
        updated = p[at] * likelihood
        p[at] = updated / updated.sum(axis=1, keepdims=True)
        old, new = residue[at], frame.residue
        mean = _MEMORY * old + (1 - _MEMORY) * new
        residue[at] = np.where(np.isnan(old), new, np.where(np.isnan(new), old, mean))
        seen = np.concatenate([self.seen, np.full(count, frame.index)])
        # probabilities are those of the last look at each
        kept = np.ones(len(seen), bool)
        kept[at] = False
        p[: len(self.seen)][kept[: len(self.seen)]] = self.sheet.probabilities[
            kept[: len(self.seen)]
        ]
        seen[at] = frame.index
        self.sheet = Sheet(np.concatenate([self.sheet.nodes, nodes[fresh]]), p, residue)
        self.seen = seen
        self._follow_drift(frame, step, offset)
        return nodes[fresh]

    def tracks_at(self, nodes: np.ndarray) -> np.ndarray:
        """Return the tracks at nodes that have one."""
        return np.array([self.tracks[self.rows[tuple(node)]] for node in nodes.tolist()], int)

    def _follow_drift(self, frame: Frame, step: np.ndarray, offset: Offset | None) -> None:
        middle = frame.middle + step
        if self.last_middle is not None:
            steps = frame.index - self.last_index
            if offset is not None and offset.evidence > _CLEAR:
                off = (middle - self.last_middle - self.speed * steps) @ LATTICE_VECTORS
                self.surprises.append(float(np.hypot(*off)) / np.sqrt(2 * steps))
            self.speed = (middle - self.last_middle) / steps
        self.last_middle, self.last_index = middle, frame.index
