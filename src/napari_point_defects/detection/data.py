"""Training data of CNN-1: labelled images resampled into slightly wrong canonical frames."""

from __future__ import annotations

import numpy as np
import torch
from torch.utils.data import Dataset

from napari_point_defects.canonical import CanonicalImage, to_canonical_image
from napari_point_defects.detection.model import DetectorSettings, input_channels
from napari_point_defects.materials import CELL_FROM_CHALCOGEN
from napari_point_defects.training_set import TrainingSet
from napari_point_defects.training_views import cut_square, misjudge, square_corner

FRAME_ERRORS = {"angle_error": np.radians(1.0), "matrix_error": 0.015}
"""What frames are misjudged by in training; see :func:`misjudge`."""


class HexagonDataset(Dataset):
    """One canonical crop per item, with torchvision's target (boxes as x, y, x, y).

    Parameters
    ----------
    images : TrainingSet
    settings : DetectorSettings
    augment : bool
        Turn by 120°, mirror, misjudge the lattice and crop at random.
    """

    def __init__(self, images: TrainingSet, settings: DetectorSettings, augment: bool) -> None:
        self.images, self.settings, self.augment = images, settings, augment

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        item = self.images[index]
        rng = np.random.default_rng(torch.randint(2**31, ()).item() if self.augment else index)
        lattice = item.lattice
        if self.augment:
            lattice = misjudge(lattice, rng, **FRAME_ERRORS)
        image = to_canonical_image(item.pixels, lattice, self.settings.pixels_per_a)
        if self.settings.target == "hexagon":
            middles = lattice.to_canonical(item.hexagons_px)
        else:
            middles = lattice.to_canonical(item.chalcogen_px) + CELL_FROM_CHALCOGEN
        pixels, centres = self._crop(image, image.to_pixels(middles), rng)
        half = self.settings.box_size / 2 * self.settings.pixels_per_a
        boxes = np.concatenate([(centres - half)[:, ::-1], (centres + half)[:, ::-1]], axis=1)
        tensor = torch.from_numpy(np.ascontiguousarray(pixels))[None]
        target = {
            "boxes": torch.as_tensor(np.ascontiguousarray(boxes), dtype=torch.float32),
            "labels": torch.ones(len(boxes), dtype=torch.int64),
        }
        return tensor.repeat(input_channels(self.settings), 1, 1), target

    def _crop(
        self, image: CanonicalImage, centres: np.ndarray, rng: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray]:
        """Cut a square; what leaves it by more than an eighth of its box goes."""
        side = self.settings.train_crop_px
        corner = square_corner(image.pixels.shape, side, rng if self.augment else None)
        centres = centres - corner
        reach = 0.375 * self.settings.box_size * self.settings.pixels_per_a
        kept = np.all((centres >= reach) & (centres <= side - 1 - reach), axis=1)
        return cut_square(image.pixels, corner, side), centres[kept]


def collate(batch: list) -> tuple[list[torch.Tensor], list[dict[str, torch.Tensor]]]:
    """Keep images and targets as lists, as torchvision's detectors take them."""
    images, targets = zip(*batch, strict=True)
    return list(images), list(targets)
