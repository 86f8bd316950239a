"""Samples on and around a triangle mesh, and their signed distance to it."""

from __future__ import annotations

import igl
import numpy as np
import numpy.typing as npt
import torch

Points = npt.NDArray[np.float64]
Faces = npt.NDArray[np.int64]

_TOUCHING = 1e-4  # of the diagonal of a mesh's bounds

INSIDE = 0.55
"""Winding number above which a point is inside: a loose sheet, which has half a turn on its back,
has no inside."""
BESIDE = 1e-4
"""How far off a face its two sides are looked at, field units."""

_CELLS = 64  # along the unit box's edge; points are looked up cell by cell, which is faster
_CLOSED = 0.1  # where the winding number is further from a whole number, the mesh has a hole
_EXACT = 1e-3
_SLOPE = 1e-3  # over which its gradient is taken, field units
_CLEAR = 1e-2  # field units; nearer to a face that is no border, nothing is learned


class MeshDistance:
    """Signed distance to a triangle mesh in the unit box, negative inside.

    The sign is the generalised winding number's (Barill et al. 2018, "Fast winding numbers for
    soups and clouds"), so that meshes with holes and self-intersections have an inside too. Where
    a mesh has a hole, the distance is that to the surface that the winding number closes it with.

    Args:
        vertices: [M, 3]
        faces: [K, 3] indices of corners, counter-clockwise seen from outside.
        thickness: of a mesh that encloses nothing: its inside is what is nearer than half of it.
            0 for all others.
    """

    def __init__(self, vertices: Points, faces: Faces, thickness: float = 0.0):
        self.thickness = thickness
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

    def inside(self, points: Points) -> npt.NDArray[np.bool_]:
        """[N] which of ``points`` [N, 3] are inside."""
        if self.thickness:
            return self.nearest(points)[0] < 0.5 * self.thickness
        return self.winding_number(points) > INSIDE

    def __call__(self, points: Points) -> Points:
        """[N] signed distances of ``points`` [N, 3], in their unit."""
        return self._signed(_rows(points))[1]

    def _signed(self, points: Points) -> tuple[Points, Points, npt.NDArray[np.bool_]]:
        """[N, 3] the nearest points of the mesh; [N] signed distances; [N] whether these are to
        there, and not to where a hole is closed."""
        squared, _, nearest = self._tree.squared_distance(self._vertices, self._faces, points)
        nearest = nearest.reshape(-1, 3)
        distance = np.sqrt(np.atleast_1d(squared))
        exact = np.ones(len(points), dtype=bool)
        if self.thickness:
            return nearest, distance - 0.5 * self.thickness, exact
        winding = self.winding_number(points)
        (loose,) = np.nonzero(np.abs(winding - np.round(winding)) > _CLOSED)
        if len(loose):
            around = points[loose, None] + _SLOPE * np.concatenate([np.eye(3), -np.eye(3)])
            windings = self.winding_number(around.reshape(-1, 3)).reshape(-1, 6)
            ahead, behind = windings[:, :3], windings[:, 3:]
            slope = np.linalg.norm(ahead - behind, axis=1) / (2.0 * _SLOPE)
            level = np.abs(winding[loose] - INSIDE) / np.maximum(slope, 1e-9)
            exact[loose] = distance[loose] <= level
            distance[loose] = np.minimum(distance[loose], level)
        return nearest, np.where(winding > INSIDE, -distance, distance), exact

    def borders(self, points: Points, directions: Points) -> npt.NDArray[np.bool_]:
        """[N] whether inside and outside meet at ``points`` [N, 3] of the mesh.

        Args:
            directions: [N, 3] unit vectors through the mesh.
        """
        both = np.concatenate([points + BESIDE * directions, points - BESIDE * directions])
        front, back = np.split(self.inside(both), 2)
        return front != back

    def on_surface(self, points: Points) -> npt.NDArray[np.float32]:
        """Segments without a length, see ``segments``, where ``points`` [N, 3] of the mesh are on
        the surface around its inside; with a thickness, as far from them."""
        normals = face_normals(self._vertices, self._faces)[self.nearest(points)[1]]
        if self.thickness:
            reach = 0.5 * self.thickness
            side = np.where(np.arange(len(points)) % 2, reach, -reach)
            points = points + side[:, None] * normals
            points = points[np.abs(self(points)) < _EXACT * reach]
        else:
            points = points[self.borders(points, normals)]
        return np.pad(points, ((0, 0), (0, 5))).astype(np.float32)

    def segments(self, points: Points, walls: bool) -> npt.NDArray[np.float32]:
        """Segments that hold exact samples: on the way from the nearest point of the surface to
        ``points`` [N, 3], that one stays the nearest.

        Args:
            walls: whether the mesh has faces that are no border of its inside. Near those there
                are no segments, and further off they hold only their end.

        Returns:
            [K, 8] float32: start, way from there to the end, signed distance at the end, and the
            least part of the way to go. Part ``t`` of the way, the distance is ``t`` times that.
        """
        points = _rows(points)
        cell = (points * _CELLS).astype(np.int64).clip(0, _CELLS - 1) @ [_CELLS**2, _CELLS, 1]
        points = points[np.argsort(cell, kind="stable")]
        start, signed, exact = self._signed(points)
        way = points - start
        length = np.maximum(np.linalg.norm(way, axis=1, keepdims=True), 1e-12)
        least = np.where(exact, 0.0, 1.0)
        keep = np.ones(len(points), dtype=bool)
        if self.thickness:
            start = start + 0.5 * self.thickness * way / length
            way = points - start
            # from within a sheet, the nearest point of its surface may be another one
            least[signed < 0.0] = 1.0
        elif walls:
            held = np.flatnonzero(exact)
            held = held[~self.borders(start[held], (way / length)[held])]
            keep[held] = np.abs(signed[held]) > _CLEAR
            least[held] = 1.0
        segments = np.concatenate([start, way, signed[:, None], least[:, None]], axis=1)
        return segments[keep].astype(np.float32)


def _rows(points: Points) -> Points:
    return np.ascontiguousarray(points, dtype=np.float64)


def area_normals(vertices: Points, faces: Faces) -> Points:
    """[K, 3] normals of triangles, twice as long as their area is large."""
    first, second, third = (vertices[faces[:, corner]] for corner in range(3))
    return np.cross(second - first, third - first)


def areas(vertices: Points, faces: Faces) -> Points:
    """[K] areas of triangles."""
    return 0.5 * np.linalg.norm(area_normals(vertices, faces), axis=1)


def face_normals(vertices: Points, faces: Faces) -> Points:
    """[K, 3] unit normals of triangles; zero for those without an area."""
    normals = area_normals(vertices, faces)
    return normals / np.maximum(np.linalg.norm(normals, axis=1, keepdims=True), 1e-300)


class SurfaceSampler:
    """Draws points evenly by area from a triangle mesh.

    Args:
        vertices: [M, 3]
        faces: [K, 3], at least one of them with an area.
        device: of the points.
    """

    def __init__(self, vertices: Points, faces: Faces, device: torch.device | str = "cpu"):
        area = areas(vertices, faces)
        # the running sum of many small areas needs double precision, which mps does not have
        self._until = torch.from_numpy((np.cumsum(area) / area.sum())[:-1]).float().to(device)
        self._corners = torch.from_numpy(vertices[faces]).float().to(device)

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
