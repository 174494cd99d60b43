"""napari image layers <-> :class:`StemImage`, with pixel sizes in nanometres."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_point_defects.errors import PointDefectsError
from napari_point_defects.napari_ui.links import MapLink, link_of
from napari_point_defects.records import Calibration, StemImage

if TYPE_CHECKING:
    from napari.layers import Image, Layer
    from napari.types import LayerDataTuple

AXES = ("y", "x")
SOURCE_KEY = "napari-point-defects: file"
CALIBRATION_KEY = "napari-point-defects: pixel size"
"""What the user set, in a layer's metadata; the other key keeps what the file says."""


def is_micrograph(layer: Layer) -> bool:
    """Tell whether a layer is an image of a sample, not one that the plugin drew of its results."""
    from napari.layers import Image

    return isinstance(layer, Image) and link_of(layer, MapLink) is None


def pixel_size_nm(layer: Layer) -> tuple[float, float] | None:
    """Return the height and width of the layer's pixel, or None where its units are no lengths."""
    sizes = []
    for scale, unit in zip(layer.scale[-2:], layer.units[-2:], strict=True):
        if not unit.is_compatible_with("nm"):
            return None
        sizes.append(float((abs(scale) * unit).to("nm").magnitude))
    return sizes[0], sizes[1]


def calibration_of(layer: Layer) -> Calibration:
    """Return the layer's pixel size and where it comes from.

    Raises
    ------
    PointDefectsError
        If the layer's units are reciprocal.
    """
    if any(unit.is_compatible_with("1/nm") for unit in layer.units[-2:]):
        raise PointDefectsError(
            f"{layer.name!r} is a diffraction pattern (its units are {layer.units[-1]}): choose "
            "an image"
        )
    size = pixel_size_nm(layer)
    if size is None:
        problem = layer.metadata.get(SOURCE_KEY, {}).get("pixel_size_problem", "")
        return Calibration(None, "none", problem)
    for key in (CALIBRATION_KEY, SOURCE_KEY):
        noted = layer.metadata.get(key, {})
        # a scale that was changed elsewhere since is not what was noted
        if noted.get("pixel_size_nm") and np.allclose(noted["pixel_size_nm"], size, rtol=1e-6):
            return Calibration(size, noted["pixel_size_source"])
    return Calibration(size, "file")


def check_image(layer: Layer | None) -> Image:
    """Return the layer if it can be analysed.

    Raises
    ------
    PointDefectsError
        If there is none, or it is no grey-scale image of two dimensions.
    """
    from napari.layers import Image

    if layer is None:
        raise PointDefectsError("no image is open: open one, or a sample under File ▸ Open Sample")
    if not isinstance(layer, Image):
        raise PointDefectsError(
            f"{layer.name!r} is a {type(layer).__name__} layer: choose an Image layer"
        )
    if layer.rgb:
        raise PointDefectsError(
            f"{layer.name!r} is a colour image: split it (Layers ▸ Split RGB) and choose the "
            "channel that holds the HAADF signal"
        )
    if layer.ndim != 2:
        raise PointDefectsError(
            f"{layer.name!r} has {layer.ndim} dimensions: choose a single frame (right-click the "
            "layer ▸ Split Stack, or a projection), or follow a movie with Analyse movie"
        )
    return layer


def stem_image(layer: Layer | None) -> StemImage:
    """Make the record of an image layer.

    Raises
    ------
    PointDefectsError
        As in :func:`check_image`.
    """
    layer = check_image(layer)
    data = layer.data[0] if layer.multiscale else layer.data
    source = layer.metadata.get(SOURCE_KEY, {})
    return StemImage(
        data=np.asarray(data, dtype=np.float32),
        # files are named after it
        name=re.sub(r"[^\w.+-]+", "_", layer.name).strip("_.") or "image",
        calibration=calibration_of(layer),
        path=source.get("path"),
        signal=source.get("signal", ""),
    )


def image_layer_data(image: StemImage, name: str | None = None) -> LayerDataTuple:
    """Describe the image layer of a record: data, keyword arguments, type."""
    kwargs: dict[str, Any] = {
        "name": name or image.name,
        "axis_labels": AXES,
        "metadata": {
            SOURCE_KEY: {
                "path": image.path,
                "signal": image.signal,
                "pixel_size_nm": image.calibration.pixel_size_nm,
                "pixel_size_source": image.calibration.source,
                "pixel_size_problem": image.calibration.problem,
            }
        },
    }
    if image.calibration.pixel_size_nm is not None:
        kwargs |= {"scale": image.calibration.pixel_size_nm, "units": ("nm", "nm")}
    return image.data, kwargs, "image"


def placement(layer: Layer) -> dict[str, Any]:
    """Return the keyword arguments that put another layer's pixels on this one's."""
    return {
        "scale": layer.scale,
        "translate": layer.translate,
        "rotate": layer.rotate,
        "shear": layer.shear,
        "affine": layer.affine,
        "units": layer.units,
        "axis_labels": layer.axis_labels,
    }
