"""Labels <-> three CSV files: one row per cell, per hexagon and per image.

Classes are named as in ``DefectClass``; unknown numbers are empty; numbers are exact.
"""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from napari_point_defects.json_files import load_json
from napari_point_defects.labels.merging import ImageLabels
from napari_point_defects.labels.tables import CELLS, HEXAGONS, Kind
from napari_point_defects.labels.validation import (
    class_code,
    class_name,
    image_entry,
    image_fields,
    items,
)

CELLS_FILE, HEXAGONS_FILE, IMAGES_FILE = "cells.csv", "hexagons.csv", "images.csv"
FILES = (CELLS_FILE, HEXAGONS_FILE, IMAGES_FILE)

_IMAGE_COLUMNS = ("sha256", "image")


def write_csv(labels: list[ImageLabels], paths: dict[str, Path]) -> None:
    """Write labels; ``paths`` says where each of :data:`FILES` goes."""
    entries = [_flat(image_fields(one.entry)) for one in labels]
    # not every image says everything
    columns = list(dict.fromkeys(c for e in entries for c in e)) or ["sha256"]
    rows = ([e.get(c, "null") for c in columns] for e in entries)
    _write(paths[IMAGES_FILE], columns, rows)
    for name, kind in ((CELLS_FILE, CELLS), (HEXAGONS_FILE, HEXAGONS)):
        rows = (
            [one.entry.sha256, one.entry.name, *(_text(row[c], c, kind) for c in kind.columns)]
            for one in labels
            for row in (one.cells if kind is CELLS else one.hexagons).to_dict("records")
        )
        _write(paths[name], [*_IMAGE_COLUMNS, *kind.columns], rows)


def read_csv(folder: Path) -> list[ImageLabels]:
    """Read labels from the three files in a folder.

    Raises
    ------
    KeyError, TypeError, ValueError, …
        If they are not as :func:`write_csv` writes them.
    """
    tables: dict[Kind, dict[str, list]] = {}
    images = [_nested(row) for row in _read(folder / IMAGES_FILE)]
    for name, kind in ((CELLS_FILE, CELLS), (HEXAGONS_FILE, HEXAGONS)):
        tables[kind] = {image["sha256"]: [] for image in images}
        for row in _read(folder / name):
            values = {c: _value(row[c], c, kind) for c in kind.columns}
            tables[kind][row["sha256"]].append(values)
    return [
        ImageLabels(
            image_entry(image),
            items(tables[CELLS][image["sha256"]], CELLS),
            items(tables[HEXAGONS][image["sha256"]], HEXAGONS),
        )
        for image in images
    ]


def _write(path: Path, columns: list[str], rows: Iterable[list]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(columns)
        writer.writerows(rows)  # floats by repr, which is exact


def _read(path: Path) -> Iterable[dict[str, str]]:
    # spreadsheets put a mark before the first column's name
    with path.open(newline="", encoding="utf-8-sig") as file:
        reader = csv.DictReader(file, strict=True)
        if "sha256" not in (reader.fieldnames or ()):
            raise ValueError(f"{path.name} has no column sha256")
        for row in reader:
            if None in row or None in row.values():
                raise ValueError(f"{path.name} has a row of another length")
            yield row


def _text(value: Any, column: str, kind: Kind) -> Any:
    if column in kind.codes:
        return class_name(value)
    if isinstance(value, float):
        return value if math.isfinite(value) else ""
    return value


def _value(text: str, column: str, kind: Kind) -> Any:
    if column in kind.codes:
        return class_code(text)
    if column in kind.floats:
        return float(text) if text else None
    return int(text) if column in (kind.id, *kind.integers, "revision") else text


def _flat(fields: dict[str, Any]) -> dict[str, Any]:
    """Write an image's fields as one row: what is not plain as JSON."""
    return {k: v if isinstance(v, str | int) else json.dumps(v) for k, v in fields.items()}


def _nested(row: dict[str, str]) -> dict[str, Any]:
    plain = ("sha256", "name", "path", "signal", "material", "pixel_size_source")
    return {k: v if k in plain else load_json(v) for k, v in row.items()}
