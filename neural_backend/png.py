"""The live view's pictures: PNGs that are fast to write and to read. Standard library and numpy.

Blender has no function that reads a picture without a data-block, whose change would make render
engines start over.
"""

from __future__ import annotations

import struct
import zlib

import numpy as np
import numpy.typing as npt

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_HEADER = ">IIBBBBB"
_RGBA = (8, 6, 0, 0, 0)  # bits, kind of colour, compression, filter method, interlacing
_FASTEST = 1
_LARGEST = 4096  # pixels a side


def encode(pixels: npt.NDArray[np.uint8]) -> bytes:
    """A PNG of [H, W, 4] sRGB and straight alpha."""
    h, w = pixels.shape[:2]
    # each row begins with its filter: none
    rows = np.zeros((h, 1 + 4 * w), np.uint8)
    rows[:, 1:] = pixels.reshape(h, 4 * w)
    header = struct.pack(_HEADER, w, h, *_RGBA)
    parts = ((b"IHDR", header), (b"IDAT", zlib.compress(rows.tobytes(), _FASTEST)), (b"IEND", b""))
    return _SIGNATURE + b"".join(_chunk(*part) for part in parts)


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def decode(data: bytes) -> npt.NDArray[np.uint8]:
    """[H, W, 4] the pixels of a PNG that ``encode`` has made.

    Raises:
        ValueError: it is another one, or damaged.
    """
    if data[: len(_SIGNATURE)] != _SIGNATURE:
        raise ValueError("not a PNG")
    position, chunks = len(_SIGNATURE), {}
    try:
        for _ in range(3):
            length, kind = struct.unpack_from(">I4s", data, position)
            chunks[kind] = data[position + 8 : position + 8 + length]
            position += length + 12
        w, h, *form = struct.unpack(_HEADER, chunks[b"IHDR"])
        if tuple(form) != _RGBA or not (0 < w <= _LARGEST and 0 < h <= _LARGEST):
            raise ValueError("not a PNG of the live view")
        size = h * (1 + 4 * w)
        rows = zlib.decompressobj().decompress(chunks[b"IDAT"], size)
    except (struct.error, KeyError, zlib.error) as error:
        raise ValueError(f"a damaged PNG ({error})") from None
    if len(rows) != size:
        raise ValueError("a PNG that ends too early")
    pixels = np.frombuffer(rows, np.uint8).reshape(h, 1 + 4 * w)
    if pixels[:, 0].any():
        raise ValueError("a PNG with filters")
    return pixels[:, 1:].reshape(h, w, 4)
