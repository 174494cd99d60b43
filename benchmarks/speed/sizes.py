"""One image of a given size: seconds by stage, first and later run, and peak memory.

``python -m benchmarks.speed.sizes IMAGE RUNS`` prints JSON; each size has a process of its own.
Memory is the peak of the resident set while the image is analysed, less the image itself and less
what the program with its networks held after a small image.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path

import numpy as np

from benchmarks.large_images import bent_lattice, draw

MATERIAL = "MoS2"
A_PX = 66.0
"""As in the bundled samples: some 900 cells on 2,048² pixels."""

WARM_UP_PX = 512


def make_image(side: int, folder: Path) -> Path:
    """Draw a bent lattice of that size and save it as .npy, which is read memory-mapped."""
    path = folder / f"{side}.npy"
    np.save(path, draw(bent_lattice(side, A_PX), side, np.random.default_rng(side))[0])
    return path


def measure(path: Path, runs: int) -> dict:
    """Analyse an image several times in this process."""
    from benchmarks.speed.stopwatch import Stopwatch
    from napari_point_defects.analysis_settings import AnalysisSettings
    from napari_point_defects.io import read_image
    from napari_point_defects.pipeline import analyze
    from napari_point_defects.records import StemImage
    from napari_point_defects.results import write_results

    settings = AnalysisSettings(material=MATERIAL, device="cpu")
    small = bent_lattice(WARM_UP_PX, 24.0)
    warm = draw(small, WARM_UP_PX, np.random.default_rng(0))[0]
    with tempfile.TemporaryDirectory() as folder:
        write_results(analyze(StemImage(warm), settings), Path(folder))
    held = _status_mb("VmRSS")
    with Path("/proc/self/clear_refs").open("w") as file:
        file.write("5")  # the peak of the resident set starts anew
    found = []
    for _ in range(runs):
        watch = Stopwatch()
        with watch, tempfile.TemporaryDirectory() as folder:
            image = watch.timed("read", read_image)(path)
            analysis = analyze(image, settings)
            watch.timed("write", write_results)(analysis, Path(folder))
        found.append(watch.report())
    image_mb = image.data.nbytes / 2**20
    pixels = image.data.size / 1e6
    return {
        "side_px": image.data.shape[0],
        "cells": len(analysis.cells),
        "memory_mapped": isinstance(image.data, np.memmap) or image.data.base is not None,
        "image_mb": round(image_mb),
        "program_mb": round(held),
        "peak_above_mb": round(_status_mb("VmHWM") - held - image_mb),
        "cpu_seconds_per_megapixel": round(min(r["cpu_seconds"]["all"] for r in found) / pixels, 3),
        "wall_seconds_per_megapixel": round(
            min(r["wall_seconds"]["all"] for r in found) / pixels, 3
        ),
        "runs": found,
    }


def _status_mb(name: str) -> float:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(name):
            return int(line.split()[1]) / 1024
    raise RuntimeError("the peak memory is read from /proc: run this on Linux")


if __name__ == "__main__":
    print(json.dumps(measure(Path(sys.argv[1]), int(sys.argv[2]))))
