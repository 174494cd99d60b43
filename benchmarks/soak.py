"""Memory over many analyses in one session: does it grow?

    python -m benchmarks.soak                # 200 analyses
    python -m benchmarks.soak --analyses 60

Each one reads a file, analyses it and writes table, census and overlay, as the command line does.
The sides vary a little, so that nothing is found again. The resident set is that of the end of an
analysis, in MB; growth is the slope of a straight line behind the first 20.
"""

from __future__ import annotations

import argparse
import gc
import json
import resource
import tempfile
from pathlib import Path

import numpy as np
import tifffile

from benchmarks.large_images import MATERIAL
from napari_point_defects import pipeline
from napari_point_defects.analysis_settings import AnalysisSettings
from napari_point_defects.io import read_image
from napari_point_defects.results import write_results
from napari_point_defects.simulation.noise import NoiseSettings, add_noise
from napari_point_defects.simulation.scenes import SceneSettings, make_scene

RESULTS = Path(__file__).parent / "results/soak.json"
SIDES = (224, 240, 256)
WARM = 20
REPORTED = (20, 60, 100, 150, 200)


def resident_mb() -> float:
    """Return the resident set of this process now [MB]."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 2**20


def write_images(folder: Path) -> list[Path]:
    """Write one small simulated image of each side."""
    paths = []
    for side in SIDES:
        rng = np.random.default_rng(side)
        scene = make_scene(
            SceneSettings(
                height_px=side, width_px=side, a_px=16.0, angle_deg=20, material=MATERIAL
            ),
            rng,
        )
        paths.append(folder / f"field{side}.tif")
        noise = NoiseSettings.for_column_counts(scene, 200.0)
        tifffile.imwrite(paths[-1], add_noise(scene, noise, rng))
    return paths


def soak(analyses: int) -> dict:
    """Analyse that many times and say what memory did."""
    sizes = []
    with tempfile.TemporaryDirectory() as name:
        paths = write_images(Path(name))
        for number in range(analyses):
            image = read_image(paths[number % len(paths)])
            analysis = pipeline.analyze(image, AnalysisSettings(material=MATERIAL, device="cpu"))
            write_results(analysis, Path(name) / "out", overwrite=True)
            del image, analysis
            sizes.append(resident_mb())
            if (number + 1) % 20 == 0:
                print(number + 1, f"{sizes[-1]:.0f} MB", flush=True)
    late = np.array(sizes[WARM:])
    slope = np.polyfit(np.arange(len(late)), late, 1)[0]
    return {
        "analyses": analyses,
        "sides_px": SIDES,
        "resident_mb": {str(n): round(sizes[n - 1]) for n in REPORTED if n <= analyses},
        "peak_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
        "growth_mb_per_100": round(100 * float(slope), 1),
        "uncollected": gc.collect(),
    }


def main() -> None:
    """Run, print and write the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--analyses", type=int, default=200)
    result = soak(parser.parse_args().analyses)
    print(json.dumps(result))
    RESULTS.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
