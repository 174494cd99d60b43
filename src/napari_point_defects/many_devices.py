"""Training on several devices: which of the processes writes, and which images each one draws.

Lightning starts the same command again for every device but the first. Those processes only help:
they do the same work up to the training, learn their share, and end with it. The first one alone
reads what was learned, measures, writes and prints.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import NoReturn

import torch
from torch import distributed
from torch.utils.data import Sampler

from napari_point_defects.devices import FitSettings
from napari_point_defects.errors import PointDefectsError

_RANKS = ("RANK", "LOCAL_RANK", "SLURM_PROCID", "JSM_NAMESPACE_RANK")
"""Where Lightning's launcher, torchrun and clusters' schedulers tell a process its number."""

_FROM_MEMORY = ("spawn", "fork", "notebook")
"""Strategies that copy a running program to its processes; what reports progress cannot be."""


def is_helper(devices: int | str) -> bool:
    """Tell whether this process only helps another, and must write and print nothing."""
    number = next((os.environ[name] for name in _RANKS if name in os.environ), "0")
    return devices != 1 and number != "0"


def n_processes() -> int:
    """Return how many processes train together now."""
    together = distributed.is_available() and distributed.is_initialized()
    return distributed.get_world_size() if together else 1


def end_helper() -> NoReturn:
    """End a process that has helped; the one that it helped goes on."""
    leave()
    raise SystemExit(0)


def leave() -> None:
    """Leave the group of processes, once all have trained."""
    if distributed.is_available() and distributed.is_initialized():
        distributed.destroy_process_group()


def check_strategy(settings: FitSettings) -> None:
    """Refuse a strategy that cannot be used here, before anything is written.

    Raises
    ------
    PointDefectsError
        If it is none of Lightning's, or starts processes in a way that does not work here.
    """
    from lightning.pytorch.strategies import StrategyRegistry

    name = settings.strategy
    if name != "auto" and name not in StrategyRegistry:
        known = [each for each in StrategyRegistry.available_strategies() if _is_usable(each)]
        raise PointDefectsError(
            f"--strategy {name}: Lightning knows no such strategy: choose auto or one of "
            f"{', '.join(sorted(known))}"
        )
    if not _is_usable(name):
        raise PointDefectsError(
            f"--strategy {name}: its processes cannot be started from here: choose ddp"
        )


def _is_usable(strategy: str) -> bool:
    return not any(way in strategy for way in _FROM_MEMORY)


class SharedSampler(Sampler[int]):
    """Draws images for an epoch, each process every n-th of the same draw.

    Lightning's own would draw all images, however many an epoch is to have.

    Parameters
    ----------
    n_images : int
    num_samples : int or None
        How many all processes draw together; none for all images. More than there are are drawn
        in rounds.
    seed : int
    """

    def __init__(self, n_images: int, num_samples: int | None, seed: int) -> None:
        self.n_images, self.num_samples = n_images, num_samples or n_images
        self.seed, self.epoch = seed, 0

    def set_epoch(self, epoch: int) -> None:
        """Draw otherwise; Lightning calls this."""
        self.epoch = epoch

    def draw(self) -> torch.Tensor:
        """Return what all processes draw together; every one draws the same."""
        generator = torch.Generator().manual_seed(self.seed + self.epoch)
        rounds = -(-self.num_samples // self.n_images)
        drawn = [torch.randperm(self.n_images, generator=generator) for _ in range(rounds)]
        return torch.cat(drawn)[: self.num_samples]

    def __len__(self) -> int:
        # the same for all: one that has a step more would wait for the others for ever
        return max(1, self.num_samples // n_processes())

    def __iter__(self) -> Iterator[int]:
        n = n_processes()
        rank = distributed.get_rank() if n > 1 else 0
        drawn = self.draw()
        start = rank % len(drawn)  # fewer images than processes
        return iter(drawn[start :: min(n, len(drawn))][: len(self)].tolist())
