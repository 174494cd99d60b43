"""An image and its likeness side by side: histograms, power spectra, and how far apart they are."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import fft

BINS = 48
PERCENTILES = (1.0, 99.0)
"""Percentiles of each image that are set to 0 and 1: gain and black level are not compared."""

_LIMITS = (-0.35, 1.35)
_SPECTRUM_BINS = 96
_HIGHEST_PER_A = 8.0  # 1/a: finer than that no lattice is resolved, only noise is left


@dataclass(frozen=True, slots=True)
class ImageComparison:
    """Histograms and radially averaged power spectra of two images.

    Attributes
    ----------
    levels : ndarray of shape (B,)
        Middles of the histograms' bins; 0 and 1 are each image's first and last percentile.
    histograms : ndarray of shape (2, B)
        Share of the pixels in each bin, of the image and of its likeness.
    frequencies_per_a : ndarray of shape (F,)
        Spatial frequency [1/a].
    spectra : ndarray of shape (2, F)
        Power at each frequency, mean over directions, over the image's variance.
    histogram_distance : float
        Earth mover's distance of the histograms, in units of the span between the percentiles.
    spectrum_distance : float
        Root-mean-square difference of the spectra's decimal logarithms.
    """

    levels: np.ndarray
    histograms: np.ndarray
    frequencies_per_a: np.ndarray
    spectra: np.ndarray
    histogram_distance: float
    spectrum_distance: float

    def as_dict(self) -> dict[str, Any]:
        """Return it ready for JSON."""
        return {name: getattr(self, name) for name in self.__slots__}


def compare_images(
    image: np.ndarray, likeness: np.ndarray, a_px: float, likeness_a_px: float | None = None
) -> ImageComparison:
    """Compare the grey levels and the spatial frequencies of two images.

    Parameters
    ----------
    image, likeness : ndarray of shape (M, N)
        Need not be of the same size; NaN where nothing was recorded.
    a_px : float
        Lattice constant in the image [px].
    likeness_a_px : float, optional
        In the likeness; by default the same.

    Returns
    -------
    ImageComparison
    """
    pictures = (np.asarray(image, float), np.asarray(likeness, float))
    constants = (a_px, a_px if likeness_a_px is None else likeness_a_px)
    edges = np.linspace(*_LIMITS, BINS + 1)
    histograms = np.stack([_histogram(picture, edges) for picture in pictures])
    highest = min(_HIGHEST_PER_A, 0.5 * min(constants))
    frequencies = np.linspace(0, highest, _SPECTRUM_BINS + 1)
    spectra = np.stack(
        [_spectrum(p, frequencies / a) for p, a in zip(pictures, constants, strict=True)]
    )
    moved = np.abs(np.cumsum(histograms[0] - histograms[1])).sum() * (edges[1] - edges[0])
    both = (spectra > 0).all(axis=0)
    decades = np.diff(np.log10(spectra[:, both]), axis=0)
    return ImageComparison(
        levels=(edges[1:] + edges[:-1]) / 2,
        histograms=histograms,
        frequencies_per_a=(frequencies[1:] + frequencies[:-1]) / 2,
        spectra=spectra,
        histogram_distance=float(moved),
        spectrum_distance=float(np.sqrt(np.mean(decades**2))) if both.any() else float("nan"),
    )


def _histogram(picture: np.ndarray, edges: np.ndarray) -> np.ndarray:
    """Return the share of the pixels in each bin; those beyond the ends are in the last ones."""
    known = picture[np.isfinite(picture)]
    low, high = np.percentile(known, PERCENTILES) if len(known) else (0.0, 1.0)
    relative = (known - low) / max(high - low, 1e-30)
    middle = (edges[1] - edges[0]) / 2
    inside = np.clip(relative, edges[0] + middle, edges[-1] - middle)
    return np.histogram(inside, edges)[0] / max(len(known), 1)


def _spectrum(picture: np.ndarray, edges_per_px: np.ndarray) -> np.ndarray:
    """Return the mean power in rings of spatial frequency, 0 where no frequency lies."""
    known = np.isfinite(picture)
    mean = picture[known].mean() if known.any() else 0.0
    window = np.outer(*(np.hanning(n + 2)[1:-1] for n in picture.shape))
    window = window * known
    values = np.where(known, picture - mean, 0.0) * window
    weight = (window**2).sum()
    variance = (values**2).sum() / max(weight, 1e-30)
    power = np.abs(fft.rfft2(values)) ** 2 / max(weight * variance, 1e-30)
    ky = fft.fftfreq(picture.shape[0])[:, None]
    kx = fft.rfftfreq(picture.shape[1])[None, :]
    ring = np.digitize(np.sqrt(ky**2 + kx**2).ravel(), edges_per_px) - 1
    inside = (ring >= 0) & (ring < len(edges_per_px) - 1)
    n = len(edges_per_px) - 1
    count = np.bincount(ring[inside], minlength=n)
    total = np.bincount(ring[inside], power.ravel()[inside], minlength=n)
    return total / np.maximum(count, 1)
