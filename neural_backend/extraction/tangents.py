"""Tangent space, as MikkTSpace defines it (Mikkelsen 2008): what normal maps are relative to.

Blender, and what else reads glTF, makes the tangents anew by the same rules.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from .atlas import Atlas, Texels
from .topology import Faces, Points


def tangents(
    vertices: Points, faces: Faces, normals: Points, atlas: Atlas
) -> tuple[Points, Points]:
    """[U, 3] unit tangents along u of the atlas' vertices, and [K] 1, or -1 for mirrored faces.

    The mean of the tangents of the faces around, in the plane of the normal, weighted by angle.
    """
    corner, uv = vertices[faces], atlas.uv[atlas.faces]
    edges, of_uv = corner[:, 1:] - corner[:, :1], uv[:, 1:] - uv[:, :1]
    area = of_uv[:, 0, 0] * of_uv[:, 1, 1] - of_uv[:, 0, 1] * of_uv[:, 1, 0]
    sign = np.where(area < 0.0, -1.0, 1.0)
    along_u = edges[:, 0] * of_uv[:, 1, 1:] - edges[:, 1] * of_uv[:, 0, 1:]
    along_u = _unit(along_u * sign[:, None])
    total = np.zeros((len(atlas.uv), 3))
    own_normals = normals[atlas.vertices]
    for index in range(3):
        at = atlas.faces[:, index]
        normal = own_normals[at]
        to_next = _flat(corner[:, (index + 1) % 3] - corner[:, index], normal)
        to_last = _flat(corner[:, (index + 2) % 3] - corner[:, index], normal)
        angle = np.arccos((to_next * to_last).sum(axis=1).clip(-1.0, 1.0))
        share = _flat(along_u, normal) * (angle * (area != 0.0))[:, None]
        for axis in range(3):
            total[:, axis] += np.bincount(at, share[:, axis], len(total))
    return _unit(total), sign


def in_tangent_space(
    wanted: npt.NDArray,
    texels: Texels,
    frame: tuple[Points, Points],
    normals: Points,
    atlas: Atlas,
) -> npt.NDArray[np.float32]:
    """[T, 3] unit normals [T, 3] relative to what a renderer interpolates at the texels.

    Args:
        frame: see ``tangents``.
        normals: [M, 3] of the mesh's vertices.
    """
    tangent = texels.interpolated(frame[0], atlas.faces)
    normal = texels.interpolated(normals[atlas.vertices], atlas.faces)
    sign = frame[1][texels.face][:, None].astype(np.float32)
    bitangent = sign * np.cross(normal, tangent)
    # the three are neither of length 1 nor at right angles between the corners
    local = np.stack(
        [
            (wanted * np.cross(bitangent, normal)).sum(axis=1),
            (wanted * np.cross(normal, tangent)).sum(axis=1),
            (wanted * np.cross(tangent, bitangent)).sum(axis=1),
        ],
        axis=1,
    )
    volume = (tangent * np.cross(bitangent, normal)).sum(axis=1, keepdims=True)
    local = _unit(local * np.where(volume < 0.0, -1.0, 1.0))
    # where the atlas has no area there are no tangents
    local[np.abs(volume[:, 0]) < 1e-6] = [0.0, 0.0, 1.0]
    return local.astype(np.float32)


def _unit(vectors: npt.NDArray) -> npt.NDArray:
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-30)


def _flat(vectors: npt.NDArray, normals: npt.NDArray) -> npt.NDArray:
    """Unit vectors in the planes of normals."""
    return _unit(vectors - (vectors * normals).sum(axis=1, keepdims=True) * normals)
