"""The errors that cross every boundary: a user's mistake, and a run the user stopped."""

from __future__ import annotations

from collections.abc import Callable


class PointDefectsError(ValueError):
    """Raised for bad input; the command line prints it and exits with code 2."""


class Stopped(Exception):
    """Raised out of a long task when its ``should_stop`` callable said yes."""


def stop_if(should_stop: Callable[[], bool]) -> None:
    """Raise :class:`Stopped` where a long task was asked to stop."""
    if should_stop():
        raise Stopped
