"""Sphere tracing: pictures of a signed distance field."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import torch

from ..dataset.transforms import Matrix, View
from ..sampling.rays import Cameras

SignedDistance = Callable[[torch.Tensor], torch.Tensor]

_STEPS = 128
_CAUTION = 0.9  # a trained field's gradient is a little longer than 1 here and there
_HIT = 5e-4  # of the unit box's edge
_CHUNK = 1 << 16
_GREY = 0.8
_AMBIENT = 0.15


def normals(field: SignedDistance, points: torch.Tensor, step: float = 1e-3) -> torch.Tensor:
    """[N, 3] unit normals of the level sets through ``points`` [N, 3], out of the surface."""
    return torch.nn.functional.normalize(gradients(field, points, step), dim=1)


def gradients(field: SignedDistance, points: torch.Tensor, step: float) -> torch.Tensor:
    """[N, 3] gradients at ``points`` [N, 3], by differences over a tetrahedron of that half edge.

    Differentiable in the field's parameters, which are asked for four values a point.
    """
    corners = points.new_tensor([[1, -1, -1], [-1, -1, 1], [-1, 1, -1], [1, 1, 1]])
    values = field((points[:, None] + step * corners).reshape(-1, 3)).reshape(-1, 4)
    return values @ corners / (4.0 * step)


def trace(
    field: SignedDistance, origins: torch.Tensor, directions: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Follow rays to the field's zero set within the unit box.

    Hart 1996, "Sphere tracing: a geometric method for the antialiased ray tracing of implicit
    surfaces".

    Args:
        field: maps [N, 3] points of the unit box to [N] signed distances.
        origins: [R, 3]
        directions: [R, 3], unit length.

    Returns:
        [R] distances along the rays and [R] whether they hit.
    """
    inverse = 1.0 / torch.where(directions.abs() < 1e-9, 1e-9, directions)
    to_low, to_high = -origins * inverse, (1.0 - origins) * inverse
    near = torch.minimum(to_low, to_high).amax(dim=1).clamp(min=0.0)
    far = torch.maximum(to_low, to_high).amin(dim=1)
    distance = near.clone()
    hit = torch.zeros_like(near, dtype=torch.bool)
    alive = torch.nonzero(near < far)[:, 0]
    for _ in range(_STEPS):
        if len(alive) == 0:
            break
        step = field(origins[alive] + distance[alive, None] * directions[alive])
        distance[alive] += _CAUTION * step
        close = step.abs() < _HIT
        hit[alive[close]] = True
        alive = alive[~close & (distance[alive] < far[alive])]
    return distance, hit


@torch.no_grad()
def shade(field: SignedDistance, origins: torch.Tensor, directions: torch.Tensor) -> torch.Tensor:
    """[R, 4] sRGB and alpha of rays ([R, 3] both): grey, lit from where the camera stands."""
    distance, hit = trace(field, origins, directions)
    points = (origins + distance[:, None] * directions)[hit]
    facing = (normals(field, points) * -directions[hit]).sum(dim=1).clamp(min=0.0)
    grey = _GREY * (_AMBIENT + (1.0 - _AMBIENT) * facing)
    pixels = origins.new_zeros(len(origins), 4)
    pixels[hit, :3] = grey[:, None]
    pixels[hit, 3] = 1.0
    return pixels


def portrait(field: SignedDistance, size: int, device: torch.device) -> npt.NDArray[np.float32]:
    """[size, size, 3] sRGB picture of the unit box from a corner, on white.

    The camera is orthographic, so that the picture needs no lens.
    """
    forward = torch.tensor([-0.6, 0.7, -0.4], device=device)
    forward = torch.nn.functional.normalize(forward, dim=0)
    right = torch.nn.functional.normalize(
        torch.linalg.cross(forward, forward.new_tensor([0.0, 0.0, 1.0])), dim=0
    )
    up = torch.linalg.cross(right, forward)
    across = (torch.arange(size, device=device) + 0.5) / size * 1.5 - 0.75
    offset = across[None, :, None] * right - across[:, None, None] * up
    origins = (0.5 + offset - 2.0 * forward).reshape(-1, 3)
    pixels = shade(field, origins, forward.expand_as(origins))
    on_white = pixels[:, :3] * pixels[:, 3:] + 1.0 - pixels[:, 3:]
    return on_white.reshape(size, size, 3).cpu().numpy()


def render_image(
    field: SignedDistance, view: View, field_from_world: Matrix, device: torch.device
) -> torch.Tensor:
    """[H, W, 4] what a camera sees: sRGB premultiplied by alpha, and alpha, in [0, 1]."""
    cameras = Cameras([view], field_from_world, device)
    w, h = view.intrinsics.w, view.intrinsics.h
    pixel = torch.arange(w * h, device=device)
    parts = []
    for part in pixel.split(_CHUNK):
        first = torch.zeros_like(part)
        rays = cameras.rays(first, part % w + 0.5, part // w + 0.5)
        parts.append(shade(field, *rays))
    return torch.cat(parts).view(h, w, 4)
