"""Change a few cells of a Points layer in place.

napari works out every point anew when ``data`` or ``features`` is assigned. Here rows are written
into the layer's arrays, which its properties hand out, and the layer is told once.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from napari_point_defects.napari_ui.cell_layers import Marks
from napari_point_defects.napari_ui.cell_tables import centres_px

if TYPE_CHECKING:
    from napari.layers import Points


def cell_ids(layer: Points) -> np.ndarray:
    """Return the ``cell_id`` of every point, shape (N,), int."""
    return layer.features["cell_id"].to_numpy(int)


def rows_of(layer: Points, ids: Sequence[int]) -> np.ndarray:
    """Return the indices of the points with these ids, shape (K,), int; of unknown ones none."""
    return np.flatnonzero(np.isin(cell_ids(layer), np.asarray(ids, int)))


def selected_ids(layer: Points) -> np.ndarray:
    """Return the ``cell_id`` of every selected point, in rising order of the points."""
    rows = np.array(sorted(layer.selected_data), int)
    return cell_ids(layer)[rows[rows < len(layer.data)]]


def write_cells(
    layer: Points,
    drop_ids: Sequence[int],
    rows: pd.DataFrame,
    columns: Sequence[str] | None = None,
) -> None:
    """Remove, replace and append cells by ``cell_id``; their marks are to be shown after.

    Parameters
    ----------
    layer : Points
    drop_ids : sequence of int
        Cells to remove; ids that the layer does not hold are passed over.
    rows : DataFrame
        Tidy rows with ids of their own. A cell that the layer does not hold is appended.
    columns : sequence of str, optional
        The ones in which the rows differ from the layer's; all unless given.
    """
    selected = selected_ids(layer)
    drop = rows_of(layer, np.setdiff1d(drop_ids, rows["cell_id"]))
    if len(drop):
        layer.remove(drop.tolist())
    points = centres_px(rows)
    held = pd.Series(np.arange(len(layer.data)), cell_ids(layer))
    index = held.reindex(rows["cell_id"], fill_value=-1).to_numpy(copy=True)
    fresh = index < 0
    if fresh.any():
        index[fresh] = len(layer.data) + np.arange(fresh.sum())
        layer.add(points[fresh])
    features = layer.features
    for column in columns or features:
        kind = features[column].dtype
        is_class = isinstance(kind, pd.CategoricalDtype)
        values = rows[column].astype(str if is_class else kind).to_numpy()
        features.iloc[index, features.columns.get_loc(column)] = values
    layer.data[index] = points
    if len(drop) or fresh.any():
        layer.selected_data = set(rows_of(layer, selected).tolist())


def show_marks(layer: Points, index: np.ndarray, look: Marks) -> None:
    """Let the points of these rows look like that, and draw them with what is shown."""
    symbol_type = type(layer.current_symbol)  # the arrays hold napari's own names
    symbols = {name: symbol_type(name) for name in set(look.symbol)}
    layer.symbol[index] = np.array([symbols[name] for name in look.symbol], object)
    layer.size[index] = look.size
    layer.border_width[index] = look.border_width
    layer.face_color[index] = look.face_color
    layer.border_color[index] = look.border_color
    layer.refresh(extent=False, thumbnail=False)
