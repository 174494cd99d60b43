"""Analyse one image of a batch, on any worker, and put its results in place."""

from __future__ import annotations

import errno
import time
import traceback
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from napari_point_defects.analysis_settings import AnalysisSettings
from napari_point_defects.batch.results import Job, finish, look, put_in_place, sources_record
from napari_point_defects.cluster_worker import cores_of_this_worker
from napari_point_defects.errors import PointDefectsError, Stopped

Kind = Literal["analysed", "refused", "crashed", "overtime", "blocked"]

_clock = time.monotonic

_OF_ITS_NAME = {errno.ENOTDIR, errno.EEXIST, errno.EISDIR, errno.ENAMETOOLONG, errno.EINVAL}
"""Errors of writing that come of an image's own name."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of an image.

    Attributes
    ----------
    kind : {"analysed", "refused", "crashed", "overtime", "blocked"}
        Refused: it cannot be analysed, and that is a result. Crashed: the program failed, or the
        file could not be had; the next run tries again. Overtime: it took longer than it may;
        the next run, which may have another limit, tries again. Blocked: the weights or the
        device cannot be used, the disk is full: no fault of the image, and no other would fare
        better.
    text : str
        Why not.
    n_cells : int
    seconds, cpu_seconds : float
        How long it took, and how much of a processor.
    """

    kind: Kind
    text: str = ""
    n_cells: int = 0
    seconds: float = 0.0
    cpu_seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class ImageTask:
    """A function of an image's name that analyses it.

    Attributes
    ----------
    job : Job
    settings : AnalysisSettings
    signal : str or None
    work, token : Path
        See :class:`~napari_point_defects.batch.record.Run`.
    replace : bool
        Whether stale results may be replaced.
    overlay : bool
        Whether to draw one.
    time_limit_s : float or None
        How long the analysis may take, in seconds of the clock, reading included.
    """

    job: Job
    settings: AnalysisSettings
    signal: str | None
    work: Path
    token: Path
    replace: bool = False
    overlay: bool = True
    time_limit_s: float | None = None

    def __call__(self, image: str) -> Outcome:
        """Analyse an image, unless another worker has; never raises but for the program's end."""
        found = look(self.job, image)
        if found.state in ("analysed", "refused"):
            return _outcome(found.marker)
        begun, cpu = time.perf_counter(), time.process_time()
        results = self.work / uuid.uuid4().hex
        path = self.job.folder / image
        try:
            sources = sources_record(path)
        except OSError as error:
            return Outcome("crashed", f"cannot be read: {error.strerror or error}")
        try:
            self._prepare()
        except PointDefectsError as error:
            return Outcome("blocked", str(error))
        try:
            analysis, text = self._analysed(path), ""
        except PointDefectsError as error:
            analysis, text = None, " ".join(str(error).split())
        except Stopped:
            return Outcome("overtime", self._overtime())
        except Exception as error:
            return Outcome("crashed", _crash(error))
        try:
            results.mkdir()
            n_cells = self._written(analysis, results) if analysis is not None else 0
            marker = {
                "image": image,
                "fingerprint": self.job.fingerprint,
                "status": "refused" if analysis is None else "analysed",
                "error": text,
                "n_cells": n_cells,
                "seconds": round(time.perf_counter() - begun, 3),
                "cpu_seconds": round(time.process_time() - cpu, 3),
                "sources": sources,
            }
            if sources_record(path, hashed=False) != [_unhashed(each) for each in sources]:
                return Outcome("crashed", "the file was written to while it was analysed")
            finish(results, marker)
            put_in_place(results, self.job, image, token=self.token, replace=self.replace)
        except (PointDefectsError, OSError) as error:
            kind = "crashed" if _number(error) in _OF_ITS_NAME else "blocked"
            return Outcome(kind, " ".join(str(error).split()))
        except Exception as error:
            return Outcome("crashed", _crash(error))
        return _outcome(marker)

    def _prepare(self) -> None:
        """Load the networks, which are kept, and take no more cores than are ours."""
        import torch

        from napari_point_defects import networks

        cores = cores_of_this_worker()
        if torch.get_num_threads() != cores:
            torch.set_num_threads(cores)
        networks.detector_of(self.settings)
        networks.classifier_of(self.settings)

    def _analysed(self, path: Path) -> Any:
        from napari_point_defects.io import read_image
        from napari_point_defects.pipeline import analyze

        limit, callbacks = self.time_limit_s, {}
        if limit is not None:
            end = _clock() + limit
            callbacks["should_stop"] = lambda: _clock() > end
        image = read_image(path, signal=self.signal, pixel_size_nm=self.settings.pixel_size_nm)
        return analyze(image, self.settings, **callbacks)

    def _overtime(self) -> str:
        return (
            f"took longer than {self.time_limit_s:g} s and was left out: give it longer with "
            "--time-limit, or look whether it is the image that was meant"
        )

    def _written(self, analysis: Any, results: Path) -> int:
        from napari_point_defects.results import write_results

        write_results(analysis, results, overlay=self.overlay)
        return int(analysis.census["n_cells"])


def _outcome(marker: dict[str, Any]) -> Outcome:
    return Outcome(
        marker["status"],
        marker["error"],
        marker["n_cells"],
        marker["seconds"],
        marker["cpu_seconds"],
    )


def _number(error: Exception) -> int | None:
    """Return the system's number of an error, or of what it came of."""
    return getattr(error, "errno", None) or getattr(error.__cause__, "errno", None)


def _unhashed(source: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in source.items() if key != "sha256"}


def _crash(error: Exception) -> str:
    """Say what failed and where, in one line."""
    last = traceback.extract_tb(error.__traceback__)[-1:]
    where = "".join(f" ({Path(f.filename).name}:{f.lineno})" for f in last)
    return " ".join(f"unexpected {type(error).__name__}: {error}{where}".split())
