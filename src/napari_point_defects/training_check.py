"""Warn where an image lies outside what the weights of its analysis were trained on."""

from __future__ import annotations

from pathlib import Path

from napari_point_defects.analysis_settings import AnalysisSettings
from napari_point_defects.detections import Detection
from napari_point_defects.json_files import read_json
from napari_point_defects.materials import get_material
from napari_point_defects.measured import Measurement
from napari_point_defects.simulation.likeness import MeasuredImage
from napari_point_defects.simulation.training_range import (
    TrainingRange,
    range_of_card,
    range_warnings,
)
from napari_point_defects.weights import SHIPPED


def outside_training(observed: MeasuredImage, settings: AnalysisSettings) -> tuple[str, ...]:
    """Say what of an image lies outside what the weights of an analysis were trained on.

    Parameters
    ----------
    observed : MeasuredImage
    settings : AnalysisSettings
        Name the weights.

    Returns
    -------
    tuple of str
        One line for each quantity; none for weights whose card names no training set.
    """
    files = {"detector": settings.detector_weights, "classifier": settings.classifier_weights}
    return range_warnings(observed, {kind: trained_range(kind, p) for kind, p in files.items()})


def trained_range(kind: str, path: Path | None = None) -> TrainingRange | None:
    """Return what weights were trained on, from their model card alone; None where it says nothing.

    Parameters
    ----------
    kind : {"detector", "classifier"}
    path : Path, optional
        Default: the shipped ones.
    """
    try:
        card = read_json((path or SHIPPED[kind]).with_suffix(".json"))
    except (OSError, ValueError):
        return None  # loading the weights says what is wrong with them
    return range_of_card(card) if isinstance(card, dict) else None


def training_warnings(
    measurement: Measurement,
    detection: Detection,
    shape: tuple[int, int],
    settings: AnalysisSettings,
) -> tuple[str, ...]:
    """Say what of an analysed image lies outside what the weights were trained on.

    Parameters
    ----------
    measurement : Measurement
    detection : Detection
    shape : (int, int)
        Size of the image.
    settings : AnalysisSettings

    Returns
    -------
    tuple of str
        See :func:`outside_training`.
    """
    observed = MeasuredImage(
        measurement=measurement,
        lattice=detection.lattice,
        material=get_material(settings.material),
        shape=shape,
        pixel_size_nm=detection.square_pixel_nm,
    )
    return outside_training(observed, settings)
