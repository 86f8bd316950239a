"""Which pixels of the training views rays are drawn through."""

from __future__ import annotations

import torch
from torch import Tensor

from ..dataset.images import Images
from .occupancy import TRANSPARENT

TILE = 8  # pixels


class Pixels:
    """Random pixels near to what the views show: rays through others would meet empty space only.

    What may be drawn is kept as tiles, because a list of pixels would be larger than the images.
    The last tile of a row or a column ends with the image, over a part of the one before it.

    Args:
        reach: [V] how many pixels around everything that is not background.
    """

    def __init__(self, images: Images, reach: list[int], device: torch.device):
        sizes = [(view.intrinsics.h, view.intrinsics.w) for view in images.views]
        self._side = side = min(TILE, *(min(size) for size in sizes))
        wanted = []
        for index, size in enumerate(sizes):
            seen = _tiles(images.alpha(index) > TRANSPARENT, side)
            wanted.append(_grown(seen, -(-min(reach[index], max(size)) // side)))
        if not any(bool(each.any()) for each in wanted):
            wanted = [torch.ones_like(each) for each in wanted]
        tiles = []
        for index, ((h, w), each) in enumerate(zip(sizes, wanted, strict=True)):
            row, column = each.nonzero(as_tuple=True)
            top, left = (row * side).clamp(max=h - side), (column * side).clamp(max=w - side)
            tiles.append(torch.stack([torch.full_like(row, index), top, left], 1))
        self._tiles = torch.cat(tiles).to(torch.int32).to(device)

    def draw(self, count: int, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
        """[R] views, rows and columns of ``count`` random pixels, int64."""
        device, area = self._tiles.device, self._side**2
        places = len(self._tiles) * area
        number = torch.randint(places, (count,), generator=generator, device=device)
        view, top, left = self._tiles[number // area].long().unbind(1)
        inside = number % area
        return view, top + inside // self._side, left + inside % self._side


def _tiles(mask: Tensor, side: int) -> Tensor:
    """[ceil(H / side), ceil(W / side)] bool: whether anything of a tile of [H, W] is set."""
    h, w = mask.shape
    mask = torch.nn.functional.pad(mask, (0, -w % side, 0, -h % side))
    return mask.view(mask.shape[0] // side, side, -1, side).any(3).any(1)


def _grown(mask: Tensor, reach: int) -> Tensor:
    """[H, W] bool: whether a place within ``reach`` rows and columns is set."""
    size = 2 * reach + 1
    return torch.nn.functional.max_pool2d(mask.float()[None, None], size, 1, reach)[0, 0] > 0.0
