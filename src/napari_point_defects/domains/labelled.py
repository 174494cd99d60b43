"""Labels of an image of several domains: each is learned from in its own lattice."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from napari_point_defects.analysed_area import AnalysedArea, Domain
from napari_point_defects.domains.casting import DomainMap, surroundings
from napari_point_defects.training_set import LabelledImage


def by_domain(
    item: LabelledImage, domains: tuple[Domain, ...], area: AnalysedArea | None
) -> Iterator[LabelledImage]:
    """Split a labelled image into one for each of its domains.

    Each has the pixels that CNN-1 is shown of the domain, NaN farther away, and the labels that
    lie in it: a box or a cell seen in another domain's frame would be learned turned or mirrored.

    Parameters
    ----------
    item : LabelledImage
    domains : tuple of Domain
        With one or none, the image is left as it is.
    area : AnalysedArea or None
    """
    if len(domains) < 2 or area is None:
        yield item
        return
    where = DomainMap(domains, area)
    boxes = where.number_at(item.hexagons_px)
    cells = where.number_at((item.chalcogen_px + item.metal_px) / 2)
    for domain in domains:
        mine, own = boxes == domain.number, cells == domain.number
        if not mine.any() and not own.any():
            continue
        corner, pixels = surroundings(item.pixels, domain, area)
        yield replace(
            item,
            pixels=pixels,
            lattice=domain.lattice.moved(-corner),
            hexagons_px=item.hexagons_px[mine] - corner,
            chalcogen_px=item.chalcogen_px[own] - corner,
            metal_px=item.metal_px[own] - corner,
            classes=item.classes[own],
        )
