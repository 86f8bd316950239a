"""Pictures beside one another, each with a line above it."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import PIL.Image
import PIL.ImageDraw
import PIL.ImageFont

_LEAST, _MOST = 256, 1024
"""Pixels of a picture's longer side: small ones are magnified evenly, large ones reduced."""
_GAP = 8
_LETTERS = 26
"""That fit above a square picture."""
_BACKGROUND, _INK = (32, 32, 32), (224, 224, 224)


@dataclasses.dataclass(frozen=True)
class Panel:
    """One picture.

    Attributes:
        caption: one line.
        pixels: [H, W, 3] sRGB in [0, 1].
    """

    caption: str
    pixels: npt.NDArray[np.floating]


def sheet(rows: Sequence[Sequence[Panel]]) -> npt.NDArray[np.uint8]:
    """[H, W, 3] sRGB: all panels, row by row."""
    pictures = [[_sized(panel.pixels) for panel in row] for row in rows]
    letters = max(max(picture.size) for row in pictures for picture in row) / _LETTERS
    font = PIL.ImageFont.load_default(letters * 1.6)
    line = round(letters * 2.4)
    heights = [line + max(picture.height for picture in row) + _GAP for row in pictures]
    widths = [sum(picture.width + _GAP for picture in row) for row in pictures]
    whole = PIL.Image.new("RGB", (_GAP + max(widths), sum(heights)), _BACKGROUND)
    draw = PIL.ImageDraw.Draw(whole)
    top = 0
    for row, line_of, height in zip(rows, pictures, heights, strict=True):
        left = _GAP
        for panel, picture in zip(row, line_of, strict=True):
            draw.text((left, top + line // 2), panel.caption, _INK, font, anchor="lm")
            whole.paste(picture, (left, top + line))
            left += picture.width + _GAP
        top += height
    return np.asarray(whole)


def _sized(pixels: npt.NDArray[np.floating]) -> PIL.Image.Image:
    values = np.round(pixels.clip(0.0, 1.0) * 255.0).astype(np.uint8)
    picture = PIL.Image.fromarray(values)
    longer = max(picture.size)
    if longer > _MOST:
        picture.thumbnail((_MOST, _MOST), PIL.Image.Resampling.BOX)
        return picture
    times = -(-_LEAST // longer)
    size = (times * picture.width, times * picture.height)
    return picture.resize(size, PIL.Image.Resampling.NEAREST)
