"""Calibrating an image as a step of its history: Ctrl+Z gives all layers back what they had."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_point_defects.napari_ui.cell_steps import editor_of
from napari_point_defects.napari_ui.history import bind_undo, history_of, remember
from napari_point_defects.napari_ui.image_layers import CALIBRATION_KEY
from napari_point_defects.napari_ui.layer_calibration import calibrate
from napari_point_defects.napari_ui.links import KEY, CellsLink, HexagonsLink

if TYPE_CHECKING:
    from napari import Viewer
    from napari.layers import Image, Layer

    from napari_point_defects.records import Calibration


def calibrate_in(viewer: Viewer, image: Image, calibration: Calibration) -> None:
    """Give an image a pixel size, with all that lies on it; the same pixels stay in view.

    It can be undone, on the image too, until the next run on it.
    """
    before = [_Before.of(layer) for layer in viewer.layers]

    def redo() -> None:
        scale = np.array(image.scale[-2:])
        counted = calibrate(viewer.layers, image, calibration)
        _follow(viewer, image.scale[-2:] / scale, counted)

    def undo() -> None:
        scale = np.array(image.scale[-2:])
        there = [state for state in before if state.layer in viewer.layers]
        for give_back in (_Before.give_back_notes, _Before.give_back_place):
            for state in there:
                give_back(state)
        counted = [state.layer for state in there if _is_counted(state.link)]
        _follow(viewer, image.scale[-2:] / scale, counted)

    redo()
    history = history_of(viewer, image.unique_id)
    remember(history, "calibrate", undo, redo)
    bind_undo(image, history)


@dataclass(frozen=True, eq=False, slots=True)
class _Before:
    """What calibrating changes of a layer."""

    layer: Layer
    units: tuple
    scale: np.ndarray
    translate: np.ndarray
    noted: Any
    link: Any

    @classmethod
    def of(cls, layer: Layer) -> _Before:
        noted, link = (layer.metadata.get(key) for key in (CALIBRATION_KEY, KEY))
        return cls(layer, layer.units, layer.scale.copy(), layer.translate.copy(), noted, link)

    def give_back_notes(self) -> None:
        metadata = self.layer.metadata
        if self.noted is None:
            metadata.pop(CALIBRATION_KEY, None)
        else:
            metadata[CALIBRATION_KEY] = self.noted
        if not _is_counted(self.link):
            return
        # the link may have learned other things since
        names = "pixel_size_nm", "pixel_size_source", "warnings"
        old = {name: getattr(self.link.detection, name) for name in names}
        now, size = metadata[KEY], self.link.settings.pixel_size_nm
        metadata[KEY] = replace(
            now,
            settings=now.settings.model_copy(update={"pixel_size_nm": size}),
            detection=replace(now.detection, **old),
        )

    def give_back_place(self) -> None:
        self.layer.units = self.units
        self.layer.scale = self.scale
        self.layer.translate = self.translate


def _is_counted(link: Any) -> bool:
    return isinstance(link, (HexagonsLink, CellsLink))


def _follow(viewer: Viewer, grown: np.ndarray, counted: list[Layer]) -> None:
    """Let the view follow a world that has grown by so much along y and x, and the census."""
    camera = viewer.scene.camera
    *front, y, x = camera.center
    camera.center = (*front, y * grown[0], x * grown[1])
    camera.zoom /= float(np.sqrt(abs(grown.prod())))
    for layer in counted:
        editor = editor_of(layer)
        if editor is not None:
            editor.changed.emit()
