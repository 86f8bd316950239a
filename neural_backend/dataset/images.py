"""The images of a dataset: read, checked and packed into one tensor."""

from __future__ import annotations

import concurrent.futures
import dataclasses
import pathlib
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

import imageio.v3
import numpy as np
import numpy.typing as npt
import PIL.Image
import torch
from torch import Tensor

from ..protocol import BadInput, first_line
from . import colour, exr
from .transforms import Dataset, Split, View

Item = TypeVar("Item")
Result = TypeVar("Result")
_DEEP = ("I", "F")
"""How the names of Pillow's modes begin that have more than 8 bits a channel."""

_BRIGHTEST = 65504.0
"""Linear light is no brighter, as in a half float: squares of brighter fireflies overflow."""
_OPAQUE = 1.0 - 0.5 / 255.0


@dataclasses.dataclass(frozen=True)
class Images:
    """Views with their pixels, which may differ in size.

    Attributes:
        views: [V].
        pixels: [P, 4] the images behind one another, row by row. uint8: sRGB, straight alpha;
            float16 or float32: linear light, premultiplied, which may exceed 1.
        offsets: [V + 1] int64; view ``v`` has the pixels ``offsets[v]`` to ``offsets[v + 1]``.
    """

    views: tuple[View, ...]
    pixels: Tensor
    offsets: Tensor

    @property
    def linear(self) -> bool:
        """Whether the pixels are linear light; else they are sRGB."""
        return self.pixels.is_floating_point()

    @property
    def opaque(self) -> bool:
        """Whether no pixel lets any background through."""
        return bool((self.pixels[:, 3] >= (_OPAQUE if self.linear else 255)).all())

    def image(self, index: int) -> Tensor:
        """[H, W, 4] a view's pixels."""
        intrinsics = self.views[index].intrinsics
        start, end = self.offsets[index], self.offsets[index + 1]
        return self.pixels[start:end].view(intrinsics.h, intrinsics.w, 4)

    def alpha(self, index: int) -> Tensor:
        """[H, W] a view's alpha, 0 to 1, float32."""
        alpha = self.image(index)[..., 3].to(torch.float32)
        return alpha if self.linear else alpha / 255.0

    def on_white(self, pixels: Tensor) -> Tensor:
        """[..., 3] some of the pixels [..., 4] as a screen shows them on white: sRGB, float32."""
        return colour.over_white(colour.displayed(premultiplied(pixels), self.linear))


def premultiplied(pixels: Tensor) -> Tensor:
    """[..., 4] pixels of ``Images`` as float32, in their own light, the colour premultiplied."""
    if pixels.is_floating_point():
        return pixels.to(torch.float32)
    rgba = pixels.to(torch.float32) / 255.0
    return torch.cat([rgba[..., :3] * rgba[..., 3:], rgba[..., 3:]], -1)


def image_size(path: pathlib.Path) -> tuple[int, int]:
    """An image's width and height, pixels.

    Raises:
        BadInput: it cannot be read.
    """
    try:
        if path.suffix.lower() == ".exr":
            return exr.size(path)
        with PIL.Image.open(path) as image:
            return image.size
    except Exception as error:
        raise unreadable(path, error) from None


def read_image(path: pathlib.Path) -> npt.NDArray:
    """[H, W, 4] an image, opaque where it has no alpha.

    Images of 8 bits a channel, and those of 16, which are rounded, are uint8: sRGB with straight
    alpha. EXR and other images of floats keep their float16 or float32: linear light,
    premultiplied, as OpenEXR's convention has it.

    Raises:
        BadInput: it cannot be read, or holds NaN or infinity.
    """
    try:
        if path.suffix.lower() == ".exr":
            pixels = exr.read(path)
        else:
            with PIL.Image.open(path) as image:
                if not image.mode.startswith(_DEEP):
                    return np.array(image.convert("RGBA"))
            pixels = imageio.v3.imread(path, plugin="pillow", index=0)
    except Exception as error:
        # the readers raise whatever they please at a damaged file
        raise unreadable(path, error) from None
    if np.issubdtype(pixels.dtype, np.integer):
        # Pillow gives 16 bits as 16 or as 32
        return _rgba(np.clip(np.round(pixels / 257.0), 0, 255).astype(np.uint8), 255)
    if not np.isfinite(pixels).all():
        raise BadInput(f"{path}: holds NaN or infinite pixels; render this view again")
    return _rgba(np.minimum(pixels, _BRIGHTEST).astype(pixels.dtype, copy=False), 1.0)


def _rgba(pixels: npt.NDArray, opaque: float) -> npt.NDArray:
    """[H, W, 4] from grey, grey with alpha, RGB or RGBA."""
    if pixels.ndim == 2:
        pixels = pixels[..., None]
    channels = pixels.shape[2]
    colour = pixels[..., :1].repeat(3, 2) if channels < 3 else pixels[..., :3]
    alpha = pixels[..., -1:] if channels in (2, 4) else np.full_like(pixels[..., :1], opaque)
    return np.concatenate([colour, alpha], 2)


def unreadable(path: pathlib.Path, error: Exception) -> BadInput:
    """What to say of an image that a reader has failed at."""
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
        BadInput: an image cannot be read, holds NaN or infinity, has not the json's size, or is
            not in the same light as the others.
    """
    views = dataset.split(split)
    if count is not None and count < len(views):
        views = tuple(views[(2 * k + 1) * len(views) // (2 * count)] for k in range(count))
    sizes = [view.intrinsics.w * view.intrinsics.h for view in views]
    offsets = torch.tensor([0, *sizes]).cumsum(0)
    pixels = torch.empty(0, 4, dtype=torch.uint8)
    paths = [dataset.folder / view.file for view in views]
    for index, image in enumerate(map(torch.from_numpy, _in_threads(read_image, paths))):
        if index == 0:
            pixels = torch.empty(sum(sizes), 4, dtype=image.dtype)
        elif image.is_floating_point() != pixels.is_floating_point():
            raise BadInput(
                f"{paths[index]}: {_light(image)}, but the images before it are {_light(pixels)}; "
                f"render all {split} views in one format"
            )
        elif image.dtype == torch.float32:
            pixels = pixels.to(torch.float32)
        w, h = views[index].intrinsics.w, views[index].intrinsics.h
        if image.shape[:2] != (h, w):
            raise BadInput(
                f"{paths[index]}: {image.shape[1]} x {image.shape[0]} pixels, but the json's w, h "
                f"say {w} x {h}; render this view again or correct the json"
            )
        pixels[offsets[index] : offsets[index + 1]] = image.view(-1, 4)
    return Images(views, pixels, offsets)


def _light(pixels: Tensor) -> str:
    return "linear light (EXR)" if pixels.is_floating_point() else "8-bit sRGB"
