"""Labels <-> COCO JSON. What COCO cannot say goes beside it, so that nothing is lost.

``bbox`` is (x, y, width, height); points of our own (``chalcogen``, ``metal``, ``centre``) are
(y, x), as in :mod:`napari_point_defects.training_set`. Unknown numbers are ``null``.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np

from napari_point_defects.labels.merging import ImageLabels
from napari_point_defects.labels.tables import (
    CELLS,
    CORNER_COLUMNS,
    HEXAGONS,
    POSITION_COLUMNS,
    PROBABILITY_COLUMNS,
    UNLABELLED,
)
from napari_point_defects.labels.validation import (
    class_code,
    class_name,
    image_entry,
    image_fields,
    items,
)
from napari_point_defects.materials import DefectClass
from napari_point_defects.training_set import CATEGORIES, FIRST_CELL_CATEGORY, HEXAGON_CATEGORY

FORMAT = "napari-point-defects labels 1"

_NO_CLASS_CATEGORY = FIRST_CELL_CATEGORY + len(DefectClass)
_CATEGORIES = [
    *CATEGORIES,
    {"id": _NO_CLASS_CATEGORY, "name": "UNLABELLED", "supercategory": "unit cell"},
]
_TRAIL = ("state", "weights", "author", "time", "revision")


def write_coco(labels: list[ImageLabels], path: Path) -> None:
    """Write labels to a JSON file."""
    images, annotations = [], []
    for image_id, one in enumerate(labels):
        fields = image_fields(one.entry)
        images.append({"id": image_id, "file_name": fields.pop("path"), **fields})
        found = [_hexagon(row) for row in one.hexagons.to_dict("records")]
        found += [_cell(row) for row in one.cells.to_dict("records")]
        for annotation in found:
            annotations.append({"id": len(annotations), "image_id": image_id, **annotation})
    content = {
        "info": {"description": "Labels of unit cells and hexagons", "format": FORMAT},
        "images": images,
        "annotations": annotations,
        "categories": _CATEGORIES,
    }
    text = json.dumps(content, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    path.write_text(text, encoding="utf-8")


def read_coco(path: Path) -> list[ImageLabels]:
    """Read labels from a JSON file.

    Raises
    ------
    KeyError, TypeError, ValueError, …
        If it is not one that :func:`write_coco` wrote.
    """
    content = json.loads(path.read_text(encoding="utf-8"), parse_constant=_no_constant)
    if content["info"].get("format") != FORMAT:
        raise ValueError("it was not written by `labels export`")
    rows: dict[Any, tuple[list, list]] = {image["id"]: ([], []) for image in content["images"]}
    for annotation in content["annotations"]:
        cells, hexagons = rows[annotation["image_id"]]
        if annotation["category_id"] == HEXAGON_CATEGORY:
            hexagons.append(_hexagon_row(annotation))
        else:
            cells.append(_cell_row(annotation))
    return [
        ImageLabels(
            image_entry({"path": image["file_name"], **image}),
            items(rows[image["id"]][0], CELLS),
            items(rows[image["id"]][1], HEXAGONS),
        )
        for image in content["images"]
    ]


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is no number in JSON")


def _cell(row: dict[str, Any]) -> dict[str, Any]:
    y, x, metal_y, metal_x = (row[c] for c in POSITION_COLUMNS)
    label = row["label"]
    category = _NO_CLASS_CATEGORY if label == UNLABELLED else FIRST_CELL_CATEGORY + label
    return {
        "category_id": int(category),
        "cell_id": row["cell_id"],
        **_box(np.array([[y, x], [metal_y, metal_x]])),
        "chalcogen": _plain([y, x]),
        "metal": _plain([metal_y, metal_x]),
        "predicted": class_name(row["predicted"]) or None,
        "confidence": _plain([row["confidence"]])[0],
        "votes": row["votes"],
        "probabilities": _plain([row[c] for c in PROBABILITY_COLUMNS]),
        **{key: row[key] for key in _TRAIL},
    }


def _cell_row(annotation: dict[str, Any]) -> dict[str, Any]:
    label = annotation["category_id"] - FIRST_CELL_CATEGORY
    if not 0 <= label <= len(DefectClass):
        raise ValueError(f"unknown category {annotation['category_id']}")
    positions = [*annotation["chalcogen"], *annotation["metal"]]
    return {
        "cell_id": annotation["cell_id"],
        "label": label if label < len(DefectClass) else UNLABELLED,
        "predicted": class_code(annotation["predicted"] or ""),
        "confidence": annotation["confidence"],
        "votes": annotation["votes"],
        **dict(zip(POSITION_COLUMNS, positions, strict=True)),
        **dict(zip(PROBABILITY_COLUMNS, annotation["probabilities"], strict=True)),
        **{key: annotation[key] for key in _TRAIL},
    }


def _hexagon(row: dict[str, Any]) -> dict[str, Any]:
    corners = np.array([row[c] for c in CORNER_COLUMNS]).reshape(4, 2)
    return {
        "category_id": HEXAGON_CATEGORY,
        "hexagon_id": row["hexagon_id"],
        **_box(corners),
        "segmentation": [_plain(corners[:, ::-1].ravel())],
        "centre": _plain(corners.mean(axis=0)),
        "score": _plain([row["score"]])[0],
        **{key: row[key] for key in _TRAIL},
    }


def _hexagon_row(annotation: dict[str, Any]) -> dict[str, Any]:
    (outline,) = annotation["segmentation"]
    corners = [c for x, y in zip(outline[::2], outline[1::2], strict=True) for c in (y, x)]
    return {
        "hexagon_id": annotation["hexagon_id"],
        "score": annotation["score"],
        **dict(zip(CORNER_COLUMNS, corners, strict=True)),
        **{key: annotation[key] for key in _TRAIL},
    }


def _box(points: np.ndarray) -> dict[str, Any]:
    """Return COCO's box about points (y, x)."""
    low, high = points.min(axis=0), points.max(axis=0)
    height, width = high - low
    return {
        "bbox": _plain([low[1], low[0], width, height]),
        "area": _plain([height * width])[0],
        "iscrowd": 0,
    }


def _plain(values: Any) -> list[float | None]:
    return [float(v) if math.isfinite(v) else None for v in values]
