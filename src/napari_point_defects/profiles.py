"""The intensity profile along a cell's X–M bond, as measured in the image (paper, Fig. 6a).

The line runs through both columns from the hollow before X to the hollow behind M, and every
value is the mean over a band across it. "Along", "across" and all lengths are the crystal's:
they go through the lattice's matrix, so a sheared or stretched scan changes neither.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.ndimage import map_coordinates, uniform_filter1d

from napari_point_defects.materials import BOND, LATTICE_VECTORS, DefectClass
from napari_point_defects.records import Lattice

WIDTH_A = 0.3
"""Width of the band by default, in units of a: the middle of a column, not its flanks."""

LENGTH_A = 3 * BOND
"""From hollow to hollow: the period of the honeycomb along a bond."""

SAMPLES = 105

_TRIM = 0.25  # share left out of a mean over cells on either side: defects are a minority
_MOST_CELLS = 2000  # an even selection of more settles a mean as well
_MOST_VALUES = 2_000_000  # bounds the memory of the coordinates
_SMOOTH_A = 0.15  # a few pixels across say little of the noise: average it along the line
_NEIGHBOURS = np.concatenate([LATTICE_VECTORS, [LATTICE_VECTORS[0] - LATTICE_VECTORS[1]]])
_NEIGHBOURS = np.concatenate([_NEIGHBOURS, -_NEIGHBOURS])


@dataclass(frozen=True, slots=True)
class BondProfile:
    """Intensity along the bonds of one cell, or of K cells.

    Attributes
    ----------
    position_a : ndarray of shape (S,)
        Distance from the X column towards the M column, in units of a; M is at ``BOND``.
    intensity : ndarray of shape (S,) or (K, S)
        Mean over the band, in the image's grey levels; NaN where the band leaves the image.
    standard_error : ndarray of the same shape
        What noise does to that mean; NaN where too few pixels lie across the band to tell.
    width_a : float
        Width of the band, in units of a.
    """

    position_a: np.ndarray
    intensity: np.ndarray
    standard_error: np.ndarray
    width_a: float

    def distance_nm(self, lattice_constant_nm: float) -> np.ndarray:
        """Return the distance from the X column [nm], shape (S,)."""
        return self.position_a * lattice_constant_nm


@dataclass(frozen=True, slots=True)
class ProfileComparison:
    """Measured profiles beside the simulated profile of every class.

    Attributes
    ----------
    profile : BondProfile
        Of one cell, or of K cells.
    curves : ndarray of shape (6, S) or (K, 6, S)
        Simulated, in the image's grey levels, on the level of the cell's surroundings.
    rms : ndarray of shape (6,) or (K, 6)
        Root mean square of measured less simulated; NaN where nothing was measured.
    """

    profile: BondProfile
    curves: np.ndarray
    rms: np.ndarray

    @property
    def best(self) -> DefectClass | None:
        """The class whose profile agrees best with one cell's; None where nothing was measured."""
        return DefectClass(int(self.rms.argmin())) if np.isfinite(self.rms).all() else None


def sample_positions(length_a: float = LENGTH_A, samples: int = SAMPLES) -> np.ndarray:
    """Return where a profile is sampled: from X towards M, in units of a, shape (S,)."""
    return np.linspace(-length_a / 2, length_a / 2, samples) + BOND / 2


def bond_profile(
    data: np.ndarray,
    lattice: Lattice,
    chalcogen_px: np.ndarray,
    metal_px: np.ndarray,
    *,
    width_a: float = WIDTH_A,
    length_a: float = LENGTH_A,
    samples: int = SAMPLES,
) -> BondProfile:
    """Measure the intensity along the X–M bond of one cell or of many.

    Parameters
    ----------
    data : ndarray of shape (M, N)
        The original image; NaN where nothing was recorded.
    lattice : Lattice
        Its matrix about each cell says what is straight, perpendicular and how long in the
        crystal.
    chalcogen_px, metal_px : ndarray of shape (2,) or (K, 2)
        Columns (y, x) in image pixels.
    width_a : float
        Width of the band, in units of a; 0 for a line.
    length_a : float
        Length of the line about the bond's middle, in units of a.
    samples : int
        Points on the line, both ends included.

    Returns
    -------
    BondProfile
        Of shape (S,) for one cell, (K, S) for many.
    """
    one = np.ndim(chalcogen_px) == 1
    chalcogen, metal = (np.asarray(p, float).reshape(-1, 2) for p in (chalcogen_px, metal_px))
    matrix = lattice.matrix_at((chalcogen + metal) / 2)  # (K, 2, 2)
    bond = _times(np.linalg.inv(matrix), metal - chalcogen)
    with np.errstate(invalid="ignore", divide="ignore"):  # a cell without a bond has no profile
        along = bond / np.linalg.norm(bond, axis=1, keepdims=True)
    across = along[:, ::-1] * [1, -1]
    t, s = _rectangle(lattice.a_px, width_a, length_a, samples)  # (S, n), (n,)
    # one axis of the image after the other: (2, K, 1, 1)
    middle, along, across = (
        points.T[:, :, None, None]
        for points in (
            (chalcogen + metal) / 2,
            _times(matrix, along),
            _times(matrix, across),
        )
    )

    mean = np.empty((len(chalcogen), samples))
    error = np.empty_like(mean)
    scatter = _scatter(t[0], s, lattice.a_px)
    smooth = max(1, round(_SMOOTH_A / length_a * samples))
    step = max(1, _MOST_VALUES // t.size)
    for start in range(0, len(mean), step):
        k = np.s_[:, start : start + step]
        values = _values(data, *(middle[k] + t * along[k] + s * across[k]))  # (K, S, n)
        mean[k[1]] = values.mean(axis=-1)
        error[k[1]] = _standard_error(values, *scatter, smooth)
    shape = (samples,) if one else mean.shape
    return BondProfile(
        sample_positions(length_a, samples),
        mean.reshape(shape),
        error.reshape(shape),
        float(width_a),
    )


def mean_profile(
    data: np.ndarray, lattice: Lattice, chalcogen_px: np.ndarray, metal_px: np.ndarray, **options
) -> BondProfile:
    """Average the profiles of many cells, without the lowest and highest quarter at each point.

    Parameters
    ----------
    data, lattice, chalcogen_px, metal_px
        As in :func:`bond_profile`, of K cells; of more than 2,000 an even selection is taken.
    **options
        Keyword arguments of :func:`bond_profile`.

    Returns
    -------
    BondProfile
        Of shape (S,); its standard error comes from the scatter of the cells.
    """
    if len(chalcogen_px) > _MOST_CELLS:
        chosen = np.linspace(0, len(chalcogen_px) - 1, _MOST_CELLS).astype(int)
        chalcogen_px, metal_px = chalcogen_px[chosen], metal_px[chosen]
    cells = bond_profile(data, lattice, chalcogen_px, metal_px, **options)
    if not len(cells.intensity):
        nothing = np.full(len(cells.position_a), np.nan)
        return BondProfile(cells.position_a, nothing, nothing, cells.width_a)
    ranked = np.sort(cells.intensity, axis=0)  # NaN sorts last
    count = np.isfinite(ranked).sum(axis=0)
    low = np.floor(count * _TRIM).astype(int)
    rank = np.arange(len(ranked))[:, None]
    kept = (rank >= low) & (rank < count - low)
    n = kept.sum(axis=0)
    with np.errstate(invalid="ignore", divide="ignore"):  # NaN where no cell was measured
        mean = np.where(kept, ranked, 0).sum(axis=0) / n
        # winsorised, the scatter of a trimmed mean is that of the whole
        ends = [
            np.take_along_axis(ranked, np.maximum(e, 0)[None], 0) for e in (low, count - low - 1)
        ]
        clipped = np.where(rank < count, np.clip(ranked, *ends) - mean, 0)
        spread = np.sqrt((clipped**2).sum(axis=0) / (count - 1)) / (1 - 2 * _TRIM)
        error = spread / np.sqrt(count)
    return BondProfile(cells.position_a, mean, error, cells.width_a)


def surrounding_levels(
    data: np.ndarray,
    lattice: Lattice,
    chalcogen_px: np.ndarray,
    metal_px: np.ndarray,
    typical: np.ndarray,
    **options,
) -> np.ndarray:
    """Return how far the bonds around cells lie above a perfect one: contamination lifts all.

    Parameters
    ----------
    data, lattice, chalcogen_px, metal_px
        As in :func:`bond_profile`, of K cells.
    typical : ndarray of shape (S,)
        Profile of a perfect cell.
    **options
        Keyword arguments of :func:`bond_profile`.

    Returns
    -------
    ndarray of shape (K,)
        The median over the six neighbours, of which few are defective; 0 if none is in the image.
    """
    middles = (np.asarray(chalcogen_px, float) + metal_px) / 2
    shifts = _NEIGHBOURS @ lattice.matrix_at(middles).swapaxes(1, 2)  # (K, 6, 2)
    around = bond_profile(
        data,
        lattice,
        (np.asarray(chalcogen_px)[:, None] + shifts).reshape(-1, 2),
        (np.asarray(metal_px)[:, None] + shifts).reshape(-1, 2),
        **options,
    )
    excess = (around.intensity - typical).reshape(len(chalcogen_px), -1)
    seen = np.isfinite(excess).any(axis=1)
    levels = np.zeros(len(excess))
    levels[seen] = np.nanmedian(excess[seen], axis=1)
    return levels


def _times(matrices: np.ndarray, vectors: np.ndarray) -> np.ndarray:
    """Apply one matrix (K, 2, 2) to each vector (K, 2)."""
    return (matrices @ vectors[..., None])[..., 0]


def _rectangle(
    a_px: float, width_a: float, length_a: float, samples: int
) -> tuple[np.ndarray, np.ndarray]:
    """Where one value's pixels lie: along the line (S, n) and across it (n,), in units of a.

    At least one for each pixel of a rectangle one step long and a band wide.
    """
    step = length_a / max(samples - 1, 1)
    n_along = max(1, int(np.ceil(step * a_px - 1e-9)))
    n_across = max(1, int(np.ceil(width_a * a_px - 1e-9)))
    u = ((np.arange(n_along) + 0.5) / n_along - 0.5) * step
    v = ((np.arange(n_across) + 0.5) / n_across - 0.5) * width_a
    line = np.linspace(-length_a / 2, length_a / 2, samples)
    return line[:, None] + np.repeat(u, n_across), np.tile(v, n_along)


def _values(data: np.ndarray, y: np.ndarray, x: np.ndarray) -> np.ndarray:
    """Interpolate the image at points, NaN outside; converts only the part that is needed."""
    found = np.isfinite(y)
    if not found.any():
        return np.full(y.shape, np.nan)
    (top, bottom), (left, right) = (
        np.clip([np.floor(axis[found].min()) - 1, np.ceil(axis[found].max()) + 2], 0, length)
        for axis, length in zip((y, x), data.shape, strict=True)
    )
    patch = np.asarray(data[int(top) : int(bottom), int(left) : int(right)], np.float32)
    if not patch.size:
        return np.full(y.shape, np.nan)
    patch = np.where(np.isfinite(patch), patch, np.nan)
    points = [np.where(found, axis - low, -1e6) for axis, low in ((y, top), (x, left))]
    return map_coordinates(patch, points, order=1, mode="constant", cval=np.nan, output=np.float64)


def _scatter(along: np.ndarray, across: np.ndarray, a_px: float) -> tuple[np.ndarray, float]:
    """Return what makes a standard error of the values of one rectangle, at points (n,).

    Returns
    -------
    projection : ndarray of shape (n, n)
        Takes a parabola across the band away: a column is brighter in its middle, and that is
        not noise.
    factor : float
        Square of the standard error over the sum of squares of what is left. Values
        interpolated between the same pixels vary together, so n of them are not n measurements.
    """
    n, places = len(across), len(np.unique(across))
    order = min(3, places if places < n else n - 1)
    if order < 1:
        return np.eye(n), np.nan
    basis, _ = np.linalg.qr(np.vander(across, order))
    projection = np.eye(n) - basis @ basis.T
    together = _overlap(np.subtract.outer(along, along) * a_px) * _overlap(
        np.subtract.outer(across, across) * a_px
    )
    return projection, together.mean() / (projection * together).sum()


def _overlap(distance_px: np.ndarray) -> np.ndarray:
    """Covariance of two linear interpolations of white noise, a distance apart, in its variance.

    The mean over all positions between pixels: the triangle's autocorrelation.
    """
    d = np.abs(distance_px)
    near, far = 2 / 3 - d**2 + d**3 / 2, (2 - d) ** 3 / 6
    return np.where(d < 1, near, np.where(d < 2, far, 0.0))


def _standard_error(
    values: np.ndarray, projection: np.ndarray, factor: float, smooth: int
) -> np.ndarray:
    """Return the standard error of the mean of values (..., S, n) over n, shape (..., S)."""
    variance = ((values @ projection) ** 2).sum(axis=-1) * factor
    known = np.isfinite(variance)
    total = uniform_filter1d(np.where(known, variance, 0), smooth, axis=-1)
    share = uniform_filter1d(known.astype(float), smooth, axis=-1)
    return np.where(known, np.sqrt(np.maximum(total, 0) / np.maximum(share, 1e-9)), np.nan)
