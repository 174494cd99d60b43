"""What is measured, in the words, units and digits of *Measure image* and of the report."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from napari_point_defects.measured import Estimate, Measurement

_CLIPPED_MUCH = 1e-3
"""Share of clipped pixels from which on it is pointed out."""
_MOST_DIGITS = 5
_NM_TO_PM = 1000.0


@dataclass(frozen=True, slots=True)
class Quantity:
    """One line of the table.

    Attributes
    ----------
    name : str
    estimate : Estimate
        In ``unit``; its interval is NaN where there is none.
    unit : str
    meaning : str
        One sentence on what it is, one on what a wrong value does.
    is_odd : bool
        Whether the user should look at it.
    """

    name: str
    estimate: Estimate
    unit: str
    meaning: str
    is_odd: bool = False

    def written(self) -> tuple[str, str]:
        """Return value and interval as text."""
        return written(self.estimate)


def quantities(
    found: Measurement, pixel_width_nm: float, material: str
) -> tuple[tuple[str, tuple[Quantity, ...]], ...]:
    """Return the lines of the table in groups: a title and its quantities.

    Parameters
    ----------
    found : Measurement
    pixel_width_nm : float
        Along a scan row: turns row jitter into picometres.
    material : str
        Formula, of which the contrast is expected.
    """
    low, high = found.expected_contrast
    ratio = found.contrast_ratio
    foreign = ratio.high < low or ratio.low > high  # False for NaN
    px_to_pm = _NM_TO_PM * pixel_width_nm
    lines = {
        "Dose and detector": (
            Quantity("Counts at X₂ (λ)", found.poisson_lambda, "counts/px", _LAMBDA),
            Quantity("Counts per column", found.column_counts, "counts", _COLUMN),
            Quantity("Counts per grey level", found.counts_per_level, "counts", _GAIN),
            Quantity("Read noise", found.read_noise, "intensity", _READ),
            Quantity("Black level", found.offset, "intensity", _OFFSET),
            _clipped("Clipped, dark", found.clipped_low, "lowest"),
            _clipped("Clipped, bright", found.clipped_high, "highest"),
        ),
        "Probe": (
            Quantity("Probe, FWHM", scaled(found.probe_fwhm_nm, _NM_TO_PM), "pm", _PROBE),
            Quantity("Share of its tail", scaled(found.tail_fraction, 100), "%", _TAIL),
            Quantity("Tail, FWHM", found.tail_fwhm_nm, "nm", _TAIL_WIDTH),
        ),
        "Scan": (
            Quantity("Row jitter, rms", found.jitter_px, "px", _JITTER),
            Quantity("… as a length", scaled(found.jitter_px, px_to_pm), "pm", _JITTER),
            Quantity("Shear", scaled(found.shear, 100), "%", _SHEAR),
            Quantity("Stretch", scaled(found.stretch, 100), "%", _STRETCH),
        ),
        "Contamination": (
            Quantity("Mean signal", scaled(found.contamination, 100), "% of peak", _DIRT),
            Quantity("Correlation length", found.contamination_length_nm, "nm", _DIRT_LENGTH),
        ),
        "Contrast": (
            Quantity("X₂ over M", ratio, "", _CONTRAST, foreign),
            Quantity(f"Range of {material}", Estimate(math.nan, low, high), "", _RANGE),
        ),
    }
    return tuple(lines.items())


def as_text(found: Measurement, pixel_width_nm: float, material: str) -> str:
    """Return the table for a spreadsheet: tab-separated, in full digits."""
    lines = ["quantity\tvalue\tlow\thigh\tunit"]
    for title, rows in quantities(found, pixel_width_nm, material):
        for row in rows:
            numbers = (row.estimate.value, row.estimate.low, row.estimate.high)
            cells = ("" if math.isnan(n) else f"{n:.7g}" for n in numbers)
            lines.append("\t".join((f"{title}: {row.name}", *cells, row.unit)))
    return "\n".join(lines)


def scaled(estimate: Estimate, factor: float) -> Estimate:
    """Return an estimate in another unit."""
    return Estimate(factor * estimate.value, factor * estimate.low, factor * estimate.high)


def written(estimate: Estimate) -> tuple[str, str]:
    """Return value and 95 % interval with as many digits as the interval's width allows."""
    value, low, high = estimate.value, estimate.low, estimate.high
    known = [abs(v) for v in (value, low, high) if math.isfinite(v)]
    if not known:
        return "–", ""
    size, width = max(known), high - low
    if math.isnan(width):
        write = _writer(size, size)  # no interval tells more digits
        return write(value), ""
    if not 0 < width < math.inf:
        width = 0.1 * size
    write = _writer(size, width)
    interval = f"> {write(low)}" if math.isinf(high) else f"{write(low)} – {write(high)}"
    return "" if math.isnan(value) else write(value), interval


def _writer(size: float, width: float) -> Callable[[float], str]:
    if size == 0:
        return lambda v: "0"
    # two digits of the interval, but no more of the value than can be read
    places = min(1 - math.floor(math.log10(width)), _MOST_DIGITS - 1 - _power(size))
    if not 1e-3 <= size < 1e7:
        digits = max(places + _power(size), 1)
        return lambda v: f"{v:.{digits}e}".replace("-", "−")
    return lambda v: f"{round(v, places) + 0.0:,.{max(places, 0)}f}".replace("-", "−")


def _power(size: float) -> int:
    return math.floor(math.log10(size))


def _clipped(name: str, share: float, end: str) -> Quantity:
    nothing = float("nan")
    return Quantity(
        name, Estimate(100 * share, nothing, nothing), "% of pixels",
        f"Share of the pixels piled up at the {end} value that the detector gives. What is clipped "
        "is lost: noise and contrast are then measured from the rest, and less sure.",
        share > _CLIPPED_MUCH,
    )  # fmt: skip


_LAMBDA = (
    "Expected counts in a pixel at the middle of a perfect X₂ column. Simulated with too large a "
    "λ, training images are too clean and the networks take noise for defects."
)
_COLUMN = (
    "Expected counts in the whole image of a perfect X₂ column: the dose that defects are told by, "
    "at any magnification. The fewer, the more single vacancies are missed."
)
_GAIN = (
    "Expected counts for each unit of intensity above the black level (Poisson gain). If it is "
    "wrong, so are λ and all counts, by the same factor."
)
_READ = (
    "Standard deviation of the noise that does not depend on the signal, such as the amplifier's. "
    "Taken too small, dark places of simulated images are too smooth."
)
_OFFSET = (
    "Intensity where no electron is scattered. If it is wrong, contrast and contamination are "
    "wrong too, for both are measured from it."
)
_PROBE = (
    "Full width at half maximum of one column's image: probe, source, vibration and the atoms' "
    "motion together. Simulated too narrow, columns look sharper than the microscope's."
)
_TAIL = (
    "Share of a column's image that lies in its wide tail. The tail puts signal of neighbours into "
    "a vacancy, so a tail left out makes vacancies look darker than they are."
)
_TAIL_WIDTH = (
    "Width of that tail at half of its maximum. A wide tail cannot be told from even "
    "contamination, so this is the least sure width."
)
_JITTER = (
    "Root-mean-square sideways error of a scan row, noise taken off. Jitter left out of training "
    "makes the networks stumble over torn columns."
)
_SHEAR = (
    "Sideways slide of the rows as the specimen drifts, in percent of the height. The lattice "
    "follows it; beyond 15 % the networks have not been trained."
)
_STRETCH = (
    "Horizontal over vertical scale of the scan, less one. The lattice follows it; a wrong pixel "
    "aspect shows here."
)
_DIRT = (
    "Mean signal of the dirt on the layer, in percent of the brightest column's peak. Much of it "
    "brightens vacancies until they pass for whole columns."
)
_DIRT_LENGTH = (
    "Length over which the dirt stays alike. Where it is near a column's width, dirt and atoms can "
    "hardly be told apart; a dash means that none is seen."
)
_CONTRAST = (
    "Integrated signal of a perfect X₂ column over that of an M column, vacancies left out. Beyond "
    "the material's range, the material or the choice of X and M is wrong, or it is no monolayer."
)
_RANGE = (
    "The contrast that this material may show; wide, for the detector's angles are seldom known. A "
    "contrast outside of it is written in orange."
)
