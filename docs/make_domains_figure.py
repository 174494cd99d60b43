"""Make the picture of ``docs/domains.md``: simulated specimens and what the analysis makes of them.

::

    python docs/make_domains_figure.py
"""

from __future__ import annotations

from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import PolyCollection
from matplotlib.colors import to_rgb
from matplotlib.patches import Patch

from napari_point_defects.analysed_area import (
    AREA_COLOURS,
    AREA_NAMES,
    DOMAIN_COLOURS,
    FIRST_CODE,
)
from napari_point_defects.analysis_settings import AnalysisSettings
from napari_point_defects.detections import Analysis
from napari_point_defects.materials import CLASS_COLOURS, DefectClass, get_material
from napari_point_defects.outputs import cell_outlines_px
from napari_point_defects.pipeline import analyze
from napari_point_defects.records import StemImage
from napari_point_defects.simulation.noise import NoiseSettings, add_noise
from napari_point_defects.simulation.scenes import SceneSettings
from napari_point_defects.simulation.specimens import PatchSettings, make_specimen

PICTURE = Path(__file__).parent / "images" / "domains.jpg"
MATERIAL = "MoTe2"
COUNTS = 200.0  # in a whole X₂ column
SPECIMENS = {
    "mirror twin boundary": PatchSettings(
        kind="twin", outline="half", direction_deg=20.0, shift_a=(0.2, 0.1)
    ),
    "torn edge": PatchSettings(
        kind="vacuum", outline="half", centre=(0.62, 0.5), direction_deg=70.0
    ),
    "bilayer island": PatchSettings(kind="bilayer", stacking="AB", radius=0.26),
}
SCENE = SceneSettings(
    material=MATERIAL,
    height_px=400,
    width_px=400,
    a_px=18.0,
    angle_deg=12.0,
    contamination=0.1,
    defect_rates=(0.06, 0.015, 0.015, 0.0, 0.0),
)


def analysed(name: str, patch: PatchSettings, seed: int) -> Analysis:
    """Simulate a specimen and analyse its image."""
    rng = np.random.default_rng(seed)
    scene = make_specimen(SCENE, (patch,), rng).scene
    noise = NoiseSettings.for_column_counts(scene, COUNTS)
    image = StemImage(add_noise(scene, noise, rng).astype(np.float32), name)
    return analyze(image, AnalysisSettings(material=MATERIAL))


def show(axes: Axes, analysis: Analysis) -> None:
    """Draw an image in grey."""
    data = analysis.image.data
    low, high = np.percentile(data, (1, 99.5))
    axes.imshow(data, cmap="gray", vmin=low, vmax=high, interpolation="bilinear")
    axes.set_axis_off()
    axes.autoscale(False)


def mark(axes: Axes, analysis: Analysis, *, domains: bool = True) -> set[int]:
    """Draw domains, what was left out and the cells over an image; return the codes drawn."""
    where, cells = analysis.detection.domain_map, analysis.cells
    labels = where.area.to_pixels()
    tint = np.zeros((*labels.shape, 4))
    for label in np.unique(labels):
        left_out = label >= FIRST_CODE
        colour = AREA_COLOURS[label] if left_out else DOMAIN_COLOURS[label - 1]
        tint[labels == label] = (*to_rgb(colour), 0.15 if left_out else 0.35 * domains)
        if left_out:
            areas = axes.contourf(labels == label, [0.5, 1.5], colors="none", hatches=["////"])
            areas.set(edgecolor=colour, linewidth=0)
    axes.imshow(tint, interpolation="nearest")
    outlines = cell_outlines_px(cells, where)[..., ::-1]
    defective = cells.classes != DefectClass.PERFECT
    axes.add_collection(
        PolyCollection(outlines[~defective], facecolor="none", edgecolor="white", lw=0.3, alpha=0.6)
    )
    colours = [CLASS_COLOURS[DefectClass(c)] for c in cells.classes[defective]]
    for colour, width in (("black", 2.4), (colours, 1.3)):
        axes.add_collection(
            PolyCollection(outlines[defective], facecolor="none", edgecolor=colour, lw=width)
        )
    return set(labels[labels >= FIRST_CODE].tolist())


def main() -> None:
    """Write the picture."""
    figure, axes = plt.subplots(2, len(SPECIMENS), figsize=(9, 6.9), dpi=150)
    codes: set[int] = set()
    classes: set[int] = set()
    for column, (name, patch) in enumerate(SPECIMENS.items()):
        analysis = analysed(name, patch, seed=column)
        for row in (0, 1):
            show(axes[row, column], analysis)
        codes |= mark(axes[1, column], analysis)
        classes |= set(analysis.cells.classes.tolist())
        axes[0, column].set_title(name, fontsize=12)
        shares = analysis.detection.area.shares()
        print(name, {key: f"{share:.1%}" for key, share in shares.items()}, len(analysis.cells))
    domains = [Patch(color=DOMAIN_COLOURS[n], label=("crystal", "its twin")[n]) for n in (0, 1)]
    left_out = [
        Patch(fc="none", ec=AREA_COLOURS[code], hatch="/////", lw=0, label=AREA_NAMES[code])
        for code in sorted(codes)
    ]
    names = get_material(MATERIAL).class_labels
    defects = [
        Patch(fc="none", ec=CLASS_COLOURS[DefectClass(c)], lw=1.8, label=names[c])
        for c in sorted(classes - {DefectClass.PERFECT})
    ]
    figure.legend(
        handles=domains + left_out + defects,
        loc="lower center",
        ncols=len(domains + left_out),
        fontsize=11,
        frameon=False,
    )
    figure.subplots_adjust(0.005, 0.09, 0.995, 0.955, wspace=0.015, hspace=0.015)
    figure.savefig(PICTURE, pil_kwargs={"quality": 60, "optimize": True})
    print(f"{PICTURE.name}: {PICTURE.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
