"""Dataset export: what is rendered, what is kept, and that nothing else changes."""

from __future__ import annotations

import dataclasses
import errno
import json
import pathlib
from collections.abc import Iterator

import numpy as np
import pytest

bpy = pytest.importorskip("bpy", reason="needs Blender as a module: pip install bpy")

from neural_fields.neural_backend import protocol  # noqa: E402
from neural_fields.neural_backend.config import DatasetSettings, RigSettings  # noqa: E402
from neural_fields.neural_backend.dataset import exr, transforms  # noqa: E402
from neural_fields.neural_backend.protocol import BadInput  # noqa: E402
from neural_fields.operators import dataset, job, stage  # noqa: E402
from neural_fields.operators.scratch import RESULT_MARK  # noqa: E402

SMALL = DatasetSettings(resolution=24, samples=1)
PASSES = DatasetSettings(resolution=24, samples=1, passes="on")
FOUR = RigSettings(kind="hemisphere", views=4)

UNREADABLE = {"rna_type", "session_uid", "preview", "depsgraph", "use_nodes"}
if bpy.app.version < (4, 3):
    # the one crashes Blender; and a scene's copy counts its objects once too often, even when gone
    UNREADABLE |= {"uv_sculpt", "users"}


@pytest.fixture
def cube(scene):
    """A red cube that gives light, off the origin, in Cycles; the scene's own render is odd."""
    bpy.ops.mesh.primitive_cube_add(location=(3.0, 1.0, 0.0))
    item = bpy.context.object
    item.data.materials.append(shining((1.0, 0.0, 0.0, 1.0)))
    render = scene.render
    render.engine = "CYCLES"
    scene.cycles.samples, scene.cycles.use_denoising = 1, False
    scene.view_settings.view_transform = "Standard"
    render.filepath = "//renders/prefix_"
    render.resolution_x, render.resolution_y, render.resolution_percentage = 333, 77, 61
    render.use_border = render.use_crop_to_border = True
    render.border_min_x = 0.7
    render.use_motion_blur = render.use_multiview = render.use_stamp = True
    render.pixel_aspect_x = 1.5
    scene.frame_step, scene.frame_start = 3, 5
    for name in ("JPEG", "PNG"):
        # from 5.0 on the factory's settings lack a colour space until some format was chosen
        render.image_settings.file_format = name
    return item


def shining(colour):
    material = bpy.data.materials.new("light")
    if material.node_tree is None:  # before 5.0
        material.use_nodes = True
    nodes = material.node_tree.nodes
    emission = nodes.new("ShaderNodeEmission")
    emission.inputs["Color"].default_value = colour
    output = next(node for node in nodes if node.type == "OUTPUT_MATERIAL")
    material.node_tree.links.new(emission.outputs[0], output.inputs["Surface"])
    return material


def export(folder, rig=FOUR, settings=SMALL, collection=None) -> transforms.Dataset:
    steps = dataset.export_steps(bpy.context, rig, settings, collection, folder)
    while True:
        try:
            next(steps)
        except StopIteration as end:
            return end.value


def pixels(file: pathlib.Path) -> np.ndarray:
    """[H, W, 4] as the file has them, top row first."""
    image = bpy.data.images.load(str(file))
    image.alpha_mode = "CHANNEL_PACKED"
    values = np.array(image.pixels[:]).reshape(image.size[1], image.size[0], 4)[::-1]
    bpy.data.images.remove(image)
    return values


def times(folder: pathlib.Path) -> dict[str, int]:
    return {file.name: file.stat().st_mtime_ns for file in (folder / "images").glob("*.png")}


def values(struct, path: str, depth: int = 3) -> Iterator[tuple[str, object]]:
    """Every property of a structure and of those within it."""
    for prop in struct.bl_rna.properties:
        name = prop.identifier
        if name in UNREADABLE:
            continue
        try:
            value = getattr(struct, name)
        except Exception:
            continue
        if prop.type == "POINTER":
            if value is None or isinstance(value, bpy.types.ID):
                yield f"{path}.{name}", value and value.name_full
            elif depth:
                yield from values(value, f"{path}.{name}", depth - 1)
        elif prop.type == "COLLECTION":
            yield f"{path}.{name}", len(value)
        else:
            yield (
                f"{path}.{name}",
                value
                if isinstance(value, str)
                else repr(list(value) if getattr(prop, "is_array", False) else value),
            )


def everything() -> dict[str, object]:
    """All that an export could disturb."""
    context = bpy.context
    scene = context.scene
    found = dict(values(scene, "scene"))
    found |= dict(values(context.preferences.view, "preferences"))
    found |= dict(values(context.view_layer, "layer"))
    for item in bpy.data.objects:
        found |= dict(values(item, item.name, depth=1))
    for name in ("objects", "cameras", "scenes", "collections", "meshes", "worlds", "actions"):
        found[f"data.{name}"] = [block.name for block in getattr(bpy.data, name)]
    for name in ("render_complete", "render_cancel", "render_pre", "depsgraph_update_post"):
        found[f"handlers.{name}"] = len(getattr(bpy.app.handlers, name))
    found["selected"] = [item.name for item in context.selected_objects]
    found["active"] = context.view_layer.objects.active and context.view_layer.objects.active.name
    found["mode"] = context.mode
    return found


def test_a_dataset(cube, tmp_path: pathlib.Path) -> None:
    result = export(tmp_path / "data")
    read = transforms.read(tmp_path / "data")
    assert len(read.views) == len(result.views) == 4
    assert read.bounds == pytest.approx(np.array([[2, 0, -1], [4, 2, 1]]), abs=1e-4)
    assert {view.split for view in read.views} == {"train", "val", "test"}
    assert (tmp_path / "data" / "nerf_synthetic" / "transforms_train.json").exists()
    assert sorted(file.name for file in (tmp_path / "data").glob("*.json")) == ["transforms.json"]
    corners = np.array([[x, y, z, 1.0] for x in (2, 4) for y in (0, 2) for z in (-1, 1)])
    for view in read.views:
        image = pixels(tmp_path / "data" / view.file)
        assert image.shape == (24, 24, 4)
        alpha = image[..., 3]
        assert alpha[0, 0] == 0.0
        assert alpha[12, 12] == 1.0
        # straight alpha: a border's colour is not darkened
        assert (image[alpha > 0.05][:, 0] > 0.95).all()
        local = np.linalg.inv(view.world_from_camera) @ corners.T
        k = view.intrinsics
        columns = k.cx - k.fl_x * local[0] / local[2]
        rows = k.cy + k.fl_y * local[1] / local[2]
        filled = np.argwhere(alpha > 0)
        assert filled.min(0) == pytest.approx([rows.min() - 0.5, columns.min() - 0.5], abs=1.5)
        assert filled.max(0) == pytest.approx([rows.max() - 0.5, columns.max() - 0.5], abs=1.5)


def test_the_world_may_be_seen(cube, scene, tmp_path: pathlib.Path) -> None:
    scene.world = bpy.data.worlds.new("world")
    settings = DatasetSettings(resolution=8, samples=1, transparent=False)
    result = export(tmp_path, settings=settings)
    assert pixels(tmp_path / result.views[0].file)[0, 0, 3] == 1.0


def finished(steps) -> None:
    for _ in steps:
        pass


def cancelled(steps) -> None:
    next(steps)
    next(steps)
    next(steps)
    with pytest.raises(job.Cancelled):
        steps.throw(job.Cancelled())


def closed(steps) -> None:
    next(steps)
    next(steps)
    steps.close()


def failed(steps) -> None:
    next(steps)
    next(steps)
    # Blender cannot write where a folder stands
    folder = next(pathlib.Path(bpy.context.scene["output"]).iterdir())
    (folder / ".0001.part.png").mkdir()
    (folder / ".0001.part.png" / "inside").touch()
    with pytest.raises(BadInput, match="cannot be written"):
        finished(steps)


def failed_at_passes(steps) -> None:
    folder = pathlib.Path(bpy.context.scene["output"]) / "depth" / ".0001.part.exr"
    next(steps)
    next(steps)
    folder.mkdir()
    with pytest.raises(BadInput, match="cannot be written"):
        finished(steps)


@pytest.mark.parametrize("kind", ["hemisphere", "camera_path"])
@pytest.mark.parametrize(
    ("end", "settings"),
    [
        *((end, settings) for end in (finished, cancelled) for settings in (SMALL, PASSES)),
        (closed, PASSES),
        (failed, SMALL),
        (failed_at_passes, PASSES),
    ],
)
def test_everything_is_as_before(cube, scene, tmp_path: pathlib.Path, kind, end, settings) -> None:
    scene["output"] = str(tmp_path)
    layer = bpy.context.view_layer
    layer.use_pass_normal = layer.use_pass_mist = True
    bpy.ops.object.camera_add(location=(3.0, -9.0, 0.0), rotation=(1.5, 0.0, 0.0))
    scene.camera = camera = bpy.context.object
    for frame in (5, 9):
        camera.location.x = frame
        camera.keyframe_insert("location", frame=frame)
    scene.frame_end = 9
    camera.data.dof.use_dof = True
    scene.timeline_markers.new("cut", frame=6).camera = camera
    scene.frame_set(7, subframe=0.25)
    cube.hide_select = True
    bpy.ops.object.select_all(action="DESELECT")
    camera.select_set(True)
    bpy.context.view_layer.objects.active = cube
    bpy.context.view_layer.update()
    before = everything()
    rig = RigSettings(kind=kind, views=4)
    end(dataset.export_steps(bpy.context, rig, settings, None, tmp_path))
    assert everything() == before
    parts = [file for file in tmp_path.glob("*/.*") if file.is_file()]
    assert not parts
    assert (tmp_path / "transforms.json").exists() == (end is finished)


@pytest.mark.parametrize(
    ("kind", "mode", "depth"),
    [("OPEN_EXR", "RGB", "16"), ("JPEG", "BW", "8"), ("FFMPEG", "RGB", "")],
)
def test_image_settings_are_kept(cube, scene, tmp_path: pathlib.Path, kind, mode, depth) -> None:
    image = scene.render.image_settings
    if hasattr(image, "media_type"):
        image.media_type = "VIDEO" if kind == "FFMPEG" else "IMAGE"
    image.file_format, image.color_mode, image.quality = kind, mode, 33
    if depth:
        image.color_depth = depth
    image.color_management = "OVERRIDE"
    before = everything()
    for settings in (SMALL, PASSES):
        result = export(tmp_path, settings=settings)
        assert pixels(tmp_path / result.views[0].file).shape == (24, 24, 4)
        assert everything() == before


def compositor(scene, folder: pathlib.Path):
    """A person's own, which makes everything red and writes files."""
    if hasattr(scene, "compositing_node_group"):  # from 5.0
        tree = bpy.data.node_groups.new("mine", "CompositorNodeTree")
        tree.interface.new_socket("Image", in_out="OUTPUT", socket_type="NodeSocketColor")
        scene.compositing_node_group = tree
        end = tree.nodes.new("NodeGroupOutput")
    else:
        scene.use_nodes = True
        tree = scene.node_tree
        end = tree.nodes.new("CompositorNodeComposite")
    layers = tree.nodes.new("CompositorNodeRLayers")
    red = tree.nodes.new("CompositorNodeRGB")
    file = tree.nodes.new("CompositorNodeOutputFile")
    if hasattr(file, "file_output_items"):
        file.directory = str(folder)
        file.file_output_items.new("RGBA", "Image")
    else:
        file.base_path = str(folder)
    tree.links.new(red.outputs[0], end.inputs[0])
    tree.links.new(layers.outputs[0], file.inputs[0])
    return tree


def test_the_compositor_is_bypassed_and_kept(cube, scene, tmp_path: pathlib.Path) -> None:
    tree = compositor(scene, tmp_path / "composited")
    scene.render.use_compositing = True

    def state() -> list[object]:
        nodes = [(node.name, list(values(node, "node", depth=2))) for node in tree.nodes]
        return [nodes, [(link.from_socket.name, link.to_node.name) for link in tree.links]]

    before = everything(), state()
    result = export(tmp_path / "data", settings=PASSES)
    assert (everything(), state()) == before
    assert not (tmp_path / "composited").exists()
    image = pixels(tmp_path / "data" / result.views[0].file)
    assert image[0, 0, 3] == 0.0
    assert image[12, 12, 3] == 1.0


def test_linear_light(cube, scene, tmp_path: pathlib.Path) -> None:
    """A light five times as bright as white stays so, whatever the view transform; as OpenEXR
    has it, colour is premultiplied. The backend's own reader reads it."""
    nodes = cube.active_material.node_tree.nodes
    nodes["Emission"].inputs["Strength"].default_value = 5.0
    scene.view_settings.view_transform = "AgX"
    scene.view_settings.exposure = 2.0
    image = scene.render.image_settings
    image.file_format, image.exr_codec, image.color_depth = "OPEN_EXR", "DWAA", "32"
    before = everything()
    linear = DatasetSettings(resolution=24, samples=4, format="exr")
    views = export(tmp_path, settings=linear).views
    assert everything() == before
    assert [view.file for view in views] == [f"images/{index:04d}.exr" for index in range(1, 5)]
    assert len(transforms.read(tmp_path).views) == 4
    assert transforms.read(tmp_path).display is None, "it is light, not displayed"
    pixels = exr.read(tmp_path / views[0].file)
    assert pixels.dtype == np.float16
    assert pixels.shape == (24, 24, 4)
    np.testing.assert_allclose(pixels[..., 0], 5.0 * pixels[..., 3], atol=0.01)
    assert pixels[..., 3].max() == 1.0
    assert ((pixels[..., 3] > 0.2) & (pixels[..., 3] < 0.8)).any()
    assert pixels[..., 1].max() < 0.01
    # another format is another export, a damaged image is rendered again
    half = (tmp_path / views[0].file).read_bytes()[:1000]
    (tmp_path / views[0].file).write_bytes(half)
    export(tmp_path, settings=linear)
    assert exr.is_whole(tmp_path / views[0].file)
    export(tmp_path)
    assert transforms.read(tmp_path).display == {
        "display_device": "sRGB",
        "view_transform": "AgX",
        "exposure": 2.0,
        "gamma": 1.0,
        "look": "None",
    }
    assert sorted(file.suffix for file in (tmp_path / "images").iterdir()) == [
        ".json",
        *[".png"] * 4,
    ]


def test_an_undo_to_the_middle_is_healed(cube, scene, tmp_path: pathlib.Path) -> None:
    """What an undo, or a file saved meanwhile, brings back from the middle of an export."""
    before = everything()
    steps = dataset.export_steps(bpy.context, FOUR, SMALL, None, tmp_path / "data")
    for _ in range(3):
        next(steps)
    assert scene.render.resolution_x == 24
    file = str(tmp_path / "middle.blend")
    bpy.ops.wm.save_as_mainfile(filepath=file, copy=True)
    steps.close()
    assert everything() == before
    bpy.ops.wm.open_mainfile(filepath=file)
    scene = bpy.context.scene
    assert (scene.render.resolution_x, scene.render.resolution_y) == (333, 77)
    assert scene.render.filepath == "//renders/prefix_"
    assert scene.camera is None
    assert len(bpy.data.objects) == 1
    assert not any(key.startswith("neural_fields_") for key in scene.keys())  # noqa: SIM118


def test_the_stage_may_vanish_during_the_export(cube, scene, tmp_path: pathlib.Path) -> None:
    """As an undo does it: the scene as it was is back, without the stage's camera."""
    before = everything()
    steps = dataset.export_steps(bpy.context, FOUR, SMALL, None, tmp_path)
    for _ in range(3):
        next(steps)
    bpy.data.objects.remove(scene.camera)
    del scene[stage.BEFORE]
    scene.render.resolution_x, scene.render.resolution_y = 333, 77
    scene.render.use_border = True
    finished(steps)
    assert (scene.render.resolution_x, scene.render.use_border) == (333, True)
    assert scene.camera is None
    found = everything()
    assert {
        name for name in before if name.startswith("data.") and before[name] != found[name]
    } == (set())
    assert len(transforms.read(tmp_path).views) == 4


@pytest.mark.parametrize("mode", ["EDIT", "SCULPT"])
def test_modes_are_kept(cube, tmp_path: pathlib.Path, mode) -> None:
    bpy.ops.object.mode_set(mode=mode)
    assert len(export(tmp_path).views) == 4
    assert bpy.context.object.mode == mode
    bpy.ops.object.mode_set(mode="OBJECT")


def test_a_second_export_renders_what_is_missing(cube, tmp_path: pathlib.Path) -> None:
    export(tmp_path)
    first = times(tmp_path)
    assert len(first) == 4
    export(tmp_path)
    assert times(tmp_path) == first
    (tmp_path / "images" / "0002.png").unlink()
    half = (tmp_path / "images" / "0003.png").read_bytes()[:50]
    (tmp_path / "images" / "0003.png").write_bytes(half)
    export(tmp_path)
    second = times(tmp_path)
    assert {name for name in first if first[name] != second[name]} == {"0002.png", "0003.png"}


def test_a_cancelled_export_goes_on(cube, tmp_path: pathlib.Path) -> None:
    steps = dataset.export_steps(bpy.context, FOUR, SMALL, None, tmp_path)
    for _ in range(4):
        next(steps)
    steps.close()
    first = times(tmp_path)
    assert sorted(first) == ["0001.png", "0002.png"]
    with pytest.raises(BadInput):
        transforms.read(tmp_path)
    export(tmp_path)
    assert first.items() <= times(tmp_path).items()
    assert len(times(tmp_path)) == 4


def moved(cube, scene):
    cube.location.x += 1.0


def recoloured(cube, scene):
    nodes = cube.data.materials[0].node_tree.nodes
    nodes["Emission"].inputs["Color"].default_value = 0.0, 1.0, 0.0, 1.0


def relinked(cube, scene):
    tree = cube.data.materials[0].node_tree
    tree.links.clear()


def lit(cube, scene):
    light = bpy.data.objects.new("light", bpy.data.lights.new("light", "SUN"))
    scene.collection.objects.link(light)


def exposed(cube, scene):
    scene.view_settings.exposure = 1.0


def bounced(cube, scene):
    scene.cycles.max_bounces = 2


@pytest.mark.parametrize("change", [moved, recoloured, relinked, lit, exposed, bounced])
def test_a_changed_scene_is_rendered_again(cube, scene, tmp_path: pathlib.Path, change) -> None:
    export(tmp_path)
    first = times(tmp_path)
    assert len(first) == 4
    change(cube, scene)
    export(tmp_path)
    second = times(tmp_path)
    assert all(first[name] != second[name] for name in first)


def test_what_no_view_shows_changes_nothing(cube, scene, tmp_path: pathlib.Path) -> None:
    export(tmp_path)
    first = times(tmp_path)
    assert len(first) == 4
    bpy.data.materials.new("unused")
    bpy.ops.object.camera_add()
    bpy.ops.object.select_all(action="SELECT")
    scene.render.filepath = "//elsewhere"
    scene.render.resolution_x = 17
    export(tmp_path)
    assert times(tmp_path) == first


def test_other_settings_never_mix(cube, tmp_path: pathlib.Path) -> None:
    export(tmp_path)
    (tmp_path / "images" / "notes.txt").write_text("mine")
    fewer = RigSettings(kind="hemisphere", views=3)
    steps = dataset.export_steps(
        bpy.context, fewer, DatasetSettings(resolution=16, samples=1), None, tmp_path
    )
    next(steps)
    next(steps)
    # from here on, what stands is of the new export or not ours
    assert sorted(file.name for file in (tmp_path / "images").iterdir()) == [
        "export.json",
        "notes.txt",
    ]
    assert not (tmp_path / "transforms.json").exists()
    finished(steps)
    assert sorted(times(tmp_path)) == ["0001.png", "0002.png", "0003.png"]
    assert all(pixels(file).shape[0] == 16 for file in (tmp_path / "images").glob("*.png"))


def test_what_is_not_ours_is_not_touched(cube, tmp_path: pathlib.Path) -> None:
    (tmp_path / "images").mkdir()
    mine = tmp_path / "images" / "0002.png"
    mine.write_bytes(b"mine")
    with pytest.raises(BadInput, match=r"0002\.png, which Neural Fields did not write"):
        export(tmp_path)
    assert list(tmp_path.rglob("*")) == [tmp_path / "images", mine]
    state = {"neural_fields": 1, "views": {"../mine.txt": "x", "images/0002.png": 3}}
    (tmp_path / "images" / "export.json").write_text(json.dumps(state))
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(BadInput, match="which Neural Fields did not write"):
        export(tmp_path)
    assert (tmp_path / "mine.txt").exists()
    assert mine.read_bytes() == b"mine"
    mine.unlink()
    (tmp_path / "transforms.json").write_text('{"frames": []}')
    with pytest.raises(BadInput, match=r"transforms\.json.*choose another"):
        export(tmp_path)


@pytest.mark.parametrize("name", ["nerf_synthetic/transforms_val.json", "images/export.json"])
def test_jsons_that_are_not_ours_are_not_touched(cube, tmp_path: pathlib.Path, name) -> None:
    mine, content = tmp_path / name, '{"frames": [], "views": {"images/0009.png": "x"}}'
    mine.parent.mkdir()
    mine.write_text(content)
    (tmp_path / "images").mkdir(exist_ok=True)
    (tmp_path / "images" / "0009.png").write_text("mine")
    line = f"holds {mine.name}, which Neural Fields did not write"
    with pytest.raises(BadInput, match=line):
        export(tmp_path)
    assert mine.read_text() == content
    assert len([path for path in tmp_path.rglob("*") if path.is_file()]) == 2
    # our own are replaced, and tell nothing about another's beside them
    mine.unlink()
    for _ in range(2):
        export(tmp_path)
    mine.write_text(content)
    with pytest.raises(BadInput, match=line):
        export(tmp_path)
    assert mine.read_text() == content


@pytest.mark.parametrize("engine", ["CYCLES", "BLENDER_WORKBENCH"])
@pytest.mark.parametrize("settings", [PASSES, dataclasses.replace(SMALL, format="exr")])
def test_nothing_is_read_that_blender_warns_of(
    start_scene, tmp_path: pathlib.Path, capfd, engine, settings
) -> None:
    """Of a scene whose image format nobody has chosen."""
    start_scene.render.engine = engine
    if engine == "BLENDER_WORKBENCH":
        settings = dataclasses.replace(settings, passes="off")
    export(tmp_path, settings=settings)
    printed = capfd.readouterr()
    assert "matches no enum" not in printed.out + printed.err


@pytest.mark.parametrize("format", ["png", "exr"])
def test_the_colour_space_of_the_scene_s_own_format_stays(
    cube, scene, tmp_path: pathlib.Path, format
) -> None:
    image = scene.render.image_settings
    image.file_format, image.color_management = "OPEN_EXR", "OVERRIDE"
    image.linear_colorspace_settings.name = "ACES2065-1"
    before = everything()
    assert before["scene.render.image_settings.linear_colorspace_settings.name"] == "ACES2065-1"
    export(tmp_path, settings=dataclasses.replace(PASSES, format=format))
    assert everything() == before


@pytest.mark.parametrize("name", ["a {blend_name} b", "frame ####", "ünïcode ' \"", "%04d"])
def test_odd_folders(cube, tmp_path: pathlib.Path, name) -> None:
    folder = tmp_path / name
    export(folder, RigSettings(views=3), DatasetSettings(resolution=8, samples=1, passes="on"))
    assert len(times(folder)) == 3
    assert len(list((folder / "depth").glob("*.exr"))) == 3
    assert [item.name for item in tmp_path.iterdir()] == [name]


def test_a_folder_that_is_a_file(cube, tmp_path: pathlib.Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(BadInput, match=r"file.*cannot be written.*choose another"):
        export(tmp_path / "file")


def test_a_full_disk(cube, tmp_path: pathlib.Path, monkeypatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(dataset.os, "replace", full)
    with pytest.raises(BadInput, match="disk is full; free some space"):
        export(tmp_path)


def test_a_render_that_writes_nothing(cube, tmp_path: pathlib.Path, monkeypatch) -> None:
    monkeypatch.setattr(dataset, "_render_here", lambda scene, file: None)
    with pytest.raises(BadInput, match="no whole image was written"):
        export(tmp_path)


def test_a_render_that_fails(cube, scene, tmp_path: pathlib.Path) -> None:
    class Broken(bpy.types.RenderEngine):
        bl_idname = "BROKEN"
        bl_label = "Broken"

        def render(self, depsgraph):
            self.report({"ERROR"}, "out of memory")

    bpy.utils.register_class(Broken)
    try:
        scene.render.engine = "BROKEN"
        before = everything()
        with pytest.raises(BadInput, match=r"images/0001\.png could not be rendered: .*out of mem"):
            export(tmp_path)
        assert everything() == before
        assert not times(tmp_path)
    finally:
        scene.render.engine = "CYCLES"
        bpy.utils.unregister_class(Broken)


def test_no_camera_and_nothing_to_render(cube, scene, tmp_path: pathlib.Path) -> None:
    with pytest.raises(BadInput, match="no camera"):
        export(tmp_path, RigSettings(kind="cameras"))
    bpy.data.objects.remove(cube)
    with pytest.raises(BadInput, match="nothing to render"):
        export(tmp_path)
    assert not (tmp_path / "transforms.json").exists()


@pytest.mark.parametrize("engine", ["CYCLES", "BLENDER_WORKBENCH"])
def test_only_the_subject_is_seen(cube, scene, tmp_path: pathlib.Path, engine) -> None:
    cube.select_set(True)
    inner = bpy.data.collections.new("inner")
    scene.collection.children.link(inner)
    for where in (scene.collection, inner):
        wall = bpy.data.objects.new("wall", bpy.data.meshes.new("wall"))
        corners = [(-9, -9, 3), (9, -9, 3), (9, 9, 3), (-9, 9, 3)]
        wall.data.from_pydata(corners, [], [(0, 1, 2, 3)])
        where.objects.link(wall)
    scene.render.engine = engine
    rig = RigSettings(kind="orbit", rings=1, lowest=1.5, highest=1.5, views=3, subject="selection")
    before = everything()
    above = export(tmp_path / "without", rig)
    assert everything() == before
    image = pixels(tmp_path / "without" / above.views[0].file)
    assert 0.5 < image[..., 3].mean() < 0.95
    assert image[0, 0, 3] == 0.0
    with_world = DatasetSettings(resolution=24, samples=1, transparent=False)
    seen = export(tmp_path / "with", rig, with_world)
    assert pixels(tmp_path / "with" / seen.views[0].file)[0, 0, 3] == 1.0


def test_camera_path_shows_one_moment(cube, scene, tmp_path: pathlib.Path) -> None:
    """The camera moves, the world stands still at the current frame."""
    for frame, x in ((5, 3.0), (7, 300.0)):
        cube.location.x = x
        cube.keyframe_insert("location", frame=frame)
    bpy.ops.object.camera_add(location=(3.0, -9.0, 0.0), rotation=(np.pi / 2, 0.0, 0.0))
    scene.camera = bpy.context.object
    for frame, x in ((5, 3.0), (7, 3.5)):
        scene.camera.location.x = x
        scene.camera.keyframe_insert("location", frame=frame)
    scene.frame_end = 7
    scene.frame_set(5)
    scene.render.resolution_x, scene.render.resolution_y = 64, 32
    scene.render.pixel_aspect_x = 1.0
    result = export(tmp_path, RigSettings(kind="camera_path"))
    assert len(result.views) == 3
    for view in result.views:
        image = pixels(tmp_path / view.file)
        assert image.shape == (12, 24, 4)
        assert image[6, 12, 3] == 1.0


@pytest.mark.parametrize("marked", [True, False])
def test_an_earlier_result_is_not_seen(cube, scene, tmp_path: pathlib.Path, marked) -> None:
    """Around the subject, in a collection of the person's own."""
    wall = bpy.data.objects.new("the run", bpy.data.meshes.new("wall"))
    corners = [(3 + x, 1 + y, 1.5) for x, y in ((-1, -1), (1, -1), (1, 1), (-1, 1))]
    wall.data.from_pydata(corners, [], [(0, 1, 2, 3)])
    scene.collection.objects.link(wall)
    if marked:
        wall[RESULT_MARK] = "the run"
    above = RigSettings(kind="orbit", rings=1, lowest=1.5, highest=1.5, views=3)
    before = everything()
    result = export(tmp_path, above)
    assert everything() == before
    centre = pixels(tmp_path / result.views[0].file)[12, 12]
    assert (centre[0] > 0.9) == marked, "the cube shines red, the wall is dark"


def test_painting_renders_anew(cube, tmp_path: pathlib.Path) -> None:
    image = bpy.data.images.new("painted", 2, 2)
    nodes = cube.active_material.node_tree.nodes
    nodes.new("ShaderNodeTexImage").image = image
    rendered = []
    for value in (0.2, 0.4, 0.4):
        image.pixels.foreach_set(np.full(16, value, dtype=np.float32))
        assert image.is_dirty
        export(tmp_path)
        rendered.append(times(tmp_path))
    assert rendered[0] != rendered[1], "painted on"
    assert rendered[1] == rendered[2], "as it was"


def test_a_simulation_in_the_middle_is_refused(cube, scene, tmp_path: pathlib.Path) -> None:
    bpy.ops.rigidbody.object_add()
    scene.frame_start = 1
    assert len(export(tmp_path).views) == 4
    for frame in range(1, 15):
        scene.frame_set(frame)
    with pytest.raises(BadInput, match="Bake To Keyframes"):
        export(tmp_path)


def test_samples(cube, scene) -> None:
    dataset._set_up(scene, DatasetSettings(samples=7))
    assert scene.cycles.samples == 7
    dataset._set_up(scene, DatasetSettings(samples=0))
    assert scene.cycles.samples == 7


def test_notes(cube, scene, tmp_path: pathlib.Path, capsys) -> None:
    bpy.ops.mesh.primitive_plane_add(size=900.0)
    export(tmp_path)
    printed = capsys.readouterr().out
    assert "motion blur is off" in printed
    assert "too large to be framed: Plane" in printed
    assert "white balance" not in printed
    scene.view_settings.view_transform = "AgX"
    scene.view_settings.look = "AgX - Punchy"
    export(tmp_path)
    assert "look, curves and white balance stay" in capsys.readouterr().out


def test_progress(cube, tmp_path: pathlib.Path) -> None:
    seen = list(dataset.export_steps(bpy.context, FOUR, SMALL, None, tmp_path))
    assert [status.text.split(" (")[0].split(",")[0] for status in seen[1:]] == [
        f"View {number} of 4" for number in (1, 2, 3, 4)
    ]
    assert [status.fraction for status in seen[1:]] == [0.0, 0.25, 0.5, 0.75]
    assert seen[2].text.endswith(" s left")


def test_the_operator(cube, scene, tmp_path: pathlib.Path) -> None:
    scene.neural_fields.rig.views = 3
    scene.neural_fields.dataset.resolution = 8
    result = bpy.ops.neural_fields.export_dataset(output=str(tmp_path))
    assert result == {"FINISHED"}
    assert len(transforms.read(tmp_path / "dataset").views) == 3
    bpy.data.objects.remove(cube)
    with pytest.raises(RuntimeError, match="nothing to render"):
        bpy.ops.neural_fields.export_dataset(output=str(tmp_path))


def test_nothing_is_exported_where_another_blender_trains(
    start_scene, no_renders, tmp_path
) -> None:
    (tmp_path / "run").mkdir()
    for held in (tmp_path, tmp_path / "run"):
        with protocol.held(held), pytest.raises(RuntimeError, match="wait for its end"):
            bpy.ops.neural_fields.export_dataset(output=str(tmp_path))
    assert no_renders == []
