"""Counting noise, detector noise and the digitiser: from a clean signal to grey levels.

The paper gives λ and μ without saying where they apply. Here:

* λ is the expected number of counts in a pixel at the middle of a perfect X₂ column. Every
  pixel's count is drawn from a Poisson distribution whose mean is in proportion to its signal.
* μ is the standard deviation of Gaussian noise added after counting, in grey levels of an
  8-bit image (0–255), whatever the bit depth of the output.

Black level and gain are set as an operator would: black a little above 0, and the brightest
perfect column plus three standard deviations of its counts, and two counts more, at white.
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
    black_level: float = Field(20.0, ge=0, lt=200, description="Grey level of no signal, 0–255")
    bits: Literal[8, 16] = Field(8, description="Bit depth of the output: 8 or 16")

    @classmethod
    def for_column_counts(cls, scene: Scene, counts: float, **others) -> NoiseSettings:
        """Return settings with so many expected counts in a whole perfect X₂ column."""
        return cls(poisson_lambda=counts * scene.peak / scene.pair_volume_px, **others)


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
    relative = np.maximum(scene.clean, 0) / scene.peak  # 1 at a perfect X₂ column
    brightest = scene.brightest_peak / scene.peak
    if noise.poisson_lambda:
        relative = (
            rng.poisson(relative * noise.poisson_lambda).astype(np.float32) / noise.poisson_lambda
        )
        brightest += 3 * np.sqrt(brightest / noise.poisson_lambda) + 2 / noise.poisson_lambda
    grey = noise.black_level + (255 - noise.black_level) / brightest * relative
    if noise.gaussian_mu:
        grey = grey + noise.gaussian_mu * rng.standard_normal(grey.shape, dtype=np.float32)
    levels = 2**noise.bits - 1
    dtype = np.uint8 if noise.bits == 8 else np.uint16
    return np.clip(np.rint(grey * (levels / 255)), 0, levels).astype(dtype)
