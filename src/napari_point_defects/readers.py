"""The file formats: each reader lists a file's signals, and loads one when asked.

A signal's data are loaded only once it is chosen, so a stack of many gigabytes is refused without
being read. Nothing is unpickled.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path

import h5py
import numpy as np
import PIL.Image

from napari_point_defects.errors import PointDefectsError
from napari_point_defects.signals import (
    Axis,
    SignalInfo,
    load_entry,
    load_frame,
    read_rosettasciio,
)
from napari_point_defects.tiff_files import read_tiff


def _read_tia(path: Path) -> list[SignalInfo]:
    """Read ser files, alone or through the emi file beside them."""
    sers = [path]
    if path.suffix.lower() == ".emi":
        sers = [
            p
            for p in path.parent.iterdir()
            if re.fullmatch(re.escape(path.stem) + r"_\d\.ser", p.name, re.IGNORECASE)
        ]
    for ser in sers:
        # Bytes 18 to 22 are the number of elements, each of which has an offset of at least 4
        # bytes in the file: rosettasciio allocates what the header claims.
        with ser.open("rb") as file:
            count = int.from_bytes(file.read(22)[18:], "little")
        if count * 4 > ser.stat().st_size:
            raise PointDefectsError(f"{ser.name} is damaged or cut short: copy it anew")
    return read_rosettasciio(path, module="tia")


def _read_emd(path: Path) -> list[SignalInfo]:
    """Read a Velox or a Berkeley emd file."""
    with h5py.File(path, "r") as file:
        groups: list[str] = []
        file.visititems(
            lambda name, item: groups.append(name) if "emd_group_type" in item.attrs else None
        )
        if not groups:
            return read_rosettasciio(path, module="emd", select_type="images")
        return [
            _berkeley_signal(path, data)
            for name in groups
            for data in [file[name].get("data")]
            if isinstance(data, h5py.Dataset)
        ]


def _berkeley_signal(path: Path, data: h5py.Dataset) -> SignalInfo:
    """Describe the data of one Berkeley group, whose ``dim1`` … hold the axes' positions.

    Not by rosettasciio, which loads stacks whole, drops units that are not in brackets, and
    transposes images whose first axis is y.
    """
    keep = [i for i, n in enumerate(data.shape) if n != 1]
    axes = []
    for i in keep:
        dim = data.parent.get(f"dim{i + 1}")
        if dim is None:
            axes.append(Axis())
            continue
        positions = np.ravel(dim[:2])
        scale = float(positions[1] - positions[0]) if len(positions) > 1 else math.nan
        name, units = (dim.attrs.get(key, b"") for key in ("name", "units"))
        axes.append(Axis(_text(name), scale, _text(units)))
    return SignalInfo(
        name=data.parent.name.rsplit("/", 1)[-1],
        shape=tuple(data.shape[i] for i in keep),
        dtype=data.dtype,
        axes=tuple(axes),
        load=partial(_load_hdf5, path, data.name),
        load_frame=partial(_load_hdf5_frame, path, data.name, tuple(keep)),
    )


def _text(value: str | bytes) -> str:
    """Decode an attribute that may be bytes."""
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)


def _load_hdf5(path: Path, name: str) -> np.ndarray:
    """Load one dataset without its axes of length 1."""
    with h5py.File(path, "r") as file:
        return file[name][()].squeeze()


def _load_hdf5_frame(path: Path, name: str, keep: tuple[int, ...], index: int) -> np.ndarray:
    """Load one frame of one dataset."""
    with h5py.File(path, "r") as file:
        return load_frame(file[name], keep, index)


def _read_npy(path: Path) -> list[SignalInfo]:
    """Read an array saved by NumPy; the map fails where the file is shorter than it claims."""
    data = np.lib.format.open_memmap(path, mode="r")
    shape = tuple(n for n in data.shape if n != 1)
    keep = tuple(axis for axis, n in enumerate(data.shape) if n != 1)
    is_colour = len(shape) == 3 and shape[-1] in (3, 4)
    load, one = partial(load_entry, data), partial(load_frame, data, keep)
    return [SignalInfo("", shape, data.dtype, (), is_colour, load, one)]


def _read_picture(path: Path) -> list[SignalInfo]:
    """Read a png, jpg or bmp file; a palette's colours are its data."""
    with PIL.Image.open(path, formats=("PNG", "JPEG", "BMP")) as picture:
        if picture.mode in ("P", "PA", "CMYK", "YCbCr"):
            picture = picture.convert("RGB")
        elif picture.mode == "LA":
            picture = picture.convert("L")
        data = np.asarray(picture)
    return [SignalInfo("", data.shape, data.dtype, (), data.ndim == 3, lambda: data)]


READERS: dict[str, Callable[[Path], list[SignalInfo]]] = {
    ".dm3": partial(read_rosettasciio, module="digitalmicrograph"),
    ".dm4": partial(read_rosettasciio, module="digitalmicrograph"),
    ".emd": _read_emd,
    ".ser": _read_tia,
    ".emi": _read_tia,
    ".mrc": partial(read_rosettasciio, module="mrc"),
    ".tif": read_tiff,
    ".tiff": read_tiff,
    ".hspy": partial(read_rosettasciio, module="hspy"),
    ".npy": _read_npy,
    ".png": _read_picture,
    ".jpg": _read_picture,
    ".jpeg": _read_picture,
    ".bmp": _read_picture,
}
"""Reader of each extension that :func:`read_image` takes."""

NOT_NAPARIS = (".dm3", ".dm4", ".emd", ".emi", ".mrc", ".ser")
"""Extensions that napari asks this plugin to read; it reads the others itself."""
