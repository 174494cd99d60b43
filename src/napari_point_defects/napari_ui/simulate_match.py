"""*Match this image*: what the viewer knows of an image, and the work that sets the simulator."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from napari_point_defects.analysis_settings import AnalysisSettings
from napari_point_defects.image_matching import (
    ImageMatch,
    analyze_and_match,
    match_image,
    observe,
)
from napari_point_defects.napari_ui.image_layers import stem_image
from napari_point_defects.napari_ui.layer_cells import current_cells
from napari_point_defects.napari_ui.links import CellsLink, HexagonsLink, link_of, own_layer
from napari_point_defects.training_check import outside_training

if TYPE_CHECKING:
    from napari import Viewer
    from napari.layers import Layer

    from napari_point_defects.simulation.presets import TrainingSetSettings


@dataclass(frozen=True, slots=True)
class Matched:
    """A match, and how the weights of an analysis stand to it.

    Attributes
    ----------
    match : ImageMatch
    settings : AnalysisSettings
        Name the weights.
    outside : tuple of str
        What of the image lies outside what they were trained on.
    """

    match: ImageMatch
    settings: AnalysisSettings
    outside: tuple[str, ...]


def match_work(viewer: Viewer, layer: Layer, base: TrainingSetSettings) -> Callable[..., Matched]:
    """Return the work of matching an image, to be done in the background.

    Cells that are in the viewer, corrected or not, are taken as they stand; without any the image
    is analysed first, as the material that its hexagons or else the settings name.

    Parameters
    ----------
    viewer : napari.Viewer
    layer : napari.layers.Image
    base : TrainingSetSettings
        What the image does not tell stays as it is here.

    Raises
    ------
    PointDefectsError
        If the layer is no image that can be analysed.
    """
    image = stem_image(layer)
    cells_layer = own_layer(viewer.layers, layer.unique_id, CellsLink)
    if cells_layer is not None:
        link = link_of(cells_layer, CellsLink)
        settings, detection = link.settings, link.detection
        cells = current_cells(cells_layer)

        def work(on_progress: Any, should_stop: Any) -> Matched:
            on_progress(0.0, "measuring")
            observed = observe(image, detection, cells, settings)
            on_progress(0.7, "simulating a likeness")
            return _matched(match_image(image, observed, base=base), settings)

        return work
    hexagons = own_layer(viewer.layers, layer.unique_id, HexagonsLink)
    if hexagons is not None:
        settings = link_of(hexagons, HexagonsLink).settings
    else:
        settings = AnalysisSettings(material=base.materials[0])

    def analyse(on_progress: Any, should_stop: Any) -> Matched:
        found = analyze_and_match(
            image, settings, base=base, on_progress=on_progress, should_stop=should_stop
        )
        return _matched(found, settings)

    return analyse


def _matched(found: ImageMatch, settings: AnalysisSettings) -> Matched:
    return Matched(found, settings, outside_training(found.observed, settings))
