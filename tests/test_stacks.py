"""Stacks of frames: what is read, frame by frame, and what is refused."""

import h5py
import numpy as np
import pytest
import tifffile
import zarr

from napari_point_defects import hdf5_files, readers, signals, tiff_files
from napari_point_defects.errors import PointDefectsError
from napari_point_defects.stacks import array_stack, open_stack


@pytest.fixture(scope="module")
def frames():
    return np.random.default_rng(3).integers(0, 4000, (5, 70, 80)).astype(np.uint16)


def save_emd(path, data, names=("t", "y", "x"), units=("s", "nm", "nm"), steps=(0.5, 0.02, 0.02)):
    with h5py.File(path, "w") as file:
        group = file.create_group("data/HAADF")
        group.attrs["emd_group_type"] = 1
        group["data"] = data
        for i, (name, unit, step) in enumerate(zip(names, units, steps, strict=True)):
            dim = group.create_dataset(f"dim{i + 1}", data=np.arange(data.shape[i]) * step)
            dim.attrs.update(name=name, units=unit)


def save_mrc(path, data):
    header = np.zeros(256, np.int32)
    header[:4] = *data.shape[::-1], 6
    header[7:10] = data.shape[::-1]
    header.view(np.float32)[10:13] = np.array(data.shape[::-1]) * 0.2
    header[16:19] = 1, 2, 3
    header.view(np.uint8)[208:216] = [*b"MAP ", 0x44, 0x44, 0, 0]
    path.write_bytes(header.tobytes() + data.tobytes())


def write(path, data):
    if path.name == "pages.tif":
        tifffile.imwrite(path, data, compression="zlib")
    elif path.suffix == ".tif":
        meta = {"unit": "nm", "finterval": 0.5, "axes": "TYX"}
        tifffile.imwrite(path, data, imagej=True, resolution=(50, 50), metadata=meta)
    elif path.suffix == ".npy":
        np.save(path, data)
    elif path.suffix == ".emd":
        save_emd(path, data)
    elif path.suffix == ".mrc":
        save_mrc(path, data)
    else:
        array = zarr.create_array(str(path), shape=data.shape, chunks=(1, 64, 64), dtype=data.dtype)
        array[:] = data
    return path


@pytest.mark.parametrize(
    ("name", "size", "seconds"),
    [
        ("a.tif", 0.02, 0.5),
        ("pages.tif", None, None),
        ("a.npy", None, None),
        ("a.emd", 0.02, 0.5),
        ("a.mrc", 0.02, None),
        ("a.zarr", None, None),
    ],
)
def test_frames_are_read_one_by_one(tmp_path, frames, monkeypatch, name, size, seconds):
    path = write(tmp_path / name, frames)

    def never(*_):
        raise AssertionError("the whole stack was read")

    for module, whole in (
        (signals, "load_entry"),
        (readers, "load_entry"),
        (hdf5_files, "_load_hdf5"),
        (tiff_files, "_load_tiff"),
    ):
        monkeypatch.setattr(module, whole, never)
    stack = open_stack(path)
    assert stack.shape == frames.shape
    assert stack.name == path.stem
    assert stack.frame_time_s == seconds
    known = stack.calibration.pixel_size_nm
    assert known == (pytest.approx((size, size)) if size else None)
    np.testing.assert_array_equal(stack.frame(3).data, frames[3])
    assert stack.frame(3).data.dtype == np.float32
    assert stack.frame(4).name == f"{path.stem}_0004"
    assert [image.data.shape for image in stack] == [(70, 80)] * 5
    with pytest.raises(PointDefectsError, match="no frame 5"):
        stack.frame(5)


def test_the_user_knows_the_pixel_size_better(tmp_path, frames):
    stack = open_stack(write(tmp_path / "a.emd", frames), pixel_size_nm=0.03)
    assert stack.calibration.pixel_size_nm == (0.03, 0.03)
    assert stack.calibration.source == "user"


def test_an_ome_zarr_states_its_axes(tmp_path, frames):
    group = zarr.open_group(str(tmp_path / "a.zarr"), mode="w")
    array = group.create_array("0", shape=(5, 1, 70, 80), chunks=(1, 1, 70, 80), dtype="u2")
    array[:] = frames[:, None]
    names = ("t", "c", "y", "x")
    units = ("second", "", "nanometer", "nanometer")
    axes = [{"name": n, "unit": u} for n, u in zip(names, units, strict=True)]
    scale = {"type": "scale", "scale": [2.0, 1.0, 0.02, 0.03]}
    dataset = {"path": "0", "coordinateTransformations": [scale]}
    group.attrs["multiscales"] = [{"axes": axes, "datasets": [dataset]}]
    stack = open_stack(tmp_path / "a.zarr")
    assert stack.shape == (5, 70, 80)
    assert stack.frame_time_s == 2.0
    assert stack.calibration.pixel_size_nm == pytest.approx((0.02, 0.03))
    np.testing.assert_array_equal(stack.frame(2).data, frames[2])


def test_single_frames_in_order(tmp_path, frames):
    paths = []
    for number in (2, 0, 1):
        paths.append(tmp_path / f"f{number}.npy")
        np.save(paths[-1], frames[number])
    stack = open_stack(paths)
    assert stack.shape == (3, 70, 80)
    np.testing.assert_array_equal(stack.frame(0).data, frames[2])
    np.save(paths[1], frames[0, :65])
    with pytest.raises(PointDefectsError, match="another size"):
        stack.frame(1)
    with pytest.raises(PointDefectsError, match="does not exist"):
        open_stack([*paths, tmp_path / "none.npy"])


def test_frames_of_different_pixel_sizes_are_refused(tmp_path, frames):
    paths = [tmp_path / "a.emd", tmp_path / "b.emd"]
    for path, step in zip(paths, (0.02, 0.03), strict=True):
        save_emd(path, frames[0], ("y", "x"), ("nm", "nm"), (step, step))
    with pytest.raises(PointDefectsError, match="another pixel size"):
        open_stack(paths)
    assert len(open_stack(paths, pixel_size_nm=0.02)) == 2


def refused(path, text, **options):
    with pytest.raises(PointDefectsError, match=text) as caught:
        open_stack(path, **options)
    assert "\n" not in str(caught.value)


def test_what_is_no_movie_is_refused(tmp_path, frames):
    np.save(tmp_path / "one.npy", frames[0])
    refused(tmp_path / "one.npy", "one image, not a movie")
    np.save(tmp_path / "four.npy", np.stack([frames, frames]))
    refused(tmp_path / "four.npy", "4 dimensions")
    np.save(tmp_path / "complex.npy", frames.astype(complex))
    refused(tmp_path / "complex.npy", "not intensities")
    save_emd(tmp_path / "eels.emd", frames, ("y", "x", "E"), ("nm", "nm", "eV"))
    refused(tmp_path / "eels.emd", "spectrum image")
    save_emd(tmp_path / "diffraction.emd", frames, units=("", "1/nm", "1/nm"))
    refused(tmp_path / "diffraction.emd", "diffraction pattern")
    refused(tmp_path / "none.npy", "does not exist")
    refused(tmp_path / "none.zarr", "does not exist")
    (tmp_path / "empty.zarr").mkdir()
    refused(tmp_path / "empty.zarr", "no zarr array")
    (tmp_path / "cut.npy").write_bytes((tmp_path / "four.npy").read_bytes()[:1000])
    refused(tmp_path / "cut.npy", "damaged or cut short")
    np.save(tmp_path / "good.npy", frames)
    refused(tmp_path / "good.npy", "pixel size", pixel_size_nm=-1.0)
    refused([], "no file")


def test_a_file_cut_short_later_loses_only_its_last_frames(tmp_path, frames):
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, frames, compression="zlib")
    stack = open_stack(path)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(PointDefectsError, match="cut short"):
        stack.frame(4)


def test_blank_frames_say_so(frames):
    data = frames.astype(float)
    data[1], data[2] = 7.0, np.nan
    stack = array_stack(data)
    with pytest.raises(PointDefectsError, match="same value everywhere"):
        stack.frame(1)
    with pytest.raises(PointDefectsError, match="no finite values"):
        stack.frame(2)
    with pytest.raises(PointDefectsError, match="2 dimensions"):
        array_stack(data[0])
