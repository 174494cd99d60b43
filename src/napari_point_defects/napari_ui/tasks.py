"""Run one function of the core in a background thread, with progress and a way to stop it."""

from __future__ import annotations

import atexit
import threading
import warnings
import weakref
from collections.abc import Callable
from typing import Any

from napari.qt.threading import FunctionWorker, create_worker
from qtpy.QtCore import QThreadPool

from napari_point_defects.errors import Stopped

_PATIENCE_MS = 10_000
_started: weakref.WeakSet[Task] = weakref.WeakSet()


@atexit.register
def _end_threads() -> None:
    """Let threads end before Python takes their signals away, which would abort the program."""
    for task in list(_started):
        task.stop()
    if _started:
        QThreadPool.globalInstance().waitForDone(_PATIENCE_MS)


class Task:
    """One computation, its progress and its outcome.

    Holds no Qt object, so that it may outlive the widget that started it: a closed window
    stops it, and nothing in the thread touches what is gone. The widget polls ``progress``.

    Parameters
    ----------
    title : str
        Shown by napari where it lists what is running.
    function : callable
        Takes the keyword arguments ``on_progress(fraction, stage)`` and ``should_stop()``.
    keeps_late : bool
        Take its result even where it was asked to stop, as of something that is written.

    Attributes
    ----------
    progress : (float, str)
        Fraction done, 0 to 1, and the stage's name.
    result : Any
    error : Exception or None
    stopped : bool
        Whether it was stopped before it had a result.
    """

    def __init__(
        self, title: str, function: Callable[..., Any], *, keeps_late: bool = False
    ) -> None:
        self._keeps_late = keeps_late
        self._title = title
        self._function: Callable[..., Any] | None = function
        self._stop = threading.Event()
        self._worker: FunctionWorker | None = None
        self.progress: tuple[float, str] = (0.0, "Starting")
        self.result: Any = None
        self.error: Exception | None = None
        self.stopped = False

    def __repr__(self) -> str:
        return self._title  # napari prints it when it asks before closing

    @property
    def is_over(self) -> bool:
        """Whether it has an outcome."""
        return self.result is not None or self.error is not None or self.stopped

    def start(self, on_finished: Callable[[], None]) -> None:
        """Start the thread; ``on_finished`` runs in the main thread."""
        self._worker = create_worker(self, _start_thread=False, _ignore_errors=True)
        self._worker.finished.connect(on_finished)
        _started.add(self)
        self._worker.start()

    def stop(self) -> None:
        """Ask the computation to stop soon."""
        self._stop.set()

    def should_stop(self) -> bool:
        """Tell whether the user or a closing window asked to stop."""
        worker = self._worker
        return self._stop.is_set() or (worker is not None and worker.abort_requested)

    def __call__(self) -> None:
        """Do the work; called in the background thread."""
        try:
            with warnings.catch_warnings():
                # what a user must know comes with the result; napari would pop up each
                # deprecation of a library as a notification
                warnings.simplefilter("ignore")
                self.result = self._function(
                    on_progress=self._set_progress, should_stop=self.should_stop
                )
            if self.should_stop() and not self._keeps_late:
                self.stopped, self.result = True, None
        except Stopped:
            self.stopped = True
        except Exception as error:
            self.error = error
        finally:
            # napari remembers finished workers: let go of the images
            self._function = None

    def _set_progress(self, fraction: float, stage: str) -> None:
        self.progress = (float(fraction), stage)
