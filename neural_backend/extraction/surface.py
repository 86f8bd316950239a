"""Surfaces of fields: what extraction asks of a field, and what it says about points on them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import torch

from ..protocol import BadInput
from ..sampling.surface import area_normals
from .topology import Faces, Points

Colors = Callable[[npt.NDArray, npt.NDArray, float], npt.NDArray]

_CHUNK = 1 << 16
_NEWTON_STEPS = 3
_FINE, _COARSER = 0.5, 1.0
"""Cells over which a distance, and any other value, is differentiated."""
_FACING = 0.3
"""Cosine of the angle by which a field's normal may be off the mesh's."""


@dataclasses.dataclass(frozen=True)
class Volume:
    """A field as extraction sees it.

    Attributes:
        value: maps [N, 3] points of the unit box to [N] values, on their device: above zero
            inside, zero on the surface, below outside.
        may_hold: says for [M, 3] centres of cubes of a given half edge, [M], which of them the
            surface may pass through. What it leaves out is never asked for.
        device: of the points.
        cavities: whether closed surfaces around empty space are wanted.
        distance: whether the values are distances, so that Newton's method finds the surface and
            their gradient is its normal.
        colors: maps points [N, 3] of the surface, its unit normals there [N, 3] and the edge of
            the extraction's cells to sRGB [N, 3]; None where the field has no colour.
    """

    value: Callable[[torch.Tensor], torch.Tensor]
    may_hold: Callable[[torch.Tensor, float], torch.Tensor]
    device: torch.device
    cavities: bool
    distance: bool
    colors: Colors | None = None


def no_surface() -> BadInput:
    """What there is to say when a field has none."""
    return BadInput("the field has no surface inside its bounds; train longer")


def from_signed_distance(
    field: Callable[[torch.Tensor], torch.Tensor],
    device: torch.device,
    cavities: bool = True,
    colors: Colors | None = None,
) -> Volume:
    """The zero set of a field that maps [N, 3] points of the unit box to [N] signed distances.

    Args:
        cavities, colors: see ``Volume``.
    """

    def may_hold(centres: torch.Tensor, half_edge: float) -> torch.Tensor:
        # the surface is nearer than the cube's half diagonal; twice, as training is not exact
        return field(centres).abs() < 2.0 * 3.0**0.5 * half_edge

    return Volume(lambda points: -field(points), may_hold, device, cavities, True, colors)


@torch.no_grad()
def projected(volume: Volume, vertices: Points, cell: float) -> Points:
    """[M, 3] vertices moved onto the zero set of a distance, by Newton steps along its gradient.

    A vertex that would move by more than a cell, or that the steps do not bring nearer, stays.
    """
    start = torch.from_numpy(vertices).float()
    parts = []
    for part in start.split(_CHUNK):
        points = part.to(volume.device)
        first = volume.value(points)
        # beyond the box there is no field; on its wall the surface is the wall's
        free = ((points > 0.0) & (points < 1.0)).all(dim=1)
        gradient = gradients(volume, points, _FINE * cell)
        square = (gradient * gradient).sum(dim=1).clamp(min=1e-12)
        along = gradient / square[:, None]
        moved, value = torch.zeros_like(first), first
        for _ in range(_NEWTON_STEPS):
            moved = moved - value
            value = volume.value((points + moved[:, None] * along).clamp(0.0, 1.0))
        good = free & (value.abs() < first.abs()) & (moved.abs() < cell * square.sqrt())
        moved = torch.where(good, moved, 0.0)
        parts.append((moved[:, None] * along).cpu())
    return vertices + torch.cat(parts).double().numpy()


def gradients(volume: Volume, points: torch.Tensor, step: float) -> torch.Tensor:
    """[N, 3] gradients of the values at [N, 3], by central differences.

    Four points, a tetrahedron's, would do, but they turn normals where the surface is curved.
    """
    away = step * torch.eye(3, device=points.device)
    around = points[:, None] + torch.cat([away, -away])
    ahead, behind = volume.value(around.reshape(-1, 3)).reshape(-1, 2, 3).unbind(1)
    return (ahead - behind) / (2.0 * step)


@torch.no_grad()
def normals(
    volume: Volume, points: npt.NDArray, rough: npt.NDArray, cell: float
) -> npt.NDArray[np.float32]:
    """[N, 3] unit normals of the field's surface at points [N, 3] on it.

    Args:
        rough: [N, 3] the mesh's; where the field's would not face their way, they stay.
        cell: edge of the extraction's cells: what is finer is no form.
    """
    step = (_FINE if volume.distance else _COARSER) * cell
    parts = []
    both = (torch.from_numpy(each).float().split(_CHUNK) for each in (points, rough))
    for point, normal in zip(*both, strict=True):
        normal = normal.to(volume.device)
        found = -gradients(volume, point.to(volume.device), step)
        found = torch.nn.functional.normalize(found, dim=1)
        facing = (found * normal).sum(dim=1, keepdim=True) > _FACING
        parts.append(torch.where(facing, found, normal).cpu())
    return torch.cat(parts).numpy()


def vertex_normals(vertices: Points, faces: Faces) -> Points:
    """[M, 3] unit normals of the vertices: the mean of the faces around, weighted by area."""
    normal = area_normals(vertices, faces)
    index = faces.ravel()
    total = np.stack(
        [np.bincount(index, normal[:, axis].repeat(3), len(vertices)) for axis in range(3)], axis=1
    )
    return total / np.maximum(np.linalg.norm(total, axis=1, keepdims=True), 1e-300)
