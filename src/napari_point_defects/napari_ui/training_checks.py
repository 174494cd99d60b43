"""Compare the image behind a layer of cells with what the weights learned, in the background."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from qtpy.QtCore import QObject, Signal

from napari_point_defects import appraisal
from napari_point_defects.errors import PointDefectsError
from napari_point_defects.napari_ui.image_layers import stem_image
from napari_point_defects.napari_ui.layer_cells import current_cells
from napari_point_defects.napari_ui.lifetime import when_destroyed
from napari_point_defects.napari_ui.links import KEY, CellsLink, image_layer, link_of
from napari_point_defects.napari_ui.run_panel import report_error
from napari_point_defects.napari_ui.tasks import Task
from napari_point_defects.training_check import training_warnings

if TYPE_CHECKING:
    from napari import Viewer
    from napari.layers import Points


class TrainingChecks(QObject):
    """Notes in the link of a layer of cells what of its image the weights have not seen.

    Measuring takes seconds: the cells are drawn meanwhile. A layer that is replaced takes its
    lines along.

    Parameters
    ----------
    viewer : napari.Viewer
    parent : QObject
    """

    told = Signal()
    """A layer's link says it now."""

    def __init__(self, viewer: Viewer, parent: QObject) -> None:
        super().__init__(parent)
        self._viewer = viewer
        self._running: list[tuple[Points, Task]] = []
        running = self._running
        when_destroyed(self, lambda: [task.stop() for _, task in running])

    @property
    def is_running(self) -> bool:
        """Whether an image is being measured."""
        return bool(self._running)

    def check(self, layer: Points) -> None:
        """Measure the image of a layer's cells, unless that was done or is being done."""
        link = link_of(layer, CellsLink)
        if link.outside is not None or any(each is layer for each, _ in self._running):
            return
        try:
            image = stem_image(image_layer(self._viewer.layers, link.image_id))
        except PointDefectsError:
            return  # it is closed
        settings, detection = link.settings, link.detection
        cells = current_cells(layer)

        def work(on_progress: Any, should_stop: Any) -> tuple[str, ...]:
            measured = appraisal.measure(image, detection, cells, settings)
            return training_warnings(measured, detection, image.data.shape, settings)

        task = Task(f"Measure {image.name}", work)
        self._running.append((layer, task))
        task.start(self._on_finished)

    def _on_finished(self) -> None:
        over = [entry for entry in self._running if entry[1].is_over]
        for entry in over:
            self._running.remove(entry)
            layer, task = entry
            if task.error is not None:
                report_error(task.error)
            elif task.result is not None:
                link = link_of(layer, CellsLink)
                layer.metadata[KEY] = replace(link, outside=task.result)
        self.told.emit()
