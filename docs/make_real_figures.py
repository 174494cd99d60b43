"""Make the pictures of ``docs/gallery.md``: real images and what the analysis makes of them.

::

    python docs/make_real_figures.py FOLDER

``FOLDER`` holds ``MoS2_Se_implanted`` and ``MoS2_MOCVD``, whose files the page names. Nothing of
them becomes part of the project but the pictures.
"""

from __future__ import annotations

import sys
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from make_domains_figure import mark, show
from matplotlib.patches import Patch

from napari_point_defects.analysed_area import AREA_COLOURS, AREA_NAMES
from napari_point_defects.analysis_settings import AnalysisSettings
from napari_point_defects.appraisal import census_of
from napari_point_defects.detections import Analysis
from napari_point_defects.io import read_image
from napari_point_defects.materials import CLASS_COLOURS, DefectClass, get_material
from napari_point_defects.pipeline import analyze

IMAGES = Path(__file__).parent / "images"
PICTURES = {
    "MoS2_Se_implanted": ("MoS2_Se_implanted/example_Se_implanted_MoS2.dm3",),
    "MoS2_MOCVD": tuple(
        f"MoS2_MOCVD/MoS2_stem_Exp-{name}.npy" for name in ("000-2", "001-5", "002-5")
    ),
}
MATERIAL = "MoS2"


def told(analysis: Analysis, settings: AnalysisSettings) -> None:
    """Print what the page says of an image."""
    census = census_of(analysis.image, analysis.detection, analysis.cells, settings)
    lattice = analysis.detection.lattice
    print(f"{analysis.image.name}: {len(analysis.cells)} cells, a = {lattice.a_px:.1f} px")
    for line in analysis.detection.warnings:
        print("  warning:", line)
    print("  ", {label: found["count"] for label, found in census["classes"].items()})
    print("  ", {name: f"{v['value']:.3g}" for name, v in census["quality"]["figures"].items()})


def main() -> None:
    """Write the pictures."""
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    settings = AnalysisSettings(material=MATERIAL)
    names = get_material(MATERIAL).class_labels
    for picture, files in PICTURES.items():
        size = 8.0 if len(files) == 1 else 4.4
        figure, axes = plt.subplots(
            len(files), 2, figsize=(2 * size, len(files) * size), squeeze=False, dpi=110
        )
        codes: set[int] = set()
        classes: set[int] = set()
        for (plain, marked), file in zip(axes, files, strict=True):
            analysis = analyze(read_image(Path(sys.argv[1]) / file), settings)
            told(analysis, settings)
            show(plain, analysis)
            show(marked, analysis)
            codes |= mark(marked, analysis, domains=False)
            classes |= set(analysis.cells.classes.tolist())
        handles = [
            Patch(fc="none", ec=CLASS_COLOURS[DefectClass(c)], lw=1.8, label=names[c])
            for c in sorted(classes - {DefectClass.PERFECT})
        ]
        handles += [
            Patch(fc="none", ec=AREA_COLOURS[code], hatch="/////", lw=0, label=AREA_NAMES[code])
            for code in sorted(codes)
        ]
        legend = 0.4 / (len(files) * size)
        figure.legend(handles=handles, loc="lower center", ncols=6, fontsize=11, frameon=False)
        figure.subplots_adjust(0.003, legend, 0.997, 0.997, wspace=0.01, hspace=0.01)
        path = IMAGES / f"{picture}.jpg"
        figure.savefig(path, pil_kwargs={"quality": 60, "optimize": True})
        print(f"{path.name}: {path.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
