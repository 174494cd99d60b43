"""Superposition against full multislice, and how many images a second it makes.

python -m benchmarks.simulation        # writes benchmarks/results/simulation.json
"""

from __future__ import annotations

import json
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np

from benchmarks.multislice_fields import PHONONS, PLAN, STATIC, Field, field_path, load_field
from napari_point_defects.materials import DefectClass, get_material
from napari_point_defects.simulation.columns import MicroscopeSettings, load_columns
from napari_point_defects.simulation.noise import NoiseSettings, add_noise
from napari_point_defects.simulation.scenes import (
    CELL_CHALCOGEN,
    CELL_METAL,
    SceneSettings,
    make_scene,
)
from napari_point_defects.simulation.superposition import Blur, Superposer

RESULTS = Path(__file__).parent / "results"
PIXEL_NM = 0.0125
SOURCE_NM = 0.06
DISC_NM = 0.06


def compare(field: Field, microscope: MicroscopeSettings = MicroscopeSettings()) -> dict:
    """Render a field's defects by superposition and compare with its multislice image."""
    material = get_material(field.material)
    a_px = material.lattice_constant_nm / PIXEL_NM
    shape = tuple(int(n) for n in np.floor(field.box * a_px))
    pixels = np.stack(np.indices(shape), axis=-1) / a_px
    full = field.sample(pixels, SOURCE_NM)
    superposer = Superposer(
        shape, PIXEL_NM, load_columns(material, microscope), microscope, Blur(SOURCE_NM)
    )
    periods = np.stack(np.meshgrid([-1, 0, 1], [-1, 0, 1], indexing="ij"), -1).reshape(-1, 2)
    nodes = (field.nodes[None] + (periods * field.box)[:, None]).reshape(-1, 2)
    classes = np.tile(field.classes, len(periods))
    x, m = (nodes + CELL_CHALCOGEN) * a_px, (nodes + CELL_METAL) * a_px
    metal = m[classes < DefectClass.V_M]
    pair, single = x[classes % 3 == 0], x[classes % 3 == 1]
    sum_of_columns = superposer.render(
        {"metal": metal, "chalcogen_pair": pair, "chalcogen_single": single}
    )
    difference = sum_of_columns - full
    ratios = {}
    for name, points in (("metal", metal), ("chalcogen_pair", pair), ("chalcogen_single", single)):
        margin = 2 * DISC_NM / PIXEL_NM
        inside = np.all((points > margin) & (points < np.array(shape) - margin), axis=1)
        ratios[name] = np.array([_disc(sum_of_columns, p) / _disc(full, p) for p in points[inside]])
    every = np.concatenate(list(ratios.values()))
    return {
        "material": field.material,
        "relative_rms": float(np.sqrt((difference**2).mean()) / np.ptp(full)),
        "column_intensity": {
            name: {
                "columns": len(r),
                "mean": float(r.mean()),
                "worst": float(r[np.argmax(np.abs(r - 1))]),
            }
            for name, r in ratios.items()
            if len(r)
        },
        "columns_within_3_percent": float(np.mean(np.abs(every - 1) <= 0.03)),
    }


def _disc(image: np.ndarray, centre: np.ndarray) -> float:
    """Sum over a disc around a column, its rim weighted by the share of the pixel inside."""
    radius = DISC_NM / PIXEL_NM
    corner = np.floor(centre - radius - 1).astype(int)
    size = int(2 * radius + 4)
    patch = image[corner[0] : corner[0] + size, corner[1] : corner[1] + size]
    where = np.stack(np.indices(patch.shape), axis=-1) + corner - centre
    weight = np.clip(radius - np.linalg.norm(where, axis=-1) + 0.5, 0, 1)
    return float((patch * weight).sum())


def _one_image(seed: int) -> int:
    rng = np.random.default_rng(seed)
    settings = SceneSettings(
        angle_deg=float(rng.uniform(-180, 180)), contamination=0.2, jitter_a=0.02, drift_a=0.2
    )
    return int(add_noise(make_scene(settings, rng), NoiseSettings(), rng).size)


def images_per_second(workers: int = 2, count: int = 200) -> float:
    """Noisy 512 × 512 images with contamination, jitter and drift, made in two processes."""
    with ProcessPoolExecutor(workers) as pool:
        list(pool.map(_one_image, range(workers * 4)))
        start = time.perf_counter()
        list(pool.map(_one_image, range(count), chunksize=10))
        return count / (time.perf_counter() - start)


def main() -> None:
    fields = [
        compare(load_field(material, index))
        for material, count in PLAN
        for index in range(count)
        if field_path(material, index).exists()
    ]
    report = {
        "command": "python -m benchmarks.simulation",
        "phonon_configurations_of_the_fields": PHONONS,
        "atoms_at_rest": compare(load_field("MoTe2", "static"), STATIC),
        "frozen_phonons": fields,
        "images_512_per_second_2_processes": round(images_per_second(), 1),
    }
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "simulation.json").write_text(json.dumps(report, indent=1) + "\n")
    print(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
