"""Damaged and forged files of every kind: refused in one line, soon, and in little memory."""

from __future__ import annotations

import io
import shutil
import sqlite3
import struct
import sys
import tempfile
import time
import warnings
import zlib
from contextlib import contextmanager
from pathlib import Path

import fuzz_seeds
import h5py
import numpy as np
import pytest
import tifffile
from fuzz_targets import TARGETS, fill_store
from hypothesis import given, settings
from hypothesis import strategies as st

from napari_point_defects.errors import PointDefectsError
from napari_point_defects.io import list_signals, read_image
from napari_point_defects.readers import READERS
from napari_point_defects.stacks import open_stack

EXAMPLES = 8
MANY = 10**6
JSON_TARGETS = [name for name, target in TARGETS.items() if target.name.endswith(".json")]

places = st.one_of(st.integers(0, 400), st.integers(0, 2**16), st.integers(-400, -1))
edits = st.lists(
    st.tuples(st.sampled_from(fuzz_seeds.EDITS), places, st.integers(0, 2**16)),
    min_size=1,
    max_size=6,
)
json_edits = st.lists(
    st.tuples(st.integers(0, 10**6), st.integers(0, 10**6)), min_size=1, max_size=3
)
bounded = settings(max_examples=EXAMPLES, deadline=None, derandomize=True, database=None)


def peak_mb() -> float:
    """Return the most memory this process has had."""
    try:
        import resource
    except ImportError:  # Windows
        return 0.0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 2**10)


@contextmanager
def frugal(seconds=20.0, megabytes=300.0):
    """Fail if what is done takes long, or much memory, or warns."""
    begin, peak = time.process_time(), peak_mb()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.simplefilter("ignore", ResourceWarning)  # readers leave damaged files open
        warnings.filterwarnings("ignore", category=DeprecationWarning)
        yield
    assert time.process_time() - begin < seconds
    assert peak_mb() - peak < megabytes


def use(target, content):
    folder = Path(tempfile.mkdtemp())
    try:
        with frugal():
            target(content, folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@pytest.mark.parametrize("name", TARGETS)
def test_undamaged_files_are_read(tmp_path, name):
    """Else the tests below would damage what is refused anyhow."""
    target = TARGETS[name]
    for i, content in enumerate(target.seeds):
        folder = tmp_path / str(i)
        for other, data in target.beside.items():
            (folder / other).parent.mkdir(parents=True, exist_ok=True)
            (folder / other).write_bytes(data)
        folder.mkdir(exist_ok=True)
        (folder / target.name).write_bytes(content)
        target.use(folder / target.name)


def test_every_extension_is_damaged():
    assert {".tif" if s == ".tiff" else ".jpg" if s == ".jpeg" else s for s in READERS} <= set(
        TARGETS
    )


@pytest.mark.parametrize("name", TARGETS)
@bounded
@given(data=st.data())
def test_damaged_files(name, data):
    target = TARGETS[name]
    content = data.draw(st.sampled_from(target.seeds))
    use(target, fuzz_seeds.damaged(content, data.draw(edits)))


@pytest.mark.parametrize("name", JSON_TARGETS)
@bounded
@given(data=st.data())
def test_json_that_says_other_things(name, data):
    target = TARGETS[name]
    content = data.draw(st.sampled_from(target.seeds))
    use(target, fuzz_seeds.damaged_json(content, data.draw(json_edits)))


@pytest.mark.parametrize("name", [*JSON_TARGETS, "settings.toml", "materials.toml"])
def test_brackets_without_end(name):
    content = b"x = " * name.endswith("toml") + b"[" * 100_000
    use(TARGETS[name], content)
    if name == "unfinished.jsonl":
        use(TARGETS[name], b'{"image":' + content)


# --- the database ----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    folder = tmp_path_factory.mktemp("project")
    fill_store(folder)
    return folder


VALUES = [None, "", "[", b"\xff\x00", 10**18, -1, float("inf"), "[" * 9000]


def columns_of(table):
    with tempfile.TemporaryDirectory() as name:
        fill_store(Path(name))
        connection = sqlite3.connect(Path(name) / "labels.sqlite")
        found = [row[1] for row in connection.execute(f"PRAGMA table_info({table})")]
        connection.close()
    return found


@pytest.mark.parametrize("table", ["images", "cells", "hexagons", "changes", "meta"])
def test_a_store_that_somebody_wrote_strange_things_into(project, tmp_path, table):
    """As if made by another program: without the checks that ours puts into its tables."""
    target = TARGETS["labels.sqlite"]
    for number, column in enumerate(columns_of(table)):
        for value in VALUES[number % 4 :: 4]:
            path = tmp_path / "a.sqlite"
            shutil.copy(project / "labels.sqlite", path)
            connection = sqlite3.connect(path)
            for (trigger,) in connection.execute(
                "SELECT name FROM sqlite_master WHERE type = 'trigger'"
            ).fetchall():
                connection.execute(f"DROP TRIGGER {trigger}")
            connection.execute("PRAGMA ignore_check_constraints = ON")
            connection.execute("PRAGMA foreign_keys = OFF")
            try:
                connection.execute(f"UPDATE {table} SET {column} = ?", (value,))
                connection.commit()
            except sqlite3.IntegrityError:
                continue  # the value cannot stand there
            finally:
                connection.close()
            use(target, path.read_bytes())


# --- what headers claim ----------------------------------------------------------------------


def npy_claim():
    file = io.BytesIO()
    header = {"descr": "<u2", "fortran_order": False, "shape": (MANY, MANY)}
    np.lib.format.write_array_header_1_0(file, header)
    return file.getvalue() + bytes(8192)


def png_claim():
    content = fuzz_seeds.picture("PNG")
    head = b"IHDR" + struct.pack(">IIBBBBB", MANY, MANY, 8, 0, 0, 0, 0)
    return content[:12] + head + struct.pack(">I", zlib.crc32(head)) + content[33:]


def bmp_claim():
    content = fuzz_seeds.picture("BMP")
    return content[:18] + struct.pack("<ii", MANY, MANY) + content[26:]


def jpeg_claim():
    content = bytearray(fuzz_seeds.picture("JPEG"))
    at = content.find(b"\xff\xc0")
    content[at + 5 : at + 9] = struct.pack(">HH", 65_500, 65_500)
    return bytes(content)


def tiff_claim(**options):
    content = bytearray(fuzz_seeds.tiff(**options))
    with tifffile.TiffFile(io.BytesIO(bytes(content))) as tiff:
        for name in ("ImageWidth", "ImageLength"):
            at = tiff.pages[0].tags[name].offset
            content[at + 2 : at + 12] = struct.pack("<HII", 4, 1, MANY)
    return bytes(content)


def mrc_claim():
    return struct.pack("<ii", MANY, MANY) + fuzz_seeds.mrc()[8:]


def ser_claim():
    sizes = struct.pack("<HII", 2, fuzz_seeds.SIDE, fuzz_seeds.SIDE)
    return fuzz_seeds.ser().replace(sizes, struct.pack("<HII", 2, MANY, MANY))


def dm_claim(version):
    content = bytearray(fuzz_seeds.dm(version))
    at = content.rfind(b"Dimensions")
    for _ in range(2):
        at = content.find(struct.pack("<I", fuzz_seeds.SIDE), at)
        content[at : at + 4] = struct.pack("<I", MANY)
    return bytes(content)


def hdf5_claim(content, name, shape, chunks):
    file = io.BytesIO(content)
    with h5py.File(file, "r+") as hdf5:
        del hdf5[name]
        hdf5.create_dataset(name, shape, "u2", chunks=chunks)
    return file.getvalue()


VELOX = "Data/Image/0123456789abcdef0123456789abcdef"
CLAIMS = {
    "a.npy": npy_claim,
    "a.png": png_claim,
    "a.bmp": bmp_claim,
    "a.jpg": jpeg_claim,
    "a.tif": tiff_claim,
    "tiles.tif": lambda: tiff_claim(compression="zlib", tile=(32, 32)),
    "a.mrc": mrc_claim,
    "a.ser": ser_claim,
    "a.dm3": lambda: dm_claim(3),
    "a.dm4": lambda: dm_claim(4),
    "berkeley.emd": lambda: hdf5_claim(
        fuzz_seeds.berkeley_emd(), "data/HAADF/data", (MANY, MANY), (64, 64)
    ),
    "axis.emd": lambda: hdf5_claim(
        fuzz_seeds.berkeley_emd(), "data/HAADF/dim1", (2, 3 * 10**8), (2, 4096)
    ),
    "velox.emd": lambda: hdf5_claim(
        fuzz_seeds.velox_emd(), f"{VELOX}/Data", (MANY, MANY, 1), (64, 64, 1)
    ),
    "metadata.emd": lambda: hdf5_claim(
        fuzz_seeds.velox_emd(), f"{VELOX}/Metadata", (3 * 10**9, 1), (4096, 1)
    ),
    "a.hspy": lambda: hdf5_claim(
        fuzz_seeds.hspy(), "Experiments/HAADF/data", (MANY, MANY), (64, 64)
    ),
}


@pytest.mark.parametrize("name", CLAIMS)
def test_a_million_by_a_million_pixels_are_refused_before_they_are_allocated(tmp_path, name):
    path = tmp_path / name
    path.write_bytes(CLAIMS[name]())
    with frugal(5.0, 100.0):
        for read in (read_image, open_stack):
            with pytest.raises(PointDefectsError) as caught:
                read(path)
            assert "\n" not in str(caught.value)
    if name != "a.npy":  # whose map fails
        with pytest.raises(PointDefectsError, match=r"claims .* than"):
            read_image(path)


def test_a_stack_of_a_zarr_folder_that_claims_much(tmp_path):
    import zarr

    zarr.create_array(str(tmp_path / "a.zarr"), shape=(MANY,) * 3, chunks=(1, 64, 64), dtype="u2")
    with frugal(), pytest.raises(PointDefectsError, match="more than can be read"):
        open_stack(tmp_path / "a.zarr")


def test_large_stacks_and_images_that_are_there_are_not_refused(tmp_path):
    """Sparse files: large on disk by their length alone."""
    shape = (20_000, 512, 512)
    for name, claimed in (("stack.npy", shape), ("image.npy", (14_000, 14_000))):
        np.lib.format.open_memmap(tmp_path / name, "w+", "u2", claimed)
    with frugal():
        assert open_stack(tmp_path / "stack.npy").shape == shape
        (signal,) = list_signals(tmp_path / "image.npy")
        assert signal.shape == (14_000, 14_000)
        with pytest.raises(PointDefectsError, match="same value everywhere"):
            open_stack(tmp_path / "stack.npy").frame(19_999)


def test_pages_that_go_round_in_a_circle(tmp_path):
    """tifffile would follow them for ever."""
    for big in (False, True):
        content = bytearray(fuzz_seeds.tiff(bigtiff=big))
        with tifffile.TiffFile(io.BytesIO(bytes(content))) as tiff:
            page = tiff.pages[0]
            size, count = (8, len(page.tags)) if big else (4, len(page.tags))
            at = page.offset + (8 + 20 * count if big else 2 + 12 * count)
        content[at : at + size] = page.offset.to_bytes(size, "little")
        path = tmp_path / f"a{big}.tif"
        path.write_bytes(content)
        with frugal(5.0), pytest.raises(PointDefectsError, match="circle"):
            read_image(path)


@pytest.mark.parametrize("version", [3, 4])
@pytest.mark.parametrize(
    "info",
    [
        (20, 15, 0, 0, 2**31 - 1),  # an array of structs without fields
        (20, 18, 0, 2**31 - 1),  # of strings without letters
        (20, 20, 4, 0, 2**31 - 1),  # of arrays without elements
        (20, 4, -1000),  # a size that leads back
        (18, -1000),
        (18, 2**31 - 1),
        (15, 0, 2**31 - 1),
    ],
)
def test_digital_micrograph_tags_that_never_end(tmp_path, version, info):
    count = ">i" if version == 3 else ">q"
    old = b"".join(struct.pack(count, n) for n in (7, 15, 0, 2, 0, 6, 0, 6))
    new = b"".join(struct.pack(count, n) for n in (len(info), *info))
    content = fuzz_seeds.dm(version)
    assert old in content
    path = tmp_path / f"a.dm{version}"
    path.write_bytes(content.replace(old, new))
    with frugal(5.0), pytest.raises(PointDefectsError, match="damaged or cut short"):
        read_image(path)


# --- data in other files ---------------------------------------------------------------------


def external_link(file, other):
    del file["data/HAADF/data"]
    file["data/HAADF/data"] = h5py.ExternalLink(other, "/data/HAADF/data")


def external_storage(file, other):
    del file["data/HAADF/data"]
    file.create_dataset("data/HAADF/data", (64, 64), "u1", external=[(other, 0, 4096)])


def virtual(file, other):
    del file["data/HAADF/data"]
    layout = h5py.VirtualLayout((64, 64), "u2")
    layout[:] = h5py.VirtualSource(other, "data/HAADF/data", (64, 64))
    file.create_virtual_dataset("data/HAADF/data", layout)


@pytest.mark.parametrize("how", [external_link, external_storage, virtual])
def test_hdf5_files_do_not_reach_into_other_files(tmp_path, how):
    other = tmp_path / "other.emd"
    other.write_bytes(fuzz_seeds.berkeley_emd())
    path = tmp_path / "a.emd"
    path.write_bytes(fuzz_seeds.berkeley_emd())
    with h5py.File(path, "r+") as file:
        how(file, str(other))
    with pytest.raises(PointDefectsError, match="data in other files"):
        read_image(path)
