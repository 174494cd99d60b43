"""EMD and HyperSpy files, which are HDF5: what their datasets claim is looked at before it is read.

A dataset of a few bytes may claim any size, and may have its data in any other file.
"""

from __future__ import annotations

import math
from functools import partial
from pathlib import Path

import h5py
import numpy as np

from napari_point_defects.errors import PointDefectsError
from napari_point_defects.signals import (
    MAX_COMPRESSION,
    Axis,
    SignalInfo,
    load_frame,
    read_rosettasciio,
)

_SLACK_BYTES = 2**26
"""What a dataset may claim however little of it is stored."""

_MOST_CHUNKS = 2**20
"""In one dataset: Dask lists them all."""


def read_hspy(path: Path) -> list[SignalInfo]:
    """Read what HyperSpy wrote."""
    with h5py.File(path, "r") as file:
        _check_datasets(file, path)
    return read_rosettasciio(path, module="hspy")


def _check_datasets(file: h5py.File, path: Path) -> None:
    """Refuse datasets that claim far more than they hold, or lie in other files."""

    def link(name: str, link: object) -> PointDefectsError | None:
        return _elsewhere(path) if isinstance(link, h5py.ExternalLink) else None

    def check(name: str, item: object) -> PointDefectsError | None:
        if not isinstance(item, h5py.Dataset) or item.shape is None:
            return None
        if item.external or item.is_virtual:
            return _elsewhere(path)
        claimed = math.prod(item.shape) * item.dtype.itemsize
        chunks = math.prod(-(-n // c) for n, c in zip(item.shape, item.chunks or (), strict=False))
        stored = item.id.get_storage_size()
        if claimed <= MAX_COMPRESSION * stored + _SLACK_BYTES and chunks <= _MOST_CHUNKS:
            return None
        size = " × ".join(map(str, item.shape))
        return PointDefectsError(
            f"{path.name} claims {size} values, which is more than can be read: crop it, or "
            "save it anew"
        )

    # what is returned ends the visit; HDF5 does not like errors raised on it
    error = file.visititems_links(link) or file.visititems(check)
    if error is not None:
        raise error


def _elsewhere(path: Path) -> PointDefectsError:
    return PointDefectsError(
        f"{path.name} has its data in other files: save it as one file, or copy its data into it"
    )


def read_emd(path: Path) -> list[SignalInfo]:
    """Read a Velox or a Berkeley emd file."""
    with h5py.File(path, "r") as file:
        _check_datasets(file, path)
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
        if not isinstance(dim, h5py.Dataset):
            axes.append(Axis())
            continue
        positions = dim[:2] if dim.ndim == 1 else ()
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
