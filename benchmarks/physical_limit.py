"""How near the networks come to what physics allows: against dose and every distortion.

    python -m benchmarks.physical_limit [--quick] [--check] [--only dose] [--resume]

Images are exact sums of the multislice images of single columns, sampled where the scan looks,
with Poisson counts: nothing the training set's renderer made. Beside the analysis stand the
column-intensity rule and the ideal observer, which knows the columns' images, all positions, the
dirt, the row errors, the counts' noise and the rates of the defects, and is judged on the same
cells. Writes ``benchmarks/results/physical_limit.json``, curve by curve, and a figure; ``--resume``
keeps the curves that the report has from the same weights.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, replace
from multiprocessing import get_context
from pathlib import Path

import numpy as np
from scipy.spatial import cKDTree

from napari_point_defects.analysis_settings import AnalysisSettings
from napari_point_defects.baselines.column_intensity import column_intensity_classes
from napari_point_defects.baselines.ideal_observer import ColumnImages, IdealObserver
from napari_point_defects.detections import Analysis
from napari_point_defects.errors import PointDefectsError
from napari_point_defects.materials import (
    CHALCOGEN_SITES,
    MATERIALS,
    METAL_SITES,
    DefectClass,
    get_material,
)
from napari_point_defects.pipeline import analyze
from napari_point_defects.records import Lattice, StemImage
from napari_point_defects.simulation.columns import MicroscopeSettings, load_columns
from napari_point_defects.simulation.scenes import (
    CELL_CHALCOGEN,
    CELL_METAL,
    SceneSettings,
    contamination_field,
    lattice_nodes,
)
from napari_point_defects.simulation.superposition import Blur, Superposer
from napari_point_defects.weights import SHIPPED, load_weights

RESULTS = Path(__file__).parent / "results"
SEED = 9_700_000
DOSES = (20, 40, 80, 160, 320, 640, 2500)
CLASS_MIX = np.array([0.40, 0.20, 0.16, 0.12, 0.12])
"""Of the defects: V_X1, V_X2, V_M, V_X1+V_M, V_X2+V_M."""
_RADIUS_NM = 0.7
_TAPER_NM = 0.15  # the profiles' ends fall smoothly to 0
_FINE_NM = 0.005


@dataclass(frozen=True)
class Conditions:
    """One point of a curve; the default is what the other points differ from in one thing."""

    material: str = "MoTe2"
    counts: float = 160.0
    a_px: float = 22.0
    side_a: float = 16.0
    source_fwhm_nm: float = 0.08
    defect_rate: float = 0.08
    angle_deg: float | None = None
    shear: float = 0.0
    stretch: float = 0.0
    jitter_a: float = 0.0
    contamination: float = 0.0
    contamination_length_nm: float = 1.5


def curves(quick: bool) -> dict[str, list[Conditions]]:
    """Every curve of the benchmark, by the factor that changes along it."""
    usual = Conditions()
    points = {
        "dose at 22 px per a": [replace(usual, counts=c) for c in DOSES],
        "dose at 64 px per a": [replace(usual, counts=c, a_px=64) for c in DOSES],
        "shear": [replace(usual, shear=s) for s in (-0.15, -0.07, 0.0, 0.07, 0.15)],
        "stretch": [replace(usual, stretch=s) for s in (-0.15, -0.07, 0.0, 0.07, 0.15)],
        "jitter_a": [replace(usual, jitter_a=j) for j in (0.0, 0.01, 0.02, 0.04, 0.06)],
        "angle_deg": [replace(usual, angle_deg=d) for d in (0.0, 10.0, 20.0, 30.0, 45.0)],
        "a_px": [replace(usual, a_px=a) for a in (8.0, 11.0, 15.0, 22.0, 40.0, 64.0, 100.0, 150.0)],
        "contamination": [replace(usual, contamination=c) for c in (0.0, 0.1, 0.2, 0.4, 0.7)],
        "defect_rate": [replace(usual, defect_rate=r) for r in (0.001, 0.01, 0.03, 0.1, 0.2, 0.3)],
        "material": [replace(usual, material=m) for m in MATERIALS],
        "all together, dose": [
            Conditions(
                counts=c, shear=0.04, stretch=-0.03, jitter_a=0.02, contamination=0.15, angle_deg=17
            )
            for c in DOSES
        ],
    }
    if quick:
        kept = {"dose at 22 px per a": (1, 3, 5), "all together, dose": (3, 5)}
        return {name: [points[name][i] for i in rows] for name, rows in kept.items()}
    return points


@dataclass(frozen=True)
class Field:
    """A counted image and all that is true of it.

    Attributes
    ----------
    counts : ndarray of shape (M, N)
    lattice : Lattice
    chalcogen_px, metal_px : ndarray of shape (K, 2)
        Columns of all cells that reach into the image.
    classes : ndarray of shape (K,)
    observer : IdealObserver
    """

    counts: np.ndarray
    lattice: Lattice
    chalcogen_px: np.ndarray
    metal_px: np.ndarray
    classes: np.ndarray
    observer: IdealObserver


def column_images(conditions: Conditions, lattice: Lattice, jitter_px: np.ndarray) -> ColumnImages:
    """Return the columns' images in expected counts per pixel of that scan."""
    material, microscope = get_material(conditions.material), MicroscopeSettings()
    half = round((_RADIUS_NM + 0.05) / _FINE_NM)
    maker = Superposer(
        (1, 2 * half + 1),
        _FINE_NM,
        load_columns(material, microscope),
        microscope,
        Blur(conditions.source_fwhm_nm),
    )
    radius = np.arange(half + 1) * _FINE_NM
    fall = np.clip((radius - _RADIUS_NM + _TAPER_NM) / _TAPER_NM, 0, 1)
    nm_per_px = material.lattice_constant_nm * np.linalg.inv(lattice.matrix_px)
    pixel_nm2 = abs(np.linalg.det(nm_per_px))
    profiles = {
        kind: np.maximum(maker.render({kind: np.array([[0.0, half]])})[0, half:], 0)
        * np.cos(np.pi / 2 * fall) ** 2
        for kind in ("metal", "chalcogen_pair", "chalcogen_single")
    }
    pair = profiles["chalcogen_pair"]
    whole = float((2 * np.pi * radius * pair).sum() * _FINE_NM) / pixel_nm2
    scale = conditions.counts / whole

    def image(kind: str):
        return lambda distance: np.interp(distance, radius, scale * profiles[kind], right=0.0)

    return ColumnImages(
        image("metal"),
        image("chalcogen_pair"),
        image("chalcogen_single"),
        _RADIUS_NM,
        nm_per_px,
        jitter_px if conditions.jitter_a else None,
    )


def make_field(conditions: Conditions, rng: np.random.Generator) -> Field:
    """Draw defects, distort the scan, and count."""
    side = round(conditions.side_a * conditions.a_px)
    angle = conditions.angle_deg
    scene = SceneSettings(
        material=conditions.material,
        height_px=side,
        width_px=side,
        a_px=conditions.a_px,
        angle_deg=float(rng.uniform(-60, 60)) if angle is None else angle,
        shear=conditions.shear,
        stretch=conditions.stretch,
        contamination=conditions.contamination,
        contamination_length_nm=conditions.contamination_length_nm,
    )
    lattice = scene.lattice()
    shift = Lattice(lattice.origin_px + lattice.matrix_px @ rng.uniform(0, 1, 2), lattice.matrix_px)
    nodes = lattice_nodes(shift, (side, side))
    rates = np.concatenate([[1 - conditions.defect_rate], CLASS_MIX * conditions.defect_rate])
    classes = rng.choice(len(DefectClass), size=len(nodes), p=rates)
    chalcogen = shift.to_image(nodes + CELL_CHALCOGEN)
    metal = shift.to_image(nodes + CELL_METAL)
    jitter = rng.normal(0, conditions.jitter_a * conditions.a_px, side)
    columns = column_images(conditions, shift, jitter)
    dirt = 0.0
    if conditions.contamination:
        brightest = max(float(columns.metal(0.0)), float(columns.chalcogen_pair(0.0)))
        dirt = brightest * contamination_field(scene, rng).astype(float)
    observer = IdealObserver(np.zeros((side, side)), chalcogen, metal, columns, rates, dirt)
    observer.counts = rng.poisson(observer.expected(classes)).astype(float)
    return Field(observer.counts, shift, chalcogen, metal, classes, observer)


def judge(conditions: Conditions, seed: tuple[int, ...]) -> dict:
    """Make one field, let all three judge it, and compare them on the same cells."""
    import gc

    import torch

    torch.set_num_threads(1)
    gc.collect()  # of the last image's columns, whose closures hold each other: gigabytes
    field = make_field(conditions, np.random.default_rng(seed))
    settings = AnalysisSettings(material=conditions.material)
    try:
        analysis = analyze(StemImage(field.counts.astype(np.float32)), settings)
    except PointDefectsError as error:
        return {"refused": str(error)}
    # the truth as a second start only helps to find the maximum of the posterior
    ideal = field.observer.solve(np.zeros_like(field.classes), field.classes)
    rule = column_intensity_classes(
        field.counts, analysis.detection.lattice, analysis.cells, get_material(conditions.material)
    )
    return compare(field, analysis, {"ideal": ideal}, {"rule": rule})


@dataclass(frozen=True)
class FoundCells:
    """The true cells of a field that an analysis found, paired as it pairs X₂ with M.

    Attributes
    ----------
    rows : ndarray of shape (K,)
        Of the analysis' cells.
    chalcogen, metal : ndarray of shape (K,)
        Of the field's columns.
    missed : int
        True cells that were not found.
    """

    rows: np.ndarray
    chalcogen: np.ndarray
    metal: np.ndarray
    missed: int

    def classes(self, by_column: np.ndarray) -> np.ndarray:
        """Return these cells' classes, given what the field's columns are."""
        lacks_metal = by_column[self.metal] >= DefectClass.V_M
        return by_column[self.chalcogen] % 3 + 3 * lacks_metal


def found_cells(field: Field, analysis: Analysis) -> FoundCells:
    """Match an analysis with the truth of its image."""
    a = field.lattice.a_px
    bond = (METAL_SITES[0] - CHALCOGEN_SITES[0]) @ analysis.detection.lattice.matrix_px.T
    distance, metal = cKDTree(field.metal_px).query(field.chalcogen_px + bond)
    chalcogen = np.flatnonzero(distance < 0.25 * a)
    metal = metal[chalcogen]
    middles = (field.chalcogen_px[chalcogen] + field.metal_px[metal]) / 2
    edge = 1.7 * a  # nearer, no hexagon need be whole
    countable = np.all((middles > edge) & (middles < np.array(field.counts.shape) - edge), axis=1)
    distance, row = cKDTree(analysis.cells.centres_px).query(middles)
    found = countable & (distance < 0.25 * a)
    missed = int((countable & ~found).sum())
    return FoundCells(row[found], chalcogen[found], metal[found], missed)


def compare(field: Field, analysis: Analysis, by_column: dict, by_cell: dict) -> dict:
    """Count errors of classes given per true cell and per found cell, on the cells found."""
    found = found_cells(field, analysis)
    truth = found.classes(field.classes)
    judged = {"networks": analysis.cells.classes[found.rows]}
    judged |= {name: found.classes(classes) for name, classes in by_column.items()}
    judged |= {name: classes[found.rows] for name, classes in by_cell.items()}
    perfect = truth == DefectClass.PERFECT
    return {
        "cells": len(truth),
        "missed": found.missed,
        "perfect": int(perfect.sum()),
        **{
            name: {
                "errors": int((classes != truth).sum()),
                "false_defects": int((classes[perfect] != DefectClass.PERFECT).sum()),
            }
            for name, classes in judged.items()
        },
    }


def summarise(conditions: Conditions, results: list[dict]) -> dict:
    """Add up one point's images."""
    found = [r for r in results if "refused" not in r]
    cells = sum(r["cells"] for r in found)
    perfect = sum(r["perfect"] for r in found)
    point = {
        "conditions": asdict(conditions),
        "images": len(results),
        "refused": len(results) - len(found),
        "cells": cells,
        "missed": sum(r["missed"] for r in found),
    }
    for name in ("networks", "ideal", "rule"):
        errors = sum(r[name]["errors"] for r in found)
        false = sum(r[name]["false_defects"] for r in found)
        point[name] = {
            "errors": errors,
            "error": errors / max(cells, 1),
            "false_defects": false,
            "false_defect_rate": false / max(perfect, 1),
        }
    ideal = point["ideal"]["errors"]
    point["networks_over_ideal"] = point["networks"]["errors"] / ideal if ideal else None
    return point


def images_of(conditions: Conditions, quick: bool) -> int:
    """How many images a point needs: fewer where they are large, more where faults are rare."""
    if quick:
        return 6
    return 6 if conditions.a_px > 50 else 16


def figure(report: dict, path: Path) -> None:
    """Draw the curves: error of the three judges."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    names = list(report["curves"])
    columns = min(4, len(names))
    rows = -(-len(names) // columns)
    fig, axes = plt.subplots(
        rows, columns, figsize=(3.6 * columns, 3.0 * rows), squeeze=False, layout="constrained"
    )
    styles = {"rule": ("#b0b0b0", "s"), "networks": ("#d1495b", "o"), "ideal": ("#30638e", "^")}
    labels = {"rule": "column intensity", "networks": "2DIP-Net", "ideal": "ideal observer"}
    for ax, name in zip(axes.flat, names, strict=False):
        points = report["curves"][name]
        factor = "counts" if "dose" in name else name
        values = [p["conditions"][factor] for p in points]
        spread = isinstance(values[0], str)
        x = range(len(values)) if spread else values
        for judge_name, (colour, marker) in styles.items():
            # no error in n cells: drawn at a third of one
            error = [max(p[judge_name]["errors"], 1 / 3) / max(p["cells"], 1) for p in points]
            ax.plot(x, error, marker=marker, color=colour, label=labels[judge_name], ms=4)
        ax.set(title=name, yscale="log", ylim=(5e-5, 1))
        if factor in ("counts", "a_px", "defect_rate"):
            ax.set_xscale("log")
        if spread:
            ax.set_xticks(list(x), values, rotation=40)
    for ax in axes.flat[len(names) :]:
        ax.set_axis_off()
    axes[0, 0].legend(frameon=False, fontsize=7)
    for ax in axes[:, 0]:
        ax.set_ylabel("share of cells misjudged")
    fig.savefig(path, dpi=130)


def main() -> None:
    """Run the curves and write the report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="five points, six images each")
    parser.add_argument("--check", action="store_true", help="fail above the tolerances")
    parser.add_argument("--only", default="", help="curves whose name holds this")
    parser.add_argument("--resume", action="store_true", help="keep the curves that are there")
    parser.add_argument("--workers", type=int, default=os.cpu_count())
    options = parser.parse_args()
    stem = "physical_limit_quick" if options.quick else "physical_limit"
    path = RESULTS / f"{stem}.json"
    report = _report(path, options.quick, options.resume)
    # some curves alone must not take the place of a whole report
    written = options.resume or not options.only
    # fresh processes: networks that have run threads do not survive a fork
    with ProcessPoolExecutor(options.workers, mp_context=get_context("spawn")) as pool:
        for number, (name, points) in enumerate(curves(options.quick).items()):
            if options.only not in name or name in report["curves"]:
                continue
            start, found = time.perf_counter(), []
            for index, conditions in enumerate(points):
                n = images_of(conditions, options.quick)
                seeds = [(SEED, number, index, image) for image in range(n)]
                found.append(summarise(conditions, list(pool.map(judge, [conditions] * n, seeds))))
                print(name, _line(found[-1]), flush=True)
            report["curves"][name] = found
            report["seconds"] = round(report["seconds"] + time.perf_counter() - start, 1)
            if written:
                path.write_text(json.dumps(report, indent=1) + "\n")
    if written and not options.quick:
        figure(report, path.with_suffix(".png"))
    if options.check:
        check(report)


def _report(path: Path, quick: bool, resume: bool) -> dict:
    """Return the report to go on with: a new one, or the one that is there."""
    networks = {kind: load_weights(kind).version for kind in SHIPPED}
    if resume and path.exists():
        report = json.loads(path.read_text())
        if (report["seed"], report.get("weights")) != (SEED, networks):
            sys.exit(f"{path.name} is of other weights: run without --resume")
        return report
    command = "python -m benchmarks.physical_limit" + (" --quick" if quick else "")
    return {"command": command, "seed": SEED, "weights": networks, "seconds": 0.0, "curves": {}}


def _line(point: dict) -> str:
    usual = asdict(Conditions())
    changed = {k: v for k, v in point["conditions"].items() if v != usual[k]}
    ratio = point["networks_over_ideal"]
    return (
        f"{changed}: {point['cells']} cells, missed {point['missed']}, refused {point['refused']}; "
        + ", ".join(f"{name} {point[name]['errors']}" for name in ("networks", "ideal", "rule"))
        + f", false {point['networks']['false_defects']}"
        + (f", {ratio:.2f} x ideal" if ratio is not None else "")
    )


MOST_ABOVE_IDEAL = 2.5
"""Of the quick run, where the few cells leave the ratio uncertain by a third."""


def check(report: dict) -> None:
    """Exit with 1 where the networks have fallen behind."""
    problems = []
    for name, points in report["curves"].items():
        networks = sum(p["networks"]["errors"] for p in points)
        ideal = sum(p["ideal"]["errors"] for p in points)
        rule = sum(p["rule"]["errors"] for p in points)
        if networks > MOST_ABOVE_IDEAL * max(ideal, 1):
            problems.append(f"{name}: {networks} errors, the ideal observer makes {ideal}")
        if networks > rule:
            problems.append(f"{name}: {networks} errors, the column-intensity rule makes {rule}")
        if any(p["refused"] for p in points):
            problems.append(f"{name}: images refused")
    if problems:
        sys.exit("the networks have dropped: " + "; ".join(problems))


if __name__ == "__main__":
    main()
