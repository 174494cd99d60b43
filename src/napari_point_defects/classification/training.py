"""Train CNN-2 on a training set and measure it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import nn

from napari_point_defects.classification.calibration import fit_calibration, noise_of_inputs
from napari_point_defects.classification.data import CellDataset, collate
from napari_point_defects.classification.model import ClassifierSettings, build_classifier
from napari_point_defects.fitting import TrainableModule, train
from napari_point_defects.materials import DefectClass
from napari_point_defects.training_set import LabelledImage


class ClassifierModule(TrainableModule):
    """CNN-2 with its loss; ``val_score`` is the mean F1 over the classes that occur."""

    def __init__(self, settings: ClassifierSettings, total_steps: int) -> None:
        super().__init__(settings.fit, total_steps)
        self.network = build_classifier(settings).to(memory_format=torch.channels_last)
        self.crop = settings.crop
        self.logits: list[torch.Tensor] = []
        self.targets: list[torch.Tensor] = []
        self.noise: list[np.ndarray] = []
        self.said: list[np.ndarray] = []

    def training_step(self, batch, index) -> torch.Tensor:
        inputs, classes, weights = batch[:3]
        logits = self.network(inputs.contiguous(memory_format=torch.channels_last))
        losses = nn.functional.cross_entropy(logits.float(), classes, reduction="none")
        loss = (losses * weights).sum() / weights.sum()
        self.log("train_loss", loss, on_step=False, on_epoch=True, batch_size=len(classes))
        return loss

    def on_validation_epoch_start(self) -> None:
        self.logits, self.targets, self.noise, self.said = [], [], [], []

    def validation_step(self, batch, index) -> None:
        inputs, classes, _, said = batch
        self.logits.append(
            self.network(inputs.contiguous(memory_format=torch.channels_last)).float().cpu()
        )
        self.targets.append(classes.cpu())
        if self.crop == "window":
            self.noise.append(noise_of_inputs(inputs.float().cpu().numpy()))
            self.said.append(said.cpu().numpy())

    def figures(self) -> dict:
        """Loss, accuracy, mean F1 (``val_score``), confusion matrix and temperature."""
        logits, targets = torch.cat(self.logits), torch.cat(self.targets)
        confusion = confusion_matrix(targets.numpy(), logits.argmax(1).numpy())
        known = {}
        if self.said:
            said = np.concatenate(self.said)
            known = {"evidence": said[:, :-2], "reservations": said[:, -2:]}
        return {
            "val_loss": float(nn.functional.cross_entropy(logits, targets)),
            "val_accuracy": float(np.trace(confusion) / max(confusion.sum(), 1)),
            "val_score": mean_f1(confusion),
            "val_confusion": confusion.tolist(),
            "calibration": fit_calibration(
                logits.double().numpy(),
                targets.numpy(),
                np.concatenate(self.noise) if self.noise else None,
                prior=True,
                **known,
            ).as_card(),
        }


def confusion_matrix(truth: np.ndarray, predicted: np.ndarray) -> np.ndarray:
    """Count cells by true (rows) and predicted (columns) class, shape (6, 6)."""
    n = len(DefectClass)
    return np.bincount(truth * n + predicted, minlength=n * n).reshape(n, n)


def mean_f1(confusion: np.ndarray) -> float:
    """Mean over the classes that occur of the harmonic mean of precision and recall."""
    hits = np.diag(confusion)
    total = confusion.sum(axis=0) + confusion.sum(axis=1)
    occurs = confusion.sum(axis=1) > 0
    return float(np.mean(2 * hits[occurs] / total[occurs])) if occurs.any() else 0.0


def train_classifier(
    data: Path | tuple[Sequence[LabelledImage], Sequence[LabelledImage]],
    folder: Path,
    settings: ClassifierSettings,
    *,
    start: dict[str, torch.Tensor] | None = None,
    **run,
) -> tuple[dict[str, torch.Tensor], dict]:
    """Train CNN-2; see :func:`napari_point_defects.fitting.train`.

    Parameters
    ----------
    data : Path or pair of sequences of LabelledImage
    folder : Path
    settings : ClassifierSettings
    start : dict of Tensor, optional
    **run
        ``resume``, ``on_progress`` and the other callables of ``fitting.fit``.

    Returns
    -------
    weights : dict of Tensor
    metrics : dict
        Epochs, calibration, validation accuracy, mean F1 and confusion matrix.
    """
    return train(
        data,
        folder,
        lambda images, augment: CellDataset(images, settings, augment),
        lambda total_steps: ClassifierModule(settings, total_steps),
        collate,
        settings.fit,
        start=start,
        **run,
    )
