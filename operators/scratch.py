"""A copy of the scene to render from, so that the person's own scene keeps every setting.

The copy shares the objects and has the settings for itself: it may be changed freely, and nothing
has to be put back, even where Blender ends in the middle or the file is saved. It is found again by
a mark, not by reference: undo replaces Blender's data-blocks while a job runs.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from typing import Any

import bpy

from ..neural_backend.protocol import BadInput

MARK = "neural_fields_scratch"
RESULT_MARK = "neural_fields_run"
"""Custom property of what an earlier run brought back: never part of the next dataset."""

_NAME = "Neural Fields (rendering)"

_live: set[str] = set()

Prepare = Callable[[bpy.types.Scene], None]


class Scratch:
    """A scene's copy with one view layer and a camera of its own; ``close`` removes it.

    Args:
        scene, view_layer: what is copied.
        prepare: sets the copy up; called again when undo has removed it and it is made anew.
    """

    def __init__(
        self,
        scene: bpy.types.Scene,
        view_layer: bpy.types.ViewLayer,
        prepare: Prepare | None = None,
    ):
        self._source = scene.name
        self._layer = view_layer.name
        self._prepares = [prepare] if prepare else []
        self._token = uuid.uuid4().hex
        _live.add(self._token)
        sweep()

    def __enter__(self) -> Scratch:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def prepare(self, prepare: Prepare) -> None:
        """Set the copy up further, now and whenever it is made anew."""
        prepare(self.scene)
        self._prepares.append(prepare)

    @property
    def scene(self) -> bpy.types.Scene:
        for scene in bpy.data.scenes:
            if scene.get(MARK) == self._token:
                return scene
        return self._make()

    @property
    def view_layer(self) -> bpy.types.ViewLayer:
        return self.scene.view_layers[0]

    @property
    def source(self) -> bpy.types.Scene:
        """The scene that was copied."""
        source = bpy.data.scenes.get(self._source)
        if source is None:
            raise BadInput(f"the scene {self._source} is gone: start again in another scene")
        return source

    @property
    def camera(self) -> bpy.types.Object:
        """The copy's own camera; its parent is an empty at the origin (see ``cameras.apply``)."""
        return self.scene.camera

    def own(self, block: Any) -> Any:
        """Mark a new data-block: ``close`` removes it."""
        block[MARK] = self._token
        return block

    def close(self) -> None:
        _live.discard(self._token)
        sweep()

    def _make(self) -> bpy.types.Scene:
        # half of it may have outlived an undo
        _remove(lambda token: token == self._token)
        scene = self.own(self.source.copy())
        scene.name = _NAME
        for layer in list(scene.view_layers):
            if layer.name != self._layer and len(scene.view_layers) > 1:
                scene.view_layers.remove(layer)
        scene.view_layers[0].use = True
        _exclude_results(scene.view_layers[0].layer_collection)
        # an animated setting would win over what is set here
        scene.animation_data_clear()
        # a marker's camera would take the place of the copy's own
        for marker in scene.timeline_markers:
            marker.camera = None
        # stepping the copy of a simulation breaks the one it was copied from
        if scene.rigidbody_world is not None:
            scene.rigidbody_world.enabled = False
        data = self.own(bpy.data.cameras.new(_NAME))
        camera = self.own(bpy.data.objects.new(_NAME, data))
        camera.parent = self.own(bpy.data.objects.new(_NAME, None))
        for item in (camera, camera.parent):
            scene.collection.objects.link(item)
        scene.camera = camera
        for prepare in self._prepares:
            prepare(scene)
        return scene


def _exclude_results(layer: bpy.types.LayerCollection) -> None:
    for child in layer.children:
        if RESULT_MARK in child.collection:
            child.exclude = True
        else:
            _exclude_results(child)


def sweep() -> None:
    """Remove what belongs to no living Scratch: an undo or a saved file may bring it back."""
    _remove(lambda token: token not in _live)


def _remove(stale: Callable[[str], bool]) -> None:
    for blocks in (bpy.data.scenes, bpy.data.objects, bpy.data.cameras, bpy.data.collections):
        for block in list(_marked(blocks)):
            if stale(block[MARK]):
                blocks.remove(block)


def _marked(blocks: Any) -> Iterator[Any]:
    return (block for block in blocks if MARK in block)
