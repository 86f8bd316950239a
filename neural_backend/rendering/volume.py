"""Volume rendering of a radiance field: rays to colours, cameras to images."""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from ..dataset.colour import displayed
from ..dataset.transforms import Intrinsics, Matrix, View
from ..fields.radiance import RadianceField
from ..kernels import Kernels, Samples
from ..sampling.occupancy import OccupancyGrid
from ..sampling.rays import Cameras, intersect_box

NEAREST = 0.05
"""What is nearer to a camera than this part of the grid's reach is not seen in contracted space: it
would be one view's own, which no other view can correct."""
_CHUNK = 8192  # rays


def march(
    origins: Tensor,
    directions: Tensor,
    grid: OccupancyGrid,
    kernels: Kernels,
    jitter: Tensor | None = None,
) -> Samples:
    """Samples of rays [R, 3] in the grid's occupied cells.

    Args:
        jitter: [R] in [0, 1), part of a step by which each ray's samples are moved; the middle
            where None.
    """
    if grid.contracted:
        near = torch.full_like(origins[:, 0], NEAREST * grid.reach)
        # two steps short of infinity
        far = torch.full_like(near, grid.reach**2 / (2.0 * grid.step))
    else:
        near, far = intersect_box(origins, directions, grid.low, grid.high)
    if jitter is None:
        jitter = torch.full_like(near, 0.5)
    cells = grid.occupied
    return kernels.march(origins, directions, near, far, cells, grid.step, jitter, grid.reach)


@torch.no_grad()
def render_points(
    field: RadianceField,
    grid: OccupancyGrid,
    cameras: Cameras,
    view: Tensor,
    x: Tensor,
    y: Tensor,
    kernels: Kernels,
) -> Tensor:
    """[R, 4] sRGB with straight alpha at image points; see ``Cameras.rays``."""
    chunks = []
    for part in torch.arange(len(view), device=view.device).split(_CHUNK):
        origins, directions = cameras.rays(view[part], x[part], y[part])
        samples = march(origins, directions, grid, kernels)
        colour, alpha = field.render(origins, directions, samples)
        chunks.append(displayed(torch.cat([colour, alpha[:, None]], -1), field.linear))
    return torch.cat(chunks)


def render_image(
    field: RadianceField,
    grid: OccupancyGrid,
    intrinsics: Intrinsics,
    world_from_camera: Matrix,
    field_from_world: Matrix,
    kernels: Kernels,
) -> Tensor:
    """[H, W, 4] what a camera sees: sRGB with straight alpha; float32, 0 to 1."""
    device = kernels.device
    view = View("", world_from_camera, intrinsics)
    cameras = Cameras([view], field_from_world, device)
    y, x = torch.meshgrid(
        torch.arange(intrinsics.h, device=device) + 0.5,
        torch.arange(intrinsics.w, device=device) + 0.5,
        indexing="ij",
    )
    first = torch.zeros(intrinsics.h * intrinsics.w, dtype=torch.int64, device=device)
    pixels = render_points(field, grid, cameras, first, x.reshape(-1), y.reshape(-1), kernels)
    return pixels.view(intrinsics.h, intrinsics.w, 4)


def scaled(intrinsics: Intrinsics, longest: int) -> Intrinsics:
    """The same camera with fewer pixels: at most ``longest`` on the longer side."""
    factor = min(1.0, longest / max(intrinsics.w, intrinsics.h))
    w, h = max(round(intrinsics.w * factor), 1), max(round(intrinsics.h * factor), 1)
    across, down = w / intrinsics.w, h / intrinsics.h
    return dataclasses.replace(
        intrinsics,
        w=w,
        h=h,
        fl_x=intrinsics.fl_x * across,
        fl_y=intrinsics.fl_y * down,
        cx=intrinsics.cx * across,
        cy=intrinsics.cy * down,
    )
