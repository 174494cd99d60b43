"""Follows edits of hexagon boxes: casts and classifies again the unit cells they concern.

There is one for each viewer, whichever widget asks for it first. It works in a thread, one batch
of edits at a time; edits made meanwhile wait and are then classified together.
"""

from __future__ import annotations

import weakref
from collections import deque
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from napari.layers import Image, Layer, Points, Shapes
from qtpy.QtCore import QObject, QTimer, Signal

from napari_point_defects import pipeline
from napari_point_defects.errors import PointDefectsError
from napari_point_defects.materials import get_material
from napari_point_defects.napari_ui.cell_changes import (
    CellChange,
    NamedRecast,
    follow,
    named,
    net_change,
    relinked,
)
from napari_point_defects.napari_ui.cell_steps import change_cells, table_of
from napari_point_defects.napari_ui.cell_tables import cells_of_table
from napari_point_defects.napari_ui.hexagon_editor import HexagonEditor
from napari_point_defects.napari_ui.hexagon_edits import BoxChange, BoxEdit
from napari_point_defects.napari_ui.history import history_of
from napari_point_defects.napari_ui.image_layers import stem_image
from napari_point_defects.napari_ui.lifetime import listen, when_destroyed
from napari_point_defects.napari_ui.links import (
    KEY,
    CellsLink,
    HexagonsLink,
    image_layer,
    link_of,
    own_layer,
)
from napari_point_defects.napari_ui.run_panel import report_error
from napari_point_defects.napari_ui.tasks import Task
from napari_point_defects.netcasting import changed_hexagons
from napari_point_defects.records import Hexagons, StemImage

if TYPE_CHECKING:
    from napari.components import ViewerModel

_LOG = 200  # edits that cells, classified in the meantime, can still follow

_corrections: weakref.WeakKeyDictionary[ViewerModel, BoxCorrection] = weakref.WeakKeyDictionary()


def box_correction(viewer: ViewerModel) -> BoxCorrection:
    """Return the box correction of a viewer; it starts to watch when first asked for."""
    if viewer not in _corrections:
        _corrections[viewer] = BoxCorrection(viewer)
    return _corrections[viewer]


@dataclass(eq=False)
class _Waiting:
    """A change of the boxes that the cells do not show yet."""

    editor: HexagonEditor
    change: BoxChange
    taken_back: bool = False


@dataclass(frozen=True, eq=False)
class _Judging:
    """What the classifier needs to know of an image, kept from edit to edit."""

    layer_id: Any
    pixels: Any
    image: StemImage
    reference: np.ndarray | None


class BoxCorrection(QObject):
    """Watches the hexagon layers of a viewer and keeps the layers of cells in step.

    Undoing an edit brings back the cells that it changed as they were, with their labels.

    Parameters
    ----------
    viewer : napari.Viewer
    """

    told = Signal(str)
    """What happened to the cells, in a few words."""

    finished = Signal()
    """After every batch, whatever came of it."""

    def __init__(self, viewer: ViewerModel) -> None:
        super().__init__()
        self._viewer = weakref.ref(viewer)
        self._editors: dict[Layer, HexagonEditor] = {}
        self._log: dict[HexagonEditor, deque[BoxChange]] = {}
        self._queue: list[_Waiting] = []
        self._batch: list[_Waiting] = []
        self._task: Task | None = None
        self._cells_layer: Points | None = None
        self._judging: _Judging | None = None
        self._effects: weakref.WeakKeyDictionary[BoxEdit, tuple[Any, CellChange]] = (
            weakref.WeakKeyDictionary()
        )
        running: list[Task] = []
        self._running = running
        when_destroyed(self, lambda: [task.stop() for task in running])
        self._soon = QTimer(self, singleShot=True, interval=0)
        self._soon.timeout.connect(self._catch_up)
        # not in one go: among 10,000 boxes the edit alone keeps the window waiting long enough
        self._follow = QTimer(self, singleShot=True, interval=0)
        self._follow.timeout.connect(self._next)
        listen(self, self._on_layers, viewer.layers.events.inserted, viewer.layers.events.removed)
        self._on_layers()

    @property
    def is_running(self) -> bool:
        """Whether cells are still to follow some edit."""
        return self._task is not None or bool(self._queue)

    def editor(self, layer: Shapes) -> HexagonEditor | None:
        """Return the editor that watches a layer."""
        return self._editors.get(layer)

    def _on_layers(self, *_: Any) -> None:
        viewer = self._viewer()
        layers = list(viewer.layers)
        for layer in [layer for layer in self._editors if layer not in layers]:
            editor = self._editors.pop(layer)
            del self._log[editor]
            editor.detach()
        for layer in layers:
            link = link_of(layer, HexagonsLink)
            if link is None or layer in self._editors or not isinstance(layer, Shapes):
                continue
            history = history_of(viewer, link.image_id)
            editor = HexagonEditor(layer, history, lambda layer=layer: self._shape_of(layer), self)
            editor.changed.connect(lambda change, editor=editor: self._on_change(editor, change))
            self._editors[layer], self._log[editor] = editor, deque(maxlen=_LOG)
        self._soon.start()  # a new layer is the plugin's own only after this

    def _catch_up(self) -> None:
        """Follow what was edited while the cells that are now shown were being classified."""
        if self._viewer() is None or self.is_running:
            return
        for layer, editor in self._editors.items():
            cells = self._cells_of(layer)
            if cells is not None and not self._made_from(cells, editor.hexagons()):
                self._queue += self._missed(editor, cells)
        self._next()

    def _missed(self, editor: HexagonEditor, cells: Points) -> list[_Waiting]:
        """Return the changes since the boxes were what the cells were made from; none if never."""
        changes = list(self._log[editor])
        for i, change in enumerate(changes):
            if self._made_from(cells, change.before):
                return [_Waiting(editor, each) for each in changes[i:]]
        return []

    def _shape_of(self, layer: Shapes) -> tuple[int, int] | None:
        source = self._image_of(layer)
        return tuple(source.data.shape[-2:]) if source is not None else None

    def _image_of(self, layer: Layer) -> Image | None:
        link = link_of(layer, HexagonsLink)
        return image_layer(self._viewer().layers, link.image_id) if link else None

    def _cells_of(self, layer: Shapes) -> Points | None:
        """Return the layer of cells that came from a layer's hexagons, or would."""
        image_id = link_of(layer, HexagonsLink).image_id
        return own_layer(self._viewer().layers, image_id, CellsLink)

    def _on_change(self, editor: HexagonEditor, change: BoxChange) -> None:
        self._log[editor].append(change)
        waiting = [each for each in (*self._batch, *self._queue) if not each.taken_back]
        last = waiting[-1] if waiting else None
        if last and last.change.edit is change.edit and last.change.forward != change.forward:
            last.taken_back = True
            if self._task is not None and all(each.taken_back for each in self._batch):
                self._task.stop()
        else:
            self._queue.append(_Waiting(editor, change))
        self._follow.start()

    def _next(self) -> None:
        """Bring the cells up to date with the changes that wait, or start to."""
        if self._task is not None or self._viewer() is None:
            return
        self._queue = [each for each in self._queue if not each.taken_back]
        while self._queue and self._at_once(self._queue[0]):
            del self._queue[0]
        if not self._queue:
            return
        editor = self._queue[0].editor
        batch = [each for each in self._queue if each.editor is editor]
        self._queue = [each for each in self._queue if each.editor is not editor]
        try:
            self._start(editor, batch)
        except PointDefectsError as error:
            self._say(str(error))
            self._next()

    def _at_once(self, waiting: _Waiting) -> bool:
        """Apply a change whose effect on the cells is known; tell whether it is done with."""
        change, cells = waiting.change, self._cells_of(waiting.editor.layer)
        if cells is None:  # the boxes count when they are classified
            return True
        layer_id, effect = self._effects.get(change.edit, (None, None))
        if layer_id != cells.unique_id or not self._made_from(cells, change.before):
            return False
        effect = effect if change.forward else effect.reversed()
        self._apply(cells, effect, change.after, "as before")
        return True

    def _made_from(self, cells: Points, hexagons: Hexagons) -> bool:
        """Tell whether the cells are those of just these boxes."""
        detection = link_of(cells, CellsLink).detection
        theirs = detection.hexagons
        gone, come = changed_hexagons(theirs, hexagons, detection.lattice)
        return len(theirs) == len(hexagons) and not gone.any() and not come.any()

    def _start(self, editor: HexagonEditor, batch: list[_Waiting]) -> None:
        """Start to cast and classify the cells that changes of one layer concern."""
        cells_layer, source = self._cells_of(editor.layer), self._image_of(editor.layer)
        if not self._made_from(cells_layer, batch[0].change.before):
            # after an error there is more to follow than what waits
            batch = self._missed(editor, cells_layer)
        if not batch:
            raise PointDefectsError(
                f"{cells_layer.name!r} was not made from these boxes: classify point defects again"
            )
        changes = [each.change for each in batch]
        if source is None:
            raise PointDefectsError("the image of these boxes is closed: open it and detect again")
        link, table = link_of(cells_layer, CellsLink), table_of(cells_layer)
        material, settings = get_material(link.settings.material), link.settings
        detection = replace(link.detection, hexagons=changes[0].before)
        judging = self._judging
        if (
            judging is None
            or judging.layer_id != cells_layer.unique_id
            or judging.pixels is not source.data
        ):
            judging = _Judging(cells_layer.unique_id, source.data, stem_image(source), None)
        next_id = max(
            link.next_id,
            table["cell_id"].to_numpy().max(initial=-1) + 1,
            np.max(link.written_ids, initial=-1) + 1,
        )

        def work(**callbacks: Any) -> tuple[_Judging, list[NamedRecast]]:
            known, cells = judging, cells_of_table(table, material)
            if known.reference is None:
                mean = pipeline.reference_of(known.image, detection, cells, settings)
                known = replace(known, reference=mean)
            recasts = pipeline.reclassify(
                known.image,
                detection,
                cells,
                [change.after for change in changes],
                settings,
                reference=known.reference,
                **callbacks,
            )
            return known, named(recasts, table["cell_id"].to_numpy(), next_id)

        self._batch = batch
        self._task = Task(f"Classify again the cells of edited boxes in {source.name}", work)
        self._cells_layer = cells_layer
        self._running[:] = [self._task]
        self._task.start(self._on_finished)

    def _on_finished(self) -> None:
        task, batch, cells_layer = self._task, self._batch, self._cells_layer
        self._task, self._batch, self._cells_layer = None, [], None
        self._running.clear()
        viewer = self._viewer()
        if viewer is None:
            return
        if task.error is not None:
            self._say(report_error(task.error))
        elif not task.stopped and cells_layer in viewer.layers:
            self._judging, recasts = task.result
            done = [not each.taken_back for each in batch] + [False]
            n_done = done.index(False)
            if n_done:
                try:
                    self._apply_batch(cells_layer, batch[:n_done], recasts[:n_done])
                except Exception as error:
                    self._say(report_error(error))
        self._next()
        self.finished.emit()

    def _apply_batch(
        self, cells_layer: Points, batch: list[_Waiting], recasts: list[NamedRecast]
    ) -> None:
        settings = link_of(cells_layer, CellsLink).settings
        effects = follow(
            table_of(cells_layer),
            recasts,
            get_material(settings.material),
            unsure_below=settings.unsure_below,
        )
        for waiting, effect in zip(batch, effects, strict=True):
            change = waiting.change
            known = effect if change.forward else effect.reversed()
            self._effects[change.edit] = cells_layer.unique_id, known
        hexagons = batch[-1].change.after
        self._apply(cells_layer, net_change(effects), hexagons, "classified again")

    def _apply(
        self, cells_layer: Points, effect: CellChange, hexagons: Hexagons, verb: str
    ) -> None:
        """Show a change of the cells and remember what they were made from."""
        link = link_of(cells_layer, CellsLink)
        cells_layer.metadata[KEY] = relinked(link, hexagons, effect)
        change_cells(cells_layer, effect.drop_ids, effect.rows)
        self._say(effect.told(verb))

    def _say(self, text: str) -> None:
        self._viewer().status = text
        self.told.emit(text)
