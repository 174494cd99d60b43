"""Births, changes and healings of vacancies, with how sure each is; and migration."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from napari_point_defects.materials import DefectClass
from napari_point_defects.movies.histories import Histories

BORN, HEALED, CHANGED = "born", "healed", "changed"
MIGRATES_WITHIN = 1
"""Frames between a vacancy leaving a cell and one arriving beside it."""

NEIGHBOURS = np.array([[0, 1], [0, -1], [1, 0], [-1, 0], [1, -1], [-1, 1]])
"""Steps in nodes to the six cells a lattice constant away."""

_TAILS = 0.025, 0.975


@dataclass(frozen=True, slots=True)
class Event:
    """One change of one cell.

    Attributes
    ----------
    kind : str
        ``"born"``, ``"healed"`` or ``"changed"``.
    track : int
    frame : int
        First frame in which the cell is as it became.
    before, after : DefectClass
    probability : float
        That such a change took place between its neighbours in time.
    earliest, latest : int
        Frames between which it lies with 95 %.
    migration : int
        Track of the neighbour that the vacancy came from or went to; −1 where it did neither.
    """

    kind: str
    track: int
    frame: int
    before: DefectClass
    after: DefectClass
    probability: float
    earliest: int
    latest: int
    migration: int = -1

    @property
    def chalcogen_change(self) -> int:
        """How many X atoms more are missing."""
        return self.after.missing_chalcogens - self.before.missing_chalcogens

    @property
    def metal_change(self) -> int:
        """1 if the M atom was lost, −1 if it came back."""
        return int(self.after.metal_missing) - int(self.before.metal_missing)


def find_events(histories: Histories) -> list[Event]:
    """Find every change of the cells' most probable classes, by track and frame.

    A cell that is defective in the first frame it is seen in was not born in the movie.
    """
    classes = histories.classes
    before, after = classes[:, :-1], classes[:, 1:]
    rows, frames = np.nonzero((before != after) & (before >= 0) & (after >= 0))
    events: list[Event] = []
    for i, (track, t) in enumerate(zip(rows.tolist(), frames.tolist(), strict=True)):
        was, now = DefectClass(int(before[track, t])), DefectClass(int(after[track, t]))
        kind = BORN if was == 0 else HEALED if now == 0 else CHANGED
        density = getattr(histories, kind)[track]
        # from the change before to the next one
        low = frames[i - 1] + 2 if i and rows[i - 1] == track else 1
        high = frames[i + 1] + 1 if i + 1 < len(rows) and rows[i + 1] == track else len(density)
        part = density[low:high].astype(float)
        total = part.sum()
        if total > 0:
            cumulative = np.cumsum(part) / total
            earliest, latest = (low + int(np.searchsorted(cumulative, tail)) for tail in _TAILS)
        else:
            earliest = latest = t + 1
        latest = min(latest, len(density) - 1)
        events.append(Event(kind, track, t + 1, was, now, min(float(total), 1.0), earliest, latest))
    return events


def with_migrations(
    events: Sequence[Event], nodes: np.ndarray, segments: np.ndarray
) -> list[Event]:
    """Mark vacancies that left a cell just when one arrived beside it.

    Each is paired once, those at the same time first.

    Parameters
    ----------
    events : sequence of Event
    nodes : ndarray of shape (N, 2), int
        Of the tracks.
    segments : ndarray of shape (N,), int
    """
    events = list(events)
    where = {
        (int(segment), *node): track
        for track, (segment, node) in enumerate(zip(segments, nodes.tolist(), strict=True))
    }
    arrivals: dict[int, list[int]] = {}
    for index, event in enumerate(events):
        arrivals.setdefault(event.track, []).append(index)
    candidates = []
    for index, event in enumerate(events):
        if event.chalcogen_change >= 0 and event.metal_change >= 0:
            continue
        for step in NEIGHBOURS:
            node = (nodes[event.track] + step).tolist()
            neighbour = where.get((int(segments[event.track]), *node))
            for other in arrivals.get(neighbour, ()) if neighbour is not None else ():
                arrival = events[other]
                apart = abs(arrival.frame - event.frame)
                if (
                    apart <= MIGRATES_WITHIN
                    and arrival.chalcogen_change == -event.chalcogen_change
                    and arrival.metal_change == -event.metal_change
                ):
                    candidates.append((apart, -arrival.probability, index, other))
    paired: set[int] = set()
    for _, _, index, other in sorted(candidates):
        if index in paired or other in paired:
            continue
        paired |= {index, other}
        left, came = events[index], events[other]
        events[index] = replace(left, migration=came.track)
        events[other] = replace(came, migration=left.track)
    return events
