"""Processes that simulate: started afresh, stopped soon, gone when the program is gone.

They are spawned, never forked: a copy of a program that has threads or a window open may hang or
crash. Spawning imports the program's main module again; a script of one's own that simulates in
several processes needs its ``if __name__ == "__main__":``.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Mapping
from concurrent.futures import ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from itertools import islice
from typing import Any, TypeVar

from napari_point_defects.errors import PointDefectsError, Stopped
from napari_point_defects.materials import definitions_to_pin, get_material, pin_materials
from napari_point_defects.simulation.columns import MicroscopeSettings, load_columns

_T = TypeVar("_T")
_R = TypeVar("_R")

_POLL_S = 0.1
_AHEAD = 4
"""Tasks per process that are handed out: enough that none waits for the slowest."""


def map_in_processes(
    function: Callable[[_T], _R],
    tasks: Iterable[_T],
    workers: int,
    should_stop: Callable[[], bool],
) -> Generator[_R, None, None]:
    """Yield the results in the order of the tasks; one worker means this process.

    Raises
    ------
    PointDefectsError
        If a process was killed.
    Stopped
        If ``should_stop`` said yes.
    """
    if workers == 1:
        yield from map(function, tasks)
        return
    remaining = iter(tasks)
    with ProcessPoolExecutor(
        workers,
        mp_context=multiprocessing.get_context("spawn"),
        initializer=_begin,
        initargs=(definitions_to_pin(),),
    ) as pool:
        try:
            running = deque(
                pool.submit(function, task) for task in islice(remaining, _AHEAD * workers)
            )
            while running:
                first = running.popleft()
                while not wait([first], timeout=_POLL_S).done:
                    if should_stop():
                        raise Stopped
                yield first.result()
                running.extend(pool.submit(function, task) for task in islice(remaining, 1))
        except BrokenProcessPool as error:
            raise PointDefectsError(
                "a process that simulates was ended, perhaps for want of memory: what is written "
                "is kept; resume with fewer workers"
            ) from error
        finally:
            pool.shutdown(cancel_futures=True)


def _begin(definitions: Iterable[Mapping[str, Any]]) -> None:
    """Know the parent's materials, leave Ctrl+C to it, and end when it ends, however it does."""
    pin_materials(definitions)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def prepare_columns(
    materials: Iterable[str],
    microscope: MicroscopeSettings,
    *,
    workers: int = 1,
    on_progress: Callable[[float, str], None] = lambda share, text: None,
    should_stop: Callable[[], bool] = lambda: False,
) -> None:
    """Have abTEM simulate columns into the cache, a material per process.

    Raises
    ------
    PointDefectsError
        If abTEM fails.
    Stopped
        If ``should_stop`` said yes; the processes are ended at once.
    """
    waiting = deque(materials)
    total = len(waiting)
    running: dict[str, multiprocessing.process.BaseProcess] = {}
    context = multiprocessing.get_context("spawn")
    known = definitions_to_pin()
    try:
        while waiting or running:
            while waiting and len(running) < workers:
                name = waiting.popleft()
                running[name] = context.Process(target=_prepare, args=(name, microscope, known))
                running[name].start()
            done = total - len(waiting) - len(running)
            on_progress(done / total, f"abTEM: columns of {', '.join(running)} (about a minute)")
            for name, process in list(running.items()):
                process.join(_POLL_S)
                if process.exitcode is None:
                    continue
                del running[name]
                if process.exitcode:
                    raise PointDefectsError(
                        f"abTEM could not simulate the columns of {name} for this microscope: "
                        "check its angles and the number of frozen phonons"
                    )
            if should_stop():
                raise Stopped
    finally:
        for process in running.values():
            process.terminate()
            process.join()


def _prepare(
    material: str, microscope: MicroscopeSettings, definitions: Iterable[Mapping[str, Any]]
) -> None:
    _begin(definitions)
    load_columns(get_material(material), microscope)
