"""A real scheduler and two worker processes on loopback: bounded, in order, and never lost."""

import itertools
import os
import signal
import time

import cluster_tasks
import dask
import numpy as np
import pytest
from distributed import Client, LocalCluster
from small_sets import SMALL

from napari_point_defects import cluster_worker, clusters, dask_workers
from napari_point_defects.cluster_worker import Needs
from napari_point_defects.clusters import open_cluster
from napari_point_defects.dask_workers import DaskWorkers, Here, Lost
from napari_point_defects.errors import PointDefectsError, Stopped
from napari_point_defects.simulation import columns
from napari_point_defects.simulation.sets import find_set, simulate_training_set

pytestmark = pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="kills as POSIX does")


@pytest.fixture(scope="module")
def scheduler():
    """A cluster that somebody else has started."""
    with (
        # a worker's end is a second or two: one try, and one alone
        dask.config.set(clusters._LOCAL | {"distributed.scheduler.allowed-failures": 0}),
        LocalCluster(
            n_workers=2,
            threads_per_worker=1,
            processes=True,
            dashboard_address="127.0.0.1:0",
            silence_logs=50,
        ) as cluster,
    ):
        yield cluster.scheduler_address


@pytest.fixture
def workers(scheduler):
    with open_cluster(scheduler) as workers:
        wait_for_both(workers)
        yield workers


def wait_for_both(workers):
    deadline = time.monotonic() + 120  # a busy machine takes long to start one
    while len(workers.client.nthreads()) < 2:
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_every_task_is_done_once(workers):
    done = list(workers.as_finished(cluster_tasks.square, range(100)))
    assert sorted(done) == [(n, n * n) for n in range(100)]
    assert list(workers.as_finished(cluster_tasks.square, [])) == []
    assert list(workers.as_finished(cluster_tasks.nothing, [1])) == [(1, None)]
    here = Here().as_finished(cluster_tasks.square, range(100), lambda: False)
    assert sorted(done) == list(here)


def test_a_million_tasks_do_not_wait_in_the_scheduler(workers):
    taken = itertools.count()
    tasks = (next(taken) for _ in range(10**6))
    results = workers.as_finished(cluster_tasks.square, tasks)
    for _ in range(5):
        next(results)
    results.close()
    assert next(taken) <= 5 + 16 + 16


def test_in_order_though_the_first_is_the_last(workers):
    taken = []
    tasks = (taken.append(n) or n for n in range(200))
    results = workers.in_order(cluster_tasks.held_back, tasks)
    assert next(results) == 0
    assert len(taken) <= 2 * 16 + 1  # results that wait for the first are bounded too
    assert list(results) == list(range(1, 200))


def test_a_killed_worker_loses_and_doubles_nothing(workers, tmp_path):
    tasks = [(n, str(tmp_path)) for n in range(60)]
    victim = next(iter(workers.client.run(os.getpid).values()))
    done = []
    for task, result in workers.as_finished(cluster_tasks.leave_a_mark, tasks):
        done.append(result)
        assert task[0] == result
        if len(done) == 10:
            os.kill(victim, signal.SIGKILL)
    assert sorted(done) == list(range(60))
    marks = [int(path.name.split("-")[0]) for path in tmp_path.iterdir()]
    assert set(marks) == set(range(60))
    # only what the dead worker had at hand, or had not handed over, was done again
    assert len(marks) <= 60 + 10


def test_a_task_that_ends_its_workers_is_given_up_and_no_other(workers):
    done = dict(workers.as_finished(cluster_tasks.end_the_worker_at_5, range(30)))
    assert isinstance(done.pop(5), Lost)
    assert done == {n: n * n for n in range(30) if n != 5}
    wait_for_both(workers)
    with pytest.raises(PointDefectsError, match="every worker that tried it was ended"):
        list(workers.in_order(cluster_tasks.end_the_worker_at_5, range(10)))


def test_an_error_of_the_function_is_its_own(workers):
    with pytest.raises(ValueError, match="no 3"):
        list(workers.as_finished(cluster_tasks.fail, [3]))


def test_stops_soon(workers):
    results = workers.as_finished(time.sleep, [2] * 100, should_stop=lambda: True)
    begun = time.monotonic()
    with pytest.raises(Stopped):
        next(results)
    assert time.monotonic() - begun < 10
    # and none of the hundred, 100 s for both, is in the way of what comes next
    assert len(list(workers.as_finished(cluster_tasks.square, range(4)))) == 4
    assert time.monotonic() - begun < 60


def test_workers_that_are_of_no_use_are_refused(scheduler, tmp_path):
    needs = Needs(versions=(("numpy", "0.0.1"),))
    with (
        pytest.raises(PointDefectsError, match=r"it has numpy .*, this program 0\.0\.1"),
        open_cluster(scheduler, needs=needs),
    ):
        pass
    needs = Needs(folders=(tmp_path / "elsewhere",))
    with (
        pytest.raises(PointDefectsError, match=r"does not see .*elsewhere: .* shared folder"),
        open_cluster(scheduler, needs=needs),
    ):
        pass


def test_a_worker_that_came_later_and_is_of_no_use_gets_no_work(scheduler, tmp_path):
    notes = []
    token = tmp_path / "inner" / "token"
    token.parent.mkdir()
    token.write_text("here")
    needs = Needs(token=token, text="here")
    with open_cluster(scheduler, needs=needs, on_note=notes.append) as workers:
        wait_for_both(workers)
        token.write_text("another folder of that name")
        with pytest.raises(PointDefectsError, match=r"no worker is of use; tcp.*does not see"):
            list(workers.as_finished(cluster_tasks.square, range(10)))
    assert len(notes) == len(set(notes)) == 2
    assert all("gets no work" in note for note in notes)


@pytest.mark.parametrize("address", ["tcp://127.0.0.1:1", "nonsense", "ftp://127.0.0.1:8786"])
def test_no_scheduler_there(address, monkeypatch):
    with (
        pytest.raises(PointDefectsError, match=f"no Dask scheduler answers at {address}"),
        open_cluster(address),
    ):
        pass


def test_a_cluster_without_workers(monkeypatch):
    monkeypatch.setattr(dask_workers, "_LOOK_S", 0.05)
    monkeypatch.setattr(dask_workers, "_WORTH_A_WORD_S", 0.2)
    monkeypatch.setattr(clusters, "_WAIT_FOR_WORKERS_S", 0.2)
    options = {"n_workers": 0, "protocol": "tcp", "dashboard_address": "127.0.0.1:0"}
    with LocalCluster(**options, processes=False, silence_logs=50) as cluster:
        address = cluster.scheduler_address
        with (
            pytest.raises(PointDefectsError, match="has no workers: start workers with `dask"),
            open_cluster(address),
        ):
            pass
        notes = []
        with Client(address, set_as_default=False) as client:
            workers = DaskWorkers(client, on_note=notes.append, patience_s=1.0)
            with pytest.raises(PointDefectsError, match="could not be started again"):
                list(workers.as_finished(cluster_tasks.square, range(3)))
        assert notes == ["there are no workers at present: waiting for some"]


def test_a_scheduler_that_goes_is_noticed(monkeypatch):
    # its worker is this process, which goes on to read its own materials from their file
    monkeypatch.setattr(cluster_worker, "pin_materials", lambda definitions: None)
    options = {
        "n_workers": 1,
        "processes": False,
        "protocol": "tcp",
        "dashboard_address": "127.0.0.1:0",
    }
    with (
        LocalCluster(**options, silence_logs=50) as cluster,
        open_cluster(cluster.scheduler_address) as workers,
    ):
        results = workers.as_finished(time.sleep, [0] * 5 + [1] * 200)
        next(results)
        cluster.close()
        with pytest.raises(PointDefectsError, match="connection to the Dask scheduler was lost"):
            list(results)


# --- simulated sets ----------------------------------------------------------------------------


def contents(folder):
    return {
        p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()
    }


def test_a_set_by_a_cluster_is_the_same_to_the_byte(workers, scheduler, tmp_path):
    simulate_training_set(SMALL, tmp_path / "here", workers=1)
    out = tmp_path / "there"
    victim = next(iter(workers.client.run(os.getpid).values()))
    seen = []

    def on_progress(share, text):
        seen.append(text)
        if len(seen) == 2:
            os.kill(victim, signal.SIGKILL)

    with pytest.raises(Stopped):
        simulate_training_set(
            SMALL,
            out,
            scheduler=scheduler,
            on_progress=on_progress,
            should_stop=lambda: len(seen) >= 5,
        )
    assert sum(find_set(out).images) == 5
    simulate_training_set(SMALL, out, scheduler=scheduler, resume=True)
    assert contents(out) == contents(tmp_path / "here")


def test_columns_that_workers_lack_go_along(tmp_path, monkeypatch):
    material = columns.MATERIALS["MoS2"]
    microscope = columns.MicroscopeSettings(energy_ev=61e3)
    monkeypatch.setenv("POINT_DEFECTS_CACHE", str(tmp_path / "driver"))
    monkeypatch.setattr(columns, "_carried", {})
    known = columns.load_columns(material)
    monkeypatch.setattr(columns, "simulate_columns", lambda *_: known)
    columns.load_columns(material, microscope)
    sent = columns.columns_to_carry([material], microscope)
    assert columns.columns_to_carry([material], columns.MicroscopeSettings()) == {}
    monkeypatch.setenv("POINT_DEFECTS_CACHE", str(tmp_path / "worker"))
    monkeypatch.setattr(columns, "simulate_columns", None)
    assert not columns.columns_are_known(material, microscope)
    columns.carry_columns(sent)
    assert columns.columns_are_known(material, microscope)
    there = columns.load_columns(material, microscope)
    assert np.allclose(there.metal, known.metal, rtol=1e-5)
    assert not (tmp_path / "worker").exists()
