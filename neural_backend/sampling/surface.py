"""Samples on and around a triangle mesh, and their signed distance to it."""

from __future__ import annotations

import igl
import numpy as np
import numpy.typing as npt
import torch

Points = npt.NDArray[np.float64]
Faces = npt.NDArray[np.int64]

_TOUCHING = 1e-4  # of the diagonal of a mesh's bounds


class MeshDistance:
    """Signed distance to a triangle mesh, negative inside.

    The sign is the generalised winding number's (Barill et al. 2018, "Fast winding numbers for
    soups and clouds"), so that meshes with holes and self-intersections have an inside too.

    Args:
        vertices: [M, 3]
        faces: [K, 3] indices of corners, counter-clockwise seen from outside.
    """

    def __init__(self, vertices: Points, faces: Faces):
        self._vertices = np.ascontiguousarray(vertices, dtype=np.float64)
        self._faces = np.ascontiguousarray(faces, dtype=np.int64)
        self._tree = igl.AABB()
        self._tree.init(self._vertices, self._faces)
        self._winding = igl.FastWindingNumberBVH()
        self._winding.init(self._vertices, self._faces)

    def winding_number(self, points: Points) -> Points:
        """[N] how often the mesh winds around each of ``points`` [N, 3]: 1 inside, 0 outside."""
        return np.atleast_1d(self._winding.winding_number(_rows(points)))

    def nearest(self, points: Points) -> tuple[Points, Faces]:
        """[N] unsigned distances of ``points`` [N, 3], and [N] the nearest faces' indices."""
        squared, face, _ = self._tree.squared_distance(self._vertices, self._faces, _rows(points))
        return np.sqrt(np.atleast_1d(squared)), np.atleast_1d(face)

    def seen(self, points: Points, eyes: Points) -> npt.NDArray[np.bool_]:
        """[N] which of ``points`` [N, 3] of the mesh any of ``eyes`` [E, 3] has in plain view."""
        reach = np.linalg.norm(np.ptp(self._vertices, axis=0))
        seen = np.zeros(len(points), dtype=bool)
        for eye in eyes:
            left = np.flatnonzero(~seen)
            if len(left) == 0:
                break
            away = _rows(points[left]) - eye
            distance = np.linalg.norm(away, axis=1)
            origins = np.broadcast_to(eye, away.shape).copy()
            face, met, _ = self._tree.intersect_ray_first(
                self._vertices, self._faces, origins, away / distance[:, None]
            )
            # a point lies on the mesh only as exactly as numbers are
            seen[left] = (face < 0) | (met > distance - _TOUCHING * reach)
        return seen

    def __call__(self, points: Points) -> Points:
        """[N] signed distances of ``points`` [N, 3], in their unit."""
        distance, _ = self.nearest(points)
        return np.where(self.winding_number(points) > 0.5, -distance, distance)


def _rows(points: Points) -> Points:
    return np.ascontiguousarray(points, dtype=np.float64)


class SurfaceSampler:
    """Draws points evenly by area from a triangle mesh.

    Args:
        vertices: [M, 3]
        faces: [K, 3], at least one of them with an area.
        device: of the points.
    """

    def __init__(self, vertices: Points, faces: Faces, device: torch.device | str = "cpu"):
        corners = vertices[faces]
        area = np.linalg.norm(
            np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]), axis=1
        )
        # the running sum of many small areas needs double precision, which mps does not have
        self._until = torch.from_numpy((np.cumsum(area) / area.sum())[:-1]).float().to(device)
        self._corners = torch.from_numpy(corners).float().to(device)

    def __call__(self, count: int, generator: torch.Generator | None = None) -> torch.Tensor:
        """[count, 3] points; ``generator`` is on the sampler's device."""
        device = self._corners.device
        choice, across, along = torch.rand(3, count, generator=generator, device=device)
        corners = self._corners[torch.searchsorted(self._until, choice.contiguous())]
        # folding the square onto the triangle keeps the density even
        outside = across + along > 1.0
        across = torch.where(outside, 1.0 - across, across)
        along = torch.where(outside, 1.0 - along, along)
        first = corners[:, 0]
        return (
            first
            + across[:, None] * (corners[:, 1] - first)
            + along[:, None] * (corners[:, 2] - first)
        )


def logistic(shape: tuple[int, ...], generator: torch.Generator | None = None) -> torch.Tensor:
    """Noise of the standard logistic distribution: scale 1, heavier tails than a Gaussian's."""
    uniform = torch.rand(shape, generator=generator).clamp(1e-6, 1.0 - 1e-6)
    return torch.log(uniform) - torch.log1p(-uniform)
