"""Train the FCN on a training set."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import nn

from napari_point_defects.baselines.fcn.data import PixelDataset
from napari_point_defects.baselines.fcn.model import N_CLASSES, FcnSettings, FullyConvolutional
from napari_point_defects.fitting import TrainableModule, train
from napari_point_defects.training_set import LabelledImage


class FcnModule(TrainableModule):
    """The FCN with its loss; ``val_score`` is the mean intersection over union of the classes."""

    def __init__(self, settings: FcnSettings, total_steps: int) -> None:
        super().__init__(settings.fit, total_steps)
        self.network = FullyConvolutional(settings.filters).to(memory_format=torch.channels_last)
        weights = torch.ones(N_CLASSES)
        weights[0] = settings.background_weight
        self.loss = nn.CrossEntropyLoss(weights)
        self.confusion = torch.zeros(N_CLASSES, N_CLASSES)

    def training_step(self, batch, index) -> torch.Tensor:
        pixels, target = batch
        scores = self.network(pixels.contiguous(memory_format=torch.channels_last))
        loss = self.loss(scores.float(), target)
        self.log("train_loss", loss, on_step=False, on_epoch=True, batch_size=len(pixels))
        return loss

    def on_validation_epoch_start(self) -> None:
        self.confusion = torch.zeros(N_CLASSES, N_CLASSES)

    def validation_step(self, batch, index) -> None:
        pixels, target = batch
        found = self.network(pixels).argmax(1).cpu()
        pairs = (target.cpu() * N_CLASSES + found).flatten()
        self.confusion += torch.bincount(pairs, minlength=N_CLASSES**2).reshape(N_CLASSES, -1)

    def figures(self) -> dict[str, float]:
        """Return the share of pixels named rightly, and the mean intersection over union."""
        hits = self.confusion.diag()
        union = self.confusion.sum(0) + self.confusion.sum(1) - hits
        occurs = self.confusion.sum(1) > 0
        return {
            "val_accuracy": float(hits.sum() / self.confusion.sum().clamp(min=1)),
            "val_score": float((hits / union.clamp(min=1))[occurs].mean()) if occurs.any() else 0.0,
        }


def train_fcn(
    data: Path | tuple[Sequence[LabelledImage], Sequence[LabelledImage]],
    folder: Path,
    settings: FcnSettings,
    **run,
) -> tuple[dict[str, torch.Tensor], dict]:
    """Train the FCN; see :func:`napari_point_defects.fitting.train`.

    Returns
    -------
    weights : dict of Tensor
    metrics : dict
        Epochs, and the validation pixels' accuracy and mean intersection over union.
    """
    return train(
        data,
        folder,
        lambda images, augment: PixelDataset(images, settings, augment),
        lambda total_steps: FcnModule(settings, total_steps),
        torch.utils.data.default_collate,
        settings.fit,
        **run,
    )
