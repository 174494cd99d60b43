"""How fast a long task goes and how long it will take, in words."""

from __future__ import annotations

import time
from collections.abc import Callable

_SETTLED_S = 2.0
"""Before that a rate says more about how processes start than about the task."""


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


def duration(seconds: float) -> str:
    """Return a time in words, as precise as one needs it."""
    if seconds < 90:
        return f"{round(seconds)} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60} min"
