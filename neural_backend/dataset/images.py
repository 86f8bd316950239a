"""The images of a dataset: read, checked and packed into one tensor."""

from __future__ import annotations

import concurrent.futures
import dataclasses
import pathlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

import imageio.v3
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ..protocol import BadInput, first_line
from . import exr
from .transforms import Dataset, Split, View

Item = TypeVar("Item")
Result = TypeVar("Result")
_DEEP = ("I", "F")
"""How the names of Pillow's modes begin that have more than 8 bits a channel."""

Pixels = npt.NDArray[np.uint8]


@dataclasses.dataclass(frozen=True)
class Images:
    """Views with their pixels, which may differ in size.

    Attributes:
        views: [V].
        pixels: [P, 4] uint8, the images behind one another, row by row; sRGB, straight alpha.
        offsets: [V + 1] int64; view ``v`` has the pixels ``offsets[v]`` to ``offsets[v + 1]``.
    """

    views: tuple[View, ...]
    pixels: Tensor
    offsets: Tensor

    def image(self, index: int) -> Tensor:
        """[H, W, 4] uint8."""
        intrinsics = self.views[index].intrinsics
        start, end = self.offsets[index], self.offsets[index + 1]
        return self.pixels[start:end].view(intrinsics.h, intrinsics.w, 4)


def image_size(path: pathlib.Path) -> tuple[int, int]:
    """An image's width and height, pixels.

    Raises:
        BadInput: it cannot be read.
    """
    try:
        if path.suffix.lower() == ".exr":
            height, width = exr.read(path).shape[:2]
        else:
            height, width = imageio.v3.improps(path, plugin="pillow", index=0).shape[:2]
    except Exception as error:
        raise _unreadable(path, error) from None
    return width, height


def read_image(path: pathlib.Path) -> Pixels:
    """[H, W, 4] an image as sRGB with straight alpha; opaque where it has no alpha.

    Images of 16 bits a channel are rounded to 8; EXR and other images of floats are taken as
    linear light, and EXR's colours as premultiplied.

    Raises:
        BadInput: it cannot be read, or holds NaN or infinity.
    """
    try:
        if path.suffix.lower() == ".exr":
            pixels = exr.read(path)
        else:
            reader: Any = imageio.v3.imopen(path, "r", plugin="pillow")
            with reader as file:
                if not file.metadata(index=0)["mode"].startswith(_DEEP):
                    # only Pillow knows the palette and the meaning of the channels
                    return file.read(index=0, mode="RGBA")
                pixels = file.read(index=0)
    except Exception as error:
        # the readers raise whatever they please at a damaged file
        raise _unreadable(path, error) from None
    if np.issubdtype(pixels.dtype, np.integer):
        # Pillow gives 16 bits as 16 or as 32
        return _rgba(np.clip(np.round(pixels / 257.0), 0, 255).astype(np.uint8), 255)
    if not np.isfinite(pixels).all():
        raise BadInput(f"{path}: holds NaN or infinite pixels; render this view again")
    pixels = _rgba(pixels, 1.0)
    if path.suffix.lower() == ".exr":
        # by OpenEXR's convention colours are premultiplied
        alpha = pixels[..., 3:]
        pixels[..., :3] /= np.where(alpha > 0.0, alpha, 1.0)
    pixels[..., :3] = srgb_from_linear(pixels[..., :3])
    return np.round(255.0 * np.clip(pixels, 0.0, 1.0)).astype(np.uint8)


def srgb_from_linear(linear: npt.NDArray[np.floating]) -> npt.NDArray[np.floating]:
    """The sRGB transfer curve (IEC 61966-2-1); values are clipped to [0, 1]."""
    linear = np.clip(linear, 0.0, 1.0)
    curve = 1.055 * np.maximum(linear, 0.0031308) ** (1.0 / 2.4) - 0.055
    return np.where(linear <= 0.0031308, 12.92 * linear, curve)


def _rgba(pixels: npt.NDArray, opaque: float) -> npt.NDArray:
    """[H, W, 4] from grey, grey with alpha, RGB or RGBA."""
    if pixels.ndim == 2:
        pixels = pixels[..., None]
    channels = pixels.shape[2]
    colour = pixels[..., :1].repeat(3, 2) if channels < 3 else pixels[..., :3]
    alpha = pixels[..., -1:] if channels in (2, 4) else np.full_like(pixels[..., :1], opaque)
    return np.concatenate([colour, alpha], 2)


def _unreadable(path: pathlib.Path, error: Exception) -> BadInput:
    if path.is_file() and path.stat().st_size == 0:
        return BadInput(f"{path}: empty image; render or copy this view again")
    return BadInput(
        f"{path}: not a readable image ({first_line(error)}); render or copy this view again"
    )


def _in_threads(do: Callable[[Item], Result], items: Sequence[Item]) -> Iterator[Result]:
    """Results in the order of the items; where one raises, the items behind it are left alone."""
    with concurrent.futures.ThreadPoolExecutor() as pool:
        try:
            yield from pool.map(do, items)
        finally:
            pool.shutdown(cancel_futures=True)


def load_views(dataset: Dataset, split: Split, count: int | None = None) -> Images:
    """Read the images of a split.

    Args:
        count: at most so many views, evenly spread; all where None.

    Raises:
        BadInput: an image cannot be read, holds NaN or infinity, or has not the json's size.
    """
    views = dataset.split(split)
    if count is not None and count < len(views):
        views = tuple(views[(2 * k + 1) * len(views) // (2 * count)] for k in range(count))
    sizes = [view.intrinsics.w * view.intrinsics.h for view in views]
    offsets = torch.tensor([0, *sizes]).cumsum(0)
    pixels = torch.empty(sum(sizes), 4, dtype=torch.uint8)
    paths = [dataset.folder / view.file for view in views]
    for index, image in enumerate(_in_threads(read_image, paths)):
        w, h = views[index].intrinsics.w, views[index].intrinsics.h
        if image.shape[:2] != (h, w):
            raise BadInput(
                f"{paths[index]}: {image.shape[1]} x {image.shape[0]} pixels, but the json's w, h "
                f"say {w} x {h}; render this view again or correct the json"
            )
        pixels[offsets[index] : offsets[index + 1]] = torch.from_numpy(image.reshape(-1, 4))
    return Images(views, pixels, offsets)
