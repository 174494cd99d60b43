"""Training images for the comparisons: one generator, only the noise differs.

By superposition, seeds apart from those of the experiments: what the networks of this program and
those they are compared with learn here is the same.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from napari_point_defects.simulation.images import simulate_image
from napari_point_defects.simulation.presets import TrainingSetSettings
from napari_point_defects.training_set import LabelledImage

SEED = 9_970_000


@dataclass(frozen=True)
class Noise:
    """The paper's two parameters: λ as a range, 0 for none, and μ."""

    poisson_lambda: tuple[float, float] = (5.0, 20.0)
    gaussian_mu: float = 20.0


def training_images(count: int, noise: Noise, seed: int) -> Iterator[LabelledImage]:
    """Simulate MoTe₂ at 30–76 px per a, a third of its cells defective, all classes alike."""
    settings = TrainingSetSettings(
        materials=("MoTe2",),
        side_a=10.0,
        a_px=(30.0, 76.0),
        shear=(-0.05, 0.05),
        stretch=(-0.05, 0.05),
        drift_a=(0.0, 0.05),
        jitter_a=(0.0, 0.02),
        source_fwhm_nm=(0.06, 0.1),
        tail_fraction=(0.0, 0.0),
        defocus_nm=(0.0, 0.0),
        astigmatism_nm=(0.0, 0.0),
        chalcogen_gain_sigma=0.05,
        contamination_share=0.0,
        vacuum_share=0.0,
        defect_rate=(0.33, 0.33),
        class_mix=(1.0, 1.0, 1.0, 1.0, 1.0),
        column_counts=None,
        poisson_lambda=noise.poisson_lambda,
        gaussian_mu=(noise.gaussian_mu, noise.gaussian_mu),
        gaussian_share=1.0,
        bits=(8,),
        seed=SEED + seed,
    )
    for index in range(count):
        yield simulate_image(settings, 0, index)
