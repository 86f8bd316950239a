"""Image sequences come back as one image, and are shown where they are asked for."""

from __future__ import annotations

import json

import bpy
import numpy as np
import pytest
from neural_fields.neural_backend.dataset.transforms import Intrinsics, View
from neural_fields.operators import knobs, place, sequence

VIEW = View("a.png", np.eye(4), Intrinsics(64, 64, 80.0, 80.0, 32.0, 32.0))


def test_the_sequence_s_cameras(monkeypatch, start_scene) -> None:
    asked = []
    monkeypatch.setattr(sequence.rig, "camera_is_animated", lambda scene: asked.append("auto"))
    monkeypatch.setattr(sequence.rig, "orbit_views", lambda *a: (VIEW,) * a[3])
    monkeypatch.setattr(sequence.rig, "camera_path_steps", lambda *a: iter(()))
    overrides = {"result": {"sequence_frames": 9}}

    def views() -> object:
        settings = knobs.settings_of(start_scene, overrides)
        steps = sequence.views_steps(place.place_of(bpy.context), settings)
        with pytest.raises(StopIteration) as end:
            next(steps)
        return end.value.value

    start_scene.frame_start = 101
    assert [each.file for each in views()] == [f"{frame:04d}.png" for frame in range(101, 110)]
    assert asked == ["auto"]
    monkeypatch.setattr(sequence.rig, "camera_is_animated", lambda scene: True)
    assert views() is None
    start_scene.neural_fields.result.sequence_path = "orbit"
    assert len(views()) == 9


def test_the_sequence_arrives_as_one_image(fake, start_scene, output, no_renders) -> None:
    (output / "sequence").mkdir()
    for name in ("0004.png", "0009.png"):
        (output / "sequence" / name).write_bytes(fake.picture())
    longer = {"frames": [{"file_path": "0009.png"}, {"file_path": "../run/config.json"}]}
    longer |= {"neural_fields": {"version": 1}}
    (output / "sequence_cameras.json").write_text(json.dumps(longer))
    bpy.ops.wm.save_as_mainfile(filepath=str(output.parent / "scene.blend"))
    for _ in range(2):
        bpy.ops.neural_fields.render_sequence(output=str(output))
    names = [frame.name for frame in sorted((output / "sequence").iterdir())]
    assert names == ["0001.png", "0002.png", "0003.png", "0004.png"], "the older sequence is gone"
    images = [image for image in bpy.data.images if image.source == "SEQUENCE"]
    assert [image.name for image in images] == ["the run"]
    assert images[0].filepath == "//the run/sequence/0001.png"
    assert (images[0][sequence.FIRST_FRAME], images[0][sequence.FRAMES]) == (1, 3)
    bpy.ops.wm.save_mainfile()
    bpy.ops.wm.open_mainfile(filepath=bpy.data.filepath)
    assert "the run" in bpy.data.images, "an image without users survives a save"


def test_a_person_s_own_frames_stay(fake, start_scene, output, no_renders) -> None:
    own = output / "sequence" / "0002.png"
    own.parent.mkdir()
    own.write_bytes(b"a render of one's own")
    line = r"sequence: holds 0002\.png, which Neural Fields did not write.*choose another Output"
    for operator in (bpy.ops.neural_fields.render_sequence, bpy.ops.neural_fields.train):
        with pytest.raises(RuntimeError, match=line):
            operator(output=str(output))
    assert own.read_bytes() == b"a render of one's own"
    cameras = output / "sequence_cameras.json"
    cameras.write_text('{"frames": [{"file_path": "0002.png"}]}')
    for operator in (bpy.ops.neural_fields.render_sequence, bpy.ops.neural_fields.train):
        with pytest.raises(RuntimeError, match=r"holds sequence_cameras\.json, which Neural"):
            operator(output=str(output))
    assert own.exists()
    assert cameras.read_text().startswith('{"frames"')
    assert fake.commands == [], "found before anything is rendered"


def test_a_sequence_needs_a_run(fake, start_scene, output, no_renders) -> None:
    with pytest.raises(RuntimeError, match="no trained field is there yet"):
        bpy.ops.neural_fields.render_sequence(output=str(output.parent / "none"))


# --- put to use -----------------------------------------------------------------------------------

COLOURS = {101: (255, 0, 0), 102: (0, 255, 0), 103: (0, 0, 255)}
PLACES = ("CAMERA", "COMPOSITOR", "SEQUENCER")


@pytest.fixture
def rendered(fake, start_scene, output, no_renders) -> str:
    """A sequence of three frames, 101 to 103, each a pixel of its own colour; its output folder."""
    start_scene.frame_start = 101
    bpy.ops.neural_fields.render_sequence(output=str(output))
    for frame, colour in COLOURS.items():
        (output / "sequence" / f"{frame:04d}.png").write_bytes(fake.picture([[colour] * 4] * 4))
    return str(output)


def tree_of(scene: bpy.types.Scene) -> bpy.types.NodeTree:
    return getattr(scene, "compositing_node_group", None) or scene.node_tree


def strips_of(scene: bpy.types.Scene) -> list:
    editor = scene.sequence_editor
    return list(editor.strips if hasattr(editor, "strips") else editor.sequences)


def shown(scene: bpy.types.Scene, frame: int, folder, view: str = "Standard") -> list[int]:
    """The colour of a frame's picture, sRGB in levels."""
    scene.frame_set(frame)
    render = scene.render
    render.engine, render.resolution_x, render.resolution_y = "CYCLES", 4, 4
    scene.cycles.samples, scene.cycles.use_denoising = 1, False
    scene.view_settings.view_transform = view
    render.image_settings.file_format = "PNG"
    render.filepath = str(folder / f"seen {frame}.png")
    bpy.ops.render.render(write_still=True)
    image = bpy.data.images.load(render.filepath)
    values = np.array(image.pixels[:]).reshape(4, 4, -1)[2, 2, :3]
    bpy.data.images.remove(image)
    return np.round(255.0 * values).astype(int).tolist()


def test_the_sequencer_shows_each_picture_at_its_frame(rendered, start_scene, tmp_path) -> None:
    for _ in range(2):
        assert bpy.ops.neural_fields.use_sequence(where="SEQUENCER", output=rendered) == {
            "FINISHED"
        }
    (strip,) = strips_of(start_scene)
    assert (strip.name, strip.channel) == ("the run", 1)
    for frame, colour in COLOURS.items():
        assert shown(start_scene, frame, tmp_path) == list(colour)


def test_the_compositor_shows_each_picture_at_its_frame(rendered, start_scene, tmp_path) -> None:
    for _ in range(2):
        bpy.ops.neural_fields.use_sequence(where="COMPOSITOR", output=rendered)
    tree = tree_of(start_scene)
    (node,) = [node for node in tree.nodes if node.bl_idname == "CompositorNodeImage"]
    kinds = {"CompositorNodeComposite", "NodeGroupOutput"}
    (end,) = [node for node in tree.nodes if node.bl_idname in kinds]
    assert end.inputs[0].links[0].from_node.bl_idname == "CompositorNodeRLayers", "as before"
    for layer in start_scene.view_layers:
        layer.use = True
    bpy.ops.mesh.primitive_cube_add()
    tree.links.new(node.outputs["Image"], end.inputs[0])
    for frame, colour in COLOURS.items():
        assert shown(start_scene, frame, tmp_path) == list(colour)


@pytest.mark.parametrize("where", ["COMPOSITOR", "SEQUENCER"])
def test_a_sequence_looks_as_its_views_did(rendered, fake, start_scene, output, where) -> None:
    """Under AgX, where it is rendered and where images are shown as they are."""
    display = {"display_device": "sRGB", "view_transform": "AgX", "exposure": 0.0, "gamma": 1.0}
    (output / "run" / "config.json").write_text(json.dumps({"display": display}))
    colour = (140, 110, 90)
    for frame in COLOURS:
        (output / "sequence" / f"{frame:04d}.png").write_bytes(fake.picture([[colour] * 4] * 4))
    for _ in range(2):
        bpy.ops.neural_fields.use_sequence(where=where, output=rendered)
    assert bpy.data.images["the run"].colorspace_settings.name == "sRGB"
    for layer in start_scene.view_layers:
        layer.use = True
    if where == "COMPOSITOR":
        tree = tree_of(start_scene)
        (node,) = [node for node in tree.nodes if node.bl_idname == "CompositorNodeImage"]
        kinds = {"CompositorNodeComposite", "NodeGroupOutput"}
        (end,) = [node for node in tree.nodes if node.bl_idname in kinds]
        tree.links.new(node.outputs["Image"], end.inputs[0])
    assert shown(start_scene, 102, output, "AgX") == pytest.approx(colour, abs=2)
    # another rendering of the sequence, from views that were displayed as they are
    (output / "run" / "config.json").unlink()
    bpy.ops.neural_fields.use_sequence(where="CAMERA", output=rendered)
    assert shown(start_scene, 102, output, "Standard") == pytest.approx(colour, abs=1)


def test_a_camera_shows_each_picture_at_its_frame(rendered, start_scene) -> None:
    data = start_scene.camera.data
    own = data.background_images.new()
    for _ in range(2):
        bpy.ops.neural_fields.use_sequence(where="CAMERA", output=rendered)
    first, background = data.background_images
    assert first.image is None, "the person's own"
    assert first == own
    user = background.image_user
    assert background.image == bpy.data.images["the run"]
    # frame 101 is the first of three and shows picture 101
    assert (user.frame_start, user.frame_duration, user.frame_offset) == (101, 3, 100)
    assert data.show_background_images
    assert background.show_background_image
    bpy.data.objects.remove(start_scene.camera)
    with pytest.raises(RuntimeError, match="the scene has no camera: add one"):
        bpy.ops.neural_fields.use_sequence(where="CAMERA", output=rendered)


def test_a_longer_sequence_is_shown_where_the_last_one_was(rendered, start_scene) -> None:
    for where in PLACES:
        bpy.ops.neural_fields.use_sequence(where=where, output=rendered)
    node = next(n for n in tree_of(start_scene).nodes if n.bl_idname == "CompositorNodeImage")
    background = start_scene.camera.data.background_images[0]
    moved = start_scene.camera.data.background_images.new()
    moved.image = background.image
    moved.image_user.frame_start = 7
    start_scene.frame_start = 5
    bpy.ops.neural_fields.render_sequence(output=rendered)
    for user in (node, background.image_user):
        assert (user.frame_start, user.frame_duration, user.frame_offset) == (5, 3, 4)
    assert moved.image_user.frame_start == 7, "what was set otherwise stays"
    (strip,) = strips_of(start_scene)
    assert [element.filename for element in strip.elements] == ["0005.png", "0006.png", "0007.png"]
    assert sequence._span(strip) == (5, 3)


def test_strips_and_nodes_of_one_s_own_stay(rendered, start_scene, output) -> None:
    start_scene.sequence_editor_create()
    strips = sequence._strips(start_scene.sequence_editor)
    frame = str(output / "sequence" / "0102.png")
    own = strips.new_image("own", frame, 1, 102)
    sequence._strips(start_scene.sequence_editor).new_image("later", frame, 2, 200)
    tree = sequence._compositor(start_scene)
    for item in list(tree.nodes):
        tree.nodes.remove(item)
    blur = tree.nodes.new("CompositorNodeBlur")
    blur.location = (50.0, 70.0)
    for where in PLACES:
        for _ in range(2):
            bpy.ops.neural_fields.use_sequence(where=where, output=rendered)
    channels = {strip.name: strip.channel for strip in strips_of(start_scene)}
    assert channels == {"own": 1, "later": 2, "the run": 2}, "the first that is free there"
    assert [element.filename for element in own.elements] == ["0102.png"]
    names = [node.bl_idname for node in tree_of(start_scene).nodes]
    assert names == ["CompositorNodeBlur", "CompositorNodeImage"]
    assert tuple(blur.location) == (50.0, 70.0)


@pytest.mark.parametrize("where", PLACES)
def test_undo_takes_a_sequence_away_again(rendered, start_scene, where) -> None:
    def found() -> tuple:
        scene = bpy.context.scene
        editor = scene.sequence_editor
        trees = len([n for n in bpy.data.node_groups if n.bl_idname == "CompositorNodeTree"])
        tree = getattr(scene, "compositing_node_group", None) or getattr(scene, "node_tree", None)
        backgrounds = len(scene.camera.data.background_images)
        return (
            trees,
            len(tree.nodes) if tree else 0,
            len(strips_of(scene)) if editor else 0,
            backgrounds,
        )

    bpy.ops.ed.undo_push(message="before")
    before = found()
    bpy.ops.neural_fields.use_sequence(where=where, output=rendered)
    bpy.ops.ed.undo_push(message="use")
    after = found()
    assert after != before
    bpy.ops.ed.undo()
    assert found() == before
    bpy.ops.ed.redo()
    assert found() == after
    bpy.ops.neural_fields.use_sequence(where=where, output=rendered)
    assert found() == after


def test_there_must_be_a_sequence(fake, start_scene, output) -> None:
    for where in PLACES:
        with pytest.raises(RuntimeError, match="holds no frames; render the sequence first"):
            bpy.ops.neural_fields.use_sequence(where=where, output=str(output))
    assert not strips_of(start_scene)


def test_an_earlier_run_has_results_of_its_own(fake, start_scene, output, no_renders) -> None:
    earlier = output / "run.1"
    earlier.mkdir()
    (earlier / "checkpoint.safetensors").write_bytes(b"weights")
    for run in ("", str(earlier)):
        bpy.ops.neural_fields.import_mesh(output=str(output), run=run)
        bpy.ops.neural_fields.render_sequence(output=str(output), run=run)
        bpy.ops.neural_fields.use_sequence(output=str(output), run=run)
    assert [call[1] for call in fake.calls if call[0] in ("mesh", "render")] == [
        *[str(output / "run")] * 2,
        *[str(earlier)] * 2,
    ]
    made = {item.name for item in output.iterdir()}
    assert made == {
        *("run", "mesh.glb", "sequence", "sequence_cameras.json"),
        *("run.1", "mesh.1.glb", "sequence.1", "sequence_cameras.1.json"),
    }
    assert {"the run", "the run.1"} <= {item.name for item in start_scene.objects}
    images = [each.image.name for each in start_scene.camera.data.background_images]
    assert images == ["the run", "the run.1"]
