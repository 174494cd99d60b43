"""A movie in napari: its stack in, its defects and births as Points with a time axis out. No Qt."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from napari_point_defects.errors import PointDefectsError
from napari_point_defects.materials import DefectClass
from napari_point_defects.movies.events import BORN
from napari_point_defects.napari_ui.cell_layers import DEFECT_SIZE
from napari_point_defects.napari_ui.image_layers import calibration_of, is_micrograph, placement
from napari_point_defects.napari_ui.links import KEY, MovieLink
from napari_point_defects.palettes import colours_in_use
from napari_point_defects.stacks import Stack, array_stack

if TYPE_CHECKING:
    from napari.layers import Image, Layer
    from napari.types import LayerDataTuple

    from napari_point_defects.movies.analysis import Movie
    from napari_point_defects.movies.frames import Frame

DEFECTS, BIRTHS = "defects", "births"
"""Kinds of layers, and what their names end in."""

AXES = ("t", "y", "x")
_RING_SIZE = 1.0  # in a
_BORN_NOW, _BORN_BEFORE = "#00e5ff", "#ffffff"


def is_movie(layer: Layer) -> bool:
    """Tell whether a layer is a stack of grey frames that the plugin did not draw."""
    return is_micrograph(layer) and not layer.rgb and layer.ndim == 3


def stack_of(layer: Layer | None) -> Stack:
    """Return the stack of an image layer; its frames are taken when they are asked for.

    Raises
    ------
    PointDefectsError
        If there is none, or it holds no intensities.
    """
    if layer is None:
        raise PointDefectsError("no movie is open: open a stack (T, Y, X)")
    data = layer.data[0] if layer.multiscale else layer.data
    name = re.sub(r"[^\w.+-]+", "_", layer.name).strip("_.") or "movie"
    unit, step = layer.units[0], float(abs(layer.scale[0]))
    time = float((step * unit).to("s").magnitude) if unit.is_compatible_with("s") else None
    return array_stack(data, name, calibration_of(layer), time)


def stack_layer_data(stack: Stack) -> LayerDataTuple:
    """Describe the image layer of a stack: each frame is read when it is looked at."""
    import dask
    import dask.array as da

    first = stack.load(0)
    frames = [
        da.from_delayed(dask.delayed(stack.load)(index), stack.shape[1:], first.dtype)
        for index in range(len(stack))
    ]
    finite = first[np.isfinite(first)]
    low, high = np.percentile(finite, (0.1, 99.9)) if finite.size else (0.0, 1.0)
    kwargs = {
        "name": stack.name,
        "axis_labels": AXES,
        "contrast_limits": (float(low), float(max(high, low + 1e-6))),
        "multiscale": False,
    }
    size = stack.calibration.pixel_size_nm
    if size is not None:
        time = stack.frame_time_s
        kwargs |= {
            "scale": (time or 1.0, *size),
            "units": ("s" if time else "pixel", "nm", "nm"),
        }
    return da.stack(frames), kwargs, "image"


def _defective(movie: Movie) -> Iterator[tuple[Frame, int, int]]:
    """Yield frame, row and track of every cell that is defective by all frames together."""
    for frame, link in zip(movie.frames, movie.links.links, strict=True):
        if link.segment < 0:
            continue
        known = movie.histories.classes[link.tracks, frame.index]
        for row in np.flatnonzero(known > 0):
            yield frame, int(row), int(link.tracks[row])


def defects_points(movie: Movie, image: Image) -> dict[str, Any]:
    """Return what napari's Points of all defective cells in all linked frames are made of."""
    labels = movie.material.class_labels
    places, classes, rows = [], [], []
    for frame, row, track in _defective(movie):
        known = int(movie.histories.classes[track, frame.index])
        places.append((frame.index, *frame.cells.centres_px[row]))
        classes.append(known)
        rows.append(
            {
                "frame": frame.index,
                "track_id": track,
                "label": labels[known],
                "probability": float(movie.histories.probability[track, frame.index]),
            }
        )
    columns = ["frame", "track_id", "label", "probability"]
    palette = colours_in_use()
    colours = _rgba([palette[DefectClass(c)] for c in classes])
    return _points(movie, image, DEFECTS, places, pd.DataFrame(rows, columns=columns)) | {
        "face_color": colours if len(colours) else "white",
        "border_color": "#101010",
        "border_width": 0.1,
        "size": DEFECT_SIZE * _a_px(movie),
    }


def births_points(movie: Movie, image: Image) -> dict[str, Any]:
    """Return the same of rings about cells that became defective, for as long as they are."""
    born: dict[int, list[tuple[int, float]]] = {}
    for event in movie.events:
        if event.kind == BORN:
            born.setdefault(event.track, []).append((event.frame, event.probability))
    places, colours, rows = [], [], []
    for frame, row, track in _defective(movie):
        before = [each for each in born.get(track, ()) if each[0] <= frame.index]
        if not before:
            continue
        at, probability = before[-1]
        places.append((frame.index, *frame.cells.centres_px[row]))
        colours.append(_BORN_NOW if at == frame.index else _BORN_BEFORE)
        rows.append({"track_id": track, "born_frame": at, "probability": probability})
    columns = ["track_id", "born_frame", "probability"]
    return _points(movie, image, BIRTHS, places, pd.DataFrame(rows, columns=columns)) | {
        "face_color": "transparent",
        "border_color": _rgba(colours) if colours else "white",
        "border_width": 0.09,
        "size": _RING_SIZE * _a_px(movie),
    }


def _rgba(colours: list[str]) -> np.ndarray:
    """Return colours as napari wants many of them, shape (N, 4)."""
    from matplotlib.colors import to_rgba_array

    return to_rgba_array(colours)


def _a_px(movie: Movie) -> float:
    return float(np.median([frame.lattice.a_px for frame in movie.frames]))


def _points(
    movie: Movie, image: Image, kind: str, places: list, features: pd.DataFrame
) -> dict[str, Any]:
    """Return the keyword arguments that both layers share, ``data`` among them."""
    return {
        "data": np.array(places, float).reshape(-1, 3),
        "name": f"{image.name} {kind}",
        "features": features,
        "metadata": {KEY: MovieLink(image.unique_id, kind=kind)},
        "symbol": "disc",
        **placement(image),
    }
