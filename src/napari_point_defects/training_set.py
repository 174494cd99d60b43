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

import io
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from skimage.io import imread

from napari_point_defects.errors import PointDefectsError
from napari_point_defects.materials import DefectClass, get_material
from napari_point_defects.records import Hexagons, Lattice, hexagon_boxes

HEXAGON_CATEGORY = 1
FIRST_CELL_CATEGORY = 2
"""COCO category of ``DefectClass.PERFECT``; the other classes follow in order."""

UNLABELLED = -1
"""Class of a cell that nobody has judged: it helps to know the mean cell, and is not learned."""
_UNLABELLED_CATEGORY = FIRST_CELL_CATEGORY + len(DefectClass)

ANNOTATIONS = "annotations.json"
JOURNAL = "unfinished.jsonl"
"""Beside the images of a split that is not whole: an image's annotations on every line."""

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


@dataclass(frozen=True, slots=True)
class EncodedImage:
    """What a split keeps of one image: made in any process, written by one.

    Attributes
    ----------
    png : bytes
    image : dict
        COCO's entry without ``id`` and ``file_name``.
    annotations : list of dict
        COCO's entries without ``id`` and ``image_id``.
    """

    png: bytes
    image: dict[str, Any]
    annotations: list[dict[str, Any]]


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
    boxes = hexagon_boxes(item.lattice.to_canonical(item.hexagons_px))
    corners = Hexagons.from_canonical_boxes(boxes, np.ones(len(boxes)), item.lattice)
    hexagons = [
        _annotation(HEXAGON_CATEGORY, four, centre=_rounded(centre))
        for centre, four in zip(item.hexagons_px, corners.corners_px, strict=True)
    ]
    cells = [
        _annotation(
            _UNLABELLED_CATEGORY if c == UNLABELLED else FIRST_CELL_CATEGORY + int(c),
            np.stack([x, m]),
            chalcogen=_rounded(x),
            metal=_rounded(m),
        )
        for x, m, c in zip(item.chalcogen_px, item.metal_px, item.classes, strict=True)
    ]
    png = io.BytesIO()
    Image.fromarray(item.pixels).save(png, "png")
    return EncodedImage(png.getvalue(), image, hexagons + cells)


def _annotation(category: int, points: np.ndarray, **extra) -> dict[str, Any]:
    low, high = points.min(axis=0), points.max(axis=0)
    size = high - low
    entry = {
        "category_id": category,
        "bbox": _rounded([low[1], low[0], size[1], size[0]], 2),
        "area": round(float(size[0] * size[1]), 2),
        "iscrowd": 0,
        **extra,
    }
    if len(points) == 4:
        entry["segmentation"] = [_rounded(points[:, ::-1].ravel(), 2)]
    return entry


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
        path = folder / JOURNAL
        if not resume and (path.exists() or (folder / ANNOTATIONS).exists()):
            raise PointDefectsError(f"{folder} holds a training set already: choose another folder")
        if resume and not path.exists() and (folder / ANNOTATIONS).exists():
            _journal_from_annotations(folder)
        self._images = self._annotations = self._size = 0
        self._counts = np.zeros(_UNLABELLED_CATEGORY + 1, int)
        if path.exists():
            for entry, end in _whole_lines(path):
                if not (folder / entry["image"]["file_name"]).is_file():
                    break
                self._take(entry, end)
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
        entry = {
            "image": {"id": self._images, "file_name": name, **item.image},
            "annotations": [
                {"id": self._annotations + i, "image_id": self._images, **annotation}
                for i, annotation in enumerate(item.annotations)
            ],
        }
        line = _compact(entry) + b"\n"
        self._journal.write(line)
        self._take(entry, self._size + len(line))

    def _is_ours(self) -> bool:
        return os.fstat(self._journal.fileno()).st_size == self._size

    def _take(self, entry: dict[str, Any], end: int) -> None:
        self._images += 1
        self._annotations += len(entry["annotations"])
        self._size = end
        for annotation in entry["annotations"]:
            self._counts[annotation["category_id"]] += 1

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
        path = self.folder / JOURNAL
        temporary = self.folder / f"{ANNOTATIONS}.tmp"
        with temporary.open("wb") as file:
            # line by line: a set's annotations may be larger than memory likes
            file.write(b'{"info":{"description":"napari-point-defects training set"},"images":[')
            for i, (entry, _) in enumerate(_whole_lines(path)):
                file.write(b"," * (i > 0) + _compact(entry["image"]))
            file.write(b'],"annotations":[')
            written = 0
            for entry, _ in _whole_lines(path):
                for annotation in entry["annotations"]:
                    file.write(b"," * (written > 0) + _compact(annotation))
                    written += 1
            unjudged = [_NOT_JUDGED] * bool(self._counts[_UNLABELLED_CATEGORY])
            file.write(b'],"categories":' + _compact(CATEGORIES + unjudged) + b"}")
        temporary.replace(self.folder / ANNOTATIONS)
        if whole:
            path.unlink()


def _compact(content: Any) -> bytes:
    return json.dumps(content, separators=(",", ":")).encode()


def _whole_lines(path: Path) -> Iterator[tuple[dict[str, Any], int]]:
    """Yield a journal's entries and where each ends; a line cut off by a kill ends them."""
    end = 0
    with path.open("rb") as file:
        for line in file:
            if not line.endswith(b"\n"):
                return
            try:
                entry = json.loads(line)
            except ValueError:
                return
            end += len(line)
            yield entry, end


def _journal_from_annotations(folder: Path) -> None:
    path = folder / ANNOTATIONS
    try:
        content = json.loads(path.read_text())
        entries = {image["id"]: {"image": image, "annotations": []} for image in content["images"]}
        for annotation in content["annotations"]:
            entries[annotation["image_id"]]["annotations"].append(annotation)
    except (KeyError, TypeError, ValueError) as error:
        raise PointDefectsError(f"{path} is not a training set: {error!r}") from error
    temporary = folder / f"{JOURNAL}.tmp"
    temporary.write_bytes(b"".join(_compact(entry) + b"\n" for entry in entries.values()))
    temporary.replace(folder / JOURNAL)


def images_written(folder: Path) -> int:
    """Count the images of a split, whole or not, without reading them."""
    journal = folder / JOURNAL
    if journal.exists():
        with journal.open("rb") as file:
            return sum(line.endswith(b"\n") for line in file)
    return sum(1 for _ in folder.glob("*.png")) if (folder / ANNOTATIONS).exists() else 0


def is_whole(folder: Path) -> bool:
    """Tell whether a split was written to its end."""
    return (folder / ANNOTATIONS).exists() and not (folder / JOURNAL).exists()


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
        path, journal = folder / ANNOTATIONS, folder / JOURNAL
        if not path.is_file() and not journal.is_file():
            raise PointDefectsError(
                f"{folder} holds no training set: make one with `point-defects simulate`"
            )
        try:
            if path.is_file():
                content = json.loads(path.read_text())
                self._images, annotations = content["images"], content["annotations"]
            else:  # a run that was killed: what it had written counts
                path, entries = journal, [entry for entry, _ in _whole_lines(journal)]
                self._images = [entry["image"] for entry in entries]
                annotations = [a for entry in entries for a in entry["annotations"]]
            self._labels = [_Labels.empty() for _ in self._images]
            index = {image["id"]: i for i, image in enumerate(self._images)}
            for annotation in annotations:
                self._labels[index[annotation["image_id"]]].take(annotation)
        except (KeyError, TypeError, ValueError) as error:
            raise PointDefectsError(f"{path} is not a training set: {error!r}") from error

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, index: int) -> LabelledImage:
        image, labels = self._images[index], self._labels[index]
        # Only the name counts: a set's images lie beside its annotations.
        path = self.folder / Path(image["file_name"]).name
        try:
            pixels = imread(path)
        except (OSError, ValueError, SyntaxError) as error:  # the last: PIL on a broken PNG
            raise PointDefectsError(f"cannot read {path}: make the training set again") from error
        lattice = Lattice(
            np.array(image["lattice"]["origin"], float), np.array(image["lattice"]["matrix"], float)
        )
        return LabelledImage(
            pixels,
            lattice,
            get_material(image["material"]).formula,
            np.array(labels.hexagons, float).reshape(-1, 2),
            np.array(labels.chalcogen, float).reshape(-1, 2),
            np.array(labels.metal, float).reshape(-1, 2),
            np.array(labels.classes, int),
        )

    def __iter__(self) -> Iterator[LabelledImage]:
        return (self[i] for i in range(len(self)))

    def class_counts(self) -> np.ndarray:
        """Return the number of unit cells of each class, shape (6,); unjudged ones do not count."""
        classes = np.array([c for labels in self._labels for c in labels.classes], int)
        return np.bincount(classes[classes != UNLABELLED], minlength=6)


@dataclass(slots=True)
class _Labels:
    hexagons: list
    chalcogen: list
    metal: list
    classes: list

    @classmethod
    def empty(cls) -> _Labels:
        return cls([], [], [], [])

    def take(self, annotation: dict) -> None:
        category = annotation["category_id"]
        if category == HEXAGON_CATEGORY:
            self.hexagons.append(annotation["centre"])
        else:
            self.chalcogen.append(annotation["chalcogen"])
            self.metal.append(annotation["metal"])
            unjudged = category == _UNLABELLED_CATEGORY
            self.classes.append(
                UNLABELLED if unjudged else DefectClass(category - FIRST_CELL_CATEGORY)
            )
