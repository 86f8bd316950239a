"""Meshes on disk: written as glb, ply or obj, read from what trimesh can read."""

from __future__ import annotations

import dataclasses
import os
import pathlib
from typing import Any

import numpy as np
import numpy.typing as npt
import trimesh

from ..protocol import BadInput, first_line, write_whole

WRITTEN = (".glb", ".ply", ".obj")
READ = (".obj", ".ply", ".stl", ".glb", ".off")

# glTF is Y-up, Blender Z-up: (x, y, z) in Blender is (x, z, -y) in glTF
_GLTF_FROM_WORLD = np.array([[1.0, 0.0, 0.0], [0.0, 0.0, 1.0], [0.0, -1.0, 0.0]])


@dataclasses.dataclass(frozen=True)
class Mesh:
    """Triangles, counter-clockwise seen from outside.

    Attributes:
        vertices: [M, 3]
        faces: [K, 3]
        normals: [M, 3] unit vectors out of the surface.
        colors: [M, 3] sRGB in [0, 1]; None where the surface has none of its own.
    """

    vertices: npt.NDArray[np.float64]
    faces: npt.NDArray[np.int64]
    normals: npt.NDArray[np.float64]
    colors: npt.NDArray[np.float64] | None = None


def linear_from_srgb(color: npt.NDArray) -> npt.NDArray:
    """Decode sRGB in [0, 1] to linear light (IEC 61966-2-1)."""
    return np.where(color <= 0.04045, color / 12.92, ((color + 0.055) / 1.055) ** 2.4)


def check_output(path: str | os.PathLike[str]) -> pathlib.Path:
    """The path of a mesh to be written.

    Raises:
        BadInput: its suffix is unknown or its folder cannot be made.
    """
    path = pathlib.Path(path)
    if path.suffix.lower() not in WRITTEN:
        raise BadInput(
            f"{path}: output: unknown kind {path.suffix!r}; end it in .glb, .ply or .obj"
        )
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BadInput(f"{path.parent}: cannot be made ({error}); choose another folder") from None
    return path


def write(path: str | os.PathLike[str], mesh: Mesh) -> None:
    """Write a mesh in world space, whole or not at all.

    glb: Y-up, as glTF wants it (Blender turns it back), colours linear as glTF says, in 16 bits
    because 8 bits of linear light band in the dark. ply and obj: Blender's axes, colours sRGB in
    8 bits.

    Raises:
        BadInput: the suffix is unknown, or the file cannot be written.
    """
    path = check_output(path)
    data = _glb(mesh, path.stem) if path.suffix.lower() == ".glb" else _plain(mesh, path.suffix)
    try:
        write_whole(path, lambda beside: beside.write_bytes(data) and None)
    except OSError as error:
        raise BadInput(
            f"{path}: cannot be written ({error}); free some space or choose another folder"
        ) from None


def _plain(mesh: Mesh, suffix: str) -> bytes:
    colors = None
    if mesh.colors is not None:
        colors = np.round(mesh.colors.clip(0.0, 1.0) * 255.0).astype(np.uint8)
    written = trimesh.Trimesh(
        mesh.vertices,
        mesh.faces,
        vertex_normals=mesh.normals,
        vertex_colors=colors,
        process=False,
    )
    kind = suffix.lower().removeprefix(".")
    if kind == "ply":
        data = written.export(file_type="ply", vertex_normal=True)
    else:
        data = written.export(
            file_type="obj", include_normals=True, include_color=True, write_texture=False
        )
    return data.encode("utf-8") if isinstance(data, str) else data


def _glb(mesh: Mesh, name: str) -> bytes:
    attributes = {}
    if mesh.colors is not None:
        linear = np.ones((len(mesh.colors), 4))
        linear[:, :3] = linear_from_srgb(mesh.colors.clip(0.0, 1.0))
        # trimesh's own vertex colours have 8 bits; an attribute of ours keeps its type
        attributes["_COLOR"] = np.round(linear * 65535.0).astype(np.uint16)
    written = trimesh.Trimesh(
        mesh.vertices @ _GLTF_FROM_WORLD.T,
        mesh.faces,
        vertex_normals=mesh.normals @ _GLTF_FROM_WORLD.T,
        vertex_attributes=attributes,
        process=False,
    )
    scene = trimesh.Scene()
    scene.add_geometry(written, geom_name=name, node_name=name)

    def finish(tree: dict[str, Any]) -> None:
        # glTF's default material is a metal
        tree["materials"] = [
            {"name": name, "pbrMetallicRoughness": {"metallicFactor": 0.0, "roughnessFactor": 0.9}}
        ]
        for primitive in tree["meshes"][0]["primitives"]:
            primitive["material"] = 0
            if attributes:
                color = primitive["attributes"].pop("_COLOR")
                primitive["attributes"]["COLOR_0"] = color
                tree["accessors"][color]["normalized"] = True

    return trimesh.exchange.gltf.export_glb(scene, include_normals=True, tree_postprocessor=finish)


def read(path: str | os.PathLike[str]) -> trimesh.Trimesh:
    """Read the triangles of a mesh file, in Blender's axes, all its objects in one.

    Faces without an area are left out, and vertices that no face uses.

    Raises:
        BadInput: it is absent, damaged, has no faces or holds NaN.
    """
    path = pathlib.Path(path)
    kinds = ", ".join(READ)
    if not path.is_file():
        raise BadInput(f"{path}: no such file; give a mesh file ({kinds})")
    if path.suffix.lower() not in READ:
        raise BadInput(f"{path}: unknown kind {path.suffix!r}; give a mesh file ({kinds})")
    try:
        mesh = trimesh.load_mesh(path, process=False, skip_materials=True)
        if isinstance(mesh, trimesh.Scene):
            mesh = mesh.to_mesh()
        vertices = np.asarray(mesh.vertices, dtype=np.float64)
        faces = np.asarray(mesh.faces, dtype=np.int64).reshape(-1, 3)
    # the readers of the formats fail each in its own way on a damaged file
    except Exception as error:
        raise BadInput(
            f"{path}: not a readable mesh ({first_line(error)}); export it again"
        ) from None
    if len(faces) == 0:
        raise BadInput(f"{path}: faces: the mesh has none; give a mesh with triangles")
    if faces.min() < 0 or faces.max() >= len(vertices):
        raise BadInput(f"{path}: faces: a corner points at no vertex; export the mesh again")
    if not np.isfinite(vertices[faces]).all():
        raise BadInput(f"{path}: vertices: NaN or infinite; repair the mesh and export it again")
    if path.suffix.lower() == ".glb":
        vertices = vertices @ _GLTF_FROM_WORLD
    corner = vertices[faces]
    area = np.linalg.norm(
        np.cross(corner[:, 1] - corner[:, 0], corner[:, 2] - corner[:, 0]), axis=1
    )
    faces = faces[area > 1e-14 * np.ptp(corner.reshape(-1, 3), axis=0).max() ** 2]
    if len(faces) == 0:
        raise BadInput(f"{path}: faces: none has an area; give a mesh with triangles")
    used, renumbered = np.unique(faces, return_inverse=True)
    return trimesh.Trimesh(vertices[used], renumbered.reshape(-1, 3), process=False)
