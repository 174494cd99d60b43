"""What a file holds: its signals with their axes and units, loaded only when they are asked for."""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from importlib import import_module
from pathlib import Path

import numpy as np

from napari_point_defects.errors import PointDefectsError

MAX_BYTES = 4 * 2**30
"""More than any frame holds: 32768² in single precision."""

MAX_COMPRESSION = 2000
"""A file that claims more bytes of data per byte of its own is damaged (deflate: at most 1032)."""

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


def damaged(path: Path) -> PointDefectsError:
    """Return what to raise for a file that cannot hold what it says."""
    return PointDefectsError(f"{path.name} is damaged or cut short: copy it anew")


def check_claim(shape: Sequence[int], itemsize: int, path: Path) -> None:
    """Refuse what a damaged or forged header claims, before it is allocated.

    Raises
    ------
    PointDefectsError
        If an image of that shape is larger than any may be, or than the file can hold.
    """
    size = math.prod(shape) * itemsize
    # an emi file holds the metadata only
    on_disk = MAX_BYTES if path.suffix.lower() == ".emi" else path.stat().st_size
    if size > MAX_BYTES or size > MAX_COMPRESSION * on_disk:
        raise PointDefectsError(
            f"{path.name} claims an image of {' × '.join(map(str, shape))} pixels, which "
            "is more than can be read: crop it, or save it anew"
        )


def read_rosettasciio(
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
        load=partial(load_entry, data),
        load_frame=partial(load_frame, data, tuple(keep)),
    )


def _axis(axis: dict) -> Axis:
    """Make an axis of one of rosettasciio's dictionaries."""
    scale = axis.get("scale")
    return Axis(
        name=str(axis.get("name") or ""),
        scale=math.nan if scale is None else float(scale),
        units=str(axis.get("units") or ""),
    )


def load_entry(data) -> np.ndarray:
    """Load an array, dask array or memory map; colour channels become the last axis."""
    array = np.asarray(data.compute(scheduler="synchronous") if hasattr(data, "compute") else data)
    if array.dtype.names:
        array = np.stack([array[name] for name in array.dtype.names], axis=-1)
    return array.squeeze()


def load_frame(data, keep: tuple[int, ...], index: int) -> np.ndarray:
    """Load one place of the first axis of those kept; the others have length 1."""
    where = tuple(
        index if axis == keep[0] else slice(None) if axis in keep else 0
        for axis in range(data.ndim)
    )
    part = data[where]
    return np.array(part.compute(scheduler="synchronous") if hasattr(part, "compute") else part)
