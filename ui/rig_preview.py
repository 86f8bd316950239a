"""The rig in the 3D view: the frustum of every view, coloured by its split.

What is drawn is computed by a timer, never while drawing, and only when settings or the scene have
changed; a scene that takes long to look at is looked at less often.
"""

from __future__ import annotations

import time

import bpy
import gpu
import numpy as np
import numpy.typing as npt
from bpy.app.handlers import persistent
from gpu_extras.batch import batch_for_shader

from ..neural_backend.dataset.transforms import View
from ..neural_backend.protocol import BadInput
from ..operators import job, knobs, rig

COLOURS = {
    "train": (0.25, 0.6, 1.0, 0.9),
    "val": (1.0, 0.75, 0.2, 0.9),
    "test": (1.0, 0.35, 0.3, 0.9),
}

_LOOK = 0.25
"""Seconds between two looks at whether something has changed."""
_REST = 10.0
"""After a computation the preview rests so many times as long as it took."""
_MOST = 2000
_WIDTH = 1.5
_LENGTH = 0.08

_lines: dict[str, npt.NDArray[np.float32]] = {}
_batches: dict[str, gpu.types.GPUBatch] = {}
_handle: object = None
_key: object = None
_changed = True
_rest_until = 0.0


def frustum_lines(views: tuple[View, ...], length: float) -> npt.NDArray[np.float32]:
    """[V * 20, 3] ends of the line segments of the views' frustums, world space.

    Args:
        length: from a camera to its image plane, scene units.
    """
    segments = []
    for view in views:
        intrinsics, pose = view.intrinsics, view.world_from_camera
        left, right = -intrinsics.cx, intrinsics.w - intrinsics.cx
        top, bottom = intrinsics.cy, intrinsics.cy - intrinsics.h
        x = np.array([left, right, right, left]) / intrinsics.fl_x
        y = np.array([bottom, bottom, top, top]) / intrinsics.fl_y
        corners = length * np.stack([x, y, -np.ones(4)], axis=1)
        # the mark that says which side is up
        peak = length * np.array([(x[0] + x[1]) / 2, y[2] + 0.35 * (y[2] - y[0]), -1.0])
        ends = []
        for index in range(4):
            ends += [np.zeros(3), corners[index], corners[index], corners[(index + 1) % 4]]
        ends += [corners[2], peak, peak, corners[3]]
        segments.append(np.array(ends) @ pose[:3, :3].T + pose[:3, 3])
    if not segments:
        return np.empty((0, 3), dtype=np.float32)
    return np.concatenate(segments).astype(np.float32)


def refresh(context: bpy.types.Context) -> bool:
    """Compute the lines anew where something has changed; True where they did."""
    global _changed, _key, _rest_until
    if context.scene is None or not context.scene.neural_fields.show_rig:
        changed = bool(_lines)
        _clear()
        return changed
    # a job has the scene, or its copy, in its hands
    if job.owner.running or bpy.app.is_job_running("RENDER") or time.monotonic() < _rest_until:
        return False
    try:
        settings = knobs.settings_of(context.scene)
    except BadInput:
        return False
    scene = context.scene
    render = scene.render
    key = (
        scene.name,
        (scene.frame_start, scene.frame_end),
        (render.resolution_x, render.resolution_y),
        (render.pixel_aspect_x, render.pixel_aspect_y),
        settings.rig,
        settings.dataset.resolution,
        settings.collection.name if settings.collection else "",
        tuple(sorted(item.name for item in context.selected_objects))
        if settings.rig.subject == "selection"
        else (),
    )
    if not _changed and key == _key:
        return False
    began = time.monotonic()
    _clear()
    _key, _changed = key, False
    try:
        views = rig.preview_views(context, settings.rig, settings.dataset, settings.collection)
    except BadInput:
        views = ()
    _rest_until = time.monotonic() + _REST * (time.monotonic() - began)
    views = views[:: len(views) // _MOST + 1]
    length = _LENGTH * _extent(views)
    for split in COLOURS:
        _lines[split] = frustum_lines(tuple(v for v in views if v.split == split), length)
    return True


def _extent(views: tuple[View, ...]) -> float:
    if len(views) < 2:
        return 10.0
    places = np.stack([view.world_from_camera[:3, 3] for view in views])
    return max(float(np.ptp(places, axis=0).max()), 1e-3)


def _clear() -> None:
    global _key
    _lines.clear()
    _batches.clear()
    _key = None


def _draw() -> None:
    try:
        if not bpy.context.scene.neural_fields.show_rig or not _lines:
            return
        shader = gpu.shader.from_builtin("POLYLINE_UNIFORM_COLOR")
        gpu.state.blend_set("ALPHA")
        gpu.state.depth_test_set("LESS_EQUAL")
        shader.bind()
        shader.uniform_float("viewportSize", gpu.state.viewport_get()[2:])
        shader.uniform_float("lineWidth", _WIDTH)
        for split, points in _lines.items():
            if not len(points):
                continue
            if split not in _batches:
                _batches[split] = batch_for_shader(shader, "LINES", {"pos": points.tolist()})
            shader.uniform_float("color", COLOURS[split])
            _batches[split].draw(shader)
    except Exception as error:  # an error here would come back with every redraw
        print(f"Neural Fields: the rig's preview is not drawn ({error})", flush=True)
        _lines.clear()
    finally:
        gpu.state.depth_test_set("NONE")
        gpu.state.blend_set("NONE")


def _look() -> float:
    try:
        if refresh(bpy.context):
            job.redraw(bpy.context, "VIEW_3D")
    except Exception as error:  # a timer that raises is not called again
        print(f"Neural Fields: the rig's preview has failed ({error})", flush=True)
        _clear()
    return _LOOK


@persistent
def _on_change(scene: bpy.types.Scene, depsgraph: bpy.types.Depsgraph) -> None:
    global _changed
    if not _changed and any(
        update.is_updated_geometry or update.is_updated_transform for update in depsgraph.updates
    ):
        _changed = True


@persistent
def _on_load(*_: object) -> None:
    global _changed
    _clear()
    _changed = True


def register() -> None:
    global _handle
    if bpy.app.background:
        return
    _handle = bpy.types.SpaceView3D.draw_handler_add(_draw, (), "WINDOW", "POST_VIEW")
    bpy.app.handlers.depsgraph_update_post.append(_on_change)
    bpy.app.handlers.load_post.append(_on_load)
    bpy.app.timers.register(_look, first_interval=_LOOK, persistent=True)


def unregister() -> None:
    global _handle
    if _handle is None:
        return
    bpy.app.timers.unregister(_look)
    bpy.app.handlers.load_post.remove(_on_load)
    bpy.app.handlers.depsgraph_update_post.remove(_on_change)
    bpy.types.SpaceView3D.draw_handler_remove(_handle, "WINDOW")
    _handle = None
    _clear()
