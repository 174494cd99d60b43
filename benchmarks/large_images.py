"""Seconds and peak memory of the analysis against the image's size, on bent lattices.

    python -m benchmarks.large_images              # 2,048² to 8,192² pixels
    python -m benchmarks.large_images --largest    # and 16,384²
    python -m benchmarks.large_images --cells 1000000   # net-casting alone, on that many cells

Every size runs in a process of its own. Memory is the peak of the resident set less what the
program with its networks takes, and less the image itself (32-bit floats).
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
from scipy.ndimage import gaussian_filter
from scipy.spatial import cKDTree

from napari_point_defects import networks, pipeline
from napari_point_defects.analysis_settings import AnalysisSettings
from napari_point_defects.detection.overlaps import without_doubles
from napari_point_defects.lattice import find_lattice
from napari_point_defects.materials import (
    CHALCOGEN_SITES,
    LATTICE_VECTORS,
    METAL_SITES,
    get_material,
)
from napari_point_defects.netcasting import cast_net
from napari_point_defects.records import (
    Bending,
    Hexagons,
    Lattice,
    StemImage,
    hexagon_boxes,
)

RESULTS = Path(__file__).parent / "results/large_images.json"
MATERIAL = "MoS2"
X_OVER_M = 0.45
SIDES = (2048, 4096, 8192)
LARGEST = 16384
STRIP = 1024


def bent_lattice(side: int, a_px: float) -> Lattice:
    """Return a turned, sheared lattice that bends by some 3 % of strain at most."""
    angle = np.radians(17)
    turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    nodes = np.linspace(0, 1, 33)
    y, x = np.meshgrid(nodes, nodes, indexing="ij")
    swing = 0.03 * side / (2 * np.pi)
    field = swing * np.stack([0.5 * np.sin(2 * np.pi * (x + 0.2 * y)), np.sin(2 * np.pi * y)], -1)
    bending = Bending(field, np.zeros(2), np.full(2, (side - 1) / 32))
    scan = np.array([[1.0, 0.0], [0.05, 1.04]])
    return Lattice(np.full(2, (side - 1) / 2), a_px * scan @ turn, bending=bending)


def draw(lattice: Lattice, side: int, rng: np.random.Generator, counts: float = 200):
    """Draw Gaussian columns strip by strip.

    Returns
    -------
    image : ndarray of shape (side, side), float32
    chalcogen_px, missing : ndarray of shape (K, 2), (K,)
        Columns in the image, off its edge, and how many X atoms each lacks.
    """
    image = np.empty((side, side), np.float32)
    sigma = 0.13 * lattice.a_px
    pad = int(4 * sigma) + 2
    reach = int(1.1 * side / lattice.a_px) + 4
    steps = np.stack(np.meshgrid(*[np.arange(-reach, reach + 1)] * 2, indexing="ij"), -1)
    nodes = steps.reshape(-1, 2) @ LATTICE_VECTORS
    rough = nodes @ lattice.matrix_px.T + lattice.origin_px
    nodes = nodes[np.all((rough > -0.1 * side) & (rough < 1.1 * side), axis=1)]
    columns = [lattice.to_image(nodes + site) for site in (CHALCOGEN_SITES[0], METAL_SITES[0])]
    missing = rng.choice(3, size=len(nodes), p=[0.94, 0.05, 0.01])
    bright = [X_OVER_M * (1 - missing / 2), np.ones(len(nodes))]
    for top in range(0, side, STRIP):
        rows = min(STRIP, side - top)
        strip = np.zeros((rows + 2 * pad, side + 2 * pad), np.float32)
        for points, weight in zip(columns, bright, strict=True):
            at = points - [top - pad, -pad]
            first = np.floor(at).astype(int)
            inside = np.all((first >= 0) & (first < np.array(strip.shape) - 1), axis=1)
            share, first, value = (at - first)[inside], first[inside], weight[inside]
            for dy in (0, 1):
                for dx in (0, 1):
                    part = np.abs(1 - dy - share[:, 0]) * np.abs(1 - dx - share[:, 1])
                    np.add.at(strip, (first[:, 0] + dy, first[:, 1] + dx), part * value)
        clean = gaussian_filter(strip, sigma)[pad : pad + rows, pad : pad + side]
        clean *= counts * 2 * np.pi * sigma**2 / X_OVER_M
        image[top : top + rows] = rng.poisson(np.maximum(clean, 0) + 0.02 * counts)
    # hexagons at the very edge are cut off
    margin = 1.5 * lattice.a_px
    kept = np.all((columns[0] >= margin) & (columns[0] <= side - 1 - margin), axis=1)
    return image, columns[0][kept], missing[kept]


def peak_mb() -> float:
    """Return the largest resident set so far [MB]."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def measure(side: int, a_px: float) -> dict:
    """Analyse one image and compare with what was drawn."""
    settings = AnalysisSettings(material=MATERIAL, device="cpu")
    networks.detector_of(AnalysisSettings(device="cpu"))
    networks.classifier_of(AnalysisSettings(device="cpu"))
    warm, *_ = draw(bent_lattice(512, 24.0), 512, np.random.default_rng(0))
    pipeline.analyze(StemImage(warm), settings)
    program = peak_mb()
    truth = bent_lattice(side, a_px)
    image, chalcogen, missing = draw(truth, side, np.random.default_rng(side))
    made = peak_mb()
    with Path("/proc/self/clear_refs").open("w") as file:
        file.write("5")  # the drawing's own peak is not the analysis'
    seconds = {}
    start = time.process_time()
    lattice = find_lattice(image, get_material(MATERIAL))
    seconds["lattice"] = time.process_time() - start
    start = time.process_time()
    detection = pipeline.detect(StemImage(image), settings)
    seconds["hexagons"] = time.process_time() - start - seconds["lattice"]
    start = time.process_time()
    cells = pipeline.classify(StemImage(image), detection, settings)
    seconds["cells"] = time.process_time() - start
    sites = lattice.to_canonical(chalcogen) - CHALCOGEN_SITES[0]
    off = sites - np.rint(sites @ np.linalg.inv(LATTICE_VECTORS)) @ LATTICE_VECTORS
    distance, nearest = cKDTree(cells.chalcogen_px).query(chalcogen)
    found = distance < 0.3 * a_px
    peak = _high_water_mb()
    return {
        "side_px": side,
        "a_px": a_px,
        "cells_drawn": len(chalcogen),
        "cells_found": float(found.mean()),
        "classes_right": float((cells.classes[nearest[found]] == missing[found]).mean()),
        "lattice_error_a_p99": float(np.quantile(np.linalg.norm(off, axis=1), 0.99)),
        "cpu_seconds": {name: round(value, 1) for name, value in seconds.items()},
        "program_mb": round(program),
        "drawing_mb": round(made),
        "image_mb": round(image.nbytes / 2**20),
        "analysis_mb": round(peak - program - image.nbytes / 2**20),
    }


def _high_water_mb() -> float:
    """Peak of the resident set since it was last cleared [MB]."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM"):
            return int(line.split()[1]) / 1024
    return peak_mb()


def measure_net(count: int) -> dict:
    """Suppress doubled boxes of that many hexagons, a third of them doubled, and cast the net."""
    rng = np.random.default_rng(count)
    rows = int(np.sqrt(count))
    steps = np.stack(np.meshgrid(*[np.arange(rows)] * 2, indexing="ij"), -1).reshape(-1, 2)
    centres = steps @ LATTICE_VECTORS + rng.normal(0, 0.02, (len(steps), 2))
    centres = np.concatenate([centres, centres[::3] + 0.02])
    scores = rng.uniform(0.5, 1, len(centres))
    start = time.process_time()
    kept = without_doubles(hexagon_boxes(centres), scores, 0.4)
    boxes = time.process_time() - start
    lattice = Lattice(np.zeros(2), 20 * np.eye(2))
    hexagons = Hexagons.from_canonical_boxes(hexagon_boxes(centres[kept]), scores[kept], lattice)
    start = time.process_time()
    cells = cast_net(hexagons, lattice, (10**6, 10**6))
    return {
        "hexagons": len(kept),
        "cells": len(cells),
        "cpu_seconds": {
            "doubles": round(boxes, 1),
            "net": round(time.process_time() - start, 1),
        },
        "peak_mb": round(peak_mb()),
    }


def main() -> None:
    """Run the sizes asked for, each in a fresh process, and write the results."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--largest", action="store_true", help=f"also {LARGEST}² pixels")
    parser.add_argument("--sides", type=int, nargs="+", help="only these")
    parser.add_argument("--a-px", type=float, default=48.0, help="lattice constant [px]")
    parser.add_argument("--cells", type=int, help="net-casting alone, on that many cells")
    parser.add_argument("--one", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(measure(options.one, options.a_px)))
        return
    results = json.loads(RESULTS.read_text()) if RESULTS.is_file() else {}
    if options.cells:
        results[f"net of {options.cells}"] = measure_net(options.cells)
    else:
        for side in options.sides or SIDES + (LARGEST,) * options.largest:
            command = [sys.executable, "-m", "benchmarks.large_images"]
            command += ["--one", str(side), "--a-px", str(options.a_px)]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            result = json.loads(done.stdout.splitlines()[-1])
            results[f"{side} px, a = {options.a_px:g} px"] = result
            print(json.dumps(result), flush=True)
            RESULTS.write_text(json.dumps(results, indent=1) + "\n")
    RESULTS.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
