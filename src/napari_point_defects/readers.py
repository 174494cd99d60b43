"""The file formats: each reader lists a file's signals, and loads one when asked.

A signal's data are loaded only once it is chosen, so a stack of many gigabytes is refused without
being read. Nothing is unpickled.
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from importlib import import_module
from pathlib import Path
from xml.etree import ElementTree

import h5py
import numpy as np
import PIL.Image
import tifffile

from napari_point_defects.errors import PointDefectsError

MAX_BYTES = 4 * 2**30
"""More than any frame holds: 32768² in single precision."""

NM_PER_UNIT = {
    name: size
    for size, names in {
        1e-3: ("pm", "picometer", "picometre"),
        0.1: ("a", "å", "ang", "angstrom", "ångström", "ångstrom"),
        1.0: ("nm", "nanometer", "nanometre"),
        1e3: ("um", "micron", "micrometer", "micrometre"),
        1e6: ("mm", "millimeter", "millimetre"),
        1e9: ("m", "meter", "metre"),
    }.items()
    for name in names
}
"""Length of the units that files write, as :func:`plain_unit` spells them."""


_SMALL_STACKS = 2**26
"""Stacks of more bytes are not loaded for what a maker's tags say of their pixel size."""

_NM_PER_INCH = 2.54e7
_LARGEST_PRINTED_NM = 1e3
"""A coarser resolution in pixels per inch or cm is a printer's, not a microscope's."""

_RECIPROCAL = re.compile(r"^1?/|\^-1$|\*\*-1$|[a-zåµ]-1$|^[mu]?rad$|^deg")
"""Plain units of spatial frequencies and of angles."""


def plain_unit(units: str) -> str:
    """Reduce ``[n_m]``, ``Å``, ``µm`` (ImageJ escapes it), ``1 / nm``, ``Meters``, ``nm/pixel``."""
    with suppress(UnicodeError):
        units = units.encode("cp1252").decode("utf-8")  # UTF-8 that was read as Windows' own
    plain = unicodedata.normalize("NFKC", units).lower().replace("μ", "u").replace("\\u00b5", "u")
    plain = "".join(c for c in plain if c not in " _[](){}\"'").replace("−", "-")
    for per_pixel in ("/px", "/pixel", "perpx", "perpixel"):
        plain = plain.removesuffix(per_pixel)
    return plain if plain in NM_PER_UNIT else plain.removesuffix("s")


@dataclass(frozen=True, slots=True)
class Axis:
    """Name, scale and units of one array axis, as the file writes them."""

    name: str = ""
    scale: float = math.nan
    units: str = ""


@dataclass(frozen=True, slots=True)
class SignalInfo:
    """One of the signals of a file.

    Attributes
    ----------
    name : str
        Title in the file; may be empty or shared by several signals.
    shape : tuple of int
        Without axes of length 1, but with the last one of a colour image.
    dtype : numpy.dtype
    axes : tuple of Axis
        One for each entry of ``shape``, or empty.
    is_colour : bool
        Whether the last axis holds colour channels.
    load : callable
        Returns the array of that shape.
    load_frame : callable or None
        Takes an index of the first axis and returns that part, without reading the others; None
        where the format allows no such thing.
    """

    name: str
    shape: tuple[int, ...]
    dtype: np.dtype
    axes: tuple[Axis, ...] = ()
    is_colour: bool = False
    load: Callable[[], np.ndarray] = field(repr=False, compare=False, default=lambda: np.empty(0))
    load_frame: Callable[[int], np.ndarray] | None = field(repr=False, compare=False, default=None)

    @property
    def kind(self) -> str:
        """What the signal is; only an ``"image"`` can be analysed."""
        if len(self.shape) - self.is_colour > 2:
            return "stack"
        if len(self.shape) - self.is_colour < 2:
            return "spectrum"
        if self.is_colour:
            return "colour image"
        if self.dtype.kind not in "iuf":
            return "complex image" if self.dtype.kind == "c" else "mask or table"
        if self.is_reciprocal:
            return "diffraction pattern"
        return "image"

    @property
    def is_reciprocal(self) -> bool:
        """Whether the last two axes are spatial frequencies or angles."""
        return any(_RECIPROCAL.search(plain_unit(axis.units)) for axis in self.axes[-2:])

    def describe(self) -> str:
        """Return e.g. ``HAADF (512 × 512 image)``."""
        size = " × ".join(str(n) for n in self.shape)
        return f"{self.name or 'untitled'} ({size} {self.kind})"


def _rosettasciio(
    path: Path, *, module: str, lazy: bool = True, **options: str
) -> list[SignalInfo]:
    """Read with one of rosettasciio's modules; if ``lazy``, without loading the data."""
    entries = import_module(f"rsciio.{module}").file_reader(str(path), lazy=lazy, **options)
    return [_from_entry(entry) for entry in entries]


def _from_entry(entry: dict) -> SignalInfo:
    """Make a signal of one of rosettasciio's dictionaries."""
    data = entry["data"]
    keep = [i for i, n in enumerate(data.shape) if n != 1]
    axes = entry["axes"]
    channels = data.dtype.names or ()
    is_colour = channels[:3] == ("R", "G", "B")
    return SignalInfo(
        name=str(entry["metadata"].get("General", {}).get("title") or ""),
        shape=tuple(int(data.shape[i]) for i in keep) + (len(channels),) * is_colour,
        dtype=data.dtype[0] if is_colour else data.dtype,
        axes=tuple(_axis(axes[i]) for i in keep) if len(axes) == data.ndim else (),
        is_colour=is_colour,
        load=partial(_load_entry, data),
        load_frame=partial(_load_frame, data, tuple(keep)),
    )


def _axis(axis: dict) -> Axis:
    """Make an axis of one of rosettasciio's dictionaries."""
    scale = axis.get("scale")
    return Axis(
        name=str(axis.get("name") or ""),
        scale=math.nan if scale is None else float(scale),
        units=str(axis.get("units") or ""),
    )


def _load_entry(data) -> np.ndarray:
    """Load an array, dask array or memory map; colour channels become the last axis."""
    array = np.asarray(data.compute(scheduler="synchronous") if hasattr(data, "compute") else data)
    if array.dtype.names:
        array = np.stack([array[name] for name in array.dtype.names], axis=-1)
    return array.squeeze()


def _load_frame(data, keep: tuple[int, ...], index: int) -> np.ndarray:
    """Load one place of the first axis of those kept; the others have length 1."""
    where = tuple(
        index if axis == keep[0] else slice(None) if axis in keep else 0
        for axis in range(data.ndim)
    )
    part = data[where]
    return np.array(part.compute(scheduler="synchronous") if hasattr(part, "compute") else part)


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
    return _rosettasciio(path, module="tia")


def _read_emd(path: Path) -> list[SignalInfo]:
    """Read a Velox or a Berkeley emd file."""
    with h5py.File(path, "r") as file:
        groups: list[str] = []
        file.visititems(
            lambda name, item: groups.append(name) if "emd_group_type" in item.attrs else None
        )
        if not groups:
            return _rosettasciio(path, module="emd", select_type="images")
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
        return _load_frame(file[name], keep, index)


def _read_tiff(path: Path) -> list[SignalInfo]:
    """Read a TIFF: pixel sizes by rosettasciio, which knows the makers' tags, data by tifffile.

    A palette image's index is its data.
    """
    with tifffile.TiffFile(path) as tiff:
        colour = [s.pages[0].photometric == tifffile.PHOTOMETRIC.RGB for s in tiff.series]
        series = [(s.shape, s.dtype, s.axes, s.nbytes) for s in tiff.series]
        imagej_unit = str((tiff.imagej_metadata or {}).get("unit", ""))
        stated = [
            _ome_axes(tiff, i) or _resolution_axes(s.pages[0], imagej_unit)
            for i, s in enumerate(tiff.series)
        ]
        frame_time = [_frame_time(tiff, i) for i in range(len(series))]
    axes: list[tuple[Axis, ...]] = [()] * len(series)
    images = sum(nbytes for shape, *_, nbytes in series if sum(n > 1 for n in shape) < 3)
    if images <= MAX_BYTES // 4 and sum(nbytes for *_, nbytes in series) - images <= _SMALL_STACKS:
        # Tags that rosettasciio cannot read leave the image uncalibrated, not unread. Not lazy:
        # that would leave the file open.
        with suppress(Exception):
            axes = [s.axes for s in _rosettasciio(path, module="tiff", lazy=False)]
    return [
        SignalInfo(
            name="",
            shape=tuple(n for n in shape if n != 1),
            dtype=dtype,
            # rosettasciio knows ImageJ's scale in any unit, but only one unit
            axes=_timed(
                _stated(
                    tuple(replace(axis, units=axis.units or imagej_unit) for axis in axes[i]),
                    stated[i],
                ),
                sum(n > 1 for n in shape),
                frame_time[i],
            ),
            is_colour=colour[i] and code.endswith("S"),
            load=partial(_load_tiff, path, i),
            load_frame=partial(_load_tiff_frame, path, i, shape),
        )
        for i, (shape, dtype, code, _) in enumerate(series)
    ]


def _stated(axes: tuple[Axis, ...], stated: tuple[Axis, ...] | None) -> tuple[Axis, ...]:
    """Give the last two axes what the file states, unless a maker's tags say more."""
    if stated is None or any(plain_unit(axis.units) in NM_PER_UNIT for axis in axes[-2:]):
        return axes
    return (*axes[:-2], *stated)


def _timed(axes: tuple[Axis, ...], ndim: int, frame_time: Axis | None) -> tuple[Axis, ...]:
    """Give the first of three axes the time between frames."""
    if frame_time is None or ndim != 3:
        return axes
    return (frame_time, *(axes[-2:] or (Axis(), Axis())))


def _frame_time(tiff: tifffile.TiffFile, index: int) -> Axis | None:
    """Return the axis of time of a stack, where ImageJ or OME wrote one."""
    with suppress(ElementTree.ParseError, IndexError, KeyError, TypeError, ValueError):
        if tiff.is_ome:
            pixels = ElementTree.fromstring(tiff.ome_metadata).findall(".//{*}Pixels")[index].attrib
            return Axis("t", float(pixels["TimeIncrement"]), pixels.get("TimeIncrementUnit", "s"))
        return Axis("t", float(tiff.imagej_metadata["finterval"]), "s")
    return None


def _ome_axes(tiff: tifffile.TiffFile, index: int) -> tuple[Axis, ...] | None:
    """Return the axes (y, x) of an image of an OME-TIFF, where it states their pixel sizes."""
    if not tiff.is_ome:
        return None
    with suppress(ElementTree.ParseError, IndexError, KeyError, TypeError, ValueError):
        pixels = ElementTree.fromstring(tiff.ome_metadata).findall(".//{*}Pixels")[index].attrib
        return tuple(
            Axis(
                axis.lower(),
                float(pixels[f"PhysicalSize{axis}"]),
                pixels.get(f"PhysicalSize{axis}Unit", "µm"),  # OME's default
            )
            for axis in "YX"
        )
    return None


def _resolution_axes(page: tifffile.TiffPage, imagej_unit: str) -> tuple[Axis, ...] | None:
    """Return the axes (y, x) that a TIFF's resolution per inch or cm states.

    They have no scale where it is a printer's: programs write 72 or 300 into any picture.
    """
    with suppress(KeyError, TypeError, ValueError, ZeroDivisionError):
        code = int(page.tags.valueof("ResolutionUnit", 1))
        unit = plain_unit(imagej_unit) or {2: "inch", 3: "cm"}[code]
        inches = dict.fromkeys(("inch", "inche", "in"), _NM_PER_INCH)
        nm = (NM_PER_UNIT | inches | {"cm": 1e7})[unit]
        axes = []
        for axis in "YX":
            pixels, length = page.tags.valueof(f"{axis}Resolution")
            axes.append(Axis(axis.lower(), nm * length / pixels, "nm"))
        if max(axis.scale for axis in axes) > _LARGEST_PRINTED_NM:
            return Axis("y"), Axis("x")
        return tuple(axes)
    return None


def _load_tiff(path: Path, index: int) -> np.ndarray:
    """Load one series of a TIFF."""
    return tifffile.imread(path, series=index).squeeze()


def _load_tiff_frame(path: Path, series: int, shape: tuple[int, ...], index: int) -> np.ndarray:
    """Load one frame of a series: mapped where it lies in one piece, else its page alone."""
    keep = tuple(axis for axis, n in enumerate(shape) if n != 1)
    with tifffile.TiffFile(path) as tiff:
        stack = tiff.series[series]
        if stack.dataoffset is not None:
            mapped = tifffile.memmap(path, series=series, mode="r")
            return _load_frame(mapped.reshape(shape), keep, index)
        if len(stack.pages) != shape[keep[0]]:
            raise PointDefectsError(
                f"{path.name} is cut short, or its frames are compressed in one piece: save each "
                "as a page, or without compression"
            )
        return stack.pages[index].asarray().squeeze()


def _read_npy(path: Path) -> list[SignalInfo]:
    """Read an array saved by NumPy; the map fails where the file is shorter than it claims."""
    data = np.lib.format.open_memmap(path, mode="r")
    shape = tuple(n for n in data.shape if n != 1)
    keep = tuple(axis for axis, n in enumerate(data.shape) if n != 1)
    is_colour = len(shape) == 3 and shape[-1] in (3, 4)
    load, load_frame = partial(_load_entry, data), partial(_load_frame, data, keep)
    return [SignalInfo("", shape, data.dtype, (), is_colour, load, load_frame)]


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
    ".dm3": partial(_rosettasciio, module="digitalmicrograph"),
    ".dm4": partial(_rosettasciio, module="digitalmicrograph"),
    ".emd": _read_emd,
    ".ser": _read_tia,
    ".emi": _read_tia,
    ".mrc": partial(_rosettasciio, module="mrc"),
    ".tif": _read_tiff,
    ".tiff": _read_tiff,
    ".hspy": partial(_rosettasciio, module="hspy"),
    ".npy": _read_npy,
    ".png": _read_picture,
    ".jpg": _read_picture,
    ".jpeg": _read_picture,
    ".bmp": _read_picture,
}
"""Reader of each extension that :func:`read_image` takes."""
