"""How unit cells look: the Points layer of their bond centres and the Labels layer of their areas.

Pure: describes layers, touches no viewer.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from napari_point_defects.domains.casting import DomainMap
from napari_point_defects.materials import CELL_AREA, Material, get_material
from napari_point_defects.napari_ui.cell_tables import (
    STATES,
    centres_px,
    codes_of,
    new_row,
    open_questions,
    with_domains,
)
from napari_point_defects.napari_ui.links import KEY, CellsLink
from napari_point_defects.palettes import colours_in_use

if TYPE_CHECKING:
    from napari.types import LayerDataTuple
    from napari.utils.colormaps import DirectLabelColormap

DEFECT_SIZE = 0.38
"""Diameter of a defect's mark, in units of a."""

PERFECT_SIZE = 0.16
"""Diameter of a perfect cell's mark: there, but never in the way of the defects."""

CURRENT_SIZE = 1.1
"""Diameter of the open mark about the one selected cell: it shows the columns inside."""

_CURRENT_BORDER = 0.07
_DECIDED_PERFECT = 0.7
"""Size of a perfect cell's mark, relative to a defect's, once the user has decided on it."""

RIM_COLOURS = {
    "predicted": "#101010",
    "confirmed": "#ffffff",
    "corrected": "#ffffff",
    "added": "#ffffff",
}
"""A white rim: a person stands behind this cell."""

_CHUNK_PIXELS = 2_000_000


def class_colours(material: Material) -> dict[str, str]:
    """Return the colour of each class name of a material, in class order."""
    return dict(zip(material.class_labels, colours_in_use().values(), strict=True))


@dataclass(frozen=True, slots=True)
class StateMark:
    """How a state looks, whatever the class.

    Attributes
    ----------
    symbol : str
        napari's name.
    size : float
        Relative to a predicted defect's mark.
    rim : float
        Width of the rim relative to the mark's size.
    """

    symbol: str
    size: float
    rim: float


STATE_MARKS = {
    "predicted": StateMark("disc", 1.0, 0.1),
    "confirmed": StateMark("disc", 1.15, 0.22),
    "corrected": StateMark("diamond", 1.5, 0.18),
    "added": StateMark("square", 1.15, 0.2),
}
"""Symbol and rim say the state, the colour inside the class. A user's mark has a white rim."""

UNSURE_MARK = StateMark("disc", 1.2, 0.24)
"""A hollow mark: the network is unsure of this cell, and nobody has decided on it."""


@dataclass(frozen=True, slots=True)
class Marks:
    """Looks of N points.

    Attributes
    ----------
    symbol : ndarray of shape (N,), str
    size : ndarray of shape (N,)
        In image pixels.
    border_width : ndarray of shape (N,)
        Relative to the size.
    face_color, border_color : ndarray of shape (N, 4)
        RGBA, 0 to 1.
    """

    symbol: np.ndarray
    size: np.ndarray
    border_width: np.ndarray
    face_color: np.ndarray
    border_color: np.ndarray


def marks(
    table: pd.DataFrame, material: Material, a_px: float, current_id: int | None = None
) -> Marks:
    """Return the marks of the cells of a table.

    Parameters
    ----------
    table : DataFrame
    material : Material
    a_px : float
        Lattice constant, in pixels.
    current_id : int, optional
        ``cell_id`` of the cell whose mark is open, so that its columns can be seen.
    """
    classes = codes_of(table["label"], material.class_labels)
    states = codes_of(table["state"], STATES)
    looks = [STATE_MARKS[state] for state in STATES]
    perfect, plain = classes == 0, states == 0
    symbol = np.array([look.symbol for look in looks])[states].astype(object)
    symbol[perfect & plain] = "ring"
    defect_size = DEFECT_SIZE * np.array([look.size for look in looks])[states]
    perfect_size = np.where(plain, PERFECT_SIZE, _DECIDED_PERFECT * defect_size)
    size = np.where(perfect, perfect_size, defect_size)
    border_width = np.array([look.rim for look in looks])[states]
    border_width[perfect & plain] = 0.0
    face_color = rgba(tuple(class_colours(material).values()))[classes]
    border_color = rgba(tuple(RIM_COLOURS.values()))[states]
    doubtful = open_questions(table)
    symbol[doubtful], border_width[doubtful] = UNSURE_MARK.symbol, UNSURE_MARK.rim
    size[doubtful] = (
        DEFECT_SIZE * UNSURE_MARK.size * np.where(perfect, _DECIDED_PERFECT, 1)[doubtful]
    )
    border_color[doubtful] = face_color[doubtful]
    face_color[doubtful, 3] = 0.0
    if current_id is not None:
        current = table["cell_id"].to_numpy() == current_id
        size[current], border_width[current] = CURRENT_SIZE, _CURRENT_BORDER
        symbol[current & (symbol == "ring")] = "disc"
        border_color[current] = face_color[current]
        border_color[current, 3] = 1.0
        face_color[current, 3] = 0.0
    return Marks(symbol, size * a_px, border_width, face_color, border_color)


def rgba(colours: tuple[str, ...]) -> np.ndarray:
    """Turn "#rrggbb" into RGBA, 0 to 1, shape (K, 4)."""
    rgb = [[int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)] for colour in colours]
    return np.column_stack([rgb, np.ones(len(rgb))]).astype(np.float32)


def cells_layer_data(
    table: pd.DataFrame, link: CellsLink, name: str, place: dict[str, Any]
) -> LayerDataTuple:
    """Describe the Points layer of a table of cells: data, keyword arguments, type."""
    material = get_material(link.settings.material)
    table = with_domains(table, link.detection.domain_map)
    look = marks(table, material, link.detection.lattice.a_px)
    kwargs = {
        "name": name,
        "ndim": 2,
        "features": table,
        "feature_defaults": new_row(material),
        # direct colours: a colour cycle is worked out anew for all cells at every edit
        "face_color": look.face_color if len(table) else "white",
        "border_color": look.border_color if len(table) else "white",
        "border_width": look.border_width,
        "symbol": look.symbol,
        "size": look.size,
        "metadata": {KEY: link},
        **place,
    }
    return centres_px(table), kwargs, "points"


def cell_mask(
    points_px: np.ndarray,
    classes: np.ndarray,
    where: DomainMap,
    shape: tuple[int, int],
    domain: np.ndarray | None = None,
) -> np.ndarray:
    """Draw every unit cell's area, a × (√3/2) a about its bond centre, into an image.

    Parameters
    ----------
    points_px : ndarray of shape (N, 2)
        Bond centres (y, x).
    classes : ndarray of shape (N,), int
        ``DefectClass`` values.
    where : DomainMap
        Gives each cell the matrix of its own domain, at its own place.
    shape : (int, int)
        Of the image.
    domain : ndarray of shape (N,), int, optional
        Of each cell; by default the nearest one.

    Returns
    -------
    ndarray of shape ``shape``, uint8
        Class + 1 inside cells, 0 outside. Where drifted cells overlap, the defect wins.
    """
    mask = np.zeros(shape, np.uint8)
    half = np.array([CELL_AREA, 1.0]) / 2
    matrices = where.matrices_at(points_px, domain)  # (N, 2, 2)
    reach = np.abs(matrices) @ half
    reach = np.ceil(reach.max(axis=0, initial=0)).astype(int) + 1
    window = np.stack(
        np.meshgrid(*(np.arange(-r, r + 1) for r in reach), indexing="ij"), axis=-1
    ).reshape(-1, 2)  # (W, 2)
    inverse = np.linalg.inv(matrices).swapaxes(1, 2)
    order = np.argsort(classes, kind="stable")
    step = max(1, _CHUNK_PIXELS // len(window))
    for start in range(0, len(order), step):
        chunk = order[start : start + step]
        pixels = np.rint(points_px[chunk]).astype(int)[:, None] + window  # (C, W, 2)
        offset = (pixels - points_px[chunk][:, None]) @ inverse[chunk]
        inside = (offset >= -half).all(-1) & (offset < half).all(-1)
        inside &= (pixels >= 0).all(-1) & (pixels < shape).all(-1)
        values = np.broadcast_to(classes[chunk][:, None] + 1, inside.shape)[inside]
        mask[tuple(pixels[inside].T)] = values
    return mask


def mask_colormap() -> DirectLabelColormap:
    """Return the colours of a cell mask: class + 1, and nothing outside cells."""
    from napari.utils.colormaps import DirectLabelColormap

    colours = {i + 1: colour for i, colour in enumerate(colours_in_use().values())}
    colours[1] += "40"  # perfect cells show what was counted, and no more
    return DirectLabelColormap(color_dict={None: "transparent", 0: "transparent", **colours})


def mask_layer_data(
    mask: np.ndarray, material: Material, name: str, place: dict[str, Any]
) -> LayerDataTuple:
    """Describe the Labels layer of a cell mask: data, keyword arguments, type."""
    labels = ["", *material.class_labels]
    kwargs = {
        "name": name,
        "colormap": mask_colormap(),
        "opacity": 0.4,
        "features": pd.DataFrame({"index": range(len(labels)), "class": labels}),
        **place,
    }
    return mask, kwargs, "labels"
