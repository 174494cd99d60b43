"""The part of an image that the user chose: polygons in image pixels, in files and as masks.

A region is a tuple of polygons, each a tuple of corners (y, x), pixel centres at integers. What
lies in any of them is chosen. A unit cell belongs to the region if the middle of its bond lies in
it: there is one such point per primitive cell, so that the area of the cells counted is the area
chosen, with no cell cut in two.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np

from napari_point_defects.errors import PointDefectsError
from napari_point_defects.json_files import brief, load_json
from napari_point_defects.records import Lattice

Polygon = tuple[tuple[float, float], ...]
Region = tuple[Polygon, ...]

_LEAST_SIDE_PX = 64  # of the window that a lattice is looked for in
_SURROUNDINGS_PX = 256
_ENOUGH_CELLS = 150  # for a lattice of its own
_FEW_CELLS_ERROR = 0.2  # of a lattice that fewer cells show, as a strain
_ELLIPSE_CORNERS = 128
_CHUNK = 2_000_000  # pairs of points and edges at a time


def as_region(polygons: Iterable[Sequence[Sequence[float]]]) -> Region:
    """Make a region of polygons, each a sequence of corners (y, x).

    Raises
    ------
    ValueError
        If there is no polygon, or one has fewer than three corners, no area, or a corner that is
        not two finite numbers.
    """
    region = []
    for number, polygon in enumerate(polygons):
        try:
            corners = np.array(polygon, float)
        except (TypeError, ValueError):
            corners = np.empty(0)
        if corners.ndim != 2 or corners.shape[1] != 2 or not np.isfinite(corners).all():
            raise ValueError(f"polygon {number} is no list of corners [y, x] in pixels")
        if len(corners) > 1 and (corners[0] == corners[-1]).all():
            corners = corners[:-1]  # closed twice, as GIS programs do
        if len(np.unique(corners, axis=0)) < 3 or not np.ptp(corners, axis=0).all():
            raise ValueError(f"polygon {number} has no area: give it three corners or more")
        region.append(tuple((float(y), float(x)) for y, x in corners))
    if not region:
        raise ValueError("no polygon: draw one, or choose the whole image")
    return tuple(region)


def outline(shape_type: str, corners: np.ndarray) -> np.ndarray | None:
    """Return the polygon of one of napari's shapes; None for a line, which has no inside.

    Parameters
    ----------
    shape_type : str
        ``"rectangle"``, ``"polygon"``, ``"path"`` (closed here), ``"ellipse"`` or ``"line"``.
    corners : ndarray of shape (K, 2)
        An ellipse has the four corners of the box about it.

    Returns
    -------
    ndarray of shape (L, 2) or None
    """
    corners = np.asarray(corners, float)
    if shape_type == "line" or len(corners) < 3:
        return None
    if shape_type != "ellipse":
        return corners
    turn = np.linspace(0, 2 * np.pi, _ELLIPSE_CORNERS, endpoint=False)
    # a little outside the ellipse, so that the polygon has the ellipse's area
    size = math.sqrt(2 * np.pi / _ELLIPSE_CORNERS / math.sin(2 * np.pi / _ELLIPSE_CORNERS))
    half = (corners[1] - corners[0]) * size / 2, (corners[3] - corners[0]) * size / 2
    return corners.mean(axis=0) + np.outer(np.cos(turn), half[0]) + np.outer(np.sin(turn), half[1])


def inside_region(points_px: np.ndarray, region: Region) -> np.ndarray:
    """Tell which points lie in any polygon of a region.

    Where a polygon crosses itself, the part enclosed twice is outside.

    Parameters
    ----------
    points_px : ndarray of shape (N, 2)
    region : tuple of polygons

    Returns
    -------
    ndarray of shape (N,), bool
    """
    points = np.asarray(points_px, float).reshape(-1, 2)
    inside = np.zeros(len(points), bool)
    for polygon in region:
        start, end = _edges(polygon)
        step = max(1, _CHUNK // len(start))
        for first in range(0, len(points), step):
            y, x = points[first : first + step, :, None].transpose(1, 0, 2)  # (P, 1) each
            crosses = (start[:, 0] <= y) != (end[:, 0] <= y)  # (P, E)
            left = crosses & (_crossing(start, end, y) <= x)
            inside[first : first + step] |= left.sum(axis=1) % 2 == 1
    return inside


def region_mask(
    region: Region, shape: tuple[int, int], corner: tuple[int, int] = (0, 0)
) -> np.ndarray:
    """Return which pixels have their centre in a region.

    Parameters
    ----------
    region : tuple of polygons
    shape : (int, int)
        Of the mask.
    corner : (int, int)
        Pixel of the image at the mask's upper left.

    Returns
    -------
    ndarray of shape ``shape``, bool
        As :func:`inside_region` says of every pixel.
    """
    mask = np.zeros(shape, bool)
    for polygon in region:
        # 1 where a row, read from left to right, enters or leaves the polygon
        turns = np.zeros((shape[0], shape[1] + 1), np.uint8)
        for start, end in zip(*_edges(np.asarray(polygon) - corner), strict=True):
            if start[0] == end[0]:
                continue
            low, high = np.clip(np.ceil(sorted((start[0], end[0]))), 0, shape[0]).astype(int)
            rows = np.arange(low, high)
            columns = np.clip(np.ceil(_crossing(start, end, rows)), 0, shape[1]).astype(int)
            turns[rows, columns] ^= 1
        mask |= np.bitwise_xor.accumulate(turns, axis=1)[:, :-1].astype(bool)
    return mask


def region_area_px(region: Region, shape: tuple[int, int]) -> int:
    """Return the area of a region inside an image, in square pixels; overlaps count once."""
    window = _window(region, shape, 0)
    if window is None:
        return 0
    size = tuple(side.stop - side.start for side in window)
    return int(region_mask(region, size, tuple(side.start for side in window)).sum())


def lattice_inside(
    data: np.ndarray, region: Region | None, find: Callable[[np.ndarray], Lattice]
) -> tuple[Lattice, str | None]:
    """Find the lattice of a region alone, blind to what lies around it.

    A region of few cells takes the lattice of its surroundings where its own is the same within
    the error of so few cells: the surroundings' is far better known.

    Parameters
    ----------
    data : ndarray of shape (M, N), float
    region : tuple of polygons or None
        None for the whole image.
    find : callable
        Returns the lattice of pixels, NaN where there are none.

    Returns
    -------
    lattice : Lattice
        In pixels of the whole image.
    warning : str or None
        Where the region is too small for a lattice of its own, and its surroundings' was taken.

    Raises
    ------
    PointDefectsError
        If the region lies outside the image, or there is no lattice.
    """
    if region is None:
        return find(data), None
    window = region_window(region, data.shape)
    corner = [side.start for side in window]
    part = data[window]
    mask = region_mask(region, part.shape, corner)
    own, refusal = _find(find, np.where(mask, part, np.float32(np.nan)), corner)
    if own is not None and mask.sum() >= _ENOUGH_CELLS * own.cell_area_px:
        return own, None
    around = tuple(
        slice(max(side.start - grown, 0), side.stop + grown)
        for side in window
        for grown in [max(_SURROUNDINGS_PX, side.stop - side.start)]
    )
    wide, _ = _find(find, data[around], [side.start for side in around])
    if own is None:
        if wide is None:
            raise refusal
        return wide, (
            "the region shows no lattice of its own, so its surroundings' is used: "
            "draw a larger region if it lies in another grain"
        )
    return (wide if wide is not None and _same(own, wide) else own), None


def region_window(region: Region, shape: tuple[int, int]) -> tuple[slice, slice]:
    """Return the part of an image about a region, large enough to look for a lattice in.

    Raises
    ------
    PointDefectsError
        If the region lies outside the image.
    """
    window = _window(region, shape, _LEAST_SIDE_PX)
    if window is None:
        raise PointDefectsError(
            f"the region lies outside the image, which has {shape[0]} × {shape[1]} "
            "pixels: draw it on the image; corners are (y, x) in pixels"
        )
    return window


def _find(
    find: Callable[[np.ndarray], Lattice], part: np.ndarray, corner: Sequence[int]
) -> tuple[Lattice | None, PointDefectsError | None]:
    """Find the lattice of a part of an image, in the image's pixels, or why there is none."""
    try:
        return find(part).moved(corner), None
    except PointDefectsError as refusal:
        return None, refusal


def _same(own: Lattice, wide: Lattice) -> bool:
    """Tell whether two lattices are one within the error of few cells, whatever their sites."""
    step = np.linalg.inv(wide.matrix_px) @ own.matrix_px
    turns = np.arange(6) * np.pi / 3
    turned = [[[np.cos(t), np.sin(t)], [-np.sin(t), np.cos(t)]] for t in turns]
    return min(np.linalg.norm(step - turn, 2) for turn in turned) < _FEW_CELLS_ERROR


def read_region(path: str | Path) -> Region:
    """Read a region from a file.

    Parameters
    ----------
    path : str or Path
        A csv file as napari saves a Shapes layer (columns ``index``, ``shape-type``,
        ``vertex-index``, ``axis-0``, ``axis-1``), or a json file that holds
        ``{"polygons_px": [[[y, x], …], …]}``, that list alone, or a census.

    Raises
    ------
    PointDefectsError
        If it cannot be read, or holds no polygon.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8-sig")
        if path.suffix.lower() == ".csv":
            polygons = _csv_polygons(text)
        elif path.suffix.lower() == ".json":
            polygons = _json_polygons(load_json(text))
        else:
            raise ValueError("use a csv file that napari saved of a Shapes layer, or a json file")
        return as_region(polygons)
    except OSError as error:
        raise PointDefectsError(f"cannot read the region {path}: {error.strerror}") from error
    except (ValueError, KeyError, TypeError) as error:
        raise PointDefectsError(f"{path.name} holds no region: {brief(error)}") from error


def _json_polygons(content: object) -> object:
    """Find the list of polygons in a region's or a census' JSON."""
    if isinstance(content, dict):
        content = content.get("region", content)
    if isinstance(content, dict):
        content = content.get("polygons_px")
    if not isinstance(content, list):
        raise ValueError('give {"polygons_px": [[[y, x], …], …]}, corners in pixels')
    return content


def _csv_polygons(text: str) -> list[np.ndarray]:
    """Return the outlines of the shapes that napari saved; lines are left out."""
    shapes: dict[str, tuple[str, list[list[float]]]] = {}
    reader = csv.DictReader(text.splitlines())
    axes = [name for name in reader.fieldnames or () if name.startswith("axis-")]
    if len(axes) < 2 or not {"index", "shape-type"} <= set(reader.fieldnames or ()):
        raise ValueError("it has no columns index, shape-type, axis-0, axis-1")
    for row in reader:
        _, corners = shapes.setdefault(row["index"], (row["shape-type"], []))
        corners.append([float(row[axis]) for axis in axes[-2:]])
    outlines = [outline(kind, np.array(corners)) for kind, corners in shapes.values()]
    return [polygon for polygon in outlines if polygon is not None]


def _edges(polygon: Polygon | np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return both ends of a polygon's edges, each of shape (E, 2)."""
    start = np.asarray(polygon, float)
    return start, np.roll(start, -1, axis=0)


def _crossing(start: np.ndarray, end: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Return the x at which edges cross rows y; anything where they do not."""
    rise = end[..., 0] - start[..., 0]
    slope = (end[..., 1] - start[..., 1]) / np.where(rise == 0, 1, rise)
    return start[..., 1] + (y - start[..., 0]) * slope


def _window(region: Region, shape: tuple[int, int], least: int) -> tuple[slice, slice] | None:
    """Return the part of an image about a region, at least so many pixels wide, or None."""
    corners = np.concatenate([np.asarray(polygon) for polygon in region])
    low = np.maximum(np.ceil(corners.min(axis=0)), 0).astype(int)
    high = np.minimum(np.floor(corners.max(axis=0)) + 1, shape).astype(int)
    if (high <= low).any():
        return None
    missing = np.maximum(least - (high - low), 0)
    low = np.clip(low - missing // 2, 0, np.maximum(np.array(shape) - least, 0))
    high = np.minimum(np.maximum(high, low + least), shape)
    return slice(int(low[0]), int(high[0])), slice(int(low[1]), int(high[1]))
