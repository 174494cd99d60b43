"""Open an image of a project folder with its hexagons and cells as they stood."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
from napari.layers import Image, Layer
from pydantic import ValidationError

from napari_point_defects.analysis_settings import AnalysisSettings
from napari_point_defects.detections import Detection
from napari_point_defects.errors import PointDefectsError
from napari_point_defects.labels.images import content_hash
from napari_point_defects.labels.store import ImageEntry, LabelStore
from napari_point_defects.labels.tables import CORNER_COLUMNS
from napari_point_defects.materials import get_material
from napari_point_defects.napari_ui.area_layers import draw_area
from napari_point_defects.napari_ui.cell_layers import cells_layer_data
from napari_point_defects.napari_ui.cell_tables import centres_px
from napari_point_defects.napari_ui.hexagon_layers import hexagons_layer_data
from napari_point_defects.napari_ui.image_layers import image_layer_data, placement, stem_image
from napari_point_defects.napari_ui.label_rows import (
    drawn_link,
    living,
    viewer_cells,
    viewer_hexagons,
)
from napari_point_defects.napari_ui.links import (
    CellsLink,
    HexagonsLink,
    own_layer,
    replace_layer,
)
from napari_point_defects.records import Calibration, Hexagons

if TYPE_CHECKING:
    from napari.components import ViewerModel
    from napari.layers import Points


def open_labels(viewer: ViewerModel, store: LabelStore, entry: ImageEntry) -> Points:
    """Show an image of the store with its labels; return the layer of its cells.

    An image that is open already is used, and so are its cells if they are there.

    Raises
    ------
    PointDefectsError
        If the image's file is gone, or the store cannot be read.
    """
    image = _open_image(viewer, store, entry)
    old = own_layer(viewer.layers, image.unique_id, CellsLink)
    if old is not None:
        viewer.layers.selection.active = old
        return old
    material, settings = get_material(entry.material), _settings(entry)
    stored, stored_hexagons = store.cells(entry.id), store.hexagons(entry.id)
    features, corners = viewer_hexagons(living(stored_hexagons))
    detection = Detection(
        entry.lattice,
        Hexagons(corners, features["score"].to_numpy()),
        entry.pixel_size_nm or (material.lattice_constant_nm / entry.lattice.a_px,) * 2,
        entry.pixel_size_source,
        domains=entry.domains,
        area=entry.area,
    )
    draw_area(viewer, image, detection)
    place = placement(image)
    dead = stored_hexagons[(stored_hexagons["state"] == "deleted").to_numpy()]
    link = HexagonsLink(
        image.unique_id,
        detection,
        settings,
        written_ids=features["hexagon_id"].to_numpy(),
        deleted_px=dead[list(CORNER_COLUMNS)].to_numpy().reshape(-1, 4, 2).mean(axis=1),
    )
    boxes = Layer.create(*hexagons_layer_data(link, f"{image.name} hexagons", place, features))
    replace_layer(viewer, own_layer(viewer.layers, image.unique_id, HexagonsLink), boxes)
    boxes.visible = False  # they would lie across the cells

    table = viewer_cells(living(stored), material, unsure_below=settings.unsure_below)
    tombs = stored[(stored["state"] == "deleted").to_numpy()]
    top = int(stored["cell_id"].max()) + 1 if len(stored) else 0
    link = CellsLink(image.unique_id, detection, settings)
    link = drawn_link(link, table, centres_px(tombs), top)
    cells = Layer.create(*cells_layer_data(table, link, f"{image.name} cells", place))
    replace_layer(viewer, None, cells)
    viewer.layers.selection.active = cells
    return cells


def _open_image(viewer: ViewerModel, store: LabelStore, entry: ImageEntry) -> Image:
    """Return the layer that shows the image, opened if need be."""
    for layer in viewer.layers:
        if isinstance(layer, Image) and np.shape(layer.data)[-2:] == entry.shape:
            try:
                if content_hash(stem_image(layer).data) == entry.sha256:
                    return layer
            except PointDefectsError:  # not an image that can be analysed
                continue
    image = store.read_image(entry)
    size = entry.settings.get("image_pixel_size_nm")
    source = entry.settings.get("image_pixel_size_source", "file")
    calibration = Calibration(tuple(size), source) if size else Calibration()
    image = replace(image, calibration=calibration)
    return viewer.add_layer(Layer.create(*image_layer_data(image, entry.name)))


def _settings(entry: ImageEntry) -> AnalysisSettings:
    """Return the settings of the analysis, as far as the store knows them."""
    try:
        values = {**entry.settings.get("analysis", {}), "material": entry.material}
        return AnalysisSettings(**values)
    except (ValidationError, TypeError, AttributeError):  # of another version of the program
        return AnalysisSettings(material=entry.material)
