"""How well hexagons, unit cells and classes are found on held-out multislice fields.

    python -m benchmarks.accuracy [--quick]        # writes benchmarks/results/accuracy.json

Every image is a scan over a field of ``multislice_fields``: random rotation over the full turn,
stretch and shear to 15 %, 15–90 px per a, 300–10,000 counts in a full X₂ column, a third of them
contaminated, 8 and 16 bit. Fields are periodic: an image that is wider than a field shows its
defects again, with other noise.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.spatial import cKDTree

from benchmarks.multislice_fields import PLAN, field_path, load_field
from napari_point_defects.analysis_settings import AnalysisSettings
from napari_point_defects.classification.training import confusion_matrix
from napari_point_defects.detections import Analysis
from napari_point_defects.errors import PointDefectsError
from napari_point_defects.materials import (
    CHALCOGEN_SITES,
    METAL_SITES,
    DefectClass,
    get_material,
)
from napari_point_defects.pipeline import analyze
from napari_point_defects.records import Lattice, StemImage
from napari_point_defects.simulation.scenes import (
    CELL_CHALCOGEN,
    CELL_METAL,
    SceneSettings,
    contamination_field,
)

RESULTS = Path(__file__).parent / "results"
SEED = 9_500_000
IMAGES_PER_FIELD = 24
TOLERANCES = {
    "hexagon_recall": 0.992,
    "hexagon_precision": 0.988,
    "cell_recall": 0.992,
    "accuracy": 0.995,
}
COUNTS = (300, 1000, 3000, 10000)


@dataclass(frozen=True)
class Truth:
    """Every column of an image, inside or near it, and what is missing there."""

    lattice: Lattice
    chalcogen_px: np.ndarray
    missing_chalcogens: np.ndarray
    metal_px: np.ndarray
    metal_missing: np.ndarray
    hollows_px: np.ndarray
    shape: tuple[int, int]

    def inside(self, points: np.ndarray) -> np.ndarray:
        return np.all((points >= 0) & (points <= np.array(self.shape) - 1), axis=-1)

    def cells(self, lattice: Lattice) -> tuple[np.ndarray, np.ndarray]:
        """Bond middles and classes of the cells of that lattice's bond direction.

        Three directions are equivalent; the truth is paired in the one that was analysed. A
        cell counts if it borders a hexagon that lies in the image whole.
        """
        bond = (METAL_SITES[0] - CHALCOGEN_SITES[0]) @ lattice.matrix_px.T
        a = self.lattice.a_px
        distance, metal = cKDTree(self.metal_px).query(self.chalcogen_px + bond)
        paired = distance < 0.2 * a
        x, m = self.chalcogen_px[paired], self.metal_px[metal[paired]]
        classes = self.missing_chalcogens[paired] + 3 * self.metal_missing[metal[paired]]
        middles = (x + m) / 2
        counted = self.inside(x) & self.inside(m) & self._borders_whole(middles, lattice)
        return middles[counted], classes[counted].astype(int)

    def _borders_whole(self, middles: np.ndarray, lattice: Lattice) -> np.ndarray:
        """Tell whether either hexagon on the two sides of the bond lies in the image whole."""
        upper = (CHALCOGEN_SITES[0] + METAL_SITES[0]) / 2
        lower = (CHALCOGEN_SITES[2] + METAL_SITES[2]) / 2
        six = np.concatenate([CHALCOGEN_SITES, METAL_SITES]) @ lattice.matrix_px.T
        found = np.zeros(len(middles), bool)
        for side in (upper, lower):
            centres = middles - side @ lattice.matrix_px.T
            found |= self.inside(centres[:, None] + six).all(axis=1)
        return found

    def hexagons(self) -> np.ndarray:
        """Centres of the hexagons whose six sites lie in the image."""
        six = np.concatenate([CHALCOGEN_SITES, METAL_SITES]) @ self.lattice.matrix_px.T
        return self.hollows_px[self.inside(self.hollows_px[:, None] + six).all(axis=1)]


def scan(field, rng: np.random.Generator, counts: float, contaminated: bool, bits: int):
    """Return an image of a field, its truth and the conditions it was made under."""
    a_px = float(np.exp(rng.uniform(np.log(15), np.log(90))))
    side = int(np.clip(14 * a_px, 320, 1024))
    source = float(rng.uniform(0.06, 0.1))
    conditions = SceneSettings(
        material=field.material,
        height_px=side,
        width_px=side,
        a_px=a_px,
        angle_deg=float(rng.uniform(-180, 180)),
        shear=float(rng.uniform(-0.15, 0.15)),
        stretch=float(rng.uniform(-0.15, 0.15)),
        contamination=float(rng.uniform(0.05, 0.3)) if contaminated else 0.0,
        contamination_length_nm=float(rng.uniform(0.8, 3)),
    )
    lattice = conditions.lattice()
    offset = rng.uniform(0, 10, 2)
    pixels = np.stack(np.indices((side, side)), axis=-1).astype(float)
    clean = field.sample(lattice.to_canonical(pixels) + offset, source)
    # A perfect X₂ column's sum, from its profile: what the counts are given for.
    pair_sum, metal_peak, pair_peak = column_measures(field, source)
    pair_sum_px = pair_sum / conditions.pixel_size_nm**2
    brightest = max(metal_peak, pair_peak)
    if contaminated:
        clean = clean + brightest * contamination_field(conditions, rng)
    expected = np.maximum(clean, 0) * counts / pair_sum_px
    image = rng.poisson(expected).astype(float)
    grey = grey_levels(image, expected) + rng.normal(0, rng.uniform(0, 8), image.shape)
    levels = 2**bits - 1
    data = np.clip(np.rint(grey * levels / 255), 0, levels).astype(np.float32)
    return data, truth_of(field, lattice, offset, (side, side)), conditions


def grey_levels(counted: np.ndarray, expected: np.ndarray) -> np.ndarray:
    """Turn counts into grey levels of 0–255: no count is 15, the brightest columns fit in."""
    white = np.quantile(expected, 0.999)
    return 15 + 235 / (white + 3 * np.sqrt(white) + 2) * counted


def column_measures(field, source: float) -> tuple[float, float, float]:
    """Sum of a perfect X₂ column [nm²] and the peaks of M and X₂, from the column profiles."""
    from napari_point_defects.simulation.columns import MicroscopeSettings, load_columns
    from napari_point_defects.simulation.superposition import Blur, Superposer

    material = get_material(field.material)
    microscope = MicroscopeSettings()
    superposer = Superposer(
        (16, 16), 0.02, load_columns(material, microscope), microscope, Blur(source)
    )
    volume = superposer.volume_px["chalcogen_pair"] * 0.02**2
    return volume, superposer.peak["metal"], superposer.peak["chalcogen_pair"]


def truth_of(field, lattice: Lattice, offset: np.ndarray, shape) -> Truth:
    """Columns of all periods that the image can show."""
    corners = lattice.to_canonical(np.array([[0, 0], [0, shape[1]], [shape[0], 0], list(shape)]))
    low = np.floor((corners.min(axis=0) + offset - 2) / field.box).astype(int)
    high = np.ceil((corners.max(axis=0) + offset + 2) / field.box).astype(int)
    periods = np.stack(
        np.meshgrid(np.arange(low[0], high[0]), np.arange(low[1], high[1]), indexing="ij"), -1
    ).reshape(-1, 2)
    nodes = (field.nodes[None] + (periods * field.box)[:, None]).reshape(-1, 2) - offset
    classes = np.tile(field.classes, len(periods))
    return Truth(
        lattice,
        lattice.to_image(nodes + CELL_CHALCOGEN),
        classes % 3,
        lattice.to_image(nodes + CELL_METAL),
        (classes >= DefectClass.V_M).astype(int),
        lattice.to_image(nodes),
        shape,
    )


def score(analysis: Analysis, truth: Truth) -> dict:
    """Compare an analysis with the truth of its image."""
    lattice = analysis.detection.lattice
    a = truth.lattice.a_px
    middles, classes = truth.cells(lattice)
    found = analysis.cells.centres_px
    distance, nearest = cKDTree(middles).query(found, distance_upper_bound=0.25 * a * 1.15)
    hit = np.isfinite(distance)
    matched = nearest[hit]
    first = np.unique(matched)
    _, order = np.unique(matched, return_index=True)
    predicted = analysis.cells.classes[hit][order]
    hexagons = truth.hexagons()
    centres = analysis.detection.hexagons.corners_px.mean(axis=1)
    boxes = analysis.detection.hexagons.canonical_boxes(lattice)
    overlap, owner = _best_iou(boxes, lattice.to_canonical(hexagons))
    near_edge = ~truth.inside(centres[:, None] + _six(lattice)).all(axis=1)
    return {
        "cells": len(middles),
        "cells_found": len(first),
        "duplicates": int(hit.sum() - len(first)),
        "cells_elsewhere": int((~hit & ~_at_border(found, truth, a)).sum()),
        "hexagons": len(hexagons),
        "hexagons_found": len(np.unique(owner[overlap > 0.5])),
        "hexagons_false": int(((overlap <= 0.5) & ~near_edge).sum()),
        "confusion": confusion_matrix(classes[first], predicted),
    }


def _six(lattice: Lattice) -> np.ndarray:
    return np.concatenate([CHALCOGEN_SITES, METAL_SITES]) @ lattice.matrix_px.T * 0.95


def _at_border(points: np.ndarray, truth: Truth, a: float) -> np.ndarray:
    return ~np.all((points > 1.2 * a) & (points < np.array(truth.shape) - 1.2 * a), axis=1)


def _best_iou(boxes: np.ndarray, centres: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """IoU of each found box with the true hexagon nearest to it, and which that is."""
    from napari_point_defects.records import hexagon_boxes

    if not len(boxes):
        return np.zeros(0), np.zeros(0, int)
    _, owner = cKDTree(centres).query((boxes[:, :2] + boxes[:, 2:]) / 2)
    return pairwise_iou(boxes, hexagon_boxes(centres[owner])), owner


def pairwise_iou(boxes: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Intersection over union of boxes (K, 4) with others, the first with the first and so on."""
    low, high = np.maximum(boxes[:, :2], others[:, :2]), np.minimum(boxes[:, 2:], others[:, 2:])
    shared = np.prod(np.maximum(high - low, 0), axis=1)
    areas = [np.prod(each[:, 2:] - each[:, :2], axis=1) for each in (boxes, others)]
    return shared / (areas[0] + areas[1] - shared)


def images(quick: bool) -> Iterator[tuple[str, int, float, np.ndarray, Truth]]:
    """All images of the benchmark: material, counts, and what ``scan`` gives."""
    for number, (material, count) in enumerate(PLAN):
        for index in range(count):
            if not field_path(material, index).exists():
                continue
            field = load_field(material, index)
            for image in range(4 if quick else IMAGES_PER_FIELD):
                rng = np.random.default_rng([SEED, number, index, image])
                counts = COUNTS[image % len(COUNTS)]
                bits = 8 if (image // 4) % 2 == 0 else 16
                data, truth, settings = scan(field, rng, counts, image % 3 == 0, bits)
                yield material, counts, settings, data, truth


def summarise(scores: list[dict]) -> dict:
    """Add up scores to the figures the issue names."""
    total = {key: sum(s[key] for s in scores) for key in scores[0] if key != "confusion"}
    confusion = sum(s["confusion"] for s in scores)
    support = confusion.sum(axis=1)
    recall = np.diag(confusion) / np.maximum(support, 1)
    false = confusion[0, 1:].sum()
    return {
        "images": len(scores),
        **total,
        "cell_recall": total["cells_found"] / total["cells"],
        "hexagon_recall": total["hexagons_found"] / total["hexagons"],
        "hexagon_precision": total["hexagons_found"]
        / (total["hexagons_found"] + total["hexagons_false"]),
        "accuracy": float(np.trace(confusion) / confusion.sum()),
        "class_recall": {c.name: float(recall[c]) for c in DefectClass if support[c]},
        "class_support": {c.name: int(support[c]) for c in DefectClass},
        "perfect_cells_per_false_defect": float(support[0] / false) if false else None,
        "confusion": confusion.tolist(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="four images per field")
    parser.add_argument("--check", action="store_true", help="fail below the tolerances")
    options = parser.parse_args()
    quick = options.quick
    start = time.perf_counter()
    groups: dict[str, list[dict]] = {}
    refused = []
    for material, counts, settings, data, truth in images(quick):
        image = StemImage(data, name=f"{material}_{counts}")
        try:
            result = score(analyze(image, AnalysisSettings(material=material)), truth)
        except PointDefectsError as error:
            refused.append({"settings": settings.model_dump(), "error": str(error)})
            print("REFUSED", material, counts, settings, error, flush=True)
            continue
        for group in ("all", material, f"{counts} counts"):
            groups.setdefault(group, []).append(result)
        wrong = result["confusion"].sum() - np.trace(result["confusion"])
        print(
            f"{material:6s} {counts:6d} a={settings.a_px:5.1f} cells {result['cells_found']}/"
            f"{result['cells']} hex {result['hexagons_found']}/{result['hexagons']} "
            f"false {result['hexagons_false']} wrong {wrong}",
            flush=True,
        )
    report = {
        "command": "python -m benchmarks.accuracy" + (" --quick" if quick else ""),
        "seed": SEED,
        "seconds": round(time.perf_counter() - start, 1),
        "refused": refused,
        "groups": {name: summarise(scores) for name, scores in groups.items()},
    }
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / ("accuracy_quick.json" if quick else "accuracy.json")
    path.write_text(json.dumps(report, indent=1) + "\n")
    print(json.dumps(report["groups"]["all"], indent=1))
    if options.check:
        check(report)


def check(report: dict) -> None:
    """Exit with 1 where a figure has dropped; the quick run's few cells need some slack."""
    figures = report["groups"]["all"]
    dropped = [
        f"{name} {figures[name]:.4f} < {least}"
        for name, least in TOLERANCES.items()
        if figures[name] < least
    ]
    if figures["duplicates"] or report["refused"]:
        dropped.append(f"{figures['duplicates']} duplicates, {len(report['refused'])} refused")
    if dropped:
        sys.exit("accuracy has dropped: " + "; ".join(dropped))


if __name__ == "__main__":
    main()
