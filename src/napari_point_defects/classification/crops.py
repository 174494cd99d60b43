"""What CNN-2 sees of a cell: a wide window beside the image's own mean window, or its bond.

The default input is a window of 3.2 a around the bond, in five channels: the window itself,
what is left of it after the image's mean window is taken away, that mean window, and what is left
and the mean once more, averaged over a column's width and measured by the image's own noise: how
sure a difference is, and how sure one could be. The first three are in units of the image's own
columns, so one network serves every material, probe and dose. The paper's inputs, the bond as one
channel or as its X₂ and M halves in two (Fig. 3a), are here too.
"""

from __future__ import annotations

import numpy as np
from scipy.ndimage import gaussian_filter

from napari_point_defects.canonical import sample_windows
from napari_point_defects.materials import CHALCOGEN_SITES, HEXAGON_SIZE, METAL_SITES
from napari_point_defects.netcasting import ALPHA, BETA
from napari_point_defects.records import Lattice, UnitCells

WINDOW_A = 3.2
WINDOW_PX = 48
WINDOW_CHANNELS = 5
_LIMIT = 4.0  # in columns; bounds what dead pixels and cosmic rays can do
_NOISE_LIMIT = 8.0  # arsinh of about 1,500 standard deviations
_COLUMN_A = 0.12  # standard deviation of a typical column's image: the noise is averaged over it
_MOST_CERTAIN = 1000.0  # columns per noise; an image without noise has no more than that
_TRIM = 0.25  # share left out of the mean on either side: defects are a minority
MOST_AVERAGED = 2000  # cells; more would not make the mean any better
_BOND_SAMPLES = 64


def window_inputs(
    data: np.ndarray, lattice: Lattice, cells: UnitCells, reference: np.ndarray | None = None
) -> np.ndarray:
    """Return the default input of cells of one image.

    Parameters
    ----------
    data : ndarray of shape (M, N)
        The original image; NaN where nothing was recorded.
    lattice : Lattice
    cells : UnitCells
        All cells of the image, their mean being the perfect lattice's estimate; or some of
        them, judged against ``reference``.
    reference : ndarray of shape (2, 48, 48), optional
        The image's mean window and noise, from :func:`reference_window`.

    Returns
    -------
    ndarray of shape (K, 5, 48, 48), float32
        Window, residual, mean window; residual and mean window over the noise, as arsinh.
    """
    return normalise_windows(cut_windows(data, lattice, cells), reference)


def cut_windows(data: np.ndarray, lattice: Lattice, cells: UnitCells) -> np.ndarray:
    """Return the wide window about each cell, (K, 48, 48); NaN outside the image."""
    return _windows(data, lattice, cells.centres_px)


def reference_window(
    data: np.ndarray,
    lattice: Lattice,
    cells: UnitCells,
    *,
    noise: bool = True,
) -> np.ndarray:
    """Return the mean window of an image and its noise, against which each cell is judged.

    Parameters
    ----------
    data : ndarray of shape (M, N)
        NaN where nothing was recorded.
    lattice : Lattice
    cells : UnitCells
        All cells of the image. Of more than 2,000 an even selection is taken, the same as
        where all are classified at once.
    noise : bool
        Measure the noise as well; else it is 0, for inputs that do not need it.

    Returns
    -------
    ndarray of shape (2, 48, 48), float32
        The mean window; the standard deviation, from cell to cell, of what differs from it once
        averaged over a column's width.
    """
    return reference_of_windows(_windows(data, lattice, _evenly(cells.centres_px)), noise=noise)


def _windows(data: np.ndarray, lattice: Lattice, centres_px: np.ndarray) -> np.ndarray:
    size, shape = (WINDOW_A, WINDOW_A), (WINDOW_PX, WINDOW_PX)
    return sample_windows(data, lattice, centres_px, size, shape)


def reference_of_windows(windows: np.ndarray, *, noise: bool = True) -> np.ndarray:
    """Return mean and noise of windows (K, 48, 48), see :func:`reference_window`."""
    windows = _evenly(windows)
    typical = trimmed_mean(windows - _levels(windows))
    if not noise:
        return np.stack([typical, np.zeros_like(typical)])
    scatter = _spread(_over_columns(_residual(windows, typical)))
    return np.stack([typical, scatter]).astype(np.float32)


def _levels(windows: np.ndarray) -> np.ndarray:
    """Return the median of what each window shows, shape (K, 1, 1)."""
    flat = windows.reshape(len(windows), -1)
    levels = np.median(flat, axis=1)
    cut_off = np.isnan(levels)  # NumPy's median of what holds NaN; few windows reach outside
    if cut_off.any():
        levels[cut_off] = np.nanmedian(flat[cut_off], axis=1)
    return levels[:, None, None]


def _residual(windows: np.ndarray, typical: np.ndarray) -> np.ndarray:
    """Take the mean window away. Contamination lifts whole windows: each has its own level."""
    difference = windows - typical
    return difference - _levels(difference)


def _over_columns(windows: np.ndarray) -> np.ndarray:
    """Average over a column's width; windows (..., 48, 48), what lies outside the image is 0."""
    width = _COLUMN_A / WINDOW_A * WINDOW_PX
    sigma = (0,) * (windows.ndim - 2) + (width, width)
    return gaussian_filter(np.nan_to_num(windows, nan=0.0), sigma, mode="nearest", truncate=2.5)


def _spread(residuals: np.ndarray) -> np.ndarray:
    """Return the standard deviation of (K, 48, 48) over the cells; a few defects do not matter."""
    low, high = np.percentile(residuals, [16, 84], axis=0)
    return (high - low) / 2


def _evenly(items: np.ndarray, most: int = MOST_AVERAGED) -> np.ndarray:
    """Return all items, or so many of them from the first to the last."""
    if len(items) <= most:
        return items
    return items[np.linspace(0, len(items) - 1, most).astype(int)]


def normalise_windows(
    windows: np.ndarray, reference: np.ndarray | None = None, channels: int = WINDOW_CHANNELS
) -> np.ndarray:
    """Scale windows (K, 48, 48), NaN outside the image, to the network's five channels.

    They are judged against ``reference``, or against their own mean and noise. Of the channels
    the first three may do.
    """
    if not len(windows):
        return np.zeros((0, channels, WINDOW_PX, WINDOW_PX), np.float32)
    typical, noise = reference_of_windows(windows) if reference is None else reference
    residual = _residual(windows, typical)
    x, m = _at(typical, CHALCOGEN_SITES[0]), _at(typical, METAL_SITES[0])
    hollow = _at(typical, np.zeros(2))
    contrast = max(x, m) - hollow
    contrast = contrast if contrast > 0 else max(float(np.nanstd(typical)), 1e-12)
    chalcogen = max(x - hollow, 0.1 * contrast)
    scaled = np.empty((len(windows), channels, *typical.shape), np.float32)
    scaled[:, 0] = (residual + (typical - hollow)) / contrast
    scaled[:, 1] = residual / chalcogen
    scaled[:, 2] = (typical - hollow) / contrast
    scaled[:, :3] = np.clip(np.nan_to_num(scaled[:, :3], nan=0.0), -_LIMIT, _LIMIT)
    if channels > 3:
        noise = np.maximum(noise, contrast / _MOST_CERTAIN)
        # arsinh: three against two standard deviations matters, thirty against twenty does not
        scaled[:, 3] = np.arcsinh(_over_columns(residual) / noise)
        scaled[:, 4] = np.arcsinh(_over_columns(typical - hollow) / noise)
        scaled[:, 3:] = np.clip(scaled[:, 3:], -_NOISE_LIMIT, _NOISE_LIMIT)
    return scaled


def trimmed_mean(windows: np.ndarray, most: int = MOST_AVERAGED) -> np.ndarray:
    """Mean over cells, (K, h, w) to (h, w), without the lowest and highest quarter.

    Parameters
    ----------
    windows : ndarray of shape (K, h, w)
        NaN outside the image.
    most : int
        Of more cells an even selection is taken.

    Returns
    -------
    ndarray of shape (h, w)
    """
    ranked = np.sort(_evenly(windows, most), axis=0)  # NaN sorts last
    count = np.isfinite(ranked).sum(axis=0)
    low = np.floor(count * _TRIM).astype(int)
    high = np.maximum(count - low, low + 1)
    rank = np.arange(len(ranked))[:, None, None]
    kept = (rank >= low) & (rank < high) & np.isfinite(ranked)
    total = np.where(kept, ranked, 0).sum(axis=0, dtype=np.float64)
    return (total / np.maximum(kept.sum(axis=0), 1)).astype(np.float32)


def _at(window: np.ndarray, site: np.ndarray) -> float:
    """Mean of 3 × 3 samples at a canonical site of the hexagon whose upper left bond is shown."""
    bond = (CHALCOGEN_SITES[0] + METAL_SITES[0]) / 2
    row, col = np.rint((site - bond) / WINDOW_A * WINDOW_PX + (WINDOW_PX - 1) / 2).astype(int)
    return float(window[row - 1 : row + 2, col - 1 : col + 2].mean())


def bond_inputs(
    data: np.ndarray,
    lattice: Lattice,
    cells: UnitCells,
    *,
    channels: int,
    upper: bool = True,
    alpha: float = ALPHA,
    beta: float = BETA,
) -> np.ndarray:
    """Return the paper's input: the unit cell, or its X₂ and M halves, each made square.

    Each cell is scaled to 0–1 between its own extremes.

    Parameters
    ----------
    data : ndarray of shape (M, N)
    lattice : Lattice
    cells : UnitCells
    channels : {1, 2}
    upper : bool
        Cut as the upper left cell of its hexagon (A–B), or as the lower right one (C–D).
    alpha, beta : float
        Width and height of the cut over the hexagon's.

    Returns
    -------
    ndarray of shape (K, channels, 64, 64), float32
    """
    size = np.array([beta, alpha]) * HEXAGON_SIZE
    # From the bond's middle to the cut's: the cut starts in the hexagon's corner.
    shift = (size - HEXAGON_SIZE) / 2 - (CHALCOGEN_SITES[0] + METAL_SITES[0]) / 2
    local = lattice.matrix_at(cells.centres_px)  # (K, 2, 2)
    centres = cells.centres_px + local @ (shift if upper else -shift)
    side = _BOND_SAMPLES
    windows = sample_windows(data, lattice, centres, tuple(size), (side, side))
    flat = windows.reshape(len(windows), side * side)
    low = np.nanmin(flat, axis=1)[:, None, None]
    high = np.nanmax(flat, axis=1)[:, None, None]
    windows = np.nan_to_num((windows - low) / np.maximum(high - low, 1e-12))
    if channels == 1:
        return windows[:, None].astype(np.float32)
    halves = np.stack([windows[:, :, : side // 2], windows[:, :, side // 2 :]], axis=1)
    return np.repeat(halves, 2, axis=3).astype(np.float32)
