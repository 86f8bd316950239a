"""A mesh fused from depth maps (Curless and Levoy 1996), to hold surfaces from images against.

Truncated signed distances along the viewing direction are averaged on a regular grid; the mesh is
their zero level where any view has said something.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import skimage.measure

if TYPE_CHECKING:
    from neural_backend.dataset.transforms import Dataset

TRUNCATION = 3.0  # cells
_SLAB = 8  # layers of the grid at a time


def fuse(
    dataset: Dataset, resolution: int
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.int64]]:
    """[M, 3] vertices in world space and [K, 3] faces, counter-clockwise seen from outside.

    Args:
        dataset: whose training views have exact depth and no lens distortion.
        resolution: cells along the longest side of the scene's bounds.

    Raises:
        ValueError: a view has no depth.
    """
    from neural_backend.dataset.passes import read_depth

    low, high = dataset.bounds
    cell = float((high - low).max()) / resolution
    low = low - 2.0 * TRUNCATION * cell
    sizes = np.ceil((high + 2.0 * TRUNCATION * cell - low) / cell).astype(int) + 1
    total, weight = np.zeros(sizes, np.float32), np.zeros(sizes, np.float32)
    for view in dataset.split("train"):
        if view.depth is None:
            raise ValueError(f"{view.file}: no depth; export the dataset with passes")
        depth = np.nan_to_num(read_depth(dataset, view), nan=0.0, posinf=0.0)
        camera_from_world = np.linalg.inv(view.world_from_camera)
        for first in range(0, sizes[0], _SLAB):
            layers = slice(first, min(first + _SLAB, sizes[0]))
            index = np.mgrid[layers, 0 : sizes[1], 0 : sizes[2]].reshape(3, -1).T
            points = (low + index * cell) @ camera_from_world[:3, :3].T + camera_from_world[:3, 3]
            distance, seen = _truncated(points, depth, view.intrinsics, TRUNCATION * cell)
            shape = total[layers].shape
            total[layers] += np.where(seen, distance, 0.0).reshape(shape)
            weight[layers] += seen.reshape(shape)
    known = weight > 0.0
    mean = np.where(known, total / np.maximum(weight, 1.0), -1.0)
    vertices, faces, _, _ = skimage.measure.marching_cubes(mean, 0.0, gradient_direction="descent")
    # a vertex lies between two points of the grid; what is known of one alone is no surface
    between = [tuple(end(vertices).astype(int).T) for end in (np.floor, np.ceil)]
    sure = known[between[0]] & known[between[1]]
    faces = faces[sure[faces].all(axis=1)]
    used, faces = np.unique(faces, return_inverse=True)
    return low + vertices[used] * cell, faces.reshape(-1, 3).astype(np.int64)


def _truncated(points, depth, intrinsics, truncation):
    """[N] the distances that a view gives points [N, 3] of camera space, -1 to 1, and where."""
    z = np.maximum(-points[:, 2], 1e-9)
    column = np.floor(intrinsics.fl_x * points[:, 0] / z + intrinsics.cx)
    row = np.floor(intrinsics.cy - intrinsics.fl_y * points[:, 1] / z)
    h, w = depth.shape
    inside = (points[:, 2] < 0.0) & (column >= 0) & (column < w) & (row >= 0) & (row < h)
    at = np.where(inside, row * w + column, 0).astype(np.int64)
    found = depth.reshape(-1)[at]
    # where a view shows nothing, there is nothing in front of the end of the world
    distance = np.where(found > 0.0, found - z, np.inf)
    return np.clip(distance / truncation, -1.0, 1.0), inside & (distance > -truncation)
