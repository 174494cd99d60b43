"""Keys and clicks on a layer of unit cells, in place of napari's own for points.

Bound to the layer itself, so that they hold for this layer alone and come before napari's.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from napari.layers import Points

CLICK_REACH_A = 0.5
"""How near, in units of a, a click must be to a cell's centre to mean it."""

_CLICK_PX = 4


def bind_keys(layer: Points, actions: Mapping[str, Callable[[], None]]) -> None:
    """Let keys on a layer call actions."""
    for key, action in actions.items():
        layer.bind_key(key, _pressing(action), overwrite=True)


def unbind_keys(layer: Points, keys: Iterable[str]) -> None:
    """Give keys back to napari."""
    for key in keys:
        layer.bind_key(key, None)


def _pressing(action: Callable[[], None]) -> Callable[[Points], None]:
    def press(_: Points) -> None:
        action()

    return press


def click_selects(a_px: float) -> Callable[[Points, Any], Generator[None, None, None]]:
    """Return a mouse callback: a click selects a cell where a drag moves the camera.

    With Shift the cell joins the selection or leaves it.
    """

    def click(layer: Points, event: Any) -> Generator[None, None, None]:
        if str(layer.mode) != "pan_zoom" or event.button != 1:
            return
        start = np.array(event.pos)
        yield
        while event.type == "mouse_move":
            yield
        if np.abs(np.array(event.pos) - start).max() > _CLICK_PX:
            return
        where = np.array(layer.world_to_data(event.position))[-2:]
        shown = np.flatnonzero(layer.shown)
        distance = np.linalg.norm(np.asarray(layer.data)[shown] - where, axis=1)
        hit = (
            {int(shown[distance.argmin()])}
            if distance.min(initial=np.inf) < (CLICK_REACH_A * a_px)
            else set()
        )
        selected = set(layer.selected_data)
        layer.selected_data = selected ^ hit if "Shift" in event.modifiers else hit

    return click
