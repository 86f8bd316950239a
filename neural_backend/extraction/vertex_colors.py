"""Colours for an extracted mesh, asked of the radiance field."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch

from ..dataset.colour import srgb_from_linear
from ..fields.radiance import RadianceField

_SAMPLES = 8
_ABOVE, _BELOW = 1.5, 2.5  # cells
_CHUNK = 1 << 15


@torch.no_grad()
def of_radiance(
    field: RadianceField,
    vertices: npt.NDArray,
    normals: npt.NDArray,
    resolution: int,
    device: torch.device,
) -> npt.NDArray:
    """[M, 3] sRGB of a surface's vertices, each seen from straight above it.

    A short ray against the normal, from just above the surface to just below, is composited as in
    volume rendering: one sample alone would show the inside where the surface is a little off.

    Args:
        vertices: [M, 3] in the unit box.
        normals: [M, 3] unit vectors out of the surface.
        resolution: cells of the extraction along the box's edge.
    """
    cell = 1.0 / resolution
    depth = torch.linspace(-_ABOVE * cell, _BELOW * cell, _SAMPLES, device=device)
    step = float(depth[1] - depth[0])
    points = torch.from_numpy(vertices).float().split(_CHUNK)
    directions = (-torch.from_numpy(normals).float()).split(_CHUNK)
    parts = []
    for point, direction in zip(points, directions, strict=True):
        point, direction = point.to(device), direction.to(device)
        along = point[:, None] + depth[None, :, None] * direction[:, None]
        seen = direction[:, None].expand_as(along)
        density, color = field(along.reshape(-1, 3), seen.reshape(-1, 3))
        thickness = density.view(-1, _SAMPLES) * step
        before = thickness.cumsum(dim=1) - thickness
        # a thin haze has a colour too
        weight = torch.exp(-before) * -torch.expm1(-thickness) + 1e-6
        color = (weight[..., None] * color.view(-1, _SAMPLES, 3)).sum(dim=1)
        parts.append((color / weight.sum(dim=1, keepdim=True)).cpu())
    colors = torch.cat(parts)
    colors = srgb_from_linear(colors) if field.linear else colors
    return colors.numpy().astype(np.float64)
