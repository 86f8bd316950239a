"""Depth and normals: of one surface each, at the pixels' centres, out of the colour's render."""

from __future__ import annotations

import dataclasses
import json
import math
import pathlib

import known_surfaces
import numpy as np
import pytest

bpy = pytest.importorskip("bpy", reason="needs Blender as a module: pip install bpy")

from neural_fields.neural_backend.config import DatasetSettings, RigSettings  # noqa: E402
from neural_fields.neural_backend.dataset import exr, transforms  # noqa: E402
from neural_fields.neural_backend.protocol import BadInput  # noqa: E402
from neural_fields.operators import dataset, knobs, passes  # noqa: E402

THREE = RigSettings(kind="hemisphere", views=3)
SETTINGS = DatasetSettings(resolution=48, samples=8, passes="on")


@pytest.fixture
def surfaces(scene):
    scene.render.engine = "CYCLES"
    scene.cycles.use_denoising = False
    known_surfaces.build()
    return scene


def export(folder, rig=THREE, settings=SETTINGS) -> transforms.Dataset:
    for _ in dataset.export_steps(bpy.context, rig, settings, None, folder):
        pass
    return transforms.read(folder)


def read(found: transforms.Dataset, view: transforms.View) -> tuple[np.ndarray, np.ndarray]:
    normal = exr.read(found.folder / view.normal)
    assert normal.dtype == np.float16
    return exr.read(found.folder / view.depth)[..., 0], normal.astype(np.float64)


def times(folder: pathlib.Path) -> dict[str, int]:
    files = [*folder.glob("*/*.png"), *folder.glob("*/*.exr")]
    assert files
    return {str(file.relative_to(folder)): file.stat().st_mtime_ns for file in files}


@pytest.mark.parametrize(
    ("samples", "kind", "transparent"), [(1, "png", True), (16, "exr", True), (8, "png", False)]
)
def test_a_ball_and_a_square(surfaces, tmp_path, samples, kind, transparent) -> None:
    settings = DatasetSettings(
        resolution=48, samples=samples, passes="on", format=kind, transparent=transparent
    )
    found = export(tmp_path, settings=settings)
    assert [view.depth for view in found.views] == [f"depth/000{n}.exr" for n in (1, 2, 3)]
    told = set()
    for view in found.views:
        assert view.file.endswith(kind)
        told |= known_surfaces.check(view, *read(found, view))
    assert told == {"ball", "square"}


def test_shifted_and_sheared_cameras(surfaces, tmp_path: pathlib.Path) -> None:
    """What is planar, and where the centres are, follows the lens and the pose exactly."""
    data = bpy.data.cameras.new("shifted")
    data.lens, data.shift_x, data.shift_y, data.sensor_fit = 40.0, 0.2, -0.1, "VERTICAL"
    parent = bpy.data.objects.new("parent", None)
    parent.scale, parent.rotation_euler = (1.0, 1.6, 0.8), (0.3, 0.1, 0.2)
    camera = bpy.data.objects.new("shifted", data)
    camera.parent = parent
    turned = bpy.data.objects.new("turned", data.copy())
    turned.data.shift_x = turned.data.shift_y = 0.0
    turned.location, turned.rotation_euler = (0.0, -3.0, 0.9), (math.radians(75.0), 0.0, 0.0)
    camera.location, camera.rotation_euler = (-0.5, 0.3, 3.5), (0.1, -0.2, 0.7)
    for item in (parent, camera, turned):
        surfaces.collection.objects.link(item)
    surfaces.render.resolution_x, surfaces.render.resolution_y = 300, 200
    surfaces.render.pixel_aspect_x = 1.25
    found = export(tmp_path, RigSettings(kind="cameras"))
    told = set()
    for view in found.views:
        told |= known_surfaces.check(view, *read(found, view))
    assert told == {"ball", "square"}
    pose = next(view for view in found.views if view.intrinsics.cx != view.intrinsics.w / 2)
    axes = pose.world_from_camera[:3, :3]
    assert np.abs(axes.T @ axes - np.eye(3)).max() > 0.1


def test_the_json_says_what_the_files_hold(surfaces, tmp_path: pathlib.Path) -> None:
    found = export(tmp_path)
    content = json.loads((tmp_path / "transforms.json").read_text())
    assert content["neural_fields"]["depth"] == {"distance": "planar", "unit": 1.0}
    assert content["neural_fields"]["normal"] == {"space": "world"}
    for frame in content["frames"]:
        assert (tmp_path / frame["depth_file_path"]).is_file()
        assert (tmp_path / frame["normal_file_path"]).is_file()
        assert "mask_path" not in frame
    assert found.depth_unit == 1.0
    # OpenCV, which nerfstudio reads depth with, knows a grey image by this name
    assert list(exr.read_channels(tmp_path / "depth" / "0001.exr")) == ["Y"]
    image = bpy.data.images.load(str(tmp_path / "depth" / "0001.exr"))
    seen = np.array(image.pixels[:]).reshape(48, 48, 4)[::-1, :, 0]
    np.testing.assert_array_equal(seen, exr.read(tmp_path / "depth" / "0001.exr")[..., 0])


def test_passes_cost_no_second_render(surfaces, tmp_path: pathlib.Path, monkeypatch) -> None:
    """And the colour is the same with them and without."""
    rendered = []
    render = dataset._render_here
    monkeypatch.setattr(dataset, "_render_here", lambda *a: (rendered.append(a), render(*a)))
    export(tmp_path / "with")
    assert len(rendered) == 3
    export(tmp_path / "without", settings=DatasetSettings(resolution=48, samples=8))
    for number in (1, 2, 3):
        name = f"images/000{number}.png"
        images = [
            bpy.data.images.load(str(tmp_path / folder / name)) for folder in ("with", "without")
        ]
        np.testing.assert_array_equal(*(np.array(image.pixels[:]) for image in images))
    assert not (tmp_path / "without" / "depth").exists()


def test_passes_that_are_missing_are_rendered(surfaces, tmp_path: pathlib.Path) -> None:
    without = DatasetSettings(resolution=48, samples=8)
    export(tmp_path, settings=without)
    export(tmp_path)
    first = times(tmp_path)
    assert len(first) == 9
    export(tmp_path)
    assert times(tmp_path) == first
    (tmp_path / "normal" / "0002.exr").unlink()
    whole = (tmp_path / "depth" / "0003.exr").read_bytes()
    (tmp_path / "depth" / "0003.exr").write_bytes(whole[:-9])
    export(tmp_path)
    second = times(tmp_path)
    assert all((first[name] == second[name]) == ("0001" in name) for name in first)
    (tmp_path / "depth" / "mine.txt").touch()
    found = export(tmp_path, settings=without)
    assert {view.depth for view in found.views} == {None}
    assert {name: second[name] for name in second if "images" in name} == times(tmp_path)
    assert (tmp_path / "depth" / "mine.txt").exists()


def test_passes_of_others_are_not_replaced(surfaces, tmp_path: pathlib.Path) -> None:
    (tmp_path / "depth").mkdir()
    (tmp_path / "depth" / "0002.exr").write_bytes(b"mine")
    with pytest.raises(BadInput, match=r"holds 0002\.exr, which Neural Fields did not"):
        export(tmp_path)
    assert (tmp_path / "depth" / "0002.exr").read_bytes() == b"mine"


@pytest.mark.parametrize(
    ("chosen", "field", "engine", "passes_are"),
    [
        ("auto", "neus", "CYCLES", "on"),
        ("auto", "neus", "BLENDER_EEVEE_NEXT", "on"),
        ("auto", "neus", "BLENDER_WORKBENCH", "off"),
        ("auto", "nerf", "CYCLES", "off"),
        ("on", "nerf", "BLENDER_WORKBENCH", "on"),
        ("off", "neus", "CYCLES", "off"),
    ],
)
def test_what_learns_from_them_has_them(scene, chosen, field, engine, passes_are) -> None:
    settings = knobs.settings_of(scene, {"dataset": {"passes": chosen}})
    training = dataclasses.replace(settings.training, field=field)
    settings = dataclasses.replace(settings, training=training)
    assert passes.decided(settings, engine).passes == passes_are


def test_the_scene_s_own_ways_of_rendering_do_not_matter(surfaces, tmp_path: pathlib.Path) -> None:
    """At frame 3 of an animation that ends elsewhere; seen from below too."""
    render = surfaces.render
    render.use_multiview = render.use_border = render.use_crop_to_border = True
    render.border_max_x = render.border_max_y = 0.4
    render.use_motion_blur = True
    surfaces.cycles.sample_offset = 8
    if hasattr(surfaces.cycles, "use_sample_subset"):  # from 4.5
        surfaces.cycles.use_sample_subset, surfaces.cycles.sample_subset_length = True, 8
    surfaces.view_layers.new("another").use_pass_z = True
    for item in surfaces.objects:
        if item.type == "MESH":
            for frame, offset in ((3, 0.0), (4, 2.0)):
                place = item.location.copy()
                item.location.x += offset
                item.keyframe_insert("location", frame=frame)
                item.location = place
    surfaces.frame_set(3)
    camera = bpy.data.cameras.new("blurred")
    camera.dof.use_dof, camera.dof.focus_distance, camera.dof.aperture_fstop = True, 0.5, 0.1
    surfaces.camera = bpy.data.objects.new("blurred", camera)
    surfaces.collection.objects.link(surfaces.camera)
    found = export(tmp_path, RigSettings(kind="sphere", views=5))
    assert any(view.world_from_camera[2, 3] < -1.0 for view in found.views)
    told = set()
    for view in found.views:
        told |= known_surfaces.check(view, *read(found, view))
    assert told == {"ball", "square"}
    assert [layer.use_pass_z for layer in surfaces.view_layers] == [False, True]
    assert surfaces.cycles.sample_offset == 8


def test_an_engine_without_passes_is_refused(surfaces, tmp_path: pathlib.Path) -> None:
    surfaces.render.engine = "BLENDER_WORKBENCH"
    with pytest.raises(BadInput, match=r"BLENDER_WORKBENCH gave no depth.*choose Cycles or EEVEE"):
        export(tmp_path)
    assert not list(tmp_path.glob("**/.*"))


def test_another_slot_may_be_looked_at(surfaces, tmp_path: pathlib.Path, monkeypatch) -> None:
    """The person turns to an earlier render while a view is being rendered."""
    export(tmp_path / "first")
    result = next(image for image in bpy.data.images if image.type == "RENDER_RESULT")
    result.render_slots.active_index = 2
    render = dataset._render_here

    def turned(*arguments) -> None:
        render(*arguments)
        result.render_slots.active_index = 5

    monkeypatch.setattr(dataset, "_render_here", turned)
    found = export(tmp_path / "second")
    assert result.render_slots.active_index == 5
    told = [known_surfaces.check(view, *read(found, view)) for view in found.views]
    assert set().union(*told) == {"ball", "square"}


def test_layers_of_any_name(surfaces, tmp_path: pathlib.Path) -> None:
    layer = surfaces.view_layers[0]
    layer.name = "my.Depth.Z löng " + "x" * 30
    layer.use_pass_mist = layer.use_pass_uv = True
    surfaces.view_layers.new("another")
    found = export(tmp_path)
    assert known_surfaces.check(found.views[0], *read(found, found.views[0]))


# --- the arithmetic -------------------------------------------------------------------------------


def view(distance: float = 3.0, place: tuple = (0.0, 0.0, 0.0), size: int = 64) -> transforms.View:
    """Of the square at ``known_surfaces`` from above and aside, moved by ``place``."""
    pose = np.eye(4)
    c, s = math.cos(0.5), math.sin(0.5)
    pose[:3, :3] = [[1.0, 0.0, 0.0], [0.0, c, -s], [0.0, s, c]]
    pose[:3, 3] = known_surfaces.SQUARE + distance * pose[:3, 2] + place
    middle = size / 2
    return transforms.View(
        "", pose, transforms.Intrinsics(size, size, 1.2 * size, 1.2 * size, middle, middle)
    )


def of_sample(camera: transforms.View, right: float, down: float) -> tuple[np.ndarray, ...]:
    """Depth, normal and half-precision position as of a sample beside the pixels' centres."""
    seen = known_surfaces.Seen(camera, right, down)
    shifted = known_surfaces.Seen(camera)
    k, pose = camera.intrinsics, camera.world_from_camera
    x, y = np.meshgrid(np.arange(k.w) + 0.5 + right, np.arange(k.h) + 0.5 + down)
    local = np.stack([(x - k.cx) / k.fl_x, -(y - k.cy) / k.fl_y, -np.ones_like(x)], -1)
    points = pose[:3, 3] + seen.depth[..., None] * (local @ pose[:3, :3].T)
    both = (seen.surface == 2) & (shifted.surface == 2)
    depth = np.where(seen.surface > 0, seen.depth, 1e10).astype(np.float32)
    return depth, seen.normal, points.astype(np.float16), both, shifted.depth


def test_a_sample_beside_the_centre_is_led_back_to_it() -> None:
    """As EEVEE's; its position pass is of half precision."""
    camera = view()
    depth, normal, position, both, truth = of_sample(camera, 0.21, -0.3)
    found, unit = passes.of_view(camera, depth, normal, position)
    assert np.abs(depth - truth)[both].max() > 5e-3
    assert np.abs(found - truth)[both].max() < 2e-4
    np.testing.assert_allclose(unit[both], normal[both])
    assert not found[depth > 1e9].any()


def test_imprecise_positions_change_nothing() -> None:
    """Far from the origin half precision tells nothing of parts of a pixel."""
    place = (900.0, -700.0, 80.0)
    depth, normal, position, both, _ = of_sample(view(), 0.21, -0.3)
    moved = view(place=place)
    position = (position + np.array(place)).astype(np.float16)
    found, _ = passes.of_view(moved, depth, normal, position)
    np.testing.assert_allclose(found[both], depth[both], rtol=1e-6)
    # beyond what half precision holds
    found, _ = passes.of_view(moved, depth, normal, np.full_like(position, np.inf))
    np.testing.assert_allclose(found[both], depth[both], rtol=1e-6)


def test_mixed_normals_are_left_out() -> None:
    camera = view(size=4)
    depth = np.full((4, 4), 2.0)
    normal = np.zeros((4, 4, 3))
    normal[..., 2] = 1.0
    normal[0, 0] = 0.5 * np.array([1.0, 0.0, 0.0]) + 0.5 * normal[0, 1]
    normal[1, 1] *= 0.9  # a tenth of the background
    position = np.ones((4, 4, 3))
    depth[2, 2] = 1e10
    depth[3, 3], position[3, 3] = 49.3, 0.0  # EEVEE's nothing, of a clip end of 50
    found, unit = passes.of_view(camera, depth, normal, position)
    assert not unit[0, 0].any()
    assert not unit[1, 1].any()
    assert not unit[2, 2].any()
    assert found[2, 2] == found[3, 3] == 0.0
    assert (np.linalg.norm(unit, axis=-1) > 0.99).sum() == 12
    assert (found > 0.0).sum() == 14
