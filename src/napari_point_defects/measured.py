"""What is measured of an image: its noise, probe, scan, dirt and contrast, with intervals."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Estimate:
    """A measured value with its 95 % interval.

    Attributes
    ----------
    value, low, high : float
        NaN where the image does not tell.
    """

    value: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Measurement:
    """How an image was recorded, as far as it tells.

    Lengths ending in ``_nm`` follow the pixel size of the analysis; intensities are in the
    image's own units.

    Attributes
    ----------
    counts_per_level : Estimate
        Poisson gain: expected counts per unit of intensity above ``offset``.
    poisson_lambda : Estimate
        λ: expected counts in a pixel at the middle of a perfect X₂ column.
    column_counts : Estimate
        Expected counts in a whole perfect X₂ column.
    read_noise : Estimate
        Standard deviation of the noise that does not depend on the signal, in intensity.
    offset : Estimate
        Intensity where no electron is scattered.
    clipped_low, clipped_high : float
        Share of the pixels at the lowest and at the highest value that the detector gives.
    probe_fwhm_nm : Estimate
        Full width at half maximum of the effective probe: the image of one column.
    tail_fraction : Estimate
        Share of that image in its wide tail.
    tail_fwhm_nm : Estimate
        Width of that tail.
    jitter_px : Estimate
        Root-mean-square sideways error of a scan row.
    shear, stretch : Estimate
        Distortion of the scan as in ``Lattice``.
    contamination : Estimate
        Mean signal of the dirt, share of the brightest column's peak.
    contamination_length_nm : Estimate
        Its correlation length.
    contrast_ratio : Estimate
        Integrated signal of a perfect X₂ column over that of an M column.
    expected_contrast : (float, float)
        The range of ``contrast_ratio`` of the material claimed.
    cells : int
        Perfect cells that the measurement rests on.
    remarks : tuple of str
        What the user should know: not this material, a bilayer, clipped, ...
    """

    counts_per_level: Estimate
    poisson_lambda: Estimate
    column_counts: Estimate
    read_noise: Estimate
    offset: Estimate
    clipped_low: float
    clipped_high: float
    probe_fwhm_nm: Estimate
    tail_fraction: Estimate
    tail_fwhm_nm: Estimate
    jitter_px: Estimate
    shear: Estimate
    stretch: Estimate
    contamination: Estimate
    contamination_length_nm: Estimate
    contrast_ratio: Estimate
    expected_contrast: tuple[float, float]
    cells: int
    remarks: tuple[str, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """Return it ready for JSON."""
        return asdict(self)
