"""What of an image was analysed: a Labels layer under the hexagons, and its legend. No Qt."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from napari_point_defects.analysed_area import (
    AREA_COLOURS,
    AREA_NAMES,
    DOMAIN_COLOURS,
    Domain,
)
from napari_point_defects.napari_ui.image_layers import placement
from napari_point_defects.napari_ui.links import KEY, AreaLink, own_layer, replace_layer

if TYPE_CHECKING:
    from napari import Viewer
    from napari.layers import Image
    from napari.types import LayerDataTuple

    from napari_point_defects.detections import Detection

_FINE_UP_TO = 2048**2
"""Pixels of an image up to which its layer has one label per pixel, and clean edges."""

_DOMAIN_ALPHA, _LEFT_OUT_ALPHA = "58", "c0"
_OPACITY = 0.45
_MOST_LINES = 6


def says_something(detection: Detection) -> bool:
    """Tell whether there is more to see than one crystal that fills the image."""
    area = detection.area
    return area is not None and (
        len(detection.domains) > 1 or bool(np.isin(area.labels, list(AREA_NAMES)).any())
    )


def domain_name(domain: Domain) -> str:
    """Name a domain, and say of what it is the mirror twin."""
    twin = f", mirror twin of {domain.twin_of}" if domain.twin_of else ""
    return f"domain {domain.number}{twin}"


def domain_colours(detection: Detection) -> dict[int, str]:
    """Return the colour of each domain; a single one has none, so that the image stays as it is."""
    domains = detection.domains
    if len(domains) < 2:
        return {}
    n = len(DOMAIN_COLOURS)
    return {domain.number: DOMAIN_COLOURS[i % n] for i, domain in enumerate(domains)}


def area_layer_data(detection: Detection, image: Image) -> LayerDataTuple:
    """Describe the Labels layer of the analysed area: data, keyword arguments, type.

    Its labels are those of :class:`~napari_point_defects.analysed_area.AnalysedArea`. Of a large
    image it has one label per sample of the map, which takes little memory.
    """
    from napari.utils.colormaps import DirectLabelColormap

    area = detection.area
    fine = int(np.prod(area.shape)) <= _FINE_UP_TO
    labels, step = (area.to_pixels(), 1) if fine else (area.labels, area.step_px)
    colours = {number: c + _DOMAIN_ALPHA for number, c in domain_colours(detection).items()}
    colours |= {code: c + _LEFT_OUT_ALPHA for code, c in AREA_COLOURS.items()}
    names = {domain.number: domain_name(domain) for domain in detection.domains} | AREA_NAMES
    kwargs = {
        "name": f"{image.name} analysed area",
        "colormap": DirectLabelColormap(
            color_dict={None: "transparent", 0: "transparent", **colours}
        ),
        "opacity": _OPACITY,
        "blending": "translucent",
        "features": pd.DataFrame({"index": list(names), "area": list(names.values())}),
        "metadata": {KEY: AreaLink(image.unique_id, step_px=step)},
        **coarser(image, step),
    }
    return labels, kwargs, "labels"


def coarser(image: Image, step: int) -> dict[str, Any]:
    """Return the placement of a layer each of whose pixels covers step × step of an image's."""
    from napari.utils.transforms import Affine

    place = placement(image)
    to_world = Affine(**{name: place[name] for name in ("scale", "translate", "rotate", "shear")})
    return place | {
        "scale": np.asarray(place["scale"]) * step,
        "translate": to_world(np.full(image.ndim, (step - 1) / 2)),
    }


def draw_area(viewer: Viewer, image: Image, detection: Detection) -> None:
    """Show the analysed area of a detection in place of the one before, if there is one to see."""
    from napari.layers import Layer

    old = own_layer(viewer.layers, image.unique_id, AreaLink)
    if not says_something(detection):
        if old is not None:
            viewer.layers.remove(old)
        return
    new = Layer.create(*area_layer_data(detection, image))
    if old is not None:
        new.visible, new.opacity = old.visible, old.opacity
    replace_layer(viewer, old, new)
    new.editable = False  # it says what was done
    if old is None:  # under all that is drawn on the image
        viewer.layers.move(viewer.layers.index(new), viewer.layers.index(image) + 1)


def area_legend(detection: Detection) -> str:
    """Return the domains and what was left out, with the layer's colours, as rich text.

    Empty where nothing is to be told.
    """
    if not says_something(detection):
        return ""
    area, domains = detection.area, detection.domains
    nm2 = float(np.prod(area.shape)) * float(np.prod(detection.pixel_size_nm))
    shares, colours = area.shares(), domain_colours(detection)
    several = f" in {len(domains)} domains" if len(domains) > 1 else ""
    lines = [f"<b>{shares['analysed'] * nm2:,.1f} nm² analysed</b>{several}, of {nm2:,.1f} nm²"]
    if len(domains) > 1:
        lines += [
            f"{_swatch(colours[domain.number])} {domain_name(domain)}: "
            f"{area.share_of(domain.number) * nm2:,.1f} nm², row at "
            f"{domain.lattice.angle_deg:.1f}°"
            for domain in domains[:_MOST_LINES]
        ]
        if len(domains) > _MOST_LINES:
            lines.append(f"… and {len(domains) - _MOST_LINES} smaller domains")
    lines += [
        f"{_swatch(AREA_COLOURS[code])} {name}, left out: {shares[name] * nm2:,.1f} nm²"
        for code, name in AREA_NAMES.items()
        if shares[name] > 0
    ]
    return "<br>".join(lines)


def _swatch(colour: str) -> str:
    return f"<span style='color: {colour}'>■</span>"
