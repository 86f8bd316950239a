"""Whether a scene still looks as it did: a digest of everything that a render depends on.

It is made from values, not from addresses, so that it holds from one start of Blender to the next.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator
from typing import Any

import bpy
import numpy as np

from .scratch import RESULT_MARK

# what Blender fills in for itself, and what only the editors show
_SKIP = {
    "asset_data",
    "evaluated",
    "filepath",
    "filepath_raw",
    "id_data",
    "is_editable",
    "is_evaluated",
    "library",
    "library_weak_reference",
    "name_full",
    "original",
    "override_library",
    "preview",
    "rna_type",
    "session_uid",
    "tag",
    "use_extra_user",
    "use_fake_user",
    "users",
    "bindcode",
    "depsgraph",
    "internal_links",
    "layer_collection",
    "use_nodes",
    "wireframe_color_type",
}
# of the output, and what an export sets for each view
_OF_THE_OUTPUT = (
    "bake",
    "denoiser",
    "ffmpeg",
    "image_settings",
    "pixel_aspect_x",
    "pixel_aspect_y",
    "preview_denoiser",
    "resolution_percentage",
    "resolution_x",
    "resolution_y",
)
_ENGINE_SETTINGS = {"CYCLES": "cycles", "BLENDER_WORKBENCH": "display"}
_OF_ANY_NODE = set(bpy.types.Node.bl_rna.properties.keys())
_DEPTH = 4
_LONGEST = 512
_FOLLOWED = (bpy.types.Image, bpy.types.Material, bpy.types.NodeTree, bpy.types.Texture)
_VISIBILITY = (
    "visible_diffuse",
    "visible_glossy",
    "visible_transmission",
    "visible_volume_scatter",
    "visible_shadow",
    "is_shadow_catcher",
    "pass_index",
)

Follow = list[bpy.types.ID]


def digest_of(scene: bpy.types.Scene, materials: Iterable[str]) -> str:
    """A digest of a scene's render settings, lights, world and materials.

    Args:
        scene: as it will be rendered.
        materials: full names of those in use.
    """
    names = set(materials)
    follow: Follow = [item for item in bpy.data.materials if item.name_full in names]
    lines = list(_scene(scene, follow))
    seen: set[int] = set()
    while follow:
        block = follow.pop()
        if block.as_pointer() in seen:
            continue
        seen.add(block.as_pointer())
        start = f"{type(block).__name__} {block.name_full}"
        lines += (f"{start} {line}" for line in _block(block, follow))
    # the order in which blocks are met is not the same in every start of Blender
    return hashlib.blake2b("\n".join(sorted(lines)).encode(), digest_size=16).hexdigest()


def _scene(scene: bpy.types.Scene, follow: Follow) -> Iterator[str]:
    yield f"Blender {bpy.app.version_string}"
    yield f"frame {scene.frame_current} {scene.frame_subframe}"
    engine = _ENGINE_SETTINGS.get(scene.render.engine, "eevee")
    for name in ("render", engine, "view_settings", "display_settings"):
        if hasattr(scene, name):
            yield from _values(getattr(scene, name), name, follow, skip=_OF_THE_OUTPUT)
    yield from _values(scene.view_layers[0], "layer", follow, depth=1)
    if scene.world is not None:
        yield from _values(scene.world, "world", follow)
    for item in scene.objects:
        if item.type in ("LIGHT", "LIGHT_PROBE"):
            place = [round(value, 6) for row in item.matrix_world for value in row]
            yield f"light {item.name_full} {item.hide_render} {place}"
            yield from _values(item.data, f"light {item.name_full}", follow)
        elif item.type != "CAMERA" and item.get(RESULT_MARK) is None:
            look = [getattr(item, name, None) for name in _VISIBILITY]
            yield f"object {item.name_full} {look} {_plain(item.color)}"


def _block(block: bpy.types.ID, follow: Follow) -> Iterator[str]:
    if isinstance(block, bpy.types.NodeTree):
        yield from _tree(block, follow)
    elif isinstance(block, bpy.types.Image):
        yield from _image(block)
    else:
        yield from _values(block, "", follow)


def _tree(tree: bpy.types.NodeTree, follow: Follow) -> Iterator[str]:
    for node in tree.nodes:
        start = f"{node.name} {node.bl_idname} {node.mute}"
        yield start
        yield from _values(node, start, follow, skip=_OF_ANY_NODE)
        for direction in (node.inputs, node.outputs):
            for socket in direction:
                value = getattr(socket, "default_value", None)
                if isinstance(value, bpy.types.ID):
                    _meet(value, follow)
                    value = value.name_full
                yield f"{start} {socket.identifier} {_plain(value)}"
    for link in tree.links:
        if link.from_node is not None and link.to_node is not None:
            yield (
                f"{link.from_node.name} {link.from_socket.identifier} to "
                f"{link.to_node.name} {link.to_socket.identifier} {link.is_muted}"
            )


def _image(image: bpy.types.Image) -> Iterator[str]:
    if image.type in ("RENDER_RESULT", "COMPOSITING"):
        return
    yield f"{image.source} {_plain(image.size)} {image.alpha_mode} {image.colorspace_settings.name}"
    yield f"{image.generated_type} {_plain(image.generated_color)}"
    if image.is_dirty:  # painted on, and in no file yet
        stored: Any = image.pixels
        pixels = np.empty(len(stored), dtype=np.float32)
        stored.foreach_get(pixels)
        yield f"painted {hashlib.blake2b(pixels.data, digest_size=16).hexdigest()}"
    if image.packed_file is not None:
        yield f"packed {image.packed_file.size}"
    path = bpy.path.abspath(image.filepath, library=image.library)
    yield path
    try:
        found = os.stat(path)
        yield f"file {found.st_size} {found.st_mtime_ns}"
    except (OSError, ValueError):
        pass


def _values(
    struct: Any, start: str, follow: Follow, depth: int = _DEPTH, skip: Iterable[str] = ()
) -> Iterator[str]:
    """Every property of a structure, and of those inside it, as lines of text."""
    for prop in struct.bl_rna.properties:
        name = prop.identifier
        if name in _SKIP or name in skip:
            continue
        try:
            value = getattr(struct, name)
        except Exception:  # a property of an engine that is not there
            continue
        here = f"{start}.{name}"
        if prop.type == "POINTER":
            if value is None:
                continue
            if isinstance(value, bpy.types.ID):
                yield f"{here} {value.name_full}"
                _meet(value, follow)
            elif depth:
                yield from _values(value, here, follow, depth - 1)
        elif prop.type == "COLLECTION":
            if depth and name not in ("objects", "children"):
                for index, item in zip(range(_LONGEST), value, strict=False):
                    yield from _values(item, f"{here}[{index}]", follow, depth - 1)
        else:
            yield f"{here} {_plain(value)}"


def _meet(block: bpy.types.ID, follow: Follow) -> None:
    if isinstance(block, _FOLLOWED):
        follow.append(block)


def _plain(value: Any) -> str:
    if isinstance(value, (str, int, float, bool, type(None))):
        return repr(value)
    if isinstance(value, set):
        return repr(sorted(value))
    try:
        return repr([_plain(item) for item in value])
    except TypeError:
        return type(value).__name__
