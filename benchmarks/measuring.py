"""Measured against known: noise, probe, scan, contamination and contrast of simulated images.

python -m benchmarks.measuring        # writes benchmarks/results/measuring.json, 2 minutes

Four sets of images, apart from any training: ``noise`` varies dose, read noise, bit depth, material
and magnification alone; ``scan`` adds jitter, shear and stretch; ``dirt`` adds contamination and a
probe tail to the noise; ``everything`` varies all at once, with drift and vacuum.
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.special import j0

from napari_point_defects.errors import PointDefectsError
from napari_point_defects.lattice import find_lattice
from napari_point_defects.materials import LATTICE_VECTORS, MATERIALS, get_material
from napari_point_defects.measured import Measurement
from napari_point_defects.measurement.image import measure_image
from napari_point_defects.records import Lattice, UnitCells
from napari_point_defects.simulation.columns import load_columns
from napari_point_defects.simulation.noise import NoiseSettings, add_noise
from napari_point_defects.simulation.scenes import Scene, SceneSettings, make_scene
from napari_point_defects.simulation.superposition import column_transforms

RESULTS = Path(__file__).parent / "results"
SEED = 9_830_000
PER_SET = 32
SETS = ("noise", "scan", "dirt", "everything")
TOLERANCE = {
    "poisson_lambda": 0.10,
    "column_counts": 0.10,
    "read_noise": 0.10,
    "probe_fwhm_nm": 0.05,
    "jitter_px": 0.10,
    "shear": 0.10,
    "contamination": 0.25,
    "contamination_length_nm": 0.25,
    "contrast_ratio": 0.10,
}
"""Relative error that is asked for; the issue gives none for dirt and contrast."""


@dataclass(frozen=True)
class Case:
    """An image and what it was made with."""

    image: np.ndarray
    scene: Scene
    settings: SceneSettings
    noise: NoiseSettings
    cells: UnitCells

    @property
    def levels_per_count(self) -> float:
        """Gain as ``add_noise`` sets it: brightest column and its noise at white."""
        brightest = self.scene.brightest_peak / self.scene.peak
        counts = self.noise.poisson_lambda
        brightest += 3 * np.sqrt(brightest / counts) + 2 / counts
        return (255 - self.noise.black_level) / brightest / counts * self._scale

    @property
    def _scale(self) -> float:
        return (2**self.noise.bits - 1) / 255

    def truth(self) -> dict[str, float]:
        """Return what a measurement should find; 0 or NaN where there is nothing to find."""
        settings, noise = self.settings, self.noise
        dirty = settings.contamination > 0
        return {
            "poisson_lambda": noise.poisson_lambda,
            "column_counts": noise.poisson_lambda * self.scene.pair_volume_px / self.scene.peak,
            "counts_per_level": 1 / self.levels_per_count,
            "read_noise": noise.gaussian_mu * self._scale,
            "offset": noise.black_level * self._scale,
            "probe_fwhm_nm": column_fwhm_nm(settings),
            "jitter_px": settings.jitter_a * settings.a_px,
            # slow drift adds a shear and a stretch of its own
            "shear": np.nan if settings.drift_a else settings.shear,
            "stretch": np.nan if settings.drift_a else settings.stretch,
            "contamination": settings.contamination,
            "contamination_length_nm": settings.contamination_length_nm if dirty else np.nan,
            "contrast_ratio": column_ratio(settings),
        }


def _transforms(settings: SceneSettings, k: np.ndarray) -> dict[str, np.ndarray]:
    columns = load_columns(get_material(settings.material))
    return {n: t(k) for n, t in column_transforms(columns, float(k.max())).items()}


def column_fwhm_nm(settings: SceneSettings) -> float:
    """Width at half maximum of one rendered column: the mean of X₂ and M, which differ by < 1 %."""
    k, radius = np.linspace(0, 25, 800), np.linspace(0, 0.3, 301)

    def blur(fwhm: float) -> np.ndarray:
        return np.exp(-2 * (np.pi * fwhm / np.sqrt(8 * np.log(2)) * k) ** 2)

    share = settings.tail_fraction
    both = (1 - share) * blur(settings.source_fwhm_nm) + share * blur(settings.tail_fwhm_nm)
    kernel = j0(2 * np.pi * np.outer(radius, k)) * k
    transforms = _transforms(settings, k)
    widths = []
    for name in ("metal", "chalcogen_pair"):
        curve = kernel @ (transforms[name] * both)
        widths.append(2 * np.interp(-0.5, -curve / curve[0], radius))
    return float(np.mean(widths))


def column_ratio(settings: SceneSettings) -> float:
    """Integrated X₂ over M."""
    at_zero = _transforms(settings, np.linspace(0, 1, 2))
    ratio = at_zero["chalcogen_pair"][0] / at_zero["metal"][0]
    return float(ratio * settings.chalcogen_gain)


def make_case(settings: SceneSettings, noise: NoiseSettings, seed: int | list[int]) -> Case:
    """Make an image with classified cells."""
    rng = np.random.default_rng(seed)
    scene = make_scene(settings, rng)
    image = add_noise(scene, noise, rng).astype(np.float32)
    known = np.eye(6)[scene.classes]
    votes = np.full(len(known), 2)
    cells = UnitCells(scene.chalcogen_px, scene.metal_px, votes, known)
    return Case(image, scene, settings, noise, cells)


def draw_case(kind: str, index: int) -> Case:
    """Draw one image of a set."""
    rng = np.random.default_rng([SEED, SETS.index(kind), index])
    scan, dirt = kind in ("scan", "everything"), kind in ("dirt", "everything")
    settings = SceneSettings(
        material=str(rng.choice(list(MATERIALS))),
        a_px=float(np.exp(rng.uniform(*np.log((12, 40))))),
        angle_deg=float(rng.uniform(-180, 180)),
        source_fwhm_nm=float(rng.uniform(0.05, 0.12)),
        shear=float(rng.uniform(0.02, 0.1) * rng.choice([-1, 1])) if scan else 0.0,
        stretch=float(rng.uniform(-0.1, 0.1)) if scan else 0.0,
        jitter_a=float(rng.uniform(0.01, 0.04)) if scan else 0.0,
        drift_a=0.1 if kind == "everything" else 0.0,
        vacuum="edge" if kind == "everything" and index % 2 else "none",
        tail_fraction=float(rng.uniform(0, 0.25)) if dirt else 0.0,
        tail_fwhm_nm=float(rng.uniform(0.2, 0.35)),
        contamination=float(rng.uniform(0.05, 0.4)) if dirt else 0.0,
        contamination_length_nm=float(rng.uniform(0.6, 2.0)),
    )
    noise = NoiseSettings(
        poisson_lambda=float(np.exp(rng.uniform(*np.log((3, 100))))),
        gaussian_mu=float(rng.uniform(2, 25)),
        bits=int(rng.choice([8, 16])),
    )
    return make_case(settings, noise, [SEED, SETS.index(kind), index, 1])


def lattice_of(case: Case) -> Lattice | None:
    """Find the lattice as an analysis would; None where X, M and hollow are mistaken."""
    try:
        found = find_lattice(case.image, get_material(case.settings.material))
    except PointDefectsError:
        return None
    sites = found.to_canonical(case.cells.chalcogen_px) @ np.linalg.inv(LATTICE_VECTORS)
    off = sites - 2 / 3 - np.rint(sites - 2 / 3)
    return found if np.median(np.abs(off)) < 0.1 else None


def measure_case(case: Case) -> tuple[Measurement, float]:
    """Measure an image on the lattice found in it; the time is the processor's [s]."""
    lattice = lattice_of(case) or case.scene.lattice
    size = (case.settings.pixel_size_nm,) * 2
    start = time.process_time()
    material = get_material(case.settings.material)
    found = measure_image(case.image, lattice, case.cells, material, size)
    return found, time.process_time() - start


def compare(kind: str) -> dict:
    """Measure all images of a set."""
    errors: dict[str, list[float]] = {}
    covered: dict[str, list[bool]] = {}
    seconds, rows = [], []
    for index in range(PER_SET):
        case = draw_case(kind, index)
        measured, spent = measure_case(case)
        seconds.append(spent)
        row = {"settings": {"lambda": case.noise.poisson_lambda, "mu": case.noise.gaussian_mu}}
        for name, true in case.truth().items():
            estimate = getattr(measured, name)
            if not true or np.isnan(true):
                continue
            error = estimate.value / true - 1
            errors.setdefault(name, []).append(abs(error))
            covered.setdefault(name, []).append(estimate.low <= true <= estimate.high)
            row[name] = round(error, 4)
        rows.append(row)
    return {
        "images": PER_SET,
        "seconds_per_image": round(float(np.median(seconds)), 2),
        "quantities": {name: _summary(name, e, covered[name]) for name, e in errors.items()},
        "relative_errors": rows,
    }


def _summary(name: str, errors: list[float], covered: list[bool]) -> dict:
    # what was not measured counts as wrong
    values = np.nan_to_num(np.array(errors), nan=np.inf)
    summary = {
        "images": len(values),
        "median": round(float(np.median(values)), 4),
        "percentile_90": round(float(np.percentile(values, 90, method="higher")), 4),
        "covered_by_interval": round(float(np.mean(covered)), 3),
    }
    if name in TOLERANCE:
        summary["tolerance"] = TOLERANCE[name]
        summary["within_tolerance"] = round(float(np.mean(values <= TOLERANCE[name])), 3)
    return summary


def main() -> None:
    report = {"command": "python -m benchmarks.measuring", "seed": SEED}
    report |= {kind: compare(kind) for kind in SETS}
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "measuring.json").write_text(json.dumps(report, indent=1) + "\n")
    for kind in SETS:
        print(kind, report[kind]["seconds_per_image"], "s")
        for name, row in report[kind]["quantities"].items():
            print(f"  {name:24s}", row)


if __name__ == "__main__":
    main()
