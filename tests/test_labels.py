"""The label store: what goes in comes out, is never lost, and never silently overwritten."""

from __future__ import annotations

import json
import shutil
import sqlite3
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import tifffile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from labels_strategies import cell_tables, hexagon_tables

from napari_point_defects.errors import PointDefectsError
from napari_point_defects.labels.images import content_hash
from napari_point_defects.labels.store import Conflict, LabelStore
from napari_point_defects.labels.tables import (
    CELLS,
    HEXAGONS,
    POSITION_COLUMNS,
    UNLABELLED,
    complete,
    empty,
    from_named,
    table_changes,
    to_named,
    with_written,
)
from napari_point_defects.materials import get_material
from napari_point_defects.records import Calibration, Lattice, StemImage

MOTE2 = get_material("MoTe2")


@pytest.fixture
def store(tmp_path):
    with LabelStore(tmp_path / "project") as store:
        yield store


@pytest.fixture
def image(stem_data):
    return StemImage(stem_data, "field")


@pytest.fixture
def table(cells):
    """The cells as the network found them, in the store's columns."""
    table = pd.DataFrame({"cell_id": np.arange(len(cells)), "state": "predicted"})
    table["label"] = table["predicted"] = cells.classes
    table["votes"], table["confidence"] = cells.votes, cells.confidence
    table[list(POSITION_COLUMNS)] = np.concatenate([cells.chalcogen_px, cells.metal_px], axis=1)
    table[[f"p_{c}" for c in PROBABILITIES]] = cells.probabilities
    return complete(table, CELLS)


PROBABILITIES = ("PERFECT", "V_X1", "V_X2", "V_M", "V_X1_V_M", "V_X2_V_M")


@pytest.fixture
def hexagon_table(hexagons):
    table = pd.DataFrame({"hexagon_id": np.arange(len(hexagons)), "state": "predicted"})
    table["score"] = hexagons.scores
    table[list(HEXAGONS.floats[1:])] = hexagons.corners_px.reshape(-1, 8)
    return complete(table, HEXAGONS)


def register(store, image, lattice, **changes):
    values = {
        "material": "MoTe2",
        "lattice": lattice,
        "pixel_size_nm": (0.01, 0.02),
        "pixel_size_source": "lattice",
    }
    return store.register(image, **{**values, **changes})


@pytest.fixture
def entry(store, image, lattice):
    return register(store, image, lattice)


@pytest.fixture
def written(store, entry, table, hexagon_table):
    """Cells and hexagons as predicted, in the store."""
    store.write(
        entry.id,
        cells=table_changes(empty(CELLS), table),
        hexagons=table_changes(empty(HEXAGONS), hexagon_table),
        author="ada",
        weights="compact 1",
    )
    return store.cells(entry.id)


def decided(table, ids, label, state="corrected"):
    table = table.copy()
    rows = table["cell_id"].isin(ids)
    table.loc[rows, "label"], table.loc[rows, "state"] = label, state
    return table


def same(one, other, columns):
    pd.testing.assert_frame_equal(
        one[list(columns)].reset_index(drop=True), other[list(columns)].reset_index(drop=True)
    )


def with_tombstones(before, after):
    """What the store must hold: what was deleted stays so until it is there again."""
    dead = before[(before["state"] == "deleted") & ~before["cell_id"].isin(after["cell_id"])]
    return pd.concat([after, dead]).sort_values("cell_id")


# --- tables ---------------------------------------------------------------------------------


def test_nothing_changed_is_nothing_to_write(written):
    assert len(table_changes(written, written)) == 0
    shuffled = written.sample(frac=1, random_state=0)
    assert len(table_changes(written, shuffled)) == 0


def test_changes_say_what_is_new_different_and_gone(written):
    after = decided(written, [3], 2)
    added = after[after["cell_id"] == 5].assign(cell_id=1000, state="added")
    after = pd.concat([after[after["cell_id"] != 7], added], ignore_index=True)
    changes = table_changes(written, after)
    rows = changes.upserts.set_index("cell_id")
    assert sorted(rows.index) == [3, 7, 1000]
    assert rows["state"].astype(str).to_dict() == {3: "corrected", 7: "deleted", 1000: "added"}
    assert rows["revision"].to_dict() == {3: 1, 7: 1, 1000: 0}
    assert len(changes.removals) == 0
    removals = table_changes(written, after, deleted_ids=[]).removals
    assert removals["cell_id"].tolist() == [7]


def test_a_deleted_cell_is_not_deleted_again(store, entry, written):
    store.write(
        entry.id, cells=table_changes(written, written[written["cell_id"] > 0]), author="ada"
    )
    stored = store.cells(entry.id)
    assert stored["state"].astype(str).tolist()[0] == "deleted"
    assert len(table_changes(stored, stored[stored["state"] != "deleted"])) == 0
    # undo brings it back
    changes = table_changes(stored, written)
    assert changes.upserts["cell_id"].tolist() == [0]


def test_the_weights_stay_with_their_prediction(store, entry, written):
    after = decided(written, [3], 2)
    after.loc[after["cell_id"] == 4, "p_PERFECT"] = 0.5
    store.write(entry.id, cells=table_changes(written, after), author="ada", weights="own 2")
    weights = store.cells(entry.id).set_index("cell_id")["weights"]
    assert (weights[3], weights[4], weights[5]) == ("compact 1", "own 2", "compact 1")


@settings(max_examples=40, deadline=None)
@given(before=cell_tables, after=cell_tables)
def test_changes_applied_give_the_table(before, after):
    changes = table_changes(before, after, deleted_ids=[])
    result = with_written(before, changes.upserts, changes.removals)
    expected = with_tombstones(before, after)
    same(result.sort_values("cell_id"), expected, ["cell_id", *CELLS.content])
    assert len(table_changes(result, after, deleted_ids=[])) == 0


def test_class_names_and_codes_are_the_same_table(table):
    named = to_named(table, MOTE2)
    assert set(named["label"]) <= set(MOTE2.class_labels)
    assert "p_V_Te2+V_Mo" in named
    pd.testing.assert_frame_equal(from_named(named, MOTE2), table)
    as_text = named.assign(label=named["label"].astype(str), state=named["state"].astype(str))
    pd.testing.assert_frame_equal(from_named(as_text, MOTE2), table)
    unknown = from_named(named.assign(label="?"), MOTE2)
    assert set(unknown["label"]) == {UNLABELLED}


# --- images ---------------------------------------------------------------------------------


def test_an_image_is_known_by_its_pixels(store, entry, image, lattice):
    assert store.find(image) == entry
    assert store.find(replace(image, name="renamed", signal="other")) == entry
    assert register(store, image, lattice).id == entry.id
    other = replace(image, data=image.data + 1)
    assert store.find(other) is None
    assert register(store, other, lattice).id != entry.id
    assert len(store.images()) == 2


def test_a_new_lattice_is_noted_and_the_old_one_remembered(store, entry, image, lattice):
    moved = replace(lattice, origin_px=lattice.origin_px + 1.5)
    again = register(store, image, moved, pixel_size_nm=None, settings={"alpha": 0.7})
    (stored,) = store.images()
    assert again == stored
    np.testing.assert_array_equal(stored.lattice.origin_px, moved.origin_px)
    np.testing.assert_array_equal(stored.lattice.matrix_px, moved.matrix_px)
    assert (stored.pixel_size_nm, stored.settings) == (None, {"alpha": 0.7})
    (change,) = store.history(entry.id).to_dict("records")
    assert change["kind"] == "image"
    assert str(lattice.origin_px[0]) in change["before"]


def test_an_unsaved_image_is_copied_exactly(store, entry, image):
    assert entry.path == f"images/field-{entry.sha256[:8]}.tif"
    read = store.read_image(entry)
    assert read.data.dtype == np.float32
    np.testing.assert_array_equal(read.data, image.data)
    assert read.calibration == Calibration((0.01, 0.02), "lattice")


@pytest.mark.parametrize(
    "data",
    [
        np.arange(64 * 70).reshape(64, 70) % 251,
        np.arange(64 * 70).reshape(64, 70) + 60000.0,
        np.where(np.eye(64, 70), np.nan, 5e-7) + np.arange(70) * 1e-9,
        -np.arange(64 * 70).reshape(64, 70) * 1.5,
    ],
)
def test_copies_keep_every_kind_of_pixel(store, lattice, data):
    image = StemImage(data.astype(np.float32), "../odd name")
    entry = register(store, image, lattice)
    assert entry.path.startswith("images/odd_name-")
    np.testing.assert_array_equal(store.read_image(entry).data, image.data)
    assert content_hash(image.data) == entry.sha256


def test_a_file_inside_the_folder_is_not_copied(store, image, lattice):
    (store.folder / "session 1").mkdir()
    path = store.folder / "session 1" / "f.tif"
    tifffile.imwrite(path, image.data)
    entry = register(store, replace(image, path=path), lattice)
    assert entry.path == "session 1/f.tif"
    assert not (store.folder / "images").exists()
    # moved within the folder, and renamed
    (store.folder / "elsewhere").mkdir()
    path.rename(store.folder / "elsewhere" / "g.tif")
    np.testing.assert_array_equal(store.read_image(entry).data, image.data)


def test_a_cropped_layer_of_a_file_is_copied(store, image, lattice):
    path = store.folder / "f.tif"
    tifffile.imwrite(path, image.data)
    entry = register(store, replace(image, path=path, data=image.data[:100]), lattice)
    assert entry.path.startswith("images/")
    assert store.read_image(entry).data.shape == (100, 256)


def test_an_image_that_is_lost_or_changed_is_reported_and_can_come_back(
    store, entry, image, lattice
):
    path = store.folder / entry.path
    tifffile.imwrite(path, image.data + 1)
    with pytest.raises(PointDefectsError, match="other pixels"):
        store.read_image(entry)
    path.unlink()
    with pytest.raises(PointDefectsError, match="not there"):
        store.read_image(entry)
    assert store.read_image(register(store, image, lattice)).name == "field"


@pytest.mark.parametrize("how", [shutil.copytree, shutil.move])
def test_the_folder_can_be_moved_and_copied(store, entry, written, tmp_path, how):
    with LabelStore(store.folder) as other:
        other.write(entry.id, cells=table_changes(written, decided(written, [1], 3)), author="a")
    store.close()
    how(store.folder, tmp_path / "a new place")
    with LabelStore(tmp_path / "a new place", create=False) as moved:
        (found,) = moved.images()
        assert moved.read_image(found).data.shape == (256, 256)
        assert moved.class_counts().tolist() == [0, 0, 0, 1, 0, 0]
    store.__init__(tmp_path / "a new place")  # the fixture closes it


# --- rows and history -----------------------------------------------------------------------


def test_rows_come_out_as_they_went_in(store, entry, written, table, hexagon_table):
    same(written, table, ["cell_id", *CELLS.content])
    same(store.hexagons(entry.id), hexagon_table, ["hexagon_id", *HEXAGONS.content])
    assert set(written["author"]) == {"ada"}
    assert set(written["revision"]) == {1}
    assert set(written["weights"]) == {"compact 1"}
    assert pd.Timestamp(written["time"][0]).utcoffset().total_seconds() == 0


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(first=cell_tables, second=cell_tables, hexagons=hexagon_tables, author=st.text(max_size=9))
def test_any_table_survives_the_store(first, second, hexagons, author):
    with tempfile.TemporaryDirectory() as folder, LabelStore(Path(folder)) as store:
        lattice = Lattice(np.zeros(2), np.eye(2))
        entry = register(store, StemImage(np.zeros((4, 4), np.float32)), lattice)
        first_changes = table_changes(empty(CELLS), first)
        hexagon_changes = table_changes(empty(HEXAGONS), hexagons)
        done = store.write(entry.id, cells=first_changes, hexagons=hexagon_changes, author=author)
        mirror = with_written(empty(CELLS), done.cells)
        changes = table_changes(mirror, second, deleted_ids=[])
        done = store.write(entry.id, cells=changes, author=author)
        mirror = with_written(mirror, done.cells, changes.removals)
        stored = store.cells(entry.id)
        same(stored, with_tombstones(first, second), ["cell_id", *CELLS.content])
        same(stored, mirror.sort_values("cell_id"), CELLS.columns)
        by_id = hexagons.sort_values("hexagon_id")
        same(store.hexagons(entry.id), by_id, ["hexagon_id", *HEXAGONS.content])


def test_every_decision_is_remembered(store, entry, written):
    table = written
    for label, state in ((3, "corrected"), (0, "confirmed")):
        after = decided(table, [2], label, state)
        store.write(entry.id, cells=table_changes(table, after), author="bob")
        table = store.cells(entry.id)
    store.write(entry.id, cells=table_changes(table, table[table["cell_id"] != 2]), author="eve")
    history = store.history(entry.id, 2)
    assert history["action"].tolist() == ["corrected", "confirmed", "deleted"]
    assert history["author"].tolist() == ["bob", "bob", "eve"]
    assert json.loads(history["before"][1])["label"] == 3
    assert json.loads(history["after"][2])["state"] == "deleted"
    # thousands of predictions are one line
    whole = store.history(entry.id)
    first = whole[(whole["kind"] == "cell") & whole["item_id"].isna()]
    assert json.loads(first["after"].iloc[0]) == {"n": len(written)}
    with pytest.raises(sqlite3.IntegrityError, match="only added to"):
        store.connection.execute("DELETE FROM changes")
    with pytest.raises(sqlite3.IntegrityError, match="only added to"):
        store.connection.execute("UPDATE changes SET author = 'me'")


def test_a_decision_that_a_run_removes_stays_in_the_history(store, entry, written):
    after = decided(written, [2], 3)
    store.write(entry.id, cells=table_changes(written, after), author="bob")
    table = store.cells(entry.id)
    changes = table_changes(table, table[table["cell_id"] > 4], deleted_ids=[])
    store.write(entry.id, cells=changes, author="bob")
    assert store.cells(entry.id)["cell_id"].min() == 5
    last = store.history(entry.id, 2).iloc[-1]
    assert last["action"] == "removed"
    assert json.loads(last["before"])["label"] == 3


# --- several windows ------------------------------------------------------------------------


def test_a_stale_edit_is_refused_whole_and_says_whose_the_other_is(store, entry, written):
    with LabelStore(store.folder) as other:
        theirs = table_changes(written, decided(written, [5], 1))
        other.write(entry.id, cells=theirs, author="bob")
        ours = table_changes(written, decided(written, [4, 5], 2))
        with pytest.raises(Conflict, match="cell 5 was changed by bob") as caught:
            store.write(entry.id, cells=ours, author="ada")
        assert caught.value.ids.tolist() == [5]
        assert caught.value.stored["label"].tolist() == [1]
        after = store.cells(entry.id).set_index("cell_id")
        assert after.loc[[4, 5], "label"].tolist() == [written["label"][4], 1]
        assert len(store.history(entry.id, 4)) == 0
        # both windows added a cell of the same number
        new = written.iloc[[0]].assign(cell_id=9000, state="added", revision=0)
        added = table_changes(empty(CELLS), complete(new, CELLS))
        other.write(entry.id, cells=added, author="bob")
        with pytest.raises(Conflict):
            store.write(entry.id, cells=added, author="ada")
        # one took away what the other changes
        gone = table_changes(written.iloc[[6]], empty(CELLS), deleted_ids=[])
        other.write(entry.id, cells=gone, author="bob")
        changes = table_changes(written, decided(written, [6], 2))
        with pytest.raises(Conflict, match="another window"):
            store.write(entry.id, cells=changes, author="ada")


def test_a_conflict_among_hexagons_keeps_the_cells_out_too(store, entry, written):
    hexagons = store.hexagons(entry.id)
    changes = table_changes(hexagons, hexagons.iloc[1:])
    store.write(entry.id, hexagons=changes, author="ada")
    cells = table_changes(written, decided(written, [4], 2))
    with pytest.raises(Conflict, match="hexagon 0"):
        store.write(entry.id, cells=cells, hexagons=changes, author="ada")
    assert store.class_counts().sum() == 0


def test_others_changes_are_noticed_once(store, entry, written):
    assert not store.changed_by_others()
    store.write(entry.id, cells=table_changes(written, decided(written, [4], 2)), author="ada")
    assert not store.changed_by_others()
    with LabelStore(store.folder) as other:
        table = other.cells(entry.id)
        other.write(entry.id, cells=table_changes(table, decided(table, [5], 2)), author="bob")
        assert store.changed_by_others()
        assert not store.changed_by_others()
        assert not other.changed_by_others()


_WRITER = """
import sys
from pathlib import Path
from napari_point_defects.labels.store import Conflict, LabelStore
from napari_point_defects.labels.tables import table_changes

name, conflicts = sys.argv[2], 0
with LabelStore(Path(sys.argv[1]), create=False) as store:
    entry = store.images()[0]
    for i in range(40):
        table = store.cells(entry.id)
        after = table.copy()
        row = i % 10
        after.loc[row, ["state", "label"]] = ["corrected", i % 6]
        after.loc[row, "votes"] += 1
        try:
            store.write(entry.id, cells=table_changes(table, after), author=name)
        except Conflict:
            conflicts += 1
print(conflicts)
"""


def test_two_processes_write_at_once_and_nothing_is_lost(store, entry, written):
    writers = [
        subprocess.Popen(
            [sys.executable, "-c", _WRITER, str(store.folder), name], stdout=subprocess.PIPE
        )
        for name in ("bob", "eve")
    ]
    conflicts = [int(w.communicate(timeout=120)[0]) for w in writers]
    assert [w.returncode for w in writers] == [0, 0]
    table, history = store.cells(entry.id), store.history(entry.id)
    n = 80 - sum(conflicts)
    assert (table["votes"] - written["votes"])[:10].sum() == n
    assert (table["revision"] - 1)[:10].sum() == n
    assert history["item_id"].notna().sum() == n
    assert store.connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)


# --- what training and the panels ask for ---------------------------------------------------


def test_training_gets_decided_cells_and_their_surroundings(
    store, entry, written, image, lattice, cells, hexagons
):
    assert list(store.labelled_images()) == []
    assert store.last_edited() is None
    after = decided(written, [2, 3], 3)
    after = decided(after, [4], after["label"][4], "confirmed")
    after = after[after["cell_id"] != 9]
    corners = store.hexagons(entry.id)
    store.write(
        entry.id,
        cells=table_changes(written, after),
        hexagons=table_changes(corners, corners.iloc[1:]),
        author="ada",
    )
    other = register(store, replace(image, data=image.data + 1), lattice)
    (labelled,) = store.labelled_images()
    np.testing.assert_array_equal(labelled.pixels, image.data)
    assert labelled.material == "MoTe2"
    keep = np.arange(len(cells)) != 9
    np.testing.assert_array_equal(labelled.chalcogen_px, cells.chalcogen_px[keep])
    np.testing.assert_array_equal(labelled.metal_px, cells.metal_px[keep])
    expected = np.full(len(cells), UNLABELLED)
    expected[[2, 3]], expected[4] = 3, cells.classes[4]
    np.testing.assert_array_equal(labelled.classes, expected[keep])
    np.testing.assert_allclose(labelled.hexagons_px, hexagons.corners_px.mean(axis=1)[1:])
    np.testing.assert_array_equal(labelled.lattice.matrix_px, lattice.matrix_px)

    counts = np.bincount([3, 3, cells.classes[4]], minlength=6)
    np.testing.assert_array_equal(store.class_counts(), counts)
    np.testing.assert_array_equal(store.class_counts([entry.id]), counts)
    assert store.class_counts([other.id]).tolist() == store.class_counts([]).tolist() == [0] * 6
    assert list(store.labelled_images([other.id])) == []
    stats = store.stats()
    assert stats["image"].tolist() == ["field"] * 12 + ["all"] * 6
    total = stats[stats["image_id"] == -1].set_index("label")
    assert total.loc[3, "corrected"] == 2
    assert total[["predicted", "confirmed", "corrected", "deleted"]].sum().tolist() == [
        len(cells) - 4,
        1,
        2,
        1,
    ]
    last = store.last_edited()
    assert (last.entry, last.n_decided) == (entry, 3)
    assert last.time == store.cells(entry.id)["time"].max()


# --- what can go wrong ----------------------------------------------------------------------


def test_a_folder_without_labels_is_not_made_into_one(tmp_path):
    with pytest.raises(PointDefectsError, match="holds no labels"):
        LabelStore(tmp_path / "none", create=False)
    assert not (tmp_path / "none").exists()


def test_other_files_are_refused(tmp_path):
    path = tmp_path / "labels.sqlite"
    path.write_bytes(b"not a database at all" * 100)
    with pytest.raises(PointDefectsError, match="no label store, or is damaged"):
        LabelStore(tmp_path)
    assert path.read_bytes().startswith(b"not a database")
    path.unlink()
    with sqlite3.connect(path) as other:
        other.execute("CREATE TABLE bookmarks (url TEXT)")
    other.close()
    with pytest.raises(PointDefectsError, match="another program's"):
        LabelStore(tmp_path)
    path.unlink()
    path.write_bytes(b"")  # made, and then the power went
    with LabelStore(tmp_path) as store:
        assert store.images() == []


def test_a_newer_store_is_refused(store):
    store.connection.execute("UPDATE meta SET value = '2' WHERE key = 'schema_version'")
    with pytest.raises(PointDefectsError, match="newer napari-point-defects"):
        LabelStore(store.folder)


def test_a_damaged_store_is_reported(store, entry, written):
    store.close()
    size = store.path.stat().st_size
    with store.path.open("r+b") as file:
        for start in range(4096, size, 4096):
            file.seek(start)
            file.write(b"\xff" * 100)
    with (
        pytest.raises(PointDefectsError, match="damaged"),
        LabelStore(store.folder) as broken,
    ):
        broken.cells(entry.id)
    shutil.rmtree(store.folder)
    store.__init__(store.folder)


def test_a_folder_that_cannot_be_made_is_reported(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(PointDefectsError, match="choose another folder"):
        LabelStore(tmp_path / "file" / "project")


def test_a_store_that_is_kept_busy_is_reported(store, entry, written):
    store.connection.execute("PRAGMA busy_timeout = 50")
    with LabelStore(store.folder) as other:
        other.connection.execute("BEGIN IMMEDIATE")
        changes = table_changes(written, decided(written, [5], 1))
        with pytest.raises(PointDefectsError, match="busy: try again"):
            store.write(entry.id, cells=changes, author="ada")
        other.connection.execute("ROLLBACK")
    store.write(entry.id, cells=changes, author="ada")
    assert store.class_counts()[1] == 1


def test_one_id_twice_is_refused(store, entry, written):
    doubled = pd.concat([written.iloc[:1]] * 2, ignore_index=True).assign(revision=1)
    changes = table_changes(written, written)
    with pytest.raises(PointDefectsError, match="same id"):
        store.write(entry.id, cells=replace(changes, upserts=doubled), author="ada")


def test_closing_leaves_one_file(store, entry, written):
    store.close()
    assert sorted(p.name for p in store.folder.iterdir()) == ["images", "labels.sqlite"]
    store.__init__(store.folder)
    assert len(store.cells(entry.id)) == len(written)
