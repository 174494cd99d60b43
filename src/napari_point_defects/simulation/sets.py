"""Make training sets on disk: draw scenes, render, add noise, write; in several processes."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np

from napari_point_defects import __version__
from napari_point_defects.errors import PointDefectsError, Stopped
from napari_point_defects.simulation.noise import NoiseSettings, add_noise
from napari_point_defects.simulation.presets import TrainingSetSettings, check_materials
from napari_point_defects.simulation.scenes import (
    CELL_CHALCOGEN,
    SceneSettings,
    lattice_nodes,
    make_scene,
)
from napari_point_defects.training_set import LabelledImage, TrainingSetWriter

_SPLITS = ("train", "validation")


def simulate_image(settings: TrainingSetSettings, split: int, index: int) -> LabelledImage:
    """Return image ``index`` of split 0 (train) or 1 (validation).

    Each image has its own random stream, so the order of making does not matter.
    """
    rng = np.random.default_rng([settings.seed, split, index])
    scene_settings = settings.draw_scene(rng)
    classes = None
    if settings.one_cell:
        classes = _single_defect(scene_settings, index % 6)
    scene = make_scene(scene_settings, rng, microscope=settings.microscope, classes=classes)
    mu = float(rng.uniform(*settings.gaussian_mu)) if rng.random() < settings.gaussian_share else 0
    bits = int(rng.choice(settings.bits))
    if settings.column_counts is None:
        poisson = float(rng.uniform(*settings.poisson_lambda))
        noise = NoiseSettings(poisson_lambda=poisson, gaussian_mu=mu, bits=bits)
    else:
        counts = float(np.exp(rng.uniform(*np.log(settings.column_counts))))
        noise = NoiseSettings.for_column_counts(scene, counts, gaussian_mu=mu, bits=bits)
    kept = slice(None)
    if settings.one_cell:
        expected = scene.lattice.to_image(CELL_CHALCOGEN)
        kept = [int(np.argmin(((scene.chalcogen_px - expected) ** 2).sum(axis=1)))]
    return LabelledImage(
        add_noise(scene, noise, rng),
        scene.lattice,
        scene_settings.material,
        scene.hexagons_px,
        scene.chalcogen_px[kept],
        scene.metal_px[kept],
        scene.classes[kept],
    )


def _single_defect(scene_settings: SceneSettings, defect: int) -> np.ndarray:
    """Classes of a perfect lattice but for the cell that belongs to the hexagon in the middle."""
    lattice = scene_settings.lattice()
    nodes = lattice_nodes(lattice, (scene_settings.height_px, scene_settings.width_px))
    classes = np.zeros(len(nodes), int)
    classes[np.argmin((nodes**2).sum(axis=1))] = defect
    return classes


def simulate_training_set(
    settings: TrainingSetSettings,
    folder: Path,
    *,
    workers: int | None = None,
    on_progress: Callable[[float, str], None] = lambda share, text: None,
    should_stop: Callable[[], bool] = lambda: False,
) -> None:
    """Write a training set; stopped early it is smaller but valid.

    Parameters
    ----------
    settings : TrainingSetSettings
    folder : Path
        Must not hold a training set yet.
    workers : int, optional
        Processes; default: one per core.
    on_progress, should_stop : callable

    Raises
    ------
    PointDefectsError
        If the folder holds a training set or cannot be written, or a material is unknown.
    Stopped
        If ``should_stop`` said yes.
    """
    check_materials(settings)
    record = {"program": __version__, **settings.model_dump(mode="json")}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if (folder / "settings.json").exists():
            raise PointDefectsError(f"{folder} holds a training set already: choose another folder")
        (folder / "settings.json").write_text(json.dumps(record, indent=2) + "\n")
    except OSError as error:
        raise PointDefectsError(f"cannot write to {folder}: {error.strerror}") from error
    workers = workers or os.cpu_count() or 1
    total = settings.train_images + settings.validation_images
    done = 0
    with ProcessPoolExecutor(workers) as pool:
        for split, count in enumerate((settings.train_images, settings.validation_images)):
            writer = TrainingSetWriter(folder / _SPLITS[split])
            try:
                images = pool.map(
                    partial(simulate_image, settings, split), range(count), chunksize=4
                )
                for image in images:
                    writer.add(image)
                    done += 1
                    on_progress(done / total, f"image {done} of {total}")
                    if should_stop():
                        pool.shutdown(wait=False, cancel_futures=True)
                        raise Stopped
            finally:
                writer.close()
