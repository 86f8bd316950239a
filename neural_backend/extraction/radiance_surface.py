"""The surface of a radiance field."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable

import numpy as np
import skimage.measure
import torch
from torch import Tensor

from ..dataset.transforms import Matrix, View
from ..fields.radiance import RadianceField
from ..kernels import Kernels
from ..sampling.occupancy import OccupancyGrid, at_points
from ..sampling.rays import Cameras
from . import density_level, depth
from .depth import DepthMaps
from .surface import Volume, no_surface

_RANGE = math.log(100.0)  # what is denser or thinner than the level by more is all the same
_LEVEL_PIXELS = 64  # along the longer side of the views that the level is chosen by
_TRUNCATION = 4.0  # cells
_MOST_PIXELS = 512  # along the longer side of a depth map


def volume(
    field: RadianceField,
    grid: OccupancyGrid,
    kernels: Kernels,
    views: tuple[View, ...],
    field_from_world: Matrix,
    resolution: int,
    report: Callable[[int, int], None] = lambda done, of: None,
) -> Volume:
    """What extraction needs of a radiance field.

    Where the density has a clear level, the surface is that level set. Where it has none, because
    there is haze instead of a surface, it is what depth maps of the field agree on. What all
    views are blind for is inside: whatever the training has left there must not show.

    Args:
        views: that the field was trained on, or some from all around.
        resolution: cells along the longest side of the surface.
        report: called after each depth map with the number done and the number of all.
    """
    cells = grid.inner.nonzero()
    if len(cells) == 0:
        raise no_surface()
    edge = float((cells.amax(0) - cells.amin(0)).max() + 1) / len(grid.inner)

    def cameras(side: int) -> Cameras:
        return Cameras(depth.chosen(views, side), field_from_world, kernels.device)

    level = density_level.clear_level(field, grid, kernels, cameras(_LEVEL_PIXELS))
    maps = DepthMaps(field, grid, kernels, cameras(min(resolution, _MOST_PIXELS)), report)
    truncation = _TRUNCATION * edge / resolution
    # among their surroundings cameras may stand in a room, whose walls are a cavity
    if level is None:
        return from_depth(maps, grid.inner, truncation, grid.contracted)
    return from_density(field.density, grid.inner, level, maps, truncation, grid.contracted)


def from_density(
    density: Callable[[Tensor], Tensor],
    occupied: Tensor,
    level: float,
    maps: DepthMaps,
    truncation: float,
    cavities: bool = False,
) -> Volume:
    """The level set of a density.

    Args:
        density: maps [N, 3] points of the unit box to [N], per field unit of length.
        occupied: [G, G, G] bool, indexed x, y, z: the cells outside of which it is not asked.
        level: per field unit of length.
        maps, truncation: what they say nothing about is inside.
        cavities: see ``Volume``.
    """
    solid = enclosed(occupied)

    def value(points: Tensor) -> Tensor:
        values = torch.full((len(points),), -1.0, device=points.device)
        there = at_points(occupied, points)
        # the logarithm is what the network puts out: smooth where the density jumps
        nats = torch.log(density(points[there]).clamp(min=1e-9) / level)
        values[there] = (nats / _RANGE).clamp(-1.0, 1.0)
        perhaps = (at_points(solid, points) & (values < 1.0)).nonzero()[:, 0]
        _, weights = maps.fused(points[perhaps], truncation)
        values[perhaps[weights == 0.0]] = 1.0
        return values

    return Volume(value, reaching(occupied), occupied.device, cavities, False)


def from_depth(
    maps: DepthMaps, occupied: Tensor, truncation: float, cavities: bool = False
) -> Volume:
    """The surface that depth maps agree on; see ``from_density``."""
    solid = enclosed(occupied)

    def value(points: Tensor) -> Tensor:
        values = torch.full((len(points),), -1.0, device=points.device)
        there = at_points(solid, points).nonzero()[:, 0]
        behind, weights = maps.fused(points[there], truncation)
        values[there] = torch.where(weights == 0.0, 1.0, behind)
        return values

    return Volume(value, reaching(occupied), occupied.device, cavities, False)


def enclosed(occupied: Tensor) -> Tensor:
    """[G, G, G] the occupied cells and those that they enclose."""
    empty = np.pad(~occupied.cpu().numpy(), 1, constant_values=True)
    outside = skimage.measure.label(empty, connectivity=1)
    outside = outside[1:-1, 1:-1, 1:-1] == outside[0, 0, 0]
    return torch.from_numpy(~outside).to(occupied.device)


def reaching(occupied: Tensor) -> Callable[[Tensor, float], Tensor]:
    """Which cubes have occupied cells [G, G, G] in reach; see ``Volume.may_hold``."""
    size = len(occupied)
    grid = occupied.float()

    @functools.lru_cache(maxsize=1)
    def within(reach: int) -> Tensor:
        held = grid
        for axis in range(3):  # one after the other: a cube's cells at once take for ever
            rows = held.transpose(axis, 2)
            pooled = torch.nn.functional.max_pool1d(
                rows.reshape(1, size * size, size), 2 * reach + 1, stride=1, padding=reach
            )
            held = pooled.view(size, size, size).transpose(axis, 2)
        return held > 0.0

    def may_hold(centres: Tensor, half_edge: float) -> Tensor:
        return at_points(within(min(math.ceil(half_edge * size), size - 1)), centres)

    return may_hold
