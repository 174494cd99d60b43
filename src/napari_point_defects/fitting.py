"""One training loop for both networks, on Lightning: checkpoints, resume, early stop, metrics."""

from __future__ import annotations

import csv
import logging
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal

import lightning
import torch
from lightning.pytorch.callbacks import Callback, EarlyStopping, ModelCheckpoint
from torch.utils.data import DataLoader, Dataset, RandomSampler

from napari_point_defects.devices import FitSettings, choose_device, has_fast_bfloat16
from napari_point_defects.errors import PointDefectsError, Stopped
from napari_point_defects.many_devices import (
    SharedSampler,
    check_strategy,
    end_helper,
    is_helper,
    leave,
    n_processes,
)
from napari_point_defects.training_set import LabelledImage, TrainingSet

_WORTH_A_PROCESS = 100
"""Images: fewer are prepared here in the seconds that a process takes to start."""


class _Reporter(Callback):
    """Passes progress out and the wish to stop in; adds a row per epoch to ``metrics.csv``."""

    def __init__(
        self,
        path: Path,
        on_progress: Callable[[float, str], None],
        should_stop: Callable[[], bool],
        on_step: Callable[[float, float], None],
        on_epoch: Callable[[dict[str, float]], None],
    ) -> None:
        self.path, self.on_progress, self.should_stop = path, on_progress, should_stop
        self.on_step, self.on_epoch = on_step, on_epoch
        self.losses: list[float] = []

    def on_train_batch_end(self, trainer, module, outputs, batch, index) -> None:
        share = (trainer.current_epoch + index / trainer.num_training_batches) / trainer.max_epochs
        self.losses.append(float(outputs["loss"]))
        if trainer.is_global_zero:
            text = f"epoch {trainer.current_epoch + 1}, loss {self.losses[-1]:.4f}"
            self.on_progress(share, text)
            self.on_step(share * trainer.max_epochs, self.losses[-1])
        stop = trainer.is_global_zero and self.should_stop()
        if trainer.world_size > 1:  # all or none: the others would wait for one that has left
            stop = trainer.strategy.reduce_boolean_decision(stop, all=False)
        if stop:
            raise Stopped

    def on_validation_end(self, trainer, module) -> None:
        figures = {k: float(v) for k, v in trainer.callback_metrics.items() if k.startswith("val")}
        row = {
            "epoch": trainer.current_epoch + 1,
            "train_loss": sum(self.losses) / max(len(self.losses), 1),
            **dict(sorted(figures.items())),
        }
        self.losses = []
        if not trainer.is_global_zero:
            return
        self._write(row)
        self.on_epoch(row)
        self.on_progress(
            (trainer.current_epoch + 1) / trainer.max_epochs,
            ", ".join(f"{name} {value:.4g}" for name, value in row.items()),
        )

    def _write(self, row: dict[str, float]) -> None:
        """Add a row; a run killed between row and checkpoint does its last epoch again."""
        rows = []
        if self.path.exists():
            with self.path.open(newline="") as file:
                rows = [r for r in csv.DictReader(file) if float(r["epoch"]) < row["epoch"]]
        temporary = self.path.with_suffix(".tmp")
        with temporary.open("w", newline="") as file:
            writer = csv.DictWriter(file, row, extrasaction="ignore")
            writer.writeheader()
            writer.writerows([*rows, row])
        temporary.replace(self.path)


def fit(
    module: lightning.LightningModule,
    train: DataLoader,
    validation: DataLoader,
    settings: FitSettings,
    folder: Path,
    *,
    resume: bool = False,
    keep: Literal["best", "last"] = "best",
    on_progress: Callable[[float, str], None] = lambda share, text: None,
    should_stop: Callable[[], bool] = lambda: False,
    on_step: Callable[[float, float], None] = lambda epochs, loss: None,
    on_epoch: Callable[[dict[str, float]], None] = lambda row: None,
) -> dict:
    """Train a module until the settings' end or until it stops getting better.

    The module logs ``val_score``, of which more is better. ``folder/metrics.csv`` has a row per
    epoch, ``folder/last.ckpt`` all that a restart needs.

    Parameters
    ----------
    module : LightningModule
    train, validation : DataLoader
    settings : FitSettings
    folder : Path
    resume : bool
        Go on from ``last.ckpt``.
    keep : {"best", "last"}
        The epoch whose weights the module holds in the end.
    on_progress, should_stop : callable
    on_step : callable
        Takes the epochs done, a fraction, and the loss of the step.
    on_epoch : callable
        Takes the row of ``metrics.csv``.

    Returns
    -------
    dict
        ``epochs`` run and the best ``val_score``.

    Raises
    ------
    PointDefectsError
        If there is something to resume that was not asked for, or nothing to resume.
    Stopped
        If ``should_stop`` said yes; resume goes on from the last whole epoch.
    SystemExit
        At its end, in a process that only helped; see
        :mod:`~napari_point_defects.many_devices`.
    """
    last, helps = folder / "last.ckpt", is_helper(settings.devices)
    check_strategy(settings)
    if resume and not last.is_file():
        raise PointDefectsError(f"nothing to resume in {folder}: leave out --resume")
    if last.is_file() and not resume and not helps:
        raise PointDefectsError(f"{folder} holds a training run: add --resume or choose another")
    device = choose_device(settings.device)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise PointDefectsError(f"cannot write to {folder}: {error.strerror}") from error
    # What Lightning says of itself is not about the user's training.
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", module="lightning.*")
    checkpoints = ModelCheckpoint(
        dirpath=folder,
        filename="best",
        monitor="val_score",
        mode="max",
        enable_version_counter=False,
    )
    # Apart from the best: the best is kept only while it gets better, a restart needs the last.
    latest = ModelCheckpoint(dirpath=folder, filename="last", enable_version_counter=False)
    reporter = _Reporter(folder / "metrics.csv", on_progress, should_stop, on_step, on_epoch)
    trainer = _trainer(
        settings,
        accelerator="gpu" if device.type == "cuda" else "cpu",
        max_epochs=settings.epochs,
        precision="bf16-mixed" if settings.bfloat16 and has_fast_bfloat16(device) else "32-true",
        callbacks=[
            checkpoints,
            latest,
            EarlyStopping("val_score", mode="max", patience=settings.patience),
            reporter,
        ],
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
    )
    trainer.fit(module, train, validation, ckpt_path=last if resume else None, weights_only=True)
    if helps:
        end_helper()
    leave()
    if keep == "best":
        best = torch.load(checkpoints.best_model_path, map_location="cpu", weights_only=True)
        module.load_state_dict(best["state_dict"])
    return {"epochs": trainer.current_epoch, "val_score": float(checkpoints.best_model_score)}


def _trainer(settings: FitSettings, **options) -> lightning.Trainer:
    try:
        return lightning.Trainer(
            devices=settings.devices,
            strategy=settings.strategy,
            # the loaders' own sampler is: it knows how many images an epoch has. All processes
            # measure the whole validation split, so that scores are those of one device.
            use_distributed_sampler=False,
            **options,
        )
    except (ValueError, RuntimeError, ImportError) as error:  # Lightning's are among these
        raise PointDefectsError(
            f"--devices {settings.devices} --strategy {settings.strategy}: "
            f"{' '.join(str(error).split())}"
        ) from error


class TrainableModule(lightning.LightningModule):
    """A network with its losses: what the modules of all networks have in common.

    Subclasses set ``network`` and return ``figures`` of what was validated, among them
    ``val_score``; those that are floats are logged.
    """

    network: torch.nn.Module

    def __init__(self, options: FitSettings, total_steps: int) -> None:
        super().__init__()
        self.options, self.total_steps = options, total_steps

    def figures(self) -> dict:
        """Return the figures of merit of the last validation."""
        raise NotImplementedError

    def on_validation_epoch_end(self) -> None:
        for name, value in self.figures().items():
            if isinstance(value, float):
                self.log(name, value)

    def configure_optimizers(self):
        parameters = [p for p in self.parameters() if p.requires_grad]
        optimizer = optimiser(parameters, self.options)
        if not self.options.weight_decay:
            return optimizer
        schedule = warm_cosine(optimizer, max(1, self.total_steps // n_processes()))
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": schedule, "interval": "step"},
        }


def read_splits(data: Path) -> tuple[TrainingSet, TrainingSet]:
    """Return the ``train`` and ``validation`` splits of a training set.

    Raises
    ------
    PointDefectsError
        If one is missing or empty.
    """
    splits = TrainingSet(data / "train"), TrainingSet(data / "validation")
    if not all(len(split) for split in splits):
        raise PointDefectsError(f"{data} needs images in both its train and validation splits")
    return splits


def train(
    data: Path | tuple[Sequence[LabelledImage], Sequence[LabelledImage]],
    folder: Path,
    make_dataset: Callable[[Sequence[LabelledImage], bool], Dataset],
    make_module: Callable[[int], TrainableModule],
    collate: Callable,
    options: FitSettings,
    *,
    start: dict[str, torch.Tensor] | None = None,
    **run,
) -> tuple[dict[str, torch.Tensor], dict]:
    """Train a network on labelled images and measure the best epoch's weights.

    Parameters
    ----------
    data : Path or pair of sequences of LabelledImage
        Training set with ``train`` and ``validation`` splits, or the images of both.
    folder : Path
        Checkpoints and metrics go there.
    make_dataset : callable
        Takes a split and whether to augment it.
    make_module : callable
        Takes the number of steps of the whole run.
    collate : callable
    options : FitSettings
    start : dict of Tensor, optional
        Weights to start from.
    **run
        ``resume``, ``on_progress`` and the other callables of :func:`fit`.

    Returns
    -------
    weights : dict of Tensor
    metrics : dict
        What :func:`fit` returns, and the module's figures on the validation split.
    """
    lightning.seed_everything(options.seed, workers=True, verbose=False)
    splits = read_splits(data) if isinstance(data, Path) else data
    if options.devices == 1:
        sampler = RandomSampler(splits[0], num_samples=options.images_per_epoch)
    else:
        sampler = SharedSampler(len(splits[0]), options.images_per_epoch, options.seed)
    train_loader = DataLoader(
        make_dataset(splits[0], True),
        batch_size=options.batch_images,
        sampler=sampler,
        # several processes draw less each, but all as much
        drop_last=options.devices == 1 and len(sampler) > options.batch_images,
        collate_fn=collate,
        **_processes(options, len(sampler)),
    )
    validation = DataLoader(
        make_dataset(splits[1], False),
        collate_fn=collate,
        **_processes(options, len(splits[1])),
    )
    module = make_module(options.epochs * len(train_loader))
    start_from(module, start)
    metrics = fit(module, train_loader, validation, options, folder, **run)
    return module.network.state_dict(), metrics | measure(module, validation)


def _processes(options: FitSettings, images: int) -> dict:
    """Return who prepares so many images an epoch, as a DataLoader takes it."""
    if not options.loader_workers or options.epochs * images < _WORTH_A_PROCESS:
        return {"num_workers": 0}
    return {
        "num_workers": options.loader_workers,
        "persistent_workers": True,
        # a forked copy of a process that has used OpenBLAS's threads may hang, and the fork, too
        "multiprocessing_context": "spawn",
    }


def start_from(module: TrainableModule, start: dict[str, torch.Tensor] | None) -> None:
    """Load the weights to start from, if any.

    Raises
    ------
    PointDefectsError
        If they do not fit the module's network.
    """
    if start is None:
        return
    try:
        module.network.load_state_dict(start)
    except RuntimeError as error:
        raise PointDefectsError(
            "the weights to start from do not fit this preset: give the preset they were "
            "trained with, or start without them"
        ) from error


def measure(module: TrainableModule, validation: DataLoader) -> dict:
    """Return the module's figures on validation data."""
    module.eval()
    module.on_validation_epoch_start()
    with torch.inference_mode():
        for index, batch in enumerate(validation):
            module.validation_step(batch, index)
    return module.figures()


def optimiser(parameters, settings: FitSettings) -> torch.optim.Optimizer:
    """Adam as the paper has it, or AdamW where there is weight decay."""
    if settings.weight_decay:
        return torch.optim.AdamW(
            parameters, lr=settings.learning_rate, weight_decay=settings.weight_decay
        )
    return torch.optim.Adam(parameters, lr=settings.learning_rate)


def warm_cosine(
    optimizer: torch.optim.Optimizer, total_steps: int
) -> torch.optim.lr_scheduler.LRScheduler:
    """Rise over the first twentieth of the steps, then fall as a half cosine to 1/100."""
    warm = max(1, total_steps // 20)
    lowest = optimizer.param_groups[0]["lr"] / 100  # before the rise begins to scale it
    rise = torch.optim.lr_scheduler.LinearLR(optimizer, 0.05, total_iters=warm)
    fall = torch.optim.lr_scheduler.CosineAnnealingLR(
        optimizer, max(1, total_steps - warm), eta_min=lowest
    )
    return torch.optim.lr_scheduler.SequentialLR(optimizer, [rise, fall], milestones=[warm])
