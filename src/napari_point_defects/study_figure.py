"""A study in one figure: pair correlations, clusters, strain, and what the twin leaves."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from napari_point_defects.strain import COMPONENTS

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from napari_point_defects.spatial_statistics import Clusters, PairCorrelation
    from napari_point_defects.study import Study

_FOUND, _RANDOM = "#b3261e", "#8a8a8a"
_STRAIN_LABELS = ("ε along x [%]", "ε along y [%]", "shear strain [%]", "rotation [°]")
_MOST_SAMPLES = 700  # of a picture's side
_SIGMAS = 6.0


def study_figure(found: Study) -> Figure:
    """Draw a study on white paper: statistics, then strain, then image and residual."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(13.0, 10.0), layout="constrained", facecolor="white")
    axes = figure.subplots(3, 4)
    for ax, (name, each) in zip(axes[0], found.correlations().items(), strict=False):
        draw_pair_correlation(ax, each, name, found.material.lattice_constant_nm)
    draw_clusters(axes[0, 3], found.statistics.clusters)
    image = found.image.data
    step = max(1, -(-max(image.shape) // _MOST_SAMPLES))
    reach = found.detection.lattice.a_px
    pictures = found.strain.picture(image.shape, step, reach)
    for ax, picture, name, label in zip(axes[1], pictures, COMPONENTS, _STRAIN_LABELS, strict=True):
        factor = 1.0 if name.endswith("deg") else 100.0
        _draw_map(figure, ax, factor * picture, label, image.shape)
    for ax in axes[2]:
        ax.set_axis_off()
    low, high = np.nanpercentile(image[::step, ::step], (0.5, 99.5))
    extent = (-0.5, image.shape[1] - 0.5, image.shape[0] - 0.5, -0.5)
    axes[2, 0].imshow(image[::step, ::step], cmap="gray", vmin=low, vmax=high, extent=extent)
    axes[2, 0].set_title(found.image.name, fontsize=9)
    if found.twin is not None:
        axes[2, 1].imshow(
            found.twin.model[::step, ::step], cmap="gray", vmin=low, vmax=high, extent=extent
        )
        axes[2, 1].set_title("its twin", fontsize=9)
        residual = found.twin.residual[::step, ::step]
        _draw_map(figure, axes[2, 2], residual, "image less twin [σ]", image.shape, _SIGMAS)
        draw_residuals(axes[2, 3], found)
    return figure


def draw_pair_correlation(
    ax: Axes, found: PairCorrelation, name: str, a_nm: float, *, ink: str = "black"
) -> None:
    """Draw g against distance, with the envelope of random placement."""
    table = found.table(a_nm)
    distance = table["distance_nm"]
    ax.fill_between(
        distance, table["g_low"], table["g_high"], color=_RANDOM, alpha=0.35, linewidth=0
    )
    ax.axhline(1, color=_RANDOM, linewidth=1)
    ax.plot(distance, table["g"], "o-", color=_FOUND, markersize=4, linewidth=1)
    judged = "no pairs" if np.isnan(found.p_value) else f"p = {found.p_value:.3g}"
    ax.set_title(f"{name}: {judged}", fontsize=9, color=ink)
    ax.set_xlabel("distance [nm]", fontsize=8, color=ink)
    ax.set_ylabel("g, 1 if random", fontsize=8, color=ink)
    ax.set_ylim(bottom=0)
    _plain(ax, ink)


def draw_clusters(ax: Axes, found: Clusters, *, ink: str = "black") -> None:
    """Draw how many clusters of each size there are, beside random placement."""
    table = found.table()
    places = np.arange(len(table))
    error = np.abs(np.stack([table["expected"] - table["low"], table["high"] - table["expected"]]))
    ax.bar(places, table["clusters"], color=_FOUND, width=0.6, label="found")
    ax.errorbar(
        places, table["expected"], error, fmt="_", color=ink, capsize=3, label="random, 95 %"
    )
    ax.set_xticks(places, [str(size).replace(" or more", "+") for size in table["size"]])
    ax.set_yscale("symlog", linthresh=1)
    ax.set_ylim(bottom=0)
    ax.set_title("clusters", fontsize=9, color=ink)
    ax.set_xlabel("defective cells that touch", fontsize=8, color=ink)
    ax.legend(fontsize=7, frameon=False, labelcolor=ink)
    _plain(ax, ink)


def draw_residuals(ax: Axes, found: Study) -> None:
    """Draw how far the twin is off at every column."""
    ax.set_axis_on()
    bins = np.linspace(-10, 10, 41)
    parts = (
        (found.twin.chalcogen_residual, f"{found.material.chalcogen}₂", "#b3261e"),
        (found.twin.metal_residual, found.material.metal, "#2b6cff"),
    )
    for values, name, colour in parts:
        values = np.clip(values[np.isfinite(values)], -10, 10)
        ax.hist(values, bins, histtype="step", color=colour, label=name)
    ax.set_yscale("log")
    ax.set_xlabel("image less twin at a column [σ]", fontsize=8)
    ax.legend(fontsize=7, frameon=False)
    _plain(ax, "black")


def _draw_map(
    figure: Figure,
    ax: Axes,
    picture: np.ndarray,
    label: str,
    shape: tuple[int, int],
    most: float | None = None,
) -> None:
    """Draw a signed picture, white at zero."""
    known = np.abs(picture[np.isfinite(picture)])
    most = most or max(float(np.percentile(known, 98)) if known.size else 1.0, 1e-6)
    extent = (-0.5, shape[1] - 0.5, shape[0] - 0.5, -0.5)
    drawn = ax.imshow(picture, cmap="RdBu_r", vmin=-most, vmax=most, extent=extent)
    ax.set_axis_off()
    ax.set_title(label, fontsize=9)
    figure.colorbar(drawn, ax=ax, shrink=0.8).ax.tick_params(labelsize=7)


def _plain(ax: Axes, ink: str) -> None:
    ax.tick_params(labelsize=7, colors=ink)
    for spine in ax.spines.values():
        spine.set_color(ink)
        spine.set_alpha(0.4)
