"""Noise of an image whose counts cannot be measured: from the floor of its power spectrum.

Beyond the band limit of the probe, 2 α/λ, an image's spectrum holds noise alone, and white noise
has as much power at every frequency. So the floor, over the image's variance, is the share of the
variance that is noise.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from napari_point_defects.simulation.comparison import ImageComparison
from napari_point_defects.simulation.intervals import around, rounded
from napari_point_defects.simulation.likeness import NO_COUNTS, NO_READ_NOISE, Likeness

_BAND_LIMIT_PER_A = 4.5  # 2 α/λ = 13 per nm, in units of 1/a of the largest lattice
_LEAST_BINS = 4
_MOST = 0.95
_MARGIN = 1.4


def with_noise_floor(
    likeness: Likeness, clean: np.ndarray, comparison: ImageComparison
) -> Likeness:
    """Give a likeness without any noise as much as its image has, all of it the detector's.

    Parameters
    ----------
    likeness : Likeness
        Whose recipe has neither counting nor read noise.
    clean : ndarray of shape (M, N)
        Its image.
    comparison : ImageComparison
        Of the image with that.

    Returns
    -------
    Likeness
        With a set of as much read noise, and of the highest dose of the range that it had.
    """
    beyond = comparison.frequencies_per_a > _BAND_LIMIT_PER_A
    beyond[-_LEAST_BINS:] = True
    share = float(np.clip(np.median(comparison.spectra[0, beyond]), 0, _MOST))
    noise = likeness.recipe.noise
    to_levels = 255 / (2**noise.bits - 1)
    mu = float(np.std(np.asarray(clean, float) * to_levels) * np.sqrt(share / (1 - share)))
    recipe = likeness.recipe.model_copy(
        update={"noise": noise.model_copy(update={"gaussian_mu": mu})}
    )
    changed: dict = {"gaussian_mu": rounded(around(mu, _MARGIN)), "gaussian_share": 1.0}
    counts = likeness.settings.column_counts
    if counts is not None:
        changed["column_counts"] = (counts[1] / 2, counts[1])
    remark = "all noise is taken to be the detector's, as strong as the power spectrum says"
    kept = tuple(line for line in likeness.remarks if line not in (NO_COUNTS, NO_READ_NOISE))
    return replace(
        likeness,
        recipe=recipe,
        settings=likeness.settings.model_copy(update=changed),
        remarks=(*kept, remark),
    )
