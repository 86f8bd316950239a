"""Files that are told by a mark inside as ours: only these are replaced without being asked for."""

from __future__ import annotations

import pathlib
from collections.abc import Iterable
from typing import BinaryIO

import numpy as np
import numpy.typing as npt
import PIL.Image
import PIL.PngImagePlugin

from ..dataset import exr
from ..protocol import BadInput

MAKER = "Neural Fields"
"""What PNG and OpenEXR images of ours have as ``Software``."""
MTL_HEADER = f"# {MAKER}"
"""The first line of our material files."""


def save_png(
    to: pathlib.Path | BinaryIO, pixels: npt.NDArray[np.uint8], compress_level: int = 6
) -> None:
    """Write a picture [H, W, 3 or 4] as a PNG with our mark.

    Raises:
        OSError: it cannot be written.
    """
    said = PIL.PngImagePlugin.PngInfo()
    said.add_text("Software", MAKER)
    image = PIL.Image.fromarray(pixels)
    image.save(to, "PNG", pnginfo=said, compress_level=compress_level)


def refuse_strangers(files: Iterable[pathlib.Path]) -> None:
    """Make sure that of some files, which are about to be written, none exists but ours.

    Raises:
        BadInput: one does.
    """
    for file in files:
        if file.exists() and not _is_ours(file):
            raise BadInput(
                f"{file.parent}: holds {file.name}, which Neural Fields did not write and would "
                "replace; choose another folder"
            )


def _is_ours(file: pathlib.Path) -> bool:
    try:
        if file.suffix == ".exr":
            return exr.software(file) == MAKER
        if file.suffix == ".mtl":
            with open(file, encoding="utf-8") as text:
                return text.readline().rstrip() == MTL_HEADER
        with PIL.Image.open(file) as image:
            return image.info.get("Software") == MAKER
    except Exception:  # the readers raise whatever they please: whatever it is, it is not ours
        return False
