"""Use a machine's cores: parts of an image side by side, in threads, small matrices in one.

NumPy and SciPy let go of the interpreter while they compute, so parts that share nothing keep all
cores busy where one array after the other keeps one. The threads of their linear algebra do not:
on matrices of some hundred rows they wait for each other longer than they compute.
"""

from __future__ import annotations

import os
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ContextDecorator
from functools import cache
from threading import Lock
from typing import TypeVar

from threadpoolctl import ThreadpoolController

Item = TypeVar("Item")
Result = TypeVar("Result")


def thread_count() -> int:
    """Return how many threads may compute: as many as PyTorch's, once it is loaded.

    A worker of a batch is given some of the cores, and told so there.
    """
    torch = sys.modules.get("torch")
    if torch is not None and hasattr(torch, "get_num_threads"):
        return max(1, torch.get_num_threads())
    return told_count() or os.cpu_count() or 1


def told_count() -> int:
    """Return how many threads the environment asks for; 0 where it says nothing."""
    told = os.environ.get("OMP_NUM_THREADS", "")
    return int(told) if told.isdecimal() else 0


def side_by_side(function: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
    """Yield what a function returns for each item, in their order, computed in threads.

    One item per thread is under way, so memory grows with the threads and not with the items; the
    work stops after those when the caller takes no more.

    Parameters
    ----------
    function : callable
        Must be safe to call from several threads at once.
    items : iterable

    Raises
    ------
    Exception
        What the function raises, at the place of its item.
    """
    items = list(items)
    threads = min(thread_count(), len(items))
    if threads < 2:
        yield from map(function, items)
        return
    # threads that each start threads would wait for one another
    with small_matrices(), ThreadPoolExecutor(threads, thread_name_prefix="parts") as pool:
        pending = deque(pool.submit(function, item) for item in items[:threads])
        try:
            for item in items[threads:]:
                yield pending.popleft().result()
                pending.append(pool.submit(function, item))
            while pending:
                yield pending.popleft().result()
        finally:
            for each in pending:
                each.cancel()


class small_matrices(ContextDecorator):
    """Keep linear algebra to one thread while matrices are small: ``with``, or a decorator.

    The limit is the process's: it ends when the last who asked for it is done.
    """

    _lock, _asking, _limit = Lock(), 0, None

    def __enter__(self) -> small_matrices:
        cls = small_matrices
        with cls._lock:
            if not cls._asking:
                cls._limit = _blas().limit(limits=1)
            cls._asking += 1
        return self

    def __exit__(self, *_) -> None:
        cls = small_matrices
        with cls._lock:
            cls._asking -= 1
            if not cls._asking:
                cls._limit.restore_original_limits()


@cache
def _blas() -> ThreadpoolController:
    """Find the libraries of linear algebra: NumPy's and SciPy's, loaded by now."""
    import scipy.linalg  # noqa: F401

    return ThreadpoolController().select(user_api="blas")
