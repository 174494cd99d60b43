"""Simulate in a program of its own, for callers that have a window open.

The processes that simulate import the main module of the program that starts them. A script that
opens a napari window would open one in each. So a window starts this module instead, as
``python -m``: settings go in as one line of JSON, progress and the outcome come out as lines.
Where the pipe in ends, be it that the user cancels or that the window is killed, work stops.
"""

from __future__ import annotations

import json
import os
import queue
import subprocess
import sys
import threading
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

import numpy as np

from napari_point_defects.errors import PointDefectsError, Stopped
from napari_point_defects.materials import definitions_to_pin, pin_materials
from napari_point_defects.simulation.columns import MicroscopeSettings
from napari_point_defects.simulation.presets import TrainingSetSettings
from napari_point_defects.simulation.sets import simulate_training_set
from napari_point_defects.simulation.workers import prepare_columns

_POLL_S = 0.1
_PATIENCE_S = 60.0
"""How long a cancelled run may take to write the annotations of what it has."""
_MODULE = "napari_point_defects.simulation.process"
Progress = Callable[[float, str], None]
ShouldStop = Callable[[], bool]


def make_set_apart(
    settings: TrainingSetSettings,
    folder: Path,
    *,
    workers: int | None = None,
    resume: bool = False,
    on_progress: Progress = lambda share, text: None,
    should_stop: ShouldStop = lambda: False,
) -> np.ndarray:
    """Do what :func:`~napari_point_defects.simulation.sets.simulate_training_set` does."""
    request = {
        "settings": settings.model_dump(mode="json"),
        "folder": str(folder),
        "workers": workers,
        "resume": resume,
    }
    return np.array(_request(request, on_progress, should_stop))


def prepare_columns_apart(
    materials: tuple[str, ...],
    microscope: MicroscopeSettings,
    *,
    workers: int | None = None,
    on_progress: Progress = lambda share, text: None,
    should_stop: ShouldStop = lambda: False,
) -> None:
    """Do what :func:`~napari_point_defects.simulation.workers.prepare_columns` does."""
    request = {
        "materials": materials,
        "microscope": microscope.model_dump(mode="json"),
        "workers": workers,
    }
    _request(request, on_progress, should_stop)


def _request(request: dict[str, Any], on_progress: Progress, should_stop: ShouldStop) -> Any:
    """Run the other program until it has an outcome."""
    process = subprocess.Popen(
        [sys.executable, "-m", _MODULE],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        # a window that was not started from a terminal may have none to inherit
        stderr=subprocess.DEVNULL,
        creationflags=getattr(subprocess, "CREATE_NO_WINDOW", 0),
    )
    lines: queue.SimpleQueue[bytes] = queue.SimpleQueue()
    reader = threading.Thread(target=_read, args=(process.stdout, lines), daemon=True)
    try:
        request = request | {"own_materials": definitions_to_pin()}
        process.stdin.write(json.dumps(request).encode() + b"\n")
        process.stdin.flush()
        reader.start()
        return _follow(process, lines, on_progress, should_stop)
    finally:
        if not process.stdin.closed:
            process.stdin.close()
        process.wait()
        reader.join()
        process.stdout.close()


def _read(source: IO[bytes], lines: queue.SimpleQueue[bytes]) -> None:
    for line in source:
        lines.put(line)
    lines.put(b"")


def _follow(process, lines, on_progress: Progress, should_stop: ShouldStop) -> Any:
    begun, patience_s = False, _PATIENCE_S
    while True:
        if should_stop():
            patience_s -= _POLL_S
            if not begun or patience_s < 0:
                process.kill()  # safe at any moment: a set is resumed, columns are written whole
                raise Stopped
            if not process.stdin.closed:
                process.stdin.close()
        try:
            line = lines.get(timeout=_POLL_S)
        except queue.Empty:
            continue
        begun = True
        if not line:
            raise PointDefectsError(
                f"the program that simulates was ended (code {process.wait()}), perhaps for want "
                "of memory: what is written is kept, and can be resumed"
            )
        message = json.loads(line)
        if "progress" in message:
            on_progress(*message["progress"])
        elif "mistake" in message:
            raise PointDefectsError(message["mistake"])
        elif "crash" in message:
            raise RuntimeError(message["crash"])
        elif "stopped" in message:
            raise Stopped
        else:
            return message["result"]


def _answer(request: dict[str, Any], callbacks: dict[str, Callable]) -> Any:
    pin_materials(request["own_materials"])
    workers = request["workers"] or os.cpu_count() or 1
    if "settings" in request:
        settings = TrainingSetSettings.model_validate(request["settings"])
        folder, resume = Path(request["folder"]), request["resume"]
        counts = simulate_training_set(
            settings, folder, workers=workers, resume=resume, **callbacks
        )
        return counts.tolist()
    microscope = MicroscopeSettings.model_validate(request["microscope"])
    prepare_columns(request["materials"], microscope, workers=workers, **callbacks)
    return None


def _serve() -> None:
    # what libraries print must not come between the lines
    out = os.fdopen(os.dup(sys.stdout.fileno()), "wb", buffering=0)
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    request = json.loads(sys.stdin.buffer.readline())
    stopped = threading.Event()

    def wait_for_end() -> None:
        sys.stdin.buffer.read()
        stopped.set()

    threading.Thread(target=wait_for_end, daemon=True).start()

    def say(**message: Any) -> None:
        try:
            out.write(json.dumps(message).encode() + b"\n")
        except BrokenPipeError:  # the window was killed
            stopped.set()

    callbacks = {
        "on_progress": lambda share, text: say(progress=(share, text)),
        "should_stop": stopped.is_set,
    }
    try:
        say(result=_answer(request, callbacks))
    except Stopped:
        say(stopped=True)
    except PointDefectsError as error:
        say(mistake=str(error))
    except Exception:
        say(crash=traceback.format_exc())
    # the thread that reads the pipe must not hold the program up
    out.close()
    os._exit(0)


if __name__ == "__main__":
    _serve()
