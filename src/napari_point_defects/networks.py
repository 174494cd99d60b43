"""Both networks with their weights, loaded once and again where a file has changed.

PyTorch is imported with the first of them: that takes seconds, which a window spends in a thread.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from napari_point_defects.analysis_settings import AnalysisSettings

if TYPE_CHECKING:
    from napari_point_defects.classification.prediction import Classifier
    from napari_point_defects.detection.prediction import Detector


def detector_of(settings: AnalysisSettings) -> Detector:
    """Return CNN-1 with the weights that the settings name.

    Raises
    ------
    PointDefectsError
        If the weights cannot be used.
    """
    from napari_point_defects.detection.prediction import Detector

    weights = settings.detector_weights
    return _loaded(Detector, weights, settings.device, _stamp(weights))


def classifier_of(settings: AnalysisSettings) -> Classifier:
    """Return CNN-2 with the weights that the settings name.

    Raises
    ------
    PointDefectsError
        If the weights cannot be used.
    """
    from napari_point_defects.classification.prediction import Classifier

    weights = settings.classifier_weights
    return _loaded(Classifier, weights, settings.device, _stamp(weights))


def weights_of(settings: AnalysisSettings) -> dict[str, Path | None]:
    """Return the weights' files by network; None for the shipped ones."""
    return {"detector": settings.detector_weights, "classifier": settings.classifier_weights}


@lru_cache(maxsize=4)
def _loaded(network: type, weights: Path | None, device: str, stamp: int):
    return network(weights, device)


def _stamp(weights: Path | None) -> int:
    """Tell a file from the one that was there under its name before."""
    try:
        return weights.stat().st_mtime_ns if weights is not None else 0
    except OSError:
        return 0  # loading it says what is wrong
