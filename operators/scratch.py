"""A copy of the scene to look at: it shares the objects and has the settings for itself.

Its frame may be changed, and it may be evaluated as a render sees it, without a trace in the
person's own scene. It lives for one step of a job at most.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable
from typing import Any

import bpy

MARK = "neural_fields_scratch"
RESULT_MARK = "neural_fields_run"
"""Custom property of what an earlier run brought back: never part of the next dataset."""

_NAME = "Neural Fields (looking)"

live: set[str] = set()
"""Tokens of what is in use: other marked data-blocks are left over and may be removed."""


class Scratch:
    """A scene's copy with one view layer and a camera of its own; ``close`` removes it.

    Attributes:
        source, source_layer: what was copied.
        scene: the copy.
        view_layer: its only one.
    """

    def __init__(self, scene: bpy.types.Scene, view_layer: bpy.types.ViewLayer):
        self._token = uuid.uuid4().hex
        live.add(self._token)
        sweep()
        self.source, self.source_layer = scene, view_layer
        self.scene = self._copy(scene, view_layer.name)
        self.view_layer = self.scene.view_layers[0]

    def __enter__(self) -> Scratch:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        live.discard(self._token)
        sweep()

    def _copy(self, source: bpy.types.Scene, layer: str) -> bpy.types.Scene:
        scene = source.copy()
        scene[MARK] = self._token
        scene.name = _NAME
        for other in list(scene.view_layers):
            if other.name != layer and len(scene.view_layers) > 1:
                scene.view_layers.remove(other)
        scene.view_layers[0].use = True
        _exclude_results(scene.view_layers[0].layer_collection)
        # in other collections, which are shared, they are left out by their mark (``geometry``)
        for item in results_of(scene.collection.objects):
            scene.collection.objects.unlink(item)
        # an animated setting would win over what is set here
        scene.animation_data_clear()
        # a marker's camera would take the place of the copy's own
        for marker in scene.timeline_markers:
            marker.camera = None
        # stepping the copy of a simulation breaks the one it was copied from
        if scene.rigidbody_world is not None:
            scene.rigidbody_world.enabled = False
        data = bpy.data.cameras.new(_NAME)
        scene.camera = bpy.data.objects.new(_NAME, data)
        scene.camera[MARK] = data[MARK] = self._token
        scene.collection.objects.link(scene.camera)
        return scene


def results_of(objects: Iterable[bpy.types.Object]) -> list[bpy.types.Object]:
    """Those that an earlier run brought back, in whatever collection they stand by now."""
    return [item for item in objects if item.get(RESULT_MARK) is not None]


def _exclude_results(layer: bpy.types.LayerCollection) -> None:
    for child in layer.children:
        if child.collection.get(RESULT_MARK) is not None:
            child.exclude = True
        else:
            _exclude_results(child)


def sweep() -> None:
    """Remove what is not in use: an undo or a file that was saved in the middle brings it back."""
    data = bpy.data
    kinds: tuple[Any, ...] = (data.scenes, data.objects, data.cameras, data.collections)
    for blocks in kinds:
        for block in [block for block in blocks if MARK in block]:
            if block[MARK] not in live:
                blocks.remove(block)
