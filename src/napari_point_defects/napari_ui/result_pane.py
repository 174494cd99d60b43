"""What the panes share that find something out about an image and keep it until it is closed."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable
from pathlib import Path
from typing import Any, Generic, TypeVar

import napari
from napari.layers import Layer

from napari_point_defects.errors import stop_if
from napari_point_defects.napari_ui.export import STOP_WRITING, ask_folder
from napari_point_defects.napari_ui.layer_chooser import LayerChooser
from napari_point_defects.napari_ui.lifetime import listen
from napari_point_defects.napari_ui.pane import Pane
from napari_point_defects.napari_ui.run_panel import RunPanel
from napari_point_defects.napari_ui.themed_canvas import ThemedCanvas
from napari_point_defects.napari_ui.viewers import own_viewer

_T = TypeVar("_T")


class ResultPane(Pane, Generic[_T]):
    """Shows what was found of the chosen layer, and forgets it with the layer.

    A subclass makes ``run`` and its other widgets, says how to ``_show`` a result, and then
    calls ``_begin``.

    Parameters
    ----------
    napari_viewer : napari.Viewer
    accepts : callable
        Whether a layer may be chosen.
    empty : str
        What to do where there is none.

    Attributes
    ----------
    shown : object or None
        What is known of the chosen layer.
    """

    run: RunPanel

    def __init__(
        self, napari_viewer: napari.Viewer, accepts: Callable[[Layer], bool], empty: str
    ) -> None:
        super().__init__()
        self._viewer = own_viewer(napari_viewer)
        self._found: dict[Hashable, _T] = {}
        self.shown: _T | None = None
        self.images = LayerChooser(self._viewer, accepts, empty)

    def look(self) -> None:
        """Show what is known of the chosen layer."""
        found = self._found_of_chosen()
        if found is not self.shown:
            self.run.say("")
            self._show(found)

    def export_to(self, folder: Path, *, overwrite: bool = False) -> None:
        """Write the result's files, as the command of the same purpose does."""
        raise NotImplementedError

    def _begin(self) -> None:
        """Follow the chosen layer and the viewer from now on."""
        self.images.layer_changed.connect(self.look)
        listen(self, self._on_theme, self._viewer.events.theme)
        listen(self, self._forget_closed, self._viewer.layers.events.removed)
        self._show(None)
        self.look()

    def _show(self, found: _T | None) -> None:
        raise NotImplementedError

    def _found_of_chosen(self) -> _T | None:
        layer = self.images.layer
        return None if layer is None else self._found.get(layer.unique_id)

    def _keep(self, found: _T, layer_id: Hashable) -> None:
        self._found[layer_id] = found
        self.look()

    def _write(self, title: str, folder: Path, write: Callable[[], Any]) -> None:
        """Write files in the background."""

        def work(
            on_progress: Callable[[float, str], None], should_stop: Callable[[], bool]
        ) -> None:
            on_progress(0.0, "Writing")
            stop_if(should_stop)
            write()

        self.run.start(
            title,
            work,
            lambda _: self.run.say(f"Written to {folder}"),
            cancel_tip=STOP_WRITING,
            keeps_late=True,
        )

    def _ask_where_to_export(self, title: str, paths: Callable[[Path], Iterable[Path]]) -> None:
        answer = ask_folder(self, title, paths)
        if answer is not None:
            folder, overwrite = answer
            self.export_to(folder, overwrite=overwrite)

    def _forget_closed(self, event: Any = None) -> None:
        there = {layer.unique_id for layer in self._viewer.layers}
        for layer_id in self._found.keys() - there:
            del self._found[layer_id]
        self.look()

    def _on_theme(self, event: Any = None) -> None:
        for canvas in self.findChildren(ThemedCanvas):
            canvas.set_theme(self._viewer.theme)
