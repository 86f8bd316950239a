"""Meshes on disk: written as glb, ply or obj, read from what trimesh can read."""

from __future__ import annotations

import dataclasses
import io
import os
import pathlib

import numpy as np
import numpy.typing as npt
import trimesh

from .. import protocol
from ..dataset.colour import linear_from_srgb
from ..protocol import BadInput, write_whole
from ..sampling.surface import areas
from . import gltf, own_files
from .texture import Texture

WRITTEN = (".glb", ".ply", ".obj")
READ = (".obj", ".ply", ".stl", ".glb", ".off")

_COMPRESSION = 4  # of PNGs: more takes several times as long and saves little

# glTF is Y-up, Blender Z-up: (x, y, z) in Blender is (x, z, -y) in glTF
_GLTF_FROM_WORLD = np.array([[1.0, 0.0, 0.0], [0.0, 0.0, 1.0], [0.0, -1.0, 0.0]])


@dataclasses.dataclass(frozen=True)
class Mesh:
    """Triangles, counter-clockwise seen from outside.

    Attributes:
        vertices: [M, 3]
        faces: [K, 3]
        normals: [M, 3] unit vectors out of the surface.
        colors: [M, 3] sRGB in [0, 1]; None where the surface has none of its own, or a texture.
        texture: pictures on it; None where it has none.
    """

    vertices: npt.NDArray[np.float64]
    faces: npt.NDArray[np.int64]
    normals: npt.NDArray[np.float64]
    colors: npt.NDArray[np.floating] | None = None
    texture: Texture | None = None

    def moved(self, matrix: npt.NDArray[np.float64]) -> Mesh:
        """The mesh after a similarity, [4, 4]; a texture's normals turn with the mesh's own."""
        normals = self.normals @ matrix[:3, :3].T
        normals = normals / np.linalg.norm(normals, axis=1, keepdims=True)
        vertices = self.vertices @ matrix[:3, :3].T + matrix[:3, 3]
        return dataclasses.replace(self, vertices=vertices, normals=normals)


def check_output(path: str | os.PathLike[str], textured: bool = False) -> pathlib.Path:
    """The path of a mesh to be written.

    Raises:
        BadInput: its suffix is unknown, its folder cannot be made, or in the place of one of the
            files beside a ``textured`` one stands a file that is not of our making.
    """
    path = protocol.output_file(path, WRITTEN)
    if textured:
        own_files.refuse_strangers(_beside(path))
    return path


def write(path: str | os.PathLike[str], mesh: Mesh) -> None:
    """Write a mesh in world space, each file whole or not at all.

    glb: Y-up, as glTF wants it (Blender turns it back), colours linear as glTF says, in 16 bits
    because 8 bits of linear light band in the dark; textures are inside. ply and obj: Blender's
    axes, colours sRGB in 8 bits; textures lie beside, as ``<name>.png`` and ``<name>_normal.png``,
    and what an obj says about them in ``<name>.mtl``.

    Raises:
        BadInput: see ``check_output``; or a file cannot be written.
    """
    path = check_output(path, mesh.texture is not None)
    suffix = path.suffix.lower()
    files: dict[pathlib.Path, bytes] = {}
    if mesh.texture is not None and suffix != ".glb":
        files = _pictures(path, mesh.texture)
    if suffix == ".glb":
        files[path] = gltf.binary(path.stem, _for_gltf(mesh))
    elif suffix == ".ply":
        files[path] = _ply(mesh, path)
    elif mesh.texture is None:
        files[path] = _plain(mesh, "obj")
    else:
        files[path.with_suffix(".mtl")] = _mtl(path, mesh.texture)
        files[path] = _textured_obj(mesh, mesh.texture, path)
    try:
        for file, data in files.items():
            write_whole(file, lambda beside, data=data: beside.write_bytes(data) and None)
    except OSError as error:
        raise BadInput(
            f"{path}: cannot be written ({error}); free some space or choose another folder"
        ) from None


def png(picture: npt.NDArray[np.uint8]) -> bytes:
    """A picture [H, W, 3] as the bytes of a PNG."""
    data = io.BytesIO()
    own_files.save_png(data, picture, _COMPRESSION)
    return data.getvalue()


def _beside(path: pathlib.Path) -> list[pathlib.Path]:
    """The files that lie beside a textured mesh."""
    suffix = path.suffix.lower()
    if suffix == ".glb":
        return []
    pictures = [path.with_name(name) for name in _picture_names(path)]
    return [*pictures, path.with_suffix(".mtl")] if suffix == ".obj" else pictures


def _picture_names(path: pathlib.Path) -> tuple[str, str]:
    return f"{path.stem}.png", f"{path.stem}_normal.png"


def _pictures(path: pathlib.Path, texture: Texture) -> dict[pathlib.Path, bytes]:
    color, normal = _picture_names(path)
    files = {path.with_name(normal): png(texture.normal)}
    if texture.color is not None:
        files[path.with_name(color)] = png(texture.color)
    return files


def _split(mesh: Mesh, texture: Texture) -> Mesh:
    """The mesh with a vertex of its own for each place in the texture."""
    at = texture.atlas.vertices
    return Mesh(mesh.vertices[at], texture.atlas.faces, mesh.normals[at])


def _plain(mesh: Mesh, kind: str, uv: npt.NDArray | None = None) -> bytes:
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
    if kind == "ply":
        if uv is not None:
            for index, name in enumerate("st"):
                written.vertex_attributes[name] = uv[:, index].astype(np.float32)
        data = written.export(file_type="ply", vertex_normal=True)
    else:
        data = written.export(
            file_type="obj", include_normals=True, include_color=True, write_texture=False
        )
    return data.encode("utf-8") if isinstance(data, str) else data


def _ply(mesh: Mesh, path: pathlib.Path) -> bytes:
    if mesh.texture is None:
        return _plain(mesh, "ply")
    data = _plain(_split(mesh, mesh.texture), "ply", mesh.texture.atlas.uv)
    if mesh.texture.color is None:
        return data
    # as MeshLab and others have it
    comment = f"comment TextureFile {_picture_names(path)[0]}\n".encode()
    return data.replace(b"element vertex", comment + b"element vertex", 1)


def _mtl(path: pathlib.Path, texture: Texture) -> bytes:
    color, normal = _picture_names(path)
    lines = [own_files.MTL_HEADER, "newmtl field", "Kd 0.8 0.8 0.8", "Ks 0 0 0", "illum 1"]
    if texture.color is not None:
        lines[2:3] = ["Kd 1 1 1", f"map_Kd {color}"]
    lines.append(f"norm {normal}")
    return ("\n".join(lines) + "\n").encode()


def _textured_obj(mesh: Mesh, texture: Texture, path: pathlib.Path) -> bytes:
    """Vertices stay one where the texture's seams are: the places on it are listed apart."""
    text = io.StringIO()
    text.write(f"mtllib {path.stem}.mtl\no {path.stem}\n")
    np.savetxt(text, mesh.vertices, "v %.8g %.8g %.8g")
    np.savetxt(text, texture.atlas.uv, "vt %.7g %.7g")
    np.savetxt(text, mesh.normals, "vn %.5g %.5g %.5g")
    text.write("usemtl field\ns 1\n")
    corners = np.stack([mesh.faces, texture.atlas.faces, mesh.faces], axis=2) + 1
    np.savetxt(text, corners.reshape(-1, 9), "f %d/%d/%d %d/%d/%d %d/%d/%d")
    return text.getvalue().encode()


def _for_gltf(mesh: Mesh) -> gltf.Primitive:
    colors = uv = None
    pictures: dict[str, bytes] = {}
    if mesh.colors is not None:
        linear = np.ones((len(mesh.colors), 4))
        linear[:, :3] = linear_from_srgb(mesh.colors.clip(0.0, 1.0))
        colors = np.round(linear * 65535.0).astype(np.uint16)
    if mesh.texture is not None:
        texture = mesh.texture
        # glTF counts from the upper left corner
        uv = texture.atlas.uv * [1.0, -1.0] + [0.0, 1.0]
        pictures["normal"] = png(texture.normal)
        if texture.color is not None:
            pictures["color"] = png(texture.color)
        mesh = _split(mesh, texture)
    return gltf.Primitive(
        mesh.vertices @ _GLTF_FROM_WORLD.T,
        mesh.faces,
        mesh.normals @ _GLTF_FROM_WORLD.T,
        colors,
        uv,
        pictures,
    )


def read(path: str | os.PathLike[str]) -> trimesh.Trimesh:
    """Read the triangles of a mesh file, in Blender's axes, all its objects in one.

    Faces without an area are left out, and vertices that no face uses.

    Raises:
        BadInput: it is absent, damaged, has no faces or holds NaN.
    """
    path = pathlib.Path(path)
    kinds = ", ".join(READ)
    if not path.is_file():
        what = "a folder" if path.is_dir() else "no such file"
        raise BadInput(f"{path}: {what}; give a mesh file ({kinds})")
    if path.suffix.lower() not in READ:
        raise BadInput(f"{path}: unknown kind {path.suffix!r}; give a mesh file ({kinds})")
    try:
        mesh = trimesh.load_mesh(path, process=False, skip_materials=True)
        if isinstance(mesh, trimesh.Scene):
            mesh = mesh.to_mesh()
        vertices = np.asarray(mesh.vertices, dtype=np.float64)
        faces = np.asarray(mesh.faces, dtype=np.int64).reshape(-1, 3)
    # the readers of the formats fail each in its own way on a damaged file
    except Exception:
        raise BadInput(
            f"{path}: not a readable mesh: it is empty, cut short or damaged; export it again"
        ) from None
    if len(faces) == 0:
        raise BadInput(f"{path}: faces: the mesh has none; give a mesh with triangles")
    if faces.min() < 0 or faces.max() >= len(vertices):
        raise BadInput(f"{path}: faces: a corner points at no vertex; export the mesh again")
    if not np.isfinite(vertices[faces]).all():
        raise BadInput(f"{path}: vertices: NaN or infinite; repair the mesh and export it again")
    if path.suffix.lower() == ".glb":
        vertices = vertices @ _GLTF_FROM_WORLD
    longest = np.ptp(vertices[faces].reshape(-1, 3), axis=0).max()
    faces = faces[areas(vertices, faces) > 0.5e-14 * longest**2]
    if len(faces) == 0:
        raise BadInput(f"{path}: faces: none has an area; give a mesh with triangles")
    used, renumbered = np.unique(faces, return_inverse=True)
    return trimesh.Trimesh(vertices[used], renumbered.reshape(-1, 3), process=False)
