"""Which pixels of the training views rays are drawn through."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ..kernels.reference import pooled
from .occupancy import coordinates, project_cells
from .rays import Cameras

TILE = 8  # pixels
_POOL = 4
_MOST_TILES = 2**20

BY_ERROR = 0.75
"""Part of the pixels that is drawn where errors are large; the rest is drawn anywhere."""
FADING = 0.9
"""How much of what is known of the errors is left when the shares are made anew."""
_EVERY = 16  # how many times errors are noted until the shares are made anew
_FIRST = 64  # errors of the first steps say little


class Drawn(NamedTuple):
    """Random pixels.

    Attributes:
        view, row, column: [R] int64.
        tile: [R] int64, for ``Pixels.note_errors``.
        weight: [R] how many times less often than others they are drawn: the mean of anything
            times it is that over all pixels.
    """

    view: Tensor
    row: Tensor
    column: Tensor
    tile: Tensor
    weight: Tensor


class Pixels:
    """Random pixels of all views whose rays may meet something, more where errors are large.

    The others would only show that empty space is empty. What may be drawn is kept as tiles,
    because a list of pixels could be larger than the images; the last tile of a row or a column
    ends with the image, over a part of the one before it.

    Once errors are noted, tiles are drawn in proportion to their root mean square error, with
    which the gradient grows, beside a part that is drawn evenly (importance sampling,
    Katharopoulos and Fleuret 2018; for radiance fields Kheradmand et al. 2023).

    Args:
        possible: [G, G, G] bool: the cells of the unit box that can hold anything; None where
            every ray may meet something.

    Attributes:
        blind: whether no ray meets what is possible; all are drawn then.
    """

    def __init__(self, cameras: Cameras, possible: Tensor | None):
        sizes = list(zip(cameras.heights.tolist(), cameras.widths.tolist(), strict=True))
        device = cameras.origins.device
        tile = TILE
        while sum(h * w for h, w in sizes) > _MOST_TILES * tile**2:
            tile *= 2
        self._side = side = min(tile, *(min(size) for size in sizes))
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
        self.blind = len(self._tiles) == 0
        if self.blind:
            self._tiles = Pixels(cameras, None)._tiles

        count = len(self._tiles)
        self._errors = torch.zeros(count, device=device)
        self._times = torch.zeros(count, device=device)
        self._shares = torch.full((count,), 1.0 / count, device=device)
        self._noted = 0
        self._sum_shares()

    def draw(self, count: int, generator: torch.Generator) -> Drawn:
        """``count`` random pixels."""
        device = self._tiles.device
        tiles, area = len(self._tiles), self._side**2
        place = torch.rand(count, generator=generator, device=device)
        tile = torch.searchsorted(self._up_to, place, right=True).clamp(max=tiles - 1)
        view, top, left = self._tiles.index_select(0, tile).unbind(1)
        inside = torch.randint(area, (count,), generator=generator, device=device)
        weight = 1.0 / (tiles * self._shares[tile])
        return Drawn(view, top + inside // self._side, left + inside % self._side, tile, weight)

    def note_errors(self, tile: Tensor, error: Tensor) -> None:
        """Take squared errors [R] of pixels drawn into account, the next times they are drawn."""
        self._errors.index_add_(0, tile, error)
        self._times.index_add_(0, tile, torch.ones_like(error))
        self._noted += 1
        if self._noted < _FIRST or self._noted % _EVERY:
            return
        # a tile that was not drawn for long has the mean of all
        mean = self._errors.sum() / self._times.sum()
        error = ((self._errors + mean) / (self._times + 1.0)).clamp(min=1e-30).sqrt()
        count = len(self._tiles)
        self._shares = BY_ERROR * error / error.sum() + (1.0 - BY_ERROR) / count
        self._errors *= FADING
        self._times *= FADING
        self._sum_shares()

    def _sum_shares(self) -> None:
        up_to = self._shares.cumsum(0)
        self._up_to = up_to / up_to[-1]

    def state(self) -> dict[str, Tensor]:
        """What is known of the errors."""
        noted = torch.tensor(self._noted)
        known = {"errors": self._errors, "times": self._times, "shares": self._shares}
        return known | {"noted": noted}

    def load_state(self, state: dict[str, Tensor]) -> None:
        """Take up ``state()``.

        Raises:
            KeyError, RuntimeError: when it does not fit.
        """
        self._errors.copy_(state["errors"])
        self._times.copy_(state["times"])
        self._shares.copy_(state["shares"])
        self._noted = int(state["noted"])
        self._sum_shares()


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
