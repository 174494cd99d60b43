"""What the lattice search sees of an image: all of it, or windows of a large one.

A spectrum of a few million pixels shows the lattice as well as one of a hundred million would, and
better where the lattice is bent. The harmonics are then read from the whole image, strip by strip.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from napari_point_defects.errors import PointDefectsError

LARGEST_WHOLE_PX = 2560**2
"""Images of up to that many pixels are searched whole."""

WINDOW_PX = 2048
"""Side of a window of a larger image."""

_PLACES = ((1, 1), (0, 0), (2, 2), (0, 2), (2, 0))  # in halves of the room there is
_LEAST_RECORDED = 0.3


@dataclass(frozen=True, slots=True)
class Scaling:
    """How intensities are brought to mean 0 and spread 1, gaps filled, rare outliers clipped."""

    low: np.float32
    middle: np.float32
    high: np.float32
    mean: np.float32
    spread: np.float32

    @classmethod
    def of(cls, data: np.ndarray) -> tuple[Scaling, np.ndarray]:
        """Return the scaling that suits an image, shape (M, N), and the scaled image.

        Raises
        ------
        PointDefectsError
            If the image holds no data or is constant.
        """
        image = data.astype(np.float32)
        finite = np.isfinite(image)
        if finite.mean() < 0.05:
            raise PointDefectsError("the image holds no data (nearly all pixels are NaN)")
        sample = image[finite][:: max(1, finite.sum() // 200_000)]
        low, middle, high = np.percentile(sample, [0.02, 50, 99.98])
        if not high > low:
            raise PointDefectsError("the image is constant: it shows no lattice")
        image = np.clip(np.where(finite, image, np.float32(middle)), low, high, dtype=np.float32)
        mean = image.mean()
        image -= mean
        spread = image.std()
        return cls(low, np.float32(middle), high, mean, spread), image / spread

    def apply(self, data: np.ndarray) -> np.ndarray:
        """Scale part of an image: shape (M, N), float32."""
        part = np.where(np.isfinite(data), data, self.middle)
        part = np.clip(part, self.low, self.high, dtype=np.float32)
        part -= self.mean
        part /= self.spread
        return part


@dataclass(frozen=True, slots=True)
class ScaledView:
    """A large image, scaled only where it is looked at."""

    data: np.ndarray
    scaling: Scaling

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width in pixels."""
        return self.data.shape

    def __getitem__(self, where: tuple[slice, slice]) -> np.ndarray:
        return self.scaling.apply(self.data[where])


def windows(data: np.ndarray) -> Iterator[np.ndarray]:
    """Yield windows of a large image, the middle one first; views, none that is mostly empty."""
    side = np.minimum(WINDOW_PX, data.shape)
    for place in _PLACES:
        top, left = ((np.array(data.shape) - side) * np.array(place) // 2).tolist()
        window = data[top : top + side[0], left : left + side[1]]
        if np.isfinite(window[::8, ::8]).mean() >= _LEAST_RECORDED:
            yield window
