"""ResNet-18 on the paper's crop of a unit cell, in several inputs; trained in minutes.

Scaled down from the paper for two processor cores: crops of 64 px in place of 224, a learning
rate of 3 × 10⁻⁴ in place of 2 × 10⁻⁶ and fewer epochs. The network, the crop and the balanced
classes are the paper's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn
from torchvision.models import resnet18

from benchmarks.paper.judged_cells import JudgedImage
from napari_point_defects.canonical import sample_windows
from napari_point_defects.materials import CELL_FROM_CHALCOGEN, CELL_SIZE, DefectClass
from napari_point_defects.records import Lattice
from napari_point_defects.training_set import LabelledImage

SIDE = 64
_SHIFT_A = 0.02  # training cells are misplaced by, as CNN-1 does
_BATCH = 64
_LEARNING_RATE = 3e-4


@dataclass(frozen=True)
class Crops:
    """Unit cells cut from images.

    Attributes
    ----------
    pixels : ndarray of shape (K, 64, 64)
        In the image's own units.
    low, high : ndarray of shape (K,)
        Medians over all cells of the image of each cell's darkest and brightest sample.
    """

    pixels: np.ndarray
    low: np.ndarray
    high: np.ndarray

    @classmethod
    def cut(cls, data: np.ndarray, lattice: Lattice, chalcogen_px: np.ndarray) -> Crops:
        """Cut the cells of one image: the corner of the hexagon's box, α = 0.634, β = 0.5."""
        middles = chalcogen_px + lattice.matrix_at(chalcogen_px) @ CELL_FROM_CHALCOGEN
        pixels = sample_windows(data, lattice, middles, tuple(CELL_SIZE), (SIDE, SIDE))
        flat = np.nan_to_num(pixels, nan=float(np.nanmedian(data))).reshape(len(pixels), -1)
        ends = np.percentile(flat, (1, 99), axis=1) if len(flat) else np.zeros((2, 0))
        low, high = (np.full(len(flat), np.median(end) if len(end) else 0) for end in ends)
        return cls(flat.reshape(-1, SIDE, SIDE), low, high)

    @classmethod
    def joined(cls, parts: Iterable[Crops]) -> Crops:
        """Return the crops of several images."""
        parts = list(parts)
        return cls(
            np.concatenate([p.pixels for p in parts]),
            np.concatenate([p.low for p in parts]),
            np.concatenate([p.high for p in parts]),
        )


def by_own_extremes(crops: Crops) -> np.ndarray:
    """Scale every cell between its own extremes: the paper's one channel."""
    return _scaled(crops.pixels)[:, None]


def halves_of_own_extremes(crops: Crops) -> np.ndarray:
    """Scale a cell between its own extremes, then split it into its X₂ and M half."""
    return _split(_scaled(crops.pixels))


def halves_each_by_extremes(crops: Crops) -> np.ndarray:
    """Split a cell, and scale each half by itself: a column's contrast, no comparison."""
    half = SIDE // 2
    parts = [_scaled(crops.pixels[:, :, s]) for s in (slice(0, half), slice(half, None))]
    return np.repeat(np.stack(parts, axis=1), 2, axis=3)


def by_image_levels(crops: Crops) -> np.ndarray:
    """Scale by what the image's cells are like in the median: one channel."""
    return _by_levels(crops)[:, None]


def halves_by_image_levels(crops: Crops) -> np.ndarray:
    """Scale by what the image's cells are like in the median, then split."""
    return _split(_by_levels(crops))


INPUTS: dict[str, Callable[[Crops], np.ndarray]] = {
    "1 channel, own extremes": by_own_extremes,
    "2 channels, own extremes": halves_of_own_extremes,
    "2 channels, each half's extremes": halves_each_by_extremes,
    "1 channel, the image's levels": by_image_levels,
    "2 channels, the image's levels": halves_by_image_levels,
}


def training_crops(images: Iterable[LabelledImage], seed: int) -> tuple[Crops, np.ndarray]:
    """Cut the cells of labelled images, a little misplaced, and return their classes."""
    rng = np.random.default_rng(seed)
    parts, classes = [], []
    for item in images:
        shift = rng.normal(0, _SHIFT_A * item.lattice.a_px, (len(item.classes), 2))
        data = item.pixels.astype(np.float32)
        parts.append(Crops.cut(data, item.lattice, item.chalcogen_px + shift))
        classes.append(item.classes)
    return Crops.joined(parts), np.concatenate(classes)


def judged_crops(images: Iterable[JudgedImage]) -> tuple[Crops, np.ndarray]:
    """Cut the cells that were found in experiments, and return what they truly are."""
    parts, classes = [], []
    for each in images:
        places = each.analysis.cells.chalcogen_px[each.rows]
        parts.append(Crops.cut(each.image.data, each.analysis.detection.lattice, places))
        classes.append(each.classes)
    return Crops.joined(parts), np.concatenate(classes)


def train(
    inputs: np.ndarray, classes: np.ndarray, *, epochs: int, per_epoch: int = 2400, seed: int = 0
) -> nn.Module:
    """Train a ResNet-18 from scratch on as many cells of each class."""
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    network = resnet18(num_classes=len(DefectClass))
    network.conv1 = nn.Conv2d(inputs.shape[1], 64, 7, stride=2, padding=3, bias=False)
    optimizer = torch.optim.Adam(network.parameters(), _LEARNING_RATE)
    steps = epochs * (per_epoch // _BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3 * _LEARNING_RATE, steps)
    rows = [np.flatnonzero(classes == c) for c in range(len(DefectClass))]
    network.train()
    for _ in range(steps):
        drawn = np.concatenate([rng.choice(each, -(-_BATCH // len(rows))) for each in rows])
        scores = network(torch.from_numpy(inputs[drawn]).float())
        loss = nn.functional.cross_entropy(scores, torch.from_numpy(classes[drawn]).long())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return network.eval()


@torch.inference_mode()
def predict(network: nn.Module, inputs: np.ndarray) -> np.ndarray:
    """Return class probabilities, (K, 6)."""
    parts = [
        network(torch.from_numpy(inputs[start : start + 512]).float()).softmax(1)
        for start in range(0, len(inputs), 512)
    ]
    return torch.cat(parts).numpy() if parts else np.zeros((0, len(DefectClass)))


def _scaled(pixels: np.ndarray) -> np.ndarray:
    low = pixels.min(axis=(1, 2), keepdims=True)
    high = pixels.max(axis=(1, 2), keepdims=True)
    return ((pixels - low) / np.maximum(high - low, 1e-12)).astype(np.float32)


def _by_levels(crops: Crops) -> np.ndarray:
    low, high = crops.low[:, None, None], crops.high[:, None, None]
    return ((crops.pixels - low) / np.maximum(high - low, 1e-12)).astype(np.float32)


def _split(pixels: np.ndarray) -> np.ndarray:
    half = SIDE // 2
    return np.repeat(np.stack([pixels[:, :, :half], pixels[:, :, half:]], axis=1), 2, axis=3)
