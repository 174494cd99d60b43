"""Change a few cells of a Points layer in place.

napari works out every point anew when ``data`` or ``features`` is assigned. Here rows are written
into the layer's arrays, which its properties hand out, and the layer is told once.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from napari_point_defects.labels.tables import rows_of as index_of
from napari_point_defects.napari_ui.cell_layers import Marks
from napari_point_defects.napari_ui.cell_tables import centres_px

if TYPE_CHECKING:
    from napari.layers import Points

_FEW = 8


def cell_ids(layer: Points) -> np.ndarray:
    """Return the ``cell_id`` of every point, shape (N,), int."""
    return layer.features["cell_id"].to_numpy(int)


def rows_of(layer: Points, ids: Sequence[int]) -> np.ndarray:
    """Return the indices of the points with these ids, shape (K,), int; of unknown ones none."""
    held, ids = cell_ids(layer), np.asarray(ids, int)
    # one or two, as after a key, without sorting
    found = np.isin(held, ids) if len(ids) > _FEW else _any_of(held, ids)
    return np.flatnonzero(found)


def _any_of(held: np.ndarray, ids: np.ndarray) -> np.ndarray:
    found = np.zeros(len(held), bool)
    for i in ids:
        found |= held == i
    return found


def selected_ids(layer: Points) -> np.ndarray:
    """Return the ``cell_id`` of every selected point, in rising order of the points."""
    rows = np.array(sorted(layer.selected_data), int)
    return cell_ids(layer)[rows[rows < len(layer.data)]]


def select_rows(layer: Points, rows: Sequence[int]) -> None:
    """Select points of a layer by their indices.

    Assigning ``selected_data`` would also fill napari's controls for the next point with the looks
    and features of these, which takes longer than drawing them. The caller draws the layer anew.
    """
    layer.selected_data.replace_selection({int(row) for row in rows})


def write_cells(
    layer: Points,
    drop_ids: Sequence[int],
    rows: pd.DataFrame,
    columns: Sequence[str] | None = None,
) -> None:
    """Remove, replace and append cells by ``cell_id``; then set their marks and draw.

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
    index = index_of(cell_ids(layer), rows["cell_id"].to_numpy(int)).copy()
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
        select_rows(layer, rows_of(layer, selected))


def set_marks(layer: Points, index: np.ndarray, look: Marks) -> None:
    """Let the points of these rows look like that, as soon as they are drawn."""
    symbol_type = type(layer.current_symbol)  # the arrays hold napari's own names
    symbols = {name: symbol_type(name) for name in set(look.symbol)}
    layer.symbol[index] = np.array([symbols[name] for name in look.symbol], object)
    layer.size[index] = look.size
    layer.border_width[index] = look.border_width
    layer.face_color[index] = look.face_color
    layer.border_color[index] = look.border_color


def draw(layer: Points) -> None:
    """Draw marks, selection and what is shown: all points at once, whatever changed."""
    layer.refresh(extent=False, thumbnail=False)
