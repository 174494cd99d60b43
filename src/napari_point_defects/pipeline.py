"""Image to census: lattice, CNN-1, net-casting, CNN-2."""

from __future__ import annotations

import platform
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from napari_point_defects import __version__
from napari_point_defects.analysed_area import AnalysedArea, Domain
from napari_point_defects.analysis_settings import AnalysisSettings
from napari_point_defects.census import census_dict, choose_pixel_size, take_census
from napari_point_defects.classification.prediction import Classifier
from napari_point_defects.detection.prediction import Detector
from napari_point_defects.domains.casting import (
    DomainMap,
    cast_domains,
    classify_domains,
    find_hexagons,
    recast_domains,
    references,
    split,
)
from napari_point_defects.domains.report import area_notes, domains_report
from napari_point_defects.domains.segmentation import find_domains
from napari_point_defects.errors import PointDefectsError
from napari_point_defects.materials import get_material
from napari_point_defects.netcasting import Recast
from napari_point_defects.records import Hexagons, Lattice, StemImage, UnitCells

Progress = Callable[[float, str], None]


@dataclass(frozen=True, slots=True)
class Detection:
    """Lattice and hexagons of an image.

    Attributes
    ----------
    lattice : Lattice
    hexagons : Hexagons
    pixel_size_nm : (float, float)
        Height and width of a pixel as used in the census.
    pixel_size_source : str
    warnings : tuple of str
    domains : tuple of Domain
        Grains and mirror twins, the largest first; its lattice is ``lattice``.
    area : AnalysedArea or None
        Where they are, and what was left out; None where all of the image is one domain.
    """

    lattice: Lattice
    hexagons: Hexagons
    pixel_size_nm: tuple[float, float]
    pixel_size_source: str
    warnings: tuple[str, ...] = ()
    domains: tuple[Domain, ...] = ()
    area: AnalysedArea | None = None

    @property
    def domain_map(self) -> DomainMap:
        """The domains and where they are: one, if nothing else is said."""
        return DomainMap(self.domains or (Domain(1, self.lattice),), self.area)

    def lattice_at(self, point_px: np.ndarray) -> Lattice:
        """Return the lattice of the domain at, or nearest to, a point (y, x)."""
        number = int(self.domain_map.number_at(np.asarray(point_px, float)[None])[0])
        return next(d.lattice for d in self.domain_map.domains if d.number == number)


@dataclass(frozen=True, slots=True)
class Analysis:
    """Everything found in one image."""

    image: StemImage
    detection: Detection
    cells: UnitCells
    census: dict[str, Any]


def _nothing(share: float, text: str) -> None:
    """Report no progress."""


def _never() -> bool:
    """Never stop."""
    return False


def detect(
    image: StemImage,
    settings: AnalysisSettings,
    *,
    on_progress: Progress = _nothing,
    should_stop: Callable[[], bool] = _never,
) -> Detection:
    """Find the lattice and the hexagonal cells of an image.

    Parameters
    ----------
    image : StemImage
    settings : AnalysisSettings
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
    detector = _detector(settings.detector_weights, settings.device)
    on_progress(0.0, "finding the lattice")
    domains, area = find_domains(image.data, material, rank=settings.sublattice_rank)
    lattice = domains[0].lattice
    calibration = image.calibration
    size, source, warning = choose_pixel_size(
        calibration, lattice, material, trust_file=settings.trust_pixel_size
    )
    where = DomainMap(domains, area)
    warnings = ([warning] if warning else []) + area_notes(where)
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
    if not len(hexagons):
        raise PointDefectsError(
            f"{image.name}: a lattice but no hexagonal cell was found; check the material, "
            "or lower --min-score"
        )
    return Detection(lattice, hexagons, size, source, tuple(warnings), domains, area)


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
    classifier = _classifier(settings.classifier_weights, settings.device)
    where = detection.domain_map
    cells = cast_domains(detection.hexagons, where, image.data.shape)
    several = len(where.domains) > 1
    return classify_domains(
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


def reference_of(
    image: StemImage, detection: Detection, cells: UnitCells, settings: AnalysisSettings
) -> dict[int, np.ndarray | None]:
    """Return what the classifier judges the cells of each domain against, for :func:`reclassify`.

    By the domains' numbers; None where each cell stands alone.
    """
    classifier = _classifier(settings.classifier_weights, settings.device)
    return references(classifier.reference, image.data, cells, detection.domain_map)


def reclassify(
    image: StemImage,
    detection: Detection,
    cells: UnitCells,
    edits: Sequence[Hexagons],
    settings: AnalysisSettings,
    *,
    reference: dict[int, np.ndarray | None] | None = None,
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
    reference : dict of ndarray, optional
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
        changes.append(recast_domains(before, after, current, where, image.data.shape))
        before, current = after, changes[-1].applied_to(current)
    if not any(len(change.cells) for change in changes):
        return changes
    if reference is None:
        reference = reference_of(image, detection, cells if len(cells) else current, settings)
    classified = classify_domains(
        _classifier(settings.classifier_weights, settings.device).predict,
        image.data,
        UnitCells.joined([change.cells for change in changes]),
        where,
        judged_against=reference,
        alpha=settings.alpha,
        beta=settings.beta,
        on_progress=on_progress,
        should_stop=should_stop,
    )
    parts = split(classified, [len(change.cells) for change in changes])
    return [replace(change, cells=part) for change, part in zip(changes, parts, strict=True)]


def census_of(
    image: StemImage, detection: Detection, cells: UnitCells, settings: AnalysisSettings
) -> dict[str, Any]:
    """Return the census as written to JSON."""
    material = get_material(settings.material)
    return census_dict(
        take_census(cells, detection.lattice, material, detection.pixel_size_nm),
        detection.lattice,
        detection.pixel_size_nm,
        detection.pixel_size_source,
        warnings=list(detection.warnings),
        weights={
            "detector": _detector(settings.detector_weights, settings.device).weights.version,
            "classifier": _classifier(settings.classifier_weights, settings.device).weights.version,
        },
        versions={"napari-point-defects": __version__, "python": platform.python_version()},
        settings={"image": image.name, "signal": image.signal} | settings.model_dump(mode="json"),
    ) | domains_report(detection.domain_map, cells, detection.pixel_size_nm)


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
    return Analysis(image, detection, cells, census_of(image, detection, cells, settings))


def _detector(weights: Path | None, device: str) -> Detector:
    return _loaded(Detector, weights, device, _stamp(weights))


def _classifier(weights: Path | None, device: str) -> Classifier:
    return _loaded(Classifier, weights, device, _stamp(weights))


@lru_cache(maxsize=4)
def _loaded(network: type, weights: Path | None, device: str, stamp: int):
    return network(weights, device)


def _stamp(weights: Path | None) -> int:
    """Tell a file from the one that was there under its name before."""
    try:
        return weights.stat().st_mtime_ns if weights is not None else 0
    except OSError:
        return 0  # loading it says what is wrong
