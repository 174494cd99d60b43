"""Tell what covers or replaces a monolayer: vacuum, thick dirt, a second layer.

Levels are compared with the signal of the layer's own columns: vacuum lies below the layer's mean
level by as much as all columns add, a second layer above it. The {11} harmonics of all stackings
of 2H layers add up, for g·r is whole on all three sites: a second layer doubles them, dirt does
not.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from napari_point_defects.analysed_area import BILAYER, CONTAMINATED, NO_LATTICE, VACUUM
from napari_point_defects.domains.local_cells import SHELLS, USED, LocalCells

BILAYER_GAIN = 1.35
"""{11} harmonics where a third of the window shows a second layer: of two they are 2."""

THICK = 1.0
"""Dirt of which the signal reaches a column's peak; thinner dirt is in the training images."""

_STEP = 0.4  # of the columns' mean signal: a little nearer to the layer than half-way
_CRYSTAL_STEP = 0.2
_EDGE_A = 0.5  # a cell that close to a second layer sees it


@dataclass(frozen=True, slots=True)
class Reference:
    """What the monolayer's mean signal and harmonics are.

    Attributes
    ----------
    level : float
        Mean level of the clean monolayer.
    columns : float
        Mean signal of all columns: what the level lies above vacuum, at least.
    peak : float
        Signal of the brightest column's peak above vacuum, at least.
    eleven : float
        Root-mean-square modulus of the {11} harmonics.
    """

    level: float
    columns: float
    peak: float
    eleven: float

    @property
    def vacuum_level(self) -> float:
        """Level below which too few columns remain for a layer."""
        return self.level - _STEP * self.columns

    def is_crystal_level(self, level: np.ndarray) -> np.ndarray:
        """Whether levels are those of a monolayer, clean or under thin dirt."""
        return (level > self.level - _CRYSTAL_STEP * self.columns) & (
            level < self.level + THICK * self.peak
        )


def reference_of(cells: LocalCells, score: np.ndarray, template: np.ndarray) -> Reference:
    """Measure the monolayer where its lattice is clearest."""
    clear = (score > 0.75) & (score < 1.35) & (cells.seen > 0.5)
    if clear.sum() < 20:
        clear = score >= np.percentile(score, 80)
    moduli = [
        float(np.sqrt(np.mean(np.abs(template[shell == SHELLS]) ** 2))) for shell in (1, 3, 4)
    ]
    # a column's transform falls as exp(−B n); {10} and {20} share their structure factor
    fall = np.clip(np.log(moduli[0] / max(moduli[2], 1e-9)) / 3, 0.1, 0.6)
    columns = float(moduli[1] * np.exp(3 * fall))
    steps = np.arange(24) / 24
    grid = np.stack(np.meshgrid(steps, steps), -1).reshape(-1, 2)
    cell = 2 * (np.exp(2j * np.pi * grid @ USED.T) @ template).real
    level = float(np.percentile(cells.level[clear], 20))
    return Reference(level, columns, float(columns + cell.max()), moduli[1])


def layer_gain(cells: LocalCells, reference: Reference) -> np.ndarray:
    """Return the {11} harmonics over those of the monolayer, shape (By, Bx)."""
    rows = SHELLS == 3
    power = (np.abs(cells.values[rows]) ** 2).mean(0) - cells.noise[rows].mean()
    return np.sqrt(np.maximum(power, 0)) / max(reference.eleven, 1e-30)


def cover_codes(
    cells: LocalCells,
    crystal: np.ndarray,
    reference: Reference,
    a_px: float,
) -> np.ndarray:
    """Return the code of what is no clean monolayer, 0 where it is one, shape (By, Bx), uint8.

    Parameters
    ----------
    cells : LocalCells
    crystal : ndarray of shape (By, Bx), bool
        Where a lattice holds.
    reference : Reference
    a_px : float
    """
    codes = np.zeros(crystal.shape, np.uint8)
    above = cells.level - reference.level
    codes[~crystal] = NO_LATTICE
    codes[~crystal & (above > _STEP * reference.columns)] = CONTAMINATED
    codes[~crystal & (cells.level < reference.vacuum_level)] = VACUUM
    codes[cells.seen < 0.3] = NO_LATTICE  # nothing was recorded there
    codes[crystal & (above > THICK * reference.peak)] = CONTAMINATED
    gain = layer_gain(cells, reference)
    second = crystal & (gain > BILAYER_GAIN) & (above > _STEP * reference.columns)
    if second.any():
        reach = ndimage.distance_transform_edt(~second) * cells.step_px
        codes[(reach <= _EDGE_A * a_px) & ((codes == 0) | (codes == CONTAMINATED))] = BILAYER
    return codes
