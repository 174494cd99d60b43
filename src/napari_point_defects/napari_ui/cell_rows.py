"""Change a few cells of a Points layer in place.

napari works out every point anew when ``data`` or ``features`` is assigned. Here rows are written
into the layer's arrays, which its properties hand out, and the layer is told once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
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


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What of a layer's points a user can change.

    Attributes
    ----------
    ids : ndarray of shape (N,), int
    arrays : tuple of ndarray of shape (N, ...)
    """

    ids: np.ndarray
    arrays: tuple[np.ndarray, ...]

    def same_as(self, other: Snapshot) -> bool:
        """Tell whether nothing differs."""
        return np.array_equal(self.ids, other.ids) and all(
            np.array_equal(one, two) for one, two in zip(self.arrays, other.arrays, strict=True)
        )

    def gone_since(self, before: Snapshot) -> np.ndarray | None:
        """Tell which points are gone, if that is all that happened; None if there is more."""
        if len(self.ids) >= len(before.ids):
            return None
        stay = np.isin(before.ids, self.ids)
        rest = Snapshot(before.ids[stay], tuple(array[stay] for array in before.arrays))
        return ~stay if self.same_as(rest) else None


def snapshot_of(layer: Points, columns: Sequence[str]) -> Snapshot:
    """Note the points of a layer: their ids, places, and what some columns of classes say."""
    features = layer.features
    codes = [features[name].astype("category").cat.codes for name in columns]
    # copies: the layer's arrays are written in place
    return Snapshot(np.array(cell_ids(layer)), tuple(map(np.array, (*codes, layer.data))))


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
        The ones in which the rows differ from the layer's; all, and the places, unless given.
    """
    selected = selected_ids(layer)
    drop = rows_of(layer, np.setdiff1d(drop_ids, rows["cell_id"]))
    if len(drop):
        layer.remove(drop.tolist())
    points = centres_px(rows)
    index = index_of(cell_ids(layer), rows["cell_id"].to_numpy(int)).copy()
    fresh = index < 0
    if fresh.any():
        columns = None
        index[fresh] = len(layer.data) + np.arange(fresh.sum())
        layer.add(points[fresh])
    features = layer.features
    for column in features if columns is None else columns:
        kind = features[column].dtype
        is_class = isinstance(kind, pd.CategoricalDtype)
        values = rows[column].astype(str if is_class else kind).to_numpy()
        features.iloc[index, features.columns.get_loc(column)] = values
    if columns is None:
        layer.data[index] = points
    if len(drop) or fresh.any():
        select_rows(layer, rows_of(layer, selected))


def set_marks(layer: Points, index: np.ndarray, look: Marks) -> None:
    """Let the points of these rows look like that, as soon as they are drawn."""
    name_symbols(layer)
    layer.symbol[index] = look.symbol
    layer.size[index] = look.size
    layer.border_width[index] = look.border_width
    layer.face_color[index] = look.face_color
    layer.border_color[index] = look.border_color


def name_symbols(layer: Points) -> None:
    """Let the layer hold plain names of symbols.

    napari turns them into members of an enumeration whenever points are made or added, and back
    into names, all of them, at each drawing: a fifth of the time that it takes.
    """
    symbols = layer.symbol
    if not set(map(type, symbols.tolist())) <= {str}:
        symbols[:] = [str(symbol) for symbol in symbols]


def draw(layer: Points) -> None:
    """Draw marks, selection and what is shown: all points at once, whatever changed."""
    layer.refresh(extent=False, thumbnail=False)
