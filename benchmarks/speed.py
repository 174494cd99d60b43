"""Time and memory of ``point-defects analyze`` on a bundled 2048 × 2048 sample.

    python -m benchmarks.speed        # writes benchmarks/results/speed.json

Each figure is of a whole process on at most two cores: start, imports, analysis, writing.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parent.parent
RESULTS = Path(__file__).parent / "results"
SAMPLE = ROOT / "sample_data" / "MoTe2_contaminated.tif"
RUNS = 5

# The child reports its own peak: a parent cannot tell its children's apart.
_CHILD = """
import resource, sys
from napari_point_defects.cli import main
try:
    main()
finally:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print("PEAK_KIB", peak, file=sys.stderr)
"""


def run_once() -> tuple[float, float]:
    """Return wall seconds and peak gigabytes of one analysis."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-c", _CHILD, "analyze", str(SAMPLE), "-o", folder]
        start = time.perf_counter()
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            check=True,
            env=os.environ | {"OMP_NUM_THREADS": "2"},
        )
        seconds = time.perf_counter() - start
    peak = next(line for line in done.stderr.splitlines() if line.startswith("PEAK_KIB"))
    return seconds, int(peak.split()[1]) * 1024 / 1e9


def stages() -> dict[str, float]:
    """Seconds of each stage of a second run in one process."""
    from napari_point_defects import appraisal, detections, pipeline
    from napari_point_defects.io import read_image
    from napari_point_defects.lattice import find_lattice
    from napari_point_defects.materials import get_material
    from napari_point_defects.results import write_results

    settings = pipeline.AnalysisSettings()
    pipeline.analyze(read_image(SAMPLE), settings)
    marks = [time.perf_counter()]
    image = read_image(SAMPLE)
    marks.append(time.perf_counter())
    find_lattice(image.data, get_material(settings.material))
    marks.append(time.perf_counter())
    detection = pipeline.detect(image, settings)
    marks.append(time.perf_counter())
    cells = pipeline.classify(image, detection, settings)
    marks.append(time.perf_counter())
    census = appraisal.census_of(image, detection, cells, settings)
    with tempfile.TemporaryDirectory() as folder:
        write_results(detections.Analysis(image, detection, cells, census), Path(folder))
    marks.append(time.perf_counter())
    names = ("read", "lattice", "lattice_and_hexagons", "classify", "census_and_write")
    return {
        name: round(after - before, 3)
        for name, before, after in zip(names, marks, marks[1:], strict=False)
    }


def main() -> None:
    measured = [run_once() for _ in range(RUNS)]
    report = {
        "command": "python -m benchmarks.speed",
        "image": SAMPLE.name,
        "runs": RUNS,
        "seconds_median": round(statistics.median(s for s, _ in measured), 2),
        "seconds_range": [round(f(s for s, _ in measured), 2) for f in (min, max)],
        "peak_gb_max": round(max(p for _, p in measured), 2),
        "stages_of_a_warm_run_seconds": stages(),
    }
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "speed.json").write_text(json.dumps(report, indent=1) + "\n")
    print(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
