"""What a run learns from and what it is measured on: simulated sets and a project's labels."""

from __future__ import annotations

import shutil
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from torch.utils.data import ConcatDataset

from napari_point_defects.errors import PointDefectsError
from napari_point_defects.fitting import read_splits
from napari_point_defects.materials import LATTICE_VECTORS, DefectClass, own_definitions
from napari_point_defects.retraining.settings import RetrainSettings, starting_weights
from napari_point_defects.training_set import (
    UNLABELLED,
    LabelledImage,
    TrainingSet,
)
from napari_point_defects.training_set_survey import count_classes, read_set_settings
from napari_point_defects.weights.trained_on import materials_to_replay

REPLAY_IMAGES = (150, 24)
"""Simulated images, to train and to validate with, where the user gave labels alone."""

_WHOLE_IMAGES_FROM = 5
_CRC_RANGE = 2**32


@dataclass(frozen=True, slots=True)
class LearningData:
    """The images of a run.

    Attributes
    ----------
    simulated, simulated_held_out : sequence of LabelledImage
        Training and validation splits of the sets.
    labelled, labelled_held_out : sequence of LabelledImage
        Parts of the project's labels; a cell of the other part is ``UNLABELLED`` in this one.
    record : dict
        What the model card says of them.
    """

    simulated: Sequence[LabelledImage]
    simulated_held_out: Sequence[LabelledImage]
    labelled: Sequence[LabelledImage]
    labelled_held_out: Sequence[LabelledImage]
    record: dict[str, Any]


@dataclass(frozen=True, slots=True)
class LabelCounts:
    """How many cells of each class a run would learn from; each array has shape (6,)."""

    labelled: np.ndarray
    simulated: np.ndarray


def label_counts(settings: RetrainSettings) -> LabelCounts:
    """Count the cells of each class in the labels and in the sets' training splits.

    Raises
    ------
    PointDefectsError
        If a set or the store cannot be read.
    """
    simulated = sum(
        (count_classes(folder / "train") for folder in settings.data),
        np.zeros(len(DefectClass), int),
    )
    labelled = np.zeros(len(DefectClass), int)
    if settings.labels is not None:
        with open_labels(settings.labels) as store:
            labelled = np.asarray(store.class_counts(settings.images), int)
    return LabelCounts(labelled, simulated)


def gather(settings: RetrainSettings) -> LearningData:
    """Read the chosen sets and labels, and hold some out.

    Raises
    ------
    PointDefectsError
        If there is nothing to learn from, or something cannot be read.
    """
    records = [read_set_settings(path) for path in settings.data]
    splits = [read_splits(path) for path in settings.data]
    labelled, ids = read_labels(settings)
    split = split_labels if settings.kind == "classifier" else split_images
    learned, held_out = split(labelled, ids, settings.held_out)
    record = records[0] if len(records) == 1 else {"sets": records}
    if labelled:
        counts = {
            "images": len(labelled),
            "learned": class_counts(learned).tolist(),
            "held_out": class_counts(held_out).tolist(),
        }
        record = {"sets": records, "labels": counts}
        record["materials"] = list(dict.fromkeys(item.material for item in labelled))
        if own := own_definitions(record["materials"]):
            record["material_definitions"] = own
    return LearningData(
        ConcatDataset([train for train, _ in splits]) if splits else [],
        [image for _, held in splits for image in _selection(held, settings.validation_images)],
        learned,
        held_out,
        record,
    )


def add_replay(
    data: LearningData,
    settings: RetrainSettings,
    folder: Path,
    *,
    on_progress: Callable[[float, str], None] = lambda share, text: None,
    should_stop: Callable[[], bool] = lambda: False,
) -> LearningData:
    """Simulate a few images like those the weights have learned, so that they stay known.

    They go into ``replay`` in the run's folder, and are taken from there another time.

    Raises
    ------
    Stopped
        If ``should_stop`` said yes.
    """
    from napari_point_defects.simulation.presets import PRESETS
    from napari_point_defects.simulation.sets import simulate_training_set

    start = starting_weights(settings)
    path, unfinished = folder / "replay", folder / "replay.part"
    if not path.is_dir():
        shutil.rmtree(unfinished, ignore_errors=True)  # of a run that was stopped meanwhile
        train, validation = REPLAY_IMAGES
        chosen = PRESETS["wide"].model_copy(
            update={
                "materials": materials_to_replay(start.card if start else None),
                "train_images": train,
                "validation_images": validation,
                "seed": settings.seed,
            }
        )
        simulate_training_set(
            chosen,
            unfinished,
            on_progress=lambda share, text: on_progress(share, f"simulating to replay: {text}"),
            should_stop=should_stop,
        )
        unfinished.replace(path)
    train, validation = read_splits(path)
    return replace(
        data,
        simulated=train,
        simulated_held_out=list(validation),
        record=data.record | {"sets": [read_set_settings(path)]},
    )


def open_labels(folder: Path):
    """Open a project's label store to read."""
    from napari_point_defects.labels.store import LabelStore

    return LabelStore(folder, create=False)


def read_labels(settings: RetrainSettings) -> tuple[list[LabelledImage], list[int]]:
    """Return the chosen images of the label store that hold something to learn, and their ids."""
    if settings.labels is None:
        return [], []
    with open_labels(settings.labels) as store:
        ids = [entry.id for entry in store.images()]
        if settings.images is not None:
            missing = sorted(set(settings.images) - set(ids))
            if missing:
                raise PointDefectsError(
                    f"{settings.labels} has no image {missing[0]}: "
                    f"choose among {', '.join(map(str, ids))}"
                )
            ids = [i for i in ids if i in settings.images]
        found = [(item, i) for i in ids for item in store.labelled_images([i])]
    if settings.kind == "classifier":
        useful = [(item, i) for item, i in found if (item.classes != UNLABELLED).any()]
        what = "confirmed or corrected cell"
    else:
        useful = [(item, i) for item, i in found if len(item.hexagons_px)]
        what = "hexagon"
    if not useful:
        raise PointDefectsError(
            f"{settings.labels} holds no {what} to learn from: correct some in napari first"
        )
    return [item for item, _ in useful], [i for _, i in useful]


def split_labels(
    images: Sequence[LabelledImage], ids: Sequence[int], share: float
) -> tuple[list[LabelledImage], list[LabelledImage]]:
    """Hold out a share of the judged cells: whole images, or single cells of few images.

    What is held out depends on image and cell alone, so that it stays held out when more labels
    come and a later run starts from this one's weights. Single held-out cells are seen by the
    network as the surroundings of others: a score on them flatters, one on whole images does not.

    Parameters
    ----------
    images : sequence of LabelledImage
    ids : sequence of int
        Of the images in their store.
    share : float

    Returns
    -------
    learned, held_out : list of LabelledImage
    """
    learned, held_out = split_images(images, ids, share)
    if held_out or share == 0 or not images:
        return learned, held_out
    learned, held_out = [], []
    for item, number in zip(images, ids, strict=True):
        drawn = np.array([_draw(number, node) < share for node in _nodes(item)], bool)
        for part, kept in ((learned, ~drawn), (held_out, drawn)):
            classes = np.where(kept, item.classes, UNLABELLED)
            if (classes != UNLABELLED).any():
                part.append(replace(item, classes=classes))
    if not learned:
        raise PointDefectsError(
            "all labels would be held out: label more cells, or hold out a smaller share"
        )
    return learned, held_out


def split_images(
    images: Sequence[LabelledImage], ids: Sequence[int], share: float
) -> tuple[list[LabelledImage], list[LabelledImage]]:
    """Hold out a share of the images, or none where there are few or all would go."""
    held = [share > 0 and number % round(1 / share) == 0 for number in ids]
    if len(images) < _WHOLE_IMAGES_FROM or all(held):
        return list(images), []
    pairs = list(zip(images, held, strict=True))
    return [item for item, out in pairs if not out], [item for item, out in pairs if out]


def class_counts(images: Sequence[LabelledImage]) -> np.ndarray:
    """Count the judged cells of each class, shape (6,)."""
    classes = [item.classes[item.classes != UNLABELLED] for item in images]
    return np.bincount(np.concatenate([np.empty(0, int), *classes]), minlength=len(DefectClass))


def _nodes(item: LabelledImage) -> np.ndarray:
    """Return each cell's node of the lattice, (K, 2) whole numbers: the same in every run."""
    canonical = item.lattice.to_canonical(item.chalcogen_px)
    return np.rint(canonical @ np.linalg.inv(LATTICE_VECTORS)).astype(int)


def _draw(number: int, node: np.ndarray) -> float:
    """Return a number from 0 to 1 that an image and a node always get."""
    return zlib.crc32(f"{number}:{node[0]}:{node[1]}".encode()) / _CRC_RANGE


def _selection(images: TrainingSet, most: int) -> list[LabelledImage]:
    """Return so many images at most, spread evenly over the set."""
    if len(images) <= most:
        return list(images)
    return [images[i] for i in np.linspace(0, len(images) - 1, most).astype(int)]


@dataclass(frozen=True, slots=True)
class LabelledEntry:
    """One image of a label store and how many decided cells of each class it has, shape (6,)."""

    id: int
    name: str
    counts: np.ndarray


def survey_labels(folder: Path) -> list[LabelledEntry]:
    """List the images of a project's label store.

    Raises
    ------
    PointDefectsError
        If the folder holds no labels.
    """
    with open_labels(folder) as store:
        return [
            LabelledEntry(entry.id, entry.name, np.asarray(store.class_counts([entry.id]), int))
            for entry in store.images()
        ]
