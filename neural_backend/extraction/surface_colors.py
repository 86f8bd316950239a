"""Colours of a surface, asked of the radiance field."""

from __future__ import annotations

import numpy.typing as npt
import torch

from ..dataset.colour import srgb_from_linear
from ..fields.radiance import RadianceField
from ..kernels import Kernels, Samples
from .surface import Colors

_SAMPLES = 8
_ABOVE, _BELOW = 1.5, 2.5  # cells
_CHUNK = 1 << 15
_HAZE = 1e-3  # less opaque than this along all of the short ray


def of_radiance(field: RadianceField, kernels: Kernels) -> Colors:
    """The colours of surface points, each seen from straight above it; see ``Volume.colors``.

    A short ray against the normal, from just above the surface to just below, is composited as in
    volume rendering: one sample alone would show the inside where the surface is a little off.
    """

    @torch.no_grad()
    def colors(points: npt.NDArray, normals: npt.NDArray, cell: float) -> npt.NDArray:
        both = (torch.from_numpy(each).float().split(_CHUNK) for each in (points, normals))
        parts = [
            _seen(field, point.to(kernels.device), -normal.to(kernels.device), cell)
            for point, normal in zip(*both, strict=True)
        ]
        found = torch.cat(parts)
        return (srgb_from_linear(found) if field.linear else found).cpu().numpy()

    return colors


def _seen(
    field: RadianceField,
    points: torch.Tensor,
    directions: torch.Tensor,
    cell: float,
) -> torch.Tensor:
    """[N, 3] colour at points [N, 3] along unit directions [N, 3], in the field's own light."""
    edges = torch.linspace(0.0, (_ABOVE + _BELOW) * cell, _SAMPLES + 1, device=points.device)
    count = len(points)
    samples = Samples(
        edges[:-1].repeat(count),
        edges[1:].repeat(count),
        torch.arange(count, device=points.device).repeat_interleave(_SAMPLES),
        torch.arange(count + 1, device=points.device) * _SAMPLES,
    )
    origins = points - _ABOVE * cell * directions
    color, alpha = field.render(origins, directions, samples)
    color = color / alpha.clamp(min=_HAZE)[:, None]
    thin = (alpha < _HAZE).nonzero()[:, 0]
    if len(thin):
        # what is hardly there has a colour too
        color[thin] = field(points[thin], directions[thin])[1]
    return color
