"""Rays through pixels, in field space."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from ..dataset.transforms import Matrix, View

_NEWTON_STEPS = 8
_SAME = 1e-2  # as a part of the focal length


class Cameras:
    """The cameras of V views as tensors, in field space.

    Args:
        views: V of them.
        field_from_world: [4, 4] a uniform scale, rotation and shift.

    Attributes:
        origins: [V, 3].
        rotations: [V, 3, 3] field from camera.
        intrinsics: [V, 4] fl_x, fl_y, cx, cy, pixels.
        lenses: [V, 5] k1, k2, k3, p1, p2, or None where no view has distortion.
        widths, heights: [V] int64, pixels.
    """

    def __init__(self, views: Sequence[View], field_from_world: Matrix, device: torch.device):
        def tensor(rows: list) -> Tensor:
            return torch.from_numpy(np.asarray(rows, dtype=np.float32)).to(device)

        poses = [field_from_world @ view.world_from_camera for view in views]
        all_intrinsics = [view.intrinsics for view in views]
        self.origins = tensor([pose[:3, 3] for pose in poses])
        self.rotations = tensor([p[:3, :3] / np.linalg.norm(p[:3, :3], axis=0) for p in poses])
        self.intrinsics = tensor([(i.fl_x, i.fl_y, i.cx, i.cy) for i in all_intrinsics])
        self.lenses: Tensor | None = None
        if any(intrinsics.distorted for intrinsics in all_intrinsics):
            self.lenses = tensor([(i.k1, i.k2, i.k3, i.p1, i.p2) for i in all_intrinsics])
        self.widths = torch.tensor([i.w for i in all_intrinsics], device=device)
        self.heights = torch.tensor([i.h for i in all_intrinsics], device=device)

    def rays(self, view: Tensor, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """Rays through image points.

        Args:
            view: [R] index of each ray's view.
            x, y: [R] pixels from the left and the top edge; pixel centres are at .5.

        Returns:
            [R, 3] origins and [R, 3] directions of length 1, in field space.
        """
        fl_x, fl_y, cx, cy = self.intrinsics[view].unbind(-1)
        right, down = (x - cx) / fl_x, (y - cy) / fl_y
        if self.lenses is not None:
            right, down = undistort(right, down, self.lenses[view])
        # OpenCV's camera looks along +Z with +Y down, ours along -Z with +Y up
        direction = torch.stack([right, -down, -torch.ones_like(right)], -1)
        direction = (self.rotations[view] @ direction[:, :, None])[:, :, 0]
        return self.origins[view], torch.nn.functional.normalize(direction, dim=-1)

    def pixel_rays(self, view: int) -> tuple[Tensor, Tensor]:
        """Origins and directions, [H * W, 3] both, of the rays through a view's pixel centres."""
        w, h = int(self.widths[view]), int(self.heights[view])
        pixel = torch.arange(w * h, device=self.origins.device)
        return self.rays(torch.full_like(pixel, view), pixel % w + 0.5, pixel // w + 0.5)

    def project(self, points: Tensor, view: int) -> tuple[Tensor, Tensor, Tensor]:
        """Where points [N, 3] appear in a view: x, y in pixels and depth in field units, [N].

        Far off the axis a lens's polynomial may lead back into the frame, where ``rays`` are other
        points': x and y are infinite then.
        """
        # each coordinate in a row of its own: what follows then runs over contiguous memory
        local = self.rotations[view].T @ (points - self.origins[view]).T
        depth = -local[2]
        safe = depth.clamp(min=1e-9)
        right, down = local[0] / safe, -local[1] / safe
        if self.lenses is not None:
            lens = self.lenses[view].expand(len(points), 5)
            shown = distort(right, down, lens)[:2]
            back = undistort(*shown, lens)
            same = ((back[0] - right).abs() < _SAME) & ((back[1] - down).abs() < _SAME)
            right, down = (torch.where(same, each, math.inf) for each in shown)
        fl_x, fl_y, cx, cy = self.intrinsics[view].unbind(-1)
        return cx + fl_x * right, cy + fl_y * down, depth


def distort(x: Tensor, y: Tensor, lens: Tensor) -> tuple[Tensor, Tensor, tuple[Tensor, ...]]:
    """OpenCV's distortion of normalised image points (focal length 1, from the optical axis).

    Args:
        x, y: [R].
        lens: [R, 5] k1, k2, k3, p1, p2.

    Returns:
        [R] x and y distorted, and their derivatives dx/dx, dx/dy (equal to dy/dx), dy/dy.
    """
    k1, k2, k3, p1, p2 = lens.unbind(-1)
    square = x * x + y * y
    radial = 1.0 + square * (k1 + square * (k2 + square * k3))
    slope = 2.0 * (k1 + square * (2.0 * k2 + square * 3.0 * k3))
    distorted_x = x * radial + 2.0 * p1 * x * y + p2 * (square + 2.0 * x * x)
    distorted_y = y * radial + p1 * (square + 2.0 * y * y) + 2.0 * p2 * x * y
    across = x * y * slope + 2.0 * p1 * x + 2.0 * p2 * y
    along_x = radial + x * x * slope + 2.0 * p1 * y + 6.0 * p2 * x
    along_y = radial + y * y * slope + 6.0 * p1 * y + 2.0 * p2 * x
    return distorted_x, distorted_y, (along_x, across, along_y)


def undistort(x: Tensor, y: Tensor, lens: Tensor) -> tuple[Tensor, Tensor]:
    """Invert ``distort`` by Newton's method: [R] x and y without distortion."""
    u, v = x, y
    for _ in range(_NEWTON_STEPS):
        at_x, at_y, (a, b, d) = distort(u, v, lens)
        miss_x, miss_y = x - at_x, y - at_y
        determinant = a * d - b * b
        # past a fold of the lens model there is no answer; do not run away from the last one
        determinant = torch.where(determinant.abs() < 1e-3, torch.ones_like(a), determinant)
        u = u + ((d * miss_x - b * miss_y) / determinant).clamp(-0.5, 0.5)
        v = v + ((a * miss_y - b * miss_x) / determinant).clamp(-0.5, 0.5)
    return u, v


def intersect_box(
    origins: Tensor, directions: Tensor, low: Tensor, high: Tensor
) -> tuple[Tensor, Tensor]:
    """[R] distances at which rays enter and leave a box; a ray that misses has far <= near.

    Args:
        origins, directions: [R, 3].
        low, high: [3] the box's corners.
    """
    # a direction parallel to a face meets it very far away; 1 / 0 could give 0 * infinity
    inverse = 1.0 / torch.where(directions == 0.0, torch.full_like(directions, 1e-12), directions)
    first, second = (low - origins) * inverse, (high - origins) * inverse
    near = torch.minimum(first, second).amax(-1).clamp(min=0.0)
    return near, torch.maximum(first, second).amin(-1)
