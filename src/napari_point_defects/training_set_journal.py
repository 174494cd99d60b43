"""What a split has of annotations while it is being written: one line per image.

A line is appended whenever an image is on disk, so that a program may be killed at any moment.
``annotations.json`` is put together from the lines without reading them: a large set's
annotations are hundreds of megabytes.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from napari_point_defects.errors import PointDefectsError
from napari_point_defects.json_files import brief, load_json, read_json

ANNOTATIONS = "annotations.json"
FILE = "unfinished.jsonl"
"""Beside the images of a split that is not whole."""

_IMAGE, _ANNOTATIONS, _END = b'{"image":', b',"annotations":[', b"]}\n"
"""What stands around an image's entry and its annotations in a line of the journal."""


NOT_OURS = (AttributeError, IndexError, KeyError, OverflowError, TypeError, ValueError)
"""Raised by annotations that this program did not write."""


def refusal(path: Path, error: Exception) -> PointDefectsError:
    """Say that a file is not what it should be."""
    return PointDefectsError(f"{path} is not a training set: {brief(error)}")


def image_path(folder: Path, image: Mapping[str, Any]) -> Path:
    """Return where an image of a split lies: always beside the annotations, and a PNG.

    Raises
    ------
    KeyError, TypeError, ValueError
        If its entry names no such file.
    """
    name = Path(image["file_name"]).name
    if not name.endswith(".png"):
        raise ValueError(f"{name[:40]!r} is no PNG")
    return folder / name


def compact(content: Any) -> bytes:
    """Return JSON without spaces."""
    return json.dumps(content, separators=(",", ":")).encode()


def line(
    image: bytes, annotations: Iterable[bytes], file_name: str, *, image_id: int, first_id: int
) -> bytes:
    """Return the line of an image, its entries given their ids."""
    numbered = (
        _with_keys(annotation, id=first_id + i, image_id=image_id)
        for i, annotation in enumerate(annotations)
    )
    entry = _with_keys(image, id=image_id, file_name=file_name)
    return b"".join([_IMAGE, entry, _ANNOTATIONS, b",".join(numbered), _END])


def _with_keys(entry: bytes, **first: Any) -> bytes:
    """Put keys before those of an object."""
    return compact(first)[:-1] + b"," + entry[1:]


def texts(path: Path) -> Iterator[tuple[bytes, bytes]]:
    """Yield the image's entry and the annotations of every line, without reading them."""
    with path.open("rb") as file:
        for line in file:
            image, annotations = line[len(_IMAGE) : -len(_END)].split(_ANNOTATIONS, 1)
            yield image, annotations


def joined(parts: Iterable[bytes]) -> Iterator[bytes]:
    """Put commas between what is not empty."""
    first = True
    for part in parts:
        if part:
            yield part if first else b"," + part
            first = False


def whole_lines(path: Path) -> Iterator[tuple[dict[str, Any], int]]:
    """Yield a journal's entries and where each ends; a line cut off by a kill ends them."""
    end = 0
    with path.open("rb") as file:
        for line in file:
            if not (line.startswith(_IMAGE) and _ANNOTATIONS in line and line.endswith(_END)):
                return
            try:
                entry = load_json(line)
            except ValueError:
                return
            end += len(line)
            yield entry, end


def rebuild(folder: Path) -> None:
    """Make the journal of a split that was closed as whole, to go on with it.

    Raises
    ------
    PointDefectsError
        If its annotations are not one of ours.
    """
    path = folder / ANNOTATIONS
    try:
        content = read_json(path)
        entries = {image["id"]: {"image": image, "annotations": []} for image in content["images"]}
        for annotation in content["annotations"]:
            entries[annotation["image_id"]]["annotations"].append(annotation)
    except NOT_OURS as error:
        raise refusal(path, error) from error
    temporary = folder / f"{FILE}.tmp"
    temporary.write_bytes(b"".join(compact(entry) + b"\n" for entry in entries.values()))
    temporary.replace(folder / FILE)


def images_written(folder: Path) -> int:
    """Count the images of a split, whole or not, without reading them."""
    journal = folder / FILE
    if journal.exists():
        with journal.open("rb") as file:
            return sum(line.endswith(b"\n") for line in file)
    return sum(1 for _ in folder.glob("*.png")) if (folder / ANNOTATIONS).exists() else 0


def is_whole(folder: Path) -> bool:
    """Tell whether a split was written to its end."""
    return (folder / ANNOTATIONS).exists() and not (folder / FILE).exists()
