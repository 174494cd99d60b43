"""The twin of an analysed image: simulated with its own probe and noise, and subtracted."""

from __future__ import annotations

from dataclasses import replace

from napari_point_defects.analysis_settings import AnalysisSettings
from napari_point_defects.detections import Detection
from napari_point_defects.image_matching import observe, require_measured
from napari_point_defects.measured import Measurement
from napari_point_defects.records import StemImage, UnitCells
from napari_point_defects.simulation.likeness import match
from napari_point_defects.simulation.presets import PRESETS
from napari_point_defects.simulation.superposition import Blur
from napari_point_defects.simulation.twin import Twin, simulate_twin

_SHAPE = (512, 512)  # of the recipe, whose probe alone is wanted


def twin_of_image(
    image: StemImage,
    detection: Detection,
    cells: UnitCells,
    settings: AnalysisSettings,
    measurement: Measurement | None = None,
) -> Twin:
    """Simulate an analysed image with its measured probe and subtract the two.

    Parameters
    ----------
    image : StemImage
    detection : Detection
    cells : UnitCells
        Classified.
    settings : AnalysisSettings
        Of the analysis.
    measurement : Measurement, optional
        Made now where it is not given.

    Raises
    ------
    PointDefectsError
        If the image could not be measured, or one like it cannot be simulated.
    """
    observed = observe(image, detection, cells, settings, measurement)
    require_measured(observed, f"{image.name} has no twin")
    recipe = match(replace(observed, shape=_SHAPE), base=PRESETS["wide"]).recipe
    scene = recipe.scene
    return simulate_twin(
        image.data,
        cells,
        detection.domain_map,
        observed.material,
        observed.measurement,
        blur=Blur(scene.source_fwhm_nm, scene.tail_fraction, scene.tail_fwhm_nm),
        chalcogen_gain=scene.chalcogen_gain,
        microscope=recipe.microscope,
    )
