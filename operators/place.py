"""Where a job was started: the person may look at another scene by now."""

from __future__ import annotations

import dataclasses

import bpy

from ..neural_backend.protocol import BadInput


@dataclasses.dataclass(frozen=True)
class Place:
    """A scene and its view layer by name: undo replaces Blender's data-blocks while a job runs."""

    scene_name: str
    layer_name: str

    @property
    def scene(self) -> bpy.types.Scene:
        return scene_of(self.scene_name)

    @property
    def view_layer(self) -> bpy.types.ViewLayer:
        layer: bpy.types.ViewLayer | None = self.scene.view_layers.get(self.layer_name)
        if layer is None:
            raise BadInput(f"the view layer {self.layer_name} is gone: start again in another one")
        return layer


def place_of(context: bpy.types.Context | Place) -> Place:
    """What a context shows now; of a place, itself."""
    return Place(context.scene.name, context.view_layer.name)


def scene_of(name: str) -> bpy.types.Scene:
    """A scene by its name. Raises BadInput when it is gone."""
    scene: bpy.types.Scene | None = bpy.data.scenes.get(name)
    if scene is None:
        raise BadInput(f"the scene {name} is gone: start again in another scene")
    return scene


def require_local(scene: bpy.types.Scene) -> None:
    """Raises BadInput for a scene of another file: Blender lets nothing in it be changed."""
    if scene.library is not None:
        raise BadInput(
            f"the scene {scene.name} is linked from {scene.library.filepath}: open that file, or "
            "make the scene local (Object > Relations > Make Local > All)"
        )


def collection_of(name: str | None) -> bpy.types.Collection | None:
    """A collection by its full name, None for none. Raises BadInput when it is gone."""
    if name is None:
        return None
    for collection in bpy.data.collections:
        if collection.name_full == name:
            return collection
    raise BadInput(f"the collection {name} is gone: choose another in the Rig panel")
