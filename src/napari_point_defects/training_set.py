"""Training sets on disk: images and one COCO JSON; simulation and labels write, networks read.

Layout of a set::

    settings.json            everything the set was made with, seed included
    train/annotations.json   COCO: images, annotations, categories
    train/00000.png …
    validation/…

COCO's ``bbox`` is (x, y, width, height) of the axis-aligned bounding box. What COCO cannot say
goes beside it: each image carries ``lattice`` (origin and matrix of the canonical frame, in
(y, x) pixels) and ``material``; a hexagon its ``centre`` and ``segmentation`` (the corners of
its canonical box); a unit cell its ``chalcogen`` and ``metal`` column, all (y, x).
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from skimage.io import imread, imsave

from napari_point_defects.errors import PointDefectsError
from napari_point_defects.materials import DefectClass, get_material
from napari_point_defects.records import Hexagons, Lattice, hexagon_boxes

HEXAGON_CATEGORY = 1
FIRST_CELL_CATEGORY = 2
"""COCO category of ``DefectClass.PERFECT``; the other classes follow in order."""

UNLABELLED = -1
"""Class of a cell that nobody has judged: it helps to know the mean cell, and is not learned."""

CATEGORIES = [{"id": HEXAGON_CATEGORY, "name": "hexagon", "supercategory": "lattice"}] + [
    {"id": FIRST_CELL_CATEGORY + c, "name": c.name, "supercategory": "unit cell"}
    for c in DefectClass
]


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


class TrainingSetWriter:
    """Writes one split; images at once, the annotations when closed.

    Parameters
    ----------
    folder : Path
        Made if absent.

    Raises
    ------
    PointDefectsError
        If the folder holds annotations already.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        if (folder / "annotations.json").exists():
            raise PointDefectsError(f"{folder} holds a training set already: choose another folder")
        self._images: list[dict] = []
        self._annotations: list[dict] = []

    def add(self, item: LabelledImage) -> None:
        """Write one image and keep its annotations."""
        image_id = len(self._images)
        name = f"{image_id:05d}.png"
        imsave(self.folder / name, item.pixels, check_contrast=False)
        height, width = item.pixels.shape
        self._images.append(
            {
                "id": image_id,
                "file_name": name,
                "height": height,
                "width": width,
                "material": item.material,
                "lattice": {
                    "origin": _rounded(item.lattice.origin_px),
                    "matrix": _rounded(item.lattice.matrix_px, 6),
                },
            }
        )
        canonical = item.lattice.to_canonical(item.hexagons_px)
        boxes = hexagon_boxes(canonical)
        corners = Hexagons.from_canonical_boxes(boxes, np.ones(len(boxes)), item.lattice)
        for centre, four in zip(item.hexagons_px, corners.corners_px, strict=True):
            self._annotate(image_id, HEXAGON_CATEGORY, four, centre=_rounded(centre))
        for x, m, c in zip(item.chalcogen_px, item.metal_px, item.classes, strict=True):
            self._annotate(
                image_id,
                FIRST_CELL_CATEGORY + int(c),
                np.stack([x, m]),
                chalcogen=_rounded(x),
                metal=_rounded(m),
            )

    def _annotate(self, image_id: int, category: int, points: np.ndarray, **extra) -> None:
        low, high = points.min(axis=0), points.max(axis=0)
        size = high - low
        entry = {
            "id": len(self._annotations),
            "image_id": image_id,
            "category_id": category,
            "bbox": _rounded([low[1], low[0], size[1], size[0]], 2),
            "area": round(float(size[0] * size[1]), 2),
            "iscrowd": 0,
            **extra,
        }
        if len(points) == 4:
            entry["segmentation"] = [_rounded(points[:, ::-1].ravel(), 2)]
        self._annotations.append(entry)

    def close(self) -> None:
        """Write the annotations of the images added so far."""
        content = {
            "info": {"description": "napari-point-defects training set"},
            "images": self._images,
            "annotations": self._annotations,
            "categories": CATEGORIES,
        }
        temporary = self.folder / "annotations.json.tmp"
        temporary.write_text(json.dumps(content, separators=(",", ":")))
        temporary.replace(self.folder / "annotations.json")


def _rounded(values, digits: int = 3) -> list:
    return np.round(np.asarray(values, float), digits).tolist()


class TrainingSet:
    """One split read from disk: a sequence of :class:`LabelledImage`.

    Parameters
    ----------
    folder : Path
        The folder that holds ``annotations.json``.

    Raises
    ------
    PointDefectsError
        If there is no such file or it is not one of ours.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        path = folder / "annotations.json"
        if not path.is_file():
            raise PointDefectsError(
                f"{folder} holds no training set: make one with `point-defects simulate`"
            )
        try:
            content = json.loads(path.read_text())
            self._images = content["images"]
            self._labels = [_Labels.empty() for _ in self._images]
            index = {image["id"]: i for i, image in enumerate(self._images)}
            for annotation in content["annotations"]:
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
        """Return the number of unit cells of each class, shape (6,)."""
        classes = [c for labels in self._labels for c in labels.classes]
        return np.bincount(np.array(classes, int), minlength=6)


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
            self.classes.append(DefectClass(category - FIRST_CELL_CATEGORY))
