"""A field's surface as a mesh to work with: how many faces, what normals, which colours."""

from __future__ import annotations

import numpy.typing as npt

from ..config import MESH_FACES, TEXTURED_MESH_FACES, ResultSettings
from ..protocol import BadInput
from . import decimation, marching_cubes, surface, texture
from .mesh_file import Mesh
from .surface import Volume

_FEWEST_FACES, _FEWEST_TEXELS = 4, 16


def meshed(volume: Volume, settings: ResultSettings) -> Mesh:
    """Extract the surface of ``volume``, in the unit box.

    Normals are the field's. Where the settings ask for a texture it has the field's colours and
    normals in full detail; else the vertices have the colours.

    Args:
        settings: resolution, faces and texture of the mesh.

    Raises:
        BadInput: there is no surface, or none has so few faces or texels.
    """
    size = settings.mesh_texture
    if 0 < settings.mesh_faces < _FEWEST_FACES:
        raise BadInput(
            f"faces is {settings.mesh_faces}: a closed mesh has at least {_FEWEST_FACES}"
        )
    if 0 < size < _FEWEST_TEXELS:
        raise BadInput(f"texture is {size}: give at least {_FEWEST_TEXELS}, or 0 for none")
    vertices, faces, cell = marching_cubes.extract(volume, settings.mesh_resolution)
    most = settings.mesh_faces or (TEXTURED_MESH_FACES if size else MESH_FACES)
    if len(faces) > most:
        vertices, faces = decimation.decimated(vertices, faces, most)
        # thin bridges may have broken
        vertices, faces = marching_cubes.without_small(volume, vertices, faces)
        if volume.distance:
            vertices = surface.projected(volume, vertices, cell)

    def normals_at(points: npt.NDArray, rough: npt.NDArray) -> npt.NDArray:
        return surface.normals(volume, points, rough, cell)

    def colors_at(points: npt.NDArray, normals: npt.NDArray) -> npt.NDArray:
        assert volume.colors is not None
        return volume.colors(points, normals, cell)

    normals = normals_at(vertices, surface.vertex_normals(vertices, faces))
    colored = volume.colors is not None
    if size:
        baked = texture.baked(
            vertices, faces, normals, size, normals_at, colors_at if colored else None
        )
        return Mesh(vertices, faces, normals, texture=baked)
    return Mesh(vertices, faces, normals, colors_at(vertices, normals) if colored else None)
