"""A Dask cluster to work on: one started here, or any that runs.

Dask is imported when a cluster is opened, not before. A cluster with a worker that does not see the
files, or has another version of the program, is refused.
"""

from __future__ import annotations

import logging
import math
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from napari_point_defects import __version__, cluster_worker
from napari_point_defects.cluster_worker import Needs, problem_of
from napari_point_defects.dask_workers import DaskWorkers
from napari_point_defects.errors import PointDefectsError

_CONNECT_S = 15.0
_WAIT_FOR_WORKERS_S = 60.0
_PATIENCE_S = 300.0
_TRIES = 2
"""Workers of a cluster of our own that a task may end before it is tried alone."""
_MEMORY_PER_WORKER = 1.5 * 2**30
"""Bytes that one process needs for a large image, its libraries included."""


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
        patience_s = _PATIENCE_S if scheduler is None else math.inf
        yield DaskWorkers(client, needs, on_note, patience_s)


_LOCAL = {
    "distributed.scheduler.allowed-failures": _TRIES - 1,
    # a worker has the task that it does and no other, that could be blamed for its end
    "distributed.scheduler.worker-saturation": 1.0,
    # a machine that is busy takes its time to start a worker
    "distributed.comm.timeouts.connect": "120s",
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
