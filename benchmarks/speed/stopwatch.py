"""Time the stages of an analysis from outside, each without the stages inside it."""

from __future__ import annotations

import functools
import time
from collections import defaultdict
from collections.abc import Callable
from unittest.mock import patch

from napari_point_defects import appraisal, pipeline
from napari_point_defects.canonical import Resampler
from napari_point_defects.classification import prediction
from napari_point_defects.detection import prediction as detection
from napari_point_defects.domains import parts, segmentation
from napari_point_defects.occupancy.evidence import ColumnEvidence

PARTS = (
    ("lattice", segmentation, "find_lattice"),
    ("lattice", parts, "find_lattice"),
    ("domains", pipeline, "find_domains"),
    ("resample", Resampler, "part"),
    ("cnn1", detection.Detector, "_predict_tile"),
    ("net-casting", detection, "without_doubles"),
    ("net-casting", pipeline, "cast_domains"),
    ("crop", prediction, "cut_windows"),
    ("crop", prediction, "reference_window"),
    ("crop", prediction, "reference_of_windows"),
    ("crop", prediction, "inputs_of_windows"),
    ("crop", prediction, "cell_inputs"),
    ("cnn2", prediction.Classifier, "_probabilities"),
    ("evidence", ColumnEvidence, "__init__"),
    ("evidence", ColumnEvidence, "of"),
    ("measurement", appraisal, "measure_image"),
    ("census", appraisal, "census_of"),
)
"""Stage, and the function that does it, where it is looked up."""


class Stopwatch:
    """Wall and processor seconds by stage; what is in no stage goes to ``rest``."""

    def __init__(self) -> None:
        self.wall: dict[str, float] = defaultdict(float)
        self.cpu: dict[str, float] = defaultdict(float)
        self._open = ["rest"]
        self._since = self._now()

    def __enter__(self) -> Stopwatch:
        self._patches = [
            patch.object(owner, name, self.timed(stage, getattr(owner, name)))
            for stage, owner, name in PARTS
        ]
        for each in self._patches:
            each.start()
        self._since = self._now()
        return self

    def __exit__(self, *_) -> None:
        self._book()
        for each in reversed(self._patches):
            each.stop()

    def timed(self, stage: str, function: Callable) -> Callable:
        """Return the function, its time booked under a stage."""

        @functools.wraps(function)
        def run(*args, **kwargs):
            self._book()
            self._open.append(stage)
            try:
                return function(*args, **kwargs)
            finally:
                self._book()
                self._open.pop()

        return run

    def report(self) -> dict:
        """Return seconds by stage and in all."""
        return {
            name: {k: round(v, 3) for k, v in {**times, "all": sum(times.values())}.items()}
            for name, times in (("wall_seconds", self.wall), ("cpu_seconds", self.cpu))
        }

    @staticmethod
    def _now() -> tuple[float, float]:
        return time.perf_counter(), time.process_time()

    def _book(self) -> None:
        now = self._now()
        self.wall[self._open[-1]] += now[0] - self._since[0]
        self.cpu[self._open[-1]] += now[1] - self._since[1]
        self._since = now
