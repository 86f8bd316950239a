"""Unbounded space in the unit box, for scenes with surroundings (Barron et al. 2022).

The inner region, a cube in the box's middle, stays as it is; all the space around it lies between
that cube and the box's walls, which are infinitely far away. Distances along rays are contracted
likewise, so that equal steps of contracted distance are longer the farther away they are. The norm
is the largest coordinate's, as a grid's cells fill a cube.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..dataset.transforms import INNER

_FARTHEST = 1e-6


def contract(x: Tensor) -> Tensor:
    """[..., 3] the unit box's points that stand for points of field space [..., 3].

    Where m, the largest coordinate of v = (x - 1/2) / (INNER / 2), is above 1, v becomes
    (2 - 1 / m) v / m.
    """
    v = (x - 0.5) * (2.0 / INNER)
    norm = v.abs().amax(-1, keepdim=True).clamp(min=1.0)
    return 0.5 + v * ((2.0 - 1.0 / norm) / norm * (0.5 * INNER))


def expand(x: Tensor) -> Tensor:
    """[..., 3] the points of field space that ``contract`` makes [..., 3]; never quite infinite."""
    v = (x - 0.5) * (2.0 / INNER)
    norm = v.abs().amax(-1, keepdim=True).clamp(min=1.0, max=2.0 - _FARTHEST)
    return 0.5 + v * (0.5 * INNER / (norm * (2.0 - norm)))


def contract_distance(t: Tensor, reach: float) -> Tensor:
    """Distances along rays, of which those beyond ``reach`` are contracted; below 2 reach."""
    return torch.where(t <= reach, t, reach * (2.0 - reach / t.clamp(min=reach)))


def expand_distance(s: Tensor, reach: float) -> Tensor:
    """The inverse of ``contract_distance``."""
    far = reach / (2.0 - s.clamp(min=reach) / reach).clamp(min=_FARTHEST)
    return torch.where(s <= reach, s, far)
