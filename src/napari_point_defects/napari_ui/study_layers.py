"""Strain and residual of a study as image layers. No Qt."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from napari_point_defects.napari_ui.area_layers import coarser
from napari_point_defects.napari_ui.links import KEY, MapLink
from napari_point_defects.strain import COMPONENTS

if TYPE_CHECKING:
    from napari.layers import Image
    from napari.types import LayerDataTuple

    from napari_point_defects.study import Study

_SIGMAS = 6.0
_SAMPLES_PER_A = 6
_OPACITY = 0.6
_COLOURS = [[0.13, 0.4, 0.67, 1], [0.97, 0.97, 0.97, 0.25], [0.7, 0.09, 0.17, 1]]
"""Blue below, clear at, red above zero."""


@dataclass(frozen=True, slots=True)
class MapChoice:
    """One map that a study can be drawn as.

    Attributes
    ----------
    title : str
        In the list of maps.
    suffix : str
        Of the layer's name.
    """

    title: str
    suffix: str


RESIDUAL = MapChoice("image less its twin [σ]", "less its twin")
MAPS = (
    MapChoice("strain along x [%]", "strain e_xx [%]"),
    MapChoice("strain along y [%]", "strain e_yy [%]"),
    MapChoice("shear strain [%]", "strain e_xy [%]"),
    MapChoice("rotation of the lattice [°]", "lattice rotation [°]"),
    RESIDUAL,
)
"""The strain's components in their order, then the residual."""


def map_layer_data(found: Study, image: Image, choice: MapChoice) -> LayerDataTuple:
    """Describe the image layer of one of a study's maps: data, keyword arguments, type."""
    from napari.utils import Colormap

    if choice is RESIDUAL:
        picture, step, most = found.twin.residual, 1, _SIGMAS
    else:
        a_px = found.detection.lattice.a_px
        component = MAPS.index(choice)
        step = max(1, round(a_px / _SAMPLES_PER_A))
        picture = found.strain.picture(found.image.data.shape, step, a_px)[component]
        picture = picture * (1.0 if COMPONENTS[component].endswith("deg") else 100.0)
        known = np.abs(picture[np.isfinite(picture)])
        most = max(float(np.percentile(known, 98)), 1e-4) if known.size else 1.0
    kwargs = {
        "name": f"{image.name} {choice.suffix}",
        "metadata": {KEY: MapLink(image.unique_id, step_px=step, kind=choice.suffix)},
        "colormap": Colormap(_COLOURS, name="blue to red"),
        "contrast_limits": (-most, most),
        "opacity": _OPACITY,
        "blending": "translucent",
        **coarser(image, step),
    }
    return picture, kwargs, "image"
