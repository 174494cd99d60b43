"""A batch from the list of images to its tables; ended at any moment, it can be taken up again."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

from napari_point_defects.analysis_settings import AnalysisSettings
from napari_point_defects.batch.listing import list_images
from napari_point_defects.batch.record import (
    CENSUS,
    Run,
    claim,
    fingerprint_of,
    running_in,
    settings_record,
)
from napari_point_defects.batch.results import Found, Job, look_at
from napari_point_defects.batch.tables import write_failures, write_tables
from napari_point_defects.batch.task import ImageTask, Outcome
from napari_point_defects.cluster_worker import Needs
from napari_point_defects.dask_workers import Here, Lost, Workers
from napari_point_defects.errors import PointDefectsError

_LOOKED_AT_HERE, _COLLECTED_HERE = 5000, 500
"""Images whose results this process looks at, or collects, itself: sooner than workers start."""
_LOOK = 500
"""Images that a worker looks at in one go."""

ClusterOf = Callable[[Needs], AbstractContextManager[Workers]]


@dataclass(frozen=True, slots=True)
class BatchRequest:
    """What the user asks for.

    Attributes
    ----------
    folder, out : Path
        The images, and where the results go.
    settings : AnalysisSettings
    signal : str or None
        Name or index of the signal, where a file has several.
    patterns : tuple of str
        See :func:`~napari_point_defects.batch.listing.list_images`.
    recursive : bool
    overwrite : bool
        Replace results made with other settings, weights or contents of the file.
    retry_refused : bool
        Try images again that could not be analysed.
    verify : bool
        Compare the contents of files, not their size and time alone.
    overlay : bool
        Draw one of each image.
    time_limit_s : float or None
        How long an image may take; one that takes longer is left out, as a failure.
    """

    folder: Path
    out: Path
    settings: AnalysisSettings = field(default_factory=AnalysisSettings)
    signal: str | None = None
    patterns: tuple[str, ...] = ()
    recursive: bool = False
    overwrite: bool = False
    retry_refused: bool = False
    verify: bool = False
    overlay: bool = True
    time_limit_s: float | None = None


@dataclass(frozen=True, slots=True)
class BatchSummary:
    """What a batch came to.

    Attributes
    ----------
    images : int
    analysed : int
        Of this run and those before.
    before : int
        Of those before.
    n_cells : int
    failures : list of (str, str, str)
        Image, kind and error.
    gone : int
        Images of the table before that are not among these any more.
    """

    images: int
    analysed: int
    before: int
    n_cells: int
    failures: list[tuple[str, str, str]]
    gone: int = 0


def run_batch(
    request: BatchRequest,
    cluster_of: ClusterOf,
    *,
    on_progress: Callable[[float, str], None] = lambda share, text: None,
    on_note: Callable[[str], None] = lambda text: None,
    should_stop: Callable[[], bool] = lambda: False,
) -> BatchSummary:
    """Analyse the images of a folder that are not analysed yet, and write the tables of all.

    Parameters
    ----------
    request : BatchRequest
    cluster_of : callable
        Returns a context manager that gives the workers; entered only when there is work.
    on_progress, should_stop : callable
    on_note : callable
        Takes a line for the user.

    Returns
    -------
    BatchSummary

    Raises
    ------
    PointDefectsError
        If there are no images, the folder of the results cannot be used, or the workers are gone:
        what is done is kept.
    Stopped
        If ``should_stop`` said yes.
    """
    _check(request)
    listing = list_images(request.folder, patterns=request.patterns, recursive=request.recursive)
    record = settings_record(request.settings, request.signal)
    folder, out = request.folder.absolute(), request.out.absolute()
    job = Job(folder, out, fingerprint_of(record), request.verify)
    with ExitStack() as stack:
        run = stack.enter_context(running_in(out))
        claim(out, record, request.overwrite)
        workers = _Late(stack, cluster_of, _needs(run, folder))

        def stop() -> bool:
            run.beat()
            return should_stop()

        lookers = workers if len(listing.images) > _LOOKED_AT_HERE else Here()
        found = _look(job, listing.images, lookers, stop)
        _refuse_stale(found, request.overwrite)
        if request.retry_refused:
            found = _without_refusals(job, found)
        failures = [
            (f"{name}/", "unreadable", "the folder cannot be listed") for name in listing.unreadable
        ]
        failures += [(e.image, "refused", e.text) for e in found if e.state == "refused"]
        before = sum(each.state == "analysed" for each in found)
        todo = [each.image for each in found if each.state in ("missing", "stale")]
        if todo:
            task = ImageTask(
                job,
                request.settings,
                request.signal,
                run.work,
                run.token,
                replace=request.overwrite,
                overlay=request.overlay,
                time_limit_s=request.time_limit_s,
            )
            failures += _analyse(task, todo, workers, stop, on_progress)
        failed = {image for image, *_ in failures}
        whole = [image for image in listing.images if image not in failed]
        gone = _gone(out / CENSUS, listing.images)
        collectors = workers if len(whole) > _COLLECTED_HERE else Here()
        n_cells = write_tables(
            replace(job, verify=False),
            whole,
            collectors,
            run.work,
            on_progress=on_progress,
            should_stop=stop,
        )
        write_failures(sorted(failures), out)
    if gone:
        on_note(
            f"{gone} images of the last table are not in {request.folder} now, or not asked for: "
            "their results stay, the new tables are without them"
        )
    return BatchSummary(len(listing.images), len(whole), before, n_cells, sorted(failures), gone)


def _check(request: BatchRequest) -> None:
    """Refuse what would fail only after hours."""
    try:
        import pyarrow  # noqa: F401
    except ImportError as error:
        raise PointDefectsError(
            'the tables need pyarrow: pip install "napari-point-defects[batch]"'
        ) from error
    if request.folder.absolute() == request.out.absolute():
        raise PointDefectsError("the results cannot go into the folder of the images: give another")


def _needs(run: Run, folder: Path) -> Needs:
    return Needs.of_this_program(folders=(folder,), token=run.token, text=run.text)


class _Late:
    """Workers that are there when they are needed first."""

    def __init__(self, stack: ExitStack, cluster_of: ClusterOf, needs: Needs) -> None:
        self._stack, self._cluster_of, self._needs = stack, cluster_of, needs
        self._workers: Workers | None = None

    def as_finished(self, *arguments) -> Iterator:
        """See :class:`~napari_point_defects.dask_workers.Workers`."""
        if self._workers is None:
            self._workers = self._stack.enter_context(self._cluster_of(self._needs))
        return self._workers.as_finished(*arguments)


def _look(
    job: Job, images: Sequence[str], workers: Workers, should_stop: Callable[[], bool]
) -> list[Found]:
    """Look at what there is of every image, in their order."""
    found: dict[str, Found] = {}
    chunks = (images[i : i + _LOOK] for i in range(0, len(images), _LOOK))
    for _, looked in workers.as_finished(partial(look_at, job), chunks, should_stop):
        if isinstance(looked, Lost):
            raise PointDefectsError(f"the folder {job.out} could not be looked at: {looked.reason}")
        found |= {each.image: each for each in looked}
    return [found[image] for image in images]


def _refuse_stale(found: Sequence[Found], overwrite: bool) -> None:
    stale = [each for each in found if each.state == "stale"]
    if stale and not overwrite:
        first = stale[0]
        more = f", and {len(stale) - 1} more" if len(stale) > 1 else ""
        raise PointDefectsError(
            f"{first.image}: {first.text}{more}: give --overwrite to replace the results of these, "
            "or choose another --out"
        )


def _without_refusals(job: Job, found: Sequence[Found]) -> list[Found]:
    """Remove the record of images that were refused, so that they are tried again."""
    for each in found:
        if each.state == "refused":
            shutil.rmtree(job.out / each.image, ignore_errors=True)
    return [Found(e.image, "missing") if e.state == "refused" else e for e in found]


def _analyse(
    task: ImageTask,
    todo: Sequence[str],
    workers: Workers,
    should_stop: Callable[[], bool],
    on_progress: Callable[[float, str], None],
) -> list[tuple[str, str, str]]:
    """Analyse images and return what failed."""
    failures: list[tuple[str, str, str]] = []
    begun, total = time.monotonic(), len(todo)
    on_progress(0.0, f"{total} images: starting workers")
    outcomes = workers.as_finished(task, todo, should_stop)
    for done, (image, outcome) in enumerate(outcomes, 1):
        if isinstance(outcome, Lost):
            outcome = Outcome("crashed", outcome.reason)
        if outcome.kind == "blocked":
            raise PointDefectsError(
                f"{outcome.text} (what is done is kept: give the same command again to go on)"
            )
        if outcome.kind != "analysed":
            failures.append((image, outcome.kind, outcome.text))
        rate = done / (time.monotonic() - begun)
        bad = f", {len(failures)} failed" if failures else ""
        on_progress(done / total, f"{done} of {total} images{bad}, {rate:.3g}/s")
    return failures


def _gone(census: Path, images: Sequence[str]) -> int:
    """Count the images of the last table that are not among these."""
    import pyarrow.parquet as pq

    if not census.is_file():
        return 0
    try:
        names = pq.read_table(census, columns=["image"])["image"].to_pylist()
    except (OSError, ValueError):  # Arrow's errors are among these
        return 0
    return len(set(names) - set(images))
