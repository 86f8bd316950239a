"""Where the cameras stand, and what they see of the subject."""

from __future__ import annotations

import math

import numpy as np
import pytest

bpy = pytest.importorskip("bpy", reason="needs Blender as a module: pip install bpy")

from neural_fields.neural_backend.config import DatasetSettings, RigSettings  # noqa: E402
from neural_fields.neural_backend.dataset.transforms import View  # noqa: E402
from neural_fields.neural_backend.protocol import BadInput  # noqa: E402
from neural_fields.operators import cameras, geometry, knobs, place, rig  # noqa: E402

GENERATED = ("sphere", "hemisphere", "orbit", "random")


def project(view: View, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """[N, 2] as fractions of the image, and [N] depths."""
    pose, k = view.world_from_camera, view.intrinsics
    x, y, z = (np.linalg.inv(pose) @ np.c_[points, np.ones(len(points))].T)[:3]
    pixels = np.stack([k.cx - k.fl_x * x / z, k.cy + k.fl_y * y / z], axis=1)
    return pixels / [k.w, k.h], -z


def monkey(location=(7.0, -3.0, 2.0), scale=(1.0, 2.0, 0.5)):
    bpy.ops.mesh.primitive_monkey_add(location=location, rotation=(0.3, 0.2, 1.0))
    bpy.context.object.scale = scale
    bpy.context.view_layer.update()
    return bpy.context.object


def points_of(item) -> np.ndarray:
    matrix = np.array(item.matrix_world)
    local = np.array([vertex.co for vertex in item.data.vertices])
    return local @ matrix[:3, :3].T + matrix[:3, 3]


@pytest.mark.parametrize("kind", GENERATED)
@pytest.mark.parametrize("margin", [0.0, 0.1])
@pytest.mark.parametrize("focal_length", [18.0, 85.0])
def test_every_view_frames_the_subject_and_wastes_nothing(
    scene, kind, margin, focal_length
) -> None:
    points = points_of(monkey())
    settings = RigSettings(kind=kind, views=17, margin=margin, focal_length=focal_length)
    views = rig.views_of_rig(bpy.context, settings, DatasetSettings(resolution=100))
    assert len(views) == 17
    for view in views:
        place, depth = project(view, points)
        assert depth.min() > 0
        assert place.min() > margin - 1e-4
        assert place.max() < 1 - margin + 1e-4
        # it reaches from one border to the other, across or up
        assert np.ptp(place, axis=0).max() == pytest.approx(1 - 2 * margin, abs=1e-3)
        assert view.world_from_camera[2, 1] >= 0  # upright
        assert (view.intrinsics.w, view.intrinsics.h) == (100, 100)


@pytest.mark.parametrize("points", [[[0, 0, -5], [0, 0, 5]], [[-5, -5, 0], [5, 5, 0]]])
def test_thin_subjects_are_seen_from_outside(points) -> None:
    points = np.array(points, dtype=float)
    settings = RigSettings(kind="sphere", views=40)
    views = rig.generated_views(points, settings, DatasetSettings())
    assert len(views) == 40
    for view in views:
        place, depth = project(view, points)
        assert depth.min() > 0.3
        assert (np.abs(place - 0.5) < 0.46).all()


def test_fit_worked_by_hand() -> None:
    """A square of side 2 seen face on with 90 degrees is seen whole from a distance of 1."""
    square = np.array([[x, y, 0.0] for x in (-1, 1) for y in (2, 4)])
    position = rig.fit(square, np.eye(3), (0.5, 0.5))
    assert position == pytest.approx([0.0, 3.0, 2.0])


def test_sphere_is_even() -> None:
    directions = rig.directions_of(RigSettings(kind="sphere", views=100))
    assert np.linalg.norm(directions, axis=1) == pytest.approx(np.ones(100))
    assert np.abs(directions.mean(0)).max() < 0.01
    cosines = directions @ directions.T - 2 * np.eye(100)
    nearest = np.arccos(cosines.max(1))
    # 100 caps that share the sphere evenly are about 0.35 radians apart
    assert nearest.min() > 0.25
    assert nearest.max() < 0.45


def test_hemisphere_is_the_upper_half() -> None:
    directions = rig.directions_of(RigSettings(kind="hemisphere", views=50))
    assert directions[:, 2].min() > 0
    assert directions[:, 2].mean() == pytest.approx(0.5, abs=0.01)


def test_orbit_has_rings() -> None:
    settings = RigSettings(
        kind="orbit", views=10, rings=3, lowest=math.radians(-30), highest=math.radians(30)
    )
    directions = rig.directions_of(settings)
    heights, counts = np.unique(directions[:, 2].round(6), return_counts=True)
    assert heights == pytest.approx([-0.5, 0.0, 0.5], abs=1e-6)
    assert counts.sum() == 10
    assert set(counts) <= {3, 4}
    one = rig.directions_of(RigSettings(kind="orbit", views=4, rings=1, lowest=0.0, highest=0.0))
    assert one == pytest.approx(np.array([[1, 0, 0], [0, 1, 0], [-1, 0, 0], [0, -1, 0]]), abs=1e-9)


def test_more_rings_than_views() -> None:
    settings = RigSettings(kind="orbit", views=3, rings=10)
    assert rig.directions_of(settings).shape == (3, 3)


@pytest.mark.parametrize("elevation", [-math.pi / 2, math.pi / 2])
def test_straight_from_above_and_below(elevation) -> None:
    settings = RigSettings(kind="orbit", views=3, rings=1, lowest=elevation, highest=elevation)
    for rotation in rig.axes_of(rig.directions_of(settings)):
        assert np.allclose(rotation.T @ rotation, np.eye(3))
        assert np.linalg.det(rotation) == pytest.approx(1.0)


def test_random_is_seeded() -> None:
    def directions(seed: int) -> np.ndarray:
        return rig.directions_of(RigSettings(kind="random", views=20, seed=seed))

    assert (directions(1) == directions(1)).all()
    assert not np.allclose(directions(1), directions(2))
    assert np.linalg.norm(directions(3), axis=1) == pytest.approx(np.ones(20))


def test_files_and_splits(scene) -> None:
    monkey()
    views = rig.views_of_rig(bpy.context, RigSettings(views=40), DatasetSettings())
    assert [view.file for view in views[:2]] == ["images/0001.png", "images/0002.png"]
    splits = [view.split for view in views]
    assert (splits.count("train"), splits.count("val"), splits.count("test")) == (34, 2, 4)


def test_a_ground_plane_spoils_nothing(scene) -> None:
    item = monkey()
    alone = rig.views_of_rig(bpy.context, RigSettings(views=5), DatasetSettings())
    bpy.ops.mesh.primitive_plane_add(size=500.0)
    for item in scene.objects:
        item.select_set(item.type == "MESH" and item.name != "Plane")
    for subject in ("scene", "selection"):
        settings = RigSettings(views=5, subject=subject)
        views = rig.views_of_rig(bpy.context, settings, DatasetSettings())
        for view, expected in zip(views, alone, strict=True):
            assert np.allclose(view.world_from_camera, expected.world_from_camera)


def animated_camera(scene, frames=((1, 0.0), (11, 10.0)), name="Camera"):
    data = bpy.data.cameras.new(name)
    camera = bpy.data.objects.new(name, data)
    scene.collection.objects.link(camera)
    for frame, x in frames:
        camera.location = x, -8.0, 0.0
        camera.keyframe_insert("location", frame=frame)
        data.lens = 20.0 + 4.0 * x
        data.keyframe_insert("lens", frame=frame)
    camera.rotation_euler.x = math.pi / 2
    scene.camera = camera
    scene.frame_start, scene.frame_end = 1, 11
    return camera


def test_camera_path(scene) -> None:
    monkey()
    camera = animated_camera(scene)
    scene.frame_set(3)
    scene.render.resolution_x, scene.render.resolution_y = 1920, 1080
    scene.render.resolution_percentage = 50
    scene.frame_step = 7
    settings = RigSettings(kind="camera_path", frame_step=5)
    views = rig.views_of_rig(bpy.context, settings, DatasetSettings(resolution=160))
    assert [round(view.world_from_camera[0, 3], 4) for view in views] == [0.0, 5.0, 10.0]
    focal = [view.intrinsics.fl_x for view in views]
    assert focal == pytest.approx([160 * lens / 36 for lens in (20.0, 40.0, 60.0)])
    assert (views[0].intrinsics.w, views[0].intrinsics.h) == (160, 90)
    assert scene.frame_current == 3
    assert camera.location.x == pytest.approx(1.04)


def path_views(steps: list | None = None):
    """The views of the camera's path; ``steps`` gets what is shown meanwhile."""
    looking = rig.camera_path_steps(place.place_of(bpy.context), DatasetSettings())
    while True:
        try:
            status = next(looking)
        except StopIteration as end:
            return end.value
        if steps is not None:
            steps.append(status)


def test_a_long_path_pauses(scene, monkeypatch) -> None:
    camera = animated_camera(scene)
    expected = path_views()
    scene.frame_set(3)
    camera.location.z = 1.25
    monkeypatch.setattr(rig, "_PAUSE_AFTER", -1.0)
    steps: list = []
    seen = path_views(steps)
    assert [status.text.split(": ")[1] for status in steps[:2]] == ["1 of 11", "2 of 11"]
    assert len(steps) == 10
    assert len(seen) == len(expected) == 11
    for view, other in zip(seen, expected, strict=True):
        assert view.file == other.file
        assert view.world_from_camera[0, 3] == other.world_from_camera[0, 3]
    assert (scene.frame_current, camera.location.z) == (3, 1.25)


def test_looking_along_a_path_moves_nothing(scene) -> None:
    camera = animated_camera(scene)
    scene.frame_set(3)
    camera.location.z = 1.25  # by hand, without a key: a change of the frame would undo it
    assert len(path_views()) == 11
    assert rig.camera_is_animated(scene)
    assert camera.location.z == 1.25
    assert scene.frame_current == 3


def test_camera_path_follows_the_markers(scene) -> None:
    monkey()
    animated_camera(scene)
    other = animated_camera(scene, ((1, 100.0), (2, 100.0)), "Other")
    scene.camera = scene.objects["Camera"]
    scene.timeline_markers.new("first", frame=1).camera = scene.objects["Camera"]
    scene.timeline_markers.new("cut", frame=6).camera = other
    views = path_views()[::5]
    assert [round(view.world_from_camera[0, 3]) for view in views] == [0, 100, 100]
    assert [view.file for view in views] == ["0001.png", "0006.png", "0011.png"]
    assert scene.camera is scene.objects["Camera"]
    assert rig.camera_is_animated(scene)


def test_camera_is_animated(scene) -> None:
    assert not rig.camera_is_animated(scene)
    camera = animated_camera(scene)
    assert rig.camera_is_animated(scene)
    scene.frame_end = 1
    assert not rig.camera_is_animated(scene)
    scene.frame_end = 11
    camera.animation_data_clear()
    assert rig.camera_is_animated(scene)  # the lens still is
    camera.data.animation_data_clear()
    assert not rig.camera_is_animated(scene)
    parent = bpy.data.objects.new("parent", None)
    scene.collection.objects.link(parent)
    camera.parent = parent
    parent.keyframe_insert("location", frame=1)
    assert not rig.camera_is_animated(scene)  # a key, but no motion
    parent.location.x = 3.0
    parent.keyframe_insert("location", frame=9)
    assert rig.camera_is_animated(scene)


def test_a_camera_that_follows_a_path_is_animated(scene) -> None:
    bpy.ops.curve.primitive_bezier_circle_add(radius=5.0)
    path = bpy.context.object
    path.data.path_duration = 10
    path.data.eval_time = 0.0
    path.data.keyframe_insert("eval_time", frame=1)
    path.data.eval_time = 10.0
    path.data.keyframe_insert("eval_time", frame=11)
    camera = animated_camera(scene)
    camera.animation_data_clear()
    camera.data.animation_data_clear()
    camera.constraints.new("FOLLOW_PATH").target = path
    assert rig.camera_is_animated(scene)


def test_scene_cameras(scene) -> None:
    monkey()
    folder = bpy.data.collections.new("folder")
    scene.collection.children.link(folder)
    for number in (10, 2):
        camera = bpy.data.objects.new(f"Camera.{number}", bpy.data.cameras.new("camera"))
        camera.location.x = number
        folder.objects.link(camera)
    alone = bpy.data.objects.new("Alone", bpy.data.cameras.new("camera"))
    scene.collection.objects.link(alone)
    settings, dataset = RigSettings(kind="cameras"), DatasetSettings()
    everywhere = rig.views_of_rig(bpy.context, settings, dataset)
    assert [view.world_from_camera[0, 3] for view in everywhere] == [0.0, 2.0, 10.0]
    inside = rig.views_of_rig(bpy.context, settings, dataset, folder)
    assert [view.world_from_camera[0, 3] for view in inside] == [2.0, 10.0]
    alone.data.type = "ORTHO"
    with pytest.raises(BadInput, match="Alone is orthographic"):
        rig.views_of_rig(bpy.context, settings, dataset)


def test_rigs_without_a_camera(scene) -> None:
    monkey()
    for kind in ("cameras", "camera_path"):
        with pytest.raises(BadInput, match="no camera: add one"):
            rig.views_of_rig(bpy.context, RigSettings(kind=kind), DatasetSettings())
    animated_camera(scene).animation_data_clear()
    scene.camera.data.animation_data_clear()
    with pytest.raises(BadInput, match="stands still"):
        rig.views_of_rig(bpy.context, RigSettings(kind="camera_path"), DatasetSettings())


@pytest.mark.parametrize("kind", ["sphere", "cameras"])
def test_rigs_with_nothing_to_render(scene, kind) -> None:
    animated_camera(scene)
    with pytest.raises(BadInput, match="nothing to render"):
        rig.views_of_rig(bpy.context, RigSettings(kind=kind), DatasetSettings())


def test_orbit_of_a_sequence(scene) -> None:
    points = points_of(monkey())
    views = rig.orbit_views(bpy.context, RigSettings(), DatasetSettings(resolution=80), 12)
    assert [view.file for view in views[:2]] == ["0001.png", "0002.png"]
    centre = (points.min(0) + points.max(0)) / 2
    places = np.stack([view.world_from_camera[:3, 3] for view in views])
    distances = np.linalg.norm(places - centre, axis=1)
    assert np.ptp(distances) < 1e-4
    assert np.ptp(places[:, 2]) < 1e-9
    filled = 0.0
    for view in views:
        place, _ = project(view, points)
        assert np.abs(place - 0.5).max() < 0.4501
        filled = max(filled, np.abs(place - 0.5).max())
    assert filled == pytest.approx(0.45, abs=1e-3)


def test_a_preview_shows_the_rig_that_is_exported(scene) -> None:
    monkey()
    animated_camera(scene)
    for kind in (*GENERATED, "cameras"):
        settings = RigSettings(kind=kind, views=7)
        shown = rig.preview_views(bpy.context, settings, DatasetSettings())
        made = rig.views_of_rig(bpy.context, settings, DatasetSettings())
        assert len(shown) == len(made)
        for one, other in zip(shown, made, strict=True):
            assert np.allclose(one.world_from_camera, other.world_from_camera, atol=1e-5)
            assert one.split == other.split
    scene.frame_end = 500
    path = RigSettings(kind="camera_path")
    assert 2 < len(rig.preview_views(bpy.context, path, DatasetSettings())) <= 30


@pytest.mark.parametrize("size", [(1920, 1080), (720, 1280)])
def test_cameras_made_from_a_rig_see_what_it_sees(scene, size) -> None:
    points = points_of(monkey())
    scene.render.resolution_x, scene.render.resolution_y = size
    scene.neural_fields.rig.views = 6
    for _ in range(2):  # the second time they are replaced
        assert bpy.ops.neural_fields.create_rig() == {"FINISHED"}
    made = scene.neural_fields.rig.collection
    assert len(made.all_objects) == 6
    assert len(bpy.data.cameras) == 6
    scene.neural_fields.rig.kind = "cameras"
    settings = knobs.settings_of(scene)
    views = rig.views_of_rig(bpy.context, settings.rig, settings.dataset, settings.collection)
    assert (views[0].intrinsics.w > views[0].intrinsics.h) == (size[0] > size[1])
    for view in views:
        place, _ = project(view, points)
        assert np.abs(place - 0.5).max() < 0.5
        shorter = 1 if size[0] > size[1] else 0
        assert np.ptp(place[:, shorter]) > 0.3
    with pytest.raises(RuntimeError, match="already"):
        bpy.ops.neural_fields.create_rig()


def test_clip_range_holds_the_scene(scene) -> None:
    monkey(location=(0.0, 0.0, 0.0), scale=(0.001, 0.001, 0.001))
    bpy.ops.mesh.primitive_cube_add(location=(0.0, 3000.0, 0.0))
    bpy.ops.object.select_all(action="DESELECT")
    scene.objects["Suzanne"].select_set(True)
    settings = RigSettings(views=5, subject="selection")
    with rig.Scratch(scene, bpy.context.view_layer) as scratch:
        plan = rig.plan(scratch, settings, DatasetSettings(), None)
    assert plan.hidden == {"Cube"}
    assert np.ptp(plan.bounds, axis=0).max() < 0.01
    for shot in plan.shots:
        distance = np.linalg.norm(shot.view.world_from_camera[:3, 3])
        assert 0.0 < shot.clip[0] < 0.5 * distance
        assert shot.clip[1] > 3000.0


def test_selection_and_mode_stay(scene) -> None:
    item = monkey()
    bpy.ops.object.mode_set(mode="EDIT")
    rig.views_of_rig(bpy.context, RigSettings(views=3), DatasetSettings())
    assert bpy.context.mode == "EDIT_MESH"
    bpy.ops.object.mode_set(mode="OBJECT")
    assert bpy.context.object == item
    assert item.select_get()


def test_size_of_views(scene) -> None:
    scene.render.resolution_x, scene.render.resolution_y = 1000, 3
    assert cameras.size_of(scene.render, 100) == (100, 4)
    scene.render.resolution_x, scene.render.resolution_y = 1080, 1920
    assert cameras.size_of(scene.render, 400) == (225, 400)
    assert geometry.fibonacci(3).shape == (3, 3)
