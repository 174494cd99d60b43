"""Train CNN-1 on a training set and measure it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from napari_point_defects.detection.data import HexagonDataset, collate
from napari_point_defects.detection.model import DetectorSettings, build_detector
from napari_point_defects.fitting import TrainableModule, train
from napari_point_defects.training_set import LabelledImage
from napari_point_defects.vision import box_iou

_MIN_SCORE = 0.5
_MIN_IOU = 0.5


class DetectorModule(TrainableModule):
    """CNN-1 with its losses; ``val_score`` is the F1 of boxes with IoU above 0.5."""

    def __init__(self, settings: DetectorSettings, total_steps: int) -> None:
        super().__init__(settings.fit, total_steps)
        self.network = build_detector(settings)
        self.tally = np.zeros(4)

    def training_step(self, batch, index) -> torch.Tensor:
        images, targets = batch
        losses = self.network(images, targets)
        loss = sum(losses.values())
        self.log("train_loss", loss, on_step=False, on_epoch=True, batch_size=len(images))
        return loss

    def on_validation_epoch_start(self) -> None:
        self.tally = np.zeros(4)

    def validation_step(self, batch, index) -> None:
        images, targets = batch
        for found, target in zip(self.network(images), targets, strict=True):
            self.tally += match_boxes(
                found["boxes"][found["scores"] > _MIN_SCORE].float(), target["boxes"]
            )

    def figures(self) -> dict[str, float]:
        """Recall, precision, their harmonic mean and mean IoU of the boxes tallied so far."""
        hits, wanted, found, overlap = self.tally
        figures = {
            "recall": hits / max(wanted, 1),
            "precision": hits / max(found, 1),
            "score": 2 * hits / max(wanted + found, 1),
            "iou": overlap / max(hits, 1),
        }
        return {f"val_{name}": float(value) for name, value in figures.items()}


def match_boxes(found: torch.Tensor, truth: torch.Tensor) -> np.ndarray:
    """Count hits, true boxes, found boxes, and the hits' summed IoU.

    A hit is a true box whose best found box overlaps it with IoU above 0.5; a found box counts
    for one true box alone.
    """
    hits, overlap = 0, 0.0
    if len(found) and len(truth):
        best, index = box_iou(truth, found).max(dim=1)
        good = best > _MIN_IOU
        hits = len(torch.unique(index[good]))
        overlap = float(best[good].sum()) * hits / max(int(good.sum()), 1)
    return np.array([hits, len(truth), len(found), overlap])


def train_detector(
    data: Path | tuple[Sequence[LabelledImage], Sequence[LabelledImage]],
    folder: Path,
    settings: DetectorSettings,
    *,
    start: dict[str, torch.Tensor] | None = None,
    **run,
) -> tuple[dict[str, torch.Tensor], dict]:
    """Train CNN-1; see :func:`napari_point_defects.fitting.train`.

    Parameters
    ----------
    data : Path or pair of sequences of LabelledImage
    folder : Path
    settings : DetectorSettings
    start : dict of Tensor, optional
    **run
        ``resume``, ``on_progress`` and the other callables of ``fitting.fit``.

    Returns
    -------
    weights : dict of Tensor
    metrics : dict
        Epochs, and validation recall, precision, F1 (``score``) and mean IoU.
    """
    return train(
        data,
        folder,
        lambda images, augment: HexagonDataset(images, settings, augment),
        lambda total_steps: DetectorModule(settings, total_steps),
        collate,
        settings.fit,
        start=start,
        **run,
    )
