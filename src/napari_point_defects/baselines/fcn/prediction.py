"""From pixels to unit cells: what an FCN says of each cell's two columns."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from napari_point_defects.baselines.fcn.data import disc_pixels
from napari_point_defects.baselines.fcn.model import (
    CHALCOGEN_PIXELS,
    METAL_PIXELS,
    N_CLASSES,
    FcnSettings,
    FullyConvolutional,
)
from napari_point_defects.canonical import CanonicalImage, to_canonical_image
from napari_point_defects.records import Lattice, UnitCells

_TILE_PX = 1024
_BORDER_PX = 48  # what a pixel's class depends on reaches no farther
_MULTIPLE = 8


@dataclass(frozen=True, slots=True)
class FcnCells:
    """What an FCN says of cells.

    Attributes
    ----------
    probabilities : ndarray of shape (K, 6)
        Of the ``DefectClass`` values: the columns' pixels averaged, both columns independent.
    confidence : ndarray of shape (K, 3)
        Shares of the X₂ column's pixels named two, one and no atom: the paper's proportion of
        confidence (Fig. 5d); NaN where none is named a column of X.
    """

    probabilities: np.ndarray
    confidence: np.ndarray


class FcnClassifier:
    """A trained FCN, ready to name the cells of an image.

    Parameters
    ----------
    network : Module
        Takes images (N, 1, H, W), whose sides are multiples of eight, to scores (N, 6, H, W).
    settings : FcnSettings
    """

    def __init__(self, network: nn.Module, settings: FcnSettings) -> None:
        self.network, self.settings = network.eval(), settings

    @classmethod
    def of_weights(cls, weights: dict[str, torch.Tensor], settings: FcnSettings) -> FcnClassifier:
        """Return it from what :func:`~.training.train_fcn` returned."""
        network = FullyConvolutional(settings.filters)
        network.load_state_dict(weights)
        return cls(network, settings)

    def predict(self, data: np.ndarray, lattice: Lattice, cells: UnitCells) -> FcnCells:
        """Name the cells of an image.

        Parameters
        ----------
        data : ndarray of shape (M, N)
            NaN where nothing was recorded.
        lattice : Lattice
        cells : UnitCells
        """
        image = to_canonical_image(data, lattice, self.settings.pixels_per_a)
        pixels = self.pixel_probabilities(image)
        radius = self.settings.disc_a * self.settings.pixels_per_a
        chalcogen, metal = (
            _mean_over_discs(pixels, image.to_pixels(lattice.to_canonical(points)), radius)
            for points in (cells.chalcogen_px, cells.metal_px)
        )
        atoms = _shares(chalcogen[0][:, CHALCOGEN_PIXELS], 1 / len(CHALCOGEN_PIXELS))
        there = _shares(metal[0][:, METAL_PIXELS], 1 / len(METAL_PIXELS))
        return FcnCells(
            probabilities=np.concatenate([atoms * there[:, :1], atoms * there[:, 1:]], axis=1),
            confidence=_shares(chalcogen[1][:, CHALCOGEN_PIXELS], np.nan),
        )

    def pixel_probabilities(self, image: CanonicalImage) -> np.ndarray:
        """Return every pixel's class probabilities, (6, M, N), tile by tile."""
        height, width = image.pixels.shape
        found = np.empty((N_CLASSES, height, width), np.float32)
        for top in range(0, height, _TILE_PX):
            for left in range(0, width, _TILE_PX):
                start = np.maximum([top - _BORDER_PX, left - _BORDER_PX], 0)
                part = image.pixels[
                    start[0] : top + _TILE_PX + _BORDER_PX, start[1] : left + _TILE_PX + _BORDER_PX
                ]
                inner = self._tile(part)[:, top - start[0] :, left - start[1] :]
                target = found[:, top : top + _TILE_PX, left : left + _TILE_PX]
                target[...] = inner[:, : target.shape[1], : target.shape[2]]
        return found

    @torch.inference_mode()
    def _tile(self, pixels: np.ndarray) -> np.ndarray:
        beyond = [(0, -n % _MULTIPLE) for n in pixels.shape]
        whole = np.ascontiguousarray(np.pad(pixels, beyond), np.float32)
        scores = self.network(torch.from_numpy(whole)[None, None])[0]
        return scores.softmax(0).numpy()[:, : pixels.shape[0], : pixels.shape[1]]


def _mean_over_discs(
    pixels: np.ndarray, points: np.ndarray, radius_px: float
) -> tuple[np.ndarray, np.ndarray]:
    """Return mean probabilities and shares of named pixels in discs, each (K, 6)."""
    rows, columns, owner = disc_pixels(pixels.shape[1:], points, radius_px)
    inside = pixels[:, rows, columns]
    named = np.eye(N_CLASSES)[inside.argmax(axis=0)].T
    count = np.maximum(np.bincount(owner, minlength=len(points)), 1)
    return tuple(
        np.stack([np.bincount(owner, each, len(points)) for each in values], axis=1)
        / count[:, None]
        for values in (inside, named)
    )


def _shares(values: np.ndarray, of_nothing: float) -> np.ndarray:
    """Divide each row by its sum, shape (K, C); one that is 0 throughout takes another value."""
    total = values.sum(axis=1, keepdims=True)
    return np.where(total > 0, values / np.maximum(total, 1e-30), of_nothing)
