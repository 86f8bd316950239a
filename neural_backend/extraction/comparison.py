"""How far an extracted surface is from the one it stands for."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import torch

from ..sampling.surface import MeshDistance, SurfaceSampler, face_normals

_POINTS = 1 << 18
_SURFACE_POINTS = 1 << 16
_CHUNK = 1 << 16


@torch.no_grad()
def intersection_over_union(
    field: Callable[[torch.Tensor], torch.Tensor],
    distance: MeshDistance,
    low: npt.NDArray,
    high: npt.NDArray,
    device: torch.device,
) -> float:
    """Volume inside both over volume inside either, of a field and a mesh.

    Args:
        field: maps [N, 3] points to [N] signed distances.
        low, high: [3] corners of the box to look at.
        device: of the field's points.
    """
    points = np.random.default_rng(0).uniform(low, high, (_POINTS, 3))
    parts = torch.from_numpy(points).float().split(_CHUNK)
    inside = torch.cat([field(part.to(device)).cpu() for part in parts]).numpy() < 0.0
    wanted = distance.inside(points)
    either = np.count_nonzero(inside | wanted)
    return np.count_nonzero(inside & wanted) / either if either else 1.0


def surface_errors(
    vertices: npt.NDArray,
    faces: npt.NDArray,
    wanted_vertices: npt.NDArray,
    wanted_faces: npt.NDArray,
    eyes: npt.NDArray | None = None,
) -> tuple[float, float]:
    """Compare two meshes at points spread evenly over both.

    Args:
        eyes: [E, 3] of the wanted mesh only what one of these sees counts; all of it where there
            are none. What lies inside a closed surface cannot be known from images.

    Returns:
        The Chamfer distance, the mean of the two mean distances from one mesh to the other, in
        the vertices' unit; and the mean angle between the normals of nearest faces, degrees.
    """
    distances, angles = [], []
    mesh, wanted = (vertices, faces), (wanted_vertices, wanted_faces)
    for one, other in ((mesh, wanted), (wanted, mesh)):
        generator = torch.Generator().manual_seed(0)
        points = SurfaceSampler(*one)(_SURFACE_POINTS, generator).numpy()
        own = MeshDistance(*one)
        if one is wanted and eyes is not None and len(eyes):
            seen = own.seen(points, eyes)
            points = points[seen] if seen.any() else points
        _, own_face = own.nearest(points)
        distance, face = MeshDistance(*other).nearest(points)
        cosine = (face_normals(*one)[own_face] * face_normals(*other)[face]).sum(axis=1)
        distances.append(distance.mean())
        angles.append(np.degrees(np.arccos(cosine.clip(-1.0, 1.0))).mean())
    return float(np.mean(distances)), float(np.mean(angles))
