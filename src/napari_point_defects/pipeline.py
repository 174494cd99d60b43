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
from napari_point_defects.analysis_settings import AnalysisSettings
from napari_point_defects.census import census_dict, choose_pixel_size, take_census
from napari_point_defects.classification.prediction import Classifier
from napari_point_defects.detection.prediction import Detector
from napari_point_defects.errors import PointDefectsError
from napari_point_defects.lattice import find_lattice
from napari_point_defects.materials import get_material
from napari_point_defects.netcasting import Recast, cast_net, recast
from napari_point_defects.records import Hexagons, Lattice, StemImage, UnitCells
from napari_point_defects.training_check import with_training_warnings

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
    """

    lattice: Lattice
    hexagons: Hexagons
    pixel_size_nm: tuple[float, float]
    pixel_size_source: str
    warnings: tuple[str, ...] = ()


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
    lattice = find_lattice(image.data, material, rank=settings.sublattice_rank)
    calibration = image.calibration
    size, source, warning = choose_pixel_size(
        calibration, lattice, material, trust_file=settings.trust_pixel_size
    )
    warnings = [warning] if warning else []
    if lattice.sublattice_confidence < 0.9 and settings.sublattice_rank == 0:
        warnings.append(
            f"which sublattice is X and which M is uncertain "
            f"({lattice.sublattice_confidence:.0%}): compare with --sublattice-rank 1"
        )
    hexagons = detector.predict(
        image.data,
        lattice,
        min_score=settings.min_score,
        on_progress=lambda share, text: on_progress(0.1 + 0.9 * share, f"hexagons: {text}"),
        should_stop=should_stop,
    )
    if not len(hexagons):
        raise PointDefectsError(
            f"{image.name}: a lattice but no hexagonal cell was found; check the material, "
            "or lower --min-score"
        )
    return Detection(lattice, hexagons, size, source, tuple(warnings))


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
    cells = cast_net(detection.hexagons, detection.lattice, image.data.shape)
    return classifier.predict(
        image.data,
        detection.lattice,
        cells,
        alpha=settings.alpha,
        beta=settings.beta,
        on_progress=on_progress,
        should_stop=should_stop,
    )


def reference_of(
    image: StemImage, detection: Detection, cells: UnitCells, settings: AnalysisSettings
) -> np.ndarray | None:
    """Return what the classifier judges all cells of an image against, for :func:`reclassify`."""
    classifier = _classifier(settings.classifier_weights, settings.device)
    return classifier.reference(image.data, detection.lattice, cells)


def reclassify(
    image: StemImage,
    detection: Detection,
    cells: UnitCells,
    edits: Sequence[Hexagons],
    settings: AnalysisSettings,
    *,
    reference: np.ndarray | None = None,
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
    reference : ndarray, optional
        From :func:`reference_of`; where absent, the mean of ``cells``.
    on_progress, should_stop : callable
        As in :func:`classify`.

    Returns
    -------
    list of Recast
        One per edit, with classified cells. The rows of each refer to what the edit before left
        (:meth:`~napari_point_defects.netcasting.Recast.applied_to`), the first's to ``cells``.
    """
    lattice, before, current = detection.lattice, detection.hexagons, cells
    changes: list[Recast] = []
    for after in edits:
        changes.append(recast(before, after, current, lattice, image.data.shape))
        before, current = after, changes[-1].applied_to(current)
    if not any(len(change.cells) for change in changes):
        return changes
    if reference is None:
        reference = reference_of(image, detection, cells if len(cells) else current, settings)
    classified = _classifier(settings.classifier_weights, settings.device).predict(
        image.data,
        lattice,
        UnitCells.joined([change.cells for change in changes]),
        reference=reference,
        alpha=settings.alpha,
        beta=settings.beta,
        on_progress=on_progress,
        should_stop=should_stop,
    )
    ends = np.cumsum([len(change.cells) for change in changes])
    return [
        replace(change, cells=classified.take(np.arange(end - len(change.cells), end)))
        for change, end in zip(changes, ends, strict=True)
    ]


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
    )


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
    analysis = Analysis(image, detection, cells, census_of(image, detection, cells, settings))
    return with_training_warnings(analysis, settings)


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
