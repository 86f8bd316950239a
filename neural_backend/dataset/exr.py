"""OpenEXR images as Blender writes them: scan lines, without loss; read and written. Numpy only."""

from __future__ import annotations

import dataclasses
import pathlib
import struct
import zlib
from collections.abc import Callable
from typing import TypeVar

import numpy as np
import numpy.typing as npt

T = TypeVar("T")

_MAGIC = 20_000_630
_TILED, _DEEP, _MULTIPART = 0x200, 0x800, 0x1000
_TYPES = (np.dtype("<u4"), np.dtype("<f2"), np.dtype("<f4"))
_LINES = {0: 1, 2: 1, 3: 16}
"""Scan lines a chunk, by compression: none, zip of one line, zip of sixteen."""
_ZIP = 3
_SOFTWARE = "software"
_LARGEST = 2**30  # pixels


def read(path: pathlib.Path) -> npt.NDArray[np.floating]:
    """[H, W, C] the channels R, G, B (and A), or the only one; linear, as they are in the file.

    float16 where all of them are, else float32. Of several layers the first that has R is taken.

    Raises:
        ValueError: damaged, or of a kind that this does not read; one line.
        OSError: cannot be read.
    """
    return _checked(_decode, path.read_bytes())


def read_channels(path: pathlib.Path) -> dict[str, npt.NDArray]:
    """[H, W] every channel by its full name, ``layer.pass.X`` for instance; raises as ``read``."""
    rows = _checked(_rows, path.read_bytes())
    return {name: rows[name] for name in rows.dtype.names or ()}


def write(
    path: pathlib.Path, channels: dict[str, npt.NDArray[np.floating]], software: str = ""
) -> None:
    """Write channels [H, W] with ZIP compression: float16 as such, all others as float32.

    Args:
        software: what wrote them, kept in the header; nothing is said where it is empty.

    Raises:
        OSError: cannot be written.
    """
    names = sorted(channels)
    height, width = channels[names[0]].shape
    kinds = [1 if channels[name].dtype == np.float16 else 2 for name in names]
    row = np.dtype([(n, _TYPES[k], (width,)) for n, k in zip(names, kinds, strict=True)])
    rows = np.empty(height, row)
    for name in names:
        rows[name] = channels[name]
    listed = b"".join(
        _name(name) + struct.pack("<4i", kind, 0, 1, 1)
        for name, kind in zip(names, kinds, strict=True)
    )
    box = struct.pack("<4i", 0, 0, width - 1, height - 1)
    attributes = [
        ("channels", "chlist", listed + b"\0"),
        ("compression", "compression", bytes([_ZIP])),
        ("dataWindow", "box2i", box),
        ("displayWindow", "box2i", box),
        ("lineOrder", "lineOrder", b"\0"),
        ("pixelAspectRatio", "float", struct.pack("<f", 1.0)),
        ("screenWindowCenter", "v2f", struct.pack("<2f", 0.0, 0.0)),
        ("screenWindowWidth", "float", struct.pack("<f", 1.0)),
    ]
    if software:
        attributes.append((_SOFTWARE, "string", software.encode()))
    header = struct.pack("<ii", _MAGIC, 2)
    for name, kind, value in attributes:
        header += _name(name) + _name(kind) + struct.pack("<i", len(value)) + value
    header += b"\0"
    chunks = []
    for first in range(0, height, _LINES[_ZIP]):
        packed = _zip(rows[first : first + _LINES[_ZIP]].tobytes())
        chunks.append(struct.pack("<ii", first, len(packed)) + packed)
    starts = np.cumsum([len(header) + 8 * len(chunks), *map(len, chunks)])[:-1]
    path.write_bytes(header + starts.astype("<u8").tobytes() + b"".join(chunks))


def write_depth(path: pathlib.Path, depth: npt.NDArray[np.floating], software: str = "") -> None:
    """Write a dataset's depth [H, W]; takes and raises what ``write`` does."""
    write(path, {"Y": depth}, software)


def write_normal(path: pathlib.Path, normal: npt.NDArray[np.floating], software: str = "") -> None:
    """Write a dataset's normals [H, W, 3]; takes and raises what ``write`` does."""
    channels = np.moveaxis(normal.astype(np.float16), -1, 0)
    write(path, dict(zip("RGB", channels, strict=True)), software)


def software(path: pathlib.Path) -> str:
    """What an image says it was written by, empty if nothing; raises what ``read`` raises."""
    said = _checked(_header, path.read_bytes())[0].get(_SOFTWARE, b"")
    return said.decode("utf-8", "replace")


def size(path: pathlib.Path) -> tuple[int, int]:
    """An image's width and height, pixels; raises what ``read`` raises."""
    layout = _checked(_layout, path.read_bytes())
    return layout.width, layout.height


def is_whole(path: pathlib.Path) -> bool:
    """Whether an image can be read and has all its scan lines."""
    try:
        data = path.read_bytes()
        layout = _checked(_layout, data)
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


def _checked(decode: Callable[[bytes], T], data: bytes) -> T:
    """What ``decode`` makes of it; ValueError where it is damaged or of another kind; one line."""
    try:
        return decode(data)
    except (struct.error, IndexError, KeyError, zlib.error) as error:
        raise ValueError(f"damaged: {error}") from None


def _layout(data: bytes) -> _Layout:
    header, at = _header(data)
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


def _rows(data: bytes) -> npt.NDArray:
    """[H] the scan lines, a structure of channels each."""
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
    return rows


def _decode(data: bytes) -> npt.NDArray[np.floating]:
    rows = _rows(data)
    names = list(rows.dtype.names or ())
    reds = [name for name in names if name == "R" or name.endswith(".R")]
    if reds:
        layer = min(reds, key=len).removesuffix("R")
        names = [layer + letter for letter in "RGBA" if layer + letter in names]
        if len(names) < 3:
            raise ValueError("has R but not G and B")
    elif len(names) != 1:
        raise ValueError("has no channels R, G, B")
    halves = all(rows.dtype[name].base == _TYPES[1] for name in names)
    return np.stack([rows[name] for name in names], -1, dtype="f2" if halves else "f4")


def _header(data: bytes) -> tuple[dict[str, bytes], int]:
    """The attributes by name, and where the header ends."""
    magic, version = struct.unpack_from("<ii", data)
    if magic != _MAGIC:
        raise ValueError("not an OpenEXR image")
    if version & (_TILED | _DEEP | _MULTIPART):
        raise ValueError("tiled, deep and multi-part OpenEXR are not read; save scan lines")
    attributes, at = {}, 8
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


def _zip(raw: bytes) -> bytes:
    """Undone by ``_unzip``; as it is where that is no longer."""
    flat = np.frombuffer(raw, np.uint8)
    halves = np.concatenate([flat[0::2], flat[1::2]])
    delta = halves.copy()
    delta[1:] = halves[1:] - halves[:-1] + np.uint8(128)
    packed = zlib.compress(delta.tobytes())
    return packed if len(packed) < len(raw) else raw


def _name(text: str) -> bytes:
    return text.encode("latin-1") + b"\0"
