"""The label store: every decision of the user, in one file per project folder."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from napari_point_defects.analysed_area import AnalysedArea, Domain
from napari_point_defects.bending_fields import bending_fields
from napari_point_defects.labels import schema
from napari_point_defects.labels.counting import LastEdit, decided_counts, last_edit, tabulated
from napari_point_defects.labels.domain_fields import domain_fields
from napari_point_defects.labels.images import (
    ImageEntry,
    content_hash,
    entry_of_row,
    entry_row,
    read_entry,
    store_image,
    with_definition,
)
from napari_point_defects.labels.items import Conflict, read_items, write_items
from napari_point_defects.labels.tables import (
    CELLS,
    CORNER_COLUMNS,
    DECIDED,
    HEXAGONS,
    POSITION_COLUMNS,
    TableChanges,
    empty,
)
from napari_point_defects.materials import get_material
from napari_point_defects.records import Lattice, StemImage
from napari_point_defects.training_set import UNLABELLED, LabelledImage

__all__ = ["Conflict", "ImageEntry", "LabelStore", "LastEdit", "Written"]


_NOTHING = {kind: empty(kind) for kind in (CELLS, HEXAGONS)}


@dataclass(frozen=True, slots=True)
class Written:
    """What one write has done.

    Attributes
    ----------
    time, author : str
        As recorded; the time is UTC in ISO 8601.
    cells, hexagons : DataFrame
        The rows as they now stand in the store.
    """

    time: str
    author: str
    cells: pd.DataFrame
    hexagons: pd.DataFrame


class LabelStore:
    """The labels of one project folder, in ``labels.sqlite``.

    What a method has written when it returns is on the disk; a crash at any moment loses nothing
    of it. Several windows and programs may use one folder at once. A store belongs to the thread
    that opened it: open another one in each thread.

    Parameters
    ----------
    folder : Path
    create : bool
        Make the folder and its file where they are not there.
    wait_s : float
        How long to wait, in seconds, for another program that is just writing.

    Raises
    ------
    PointDefectsError
        If there is no store and none may be made, or the file is damaged, something else, or of
        a newer version of the program. Later too, if the disk is full or another program keeps
        the file busy.
    """

    def __init__(self, folder: Path, *, create: bool = True, wait_s: float = 10.0) -> None:
        self.folder = Path(folder)
        self.path = self.folder / schema.FILE_NAME
        self.connection = schema.open_database(self.path, create=create, wait_s=wait_s)
        self._version = self._data_version()

    def __enter__(self) -> LabelStore:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Bring everything into the one file, so that it can be copied alone, and let it go."""
        try:
            self.connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        except sqlite3.Error:
            pass  # another window is at work, and the log stays beside the file
        finally:
            self.connection.close()

    def register(
        self,
        image: StemImage,
        *,
        material: str,
        lattice: Lattice,
        pixel_size_nm: tuple[float, float] | None,
        pixel_size_source: str,
        settings: dict[str, Any] | None = None,
        domains: Sequence[Domain] = (),
        area: AnalysedArea | None = None,
    ) -> ImageEntry:
        """Add an image, or note its new lattice and calibration where it is known already.

        Its pixels are what it is known by. A file inside the folder is referred to; any other
        image is copied to ``images/``.

        Parameters
        ----------
        image : StemImage
        material : str
            Formula.
        lattice : Lattice
        pixel_size_nm : (float, float) or None
            Height and width of a pixel as used in the census.
        pixel_size_source : str
        settings : dict, optional
            Of the analysis; what JSON can say.
        domains : sequence of Domain
            Grains and twins, the one of ``lattice`` first.
        area : AnalysedArea, optional
            Where they are.
        """
        sha256 = content_hash(image.data)
        entry = ImageEntry(
            id=0,
            sha256=sha256,
            name=image.name,
            path="",
            signal=image.signal,
            shape=image.data.shape,
            material=get_material(material).formula,
            lattice=lattice,
            pixel_size_nm=pixel_size_nm,
            pixel_size_source=pixel_size_source,
            settings=with_definition(settings or {}, material),
            domains=tuple(domains),
            area=area,
        )
        with schema.user_errors(self.path):
            known = self.entry_of(sha256)
            if known is not None and known.path and (self.folder / known.path).is_file():
                entry = replace(entry, path=known.path, name=known.name, signal=known.signal)
            else:  # before the row: a row without its image would be worse
                entry = replace(entry, path=store_image(image, sha256, self.folder))
            with schema.transaction(self.connection):
                return self.put_image(entry, schema.now())

    def put_image(self, entry: ImageEntry, time: str) -> ImageEntry:
        """Write an entry inside a transaction, by its pixels' hash; its id is the store's."""
        known = self.entry_of(entry.sha256)
        values = entry_row(entry)
        if known is None:
            done = self.connection.execute(schema.ADD_IMAGE, values)
            self._put_lattices(done.lastrowid, entry)
            return replace(entry, id=done.lastrowid)
        self._put_lattices(known.id, entry)
        before = entry_row(known)
        if values != before:
            self.connection.execute(schema.SET_IMAGE, (*values, known.id))
            texts = json.dumps(before), json.dumps(values)
            self.connection.execute(
                schema.ADD_CHANGE,
                (known.id, "image", None, time, "", "changed", *texts, ""),
            )
        return replace(entry, id=known.id)

    def _put_lattices(self, image_id: int, entry: ImageEntry) -> None:
        bending = entry.lattice.bending
        self.connection.execute(schema.DROP_BENDING, (image_id,))
        if bending is not None:
            text = json.dumps(bending_fields(bending))
            self.connection.execute(schema.ADD_BENDING, (image_id, text))
        fields = domain_fields(entry.domains, entry.area)
        self.connection.execute(schema.DROP_DOMAINS, (image_id,))
        if fields is not None:
            self.connection.execute(schema.ADD_DOMAINS, (image_id, json.dumps(fields)))

    def find(self, image: StemImage) -> ImageEntry | None:
        """Return the entry of an image with these pixels, whatever its file is called."""
        with schema.reading(self.path):
            return self.entry_of(content_hash(image.data))

    def images(self) -> list[ImageEntry]:
        """Return all images, in the order in which they were added."""
        with schema.reading(self.path):
            rows = self.connection.execute(schema.SELECT_IMAGES).fetchall()
            return [entry_of_row(row) for row in rows]

    def read_image(self, entry: ImageEntry) -> StemImage:
        """Read an image's pixels.

        Raises
        ------
        PointDefectsError
            If no file in the folder holds them any more.
        """
        return read_entry(entry, self.folder)

    def cells(self, image_id: int) -> pd.DataFrame:
        """Return an image's cells, deleted ones included; see :mod:`~.labels.tables`."""
        with schema.reading(self.path):
            return read_items(self.connection, CELLS, image_id)

    def hexagons(self, image_id: int) -> pd.DataFrame:
        """Return an image's hexagons, deleted ones included."""
        with schema.reading(self.path):
            return read_items(self.connection, HEXAGONS, image_id)

    def write(
        self,
        image_id: int,
        *,
        cells: TableChanges | None = None,
        hexagons: TableChanges | None = None,
        author: str,
        weights: str = "",
    ) -> Written:
        """Write changes of an image's cells and hexagons: all of them or, on an error, none.

        Parameters
        ----------
        image_id : int
        cells, hexagons : TableChanges, optional
            As :func:`~napari_point_defects.labels.tables.table_changes` finds them.
        author : str
        weights : str
            Version of the weights behind the predictions that are new.

        Raises
        ------
        Conflict
            If somebody else changed one of the rows since it was read.
        """
        time, author = schema.now(), " ".join(author.split())
        rows = dict(_NOTHING)
        with schema.user_errors(self.path), schema.transaction(self.connection):
            for kind, changes in ((CELLS, cells), (HEXAGONS, hexagons)):
                if changes is not None and len(changes):
                    rows[kind] = write_items(
                        self.connection,
                        kind,
                        image_id,
                        changes,
                        author=author,
                        time=time,
                        weights=weights,
                    )
        return Written(time, author, rows[CELLS], rows[HEXAGONS])

    def changed_by_others(self) -> bool:
        """Tell whether another window or program wrote to the store since the last call."""
        with schema.user_errors(self.path):
            version = self._data_version()
        changed, self._version = version != self._version, version
        return changed

    def history(self, image_id: int, cell_id: int | None = None) -> pd.DataFrame:
        """Return all changes of an image, or of one of its cells, oldest first.

        Columns ``kind, item_id, time, author, action, before, after, weights``; ``before`` and
        ``after`` are rows as JSON. Predictions that nobody decided about share one line.
        """
        columns = ["kind", "item_id", "time", "author", "action", "before", "after", "weights"]
        with schema.reading(self.path):
            if cell_id is None:
                rows = self.connection.execute(schema.SELECT_CHANGES, (image_id,)).fetchall()
            else:
                values = (image_id, int(cell_id))
                rows = self.connection.execute(schema.SELECT_CHANGES_OF_CELL, values).fetchall()
            return pd.DataFrame(rows, columns=columns).astype({"item_id": "Int64"})

    def stats(self) -> pd.DataFrame:
        """Count the cells of each image, and of all together, by class and state.

        Returns
        -------
        DataFrame
            Six rows per image, then six with ``image_id`` −1 and image ``"all"``; columns
            ``image_id, image, label`` (``DefectClass`` code) and one per state.
        """
        with schema.reading(self.path):
            rows = self.connection.execute(schema.COUNT_CELLS).fetchall()
            return tabulated(self.images(), rows)

    def class_counts(self, image_ids: Iterable[int] | None = None) -> np.ndarray:
        """Count the decided cells of each class, shape (6,), in some images or in all."""
        return decided_counts(self.stats(), image_ids)

    def labelled_images(self, image_ids: Iterable[int] | None = None) -> Iterator[LabelledImage]:
        """Read the images in which somebody decided something, for training.

        Cells that nobody judged come along as ``UNLABELLED``: they tell what the mean cell looks
        like and are not learned. Boxes come as they stand, those of a network too. An image of
        several domains comes once for each, with that domain's pixels, lattice and labels alone.

        Raises
        ------
        PointDefectsError
            If an image's file is gone.
        """
        # here, for the label store starts fast
        from napari_point_defects.domains.labelled import by_domain

        wanted = None if image_ids is None else set(image_ids)
        for entry in self.images():
            if wanted is not None and entry.id not in wanted:
                continue
            cells = self.cells(entry.id)
            cells = cells[(cells["state"] != "deleted").to_numpy()]
            decided = cells["state"].isin(DECIDED).to_numpy()
            labels = np.where(decided, cells["label"].to_numpy(), UNLABELLED)
            hexagons = self.hexagons(entry.id)
            if not (decided.any() or (hexagons["state"] != "predicted").any()):
                continue
            hexagons = hexagons[(hexagons["state"] != "deleted").to_numpy()]
            corners = hexagons[list(CORNER_COLUMNS)].to_numpy().reshape(-1, 4, 2)
            positions = cells[list(POSITION_COLUMNS)].to_numpy()
            whole = LabelledImage(
                pixels=self.read_image(entry).data,
                lattice=entry.lattice,
                material=entry.material,
                hexagons_px=corners.mean(axis=1),
                chalcogen_px=positions[:, :2],
                metal_px=positions[:, 2:],
                classes=labels,
            )
            yield from by_domain(whole, entry.domains, entry.area)

    def last_edited(self) -> LastEdit | None:
        """Return where somebody last decided something, or None in a store of mere predictions."""
        with schema.reading(self.path):
            return last_edit(self.connection, self.images())

    def entry_of(self, sha256: str) -> ImageEntry | None:
        """Return the image whose pixels have that hash."""
        row = self.connection.execute(schema.SELECT_IMAGE, (sha256,)).fetchone()
        return None if row is None else entry_of_row(row)

    def _data_version(self) -> int:
        return self.connection.execute("PRAGMA data_version").fetchone()[0]
