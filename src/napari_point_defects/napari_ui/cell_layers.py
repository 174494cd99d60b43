"""How unit cells look: the Points layer of their bond centres and the Labels layer of their areas.

Pure: describes layers, touches no viewer.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from napari_point_defects.materials import CELL_AREA, CLASS_COLOURS, Material, get_material
from napari_point_defects.napari_ui.cell_tables import centres_px, new_row
from napari_point_defects.napari_ui.links import KEY, CellsLink
from napari_point_defects.records import Lattice

if TYPE_CHECKING:
    from napari.types import LayerDataTuple

DEFECT_SIZE = 0.38
"""Diameter of a defect's mark, in units of a."""

PERFECT_SIZE = 0.16
"""Diameter of a perfect cell's mark: there, but never in the way of the defects."""

STATE_COLOURS = {
    "predicted": "#101010",
    "confirmed": "#ffffff",
    "corrected": "#ffffff",
    "added": "#ffffff",
}
"""A white rim: a person stands behind this cell."""

_CHUNK_PIXELS = 2_000_000


def class_colours(material: Material) -> dict[str, str]:
    """Return the colour of each class name of a material, in class order."""
    return dict(zip(material.class_labels, CLASS_COLOURS.values(), strict=True))


@dataclass(frozen=True, slots=True)
class Marks:
    """Looks of the points, each of shape (N,)."""

    symbol: np.ndarray
    size: np.ndarray
    border_width: np.ndarray


def marks(table: pd.DataFrame, material: Material, a_px: float) -> Marks:
    """Return the marks of the cells; sizes in image pixels, borders relative to them."""
    perfect = table["label"].astype(str).to_numpy() == material.class_labels[0]
    plain = perfect & (table["state"] == "predicted").to_numpy()
    return Marks(
        symbol=np.where(perfect, "ring", "disc"),
        size=np.where(perfect, PERFECT_SIZE, DEFECT_SIZE) * a_px,
        border_width=np.where(plain, 0.0, np.where(perfect, 0.2, 0.1)),
    )


def cells_layer_data(
    table: pd.DataFrame, link: CellsLink, name: str, place: dict[str, Any]
) -> LayerDataTuple:
    """Describe the Points layer of a table of cells: data, keyword arguments, type."""
    material = get_material(link.settings.material)
    look = marks(table, material, link.detection.lattice.a_px)
    kwargs = {
        "name": name,
        "ndim": 2,
        "features": table,
        "feature_defaults": new_row(material),
        "face_color": "label",
        "face_color_cycle": class_colours(material),
        "border_color": "state",
        "border_color_cycle": STATE_COLOURS,
        "border_width": look.border_width,
        "symbol": look.symbol,
        "size": look.size,
        "metadata": {KEY: link},
        **place,
    }
    return centres_px(table), kwargs, "points"


def cell_mask(
    points_px: np.ndarray, classes: np.ndarray, lattice: Lattice, shape: tuple[int, int]
) -> np.ndarray:
    """Draw every unit cell's area, a × (√3/2) a about its bond centre, into an image.

    Parameters
    ----------
    points_px : ndarray of shape (N, 2)
        Bond centres (y, x).
    classes : ndarray of shape (N,), int
        ``DefectClass`` values.
    lattice : Lattice
    shape : (int, int)
        Of the image.

    Returns
    -------
    ndarray of shape ``shape``, uint8
        Class + 1 inside cells, 0 outside. Where drifted cells overlap, the defect wins.
    """
    mask = np.zeros(shape, np.uint8)
    half = np.array([CELL_AREA, 1.0]) / 2
    reach = np.ceil(np.abs(lattice.matrix_px) @ half).astype(int) + 1
    window = np.stack(
        np.meshgrid(*(np.arange(-r, r + 1) for r in reach), indexing="ij"), axis=-1
    ).reshape(-1, 2)  # (W, 2)
    inverse = np.linalg.inv(lattice.matrix_px).T
    order = np.argsort(classes, kind="stable")
    step = max(1, _CHUNK_PIXELS // len(window))
    for start in range(0, len(order), step):
        chunk = order[start : start + step]
        pixels = np.rint(points_px[chunk]).astype(int)[:, None] + window  # (C, W, 2)
        offset = (pixels - points_px[chunk][:, None]) @ inverse
        inside = (offset >= -half).all(-1) & (offset < half).all(-1)
        inside &= (pixels >= 0).all(-1) & (pixels < shape).all(-1)
        values = np.broadcast_to(classes[chunk][:, None] + 1, inside.shape)[inside]
        mask[tuple(pixels[inside].T)] = values
    return mask


def mask_layer_data(
    mask: np.ndarray, material: Material, name: str, place: dict[str, Any]
) -> LayerDataTuple:
    """Describe the Labels layer of a cell mask: data, keyword arguments, type."""
    from napari.utils.colormaps import DirectLabelColormap

    colours = {i + 1: colour for i, colour in enumerate(class_colours(material).values())}
    colours[1] += "40"  # perfect cells show what was counted, and no more
    colormap = DirectLabelColormap(color_dict={None: "transparent", 0: "transparent", **colours})
    kwargs = {
        "name": name,
        "colormap": colormap,
        "opacity": 0.4,
        "features": pd.DataFrame({"index": range(7), "class": ["", *material.class_labels]}),
        **place,
    }
    return mask, kwargs, "labels"
