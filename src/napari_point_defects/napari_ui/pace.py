"""How fast a long task goes and how long it will take, in words."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable

_SETTLED_S = 2.0
"""Before that a rate says more about how processes start than about the task."""


_WORTH_TELLING_S = 4.0
_LATELY_S = 20.0
_MOST_S = 48 * 3600.0
"""A longer time left is no more than a guess."""


class Pace:
    """Rate and time left of a task that reports its share done.

    Parameters
    ----------
    total : int
        Items of the whole task.
    item : str
        What is counted, in the plural.
    clock : callable
        Seconds, from any origin.
    """

    def __init__(self, total: int, item: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._total, self._item, self._clock = total, item, clock
        self._first: tuple[float, float] | None = None

    def describe(self, share: float) -> str:
        """Return rate and time left, or nothing while they are not known.

        What was done before the first report, as in a resumed task, does not count.
        """
        now = self._clock()
        if self._first is None:
            self._first = now, share
            return ""
        elapsed, gained = now - self._first[0], share - self._first[1]
        if elapsed < _SETTLED_S or gained <= 0:
            return ""
        rate = gained * self._total / elapsed
        left = (1 - share) * elapsed / gained
        return f"{rate:.3g} {self._item}/s, {duration(left)} left"


class TimeLeft:
    """Time left of any task, from how fast its share done has grown of late.

    Parameters
    ----------
    clock : callable
        Seconds, from any origin.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._begin = clock()
        self._seen: deque[tuple[float, float]] = deque()

    def describe(self, share: float) -> str:
        """Return the time left, or how long it has run where the share says nothing.

        Nothing for a task that has only begun: most are over before one could read it.
        """
        now = self._clock()
        elapsed = now - self._begin
        if not self._seen or share < self._seen[-1][1]:  # a first report, or another count
            self._seen.clear()
        self._seen.append((now, share))
        # stages differ in speed: the last half of the time tells more than the first
        while len(self._seen) > 2 and self._seen[1][0] < now - max(elapsed / 2, _LATELY_S):
            self._seen.popleft()
        if elapsed < _WORTH_TELLING_S:
            return ""
        then, before = self._seen[0]
        gained = share - before
        if gained <= 0 or now - then < _SETTLED_S:
            return f"{duration(elapsed)} so far"
        left = (1 - share) * (now - then) / gained
        return f"about {duration(left)} left" if left < _MOST_S else f"{duration(elapsed)} so far"


def duration(seconds: float) -> str:
    """Return a time in words, as precise as one needs it."""
    if seconds < 90:
        return f"{round(seconds)} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60} min"
