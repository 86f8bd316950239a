"""Cameras against Blender's own projection, and against what it really renders."""

from __future__ import annotations

import itertools
import math
import pathlib

import numpy as np
import pytest

bpy = pytest.importorskip("bpy", reason="needs Blender as a module: pip install bpy")

from bpy_extras.object_utils import world_to_camera_view  # noqa: E402
from mathutils import Euler, Matrix, Vector  # noqa: E402
from neural_fields.neural_backend.dataset.transforms import Intrinsics, View  # noqa: E402
from neural_fields.neural_backend.protocol import BadInput  # noqa: E402
from neural_fields.operators import cameras  # noqa: E402

LANDSCAPE, PORTRAIT, SQUARE = (200, 100), (90, 160), (64, 64)
FITS = ("AUTO", "HORIZONTAL", "VERTICAL")


@pytest.fixture
def camera(scene):
    data = bpy.data.cameras.new("camera")
    item = bpy.data.objects.new("camera", data)
    scene.collection.objects.link(item)
    scene.camera = item
    item.matrix_world = Matrix.LocRotScale(
        Vector((3.0, -4.0, 2.0)), Euler((1.1, 0.2, 0.7)), Vector((1, 1, 1))
    )
    return item


def set_up(scene, camera, size=LANDSCAPE, fit="AUTO", shift=(0.0, 0.0), aspect=(1.0, 1.0)):
    scene.render.resolution_x, scene.render.resolution_y = size
    scene.render.resolution_percentage = 100
    scene.render.pixel_aspect_x, scene.render.pixel_aspect_y = aspect
    data = camera.data
    data.lens, data.sensor_width, data.sensor_height = 35.0, 36.0, 20.0
    data.sensor_fit = fit
    data.shift_x, data.shift_y = shift


def view_of(scene, camera) -> View:
    depsgraph = bpy.context.evaluated_depsgraph_get()
    seen = camera.evaluated_get(depsgraph)
    render = scene.render
    width = render.resolution_x * render.resolution_percentage // 100
    height = render.resolution_y * render.resolution_percentage // 100
    aspect = cameras.pixel_aspect_of(render)
    intrinsics = cameras.intrinsics_of(seen.data, width, height, aspect)
    return View("0001.png", cameras.world_from_camera(seen.matrix_world), intrinsics)


def project(view: View, point: np.ndarray) -> np.ndarray:
    """Pixels from the left and the top, as a reader of the dataset works it out."""
    x, y, z = np.linalg.solve(view.world_from_camera, [*point, 1.0])[:3]
    k = view.intrinsics
    return np.array([k.cx - k.fl_x * x / z, k.cy + k.fl_y * y / z])


def blenders(scene, camera, size: tuple[int, int], point: np.ndarray) -> np.ndarray:
    seen = camera.evaluated_get(bpy.context.evaluated_depsgraph_get())
    x, y, _ = world_to_camera_view(scene, seen, Vector(point))
    return np.array([x * size[0], (1.0 - y) * size[1]])


def grid(view: View) -> list[np.ndarray]:
    """Points all over the image and beyond it, near and far."""
    k = view.intrinsics
    points = []
    for u, v, depth in itertools.product((-0.1, 0.3, 0.8, 1.1), (-0.1, 0.4, 1.1), (0.5, 7.0)):
        local = [(u * k.w - k.cx) / k.fl_x, (k.cy - v * k.h) / k.fl_y, -1.0]
        points.append((view.world_from_camera @ [*(depth * np.array(local)), 1.0])[:3])
    return points


def check(scene, camera) -> View:
    view = view_of(scene, camera)
    size = view.intrinsics.w, view.intrinsics.h
    errors = [
        np.abs(project(view, point) - blenders(scene, camera, size, point)).max()
        for point in grid(view)
    ]
    assert max(errors) < 0.01
    return view


@pytest.mark.parametrize("size", [LANDSCAPE, PORTRAIT, SQUARE])
@pytest.mark.parametrize("fit", FITS)
@pytest.mark.parametrize("shift", [(0.0, 0.0), (0.15, -0.3)])
@pytest.mark.parametrize("aspect", [(1.0, 1.0), (1.0, 1.6), (2.0, 1.0)])
def test_projection_is_blenders(scene, camera, size, fit, shift, aspect) -> None:
    set_up(scene, camera, size, fit, shift, aspect)
    check(scene, camera)


@pytest.mark.parametrize("percentage", [50, 150])
@pytest.mark.parametrize("fit", FITS)
def test_resolution_percentage(scene, camera, percentage, fit) -> None:
    set_up(scene, camera, PORTRAIT, fit, (0.1, 0.2))
    scene.render.resolution_percentage = percentage
    assert check(scene, camera).intrinsics.h == 160 * percentage // 100


@pytest.mark.parametrize("scale", [(2, 2, 2), (0.1, 3.0, 1.0), (-1, 1, 1), (1, 1, -2)])
def test_scaled_camera(scene, camera, scale) -> None:
    set_up(scene, camera)
    camera.scale = scale
    check(scene, camera)


@pytest.mark.parametrize("scale", [(3, 3, 3), (1.0, 2.0, 0.4), (-1, 1, 1), (1.0, -2.0, 3.0)])
def test_parented_camera(scene, camera, scale) -> None:
    """A turned camera under an unevenly scaled parent is sheared, in Blender's renders too."""
    set_up(scene, camera, PORTRAIT, "VERTICAL", (0.1, 0.0))
    parent = bpy.data.objects.new("parent", None)
    scene.collection.objects.link(parent)
    parent.scale = scale
    parent.rotation_euler = 0.4, 0.1, 0.9
    camera.parent = parent
    view = check(scene, camera)
    assert np.allclose(np.linalg.norm(view.world_from_camera[:3, :3], axis=0), 1.0)
    if len(set(scale)) == 1:
        rotation = view.world_from_camera[:3, :3]
        assert np.allclose(rotation.T @ rotation, np.eye(3), atol=1e-6)
        assert np.linalg.det(rotation) > 0


def test_animated_lens(scene, camera) -> None:
    set_up(scene, camera)
    for frame, lens in ((1, 20.0), (11, 80.0)):
        camera.data.lens = lens
        camera.data.keyframe_insert("lens", frame=frame)
    focal = []
    for frame in (1, 4, 11):
        scene.frame_set(frame)
        focal.append(check(scene, camera).intrinsics.fl_x)
    assert focal[0] < focal[1] < focal[2]
    assert focal[0] == pytest.approx(200 * 20 / 36)


def test_worked_by_hand() -> None:
    """A 90 degree lens on 100 x 50 pixels, shifted by a tenth of the width."""
    intrinsics = cameras.pinhole(
        lens=18.0,
        sensor_width=36.0,
        sensor_height=24.0,
        sensor_fit="AUTO",
        shift=(0.1, 0.1),
        width=100,
        height=50,
    )
    assert intrinsics == Intrinsics(100, 50, 50.0, 50.0, 40.0, 35.0)
    assert intrinsics.angle_x == pytest.approx(math.pi / 2)


@pytest.mark.parametrize("size", [LANDSCAPE, PORTRAIT, SQUARE])
@pytest.mark.parametrize("aspect", [(1.0, 1.0), (1.0, 1.6), (2.0, 1.0)])
@pytest.mark.parametrize("fit", FITS)
def test_applied_view_is_the_view(scene, camera, size, aspect, fit) -> None:
    set_up(scene, camera, size, fit, (0.15, -0.3), aspect)
    view = view_of(scene, camera)
    other = bpy.data.objects.new("other", bpy.data.cameras.new("other"))
    scene.collection.objects.link(other)
    cameras.apply(view, other, scene.render)
    again = view_of(scene, other)
    for name in ("w", "h", "fl_x", "fl_y", "cx", "cy"):
        assert getattr(again.intrinsics, name) == pytest.approx(
            getattr(view.intrinsics, name), abs=1e-3
        )
    assert np.allclose(again.world_from_camera, view.world_from_camera, atol=1e-6)


@pytest.mark.parametrize("focal", [1e-3, 0.02, 300.0])
def test_extreme_lenses_are_applied(scene, camera, focal) -> None:
    view = View("", np.eye(4), Intrinsics(100, 80, 100 * focal, 100 * focal, 50.0, 40.0))
    cameras.apply(view, camera, scene.render)
    assert view_of(scene, camera).intrinsics.fl_x == pytest.approx(100 * focal, rel=1e-4)


def test_sheared_view_is_applied_through_a_parent(scene, camera) -> None:
    set_up(scene, camera)
    pose = np.eye(4)
    pose[:3, 1] = 0.6, 0.8, 0.0
    pose[:3, 3] = 1.0, 2.0, 3.0
    camera.parent = bpy.data.objects.new("parent", None)
    scene.collection.objects.link(camera.parent)
    cameras.apply(View("", pose, view_of(scene, camera).intrinsics), camera, scene.render)
    bpy.context.view_layer.update()
    assert np.allclose(np.array(camera.matrix_world), pose, atol=1e-6)


@pytest.mark.parametrize(("kind", "word"), [("ORTHO", "orthographic"), ("PANO", "panoramic")])
def test_cameras_without_a_pinhole_are_refused(scene, camera, kind, word) -> None:
    camera.data.type = kind
    with pytest.raises(BadInput, match=f"{word}.*Perspective"):
        cameras.intrinsics_of(camera.data, 10, 10)


def test_distortion_is_refused(scene, camera) -> None:
    view = View("", np.eye(4), Intrinsics(10, 10, 9.0, 9.0, 5.0, 5.0, k1=0.1))
    with pytest.raises(BadInput, match="undistort"):
        cameras.apply(view, camera, scene.render)


def test_camera_scaled_to_nothing_is_refused() -> None:
    with pytest.raises(BadInput, match="scale"):
        cameras.world_from_camera(np.diag([0.0, 1.0, 1.0, 1.0]))


@pytest.mark.parametrize(
    ("size", "fit", "shift", "aspect", "scale"),
    [
        (LANDSCAPE, "VERTICAL", (0.0, 0.0), (1.0, 1.0), (1, 1, 1)),
        (PORTRAIT, "AUTO", (0.1, -0.2), (1.0, 1.0), (1, 1, 1)),
        (PORTRAIT, "HORIZONTAL", (0.0, 0.1), (1.0, 1.5), (1, 1, 1)),
        (SQUARE, "AUTO", (0.0, 0.0), (1.0, 1.0), (1, 3, 0.5)),
        (SQUARE, "AUTO", (0.0, 0.0), (1.0, 1.0), (-1, 1, 1)),
    ],
)
def test_a_sphere_is_rendered_where_it_is_predicted(
    scene, camera, tmp_path: pathlib.Path, size, fit, shift, aspect, scale
) -> None:
    set_up(scene, camera, size, fit, shift, aspect)
    parent = bpy.data.objects.new("parent", None)
    scene.collection.objects.link(parent)
    parent.scale, camera.parent = scale, parent
    view = view_of(scene, camera)
    k = view.intrinsics
    wanted = np.array([0.3 * k.w, 0.3 * k.h])
    local = [(wanted[0] - k.cx) / k.fl_x, (k.cy - wanted[1]) / k.fl_y, -1.0, 0.2]
    centre = (view.world_from_camera @ (5.0 * np.array(local)))[:3]
    assert np.allclose(project(view, centre), wanted)
    bpy.ops.mesh.primitive_uv_sphere_add(location=centre, radius=0.03)
    material = bpy.data.materials.new("light")
    if material.node_tree is None:  # before 5.0
        material.use_nodes = True
    nodes = material.node_tree.nodes
    emission = nodes.new("ShaderNodeEmission")
    output = next(node for node in nodes if node.type == "OUTPUT_MATERIAL")
    material.node_tree.links.new(emission.outputs[0], output.inputs["Surface"])
    bpy.context.object.data.materials.append(material)
    render = scene.render
    render.engine, render.film_transparent = "CYCLES", True
    scene.cycles.samples, scene.cycles.use_denoising = 32, False
    render.image_settings.file_format, render.image_settings.color_mode = "PNG", "RGBA"
    render.filepath = str(tmp_path / "image.png")
    bpy.ops.render.render(write_still=True)
    image = bpy.data.images.load(render.filepath)
    alpha = np.array(image.pixels[:]).reshape(k.h, k.w, 4)[::-1, :, 3]
    rows, columns = np.mgrid[: k.h, : k.w] + 0.5
    found = np.array([(alpha * columns).sum(), (alpha * rows).sum()]) / alpha.sum()
    assert np.abs(found - wanted).max() < 0.1
