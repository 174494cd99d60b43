"""Teach a trained CNN-2 a few labelled cells without its forgetting the rest."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import lightning
import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset

from napari_point_defects.classification.data import CellDataset, collate
from napari_point_defects.classification.model import ClassifierSettings
from napari_point_defects.classification.training import ClassifierModule
from napari_point_defects.devices import FitSettings
from napari_point_defects.fitting import fit, measure, start_from
from napari_point_defects.training_set import UNLABELLED, LabelledImage

FINE_TUNING = FitSettings(
    epochs=10, images_per_epoch=80, learning_rate=1e-4, weight_decay=0.01, patience=10
)
"""``images_per_epoch`` counts replayed images; a step shows ``batch_images`` of them."""

_LABELLED_PER_STEP = 4
_REFERENCES = 400


class _FineTuneModule(ClassifierModule):
    """CNN-2 with a small constant rate and the batch statistics it came with.

    A few dozen cells of one image would pull the running means towards that image alone.
    """

    def train(self, mode: bool = True) -> _FineTuneModule:
        super().train(mode)
        for layer in self.modules():
            if isinstance(layer, nn.BatchNorm2d):
                layer.eval()
        return self

    def configure_optimizers(self):
        return torch.optim.AdamW(
            self.parameters(), lr=self.options.learning_rate, weight_decay=self.options.weight_decay
        )


class _Steps(Dataset):
    """One training step per item: labelled cells and replayed images, with equal weight."""

    def __init__(
        self,
        labelled: Sequence[LabelledImage],
        replay: Sequence[LabelledImage],
        settings: ClassifierSettings,
    ) -> None:
        self.labelled = CellDataset([_thinned(item) for item in labelled], settings, True)
        self.replay = CellDataset(replay, settings, True)
        self.settings = settings

    def __len__(self) -> int:
        images = self.settings.fit.images_per_epoch or len(self.replay)
        return max(1, images // self.settings.fit.batch_images)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        ours = collate([self.labelled[i] for i in _draw(len(self.labelled), _LABELLED_PER_STEP)])
        if not len(self.replay):
            return ours
        batch = self.settings.fit.batch_images
        theirs = collate([self.replay[i] for i in _draw(len(self.replay), batch)])
        scale = theirs[2].sum() / ours[2].sum()
        return collate([(ours[0], ours[1], ours[2] * scale), theirs])


def _draw(n: int, most: int) -> list[int]:
    return torch.randperm(n)[:most].tolist()


def _thinned(item: LabelledImage) -> LabelledImage:
    """Keep what was judged, and of the rest enough to know the mean cell."""
    others = np.flatnonzero(item.classes == UNLABELLED)
    if len(others) <= _REFERENCES:
        return item
    even = others[np.linspace(0, len(others) - 1, _REFERENCES).astype(int)]
    kept = np.sort(np.concatenate([np.flatnonzero(item.classes != UNLABELLED), even]))
    return replace(
        item,
        chalcogen_px=item.chalcogen_px[kept],
        metal_px=item.metal_px[kept],
        classes=item.classes[kept],
    )


def fine_tune(
    labelled: Sequence[LabelledImage],
    replay: Sequence[LabelledImage],
    validation: Sequence[LabelledImage],
    folder: Path,
    settings: ClassifierSettings,
    *,
    start: dict[str, torch.Tensor],
    **run,
) -> tuple[dict[str, torch.Tensor], dict]:
    """Learn a few labelled cells, with simulated images shown again so that nothing is lost.

    Parameters
    ----------
    labelled : sequence of LabelledImage
        Cells of class ``UNLABELLED`` are reference only.
    replay : sequence of LabelledImage
        What the weights knew before.
    validation : sequence of LabelledImage
        Held out of both; the best epoch is chosen on it.
    folder : Path
        Checkpoints and metrics go there.
    settings : ClassifierSettings
        ``fit`` says how long and how fast; see :data:`FINE_TUNING`.
    start : dict of Tensor
        Weights to start from.
    **run
        ``resume``, ``on_progress`` and the other callables of ``fitting.fit``.

    Returns
    -------
    weights : dict of Tensor
    metrics : dict
        As :func:`napari_point_defects.classification.training.train_classifier`.

    Raises
    ------
    PointDefectsError
        If the weights do not fit the settings' network.
    Stopped
        If ``should_stop`` said yes.
    """
    lightning.seed_everything(settings.fit.seed, workers=True, verbose=False)
    workers = {
        "num_workers": settings.fit.loader_workers,
        "persistent_workers": settings.fit.loader_workers > 0,
    }
    steps = DataLoader(_Steps(labelled, replay, settings), batch_size=None, **workers)
    held_out = DataLoader(CellDataset(validation, settings, False), collate_fn=collate, **workers)
    module = _FineTuneModule(settings, settings.fit.epochs * len(steps))
    start_from(module, start)
    module.train()  # Lightning leaves the mode as it finds it
    metrics = fit(module, steps, held_out, settings.fit, folder, **run)
    return module.network.state_dict(), metrics | measure(module, held_out)
