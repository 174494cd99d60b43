"""Parts side by side: order, errors, stopping; and linear algebra kept to one thread."""

import threading
import time

import numpy as np
import pytest
from threadpoolctl import threadpool_info

from napari_point_defects import threads
from napari_point_defects.threads import side_by_side, small_matrices, thread_count


@pytest.fixture(params=[1, 3])
def count(request, monkeypatch):
    monkeypatch.setattr(threads, "thread_count", lambda: request.param)
    return request.param


def blas_threads():
    return {each["num_threads"] for each in threadpool_info() if each["user_api"] == "blas"}


def test_results_come_in_the_order_of_the_items(count):
    def slow_first(item):
        time.sleep(0.02 * (item == 0))
        return item**2

    assert list(side_by_side(slow_first, range(7))) == [n**2 for n in range(7)]
    assert list(side_by_side(slow_first, [])) == []


def test_several_are_under_way_at_once_but_no_more_than_threads(count):
    under_way, most = [], []

    def work(item):
        under_way.append(item)
        most.append(len(under_way))
        time.sleep(0.01)
        under_way.remove(item)

    list(side_by_side(work, range(9)))
    assert max(most) == count


def test_an_error_comes_out_and_ends_the_work(count):
    done = []

    def fail(item):
        if item == 2:
            raise ValueError("the third")
        done.append(item)

    with pytest.raises(ValueError, match="the third"):
        list(side_by_side(fail, range(50)))
    assert max(done) < 2 + 2 * count


def test_work_ends_when_no_more_is_taken(count):
    done = []
    found = side_by_side(done.append, range(50))
    next(found)
    found.close()
    assert len(done) <= 2 * count
    assert threading.active_count() < 50


def test_as_many_threads_as_pytorch_has():
    import torch

    before = torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        assert thread_count() == 3
    finally:
        torch.set_num_threads(before)


def test_the_limit_ends_with_the_last_who_asked():
    np.linalg.inv(np.eye(3))
    before = blas_threads()
    first, second = small_matrices(), small_matrices()
    with first:
        assert blas_threads() == {1}
        second.__enter__()
    assert blas_threads() == {1}
    second.__exit__(None, None, None)
    assert blas_threads() == before


def test_the_limit_ends_with_an_error():
    before = blas_threads()

    @small_matrices()
    def fail():
        assert blas_threads() == {1}
        raise ValueError

    with pytest.raises(ValueError):  # noqa: PT011 - its own
        fail()
    assert blas_threads() == before
