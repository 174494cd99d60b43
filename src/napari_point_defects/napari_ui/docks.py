"""Open the plugin's other dock widgets from one of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from napari_point_defects.errors import PointDefectsError

if TYPE_CHECKING:
    from napari import Viewer
    from napari.layers import Image

    from napari_point_defects.napari_ui.simulate_match import Matched

PLUGIN = "napari-point-defects"
DETECT, CLASSIFY = "Detect unit cells", "Classify point defects"
SIMULATE, ADAPT = "Simulate training set", "Adapt to image"


def open_dock(viewer: Viewer, name: str, *, in_front: bool = False) -> Any:
    """Open the dock of one of the plugin's widgets, or find it; return the widget.

    Parameters
    ----------
    viewer : napari.Viewer
    name : str
        As in the menu.
    in_front : bool
        Show it before the others that share its place.

    Raises
    ------
    PointDefectsError
        If the viewer has no window.
    """
    window = getattr(viewer, "window", None)
    if window is None:
        raise PointDefectsError(f"there is no window to show {name} in")
    dock, widget = window.add_plugin_dock_widget(PLUGIN, name, tabify=True)
    if in_front:
        dock.show()
        dock.raise_()
    return widget


def adapt_to(viewer: Viewer, layer: Image | None, matched: Matched | None = None) -> None:
    """Open *Adapt to image* on an image layer, with the ranges found for it if they are known.

    Raises
    ------
    PointDefectsError
        If the image is closed, there is no window, or the widget is at work.
    """
    if layer is None:
        raise PointDefectsError("the image is closed: open it again")
    open_dock(viewer, ADAPT, in_front=True).set_image(layer, matched)
