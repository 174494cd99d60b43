"""The images of a project folder: what they are known by, and where their pixels lie.

An image is known by its pixels. Its file is named relative to the project folder and always lies
inside: an image from elsewhere is copied, so that the folder can be moved, copied or sent whole.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from napari_point_defects.analysed_area import AnalysedArea, Domain
from napari_point_defects.bending_fields import bending_of
from napari_point_defects.errors import PointDefectsError
from napari_point_defects.json_files import brief, load_json
from napari_point_defects.labels.domain_fields import domains_of
from napari_point_defects.labels.schema import NOT_OURS
from napari_point_defects.materials import adopt_definitions, own_definitions
from napari_point_defects.records import Calibration, Lattice, StemImage

COPIES = "images"
"""Folder of the copies, inside the project folder."""

_DEFINITIONS = "material_definitions"
_LARGEST_SEARCHED = 1000
_LONGEST_NAME = 255  # bytes


@dataclass(frozen=True, slots=True)
class ImageEntry:
    """One image of a store.

    Attributes
    ----------
    id : int
        Within this store.
    sha256 : str
        Of the pixels; see :func:`content_hash`.
    name : str
        As in :class:`~napari_point_defects.records.StemImage`.
    path : str
        Of the file, relative to the project folder, with forward slashes; empty where there is
        none (labels imported without their image).
    signal : str
        Which signal of the file.
    shape : (int, int)
        Height and width in pixels.
    material : str
        Formula.
    lattice : Lattice
    pixel_size_nm : (float, float) or None
        Height and width of a pixel as used in the census.
    pixel_size_source : str
    settings : dict
        Of the analysis, as far as JSON can say them.
    domains : tuple of Domain
        The first one's lattice is ``lattice``; none where the image is one crystal.
    area : AnalysedArea or None
        Where they are, and what was left out.
    """

    id: int
    sha256: str
    name: str
    path: str
    signal: str
    shape: tuple[int, int]
    material: str
    lattice: Lattice = field(compare=False)
    pixel_size_nm: tuple[float, float] | None
    pixel_size_source: str
    settings: dict[str, Any] = field(default_factory=dict, compare=False)
    domains: tuple[Domain, ...] = field(default=(), compare=False)
    area: AnalysedArea | None = field(default=None, compare=False)


def entry_row(entry: ImageEntry) -> tuple:
    """Return an entry as the database takes it, without its id."""
    lattice, size = entry.lattice, entry.pixel_size_nm or (None, None)
    return (
        entry.sha256,
        entry.name,
        entry.path,
        entry.signal,
        *(int(n) for n in entry.shape),
        entry.material,
        *(None if s is None else float(s) for s in size),
        entry.pixel_size_source,
        *np.asarray(lattice.origin_px, float).tolist(),
        *np.asarray(lattice.matrix_px, float).ravel().tolist(),
        float(lattice.quality),
        float(lattice.sublattice_confidence),
        json.dumps(entry.settings, sort_keys=True),
    )


def with_definition(settings: dict[str, Any], formula: str) -> dict[str, Any]:
    """Return an image's settings with the definition of its material, if it is the user's own.

    It travels with the labels, so that they can be opened where nobody has added the material.
    """
    definitions = own_definitions([formula])
    return settings | {_DEFINITIONS: definitions} if definitions else settings


def know_material(settings: dict[str, Any], where: str) -> None:
    """Know the material that an image's settings define, unless it is known already."""
    adopt_definitions(settings.get(_DEFINITIONS, ()), where, same=False)


def entry_of_row(row: tuple) -> ImageEntry:
    """Make an entry of a row of the database, its bending and its domains last.

    Raises
    ------
    PointDefectsError
        If it is damaged, or something else wrote it.
    """
    try:
        return _entry_of_row(row)
    except NOT_OURS as error:
        raise PointDefectsError(
            f"the labels of image {row[0]} are damaged ({brief(error)}): put a copy of their "
            "folder in its place"
        ) from error


def _entry_of_row(row: tuple) -> ImageEntry:
    numbers, settings = np.array(row[11:19], float).tolist(), dict(load_json(row[19]))
    sizes = None if row[8] is None else (float(row[8]), float(row[9]))
    if not np.isfinite([*numbers, *(sizes or ())]).all():
        raise ValueError("a number is not finite")
    if not all(isinstance(row[i], str) for i in (1, 2, 3, 4, 7, 10)):
        raise TypeError("there is something else in place of text")
    with suppress(PointDefectsError):  # of another version; labels are never lost over it
        know_material(settings, f"the labels of {row[2]}")
    lattice = Lattice(
        np.array(numbers[:2]),
        np.array(numbers[2:6]).reshape(2, 2),
        *numbers[6:],
        bending_of(None if row[20] is None else load_json(row[20])),
    )
    shape = (int(row[5]), int(row[6]))
    domains, area = domains_of(None if row[21] is None else load_json(row[21]), lattice, shape)
    return ImageEntry(
        id=row[0],
        sha256=row[1],
        name=row[2],
        path=row[3],
        signal=row[4],
        shape=shape,
        material=row[7],
        pixel_size_nm=sizes,
        pixel_size_source=row[10],
        lattice=lattice,
        settings=settings,
        domains=domains,
        area=area,
    )


def content_hash(data: np.ndarray) -> str:
    """Return the SHA-256 of an image's pixels, shape (M, N), as little-endian float32, and shape.

    All NaN count as the same.
    """
    pixels = np.ascontiguousarray(data, dtype="<f4")
    missing = np.isnan(pixels)
    if missing.any():
        pixels = np.where(missing, np.float32(np.nan), pixels)
    digest = hashlib.sha256(f"{pixels.shape[0]}x{pixels.shape[1]}:".encode())
    digest.update(pixels.data)
    return digest.hexdigest()


def store_image(image: StemImage, sha256: str, folder: Path) -> str:
    """Return the relative path of an image's file, and copy the image where it lies elsewhere."""
    from napari_point_defects.outputs import atomic_write

    inside = _path_inside(image, folder)
    if inside is not None and _holds(folder / inside, image.signal, sha256):
        return inside
    # a name that every file system takes, and that cannot leave the folder
    name = re.sub(r"[^\w.+-]+", "_", image.name).strip("._")[:80] or "image"
    relative = f"{COPIES}/{name}-{sha256[:8]}.tif"
    path = folder / relative
    if not path.is_file() or not _holds(path, "", sha256):
        import tifffile

        with atomic_write(path, overwrite=True) as temporary:
            tifffile.imwrite(temporary, _compact(np.asarray(image.data, np.float32)))
    return relative


def _path_inside(image: StemImage, folder: Path) -> str | None:
    """Return the file's path relative to the folder if it lies inside."""
    if image.path is None:
        return None
    try:
        return Path(image.path).resolve().relative_to(folder.resolve()).as_posix()
    except (ValueError, OSError):
        return None


def _compact(pixels: np.ndarray) -> np.ndarray:
    """Return float32 pixels as small integers where nothing is lost by it: most cameras count."""
    low, high = float(np.min(pixels)), float(np.max(pixels))  # NaN where one is
    if low >= 0 and high <= 65535:
        small = pixels.astype(np.uint8 if high <= 255 else np.uint16)
        if np.array_equal(small, pixels):
            return small
    return pixels


def holding_file(entry: ImageEntry, folder: Path) -> str | None:
    """Return the entry's relative path if the file there, inside the folder, is this image."""
    relative = safe_path(entry.path)
    if relative is None or not _is_inside(folder / relative, folder):
        return None
    return entry.path if _holds(folder / relative, entry.signal, entry.sha256) else None


def read_entry(entry: ImageEntry, folder: Path) -> StemImage:
    """Read an image of the store.

    Looks at the recorded path, then through the folder for a file that was moved or renamed.

    Raises
    ------
    PointDefectsError
        If no file holds these pixels any more.
    """
    changed = False
    for path in _candidates(entry, folder):
        pixels = _pixels(path, entry.signal)
        if pixels is None:
            continue
        if pixels.shape == entry.shape and content_hash(pixels) == entry.sha256:
            size, source = entry.pixel_size_nm, entry.pixel_size_source
            calibration = Calibration(size, source) if size else Calibration()
            return StemImage(pixels, entry.name, calibration, path, entry.signal)
        changed |= path == folder / entry.path
    what = "has other pixels than when it was labelled" if changed else "is not there"
    raise PointDefectsError(
        f"the image {entry.path or entry.name} of {folder} {what}: put the file back, or open the "
        "image in napari and find its unit cells again; its labels are kept"
    )


def _candidates(entry: ImageEntry, folder: Path) -> Iterator[Path]:
    """Yield files that may hold the image, likeliest first."""
    recorded = safe_path(entry.path)
    if recorded is not None:
        yield folder / recorded
    name = PurePosixPath(entry.path).name
    found = []
    for path in folder.rglob("*"):
        if path.is_file() and (path.name == name or entry.sha256[:8] in path.name):
            found.append(path)
        if len(found) >= _LARGEST_SEARCHED:
            break
    yield from sorted(found)
    # renamed, perhaps: any other image
    tried = {*found, folder / entry.path}
    yield from sorted(
        path
        for path in folder.rglob("*")
        if path.suffix.lower() in _suffixes() and path not in tried
    )


def safe_path(text: str) -> PurePosixPath | None:
    """Return a relative path that stays inside its folder, or None."""
    path = PurePosixPath(text.replace("\\", "/"))
    if not text or path.is_absolute() or ".." in path.parts or ":" in path.parts[0]:
        return None
    if any(len(part.encode(errors="replace")) > _LONGEST_NAME for part in path.parts):
        return None  # no file system has it
    return path


def _is_inside(path: Path, folder: Path) -> bool:
    """Tell whether a path stays inside a folder, links followed."""
    return path.resolve().is_relative_to(folder.resolve())


def _suffixes() -> set[str]:
    from napari_point_defects.readers import READERS

    return set(READERS)


def _holds(path: Path, signal: str, sha256: str) -> bool:
    pixels = _pixels(path, signal)
    return pixels is not None and content_hash(pixels) == sha256


def _pixels(path: Path, signal: str) -> np.ndarray | None:
    """Read a file's pixels as float32, or return None."""
    import tifffile

    from napari_point_defects.io import read_image

    if not path.is_file():
        return None
    if path.parent.name == COPIES and path.suffix == ".tif":
        try:
            # our own copy, exactly: the reader of foreign files takes large offsets away
            pixels = tifffile.imread(path)
        except (OSError, ValueError, tifffile.TiffFileError):
            return None
        return pixels.astype(np.float32) if pixels.ndim == 2 else None
    try:
        return read_image(path, signal=signal or None).data
    except PointDefectsError:
        return None
