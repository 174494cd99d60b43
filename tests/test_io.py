import logging
import os
import warnings
from contextlib import suppress
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pytest
import tifffile
from PIL import Image

from napari_point_defects.errors import PointDefectsError
from napari_point_defects.io import list_signals, read_calibration, read_image
from napari_point_defects.materials import get_material
from napari_point_defects.outputs import (
    atomic_write,
    cell_outlines_px,
    check_outputs,
    write_json,
    write_overlay,
    write_table,
)
from napari_point_defects.readers import READERS
from napari_point_defects.records import Calibration, Lattice, StemImage, UnitCells
from napari_point_defects.signals import plain_unit

SHARED = Path(__file__).parents[2] / "shared" / "data"
FORMATS = SHARED / "formats"
NCEM = FORMATS / "openNCEM" / "ncempy" / "data"
RSCIIO = FORMATS / "rosettasciio" / "rsciio" / "tests" / "data"
needs_shared = pytest.mark.skipif(not SHARED.is_dir(), reason="the shared test data are absent")


@pytest.fixture
def frame():
    """An image whose every pixel differs from its mirror images."""
    return np.arange(70 * 80).reshape(70, 80) % 251


@pytest.fixture(autouse=True)
def silent(capfd):
    """Readers neither warn nor print."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.simplefilter("ignore", ResourceWarning)  # rosettasciio leaves some files open
        yield
    out, err = capfd.readouterr()
    assert out + err == ""


def refused(path, match, **options):
    """Check that a file is refused in one line."""
    with pytest.raises(PointDefectsError, match=match) as info:
        read_image(path, **options)
    assert "\n" not in str(info.value)


def save_berkeley(path, data, name=b"frame", axes=(b"y", b"x"), units=b"n_m", scale=(0.01, 0.02)):
    with h5py.File(path, "a") as file:
        group = file.require_group(b"data/" + name)
        group.attrs["emd_group_type"] = 1
        group["data"] = data
        for i, n in enumerate(data.shape):
            dim = group.create_dataset(f"dim{i + 1}", data=np.arange(n) * scale[i % 2])
            dim.attrs["name"], dim.attrs["units"] = axes[i % 2], units


# --- what is read ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "dtype", ["u1", "i1", "<u2", ">u2", "i4", "u4", "i8", "u8", "f2", "f4", ">f8"]
)
def test_npy_of_every_number_type(tmp_path, frame, dtype):
    data = (frame - 125 * (np.dtype(dtype).kind != "u")).astype(dtype)
    np.save(tmp_path / "a.b.npy", data)
    image = read_image(tmp_path / "a.b.npy")
    assert image.data.dtype == np.float32
    np.testing.assert_array_equal(image.data, data.astype(float))
    assert image.name == "a.b"
    assert image.path == tmp_path / "a.b.npy"
    assert image.calibration == Calibration(None, "none")


@pytest.mark.parametrize("suffix", [".png", ".bmp", ".tif", ".TIFF", ".jpg"])
@pytest.mark.parametrize("channels", [1, 3])
def test_grey_pictures(tmp_path, frame, suffix, channels):
    path = tmp_path / f"a{suffix}"
    data = frame.astype(np.uint8)
    Image.fromarray(data if channels == 1 else np.dstack([data] * 3)).save(path, quality=95)
    tolerance = 40 if suffix == ".jpg" else 0
    np.testing.assert_allclose(read_image(path).data, data, atol=tolerance)


def test_sixteen_bit_png_and_alpha(tmp_path, frame):
    Image.fromarray((frame * 200).astype(np.uint16)).save(tmp_path / "a.png")
    np.testing.assert_array_equal(read_image(tmp_path / "a.png").data, frame * 200)
    grey = frame.astype(np.uint8)
    Image.fromarray(np.dstack([grey] * 3 + [255 - grey])).save(tmp_path / "b.png")
    np.testing.assert_array_equal(read_image(tmp_path / "b.png").data, grey)


def test_palettes(tmp_path, frame):
    # a TIFF's index is the data, a picture's colours are
    colours = np.random.default_rng(0).integers(0, 2**16, (3, 256), dtype=np.uint16)
    tifffile.imwrite(
        tmp_path / "a.tif", frame.astype(np.uint8), photometric="palette", colormap=colours
    )
    np.testing.assert_array_equal(read_image(tmp_path / "a.tif").data, frame)
    picture = Image.fromarray(frame.astype(np.uint8)).convert("P")
    picture.putpalette(np.repeat(np.arange(256)[::-1], 3).astype(np.uint8).tobytes())
    picture.save(tmp_path / "a.png")
    np.testing.assert_array_equal(read_image(tmp_path / "a.png").data, 255 - frame)


@pytest.mark.parametrize(
    ("unit", "nm"), [("nm", 1), ("micron", 1e3), ("\\u00B5m", 1e3), ("Angstrom", 0.1)]
)
def test_imagej_tiff_is_calibrated_per_axis(tmp_path, frame, unit, nm):
    tifffile.imwrite(
        tmp_path / "a.tif",
        frame.astype(np.float32),
        imagej=True,
        resolution=(1 / 0.005, 1 / 0.004),
        metadata={"unit": unit},
    )
    size = read_image(tmp_path / "a.tif").calibration.pixel_size_nm
    assert size == pytest.approx((0.004 * nm, 0.005 * nm), rel=1e-4)


@pytest.mark.parametrize(
    ("options", "size"),
    [
        # a microscope's: 1e7 pixels per cm are 1 nm
        ({"resolution": (2e8, 1e8), "resolutionunit": "CENTIMETER"}, (0.1, 0.05)),
        ({"resolution": (2.54e8, 2.54e8), "resolutionunit": "INCH"}, (0.1, 0.1)),
        # a printer's
        ({"resolution": (300, 300), "resolutionunit": "INCH"}, None),
        ({"resolution": (118, 118), "resolutionunit": "CENTIMETER"}, None),
        ({"resolution": (300, 300), "resolutionunit": "NONE"}, None),
        ({"resolution": (72, 72), "imagej": True, "metadata": {"unit": "inch"}}, None),
        ({"resolution": (28, 28), "imagej": True, "metadata": {"unit": "cm"}}, None),
        ({"resolution": (9, 9), "imagej": True, "metadata": {"unit": "pixel"}}, None),
        ({"resolution": (0, 0), "resolutionunit": "INCH"}, None),
    ],
)
def test_tiff_resolution(tmp_path, frame, options, size):
    tifffile.imwrite(tmp_path / "a.tif", frame.astype(np.float32), **options)
    calibration = read_image(tmp_path / "a.tif").calibration
    assert calibration.pixel_size_nm == (size and pytest.approx(size, rel=1e-4))
    assert calibration.source == ("file" if size else "none")
    assert calibration.problem == ""


@pytest.mark.parametrize(
    ("metadata", "size"),
    [
        ({"PhysicalSizeX": 12, "PhysicalSizeY": 15, "PhysicalSizeXUnit": "pm",
          "PhysicalSizeYUnit": "pm"}, (0.015, 0.012)),
        ({"PhysicalSizeX": 0.12, "PhysicalSizeY": 0.15, "PhysicalSizeXUnit": "Å",
          "PhysicalSizeYUnit": "nm"}, (0.15, 0.012)),
        ({"PhysicalSizeX": 1.2e-5, "PhysicalSizeY": 1.5e-5}, (0.015, 0.012)),
        ({"PhysicalSizeX": 12}, None),
    ],
)  # fmt: skip
def test_ome_tiff(tmp_path, frame, metadata, size):
    path = tmp_path / "a.ome.tif"
    tifffile.imwrite(path, frame.astype(np.float32), ome=True, metadata=metadata)
    assert read_image(path).calibration.pixel_size_nm == (size and pytest.approx(size))


def test_compressed_tiff(tmp_path, frame):
    tifffile.imwrite(tmp_path / "a.tif", frame.astype(np.uint16), compression="lzw")
    np.testing.assert_array_equal(read_image(tmp_path / "a.tif").data, frame)


@pytest.mark.parametrize("axes", [(b"y", b"x"), (b"X", b"Y")])
def test_berkeley_emd_by_its_axes_names(tmp_path, frame, axes):
    path = tmp_path / "a.emd"
    save_berkeley(path, frame if axes[0] == b"y" else frame.T, axes=axes)
    image = read_image(path)
    np.testing.assert_array_equal(image.data, frame)
    expected = (0.01, 0.02) if axes[0] == b"y" else (0.02, 0.01)
    assert image.calibration.pixel_size_nm == pytest.approx(expected)
    assert image.signal == "frame"


def test_mrc(tmp_path, frame):
    header = np.zeros(256, "<i4")
    header[[0, 1, 2, 3]] = 80, 70, 1, 6
    header[[7, 8, 9]] = 80, 70, 1
    header[10:12] = np.array([80 * 0.05, -70.0], "<f4").view("<i4")
    path = tmp_path / "a.mrc"
    path.write_bytes(header.tobytes() + frame.astype("<u2").tobytes())
    image = read_image(path)
    np.testing.assert_array_equal(image.data, frame)
    assert image.calibration == Calibration(None, "none")  # one scale is −1
    path.write_bytes(header.tobytes() + frame.astype("<u2").tobytes()[:-1])
    refused(path, "damaged or cut short")


@pytest.mark.parametrize(
    ("units", "plain"),
    [("[n_m]", "nm"), ("\u00c5", "å"), ("\u212b", "å"), ("µm", "um"),
     ("μm", "um"), ("1 / nm", "1/nm"),
     ("Meters", "meter"), ("m", "m"), ("A", "a"), ("px", "px"), ("pm", "pm"),
     ("nm⁻¹", "nm-1"), ("nm/pixel", "nm"), ("Å per px", "å"), ("Âµm", "um"), ("Ã…", "å")],
)  # fmt: skip
def test_units(units, plain):
    assert plain_unit(units) == plain


@pytest.mark.parametrize(
    ("units", "nm"),
    [(b"[n_m]", 1), ("Å", 0.1), (b"A", 0.1), ("µm", 1000), (b"pm", 1e-3), (b"m", 1e9)],
)
def test_units_to_nm(tmp_path, frame, units, nm):
    save_berkeley(tmp_path / "a.emd", frame, units=units)
    calibration = read_image(tmp_path / "a.emd").calibration
    assert calibration.pixel_size_nm == pytest.approx((0.01 * nm, 0.02 * nm))
    assert calibration.source == "file"


@pytest.mark.parametrize("scale", [(0, 0), (-1, -1), (np.nan, 1), (1, np.inf)])
def test_scales_that_mean_nothing(tmp_path, frame, scale):
    with np.errstate(invalid="ignore"):
        save_berkeley(tmp_path / "a.emd", frame, scale=scale)
    assert read_image(tmp_path / "a.emd").calibration == Calibration(None, "none")


@pytest.mark.parametrize("units", [b"px", b"", b"furlong"])
def test_units_that_mean_nothing(tmp_path, frame, units):
    save_berkeley(tmp_path / "a.emd", frame, units=units)
    calibration = read_image(tmp_path / "a.emd").calibration
    assert calibration == Calibration(None, "none")
    assert ("0.01 furlong × 0.02 furlong" in calibration.problem) == (units == b"furlong")


@pytest.mark.parametrize(
    ("scale", "stated"),
    [((-1, -1), "-1 n_m"), ((1e9, 1e9), "1e+09 n_m"), ((0, 0.01), "0 n_m"), ((1e-9, 1), "1e-09")],
)
def test_sizes_that_no_pixel_has_are_told(tmp_path, frame, scale, stated):
    save_berkeley(tmp_path / "a.emd", frame, scale=scale, units=b"[n_m]")
    calibration = read_image(tmp_path / "a.emd").calibration
    assert calibration.pixel_size_nm is None
    assert stated in calibration.problem


def test_reading_the_calibration_alone(tmp_path, frame):
    path = tmp_path / "a.emd"
    save_berkeley(path, frame, axes=(b"x", b"y"))
    assert read_calibration(path) == read_image(path).calibration
    assert read_calibration(path).pixel_size_nm == pytest.approx((0.02, 0.01))
    save_berkeley(path, frame, name=b"pattern", units=b"1/nm")
    with pytest.raises(PointDefectsError, match="diffraction pattern"):
        read_calibration(path, signal="pattern")


@pytest.mark.parametrize(
    "units", ["[1/n_m]", "nm⁻¹", "1/Å", "nm^-1", "Å-1", "nm^{-1}", "mrad", "rad", "1 / µm"]
)
def test_diffraction_pattern(tmp_path, frame, units):
    save_berkeley(tmp_path / "a.emd", frame, units=units)
    refused(tmp_path / "a.emd", "diffraction pattern")
    image = read_image(tmp_path / "a.emd", pixel_size_nm=0.01)
    assert image.calibration == Calibration((0.01, 0.01), "user")


@pytest.mark.parametrize("size", [0, -0.01, np.nan, np.inf])
def test_users_pixel_size(tmp_path, frame, size):
    np.save(tmp_path / "a.npy", frame)
    refused(tmp_path / "a.npy", "--pixel-size-nm", pixel_size_nm=size)


# --- several signals -------------------------------------------------------------------------


def test_the_only_image_is_taken(tmp_path, frame):
    path = tmp_path / "a.emd"
    save_berkeley(path, np.ones(9), name=b"spectrum")
    save_berkeley(path, frame, name=b"survey")
    save_berkeley(path, frame * 1j, name=b"transform")
    assert read_image(path).signal == "survey"
    save_berkeley(path, np.stack([frame] * 3), name=b"HAADF")
    refused(path, "several signals.*--signal NAME|INDEX")


def test_haadf_is_preferred_only_when_unique(tmp_path, frame):
    path = tmp_path / "a.emd"
    save_berkeley(path, frame, name=b"BF")
    save_berkeley(path, frame + 1, name=b"HAADF 1")
    assert read_image(path).signal == "HAADF 1"
    save_berkeley(path, frame, name=b"HAADF 2")
    refused(path, "0: BF .*1: HAADF 1 .*2: HAADF 2 .*--signal")
    assert [s.name for s in list_signals(path)] == ["BF", "HAADF 1", "HAADF 2"]
    assert read_image(path, signal="bf").signal == "BF"
    assert read_image(path, signal=2).signal == "HAADF 2"
    assert read_image(path, signal="1").signal == "HAADF 1"
    refused(path, "no signal 'DF'", signal="DF")
    refused(path, "no signal 3", signal=3)
    refused(path, "no signal -1", signal=-1)


# --- what is refused -------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(5, 70, 80), (2, 3, 70, 80)])
def test_stacks(tmp_path, shape):
    np.save(tmp_path / "a.npy", np.zeros(shape))
    tifffile.imwrite(tmp_path / "a.tif", np.zeros(shape, np.float32), photometric="minisblack")
    save_berkeley(tmp_path / "a.emd", np.zeros(shape))
    for suffix in (".npy", ".tif", ".emd"):
        refused(tmp_path / f"a{suffix}", "stack .*save one frame.*--signal cannot", signal=0)


def test_a_stack_of_one_is_an_image(tmp_path, frame):
    np.save(tmp_path / "a.npy", frame[None])
    np.testing.assert_array_equal(read_image(tmp_path / "a.npy").data, frame)


@pytest.mark.parametrize("suffix", [".png", ".bmp", ".tif", ".jpg", ".npy"])
def test_colour(tmp_path, frame, suffix):
    data = np.dstack([frame, frame.max() - frame, frame]).astype(np.uint8)
    path = tmp_path / f"a{suffix}"
    np.save(path, data) if suffix == ".npy" else Image.fromarray(data).save(path)
    refused(path, "colour image")


@pytest.mark.parametrize(
    ("data", "match"),
    [
        (np.ones((70, 80)), "same value everywhere"),
        (np.full((70, 80), np.nan), "no finite values"),
        (np.eye(16), "16 × 16 pixels"),
        (np.eye(63, 200), "63 × 200 pixels"),
        (np.arange(90.0)[None], "spectrum or a line"),
        (np.float64(3), "spectrum or a line"),
        (np.zeros((0, 70)), "0 × 70 pixels"),
        (np.eye(70) * 1j, "type complex128"),
        (np.eye(70, dtype=bool), "type bool"),
        (np.eye(70).astype("U3"), "type <U3"),
        (np.zeros((70, 80), [("a", "f4"), ("b", "f4")]), "type"),
        (np.eye(70).astype("M8[s]"), "type"),
    ],
)
def test_arrays_that_are_no_image(tmp_path, data, match):
    np.save(tmp_path / "a.npy", data)
    refused(tmp_path / "a.npy", match)


def test_nan_and_infinity_become_nan(tmp_path, frame):
    data = frame.astype(float)
    data[0, :3] = np.nan, np.inf, -np.inf
    np.save(tmp_path / "a.npy", data)
    image = read_image(tmp_path / "a.npy").data
    assert np.isnan(image[0, :3]).all()
    np.testing.assert_array_equal(image.ravel()[3:], data.ravel()[3:])


@pytest.mark.parametrize(
    "offset",
    [
        np.int64(2**62),
        np.int64(-(2**62)),
        np.uint64(2**63 + 2**62),
        np.int32(2**30),
        np.float64(1e9),
    ],
)
def test_a_large_offset_does_not_eat_the_detail(tmp_path, frame, offset):
    np.save(tmp_path / "a.npy", frame.astype(offset.dtype) + offset)
    np.testing.assert_array_equal(read_image(tmp_path / "a.npy").data, frame)


def test_an_array_of_objects_is_not_unpickled(tmp_path):
    class Bomb:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "boom"),)

    np.save(tmp_path / "a.npy", np.array([[Bomb()]], dtype=object), allow_pickle=True)
    refused(tmp_path / "a.npy", "damaged")
    assert not (tmp_path / "boom").exists()


def test_paths_that_are_no_file(tmp_path):
    refused(tmp_path / "missing.dm3", "does not exist")
    (tmp_path / "folder.dm3").mkdir()
    refused(tmp_path / "folder.dm3", "not a file")
    (tmp_path / "a.xyz").write_text("x")
    refused(tmp_path / "a.xyz", "'?.xyz'? cannot be read; use one of .dm3")
    (tmp_path / "empty.ser").touch()
    refused(tmp_path / "empty.ser", "is empty")


@pytest.mark.parametrize("suffix", READERS)
@pytest.mark.parametrize(
    "content",
    [b"This is no image, but a text.\n" * 9, b"\x00", bytes(3000), b"\xff" * 3000, b"\x03" * 3000],
)
def test_files_that_are_something_else(tmp_path, suffix, content):
    path = tmp_path / f"a{suffix}"
    path.write_bytes(content)
    refused(path, path.name)


def test_headers_that_claim_too_much(tmp_path):
    with h5py.File(tmp_path / "a.emd", "w") as file:
        group = file.create_group("data/frame")
        group.attrs["emd_group_type"] = 1
        group.create_dataset("data", (30000, 30000), "f4", chunks=(100, 100))
    refused(tmp_path / "a.emd", "more than can be read")
    np.lib.format.open_memmap(tmp_path / "a.npy", "w+", "u1", (70, 70)).flush()
    content = (tmp_path / "a.npy").read_bytes().replace(b"(70, 70), }  ", b"(70000, 70000), }"[:13])
    (tmp_path / "b.npy").write_bytes(content)
    refused(tmp_path / "b.npy", "damaged")


# --- real files ------------------------------------------------------------------------------


@needs_shared
@pytest.mark.parametrize(
    ("path", "shape", "size"),
    [
        (NCEM / "16_STOimage_1.ser", (1024, 1024), (0.0100127, 0.0100127)),
        (NCEM / "Acquisition_18.emd", (1024, 1024), (0.0122465, 0.0122465)),
        (NCEM / "dmTest_float32_nonSquare_diffPixelSize.dm3", (64, 128), (0.2, 1.0)),
        (NCEM / "dmTest_float32_nonSquare_diffPixelSize.dm4", (64, 128), (0.2, 1.0)),
        (NCEM / "STEM HAADF Diffraction Micro.emd", (128, 128), (87.3708, 87.3708)),
        (RSCIIO / "digitalmicrograph/2D/multi_signal.dm3", (512, 512), (0.0177516, 0.0177516)),
        (RSCIIO / "tia/new/128x128-TEM_search.emi", (128, 128), (5.261214, 5.261214)),
        (RSCIIO / "tiff/olympus_SIS.tif", (101, 112), (0.023928, 0.023928)),
        (RSCIIO / "tiff/test_loading_image_saved_with_imageJ_no_scale.tif", (68, 68), None),
        (SHARED / "real/MoS2_Se_implanted/example_Se_implanted_MoS2.dm3", (1024, 1024),
         (0.0126953, 0.0126953)),
        (SHARED / "real/MoS2_MOCVD/MoS2_stem_Exp-000-2.npy", (512, 512), None),
    ],
    ids=lambda value: value.name if isinstance(value, Path) else "",
)  # fmt: skip
def test_real_files(path, shape, size):
    image = read_image(path)
    assert image.data.shape == shape
    assert image.calibration.pixel_size_nm == (size and pytest.approx(size, rel=1e-4))


@needs_shared
@pytest.mark.parametrize(
    ("path", "match"),
    [
        (NCEM / "08_carbon.dm3", "spectrum or a line"),
        (NCEM / "temp.mrc", "stack"),
        (RSCIIO / "tia/old/03_Scanning Preview.emi", "stack"),
        (RSCIIO / "emd/fei_example_dpc_titles.emd", "1: DPC .*complex.*--signal"),
        (RSCIIO / "hspy/example2_v3.1.hspy", "diffraction pattern"),
        (RSCIIO / "tiff/optical_Zeiss_AxioVision_RGB.tif", "colour"),
        (RSCIIO / "mrc/20241021_00405_final.mrc", "4 × 8 pixels"),
    ],
    ids=lambda value: value.name if isinstance(value, Path) else "",
)
def test_real_files_that_are_refused(path, match):
    refused(path, match)


@needs_shared
@pytest.mark.parametrize(
    "path",
    [
        NCEM / "16_STOimage_1.ser",
        NCEM / "Acquisition_18.emd",
        NCEM / "STEM HAADF Diffraction Micro.emd",
        NCEM / "dmTest_float32_nonSquare_diffPixelSize.dm4",
        RSCIIO / "digitalmicrograph/2D/multi_signal.dm3",
        RSCIIO / "hspy/example2_v3.1.hspy",
        RSCIIO / "tiff/test_loading_image_saved_with_imageJ.tif",
    ],
    ids=lambda path: path.name,
)
@pytest.mark.parametrize("part", [0.01, 0.3, 0.9])
def test_truncated_files(tmp_path, path, part):
    content = path.read_bytes()
    (tmp_path / path.name).write_bytes(content[: int(len(content) * part)])
    refused(tmp_path / path.name, ".")


@needs_shared
def test_emi_without_its_ser(tmp_path):
    content = (RSCIIO / "tia/new/128x128-TEM_search.emi").read_bytes()
    (tmp_path / "a.emi").write_bytes(content)
    refused(tmp_path / "a.emi", "is a_1.ser beside it")


@needs_shared
def test_loggers_are_as_before():
    level = logging.getLogger("rsciio").level
    read_image(NCEM / "16_STOimage_1.ser")
    assert logging.getLogger("rsciio").level == level


# --- outputs ---------------------------------------------------------------------------------


def test_atomic_write(tmp_path):
    path = tmp_path / "new" / "a.txt"
    with atomic_write(path) as temporary:
        temporary.write_text("1")
        assert temporary.suffix == ".txt"
        assert not path.exists()
    assert path.read_text() == "1"
    with pytest.raises(PointDefectsError, match="--overwrite"), atomic_write(path):
        pass
    with suppress(KeyboardInterrupt), atomic_write(path, True) as temporary:
        temporary.write_text("2")
        raise KeyboardInterrupt
    assert path.read_text() == "1"
    with atomic_write(path, overwrite=True) as temporary:
        temporary.write_text("3")
    assert path.read_text() == "3"
    assert [p.name for p in path.parent.iterdir()] == ["a.txt"]


def test_unwritable_outputs(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    with pytest.raises(PointDefectsError, match="cannot make the folder"):
        write_json({}, tmp_path / "file" / "a.json")
    with pytest.raises(PointDefectsError, match="is a folder"):
        check_outputs([tmp_path], overwrite=True)
    with monkeypatch.context() as patch:
        patch.setattr(os, "access", lambda *_: False)
        with pytest.raises(PointDefectsError, match="cannot write to"):
            check_outputs([tmp_path / "a.csv"], overwrite=True)
    with pytest.raises(PointDefectsError, match="No space"), atomic_write(tmp_path / "b"):
        raise OSError(28, "No space left on device")


def test_write_json(tmp_path):
    content = {
        "a": np.float32(0.5),
        "b": np.array([1, 2]),
        "c": (Path("x/y"), float("nan")),
        "d": np.bool_(True),
        "e": "Å",
    }
    write_json(content, tmp_path / "a.json")
    import json

    loaded = json.loads((tmp_path / "a.json").read_text(encoding="utf-8"))
    assert loaded == {"a": 0.5, "b": [1, 2], "c": ["x/y", None], "d": True, "e": "Å"}


def test_write_table(tmp_path):
    write_table(pd.DataFrame({"y": [4095.1234567], "label": ["V_Te1"]}), tmp_path / "a.csv")
    assert (tmp_path / "a.csv").read_bytes() == b"y,label\n4095.123,V_Te1\n"


def one_cell(defect_class):
    lattice = Lattice(np.zeros(2), np.array([[0.0, -30.0], [30.0, 0.0]]))
    probabilities = np.eye(6)[[defect_class]]
    cells = UnitCells(np.array([[100.0, 90]]), np.array([[100.0, 110]]), np.ones(1), probabilities)
    return cells, lattice


def test_outlines_follow_the_lattice():
    cells, lattice = one_cell(1)
    outline = cell_outlines_px(cells, lattice)
    assert outline.shape == (1, 4, 2)
    # turned by 90°: a along y, (√3/2)a along x, about the middle of the bond
    np.testing.assert_allclose(outline[0].mean(axis=0), [100, 100])
    np.testing.assert_allclose(np.ptp(outline[0], axis=0), [30, 30 * np.sqrt(3) / 2])


@pytest.mark.parametrize("shape", [(64, 64), (512, 512), (64, 900), (900, 64), (4100, 300)])
def test_overlay_of_any_shape(tmp_path, shape):
    data = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    data[:5] = np.nan
    cells, lattice = one_cell(1)
    image = StemImage(data, calibration=Calibration((0.01, 0.01), "file"))
    write_overlay(image, cells, lattice, get_material("MoTe2"), tmp_path / "a.png")
    with Image.open(tmp_path / "a.png") as picture:
        assert 1500 <= max(picture.size) <= 4500
    with pytest.raises(PointDefectsError, match="--overwrite"):
        write_overlay(image, cells, lattice, get_material("MoTe2"), tmp_path / "a.png")


@pytest.mark.parametrize("calibrated", [False, True])
def test_overlay_outlines_the_defect_in_its_colour(tmp_path, calibrated):
    data = np.tile(np.float32([0, 1]), (256, 128))
    cells, lattice = one_cell(3)
    calibration = Calibration((0.01, 0.01), "file") if calibrated else Calibration()
    write_overlay(
        StemImage(data, calibration=calibration),
        cells,
        lattice,
        get_material("MoTe2"),
        tmp_path / "a.png",
    )
    with Image.open(tmp_path / "a.png") as picture:
        pixels = np.asarray(picture.convert("RGB"))
    zoom = 1600 / 256
    blue = (np.abs(pixels.astype(int) - [0x2B, 0x6C, 0xFF]) < 30).all(axis=-1)
    rows, columns = np.nonzero(blue[:1600])
    # pixel centres are at integers, so the image begins at −0.5
    assert (rows.min() + rows.max()) / 2 == pytest.approx(100.5 * zoom, abs=2)
    assert (columns.min() + columns.max()) / 2 == pytest.approx(100.5 * zoom, abs=2)
    assert np.ptp(rows) == pytest.approx(30 * zoom, abs=6)
    assert blue[1600:].any()  # the legend
