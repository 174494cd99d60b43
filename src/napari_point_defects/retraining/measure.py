"""Measure weights on training sets and on a project's labels."""

from __future__ import annotations

from collections.abc import Callable

from torch.utils.data import ConcatDataset

from napari_point_defects.classification.prediction import Classifier
from napari_point_defects.detection.prediction import Detector
from napari_point_defects.errors import PointDefectsError
from napari_point_defects.evaluation import evaluate_classifier, evaluate_detector
from napari_point_defects.retraining.data import read_labels
from napari_point_defects.retraining.folder import Scores
from napari_point_defects.retraining.settings import RetrainSettings
from napari_point_defects.training_set import TrainingSet

NETWORKS = {
    "classifier": (Classifier, evaluate_classifier),
    "detector": (Detector, evaluate_detector),
}


def measure_weights(
    settings: RetrainSettings,
    *,
    split: str = "validation",
    on_progress: Callable[[float, str], None] = lambda share, text: None,
    should_stop: Callable[[], bool] = lambda: False,
) -> tuple[str, dict[str, Scores]]:
    """Score weights on everything that the settings name.

    Parameters
    ----------
    settings : RetrainSettings
        ``start`` are the weights; ``data``, ``labels`` and ``images`` what to measure on.
    split : {"validation", "train"}
        Of the training sets.
    on_progress, should_stop : callable

    Returns
    -------
    version : str
        Of the weights.
    scores : dict of ClassScores or BoxScores
        By source: ``labels``, ``simulated``.

    Raises
    ------
    PointDefectsError
        If weights, sets or labels cannot be used.
    Stopped
        If ``should_stop`` said yes.
    """
    load, evaluate = NETWORKS[settings.kind]
    model = load(settings.start, settings.device)
    sets = [TrainingSet(folder / split) for folder in settings.data]
    sources = {
        "labels": read_labels(settings)[0],
        "simulated": ConcatDataset(sets) if sets else [],
    }
    sources = {name: images for name, images in sources.items() if len(images)}
    if not sources:
        raise PointDefectsError(f"there are no images in the {split} split: choose the other")
    scores = {}
    for number, (name, images) in enumerate(sources.items()):
        scores[name] = evaluate(
            images,
            model,
            on_progress=lambda share, text, number=number: on_progress(
                (number + share) / len(sources), text
            ),
            should_stop=should_stop,
        )
    return model.weights.version, scores
