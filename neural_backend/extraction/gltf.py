"""Writes binary glTF 2.0: one mesh with one material."""

from __future__ import annotations

import dataclasses
import json
import struct
from typing import Any

import numpy as np
import numpy.typing as npt

from ..protocol import GENERATOR

_FLOAT, _SHORT, _INT = 5126, 5123, 5125
_TYPES = {1: "SCALAR", 2: "VEC2", 3: "VEC3", 4: "VEC4"}
_VERTICES, _INDICES = 34962, 34963
_LINEAR, _MIPMAPS, _CLAMP = 9729, 9987, 33071
_JSON, _BIN = 0x4E4F534A, 0x004E4942


@dataclasses.dataclass(frozen=True)
class Primitive:
    """Triangles as glTF has them, Y up.

    Attributes:
        positions: [M, 3]
        faces: [K, 3]
        normals: [M, 3]
        colors: [M, 4] linear, as fractions of 65535; or None.
        uv: [M, 2] from the upper left corner; or None.
        pictures: PNGs: ``color``, sRGB, and ``normal``, in tangent space.
    """

    positions: npt.NDArray
    faces: npt.NDArray
    normals: npt.NDArray
    colors: npt.NDArray[np.uint16] | None
    uv: npt.NDArray | None
    pictures: dict[str, bytes]


def binary(name: str, primitive: Primitive) -> bytes:
    """The bytes of a glb with one node, mesh and material, all called ``name``."""
    file = _File()
    positions = primitive.positions.astype("<f4")
    attributes = {
        "POSITION": file.accessor(positions, _FLOAT, _VERTICES, bounds=True),
        "NORMAL": file.accessor(primitive.normals.astype("<f4"), _FLOAT, _VERTICES),
    }
    if primitive.colors is not None:
        attributes["COLOR_0"] = file.accessor(primitive.colors.astype("<u2"), _SHORT, _VERTICES)
        file.json["accessors"][-1]["normalized"] = True
    if primitive.uv is not None:
        attributes["TEXCOORD_0"] = file.accessor(primitive.uv.astype("<f4"), _FLOAT, _VERTICES)
    indices = file.accessor(primitive.faces.reshape(-1, 1).astype("<u4"), _INT, _INDICES)
    mesh = {"attributes": attributes, "indices": indices, "material": 0, "mode": 4}
    file.json |= {
        "scene": 0,
        "scenes": [{"nodes": [0]}],
        "nodes": [{"name": name, "mesh": 0}],
        "meshes": [{"name": name, "primitives": [mesh]}],
        "materials": [_material(name, primitive.pictures, file)],
        "extensionsUsed": ["KHR_materials_specular"],
    }
    return file.bytes()


def _material(name: str, pictures: dict[str, bytes], file: _File) -> dict[str, Any]:
    """Neither a metal, which is glTF's default, nor glossy: highlights are in the colours."""
    surface: dict[str, Any] = {"metallicFactor": 0.0, "roughnessFactor": 0.9}
    material = {
        "name": name,
        "pbrMetallicRoughness": surface,
        "extensions": {"KHR_materials_specular": {"specularFactor": 0.0}},
    }
    if "color" in pictures:
        surface["baseColorTexture"] = {"index": file.texture(f"{name}_color", pictures["color"])}
    if "normal" in pictures:
        material["normalTexture"] = {"index": file.texture(f"{name}_normal", pictures["normal"])}
    return material


class _File:
    def __init__(self) -> None:
        self._blob = bytearray()
        self.json: dict[str, Any] = {
            "asset": {"version": "2.0", "generator": GENERATOR},
            "accessors": [],
            "bufferViews": [],
        }

    def _view(self, data: bytes, target: int | None = None) -> int:
        self._blob += b"\0" * (-len(self._blob) % 4)
        view = {"buffer": 0, "byteOffset": len(self._blob), "byteLength": len(data)}
        if target is not None:
            view["target"] = target
        self._blob += data
        self.json["bufferViews"].append(view)
        return len(self.json["bufferViews"]) - 1

    def accessor(self, values: npt.NDArray, kind: int, target: int, bounds: bool = False) -> int:
        """Take up values [M, C]; returns the accessor's index."""
        accessor = {
            "bufferView": self._view(values.tobytes(), target),
            "componentType": kind,
            "count": len(values),
            "type": _TYPES[values.shape[1]],
        }
        if bounds:
            accessor["min"] = values.min(axis=0).tolist()
            accessor["max"] = values.max(axis=0).tolist()
        self.json["accessors"].append(accessor)
        return len(self.json["accessors"]) - 1

    def texture(self, name: str, png: bytes) -> int:
        """Take up a picture; returns the texture's index."""
        image = {"name": name, "mimeType": "image/png", "bufferView": self._view(png)}
        images = self.json.setdefault("images", [])
        images.append(image)
        sampler = {"magFilter": _LINEAR, "minFilter": _MIPMAPS, "wrapS": _CLAMP, "wrapT": _CLAMP}
        self.json["samplers"] = [sampler]
        texture = {"sampler": 0, "source": len(images) - 1}
        self.json.setdefault("textures", []).append(texture)
        return len(images) - 1

    def bytes(self) -> bytes:
        self._blob += b"\0" * (-len(self._blob) % 4)
        self.json["buffers"] = [{"byteLength": len(self._blob)}]
        text = json.dumps(self.json, separators=(",", ":")).encode()
        text += b" " * (-len(text) % 4)
        size = 12 + 8 + len(text) + 8 + len(self._blob)
        header = struct.pack("<4sII", b"glTF", 2, size) + struct.pack("<II", len(text), _JSON)
        return header + text + struct.pack("<II", len(self._blob), _BIN) + bytes(self._blob)
