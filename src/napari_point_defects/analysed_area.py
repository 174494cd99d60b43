"""What of an image was analysed: a map of its domains, and of what was left out and why."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from napari_point_defects.records import Lattice

FIRST_CODE = 200
"""Codes below are numbers of domains, from 1; 0 is never used."""
NO_LATTICE, BOUNDARY, BILAYER, CONTAMINATED, VACUUM, NOT_CHOSEN = range(250, 256)

AREA_NAMES = {
    VACUUM: "vacuum",
    CONTAMINATED: "thick contamination",
    BILAYER: "bilayer",
    BOUNDARY: "grain boundary",
    NO_LATTICE: "no lattice",
    NOT_CHOSEN: "not chosen",
}
"""What each code says, for tables and legends."""

AREA_COLOURS = {
    VACUUM: "#00b8c4",
    CONTAMINATED: "#9c6b3c",
    BILAYER: "#c94fc9",
    BOUNDARY: "#ff5a4d",
    NO_LATTICE: "#8a8a8a",
    NOT_CHOSEN: "#303030",
}
"""Colour of each code in pictures."""

DOMAIN_COLOURS = ("#4a7dff", "#ffb347", "#5fd35f", "#b59cff", "#e8e04f", "#c8d6ff", "#c7a17a")
"""Colours of domains in pictures, in their order; more domains take them again."""


@dataclass(frozen=True, slots=True)
class Domain:
    """A grain, a mirror twin, or the whole image: where one lattice holds.

    Attributes
    ----------
    number : int
        From 1, the largest first. Its pixels carry it in :attr:`AnalysedArea.labels`.
    lattice : Lattice
    twin_of : int
        Number of the domain of which it is the mirror twin (the same lattice with X and M
        exchanged); 0 where it is none.
    """

    number: int
    lattice: Lattice
    twin_of: int = 0


@dataclass(frozen=True, slots=True)
class AnalysedArea:
    """A coarse map of an image: which domain each place belongs to, or why to none.

    Attributes
    ----------
    labels : ndarray of shape (By, Bx), uint8
        Numbers of domains, or the codes of :data:`AREA_NAMES`.
    step_px : int
        Pixels per sample: sample (i, j) covers pixels from i·step to (i + 1)·step. The last
        samples of each axis may cover fewer.
    shape : (int, int)
        Size of the image.
    """

    labels: np.ndarray
    step_px: int
    shape: tuple[int, int]

    @classmethod
    def whole(cls, shape: tuple[int, int], step_px: int = 8) -> AnalysedArea:
        """Return a map on which all of the image belongs to domain 1."""
        size = [-(-n // step_px) for n in shape]
        return cls(np.ones(size, np.uint8), step_px, (int(shape[0]), int(shape[1])))

    def at(self, points_px: np.ndarray) -> np.ndarray:
        """Return the label at points (..., 2); those outside the image take the nearest one."""
        index = np.floor((np.asarray(points_px, float) + 0.5) / self.step_px)
        index = np.clip(np.nan_to_num(index), 0, np.array(self.labels.shape) - 1).astype(int)
        return self.labels[index[..., 0], index[..., 1]]

    def domain_at(self, points_px: np.ndarray) -> np.ndarray:
        """Return the number of the domain nearest to points (..., 2); 1 where there is none."""
        found = self.at(points_px).astype(int)
        is_domain = self.labels < FIRST_CODE
        off = found >= FIRST_CODE
        if not off.any():
            return found
        if not is_domain.any():
            return np.where(off, 1, found)
        from scipy.spatial import cKDTree

        rows, cols = np.nonzero(is_domain)
        middles = (np.stack([rows, cols], -1) + 0.5) * self.step_px - 0.5
        points = np.asarray(points_px, float)[off]
        _, nearest = cKDTree(middles).query(points)
        found[off] = self.labels[rows[nearest], cols[nearest]]
        return found

    def share_of(self, label: int) -> float:
        """Return the share of the image that carries a label."""
        return float(self._weights()[self.labels == label].sum() / np.prod(self.shape))

    def shares(self) -> dict[str, float]:
        """Return the share of the image that was analysed, and left out for each reason."""
        weights = self._weights() / np.prod(self.shape)
        analysed = float(weights[self.labels < FIRST_CODE].sum())
        left_out = {
            name: float(weights[self.labels == code].sum()) for code, name in AREA_NAMES.items()
        }
        return {"analysed": analysed} | left_out

    def _weights(self) -> np.ndarray:
        """Pixels that each sample covers, shape (By, Bx)."""
        sides = [
            np.minimum((np.arange(k) + 1) * self.step_px, n) - np.arange(k) * self.step_px
            for k, n in zip(self.labels.shape, self.shape, strict=True)
        ]
        return np.maximum(sides[0], 0)[:, None] * np.maximum(sides[1], 0).astype(float)

    def to_pixels(self) -> np.ndarray:
        """Return the label of every pixel, shape (M, N), uint8."""
        whole = np.repeat(np.repeat(self.labels, self.step_px, 0), self.step_px, 1)
        pad = [max(0, n - k) for n, k in zip(self.shape, whole.shape, strict=True)]
        whole = np.pad(whole, [(0, pad[0]), (0, pad[1])], mode="edge")
        return whole[: self.shape[0], : self.shape[1]]

    def refined(self, factor: int) -> AnalysedArea:
        """Return the same map on samples that many times finer, where the step allows it."""
        while factor > 1 and self.step_px % factor:
            factor -= 1
        labels = np.repeat(np.repeat(self.labels, factor, 0), factor, 1)
        step = self.step_px // factor
        rows, cols = (-(-n // step) for n in self.shape)
        return replace(self, labels=np.ascontiguousarray(labels[:rows, :cols]), step_px=step)


def restrict(area: AnalysedArea, polygons_px: Sequence[Sequence]) -> AnalysedArea:
    """Leave out what lies outside all of the user's polygons.

    Parameters
    ----------
    area : AnalysedArea
    polygons_px : sequence of sequences of shape (K, 2)
        Corners (y, x) in image pixels; overlapping polygons add up. None restrict nothing.

    Returns
    -------
    AnalysedArea
        With ``NOT_CHOSEN`` outside; finer than before, so that the polygons' edges keep their
        place.
    """
    if not len(polygons_px):
        return area
    from skimage.draw import polygon2mask

    area = area.refined(4)
    chosen = np.zeros(area.labels.shape, bool)
    for corners in polygons_px:
        # samples are chosen by their middles
        steps = (np.asarray(corners, float).reshape(-1, 2) + 0.5) / area.step_px - 0.5
        chosen |= polygon2mask(area.labels.shape, steps)
    return replace(area, labels=np.where(chosen, area.labels, np.uint8(NOT_CHOSEN)))
