"""Keeps the layers of one image and its labels in the store the same."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from qtpy.QtCore import QObject, QTimer, Signal

from napari_point_defects.errors import PointDefectsError
from napari_point_defects.labels.merging import same_ids
from napari_point_defects.labels.store import Conflict, ImageEntry, LabelStore
from napari_point_defects.labels.tables import (
    CELLS,
    HEXAGONS,
    TableChanges,
    empty,
    from_named,
    table_changes,
)
from napari_point_defects.matching import SAME_PLACE_A
from napari_point_defects.materials import Material, get_material
from napari_point_defects.napari_ui.box_correction import box_correction
from napari_point_defects.napari_ui.cell_editor import CellEditor, current_table
from napari_point_defects.napari_ui.cell_rows import draw, write_cells
from napari_point_defects.napari_ui.cell_steps import editor_of
from napari_point_defects.napari_ui.hexagon_editor import HexagonEditor
from napari_point_defects.napari_ui.hexagon_tables import hexagon_table
from napari_point_defects.napari_ui.image_layers import stem_image
from napari_point_defects.napari_ui.label_rows import (
    changed_rows,
    living,
    store_hexagons,
    stored_settings,
    viewer_cells,
    weights_version,
    with_stored_decisions,
)
from napari_point_defects.napari_ui.links import (
    KEY,
    CellsLink,
    HexagonsLink,
    image_layer,
    link_of,
    own_layer,
)
from napari_point_defects.napari_ui.stored_table import StoredTable, rows_with

if TYPE_CHECKING:
    from napari.components import ViewerModel
    from napari.layers import Layer, Points, Shapes

    from napari_point_defects.napari_ui.hexagon_edits import BoxChange
    from napari_point_defects.records import StemImage

_TRIES = 3
_LATE_MS = 500
"""After the last edit: while keys follow each other, the rows written since are kept apart."""
_NO_CELLS = TableChanges(empty(CELLS), empty(CELLS))
_NO_HEXAGONS = TableChanges(empty(HEXAGONS), empty(HEXAGONS))


class LabelSession(QObject):
    """Writes every edit of an image's cells and hexagons at once, and shows what others wrote.

    Where two windows changed one cell, the version in the store is shown here and the user is
    told whose it is: nothing in the store is overwritten unseen.

    Parameters
    ----------
    store : LabelStore
    viewer : napari.Viewer
    layer : Points
        The plugin's own layer of cells of an image that is open.
    author : callable
        Returns the name that edits bear.
    parent : QObject
    """

    told = Signal(str)
    """What others did, in a sentence."""
    saved = Signal()
    failed = Signal(str)
    """Why an edit could not be written; it is tried again."""

    def __init__(
        self,
        store: LabelStore,
        viewer: ViewerModel,
        layer: Points,
        author: Callable[[], str],
        parent: QObject,
    ) -> None:
        super().__init__(parent)
        self.layer = layer
        self._store, self._author = store, author
        # held, it would keep a closed viewer and its images alive
        self._viewer_reference = weakref.ref(viewer)
        self._editor: CellEditor | None = None
        self._hexagon_editor: HexagonEditor | None = None
        self._hexagons_layer: Shapes | None = None
        self._hexagon_ids: dict[int, int] = {}
        self._foreign_hexagons: set[int] = set()
        self._hexagons_changed = True
        self._busy = False
        # cells that may differ from the store's; None where that must be found out
        self._touched: np.ndarray | None = None
        self._touched_hexagons: set[int] | None = None  # the same, ids of the viewer's
        self._weights = weights_version(self.link.settings)
        self.entry: ImageEntry | None = None
        self._cells, self._hexagons = StoredTable(CELLS), StoredTable(HEXAGONS)
        self._late = QTimer(self, singleShot=True, interval=_LATE_MS)
        self._late.timeout.connect(self._note_all)

    def start(self) -> None:
        """Bring layer and store together: decisions of earlier sessions win over predictions.

        Raises
        ------
        PointDefectsError
            If the store cannot be read or written.
        """
        image = stem_image(image_layer(self._layers, self.link.image_id))
        known = self._store.find(image)
        if known is not None:
            self._cells.table = self._store.cells(known.id)
            self._hexagons.table = self._store.hexagons(known.id)
        self._editor = editor_of(self.layer)
        if len(self._cells.table):
            self._show_decisions(self._cells.table)
        self._register(image)
        # what a new run does not find was not deleted by anybody
        table = from_named(self._table(), self.material)
        self._write(table_changes(self._cells.table, table, deleted_ids=[]))
        self._editor = None
        self.attach()

    def _register(self, image: StemImage) -> None:
        """Let the store note the image, its lattice and its pixel size."""
        detection = self.link.detection
        self.entry = self._store.register(
            image,
            material=self.material.formula,
            lattice=detection.lattice,
            pixel_size_nm=detection.pixel_size_nm,
            pixel_size_source=detection.pixel_size_source,
            settings=stored_settings(self.link.settings, image.calibration),
            domains=detection.domains,
            area=detection.area,
        )

    @property
    def _layers(self) -> Sequence[Layer]:
        """The viewer's layers; none once it is gone."""
        viewer = self._viewer_reference()
        return () if viewer is None else viewer.layers

    @property
    def link(self) -> CellsLink:
        """Where the layer came from."""
        return link_of(self.layer, CellsLink)

    @property
    def material(self) -> Material:
        """The material of the run that drew the layer."""
        return get_material(self.link.settings.material)

    @property
    def is_unwatched(self) -> bool:
        """Whether no editor tells of the layer's edits, so that somebody has to look."""
        return self._editor is None

    def attach(self) -> None:
        """Listen to the editors of the layers; they come and go with their panels."""
        editor = editor_of(self.layer)
        if editor is not self._editor:
            self._editor, self._touched = editor, None
            if editor is not None:
                editor.changed.connect(self._on_cells)
        layer = own_layer(self._layers, self.link.image_id, HexagonsLink)
        viewer = self._viewer_reference()
        editor = box_correction(viewer).editor(layer) if layer is not None else None
        if editor is not self._hexagon_editor:
            self._hexagon_editor, self._hexagons_changed = editor, True
            self._touched_hexagons = None
            if editor is not None:
                editor.changed.connect(self._on_hexagons)

    def save(self) -> None:
        """Write what changed since the last time.

        Raises
        ------
        PointDefectsError
            If the store cannot be written; the next call tries again.
        """
        if self._busy or self.entry is None:
            return
        if self.entry.pixel_size_nm != self.link.detection.pixel_size_nm:  # calibrated since
            source = image_layer(self._layers, self.link.image_id)
            if source is not None:
                self._register(stem_image(source))
        for _ in range(_TRIES):
            try:
                self._write(self._changes())
                self._touched = np.empty(0, int)
                return
            except Conflict as conflict:
                self._touched = None
                self._give_way(conflict)
        raise PointDefectsError("others keep changing the same cells: your last edit is not saved")

    def _changes(self) -> TableChanges:
        """Compare the layer with the store: only the cells that an edit was about, if known."""
        table, touched = self._table(), self._touched
        if touched is not None and self._editor is not None:
            if not len(touched):
                return _NO_CELLS
            before, table = self._cells.rows(touched), rows_with(table, CELLS.id, touched)
        else:
            before = self._cells.table
        return table_changes(
            before, from_named(table, self.material), deleted_ids=self.link.written_ids
        )

    def take_over(self) -> None:
        """Show what other windows wrote."""
        self._touched = None
        self.save()
        self._adopt_cells()
        self._note_foreign_hexagons()

    def close(self) -> None:
        """Stop listening."""
        self._busy = True  # until Qt deletes it
        self.deleteLater()

    def _on_hexagons(self, change: BoxChange) -> None:
        self._hexagons_changed = True
        if self._touched_hexagons is not None:
            for rows in (change.edit.before, change.edit.after):
                self._touched_hexagons.update(rows["hexagon_id"].tolist())
        self._save()

    def _on_cells(self) -> None:
        if self._touched is not None and self._editor is not None:
            self._touched = np.union1d(self._touched, self._editor.touched)
        self._save()

    def _save(self) -> None:
        try:
            self.save()
        except PointDefectsError as error:
            self.failed.emit(str(error))

    def _table(self) -> pd.DataFrame:
        """Return the viewer's table of cells; not to be changed."""
        return current_table(self.layer) if self._editor is None else self._editor.snapshot

    def _show_decisions(self, stored: pd.DataFrame) -> None:
        table = self._table()
        decided, link, homeless = with_stored_decisions(table, self.link, stored, self.material)
        if homeless:
            self.told.emit(
                f"{_count(homeless, 'label')} of this image without a cell in this run: kept in "
                "the history of the project folder"
            )
        now = from_named(table, self.material)
        if len(table_changes(now, from_named(decided, self.material), deleted_ids=[])):
            self._replace(np.setdiff1d(table["cell_id"], decided["cell_id"]), decided, link)
        else:
            self.layer.metadata[KEY] = link

    def _replace(self, drop_ids: np.ndarray, rows: pd.DataFrame, link: CellsLink) -> None:
        """Change the layer without writing to the store."""
        self._busy = True
        try:
            self.layer.metadata[KEY] = link
            editor = editor_of(self.layer)
            if editor is not None:
                editor.apply(drop_ids, rows, remember=None)
            else:
                write_cells(self.layer, drop_ids, rows)
                draw(self.layer)
        finally:
            self._busy = False

    def _write(self, cells: TableChanges) -> None:
        hexagons = self._hexagon_changes()
        if not len(cells) and not len(hexagons):
            self._note_hexagons()
            return
        done = self._store.write(
            self.entry.id,
            cells=cells,
            hexagons=hexagons,
            author=self._author(),
            weights=self._weights,
        )
        # each only where needed: this is on the way of every key press
        self._cells.note(done.cells, cells.removals)
        self._hexagons.note(done.hexagons, hexagons.removals)
        self._late.start()
        self._note_hexagons()
        self.saved.emit()

    def _note_hexagons(self) -> None:
        """Note that the store holds the hexagons as they stand."""
        self._hexagons_changed, self._touched_hexagons = False, set()

    def _note_all(self) -> None:
        for stored in (self._cells, self._hexagons):
            stored.table  # noqa: B018

    def _give_way(self, conflict: Conflict) -> None:
        """Let the layer show the others' version of what both changed."""
        if conflict.kind is HEXAGONS:
            self._note_foreign_hexagons()
            return
        stored = self._store.cells(self.entry.id)
        ours = conflict.ids[~np.isin(conflict.ids, self._cells.table["cell_id"])]
        if len(ours):  # both added a cell of that number
            table = self._table()
            rows = table[table["cell_id"].isin(ours)].copy()
            next_id = max(self.link.next_id, int(stored["cell_id"].max()) + 1)
            rows["cell_id"] = next_id + np.arange(len(rows))
            self._replace(ours, rows, replace(self.link, next_id=next_id + len(rows)))
        self._adopt_cells(stored)

    def _adopt_cells(self, stored: pd.DataFrame | None = None) -> None:
        if stored is None:
            stored = self._store.cells(self.entry.id)
        rows, gone = changed_rows(self._cells.table, stored)
        self._cells.table = stored
        if not len(rows) and not len(gone):
            return
        dead = rows.loc[(rows["state"] == "deleted").to_numpy(), "cell_id"].to_numpy()
        link = self.link
        stay = ~np.isin(link.written_ids, gone)  # those were not deleted by a person
        link = replace(link, written_ids=link.written_ids[stay], written_px=link.written_px[stay])
        drop = np.concatenate([gone, dead])
        below = link.settings.unsure_below
        fresh = viewer_cells(living(rows), self.material, unsure_below=below)
        self._replace(drop, fresh, link)
        self.told.emit(f"{_who(rows)} changed {_count(len(rows) + len(gone), 'cell')}")

    def _hexagon_changes(self) -> TableChanges:
        layer = own_layer(self._layers, self.link.image_id, HexagonsLink)
        if layer is None or not self._hexagons_changed:
            return _NO_HEXAGONS
        watched = self._hexagon_editor
        new_layer = layer is not self._hexagons_layer
        if new_layer:
            self._hexagons_layer, self._hexagon_ids = layer, {}
        if new_layer or watched is None or watched.layer is not layer:
            self._touched_hexagons = None
        touched = self._touched_hexagons
        if touched is None:
            table, stored = hexagon_table(layer), self._hexagons.table
            self._name_hexagons(table, layer)
        else:  # only those that the edits were about
            table = rows_with(watched.seen, "hexagon_id", sorted(touched))
            self._name_hexagons(table, layer)
            known_ids = [self._hexagon_ids[i] for i in touched if i in self._hexagon_ids]
            stored = self._hexagons.rows(known_ids)
        table["hexagon_id"] = table["hexagon_id"].map(self._hexagon_ids)
        table = store_hexagons(table, stored)
        known = None if not new_layer else []
        changes = table_changes(stored, table, deleted_ids=known)
        mine = [~t["hexagon_id"].isin(self._foreign_hexagons) for t in _both(changes)]
        return TableChanges(changes.upserts[mine[0]], changes.removals[mine[1]])

    def _name_hexagons(self, table: pd.DataFrame, layer: Shapes) -> None:
        """Give the layer's hexagons ids in the store: the same place, the same id."""
        fresh = table[[i not in self._hexagon_ids for i in table["hexagon_id"].tolist()]]
        if not len(fresh):
            return
        stored = self._hexagons.table
        if not self._hexagon_ids:
            reach = SAME_PLACE_A * link_of(layer, HexagonsLink).detection.lattice.a_px
            rows = store_hexagons(fresh, empty(HEXAGONS))
            ids = same_ids(living(stored), rows, HEXAGONS, reach)
            dead = np.isin(ids, stored.loc[stored["state"] == "deleted", "hexagon_id"])
        else:
            ids = fresh["hexagon_id"].to_numpy(copy=True)
            dead = np.isin(ids, [*stored["hexagon_id"], *self._hexagon_ids.values()])
        top = max([*stored["hexagon_id"], *self._hexagon_ids.values(), *ids, -1]) + 1
        ids[dead] = top + np.arange(dead.sum())
        self._hexagon_ids.update(zip(fresh["hexagon_id"].tolist(), ids.tolist(), strict=True))

    def _note_foreign_hexagons(self) -> None:
        """Leave alone the hexagons that others changed, and say so."""
        self._touched_hexagons = None
        stored = self._store.hexagons(self.entry.id)
        rows, gone = changed_rows(self._hexagons.table, stored)
        self._hexagons.table = stored
        if not len(rows) and not len(gone):
            return
        self._foreign_hexagons |= {*rows["hexagon_id"].tolist(), *gone.tolist()}
        self.told.emit(
            f"{_who(rows)} changed {_count(len(rows) + len(gone), 'hexagon')}: close the layers "
            "and press Resume to see them"
        )


def _both(changes: TableChanges) -> tuple[pd.DataFrame, pd.DataFrame]:
    return changes.upserts, changes.removals


def _who(rows: pd.DataFrame) -> str:
    names = sorted({name for name in rows["author"] if name})
    return " and ".join(names) or "Another window"


def _count(n: int, what: str) -> str:
    return f"{n:,} {what}" + ("" if n == 1 else "s")
