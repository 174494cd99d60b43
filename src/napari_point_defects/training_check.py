"""Warn where an image lies outside what the weights of its analysis were trained on."""

from __future__ import annotations

import json
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from napari_point_defects.analysis_settings import AnalysisSettings
from napari_point_defects.materials import get_material
from napari_point_defects.measured import Estimate, Measurement
from napari_point_defects.simulation.likeness import MeasuredImage
from napari_point_defects.simulation.training_range import (
    TrainingRange,
    range_of_card,
    range_warnings,
)
from napari_point_defects.weights import SHIPPED

if TYPE_CHECKING:
    from napari_point_defects.pipeline import Analysis

_A = TypeVar("_A", bound="Analysis")


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
        card = json.loads((path or SHIPPED[kind]).with_suffix(".json").read_text())
    except (OSError, ValueError):
        return None  # loading the weights says what is wrong with them
    return range_of_card(card) if isinstance(card, dict) else None


def with_training_warnings(analysis: _A, settings: AnalysisSettings) -> _A:
    """Add to an analysis what of its image lies outside what its weights were trained on.

    Parameters
    ----------
    analysis : Analysis
        With a measurement in its census; else it is returned as it is.
    settings : AnalysisSettings

    Returns
    -------
    Analysis
        The lines are among the warnings of its detection and of its census.
    """
    values = analysis.census.get("measurement")
    if values is None:
        return analysis
    detection = analysis.detection
    observed = MeasuredImage(
        measurement=_read_measurement(values),
        lattice=detection.lattice,
        material=get_material(settings.material),
        shape=analysis.image.data.shape,
        pixel_size_nm=float(np.sqrt(np.prod(detection.pixel_size_nm))),
    )
    lines = outside_training(observed, settings)
    if not lines:
        return analysis
    told = replace(detection, warnings=(*detection.warnings, *lines))
    census = analysis.census | {"warnings": [*analysis.census["warnings"], *lines]}
    return replace(analysis, detection=told, census=census)


def _read_measurement(values: dict[str, Any]) -> Measurement:
    """Read what :meth:`Measurement.as_dict` made."""
    known = {field.name: values[field.name] for field in fields(Measurement)}
    return Measurement(**{k: Estimate(**v) if isinstance(v, dict) else v for k, v in known.items()})
