"""Work on a Dask cluster: one started here, or any that runs; a bounded number of tasks at a time.

Dask is imported when a cluster is opened, not before. A worker that does not see the files, or has
another version of the program, gets no work. A task whose workers die is tried again alone, so that
it, and not one that waited beside it, is given up.
"""

from __future__ import annotations

import logging
import queue
import socket
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, Protocol

from napari_point_defects import __version__, cluster_worker
from napari_point_defects.cluster_worker import Misfit, Needs, do_task, problem_of
from napari_point_defects.errors import PointDefectsError, Stopped

_POLL_S = 0.1
_LOOK_S = 2.0
"""How often the cluster is asked how many workers it has."""
_LOST_S = 60.0
"""How long all that is handed out may be lost until the scheduler is taken to have begun anew."""
_CONNECT_S = 15.0
_WAIT_FOR_WORKERS_S = 60.0
_TRIES = 2
"""Workers of a cluster of our own that a task may end before it is tried alone."""
_MEMORY_PER_WORKER = 1.5 * 2**30
"""Bytes that one process needs for a large image, its libraries included."""


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
    """

    client: Any
    needs: Needs = field(default_factory=Needs)
    on_note: Callable[[str], None] = lambda text: None
    _useless: dict[str, str] = field(default_factory=dict)
    _threads: dict[str, int] = field(default_factory=dict)
    _looked: float = -1e9

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

    def _room(self) -> int:
        """Return how many tasks are handed out: none is to wait for the next, nor 10⁶ at once."""
        if time.monotonic() - self._looked > _LOOK_S:
            self._threads = self._workers()
            self._looked = time.monotonic()
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


@contextmanager
def open_cluster(
    scheduler: str | None = None,
    workers: int | None = None,
    needs: Needs = Needs(),
    *,
    on_note: Callable[[str], None] = lambda text: None,
) -> Iterator[DaskWorkers]:
    """Connect to a cluster, or start one on this machine and end it afterwards.

    Parameters
    ----------
    scheduler : str, optional
        Address of a running scheduler, such as ``tcp://10.0.0.1:8786``.
    workers : int, optional
        Processes of a cluster of our own; default: one per core, as far as the memory goes.
        Each has its share of the cores. They are spawned: a script needs its
        ``if __name__ == "__main__":``.
    needs : Needs
    on_note : callable
        Takes a line for the user.

    Raises
    ------
    PointDefectsError
        If Dask is missing, the scheduler cannot be reached, or a worker is of no use.
    """
    try:
        import dask
        from distributed import Client
    except ImportError as error:
        raise PointDefectsError(
            'Dask is missing: pip install "napari-point-defects[batch]"'
        ) from error
    with ExitStack() as stack:
        stack.enter_context(_silence("distributed"))
        stack.enter_context(dask.config.set(_LOCAL if scheduler is None else {}))
        try:
            where = scheduler or stack.enter_context(_local_cluster(workers))
            if scheduler is not None:
                _check_address(scheduler)
            client = Client(where, timeout=_CONNECT_S, set_as_default=False)
        except (OSError, ValueError, TypeError, TimeoutError) as error:
            if scheduler is None:
                raise PointDefectsError(f"no workers could be started here: {error}") from error
            raise PointDefectsError(
                f"no Dask scheduler answers at {scheduler}: start one with `dask scheduler`, and "
                "give the address that it prints, such as tcp://10.0.0.1:8786"
            ) from error
        stack.callback(client.close, timeout=2)
        if scheduler is not None:
            _check_workers(client, needs, scheduler)
        yield DaskWorkers(client, needs, on_note)


_LOCAL = {
    "distributed.scheduler.allowed-failures": _TRIES - 1,
    # a worker has the task that it does and no other, that could be blamed for its end
    "distributed.scheduler.worker-saturation": 1.0,
    # results go to disk, not into a worker's memory: nothing to spill, no reason to pause for good
    "distributed.worker.memory.target": False,
    "distributed.worker.memory.spill": False,
    "distributed.worker.memory.pause": False,
    "distributed.worker.memory.terminate": 0.95,
}


@contextmanager
def _local_cluster(workers: int | None) -> Iterator[Any]:
    import dask
    from dask.system import CPU_COUNT
    from distributed import LocalCluster
    from distributed.system import MEMORY_LIMIT

    workers = workers or max(1, min(CPU_COUNT, int(MEMORY_LIMIT / _MEMORY_PER_WORKER)))
    threads = max(1, CPU_COUNT // workers)
    names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
    environment = {f"distributed.nanny.pre-spawn-environ.{name}": threads for name in names}
    with (
        dask.config.set(environment),
        LocalCluster(
            n_workers=workers,
            threads_per_worker=1,
            processes=True,
            host="127.0.0.1",
            memory_limit=int(MEMORY_LIMIT / workers),
            dashboard_address="127.0.0.1:0",  # None would take 8787 of all interfaces
            silence_logs=logging.CRITICAL,
            preload=[cluster_worker.__name__],
        ) as cluster,
    ):
        yield cluster


def _check_address(address: str) -> None:
    """Raise for what is no address, or where nobody listens: the client would go on trying."""
    from distributed.comm.addressing import get_address_host_port, parse_address
    from distributed.comm.registry import get_backend

    scheme, _ = parse_address(address, strict=True)
    get_backend(scheme)
    host, port = get_address_host_port(address, strict=True)
    if scheme in ("tcp", "tls", "ws", "wss"):
        socket.create_connection((host, port), timeout=_CONNECT_S).close()


def _check_workers(client, needs: Needs, scheduler: str) -> None:
    """Refuse a cluster with workers that could do nothing, while somebody is there to read it."""
    advice = f"start workers with `dask worker {scheduler} --nthreads 1`"
    try:
        problems = client.run(problem_of, needs)
        if not problems:  # an adaptive cluster starts some when there is something to do
            problem = client.submit(problem_of, needs, pure=False)
            problems = {scheduler: problem.result(timeout=_WAIT_FOR_WORKERS_S)}
    except TimeoutError as error:
        raise PointDefectsError(f"the cluster at {scheduler} has no workers: {advice}") from error
    except Exception as error:  # whatever a worker says that lacks this program
        raise PointDefectsError(
            f"the workers at {scheduler} cannot run this program ({error}): install "
            f"napari-point-defects {__version__} where they run"
        ) from error
    for address, problem in problems.items():
        if problem:
            raise PointDefectsError(f"worker {address}: {problem}")


@contextmanager
def _silence(name: str) -> Iterator[None]:
    """Keep a library's log from the user: what matters of it is said in our own words."""
    names = [name, *(n for n in logging.root.manager.loggerDict if n.startswith(f"{name}."))]
    levels = {each: logging.getLogger(each).level for each in names}
    try:
        for each in names:
            logging.getLogger(each).setLevel(logging.CRITICAL + 1)
        yield
    finally:
        for each, level in levels.items():
            logging.getLogger(each).setLevel(level)
