"""How well domains are found and what must not be counted is left out, on specimens apart.

For each kind of specimen and dose: the share of cells that are not there (invented), of good
cells that are lost, how wide the uncounted band is, and how well each domain is oriented. Hexagons
are found by the shipped CNN-1. Run: ``python -m benchmarks.specimens``.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
from scipy.spatial import cKDTree

from napari_point_defects.analysed_area import BOUNDARY, FIRST_CODE
from napari_point_defects.analysis_settings import AnalysisSettings
from napari_point_defects.domains.casting import cast_domains
from napari_point_defects.errors import PointDefectsError
from napari_point_defects.pipeline import detect
from napari_point_defects.records import StemImage
from napari_point_defects.simulation.noise import NoiseSettings, add_noise
from napari_point_defects.simulation.scenes import SceneSettings
from napari_point_defects.simulation.specimens import PatchSettings, Specimen, make_specimen

DOSES = (20.0, 80.0, 640.0)
MATERIALS = ("MoTe2", "MoS2")
SEED = 90_210
SPECIMENS: dict[str, tuple[PatchSettings, ...]] = {
    "crystal": (),
    "mirror twin": (PatchSettings(kind="twin", outline="half", shift_a=(0.2, 0.1)),),
    "twin triangle": (PatchSettings(kind="twin", outline="triangle", radius=0.35),),
    "grain 7°": (PatchSettings(kind="grain", outline="half", tilt_deg=7.0),),
    "grain 22°": (PatchSettings(kind="grain", outline="half", tilt_deg=22.0),),
    "torn edge": (PatchSettings(outline="half", centre=(0.4, 0.45)),),
    "holes": (PatchSettings(radius=0.2), PatchSettings(radius=0.1, centre=(0.15, 0.8))),
    "bilayer AA'": (PatchSettings(kind="bilayer", radius=0.25),),
    "bilayer AB": (PatchSettings(kind="bilayer", stacking="AB", radius=0.25),),
    "thick dirt": (PatchSettings(kind="dirt", radius=0.25, thickness=2.0),),
}


def measure(name: str, material: str, counts: float, seed: int, side_px: int) -> dict:
    """Detect the cells of one specimen and compare them with its truth."""
    rng = np.random.default_rng([SEED, seed])
    turn = float(rng.uniform(0, 360))
    patches = tuple(p.model_copy(update={"direction_deg": turn}) for p in SPECIMENS[name])
    scene = SceneSettings(
        material=material,
        height_px=side_px,
        width_px=side_px,
        a_px=20.0,
        angle_deg=float(rng.uniform(-60, 60)),
        contamination=0.1,
        jitter_a=0.01,
    )
    specimen = make_specimen(scene, patches, rng)
    noise = NoiseSettings.for_column_counts(specimen.scene, counts, gaussian_mu=3.0)
    image = StemImage(add_noise(specimen.scene, noise, rng).astype(np.float32), name)
    row = {"specimen": name, "material": material, "counts": counts, "seed": seed}
    try:
        detection = detect(image, AnalysisSettings(material=material))
    except PointDefectsError as error:
        return row | {"refused": str(error)}
    cells = cast_domains(detection.hexagons, detection.domain_map, image.data.shape)
    return row | compare(cells.chalcogen_px, detection, specimen, scene.a_px)


def compare(found: np.ndarray, detection, specimen: Specimen, a_px: float) -> dict:
    """Return the shares of one specimen."""
    true = specimen.scene.chalcogen_px
    reach = 0.3 * a_px
    invented = cKDTree(specimen.sites_px).query(found)[0] > reach
    lost = cKDTree(found).query(true)[0] > reach
    limits = np.array(specimen.labels.shape) - 1 - 1.2 * a_px
    inner = ((true > 1.2 * a_px) & (true < limits)).all(1)  # hexagons there are whole
    row, col = np.rint(found).astype(int).T
    left_out = specimen.labels >= FIRST_CODE
    masked = left_out[row, col]
    area = detection.area
    # the band's area over the boundary's length in the truth
    crystals = np.where(left_out, 0, specimen.labels).astype(int)
    length = sum(
        int(((a != b) & (a > 0) & (b > 0)).sum())
        for a, b in ((crystals[1:], crystals[:-1]), (crystals[:, 1:], crystals[:, :-1]))
    ) * (np.pi / 4)  # steps along rows and columns are 4/π longer than the line
    band = area.share_of(BOUNDARY) * specimen.labels.size
    return {
        "cells": len(found),
        "domains": len(detection.domains),
        "true_domains": len(specimen.lattices),
        "invented": float(invented.mean()),
        "in_left_out_area": float(masked.mean()),
        "lost_inside": float(lost[inner].mean()),
        "band_width_a": band / length / a_px if length else 0.0,
        "orientation_error_deg": [orientation_error(d, specimen) for d in detection.domains],
    }


def orientation_error(domain, specimen: Specimen) -> float:
    """Degrees to the nearest true lattice: 0 also after 120°, but not after 60°."""
    errors = []
    for true in specimen.lattices:
        change = np.linalg.inv(true.matrix_px) @ domain.lattice.matrix_px
        angle = np.degrees(np.arctan2(change[0, 1] - change[1, 0], np.trace(change)))
        errors.append(abs((angle + 60) % 120 - 60))
    return float(min(errors))


def main() -> None:
    """Measure all specimens and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--out", type=Path, default=Path(__file__).parent / "results" / "specimens.json"
    )
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--side", type=int, default=512)
    parser.add_argument("--doses", type=float, nargs="+", default=list(DOSES))
    parser.add_argument("--materials", nargs="+", default=list(MATERIALS))
    options = parser.parse_args()
    rows = []
    for name in SPECIMENS:
        for material in options.materials:
            for counts in options.doses:
                for seed in range(options.seeds):
                    rows.append(measure(name, material, counts, seed, options.side))
                    print(json.dumps(rows[-1], ensure_ascii=False), flush=True)
    options.out.write_text(json.dumps(rows, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
