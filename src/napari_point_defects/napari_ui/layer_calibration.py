"""Give an image layer another pixel size, and let all that lies on it follow. No Qt."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from napari_point_defects import io
from napari_point_defects.calibration import choose_pixel_size
from napari_point_defects.materials import get_material
from napari_point_defects.napari_ui.area_layers import coarser
from napari_point_defects.napari_ui.image_layers import (
    CALIBRATION_KEY,
    SOURCE_KEY,
    calibration_of,
)
from napari_point_defects.napari_ui.links import (
    KEY,
    AreaLink,
    CellsLink,
    HexagonsLink,
    MapLink,
    link_of,
)
from napari_point_defects.records import Calibration

if TYPE_CHECKING:
    from napari.layers import Image, Layer

_PLACE = ("scale", "translate", "rotate", "shear")


def calibrate(layers: Iterable[Layer], image: Image, calibration: Calibration) -> list[Layer]:
    """Set the pixel size of an image and of what was drawn on it.

    Hexagons, cells and shapes keep their pixels; what their analysis says of areas is worked out
    anew. The image's metadata note the size and its source, and what the layer had before it was
    first set.

    Parameters
    ----------
    layers : iterable of Layer
        All of the viewer's.
    image : Image
    calibration : Calibration
        None for its size takes the scale away.

    Returns
    -------
    list of Layer
        Layers of hexagons and cells whose census changes.
    """
    before = calibration_of(image)
    followers = [layer for layer in layers if layer is not image and _lies_on(layer, image)]
    noted = image.metadata.get(CALIBRATION_KEY, {})
    image.metadata[CALIBRATION_KEY] = {
        "pixel_size_nm": calibration.pixel_size_nm,
        "pixel_size_source": calibration.source,
        "original": noted.get("original", before),
    }
    counted = []
    for layer in followers:
        for kind in (HexagonsLink, CellsLink):
            link = link_of(layer, kind)
            if link is not None:
                layer.metadata[KEY] = recalibrated(link, before, calibration)
                counted.append(layer)
    # last: who hears of another scale finds links that agree with it
    for layer in (image, *followers):
        _rescale(layer, calibration.pixel_size_nm)
        link = link_of(layer, AreaLink) or link_of(layer, MapLink)
        if link is not None:  # its pixels are larger
            place = coarser(image, link.step_px)
            layer.scale, layer.translate = place["scale"], place["translate"]
    return counted


def recalibrated(
    link: HexagonsLink | CellsLink, before: Calibration, after: Calibration
) -> HexagonsLink | CellsLink:
    """Return the link of an analysis as it were had the image been calibrated otherwise."""
    settings, detection = link.settings, link.detection
    material = get_material(settings.material)
    if settings.pixel_size_nm is not None:
        before = Calibration((settings.pixel_size_nm,) * 2, "user")
    trust = settings.trust_pixel_size
    (_, _, old), (size, source, new) = (
        choose_pixel_size(each, detection.lattice, material, trust_file=trust)
        for each in (before, after)
    )
    others = [warning for warning in detection.warnings if warning != old]
    return replace(
        link,
        settings=settings.model_copy(update={"pixel_size_nm": None}),
        detection=replace(
            detection,
            pixel_size_nm=size,
            pixel_size_source=source,
            warnings=tuple(warning for warning in (new, *others) if warning),
        ),
    )


def file_calibration(image: Image) -> Calibration:
    """Return what the file of an image says, or else what the layer had when it was added.

    Raises
    ------
    PointDefectsError
        If the file cannot be read.
    """
    noted = image.metadata.get(SOURCE_KEY, {})
    if noted.get("pixel_size_source") in ("file", "none"):
        return Calibration(
            noted["pixel_size_nm"],
            noted["pixel_size_source"],
            noted.get("pixel_size_problem", ""),
        )
    original = image.metadata.get(CALIBRATION_KEY, {}).get("original") or calibration_of(image)
    if original.pixel_size_nm is not None and original.source == "file":
        return original
    path = noted.get("path") or image.source.path
    if path is None:
        return Calibration()
    return io.read_calibration(path, signal=noted.get("signal") or None)


def with_length(
    ends_px: np.ndarray, length_nm: float, calibration: Calibration
) -> tuple[float, float]:
    """Return the pixel size at which a line has a length; height over width stays as it is.

    Parameters
    ----------
    ends_px : ndarray of shape (2, 2)
    length_nm : float
    calibration : Calibration
        Gives height over width; square where it gives none.
    """
    height, width = calibration.pixel_size_nm or (1.0, 1.0)
    size = np.array([height, width]) / np.sqrt(height * width)
    scale = length_nm / np.linalg.norm((ends_px[1] - ends_px[0]) * size)
    return float(size[0] * scale), float(size[1] * scale)


def _lies_on(layer: Layer, image: Image) -> bool:
    """Tell whether a layer was drawn on an image, by the plugin or by hand."""
    from napari.layers import Image

    link = layer.metadata.get(KEY)
    if link is not None:
        return getattr(link, "image_id", None) == image.unique_id
    if isinstance(layer, Image) or layer.ndim != 2:
        return False
    same = all(np.allclose(getattr(layer, name), getattr(image, name)) for name in _PLACE)
    return same and layer.units == image.units


def _rescale(layer: Layer, size_nm: tuple[float, float] | None) -> None:
    """Change scale and units, and the translation with them: it is a number of pixels too."""
    size, unit = (size_nm, "nm") if size_nm is not None else ((1.0, 1.0), "pixel")
    scale, translate = np.array(layer.scale), np.array(layer.translate)
    new = scale.copy()
    new[-2:] = np.sign(scale[-2:]) * size
    layer.units = (*layer.units[:-2], unit, unit)
    layer.scale = new
    if translate.any():
        layer.translate = translate * (new / scale)
