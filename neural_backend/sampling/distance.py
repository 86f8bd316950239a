"""Distances to the cells of a grid: where a surface may be, before any field has learned it."""

from __future__ import annotations

import torch
from torch import Tensor

_ROWS = 512


def to_cells(cells: Tensor) -> Tensor:
    """[G, G, G] how far each cell's middle is from that of the nearest set one, in cell edges.

    The lower envelopes of parabolas along one axis after the other give it exactly (Felzenszwalb
    and Huttenlocher 2012). Infinite everywhere where none is set.

    Args:
        cells: [G, G, G] bool.
    """
    size = len(cells)
    squared = torch.where(cells, 0.0, torch.inf)
    at = torch.arange(size, dtype=torch.float32, device=cells.device)
    apart = (at[:, None] - at).square()
    for axis in range(3):
        rows = squared.movedim(axis, 2).reshape(-1, 1, size)
        nearest = torch.cat([(part + apart).amin(2) for part in rows.split(_ROWS)])
        squared = nearest.view(size, size, size).movedim(2, axis)
    return squared.sqrt()


def signed(inside: Tensor) -> Tensor:
    """[G, G, G] signed distance of a grid's middles to the border of the set cells, unit box edges.

    It is off by up to half a cell's diagonal. Without a border it is finite all the same.

    Args:
        inside: [G, G, G] bool.
    """
    size = len(inside)
    # beyond the grid everything is outside
    around = torch.nn.functional.pad(inside, (1,) * 6)
    distance = to_cells(around) - to_cells(~around)
    distance = distance - 0.5 * distance.sign()
    return distance.clamp(-size, size)[1:-1, 1:-1, 1:-1] / size


def interpolated(grid: Tensor, x: Tensor) -> Tensor:
    """[N] values at [N, 3] in the unit box, trilinear between the middles of a grid's cells.

    Args:
        grid: [G, G, G], indexed x, y, z.
    """
    # grid_sample counts from the last axis on
    places = (2.0 * x - 1.0).flip(-1).view(1, 1, 1, -1, 3)
    values = torch.nn.functional.grid_sample(
        grid[None, None], places, padding_mode="border", align_corners=False
    )
    return values.view(-1)
