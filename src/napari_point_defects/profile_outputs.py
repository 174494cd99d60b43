"""Bond profiles as table, text and figure."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from napari_point_defects.errors import PointDefectsError
from napari_point_defects.materials import BOND, DefectClass, Material
from napari_point_defects.outputs import atomic_write, write_table
from napari_point_defects.palettes import colours_in_use
from napari_point_defects.profiles import BondProfile, ProfileComparison

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FIGURE_FORMATS = ("png", "svg", "pdf")
_DPI = 200


def profile_table(
    profile: BondProfile,
    comparison: ProfileComparison | None,
    material: Material,
    *,
    image: str = "",
    cell_id: int = -1,
) -> pd.DataFrame:
    """Return one row per point of the line: what was measured and every class's simulation.

    Parameters
    ----------
    profile : BondProfile
        Of one cell.
    comparison : ProfileComparison, optional
        The same profile beside the simulated ones.
    material : Material
    image : str
        Name of the image, so that the rows say where they come from.
    cell_id : int
        The cell's number in its layer and table.

    Returns
    -------
    DataFrame
        ``image, cell_id, width_nm, distance_nm`` (from X towards M)``, measured,
        standard_error``, and one column for each class.
    """
    a_nm = material.lattice_constant_nm
    table = pd.DataFrame(
        {
            "image": image,
            "cell_id": cell_id,
            "width_nm": profile.width_a * a_nm,
            "distance_nm": profile.distance_nm(a_nm),
            "measured": profile.intensity,
            "standard_error": profile.standard_error,
        }
    )
    if comparison is not None:
        table[list(material.class_labels)] = comparison.curves.T
    return table


def write_profile_csv(table: pd.DataFrame, path: str | Path, overwrite: bool = False) -> None:
    """Write the table of :func:`profile_table` as CSV; empty where nothing was measured.

    Raises
    ------
    PointDefectsError
        If the file exists and may not be overwritten, or cannot be written.
    """
    write_table(table, path, overwrite)


def write_profile_figure(figure: Figure, path: str | Path, overwrite: bool = False) -> None:
    """Write a figure as PNG, SVG or PDF, by the file's ending.

    Raises
    ------
    PointDefectsError
        If the ending is none of these, or the file exists and may not be overwritten.
    """
    kind = Path(path).suffix.lower().removeprefix(".")
    if kind not in FIGURE_FORMATS:
        raise PointDefectsError(
            f"cannot write a figure as {Path(path).name!r}: let its name end in "
            + ", ".join(f".{name}" for name in FIGURE_FORMATS)
        )
    with atomic_write(path, overwrite) as temporary:
        figure.savefig(temporary, format=kind, dpi=_DPI)


def profile_figure(
    profile: BondProfile,
    comparison: ProfileComparison | None,
    material: Material,
    *,
    title: str = "",
) -> Figure:
    """Draw a profile on white paper; see :func:`draw_profile`."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.2, 3.8), layout="constrained", facecolor="white")
    axes = figure.add_subplot()
    draw_profile(axes, profile, comparison, material)
    axes.set_title(title, fontsize=9)
    if comparison is not None:
        figure.legend(loc="outside lower center", ncols=4, fontsize=7, frameon=False)
    return figure


def draw_profile(
    axes: Axes,
    profile: BondProfile,
    comparison: ProfileComparison | None,
    material: Material,
    *,
    ink: str = "black",
) -> None:
    """Draw the measured profile and the six simulated ones, the best of them bold.

    Parameters
    ----------
    axes : matplotlib.axes.Axes
        Empty.
    profile : BondProfile
        Of one cell.
    comparison : ProfileComparison, optional
    material : Material
    ink : str
        Colour of the measured profile and of all letters.
    """
    a_nm = material.lattice_constant_nm
    distance = profile.distance_nm(a_nm)
    for place, name in ((0.0, f"{material.chalcogen}₂"), (BOND * a_nm, material.metal)):
        axes.axvline(place, color=ink, linewidth=0.8, linestyle=":", alpha=0.6)
        axes.annotate(
            name,
            (place, 1.0),
            xycoords=("data", "axes fraction"),
            xytext=(0, 2),
            textcoords="offset points",
            ha="center",
            color=ink,
            fontsize=8,
        )
    if comparison is not None:
        best = comparison.best
        for defect_class, label in zip(DefectClass, material.class_labels, strict=True):
            bold = defect_class == best
            axes.plot(
                distance,
                comparison.curves[defect_class],
                color=colours_in_use()[defect_class],
                linewidth=3.0 if bold else 1.0,
                # an M that is missing changes nothing at X: dashes let the other curve through
                linestyle=(0, (4, 2)) if defect_class.metal_missing and not bold else "-",
                alpha=1.0 if bold else 0.75,
                zorder=2.5 if bold else 2,
                label=f"{label} (RMS {comparison.rms[defect_class]:.3g})",
            )
    error = np.nan_to_num(profile.standard_error)
    if error.any():
        low, high = profile.intensity - error, profile.intensity + error
        axes.fill_between(distance, low, high, color=ink, alpha=0.25, linewidth=0, zorder=3)
    axes.plot(distance, profile.intensity, color=ink, linewidth=1.1, zorder=4, label="measured")
    axes.set_xlim(distance[0], distance[-1])
    axes.set_xlabel(f"distance from {material.chalcogen}₂ towards {material.metal} [nm]", color=ink)
    axes.set_ylabel("intensity [grey levels]", color=ink)
    axes.tick_params(colors=ink, labelsize=8)
    for label in (axes.xaxis.label, axes.yaxis.label):
        label.set_fontsize(8)
    for spine in axes.spines.values():
        spine.set_color(ink)
        spine.set_alpha(0.5)
