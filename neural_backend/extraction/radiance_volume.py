"""A radiance field on a regular grid, for programs that render volumes."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from ..dataset.colour import linear_from_srgb
from ..dataset.transforms import Matrix
from ..fields.radiance import RadianceField
from ..protocol import BadInput
from ..sampling.occupancy import OccupancyGrid
from ..voxels import Voxels

_CHUNK = 1 << 16
_FAINT = 1.0 / 256.0
"""What is less dense, a voxel's edge long, is left out."""
_OPAQUE = 4.6
"""More would not be seen, as a voxel lets through a hundredth; renderers take long for it."""
_HALF_MAX = 65504.0


@torch.no_grad()
def sampled(
    field: RadianceField, grid: OccupancyGrid, field_from_world: Matrix, resolution: int
) -> Voxels:
    """The field's density and colour at the middles of voxels.

    A voxel has one colour for all directions of view: the one that is seen from outside, along the
    way on which light is absorbed faster and faster.

    Args:
        resolution: voxels along the longest side of what is occupied.

    Raises:
        BadInput: the field is empty.
    """
    cells = grid.inner.nonzero()
    if len(cells) == 0:
        raise _nothing()
    size = len(grid.inner)
    low, high = cells.amin(0) / size, (cells.amax(0) + 1) / size
    edge = float((high - low).max()) / resolution
    counts = ((high - low) / edge - 1e-4).ceil().long().tolist()
    middles = [
        low[axis] + edge * (torch.arange(n, device=low.device) + 0.5)
        for axis, n in enumerate(counts)
    ]
    x, y, z = ((each * size).long().clamp(max=size - 1) for each in middles)
    index = grid.inner[x][:, y][:, :, z].nonzero()
    density = low.new_zeros(counts)
    for part in index.split(_CHUNK):
        found = edge * field.density(low + edge * (part + 0.5))
        density[tuple(part.T)] = found.clamp(max=_OPAQUE)
    held = density > _FAINT
    # a renderer mixes the colours of neighbours, also of those that hold nothing
    index = _grown(held).nonzero()
    if len(index) == 0:
        raise _nothing()
    colors = []
    for part in index.split(_CHUNK):
        color = field(low + edge * (part + 0.5), _inwards(density, part))[1].cpu().numpy()
        colors.append(color if field.linear else linear_from_srgb(color))
    world_from_field = torch.from_numpy(field_from_world).inverse()
    field_from_index = torch.eye(4, dtype=torch.float64)
    field_from_index[:3] *= edge
    field_from_index[:3, 3] = low.double().cpu() + 0.5 * edge
    return Voxels(
        index.cpu().numpy().astype("u2"),
        density[tuple(index.T)].cpu().numpy().astype("f2"),
        np.concatenate(colors).clip(max=_HALF_MAX).astype("f2"),
        (world_from_field @ field_from_index).numpy(),
    )


def _nothing() -> BadInput:
    return BadInput("the field is empty inside its bounds; train longer")


def _grown(held: Tensor) -> Tensor:
    """[X, Y, Z] bool: a mask's voxels and all that touch them."""
    for axis, count in enumerate(held.shape):
        grown = held.clone()
        grown.narrow(axis, 1, count - 1).logical_or_(held.narrow(axis, 0, count - 1))
        grown.narrow(axis, 0, count - 1).logical_or_(held.narrow(axis, 1, count - 1))
        held = grown
    return held


def _inwards(density: Tensor, index: Tensor) -> Tensor:
    """[N, 3] unit directions in which opacity grows at voxels [N, 3]."""
    last = torch.tensor(density.shape, device=index.device) - 1
    slopes = []
    for step in torch.eye(3, dtype=index.dtype, device=index.device):
        ahead, behind = torch.minimum(index + step, last), (index - step).clamp(min=0)
        slopes.append(torch.exp(-density[tuple(behind.T)]) - torch.exp(-density[tuple(ahead.T)]))
    slope = torch.stack(slopes, 1)
    # where it is the same all around, from above
    flat = slope.norm(dim=1, keepdim=True) < 1e-6
    return torch.nn.functional.normalize(torch.where(flat, -slope.new_tensor([0, 0, 1]), slope))
