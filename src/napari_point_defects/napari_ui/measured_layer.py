"""What a measurement of an image layer rests on, and the work of measuring."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from napari_point_defects import pipeline
from napari_point_defects.analysis_settings import AnalysisSettings
from napari_point_defects.domains.casting import cast_domains
from napari_point_defects.errors import Stopped
from napari_point_defects.materials import get_material
from napari_point_defects.measured import Measurement
from napari_point_defects.measurement.image import MeasurementDetails, measure_in_detail
from napari_point_defects.napari_ui.hexagon_layers import current_hexagons
from napari_point_defects.napari_ui.image_layers import pixel_size_nm, stem_image
from napari_point_defects.napari_ui.layer_cells import current_cells
from napari_point_defects.napari_ui.links import CellsLink, HexagonsLink, link_of, own_layer
from napari_point_defects.records import Hexagons, StemImage, UnitCells
from napari_point_defects.region_limits import cells_within
from napari_point_defects.training_check import training_warnings

if TYPE_CHECKING:
    from napari import Viewer
    from napari.layers import Image, Layer

    from napari_point_defects.detections import Detection

_DETECTING = 0.6
"""Share of the time that detection takes, where it comes first."""


@dataclass(frozen=True, eq=False, slots=True)
class Basis:
    """What a measurement rests on.

    Attributes
    ----------
    image : Image
        The layer.
    source : Points, Shapes or None
        The layer of its cells, else of its hexagons; None where nothing was detected.
    parts : tuple
        What the measurement would change with.
    """

    image: Image
    source: Layer | None
    parts: tuple

    @property
    def link(self) -> CellsLink | HexagonsLink | None:
        """The link of the detection, if there is one."""
        if self.source is None:
            return None
        return link_of(self.source, CellsLink) or link_of(self.source, HexagonsLink)

    @property
    def is_classified(self) -> bool:
        """Whether the cells are."""
        return self.source is not None and link_of(self.source, CellsLink) is not None

    def same_as(self, other: Basis) -> bool:
        """Tell whether a measurement of the other would find the same."""
        return len(self.parts) == len(other.parts) and all(
            a is b or (isinstance(a, (int, str, tuple)) and a == b)
            for a, b in zip(self.parts, other.parts, strict=True)
        )


@dataclass(frozen=True, slots=True)
class MeasuredLayer:
    """A measurement and all that it came from.

    Attributes
    ----------
    basis : Basis
    image : StemImage
    detection : Detection
    settings : AnalysisSettings
    measurement : Measurement
    details : MeasurementDetails or None
        None where nothing could be measured.
    outside : tuple of str
        What of the image lies outside what the weights learned.
    """

    basis: Basis
    image: StemImage
    detection: Detection
    settings: AnalysisSettings
    measurement: Measurement
    details: MeasurementDetails | None
    outside: tuple[str, ...]

    @property
    def warnings(self) -> tuple[str, ...]:
        """What the user should know, the measurement's remarks first."""
        return (*self.measurement.remarks, *self.detection.warnings)

    @property
    def table(self) -> tuple[Measurement, float, str]:
        """What the table of quantities needs: measurement, pixel width [nm], formula."""
        return self.measurement, self.detection.pixel_size_nm[1], self.settings.material

    @property
    def is_part(self) -> bool:
        """Whether only a part of the image was measured, for it is large."""
        return self.details is not None and self.details.window[1] != self.image.data.shape

    def as_dict(self) -> dict[str, Any]:
        """Return it ready for JSON, as ``point-defects measure`` writes it."""
        return {
            "image": self.image.name,
            "material": self.settings.material,
            "pixel_size_nm": list(self.detection.pixel_size_nm),
            "pixel_size_source": self.detection.pixel_size_source,
            "measurement": self.measurement.as_dict(),
        }


def basis_of(viewer: Viewer, layer: Image, material: str) -> Basis:
    """Say what a measurement of an image layer would rest on now.

    Cells count if they are of the detection that is drawn; else its hexagons do; an image without
    either is detected first, as that material.
    """
    hexagons = own_layer(viewer.layers, layer.unique_id, HexagonsLink)
    cells = own_layer(viewer.layers, layer.unique_id, CellsLink)
    if cells is not None and (hexagons is None or _same_detection(cells, hexagons)):
        labels = pd.util.hash_pandas_object(cells.features["label"], index=False)
        marks = _fingerprint(cells.data), _fingerprint(labels.to_numpy())
        parts = (layer.data, link_of(cells, CellsLink).detection, *marks)
        return Basis(layer, cells, parts)
    if hexagons is not None:
        shapes = [np.ravel(shape) for shape in hexagons.data]
        mark = _fingerprint(np.concatenate(shapes) if shapes else np.empty(0))
        return Basis(layer, hexagons, (layer.data, link_of(hexagons, HexagonsLink).detection, mark))
    return Basis(layer, None, (layer.data, material, pixel_size_nm(layer) or ()))


def measuring(basis: Basis, material: str) -> Callable[..., MeasuredLayer]:
    """Return the work of measuring, to be done in the background.

    Raises
    ------
    PointDefectsError
        If the layer is no image that can be analysed.
    """
    image = stem_image(basis.image)
    if basis.source is None:
        settings = AnalysisSettings(material=material)

        def detect_first(on_progress: Any, should_stop: Any) -> MeasuredLayer:
            detection = pipeline.detect(
                image,
                settings,
                on_progress=lambda share, text: on_progress(_DETECTING * share, text),
                should_stop=should_stop,
            )
            on_progress(_DETECTING, "Measuring")
            cells = _cast(detection.hexagons, detection, settings, image)
            return _measured(basis, image, detection, cells, settings, should_stop)

        return detect_first
    link = basis.link
    detection, settings = link.detection, link.settings
    if basis.is_classified:
        cells = current_cells(basis.source)
    else:
        scores = basis.source.features["score"].to_numpy()
        hexagons = current_hexagons(basis.source.data, scores, link)
        cells = None

    def work(on_progress: Any, should_stop: Any) -> MeasuredLayer:
        on_progress(0.1, "Measuring")
        found = cells if cells is not None else _cast(hexagons, detection, settings, image)
        return _measured(basis, image, detection, found, settings, should_stop)

    return work


def _measured(
    basis: Basis,
    image: StemImage,
    detection: Detection,
    cells: UnitCells,
    settings: AnalysisSettings,
    should_stop: Callable[[], bool],
) -> MeasuredLayer:
    if should_stop():
        raise Stopped
    found, details = measure_in_detail(
        image.data,
        detection.lattice,
        detection.in_main_domain(cells),
        get_material(settings.material),
        detection.pixel_size_nm,
    )
    outside = training_warnings(found, detection, image.data.shape, settings)
    return MeasuredLayer(basis, image, detection, settings, found, details, outside)


def _cast(
    hexagons: Hexagons, detection: Detection, settings: AnalysisSettings, image: StemImage
) -> UnitCells:
    """Return the cells of hexagons, not classified."""
    cells = cast_domains(hexagons, detection.domain_map, image.data.shape)
    return cells_within(cells, settings.region)


def _same_detection(cells: Layer, hexagons: Layer) -> bool:
    """Tell whether cells were cut from hexagons of that detection, not of one before."""
    one, other = link_of(cells, CellsLink), link_of(hexagons, HexagonsLink)
    a, b = one.detection.lattice, other.detection.lattice
    return one.settings.material == other.settings.material and (
        a is b
        or (np.array_equal(a.matrix_px, b.matrix_px) and np.array_equal(a.origin_px, b.origin_px))
    )


def _fingerprint(values: np.ndarray) -> int:
    return zlib.crc32(np.ascontiguousarray(values).view(np.uint8).data)
