"""Cold starts: the import, the help and a whole analysis, each in a fresh process."""

from __future__ import annotations

import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

SAMPLE = Path(__file__).parents[2] / "sample_data" / "MoTe2_contaminated.tif"
_COMMAND = "from napari_point_defects.cli import main; main()"


def measure(runs: int) -> dict:
    """Run each several times; the medians in seconds."""
    with tempfile.TemporaryDirectory() as folder:
        commands = {
            "python": ["-c", "pass"],
            "import": ["-c", "import napari_point_defects"],
            "help": ["-c", _COMMAND, "--help"],
            "analyze": ["-c", _COMMAND, "analyze", str(SAMPLE), "-o", folder, "--overwrite"],
        }
        return {name: _timed(arguments, runs) for name, arguments in commands.items()}


def _timed(arguments: list[str], runs: int) -> dict:
    wall, cpu = [], []
    for _ in range(runs):
        before, start = _children(), time.perf_counter()
        subprocess.run([sys.executable, *arguments], check=True, capture_output=True)
        wall.append(time.perf_counter() - start)
        cpu.append(_children() - before)
    return {
        "wall_seconds": round(statistics.median(wall), 3),
        "wall_seconds_range": [round(min(wall), 3), round(max(wall), 3)],
        "cpu_seconds": round(statistics.median(cpu), 3),
    }


def _children() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime
