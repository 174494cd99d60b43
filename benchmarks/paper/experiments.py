"""Stand-ins for the paper's experimental images, none of which are public.

Scans over full multislice fields of MoTe₂ (``benchmarks.multislice_fields``), never over the
superposition that training images are made of, with counting and read noise, contamination,
drift and row jitter. Fields are periodic: an image wider than a field shows its defects again.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from benchmarks.accuracy import Truth, column_measures, grey_levels, truth_of
from benchmarks.multislice_fields import load_field
from napari_point_defects.records import StemImage
from napari_point_defects.simulation.scenes import SceneSettings, contamination_field, slow_drift

SEED = 9_900_000
FIELDS = (("MoTe2", 0), ("MoTe2", 1))


@dataclass(frozen=True)
class Conditions:
    """How an experiment is recorded.

    Attributes
    ----------
    counts : float
        Expected counts in a whole X₂ column.
    a_px, angle_deg, shear, stretch
        Of the scan.
    side_a : float
        Side of the image in units of a.
    jitter_a, drift_a : float
        RMS sideways error of a row, and amplitude of slow drift, in a.
    contamination : float
        Mean dirt, share of the brightest column's peak.
    read_noise : float
        In grey levels of 0–255.
    """

    counts: float = 1000.0
    a_px: float = 40.0
    angle_deg: float = 0.0
    shear: float = 0.0
    stretch: float = 0.0
    side_a: float = 14.0
    jitter_a: float = 0.0
    drift_a: float = 0.0
    contamination: float = 0.0
    read_noise: float = 3.0


def drawn(rng: np.random.Generator) -> Conditions:
    """Return conditions as an afternoon at the microscope brings them."""
    return Conditions(
        counts=float(np.exp(rng.uniform(np.log(400), np.log(6000)))),
        a_px=float(rng.uniform(30, 76)),
        angle_deg=float(rng.uniform(-180, 180)),
        shear=float(rng.normal(0, 0.03)),
        stretch=float(rng.normal(0, 0.03)),
        jitter_a=float(rng.uniform(0, 0.03)),
        drift_a=float(rng.uniform(0, 0.1)),
        contamination=float(rng.choice([0.0, rng.uniform(0.05, 0.3)])),
        read_noise=float(rng.uniform(0, 8)),
    )


def record(field, conditions: Conditions, rng: np.random.Generator) -> tuple[StemImage, Truth]:
    """Record one image of a field, and return what is truly in it."""
    side = round(conditions.side_a * conditions.a_px)
    source = float(rng.uniform(0.06, 0.1))
    scene = SceneSettings(
        material=field.material,
        height_px=side,
        width_px=side,
        a_px=conditions.a_px,
        angle_deg=conditions.angle_deg,
        shear=conditions.shear,
        stretch=conditions.stretch,
        drift_a=conditions.drift_a,
        contamination=conditions.contamination,
        contamination_length_nm=float(rng.uniform(0.8, 3)),
    )
    lattice, offset = scene.lattice(), rng.uniform(0, 10, 2)
    bend = slow_drift(scene, rng)
    pixels = np.stack(np.indices((side, side)), axis=-1).astype(float)
    shown = 2 * pixels - bend(pixels)  # a pixel shows what has slid there
    shown[..., 1] += rng.normal(0, conditions.jitter_a * conditions.a_px, side)[:, None]
    clean = field.sample(lattice.to_canonical(shown) + offset, source)
    pair_sum, metal_peak, pair_peak = column_measures(field, source)
    if conditions.contamination:
        clean = clean + max(metal_peak, pair_peak) * contamination_field(scene, rng)
    expected = np.maximum(clean, 0) * conditions.counts * scene.pixel_size_nm**2 / pair_sum
    grey = grey_levels(rng.poisson(expected), expected)
    grey += rng.normal(0, conditions.read_noise, clean.shape)
    data = np.clip(np.rint(grey), 0, 255).astype(np.float32)
    still = truth_of(field, lattice, offset, (side, side))
    moved = {
        name: bend(getattr(still, name)) for name in ("chalcogen_px", "metal_px", "hollows_px")
    }
    return StemImage(data, "experiment"), replace(still, **moved)


def experiments(
    count: int, seed: int, *, fields=FIELDS
) -> Iterator[tuple[StemImage, Truth, Conditions]]:
    """Record so many images, the fields by turns."""
    loaded = [load_field(*name) for name in fields]
    for number in range(count):
        rng = np.random.default_rng([SEED, seed, number])
        conditions = drawn(rng)
        yield *record(loaded[number % len(loaded)], conditions, rng), conditions
