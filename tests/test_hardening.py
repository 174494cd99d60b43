"""What may go wrong around the program: full disks, locked stores, files that vanish."""

from __future__ import annotations

import ast
import errno
import gc
import os
import sqlite3
import subprocess
import sys
import tracemalloc
from contextlib import closing, suppress
from pathlib import Path

import fuzz_seeds
import h5py
import numpy as np
import pandas as pd
import pytest
import torch
from fuzz_targets import fill_store

import napari_point_defects
from napari_point_defects import pipeline
from napari_point_defects.analysis_settings import AnalysisSettings
from napari_point_defects.census import cells_table
from napari_point_defects.errors import PointDefectsError
from napari_point_defects.io import list_signals, read_image
from napari_point_defects.labels import schema
from napari_point_defects.labels.images import safe_path
from napari_point_defects.labels.store import LabelStore
from napari_point_defects.labels.tables import table_changes
from napari_point_defects.materials import get_material
from napari_point_defects.outputs import write_json, write_overlay, write_together
from napari_point_defects.records import Lattice, StemImage, UnitCells
from napari_point_defects.simulation.noise import NoiseSettings, add_noise
from napari_point_defects.simulation.scenes import SceneSettings, make_scene
from napari_point_defects.stacks import open_stack
from napari_point_defects.training_set import TrainingSet
from napari_point_defects.weights import load_weights, save_weights

ROOT = Path(napari_point_defects.__file__).parent
FULL = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
READ_ONLY = OSError(errno.EROFS, os.strerror(errno.EROFS))


def refused(match):
    return pytest.raises(PointDefectsError, match=match)


# --- the source ------------------------------------------------------------------------------


def calls():
    """Yield every call in the source: its file, the dotted name and the node."""
    for path in sorted(ROOT.rglob("*.py")):
        if "sample_data" in path.parts:
            continue
        tree = ast.parse(path.read_text(encoding="utf-8"))
        for node in ast.walk(tree):
            if isinstance(node, ast.Call):
                yield f"{path.name}:{node.lineno}", ast.unparse(node.func), node


def test_nothing_is_unpickled_or_evaluated():
    forbidden = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "marshal", "shelve"}
    for path in sorted(ROOT.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                names = [node.module or ""]
            else:
                continue
            assert not {name.split(".")[0] for name in names} & forbidden, path
    for where, name, node in calls():
        options = {keyword.arg: keyword.value for keyword in node.keywords}
        assert name not in ("eval", "exec", "np.loads", "pd.read_pickle", "yaml.load"), where
        if name in ("np.load", "numpy.load"):
            assert ast.unparse(options["allow_pickle"]) == "False", where
        if name == "torch.load":
            assert ast.unparse(options["weights_only"]) == "True", where


def test_sql_is_never_put_together():
    found = 0
    for where, name, node in calls():
        if name.rsplit(".", 1)[-1] not in ("execute", "executemany", "executescript"):
            continue
        found += 1
        (statement, *_) = node.args
        for inner in ast.walk(statement):
            assert not isinstance(inner, (ast.JoinedStr, ast.BinOp)), where
            if isinstance(inner, ast.Call):
                assert ast.unparse(inner.func).rsplit(".", 1)[-1] not in ("format", "join"), where
    assert found > 10
    for node in ast.parse(Path(schema.__file__).read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Assign):
            assert not any(isinstance(n, (ast.JoinedStr, ast.BinOp)) for n in ast.walk(node))


# --- paths -----------------------------------------------------------------------------------

ESCAPES = [
    *("../a.tif", "a/../../b.tif", "/etc/passwd", "\\\\server\\a.tif", "C:/x.tif", "C:x.tif"),
    *("..\\a.tif", "a/..", "", "x" * 300, "a/" + "é" * 200),
]


@pytest.mark.parametrize("name", ESCAPES)
def test_names_that_leave_their_folder(name):
    assert safe_path(name) is None


def test_a_store_that_names_a_file_outside_reads_none(tmp_path):
    outside = tmp_path / "outside.tif"
    fill_store(tmp_path / "project")
    image = next((tmp_path / "project" / "images").iterdir())
    image.rename(outside)
    with closing(sqlite3.connect(tmp_path / "project" / "labels.sqlite")) as connection:
        connection.execute("UPDATE images SET path = '../outside.tif'")
        connection.commit()
    with LabelStore(tmp_path / "project") as store:
        (entry,) = store.images()
        with refused("is not there"):
            store.read_image(entry)


@pytest.mark.parametrize("name", ["../secret.png", "/secret.png", "x/../../secret.png"])
def test_a_training_set_reads_only_what_lies_beside_it(tmp_path, name):
    from fuzz_targets import TARGETS

    target = TARGETS["annotations.json"]
    folder = tmp_path / "train"
    folder.mkdir()
    (tmp_path / "secret.png").write_bytes(target.beside["00000.png"])
    content = target.seeds[0].replace(b'"00000.png"', f'"{name}"'.encode())
    assert content != target.seeds[0]
    (folder / "annotations.json").write_bytes(content)
    with refused(r"train.secret\.png"):
        TrainingSet(folder)[0]


# --- disks -----------------------------------------------------------------------------------


@pytest.mark.parametrize("error", [FULL, READ_ONLY], ids=["full", "read-only"])
def test_former_results_stay_whole(tmp_path, monkeypatch, error):
    paths = {name: tmp_path / name for name in ("a.csv", "b.json")}
    for path in paths.values():
        path.write_text("former")

    def write(self, *_, **__):
        raise error

    with (
        refused("check the folder's permissions and free space") as caught,
        write_together(paths, overwrite=True) as temporary,
    ):
        temporary["a.csv"].write_text("new")
        raise error
    assert error.strerror in str(caught.value)
    monkeypatch.setattr(Path, "write_text", write)
    with refused("cannot write"):
        write_json({}, paths["b.json"], overwrite=True)
    monkeypatch.undo()
    assert [path.read_text() for path in paths.values()] == ["former"] * 2
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.csv", "b.json"]


def test_former_weights_keep_their_card_on_a_full_disk(tmp_path, monkeypatch):
    path = tmp_path / "a.safetensors"
    facts = {"kind": "classifier", "settings": {}, "training_set": {}, "metrics": {}}
    save_weights(path, {"x": torch.zeros(3)}, **facts)
    whole = Path.write_bytes

    def write(self, content):
        if self.suffix == ".json":
            raise FULL
        return whole(self, content)

    monkeypatch.setattr(Path, "write_bytes", write)
    with refused("free space"):
        save_weights(path, {"x": torch.ones(3)}, **facts)
    assert torch.equal(load_weights("classifier", path).tensors["x"], torch.zeros(3))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.json", "a.safetensors"]


def test_a_label_store_on_a_full_disk_keeps_what_it_had(tmp_path):
    fill_store(tmp_path)
    with LabelStore(tmp_path) as store:
        (entry,) = store.images()
        before = store.cells(entry.id)
        pages = store.connection.execute("PRAGMA page_count").fetchone()[0]
        store.connection.execute(f"PRAGMA max_page_count = {pages}")
        many = before.loc[[1] * 3000].assign(cell_id=np.arange(3000) + 10, revision=0)
        with refused("the disk is full: make room, nothing stored before is lost"):
            store.write(entry.id, cells=table_changes(before.iloc[:0], many), author="ada")
        assert store.cells(entry.id).equals(before)
    with LabelStore(tmp_path) as store:
        assert store.cells(entry.id).equals(before)
        assert store.connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)


def test_a_label_store_that_may_not_be_written(tmp_path, monkeypatch):
    fill_store(tmp_path)
    connect = sqlite3.connect

    def read_only(path, **options):
        return connect(f"{Path(path).as_uri()}?mode=ro", uri=True, **options)

    monkeypatch.setattr(sqlite3, "connect", read_only)
    with refused("check the folder's permissions"), LabelStore(tmp_path) as store:
        (entry,) = store.images()
        cells = store.cells(entry.id)
        changed = cells.assign(votes=cells["votes"] + 1)
        store.write(entry.id, cells=table_changes(cells, changed), author="ada")


_HOLDER = """
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1], isolation_level=None)
connection.execute("BEGIN IMMEDIATE")
connection.execute("UPDATE cells SET votes = 5")
print("held", flush=True)
sys.stdin.readline()
connection.execute("COMMIT")
"""


def test_a_store_that_another_process_holds(tmp_path):
    """It can be read; a write is refused, and goes through when the other is done."""
    fill_store(tmp_path)
    command = [sys.executable, "-c", _HOLDER, str(tmp_path / "labels.sqlite")]
    with LabelStore(tmp_path, wait_s=0.1) as store:
        other = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
        )
        try:
            assert other.stdout.readline() == "held\n"
            (entry,) = store.images()
            cells = store.cells(entry.id)
            hexagons = store.hexagons(entry.id)
            assert cells["votes"].tolist() == [2, 2]
            changes = table_changes(hexagons, hexagons.assign(score=0.5))
            with refused("another program keeps it busy: try again, or close that program"):
                store.write(entry.id, hexagons=changes, author="ada")
            with LabelStore(tmp_path, wait_s=0.1) as third:  # opens all the same
                assert len(third.images()) == 1
            other.stdin.write("\n")
            assert other.wait(timeout=60) == 0
        finally:
            other.kill()
            other.communicate()
        store.write(entry.id, hexagons=changes, author="ada")
        assert store.hexagons(entry.id)["score"].tolist() == [0.5]
        assert store.cells(entry.id)["votes"].tolist() == [5, 5]


# --- files that vanish -----------------------------------------------------------------------


@pytest.mark.parametrize("suffix", fuzz_seeds.IMAGES)
def test_a_file_removed_while_it_is_read(tmp_path, suffix):
    """Its name alone is gone, or it cannot be read: then in one line."""
    path = tmp_path / f"a{suffix}"
    path.write_bytes(fuzz_seeds.IMAGES[suffix][0])
    if suffix == ".emi":
        (tmp_path / "a_1.ser").write_bytes(fuzz_seeds.ser())
    (signal,) = list_signals(path)
    for each in tmp_path.iterdir():
        each.unlink()
    with refused("does not exist: check the path"):
        read_image(path)
    with suppress(OSError, PointDefectsError):  # the boundary about it makes one line of it
        assert signal.load().shape == signal.shape


@pytest.mark.parametrize("suffix", [".tif", ".emd", ".npy", ".mrc"])
def test_a_stack_removed_while_its_frames_are_read(tmp_path, suffix):
    path = tmp_path / f"a{suffix}"
    stacks = {
        ".tif": fuzz_seeds.IMAGES[".tif"][3],
        ".emd": fuzz_seeds.berkeley_emd(fuzz_seeds.STACK),
        ".npy": fuzz_seeds.npy(fuzz_seeds.STACK),
        ".mrc": fuzz_seeds.mrc(fuzz_seeds.STACK),
    }
    path.write_bytes(stacks[suffix])
    stack = open_stack(path)
    np.testing.assert_array_equal(stack.frame(0).data, fuzz_seeds.STACK[0])
    path.unlink()
    with refused("does not exist: check the path"):
        stack.frame(1)


def test_reading_leaves_no_file_open(tmp_path):
    path = tmp_path / "a.emd"
    path.write_bytes(fuzz_seeds.berkeley_emd())
    read_image(path)
    with h5py.File(path, "r+") as file:  # HDF5 refuses what is open for reading
        file.attrs["seen"] = 1


def test_overlays_leave_no_pictures_behind(tmp_path):
    lattice = Lattice(np.zeros(2), np.array([[0.0, -30.0], [30.0, 0.0]]))
    cells = UnitCells(np.array([[100.0, 90]]), np.array([[100.0, 110]]), np.ones(1), np.eye(6)[[1]])
    image = StemImage(np.random.default_rng(0).normal(size=(256, 256)).astype(np.float32))
    sizes = []
    tracemalloc.start()
    try:
        for _ in range(4):
            write_overlay(image, cells, lattice, get_material("MoS2"), tmp_path / "a.png", True)
            gc.collect()
            sizes.append(tracemalloc.get_traced_memory()[0] / 2**20)
    finally:
        tracemalloc.stop()
    assert sizes[-1] - sizes[0] < 5  # a picture is 10 MB


# --- threads ---------------------------------------------------------------------------------


def test_one_thread_or_two_give_the_same_table():
    """Twice on one, byte by byte; on two, sums in another order move the last digits."""
    rng = np.random.default_rng(4)
    scene = make_scene(
        SceneSettings(height_px=160, width_px=176, a_px=16.0, angle_deg=20, material="MoS2"), rng
    )
    noise = NoiseSettings.for_column_counts(scene, 100.0)
    image = StemImage(add_noise(scene, noise, rng).astype(np.float32))
    before, tables = torch.get_num_threads(), []
    try:
        for count in (1, 1, 2):
            torch.set_num_threads(count)
            analysis = pipeline.analyze(image, AnalysisSettings(material="MoS2", device="cpu"))
            tables.append(cells_table(analysis.cells, get_material("MoS2"), unsure_below=0.95))
    finally:
        torch.set_num_threads(before)
    one, again, two = tables
    assert len(one) > 40
    assert one.to_csv() == again.to_csv()
    pd.testing.assert_frame_equal(one, two, check_exact=False, rtol=0, atol=1e-4)
