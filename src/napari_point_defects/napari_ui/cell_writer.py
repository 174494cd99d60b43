"""Write changes into a Points layer of cells, in place and without a step in the history."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from napari_point_defects.napari_ui.cell_tables import centres_px

if TYPE_CHECKING:
    from napari.layers import Points


def apply_cells(layer: Points, drop_ids: Sequence[int], rows: pd.DataFrame) -> None:
    """Remove and add cells by ``cell_id``.

    Parameters
    ----------
    layer : Points
    drop_ids : sequence of int
        Cells to remove; unknown ids are passed over.
    rows : DataFrame
        Tidy rows to add; a cell with the same id is replaced.
    """
    ids = layer.features["cell_id"].to_numpy(int)
    drop = np.flatnonzero(np.isin(ids, [*drop_ids, *rows["cell_id"]]))
    selected = ids[sorted(layer.selected_data)]
    if len(drop):
        layer.remove(drop.tolist())
    n = len(layer.data)
    if len(rows):
        layer.add(centres_px(rows))
        features = layer.features
        for column in features:
            values = rows[column]
            if isinstance(values.dtype, pd.CategoricalDtype):
                values = values.astype(str)
            features.loc[features.index[n:], column] = values.to_numpy()
    kept = np.isin(layer.features["cell_id"].to_numpy(int), selected)
    layer.selected_data = set(np.flatnonzero(kept).tolist())  # napari selects what is added
