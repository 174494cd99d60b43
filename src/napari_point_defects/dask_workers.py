"""Tasks for the workers of a Dask cluster: a bounded number at a time, in order or as they finish.

A task whose workers die is tried again alone, so that it, and not one that waited beside it, is
given up. A worker that turns out to be of no use gets no more.
"""

from __future__ import annotations

import math
import queue
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Protocol

from napari_point_defects.cluster_worker import Misfit, Needs, do_task
from napari_point_defects.errors import PointDefectsError, Stopped

_POLL_S = 0.1
_LOOK_S = 2.0
"""How often the cluster is asked how many workers it has."""
_LOST_S = 60.0
"""How long all that is handed out may be lost until the scheduler is taken to have begun anew."""
_WORTH_A_WORD_S = 30.0


@dataclass(frozen=True, slots=True)
class Lost:
    """What there is in place of a result whose workers died."""

    reason: str


class Workers(Protocol):
    """Anything that does tasks."""

    def as_finished(
        self,
        function: Callable[[Any], Any],
        tasks: Iterable[Any],
        should_stop: Callable[[], bool],
        may_go_on: Callable[[], bool] = lambda: True,
    ) -> Iterator[tuple[Any, Any]]:
        """Yield every task and its result, or :class:`Lost`, as they come."""


class Here:
    """The process itself, as a cluster of one: for what takes no time."""

    def as_finished(
        self, function, tasks, should_stop, may_go_on=lambda: True
    ) -> Iterator[tuple[Any, Any]]:
        """Yield every task and its result."""
        for task in tasks:
            if should_stop():
                raise Stopped
            yield task, function(task)


@dataclass
class DaskWorkers:
    """The workers of a Dask cluster.

    Parameters
    ----------
    client : distributed.Client
    needs : Needs
    on_note : callable
        Takes a line for the user.
    patience_s : float
        How long to wait for a worker where there is none; nobody starts one in a cluster of our
        own whose workers could not be started again.
    """

    client: Any
    needs: Needs = field(default_factory=Needs)
    on_note: Callable[[str], None] = lambda text: None
    patience_s: float = math.inf
    _useless: dict[str, str] = field(default_factory=dict)
    _threads: dict[str, int] = field(default_factory=dict)
    _looked: float = -1e9
    _seen: float = field(default_factory=time.monotonic)
    _said: bool = False

    def as_finished(
        self,
        function: Callable[[Any], Any],
        tasks: Iterable[Any],
        should_stop: Callable[[], bool] = lambda: False,
        may_go_on: Callable[[], bool] = lambda: True,
    ) -> Iterator[tuple[Any, Any]]:
        """Yield every task and its result, or :class:`Lost`, as they come.

        Parameters
        ----------
        function : callable
            Of a module, so that a worker finds it by its name.
        tasks : iterable
            Taken as there is room for them, some per worker.
        should_stop : callable
        may_go_on : callable
            Whether there is room for another result.

        Raises
        ------
        PointDefectsError
            If the scheduler is gone, or no worker is of use.
        Stopped
            If ``should_stop`` said yes.
        """
        source, exhausted = iter(tasks), False
        running: dict[Any, Any] = {}
        suspects: deque[Any] = deque()
        alone: Any = None
        done: queue.SimpleQueue[Any] = queue.SimpleQueue()
        try:
            while True:
                room = self._room()
                while alone is None and not exhausted and len(running) < room and may_go_on():
                    try:
                        self._submit(function, next(source), running, done)
                    except StopIteration:
                        exhausted = True
                if not running:
                    if suspects:
                        alone = self._submit(function, suspects.popleft(), running, done)
                    elif exhausted:
                        return
                for future, result in self._finished(running, done, should_stop):
                    task = running.pop(future)
                    was_alone = future is alone
                    alone = None if was_alone else alone
                    if isinstance(result, Misfit):
                        self._set_aside(result)
                        suspects.append(task)
                    elif isinstance(result, Lost) and not was_alone:
                        suspects.append(task)
                    else:
                        yield task, result
        finally:
            with suppress(Exception):
                self.client.cancel(list(running))

    def in_order(
        self,
        function: Callable[[Any], Any],
        tasks: Iterable[Any],
        should_stop: Callable[[], bool] = lambda: False,
    ) -> Iterator[Any]:
        """Yield the results in the order of the tasks.

        Raises
        ------
        PointDefectsError
            As :meth:`as_finished`, and if the workers of a task die.
        Stopped
            If ``should_stop`` said yes.
        """
        handed_out = given = 0

        def numbered() -> Iterator[tuple[int, Any]]:
            nonlocal handed_out
            for task in enumerate(tasks):
                handed_out += 1
                yield task

        def may_go_on() -> bool:
            return handed_out - given < 2 * self._room()

        early: dict[int, Any] = {}
        job = _Numbered(function)
        for (number, _), result in self.as_finished(job, numbered(), should_stop, may_go_on):
            if isinstance(result, Lost):
                raise PointDefectsError(f"{result.reason}: what is written is kept; resume")
            early[number] = result
            while given in early:
                # counted first: what comes after is handed out when this generator goes on
                given += 1
                yield early.pop(given - 1)

    def _submit(self, function, task, running: dict, done: queue.SimpleQueue) -> Any:
        useful = None
        if self._useless:
            there = list(self._workers())
            useful = [address for address in there if address not in self._useless]
            if there and not useful:
                address, problem = next(iter(self._useless.items()))
                raise PointDefectsError(f"no worker is of use; {address}: {problem}")
        if self.client.status != "running":
            raise _lost_connection()
        future = self.client.submit(
            do_task, function, task, self.needs, pure=False, workers=useful or None
        )
        running[future] = task
        future.add_done_callback(done.put)
        return future

    def _finished(
        self, running: dict, done: queue.SimpleQueue, should_stop: Callable[[], bool]
    ) -> list[tuple[Any, Any]]:
        """Wait for some, and return them with their results."""
        ready = []
        begun = time.monotonic()
        while not ready:
            if should_stop():
                raise Stopped
            # one alone may be lost with its worker, and is done again
            if not all(future.status == "lost" for future in running):
                begun = time.monotonic()
            self._room()
            if self.client.status != "running" or time.monotonic() - begun > _LOST_S:
                raise _lost_connection()
            with suppress(queue.Empty):
                ready.append(done.get(timeout=_POLL_S))
        with suppress(queue.Empty):
            while True:
                ready.append(done.get_nowait())
        whole = [future for future in ready if future.status == "finished"]
        results: dict[Any, Any] = {}
        # one that is lost with its worker now is done again, and may end that one too
        with suppress(Exception):
            results = dict(zip(whole, self.client.gather(whole), strict=True))
        rest = {future: self._failure(future) for future in ready if future not in results}
        return list((results | rest).items())

    def _failure(self, future) -> Any:
        """Return what there is of a task without a result; an error of the function is raised."""
        from distributed import KilledWorker

        if future.cancelled():
            raise _lost_connection()
        error = future.exception()
        if error is None:  # its worker died with the result, and it was done again
            return future.result()
        if isinstance(error, KilledWorker):
            return Lost("every worker that tried it was ended, perhaps for want of memory")
        raise error

    def _set_aside(self, misfit: Misfit) -> None:
        if misfit.address not in self._useless:
            self._useless[misfit.address] = misfit.problem
            self.on_note(f"worker {misfit.address} gets no work: {misfit.problem}")

    def _workers(self) -> dict[str, int]:
        """Return the workers' addresses and how many threads each has."""
        try:
            return self.client.nthreads()
        except Exception as error:  # closed in any of Dask's ways
            raise _lost_connection() from error

    def _wait_for_workers(self) -> None:
        """Say that there are none, once, and give up when nobody can be expected to start one."""
        if self._threads:
            self._seen, self._said = self._looked, False
            return
        waited = self._looked - self._seen
        if waited > self.patience_s:
            raise PointDefectsError(
                "the workers have ended and could not be started again: what is done is kept; "
                "give the same command again, perhaps with fewer --workers"
            )
        if waited > _WORTH_A_WORD_S and not self._said:
            self._said = True
            self.on_note("there are no workers at present: waiting for some")

    def _room(self) -> int:
        """Return how many tasks are handed out: none is to wait for the next, nor 10⁶ at once."""
        if time.monotonic() - self._looked > _LOOK_S:
            self._threads = self._workers()
            self._looked = time.monotonic()
            self._wait_for_workers()
        return max(16, 3 * sum(self._threads.values()))


def _lost_connection() -> PointDefectsError:
    return PointDefectsError(
        "the connection to the Dask scheduler was lost: what is done is kept; start the scheduler "
        "and give the same command again"
    )


@dataclass(frozen=True, slots=True)
class _Numbered:
    """A function of a task that carries its number."""

    function: Callable[[Any], Any]

    def __call__(self, task: tuple[int, Any]) -> Any:
        return self.function(task[1])
