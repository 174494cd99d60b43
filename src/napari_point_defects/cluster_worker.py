"""What happens in a worker of a cluster: whether it is of use, and one task after the other."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from napari_point_defects import __version__
from napari_point_defects.materials import definitions_to_pin, pin_materials
from napari_point_defects.threads import told_count

_PROGRAM = "napari-point-defects"
_one_at_a_time = threading.Lock()
"""A worker with several threads has several tasks: networks and libraries take one at a time."""


@dataclass(frozen=True, slots=True)
class Needs:
    """What a worker must have to be of use.

    Attributes
    ----------
    folders : tuple of Path
        What it must see.
    token : Path or None
        A file that it must see, and the text in it: a folder of that name may be another one.
    text : str
    versions : tuple of (str, str)
        Name and version of what must be the same there.
    definitions : tuple of mapping
        The user's own materials.
    """

    folders: tuple[Path, ...] = ()
    token: Path | None = None
    text: str = ""
    versions: tuple[tuple[str, str], ...] = ()
    definitions: tuple[Mapping[str, Any], ...] = ()

    @classmethod
    def of_this_program(cls, *packages: str, **needs: Any) -> Needs:
        """Return what a worker needs to do what this program does, with the same packages."""
        versions = tuple((name, _version(name)) for name in (_PROGRAM, *packages))
        return cls(versions=versions, definitions=tuple(definitions_to_pin()), **needs)


@dataclass(frozen=True, slots=True)
class Misfit:
    """Why a worker is of no use, in place of a result."""

    address: str
    problem: str


def dask_setup(worker) -> None:
    """Leave Ctrl+C to the program that started the worker: Dask calls this in a new one."""
    with suppress(ValueError):  # not the main thread
        signal.signal(signal.SIGINT, signal.SIG_IGN)


def problem_of(needs: Needs) -> str | None:
    """Say why this process could not do the work, if it could not."""
    for name, version in needs.versions:
        here = _version(name)
        if here != version:
            return f"it has {name} {here}, this program {version}: install the same"
    unseen = [folder for folder in needs.folders if not folder.is_dir()]
    if needs.token is not None and not _says(needs.token, needs.text):
        unseen.append(needs.token.parent.parent)
    if unseen:
        return (
            f"it does not see {unseen[0]}: start workers where that path is the same, shared folder"
        )
    return None


def _says(path: Path, text: str) -> bool:
    with suppress(OSError):
        return path.read_text(encoding="utf-8") == text
    return False


def _version(name: str) -> str:
    if name == _PROGRAM:
        return __version__
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "none"


def do_task(function: Callable[[Any], Any], task: Any, needs: Needs) -> Any:
    """Do one task on a worker."""
    from distributed import get_worker

    with _one_at_a_time:
        problem = problem_of(needs)
        if problem:
            return Misfit(get_worker().address, problem)
        pin_materials(needs.definitions)
        return function(task)


def cores_of_this_worker() -> int:
    """Return how many cores this process may use: its threads on a cluster, or as told."""
    threads = 1
    with suppress(ImportError, ValueError):
        from distributed import get_worker

        threads = get_worker().state.nthreads
    return max(threads, told_count())
