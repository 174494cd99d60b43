"""The file formats: each reader lists a file's signals, and loads one when asked.

A signal's data are loaded only once it is chosen, so a stack of many gigabytes is refused without
being read. Nothing is unpickled.
"""

from __future__ import annotations

import math
import re
import struct
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import PIL.Image

from napari_point_defects.dm_files import read_dm
from napari_point_defects.errors import PointDefectsError
from napari_point_defects.hdf5_files import read_emd, read_hspy
from napari_point_defects.signals import (
    SignalInfo,
    check_claim,
    damaged,
    load_entry,
    load_frame,
    read_rosettasciio,
)
from napari_point_defects.tiff_files import read_tiff

_SER_32_BIT, _SER_SPECTRUM = 0x210, 0x4120
"""Latest version of ser files with offsets of four bytes; data type of spectra."""


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
        _check_ser(ser)
    return read_rosettasciio(path, module="tia")


def _check_ser(path: Path) -> None:
    """Refuse a series that cannot hold what it claims: rosettasciio allocates that."""
    size = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(34)
        version, count = (int.from_bytes(head[i:j], "little") for i, j in ((4, 6), (18, 22)))
        width = 4 if version <= _SER_32_BIT else 8
        file.seek(min(int.from_bytes(head[22 : 22 + width], "little"), size))
        file.seek(min(int.from_bytes(file.read(width), "little"), size))
        element = file.read(50)
    # each element has an offset in the file
    if len(element) < 26 or count * width > size:
        raise damaged(path)
    if int.from_bytes(head[6:10], "little") != _SER_SPECTRUM:
        shape = tuple(int.from_bytes(element[i : i + 4], "little") for i in (46, 42))
        check_claim(shape, 1, path)
        if len(element) < 50 or count * math.prod(shape) > size:
            raise damaged(path)


def _read_mrc(path: Path) -> list[SignalInfo]:
    """Read an mrc file that is as long as it claims."""
    with path.open("rb") as file:
        shape = struct.unpack("<4I", file.read(16))[2::-1]
    if math.prod(shape) > path.stat().st_size:
        check_claim(shape[1:], 1, path)
        raise damaged(path)
    return read_rosettasciio(path, module="mrc")


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
    try:
        opened = PIL.Image.open(path, formats=("PNG", "JPEG", "BMP"))
    except PIL.Image.DecompressionBombError as error:
        raise PointDefectsError(
            f"{path.name} claims more pixels than a picture may have: save it as tif"
        ) from error
    with opened as picture:
        check_claim((picture.height, picture.width), len(picture.getbands()), path)
        if picture.mode in ("P", "PA", "CMYK", "YCbCr"):
            picture = picture.convert("RGB")
        elif picture.mode == "LA":
            picture = picture.convert("L")
        data = np.asarray(picture)
    return [SignalInfo("", data.shape, data.dtype, (), data.ndim == 3, lambda: data)]


READERS: dict[str, Callable[[Path], list[SignalInfo]]] = {
    ".dm3": read_dm,
    ".dm4": read_dm,
    ".emd": read_emd,
    ".ser": _read_tia,
    ".emi": _read_tia,
    ".mrc": _read_mrc,
    ".tif": read_tiff,
    ".tiff": read_tiff,
    ".hspy": read_hspy,
    ".npy": _read_npy,
    ".png": _read_picture,
    ".jpg": _read_picture,
    ".jpeg": _read_picture,
    ".bmp": _read_picture,
}
"""Reader of each extension that :func:`read_image` takes."""

NOT_NAPARIS = (".dm3", ".dm4", ".emd", ".emi", ".mrc", ".ser")
"""Extensions that napari asks this plugin to read; it reads the others itself."""
