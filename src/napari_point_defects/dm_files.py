"""Digital Micrograph files: their tags are walked before rosettasciio reads them.

It believes what they claim: a size below zero sends it back to tags that it has read, elements of
no bytes are made as often as a number says, and either takes for ever.
"""

from __future__ import annotations

import struct
from pathlib import Path
from typing import BinaryIO

from napari_point_defects.signals import SignalInfo, damaged, read_rosettasciio

_GROUP, _DATA = 20, 21
_STRUCT, _STRING, _ARRAY = 15, 18, 20
_BYTES = {2: 2, 3: 4, 4: 2, 5: 4, 6: 4, 7: 8, 8: 1, 9: 1, 10: 1, 11: 8, 12: 8}
"""Sizes of the simple types."""

_DEEPEST = 60
"""Groups in groups; real files have some ten."""

_MOST_EMPTY = 10_000
"""Elements of no bytes in one array."""

_MOST_FIELDS, _LONGEST_STRING = 10_000, 2**16
"""In one struct, and in bytes; rosettasciio takes time with the square of either. Long texts are
arrays."""


def read_dm(path: Path) -> list[SignalInfo]:
    """Read a dm3 or dm4 file, if its tags lie in it."""
    with path.open("rb") as file:
        try:
            _Walk(file, path.stat().st_size).walk()
        except (_Impossible, struct.error) as error:
            raise damaged(path) from error
    return read_rosettasciio(path, module="digitalmicrograph")


class _Impossible(ValueError):
    """Raised for a tag that claims what cannot be."""


class _Walk:
    """Goes through all tags of a file, forwards only."""

    def __init__(self, file: BinaryIO, length: int) -> None:
        self._file, self._length = file, length
        (self._version,) = struct.unpack(">i", file.read(4))
        if self._version not in (3, 4):
            raise _Impossible(f"version {self._version}")
        self._number = struct.Struct(">i" if self._version == 3 else ">q")

    def walk(self) -> None:
        """Go through the whole file."""
        self._skip(self._number.size + 4)  # the size of the rest, and the byte order
        self._group(0, sized=False)

    def _count(self, most: int | None = None) -> int:
        (value,) = self._number.unpack(self._file.read(self._number.size))
        if not 0 <= value <= (self._length if most is None else most):
            raise _Impossible(f"{value} of something in {self._length} bytes")
        return value

    def _skip(self, count: int) -> None:
        if self._file.seek(count, 1) > self._length:
            raise _Impossible("a tag ends behind the file")

    def _group(self, depth: int, *, sized: bool = True) -> None:
        if depth > _DEEPEST:
            raise _Impossible("groups in groups without end")
        self._skip(2)
        if self._version == 4 and sized:
            self._skip(8)
        for _ in range(self._count()):
            kind, name_length = struct.unpack(">bh", self._file.read(3))
            self._skip(max(name_length, 0))
            if self._version == 4 and kind == _DATA:
                self._skip(8)
            if kind == _GROUP:
                self._group(depth + 1)
            elif kind == _DATA:
                self._data()
            else:
                raise _Impossible(f"a tag of kind {kind}")

    def _data(self) -> None:
        if self._file.read(4) != b"%%%%" or not self._count():
            raise _Impossible("a tag without a type")
        size, repeats = self._element()
        if not size and repeats > _MOST_EMPTY:
            raise _Impossible("elements of no bytes")
        self._skip(size * repeats)

    def _element(self) -> tuple[int, int]:
        """Read a type; return the bytes of an element, and how many there are."""
        kind = self._count()
        if kind in _BYTES:
            return _BYTES[kind], 1
        if kind == _STRING:
            return self._count(_LONGEST_STRING), 1
        if kind == _STRUCT:
            self._skip(self._number.size)
            size = 0
            for _ in range(self._count(_MOST_FIELDS)):
                self._skip(self._number.size)
                size += self._simple()
            return size, 1
        if kind == _ARRAY:
            size, inner = self._element()
            count = self._count()
            if not size and count * inner > _MOST_EMPTY:
                raise _Impossible("elements of no bytes")
            return size * inner, count
        raise _Impossible(f"type {kind}")

    def _simple(self) -> int:
        kind = self._count()
        if kind not in _BYTES:
            raise _Impossible(f"type {kind}")
        return _BYTES[kind]
