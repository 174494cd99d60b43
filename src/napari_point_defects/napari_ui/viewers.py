"""The viewer that a dock widget belongs to."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from napari import Viewer


def own_viewer(viewer: Viewer) -> Viewer:
    """Return the viewer itself.

    napari hands a widget of a manifest a wrapper that guards private names, and wraps every layer
    anew each time it is asked for. Widgets that share what they know of a layer need the layer.
    """
    return getattr(viewer, "__wrapped__", viewer)
