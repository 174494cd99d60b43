"""Time and memory of an analysis, stage by stage, against the image's size and against others.

    python -m benchmarks.speed            # writes benchmarks/results/speed.json, some 10 minutes
    python -m benchmarks.speed --quick    # small images, one round: speed_quick.json
    python -m benchmarks.speed --only sizes --sides 512 2048

Run it on an otherwise idle machine; ``cpu_seconds`` are all threads' together. ``targets`` says
which of the aims, set for two cores, were met.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

RESULTS = Path(__file__).parents[1] / "results"
SIDES = (512, 1024, 2048, 4096, 8192)
QUICK_SIDES = (512, 1024)
PARTS = ("starts", "sizes", "rivals")


def measure_sizes(sides: Sequence[int]) -> dict:
    """Analyse one image of each size, each in a fresh process."""
    from benchmarks.speed.sizes import make_image

    found = {}
    with tempfile.TemporaryDirectory() as folder:
        for side in sides:
            path = make_image(side, Path(folder))
            runs = "3" if side <= 2048 else "1"
            command = [sys.executable, "-m", "benchmarks.speed.sizes", str(path), runs]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            found[str(side)] = json.loads(done.stdout.splitlines()[-1])
            print(side, found[str(side)]["runs"][-1]["wall_seconds"], flush=True)
            path.unlink()
    return found


def targets(report: dict) -> dict[str, dict]:
    """Compare what was measured with what was aimed at."""
    aims = {}

    def aim(name: str, value: float, most: float) -> None:
        aims[name] = {"measured": round(value, 3), "aim": most, "met": value <= most}

    starts, sizes = report.get("starts"), report.get("sizes", {})
    if starts:
        aim("import [s]", starts["import"]["wall_seconds"], 0.15)
        aim("--help [s]", starts["help"]["wall_seconds"], 0.5)
        aim("analyze, cold start to result [s]", starts["analyze"]["wall_seconds"], 5.0)
    if "2048" in sizes:
        walls = [run["wall_seconds"]["all"] for run in sizes["2048"]["runs"]]
        aim("2048², networks loaded [s]", min(walls), 1.2)
    per_pixel = [each["wall_seconds_per_megapixel"] for s, each in sizes.items() if int(s) >= 1024]
    if len(per_pixel) > 1:
        aim("seconds per pixel, most over least", max(per_pixel) / min(per_pixel), 1.15)
    if sizes:
        aim("peak memory above all [MB]", max(e["peak_above_mb"] for e in sizes.values()), 600)
    if "rivals" in report:
        times = report["rivals"]["methods"]["paper presets"]["times_this_program"]
        aims["times as fast as the paper presets"] = {
            "measured": times,
            "aim": 25,
            "met": times >= 25,
        }
    return aims


def main() -> None:
    """Measure what was asked for and write it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="small images, one round")
    parser.add_argument("--only", choices=PARTS, help="one part; the others are kept")
    parser.add_argument("--sides", type=int, nargs="+", help="sizes; the others' are kept")
    options = parser.parse_args()
    path = RESULTS / ("speed_quick.json" if options.quick else "speed.json")
    report = json.loads(path.read_text()) if options.only and path.is_file() else {}
    wanted = PARTS if options.only is None else (options.only,)
    report["cores"] = os.cpu_count()
    command = " ".join(["python -m benchmarks.speed", *sys.argv[1:]])
    commands = report.setdefault("commands", {})
    for part in wanted:  # single sizes are added to those before
        commands[part] = [*commands.get(part, []), command] if options.sides else [command]
    if "starts" in wanted:
        from benchmarks.speed import starts

        report["starts"] = starts.measure(1 if options.quick else 5)
    if "sizes" in wanted:
        sides = options.sides or (QUICK_SIDES if options.quick else SIDES)
        kept = report.get("sizes", {}) if options.sides else {}
        found = kept | measure_sizes(sides)
        report["sizes"] = dict(sorted(found.items(), key=lambda item: int(item[0])))
    if "rivals" in wanted:
        from benchmarks.speed import rivals
        from benchmarks.speed.starts import SAMPLE

        report["rivals"] = rivals.measure(SAMPLE, *((1, 512) if options.quick else (2, None)))
    if not options.quick:  # small images do not tell
        report["targets"] = targets(report)
    RESULTS.mkdir(exist_ok=True)
    path.write_text(json.dumps(report, indent=1) + "\n")
    print(json.dumps({k: v for k, v in report.items() if k != "sizes"}, indent=1))


if __name__ == "__main__":
    main()
