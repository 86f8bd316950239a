"""Reads the backend's binary glTF.

Blender's own importer leaves edit mode and changes the selection; a mesh that arrives minutes after
the click must not disturb whatever the person does by then. It is also an add-on that may be off.
"""

from __future__ import annotations

import dataclasses
import json
import os
import pathlib
import struct
from typing import Any

import mathutils
import numpy as np
import numpy.typing as npt

from ..neural_backend.protocol import BadInput

_HEADER = struct.Struct("<4sII")
_CHUNK = struct.Struct("<II")
_JSON, _BIN = 0x4E4F534A, 0x004E4942
_TYPES = {5120: "i1", 5121: "u1", 5122: "<i2", 5123: "<u2", 5125: "<u4", 5126: "<f4"}
_WIDTHS = {"SCALAR": 1, "VEC2": 2, "VEC3": 3, "VEC4": 4}
_TRIANGLES = 4
_DEEPEST = 64


@dataclasses.dataclass(frozen=True)
class Triangles:
    """Triangles in world space, Z up.

    Attributes:
        vertices: [V, 3] float32, scene units.
        faces: [F, 3] int32, indices of vertices.
        colours: [V, 4] float32, linear, RGBA; None where the file has no colours.
    """

    vertices: npt.NDArray[np.float32]
    faces: npt.NDArray[np.int32]
    colours: npt.NDArray[np.float32] | None


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
            raise ValueError("a face or a position is out of range")
    except (ValueError, KeyError, IndexError, TypeError, struct.error, RecursionError) as error:
        detail = " ".join(str(error).split()) or type(error).__name__
        raise BadInput(
            f"{path}: not a mesh that can be read ({detail}); extract it again"
        ) from None
    colours = [part.colours for part in parts if part.colours is not None]
    whole = np.concatenate(colours) if len(colours) == len(parts) else None
    return Triangles(vertices, faces, whole)


def _shifted(parts: list[Triangles]) -> list[npt.NDArray[np.int32]]:
    starts = np.cumsum([0] + [len(part.vertices) for part in parts[:-1]])
    return [part.faces + np.int32(start) for part, start in zip(parts, starts, strict=True)]


class _Document:
    def __init__(self, data: bytes):
        magic, version, _ = _HEADER.unpack_from(data)
        if magic != b"glTF" or version != 2:
            raise ValueError("no binary glTF 2 file")
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
            raise ValueError("it has no triangles")
        return parts

    def _walk(
        self, index: int, above: mathutils.Matrix, parts: list[Triangles], depth: int
    ) -> None:
        if depth > _DEEPEST:
            raise ValueError("its nodes are nested too deeply")
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
        # glTF is Y up
        vertices = np.stack([placed[:, 0], -placed[:, 2], placed[:, 1]], axis=1)
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
        return Triangles(vertices.astype(np.float32), faces.astype(np.int32), colours)

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
            raise ValueError("its data is cut short")
        values: npt.NDArray[Any] = np.ndarray(
            (count, width), kind, self._bin, start, (stride, kind.itemsize)
        )
        if accessor.get("normalized"):
            return values / np.float32(np.iinfo(kind).max)
        return values


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
