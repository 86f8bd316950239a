"""Textures baked from a field: its colours, and its normals on a mesh with fewer faces."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from . import atlas, tangents
from .atlas import Atlas
from .topology import Faces, Points

Colors = Callable[[npt.NDArray, npt.NDArray], npt.NDArray]
Normals = Callable[[npt.NDArray, npt.NDArray], npt.NDArray]
Picture = npt.NDArray[np.uint8]


@dataclasses.dataclass(frozen=True)
class Texture:
    """Pictures on a mesh.

    Attributes:
        atlas: where the mesh's faces lie on them.
        color: [N, N, 3] sRGB, from the top; None where the surface has no colour of its own.
        normal: [N, N, 3] normals in tangent space, +Y up as in glTF and Blender.
    """

    atlas: Atlas
    color: Picture | None
    normal: Picture


def baked(
    vertices: Points,
    faces: Faces,
    normals: Points,
    size: int,
    field_normals: Normals,
    colors: Colors | None,
) -> Texture:
    """Bake a texture of size x size texels.

    Args:
        normals: [M, 3] of the vertices.
        field_normals: maps points [T, 3] of the surface and the mesh's unit normals there [T, 3]
            to the field's unit normals [T, 3].
        colors: maps the same to sRGB [T, 3].
    """
    unwrapped = atlas.unwrapped(vertices, faces, normals, size)
    texels = atlas.texels(unwrapped, size)
    points = texels.interpolated(vertices, faces)
    smooth = texels.interpolated(normals, faces)
    smooth /= np.linalg.norm(smooth, axis=1, keepdims=True).clip(min=1e-12)
    wanted = field_normals(points, smooth)
    frame = tangents.tangents(vertices, faces, normals, unwrapped)
    local = tangents.in_tangent_space(wanted, texels, frame, normals, unwrapped)
    normal = atlas.filled(0.5 + 0.5 * local, texels)
    color = None
    if colors is not None:
        color = _bytes(atlas.filled(colors(points, smooth), texels))
    return Texture(unwrapped, color, _bytes(normal))


def _bytes(picture: npt.NDArray) -> Picture:
    return np.round(picture.clip(0.0, 1.0) * 255.0).astype(np.uint8)
