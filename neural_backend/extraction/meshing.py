"""A field's surface as a mesh to work with: how many faces, what normals, which colours."""

from __future__ import annotations

import functools
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from ..config import MESH_FACES, TEXTURED_MESH_FACES, ResultSettings
from ..protocol import BadInput
from . import decimation, marching_cubes, surface, texture
from .mesh_file import Mesh
from .surface import Volume

_FEWEST_TEXELS = 16
_PART = 1 << 18  # points
_AtPoints = Callable[[npt.NDArray, npt.NDArray], npt.NDArray]

Report = Callable[[str, int, int], None]
"""Called now and then with what is being done, how much of it is done, and of how much."""


def meshed(
    volume: Volume,
    settings: ResultSettings,
    report: Report = lambda what, done, of: None,
) -> Mesh:
    """Extract the surface of ``volume``, in the unit box.

    Normals are the field's. Where the settings ask for a texture it has the field's colours and
    normals in full detail; else the vertices have the colours.

    Args:
        settings: resolution, faces and texture of the mesh.

    Raises:
        BadInput: there is no surface, or none has so few faces or texels.
    """
    size = settings.mesh_texture
    if 0 < settings.mesh_faces < decimation.FEWEST:
        raise BadInput(
            f"faces is {settings.mesh_faces}: a closed mesh has at least {decimation.FEWEST}"
        )
    if 0 < size < _FEWEST_TEXELS:
        raise BadInput(f"texture is {size}: give at least {_FEWEST_TEXELS}, or 0 for none")
    vertices, faces, cell = marching_cubes.extract(
        volume, settings.mesh_resolution, functools.partial(report, "extracting")
    )
    most = settings.mesh_faces or (TEXTURED_MESH_FACES if size else MESH_FACES)
    if len(faces) > most:
        vertices, faces = decimation.decimated(vertices, faces, most)
        if len(faces) == 0:
            raise BadInput(f"faces is {most}: nothing is left of the surface; ask for more")
        # thin bridges may have broken
        vertices, faces = marching_cubes.without_small(volume, vertices, faces)
        if volume.distance:
            vertices = surface.projected(volume, vertices, cell)

    def told(what: str, function: _AtPoints) -> _AtPoints:
        """The same function, which says how far it is."""

        def in_parts(points: npt.NDArray, others: npt.NDArray) -> npt.NDArray:
            parts = []
            for first in range(0, len(points), _PART):
                part = slice(first, first + _PART)
                parts.append(function(points[part], others[part]))
                report(what, min(first + _PART, len(points)), len(points))
            return np.concatenate(parts)

        return in_parts

    def normals_at(points: npt.NDArray, rough: npt.NDArray) -> npt.NDArray:
        return surface.normals(volume, points, rough, cell)

    def colors_at(points: npt.NDArray, normals: npt.NDArray) -> npt.NDArray:
        assert volume.colors is not None
        return volume.colors(points, normals, cell)

    normals = normals_at(vertices, surface.vertex_normals(vertices, faces))
    colored = volume.colors is not None
    if size:
        baked = texture.baked(
            vertices,
            faces,
            normals,
            size,
            told("baking normals", normals_at),
            told("baking colours", colors_at) if colored else None,
        )
        return Mesh(vertices, faces, normals, texture=baked)
    return Mesh(vertices, faces, normals, colors_at(vertices, normals) if colored else None)
