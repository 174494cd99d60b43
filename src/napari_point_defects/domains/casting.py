"""Hexagons and unit cells domain by domain: each is found, cast and judged in its own lattice."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from napari_point_defects.analysed_area import AnalysedArea, Domain
from napari_point_defects.materials import CHALCOGEN_SITES, METAL_SITES
from napari_point_defects.netcasting import Recast, cast_net, recast
from napari_point_defects.records import Hexagons, Lattice, UnitCells

OWN_MEAN_FROM = 150
"""Cells from which on a domain is judged against its own mean window: that of fewer is noisier
than what a twin or a grain of the same material differs by."""

_SURROUNDINGS_A = 2.5  # of a domain that CNN-1 is shown

Progress = Callable[[float, str], None]


@dataclass(frozen=True, slots=True)
class DomainMap:
    """The domains of an image and where they are.

    Attributes
    ----------
    domains : tuple of Domain
    area : AnalysedArea or None
        None: all of the image is domain 1.
    """

    domains: tuple[Domain, ...]
    area: AnalysedArea | None = None

    def number_at(self, points_px: np.ndarray) -> np.ndarray:
        """Return the number of the domain at points (..., 2), the nearest where there is none."""
        if self.area is None or len(self.domains) == 1:
            return np.full(np.shape(points_px)[:-1], self.domains[0].number)
        return self.area.domain_at(points_px)

    @classmethod
    def one(cls, lattice: Lattice) -> DomainMap:
        """Return the map of an image that is a single crystal."""
        return cls((Domain(1, lattice),))

    def lattice_of(self, number: int) -> Lattice:
        """Return the lattice of a domain, the largest one's where there is no such domain."""
        return next((d for d in self.domains if d.number == number), self.domains[0]).lattice

    def settled(self, points_px: np.ndarray, known: np.ndarray | None = None) -> np.ndarray:
        """Return the domain of what lies at points (N, 2).

        That is the one there; where none was found, the one it is known to belong to, or else
        the nearest.

        Parameters
        ----------
        points_px : ndarray of shape (N, 2)
        known : ndarray of shape (N,), int, optional
            0 where nothing is known.
        """
        number = self.number_at(points_px)
        if known is None or self.area is None or not len(number):
            return number
        here = [domain.number for domain in self.domains]
        off = ~np.isin(self.area.at(points_px), here) & np.isin(known, here)
        return np.where(off, known, number)

    def matrices_at(self, points_px: np.ndarray, number: np.ndarray | None = None) -> np.ndarray:
        """Return the local matrix of the lattice about points, shape (N, 2) to (N, 2, 2).

        Parameters
        ----------
        points_px : ndarray of shape (N, 2)
        number : ndarray of shape (N,), int, optional
            Domain of each; by default the one there, or the nearest.
        """
        points_px = np.asarray(points_px, float).reshape(-1, 2)
        number = self.number_at(points_px) if number is None else np.asarray(number)
        found = np.empty((len(points_px), 2, 2))
        for each in np.unique(number):
            rows = number == each
            found[rows] = self.lattice_of(each).matrix_at(points_px[rows])
        return found

    def of_hexagons(self, hexagons: Hexagons) -> np.ndarray:
        """Return each hexagon's domain: what it says, or where its middle lies."""
        middles = np.asarray(hexagons.corners_px, float).reshape(-1, 4, 2).mean(axis=1)
        return np.where(hexagons.domain > 0, hexagons.domain, self.number_at(middles))

    def of_cells(self, cells: UnitCells) -> np.ndarray:
        """Return each cell's domain: what it says, or where its middle lies."""
        return np.where(cells.domain > 0, cells.domain, self.number_at(cells.centres_px))


def find_hexagons(
    predict: Callable[..., Hexagons],
    data: np.ndarray,
    where: DomainMap,
    *,
    on_progress: Progress,
    should_stop: Callable[[], bool],
    **options: Any,
) -> Hexagons:
    """Run CNN-1 in each domain's lattice; drop the hexagons that leave it.

    Parameters
    ----------
    predict : callable
        ``Detector.predict``.
    data : ndarray of shape (M, N)
    where : DomainMap
    on_progress, should_stop : callable
    **options
        For ``predict``.
    """
    parts = []
    count = len(where.domains)
    for index, domain in enumerate(where.domains):
        corner, part = np.zeros(2), data
        if count > 1:
            corner, part = surroundings(data, domain, where.area)
        found = predict(
            part,
            domain.lattice.moved(-corner),
            on_progress=lambda share, text, index=index: on_progress((index + share) / count, text),
            should_stop=should_stop,
            **options,
        )
        number = np.full(len(found), domain.number)
        found = Hexagons(found.corners_px + corner, found.scores, number)
        parts.append(found.take(_inside(found, domain, where.area)))
    return Hexagons.joined(parts)


def surroundings(
    data: np.ndarray, domain: Domain, area: AnalysedArea
) -> tuple[np.ndarray, np.ndarray]:
    """Return the corner and the pixels of the box about a domain; NaN far from it.

    Raises
    ------
    ValueError
        If the domain is nowhere.
    """
    from scipy.ndimage import distance_transform_edt

    step = area.step_px
    if not (area.labels == domain.number).any():
        raise ValueError(f"domain {domain.number} is nowhere")
    near = distance_transform_edt(area.labels != domain.number) * step
    near = near <= _SURROUNDINGS_A * domain.lattice.a_px
    rows, cols = np.flatnonzero(near.any(1)), np.flatnonzero(near.any(0))
    box = slice(rows[0], rows[-1] + 1), slice(cols[0], cols[-1] + 1)
    corner = np.array([box[0].start, box[1].start]) * step
    part = np.array(
        data[corner[0] : box[0].stop * step, corner[1] : box[1].stop * step], np.float32
    )
    shown = np.repeat(np.repeat(near[box], step, 0), step, 1)
    part[~shown[: part.shape[0], : part.shape[1]]] = np.nan
    return corner.astype(float), part


def _inside(hexagons: Hexagons, domain: Domain, area: AnalysedArea | None) -> np.ndarray:
    """Which hexagons lie in a domain: their middles and their six columns."""
    if area is None or not len(hexagons):
        return np.ones(len(hexagons), bool)
    boxes = hexagons.canonical_boxes(domain.lattice)
    middles = (boxes[:, :2] + boxes[:, 2:]) / 2
    sites = np.concatenate([[[0.0, 0.0]], CHALCOGEN_SITES, METAL_SITES])
    inside = area.at(domain.lattice.to_image(middles[:, None] + sites)) == domain.number
    return inside.all(axis=1)


def cast_domains(hexagons: Hexagons, where: DomainMap, shape: tuple[int, int]) -> UnitCells:
    """Cast the net over the hexagons of each domain.

    Returns
    -------
    UnitCells
        Domain after domain, each as :func:`~napari_point_defects.netcasting.cast_net` orders it.
    """
    number = where.of_hexagons(hexagons)
    parts = []
    for domain in where.domains:
        cells = cast_net(hexagons.take(number == domain.number), domain.lattice, shape)
        parts.append(replace(cells, domain=np.full(len(cells), domain.number)))
    return UnitCells.joined(parts)


def recast_domains(
    before: Hexagons,
    after: Hexagons,
    cells: UnitCells,
    where: DomainMap,
    shape: tuple[int, int],
) -> Recast:
    """Follow an edit of the hexagons in each domain, as for all of the image.

    See :func:`~napari_point_defects.netcasting.recast`.
    """
    was, now, own = where.of_hexagons(before), where.of_hexagons(after), where.of_cells(cells)
    parts, rows = [], []
    for domain in where.domains:
        mine = np.flatnonzero(own == domain.number)
        found = recast(
            before.take(was == domain.number),
            after.take(now == domain.number),
            cells.take(mine),
            domain.lattice,
            shape,
        )
        numbered = replace(found.cells, domain=np.full(len(found.cells), domain.number))
        parts.append(replace(found, cells=numbered))
        rows.append(mine)
    return Recast(
        kept=np.sort(np.concatenate([r[p.kept] for p, r in zip(parts, rows, strict=True)])),
        dropped=np.sort(np.concatenate([r[p.dropped] for p, r in zip(parts, rows, strict=True)])),
        cells=UnitCells.joined([part.cells for part in parts]),
        successor_of=np.concatenate(
            [
                np.where(p.successor_of >= 0, np.append(r, -1)[p.successor_of], -1)
                for p, r in zip(parts, rows, strict=True)
            ]
        ),
    )


def references(
    reference: Callable[..., Any],
    data: np.ndarray,
    cells: UnitCells,
    where: DomainMap,
) -> dict[int, Any]:
    """Return what each domain's cells are judged against, by number.

    Mirror twins and grains are seen through another direction of the same scan, whose jitter and
    astigmatism stay with the image: each has a mean of its own, but one of few cells takes the
    largest domain's.

    Parameters
    ----------
    reference : callable
        ``Classifier.reference``.
    data : ndarray of shape (M, N)
    cells : UnitCells
    where : DomainMap
    """
    own = where.of_cells(cells)
    found: dict[int, Any] = {}
    by_size = sorted(where.domains, key=lambda domain: -(own == domain.number).sum())
    for domain in by_size:
        mine = own == domain.number
        if found and mine.sum() < OWN_MEAN_FROM:
            found[domain.number] = next(iter(found.values()))
        else:
            found[domain.number] = reference(data, domain.lattice, cells.take(mine))
    return found


def classify_domains(
    predict: Callable[..., UnitCells],
    data: np.ndarray,
    cells: UnitCells,
    where: DomainMap,
    *,
    judged_against: dict[int, Any] | None,
    beside: UnitCells | None = None,
    on_progress: Progress,
    should_stop: Callable[[], bool],
    **options: Any,
) -> UnitCells:
    """Run CNN-2 over the cells of each domain in its own lattice.

    Parameters
    ----------
    predict : callable
        ``Classifier.predict``.
    data : ndarray of shape (M, N)
    cells : UnitCells
    where : DomainMap
    judged_against : dict, optional
        From :func:`references`; where absent, the mean of each domain's own cells.
    beside : UnitCells, optional
        More cells that are there.
    on_progress, should_stop : callable
    **options
        For ``predict``.

    Returns
    -------
    UnitCells
        In the order of ``cells``.
    """
    own = where.of_cells(cells)
    probabilities = np.array(cells.probabilities, float)
    done, total = 0, max(len(cells), 1)
    for domain in where.domains:
        rows = np.flatnonzero(own == domain.number)
        if not len(rows) and len(where.domains) > 1:
            continue
        extra = options
        if judged_against is not None and judged_against.get(domain.number) is not None:
            extra = options | {"reference": judged_against[domain.number]}
        if beside is not None:
            extra = extra | {"beside": beside.take(where.of_cells(beside) == domain.number)}
        found = predict(
            data,
            domain.lattice,
            cells.take(rows),
            on_progress=lambda share, text, done=done, size=len(rows): on_progress(
                (done + share * size) / total, text
            ),
            should_stop=should_stop,
            **extra,
        )
        probabilities[rows] = found.probabilities
        done += len(rows)
    return replace(cells, probabilities=probabilities, domain=own)


def split(cells: UnitCells, sizes: Sequence[int]) -> list[UnitCells]:
    """Undo :meth:`UnitCells.joined`: parts of so many cells."""
    ends = np.cumsum(sizes)
    return [cells.take(np.arange(end - n, end)) for n, end in zip(sizes, ends, strict=True)]
