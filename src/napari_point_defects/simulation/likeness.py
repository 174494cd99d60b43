"""Set the simulator so that its images look like a measured one.

Two things are made: a recipe, whose one image should measure as the given one does, and the
settings of a training set whose images lie narrowly around it. A range of the set reaches as far
as the measured interval and at least as far as the margin named here; what an image does not
tell keeps the range of the set that is narrowed.

===========================  =================================================================
quantity                     range around the measured value
===========================  =================================================================
lattice constant             ÷ and × 1.15
rotation                     any: the next image of the microscope lies differently
shear, stretch               ± 0.04
counts in a column           ÷ and × 1.6
read noise                   ÷ and × 1.4
width of a column's image    ± 8 %, by the source
probe's tail                 share ± 0.05, width ÷ and × 1.2
row jitter                   ÷ and × 1.5
contamination                ÷ and × 1.6, its length ÷ and × 1.5, in 0.8 of the images
brightness of X              5 %, standard deviation
share of defective cells     ÷ and × 3, at least 1 % to 5 %
residual aberrations         defocus ± 2 nm, astigmatism to 1 nm: the measured width holds them
===========================  =================================================================
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np

from napari_point_defects.errors import PointDefectsError
from napari_point_defects.materials import Material
from napari_point_defects.measured import Estimate, Measurement
from napari_point_defects.records import Lattice
from napari_point_defects.simulation.amplifier import amplifier_for_clipping
from napari_point_defects.simulation.column_images import (
    WIDEST_SOURCE_NM,
    ColumnImage,
    column_image,
    source_for_fwhm,
)
from napari_point_defects.simulation.columns import MicroscopeSettings
from napari_point_defects.simulation.defect_mix import match_defects
from napari_point_defects.simulation.intervals import (
    around,
    clipped,
    finite,
    is_known,
    rounded,
    scaled,
    spread,
    widened,
)
from napari_point_defects.simulation.noise import NoiseSettings
from napari_point_defects.simulation.presets import PRESETS, RANGES, TrainingSetSettings
from napari_point_defects.simulation.recipes import Recipe
from napari_point_defects.simulation.scenes import SceneSettings
from napari_point_defects.simulation.superposition import Blur

PRESET = "like"
"""What the settings of such a set are called."""

NO_COUNTS = "the counts could not be measured: the dose's range stays"
NO_READ_NOISE = "the read noise could not be measured: its range stays"

_WIDE = PRESETS["wide"]
_SLANT, _LARGEST_SLANT = 0.04, 0.3
_FWHM = 0.08
_TAIL, _LARGEST_TAIL = 0.05, 0.6
_GAIN_SIGMA = 0.05
_DIRT_SHARE = 0.8
_NO_DIRT = 0.02  # less than this is a field that nobody sees
_LEAST_JITTER_A = 0.004


@dataclass(frozen=True, slots=True)
class MeasuredImage:
    """What is known of an image that the simulator is to match.

    Attributes
    ----------
    measurement : Measurement
    lattice : Lattice
    material : Material
    shape : (int, int)
        Rows and columns of the image.
    pixel_size_nm : float
        Side of a pixel that the measurement's lengths were given with.
    bits : {8, 16}
        Depth of the image's grey levels.
    class_counts : tuple of int, optional
        Cells of each class that the analysis counted.
    """

    measurement: Measurement
    lattice: Lattice
    material: Material
    shape: tuple[int, int]
    pixel_size_nm: float
    bits: int = 8
    class_counts: tuple[int, ...] | None = None

    @property
    def per_simulated_nm(self) -> float:
        """Factor on measured lengths: the simulator's lattice constant is the material's own."""
        a_nm = self.lattice.a_px * self.pixel_size_nm
        return self.material.lattice_constant_nm / a_nm


@dataclass(frozen=True, slots=True)
class Likeness:
    """The simulator, set to an image.

    Attributes
    ----------
    recipe : Recipe
        Of one image like it.
    settings : TrainingSetSettings
        Of a training set around it.
    remarks : tuple of str
        What of the image could not be matched, and why.
    """

    recipe: Recipe
    settings: TrainingSetSettings
    remarks: tuple[str, ...]


def match(
    image: MeasuredImage,
    *,
    base: TrainingSetSettings = _WIDE,
    microscope: MicroscopeSettings | None = None,
    seed: int = 0,
) -> Likeness:
    """Set the simulator so that its images measure as the given one does.

    Parameters
    ----------
    image : MeasuredImage
    base : TrainingSetSettings
        What the image does not tell keeps this range; numbers of images are taken from it.
    microscope : MicroscopeSettings, optional
        By default that of ``base``. Its probe is a lower bound to the width of a column.
    seed : int

    Returns
    -------
    Likeness

    Raises
    ------
    PointDefectsError
        If the image is too small, or its lattice constant cannot be simulated.
    """
    microscope = microscope or base.microscope
    remarks = list(image.measurement.remarks)
    probe = _match_probe(image, base, microscope, remarks)
    noise = _match_noise(image, base, probe, remarks)
    dirt = _match_dirt(image, base, remarks)
    defects = match_defects(image.class_counts, base)
    lattice = image.lattice
    jitter = scaled(image.measurement.jitter_px, 1 / lattice.a_px)
    jitter_a = max(finite(jitter.value, 0.0), 0.0)
    try:
        scene = SceneSettings(
            material=image.material.formula,
            height_px=image.shape[0],
            width_px=image.shape[1],
            a_px=lattice.a_px,
            angle_deg=lattice.angle_deg,
            shear=lattice.shear,
            stretch=lattice.stretch,
            jitter_a=jitter_a,
            source_fwhm_nm=probe.blur.source_fwhm_nm,
            tail_fraction=probe.blur.tail_fraction,
            tail_fwhm_nm=probe.blur.tail_fwhm_nm,
            chalcogen_gain=probe.chalcogen_gain,
            contamination=dirt["contamination"][0],
            contamination_length_nm=dirt["length"][0],
            defect_rates=defects.rates,
        )
        recipe = Recipe(scene=scene, noise=noise.settings, microscope=microscope, seed=seed)
        recipe = amplifier_for_clipping(
            recipe, image.measurement.clipped_low, image.measurement.clipped_high
        )
        settings = base.model_copy(
            update={
                "preset": PRESET,
                "materials": (image.material.formula,),
                "microscope": microscope,
                "one_cell": False,
                "a_px": clipped(around(lattice.a_px, 1.15), 4, 400),
                "angle_deg": (-180.0, 180.0),
                "shear": _slants(lattice.shear, image.measurement.shear),
                "stretch": _slants(lattice.stretch, image.measurement.stretch),
                "jitter_a": (
                    jitter_a / 1.5,
                    max(1.5 * jitter_a, finite(jitter.high, 0.0), _LEAST_JITTER_A),
                ),
                "defocus_nm": (-2.0, 2.0),
                "astigmatism_nm": (0.0, 1.0),
                **probe.ranges,
                **noise.ranges,
                **dirt["ranges"],
                "defect_rate": defects.rate_range,
                "class_mix": defects.class_mix,
                "bits": (image.bits,),
                **_amplifier_ranges(recipe.noise, noise),
            }
        )
        plain = {name: rounded(r) for name in RANGES if (r := getattr(settings, name)) is not None}
        plain["class_mix"] = rounded(settings.class_mix, 3)
        plain["chalcogen_gain"], plain["chalcogen_gain_sigma"] = rounded(
            (settings.chalcogen_gain, settings.chalcogen_gain_sigma)
        )
        # copies are not checked
        settings = TrainingSetSettings.model_validate(settings.model_dump() | plain)
    except ValueError as error:
        raise PointDefectsError(
            f"an image like this one cannot be simulated: {_first_line(error)}"
        ) from error
    return Likeness(recipe, settings, tuple(dict.fromkeys(remarks)))


@dataclass(frozen=True, slots=True)
class _Probe:
    blur: Blur
    image: ColumnImage
    chalcogen_gain: float
    ranges: dict


def _match_probe(
    image: MeasuredImage,
    base: TrainingSetSettings,
    microscope: MicroscopeSettings,
    remarks: list[str],
) -> _Probe:
    """Choose source, tail and brightness of X."""
    measured, material = image.measurement, image.material
    scale = image.per_simulated_nm
    tail, width = measured.tail_fraction, measured.tail_fwhm_nm
    plain = Blur().tail_fwhm_nm
    ranges: dict = {}
    if is_known(tail) and (tail.value == 0 or is_known(width)):
        share = float(np.clip(tail.value, 0, _LARGEST_TAIL))
        tail_fwhm = width.value * scale if is_known(width) else plain
        ranges["tail_fraction"] = clipped(widened(tail, _TAIL), 0, _LARGEST_TAIL)
        ranges["tail_fwhm_nm"] = around(tail_fwhm, 1.2)
        if tail.value > _LARGEST_TAIL:
            remarks.append(
                f"{tail.value:.0%} of the probe lie in its tail: the simulator goes to "
                f"{_LARGEST_TAIL:.0%}"
            )
    else:
        share, tail_fwhm = 0.0, plain
    blur = Blur(0.0, share, tail_fwhm)
    if is_known(measured.probe_fwhm_nm):
        wanted = measured.probe_fwhm_nm.value * scale
        sharpest = column_image(material, microscope, blur).fwhm_nm
        fwhm = scaled(measured.probe_fwhm_nm, scale)
        narrow, wide = widened(fwhm, _FWHM * wanted)
        low, source, high = (
            source_for_fwhm(width, material, microscope, blur) for width in (narrow, wanted, wide)
        )
        if wanted < sharpest:
            remarks.append(
                f"columns are {wanted * 1e3:.0f} pm wide, sharper than a probe of "
                f"{microscope.energy_ev / 1e3:.0f} keV and {microscope.semiangle_mrad:g} mrad "
                f"makes them ({sharpest * 1e3:.0f} pm): give the microscope's own energy and "
                "semi-angle in a settings file"
            )
        if source == WIDEST_SOURCE_NM:
            remarks.append(f"columns are {wanted * 1e3:.0f} pm wide: wider than can be simulated")
        ranges["source_fwhm_nm"] = (low, max(high, 0.01))
    else:
        source = float(np.mean(base.source_fwhm_nm))
        remarks.append("the width of a column could not be measured: the source's range stays")
    blur = replace(blur, source_fwhm_nm=source)
    found = column_image(material, microscope, blur)
    ratio, gain = measured.contrast_ratio, 1.0
    if is_known(ratio) and ratio.value > 0:
        gain = ratio.value / found.contrast_ratio
        error = (ratio.high - ratio.low) / (2 * 1.96 * ratio.value)
        ranges["chalcogen_gain"] = gain
        ranges["chalcogen_gain_sigma"] = max(_GAIN_SIGMA, error if math.isfinite(error) else 0.0)
    return _Probe(blur, found, gain, ranges)


@dataclass(frozen=True, slots=True)
class _Noise:
    settings: NoiseSettings
    ranges: dict


def _match_noise(
    image: MeasuredImage, base: TrainingSetSettings, probe: _Probe, remarks: list[str]
) -> _Noise:
    """Choose dose and read noise; the latter in the grey levels of the simulator's amplifier."""
    measured = image.measurement
    ranges: dict = {}
    share = probe.image.peak_share(image.material.lattice_constant_nm / image.lattice.a_px)
    lam = measured.poisson_lambda
    if is_known(lam) and lam.value > 0:
        counts = measured.column_counts
        if not is_known(counts):
            counts = scaled(lam, 1 / share)
        ranges["column_counts"] = spread(counts, 1.6)
    else:
        # without counts nothing says how large a count is: all noise is the detector's then
        lam = Estimate(0.0, 0.0, 0.0)
        remarks.append(NO_COUNTS)
    noise = NoiseSettings(poisson_lambda=float(lam.value), gaussian_mu=0.0, bits=image.bits)
    per_peak = noise.levels_per_peak(probe.image.brightest(probe.chalcogen_gain))
    read = measured.read_noise
    if is_known(read) and is_known(measured.counts_per_level) and lam.value > 0:
        # read noise in units of the X₂ column's peak, then in the simulator's levels
        factor = measured.counts_per_level.value / lam.value * per_peak
        mu = float(max(read.value, 0.0) * factor)
        low, high = spread(scaled(read, factor), 1.4)
        ranges |= {"gaussian_mu": (max(low, 0.0), max(high, 0.2)), "gaussian_share": 1.0}
        noise = noise.model_copy(update={"gaussian_mu": mu})
    else:
        remarks.append(NO_READ_NOISE)
    return _Noise(noise, ranges)


def _match_dirt(image: MeasuredImage, base: TrainingSetSettings, remarks: list[str]) -> dict:
    """Choose contamination and its length."""
    measured, scale = image.measurement, image.per_simulated_nm
    dirt, length = measured.contamination, measured.contamination_length_nm
    found = {
        "contamination": (0.0, 0.0),
        "length": (float(np.mean(base.contamination_length_nm)),),
        "ranges": {},
    }
    if not is_known(dirt):
        return found
    if dirt.value < _NO_DIRT or not is_known(length) or length.value <= 0:
        most = max(finite(dirt.high, 0.0), 2 * _NO_DIRT)
        found["ranges"] = {"contamination": (0.0, most)}
        return found
    low, high = spread(dirt, 1.6)
    found["contamination"] = (dirt.value,)
    found["length"] = (length.value * scale,)
    found["ranges"] = {
        "contamination": (low, high),
        "contamination_share": _DIRT_SHARE,
        "contamination_length_nm": around(length.value * scale, 1.5),
    }
    return found


def _amplifier_ranges(noise: NoiseSettings, before: _Noise) -> dict:
    """Spread black level and gain where the image is cut off; elsewhere they change nothing."""
    plain = NoiseSettings()
    ranges: dict = {}
    if noise.black_level != plain.black_level:
        ranges["black_level"] = (max(noise.black_level - 8, -255.0), noise.black_level + 8)
    if noise.gain != plain.gain:
        ranges["gain"] = around(noise.gain, 1.1)
    if before.settings.gaussian_mu and "gaussian_mu" in before.ranges:
        # in levels of the amplifier that the set has
        factor = noise.gaussian_mu / before.settings.gaussian_mu
        ranges["gaussian_mu"] = tuple(mu * factor for mu in before.ranges["gaussian_mu"])
    return ranges


def _slants(value: float, estimate: Estimate) -> tuple[float, float]:
    found = Estimate(value, estimate.low, estimate.high)
    return clipped(widened(found, _SLANT), -_LARGEST_SLANT, _LARGEST_SLANT)


def _first_line(error: ValueError) -> str:
    errors = getattr(error, "errors", None)
    if errors is None:
        return str(error)
    first = errors()[0]
    return f"{'.'.join(map(str, first['loc']))} {first['msg']}".strip()
