"""Training sets on disk: images and one COCO JSON; simulation and labels write, networks read.

Layout of a set::

    settings.json            everything the set was made with, seed included
    train/annotations.json   COCO: images, annotations, categories
    train/00000.png …
    validation/…

    train/unfinished.jsonl   only while the set is not whole: one line per image written

COCO's ``bbox`` is (x, y, width, height) of the axis-aligned bounding box. What COCO cannot say
goes beside it: each image carries ``lattice`` (origin and matrix of the canonical frame, in
(y, x) pixels) and ``material``; a hexagon its ``centre`` and ``segmentation`` (the corners of
its canonical box); a unit cell its ``chalcogen`` and ``metal`` column, all (y, x).
"""

from __future__ import annotations

import errno
import io
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from napari_point_defects import training_set_journal as journal
from napari_point_defects.bending_fields import bending_fields, bending_of
from napari_point_defects.errors import PointDefectsError
from napari_point_defects.json_files import read_json
from napari_point_defects.material_files import is_formula
from napari_point_defects.materials import DefectClass, get_material
from napari_point_defects.records import Hexagons, Lattice, UnitCells, hexagon_boxes
from napari_point_defects.training_set_journal import ANNOTATIONS

HEXAGON_CATEGORY = 1
FIRST_CELL_CATEGORY = 2
"""COCO category of ``DefectClass.PERFECT``; the other classes follow in order."""

UNLABELLED = -1
"""Class of a cell that nobody has judged: it helps to know the mean cell, and is not learned."""
_UNLABELLED_CATEGORY = FIRST_CELL_CATEGORY + len(DefectClass)

CATEGORIES = [{"id": HEXAGON_CATEGORY, "name": "hexagon", "supercategory": "lattice"}] + [
    {"id": FIRST_CELL_CATEGORY + c, "name": c.name, "supercategory": "unit cell"}
    for c in DefectClass
]
_NOT_JUDGED = {"id": _UNLABELLED_CATEGORY, "name": "unlabelled", "supercategory": "unit cell"}
"""Listed only where it occurs: simulated cells are all known."""


@dataclass(frozen=True, slots=True)
class LabelledImage:
    """One image with its hexagons and unit cells.

    Attributes
    ----------
    pixels : ndarray of shape (M, N), uint8 or uint16
    lattice : Lattice
    material : str
    hexagons_px : ndarray of shape (H, 2)
        Hexagon centres (y, x).
    chalcogen_px, metal_px : ndarray of shape (K, 2)
    classes : ndarray of shape (K,), int
        ``DefectClass`` values, or ``UNLABELLED``.
    """

    pixels: np.ndarray
    lattice: Lattice
    material: str
    hexagons_px: np.ndarray
    chalcogen_px: np.ndarray
    metal_px: np.ndarray
    classes: np.ndarray

    @property
    def cells(self) -> UnitCells:
        """Its unit cells, as if nobody had judged them: ``classes`` is not in them."""
        votes = np.full(len(self.classes), 2)
        return UnitCells.unclassified(self.chalcogen_px, self.metal_px, votes)


@dataclass(frozen=True, slots=True)
class EncodedImage:
    """What a split keeps of one image: made in any process, written by one.

    Attributes
    ----------
    png : bytes
    image : bytes
        COCO's entry as JSON, without ``id`` and ``file_name``.
    annotations : list of bytes
        COCO's entries, without ``id`` and ``image_id``.
    categories : ndarray of int
        The annotations' categories.
    """

    png: bytes
    image: bytes
    annotations: list[bytes]
    categories: np.ndarray


def encode_image(item: LabelledImage) -> EncodedImage:
    """Turn an image and its labels into what is written of them."""
    height, width = item.pixels.shape
    image = {
        "height": height,
        "width": width,
        "material": item.material,
        "lattice": {
            "origin": _rounded(item.lattice.origin_px),
            "matrix": _rounded(item.lattice.matrix_px, 6),
        },
    }
    if item.lattice.bending is not None:
        image["lattice"]["bending"] = bending_fields(item.lattice.bending)
    boxes = hexagon_boxes(item.lattice.to_canonical(item.hexagons_px))
    corners = Hexagons.from_canonical_boxes(boxes, np.ones(len(boxes)), item.lattice).corners_px
    outlines = _rounded(corners[..., ::-1].reshape(-1, 8), 2)
    hexagons = [
        {"category_id": HEXAGON_CATEGORY, **box, "centre": centre, "segmentation": [outline]}
        for box, centre, outline in zip(
            _boxes(corners), _rounded(item.hexagons_px), outlines, strict=True
        )
    ]
    bonds = np.stack([item.chalcogen_px, item.metal_px], axis=1).reshape(-1, 2, 2)
    categories = np.where(
        item.classes == UNLABELLED, _UNLABELLED_CATEGORY, FIRST_CELL_CATEGORY + item.classes
    ).astype(int)
    cells = [
        {"category_id": category, **box, "chalcogen": x, "metal": m}
        for category, box, (x, m) in zip(
            categories.tolist(), _boxes(bonds), _rounded(bonds), strict=True
        )
    ]
    png = io.BytesIO()
    Image.fromarray(item.pixels).save(png, "png")
    return EncodedImage(
        png.getvalue(),
        journal.compact(image),
        [journal.compact(annotation) for annotation in hexagons + cells],
        np.concatenate([np.full(len(hexagons), HEXAGON_CATEGORY), categories]),
    )


def _boxes(points: np.ndarray) -> Iterator[dict[str, Any]]:
    """Yield COCO's entries for the bounding boxes of points (y, x), shape (N, P, 2)."""
    low, high = points.min(axis=1), points.max(axis=1)
    size = high - low
    boxes = _rounded(np.concatenate([low[:, ::-1], size[:, ::-1]], axis=1), 2)
    for box, area in zip(boxes, _rounded(size.prod(axis=1), 2), strict=True):
        yield {"bbox": box, "area": area, "iscrowd": 0}


class TrainingSetWriter:
    """Writes one split. Ended at any moment, even by a kill, it can be taken up again.

    Every image goes to disk at once, and after it its annotations, to a journal. Closing makes
    ``annotations.json`` of the journal; the journal stays beside it until the split is whole.

    Parameters
    ----------
    folder : Path
        Made if absent.
    resume : bool
        Go on after the images that the folder holds already.

    Raises
    ------
    PointDefectsError
        If the folder holds a training set already and it is not to be resumed.
    """

    def __init__(self, folder: Path, *, resume: bool = False) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / journal.FILE
        if not resume and (path.exists() or (folder / ANNOTATIONS).exists()):
            raise PointDefectsError(f"{folder} holds a training set already: choose another folder")
        if resume and not path.exists() and (folder / ANNOTATIONS).exists():
            journal.rebuild(folder)
        self._images = self._annotations = self._size = 0
        self._counts = np.zeros(_UNLABELLED_CATEGORY + 1, int)
        if path.exists():
            try:
                for entry, end in journal.whole_lines(path):
                    if not journal.image_path(folder, entry["image"]).is_file():
                        break
                    self._take([int(a["category_id"]) for a in entry["annotations"]], end)
            except journal.NOT_OURS as error:
                raise journal.refusal(path, error) from error
            os.truncate(path, self._size)
        self._journal = path.open("ab", buffering=0)

    def __len__(self) -> int:
        return self._images

    def add(self, item: LabelledImage) -> None:
        """Write one image and its annotations."""
        self.add_encoded(encode_image(item))

    def add_encoded(self, item: EncodedImage) -> None:
        """Write one image that was encoded elsewhere.

        Raises
        ------
        PointDefectsError
            If another program writes to the same folder.
        """
        if not self._is_ours():
            raise PointDefectsError(
                f"another program writes to {self.folder}: let it finish, or choose another folder"
            )
        name = f"{self._images:05d}.png"
        temporary = self.folder / f"{name}.tmp"
        temporary.write_bytes(item.png)
        temporary.replace(self.folder / name)
        line = journal.line(
            item.image, item.annotations, name, image_id=self._images, first_id=self._annotations
        )
        if self._journal.write(line) != len(line):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self._take(item.categories, self._size + len(line))

    def _is_ours(self) -> bool:
        return os.fstat(self._journal.fileno()).st_size == self._size

    def _take(self, categories: Sequence[int], end: int) -> None:
        self._images += 1
        self._annotations += len(categories)
        self._size = end
        np.add.at(self._counts, np.asarray(categories, int), 1)

    def class_counts(self) -> np.ndarray:
        """Return the number of unit cells of each class so far, shape (6,)."""
        return self._counts[FIRST_CELL_CATEGORY:_UNLABELLED_CATEGORY].copy()

    def close(self, *, whole: bool = True) -> None:
        """Write the annotations of the images added so far.

        Parameters
        ----------
        whole : bool
            Whether no more images are to come; the journal goes then.
        """
        ours = self._is_ours()
        self._journal.close()
        if not ours:
            return  # to the program that has taken it over
        path = self.folder / journal.FILE
        temporary = self.folder / f"{ANNOTATIONS}.tmp"
        with temporary.open("wb") as file:
            # line by line: a set's annotations may be larger than memory likes
            file.write(b'{"info":{"description":"napari-point-defects training set"},"images":[')
            file.writelines(journal.joined(image for image, _ in journal.texts(path)))
            file.write(b'],"annotations":[')
            file.writelines(journal.joined(annotations for _, annotations in journal.texts(path)))
            unjudged = [_NOT_JUDGED] * bool(self._counts[_UNLABELLED_CATEGORY])
            file.write(b'],"categories":' + journal.compact(CATEGORIES + unjudged) + b"}")
        temporary.replace(self.folder / ANNOTATIONS)
        if whole:
            path.unlink()


def _rounded(values, digits: int = 3) -> list:
    return np.round(np.asarray(values, float), digits).tolist()


class TrainingSet:
    """One split read from disk: a sequence of :class:`LabelledImage`.

    Parameters
    ----------
    folder : Path
        The folder that holds ``annotations.json``, or the journal of a run that was killed.

    Raises
    ------
    PointDefectsError
        If there is no such file or it is not one of ours.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        path, unfinished = folder / ANNOTATIONS, folder / journal.FILE
        if not path.is_file() and not unfinished.is_file():
            raise PointDefectsError(
                f"{folder} holds no training set: make one with `point-defects simulate`"
            )
        try:
            if path.is_file():
                content = read_json(path)
                self._images, annotations = content["images"], content["annotations"]
            else:  # a run that was killed: what it had written counts
                path = unfinished
                entries = [entry for entry, _ in journal.whole_lines(unfinished)]
                self._images = [entry["image"] for entry in entries]
                annotations = [a for entry in entries for a in entry["annotations"]]
            self._labels = [_Labels() for _ in self._images]
            index = {image["id"]: i for i, image in enumerate(self._images)}
            for annotation in annotations:
                self._labels[index[annotation["image_id"]]].take(annotation)
            for labels in self._labels:
                labels.settle()
        except journal.NOT_OURS as error:
            raise journal.refusal(path, error) from error

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, index: int) -> LabelledImage:
        try:
            return self._image(index)
        except PointDefectsError:
            raise
        except journal.NOT_OURS as error:
            raise journal.refusal(self.folder / ANNOTATIONS, error) from error

    def _image(self, index: int) -> LabelledImage:
        image, labels = self._images[index], self._labels[index]
        path = journal.image_path(self.folder, image)
        from skimage.io import imread  # here, for an analysis reads no training set

        try:
            pixels = imread(path)
            if pixels.ndim != 2:
                raise ValueError("no grey image")
        except Exception as error:  # readers raise anything at all on damaged files
            raise PointDefectsError(f"cannot read {path}: make the training set again") from error
        fields = image["lattice"]
        origin, matrix = (np.array(fields[name], float) for name in ("origin", "matrix"))
        lattice = Lattice(origin, matrix, bending=bending_of(fields.get("bending")))
        places = (labels.hexagons, labels.chalcogen, labels.metal)
        return LabelledImage(
            pixels,
            lattice,
            _formula(image["material"]),
            *(np.array(points, float).reshape(-1, 2) for points in places),
            np.array(labels.classes, int),
        )

    def __iter__(self) -> Iterator[LabelledImage]:
        return (self[i] for i in range(len(self)))

    def class_counts(self) -> np.ndarray:
        """Return the number of unit cells of each class, shape (6,); unjudged ones do not count."""
        classes = np.array([c for labels in self._labels for c in labels.classes], int)
        return np.bincount(classes[classes != UNLABELLED], minlength=6)


def _formula(name: str) -> str:
    """Return the formula as the program writes it.

    Any MX₂ will do: a set of somebody else's material can be learned from where nobody added it.
    """
    try:
        return get_material(name).formula
    except PointDefectsError:
        if is_formula(name):
            return name
        raise


@dataclass(slots=True)
class _Labels:
    hexagons: Any = field(default_factory=list)
    chalcogen: Any = field(default_factory=list)
    metal: Any = field(default_factory=list)
    classes: Any = field(default_factory=list)

    def take(self, annotation: dict) -> None:
        category = annotation["category_id"]
        if category == HEXAGON_CATEGORY:
            self.hexagons.append(annotation["centre"])
        else:
            self.chalcogen.append(annotation["chalcogen"])
            self.metal.append(annotation["metal"])
            judged = category != _UNLABELLED_CATEGORY
            number = category - FIRST_CELL_CATEGORY
            self.classes.append(DefectClass(number) if judged else UNLABELLED)

    def settle(self) -> None:
        """Hold arrays: every process that loads images has a copy, and lists are far larger."""
        for name in self.__slots__:
            setattr(self, name, np.array(getattr(self, name)))
