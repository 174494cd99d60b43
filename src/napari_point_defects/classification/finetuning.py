"""Teach a trained CNN-2 the few cells that a user judged, without its forgetting the rest.

A user judges the least sure cells first, and those are mostly defects. Learned alone, they would
make the network see defects everywhere. So every step shows three kinds of cells:

* cells that were judged, with their class;
* the surest of the cells nobody judged, from the same images, with the class the network itself
  gives them, looked at anew every epoch: they stand for the many cells that the user had no
  reason to touch (self-training; Lee, ICML workshop 2013);
* simulated cells, with the mean of their true class and what the network said of them before
  (Li and Hoiem, "Learning without forgetting", IEEE TPAMI 40 (2018) 2935).

Batch normalisation sees all three kinds at once: its statistics come to cover the new microscope
without leaving the old ones. (Fixed as they came they did as well: with one seed of
``benchmarks.domain_shift`` 26 of 125 errors were left instead of 24.)
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import lightning
import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset

from napari_point_defects.classification.data import CellDataset, cell_view, collate
from napari_point_defects.classification.model import ClassifierSettings, build_classifier
from napari_point_defects.classification.training import ClassifierModule
from napari_point_defects.devices import FitSettings, has_fast_bfloat16
from napari_point_defects.errors import Stopped
from napari_point_defects.fitting import fit, measure, start_from, warm_cosine
from napari_point_defects.materials import DefectClass
from napari_point_defects.training_set import UNLABELLED, LabelledImage

FINE_TUNING = FitSettings(
    epochs=6, images_per_epoch=160, learning_rate=2e-4, weight_decay=0, patience=1000
)
"""``images_per_epoch`` bounds how many simulated images are shown again."""

_STEPS_PER_EPOCH = 25
_PER_STEP = (32, 48, 144)  # judged, surest unjudged, simulated cells
_WEIGHTS = (0.25, 1.0, 4.0)  # of the three mean losses
_SUREST = 0.8  # share of the unjudged cells; measured: errors lie among the least sure tenth
_MOST_SUREST = 3000  # cells; bounds memory and the time of looking at them anew
_VIEWS = 24  # placements of the judged images, shared among them
_FEWEST_VIEWS = 3
_FROZEN = ("conv1", "bn1", "layer1")  # edges and blobs look the same in any microscope
_BATCH = 256


@dataclass(frozen=True, slots=True)
class _Cells:
    """Cells cut out once.

    Attributes
    ----------
    inputs : Tensor of shape (V, K, C, side, side), half precision
        The same cells, placed a little differently V times.
    targets : Tensor of shape (K, 6)
        Probabilities to learn.
    """

    inputs: torch.Tensor
    targets: torch.Tensor

    def __len__(self) -> int:
        return len(self.targets)

    def draw(self, n: int, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
        """Return n cells, each in any of its placements."""
        cell = torch.randint(len(self.targets), (n,), generator=generator)
        view = torch.randint(len(self.inputs), (n,), generator=generator)
        return self.inputs[view, cell].float(), self.targets[cell]


_NONE = _Cells(torch.zeros(1, 0), torch.zeros(0, len(DefectClass)))


class _Steps(Dataset):
    """One training step per item: inputs, probabilities to learn, and weights.

    Parameters
    ----------
    judged, unjudged, simulated : _Cells
        Any may be empty.
    seed : int
    """

    def __init__(self, judged: _Cells, unjudged: _Cells, simulated: _Cells, seed: int) -> None:
        self.judged, self.unjudged, self.simulated = judged, unjudged, simulated
        self.seed = seed
        self.begin(0, None)

    def begin(self, epoch: int, network: nn.Module | None) -> None:
        """Choose the surest of the unjudged cells, as the network sees them now."""
        self.epoch, self.surest = epoch, self.unjudged
        if network is None or not len(self.unjudged):
            return
        views = self.unjudged.inputs
        probabilities = _probabilities(network, views[epoch % len(views)])
        best = probabilities.topk(2, dim=1)
        margin = best.values[:, 0] - best.values[:, 1]
        kept = torch.argsort(margin, descending=True)[: max(1, round(_SUREST * len(margin)))]
        self.surest = _Cells(views[:, kept], _one_hot(best.indices[kept, 0]))

    def __len__(self) -> int:
        return _STEPS_PER_EPOCH

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        if index >= len(self):
            raise IndexError(index)
        # a step is the same whether the run was resumed or not
        number = (self.seed * 1_000_003 + self.epoch) * 10_007 + index
        generator = torch.Generator().manual_seed(number)
        parts = []
        for cells, n, weight in zip(
            (self.judged, self.surest, self.simulated), _PER_STEP, _WEIGHTS, strict=True
        ):
            if len(cells):
                parts.append((*cells.draw(n, generator), torch.full((n,), weight / n)))
        return collate(parts)


class _FineTuneModule(ClassifierModule):
    """CNN-2 whose first layers stay as they came."""

    def __init__(self, settings: ClassifierSettings, steps: _Steps) -> None:
        super().__init__(settings, settings.fit.epochs * len(steps))
        self.steps = steps
        for name, parameter in self.network.named_parameters():
            parameter.requires_grad = not name.startswith(_FROZEN)

    def on_train_epoch_start(self) -> None:
        self.steps.begin(self.current_epoch, self.network)

    def configure_optimizers(self):
        parameters = [p for p in self.parameters() if p.requires_grad]
        optimizer = torch.optim.AdamW(
            parameters, lr=self.options.learning_rate, weight_decay=self.options.weight_decay
        )
        schedule = warm_cosine(optimizer, self.total_steps)
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": schedule, "interval": "step"},
        }


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
        Cells of class ``UNLABELLED`` were not judged.
    replay : sequence of LabelledImage
        What the weights knew before, or are to learn besides.
    validation : sequence of LabelledImage
        Held out of both; the result is measured on it.
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
        Of the last epoch: so few held-out labels cannot tell which epoch is best.
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
    tell = run.get("on_progress", lambda share, text: None)
    should_stop = run.get("should_stop", lambda: False)
    tell(0.0, "cutting out the cells that were judged")
    judged, unjudged = _of_labels(labelled, settings, should_stop)
    tell(0.0, "cutting out simulated cells")
    simulated = _of_simulation(replay, settings, start, should_stop)
    dataset = _Steps(judged, unjudged, simulated, settings.fit.seed)
    steps = DataLoader(dataset, batch_size=None)
    held_out = DataLoader(CellDataset(validation, settings, False), collate_fn=collate)
    module = _FineTuneModule(settings, dataset)
    start_from(module, start)
    module.train()  # Lightning leaves the mode as it finds it
    metrics = fit(module, steps, held_out, settings.fit, folder, keep="last", **run)
    return module.network.state_dict(), metrics | measure(module, held_out)


def _of_labels(
    images: Sequence[LabelledImage],
    settings: ClassifierSettings,
    should_stop: Callable[[], bool],
) -> tuple[_Cells, _Cells]:
    """Cut out what was judged in images and what was not."""
    n_views = int(np.clip(_VIEWS // max(len(images), 1), _FEWEST_VIEWS, _VIEWS // 2))
    most = _MOST_SUREST // max(len(images), 1)
    judged, targets, unjudged = [], [], []
    for item in images:
        known = np.flatnonzero(item.classes != UNLABELLED)
        others = np.flatnonzero(item.classes == UNLABELLED)
        if len(others) > most:
            others = others[torch.randperm(len(others))[:most].numpy()]
        views = []
        for number in range(n_views):
            if should_stop():
                raise Stopped
            views.append(cell_view(item, settings, number)[np.concatenate([known, others])])
        stacked = torch.stack(views)
        judged.append(stacked[:, : len(known)])
        unjudged.append(stacked[:, len(known) :])
        targets.append(torch.as_tensor(item.classes[known]).long())
    rest = torch.cat(unjudged, dim=1)
    return (
        _Cells(torch.cat(judged, dim=1), _one_hot(torch.cat(targets))),
        _Cells(rest, torch.zeros(rest.shape[1], len(DefectClass))),
    )


def _of_simulation(
    images: Sequence[LabelledImage],
    settings: ClassifierSettings,
    start: dict[str, torch.Tensor],
    should_stop: Callable[[], bool],
) -> _Cells:
    """Cut out simulated cells, with their class and what the weights to start from say of them."""
    dataset = CellDataset(images, settings, True)
    most = settings.fit.images_per_epoch or len(dataset)
    parts = []
    for index in torch.randperm(len(dataset))[:most].tolist():
        if should_stop():
            raise Stopped
        inputs, classes, *_ = dataset[index]
        parts.append((inputs.half(), classes))
    if not parts:
        return _NONE
    inputs, classes = (torch.cat(part) for part in zip(*parts, strict=True))
    network = build_classifier(settings)
    network.load_state_dict(start)
    said = _probabilities(network.to(memory_format=torch.channels_last), inputs)
    return _Cells(inputs[None], (said + _one_hot(classes)) / 2)


def _probabilities(network: nn.Module, inputs: torch.Tensor) -> torch.Tensor:
    """Return what a network says of cells, shape (K, 6)."""
    device = next(network.parameters()).device
    was_training = network.training
    network.eval()
    parts = []
    with (
        torch.inference_mode(),
        torch.autocast(device.type, torch.bfloat16, enabled=has_fast_bfloat16(device)),
    ):
        for some in inputs.split(_BATCH):
            batch = some.to(device).float().contiguous(memory_format=torch.channels_last)
            parts.append(torch.softmax(network(batch).float(), dim=1).cpu())
    network.train(was_training)
    return torch.cat(parts)


def _one_hot(classes: torch.Tensor) -> torch.Tensor:
    return nn.functional.one_hot(classes, len(DefectClass)).float()
