"""Train weights on to one image: simulate a narrow set around it, and learn that.

The image itself is not learned, it has no labels: it only says which images to simulate. So what
comes of it holds for every image of the same microscope at that scale. How much better the new
weights are is measured on simulated images of the set that were held out.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from napari_point_defects.analysis_settings import AnalysisSettings
from napari_point_defects.detection.prediction import Detector
from napari_point_defects.errors import PointDefectsError
from napari_point_defects.evaluation import BoxScores, evaluate_detector
from napari_point_defects.image_matching import ImageMatch, write_match
from napari_point_defects.retraining.folder import Retrained
from napari_point_defects.retraining.run import retrain
from napari_point_defects.retraining.settings import RetrainSettings
from napari_point_defects.simulation.presets import TrainingSetSettings
from napari_point_defects.simulation.sets import simulate_training_set
from napari_point_defects.training_set import TrainingSet

_SET, _CLASSIFIER, _DETECTOR = "set", "classifier", "detector"
_SHARES = (0.0, 0.08, 0.72, 0.78, 1.0)
"""Of the time: the set, CNN-2, measuring CNN-1, CNN-1."""


class AdaptSettings(BaseModel):
    """How much is simulated and learned; the defaults take under five minutes on two cores."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    train_images: int = Field(300, ge=2, title="Images", description="Images to learn from")
    validation_images: int = Field(
        30, ge=1, title="Held-out images", description="Images that measure the result"
    )
    epochs: int = Field(3, ge=1, le=1000, title="Epochs", description="Rounds")
    images_per_epoch: int = Field(
        250, ge=1, title="Images per epoch", description="Images drawn per epoch"
    )
    learning_rate: float = Field(
        4e-4, gt=0, le=0.1, title="Learning rate", description="Peak learning rate of CNN-2"
    )
    detection_f1: float = Field(
        0.97,
        ge=0,
        le=1,
        title="Detection, F1",
        description="CNN-1 learns too where it finds the hexagons worse than this; 0 for never",
    )
    seed: int = Field(0, ge=0, le=2**31 - 1, title="Seed", description="Of the set and the order")
    workers: int | None = Field(
        None, ge=1, title="Workers", description="Processes that simulate; none: one per core"
    )
    loader_workers: int = Field(
        1, ge=0, le=64, title="Loaders", description="Processes that prepare batches"
    )


@dataclass(frozen=True, slots=True)
class Adapted:
    """Weights for images like one.

    Attributes
    ----------
    classifier : Retrained
        CNN-2 before and after, and its new weights.
    detection : BoxScores
        How well CNN-1 found the hexagons of such images before.
    detector : Retrained or None
        CNN-1 before and after; None where it was good enough as it was.
    """

    classifier: Retrained
    detection: BoxScores
    detector: Retrained | None

    @property
    def is_better(self) -> bool:
        """Whether CNN-2 makes fewer errors on held-out images than before."""
        return self.classifier.after.accuracy > self.classifier.before.accuracy

    @property
    def weights(self) -> dict[str, Path]:
        """Files of the new weights, by ``classifier`` and ``detector``."""
        found = {_CLASSIFIER: self.classifier.weights.path}
        if self.detector is not None:
            found[_DETECTOR] = self.detector.weights.path
        return found


def adaptation_set(found: ImageMatch, settings: AdaptSettings) -> TrainingSetSettings:
    """Return the settings of the set that is simulated for an image."""
    return found.likeness.settings.model_copy(
        update={
            "train_images": settings.train_images,
            "validation_images": settings.validation_images,
            "seed": settings.seed,
        }
    )


def adapt(
    found: ImageMatch,
    folder: Path,
    settings: AdaptSettings = AdaptSettings(),
    analysis: AnalysisSettings = AnalysisSettings(),
    *,
    simulate: Callable[..., Any] = simulate_training_set,
    train: Callable[..., Retrained] = retrain,
    on_progress: Callable[[float, str], None] = lambda share, text: None,
    should_stop: Callable[[], bool] = lambda: False,
) -> Adapted:
    """Simulate a set around a matched image and train the analysis' weights on it.

    Parameters
    ----------
    found : ImageMatch
        From :func:`napari_point_defects.image_matching.match_image`.
    folder : Path
        Must be new or empty: takes the match, the set, and a run for each network that learns.
    settings : AdaptSettings
    analysis : AnalysisSettings
        Its weights are those to start from, its device that to train on.
    simulate, train : callable
        Simulate the set, and train a network; a window gives those that work in a process apart.
    on_progress, should_stop : callable

    Returns
    -------
    Adapted

    Raises
    ------
    PointDefectsError
        If the folder is not empty or cannot be written, or the weights cannot be used.
    Stopped
        If ``should_stop`` said yes; what is in the folder is no result.
    """
    check_empty(folder)
    ends = itertools.pairwise(_SHARES)
    to_set, to_classifier, to_measuring, to_detector = (
        _part(on_progress, low, high) for low, high in ends
    )
    write_match(found, folder)
    simulate(
        adaptation_set(found, settings),
        folder / _SET,
        workers=settings.workers,
        on_progress=lambda share, text: to_set(share, f"simulating: {text}"),
        should_stop=should_stop,
    )
    common = {
        "data": (folder / _SET,),
        "epochs": settings.epochs,
        "validation_images": settings.validation_images,
        "seed": settings.seed,
        "device": analysis.device,
        "loader_workers": settings.loader_workers,
    }
    classifier = train(
        RetrainSettings(
            kind=_CLASSIFIER,
            start=analysis.classifier_weights,
            images_per_epoch=settings.images_per_epoch,
            learning_rate=settings.learning_rate,
            **common,
        ),
        folder / _CLASSIFIER,
        on_progress=lambda share, text: to_classifier(share, f"CNN-2: {text}"),
        should_stop=should_stop,
    )
    detection = evaluate_detector(
        TrainingSet(folder / _SET / "validation"),
        Detector(analysis.detector_weights, analysis.device),
        on_progress=lambda share, text: to_measuring(share, f"measuring CNN-1: {text}"),
        should_stop=should_stop,
    )
    detector = None
    if detection.f1 < settings.detection_f1:
        detector = train(
            RetrainSettings(
                kind=_DETECTOR,
                start=analysis.detector_weights,
                # its steps cost as much and there is less to learn
                images_per_epoch=max(settings.images_per_epoch // 2, 1),
                learning_rate=settings.learning_rate,
                **common,
            ),
            folder / _DETECTOR,
            on_progress=lambda share, text: to_detector(share, f"CNN-1: {text}"),
            should_stop=should_stop,
        )
    on_progress(1.0, "done")
    return Adapted(classifier, detection, detector)


def check_empty(folder: Path) -> None:
    """Refuse a folder that holds anything.

    Raises
    ------
    PointDefectsError
    """
    if folder.is_file():
        raise PointDefectsError(f"{folder} is a file: choose a new folder")
    if folder.is_dir() and any(folder.iterdir()):
        raise PointDefectsError(f"{folder} is not empty: choose a new folder")


def _part(
    on_progress: Callable[[float, str], None], low: float, high: float
) -> Callable[[float, str], None]:
    return lambda share, text: on_progress(low + (high - low) * share, text)
