"""Make training sets on disk: draw scenes, render, add noise, write; in several processes.

Cancelled or killed, a set is smaller but valid, and it can be resumed. So the two splits are
written side by side, in the proportion asked for: whenever it ends, both are there, and training
needs both. Every image has its own random stream, so a resumed set is the same to the byte.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from contextlib import ExitStack, closing, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from pydantic import ValidationError

from napari_point_defects import __version__
from napari_point_defects.cluster_worker import Needs
from napari_point_defects.clusters import open_cluster
from napari_point_defects.errors import PointDefectsError, Stopped
from napari_point_defects.json_files import read_json
from napari_point_defects.materials import get_material
from napari_point_defects.simulation.columns import carry_columns, columns_to_carry
from napari_point_defects.simulation.images import simulate_image, unknown_columns
from napari_point_defects.simulation.presets import TrainingSetSettings, check_materials
from napari_point_defects.simulation.set_records import beside_settings, settings_alone
from napari_point_defects.simulation.workers import map_in_processes, prepare_columns
from napari_point_defects.training_set import (
    EncodedImage,
    TrainingSetWriter,
    encode_image,
)
from napari_point_defects.training_set_journal import images_written, is_whole

SPLITS = ("train", "validation")
RECORD = "settings.json"


@dataclass(frozen=True, slots=True)
class FoundSet:
    """A training set in a folder, whole or not.

    Attributes
    ----------
    settings : TrainingSetSettings
    program : str
        The version that began it.
    images : (int, int)
        Images written of each split.
    is_whole : bool
        Whether all images are there.
    """

    settings: TrainingSetSettings
    program: str
    images: tuple[int, int]
    is_whole: bool


def find_set(folder: Path) -> FoundSet | None:
    """Look what set a folder holds, without reading its images; None where there is none.

    Raises
    ------
    PointDefectsError
        If its ``settings.json`` cannot be read.
    """
    path = folder / RECORD
    if not path.is_file():
        return None
    try:
        values = read_json(path)
        program = str(values.get("program", ""))
        alone = settings_alone(values, str(path))
        settings = TrainingSetSettings.model_validate(alone)
    except PointDefectsError:  # one line that says what is wrong with a material
        raise
    except (OSError, ValueError, AttributeError, ValidationError) as error:
        raise PointDefectsError(
            f"{path} holds no settings of a simulated set: choose another folder"
        ) from error
    images = tuple(images_written(folder / split) for split in SPLITS)
    wanted = (settings.train_images, settings.validation_images)
    whole = images == wanted and all(is_whole(folder / split) for split in SPLITS)
    return FoundSet(settings, program, images, whole)


def simulate_training_set(
    settings: TrainingSetSettings,
    folder: Path,
    *,
    workers: int | None = None,
    scheduler: str | None = None,
    resume: bool = False,
    on_progress: Callable[[float, str], None] = lambda share, text: None,
    should_stop: Callable[[], bool] = lambda: False,
) -> np.ndarray:
    """Write a training set; ended early it is smaller but valid.

    Parameters
    ----------
    settings : TrainingSetSettings
    folder : Path
        Must not hold a training set yet, or an unfinished one of the same settings to resume.
    workers : int, optional
        Processes; default: one per core. They are spawned: a script needs its
        ``if __name__ == "__main__":``.
    scheduler : str, optional
        Address of a running Dask scheduler whose workers simulate in place of processes here; this
        one writes, so they need no folder in common.
    resume : bool
        Go on with the set in the folder; the images already there stay as they are.
    on_progress, should_stop : callable

    Returns
    -------
    ndarray of shape (2, 6)
        Unit cells of each class in the two splits.

    Raises
    ------
    PointDefectsError
        If the folder holds a training set that cannot be resumed or there is none to resume, if
        it cannot be written, a material is unknown, or the scheduler does not answer.
    Stopped
        If ``should_stop`` said yes.
    """
    check_materials(settings)
    workers = workers or os.cpu_count() or 1
    _claim(settings, folder, resume)
    missing = unknown_columns(settings.materials, settings.microscope)
    if missing:
        prepare_columns(
            missing,
            settings.microscope,
            workers=workers,
            on_progress=lambda share, text: on_progress(0.0, text),
            should_stop=should_stop,
        )
    writers = []
    whole = False
    try:
        writers += [TrainingSetWriter(folder / split, resume=resume) for split in SPLITS]
        _fill(settings, writers, scheduler or workers, on_progress, should_stop)
        whole = True
    except OSError as error:
        raise PointDefectsError(
            f"cannot write to {folder} ({error.strerror or error}): what is written is kept; "
            "make room and resume"
        ) from error
    finally:
        # where the disk is full the journals alone stay: they are enough
        with suppress(OSError):
            for writer in writers:
                writer.close(whole=whole)
    return np.stack([writer.class_counts() for writer in writers])


def _claim(settings: TrainingSetSettings, folder: Path, resume: bool) -> None:
    """Record the settings in a new folder, or check those of the set to resume."""
    if resume:
        found = find_set(folder)
        if found is None:
            raise PointDefectsError(f"{folder} holds no training set to resume: start a new one")
        differing = [
            name
            for name in TrainingSetSettings.model_fields
            if getattr(found.settings, name) != getattr(settings, name)
        ]
        if differing:
            raise PointDefectsError(
                f"{folder} holds a set with other settings ({', '.join(differing)}): resume it "
                f"with those in its {RECORD}, or choose another folder"
            )
        if found.program != __version__:
            raise PointDefectsError(
                f"{folder} was begun by version {found.program or '?'} of the program, this is "
                f"{__version__}: a set is made by one version; use it as it is, or start a new one"
            )
        return
    record = {"program": __version__, **settings.model_dump(mode="json")}
    record |= beside_settings(settings.materials)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if (folder / RECORD).exists():
            raise PointDefectsError(
                f"{folder} holds a training set already: resume it or choose another folder"
            )
        temporary = folder / f"{RECORD}.tmp"
        temporary.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
        temporary.replace(folder / RECORD)
    except OSError as error:
        raise PointDefectsError(f"cannot write to {folder}: {error.strerror}") from error


def _fill(
    settings: TrainingSetSettings,
    writers: list[TrainingSetWriter],
    workers: int | str,
    on_progress: Callable[[float, str], None],
    should_stop: Callable[[], bool],
) -> None:
    """Write all images that are not there yet, by processes here or a cluster's workers."""
    order = image_order(settings)
    remaining = [(split, index) for split, index in order if index >= len(writers[split])]
    done, total = len(order) - len(remaining), len(order)
    if not remaining:
        return
    if done:
        on_progress(done / total, f"image {done} of {total}")
    with ExitStack() as stack:
        if isinstance(workers, str):
            cluster = stack.enter_context(open_cluster(workers, needs=_needs()))
            images = cluster.in_order(_portable(settings), remaining, should_stop)
        else:
            function = partial(_encoded, settings)
            processes = min(workers, len(remaining))
            images = map_in_processes(function, remaining, processes, should_stop)
        stack.enter_context(closing(images))
        for (split, _), image in zip(remaining, images, strict=True):
            writers[split].add_encoded(image)
            done += 1
            on_progress(done / total, f"image {done} of {total}")
            if done < total and should_stop():
                raise Stopped


def _needs() -> Needs:
    """Return what a worker needs for the same bytes."""
    return Needs.of_this_program("numpy", "scipy", "pillow")


def image_order(settings: TrainingSetSettings) -> list[tuple[int, int]]:
    """Return (split, index) of every image in the order of writing.

    The splits grow in proportion, the first two images being one of each.
    """
    counts = (settings.train_images, settings.validation_images)
    images = [(index / n, split, index) for split, n in enumerate(counts) for index in range(n)]
    return [(split, index) for _, split, index in sorted(images)]


def _encoded(settings: TrainingSetSettings, image: tuple[int, int]) -> EncodedImage:
    # as a PNG: a process that only wrote would otherwise be what the others wait for
    return encode_image(simulate_image(settings, *image))


@dataclass(frozen=True, slots=True)
class _Portable:
    """The same for a machine that may lack columns which were simulated here."""

    settings: TrainingSetSettings
    columns: dict[str, str]

    def __call__(self, image: tuple[int, int]) -> EncodedImage:
        carry_columns(self.columns)
        return _encoded(self.settings, image)


def _portable(settings: TrainingSetSettings) -> _Portable:
    materials = [get_material(name) for name in settings.materials]
    return _Portable(settings, columns_to_carry(materials, settings.microscope))
