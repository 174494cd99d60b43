"""What a batch costs: processor time per image, how it grows with workers, what it leaves on disk.

    python -m benchmarks.batches            # writes benchmarks/results/batches.json, 5 minutes
    python -m benchmarks.batches --quick    # a few images, prints alone

Workers of one core each, on a scheduler of their own, as on a cluster. One and two workers take
turns, so that what else the machine does meets both.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import statistics
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import numpy as np
from distributed import LocalCluster

from napari_point_defects.analysis_settings import AnalysisSettings
from napari_point_defects.batch.record import RECORD, fingerprint_of
from napari_point_defects.batch.results import MARKER, Job, look_at
from napari_point_defects.batch.run import BatchRequest, run_batch
from napari_point_defects.batch.tables import write_tables
from napari_point_defects.cluster_worker import Needs
from napari_point_defects.clusters import open_cluster
from napari_point_defects.dask_workers import Here
from napari_point_defects.simulation.noise import NoiseSettings
from napari_point_defects.simulation.recipes import Recipe, simulate_recipe
from napari_point_defects.simulation.scenes import SceneSettings

RESULTS = Path(__file__).parent / "results/batches.json"
SIZES = {512: 25.0, 2048: 70.0}
"""Side of the images and their lattice constant [px]: some 450 and 900 unit cells."""


def make_images(folder: Path, side_px: int, number: int) -> Path:
    """Simulate fields of MoTe₂ at 80 counts in the brightest pixel."""
    folder.mkdir()
    for seed in range(number):
        scene = SceneSettings(
            height_px=side_px, width_px=side_px, a_px=SIZES[side_px], angle_deg=3.0 * seed
        )
        noise = NoiseSettings(poisson_lambda=80.0, gaussian_mu=3.0)
        np.save(
            folder / f"{seed}.npy", simulate_recipe(Recipe(scene=scene, noise=noise, seed=seed))[0]
        )
    return folder


def start(stack: ExitStack, workers: int) -> Callable[[Needs], object]:
    """Start a cluster, and return what connects to it."""
    cluster = stack.enter_context(
        LocalCluster(
            n_workers=workers,
            threads_per_worker=1,
            processes=True,
            dashboard_address="127.0.0.1:0",
            silence_logs=50,
        )
    )
    return lambda needs: open_cluster(cluster.scheduler_address, needs=needs)


def run(images: Path, out: Path, cluster_of, *, overlay: bool) -> tuple[float, list[dict]]:
    """Analyse a folder; return wall seconds and the record of every image."""
    request = BatchRequest(images, out, AnalysisSettings(device="cpu"), overlay=overlay)
    begun = time.perf_counter()
    summary = run_batch(request, cluster_of)
    seconds = time.perf_counter() - begun
    assert not summary.failures, summary.failures
    return seconds, [json.loads(path.read_text()) for path in sorted(out.glob(f"*/{MARKER}"))]


def cost(images: Path, out: Path, cluster_of) -> dict:
    """Return what one image takes with and without its overlay."""
    found = {}
    for name, overlay in (("with_overlay", True), ("without_overlay", False)):
        _, records = run(images, out / name, cluster_of, overlay=overlay)
        sizes = [record["files"] for record in records]
        found[name] = {
            "cpu_seconds": round(statistics.mean(r["cpu_seconds"] for r in records), 2),
            "seconds": round(statistics.mean(r["seconds"] for r in records), 2),
            "kilobytes": round(statistics.mean(sum(s.values()) for s in sizes) / 1e3),
        }
    return {"images": len(records), "cells": _mean(r["n_cells"] for r in records), **found}


def scaling(images: Path, out: Path, one, two, turns: int) -> dict:
    """Images a second by one and by two workers, in turns."""
    rates: dict[str, list[float]] = {"one": [], "two": []}
    number = len(list(images.iterdir()))
    for turn in range(turns):
        for name, cluster_of in (("one", one), ("two", two)):
            seconds, _ = run(images, out / f"{name}-{turn}", cluster_of, overlay=False)
            rates[name].append(round(number / seconds, 3))
    ratios = [two / one for one, two in zip(rates["one"], rates["two"], strict=True)]
    return {
        "images": number,
        "images_per_s": rates,
        "two_workers_over_one": round(statistics.median(ratios), 2),
    }


def tables(images: Path, out: Path) -> dict:
    """Seconds per image to look at results that are there, and to make the tables of them."""
    record = json.loads((out / RECORD).read_text())
    job = Job(images, out, fingerprint_of(record))
    names = sorted(path.name for path in images.iterdir())
    names *= 400 // len(names)
    begun = time.process_time()
    assert all(found.state == "analysed" for found in look_at(job, names))
    looked = time.process_time()
    with tempfile.TemporaryDirectory() as work:
        write_tables(
            job, names, Here(), Path(work), on_progress=lambda *_: None, should_stop=lambda: False
        )
    written = time.process_time()
    return {
        "look_ms_per_image": round(1e3 * (looked - begun) / len(names), 2),
        "collect_ms_per_image": round(1e3 * (written - looked) / len(names), 2),
    }


def hand_out(cluster_of, number: int) -> float:
    """Return how many tasks a second a run can hand out and take back."""
    with cluster_of(Needs()) as workers:
        begun = time.perf_counter()
        done = sum(1 for _ in workers.as_finished(abs, range(number)))
        return done / (time.perf_counter() - begun)


def _peak_kb() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def _mean(values) -> int:
    return round(statistics.mean(values))


def measure(quick: bool) -> dict:
    """Measure everything."""
    numbers = {512: 3, 2048: 1} if quick else {512: 12, 2048: 4}
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        images = {n: make_images(folder / f"images-{n}", n, k) for n, k in numbers.items()}
        begun = time.perf_counter()
        one, two = start(stack, 1), start(stack, 2)
        warm = make_images(folder / "warm", 512, 3 if quick else 6)
        for name, cluster_of in (("one", one), ("two", two)):
            run(warm, folder / f"warm-{name}", cluster_of, overlay=True)
        report = {
            "command": "python -m benchmarks.batches" + " --quick" * quick,
            "processor": f"{platform.machine()}, {os.cpu_count()} cores",
            "warm_up_seconds": round(time.perf_counter() - begun, 1),
            "sizes": {},
        }
        for side, where in images.items():
            report["sizes"][str(side)] = cost(where, folder / f"cost-{side}", two)
            with two(Needs()) as workers:
                peaks = workers.client.run(_peak_kb)
            report["sizes"][str(side)]["worker_peak_mb"] = _mean([max(peaks.values()) * 1024 / 1e6])
        report["scaling"] = scaling(images[512], folder / "scaling", one, two, 1 if quick else 3)
        report["tables"] = tables(images[512], folder / "cost-512" / "without_overlay")
        report["tasks_per_s"] = round(hand_out(two, 300 if quick else 3000))
    return report


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--check", action="store_true", help="fail where two workers are too slow")
    options = parser.parse_args()
    begun = time.perf_counter()
    report = measure(options.quick)
    report["benchmark_seconds"] = round(time.perf_counter() - begun)
    if not options.quick:
        RESULTS.write_text(json.dumps(report, indent=1) + "\n")
    print(json.dumps(report, indent=1))
    if options.check:
        assert report["scaling"]["two_workers_over_one"] >= 1.7


if __name__ == "__main__":
    main()
