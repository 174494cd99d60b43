"""Saves labels as they are made: one label store and one session per image for each viewer.

It begins to watch when a widget first asks for it, and from then on needs no one to press Save.
"""

from __future__ import annotations

import weakref
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from napari.layers import Points, Shapes
from napari.utils.notifications import show_info
from qtpy.QtCore import QObject, QTimer, Signal

from napari_point_defects.errors import PointDefectsError
from napari_point_defects.labels.schema import FILE_NAME
from napari_point_defects.labels.store import ImageEntry, LabelStore, LastEdit
from napari_point_defects.labels.tables import DECIDED
from napari_point_defects.napari_ui import label_folder
from napari_point_defects.napari_ui.box_correction import box_correction
from napari_point_defects.napari_ui.image_layers import stem_image
from napari_point_defects.napari_ui.label_resume import open_labels
from napari_point_defects.napari_ui.label_rows import stored_box_edits
from napari_point_defects.napari_ui.label_session import LabelSession
from napari_point_defects.napari_ui.lifetime import listen
from napari_point_defects.napari_ui.links import (
    CellsLink,
    HexagonsLink,
    image_layer,
    link_of,
    own_layer,
)
from napari_point_defects.napari_ui.run_panel import report_error

if TYPE_CHECKING:
    from napari.components import ViewerModel

POLL_MS = 500

_WAIT_S = 2.0
"""The window stands still while another program writes; what fails then is tried again."""

_labellings: weakref.WeakKeyDictionary[ViewerModel, Labelling] = weakref.WeakKeyDictionary()


def labelling(viewer: ViewerModel) -> Labelling:
    """Return the labelling of a viewer; it starts to watch when first asked for."""
    if viewer not in _labellings:
        _labellings[viewer] = Labelling(viewer)
    return _labellings[viewer]


class Labelling(QObject):
    """Keeps a project folder and the layers of a viewer the same.

    Parameters
    ----------
    viewer : napari.Viewer

    Attributes
    ----------
    folder : Path
        The project folder; made when the first label is written.
    author : str
        The name that labels bear.
    last_saved : str
        Time of day, empty before the first write.
    problem : str
        Why the last edit is not saved; empty where all is well.
    """

    changed = Signal()
    """Other folder, other labels in it, or another problem."""

    def __init__(self, viewer: ViewerModel) -> None:
        super().__init__()
        self._viewer = weakref.ref(viewer)
        self._sessions: dict[Points, LabelSession] = {}
        self._store: LabelStore | None = None
        self._seen_hexagons: weakref.WeakSet[Shapes] = weakref.WeakSet()
        self.folder = label_folder.default_folder()
        self.author = label_folder.user_name()
        self.last_saved = self.problem = ""
        self._soon = QTimer(self, singleShot=True, interval=0)
        self._soon.timeout.connect(self._follow)
        self._poll = QTimer(self, interval=POLL_MS)
        self._poll.timeout.connect(self._look)
        listen(self, self._on_layers, viewer.layers.events.inserted, viewer.layers.events.removed)
        self._on_layers()

    @property
    def store(self) -> LabelStore | None:
        """The store, or None where the folder holds none yet."""
        if self._store is None and (self.folder / FILE_NAME).is_file():
            self._store = LabelStore(self.folder, wait_s=_WAIT_S)
        return self._store

    def use(self, folder: Path) -> None:
        """Save labels to another project folder from now on, those of the open layers too.

        Raises
        ------
        PointDefectsError
            If the folder cannot be used; everything stays as it was.
        """
        folder = Path(folder)
        if (folder / FILE_NAME).is_file():
            LabelStore(folder).close()  # or say why not
        self._drop(list(self._sessions))
        self.close()
        self.folder, self.last_saved, self.problem = folder, "", ""
        label_folder.remember_folder(folder)
        self._follow()
        self.changed.emit()

    def session(self, layer: Points) -> LabelSession | None:
        """Return the session of a layer of cells."""
        return self._sessions.get(layer)

    def images(self) -> list[tuple[ImageEntry, int, int]]:
        """Return the images with their numbers of cells and of decided ones."""
        if self.store is None:
            return []
        counts = self.store.stats().groupby("image_id")
        alive = counts[["predicted", *DECIDED]].sum().sum(axis=1)
        decided = counts[list(DECIDED)].sum().sum(axis=1)
        return [(e, int(alive[e.id]), int(decided[e.id])) for e in self.store.images()]

    def offer(self) -> LastEdit | None:
        """Return where the user left off, unless that image's cells are open."""
        last = self.store.last_edited() if self.store is not None else None
        shown = {session.entry.id for session in self._sessions.values() if session.entry}
        return None if last is None or last.entry.id in shown else last

    def resume(self, entry: ImageEntry) -> None:
        """Open an image with its hexagons and cells as they stood.

        Raises
        ------
        PointDefectsError
            If its file is gone, or the store cannot be read.
        """
        open_labels(self._viewer(), self.store, entry)
        self._follow()

    def read_again(self) -> None:
        """Show what was imported, or written by other windows."""
        self._look()
        self.changed.emit()

    def close(self) -> None:
        """Let go of the store; every edit is in it."""
        if self._store is not None:
            self._store.close()
            self._store = None

    def _on_layers(self, *_: object) -> None:
        self._soon.start()  # a new layer is the plugin's own only after this

    def _follow(self) -> None:
        """Start a session for each of the plugin's own layers of cells, end those of others."""
        viewer = self._viewer()
        if viewer is None:
            return
        self._redo_box_edits(viewer)
        own = [layer for layer in viewer.layers if self._is_own(viewer, layer)]
        self._drop([layer for layer in self._sessions if layer not in own])
        for layer in own:
            if layer not in self._sessions:
                self._start(viewer, layer)
        if self._sessions:
            self._poll.start()
        else:
            self._poll.stop()

    def _redo_box_edits(self, viewer: ViewerModel) -> None:
        """Do again, on hexagons just detected, what the user did to those of an earlier day."""
        for layer in list(viewer.layers):
            link = link_of(layer, HexagonsLink)
            if link is None or layer in self._seen_hexagons or link.layer_id != layer.unique_id:
                continue
            self._seen_hexagons.add(layer)
            source = image_layer(viewer.layers, link.image_id)
            editor = box_correction(viewer).editor(layer)
            if (
                source is None
                or editor is None
                or len(link.written_ids)  # drawn with the edits of a layer before it
                or own_layer(viewer.layers, link.image_id, CellsLink) is not None
            ):
                continue
            try:
                entry = self.store.find(stem_image(source)) if self.store is not None else None
                if entry is not None:
                    stored = self.store.hexagons(entry.id)
                    drop, rows = stored_box_edits(
                        editor.table(), stored, link.detection.lattice.a_px
                    )
                    if len(drop) or len(rows):
                        editor.write(drop, rows)
                        show_info(f"{len(drop) + len(rows)} edits of hexagons were done again")
            except PointDefectsError as error:
                self._fail(str(error))

    def _is_own(self, viewer: ViewerModel, layer: object) -> bool:
        link = link_of(layer, CellsLink)
        return (
            link is not None
            and isinstance(layer, Points)
            and link.layer_id == layer.unique_id
            and image_layer(viewer.layers, link.image_id) is not None
        )

    def _start(self, viewer: ViewerModel, layer: Points) -> None:
        session = None
        try:
            if self._store is None:
                self._store = LabelStore(self.folder, wait_s=_WAIT_S)
            session = LabelSession(self._store, viewer, layer, lambda: self.author, self)
            session.told.connect(show_info)
            session.saved.connect(self._on_saved)
            session.failed.connect(self._fail)
            session.start()
            self._sessions[layer] = session
            self.changed.emit()
        except PointDefectsError as error:
            if session is not None:
                session.close()
            self._fail(str(error))

    def _drop(self, layers: list[Points]) -> None:
        for layer in layers:
            self._sessions.pop(layer).close()
        if layers:
            self.changed.emit()

    def _look(self) -> None:
        """Try again what failed, and take over what other windows wrote."""
        if self._viewer() is None:
            self._poll.stop()
            return
        try:
            others = self._store is not None and self._store.changed_by_others()
            for session in list(self._sessions.values()):
                session.attach()
                if others:
                    session.take_over()
                elif self.problem or session.is_unwatched:
                    session.save()
        except PointDefectsError as error:
            self._fail(str(error))
            return
        if self.problem:
            self.problem = ""
            self.changed.emit()
        if others:
            self.changed.emit()

    def _on_saved(self) -> None:
        self.last_saved = datetime.now().strftime("%H:%M:%S")
        self.problem = ""
        self.changed.emit()

    def _fail(self, problem: str) -> None:
        problem = f"labels are not saved: {problem}"
        if problem != self.problem:
            self.problem = report_error(PointDefectsError(problem))
            self.changed.emit()
