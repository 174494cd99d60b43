"""Do layers, tables, label store and training set agree when boxes are deleted, moved and added?

    python -m benchmarks.box_round_trip [--check]     # writes results/box_round_trip.json

Runs the plugin on a bundled 2048 × 2048 sample with the shipped classifier. Ten of the boxes found
are held back at first: they are those that the user adds. Needs a display; ``xvfb-run`` will do.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy.spatial import cKDTree

RESULTS = Path(__file__).parent / "results"
SAMPLE = "MoTe2_pristine.tif"
N = 10


class Session:
    """The plugin with one sample, its boxes but ten, and their cells."""

    def __init__(self, project: Path, sample: str = SAMPLE, seed: int = 0) -> None:
        import napari
        from napari.layers import Layer

        from napari_point_defects import io, pipeline
        from napari_point_defects.napari_ui.box_correction import box_correction
        from napari_point_defects.napari_ui.classify_widget import ClassifyWidget
        from napari_point_defects.napari_ui.detect_widget import DetectWidget
        from napari_point_defects.napari_ui.image_layers import image_layer_data
        from napari_point_defects.napari_ui.labelling import labelling
        from napari_point_defects.records import Hexagons

        self.rng = np.random.default_rng(seed)
        self.settings = pipeline.AnalysisSettings()
        self.image = io.read_image(io.sample_path(sample))
        found = pipeline.detect(self.image, self.settings)
        centres = found.hexagons.corners_px.mean(axis=1)
        a_px = found.lattice.a_px
        inner = np.all(
            (centres > 2 * a_px) & (centres < np.array(self.image.data.shape) - 2 * a_px), 1
        )
        drawn = self.rng.permutation(np.flatnonzero(inner))[: 3 * N]
        held_back, self.to_delete, self.to_shift = np.split(drawn, 3)
        stay = np.setdiff1d(np.arange(len(found.hexagons)), held_back)
        # ids count the boxes that are drawn
        self.to_delete, self.to_shift = (
            np.searchsorted(stay, each) for each in (self.to_delete, self.to_shift)
        )
        self.to_add = centres[held_back]
        hexagons = Hexagons(found.hexagons.corners_px[stay], found.hexagons.scores[stay])
        self.detection = replace(found, hexagons=hexagons)

        self.viewer = napari.Viewer(show=False)
        self.project = project
        labelling(self.viewer).use(project)
        layer = self.viewer.add_layer(Layer.create(*image_layer_data(self.image)))
        self.image_id = layer.unique_id
        detect, self.classify = DetectWidget(self.viewer), ClassifyWidget(self.viewer)
        for name, widget in (("detect", detect), ("classify", self.classify)):
            self.viewer.window.add_dock_widget(widget, name=name, tabify=True)
        detect.draw(self.image_id, self.detection, self.settings)
        self.boxes = self.viewer.layers[-1]
        self.classify.run.button.click()
        self.wait(lambda: not self.classify.run.is_running)
        self.wait(lambda: bool(labelling(self.viewer).last_saved))
        self.boxes.visible = True
        self.points = self.viewer.layers[-1]
        self.correction = box_correction(self.viewer)
        self.editor = self.correction.editor(self.boxes)

    def wait(self, done: Callable[[], bool], timeout_s: float = 240) -> None:
        """Let the window live until something is done."""
        from qtpy.QtWidgets import QApplication

        end = time.monotonic() + timeout_s
        while not done():
            if time.monotonic() > end:
                raise TimeoutError
            QApplication.processEvents()
            time.sleep(0.002)

    def act(self, action: Callable[[], None]) -> dict[str, float]:
        """Do something; return how long it held the window, and until the cells had followed."""
        start, cpu = time.perf_counter(), time.process_time()
        action()
        self.editor.look()
        held, held_cpu = time.perf_counter() - start, time.process_time() - cpu
        self.wait(lambda: not self.correction.is_running)
        return {
            "window_held_ms": round(1e3 * held, 1),
            "window_held_cpu_ms": round(1e3 * held_cpu, 1),
            "cells_followed_s": round(time.perf_counter() - start, 2),
        }

    def delete(self, ids: np.ndarray) -> None:
        """Delete boxes as the Delete key does."""
        self.boxes.selected_data = set(np.flatnonzero(self.editor.table()["hexagon_id"].isin(ids)))
        self.boxes.remove_selected()

    def shift(self, ids: np.ndarray) -> None:
        """Move boxes by up to a quarter of the lattice constant."""
        from napari_point_defects.napari_ui.hexagon_tables import CORNER_COLUMNS

        table = self.editor.table()
        rows = table[table["hexagon_id"].isin(ids)].reset_index(drop=True)
        moves = self.rng.uniform(-0.25, 0.25, (len(rows), 2)) * self.detection.lattice.a_px
        rows[CORNER_COLUMNS] += np.tile(moves, 4)
        self.editor.write([], rows)

    def add(self, centres: np.ndarray) -> None:
        """Draw rectangles of any size about the middles, as the rectangle tool does."""
        a_px = self.detection.lattice.a_px
        half = self.rng.uniform(0.2, 0.8, (len(centres), 1, 2)) * a_px
        corners = np.array([[-1, -1], [-1, 1], [1, 1], [1, -1]])
        places = centres + self.rng.uniform(-0.1, 0.1, centres.shape) * a_px
        self.boxes.add_rectangles(list(places[:, None] + half * corners))


def agreement(session: Session) -> dict[str, Any]:
    """Compare layers, tables and links with each other and with a full run on the same boxes."""
    from napari_point_defects import pipeline
    from napari_point_defects.napari_ui.cell_editor import current_table
    from napari_point_defects.napari_ui.cell_tables import centres_px
    from napari_point_defects.napari_ui.hexagon_tables import hexagon_table, hexagons_of_table
    from napari_point_defects.napari_ui.links import CellsLink, link_of

    boxes, cells = hexagon_table(session.boxes), current_table(session.points)
    link = link_of(session.points, CellsLink)
    detection = replace(session.detection, hexagons=hexagons_of_table(boxes))
    full = pipeline.classify(session.image, detection, session.settings)
    distance, match = cKDTree(full.centres_px).query(centres_px(cells))
    labels = session.classify.census.editor.material.class_labels
    same = full.classes[match] == pd.Categorical(cells["label"].astype(str), labels).codes
    a_px = session.detection.lattice.a_px
    return {
        "boxes": len(boxes),
        "cells": len(cells),
        "cells_of_a_full_run": len(full),
        "largest_distance_a": round(float(distance.max() / a_px), 4),
        "classes_unlike_a_full_run": int((~same).sum()),
        "votes_unlike_a_full_run": int((full.votes[match] != cells["votes"]).sum()),
        "points_unlike_table": int((np.abs(session.points.data - centres_px(cells)) > 0.05).sum()),
        "ids_twice": int(
            boxes["hexagon_id"].duplicated().sum() + cells["cell_id"].duplicated().sum()
        ),
        "ids_unlike_link": len(set(link.written_ids) ^ set(cells["cell_id"])),
        "boxes_unlike_link": abs(len(link.detection.hexagons) - len(boxes)),
        "census_unlike_table": abs(session.classify.census.editor.census().n_cells - len(cells)),
    }


def stored(session: Session) -> dict[str, Any]:
    """Compare the label store, and what a training would read of it, with the layers."""
    from napari_point_defects.labels.store import LabelStore
    from napari_point_defects.labels.tables import CORNER_COLUMNS as STORED_CORNERS
    from napari_point_defects.labels.tables import POSITION_COLUMNS, from_named
    from napari_point_defects.napari_ui.cell_editor import current_table
    from napari_point_defects.napari_ui.hexagon_tables import CORNER_COLUMNS, hexagon_table
    from napari_point_defects.retraining.data import read_labels
    from napari_point_defects.retraining.settings import RetrainSettings

    session.wait(lambda: True)
    boxes = hexagon_table(session.boxes).sort_values("hexagon_id")
    material = session.classify.census.editor.material
    cells = from_named(current_table(session.points), material).sort_values("cell_id")
    with LabelStore(session.project) as store:
        (entry,) = store.images()
        rows, kept = store.cells(entry.id), store.hexagons(entry.id)
    deleted = int((kept["state"] == "deleted").sum())
    rows = rows[rows["state"] != "deleted"].sort_values("cell_id")
    kept = kept[kept["state"] != "deleted"].sort_values("hexagon_id")
    ((item,), _) = read_labels(RetrainSettings(kind="detector", labels=session.project))
    centres = boxes[CORNER_COLUMNS].to_numpy().reshape(-1, 4, 2).mean(axis=1)
    positions = list(POSITION_COLUMNS)

    def unlike(one: np.ndarray, other: np.ndarray) -> int:
        if one.shape != other.shape:
            return max(len(one), len(other))
        return int((np.abs(one - other) > 1e-3).reshape(len(one), -1).any(axis=1).sum())

    return {
        "boxes_deleted_in_store": deleted,
        "box_ids_unlike_store": len(set(boxes["hexagon_id"]) ^ set(kept["hexagon_id"])),
        "box_states_unlike_store": int(
            (boxes["state"].astype(str).to_numpy() != kept["state"].astype(str).to_numpy()).sum()
        ),
        "boxes_unlike_store": unlike(
            boxes[CORNER_COLUMNS].to_numpy(), kept[list(STORED_CORNERS)].to_numpy()
        ),
        "cell_ids_unlike_store": len(set(cells["cell_id"]) ^ set(rows["cell_id"])),
        "classes_unlike_store": int((cells["label"].to_numpy() != rows["label"].to_numpy()).sum()),
        "cells_unlike_store": unlike(cells[positions].to_numpy(), rows[positions].to_numpy()),
        "boxes_unlike_training_set": unlike(
            _sorted(centres), _sorted(np.asarray(item.hexagons_px))
        ),
        "cells_unlike_training_set": unlike(
            _sorted(cells[positions[:2]].to_numpy()), _sorted(np.asarray(item.chalcogen_px))
        ),
    }


def _sorted(points: np.ndarray) -> np.ndarray:
    return points[np.lexsort(points.round(2).T)]


def failures(found: dict[str, Any]) -> list[str]:
    """Return what an agreement lacks."""
    wrong = [key for key, value in found.items() if ("unlike" in key or "twice" in key) and value]
    if found["cells"] != found["cells_of_a_full_run"] or found["largest_distance_a"] > 0.1:
        wrong.append("cells")
    return wrong


def round_trip(session: Session) -> dict[str, Any]:
    """Delete, shift and add boxes, take all back and do it again; compare after each."""
    from napari_point_defects.napari_ui.cell_editor import current_table
    from napari_point_defects.napari_ui.history import history_of

    def rows() -> pd.DataFrame:
        return current_table(session.points).sort_values("cell_id").reset_index(drop=True)

    history = history_of(session.viewer, session.image_id)
    before = rows()
    times = {
        "delete": session.act(lambda: session.delete(session.to_delete)),
        "shift": session.act(lambda: session.shift(session.to_shift)),
        "add": session.act(lambda: session.add(session.to_add)),
    }
    after, states = rows(), session.editor.table()["state"].astype(str).value_counts().to_dict()
    found = agreement(session)
    found |= stored(session)
    steps = history.index()
    for _ in range(steps):
        session.act(history.undo)
    undone = same_rows(rows(), before)
    for _ in range(steps):
        session.act(history.redo)
    again = same_rows(rows(), after)
    one = int(session.editor.table()["hexagon_id"].iloc[N])
    times["delete_one"] = session.act(lambda: session.delete(np.array([one])))
    times["undo_one"] = session.act(history.undo)
    return {
        "times": times,
        "states": states,
        "steps": steps,
        "agreement": found,
        "failures": failures(found),
        "undo_restores_all": undone,
        "redo_restores_all": again,
    }


def same_rows(one: pd.DataFrame, other: pd.DataFrame) -> bool:
    """Tell whether two tables of cells hold the same, whatever their column types."""
    if len(one) != len(other):
        return False
    for column in one:
        a, b = one[column], other[column]
        if a.dtype.kind == "f":
            if not np.allclose(a, b, equal_nan=True):
                return False
        elif a.astype(str).tolist() != b.astype(str).tolist():
            return False
    return True


def main() -> None:
    """Run it and write the result, or only fail where something does not agree."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; fail on a mismatch")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        session = Session(Path(folder))
        result = {"sample": SAMPLE, **round_trip(session)}
        session.viewer.close()
    text = json.dumps(result, indent=2)
    print(text)
    if not options.check:
        (RESULTS / "box_round_trip.json").write_text(text + "\n", encoding="utf-8")
    elif result["failures"] or not (result["undo_restores_all"] and result["redo_restores_all"]):
        sys.exit("layers, store and training set do not agree")


if __name__ == "__main__":
    main()
