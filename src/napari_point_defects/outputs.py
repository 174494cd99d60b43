"""Write tables, JSON and overlays: whole or not at all."""

from __future__ import annotations

import json
import math
import os
import uuid
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from napari_point_defects.analysed_area import AREA_COLOURS, AnalysedArea
from napari_point_defects.errors import PointDefectsError
from napari_point_defects.materials import BOND, DefectClass, Material
from napari_point_defects.palettes import colours_in_use
from napari_point_defects.records import Lattice, StemImage, UnitCells

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.artist import Artist
    from matplotlib.figure import Figure

    from napari_point_defects.domains.casting import DomainMap

_CELL_CORNERS = np.array([[-0.75, -0.5], [-0.75, 0.5], [0.75, 0.5], [0.75, -0.5]]) * [BOND, 1]
"""Corners (y, x) of a unit cell's outline about its bond's middle: a wide, (√3/2)a high."""


def check_outputs(paths: Iterable[Path], overwrite: bool) -> None:
    """Refuse, before any work is done, outputs that could not be written.

    Missing folders are made.

    Raises
    ------
    PointDefectsError
        If a path exists and may not be overwritten, or its folder cannot be made or written to.
    """
    for path in map(Path, paths):
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise PointDefectsError(
                f"cannot make the folder {path.parent} ({error.strerror}): choose another one"
            ) from error
        if not os.access(path.parent, os.W_OK):
            raise PointDefectsError(f"cannot write to {path.parent}: choose another folder")
        if path.is_dir():
            raise PointDefectsError(f"{path} is a folder: choose another name")
        if path.exists() and not overwrite:
            raise PointDefectsError(
                f"{path} exists: give --overwrite to replace it, or choose another folder"
            )


@contextmanager
def atomic_write(path: str | Path, overwrite: bool = False) -> Iterator[Path]:
    """Yield a temporary path in the same folder; rename it on success, remove it on failure.

    Raises
    ------
    PointDefectsError
        If ``path`` exists and may not be overwritten, or cannot be written.
    """
    path = Path(path)
    check_outputs([path], overwrite)
    # the same suffix, for writers that choose the format by it
    temporary = path.with_name(f".{path.stem}-{uuid.uuid4().hex[:8]}{path.suffix}")
    try:
        yield temporary
        temporary.replace(path)
    except OSError as error:
        raise PointDefectsError(
            f"cannot write {path} ({error.strerror or error}): "
            "check the folder's permissions and free space"
        ) from error
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def write_together(paths: Mapping[str, Path], overwrite: bool = False) -> Iterator[dict[str, Path]]:
    """Yield temporary paths by the same names; rename all on success: there are no half results.

    Raises
    ------
    PointDefectsError
        As :func:`atomic_write`.
    """
    check_outputs(paths.values(), overwrite)
    with ExitStack() as stack:
        yield {
            kind: stack.enter_context(atomic_write(path, overwrite)) for kind, path in paths.items()
        }


def write_table(table: pd.DataFrame, path: str | Path, overwrite: bool = False) -> None:
    """Write a table as CSV with seven significant digits: 1/1000 px on the largest images."""
    with atomic_write(path, overwrite) as temporary:
        table.to_csv(
            temporary, index=False, encoding="utf-8", lineterminator="\n", float_format="%.7g"
        )


def write_json(content: Any, path: str | Path, overwrite: bool = False) -> None:
    """Write dicts, lists, numbers, arrays and paths as JSON; NaN and infinity become null."""
    text = json.dumps(_plain(content), indent=2, ensure_ascii=False, allow_nan=False)
    with atomic_write(path, overwrite) as temporary:
        temporary.write_text(text + "\n", encoding="utf-8")


def _plain(value: Any) -> Any:
    """Turn NumPy values, tuples and paths into what JSON knows."""
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, (np.ndarray, np.generic)):
        return _plain(value.tolist())
    if isinstance(value, Path):
        return value.as_posix()
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def cell_outlines_px(cells: UnitCells, lattice: Lattice | DomainMap) -> np.ndarray:
    """Return the corners (y, x) of every cell's outline in image pixels, shape (N, 4, 2).

    The outline is the canonical a × (√3/2)a rectangle about the middle of the bond, so that the
    outlines of neighbours tile the row. ``lattice`` may also be the map of an image's domains:
    each cell then lies along its own.
    """
    if isinstance(lattice, Lattice):
        matrices = lattice.matrix_at(cells.centres_px)
    else:
        matrices = lattice.matrices_at(cells.centres_px, lattice.of_cells(cells))
    return cells.centres_px[:, None, :] + _CELL_CORNERS @ matrices.swapaxes(1, 2)


def write_overlay(
    image: StemImage,
    cells: UnitCells,
    lattice: Lattice,
    material: Material,
    path: str | Path,
    overwrite: bool = False,
    *,
    pixel_size_nm: tuple[float, float] | None = None,
    unsure: np.ndarray | None = None,
    where: DomainMap | None = None,
) -> None:
    """Write a PNG of the image with its defective cells outlined; see :func:`draw_overlay`."""
    figure = draw_overlay(
        image, cells, lattice, material, pixel_size_nm=pixel_size_nm, unsure=unsure, where=where
    )
    with atomic_write(path, overwrite) as temporary:
        # random noise hardly compresses: the lowest level is four times as fast
        figure.savefig(temporary, format="png", pil_kwargs={"compress_level": 1})
    # figures are cycles: without this their pictures stay until Python looks for garbage
    figure.clear()


def draw_overlay(
    image: StemImage,
    cells: UnitCells,
    lattice: Lattice,
    material: Material,
    *,
    pixel_size_nm: tuple[float, float] | None = None,
    unsure: np.ndarray | None = None,
    where: DomainMap | None = None,
) -> Figure:
    """Draw the image with defective cells outlined by class, a legend and a scale bar.

    Parameters
    ----------
    image : StemImage
    cells : UnitCells
        Classified cells.
    lattice : Lattice
    material : Material
    pixel_size_nm : (float, float), optional
        Height and width of a pixel [nm] for the scale bar; default: the image's calibration.
    unsure : ndarray of shape (N,), bool, optional
        Cells that are drawn dashed, perfect ones too.
    where : DomainMap, optional
        Domains with lattices of their own, and what was left out: that is hatched.

    Returns
    -------
    matplotlib.figure.Figure
        One figure pixel for each pixel of the resized image: a cell is some 24 px wide, the image
        between 1600 and 4096 px.
    """
    from matplotlib.collections import PolyCollection
    from matplotlib.figure import Figure
    from matplotlib.patches import Rectangle

    height, width = image.data.shape
    longest = max(height, width)
    zoom = np.clip(24 * longest / lattice.a_px, 1600, 4096) / longest
    size = np.maximum(np.round(np.array([height, width]) * zoom), 1).astype(int)
    unit = max(size) / 1600  # of line widths and letters, in figure pixels
    legend_height = round(150 * unit)
    total = np.array([size[0] + legend_height, max(size[1], round(1000 * unit))])

    figure = Figure(figsize=tuple(total[::-1] / 100), dpi=100, facecolor="white")
    axes = figure.add_axes(
        (0, legend_height / total[0], size[1] / total[1], size[0] / total[0]),
        xlim=(-0.5, width - 0.5),
        ylim=(height - 0.5, -0.5),
    )
    axes.set_axis_off()
    resized = Image.fromarray(_grey_levels(image.data)).resize(tuple(size[::-1].tolist()))
    pixels = np.asarray(resized.convert("RGBA"))
    if where is not None and where.area is not None:
        pixels = _hatched(pixels, where.area, round(8 * unit))
    figure.add_artist(_copied()(pixels, legend_height))  # below the axes
    points = 0.72 * unit  # one figure pixel is 0.72 points
    outline_width = 0.72 * np.clip(lattice.a_px * zoom / 12, 1.5, 4)
    outlines = cell_outlines_px(cells, where or lattice)[..., ::-1]
    unsure = np.zeros(len(cells), bool) if unsure is None else np.asarray(unsure, bool)
    defective = cells.classes != DefectClass.PERFECT
    palette = colours_in_use()
    colours = np.array([palette[DefectClass(c)] for c in cells.classes], object)
    axes.add_collection(
        PolyCollection(
            outlines[~defective],
            facecolor="none",
            edgecolor="white",
            linewidth=outline_width / 4,
            alpha=0.15,
        )
    )
    dashed = (0, (2.2, 1.4))
    for drawn, style in ((defective & ~unsure, "solid"), (unsure, dashed)):
        # a dark rim keeps yellow and grey-blue readable on bright columns
        for colour, line_width in (
            ("black", 1.8 * outline_width),
            (colours[drawn], outline_width),
        ):
            axes.add_collection(
                PolyCollection(
                    outlines[drawn],
                    facecolor="none",
                    edgecolor=colour,
                    linewidth=line_width,
                    linestyle=style,
                )
            )
    pixel_size_nm = pixel_size_nm or image.calibration.pixel_size_nm
    if pixel_size_nm is not None:
        _draw_scale_bar(axes, width, height, pixel_size_nm[1], points)

    counts = np.bincount(cells.classes, minlength=len(DefectClass))
    legend = figure.add_axes((0, 0, 1, legend_height / total[0]), xlim=(0, 3), ylim=(3, 0))
    legend.set_axis_off()
    for defect_class, label in zip(DefectClass, material.class_labels, strict=True):
        column, row = divmod(defect_class, 2)
        legend.add_patch(
            Rectangle(
                (column + 0.05, row + 0.25),
                0.07,
                0.5,
                facecolor=palette[defect_class],
                edgecolor="black",
                linewidth=points,
            )
        )
        legend.text(
            column + 0.16,
            row + 0.5,
            f"{label}: {counts[defect_class]}",
            fontsize=30 * points,
            verticalalignment="center",
        )
    legend.text(
        0.05,
        2.5,
        f"dashed: unsure, {unsure.sum()} of {len(cells)} cells{_left_out(where)}",
        fontsize=30 * points,
        verticalalignment="center",
    )
    return figure


@cache
def _copied() -> type[Artist]:
    """Return a kind of artist: a picture (H, W, 4) copied into a figure pixel by pixel.

    ``imshow`` would take twenty times the memory, and ``figimage`` resample it nevertheless.
    Made once: Matplotlib never forgets a kind of artist, nor what its methods refer to.
    """
    from matplotlib.artist import Artist

    class Copied(Artist):
        zorder = -1

        def __init__(self, pixels: np.ndarray, bottom: int) -> None:
            super().__init__()
            self._pixels, self._bottom = pixels, bottom

        def get_array(self) -> np.ndarray:
            return self._pixels

        def draw(self, renderer) -> None:
            context = renderer.new_gc()
            renderer.draw_image(context, 0, self._bottom, np.ascontiguousarray(self._pixels[::-1]))
            context.restore()

    return Copied


def _hatched(pixels: np.ndarray, area: AnalysedArea, width: int) -> np.ndarray:
    """Tint and hatch what was left out of an analysis in a picture (H, W, 4) of the image."""
    shape = pixels.shape[:2]
    rows, cols = (
        np.minimum(((np.arange(n) + 0.5) * size / n / area.step_px).astype(int), k - 1)
        for n, size, k in zip(shape, area.shape, area.labels.shape, strict=True)
    )
    labels = area.labels[rows][:, cols]
    pixels = pixels.copy()
    for code, colour in AREA_COLOURS.items():
        tint = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)])
        for row in np.flatnonzero((labels == code).any(axis=1)):
            x = np.flatnonzero(labels[row] == code)
            share = np.where((row + x) // width % 4 == 0, 0.6, 0.2)[:, None]
            pixels[row, x, :3] = pixels[row, x, :3] * (1 - share) + tint * share
    return pixels


def _left_out(where: DomainMap | None) -> str:
    """Say how much of the image the hatching covers."""
    if where is None or where.area is None:
        return ""
    share = 1 - where.area.shares()["analysed"]
    return f"; hatched: not analysed, {share:.1%}" if share > 0.0005 else ""


def _grey_levels(data: np.ndarray) -> np.ndarray:
    """Stretch an image to 0–255 between its 0.1 and 99.9 percentiles; NaN becomes black."""
    sample = data[:: 1 + len(data) // 1024]
    low, high = map(float, np.percentile(sample[np.isfinite(sample)], (0.1, 99.9)))
    levels = np.empty(data.shape, np.uint8)
    for top in range(0, len(data), 512):  # bounds the memory of large images
        scaled = (data[top : top + 512] - low) * (255 / max(high - low, 1e-30))
        levels[top : top + 512] = np.clip(np.nan_to_num(scaled), 0, 255)
    return levels


def _draw_scale_bar(axes, width: int, height: int, pixel_width_nm: float, points: float) -> None:
    """Draw a bar of a round length, about a fifth of the image's width, at the lower left."""
    from matplotlib.patches import Rectangle
    from matplotlib.patheffects import withStroke

    target = width * pixel_width_nm / 5
    decade = 10.0 ** math.floor(math.log10(target))
    length = max(m * decade for m in (1, 2, 5) if m * decade <= target)
    bar_px = length / pixel_width_nm
    margin = 0.02 * max(width, height)
    thickness = 0.3 * margin
    axes.add_patch(
        Rectangle(
            (margin, height - margin - thickness),
            bar_px,
            thickness,
            facecolor="white",
            edgecolor="black",
            linewidth=points,
        )
    )
    axes.text(
        margin + bar_px / 2,
        height - margin - 1.5 * thickness,
        f"{length:g} nm",
        color="white",
        fontsize=30 * points,
        fontweight="bold",
        horizontalalignment="center",
        verticalalignment="bottom",
        path_effects=[withStroke(linewidth=4 * points, foreground="black")],
    )
