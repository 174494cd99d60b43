"""A layer of hexagons that is being made: napari takes 0.1 ms for each, a second for 10,000."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from napari.layers import Layer

from napari_point_defects.napari_ui.box_correction import box_correction
from napari_point_defects.napari_ui.hexagon_layers import hexagons_layer_data
from napari_point_defects.napari_ui.image_layers import placement
from napari_point_defects.napari_ui.links import HexagonsLink, own_layer

if TYPE_CHECKING:
    import pandas as pd
    from napari import Viewer
    from napari.layers import Image, Shapes


@dataclass(frozen=True, eq=False)
class DrawingPlan:
    """A layer of hexagons that is to be made, and what it is to replace.

    Attributes
    ----------
    image : Image
    place : dict
        Its placement.
    link : HexagonsLink
    name : str
    features : DataFrame or None
        See :func:`~napari_point_defects.napari_ui.hexagon_layers.hexagons_layer_data`.
    old : Shapes or None
        The layer of the run before.
    seen : DataFrame or None
        Its hexagons, as they were taken over.
    n_homeless : int
        How many of the user's edits have no place in this run.
    """

    image: Image
    place: dict[str, Any]
    link: HexagonsLink
    name: str
    features: pd.DataFrame | None
    old: Shapes | None
    seen: pd.DataFrame | None
    n_homeless: int

    def layer(self) -> Shapes:
        """Make the layer; in any thread, for no viewer has it yet."""
        return Layer.create(*hexagons_layer_data(self.link, self.name, self.place, self.features))

    def is_outdated(self, viewer: Viewer) -> bool:
        """Tell whether the user went on with the image or the layer before meanwhile."""
        now = placement(self.image)
        moved = any(not np.array_equal(now[name], value) for name, value in self.place.items())
        if moved or self.image not in viewer.layers:
            return True
        old = own_layer(viewer.layers, self.link.image_id, HexagonsLink)
        if old is not self.old or old is None:
            return old is not self.old
        editor = box_correction(viewer).editor(old)
        editor.look()
        return editor.seen is not self.seen
