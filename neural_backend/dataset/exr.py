"""OpenEXR images as Blender writes them: scan lines, without loss. Numpy only."""

from __future__ import annotations

import dataclasses
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


def read(path: pathlib.Path) -> npt.NDArray[np.floating]:
    """[H, W, C] the channels R, G, B (and A), or the only one; linear, as they are in the file.

    float16 where all of them are, else float32. Of several layers the first that has R is taken.

    Raises:
        ValueError: damaged, or of a kind that this does not read; one line.
        OSError: cannot be read.
    """
    data = path.read_bytes()
    try:
        return _decode(data)
    except (struct.error, IndexError, KeyError, zlib.error) as error:
        raise ValueError(f"damaged: {error}") from None


def size(path: pathlib.Path) -> tuple[int, int]:
    """An image's width and height, pixels; raises what ``read`` raises."""
    layout = _checked_layout(path.read_bytes())
    return layout.width, layout.height


def is_whole(path: pathlib.Path) -> bool:
    """Whether an image can be read and has all its scan lines."""
    try:
        data = path.read_bytes()
        layout = _checked_layout(data)
        ends = [at + 8 + struct.unpack_from("<i", data, at + 4)[0] for at in layout.offsets]
    except (OSError, ValueError, struct.error):
        return False
    return min(layout.offsets) > 0 and max(ends) <= len(data)


@dataclasses.dataclass(frozen=True)
class _Layout:
    """What the header says.

    Attributes:
        row: of one scan line's pixels, channel by channel.
        lines: scan lines a chunk.
        offsets: of the chunks.
    """

    row: np.dtype
    width: int
    height: int
    top: int
    compressed: bool
    lines: int
    offsets: tuple[int, ...]


def _checked_layout(data: bytes) -> _Layout:
    """Raises ValueError where it is damaged, or of a kind that this does not read; one line."""
    try:
        return _layout(data)
    except (struct.error, IndexError, KeyError) as error:
        raise ValueError(f"damaged: {error}") from None


def _layout(data: bytes) -> _Layout:
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
    lines = _LINES[compression]
    offsets = struct.unpack_from(f"<{-(-height // lines)}Q", data, at)
    return _Layout(row, width, height, top, compression != 0, lines, offsets)


def _decode(data: bytes) -> npt.NDArray[np.floating]:
    layout = _layout(data)
    row = layout.row
    rows = np.zeros(layout.height, row)
    for offset in layout.offsets:
        first, length = struct.unpack_from("<ii", data, offset)
        first -= layout.top
        count = min(layout.lines, layout.height - first)
        packed = data[offset + 8 : offset + 8 + length]
        whole = count * row.itemsize
        raw = _unzip(packed) if layout.compressed and length != whole else packed
        if first < 0 or len(raw) != whole:
            raise ValueError("damaged: a chunk of a wrong size")
        rows[first : first + count] = np.frombuffer(raw, row)
    names = list(row.names or ())
    reds = [name for name in names if name == "R" or name.endswith(".R")]
    if reds:
        layer = min(reds, key=len).removesuffix("R")
        names = [layer + letter for letter in "RGBA" if layer + letter in names]
        if len(names) < 3:
            raise ValueError("has R but not G and B")
    elif len(names) != 1:
        raise ValueError("has no channels R, G, B")
    halves = all(row[name].base == _TYPES[1] for name in names)
    return np.stack([rows[name] for name in names], -1, dtype="f2" if halves else "f4")


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
