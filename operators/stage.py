"""The person's own scene, set up to render views from, and put back as it was.

What a setting was before stands in the scene itself, as a custom property, so that whatever brings
a scene back in which views were being rendered (an undo, a file that was saved in the middle, a
recovered one) brings the way back too: ``heal`` goes it.

A copy of the scene (``scratch``) would need none of this; but in older versions Blender's window
crashes now and then while another scene than its own is being rendered.
"""

from __future__ import annotations

import json
import uuid
from typing import Any

import bpy
from bpy.app.handlers import persistent

from . import scratch
from .place import Place

BEFORE = "neural_fields_before"
_NAME = "Neural Fields (rendering)"

Whose = tuple[Any, ...]

_in_use: set[str] = set()


class Stage:
    """A scene whose settings are changed for a while; ``close`` puts them back.

    It holds names, no references: undo replaces Blender's data-blocks while a job runs.
    """

    def __init__(self, scene: bpy.types.Scene, view_layer: bpy.types.ViewLayer):
        self._place = Place(scene.name, view_layer.name)
        self._token = uuid.uuid4().hex
        scratch.live.add(self._token)
        _in_use.add(self._place.scene_name)

    @property
    def scene(self) -> bpy.types.Scene:
        return self._place.scene

    @property
    def view_layer(self) -> bpy.types.ViewLayer:
        return self._place.view_layer

    def camera(self) -> bpy.types.Object:
        """The scene's camera for now; its parent is an empty at the origin (``cameras.apply``)."""
        for item in self.scene.objects:
            if item.type == "CAMERA" and item.get(scratch.MARK) == self._token:
                return item
        data = self.own(bpy.data.cameras.new(_NAME))
        camera = self.own(bpy.data.objects.new(_NAME, data))
        camera.parent = self.own(bpy.data.objects.new(_NAME, None))
        for item in (camera, camera.parent):
            item.hide_viewport = item.hide_select = True
            self.scene.collection.objects.link(item)
        return camera

    def own(self, block: Any) -> Any:
        """Mark a new data-block: ``close`` removes it."""
        block[scratch.MARK] = self._token
        return block

    def owned(self, blocks: Any) -> Any:
        """The data-block that ``own`` has marked, or None."""
        return next((item for item in blocks if item.get(scratch.MARK) == self._token), None)

    def keep(self, *paths: str, whose: Whose = ("scene",)) -> None:
        """Remember settings that are about to be changed; what is kept already is not kept anew.

        Args:
            paths: of properties, such as ``render.film_transparent``.
            whose: whose they are: the scene's, ``("layer", name)``, ``("marker", index)``,
                ``("object", full name)`` or ``("collection", full name)``.
        """
        scene = self.scene
        before = json.loads(scene.get(BEFORE, "{}"))
        new = [key for key in (json.dumps([*whose, path]) for path in paths) if key not in before]
        for key in new:
            owner, attribute = _resolve(scene, key)
            # Blender has some of them only from a version on
            if hasattr(owner, attribute):
                value = getattr(owner, attribute)
                is_object = isinstance(value, bpy.types.Object)
                before[key] = {"object": value.name_full} if is_object else value
        if new:
            scene[BEFORE] = json.dumps(before)

    def keeps(self, path: str) -> bool:
        """Whether a setting of the scene is remembered."""
        return json.dumps(["scene", path]) in json.loads(self.scene.get(BEFORE, "{}"))

    def close(self) -> None:
        """Put everything back. Raises nothing where the scene or parts of it are gone."""
        _in_use.discard(self._place.scene_name)
        scratch.live.discard(self._token)
        heal()
        scratch.sweep()


def heal() -> None:
    """Put back the settings of scenes in which no views are being rendered."""
    for scene in bpy.data.scenes:
        if scene.get(BEFORE) is None or scene.name in _in_use:
            continue
        try:
            before = json.loads(scene[BEFORE])
        except (TypeError, ValueError):
            before = {}
        for key, value in before.items():
            try:
                owner, attribute = _resolve(scene, key)
                if isinstance(value, dict):
                    value = _named(bpy.data.objects, value["object"])
                if value == "" and owner.bl_rna.properties[attribute].type == "ENUM":
                    # it was never set, which cannot be had again; what Blender has set it to since
                    # means the same
                    continue
                if getattr(owner, attribute) != value:
                    setattr(owner, attribute, value)
            except Exception as error:
                print(f"Neural Fields: {key} cannot be put back ({error})", flush=True)
        del scene[BEFORE]


def _resolve(scene: bpy.types.Scene, key: str) -> tuple[Any, str]:
    """The structure that has a property, and the property's name."""
    kind, *name, path = json.loads(key)
    owner: Any = scene
    if kind == "layer":
        owner = scene.view_layers[name[0]]
    elif kind == "marker":
        owner = scene.timeline_markers[name[0]]
    elif kind == "object":
        owner = _named(bpy.data.objects, name[0])
    elif kind == "collection":
        owner = _named(bpy.data.collections, name[0])
    *parents, attribute = path.split(".")
    for parent in parents:
        owner = getattr(owner, parent, None)
    return owner, attribute


def _named(blocks: Any, name: str) -> Any:
    return next((item for item in blocks if item.name_full == name), None)


@persistent
def _on_return(*_: object) -> None:
    heal()
    scratch.sweep()


def register() -> None:
    bpy.app.handlers.load_post.append(_on_return)
    bpy.app.handlers.undo_post.append(_on_return)
    bpy.app.handlers.redo_post.append(_on_return)


def unregister() -> None:
    bpy.app.handlers.load_post.remove(_on_return)
    bpy.app.handlers.undo_post.remove(_on_return)
    bpy.app.handlers.redo_post.remove(_on_return)
