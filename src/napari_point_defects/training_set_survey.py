"""What can be told of a training set without reading all of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from napari_point_defects.errors import PointDefectsError
from napari_point_defects.json_files import read_json
from napari_point_defects.materials import DefectClass, adopt_definitions
from napari_point_defects.training_set import ANNOTATIONS, FIRST_CELL_CATEGORY, TrainingSet

_PIECE = 2**22


def read_set_settings(folder: Path) -> dict[str, Any]:
    """Return what a training set was made with, seed included.

    Raises
    ------
    PointDefectsError
        If there are no such settings.
    """
    path = folder / "settings.json"
    try:
        values = read_json(path)
    except (OSError, ValueError) as error:
        raise PointDefectsError(
            f"cannot read settings from {path}: give a folder made by `point-defects simulate`"
        ) from error
    if not isinstance(values, dict):
        raise PointDefectsError(f"{path} holds no settings: it must be a JSON object")
    # an image has its own scale: what the formula means here does not matter to who learns from it
    adopt_definitions(values.get("material_definitions", ()), str(path), same=False)
    return values


def count_classes(folder: Path) -> np.ndarray:
    """Return the number of unit cells of each class of a split, shape (6,), without parsing it.

    A large set's annotations take seconds to parse, in which Python does nothing else; so they
    are only searched, piece by piece.

    Raises
    ------
    PointDefectsError
        If the folder holds no annotations.
    """
    path = folder / ANNOTATIONS
    marks = [f'"category_id":{FIRST_CELL_CATEGORY + c},'.encode() for c in DefectClass]
    counts, tail = np.zeros(len(marks), int), b""
    try:
        with path.open("rb") as file:
            while piece := file.read(_PIECE):
                piece = tail + piece
                cut = piece.rfind(b"{") + 1  # a mark across the pieces is counted with the next
                counts += [piece[:cut].count(mark) for mark in marks]
                tail = piece[cut:]
        counts += [tail.count(mark) for mark in marks]
    except OSError:  # a run that was killed has no annotations yet
        return TrainingSet(folder).class_counts()
    return counts if counts.any() else TrainingSet(folder).class_counts()
