"""Train in a process of its own, so that a window stays responsive and may be closed.

The child gets its orders as one line of JSON and answers with lines of JSON. It stops when the
parent says so or is gone, however it went: its standard input then ends.
"""

from __future__ import annotations

import json
import os
import queue
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

from napari_point_defects.errors import PointDefectsError, Stopped
from napari_point_defects.materials import definitions_to_pin, pin_materials
from napari_point_defects.retraining.folder import Retrained, load_run
from napari_point_defects.retraining.settings import RetrainSettings

_POLL_S = 0.1
_PATIENCE_S = 2.0  # napari waits for five at its end
_NICENESS = 5


def retrain_apart(
    settings: RetrainSettings,
    folder: Path,
    *,
    resume: bool = False,
    on_progress: Callable[[float, str], None] = lambda share, text: None,
    should_stop: Callable[[], bool] = lambda: False,
    on_step: Callable[[float, float], None] = lambda epochs, loss: None,
    on_epoch: Callable[[dict[str, float]], None] = lambda row: None,
) -> Retrained:
    """Do what :func:`napari_point_defects.retraining.run.retrain` does, in another process.

    Parameters, result and errors are the same.
    """
    orders = {
        "settings": settings.model_dump(mode="json"),
        "folder": str(folder),
        "resume": resume,
        "own_materials": definitions_to_pin(),
    }
    on_progress(0.0, "starting")
    tell = {"progress": on_progress, "step": on_step, "epoch": on_epoch}
    with tempfile.TemporaryFile("w+") as log, _child(log) as process:
        _send(process, orders)
        outcome, stopping_since = None, None
        for message in _messages(process):
            if stopping_since is None and should_stop():
                stopping_since = time.monotonic()
                process.stdin.close()
            elif stopping_since is not None and time.monotonic() - stopping_since > _PATIENCE_S:
                _end(process)
            if message is None:
                continue
            name, values = message
            if name in tell:
                tell[name](*values)
            else:
                outcome = message
        process.wait()
        if outcome is None and stopping_since is not None:
            raise Stopped
        if outcome is None:
            log.seek(0)
            last = log.read().strip().splitlines()[-15:]
            raise RuntimeError("training ended unexpectedly:\n" + "\n".join(last))
    return _conclude(outcome, folder)


def serve() -> None:
    """Be the child: train as standard input says."""
    from napari_point_defects.retraining.run import retrain

    if hasattr(os, "nice"):
        os.nice(_NICENESS)  # the window comes first
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w", buffering=1)
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # whatever a library prints
    orders = json.loads(sys.stdin.readline())
    # apart from sys.stdin, which a process that is forked from here closes: it would wait for
    # the thread that reads
    orders_end = os.dup(sys.stdin.fileno())
    sys.stdin.close()
    stop = threading.Event()

    def wait_for_the_end() -> None:
        while os.read(orders_end, 1):
            pass
        stop.set()

    threading.Thread(target=wait_for_the_end, daemon=True).start()

    def answer(name: str, *values: Any) -> None:
        try:
            print(json.dumps([name, values]), file=answers)
        except BrokenPipeError:
            stop.set()

    try:
        pin_materials(orders["own_materials"])
        retrain(
            RetrainSettings.model_validate(orders["settings"]),
            Path(orders["folder"]),
            resume=orders["resume"],
            on_progress=lambda share, text: answer("progress", share, text),
            should_stop=stop.is_set,
            on_step=lambda epochs, loss: answer("step", epochs, loss),
            on_epoch=lambda row: answer("epoch", row),
        )
        answer("done")
    except Stopped:
        answer("stopped")
    except PointDefectsError as error:
        answer("error", str(error))


def _child(log: IO[str]) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-m", "napari_point_defects.retraining"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=log,
        text=True,
        encoding="utf-8",
        start_new_session=True,
        env={**os.environ, "PYTHONIOENCODING": "utf-8"},
    )


def _end(process: subprocess.Popen) -> None:
    """End the child and its own children; no harm, for a checkpoint is whole or not there."""
    if hasattr(os, "killpg"):
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    else:
        process.kill()


def _send(process: subprocess.Popen, orders: dict[str, Any]) -> None:
    with suppress(OSError):  # it is gone already: what it wrote to its log tells why
        process.stdin.write(json.dumps(orders) + "\n")
        process.stdin.flush()


def _messages(process: subprocess.Popen) -> Iterator[tuple[str, list] | None]:
    """Yield what the child says, and None now and then while it says nothing."""
    lines: queue.Queue[str | None] = queue.Queue()

    def read() -> None:
        for line in process.stdout:
            lines.put(line)
        lines.put(None)

    threading.Thread(target=read, daemon=True).start()
    while True:
        try:
            line = lines.get(timeout=_POLL_S)
        except queue.Empty:
            yield None
            continue
        if line is None:
            return
        name, values = json.loads(line)
        yield name, values


def _conclude(outcome: tuple[str, list], folder: Path) -> Retrained:
    name, values = outcome
    if name == "stopped":
        raise Stopped
    if name == "error":
        raise PointDefectsError(*values)
    return load_run(folder)
