"""What weights were trained on, in the terms in which an image is measured.

The range follows from the settings of the training set, which every model card holds:

* lattice constant, shear, stretch, row jitter, contamination: the set's own ranges;
* width of a column: from the narrowest source with the least tail to the widest source with the
  largest tail, in units of a, over all materials; defocus, which widens few images, is left out;
* counts in a column: the dose; where λ is given instead, λ over the share of a column's signal
  that falls into its brightest pixel, for the coarsest pixels and the widest columns, and for the
  finest and sharpest; λ from the counts in the same way;
* contrast of X₂ over M columns: the simulated one of each material, times the brightness of X
  less and plus two of its standard deviations.

A range is documented where all its ends are drawn together seldom; so the ends mean "there were
such images", not "there were many".
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from functools import lru_cache
from typing import Any

import numpy as np
from pydantic import ValidationError

from napari_point_defects.errors import PointDefectsError
from napari_point_defects.materials import get_material
from napari_point_defects.measured import Estimate
from napari_point_defects.simulation.column_images import column_image
from napari_point_defects.simulation.images import unknown_columns
from napari_point_defects.simulation.intervals import Range, finite, is_known, scaled
from napari_point_defects.simulation.likeness import MeasuredImage
from napari_point_defects.simulation.presets import TrainingSetSettings
from napari_point_defects.simulation.superposition import Blur

CARD_KEY = "training_range"
_SLANT_ERROR = 0.01

_NAMED = {"materials", "a_px", "source_fwhm_nm"}
ADVICE = "train on images like it (`point-defects adapt`, or `simulate --like` and then `train`)"


@dataclass(frozen=True, slots=True)
class TrainingRange:
    """Lowest and highest value of each quantity in a training set; None where it is not known.

    Attributes
    ----------
    materials : tuple of str
    a_px : (float, float)
        Lattice constant [px].
    fwhm_a : (float, float) or None
        Full width at half maximum of a column's image [a].
    column_counts, poisson_lambda : (float, float) or None
        Expected counts in a whole perfect X₂ column, and in its brightest pixel.
    jitter_a, shear, stretch, contamination : (float, float)
        As in :class:`~napari_point_defects.simulation.scenes.SceneSettings`.
    contrast_ratio : dict of (float, float)
        Signal of an X₂ over that of an M column, of each material whose columns are known.
    """

    materials: tuple[str, ...]
    a_px: Range
    fwhm_a: Range | None
    column_counts: Range | None
    poisson_lambda: Range | None
    jitter_a: Range
    shear: Range
    stretch: Range
    contamination: Range
    contrast_ratio: dict[str, Range]

    def as_dict(self) -> dict[str, Any]:
        """Return it ready for a model card."""
        return asdict(self)


def range_of_set(settings: TrainingSetSettings) -> TrainingRange:
    """Return what a training set of those settings shows; see the module."""
    missing = unknown_columns(settings.materials, settings.microscope)
    known = [get_material(name) for name in settings.materials]
    known = [material for material in known if material.formula not in missing]
    source, share, tail = settings.source_fwhm_nm, settings.tail_fraction, settings.tail_fwhm_nm
    sharpest, widest, peaks, contrast = [], [], [], {}
    log_gain = 2 * settings.chalcogen_gain_sigma
    gain = settings.chalcogen_gain * np.exp([-log_gain, log_gain])
    for material in known:
        a_nm = material.lattice_constant_nm
        narrow = [column_image(material, settings.microscope, Blur(source[0], share[0], tail[1]))]
        wide = [
            column_image(material, settings.microscope, Blur(source[1], share[1], width))
            for width in tail
        ]
        sharpest += [image.fwhm_nm / a_nm for image in narrow]
        widest += [image.fwhm_nm / a_nm for image in wide]
        pixels = (a_nm / settings.a_px[1], a_nm / settings.a_px[0])
        peaks += [image.peak_share(pixels[0]) for image in wide]
        peaks += [image.peak_share(pixels[1]) for image in narrow]
        simulated = narrow[0].contrast_ratio
        contrast[material.formula] = (float(simulated * gain[0]), float(simulated * gain[1]))
    counts, lam = settings.column_counts, settings.poisson_lambda
    if counts is not None:
        lam = (counts[0] * min(peaks), counts[1] * max(peaks)) if peaks else None
    elif peaks:
        counts = (lam[0] / max(peaks), lam[1] / min(peaks))
    dirt = settings.contamination if settings.contamination_share else (0.0, 0.0)
    return TrainingRange(
        materials=tuple(get_material(name).formula for name in settings.materials),
        a_px=settings.a_px,
        fwhm_a=(min(sharpest), max(widest)) if known else None,
        column_counts=counts,
        poisson_lambda=lam,
        jitter_a=settings.jitter_a,
        shear=settings.shear,
        stretch=settings.stretch,
        contamination=(0.0 if settings.contamination_share < 1 else dirt[0], dirt[1]),
        contrast_ratio=contrast,
    )


def range_of_record(record: Mapping[str, Any]) -> TrainingRange | None:
    """Return the range of what a model card says of the training set.

    Parameters
    ----------
    record : mapping
        The settings of one simulated set, or ``sets`` of several.

    Returns
    -------
    TrainingRange or None
        That of all sets together; None where there is none, or one that is not known.
    """
    sets = record.get("sets", [record])
    found = [_range_of_settings(values) for values in sets]
    if not found or None in found:
        return None
    return _union(found)


def range_of_card(card: Mapping[str, Any]) -> TrainingRange | None:
    """Return the range that a model card states, or that follows from its training set.

    None where the card says neither.
    """
    stated = card.get(CARD_KEY)
    if isinstance(stated, Mapping):
        try:
            return _read(stated)
        except (AttributeError, KeyError, TypeError, ValueError):
            return None
    record = card.get("training_set")
    return range_of_record(record) if isinstance(record, Mapping) else None


def range_warnings(
    image: MeasuredImage, ranges: Mapping[str, TrainingRange | None]
) -> tuple[str, ...]:
    """Say of each measured quantity that lies outside what weights were trained on.

    A quantity is outside where its whole interval is. The material is not among them.

    Parameters
    ----------
    image : MeasuredImage
    ranges : mapping of str to TrainingRange or None
        By what the weights are called, e.g. ``classifier``; None where their card says nothing.

    Returns
    -------
    tuple of str
        One line for each quantity: the value, the range, and what to do.
    """
    told: dict[str, list[tuple[str, str]]] = {}
    for name, known in ranges.items():
        if known is None:
            continue
        for text, limits in _outside(image, known):
            told.setdefault(text, []).append((name, limits))
    lines = []
    for text, found in told.items():
        names = " and the ".join(name for name, _ in found)
        limits = " and ".join(dict.fromkeys(limits for _, limits in found))
        lines.append(f"{text}, the {names} learned {limits}: {ADVICE}")
    return tuple(lines)


def _outside(image: MeasuredImage, known: TrainingRange):
    """Yield what is measured and what was trained, of each quantity outside."""
    measured, a_px = image.measurement, image.lattice.a_px
    a_nm = a_px * image.pixel_size_nm
    lattice = image.lattice
    checks: list[tuple[str, Estimate, Range | None, str]] = [
        ("the lattice constant is {} px", Estimate(a_px, a_px, a_px), known.a_px, " px"),
        ("columns are {} a wide", scaled(measured.probe_fwhm_nm, 1 / a_nm), known.fwhm_a, " a"),
        _dose(image, known),
        ("the row jitter is {} a", scaled(measured.jitter_px, 1 / a_px), known.jitter_a, " a"),
        ("the shear is {}", _about(lattice.shear), known.shear, ""),
        ("the stretch is {}", _about(lattice.stretch), known.stretch, ""),
        ("the contamination is {}", measured.contamination, known.contamination, ""),
        (
            f"the contrast of {image.material.chalcogen}₂ over {image.material.metal} is {{}}",
            measured.contrast_ratio,
            known.contrast_ratio.get(image.material.formula),
            "",
        ),
    ]
    for text, value, limits, unit in checks:
        if limits is None or not is_known(value):
            continue
        low, high = finite(value.low, value.value), finite(value.high, value.value)
        if high < limits[0] or low > limits[1]:
            yield text.format(f"{value.value:.3g}"), f"{limits[0]:.3g} to {limits[1]:.3g}{unit}"


def _about(value: float) -> Estimate:
    """Return a shear or a stretch with what a lattice of few cells may be off."""
    return Estimate(value, value - _SLANT_ERROR, value + _SLANT_ERROR)


def _dose(image: MeasuredImage, known: TrainingRange):
    """Choose counts in a column, or λ where only that is known."""
    measured = image.measurement
    if is_known(measured.column_counts) and known.column_counts is not None:
        return (
            "a column has {} counts",
            measured.column_counts,
            known.column_counts,
            " counts",
        )
    return "λ is {} counts", measured.poisson_lambda, known.poisson_lambda, " counts"


@lru_cache(maxsize=16)
def _range_of_json(text: str) -> TrainingRange | None:
    try:
        return range_of_set(TrainingSetSettings.model_validate_json(text))
    except (ValidationError, PointDefectsError):
        return None


def _range_of_settings(values: Any) -> TrainingRange | None:
    if not isinstance(values, Mapping) or not values.keys() >= _NAMED:
        return None  # not a simulated set's settings: the defaults would be no one's range
    own = {key: value for key, value in values.items() if key != "program"}
    return _range_of_json(json.dumps(own, sort_keys=True))


def _read(stated: Mapping[str, Any]) -> TrainingRange:
    values = {field.name: stated[field.name] for field in fields(TrainingRange)}
    for name, value in values.items():
        if name == "materials":
            values[name] = tuple(str(v) for v in value)
        elif name == "contrast_ratio":
            values[name] = {str(k): _pair(v) for k, v in value.items()}
        elif value is not None:
            values[name] = _pair(value)
    return TrainingRange(**values)


def _pair(value: Any) -> Range:
    low, high = value
    return float(low), float(high)


def _union(parts: list[TrainingRange]) -> TrainingRange:
    """Return the range that holds all of them; None where one of them is."""
    values: dict[str, Any] = {}
    for field in fields(TrainingRange):
        found = [getattr(part, field.name) for part in parts]
        if field.name == "materials":
            values[field.name] = tuple(dict.fromkeys(name for names in found for name in names))
        elif field.name == "contrast_ratio":
            values[field.name] = {
                name: _hull([ratios[name] for ratios in found if name in ratios])
                for name in dict.fromkeys(name for ratios in found for name in ratios)
            }
        else:
            values[field.name] = None if None in found else _hull(found)
    return TrainingRange(**values)


def _hull(ranges: list[Range]) -> Range:
    return min(low for low, _ in ranges), max(high for _, high in ranges)
