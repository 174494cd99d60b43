"""Undo and redo of what the user does to the layers of one image.

Both layers of an image, hexagons and cells, share one history, so that Ctrl+Z takes back the last
thing done, wherever it was done.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from weakref import WeakKeyDictionary

from napari.layers import Layer
from qtpy.QtGui import QUndoCommand, QUndoStack

UNDO_KEY, REDO_KEY = "Control-Z", "Control-Shift-Z"
UNDO_SHORTCUTS = {UNDO_KEY: "undo", REDO_KEY: "redo"}
"""What the keys of :func:`bind_undo` do."""
_LIMIT = 200

_stacks: WeakKeyDictionary = WeakKeyDictionary()
_replaying: list[_Step] = []


class _Step(QUndoCommand):
    """Something already done, with how to take it back and do it again."""

    def __init__(self, text: str, undo: Callable[[], None], redo: Callable[[], None]) -> None:
        super().__init__(text)
        self._undo, self._redo = undo, redo
        self._done = True

    def undo(self) -> None:
        self._replay(self._undo)
        self._done = False

    def redo(self) -> None:
        if not self._done:  # Qt calls this once when the step is put on the stack
            self._replay(self._redo)
        self._done = True

    def _replay(self, action: Callable[[], None]) -> None:
        _replaying.append(self)
        try:
            action()
        finally:
            _replaying.remove(self)


def history_of(viewer: object, image_id: Hashable) -> QUndoStack:
    """Return the history of the layers of one image in one viewer."""
    stacks = _stacks.setdefault(viewer, {})
    if image_id not in stacks:
        stacks[image_id] = QUndoStack()
        stacks[image_id].setUndoLimit(_LIMIT)
    return stacks[image_id]


def remember(
    history: QUndoStack, text: str, undo: Callable[[], None], redo: Callable[[], None]
) -> None:
    """Put something that has just been done on the history.

    What an undo or redo brings about is part of that step, not one of its own: Qt would free the
    step while it runs.
    """
    if _replaying:
        return
    history.push(_Step(text, undo, redo))


def forget(viewer: object, image_id: Hashable) -> None:
    """Empty the history of an image, as when a new run replaces what its steps are about."""
    history_of(viewer, image_id).clear()


def bind_undo(layer: Layer, history: QUndoStack) -> None:
    """Let a layer's Ctrl+Z and Ctrl+Shift+Z move through the history."""
    layer.bind_key(UNDO_KEY, lambda _: history.undo(), overwrite=True)
    layer.bind_key(REDO_KEY, lambda _: history.redo(), overwrite=True)
