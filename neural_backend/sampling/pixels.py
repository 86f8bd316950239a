"""Which pixels of the training views rays are drawn through."""

from __future__ import annotations

import torch
from torch import Tensor

from ..kernels.reference import pooled
from .occupancy import coordinates, project_cells
from .rays import Cameras

TILE = 8  # pixels
_POOL = 4


class Pixels:
    """Random pixels of all views whose rays may meet something.

    The others would only show that empty space is empty. What may be drawn is kept as tiles,
    because a list of pixels could be larger than the images; the last tile of a row or a column
    ends with the image, over a part of the one before it.

    Args:
        possible: [G, G, G] bool: the cells of the unit box that can hold anything; None where
            every ray may meet something.
    """

    def __init__(self, cameras: Cameras, possible: Tensor | None):
        sizes = list(zip(cameras.heights.tolist(), cameras.widths.tolist(), strict=True))
        device = cameras.origins.device
        self._side = side = min(TILE, *(min(size) for size in sizes))
        coarse = None
        if possible is not None and possible.shape[0] % _POOL == 0:
            coarse = pooled(possible, _POOL)
        tiles = []
        for view, (h, w) in enumerate(sizes):
            rows, columns = -(-h // side), -(-w // side)
            wanted = torch.ones(rows, columns, dtype=torch.bool, device=device)
            if coarse is not None:
                wanted = _shadow(cameras, view, coarse, rows, columns, side)
            row, column = wanted.nonzero(as_tuple=True)
            top, left = (row * side).clamp(max=h - side), (column * side).clamp(max=w - side)
            tiles.append(torch.stack([torch.full_like(row, view), top, left], 1))
        self._tiles = torch.cat(tiles)
        if len(self._tiles) == 0:
            self._tiles = Pixels(cameras, None)._tiles

    def draw(self, count: int, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
        """[R] views, rows and columns of ``count`` random pixels, int64."""
        area = self._side**2
        places = len(self._tiles) * area
        number = torch.randint(places, (count,), generator=generator, device=self._tiles.device)
        view, top, left = self._tiles.index_select(0, number // area).unbind(1)
        inside = number % area
        return view, top + inside // self._side, left + inside % self._side


def _shadow(
    cameras: Cameras, view: int, cells: Tensor, rows: int, columns: int, side: int
) -> Tensor:
    """[rows, columns] bool: the tiles of a view on which cells [G, G, G] may appear."""
    size = cells.shape[0]
    half_diagonal = 0.5 * 3.0**0.5 / size
    centres = (coordinates(cells.view(-1).nonzero()[:, 0], size) + 0.5) / size
    x, y, depth, footprint = project_cells(cameras, centres, view, half_diagonal)
    before = depth > -half_diagonal
    x, y, footprint = x[before], y[before], footprint[before]

    def tile(place: Tensor, most: int) -> Tensor:
        return (place / side).floor().clamp(0, most).long()

    left, right = tile(x - footprint, columns), tile(x + footprint + side, columns)
    top, bottom = tile(y - footprint, rows), tile(y + footprint + side, rows)
    # how many windows cover a tile, from their corners: a summed-area table the other way round
    corners = torch.zeros((rows + 1) * (columns + 1), dtype=torch.int32, device=x.device)
    one = torch.ones_like(left, dtype=torch.int32)
    for row, column, sign in (
        (top, left, 1),
        (top, right, -1),
        (bottom, left, -1),
        (bottom, right, 1),
    ):
        corners.index_add_(0, row * (columns + 1) + column, sign * one)
    covered = corners.view(rows + 1, columns + 1).cumsum(0).cumsum(1)
    return covered[:rows, :columns] > 0
