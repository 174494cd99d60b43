"""TIFF files: pixel sizes by the makers' tags, OME, ImageJ or the resolution; frames one by one."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import tifffile

from napari_point_defects.errors import PointDefectsError
from napari_point_defects.signals import (
    MAX_BYTES,
    MAX_COMPRESSION,
    NM_PER_UNIT,
    Axis,
    SignalInfo,
    load_frame,
    plain_unit,
    read_rosettasciio,
)

_SMALL_STACKS = 2**26
"""Stacks of more bytes are not loaded for what a maker's tags say of their pixel size."""

_BIG_TIFF = 43
"""Version of files with offsets of eight bytes."""

_NM_PER_INCH = 2.54e7
_LARGEST_PRINTED_NM = 1e3
"""A coarser resolution in pixels per inch or cm is a printer's, not a microscope's."""


def read_tiff(path: Path) -> list[SignalInfo]:
    """Read a TIFF: pixel sizes by rosettasciio, which knows the makers' tags, data by tifffile.

    A palette image's index is its data.
    """
    _check_pages(path)
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
    most = min(MAX_BYTES // 4, MAX_COMPRESSION * path.stat().st_size)
    if images <= most and sum(nbytes for *_, nbytes in series) - images <= _SMALL_STACKS:
        # Tags that rosettasciio cannot read leave the image uncalibrated, not unread. Not lazy:
        # that would leave the file open.
        with suppress(Exception):
            axes = [s.axes for s in read_rosettasciio(path, module="tiff", lazy=False)]
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


def _check_pages(path: Path) -> None:
    """Refuse a chain of pages that ends in itself: tifffile would follow it for ever."""
    with path.open("rb") as file:
        head = file.read(16)
        order = "little" if head[:2] == b"II" else "big"
        big = int.from_bytes(head[2:4], order) == _BIG_TIFF
        # of the number of tags, of a tag, of an offset
        count_size, tag_size, size = (8, 20, 8) if big else (2, 12, 4)
        offset = int.from_bytes(head[size : 2 * size], order)
        seen = set()
        while offset:
            if offset in seen:
                raise PointDefectsError(f"{path.name} is damaged (its pages go round in a circle)")
            seen.add(offset)
            file.seek(offset)
            count = int.from_bytes(file.read(count_size), order)
            file.seek(offset + count_size + count * tag_size)
            offset = int.from_bytes(file.read(size), order)


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
            return load_frame(mapped.reshape(shape), keep, index)
        if len(stack.pages) != shape[keep[0]]:
            raise PointDefectsError(
                f"{path.name} is cut short, or its frames are compressed in one piece: save each "
                "as a page, or without compression"
            )
        return stack.pages[index].asarray().squeeze()
