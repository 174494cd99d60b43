"""What stands behind a measurement, drawn: mean cell, noise against signal, rows of the scan."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from napari_point_defects.materials import LATTICE_VECTORS
from napari_point_defects.napari_ui.themed_canvas import ThemedCanvas

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from napari_point_defects.materials import Material
    from napari_point_defects.measured import Measurement
    from napari_point_defects.measurement.image import MeasurementDetails

MEASURED_COLOUR, FITTED_COLOUR = "#7aa6ff", "#ffb347"
_SIDES = {"left": 0.125, "right": 0.965}
_SHOWN_A = 2.6, 2.6  # of the lattice, height and width
_SAMPLES_PER_A = 64
_SITES = {"X": 2 / 3, "M": 1 / 3}
"""Fractions of both lattice vectors."""


class MeasurePlots(ThemedCanvas):
    """Three plots: the mean cell and the noise beside each other, the rows below.

    Parameters
    ----------
    theme : str
        Name of napari's theme.
    """

    HEIGHT = 370
    LEAST_WIDTH, USUAL_WIDTH = 320, 360

    _shown: tuple[Measurement, MeasurementDetails, Material] | None = None

    def add_axes(self) -> None:
        """Lay out the three plots."""
        grid = {"left": 0.02, "right": 0.965, "bottom": 0.56, "top": 0.93, "wspace": 0.5}
        upper = self.figure.add_gridspec(1, 2, width_ratios=(1, 1.25), **grid)
        lower = self.figure.add_gridspec(1, 1, bottom=0.12, top=0.39, **_SIDES)
        self.cell, self.noise, self.rows = (
            self.figure.add_subplot(place) for place in (upper[0], upper[1], lower[0])
        )
        self.setToolTip(
            "<p>Upper left, the mean of all perfect cells in sight. Upper right, the variance of "
            "the noise at each brightness: dots as measured, the line as fitted. Its slope is the "
            "intensity of one count, its height at the black level the read noise; where pixels "
            "are clipped, dots fall below it; where they leave it elsewhere, the noise is of "
            "another kind and the counts are doubtful. Below, how far each scan row is off "
            "sideways; orange, the jitter.</p>"
        )

    def show_details(
        self, found: Measurement, details: MeasurementDetails, material: Material
    ) -> None:
        """Draw what a measurement rests on."""
        self._shown = (found, details, material)
        self.draw_again()

    def draw_again(self) -> None:
        """Draw what the measurement rests on, if there is one."""
        for axes in (self.cell, self.noise, self.rows):
            axes.clear()
            axes.set_facecolor(self._paper)
        if self._shown is not None:
            draw_mean_cell(self.cell, *self._shown, ink=self._ink)
            draw_noise(self.noise, *self._shown, ink=self._ink)
            draw_rows(self.rows, *self._shown, ink=self._ink)
        self.draw_idle()


def draw_mean_cell(
    axes: Axes, found: Measurement, details: MeasurementDetails, material: Material, *, ink: str
) -> None:
    """Draw the mean cell, repeated, in the canonical frame, and name a column of each kind."""
    axes.imshow(
        unfolded(details.mean_cell),
        cmap="gray",
        extent=(-_SHOWN_A[1] / 2, _SHOWN_A[1] / 2, _SHOWN_A[0] / 2, -_SHOWN_A[0] / 2),
        interpolation="bilinear",
    )
    names = {"X": f"{material.chalcogen}₂", "M": material.metal}
    for kind, fraction in _SITES.items():
        y, x = fraction * LATTICE_VECTORS.sum(axis=0) - LATTICE_VECTORS.sum(axis=0) / 2
        axes.plot(x, y, "+", color=FITTED_COLOUR, markersize=5, markeredgewidth=1)
        side = 1 if kind == "X" else -1
        axes.annotate(
            names[kind], (x, y), (9 * side, -9 * side), textcoords="offset points",
            color="white", fontsize=8, ha="left" if side > 0 else "right", va="center",
            bbox={"boxstyle": "round,pad=0.15", "fc": "black", "ec": "none", "alpha": 0.55},
        )  # fmt: skip
    _style(axes, ink, f"mean of {found.cells:,} cells")
    axes.set_xticks([])
    axes.set_yticks([])


def draw_noise(
    axes: Axes, found: Measurement, details: MeasurementDetails, material: Material, *, ink: str
) -> None:
    """Draw the variance of the noise against the level, and the fitted noise."""
    order = np.argsort(details.level)
    level_factor, factor = _factor(details.level), _factor(details.variance)
    level = details.level[order] / level_factor
    variance, fitted = details.variance[order] / factor, details.line[order] / factor
    axes.plot(level, variance, ".", color=MEASURED_COLOUR, markersize=4)
    axes.plot(level, fitted, "-", color=FITTED_COLOUR, linewidth=1.4)
    axes.set_ylim(bottom=0)
    axes.margins(x=0.04)
    axes.ticklabel_format(useOffset=False)
    _style(axes, ink, f"noise: variance of each level{_in_words(factor)}")
    axes.set_xlabel(f"intensity{_in_words(level_factor)}", labelpad=1)


def draw_rows(
    axes: Axes, found: Measurement, details: MeasurementDetails, material: Material, *, ink: str
) -> None:
    """Draw the sideways offset of each scan row and the jitter found in it."""
    rows, offset = details.row_px, details.row_offset_px
    known = np.isfinite(offset)
    centre = float(np.median(offset[known])) if known.any() else 0.0
    axes.plot(rows, offset - centre, "-", color=MEASURED_COLOUR, linewidth=0.7)
    jitter = found.jitter_px.value
    if np.isfinite(jitter):
        axes.axhspan(-jitter, jitter, color=FITTED_COLOUR, alpha=0.2, linewidth=0)
        for edge in (-jitter, jitter):
            axes.axhline(edge, color=FITTED_COLOUR, linewidth=0.9, zorder=3)
        reach = np.percentile(np.abs(offset[known] - centre), 99) if known.any() else 0.0
        # a slip of the scan must not hide the jitter
        most = 1.4 * max(float(reach), 2 * jitter, 1e-3)
        axes.set_ylim(-most, most)
    axes.set_xlim(rows[0], rows[-1])
    error = details.row_error_px[np.isfinite(details.row_error_px)]
    known_to = f", each known to {np.median(error):.2g} px" if len(error) else ""
    _style(axes, ink, f"rows: sideways offset [px]{known_to}")
    axes.set_xlabel("row of the image", labelpad=1)


def unfolded(cell: np.ndarray) -> np.ndarray:
    """Repeat a cell, tabulated against fractions of the lattice vectors, in the canonical frame.

    Parameters
    ----------
    cell : ndarray of shape (T, T)

    Returns
    -------
    ndarray of shape (M, N)
        Its middle is the middle of the table.
    """
    shape = [round(side * _SAMPLES_PER_A) for side in _SHOWN_A]
    axes = [(np.arange(n) + 0.5 - n / 2) / _SAMPLES_PER_A for n in shape]
    points = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1)
    fractions = points @ np.linalg.inv(LATTICE_VECTORS) + 0.5
    index = np.floor(fractions % 1 * len(cell)).astype(int) % len(cell)
    return cell[index[..., 0], index[..., 1]]


def _factor(values: np.ndarray) -> float:
    """Return the power of ten to take off values, 1 where they can be read as they are."""
    most = float(np.nanmax(np.abs(values), initial=0.0))
    return 1.0 if most == 0 or 0.01 <= most < 10_000 else 10.0 ** np.floor(np.log10(most))


def _in_words(factor: float) -> str:
    power = round(np.log10(factor))
    return f" [$10^{{{power}}}$]" if power else ""


def _style(axes: Axes, ink: str, title: str) -> None:
    axes.set_title(title, fontsize=8, color=ink, pad=4)
    axes.tick_params(colors=ink, labelsize=7, which="both")
    axes.xaxis.label.set(color=ink, fontsize=7)
    for spine in axes.spines.values():
        spine.set_color(ink)
        spine.set_alpha(0.4)
