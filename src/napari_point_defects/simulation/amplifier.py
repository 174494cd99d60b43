"""Black level and gain that cut off as much of an image as a given one has lost, or nothing."""

from __future__ import annotations

import numpy as np

from napari_point_defects.simulation.noise import record_signal
from napari_point_defects.simulation.recipes import Recipe
from napari_point_defects.simulation.scenes import make_scene

_LEAST_SHARE = 1e-3
"""Fewer pixels at an end are no clipping: every image has a brightest pixel."""
_MOST_PX = 512
_BLACK_LIMITS, _MOST_GAIN = (-255.0, 199.0), 20.0


def amplifier_for_clipping(recipe: Recipe, clipped_low: float, clipped_high: float) -> Recipe:
    """Return the recipe with an amplifier that loses those shares of the pixels.

    The levels are chosen from quantiles of a simulated image before its digitiser. The read
    noise is kept in units of the signal, so in grey levels it grows with the gain.

    Parameters
    ----------
    recipe : Recipe
    clipped_low, clipped_high : float
        Shares of the pixels at the lowest and the highest value.

    Returns
    -------
    Recipe
        With the amplifier as it was where that cuts off no more than the image has lost.
    """
    cut_low, cut_high = clipped_low > _LEAST_SHARE, clipped_high > _LEAST_SHARE
    rng = np.random.default_rng(recipe.seed)
    size = {n: min(getattr(recipe.scene, n), _MOST_PX) for n in ("height_px", "width_px")}
    scene = make_scene(recipe.scene.model_copy(update=size), rng, microscope=recipe.microscope)
    noise = recipe.noise
    brightest = scene.brightest_peak / scene.peak
    per_peak = noise.levels_per_peak(brightest)
    # in units of the X₂ column's peak
    signal = (record_signal(scene, noise, rng) - noise.black_level) / per_peak
    dark = float(np.quantile(signal, clipped_low if cut_low else _LEAST_SHARE))
    bright = float(np.quantile(signal, 1 - (clipped_high if cut_high else _LEAST_SHARE)))
    # dirt and read noise reach beyond what the plain amplifier shows
    plain = -noise.black_level / per_peak, (255 - noise.black_level) / per_peak
    dark = dark if cut_low else min(dark, plain[0])
    bright = bright if cut_high else max(bright, plain[1])
    if (dark, bright) == plain:
        return recipe
    scale = 255 / max(bright - dark, 1e-6)
    black = float(np.clip(-scale * dark, *_BLACK_LIMITS))
    unit = noise.model_copy(update={"black_level": black, "gain": 1.0}).levels_per_peak(brightest)
    gain = float(np.clip(scale / unit, 1e-3, _MOST_GAIN))
    changed = {
        "black_level": black,
        "gain": gain,
        "gaussian_mu": float(noise.gaussian_mu * gain * unit / per_peak),
    }
    return recipe.model_copy(update={"noise": noise.model_copy(update=changed)})
