"""Run the comparisons, write their figures as JSON, and check them against tolerances.

    python -m benchmarks.paper [--quick] [--check] [--only fig2c]

Writes ``benchmarks/results/paper.json``, or ``paper_quick.json``, after every comparison, and
draws it.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path

from benchmarks.paper import censuses, channels, crops, detection, noise_levels, pixel_networks
from benchmarks.paper.figure import draw

RESULTS = Path(__file__).parents[1] / "results"
COMPARISONS = {
    "fig2c": crops,
    "fig2de": detection,
    "fig3e": channels,
    "fig4b": noise_levels,
    "fig5": pixel_networks,
    "fig6c": censuses,
}


def main() -> None:
    """Run what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer images")
    parser.add_argument("--check", action="store_true", help="fail below the tolerances")
    parser.add_argument("--only", choices=COMPARISONS, help="one comparison")
    options = parser.parse_args()
    path = RESULTS / ("paper_quick.json" if options.quick else "paper.json")
    report = json.loads(path.read_text()) if options.only and path.exists() else {}
    problems = []
    for name, comparison in COMPARISONS.items():
        if options.only not in (None, name):
            continue
        start = time.perf_counter()
        result = comparison.run(options.quick)
        command = f"python -m benchmarks.paper --only {name}" + " --quick" * options.quick
        report[name] = {
            "command": command,
            "seconds": round(time.perf_counter() - start, 1),
        } | result
        RESULTS.mkdir(exist_ok=True)
        path.write_text(json.dumps(report, indent=1) + "\n")
        draw(report, path.with_suffix(".png"))
        print(name, json.dumps(result, indent=1), flush=True)
        problems += [f"{name}: {line}" for line in comparison.check(result)]
    if options.check and problems:
        sys.exit("; ".join(problems))


if __name__ == "__main__":
    main()
