"""Layers <-> rows of the label store. Pure: touches no viewer.

The viewer's tables name classes and know no deleted rows; the store's have codes and tombstones.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from napari_point_defects.json_files import read_json
from napari_point_defects.labels.tables import (
    CELLS,
    CORNER_COLUMNS,
    HEXAGONS,
    complete,
    rows_of,
    to_named,
)
from napari_point_defects.matching import SAME_PLACE_A, nearest
from napari_point_defects.materials import Material
from napari_point_defects.napari_ui import cell_tables, hexagon_tables
from napari_point_defects.napari_ui.cell_tables import centres_px
from napari_point_defects.napari_ui.corrections import (
    Corrections,
    apply_corrections,
)
from napari_point_defects.napari_ui.links import CellsLink
from napari_point_defects.review import UNSURE_BELOW, is_unsure
from napari_point_defects.weights import SHIPPED, version_of

if TYPE_CHECKING:
    from napari_point_defects.analysis_settings import AnalysisSettings
    from napari_point_defects.records import Calibration

_CORNERS = dict(zip(hexagon_tables.CORNER_COLUMNS, CORNER_COLUMNS, strict=True))

_KEPT_SETTINGS = (
    "material",
    "trust_pixel_size",
    "sublattice_rank",
    "region",
    "alpha",
    "beta",
    "min_score",
    "unsure_below",
)
"""Settings that mean the same on every computer; paths of weights do not."""


def living(stored: pd.DataFrame) -> pd.DataFrame:
    """Return the rows that are not deleted."""
    return stored[(stored["state"] != "deleted").to_numpy()].reset_index(drop=True)


def viewer_cells(
    stored: pd.DataFrame, material: Material, *, unsure_below: float = UNSURE_BELOW
) -> pd.DataFrame:
    """Turn rows of the store, none deleted, into the viewer's table of cells."""
    table = to_named(stored, material)
    probabilities = table[[f"p_{label}" for label in material.class_labels]].to_numpy(float)
    table["unsure"] = is_unsure(probabilities, unsure_below)
    table["domain"] = 0  # the store knows places; the layer finds out
    table["state"] = pd.Categorical(table["state"].astype(object), cell_tables.STATES)
    nothing = cell_tables.new_row(material)
    return table[list(nothing)].reset_index(drop=True)


def viewer_hexagons(stored: pd.DataFrame) -> tuple[pd.DataFrame, np.ndarray]:
    """Turn rows of the store, none deleted, into a layer's features and corners (N, 4, 2)."""
    features = hexagon_tables.hexagon_features(
        stored["score"].to_numpy(),
        stored["hexagon_id"].to_numpy(),
        stored["state"].astype(object).to_list(),
    )
    return features, stored[list(CORNER_COLUMNS)].to_numpy().reshape(-1, 4, 2)


def store_hexagons(table: pd.DataFrame, before: pd.DataFrame) -> pd.DataFrame:
    """Turn the viewer's table of hexagons into the store's.

    Corners that differ from the stored ones by no more than napari's 32-bit floats do are the
    stored ones.
    """
    table = complete(table.rename(columns=_CORNERS), HEXAGONS)
    rows = rows_of(before["hexagon_id"].to_numpy(), table["hexagon_id"].to_numpy())
    known, columns = rows >= 0, list(CORNER_COLUMNS)
    corners = table[columns].to_numpy(copy=True)
    old = before[columns].to_numpy()[rows[known]]
    same = np.abs(corners[known] - old) <= hexagon_tables.UNCHANGED_PX
    corners[known] = np.where(same, old, corners[known])
    table[columns] = corners
    return table


def stored_box_edits(
    table: pd.DataFrame, stored: pd.DataFrame, a_px: float
) -> tuple[np.ndarray, pd.DataFrame]:
    """Return what the store's edits of hexagons change in a fresh detection.

    Parameters
    ----------
    table : DataFrame
        The viewer's table of the hexagons just detected.
    stored : DataFrame
        Rows of the store.
    a_px : float

    Returns
    -------
    drop_ids : ndarray of int
        Hexagons that the user had deleted.
    rows : DataFrame
        Hexagons that the user had drawn or moved, under the id of the detected one they stand
        for, or ``NEW_ID``.
    """
    found_px = hexagon_tables.corners_px(table).mean(axis=1)
    middles = stored[list(CORNER_COLUMNS)].to_numpy().reshape(-1, 4, 2).mean(axis=1)
    ids = table["hexagon_id"].to_numpy(int)
    dead = (stored["state"] == "deleted").to_numpy()
    gone = nearest(found_px, middles[dead], SAME_PLACE_A * a_px)

    edited = stored["state"].isin(["added", "corrected", "confirmed"]).to_numpy()
    features, corners = viewer_hexagons(stored[edited].reset_index(drop=True))
    rows = hexagon_tables.with_corners(features, corners)
    match = nearest(found_px, middles[edited], SAME_PLACE_A * a_px)
    rows["hexagon_id"] = np.where(match >= 0, ids[match], hexagon_tables.NEW_ID)
    moved = np.full(len(rows), np.inf)
    known = match >= 0
    there = hexagon_tables.corners_px(table)[match[known]]
    moved[known] = np.abs(there - corners[known]).max(axis=(1, 2))
    return ids[gone[gone >= 0]], rows[moved > hexagon_tables.UNCHANGED_PX].reset_index(drop=True)


def with_stored_decisions(
    table: pd.DataFrame, link: CellsLink, stored: pd.DataFrame, material: Material
) -> tuple[pd.DataFrame, CellsLink, int]:
    """Apply the store's decisions to the cells that a run has just drawn.

    Returns
    -------
    table : DataFrame
        The cells with the decisions, under the store's ids.
    link : CellsLink
        What the layer then is.
    n_homeless : int
        Decisions whose place other cells now lie across.
    """
    there = living(stored)
    named = viewer_cells(there, material, unsure_below=link.settings.unsure_below)
    tombs = stored[(stored["state"] == "deleted").to_numpy()]
    kept = named[(named["state"] != "predicted").to_numpy()]
    kept = kept[~_holds(table, kept, link.detection.lattice.a_px)]
    top = max(stored["cell_id"].max(), table["cell_id"].max(), link.next_id - 1)
    decided = Corrections(
        kept=kept.reset_index(drop=True),
        deleted_px=np.concatenate([link.deleted_px, centres_px(tombs)]),
        cell_ids=there["cell_id"].to_numpy(),
        centres_px=centres_px(there),
        next_id=int(top) + 1,
    )
    table, deleted, homeless = apply_corrections(table, decided, a_px=link.detection.lattice.a_px)
    return table, drawn_link(link, table, deleted, decided.next_id), homeless


def _holds(table: pd.DataFrame, decided: pd.DataFrame, a_px: float) -> np.ndarray:
    """Tell which decided cells a table has already, shape (K,), as decided and in their place."""
    rows = rows_of(table["cell_id"].to_numpy(), decided["cell_id"].to_numpy())
    known = rows >= 0
    there, wanted = table.iloc[rows[known]], decided[known]
    apart = np.linalg.norm(centres_px(there) - centres_px(wanted), axis=1)
    known[known] = (
        (there["state"] != "predicted").to_numpy()
        & (there["label"].astype(object).to_numpy() == wanted["label"].astype(object).to_numpy())
        & (apart <= SAME_PLACE_A * a_px)
    )
    return known


def drawn_link(
    link: CellsLink, table: pd.DataFrame, deleted_px: np.ndarray, next_id: int
) -> CellsLink:
    """Return the link of a layer that shows these cells, as just drawn."""
    drawn = table[(table["state"] != "added").to_numpy()]
    return replace(
        link,
        written_ids=drawn["cell_id"].to_numpy(),
        written_px=centres_px(drawn),
        deleted_px=deleted_px,
        next_id=max(next_id, int(table["cell_id"].max()) + 1 if len(table) else 0),
    )


def changed_rows(before: pd.DataFrame, now: pd.DataFrame) -> tuple[pd.DataFrame, np.ndarray]:
    """Return the rows that others wrote since ``before`` was read, and the ids of rows gone."""
    ids, kind = before.columns[0], CELLS if "cell_id" in before else HEXAGONS
    rows = rows_of(before[ids].to_numpy(), now[kind.id].to_numpy())
    seen = np.where(rows >= 0, before["revision"].to_numpy()[rows], 0) if len(before) else 0
    gone = before[ids].to_numpy()[~np.isin(before[ids], now[ids])]
    return now[now["revision"].to_numpy() != seen].reset_index(drop=True), gone


def stored_settings(settings: AnalysisSettings, calibration: Calibration) -> dict[str, Any]:
    """Return what the store keeps of an analysis besides its results."""
    kept = {name: getattr(settings, name) for name in _KEPT_SETTINGS}
    size = calibration.pixel_size_nm
    return {
        "analysis": kept,
        "image_pixel_size_nm": None if size is None else list(size),
        "image_pixel_size_source": calibration.source,
    }


def weights_version(settings: AnalysisSettings) -> str:
    """Return the version of the classifier's weights, from their model card."""
    path = settings.classifier_weights or SHIPPED["classifier"]
    try:
        return version_of(path, read_json(path.with_suffix(".json")))
    except (OSError, ValueError, KeyError, TypeError):
        return path.stem
