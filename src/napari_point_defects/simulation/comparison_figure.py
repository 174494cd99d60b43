"""Draw an image beside its likeness, with histograms and power spectra, for paper and panels."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from napari_point_defects.simulation.comparison import ImageComparison

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

IMAGE_COLOUR, LIKENESS_COLOUR = "#4c8dff", "#ff9f40"
NAMES = ("image", "simulated")
_STRETCH = (0.5, 99.5)
_SHOWN_A = 14.0


def comparison_figure(
    image: np.ndarray,
    likeness: np.ndarray,
    comparison: ImageComparison,
    a_px: float,
    *,
    title: str = "",
) -> Figure:
    """Draw both images, their histograms and their spectra on white paper.

    Parameters
    ----------
    image, likeness : ndarray of shape (M, N)
        With the same lattice constant.
    comparison : ImageComparison
    a_px : float
        Lattice constant [px]; the middle of each image is shown.
    title : str

    Returns
    -------
    matplotlib.figure.Figure
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.2, 6.4), layout="constrained", facecolor="white")
    upper, lower = figure.subplots(2, 2)
    for axes, data, name in zip(upper, (image, likeness), NAMES, strict=True):
        draw_image(axes, _middle(data, a_px), name)
    draw_histograms(lower[0], comparison)
    draw_spectra(lower[1], comparison)
    lower[0].legend(fontsize=8, frameon=False)
    if title:
        figure.suptitle(title, fontsize=10)
    return figure


def draw_image(axes: Axes, data: np.ndarray, title: str, *, ink: str = "black") -> None:
    """Show an image, stretched between its first and last half per cent."""
    known = data[np.isfinite(data)]
    low, high = np.percentile(known, _STRETCH) if len(known) else (0, 1)
    axes.imshow(data, cmap="gray", vmin=low, vmax=high, interpolation="nearest")
    axes.set_title(title, fontsize=9, color=ink)
    axes.set_xticks([])
    axes.set_yticks([])


def draw_histograms(axes: Axes, comparison: ImageComparison, *, ink: str = "black") -> None:
    """Draw how often the grey levels occur in both images."""
    for values, colour, name in zip(
        comparison.histograms, (IMAGE_COLOUR, LIKENESS_COLOUR), NAMES, strict=True
    ):
        axes.step(
            comparison.levels, 100 * values, where="mid", color=colour, linewidth=1.3, label=name
        )
    axes.set_ylim(bottom=0)
    axes.set_xlabel("grey level (1st to 99th percentile)")
    axes.set_ylabel("pixels [%]")
    axes.set_title(f"histograms: {comparison.histogram_distance:.3f} apart", fontsize=9, color=ink)
    _style(axes, ink)


def draw_spectra(axes: Axes, comparison: ImageComparison, *, ink: str = "black") -> None:
    """Draw the power at each spatial frequency of both images."""
    for values, colour, name in zip(
        comparison.spectra, (IMAGE_COLOUR, LIKENESS_COLOUR), NAMES, strict=True
    ):
        shown = np.where(values > 0, values, np.nan)
        axes.semilogy(comparison.frequencies_per_a, shown, color=colour, linewidth=1.3, label=name)
    axes.set_xlabel("spatial frequency [1/a]")
    axes.set_ylabel("power over variance")
    axes.set_title(
        f"power spectra: {comparison.spectrum_distance:.2f} decades apart", fontsize=9, color=ink
    )
    _style(axes, ink)


def _style(axes: Axes, ink: str) -> None:
    axes.tick_params(colors=ink, labelsize=8, which="both")
    for label in (axes.xaxis.label, axes.yaxis.label):
        label.set(color=ink, fontsize=8)
    for spine in axes.spines.values():
        spine.set_color(ink)
        spine.set_alpha(0.5)


def _middle(data: np.ndarray, a_px: float) -> np.ndarray:
    """Cut out so much that columns can be seen."""
    side = int(np.ceil(_SHOWN_A * a_px))
    start = [max((n - side) // 2, 0) for n in data.shape]
    return data[start[0] : start[0] + side, start[1] : start[1] + side]
