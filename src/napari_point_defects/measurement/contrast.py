"""The contrast of the columns: whether it is the material claimed, and one layer of it."""

from __future__ import annotations

import numpy as np

from napari_point_defects.lattice_sites import expected_brightness_ratio
from napari_point_defects.materials import Material
from napari_point_defects.measured import Estimate

_EXPONENTS = (1.5, 1.95)
_STRONG_COLUMNS = 1.4
"""Heavy atoms scatter beyond the detector, and the first X feeds the second: multislice lies up to
so much above Z-contrast for 27 mrad at 80 kV (WTe₂)."""
_MARGIN = 1.1


def expected_contrast(material: Material) -> tuple[float, float]:
    """Return the range of X₂ over M, integrated, that the material may show.

    A detector's angles are seldom known, so it is wide: Z to the power 1.5 to 1.95 (Krivanek et
    al., Nature 464 (2010) 571: 1.64; Rutherford: 2), more for what channels in heavy columns.
    """
    from ase.data import atomic_numbers  # here, for ase.data is slow to import

    z_ratio = atomic_numbers[material.chalcogen] / atomic_numbers[material.metal]
    ends = sorted(2 * z_ratio**n for n in _EXPONENTS)
    return ends[0] / _MARGIN, ends[1] * _STRONG_COLUMNS


def contrast_remarks(
    ratio: Estimate, expected: tuple[float, float], material: Material
) -> list[str]:
    """Say what a ratio outside the expected range may mean."""
    low, high = expected
    if np.isnan(ratio.value) or (ratio.high >= low and ratio.low <= high):
        return []
    text = (
        f"X2/M contrast {ratio.value:.2f} is outside {low:.2f}-{high:.2f} of {material.formula}: "
    )
    if ratio.low < 1.12 and ratio.high > 0.9 and not low * 0.9 < 1 < high * 1.1:
        return [
            text + "both columns look alike, as in a 2H bilayer; or check the material and the "
            "sublattices"
        ]
    typical = expected_brightness_ratio(material)
    if (typical < 1) != (ratio.value < 1):
        return [text + "check the material, or whether X and M are swapped (sublattice rank)"]
    return [text + "check the material"]
