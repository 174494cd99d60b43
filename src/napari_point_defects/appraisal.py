"""What an analysis amounts to: the image's measurement, the quality, the census."""

from __future__ import annotations

import platform
from dataclasses import replace
from typing import Any

from napari_point_defects import __version__, networks
from napari_point_defects.analysis_settings import AnalysisSettings
from napari_point_defects.census import census_dict, take_census
from napari_point_defects.concentrations import class_shares
from napari_point_defects.detections import Analysis, Detection
from napari_point_defects.domains.report import domains_report
from napari_point_defects.materials import get_material
from napari_point_defects.measured import Measurement
from napari_point_defects.measurement.image import measure_image
from napari_point_defects.quality import Quality, assess_quality
from napari_point_defects.records import StemImage, UnitCells
from napari_point_defects.region_limits import region_entry
from napari_point_defects.threads import side_by_side, small_matrices
from napari_point_defects.training_check import training_warnings
from napari_point_defects.weights.trained_on import with_current_warning


@small_matrices()
def appraise(
    image: StemImage, detection: Detection, cells: UnitCells, settings: AnalysisSettings
) -> Analysis:
    """Measure the image, warn where it is unlike what the networks learned, and count.

    Parameters
    ----------
    image : StemImage
    detection : Detection
    cells : UnitCells
        Classified.
    settings : AnalysisSettings

    Returns
    -------
    Analysis
    """
    measured, quality = side_by_side(
        lambda look: look(image, detection, cells, settings), (measure, quality_of)
    )
    outside = training_warnings(measured, detection, image.data.shape, settings)
    detection = replace(detection, warnings=(*detection.warnings, *outside))
    census = census_of(image, detection, cells, settings, measured, quality)
    return Analysis(image, detection, cells, census, measured)


@small_matrices()
def measure(
    image: StemImage, detection: Detection, cells: UnitCells, settings: AnalysisSettings
) -> Measurement:
    """Measure how an image was recorded: noise, probe, scan, contamination, contrast.

    Parameters
    ----------
    image : StemImage
    detection : Detection
    cells : UnitCells
        Of the detection; classified or, a little less sure, not yet.
    settings : AnalysisSettings

    Returns
    -------
    Measurement
        NaN, and a remark why, for what the image does not tell.
    """
    return measure_image(
        image.data,
        detection.lattice,
        detection.in_main_domain(cells),
        get_material(settings.material),
        detection.pixel_size_nm,
    )


def census_of(
    image: StemImage,
    detection: Detection,
    cells: UnitCells,
    settings: AnalysisSettings,
    measurement: Measurement | None = None,
    quality: Quality | None = None,
) -> dict[str, Any]:
    """Return the census as written to JSON, with the measurement if there is one.

    The quality is assessed where it is not given.
    """
    material = get_material(settings.material)
    files = networks.weights_of(settings)
    classifier = networks.classifier_of(settings)
    quality = quality or quality_of(image, detection, cells, settings)
    priors = classifier.calibration.shares_in(cells.probabilities)
    region = region_entry(settings.region, image.data.shape, detection.pixel_size_nm)
    census = census_dict(
        take_census(
            cells,
            detection.lattice,
            material,
            detection.pixel_size_nm,
            unsure_below=settings.unsure_below,
        ),
        detection.lattice,
        detection.pixel_size_nm,
        detection.pixel_size_source,
        warnings=with_current_warning(detection.warnings, material.formula, files),
        weights={
            "detector": networks.detector_of(settings).weights.version,
            "classifier": classifier.weights.version,
        },
        versions={"napari-point-defects": __version__, "python": platform.python_version()},
        settings={"image": image.name, "signal": image.signal}
        | settings.model_dump(mode="json", exclude={"region"}),
        quality=quality.as_dict(),
        measurement=measurement,
        estimates=class_shares(cells.probabilities, priors),
    )
    report = domains_report(detection.domain_map, cells, detection.pixel_size_nm)
    return census | {"region": region} | report


def quality_of(
    image: StemImage, detection: Detection, cells: UnitCells, settings: AnalysisSettings
) -> Quality:
    """Say how far the census of an image can be trusted."""
    return assess_quality(
        image.data,
        detection.lattice,
        cells,
        get_material(settings.material),
        detection.pixel_size_nm,
        unsure_below=settings.unsure_below,
    )
