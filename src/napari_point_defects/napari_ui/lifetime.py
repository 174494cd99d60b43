"""Do something when a widget goes, and stop listening to napari with it.

Qt deletes a widget while Python may still hold its wrapper, and the other way about. A lambda
connected to a widget's own ``destroyed`` signal belongs to that widget and can be freed while it
runs, which crashes; so what is to be done then is held here instead.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

from qtpy.QtCore import QObject, Slot

_waiting: set[_Farewell] = set()


class _Farewell(QObject):
    """Calls an action once, when the object it was given to is deleted."""

    def __init__(self, action: Callable[[], None]) -> None:
        super().__init__()
        self._action = action

    @Slot()
    def act(self) -> None:
        self._action()
        _waiting.discard(self)


def when_destroyed(owner: QObject, action: Callable[[], None]) -> None:
    """Call an action when Qt deletes an object; the action must not refer to the object."""
    farewell = _Farewell(action)
    _waiting.add(farewell)
    owner.destroyed.connect(farewell.act)


def listen(owner: QObject, callback: Callable[..., None], *events: Any) -> None:
    """Call a method of the owner on napari's events for as long as Qt keeps the owner."""
    for event in events:
        event.connect(callback)
    method = weakref.WeakMethod(callback)

    def stop() -> None:
        if (live := method()) is not None:
            for event in events:
                event.disconnect(live)

    when_destroyed(owner, stop)
