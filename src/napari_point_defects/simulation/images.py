"""One image of a training set: drawn, rendered and made noisy, the same wherever it is made."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from napari_point_defects.errors import PointDefectsError
from napari_point_defects.materials import get_material
from napari_point_defects.simulation.columns import MicroscopeSettings, columns_are_known
from napari_point_defects.simulation.noise import NoiseSettings, add_noise
from napari_point_defects.simulation.presets import TrainingSetSettings
from napari_point_defects.simulation.recipes import Recipe, simulate_recipe
from napari_point_defects.simulation.scenes import (
    CELL_CHALCOGEN,
    SceneSettings,
    lattice_nodes,
    make_scene,
)
from napari_point_defects.training_set import LabelledImage


@dataclass(frozen=True, slots=True)
class Example:
    """An image and what was drawn for it from the set's ranges.

    Attributes
    ----------
    image : LabelledImage
    scene : SceneSettings
    noise : NoiseSettings
    column_counts : float
        Expected counts in a whole perfect X₂ column; 0 without counting noise.
    """

    image: LabelledImage
    scene: SceneSettings
    noise: NoiseSettings
    column_counts: float


def simulate_image(settings: TrainingSetSettings, split: int, index: int) -> LabelledImage:
    """Return image ``index`` of split 0 (train) or 1 (validation).

    Each image has its own random stream, so the order of making does not matter.
    """
    return _simulate(settings, split, index).image


def simulate_example(
    settings: TrainingSetSettings, index: int, *, most_px: int | None = None
) -> Example:
    """Return image ``index`` of the training split, to look at.

    Parameters
    ----------
    settings : TrainingSetSettings
    index : int
    most_px : int, optional
        An image with a longer side is made as much smaller: another field, drawn alike.

    Raises
    ------
    PointDefectsError
        If columns would have to be simulated first, which takes minutes; see
        :func:`~napari_point_defects.simulation.columns.load_columns`.
    """
    missing = unknown_columns(settings.materials, settings.microscope)
    if missing:
        raise PointDefectsError(
            f"abTEM must first simulate the columns of {', '.join(missing)} for this microscope"
        )
    if most_px is not None:
        # the side is not drawn, so that the draws stay the same
        a_px = settings.draw_scene(_stream(settings, 0, index)).a_px
        side = min(settings.side_a, max(most_px / a_px, 3.0))
        settings = settings.model_copy(update={"side_a": side})
    return _simulate(settings, 0, index)


def example_of_recipe(recipe: Recipe) -> Example:
    """Return the one image of a recipe, to look at."""
    pixels, scene = simulate_recipe(recipe)
    image = LabelledImage(
        pixels,
        scene.lattice,
        recipe.scene.material,
        scene.hexagons_px,
        scene.chalcogen_px,
        scene.metal_px,
        scene.classes,
    )
    counts = recipe.noise.poisson_lambda * scene.pair_volume_px / scene.peak
    return Example(image, recipe.scene, recipe.noise, float(counts))


def unknown_columns(materials: tuple[str, ...], microscope: MicroscopeSettings) -> tuple[str, ...]:
    """Return the materials whose columns abTEM has still to simulate for that microscope."""
    found = dict.fromkeys(get_material(name).formula for name in materials)
    return tuple(f for f in found if not columns_are_known(get_material(f), microscope))


def _stream(settings: TrainingSetSettings, split: int, index: int) -> np.random.Generator:
    return np.random.default_rng([settings.seed, split, index])


def _simulate(settings: TrainingSetSettings, split: int, index: int) -> Example:
    rng = _stream(settings, split, index)
    scene_settings = settings.draw_scene(rng)
    classes = None
    if settings.one_cell:
        classes = _single_defect(scene_settings, index % 6)
    scene = make_scene(scene_settings, rng, microscope=settings.microscope, classes=classes)
    mu = float(rng.uniform(*settings.gaussian_mu)) if rng.random() < settings.gaussian_share else 0
    bits = int(rng.choice(settings.bits))
    # a stream of their own: sets of before these could be chosen stay the same to the byte
    amplifier = np.random.default_rng([settings.seed, split, index, 1])
    detector = {
        "gaussian_mu": mu,
        "bits": bits,
        "black_level": float(amplifier.uniform(*settings.black_level)),
        "gain": float(amplifier.uniform(*settings.gain)),
    }
    if settings.column_counts is None:
        poisson = float(rng.uniform(*settings.poisson_lambda))
        noise = NoiseSettings(poisson_lambda=poisson, **detector)
    else:
        counts = float(np.exp(rng.uniform(*np.log(settings.column_counts))))
        noise = NoiseSettings.for_column_counts(scene, counts, **detector)
    kept = slice(None)
    if settings.one_cell:
        expected = scene.lattice.to_image(CELL_CHALCOGEN)
        kept = [int(np.argmin(((scene.chalcogen_px - expected) ** 2).sum(axis=1)))]
    image = LabelledImage(
        add_noise(scene, noise, rng),
        scene.lattice,
        scene_settings.material,
        scene.hexagons_px,
        scene.chalcogen_px[kept],
        scene.metal_px[kept],
        scene.classes[kept],
    )
    counts = noise.poisson_lambda * scene.pair_volume_px / scene.peak
    return Example(image, scene_settings, noise, float(counts))


def _single_defect(scene_settings: SceneSettings, defect: int) -> np.ndarray:
    """Classes of a perfect lattice but for the cell that belongs to the hexagon in the middle."""
    lattice = scene_settings.lattice()
    nodes = lattice_nodes(lattice, (scene_settings.height_px, scene_settings.width_px))
    classes = np.zeros(len(nodes), int)
    classes[np.argmin((nodes**2).sum(axis=1))] = defect
    return classes
