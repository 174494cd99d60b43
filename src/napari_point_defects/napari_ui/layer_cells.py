"""What a Points layer of unit cells holds, and what its link must know of it."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from napari_point_defects.materials import get_material
from napari_point_defects.napari_ui.cell_tables import cells_of_table, centres_px, tidy
from napari_point_defects.napari_ui.corrections import Corrections, find_corrections
from napari_point_defects.napari_ui.links import KEY, CellsLink, link_of

if TYPE_CHECKING:
    from napari.layers import Points

    from napari_point_defects.records import UnitCells


def current_table(layer: Points) -> pd.DataFrame:
    """Return the tidy table of a layer's cells as they stand."""
    link = link_of(layer, CellsLink)
    table = tidy(layer.features, layer.data, link.detection.domain_map, link.next_id)
    labels = get_material(link.settings.material).class_labels
    kind = pd.CategoricalDtype(labels)
    for column in ("label", "predicted"):  # napari's own edits lose the type
        if table[column].dtype != kind:
            table[column] = pd.Categorical(table[column].astype(str), labels)
    return table


def current_cells(layer: Points) -> UnitCells:
    """Return a layer's cells as they stand."""
    material = get_material(link_of(layer, CellsLink).settings.material)
    return cells_of_table(current_table(layer), material)


def note_cells(layer: Points, table: pd.DataFrame) -> None:
    """Let the layer's link know every id used, and every cell whose loss is a deletion."""
    link, ids = link_of(layer, CellsLink), table["cell_id"].to_numpy(int)
    next_id = max(link.next_id, int(ids.max(initial=-1)) + 1)
    late = ~np.isin(ids, link.written_ids) & (table["state"] != "added").to_numpy()
    if next_id == link.next_id and not late.any():
        return
    layer.metadata[KEY] = replace(
        link,
        next_id=next_id,
        written_ids=np.concatenate([link.written_ids, ids[late]]),
        written_px=np.concatenate([link.written_px, centres_px(table[late])]),
    )


def layer_corrections(layer: Points) -> Corrections:
    """Return what the user decided since, and before, the layer was drawn."""
    link = link_of(layer, CellsLink)
    return find_corrections(
        current_table(layer),
        written_ids=link.written_ids,
        written_px=link.written_px,
        deleted_px=link.deleted_px,
        next_id=link.next_id,
    )
