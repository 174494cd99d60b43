"""Which images a folder holds."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

from napari_point_defects.batch.record import RECORD
from napari_point_defects.errors import PointDefectsError
from napari_point_defects.readers import READERS

_SER = re.compile(r"(.+)_\d\.ser", re.IGNORECASE)
"""What an emi file's data are called."""


@dataclass(frozen=True, slots=True)
class Listing:
    """What was found.

    Attributes
    ----------
    images : list of str
        Sorted; relative to the folder, with ``/``.
    unreadable : list of str
        Folders that could not be listed, likewise.
    """

    images: list[str]
    unreadable: list[str]


def list_images(folder: Path, *, patterns: Sequence[str] = (), recursive: bool = False) -> Listing:
    """List the images of a folder.

    Hidden files, the results of batches and the overlays of ``analyze`` are left out. Of an emi
    file and the ser files that belong to it, which hold the same data, one is taken: the emi file,
    or the ser files where there are several.

    Parameters
    ----------
    folder : Path
    patterns : sequence of str
        Such as ``*_HAADF*.emd``: of the file's name or, where there is a slash in it, of the path
        in the folder. Default: the extensions that can be read.
    recursive : bool
        Also in the folders below; links to folders are not followed.

    Raises
    ------
    PointDefectsError
        If there is no such folder, or no image in it.
    """
    if not folder.is_dir():
        raise PointDefectsError(f"{folder} is not a folder: give the folder of the images")
    unreadable: list[str] = []

    def failed(error: OSError) -> None:
        unreadable.append(Path(error.filename).relative_to(folder).as_posix())

    images: list[str] = []
    for where, folders, names in os.walk(folder, onerror=failed):
        folders[:] = sorted(name for name in folders if not name.startswith(".")) * recursive
        if RECORD in names and Path(where) != folder:
            folders.clear()
            continue
        base = "" if Path(where) == folder else Path(where).relative_to(folder).as_posix() + "/"
        wanted = (name for name in names if _matches(base, name, patterns))
        images += (base + name for name in _once(wanted, set(names)))
    if not images and not unreadable:
        what = " or ".join(patterns) if patterns else f"image ({' '.join(READERS)})"
        hint = "" if recursive else "; give --recursive to look in the folders below"
        raise PointDefectsError(f"{folder} holds no {what}{hint}")
    return Listing(sorted(images), unreadable)


def sources_of(path: Path) -> list[Path]:
    """Return the files that hold an image: itself and, of an emi file, the ser files beside it."""
    if path.suffix.lower() != ".emi":
        return [path]
    names = (f"{path.stem}_{number}{end}" for number in range(10) for end in (".ser", ".SER"))
    found = {n.lower(): path.with_name(n) for n in names if path.with_name(n).is_file()}
    return [path, *found.values()]


def _matches(base: str, name: str, patterns: Sequence[str]) -> bool:
    if name.startswith("."):
        return False
    if not patterns:
        return Path(name).suffix.lower() in READERS
    return any(fnmatch(base + name if "/" in each else name, each) for each in patterns)


def _once(names: Iterable[str], there: set[str]) -> Iterator[str]:
    """Leave out what is another file's data, or a picture of results."""
    stems = {Path(name).stem.lower() for name in there if name.lower().endswith(".emi")}
    sers = Counter(found[1].lower() for name in there if (found := _SER.fullmatch(name)))
    for name in names:
        stem, suffix = Path(name).stem, Path(name).suffix
        if suffix == ".png" and stem.endswith("_overlay"):
            if stem.removesuffix("overlay") + "census.json" in there:
                continue
        elif suffix.lower() == ".emi":
            if sers[stem.lower()] > 1:
                continue
        elif found := _SER.fullmatch(name):
            owner = found[1].lower()
            if owner in stems and sers[owner] == 1:
                continue
        yield name
