"""Small valid files of every kind that the program opens, to be damaged by the fuzz tests."""

from __future__ import annotations

import io
import json
import struct
from collections.abc import Iterable, Iterator
from copy import deepcopy

import h5py
import numpy as np
import tifffile
from PIL import Image

SIDE = 64
FRAME = (np.arange(SIDE * SIDE).reshape(SIDE, SIDE) * 7 % 251).astype(np.uint16)
STACK = np.stack([FRAME, FRAME[::-1], FRAME.T])


def picture(kind: str) -> bytes:
    """Return a picture as Pillow writes it."""
    file = io.BytesIO()
    Image.fromarray(FRAME.astype(np.uint8)).save(file, kind)
    return file.getvalue()


def npy(data: np.ndarray = FRAME) -> bytes:
    """Return an array as NumPy writes it."""
    file = io.BytesIO()
    np.save(file, data)
    return file.getvalue()


def tiff(data: np.ndarray = FRAME, **options) -> bytes:
    """Return a TIFF."""
    file = io.BytesIO()
    tifffile.imwrite(file, data, **options)
    return file.getvalue()


def berkeley_emd(data: np.ndarray = FRAME) -> bytes:
    """Return an EMD file as the Berkeley group defines it."""
    file = io.BytesIO()
    with h5py.File(file, "w") as hdf5:
        group = hdf5.create_group("data/HAADF")
        group.attrs["emd_group_type"] = 1
        group["data"] = data
        for i, n in enumerate(data.shape):
            dim = group.create_dataset(f"dim{i + 1}", data=np.arange(n) * 0.02)
            dim.attrs.update(name="tyx"[i - data.ndim], units="[n_m]")
    return file.getvalue()


def velox_emd(data: np.ndarray = FRAME) -> bytes:
    """Return an EMD file as Velox writes it, as far as it is read."""
    scale = {"width": "2e-11", "height": "2e-11"}
    metadata = {
        "Core": {"MetadataDefinitionVersion": "7.9", "guid": "0"},
        "BinaryResult": {
            "Detector": "HAADF",
            "Offset": {"x": "0", "y": "0"},
            "PixelSize": scale,
            "PixelUnitX": "m",
            "PixelUnitY": "m",
            "Encoding": "uint16",
        },
        "Detectors": {"Detector-0": {"DetectorName": "HAADF", "DetectorType": "ScanningDetector"}},
        "Acquisition": {"AcquisitionStartDatetime": {"DateTime": "1500000000"}},
        "Instrument": {"InstrumentId": "1", "InstrumentModel": "1"},
        "Optics": {"AccelerationVoltage": "80000", "LastMeasuredScreenCurrent": "0"},
        "Stage": {"AlphaTilt": "0", "BetaTilt": "0", "Position": {"x": "0", "y": "0", "z": "0"}},
        "Scan": {"DwellTime": "1e-6", "FrameTime": "1"},
    }
    text = np.zeros((4096, 1), np.uint8)
    encoded = json.dumps(metadata).encode()
    text[: len(encoded), 0] = list(encoded)
    file = io.BytesIO()
    with h5py.File(file, "w") as hdf5:
        hdf5["Version"] = np.array([json.dumps({"format": "Velox", "version": "1.12"}).encode()])
        group = hdf5.create_group("Data/Image/0123456789abcdef0123456789abcdef")
        frames = data[..., None] if data.ndim == 2 else np.moveaxis(data, 0, 2)
        group.create_dataset("Data", data=frames, chunks=(SIDE, SIDE, 1))
        group["Metadata"] = text
    return file.getvalue()


def hspy() -> bytes:
    """Return a signal as HyperSpy writes it."""
    file = io.BytesIO()
    with h5py.File(file, "w") as hdf5:
        hdf5.attrs.update(file_format="HyperSpy", file_format_version="3.1")
        group = hdf5.create_group("Experiments/HAADF")
        group.create_dataset("data", data=FRAME, chunks=(SIDE, SIDE))
        for i, name in enumerate("yx"):
            values = {"name": name, "units": "nm", "scale": 0.02, "offset": 0.0, "size": SIDE}
            axis = group.create_group(f"axis-{i}")
            axis.attrs.update(values, navigate=False, index_in_array=i)
        group.create_group("metadata/General").attrs["title"] = "HAADF"
        group.create_group("metadata/Signal").attrs["signal_type"] = ""
        group.create_group("original_metadata")
    return file.getvalue()


def mrc(data: np.ndarray = FRAME) -> bytes:
    """Return an MRC file of unsigned 16-bit values."""
    header = np.zeros(256, np.int32)
    size = data.shape[::-1] if data.ndim == 3 else (*data.shape[::-1], 1)
    header[:4] = *size, 6
    header[7:10] = size
    header.view(np.float32)[10:13] = np.array(size) * 0.2
    header[16:19] = 1, 2, 3
    header.view(np.uint8)[208:216] = [*b"MAP ", 0x44, 0x44, 0, 0]
    return header.tobytes() + data.tobytes()


def ser(data: np.ndarray = FRAME) -> bytes:
    """Return a series as TIA writes it: one element or several."""
    frames = data if data.ndim == 3 else data[None]
    n = len(frames)
    dimension = struct.pack("<IddII6sII", n, 0.0, 1.0, 0, 6, b"Number", 0, 0)[:-4]
    head = struct.pack("<HHHIIII", 0x4949, 0x0197, 0x0210, 0x4122, 0x4152, n, n)
    begin = len(head) + 8 + len(dimension)
    head += struct.pack("<II", begin, 1) + dimension
    elements = [
        struct.pack("<ddIddIHII", 0.0, 2e-11, 0, 0.0, 2e-11, 0, 2, *frame.shape[::-1])
        + frame.astype("<u2").tobytes()
        + struct.pack("<HHI", 0x4152, 0, 1500000000)
        for frame in frames
    ]
    first = begin + 8 * n
    starts = [first + i * len(elements[0]) for i in range(n)]
    tags = [start + len(elements[0]) - 8 for start in starts]
    return head + struct.pack(f"<{2 * n}I", *starts, *tags) + b"".join(elements)


def emi() -> bytes:
    """Return TIA's metadata, which lie beside a series."""
    fields = {"AcquireDate": "Mon Mar 07 15:00:00 2016", "Manufacturer": "FEI", "UUID": "1"}
    xml = "".join(f"<{key}>{value}</{key}>" for key, value in fields.items())
    conditions = "<AcceleratingVoltage>80</AcceleratingVoltage>"
    xml += (
        f"<ExperimentalConditions><MicroscopeConditions>{conditions}</MicroscopeConditions>"
        "</ExperimentalConditions><ExperimentalDescription><Root><Data><Label>Mode</Label>"
        "<Value>STEM nP SA Zoom</Value><Unit></Unit></Data></Root></ExperimentalDescription>"
    )
    return b"JL\x00\x02" + bytes(40) + f"<ObjectInfo>{xml}</ObjectInfo>".encode() + bytes(20)


def dm(version: int = 3, data: np.ndarray = FRAME) -> bytes:
    """Return a Digital Micrograph file of version 3 or 4, little-endian."""
    count = ">i" if version == 3 else ">q"

    def number(value: int) -> bytes:
        return struct.pack(count, value)

    def tag(name: str, *info: int, value: bytes) -> bytes:
        body = b"%%%%" + number(len(info)) + b"".join(map(number, info)) + value
        size = b"" if version == 3 else struct.pack(">q", len(body))
        return struct.pack(">bh", 21, len(name)) + name.encode() + size + body

    def content(tags: list[bytes]) -> bytes:
        return number(len(tags)) + b"".join(tags)

    def group(name: str, *tags: bytes) -> bytes:
        inner = content(list(tags))
        size = b"" if version == 3 else struct.pack(">q", len(inner))
        return struct.pack(">bh", 20, len(name)) + name.encode() + b"\1\0" + size + inner

    def whole(name: str, value: int) -> bytes:
        return tag(name, 5, value=struct.pack("<I", value))

    def real(name: str, value: float) -> bytes:
        return tag(name, 6, value=struct.pack("<f", value))

    def text(name: str, value: str) -> bytes:
        return tag(name, 20, 4, len(value), value=value.encode("utf-16-le"))

    def dimension() -> bytes:
        return group("", real("Origin", 0), real("Scale", 0.02), text("Units", "nm"))

    pixels = group(
        "ImageData",
        group("Calibrations", group("Dimension", *[dimension() for _ in data.shape])),
        tag("Data", 20, 4, data.size, value=data.astype("<u2").tobytes()),
        whole("DataType", 10),
        group("Dimensions", *[whole("", n) for n in data.shape[::-1]]),
        whole("PixelDepth", 2),
    )
    rectangle = tag("Rect", 15, 0, 2, 0, 6, 0, 6, value=struct.pack("<ff", 1, 2))
    tags = group("ImageTags", rectangle, tag("Flag", 8, value=b"\1"))
    image = group("", pixels, tags, text("Name", "HAADF"))
    root = content([group("ImageList", image), whole("InImageMode", 1)])
    size = struct.pack(count, len(root) + 2)
    return struct.pack(">i", version) + size + struct.pack(">i", 1) + b"\1\0" + root + bytes(8)


IMAGES: dict[str, tuple[bytes, ...]] = {
    ".npy": (npy(), npy(STACK)),
    ".png": (picture("PNG"),),
    ".jpg": (picture("JPEG"),),
    ".bmp": (picture("BMP"),),
    ".tif": (
        tiff(resolution=(2e8, 2e8), resolutionunit="CENTIMETER"),
        tiff(compression="zlib", tile=(32, 32)),
        tiff(imagej=True, resolution=(50, 50), metadata={"unit": "nm"}),
        tiff(STACK, ome=True, metadata={"axes": "TYX", "PhysicalSizeX": 20, "PhysicalSizeY": 20}),
    ),
    ".emd": (berkeley_emd(), velox_emd(), berkeley_emd(STACK), velox_emd(STACK)),
    ".hspy": (hspy(),),
    ".mrc": (mrc(), mrc(STACK)),
    ".ser": (ser(), ser(STACK)),
    ".emi": (emi(),),
    ".dm3": (dm(3), dm(3, STACK)),
    ".dm4": (dm(4), dm(4, STACK)),
}
"""Contents of files by extension, first one that holds one image."""


NUMBERS = (0, 1, 2, 3, 7, 255, 256, 65535, 10**6, 2**31 - 1, 2**31, 2**32 - 1, 2**62, 2**63 - 1)
"""What a damaged or forged header claims."""

EDITS = ("flip", "number", "cut", "insert", "repeat", "swap", "end")
Edit = tuple[str, int, int]
"""What is done, where (taken modulo the length), and with which number."""


def damaged(content: bytes, edits: Iterable[Edit]) -> bytes:
    """Return content with some edits made, one after another."""
    data = bytearray(content)
    for kind, position, value in edits:
        if not data:
            break
        at = position % len(data)
        if kind == "flip":
            data[at] ^= 1 << value % 8
        elif kind == "number":
            size = (1, 2, 4, 8)[value % 4]
            order = ("little", "big")[value // 4 % 2]
            number = NUMBERS[value // 8 % len(NUMBERS)] * (-1) ** (value // 512 % 2)
            data[at : at + size] = (number % 256**size).to_bytes(size, order)
        elif kind == "cut":
            del data[at : at + 1 + value % 64]
        elif kind == "insert":
            data[at:at] = bytes([value % 256]) * (1 + value // 256 % 64)
        elif kind == "repeat":
            data[at:at] = data[at : at + 1 + value % 512]
        elif kind == "swap":
            data[at : at + 8] = data[at : at + 8][::-1]
        else:
            del data[at:]
    return bytes(data)


STRANGE = (
    *(None, True, -1, 0, 7, 10**30, 1e308, -1e-308, float("nan"), float("inf"), "", "x", "1"),
    *("../../x", "/etc/passwd", "a\nb", "\0", "é" * 2000, [], {}, [[]], {"": 1}, [None] * 9),
    *([1e300, "a"], list(range(1000))),
)
"""What may stand anywhere in a JSON file."""


def damaged_json(content: bytes, edits: Iterable[tuple[int, int]]) -> bytes:
    """Return JSON in which some values, counted through, are gone, doubled or strange ones."""
    value = [json.loads(content)]
    for place, choice in edits:
        places = list(_places(value))
        holder, key = places[place % len(places)]
        if choice % 16 == 0 and len(holder) > 1:
            del holder[key]
        elif choice % 16 == 1 and isinstance(holder, list):
            holder.append(deepcopy(holder[key]))
        elif choice % 16 == 2:
            return json.dumps(value[0])[:-1].encode() + b',"x":' + b"[" * 9000 + b"]" * 9000 + b"}"
        else:
            holder[key] = deepcopy(STRANGE[choice // 16 % len(STRANGE)])
    return json.dumps(value[0]).encode(errors="replace")


def _places(value: object) -> Iterator[tuple[dict | list, object]]:
    keys = (
        value if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()
    )
    for key in list(keys):
        yield value, key
        yield from _places(value[key])
