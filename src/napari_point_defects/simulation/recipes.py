"""One image from one recipe: a calibrated TIFF and the table of its unit cells."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import tifffile
from pydantic import BaseModel, ConfigDict, Field

from napari_point_defects.materials import get_material
from napari_point_defects.outputs import atomic_write, check_outputs, write_table
from napari_point_defects.simulation.columns import MicroscopeSettings
from napari_point_defects.simulation.noise import NoiseSettings, add_noise
from napari_point_defects.simulation.scenes import Scene, SceneSettings, make_scene


class Recipe(BaseModel):
    """Everything that fixes one simulated image."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    scene: SceneSettings = SceneSettings()
    noise: NoiseSettings = NoiseSettings()
    microscope: MicroscopeSettings = MicroscopeSettings()
    seed: int = Field(0, ge=0, description="Seed of defects, drift, contamination and noise")


def simulate_recipe(recipe: Recipe) -> tuple[np.ndarray, Scene]:
    """Return the image, (M, N) uint8 or uint16, and the scene behind it."""
    rng = np.random.default_rng(recipe.seed)
    scene = make_scene(recipe.scene, rng, microscope=recipe.microscope)
    return add_noise(scene, recipe.noise, rng), scene


def truth_table(scene: Scene, material_name: str) -> pd.DataFrame:
    """Return one row per unit cell: both columns in image pixels, and the label."""
    labels = np.array(get_material(material_name).class_labels)
    return pd.DataFrame(
        {
            "chalcogen_y": scene.chalcogen_px[:, 0].round(3),
            "chalcogen_x": scene.chalcogen_px[:, 1].round(3),
            "metal_y": scene.metal_px[:, 0].round(3),
            "metal_x": scene.metal_px[:, 1].round(3),
            "label": labels[scene.classes],
        }
    )


def write_recipe(recipe: Recipe, name: str, folder: Path, overwrite: bool = False) -> list[Path]:
    """Write ``<name>.tif``, calibrated as ImageJ does it, and ``<name>_truth.csv``.

    Raises
    ------
    PointDefectsError
        If a file exists and may not be overwritten, or the folder cannot be written.
    """
    image_path, truth_path = folder / f"{name}.tif", folder / f"{name}_truth.csv"
    check_outputs([image_path, truth_path], overwrite)
    image, scene = simulate_recipe(recipe)
    per_nm = 1 / recipe.scene.pixel_size_nm
    with atomic_write(image_path, overwrite) as temporary:
        tifffile.imwrite(
            temporary,
            image,
            imagej=True,
            resolution=(per_nm, per_nm),
            metadata={"unit": "nm"},
            compression="zlib",
        )
    write_table(truth_table(scene, recipe.scene.material), truth_path, overwrite)
    return [image_path, truth_path]
