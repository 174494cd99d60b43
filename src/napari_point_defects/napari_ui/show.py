"""Open napari on an analysis that is finished: what ``point-defects demo`` ends with."""

from __future__ import annotations

from typing import TYPE_CHECKING

import napari
from napari.layers import Layer

from napari_point_defects.appraisal import quality_of
from napari_point_defects.napari_ui.docks import CLASSIFY, DETECT, open_dock
from napari_point_defects.napari_ui.image_layers import image_layer_data
from napari_point_defects.napari_ui.links import CellsLink

if TYPE_CHECKING:
    from napari_point_defects.analysis_settings import AnalysisSettings
    from napari_point_defects.detections import Analysis


def show_analysis(analysis: Analysis, settings: AnalysisSettings, *, block: bool = True):
    """Open a viewer with the image, its hexagons and cells, and both widgets.

    Parameters
    ----------
    analysis : Analysis
    settings : AnalysisSettings
        What it was made with.
    block : bool
        Run napari until it is closed.

    Returns
    -------
    napari.Viewer
    """
    viewer = napari.Viewer(title=f"{analysis.image.name} – point defects")
    image = viewer.add_layer(Layer.create(*image_layer_data(analysis.image)))
    detect, classify = open_dock(viewer, DETECT), open_dock(viewer, CLASSIFY)
    detect.draw(image.unique_id, analysis.detection, settings)
    quality = quality_of(analysis.image, analysis.detection, analysis.cells, settings)
    link = CellsLink(image.unique_id, analysis.detection, settings, quality=quality)
    classify.draw(analysis.cells, link)
    viewer.layers[1].visible = False  # the boxes would lie across the cells
    if block:
        napari.run()
    return viewer
