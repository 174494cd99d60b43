"""Stacks of frames (T, Y, X): one frame in memory at a time."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import numpy as np

from napari_point_defects.errors import PointDefectsError
from napari_point_defects.io import (
    as_float32,
    axes_calibration,
    choose_signal,
    is_turned,
    not_in_real_space,
    read_calibration,
    read_image,
    reader_boundary,
    reader_of,
    user_calibration,
)
from napari_point_defects.readers import READERS
from napari_point_defects.records import Calibration, StemImage
from napari_point_defects.signals import MAX_BYTES, MAX_COMPRESSION, Axis, SignalInfo, plain_unit

SECONDS_PER_UNIT = {
    name: size
    for size, names in {
        1e-6: ("us", "microsecond"),
        1e-3: ("ms", "msec", "millisecond"),
        1.0: ("", "s", "sec", "second"),
        60.0: ("min", "minute"),
    }.items()
    for name in names
}
"""Length of the units of time that files write, as :func:`plain_unit` spells them: it takes an s
off the end."""

ZARR = ".zarr"
_ENERGIES = ("ev", "kev", "mev")


@dataclass(frozen=True, slots=True)
class Stack:
    """The frames of a movie; each is read when it is asked for.

    Attributes
    ----------
    name : str
        Outputs are named after it.
    shape : (int, int, int)
        Frames, rows, columns.
    calibration : Calibration
    frame_time_s : float or None
        From one frame to the next, where the file says so.
    load : callable
        Takes the number of a frame, from 0, and returns its pixels, shape (Y, X).
    paths : tuple of Path
        One, or as many as there are frames.
    signal : str
    """

    name: str
    shape: tuple[int, int, int]
    calibration: Calibration = field(default_factory=Calibration)
    frame_time_s: float | None = None
    load: Callable[[int], np.ndarray] = field(
        repr=False, compare=False, default=lambda index: np.empty(0)
    )
    paths: tuple[Path, ...] = ()
    signal: str = ""

    def __len__(self) -> int:
        return self.shape[0]

    def frame(self, index: int) -> StemImage:
        """Read one frame.

        Raises
        ------
        PointDefectsError
            If it cannot be read, has no finite value, or is the same everywhere.
        """
        if not 0 <= index < len(self):
            raise PointDefectsError(
                f"{self.name} has no frame {index}: the last is {len(self) - 1}"
            )
        title = f"frame {index}"
        data = self.load(index)
        if data.shape != self.shape[1:]:
            raise PointDefectsError(f"{title} is damaged: it has not the size that the file claims")
        path = self.paths[index if len(self.paths) > 1 else 0] if self.paths else None
        return StemImage(
            as_float32(data, title),
            f"{self.name}_{index:04d}",
            self.calibration,
            path,
            self.signal,
        )

    def __iter__(self) -> Iterator[StemImage]:
        return (self.frame(index) for index in range(len(self)))


def array_stack(
    data: np.ndarray,
    name: str = "movie",
    calibration: Calibration | None = None,
    frame_time_s: float | None = None,
) -> Stack:
    """Return the stack of an array (T, Y, X) that is there already, or is loaded as it is sliced.

    Raises
    ------
    PointDefectsError
        If it has not three dimensions or holds no intensities.
    """
    _check_shape(tuple(data.shape), np.dtype(data.dtype), name)
    return Stack(
        name,
        tuple(int(n) for n in data.shape),
        calibration or Calibration(),
        frame_time_s,
        lambda index: np.asarray(data[index]),
    )


def open_stack(
    paths: str | Path | Sequence[str | Path],
    *,
    signal: str | int | None = None,
    pixel_size_nm: float | None = None,
) -> Stack:
    """Open a movie: one file that holds a stack, or several files of one frame each, in order.

    Parameters
    ----------
    paths : path or sequence of paths
        Files of any kind that :func:`~napari_point_defects.io.read_image` takes, or a zarr folder.
    signal : str or int, optional
        Title or index (from 0) of the signal to take, where a file holds several.
    pixel_size_nm : float, optional
        Height and width of a pixel [nm]; replaces what the file says.

    Returns
    -------
    Stack
        No pixel has been read yet.

    Raises
    ------
    PointDefectsError
        If the file cannot be read or holds no movie: single images, volumes of more dimensions,
        colours, complex values, diffraction patterns and spectrum images are refused.
    """
    paths = [paths] if isinstance(paths, (str, Path)) else list(paths)
    if not paths:
        raise PointDefectsError("no file: give a stack, or the frames in their order")
    given = user_calibration(pixel_size_nm)
    paths = [Path(path) for path in paths]
    if len(paths) > 1:
        stack = _of_files(paths, signal, pixel_size_nm)
    elif paths[0].suffix.lower() == ZARR:
        stack = _of_zarr(paths[0])
    else:
        stack = _of_file(paths[0], signal, pixel_size_nm)
    return stack if given is None else replace(stack, calibration=given)


def _of_file(path: Path, signal: str | int | None, pixel_size_nm: float | None) -> Stack:
    """Open one file."""
    with reader_boundary(path):
        signals = reader_of(path)(path)
    chosen = _chosen(signals, signal, path.name)
    if chosen.kind != "stack":
        if chosen.kind == "image":
            raise PointDefectsError(
                f"{path.name} holds one image, not a movie: give a stack, or several files in the "
                "order of their frames (or use analyze)"
            )
        raise PointDefectsError(f"{path.name} holds {chosen.describe()}: give a stack (T, Y, X)")
    if chosen.is_reciprocal and pixel_size_nm is None:
        raise PointDefectsError(not_in_real_space(chosen, path.name))
    _check_stack(chosen, path)
    calibration = axes_calibration(chosen)
    turned = is_turned(chosen)
    shape = chosen.shape[::-1][:2] if turned else chosen.shape[1:]

    def load(index: int) -> np.ndarray:
        with reader_boundary(path):
            data = np.asarray(chosen.load_frame(index))
        return data.T if turned else data

    return Stack(
        path.stem,
        (chosen.shape[0], *shape),
        calibration,
        _seconds(chosen.axes[0]) if chosen.axes else None,
        load,
        (path,),
        chosen.name,
    )


def _chosen(signals: list[SignalInfo], signal: str | int | None, file_name: str) -> SignalInfo:
    """Pick the signal asked for, else the only stack, else the only HAADF one."""
    if not signals:
        raise PointDefectsError(f"{file_name} holds no data: give a stack (T, Y, X)")
    if signal is not None or len(signals) == 1:
        return choose_signal(signals, signal, file_name)
    stacks = [each for each in signals if each.kind == "stack"]
    titled = [each for each in stacks if "haadf" in each.name.lower()]
    for found in (titled, stacks):
        if len(found) == 1:
            return found[0]
    listing = "; ".join(f"{i}: {each.describe()}" for i, each in enumerate(signals))
    if not stacks:
        raise PointDefectsError(f"{file_name} holds no stack of frames but {listing}")
    raise PointDefectsError(
        f"{file_name} holds several signals: {listing}; choose one with --signal NAME|INDEX"
    )


def _check_stack(chosen: SignalInfo, path: Path) -> None:
    """Refuse what is no movie, and frames that cannot be read one by one."""
    _check_shape(chosen.shape, chosen.dtype, path.name)
    if any(plain_unit(axis.units) in _ENERGIES for axis in chosen.axes):
        raise PointDefectsError(
            f"{path.name} is a spectrum image (an axis is in eV), not a movie: give HAADF frames"
        )
    if chosen.load_frame is None:
        raise PointDefectsError(
            f"{path.name}: {path.suffix} files cannot be read frame by frame; save it as tif or mrc"
        )
    # an emi file holds the metadata only
    on_disk = math.inf if path.suffix.lower() == ".emi" else path.stat().st_size
    if math.prod(chosen.shape) * chosen.dtype.itemsize > MAX_COMPRESSION * on_disk:
        raise PointDefectsError(f"{path.name} claims more data than it can hold: save it anew")


def _check_shape(shape: tuple[int, ...], dtype: np.dtype, name: str) -> None:
    """Refuse arrays that hold no movie of intensities."""
    size = " × ".join(str(n) for n in shape)
    if len(shape) != 3:
        raise PointDefectsError(
            f"{name} has {len(shape)} dimensions ({size}): a movie has three, frames, rows and "
            "columns; save one channel or one detector of it"
        )
    if dtype.kind not in "iuf":
        raise PointDefectsError(f"{name} holds values of type {dtype}, not intensities")
    if math.prod(shape[1:]) * dtype.itemsize > MAX_BYTES:
        raise PointDefectsError(f"a frame of {name} ({size}) is more than can be read: crop it")


def _seconds(axis: Axis) -> float | None:
    """Return the time between frames where the axis is one of time."""
    if not axis.units.strip():
        return None
    seconds = axis.scale * SECONDS_PER_UNIT.get(plain_unit(axis.units), math.nan)
    return float(seconds) if math.isfinite(seconds) and seconds > 0 else None


def _of_files(paths: list[Path], signal: str | int | None, pixel_size_nm: float | None) -> Stack:
    """Take files of one frame each; all are looked at before any is analysed."""
    first = read_image(paths[0], signal=signal, pixel_size_nm=pixel_size_nm)
    for path in paths[1:]:
        if not path.is_file():
            raise PointDefectsError(f"{path} does not exist: check the path")
        if path.suffix.lower() not in READERS:
            raise PointDefectsError(f"{path.name}: no frame of a movie; give image files")
        if pixel_size_nm is not None:
            continue
        size = read_calibration(path, signal=signal).pixel_size_nm
        known = first.calibration.pixel_size_nm
        if (size is None) != (known is None) or (
            size is not None and not np.allclose(size, known, rtol=1e-3)
        ):
            raise PointDefectsError(
                f"{path.name} has another pixel size than {paths[0].name}: give frames of one "
                "movie, or --pixel-size-nm"
            )

    def load(index: int) -> np.ndarray:
        data = read_image(paths[index], signal=signal, pixel_size_nm=pixel_size_nm).data
        if data.shape != first.data.shape:
            raise PointDefectsError(
                f"{paths[index].name} has another size than {paths[0].name}: give frames of one "
                "movie"
            )
        return data

    return Stack(
        paths[0].stem,
        (len(paths), *first.data.shape),
        first.calibration,
        None,
        load,
        tuple(paths),
        first.signal,
    )


def _of_zarr(path: Path) -> Stack:
    """Open an array of a zarr folder, or the finest level of an OME-Zarr image."""
    import zarr

    if not path.is_dir():
        raise PointDefectsError(f"{path} does not exist: check the path")
    try:
        found = zarr.open(str(path), mode="r")
        attributes = dict(found.attrs)
        levels = attributes.get("ome", attributes).get("multiscales")
        array = found if hasattr(found, "shape") else found[_finest(levels)]
    except Exception as error:  # a damaged store raises anything at all
        raise PointDefectsError(
            f"{path.name} holds no zarr array (T, Y, X): give one array, or an OME-Zarr image"
        ) from error.with_traceback(None)
    keep = [axis for axis, n in enumerate(array.shape) if n != 1]
    shape = tuple(int(array.shape[axis]) for axis in keep)
    _check_shape(shape, np.dtype(array.dtype), path.name)
    chunk = math.prod(array.chunks) * np.dtype(array.dtype).itemsize
    if chunk > MAX_BYTES:
        raise PointDefectsError(f"{path.name} has too large chunks: save it in smaller ones")
    axes = _ome_zarr_axes(levels, keep)

    def load(index: int) -> np.ndarray:
        where = tuple(
            index if axis == keep[0] else slice(None) if axis in keep else 0
            for axis in range(array.ndim)
        )
        try:
            return np.asarray(array[where])
        except Exception as error:
            raise PointDefectsError(
                f"frame {index} of {path.name} is damaged: copy it anew"
            ) from error.with_traceback(None)

    info = SignalInfo("", shape, np.dtype(array.dtype), axes)
    time = _seconds(axes[0]) if axes else None
    return Stack(path.stem, shape, axes_calibration(info), time, partial(load), (path,))


def _finest(levels: list | None) -> str:
    """Name of the finest level of an OME-Zarr image."""
    return str(levels[0]["datasets"][0]["path"]) if levels else "0"


def _ome_zarr_axes(levels: list | None, keep: list[int]) -> tuple[Axis, ...]:
    """Return the axes that an OME-Zarr image states, none where it states none."""
    with suppress(KeyError, IndexError, TypeError, ValueError, json.JSONDecodeError):
        image = levels[0]
        changes = image["datasets"][0]["coordinateTransformations"]
        scale = next(each["scale"] for each in changes if each["type"] == "scale")
        axes = image["axes"]
        return tuple(Axis(axes[i]["name"], float(scale[i]), axes[i].get("unit", "")) for i in keep)
    return ()
