"""Read one HAADF-STEM frame and its pixel size from a microscope's file."""

from __future__ import annotations

import logging
import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from napari_point_defects.errors import PointDefectsError
from napari_point_defects.readers import READERS
from napari_point_defects.records import Calibration, StemImage
from napari_point_defects.signals import NM_PER_UNIT, Axis, SignalInfo, check_claim, plain_unit

_logger = logging.getLogger(__name__)

MIN_SIDE_PX = 64
"""A smaller image holds too few unit cells to find a lattice in."""

LEAST_PIXEL_NM, LARGEST_PIXEL_NM = 1e-6, 1e8
"""No image has smaller or larger pixels: what a file says beyond these is no pixel size."""

NO_UNITS = ("", "px", "pixel", "none", "unknown", "<undefined>", "arb.unit")
"""Plain units that say that there is no calibration."""


def list_signals(path: str | Path) -> list[SignalInfo]:
    """List the signals in a file, in the order that ``--signal INDEX`` counts them, from 0.

    Raises
    ------
    PointDefectsError
        If the file is missing, damaged, or of a kind that no reader knows.
    """
    path = Path(path)
    with reader_boundary(path):
        signals = reader_of(path)(path)
    if not signals:
        hint = f"; is {path.stem}_1.ser beside it?" if path.suffix.lower() == ".emi" else ""
        raise PointDefectsError(f"{path.name} holds no data{hint}")
    return signals


def read_image(
    path: str | Path, *, signal: str | int | None = None, pixel_size_nm: float | None = None
) -> StemImage:
    """Read one image and its calibration.

    Parameters
    ----------
    path : str or Path
        A dm3, dm4, emd, ser, emi, mrc, tif, hspy, npy, png, jpg or bmp file.
    signal : str or int, optional
        Title or index (from 0) of the signal to take, where the file holds several.
    pixel_size_nm : float, optional
        Height and width of a pixel [nm]; replaces what the file says.

    Returns
    -------
    StemImage
        Values that were infinite are NaN. Where single precision would lose detail under a large
        offset, the minimum is subtracted.

    Raises
    ------
    PointDefectsError
        If the file cannot be read, or what it holds is no image that can be analysed; the
        message is one line and says what to do.
    """
    path = Path(path)
    given = user_calibration(pixel_size_nm)
    chosen = choose_signal(list_signals(path), signal, path.name)
    # The user knows better than a wrong unit.
    if chosen.kind == "diffraction pattern" and pixel_size_nm is None:
        raise PointDefectsError(not_in_real_space(chosen, path.name))
    if chosen.kind not in ("image", "colour image", "diffraction pattern"):
        raise PointDefectsError(_refusal(chosen, path.name))
    check_claim(chosen.shape, chosen.dtype.itemsize, path)
    with reader_boundary(path):
        data = chosen.load()
    if data.shape != chosen.shape:
        raise PointDefectsError(f"{path.name} is damaged: its data do not have the size it claims")
    if chosen.is_colour:
        data = _grey(data, path.name)

    calibration = axes_calibration(chosen) if given is None else given
    if is_turned(chosen):
        data = data.T
    return StemImage(
        data=as_float32(data, path.name),
        name=path.stem,
        calibration=calibration,
        path=path,
        signal=chosen.name,
    )


def read_calibration(path: str | Path, *, signal: str | int | None = None) -> Calibration:
    """Read what a file says of its pixel size, without its pixels.

    Parameters
    ----------
    path : str or Path
    signal : str or int, optional
        As in :func:`read_image`.

    Raises
    ------
    PointDefectsError
        If the file cannot be read, or is a diffraction pattern.
    """
    path = Path(path)
    chosen = choose_signal(list_signals(path), signal, path.name)
    if chosen.is_reciprocal:
        raise PointDefectsError(not_in_real_space(chosen, path.name))
    return axes_calibration(chosen)


def user_calibration(pixel_size_nm: float | None) -> Calibration | None:
    """Return the calibration that the user gives in place of a file's; None where none is given.

    Raises
    ------
    PointDefectsError
        If it is no length.
    """
    if pixel_size_nm is None:
        return None
    if not (math.isfinite(pixel_size_nm) and pixel_size_nm > 0):
        raise PointDefectsError(
            f"the pixel size must be a positive number of nm, not {pixel_size_nm}: "
            "check --pixel-size-nm"
        )
    return Calibration((float(pixel_size_nm), float(pixel_size_nm)), "user")


def not_in_real_space(signal: SignalInfo, file_name: str) -> str:
    """Say that a pattern's axes give no pixel size."""
    return (
        f"{file_name} is a diffraction pattern (its axes are in {signal.axes[-1].units}): give an "
        "image, or --pixel-size-nm if it is one"
    )


def axes_calibration(signal: SignalInfo) -> Calibration:
    """Return the calibration (y, x), also of an array whose axes are x and y."""
    return _calibration(signal.axes[:-3:-1] if is_turned(signal) else signal.axes)


def is_turned(signal: SignalInfo) -> bool:
    """Tell whether the first axis of an image is x."""
    return [axis.name.lower() for axis in signal.axes[-2:]] == ["x", "y"]


def choose_signal(
    signals: list[SignalInfo], wanted: str | int | None, file_name: str
) -> SignalInfo:
    """Pick the signal asked for, or the only one that can be meant."""
    listing = "; ".join(f"{i}: {s.describe()}" for i, s in enumerate(signals))
    if wanted is not None:
        matches = [s for s in signals if s.name and s.name.lower() == str(wanted).strip().lower()]
        if not matches and str(wanted).strip().isdecimal() and int(wanted) < len(signals):
            matches = [signals[int(wanted)]]
        if len(matches) == 1:
            return matches[0]
        problem = "several signals are called" if matches else "no signal"
        raise PointDefectsError(
            f"{problem} {wanted!r} in {file_name}, which holds {listing}: "
            "choose one with --signal INDEX"
        )
    if len(signals) == 1:
        return signals[0]
    images = [s for s in signals if s.kind == "image"]
    titled = [s for s in signals if "haadf" in s.name.lower() and s.kind in ("image", "stack")]
    if len(titled) == 1 and titled[0].kind == "image":
        return titled[0]
    if len(images) == 1 and not titled:
        return images[0]
    if not images:
        raise PointDefectsError(
            f"{file_name} holds no single image but {listing}: save one frame, or the average of "
            "a stack, as an image of its own"
        )
    raise PointDefectsError(
        f"{file_name} holds several signals: {listing}; choose one with --signal NAME|INDEX"
    )


def _refusal(signal: SignalInfo, file_name: str) -> str:
    """Say why this signal is no image, and what to do."""
    size = " × ".join(str(n) for n in signal.shape)
    if signal.kind == "stack":
        return (
            f"{file_name} holds a stack ({size}), not one image: save one frame, or the average "
            "of the aligned frames, as an image (--signal cannot pick a frame), or follow all of "
            "it with point-defects movie"
        )
    if signal.kind == "spectrum":
        return f"{file_name} holds a spectrum or a line ({size}), not an image: give an image"
    return f"{file_name} holds values of type {signal.dtype}, not intensities: give a grey image"


def _grey(data: np.ndarray, file_name: str) -> np.ndarray:
    """Return the one channel of a grey image saved as RGB or RGBA, shape (M, N, 3 or 4)."""
    colours = data[..., :3]
    if not (colours == colours[..., :1]).all():
        raise PointDefectsError(
            f"{file_name} is a colour image: save the detector's intensities as a grey image"
        )
    return colours[..., 0]


def as_float32(data: np.ndarray, file_name: str) -> np.ndarray:
    """Check an image and return it in single precision, NaN where it is not finite."""
    if min(data.shape) < MIN_SIDE_PX:
        raise PointDefectsError(
            f"{file_name} has only {data.shape[0]} × {data.shape[1]} pixels: "
            f"give an image of at least {MIN_SIDE_PX} × {MIN_SIDE_PX}"
        )
    data = np.asarray(data).astype(data.dtype.newbyteorder("="), copy=False)
    finite = np.isfinite(data)
    if not finite.any():
        raise PointDefectsError(f"{file_name} has no finite values: give another image")
    whole = bool(finite.all())
    seen = data if whole else data[finite]
    lowest, highest = seen.min(), seen.max()
    if lowest == highest:
        raise PointDefectsError(f"{file_name} has the same value everywhere: give another image")
    spread = float(highest) - float(lowest)
    if max(abs(float(lowest)), abs(float(highest))) > 1e3 * spread:
        # exact in the image's own type, and no overflow: the spread is small
        data = data - lowest
    with np.errstate(over="ignore"):
        # an array on disk that needs nothing done to it stays there
        result = data.astype(np.float32, copy=not whole)
    finite = np.isfinite(result)
    if finite.all():
        return result
    if whole:
        result = np.array(result)
    result[~finite] = np.nan
    if not finite.any():
        raise PointDefectsError(f"{file_name} has values beyond single precision: rescale it")
    return result


def _calibration(axes: Sequence[Axis]) -> Calibration:
    """Return the pixel size (y, x) in nm where both axes have a length, else none and why."""
    axes = axes[-2:]
    sizes = [axis.scale * NM_PER_UNIT.get(plain_unit(axis.units), math.nan) for axis in axes]
    # a comparison with NaN is false
    if len(sizes) == 2 and all(LEAST_PIXEL_NM <= size <= LARGEST_PIXEL_NM for size in sizes):
        return Calibration((float(sizes[0]), float(sizes[1])), "file")
    if not any(plain_unit(axis.units) not in NO_UNITS for axis in axes):
        return Calibration(None, "none")
    stated = " × ".join(f"{axis.scale:.6g} {axis.units.strip('[]')}".strip() for axis in axes)
    return Calibration(None, "none", f"the file's pixel size, {stated}, cannot be one")


@contextmanager
def reader_boundary(path: Path) -> Iterator[None]:
    """Turn whatever a reader raises into one line, and keep its warnings and log to ourselves."""
    if not path.exists():
        raise PointDefectsError(f"{path} does not exist: check the path")
    if not path.is_file():
        raise PointDefectsError(f"{path} is not a file: give an image file")
    if path.stat().st_size == 0:
        raise PointDefectsError(f"{path.name} is empty: copy it anew from the microscope")
    loggers = [logging.getLogger(name) for name in ("rsciio", "tifffile", "PIL")]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            for logger in loggers:
                logger.setLevel(logging.CRITICAL + 1)
            yield
        except PointDefectsError:
            raise
        except PermissionError as error:
            raise PointDefectsError(f"{path} may not be read: check its permissions") from error
        except Exception as error:  # readers raise anything at all on damaged files
            _logger.debug("reading %s failed", path, exc_info=True)
            # without its traceback, whose frames would keep the file open
            raise PointDefectsError(
                f"{path.name} is no valid {path.suffix.lower()} file, or is damaged or cut short: "
                "open it in the program that wrote it and save it anew"
            ) from error.with_traceback(None)
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)


def reader_of(path: Path) -> Callable[[Path], list[SignalInfo]]:
    """Return the reader for the file's extension."""
    try:
        return READERS[path.suffix.lower()]
    except KeyError:
        raise PointDefectsError(
            f"{path.name}: files of type {path.suffix or '(none)'} cannot be read; "
            f"use one of {' '.join(READERS)}"
        ) from None


def sample_path(name: str) -> Path:
    """Return the path of a bundled sample image.

    Raises
    ------
    PointDefectsError
        If it is not there.
    """
    path = Path(__file__).parent / "sample_data" / name
    if not path.is_file():
        raise PointDefectsError(f"the sample {name} is missing: install napari-point-defects again")
    return path
