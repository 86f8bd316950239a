"""OpenEXR images as Blender writes them: scan lines, without loss. Numpy only."""

from __future__ import annotations

import pathlib
import struct
import zlib

import numpy as np
import numpy.typing as npt

_MAGIC = 20_000_630
_TILED, _DEEP, _MULTIPART = 0x200, 0x800, 0x1000
_TYPES = (np.dtype("<u4"), np.dtype("<f2"), np.dtype("<f4"))
_LINES = {0: 1, 2: 1, 3: 16}
"""Scan lines a chunk, by compression: none, zip of one line, zip of sixteen."""
_LARGEST = 2**30  # pixels


def read(path: pathlib.Path) -> npt.NDArray[np.float32]:
    """[H, W, C] the channels R, G, B (and A), or the only one; linear, as they are in the file.

    Of several layers the first that has R is taken.

    Raises:
        ValueError: damaged, or of a kind that this does not read; one line.
        OSError: cannot be read.
    """
    data = path.read_bytes()
    try:
        return _decode(data)
    except (struct.error, IndexError, KeyError, zlib.error) as error:
        raise ValueError(f"damaged: {error}") from None


def _decode(data: bytes) -> npt.NDArray[np.float32]:
    magic, version = struct.unpack_from("<ii", data)
    if magic != _MAGIC:
        raise ValueError("not an OpenEXR image")
    if version & (_TILED | _DEEP | _MULTIPART):
        raise ValueError("tiled, deep and multi-part OpenEXR are not read; save scan lines")
    header, at = _header(data, 8)
    compression = header["compression"][0]
    if compression not in _LINES:
        raise ValueError("save OpenEXR with ZIP compression or none")
    left, top, right, bottom = struct.unpack("<4i", header["dataWindow"])
    width, height = right - left + 1, bottom - top + 1
    if width < 1 or height < 1 or width * height > _LARGEST:
        raise ValueError(f"a size of {width} x {height}")
    channels = _channels(header["channels"])
    row = np.dtype([(name, kind, (width,)) for name, kind in channels])
    rows = np.zeros(height, row)
    lines = _LINES[compression]
    chunks = -(-height // lines)
    for offset in struct.unpack_from(f"<{chunks}Q", data, at):
        first, size = struct.unpack_from("<ii", data, offset)
        first -= top
        count = min(lines, height - first)
        packed = data[offset + 8 : offset + 8 + size]
        whole = count * row.itemsize
        raw = packed if compression == 0 or size == whole else _unzip(packed)
        if first < 0 or len(raw) != whole:
            raise ValueError("damaged: a chunk of a wrong size")
        rows[first : first + count] = np.frombuffer(raw, row)
    names = [name for name, _ in channels]
    reds = [name for name in names if name == "R" or name.endswith(".R")]
    if reds:
        layer = min(reds, key=len).removesuffix("R")
        names = [layer + letter for letter in "RGBA" if layer + letter in names]
        if len(names) < 3:
            raise ValueError("has R but not G and B")
    elif len(names) != 1:
        raise ValueError("has no channels R, G, B")
    return np.stack([rows[name].astype(np.float32) for name in names], -1)


def _header(data: bytes, at: int) -> tuple[dict[str, bytes], int]:
    """The attributes by name, and where the header ends."""
    attributes = {}
    while data[at]:
        name, at = _text(data, at)
        _, at = _text(data, at)
        (size,) = struct.unpack_from("<i", data, at)
        if size < 0:
            raise ValueError("damaged: an attribute of negative size")
        attributes[name] = data[at + 4 : at + 4 + size]
        at += 4 + size
    return attributes, at + 1


def _channels(value: bytes) -> list[tuple[str, np.dtype]]:
    channels, at = [], 0
    while value[at]:
        name, at = _text(value, at)
        kind, _, x_sampling, y_sampling = struct.unpack_from("<iiii", value, at)
        if kind not in (0, 1, 2) or (x_sampling, y_sampling) != (1, 1):
            raise ValueError(f"channel {name} is of a kind that is not read")
        channels.append((name, _TYPES[kind]))
        at += 16
    return channels


def _text(data: bytes, at: int) -> tuple[str, int]:
    end = data.index(b"\0", at)
    return data[at:end].decode("latin-1"), end + 1


def _unzip(packed: bytes) -> bytes:
    """Undo the zip compression: differences of bytes, the even ones before the odd ones."""
    delta = np.frombuffer(zlib.decompress(packed), np.uint8).copy()
    delta[1:] -= 128
    halves = np.cumsum(delta, dtype=np.uint8)
    middle = (len(halves) + 1) // 2
    raw = np.empty_like(halves)
    raw[0::2], raw[1::2] = halves[:middle], halves[middle:]
    return raw.tobytes()
