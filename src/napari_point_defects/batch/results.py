"""The results of one image in a batch's folder: whether they are there, and putting them there."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from napari_point_defects.batch.listing import sources_of
from napari_point_defects.errors import PointDefectsError
from napari_point_defects.json_files import read_json
from napari_point_defects.outputs import write_json
from napari_point_defects.results import output_paths

MARKER = "result.json"
"""Beside an image's results: what they were made of, and that they are whole."""

State = Literal["missing", "analysed", "refused", "stale"]


@dataclass(frozen=True, slots=True)
class Job:
    """What a worker must know to analyse the images of a batch.

    Attributes
    ----------
    folder, out : Path
        Absolute: a worker may run anywhere.
    fingerprint : str
        Of the settings.
    verify : bool
        Compare the contents of files, not their size and time alone.
    """

    folder: Path
    out: Path
    fingerprint: str
    verify: bool = False


@dataclass(frozen=True, slots=True)
class Found:
    """What the folder holds of an image.

    Attributes
    ----------
    image : str
        Relative to the folder of the images.
    state : {"missing", "analysed", "refused", "stale"}
        Stale ones were made with something else than what is there now.
    text : str
        Why it is stale, or was refused.
    marker : dict
    """

    image: str
    state: State
    text: str = ""
    marker: dict[str, Any] | None = None


def look(job: Job, image: str) -> Found:
    """Look what there is of one image."""
    place = job.out / image
    try:
        marker = read_json(place / MARKER)
        status, files, sources = marker["status"], dict(marker["files"]), marker["sources"]
    except (FileNotFoundError, NotADirectoryError):
        if not place.exists():
            return Found(image, "missing")
        return Found(image, "stale", f"there is something else at {place}")
    except (OSError, ValueError, KeyError, TypeError):
        return Found(image, "stale", "its results are damaged")
    if marker.get("image") != image:
        return Found(image, "stale", f"{marker.get('image')} has its place, but for the case")
    if marker.get("fingerprint") != job.fingerprint:
        return Found(image, "stale", "analysed with other settings", marker)
    if not _is_the_same(sources, job.folder / image, job.verify):
        return Found(image, "stale", "the file has changed since", marker)
    if status == "refused":
        return Found(image, "refused", str(marker.get("error", "")), marker)
    needed = output_paths(Path(image).stem, place)
    for kind, path in needed.items():
        size = files.get(path.name)
        try:
            if size is not None and path.stat().st_size != size:
                return Found(image, "stale", f"{path.name} was changed", marker)
        except FileNotFoundError:
            if kind != "overlay":  # a picture may be thrown away
                return Found(image, "missing")
    return Found(image, "analysed", "", marker)


def look_at(job: Job, images: Sequence[str]) -> list[Found]:
    """Look at some images; without what makes the answer long."""
    return [Found(f.image, f.state, f.text) for f in (look(job, image) for image in images)]


def sources_record(path: Path, *, hashed: bool = True) -> list[dict[str, Any]]:
    """Return what the files of an image are: name, size, time and hash.

    Raises
    ------
    OSError
        If one cannot be read.
    """
    record = []
    for source in sources_of(path):
        state = source.stat()
        entry = {
            "name": source.name,
            "bytes": state.st_size,
            "modified_ns": state.st_mtime_ns,
        }
        record.append(entry | ({"sha256": _hash_of(source)} if hashed else {}))
    return record


def _is_the_same(record: list[dict[str, Any]], path: Path, verify: bool) -> bool:
    """Tell whether the files of an image are those of a record."""
    try:
        here = sources_record(path, hashed=False)
        for one, other in zip(record, here, strict=True):
            if (one["name"], one["bytes"]) != (other["name"], other["bytes"]):
                return False
            touched = one["modified_ns"] != other["modified_ns"]
            # one that was copied has another time and may be the same
            if (verify or touched) and one["sha256"] != _hash_of(path.with_name(other["name"])):
                return False
    except (OSError, ValueError, KeyError, TypeError):
        return False
    return True


def _hash_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def finish(results: Path, marker: dict[str, Any]) -> None:
    """Write the marker beside results that are whole."""
    files = {path.name: path.stat().st_size for path in results.iterdir()}
    write_json(marker | {"files": files}, results / MARKER)


def put_in_place(results: Path, job: Job, image: str, *, token: Path, replace: bool) -> Found:
    """Rename a folder of results to where it belongs; what another worker has put there stays.

    Parameters
    ----------
    results : Path
        In the folder of the run's work.
    job : Job
    image : str
    token : Path
        Of the run: without it, the run is over.
    replace : bool
        Whether stale results may go.

    Returns
    -------
    Found
        What is there now.

    Raises
    ------
    PointDefectsError
        If the run is over, or something is there that may not be replaced.
    """
    if not token.exists():
        raise PointDefectsError(f"the run is over: {image} is left to the next one")
    place = job.out / image
    place.parent.mkdir(parents=True, exist_ok=True)
    for _ in range(3):
        with suppress(OSError):
            results.rename(place)
            break
        found = look(job, image)
        if found.state in ("analysed", "refused"):
            # another worker, that was taken for dead, was first
            shutil.rmtree(results, ignore_errors=True)
            return found
        if found.state == "stale" and not replace:
            raise PointDefectsError(f"{image}: {found.text}: give --overwrite to replace it")
        if place.exists():
            place.rename(results.with_name(f"{results.name}-old"))
    else:
        raise PointDefectsError(f"cannot write {place}: check the folder's permissions")
    shutil.rmtree(results.with_name(f"{results.name}-old"), ignore_errors=True)
    return look(job, image)
