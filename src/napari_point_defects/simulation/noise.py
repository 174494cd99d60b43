"""Counting noise, detector noise and the digitiser: from a clean signal to grey levels.

The paper gives λ and μ without saying where they apply. Here:

* λ is the expected number of counts in a pixel at the middle of a perfect X₂ column. Every
  pixel's count is drawn from a Poisson distribution whose mean is in proportion to its signal.
* μ is the standard deviation of Gaussian noise added after counting, in grey levels of an
  8-bit image (0–255), whatever the bit depth of the output.

Black level and gain are set as an operator would: black a little above 0, and the brightest
perfect column plus three standard deviations of its counts, and two counts more, at white. An
operator who set them otherwise lost what lies outside: a black level below 0 cuts the dark end
off, a gain above 1 the bright one.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from napari_point_defects.simulation.scenes import Scene


class NoiseSettings(BaseModel):
    """How a clean signal becomes an image."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    poisson_lambda: float = Field(
        10.0, ge=0, description="λ: counts at a perfect X₂ column's maximum; 0 for none"
    )
    gaussian_mu: float = Field(
        20.0, ge=0, description="μ: standard deviation in grey levels of 0–255"
    )
    black_level: float = Field(
        20.0, ge=-255, lt=200, description="Grey level of no signal, 0–255; below 0 it is cut off"
    )
    gain: float = Field(
        1.0, gt=0, le=20, description="Factor on the gain; above 1 bright columns are cut off"
    )
    bits: Literal[8, 16] = Field(8, description="Bit depth of the output: 8 or 16")

    @classmethod
    def for_column_counts(cls, scene: Scene, counts: float, **others) -> NoiseSettings:
        """Return settings with so many expected counts in a whole perfect X₂ column."""
        return cls(poisson_lambda=counts * scene.peak / scene.pair_volume_px, **others)

    def levels_per_peak(self, brightest: float) -> float:
        """Grey levels (0–255) from no signal to the middle of a perfect X₂ column.

        Parameters
        ----------
        brightest : float
            Signal at the brightest kind of perfect column, in units of the X₂ column's.
        """
        if self.poisson_lambda:
            brightest += 3 * np.sqrt(brightest / self.poisson_lambda) + 2 / self.poisson_lambda
        return self.gain * (255 - self.black_level) / brightest


def add_noise(scene: Scene, noise: NoiseSettings, rng: np.random.Generator) -> np.ndarray:
    """Return the scene as a microscope would record it.

    Parameters
    ----------
    scene : Scene
    noise : NoiseSettings
    rng : numpy.random.Generator

    Returns
    -------
    ndarray of shape (M, N), uint8 or uint16
    """
    grey = record_signal(scene, noise, rng)
    levels = 2**noise.bits - 1
    dtype = np.uint8 if noise.bits == 8 else np.uint16
    return np.clip(np.rint(grey * (levels / 255)), 0, levels).astype(dtype)


def record_signal(scene: Scene, noise: NoiseSettings, rng: np.random.Generator) -> np.ndarray:
    """Return the scene as it reaches the digitiser, in grey levels of 0–255, none cut off.

    Parameters
    ----------
    scene, noise, rng
        As in :func:`add_noise`.

    Returns
    -------
    ndarray of shape (M, N), float32
    """
    relative = np.maximum(scene.clean, 0) / scene.peak  # 1 at a perfect X₂ column
    if noise.poisson_lambda:
        relative = (
            rng.poisson(relative * noise.poisson_lambda).astype(np.float32) / noise.poisson_lambda
        )
    per_peak = noise.levels_per_peak(scene.brightest_peak / scene.peak)
    grey = noise.black_level + per_peak * relative
    if noise.gaussian_mu:
        grey = grey + noise.gaussian_mu * rng.standard_normal(grey.shape, dtype=np.float32)
    return grey
