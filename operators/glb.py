"""Reads the backend's binary glTF.

Blender's own importer leaves edit mode and changes the selection; a mesh that arrives minutes after
the click must not disturb whatever the person does by then. It is also an add-on that may be off.
"""

from __future__ import annotations

import dataclasses
import json
import os
import pathlib
import re
import struct
from typing import Any

import mathutils
import numpy as np
import numpy.typing as npt

from ..neural_backend import protocol
from ..neural_backend.protocol import BadInput

_MAGIC = b"glTF"
_SHORT = "it is cut short"
_HEADER = struct.Struct("<4sII")
_CHUNK = struct.Struct("<II")
_JSON, _BIN = 0x4E4F534A, 0x004E4942
_TYPES = {5120: "i1", 5121: "u1", 5122: "<i2", 5123: "<u2", 5125: "<u4", 5126: "<f4"}
_WIDTHS = {"SCALAR": 1, "VEC2": 2, "VEC3": 3, "VEC4": 4}
_PICTURES = (b"\x89PNG", b"\xff\xd8\xff")
_TRIANGLES = 4
_DEEPEST = 64
_GENERATOR_WITHIN = 1024  # bytes from the file's beginning


@dataclasses.dataclass(frozen=True)
class Triangles:
    """Triangles in world space, Z up.

    Attributes:
        vertices: [V, 3] float32, scene units.
        faces: [F, 3] int32, indices of vertices.
        normals: [V, 3] float32, unit vectors; None where the file has none.
        colours: [V, 4] float32, linear, RGBA; None where the file has no colours.
        uv: [3 F, 2] float32, of the faces' corners, from the lower left; None where the file has
            none.
        pictures: PNGs or JPEGs that lie on the faces: ``color``, sRGB, and ``normal``, in tangent
            space; none where the file's parts differ in theirs.
    """

    vertices: npt.NDArray[np.float32]
    faces: npt.NDArray[np.int32]
    normals: npt.NDArray[np.float32] | None
    colours: npt.NDArray[np.float32] | None
    uv: npt.NDArray[np.float32] | None
    pictures: dict[str, bytes]


class _Fault(ValueError):
    """What is wrong with a file, in words."""


def is_ours(path: str | os.PathLike[str]) -> bool:
    """Whether a file says that the backend wrote it."""
    with open(path, "rb") as file:
        begin = file.read(_GENERATOR_WITHIN)
    return re.search(rb'"generator"\s*:\s*"' + protocol.GENERATOR.encode(), begin) is not None


def read(path: str | os.PathLike[str]) -> Triangles:
    """Read all triangles of a file's scene as one mesh.

    Raises:
        BadInput: the file is absent, damaged, empty, or made by something else.
    """
    path = pathlib.Path(path)
    try:
        data = path.read_bytes()
    except OSError as error:
        reason = error.strerror or str(error)
        raise BadInput(f"{path}: cannot be read ({reason}); extract the mesh first") from None
    try:
        parts = _Document(data).parts()
        vertices = np.concatenate([part.vertices for part in parts])
        faces = np.concatenate(_shifted(parts))
        if not np.isfinite(vertices).all() or faces.min() < 0 or faces.max() >= len(vertices):
            raise _Fault("a face or a position is out of range")
    except _Fault as error:
        raise _unreadable(path, str(error)) from None
    # what is within is not as the format has it
    except (ValueError, KeyError, IndexError, TypeError, struct.error, RecursionError):
        raise _unreadable(path, "it is damaged") from None
    normals, colours, uv = (
        _joined([getattr(part, name) for part in parts]) for name in ("normals", "colours", "uv")
    )
    pictures = parts[0].pictures if len(parts) == 1 else {}
    triangles = Triangles(vertices, faces, normals, colours, uv, pictures)
    return triangles if uv is None else _welded(triangles)


def _unreadable(path: pathlib.Path, why: str) -> BadInput:
    return BadInput(f"{path}: not a mesh that can be read: {why}; extract it again")


def _joined(values: list[npt.NDArray[np.float32] | None]) -> npt.NDArray[np.float32] | None:
    there = [value for value in values if value is not None]
    return np.concatenate(there) if len(there) == len(values) else None


def _welded(triangles: Triangles) -> Triangles:
    """The vertices in one place made one: the file has them twice where its texture has a seam."""
    # as bytes they compare whole
    keys = np.ascontiguousarray(triangles.vertices + np.float32(0.0)).view("V12")[:, 0]
    _, first, inverse = np.unique(keys, return_index=True, return_inverse=True)
    # in the file's order, as vertices near one another are near in memory then
    order = np.argsort(first)
    place = np.empty_like(order)
    place[order] = np.arange(len(order))
    kept = first[order]
    return dataclasses.replace(
        triangles,
        vertices=triangles.vertices[kept],
        faces=place[inverse.ravel()][triangles.faces].astype(np.int32),
        normals=None if triangles.normals is None else triangles.normals[kept],
        colours=None if triangles.colours is None else triangles.colours[kept],
    )


def _shifted(parts: list[Triangles]) -> list[npt.NDArray[np.int32]]:
    starts = np.cumsum([0] + [len(part.vertices) for part in parts[:-1]])
    return [part.faces + np.int32(start) for part, start in zip(parts, starts, strict=True)]


class _Document:
    def __init__(self, data: bytes):
        if not data.startswith(_MAGIC):
            raise _Fault("it is empty" if not data else "it is no binary glTF file (.glb)")
        if len(data) < _HEADER.size:
            raise _Fault(_SHORT)
        _, version, length = _HEADER.unpack_from(data)
        if version != 2:
            raise _Fault(f"it is of glTF {version}, not 2")
        if length > len(data):
            raise _Fault(_SHORT)
        chunks: dict[int, bytes] = {}
        position = _HEADER.size
        while position < len(data):
            length, kind = _CHUNK.unpack_from(data, position)
            position += _CHUNK.size
            chunks.setdefault(kind, data[position : position + length])
            position += length
        self._json: dict[str, Any] = json.loads(chunks[_JSON])
        self._bin = chunks.get(_BIN, b"")

    def parts(self) -> list[Triangles]:
        scene = self._json["scenes"][self._json.get("scene", 0)]
        parts: list[Triangles] = []
        for node in scene["nodes"]:
            self._walk(node, mathutils.Matrix(), parts, 0)
        if not parts:
            raise _Fault("it has no triangles")
        return parts

    def _walk(
        self, index: int, above: mathutils.Matrix, parts: list[Triangles], depth: int
    ) -> None:
        if depth > _DEEPEST:
            raise _Fault("its nodes are nested too deeply")
        node = self._json["nodes"][index]
        world = above @ _matrix(node)
        if "mesh" in node:
            for primitive in self._json["meshes"][node["mesh"]]["primitives"]:
                if primitive.get("mode", _TRIANGLES) == _TRIANGLES:
                    parts.append(self._triangles(primitive, np.array(world, dtype=np.float64)))
        for child in node.get("children", ()):
            self._walk(child, world, parts, depth + 1)

    def _triangles(self, primitive: dict[str, Any], world: npt.NDArray[np.float64]) -> Triangles:
        attributes = primitive["attributes"]
        positions = self._accessor(attributes["POSITION"]).reshape(-1, 3)
        placed = positions @ world[:3, :3].T + world[:3, 3]
        vertices = _z_up(placed)
        if "indices" in primitive:
            faces = self._accessor(primitive["indices"]).reshape(-1, 3)
        else:
            faces = np.arange(len(vertices)).reshape(-1, 3)
        colours = None
        if "COLOR_0" in attributes:
            colours = self._accessor(attributes["COLOR_0"])
            if colours.shape != (len(vertices), 4):
                colours = np.hstack([colours[:, :3], np.ones((len(vertices), 1))])
            colours = colours.astype(np.float32)
        normals = uv = None
        if "NORMAL" in attributes:
            # normals stand upright on what a matrix has bent
            turned = self._of_vertices(attributes["NORMAL"], vertices) @ np.linalg.inv(
                world[:3, :3]
            )
            length = np.linalg.norm(turned, axis=1, keepdims=True)
            normals = _z_up(turned / np.maximum(length, 1e-30)).astype(np.float32)
        if "TEXCOORD_0" in attributes:
            corners = self._of_vertices(attributes["TEXCOORD_0"], vertices)[faces.ravel()]
            # glTF counts from the upper left
            uv = (corners * [1.0, -1.0] + [0.0, 1.0]).astype(np.float32)
        return Triangles(
            vertices.astype(np.float32),
            faces.astype(np.int32),
            normals,
            colours,
            uv,
            {} if uv is None else self._pictures(primitive),
        )

    def _of_vertices(self, index: int, vertices: npt.NDArray[Any]) -> npt.NDArray[Any]:
        values = self._accessor(index)
        if len(values) != len(vertices):
            raise _Fault("an attribute is not one a vertex")
        return values

    def _pictures(self, primitive: dict[str, Any]) -> dict[str, bytes]:
        if "material" not in primitive:
            return {}
        material = self._json["materials"][primitive["material"]]
        textures = {
            "color": material.get("pbrMetallicRoughness", {}).get("baseColorTexture"),
            "normal": material.get("normalTexture"),
        }
        return {
            name: self._picture(texture["index"])
            for name, texture in textures.items()
            if texture is not None
        }

    def _picture(self, texture: int) -> bytes:
        image = self._json["images"][self._json["textures"][texture]["source"]]
        view = self._json["bufferViews"][image["bufferView"]]
        start, length = view.get("byteOffset", 0), view["byteLength"]
        data = self._bin[max(start, 0) : start + length]
        if len(data) != length or not data.startswith(_PICTURES):
            raise _Fault("a picture is cut short")
        return data

    def _accessor(self, index: int) -> npt.NDArray[Any]:
        """[count, width] the accessor's values; normalised integers become fractions."""
        accessor = self._json["accessors"][index]
        view = self._json["bufferViews"][accessor["bufferView"]]
        kind = np.dtype(_TYPES[accessor["componentType"]])
        count, width = int(accessor["count"]), _WIDTHS[accessor["type"]]
        start = view.get("byteOffset", 0) + accessor.get("byteOffset", 0)
        stride = view.get("byteStride", 0) or kind.itemsize * width
        end = start + (count - 1) * stride + kind.itemsize * width
        if count < 1 or start < 0 or stride < kind.itemsize * width or end > len(self._bin):
            raise _Fault("its data is cut short")
        values: npt.NDArray[Any] = np.ndarray(
            (count, width), kind, self._bin, start, (stride, kind.itemsize)
        )
        if accessor.get("normalized"):
            return values / np.float32(np.iinfo(kind).max)
        return values


def _z_up(vectors: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """[V, 3] vectors as Blender has them; glTF is Y up."""
    return np.stack([vectors[:, 0], -vectors[:, 2], vectors[:, 1]], axis=1)


def _matrix(node: dict[str, Any]) -> mathutils.Matrix:
    if "matrix" in node:
        columns = np.array(node["matrix"], dtype=np.float64).reshape(4, 4)
        return mathutils.Matrix(columns.T.tolist())
    x, y, z, w = node.get("rotation", (0.0, 0.0, 0.0, 1.0))
    return mathutils.Matrix.LocRotScale(
        node.get("translation", (0.0, 0.0, 0.0)),
        mathutils.Quaternion((w, x, y, z)),
        node.get("scale", (1.0, 1.0, 1.0)),
    )
