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

BILAYER_GAIN = 1.6
"""{11} harmonics, of two layers 2, in the middle of a bilayer."""

BILAYER_STEP = 0.75
"""Rise of the level there, in units of the columns' mean signal: of a second layer 1."""

_BILAYER_EDGE = 1.35  # {11} harmonics where a third of the window shows a second layer

THICK = 1.0
"""Dirt of which the signal reaches a column's peak; thinner dirt is in the training images."""

_STEP = 0.4  # of the columns' mean signal: a little nearer to the layer than half-way
_CRYSTAL_STEP = 0.2
_EDGE_A = 0.8  # a cell that close to a second layer sees it


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
        float(np.sqrt(np.mean(np.abs(template[shell_rows(shell)]) ** 2))) for shell in (1, 3, 4)
    ]
    # a column's transform falls as exp(−B n); {10} and {20} share their structure factor
    fall = np.clip(np.log(moduli[0] / max(moduli[2], 1e-9)) / 3, 0.1, 0.6)
    columns = float(moduli[1] * np.exp(3 * fall))
    steps = np.arange(24) / 24
    grid = np.stack(np.meshgrid(steps, steps), -1).reshape(-1, 2)
    cell = 2 * (np.exp(2j * np.pi * grid @ USED.T) @ template).real
    level = float(np.percentile(cells.level[clear], 20))
    # the template may hold some of a second layer: measure its scale where there is none
    single = clear & (cells.level < level + _STEP * columns)
    rows = shell_rows(3)
    power = (np.abs(cells.values[rows]) ** 2).mean(0)[single]
    eleven = float(np.sqrt(max(np.median(power) - cells.noise[rows].mean(), 0)))
    scale = eleven / moduli[1] if eleven > 0.4 * moduli[1] else 1.0
    return Reference(
        level, scale * columns, float(scale * (columns + cell.max())), scale * moduli[1]
    )


def shell_rows(shell: int) -> np.ndarray:
    """Which harmonics belong to a shell, shape (K,), bool."""
    return shell == SHELLS


def layer_gain(cells: LocalCells, reference: Reference) -> np.ndarray:
    """Return the {11} harmonics over those of the monolayer, shape (By, Bx)."""
    rows = shell_rows(3)
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
    codes[crystal & (above > THICK * reference.peak)] = CONTAMINATED
    second = _second_layer(cells, crystal, reference)
    if second.any():
        reach = ndimage.distance_transform_edt(~second) * cells.step_px
        codes[(reach <= _EDGE_A * a_px) & ((codes == 0) | (codes == CONTAMINATED))] = BILAYER
    codes[cells.recorded < 0.3] = NO_LATTICE  # nothing is known of it
    return codes


def _second_layer(cells: LocalCells, crystal: np.ndarray, reference: Reference) -> np.ndarray:
    """Where both the {11} harmonics and the level say that there is a second layer.

    Its middle must show it beyond doubt; from there it reaches as far as a weaker sign does.
    """
    gain = layer_gain(cells, reference)
    rise = (cells.level - reference.level) / max(reference.columns, 1e-30)
    # three harmonics are averaged; windows cut by the image's edge are noisier
    noise = cells.noise[shell_rows(3)].mean() / np.maximum(cells.seen, 0.1) / 3
    doubt = 3 * np.sqrt(noise) / max(reference.eleven, 1e-30)
    middle = crystal & (gain > BILAYER_GAIN + doubt) & (rise > BILAYER_STEP)
    parts, _ = ndimage.label(crystal & (gain > _BILAYER_EDGE) & (rise > _STEP))
    sure = np.unique(parts[middle])
    return np.isin(parts, sure[sure > 0])
