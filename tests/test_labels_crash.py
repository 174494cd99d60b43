"""A program killed while it writes labels loses none that it had acknowledged."""

from __future__ import annotations

import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import time

import numpy as np
import pytest

from napari_point_defects.labels.store import LabelStore

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork and kill −9")

N_KILLS = 50
N_CELLS = 40

# Loads the program once; every line of its input starts a copy of it that writes until killed.
_WRITER = """
import os, sys
from pathlib import Path
import numpy as np, pandas as pd, tifffile
from napari_point_defects.labels.store import LabelStore
from napari_point_defects.labels.tables import CELLS, complete, empty, table_changes
from napari_point_defects.records import Lattice, StemImage

def say(text):
    os.write(1, (text + "\\n").encode())

def label(folder, start):
    image = StemImage(np.full((64, 64), 7, np.float32))
    with LabelStore(folder) as store:
        entry = store.register(
            image, material="MoTe2", lattice=Lattice(np.zeros(2), 20 * np.eye(2)),
            pixel_size_nm=None, pixel_size_source="none",
        )
        table = store.cells(entry.id)
        if not len(table):
            table = complete(pd.DataFrame({"cell_id": range(N), "state": "predicted"}), CELLS)
            store.write(entry.id, cells=table_changes(empty(CELLS), table), author="ada")
        for number in range(start, start + 100_000):
            before = store.cells(entry.id)
            after = before.copy()
            row = number % N
            after.loc[row, "state"] = "corrected"
            after.loc[row, ["label", "votes"]] = [number % 6, number]
            store.write(entry.id, cells=table_changes(before, after), author="ada")
            say(f"written {number}")

for line in sys.stdin:
    folder, start = line.split()
    pid = os.fork()
    if not pid:
        say(f"pid {os.getpid()}")  # by itself: before anything it writes
        label(Path(folder), int(start))
        os._exit(0)
    os.waitpid(pid, 0)
    say("killed")
"""


def test_fifty_kills_lose_no_acknowledged_label(tmp_path):
    rng = random.Random(1)
    writer = subprocess.Popen(
        [sys.executable, "-c", f"N = {N_CELLS}\n{_WRITER}"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        bufsize=1,
    )
    folder, votes, start = tmp_path / "project", np.zeros(N_CELLS, int), 1
    try:
        for _ in range(N_KILLS):
            writer.stdin.write(f"{folder} {start}\n")
            pid = _number(writer, "pid")
            # at any moment of any write, and of the start
            acknowledged = [_number(writer, "written") for _ in range(rng.randrange(6))]
            time.sleep(rng.uniform(0.0, 0.03))
            os.kill(pid, signal.SIGKILL)
            while (line := writer.stdout.readline()) != "killed\n":
                assert line, "the writer died"
                acknowledged.append(int(line.split()[1]))
            for number in acknowledged:
                votes[number % N_CELLS] = number
            if (folder / "labels.sqlite").exists():
                _check(folder, votes, max([start - 1, *acknowledged]))
            start = max(start, votes.max()) + 1
    finally:
        writer.stdin.close()
        writer.wait(timeout=60)
    assert votes.all()
    # what a crash leaves behind can be copied, log and all
    shutil.copytree(folder, tmp_path / "copy")
    with LabelStore(tmp_path / "copy", create=False) as copy:
        assert copy.last_edited().n_decided >= np.count_nonzero(votes)


def _number(writer, word):
    said, number = writer.stdout.readline().split()
    assert said == word
    return int(number)


def _check(folder, votes, last):
    with LabelStore(folder) as store:
        assert store.connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        entries = store.images()
        if not votes.any() and not entries:
            return
        (entry,) = entries
        assert store.read_image(entry).data.max() == 7
        cells, history = store.cells(entry.id), store.history(entry.id)
    stored = cells["votes"].to_numpy() if len(cells) else np.zeros_like(votes)
    # one write may have been done but not yet acknowledged
    late = stored != votes
    assert late.sum() <= 1
    assert (stored[late] > last).all()
    decided = stored > 0
    np.testing.assert_array_equal(cells["label"].to_numpy()[decided], stored[decided] % 6)
    votes[late] = stored[late]
    # each decision has its line in the history
    assert history["item_id"].notna().sum() == (cells["revision"] - 1).sum()


def test_a_log_that_was_cut_off_costs_the_last_write_at_most(tmp_path):
    """As if the power had gone in the middle of a write."""
    from napari_point_defects.records import Lattice, StemImage

    with LabelStore(tmp_path / "a") as store:
        for value in range(3):
            store.register(
                StemImage(np.full((64, 64), value, np.float32)),
                material="MoTe2",
                lattice=Lattice(np.zeros(2), np.eye(2)),
                pixel_size_nm=None,
                pixel_size_source="none",
            )
        shutil.copytree(store.folder, tmp_path / "b")
    log = tmp_path / "b" / "labels.sqlite-wal"
    log.write_bytes(log.read_bytes()[:-1000])
    with LabelStore(tmp_path / "b", create=False) as store:
        assert len(store.images()) == 2
        assert store.connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    with sqlite3.connect(tmp_path / "b" / "labels.sqlite") as connection:
        assert connection.execute("SELECT COUNT(*) FROM images").fetchone() == (2,)
    connection.close()
