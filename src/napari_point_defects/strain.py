"""A map of the lattice's strain and rotation, from where the unit cells are.

About each cell a straight lattice is fitted to the cells around it; what it differs by from the
mean lattice of its domain is the strain there. A slow drift of the scan looks the same as a
strain of the sheet: only frames scanned in another direction tell them apart.

The local least-squares fit is that of M. L. Falk and J. S. Langer, Phys. Rev. E 57 (1998) 7192,
equations 2.11–2.14, with Gaussian weights.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.sparse import csr_array
from scipy.spatial import cKDTree

from napari_point_defects.domains.casting import DomainMap
from napari_point_defects.errors import PointDefectsError
from napari_point_defects.lattice_nodes import node_grids
from napari_point_defects.materials import LATTICE_VECTORS
from napari_point_defects.records import UnitCells

WINDOW_A = 2.0
"""Standard deviation of the weights about a cell, in a: the map's resolution."""

COMPONENTS = ("e_xx", "e_yy", "e_xy", "rotation_deg")
"""Strains along and across the image's rows, and rotation from its x towards its y axis."""

_REACH = 2.5  # windows
_FEWEST = 6  # cells, twice the three that fix a straight lattice
_LEAST_SPREAD = 0.08  # of a window squared: neighbours on one line fix no strain across it


@dataclass(frozen=True, slots=True)
class StrainMap:
    """Strain at every unit cell, against the mean lattice of its domain.

    Attributes
    ----------
    centres_px : ndarray of shape (N, 2)
        Middles of the cells.
    values : ndarray of shape (N, 4)
        As in :data:`COMPONENTS`; NaN where too few cells are around.
    window_a : float
    """

    centres_px: np.ndarray
    values: np.ndarray
    window_a: float

    def table(self) -> pd.DataFrame:
        """Return one row per cell."""
        table = pd.DataFrame(self.centres_px, columns=["y", "x"])
        table.insert(0, "cell_id", np.arange(len(table)))
        return table.join(pd.DataFrame(self.values, columns=list(COMPONENTS)))

    def moments(self) -> np.ndarray:
        """Return mean and standard deviation of the components, shape (4, 2).

        NaN for one that is known nowhere.
        """
        known = (column[np.isfinite(column)] for column in self.values.T)
        return np.array([(c.mean(), c.std()) if len(c) else (np.nan, np.nan) for c in known])

    def picture(self, shape: tuple[int, int], step_px: int, reach_px: float) -> np.ndarray:
        """Return the components as pictures, each sample that of the nearest cell.

        Parameters
        ----------
        shape : (int, int)
            Of the image.
        step_px : int
            Pixels per sample: sample (i, j) lies at pixel (i + ½)·step − ½.
        reach_px : float
            Samples farther from any cell are NaN.

        Returns
        -------
        ndarray of shape (4, M', N'), float32
        """
        axes = [(np.arange(-(-n // step_px)) + 0.5) * step_px - 0.5 for n in shape]
        samples = np.stack(np.meshgrid(*axes, indexing="ij"), -1)
        _, nearest = cKDTree(self.centres_px).query(
            samples.reshape(-1, 2), distance_upper_bound=reach_px
        )
        known = np.vstack([self.values, np.full(4, np.nan)]).astype(np.float32)
        return known[nearest].T.reshape(4, *samples.shape[:2])


def strain_map(
    cells: UnitCells,
    where: DomainMap,
    pixel_size_nm: tuple[float, float],
    *,
    window_a: float = WINDOW_A,
) -> StrainMap:
    """Map the strain of an image's lattice.

    Parameters
    ----------
    cells : UnitCells
        Need not be classified.
    where : DomainMap
    pixel_size_nm : (float, float)
        Height and width of a pixel: strains are those of the sheet, not of the pixels.
    window_a : float
        Standard deviation of the weights, in a.

    Raises
    ------
    PointDefectsError
        If there are no cells.
    """
    if not len(cells):
        raise PointDefectsError("there are no unit cells to map the strain of: find hexagons first")
    values = np.full((len(cells), 4), np.nan)
    for grid in node_grids(cells, where):
        ideal = grid.nodes @ LATTICE_VECTORS
        found = cells.centres_px[grid.rows] * np.asarray(pixel_size_nm)
        if len(ideal) >= _FEWEST:
            values[grid.rows] = _components(_gradients(ideal, found, window_a))
    return StrainMap(cells.centres_px, values, window_a)


def _gradients(ideal: np.ndarray, found: np.ndarray, window_a: float) -> np.ndarray:
    """Return the gradient of the displacement about each place, (N, 2, 2).

    Parameters
    ----------
    ideal : ndarray of shape (N, 2)
        Places in the perfect lattice, in a.
    found : ndarray of shape (N, 2)
        Places in the image, in any unit.
    """
    base = np.column_stack([ideal, np.ones(len(ideal))])
    mean = np.linalg.lstsq(base, found, rcond=None)[0].T  # (2, 3)
    displacement = found - base @ mean.T
    tree = cKDTree(ideal)
    pairs = tree.sparse_distance_matrix(tree, _REACH * window_a, output_type="coo_matrix")
    near = csr_array(
        (np.exp(-(pairs.data**2) / (2 * window_a**2)), (pairs.row, pairs.col)), shape=pairs.shape
    )
    near.setdiag(1.0)
    weight = near.sum(axis=1)
    neighbours = np.diff(near.indptr)
    middle, shift = (near @ each / weight[:, None] for each in (ideal, displacement))
    # second moments about the middle of what is near
    spread = _products(near, ideal, ideal, weight) - middle[:, :, None] * middle[:, None]
    together = _products(near, displacement, ideal, weight) - shift[:, :, None] * middle[:, None]
    enough = (neighbours >= _FEWEST) & (
        np.linalg.eigvalsh(spread)[:, 0] > _LEAST_SPREAD * window_a**2
    )
    gradient = np.full(spread.shape, np.nan)
    gradient[enough] = together[enough] @ np.linalg.inv(spread[enough])
    return gradient @ np.linalg.inv(mean[:, :2])  # per length in the image, not per a


def _products(near, left: np.ndarray, right: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Return weighted means of the outer products of (N, 2) and (N, 2): (N, 2, 2)."""
    outer = (left[:, :, None] * right[:, None]).reshape(-1, 4)
    return (near @ outer / weight[:, None]).reshape(-1, 2, 2)


def _components(gradient: np.ndarray) -> np.ndarray:
    """Turn gradients (N, 2, 2) in (y, x) into :data:`COMPONENTS`, (N, 4)."""
    (yy, yx), (xy, xx) = gradient.transpose(1, 2, 0)
    return np.stack([xx, yy, (yx + xy) / 2, np.degrees((yx - xy) / 2)], axis=1)
