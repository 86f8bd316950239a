"""The eye of a viewport: the same points in the same pixels as Blender's own matrices say."""

from __future__ import annotations

from types import SimpleNamespace

import bpy
import numpy as np
import pytest
from mathutils import Matrix
from neural_fields.operators import cameras, eye

SIZE = (640, 480)
FIELD_FROM_WORLD = np.diag([0.2, 0.2, 0.2, 1.0])
FIELD_FROM_WORLD[:3, 3] = [0.4, 0.5, 0.3]
POINTS = np.random.default_rng(0).uniform(0.05, 0.95, (40, 3))
"""In the field's box."""


def world_points() -> np.ndarray:
    world_from_field = np.linalg.inv(FIELD_FROM_WORLD)
    return POINTS @ world_from_field[:3, :3].T + world_from_field[:3, 3]


def by_blender(projection, view_matrix, region) -> np.ndarray:
    """[N, 2] where points are shown, pixels from the region's lower left corner."""
    points = np.c_[world_points(), np.ones(len(POINTS))]
    clip = points @ np.array(view_matrix).T @ np.array(projection).T
    return (clip[:, :2] / clip[:, 3:] + 1.0) / 2.0 * np.array(region)


def by_eye(found: eye.Eye) -> np.ndarray:
    view = found.view("it")
    pose = np.linalg.inv(view.world_from_camera)
    local = world_points() @ pose[:3, :3].T + pose[:3, 3]
    lens = view.intrinsics
    x = lens.cx - lens.fl_x * local[:, 0] / local[:, 2]
    y = lens.cy + lens.fl_y * local[:, 1] / local[:, 2]
    left, bottom, width, height = found.rectangle
    return np.stack([left + x / lens.w * width, bottom + (1.0 - y / lens.h) * height], 1)


def viewport() -> tuple[bpy.types.SpaceView3D, bpy.types.RegionView3D, tuple[int, int]]:
    window = bpy.context.window_manager.windows[0]
    area = next(area for area in window.screen.areas if area.type == "VIEW_3D")
    region = next(region for region in area.regions if region.type == "WINDOW")
    space = area.spaces.active
    return space, space.region_3d, (region.width, region.height)


def test_a_view_of_one_s_own(start_scene) -> None:
    space, data, region = viewport()
    assert data.view_perspective == "PERSP"
    found = eye.of_viewport(start_scene, space, data, region, FIELD_FROM_WORLD)
    assert found.rectangle == (0.0, 0.0, *map(float, region))
    expected = by_blender(data.window_matrix, data.view_matrix, region)
    assert np.abs(by_eye(found) - expected).max() < 1e-2


def orthographic(across: float, up: float, scale: float) -> Matrix:
    projection = Matrix.Identity(4)
    projection[0][0], projection[1][1], projection[2][2] = scale, scale * 4 / 3, -0.01
    projection[0][3], projection[1][3] = across, up
    return projection


def test_an_orthographic_view_is_seen_from_far_away(start_scene) -> None:
    space, data, _ = viewport()
    projection = orthographic(0.1, -0.2, 0.15)
    data = SimpleNamespace(
        view_perspective="ORTHO", window_matrix=projection, view_matrix=data.view_matrix
    )
    found = eye.of_viewport(start_scene, space, data, SIZE, FIELD_FROM_WORLD)
    expected = by_blender(projection, data.view_matrix, SIZE)
    assert expected.min() > -100.0, "the field is in sight"
    assert np.abs(by_eye(found) - expected).max() < 0.3


LENSES = (
    {},
    {"shift_x": 0.3, "shift_y": -0.1},
    {"sensor_fit": "VERTICAL", "sensor_height": 20.0},
    {"sensor_fit": "HORIZONTAL", "lens": 85.0},
    {"type": "ORTHO", "ortho_scale": 7.0, "shift_x": 0.2},
)


def projection_of(scene, size) -> Matrix:
    depsgraph = bpy.context.evaluated_depsgraph_get()
    render = scene.render
    aspect = {"scale_x": render.pixel_aspect_x, "scale_y": render.pixel_aspect_y}
    return scene.camera.calc_matrix_camera(depsgraph, x=size[0], y=size[1], **aspect)


@pytest.mark.parametrize("lens", LENSES)
@pytest.mark.parametrize("resolution", [(640, 480), (300, 500)])
def test_the_camera_s_frame_is_what_the_camera_renders(start_scene, lens, resolution) -> None:
    """In a viewport that has panned and zoomed."""
    render, camera = start_scene.render, start_scene.camera
    render.resolution_x, render.resolution_y = resolution
    render.pixel_aspect_y = 1.5
    for name, value in lens.items():
        setattr(camera.data, name, value)
    bpy.context.view_layer.update()
    whole = projection_of(start_scene, resolution)
    zoomed = Matrix.Diagonal((0.6, 0.9, 1.0, 1.0))
    zoomed[0][3], zoomed[1][3] = 0.3, -0.1
    space, _, _ = viewport()
    view_matrix = camera.matrix_world.normalized().inverted()
    data = SimpleNamespace(
        view_perspective="CAMERA", window_matrix=zoomed @ whole, view_matrix=view_matrix
    )
    found = eye.of_viewport(start_scene, space, data, SIZE, FIELD_FROM_WORLD)
    left, bottom, width, height = found.rectangle
    assert (left, width) == pytest.approx((SIZE[0] * (0.5 + 0.15 - 0.3), SIZE[0] * 0.6), rel=1e-4)
    assert (bottom, height) == pytest.approx(
        (SIZE[1] * (0.5 - 0.05 - 0.45), SIZE[1] * 0.9), 1e-4, 1e-3
    )
    expected = by_blender(data.window_matrix, view_matrix, SIZE)
    assert np.abs(by_eye(found) - expected).max() < 0.3
    data.window_matrix = whole
    plain = eye.of_viewport(start_scene, space, data, SIZE, FIELD_FROM_WORLD)
    assert plain.sees_as(found), "zooming does not move the camera"
    if camera.data.type == "PERSP":
        lens = cameras.intrinsics_of(camera.data, *resolution, pixel_aspect=1.5)
        expected = (
            *(lens.fl_x / lens.w, lens.fl_y / lens.h),
            *(lens.cx / lens.w, lens.cy / lens.h),
        )
        assert found.lens == pytest.approx(expected, rel=1e-4)


def test_without_a_viewport_it_is_the_scene_s_camera(start_scene) -> None:
    render = start_scene.render
    render.resolution_x, render.resolution_y, render.pixel_aspect_x = 300, 500, 2.0
    depsgraph = bpy.context.evaluated_depsgraph_get()
    found = eye.of_camera(depsgraph, 480, FIELD_FROM_WORLD)
    assert found.size == (480, 400)
    view_matrix = start_scene.camera.matrix_world.normalized().inverted()
    expected = by_blender(projection_of(start_scene, (300, 500)), view_matrix, found.size)
    assert np.abs(by_eye(found) - expected).max() < 1e-2
    start_scene.camera = None
    bpy.context.view_layer.update()
    assert eye.of_camera(bpy.context.evaluated_depsgraph_get(), 480, FIELD_FROM_WORLD) is None


def test_what_moves_is_another_eye(start_scene) -> None:
    space, data, region = viewport()
    found = eye.of_viewport(start_scene, space, data, region, FIELD_FROM_WORLD)
    again = eye.of_viewport(start_scene, space, data, region, FIELD_FROM_WORLD)
    assert found.sees_as(again)
    wider = eye.of_viewport(start_scene, space, data, (region[0] + 9, region[1]), FIELD_FROM_WORLD)
    assert wider.rectangle != found.rectangle
    moved = data.view_matrix.copy()
    moved.translation.x += 1e-3
    data = SimpleNamespace(
        view_perspective="PERSP", window_matrix=data.window_matrix, view_matrix=moved
    )
    other = eye.of_viewport(start_scene, space, data, region, FIELD_FROM_WORLD)
    assert not found.sees_as(other)


def test_a_region_of_no_size_shows_nothing(start_scene) -> None:
    space, data, _ = viewport()
    assert eye.of_viewport(start_scene, space, data, (0, 300), FIELD_FROM_WORLD) is None
