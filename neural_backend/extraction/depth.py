"""Depth of a radiance field: where light stops, on rays and in the pictures of many cameras."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from ..dataset.transforms import Intrinsics, Matrix, View
from ..fields.radiance import RadianceField
from ..kernels import Kernels
from ..rendering.volume import march, scaled
from ..sampling.occupancy import OccupancyGrid
from ..sampling.rays import Cameras

_CHUNK = 8192  # rays
_STOPPED = 0.2
"""Opacity at which light counts as stopped. In fields that have not trained for long a surface's
density begins where the surface is, and grows behind it: half of the light goes too far."""
_VIEWS = 32
_DISTANCE, _ANGLE = 2.0, 0.9  # field units, radians: frames the unit box, corners and all
_GOLDEN = math.pi * (3.0 - math.sqrt(5.0))


@torch.no_grad()
def stops(
    field: RadianceField,
    grid: OccupancyGrid,
    kernels: Kernels,
    rays: tuple[Tensor, Tensor],
    level: float = math.inf,
) -> tuple[Tensor, Tensor]:
    """Follow rays until their light stops.

    Args:
        rays: origins and directions, [R, 3] both, of length 1.
        level: a density per field unit of length.

    Returns:
        [R] how far light gets along the rays, and [R] how far it is to where the density is first
        above the level; infinite where that never happens.
    """
    stopped, reached = [], []
    for origins, directions in zip(*(each.split(_CHUNK) for each in rays), strict=True):
        samples = march(origins, directions, grid, kernels)
        density = field.density(samples.positions(origins, directions))
        through = kernels.transmittance(density, samples)
        length = samples.t_end - samples.t_start
        # inside which sample it stops, and where in that, follows from the sample's thickness
        before = torch.log(through.clamp(min=1e-9) / (1.0 - _STOPPED))
        part = before / (density * length).clamp(min=1e-9)
        here = (part >= 0.0) & (part < 1.0)
        count = len(origins)
        stopped.append(_first(here, samples.t_start + part * length, samples.ray, count))
        middle = samples.t_start + 0.5 * length
        reached.append(_first(density > level, middle, samples.ray, count))
    return torch.cat(stopped), torch.cat(reached)


def _first(mask: Tensor, t: Tensor, ray: Tensor, rays: int) -> Tensor:
    """[rays] the least t [N] of each ray's samples in a mask [N]."""
    index = mask.nonzero()[:, 0]
    least = torch.full((rays,), math.inf, device=t.device)
    return least.scatter_reduce_(0, ray[index], t[index], "amin")


def chosen(views: tuple[View, ...], side: int) -> list[View]:
    """Some views, evenly spread over all, of at most ``side`` pixels."""
    count = min(len(views), _VIEWS)
    some = [views[index * len(views) // count] for index in range(count)]
    return [dataclasses.replace(v, intrinsics=scaled(v.intrinsics, side)) for v in some]


def all_around(field_from_world: Matrix) -> tuple[View, ...]:
    """Views of the unit box from all sides, for a field whose own views are gone."""
    world_from_field = np.linalg.inv(field_from_world)
    scale = np.linalg.norm(world_from_field[:3, 0])
    focal = 0.5 / math.tan(0.5 * _ANGLE)
    intrinsics = Intrinsics(1024, 1024, 1024 * focal, 1024 * focal, 512.0, 512.0)
    views = []
    for index in range(_VIEWS):
        height = 1.0 - (2 * index + 1) / _VIEWS
        radius, turn = math.sqrt(1.0 - height * height), _GOLDEN * index
        back = np.array([radius * math.cos(turn), radius * math.sin(turn), height])
        right = np.array([-math.sin(turn), math.cos(turn), 0.0])
        pose = np.eye(4)
        pose[:3, :3] = np.stack([right, np.cross(back, right), back], axis=1)
        pose[:3, 3] = 0.5 + _DISTANCE * back
        pose = world_from_field @ pose
        pose[:3, :3] /= scale
        views.append(View("", pose, intrinsics))
    return tuple(views)


class DepthMaps:
    """How deep the light of all pixels of some cameras gets, infinite where it goes through.

    Args:
        report: called after each camera with the number done and the number of all.
    """

    def __init__(
        self,
        field: RadianceField,
        grid: OccupancyGrid,
        kernels: Kernels,
        cameras: Cameras,
        report: Callable[[int, int], None] = lambda done, of: None,
    ):
        self._cameras = cameras
        self._maps = []
        for view in range(len(cameras.origins)):
            origins, directions = cameras.pixel_rays(view)
            far, _ = stops(field, grid, kernels, (origins, directions))
            self._maps.append(far * (directions @ -cameras.rotations[view][:, 2]))
            report(view + 1, len(cameras.origins))

    def fused(self, points: Tensor, truncation: float) -> tuple[Tensor, Tensor]:
        """Truncated signed distances that the maps agree on.

        Curless and Levoy 1996, "A volumetric method for building complex models from range
        images". A map counts the less the further behind its surface a point is.

        Args:
            points: [N, 3] in the unit box.
            truncation: field units.

        Returns:
            [N] in truncations from -1, in the open, up; and [N] how much the maps say about each
            point, which is nothing where it is hidden from all.
        """
        total, weights = torch.zeros_like(points[:, 0]), torch.zeros_like(points[:, 0])
        for view, depth in enumerate(self._maps):
            w, h = int(self._cameras.widths[view]), int(self._cameras.heights[view])
            x, y, far = self._cameras.project(points, view)
            column, row = x.floor().long(), y.floor().long()
            seen = (column >= 0) & (column < w) & (row >= 0) & (row < h) & (far > 0.0)
            place = torch.where(seen, row * w + column, 0)
            behind = (far - depth[place]) / truncation
            weight = torch.where(seen, (1.0 - behind).clamp(0.0, 1.0), 0.0)
            total += weight * behind.clamp(-1.0, 1.0)
            weights += weight
        return total / weights.clamp(min=1e-6), weights
