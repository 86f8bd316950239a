"""Sphere tracing: pictures of a signed distance field."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import torch

from ..dataset.transforms import Matrix, View
from ..sampling.rays import Cameras, intersect_box

SignedDistance = Callable[[torch.Tensor], torch.Tensor]

_STEPS = 128
_CAUTION = 0.9  # a trained field's gradient is a little longer than 1 here and there
_SHORTEST = 1e-3
"""Of the unit box's edge: rays cross the surface in a step, not in ever smaller ones before it."""
_REFINEMENTS = 4
_FINE, _COARSE = 1e-3, 1e-2
"""Field units over which a normal is taken, and at most where a pixel shows more than that."""
_CHUNK = 1 << 16
_GREY = 0.8
_AMBIENT = 0.15
_PORTRAIT = 1.5  # edge of the picture, field units


def normals(
    field: SignedDistance, points: torch.Tensor, step: torch.Tensor | float = _FINE
) -> torch.Tensor:
    """[N, 3] unit normals of the level sets through ``points`` [N, 3], out of the surface.

    Args:
        step: see ``gradients``; [N], or the same for all.
    """
    return torch.nn.functional.normalize(gradients(field, points, step), dim=1)


def gradients(
    field: SignedDistance, points: torch.Tensor, step: torch.Tensor | float
) -> torch.Tensor:
    """[N, 3] gradients at ``points`` [N, 3], by differences over a tetrahedron of that half edge.

    Differentiable in the field's parameters, which are asked for four values a point.
    """
    corners = points.new_tensor([[1, -1, -1], [-1, -1, 1], [-1, 1, -1], [1, 1, 1]])
    away = step * corners if isinstance(step, float) else step[:, None, None] * corners
    values = field((points[:, None] + away).reshape(-1, 3)).reshape(-1, 4)
    return values @ corners / (4.0 * (step if isinstance(step, float) else step[:, None]))


@torch.no_grad()
def trace(
    field: SignedDistance, origins: torch.Tensor, directions: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Follow rays to the field's zero set within the unit box.

    Hart 1996, "Sphere tracing: a geometric method for the antialiased ray tracing of implicit
    surfaces". Where a ray enters the box inside the surface, the box's wall is hit; one that
    starts inside the surface hits nothing.

    Args:
        field: maps [N, 3] points of the unit box to [N] signed distances.
        origins: [R, 3]
        directions: [R, 3], unit length.

    Returns:
        [R] distances along the rays and [R] whether they hit.
    """
    near, far = intersect_box(origins, directions, origins.new_zeros(3), origins.new_ones(3))

    def value(rays: torch.Tensor, at: torch.Tensor) -> torch.Tensor:
        return field(origins[rays] + at[:, None] * directions[rays])

    hit = torch.zeros_like(near, dtype=torch.bool)
    # each ray's last place outside the surface, the first one inside it, and the values there
    before, behind = near.clone(), near.clone()
    above, below = torch.zeros_like(near), torch.zeros_like(near)
    alive = torch.nonzero(near < far)[:, 0]
    above[alive] = value(alive, near[alive])
    outside = above[alive] > 0.0
    hit[alive] = ~outside & (near[alive] > 0.0)
    alive = alive[outside]
    for _ in range(_STEPS):
        if len(alive) == 0:
            break
        behind[alive] = before[alive] + (_CAUTION * above[alive]).clamp(min=_SHORTEST)
        alive = alive[behind[alive] < far[alive]]
        found = value(alive, behind[alive])
        crossed = found <= 0.0
        hit[alive[crossed]] = True
        below[alive[crossed]] = found[crossed]
        alive, found = alive[~crossed], found[~crossed]
        before[alive], above[alive] = behind[alive], found
    rays = (hit & (above > 0.0)).nonzero()[:, 0]
    low, high, over, under = (each[rays] for each in (before, behind, above, below))
    for _ in range(_REFINEMENTS):  # regula falsi
        middle = low + (high - low) * over / (over - under)
        found = value(rays, middle)
        out = found > 0.0
        low, over = torch.where(out, middle, low), torch.where(out, found, over)
        high, under = torch.where(out, high, middle), torch.where(out, under, found)
    before[rays] = low + (high - low) * over / (over - under)
    return before, hit


@torch.no_grad()
def shade(
    field: SignedDistance,
    origins: torch.Tensor,
    directions: torch.Tensor,
    width: float,
    spread: float,
) -> torch.Tensor:
    """[R, 4] sRGB and alpha of rays ([R, 3] both): grey, lit from where the camera stands.

    Args:
        width, spread: how wide a pixel is at a ray's origin, and how much more in each unit of
            length: what is finer has no shades, which would be noise.
    """
    distance, hit = trace(field, origins, directions)
    points = (origins + distance[:, None] * directions)[hit]
    step = 0.5 * (width + spread * distance[hit]).clamp(2.0 * _FINE, 2.0 * _COARSE)
    # what is seen faces the eye: a normal that does not is a rough surface's
    facing = (normals(field, points, step) * directions[hit]).sum(dim=1).abs()
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
    across = ((torch.arange(size, device=device) + 0.5) / size - 0.5) * _PORTRAIT
    offset = across[None, :, None] * right - across[:, None, None] * up
    origins = (0.5 + offset - 2.0 * forward).reshape(-1, 3)
    pixels = shade(field, origins, forward.expand_as(origins), _PORTRAIT / size, 0.0)
    on_white = pixels[:, :3] * pixels[:, 3:] + 1.0 - pixels[:, 3:]
    return on_white.reshape(size, size, 3).cpu().numpy()


def render_image(
    field: SignedDistance, view: View, field_from_world: Matrix, device: torch.device
) -> torch.Tensor:
    """[H, W, 4] what a camera sees: sRGB premultiplied by alpha, and alpha, in [0, 1]."""
    cameras = Cameras([view], field_from_world, device)
    parts = (each.split(_CHUNK) for each in cameras.pixel_rays(0))
    spread = 1.0 / view.intrinsics.fl_x
    pixels = torch.cat([shade(field, *rays, 0.0, spread) for rays in zip(*parts, strict=True)])
    return pixels.view(view.intrinsics.h, view.intrinsics.w, 4)


@torch.no_grad()
def render_passes(
    field: SignedDistance, view: View, field_from_world: Matrix, device: torch.device
) -> tuple[torch.Tensor, torch.Tensor]:
    """Depth and normals of what a camera sees, as a dataset has them (``dataset.passes``).

    Returns:
        [H, W] planar depth in scene units through the pixels' centres, 0 where nothing is, and
        [H, W, 3] unit normals in world space, 0 where none faces the camera.
    """
    cameras = Cameras([view], field_from_world, device)
    origins, directions = cameras.pixel_rays(0)
    depth, normal = torch.zeros_like(origins[:, 0]), torch.zeros_like(origins)
    for part in torch.arange(len(origins), device=device).split(_CHUNK):
        distance, hit = trace(field, origins[part], directions[part])
        index, along = part[hit], directions[part[hit]]
        depth[index] = distance[hit] * (along @ -cameras.rotations[0, :, 2])
        found = normals(field, origins[index] + distance[hit, None] * along)
        facing = (found * along).sum(dim=1) < 0.0
        normal[index] = torch.where(facing[:, None], found, 0.0)
    turn = torch.from_numpy(field_from_world[:3, :3]).to(normal)
    scale = torch.linalg.vector_norm(turn[:, 0])
    h, w = view.intrinsics.h, view.intrinsics.w
    return (depth / scale).view(h, w), (normal @ (turn / scale)).view(h, w, 3)
