"""The folder of a batch: the settings that all its results were made with, and who works there.

Layout::

    batch.json               settings, weights, version: one set of them for all results
    census.parquet, census.csv, cells.parquet, failures.csv      the tables
    a/b/image.dm3/           what ``analyze`` writes of a/b/image.dm3, and result.json
    .batch/                  work of a run that goes on: what is half done, and its token

A result's folder appears whole, by a rename, or not at all.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import socket
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from napari_point_defects import __version__
from napari_point_defects.analysis_settings import AnalysisSettings
from napari_point_defects.errors import PointDefectsError
from napari_point_defects.json_files import load_json, read_json
from napari_point_defects.materials import get_material, own_definitions
from napari_point_defects.outputs import write_json

RECORD = "batch.json"
INNER = ".batch"
CENSUS, CENSUS_CSV, CELLS = "census.parquet", "census.csv", "cells.parquet"
FAILURES = "failures.csv"
TABLES = (CENSUS, CENSUS_CSV, CELLS, FAILURES)

_BEAT_S = 10.0
_DEAD_S = 120.0
"""A run of another machine that has not been heard of for so long is over."""


def settings_record(settings: AnalysisSettings, signal: str | None) -> dict[str, Any]:
    """Return all that the results depend on beside the images: two equal ones may be mixed.

    The device is left out: it changes how fast, not what is found.

    Raises
    ------
    PointDefectsError
        If weights cannot be used or the material is unknown.
    """
    chosen = settings.model_dump(
        mode="json", exclude={"device", "detector_weights", "classifier_weights"}
    )
    chosen["material"] = get_material(settings.material).formula
    return {
        "program": __version__,
        "settings": chosen | {"signal": signal},
        "weights": {
            "detector": _hash_of(settings.detector_weights, "detector"),
            "classifier": _hash_of(settings.classifier_weights, "classifier"),
        },
        "material_definitions": own_definitions([settings.material]),
    }


def fingerprint_of(record: dict[str, Any]) -> str:
    """Return a short hash that changes with anything in a record."""
    return hashlib.sha256(json.dumps(record, sort_keys=True).encode()).hexdigest()[:16]


def _hash_of(path: Path | None, kind: str) -> str:
    from napari_point_defects.weights import load_weights  # loads torch

    return load_weights(kind, path).card["sha256"]


def claim(out: Path, record: dict[str, Any], overwrite: bool) -> None:
    """Make a folder a batch's, or check that it is one of the same settings.

    With ``overwrite`` a folder of other settings takes these: its results are replaced one by one,
    its tables go at once.

    Raises
    ------
    PointDefectsError
        If it holds other things or a batch of other settings, or cannot be written.
    """
    path = out / RECORD
    try:
        out.mkdir(parents=True, exist_ok=True)
        names = sorted(p.name for p in out.iterdir() if not p.name.startswith("."))
        text = path.read_text(encoding="utf-8") if RECORD in names else None
    except OSError as error:
        raise PointDefectsError(f"cannot write to {out}: {error.strerror or error}") from error
    if text is None and names:
        raise PointDefectsError(
            f"{out} holds other things ({names[0]}) and no batch: choose a new folder"
        )
    if text is None:
        write_json(record, path)
        return
    try:
        differing = list(_differing(load_json(text), record))
    except (ValueError, AttributeError, TypeError) as error:
        raise PointDefectsError(
            f"{path} holds no settings of a batch: choose another folder"
        ) from error
    if not differing:
        return
    if not overwrite:
        raise PointDefectsError(
            f"the results in {out} were made with other {', '.join(differing)}: choose another "
            "--out, or give --overwrite to replace them all"
        )
    for name in TABLES:
        (out / name).unlink(missing_ok=True)
    write_json(record, path, overwrite=True)


def _differing(there: dict[str, Any], here: dict[str, Any]) -> Iterator[str]:
    """Name what differs between two records."""
    for part in dict.fromkeys((*here, *there)):
        one, other = there.get(part), here.get(part)
        if isinstance(one, dict) and isinstance(other, dict):
            names = dict.fromkeys((*other, *one))
            suffix = " weights" if part == "weights" else ""
            yield from (f"{n}{suffix}" for n in names if one.get(n) != other.get(n))
        elif one != other:
            yield {"program": "version of the program"}.get(part, part.replace("_", " "))


@dataclass
class Run:
    """A run that works in a folder: it has a token there, and folders for what is half done.

    Parameters
    ----------
    out : Path
    """

    out: Path
    name: str = field(default_factory=lambda: uuid.uuid4().hex[:12])
    _beaten: float = 0.0

    @property
    def token(self) -> Path:
        """A file that is there as long as the run is."""
        return self.out / INNER / f"run-{self.name}.json"

    @property
    def work(self) -> Path:
        """A folder for what is half done, in the same file system as the results."""
        return self.out / INNER / f"work-{self.name}"

    @property
    def text(self) -> str:
        """What stands in the token."""
        return json.dumps({"host": socket.gethostname(), "process": os.getpid()})

    def beat(self) -> None:
        """Say that the run is alive, now and then.

        Raises
        ------
        PointDefectsError
            If the run's token is gone.
        """
        if time.monotonic() - self._beaten < _BEAT_S:
            return
        self._beaten = time.monotonic()
        try:
            os.utime(self.token)
        except OSError as error:
            raise PointDefectsError(
                f"{self.out} was taken away, or over by another run: what is done is kept; give "
                "the same command again when no other runs"
            ) from error


@contextmanager
def running_in(out: Path) -> Iterator[Run]:
    """Work in a folder, alone.

    What runs that were killed left half done is removed.

    Raises
    ------
    PointDefectsError
        If another run works there.
    """
    run = Run(out)
    try:
        run.work.mkdir(parents=True)
        run.token.write_text(run.text, encoding="utf-8")
    except OSError as error:
        raise PointDefectsError(f"cannot write to {out}: {error.strerror or error}") from error
    try:
        now = run.token.stat().st_mtime
        for token in (out / INNER).glob("run-*.json"):
            if token != run.token:
                _refuse_if_alive(token, now, out)
                token.unlink(missing_ok=True)
        for left in (out / INNER).glob("work-*"):
            if left != run.work:
                shutil.rmtree(left, ignore_errors=True)
        yield run
    finally:
        # the token first: without it no worker puts a result in place any more
        with suppress(OSError):
            run.token.unlink(missing_ok=True)
        shutil.rmtree(run.work, ignore_errors=True)
        with suppress(OSError):
            (out / INNER).rmdir()


def _refuse_if_alive(token: Path, now: float, out: Path) -> None:
    """Refuse to work beside another run; clocks do not matter: the file system's own is asked."""
    try:
        who, age = read_json(token), now - token.stat().st_mtime
        host, process = str(who["host"]), int(who["process"])
    except (OSError, ValueError, KeyError, TypeError):
        return
    if age > _DEAD_S:
        return
    if host == socket.gethostname():
        import psutil  # comes with Dask

        with suppress(psutil.NoSuchProcess):
            if psutil.Process(process).status() == psutil.STATUS_ZOMBIE:
                return
        if not psutil.pid_exists(process):
            return
    raise PointDefectsError(
        f"another run works in {out} (process {process} on {host}): wait for it, or end it"
    )
