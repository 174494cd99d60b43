"""Training data of the FCN: images in the canonical frame, a class for every pixel."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch.utils.data import Dataset

from napari_point_defects.baselines.fcn.model import (
    BACKGROUND,
    METAL,
    NO_METAL,
    PAIR,
    FcnSettings,
)
from napari_point_defects.canonical import to_canonical_image
from napari_point_defects.records import missing_chalcogens, missing_metals
from napari_point_defects.training_set import UNLABELLED, LabelledImage
from napari_point_defects.training_views import cut_square, misjudge, square_corner

_MATRIX_ERROR = 0.008


class PixelDataset(Dataset):
    """One crop per item: pixels (1, S, S) and their classes (S, S).

    Parameters
    ----------
    images : sequence of LabelledImage
    settings : FcnSettings
    augment : bool
        Turn by 120°, mirror, misjudge the lattice and crop at random.
    """

    def __init__(
        self, images: Sequence[LabelledImage], settings: FcnSettings, augment: bool
    ) -> None:
        self.images, self.settings, self.augment = images, settings, augment

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        item = self.images[index]
        rng = np.random.default_rng(torch.randint(2**31, ()).item() if self.augment else index)
        lattice = item.lattice
        if self.augment:
            lattice = misjudge(lattice, rng, matrix_error=_MATRIX_ERROR)
        image = to_canonical_image(
            item.pixels.astype(np.float32), lattice, self.settings.pixels_per_a
        )
        judged = item.classes != UNLABELLED
        columns = [
            image.to_pixels(lattice.to_canonical(points[judged]))
            for points in (item.chalcogen_px, item.metal_px)
        ]
        classes = pixel_classes(image.pixels.shape, *columns, item.classes[judged], self._radius_px)
        side = self.settings.crop_px
        corner = square_corner(classes.shape, side, rng if self.augment else None)
        pixels = cut_square(image.pixels, corner, side)
        target = cut_square(classes, corner, side, BACKGROUND)
        return torch.from_numpy(pixels)[None], torch.from_numpy(target)

    @property
    def _radius_px(self) -> float:
        return self.settings.disc_a * self.settings.pixels_per_a


def pixel_classes(
    shape: tuple[int, int],
    chalcogen: np.ndarray,
    metal: np.ndarray,
    classes: np.ndarray,
    radius_px: float,
) -> np.ndarray:
    """Return the class of every pixel: discs about the columns.

    Parameters
    ----------
    shape : (int, int)
    chalcogen, metal : ndarray of shape (K, 2)
        Pixel positions (y, x) of the cells' columns.
    classes : ndarray of shape (K,), int
        ``DefectClass`` of each cell.
    radius_px : float

    Returns
    -------
    ndarray of shape (M, N), int64
    """
    found = np.full(shape, BACKGROUND)
    there = np.where(missing_metals(classes), NO_METAL, METAL)
    for points, values in ((metal, there), (chalcogen, PAIR + missing_chalcogens(classes))):
        rows, columns, owner = disc_pixels(shape, points, radius_px)
        found[rows, columns] = values[owner]
    return found


def disc_pixels(
    shape: tuple[int, int], points: np.ndarray, radius_px: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return rows and columns of the pixels in discs about points, and which point's each is.

    Parameters
    ----------
    shape : (int, int)
        Pixels outside it are left out.
    points : ndarray of shape (K, 2)
    radius_px : float
    """
    reach = int(np.ceil(radius_px))
    steps = np.stack(np.meshgrid(*[np.arange(-reach, reach + 1)] * 2, indexing="ij"), -1)
    places = np.rint(points).astype(int)[:, None] + steps.reshape(-1, 2)
    near = np.hypot(*(places - points[:, None]).transpose(2, 0, 1)) <= radius_px
    inside = ((places >= 0) & (places < np.array(shape))).all(axis=-1) & near
    owner = np.broadcast_to(np.arange(len(points))[:, None], inside.shape)[inside]
    return places[inside][:, 0], places[inside][:, 1], owner
