"""Image to census: lattice, CNN-1, net-casting, CNN-2."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from napari_point_defects import networks
from napari_point_defects.analysed_area import AnalysedArea, Domain, restrict
from napari_point_defects.analysis_settings import AnalysisSettings
from napari_point_defects.appraisal import appraise
from napari_point_defects.calibration import choose_pixel_size
from napari_point_defects.detections import Analysis, Detection
from napari_point_defects.domains.casting import (
    DomainMap,
    cast_domains,
    classify_domains,
    find_hexagons,
    recast_domains,
    references,
    split,
)
from napari_point_defects.domains.report import area_notes
from napari_point_defects.domains.segmentation import find_domains
from napari_point_defects.errors import PointDefectsError, stop_if
from napari_point_defects.lattice import find_lattice, turned_like
from napari_point_defects.materials import Material, get_material
from napari_point_defects.netcasting import Recast
from napari_point_defects.records import Calibration, Hexagons, Lattice, StemImage, UnitCells
from napari_point_defects.region import lattice_inside, region_window
from napari_point_defects.region_limits import (
    cells_within,
    hexagons_within,
    recast_within,
)
from napari_point_defects.threads import small_matrices
from napari_point_defects.weights.trained_on import with_current_warning

if TYPE_CHECKING:
    from napari_point_defects.classification.prediction import Reference

Progress = Callable[[float, str], None]

LOADING = "loading PyTorch and the weights (the first time takes some seconds)"


def _nothing(share: float, text: str) -> None:
    """Report no progress."""


def _never() -> bool:
    """Never stop."""
    return False


@small_matrices()
def detect(
    image: StemImage,
    settings: AnalysisSettings,
    *,
    start: Lattice | None = None,
    on_progress: Progress = _nothing,
    should_stop: Callable[[], bool] = _never,
) -> Detection:
    """Find the lattice and the hexagonal cells of an image.

    Parameters
    ----------
    image : StemImage
    settings : AnalysisSettings
    start : Lattice, optional
        Of the frame before, where the image is one of a movie: the search starts there, and the
        unit cells are bonds of the same direction.
    on_progress, should_stop : callable

    Returns
    -------
    Detection

    Raises
    ------
    PointDefectsError
        If the image shows no 2H lattice or a setting cannot be used.
    Stopped
        If ``should_stop`` said yes.
    """
    material = get_material(settings.material)
    on_progress(0.0, LOADING)
    detector = networks.detector_of(settings)
    on_progress(0.0, "finding the lattice")
    domains, area, region_warning = _domains_inside(image.data, settings, material, start)
    stop_if(should_stop)
    lattice = domains[0].lattice
    calibration = image.calibration
    if settings.pixel_size_nm is not None:
        calibration = Calibration((settings.pixel_size_nm,) * 2, "user")
    size, source, warning = choose_pixel_size(
        calibration, lattice, material, trust_file=settings.trust_pixel_size
    )
    where = DomainMap(domains, area)
    warnings = with_current_warning(
        [*(line for line in (warning, region_warning) if line), *area_notes(where)],
        material.formula,
        networks.weights_of(settings),
    )
    if lattice.sublattice_confidence < 0.9 and settings.sublattice_rank == 0:
        warnings.append(
            f"which sublattice is X and which M is uncertain "
            f"({lattice.sublattice_confidence:.0%}): compare with --sublattice-rank 1"
        )
    hexagons = find_hexagons(
        detector.predict,
        image.data,
        where,
        min_score=settings.min_score,
        on_progress=lambda share, text: on_progress(0.1 + 0.9 * share, f"hexagons: {text}"),
        should_stop=should_stop,
    )
    hexagons = hexagons_within(hexagons, settings.region)
    if not len(hexagons):
        raise PointDefectsError(
            f"{image.name}: a lattice but no hexagonal cell was found; check the material, "
            "or lower --min-score"
        )
    # only now: hexagons on the region's edge vote for cells inside
    area = restrict(area, settings.region or ())
    return Detection(lattice, hexagons, size, source, tuple(warnings), domains, area)


@small_matrices()
def classify(
    image: StemImage,
    detection: Detection,
    settings: AnalysisSettings,
    *,
    on_progress: Progress = _nothing,
    should_stop: Callable[[], bool] = _never,
) -> UnitCells:
    """Cut the unit cells from the hexagons and classify each.

    Parameters
    ----------
    image : StemImage
    detection : Detection
    settings : AnalysisSettings
    on_progress, should_stop : callable

    Returns
    -------
    UnitCells

    Raises
    ------
    Stopped
        If ``should_stop`` said yes.
    """
    on_progress(0.0, LOADING)
    classifier = networks.classifier_of(settings)
    where = detection.domain_map
    cells = cast_domains(detection.hexagons, where, image.data.shape)
    cells = cells_within(cells, settings.region)
    stop_if(should_stop)
    several = len(where.domains) > 1
    cells = classify_domains(
        classifier.predict,
        image.data,
        cells,
        where,
        judged_against=references(classifier.reference, image.data, cells, where)
        if several
        else None,
        alpha=settings.alpha,
        beta=settings.beta,
        on_progress=on_progress,
        should_stop=should_stop,
    )
    # how frequent defects are, the cells of the image say together
    return replace(cells, probabilities=classifier.calibration.adapted(cells.probabilities))


@small_matrices()
def reference_of(
    image: StemImage, detection: Detection, cells: UnitCells, settings: AnalysisSettings
) -> dict[int, Reference | None]:
    """Return what the classifier judges the cells of each domain against, for :func:`reclassify`.

    By the domains' numbers; None where each cell stands alone.
    """
    classifier = networks.classifier_of(settings)
    return references(classifier.reference, image.data, cells, detection.domain_map)


@small_matrices()
def reclassify(
    image: StemImage,
    detection: Detection,
    cells: UnitCells,
    edits: Sequence[Hexagons],
    settings: AnalysisSettings,
    *,
    reference: dict[int, Reference | None] | None = None,
    on_progress: Progress = _nothing,
    should_stop: Callable[[], bool] = _never,
) -> list[Recast]:
    """Follow edits of the hexagons: cast and classify the cells that they concern, no others.

    Parameters
    ----------
    image : StemImage
    detection : Detection
        With the hexagons that ``cells``, the cells as they stand, were cast from.
    cells : UnitCells
    edits : sequence of Hexagons
        All hexagons after each edit, in the order of the edits.
    settings : AnalysisSettings
    reference : dict of Reference, optional
        From :func:`reference_of`; where absent, the mean of ``cells``.
    on_progress, should_stop : callable
        As in :func:`classify`.

    Returns
    -------
    list of Recast
        One per edit, with classified cells. The rows of each refer to what the edit before left
        (:meth:`~napari_point_defects.netcasting.Recast.applied_to`), the first's to ``cells``.
    """
    where, before, current = detection.domain_map, detection.hexagons, cells
    changes: list[Recast] = []
    for after in edits:
        change = recast_domains(before, after, current, where, image.data.shape)
        changes.append(recast_within(change, settings.region))
        before, current = after, changes[-1].applied_to(current)
    if not any(len(change.cells) for change in changes):
        return changes
    if reference is None:
        reference = reference_of(image, detection, cells if len(cells) else current, settings)
    classifier = networks.classifier_of(settings)
    classified = classify_domains(
        classifier.predict,
        image.data,
        UnitCells.joined([change.cells for change in changes]),
        where,
        judged_against=reference,
        beside=current,
        alpha=settings.alpha,
        beta=settings.beta,
        on_progress=on_progress,
        should_stop=should_stop,
    )
    adapted = classifier.calibration.adapted_to(cells.probabilities, classified.probabilities)
    classified = replace(classified, probabilities=adapted)
    parts = split(classified, [len(change.cells) for change in changes])
    return [replace(change, cells=part) for change, part in zip(changes, parts, strict=True)]


def analyze(
    image: StemImage,
    settings: AnalysisSettings,
    *,
    on_progress: Progress = _nothing,
    should_stop: Callable[[], bool] = _never,
) -> Analysis:
    """Find, classify and count every unit cell of an image.

    Parameters
    ----------
    image : StemImage
    settings : AnalysisSettings
    on_progress, should_stop : callable

    Returns
    -------
    Analysis

    Raises
    ------
    PointDefectsError
        If the image shows no 2H lattice or a setting cannot be used.
    Stopped
        If ``should_stop`` said yes.
    """
    detection = detect(
        image,
        settings,
        on_progress=lambda share, text: on_progress(0.5 * share, text),
        should_stop=should_stop,
    )
    cells = classify(
        image,
        detection,
        settings,
        on_progress=lambda share, text: on_progress(0.5 + 0.5 * share, f"classes: {text}"),
        should_stop=should_stop,
    )
    return appraise(image, detection, cells, settings)


def _domains_inside(
    data: np.ndarray,
    settings: AnalysisSettings,
    material: Material,
    start: Lattice | None = None,
) -> tuple[tuple[Domain, ...], AnalysedArea, str | None]:
    """Find the domains of an image, or those in the user's region; and what to warn of."""
    rank, region = settings.sublattice_rank, settings.region
    if region is not None:
        region_window(region, data.shape)
    try:
        domains, area = find_domains(data, material, rank=rank, start=start)
    except PointDefectsError:
        if region is None:
            raise
        # what surrounds the region may be no monolayer at all
        lattice, warning = lattice_inside(
            data, region, lambda part: find_lattice(part, material, rank=rank)
        )
        if start is not None:
            lattice = turned_like(lattice, start)
        return (Domain(1, lattice),), AnalysedArea.whole(data.shape), warning
    if region is None:
        return domains, area, None
    inside = restrict(area, region).labels
    chosen = tuple(domain for domain in domains if (inside == domain.number).any())
    if not chosen:
        raise PointDefectsError(
            "the region holds no unit cell: draw it where the map of the analysed area shows a "
            "monolayer, and larger"
        )
    return chosen, area, None
