"""Rigs: where the cameras of the views stand."""

from __future__ import annotations

import dataclasses
import math
import re
import time
from collections.abc import Iterable
from typing import Any

import bpy
import numpy as np
from bpy.app.translations import pgettext_iface as iface
from bpy.app.translations import pgettext_rpt as rpt
from mathutils import Matrix

from ..neural_backend.config import DatasetSettings, RigSettings
from ..neural_backend.dataset import transforms
from ..neural_backend.dataset.transforms import Intrinsics, View
from ..neural_backend.protocol import BadInput
from . import cameras, geometry, knobs
from .geometry import Points
from .job import Status, Steps
from .place import Place
from .scratch import Scratch

GENERATED = ("sphere", "hemisphere", "orbit", "random")
"""Kinds of rigs that fit themselves to the subject."""

COLLECTION = "Neural Fields Rig"
MARK = "neural_fields_rig"

_FRAMES_TO_LOOK_AT = 9
_FRAMES_SHOWN = 30
_PAUSE_AFTER = 0.5
_TIGHT = 30_000_000
_NEAR, _FAR = 0.1, 100.0
_CLOSEST = 0.05


@dataclasses.dataclass(frozen=True)
class Shot:
    """A view and how near and far its camera sees, scene units."""

    view: View
    clip: tuple[float, float]


@dataclasses.dataclass(frozen=True)
class Plan:
    """What an export renders.

    Attributes:
        shots: one a view.
        bounds: [2, 3] lowest and highest corner of the subject, world space.
        survey: of the whole scene.
        left_out: flat objects too large to be framed.
        hidden: objects that are no part of the subject.
    """

    shots: tuple[Shot, ...]
    bounds: Points
    survey: geometry.Survey
    left_out: tuple[str, ...]
    hidden: frozenset[str]

    @property
    def views(self) -> tuple[View, ...]:
        return tuple(shot.view for shot in self.shots)


def views_of_rig(
    context: bpy.types.Context,
    rig: RigSettings,
    dataset: DatasetSettings,
    collection: bpy.types.Collection | None = None,
) -> tuple[View, ...]:
    """The views of a rig, fitted to what a render of the scene shows.

    Args:
        collection: the subject (``subject`` is ``collection``), or whose cameras are used
            (``kind`` is ``cameras``; None takes all of the scene).

    Raises:
        BadInput: when nothing renders, there is no camera, or a camera is not perspective.
    """
    with Scratch(context.scene, context.view_layer) as scratch:
        return plan(scratch, rig, dataset, collection).views


def plan(
    scratch: Scratch,
    rig: RigSettings,
    dataset: DatasetSettings,
    collection: bpy.types.Collection | None,
    path: tuple[Shot, ...] = (),
) -> Plan:
    """Look at the scene and place the rig's cameras; raises as ``views_of_rig`` does.

    Args:
        path: of a camera path, its views where they are known (``path_steps``).
    """
    shots: tuple[Shot, ...] = ()
    generated = rig.kind in GENERATED
    if rig.kind == "camera_path":
        shots = path or _path_shots(scratch, path_frames(scratch.source, rig.frame_step), dataset)
        _require_motion(scratch.source, shots)
    elif not generated:
        # evaluated as it stands: the scene need not be in any window
        scratch.source_layer.update()
        depsgraph = scratch.source_layer.depsgraph
        shots = _camera_shots(scratch.source, depsgraph, dataset, collection)
    subject = rig.subject if generated else "scene"
    names = geometry.names_of(subject, collection, scratch.source_layer)

    def look(depsgraph: bpy.types.Depsgraph) -> geometry.Survey:
        require_no_simulation(depsgraph)
        return geometry.survey(depsgraph, names)

    found = geometry.evaluated(scratch, look)
    pieces = found.subject()
    left_out: tuple[str, ...] = ()
    if subject == "scene":
        pieces, left_out = geometry.without_enormous(pieces)
    bounds = geometry.bounds_of_pieces(pieces)
    if generated:
        points = np.concatenate([piece.points for piece in pieces])
        everything = geometry.bounds_of_pieces(found.pieces)
        shots = _generated_shots(points, everything, rig, dataset)
    views = with_files([shot.view for shot in shots], rig, dataset)
    shots = tuple(
        dataclasses.replace(shot, view=view) for shot, view in zip(shots, views, strict=True)
    )
    kept = {piece.name for piece in pieces}
    hidden = frozenset(piece.name for piece in found.pieces if piece.name not in kept)
    return Plan(shots, bounds, found, left_out, hidden)


def preview_views(
    context: bpy.types.Context,
    rig: RigSettings,
    dataset: DatasetSettings,
    collection: bpy.types.Collection | None = None,
) -> tuple[View, ...]:
    """Like ``views_of_rig``, fitted to what the viewport shows: cheap, and changes nothing.

    Of a camera path only some frames are evaluated.
    """
    if rig.kind == "cameras":
        depsgraph = context.evaluated_depsgraph_get()
        shots = _camera_shots(context.scene, depsgraph, dataset, collection)
        return with_files([shot.view for shot in shots], rig, dataset)
    if rig.kind == "camera_path":
        frames = path_frames(context.scene, rig.frame_step)
        shown = frames[:: len(frames) // _FRAMES_SHOWN + 1]
        with Scratch(context.scene, context.view_layer) as scratch:
            return with_files(
                [shot.view for shot in _path_shots(scratch, shown, dataset)], rig, dataset
            )
    names = geometry.names_of(rig.subject, collection, context.view_layer)
    pieces = geometry.survey(context.evaluated_depsgraph_get(), names).subject()
    if rig.subject == "scene":
        pieces, _ = geometry.without_enormous(pieces)
    points = np.concatenate([piece.points for piece in pieces])
    return with_files(generated_views(points, rig, dataset), rig, dataset)


def require_no_simulation(depsgraph: bpy.types.Depsgraph) -> None:
    """Rigid bodies are simulated in the person's own scene only; elsewhere they have not moved.

    Raises:
        BadInput: one has moved.
    """
    for instance in depsgraph.object_instances:
        item = instance.object.original
        if instance.is_instance or item.rigid_body is None:
            continue
        moved = np.array(instance.matrix_world) - np.array(item.matrix_world)
        if np.abs(moved).max() > 1e-4 * (1.0 + np.abs(np.array(item.matrix_world)).max()):
            raise BadInput(
                f"{item.name} is moved by a rigid body simulation: bake it (Object > Rigid Body > "
                "Bake To Keyframes) or go to its first frame"
            )


def with_files(
    views: Iterable[View], rig: RigSettings, dataset: DatasetSettings
) -> tuple[View, ...]:
    """Name the views' files and divide them into train, validation and test."""
    listed = list(views)
    passes = dataset.passes == "on"
    return tuple(
        dataclasses.replace(
            view,
            file=f"{transforms.IMAGES}/{index + 1:04d}.{dataset.format}",
            depth=f"{transforms.DEPTH}/{index + 1:04d}.exr" if passes else None,
            normal=f"{transforms.NORMAL}/{index + 1:04d}.exr" if passes else None,
            split=transforms.split_of(index, len(listed), rig.validation, rig.test),
        )
        for index, view in enumerate(listed)
    )


# --- generated rigs -------------------------------------------------------------------------------


def directions_of(rig: RigSettings) -> Points:
    """[V, 3] unit vectors from the subject to the cameras of a generated rig."""
    if rig.kind == "sphere":
        return geometry.fibonacci(rig.views)
    if rig.kind == "hemisphere":
        return geometry.fibonacci(rig.views, lowest=0.0)
    if rig.kind == "random":
        normal = np.random.default_rng(rig.seed).normal(size=(rig.views, 3))
        return normal / np.linalg.norm(normal, axis=1, keepdims=True)
    lowest, highest = sorted((rig.lowest, rig.highest))
    if rig.rings == 1:
        elevations = np.array([(lowest + highest) / 2])
    else:
        elevations = np.linspace(lowest, highest, rig.rings)
    rings = []
    for number, elevation in enumerate(elevations):
        count = rig.views * (number + 1) // rig.rings - rig.views * number // rig.rings
        # every other ring is turned by half a step, so that views do not stand in columns
        turn = (np.arange(count) + 0.5 * (number % 2)) * 2.0 * np.pi / max(count, 1)
        flat = math.cos(elevation)
        height = np.full(count, math.sin(elevation))
        rings.append(np.stack([flat * np.cos(turn), flat * np.sin(turn), height], axis=1))
    return np.concatenate(rings)


def axes_of(directions: Points) -> Points:
    """[V, 3, 3] rotations world_from_camera that look against ``directions`` [V, 3], Z up."""
    back = directions
    up = np.where(np.abs(back[:, 2:]) > 1.0 - 1e-9, [0.0, 1.0, 0.0], [0.0, 0.0, 1.0])
    right = np.cross(up, back)
    right /= np.linalg.norm(right, axis=1, keepdims=True)
    return np.stack([right, np.cross(back, right), back], axis=2)


def fit(points: Points, rotation: Points, tangents: tuple[float, float]) -> Points:
    """[3] the nearest position from which a camera sees all points.

    A perspective frame's four sides are planes. For each axis of the image, the two planes that
    touch the points meet in a line, and the position lies on the one further back; across, it lies
    in the middle of what the nearer line leaves free. So the points touch two opposite sides of
    the frame.

    Args:
        points: [N, 3] world space.
        rotation: [3, 3] world_from_camera.
        tangents: of half the angles of view, horizontal and vertical.
    """
    local = points @ rotation
    position = np.zeros(3)
    ends = []
    for axis, tangent in enumerate(tangents):
        # x + t z is the same all along one side plane of the frame, x - t z along the other
        high = (local[:, axis] + tangent * local[:, 2]).max()
        low = (local[:, axis] - tangent * local[:, 2]).min()
        position[axis] = (high + low) / 2
        ends.append((high - low) / (2 * tangent))
    # and never right at the tip of what is long and thin and seen end-on
    low, high = local.min(0), local.max(0)
    position[2] = max(*ends, high[2] + _CLOSEST * np.linalg.norm(high - low))
    return rotation @ position


def square(rig: RigSettings, resolution: int) -> Intrinsics:
    """The lens of a generated rig."""
    size = max(resolution, cameras.SMALLEST_SIDE)
    return cameras.pinhole(
        lens=rig.focal_length,
        sensor_width=36.0,
        sensor_height=36.0,
        sensor_fit="HORIZONTAL",
        shift=(0.0, 0.0),
        width=size,
        height=size,
    )


def generated_views(points: Points, rig: RigSettings, dataset: DatasetSettings) -> list[View]:
    """The views of a generated rig, each as near as frames all points [N, 3] with the margin."""
    intrinsics = square(rig, dataset.resolution)
    tangent = _tangent(intrinsics, rig.margin)
    directions = directions_of(rig)
    if len(points) * len(directions) > _TIGHT:
        points = geometry.support_of(points)
    views = []
    for rotation in axes_of(directions):
        position = fit(points, rotation, (tangent, tangent))
        views.append(View("", _pose(rotation, position), intrinsics))
    return views


def _generated_shots(
    points: Points, everything: Points, rig: RigSettings, dataset: DatasetSettings
) -> tuple[Shot, ...]:
    shots = []
    corners = corners_of(everything)
    for view in generated_views(points, rig, dataset):
        pose = view.world_from_camera
        depths = (pose[:3, 3] - points) @ pose[:3, 2]
        furthest = max(depths.max(), np.linalg.norm(corners - pose[:3, 3], axis=1).max())
        nearest = max(float(depths.min()), 1e-4 * float(depths.max()))
        shots.append(Shot(view, (_NEAR * nearest, _FAR * float(furthest))))
    return tuple(shots)


def _tangent(intrinsics: Intrinsics, margin: float) -> float:
    return (1.0 - 2.0 * margin) * 0.5 * intrinsics.w / intrinsics.fl_x


def _pose(rotation: Points, position: Points) -> Points:
    pose = np.eye(4)
    pose[:3, :3], pose[:3, 3] = rotation, position
    return pose


def corners_of(bounds: Points) -> Points:
    """[8, 3] the corners of a box [2, 3]."""
    return np.array([[bounds[i, 0], bounds[j, 1], bounds[k, 2]] for i, j, k in np.ndindex(2, 2, 2)])


def orbit_views(
    context: bpy.types.Context | Place,
    rig: RigSettings,
    dataset: DatasetSettings,
    frames: int,
    collection: bpy.types.Collection | None = None,
) -> tuple[View, ...]:
    """Views once around what the rig frames, on one ring at one distance, for a sequence.

    Raises:
        BadInput: when nothing renders.
    """
    subject = rig.subject if rig.kind in GENERATED else "scene"
    names = geometry.names_of(subject, collection, context.view_layer)
    with Scratch(context.scene, context.view_layer) as scratch:
        found = geometry.evaluated(scratch, lambda depsgraph: geometry.survey(depsgraph, names))
    pieces = found.subject()
    if subject == "scene":
        pieces, _ = geometry.without_enormous(pieces)
    points = np.concatenate([piece.points for piece in pieces])
    return ring_views(points, geometry.bounds_of_pieces(pieces), rig, dataset, frames)


def ring_views(
    points: Points, bounds: Points, rig: RigSettings, dataset: DatasetSettings, frames: int
) -> tuple[View, ...]:
    """One ring around the middle of ``bounds``, at the one distance that always frames all points.

    It stands half way between the orbit's lowest and highest elevation.
    """
    ring = dataclasses.replace(rig, kind="orbit", rings=1, views=frames)
    intrinsics = square(rig, dataset.resolution)
    tangent = _tangent(intrinsics, rig.margin)
    rotations = axes_of(directions_of(ring))
    from_centre = geometry.support_of(points) - bounds.mean(0)
    distance = 0.0
    for rotation in rotations:
        local = from_centre @ rotation
        across = np.abs(local[:, :2]).max(1)
        distance = max(distance, float((across / tangent + local[:, 2]).max()))
    return tuple(
        View(
            f"{index + 1:04d}.png",
            _pose(rotation, bounds.mean(0) + distance * rotation[:, 2]),
            intrinsics,
        )
        for index, rotation in enumerate(rotations)
    )


# --- rigs of the person's own cameras -------------------------------------------------------------


def camera_at(scene: bpy.types.Scene, frame: int) -> bpy.types.Object | None:
    """The active camera at a frame: markers in the timeline may switch between cameras."""
    bound = [
        marker
        for marker in scene.timeline_markers
        if marker.camera is not None and not marker.camera.hide_render
    ]
    if not bound:
        return scene.camera
    before = [marker for marker in bound if marker.frame <= frame]
    if before:
        return max(before, key=lambda marker: marker.frame).camera
    return min(bound, key=lambda marker: marker.frame).camera


def path_frames(scene: bpy.types.Scene, step: int = 1) -> range:
    """Every ``step``-th frame of a scene's range."""
    return range(scene.frame_start, scene.frame_end + 1, step)


def path_steps(place: Place, frames: range, dataset: DatasetSettings) -> Steps[tuple[Shot, ...]]:
    """The active camera's shots at some frames, with a step of a job now and then.

    Raises:
        BadInput: when there is no camera, or it is not a perspective one.
    """
    shots: tuple[Shot, ...] = ()
    while True:
        with Scratch(place.scene, place.view_layer) as scratch:
            shots += _path_shots(scratch, frames[len(shots) :], dataset, _PAUSE_AFTER)
        if len(shots) == len(frames):
            return shots
        text = iface("Looking along the camera's path: {number} of {count}")
        text = text.format(number=len(shots), count=len(frames))
        yield Status(text, len(shots) / len(frames))


def camera_path_steps(place: Place, dataset: DatasetSettings) -> Steps[tuple[View, ...]]:
    """The active camera's views over the scene's frame range, for a sequence.

    Raises:
        BadInput: see ``path_steps``.
    """
    frames = path_frames(place.scene)
    shots = yield from path_steps(place, frames, dataset)
    return tuple(
        dataclasses.replace(shot.view, file=f"{frame:04d}.png")
        for frame, shot in zip(frames, shots, strict=True)
    )


def camera_is_animated(scene: bpy.types.Scene) -> bool:
    """Whether the active camera moves, or its lens does, within the scene's frame range.

    Evaluates a few frames when the camera depends on anything animated: not for drawing code.
    """
    frames = range(scene.frame_start, scene.frame_end + 1)
    step = max((len(frames) - 1) // (_FRAMES_TO_LOOK_AT - 1), 1)
    cameras_there = {camera_at(scene, frame) for frame in (*frames[::step], scene.frame_end)}
    if None in cameras_there or not frames:
        return False
    if len(cameras_there) == 1 and not _may_move(cameras_there.pop(), set()):
        return False
    with Scratch(scene, scene.view_layers[0]) as scratch:
        try:
            shots = _path_shots(scratch, frames[::step], DatasetSettings())
        except BadInput:
            return False
    return _moves(shots)


def _may_move(item: Any, seen: set[Any]) -> bool:
    """Whether an object, or anything that it follows, has an animation, a driver or physics."""
    if item is None or item in seen:
        return False
    seen.add(item)
    for block in (item, item.data):
        animation = getattr(block, "animation_data", None)
        if animation and (animation.action or animation.drivers or animation.nla_tracks):
            return True
    if item.rigid_body is not None or (item.type != "CAMERA" and len(item.modifiers)):
        return True
    followed = [item.parent]
    for constraint in item.constraints:
        if getattr(constraint, "use_cache", False) or constraint.type in (
            "CAMERA_SOLVER",
            "FOLLOW_TRACK",
            "TRANSFORM_CACHE",
        ):
            return True
        followed += [getattr(constraint, "target", None)]
        followed += [entry.target for entry in getattr(constraint, "targets", ())]
    return any(_may_move(other, seen) for other in followed)


def _moves(shots: tuple[Shot, ...]) -> bool:
    first = shots[0].view
    return any(
        shot.view.intrinsics != first.intrinsics
        or not np.allclose(shot.view.world_from_camera, first.world_from_camera, atol=1e-6)
        for shot in shots
    )


def _require_motion(scene: bpy.types.Scene, shots: tuple[Shot, ...]) -> None:
    if not _moves(shots):
        raise BadInput(
            f"the active camera stands still from frame {scene.frame_start} to {scene.frame_end}: "
            "animate it, or choose another rig"
        )


def _path_shots(
    scratch: Scratch, frames: range, dataset: DatasetSettings, seconds: float = math.inf
) -> tuple[Shot, ...]:
    """The active camera at some frames; the person's scene stays at its own frame.

    When it takes longer than ``seconds``, only the first of them.
    """
    if not frames:
        raise BadInput("the scene's frame range is empty: set its end after its start")
    shots = []
    scene = scratch.scene
    until = time.monotonic() + seconds
    before = scene.frame_current, scene.frame_subframe
    try:
        for frame in frames:
            camera = camera_at(scratch.source, frame)
            if camera is None:
                raise BadInput("the scene has no camera: add one, or choose another rig")
            scene.frame_set(frame)
            shots.append(_shot(camera, scratch.view_layer.depsgraph, scene.render, dataset))
            if time.monotonic() > until:
                break
    finally:
        scene.frame_set(before[0], subframe=before[1])
    return tuple(shots)


def _camera_shots(
    scene: bpy.types.Scene,
    depsgraph: bpy.types.Depsgraph,
    dataset: DatasetSettings,
    collection: bpy.types.Collection | None,
) -> tuple[Shot, ...]:
    """All cameras of the scene, or of a collection, where they stand now."""
    where = scene.objects if collection is None else collection.all_objects
    found = [item for item in where if item.type == "CAMERA"]
    if not found:
        place = "the scene" if collection is None else f"the collection {collection.name}"
        raise BadInput(f"{place} has no camera: add one, or choose another rig")
    return tuple(
        _shot(camera, depsgraph, scene.render, dataset)
        for camera in sorted(found, key=lambda item: _natural(item.name))
    )


def _natural(name: str) -> list[tuple[int, str]]:
    """A key that sorts Camera.2 before Camera.10."""
    return [(int(part) if part.isdigit() else -1, part) for part in re.split(r"(\d+)", name)]


def _shot(
    camera: bpy.types.Object,
    depsgraph: bpy.types.Depsgraph,
    render: bpy.types.RenderSettings,
    dataset: DatasetSettings,
) -> Shot:
    seen = camera.evaluated_get(depsgraph)
    if seen.type != "CAMERA":
        raise BadInput(f"the active camera {camera.name} is no camera: choose a camera object")
    data: Any = seen.data
    cameras.require_perspective(data, camera.name)
    width, height = cameras.size_of(render, dataset.resolution)
    intrinsics = cameras.intrinsics_of(data, width, height, cameras.pixel_aspect_of(render))
    view = View("", cameras.world_from_camera(seen.matrix_world), intrinsics)
    return Shot(view, (seen.data.clip_start, seen.data.clip_end))


# --- real cameras ---------------------------------------------------------------------------------


def create_cameras(
    scene: bpy.types.Scene, views: Iterable[View], clips: Iterable[tuple[float, float]]
) -> bpy.types.Collection:
    """Make one camera object a view, in a collection of the scene; an earlier rig's are replaced.

    Through the scene's render, which need not be square, each sees all that its view does.
    """
    collection = next((item for item in bpy.data.collections if item.get(MARK) == scene.name), None)
    if collection is None:
        collection = bpy.data.collections.new(COLLECTION)
        collection[MARK] = scene.name
    if collection.name not in scene.collection.children:
        scene.collection.children.link(collection)
    for item in [item for item in collection.objects if item.get(MARK) is not None]:
        data: Any = item.data
        bpy.data.objects.remove(item)
        if data.users == 0:
            bpy.data.cameras.remove(data)
    wide = scene.render.resolution_x >= (
        scene.render.resolution_y * cameras.pixel_aspect_of(scene.render)
    )
    for index, (view, clip) in enumerate(zip(views, clips, strict=True)):
        name = f"View.{index + 1:04d}"
        camera = bpy.data.cameras.new(name)
        cameras.set_lens(camera, view.intrinsics)
        if view.intrinsics.centred_square and view.intrinsics.w == view.intrinsics.h and wide:
            camera.sensor_fit, camera.sensor_height = "VERTICAL", camera.sensor_width
        camera.clip_start, camera.clip_end = clip
        item = bpy.data.objects.new(name, camera)
        item[MARK] = scene.name
        item.matrix_world = Matrix(view.world_from_camera.tolist())
        collection.objects.link(item)
    return collection


class NEURAL_FIELDS_OT_create_rig(bpy.types.Operator):
    """Turn the rig into camera objects that can be moved; Rig: Scene Cameras renders from them"""

    bl_idname = "neural_fields.create_rig"
    bl_label = "Create Cameras"
    bl_options = {"REGISTER", "UNDO"}

    def execute(self, context: bpy.types.Context) -> set[Any]:
        scene = context.scene
        try:
            settings = knobs.settings_of(scene)
            if settings.rig.kind == "cameras":
                raise BadInput("the rig is made of camera objects already: choose another kind")
            with Scratch(scene, context.view_layer) as scratch:
                made = plan(scratch, settings.rig, settings.dataset, settings.collection)
        except BadInput as error:
            self.report({"ERROR"}, str(error))
            return {"CANCELLED"}
        collection = create_cameras(scene, made.views, [shot.clip for shot in made.shots])
        if settings.rig.subject != "collection":
            scene.neural_fields.rig.collection = collection
        said = rpt(
            "{count} cameras in the collection {name}: choose Rig: Scene Cameras to render from "
            "them"
        )
        self.report({"INFO"}, said.format(count=len(made.shots), name=collection.name))
        return {"FINISHED"}


CLASSES = (NEURAL_FIELDS_OT_create_rig,)
