"""Frozen records that cross module boundaries: image, calibration, lattice, hexagons, cells."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from napari_point_defects.errors import PointDefectsError
from napari_point_defects.materials import CELL_AREA, HEXAGON_SIZE, DefectClass

_MOST_STEPS = 40
_EXACT_PX = 1e-7


@dataclass(frozen=True, slots=True)
class Calibration:
    """Pixel size of an image.

    Attributes
    ----------
    pixel_size_nm : (float, float) or None
        Height and width of a pixel; None where nothing is known.
    source : str
        ``"file"``, ``"user"``, ``"lattice"`` or ``"none"``.
    problem : str
        Why what the file says is not used; empty where it is, or says nothing.
    """

    pixel_size_nm: tuple[float, float] | None = None
    source: str = "none"
    problem: str = field(default="", compare=False)


@dataclass(frozen=True, slots=True)
class StemImage:
    """One HAADF-STEM frame.

    Attributes
    ----------
    data : ndarray of shape (M, N), float32
        Intensities in the file's own units; finite, or NaN where nothing was recorded.
    name : str
        Stem of the file's name: outputs are named after it.
    calibration : Calibration
    path : Path or None
    signal : str
        Which signal of a file that holds several.
    """

    data: np.ndarray
    name: str = "image"
    calibration: Calibration = field(default_factory=Calibration)
    path: Path | None = None
    signal: str = ""


@dataclass(frozen=True, slots=True)
class Bending:
    """A smooth displacement over an image: how a lattice departs from a straight one.

    Between the nodes it is a cubic spline; beyond the outermost it keeps their values.

    Attributes
    ----------
    field_px : ndarray of shape (h, w, 2)
        Displacement (y, x) at the nodes, in pixels.
    origin_px : ndarray of shape (2,)
        Where node (0, 0) lies in the image.
    step_px : ndarray of shape (2,)
        Distance between nodes along y and x.
    """

    field_px: np.ndarray
    origin_px: np.ndarray
    step_px: np.ndarray

    def displacement(self, points_px: np.ndarray) -> np.ndarray:
        """Return the displacement of points, shape (..., 2), in pixels."""
        # here, for the label store reads lattices without ever bending one, and starts fast
        from scipy.ndimage import map_coordinates, spline_filter

        nodes = (np.asarray(points_px, float) - self.origin_px) / self.step_px
        # a straight line along an edge would be pulled off its values by what lies beyond it
        last = np.array(self.field_px.shape[:2]) - 1
        flat = np.clip(nodes.reshape(-1, 2), 0, last).T
        found = np.empty((flat.shape[1], 2))
        for axis in range(2):
            spline = spline_filter(self.field_px[..., axis], mode="mirror")
            map_coordinates(spline, flat, output=found[:, axis], mode="mirror", prefilter=False)
        return found.reshape(nodes.shape)

    def gradient(self, points_px: np.ndarray) -> np.ndarray:
        """Return the derivative of the displacement at points (..., 2): shape (..., 2, 2).

        Element [i, j] is that of component i along axis j.
        """
        points = np.asarray(points_px, float)
        columns = []
        for reach in np.diag(0.01 * np.asarray(self.step_px, float)):
            ahead, behind = self.displacement(points + reach), self.displacement(points - reach)
            columns.append((ahead - behind) / (2 * reach.sum()))
        return np.stack(columns, axis=-1)

    @property
    def largest_strain(self) -> float:
        """Largest change of the displacement over a distance, as a share of that distance."""
        nodes = np.stack(np.indices(self.field_px.shape[:2]), -1) * self.step_px + self.origin_px
        return float(np.linalg.norm(self.gradient(nodes), ord=2, axis=(-2, -1)).max())


@dataclass(frozen=True, slots=True)
class Lattice:
    """The map from the canonical frame (units of a) to image pixels, affine but for bending.

    ``straight = origin_px + matrix_px @ canonical`` for (y, x) column vectors; where the lattice
    is bent, ``image = straight + bending.displacement(straight)``.

    Attributes
    ----------
    origin_px : ndarray of shape (2,)
        A hollow site, in pixels.
    matrix_px : ndarray of shape (2, 2)
        Columns: the image of the canonical unit vectors along y and x.
    quality : float
        0 to 1: share of the mean-removed image explained by the lattice's harmonics.
    sublattice_confidence : float
        0.5 to 1: how sure the choice of hollow, X and M is.
    bending : Bending or None
        Slow departure from the affine map; None where there is none.
    """

    origin_px: np.ndarray
    matrix_px: np.ndarray
    quality: float = 1.0
    sublattice_confidence: float = 1.0
    bending: Bending | None = None

    def to_image(self, canonical: np.ndarray) -> np.ndarray:
        """Map canonical points, shape (..., 2), to image pixels."""
        straight = np.asarray(canonical) @ self.matrix_px.T + self.origin_px
        if self.bending is None:
            return straight
        return straight + self.bending.displacement(straight)

    def to_canonical(self, points_px: np.ndarray) -> np.ndarray:
        """Map image points, shape (..., 2), to the canonical frame."""
        straight = self._straightened(np.asarray(points_px))
        return (straight - self.origin_px) @ np.linalg.inv(self.matrix_px).T

    def matrix_at(self, points_px: np.ndarray) -> np.ndarray:
        """Return the matrix about image points: shape (..., 2) to (..., 2, 2)."""
        points_px = np.asarray(points_px)
        if self.bending is None:
            return np.broadcast_to(self.matrix_px, (*points_px.shape, 2))
        gradient = self.bending.gradient(self._straightened(points_px))
        return (np.eye(2) + gradient) @ self.matrix_px

    def _straightened(self, points_px: np.ndarray) -> np.ndarray:
        """Take the bending off image points: fixed-point iteration, for it changes slowly."""
        if self.bending is None:
            return points_px
        straight = points_px
        for _ in range(_MOST_STEPS):
            before, straight = straight, points_px - self.bending.displacement(straight)
            if np.abs(straight - before).max(initial=0.0) < _EXACT_PX:
                break
        return straight

    def moved(self, by_px: Sequence[float]) -> Lattice:
        """Return the lattice of an image of which this one's image is a part.

        ``by_px`` is where the part's pixel (0, 0) lies in the whole.
        """
        by_px, bending = np.asarray(by_px, float), self.bending
        if bending is not None:
            bending = replace(bending, origin_px=np.asarray(bending.origin_px) + by_px)
        return replace(self, origin_px=self.origin_px + by_px, bending=bending)

    @property
    def a_px(self) -> float:
        """Lattice constant of the undistorted lattice with the same area per cell."""
        return float(np.sqrt(abs(np.linalg.det(self.matrix_px))))

    @property
    def cell_area_px(self) -> float:
        """Area of the primitive cell in square pixels."""
        return float(CELL_AREA * abs(np.linalg.det(self.matrix_px)))

    @property
    def _scan_and_rotation(self) -> tuple[np.ndarray, np.ndarray]:
        """Split the matrix into a lower-triangular scan distortion and a rotation.

        A raster scan keeps its rows horizontal: drift slides and stretches rows, so the
        distortion that acts after the sample's rotation is lower triangular in (y, x).
        """
        q, r = np.linalg.qr(self.matrix_px.T)
        signs = np.sign(np.diag(r))
        return (r.T * signs), (q * signs).T

    @property
    def angle_deg(self) -> float:
        """Direction of the lattice row, from the image's x axis towards its y axis (down)."""
        _, rotation = self._scan_and_rotation
        return float(np.degrees(np.arctan2(rotation[0, 1], rotation[1, 1])))

    @property
    def shear(self) -> float:
        """Sideways slide of rows per row."""
        scan, _ = self._scan_and_rotation
        return float(scan[1, 0] / scan[0, 0])

    @property
    def stretch(self) -> float:
        """Horizontal over vertical scale of the scan, less 1."""
        scan, _ = self._scan_and_rotation
        return float(scan[1, 1] / scan[0, 0] - 1)


@dataclass(frozen=True, slots=True)
class Hexagons:
    """Hexagonal cells found by CNN-1.

    Attributes
    ----------
    corners_px : ndarray of shape (N, 4, 2)
        Corners (y, x) of each hexagon's canonical box, in image pixels, in the order
        upper left, upper right, lower right, lower left of the canonical frame.
    scores : ndarray of shape (N,)
        Detection scores, 0 to 1.
    domain : ndarray of shape (N,), int
        Number of the domain that each belongs to; 0 where it is not known.
    """

    corners_px: np.ndarray
    scores: np.ndarray
    domain: np.ndarray | None = None

    def __post_init__(self) -> None:
        if self.domain is None:
            object.__setattr__(self, "domain", np.zeros(len(self.scores), int))

    def __len__(self) -> int:
        return len(self.scores)

    @classmethod
    def from_canonical_boxes(
        cls, boxes: np.ndarray, scores: np.ndarray, lattice: Lattice
    ) -> Hexagons:
        """Make hexagons of canonical boxes (y_min, x_min, y_max, x_max), shape (N, 4)."""
        boxes = np.asarray(boxes, float).reshape(-1, 4)
        corners = boxes[:, [[0, 1], [0, 3], [2, 3], [2, 1]]]
        return cls(lattice.to_image(corners), np.asarray(scores, float))

    def take(self, rows: np.ndarray) -> Hexagons:
        """Return some of the hexagons: a boolean mask or indices."""
        return Hexagons(self.corners_px[rows], self.scores[rows], self.domain[rows])

    @classmethod
    def joined(cls, parts: Sequence[Hexagons]) -> Hexagons:
        """Return the hexagons of all parts, one after the other."""
        return cls(
            np.concatenate([part.corners_px for part in parts]),
            np.concatenate([part.scores for part in parts]),
            np.concatenate([part.domain for part in parts]),
        )

    def canonical_boxes(self, lattice: Lattice) -> np.ndarray:
        """Return (y_min, x_min, y_max, x_max) in the canonical frame, shape (N, 4)."""
        corners = lattice.to_canonical(np.asarray(self.corners_px, float).reshape(-1, 4, 2))
        return np.concatenate([corners.min(axis=1), corners.max(axis=1)], axis=1)


@dataclass(frozen=True, slots=True)
class UnitCells:
    """Unit cells: one X–M bond of the canonical direction each.

    Attributes
    ----------
    chalcogen_px, metal_px : ndarray of shape (N, 2)
        Positions (y, x) of the X₂ and the M column in image pixels.
    votes : ndarray of shape (N,), int
        How many hexagons found the cell: 1 or 2.
    probabilities : ndarray of shape (N, 6)
        Class probabilities; NaN before classification.
    domain : ndarray of shape (N,), int
        Number of the domain that each belongs to; 0 where it is not known.
    """

    chalcogen_px: np.ndarray
    metal_px: np.ndarray
    votes: np.ndarray
    probabilities: np.ndarray
    domain: np.ndarray | None = None

    def __post_init__(self) -> None:
        if self.domain is None:
            object.__setattr__(self, "domain", np.zeros(len(self.votes), int))

    def __len__(self) -> int:
        return len(self.votes)

    @classmethod
    def unclassified(
        cls, chalcogen_px: np.ndarray, metal_px: np.ndarray, votes: np.ndarray
    ) -> UnitCells:
        """Return cells whose class is not known yet."""
        return cls(chalcogen_px, metal_px, votes, np.full((len(votes), 6), np.nan))

    def take(self, rows: np.ndarray) -> UnitCells:
        """Return some of the cells: a boolean mask or indices."""
        return UnitCells(
            self.chalcogen_px[rows],
            self.metal_px[rows],
            self.votes[rows],
            self.probabilities[rows],
            self.domain[rows],
        )

    @classmethod
    def joined(cls, parts: Sequence[UnitCells]) -> UnitCells:
        """Return the cells of all parts, one after the other."""
        return cls(
            np.concatenate([part.chalcogen_px for part in parts]),
            np.concatenate([part.metal_px for part in parts]),
            np.concatenate([part.votes for part in parts]),
            np.concatenate([part.probabilities for part in parts]),
            np.concatenate([part.domain for part in parts]),
        )

    @property
    def classes(self) -> np.ndarray:
        """Most probable class of each cell, shape (N,), values of ``DefectClass``."""
        return np.argmax(self.probabilities, axis=1)

    @property
    def confidence(self) -> np.ndarray:
        """Probability of the most probable class, shape (N,)."""
        return self.probabilities.max(axis=1, initial=0.0)

    @property
    def centres_px(self) -> np.ndarray:
        """Middle of the bond, shape (N, 2)."""
        return (self.chalcogen_px + self.metal_px) / 2


def require_classified(cells: UnitCells) -> None:
    """Refuse cells unless there are some and all of them have a class.

    Raises
    ------
    PointDefectsError
        If there are no cells, or they are not classified.
    """
    if not len(cells) or not np.isfinite(cells.probabilities).all():
        raise PointDefectsError(
            "there are no classified cells: find the hexagons and classify the cells first"
        )


def cell_classes(missing_chalcogens: np.ndarray, metal_missing: np.ndarray) -> np.ndarray:
    """Return ``DefectClass`` values for arrays of missing X atoms (0–2) and missing M (bool).

    :func:`missing_chalcogens` and :func:`missing_metals` take them apart again.
    """
    return np.asarray(missing_chalcogens, int) + int(DefectClass.V_M) * np.asarray(
        metal_missing, int
    )


def missing_chalcogens(classes: np.ndarray) -> np.ndarray:
    """Return how many X atoms cells lack, of an array of ``DefectClass`` values, same shape."""
    return np.asarray(classes) % int(DefectClass.V_M)


def missing_metals(classes: np.ndarray) -> np.ndarray:
    """Return whether cells lack their M atom (bool), of an array of ``DefectClass`` values."""
    return np.asarray(classes) >= DefectClass.V_M


def hexagon_boxes(centres: np.ndarray) -> np.ndarray:
    """Return canonical boxes (y_min, x_min, y_max, x_max) of hexagons centred there, (N, 4).

    The six columns do not lie symmetrically about the hollow, the box does: X at +d below is
    matched by M at −d above.
    """
    centres = np.asarray(centres, float).reshape(-1, 2)
    return np.concatenate([centres - HEXAGON_SIZE / 2, centres + HEXAGON_SIZE / 2], axis=1)
