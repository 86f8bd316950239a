"""Mesh and sequence come back named, placed and coloured, and leave nothing else behind."""

from __future__ import annotations

import json
import pathlib
import struct

import bpy
import numpy as np
import pytest
from neural_fields.neural_backend.protocol import BadInput
from neural_fields.operators import glb, results


@pytest.fixture
def output(tmp_path: pathlib.Path) -> pathlib.Path:
    folder = tmp_path / "the run"
    (folder / "run").mkdir(parents=True)
    return folder


def counts() -> dict[str, int]:
    kinds = ("meshes", "materials", "objects", "collections", "images", "node_groups", "scenes")
    return {kind: len(getattr(bpy.data, kind)) for kind in kinds}


def test_glb_is_z_up_and_linear(fake, tmp_path: pathlib.Path) -> None:
    fake.write_glb(tmp_path / "quad.glb")
    read = glb.read(tmp_path / "quad.glb")
    np.testing.assert_allclose(read.vertices, [[0, 2, 0], [1, 2, 0], [1, 2, 3], [0, 2, 3]])
    np.testing.assert_array_equal(read.faces, [[0, 1, 2], [0, 2, 3]])
    np.testing.assert_allclose(read.colours[3], [0.2, 0.4, 0.6, 1.0], atol=1e-6)


def edited(source: pathlib.Path, change) -> pathlib.Path:
    """The file with its json changed."""
    data = source.read_bytes()
    (length,) = struct.unpack_from("<I", data, 12)
    content = json.loads(data[20 : 20 + length])
    change(content)
    text = json.dumps(content).encode()
    text += b" " * (-len(text) % 4)
    head = data[:12] + struct.pack("<I4s", len(text), b"JSON")
    source.write_bytes(head + text + data[20 + length :])
    return source


@pytest.mark.parametrize("matrix", [True, False])
def test_glb_nodes_are_placed(fake, tmp_path: pathlib.Path, matrix: bool) -> None:
    fake.write_glb(tmp_path / "quad.glb")

    def lift(content):
        if matrix:  # columns; up is Y
            content["nodes"][0]["matrix"] = [2, 0, 0, 0, 0, 2, 0, 0, 0, 0, 2, 0, 0, 5, 0, 1]
        else:
            content["nodes"][0] |= {"translation": [0, 5, 0], "scale": [2, 2, 2]}

    read = glb.read(edited(tmp_path / "quad.glb", lift))
    np.testing.assert_allclose(read.vertices[2], [2, 4, 11])


@pytest.mark.parametrize(
    "change",
    [
        lambda content: content["accessors"][0].update(count=5),
        lambda content: content["accessors"][2].update(count=3, byteOffset=16),
        lambda content: content["bufferViews"][2].update(byteOffset=0),
        lambda content: content["nodes"][1].update(children=[0]),
        lambda content: content["nodes"][0].update(children=[7]),
        lambda content: content["accessors"][0].update(componentType=1),
        lambda content: content["meshes"][0].update(primitives=[]),
        lambda content: content.pop("scenes"),
    ],
)
def test_a_hostile_glb_is_refused(fake, tmp_path: pathlib.Path, change) -> None:
    fake.write_glb(tmp_path / "quad.glb")
    with pytest.raises(BadInput, match=r"quad\.glb: not a mesh that can be read"):
        glb.read(edited(tmp_path / "quad.glb", change))


def test_a_damaged_glb_is_refused(fake, tmp_path: pathlib.Path) -> None:
    fake.write_glb(tmp_path / "quad.glb")
    data = (tmp_path / "quad.glb").read_bytes()
    for part in (b"", b"no glTF file at all", data[:40], data[:-4]):
        (tmp_path / "quad.glb").write_bytes(part)
        with pytest.raises(BadInput, match="not a mesh that can be read"):
            glb.read(tmp_path / "quad.glb")
    with pytest.raises(BadInput, match="cannot be read"):
        glb.read(tmp_path / "none.glb")


def test_the_mesh_arrives_named_placed_and_coloured(fake, start_scene, output) -> None:
    fake.write_glb(output / "mesh.glb")
    assert bpy.ops.neural_fields.import_mesh(output=str(output)) == {"FINISHED"}
    mesh = bpy.data.objects["the run"]
    assert [collection.name for collection in mesh.users_collection] == ["Neural Fields"]
    assert "Neural Fields" in start_scene.collection.children
    corners = [tuple(mesh.matrix_world @ vertex.co) for vertex in mesh.data.vertices]
    np.testing.assert_allclose(corners, [[0, 2, 0], [1, 2, 0], [1, 2, 3], [0, 2, 3]])
    assert tuple(mesh.data.polygons[0].normal) == (0.0, -1.0, 0.0)
    attribute = mesh.data.color_attributes.active_color
    np.testing.assert_allclose(attribute.data[3].color, [0.2, 0.4, 0.6, 1.0], atol=1e-6)
    assert fake.commands == [], "a mesh that is there is not extracted again"


def test_the_material_shows_the_colours_unlit(fake, start_scene, output) -> None:
    fake.write_glb(output / "mesh.glb", scale=100.0)
    bpy.ops.neural_fields.import_mesh(output=str(output))
    for item in [item for item in start_scene.objects if item.name not in ("the run", "Camera")]:
        bpy.data.objects.remove(item)
    camera = start_scene.camera
    camera.location, camera.rotation_euler = (33.0, 0.0, 150.0), (np.pi / 2, 0.0, 0.0)
    camera.data.clip_end = 1000.0
    camera.data.type, camera.data.ortho_scale = "ORTHO", 60.0
    start_scene.render.engine = "CYCLES"
    start_scene.cycles.samples, start_scene.cycles.use_denoising = 1, False
    start_scene.render.resolution_x = start_scene.render.resolution_y = 8
    start_scene.render.image_settings.file_format = "OPEN_EXR"
    start_scene.render.filepath = str(output / "render.exr")
    start_scene.world.node_tree.nodes["Background"].inputs[1].default_value = 0.0
    bpy.ops.render.render(write_still=True)
    image = bpy.data.images.load(str(output / "render.exr"))
    image.colorspace_settings.name = "Non-Color"
    middle = np.array(image.pixels[:]).reshape(8, 8, -1)[4, 4, :3]
    assert middle.sum() == pytest.approx(1.0, abs=0.35), "corner colours, mixed, without any light"
    assert (middle > 0.02).all()


def test_a_second_import_replaces_the_first(fake, start_scene, output) -> None:
    fake.write_glb(output / "mesh.glb")
    bpy.ops.neural_fields.import_mesh(output=str(output))
    mesh = bpy.data.objects["the run"]
    mesh.location.x = 5.0
    before = counts()
    fake.write_glb(output / "mesh.glb", scale=2.0)
    bpy.ops.neural_fields.import_mesh(output=str(output))
    assert counts() == before
    assert bpy.data.objects["the run"] == mesh
    assert mesh.data.name == "the run"
    assert mesh.data.materials[0].name == "the run"
    assert max(vertex.co.z for vertex in mesh.data.vertices) == 6.0
    assert mesh.location.x == 5.0, "where the person moved it, it stays"


def test_a_moved_mesh_is_replaced_where_it_is(fake, start_scene, output) -> None:
    fake.write_glb(output / "mesh.glb")
    bpy.ops.neural_fields.import_mesh(output=str(output))
    mesh = bpy.data.objects["the run"]
    bpy.data.collections["Neural Fields"].objects.unlink(mesh)
    start_scene.collection.objects.link(mesh)
    before = counts()
    bpy.ops.neural_fields.import_mesh(output=str(output))
    assert counts() == before
    assert [collection.name for collection in mesh.users_collection] == ["Scene Collection"]


def test_a_person_s_own_object_of_that_name_stays(fake, start_scene, output) -> None:
    own = bpy.data.objects["Cube"]
    own.name = "the run"
    data = own.data
    fake.write_glb(output / "mesh.glb")
    bpy.ops.neural_fields.import_mesh(output=str(output))
    assert own.data == data
    assert len(bpy.data.collections["Neural Fields"].objects) == 1


def test_selection_and_mode_are_left_alone(fake, start_scene, output) -> None:
    fake.write_glb(output / "mesh.glb")
    bpy.context.view_layer.objects.active = bpy.data.objects["Cube"]
    bpy.ops.object.mode_set(mode="EDIT")
    bpy.ops.neural_fields.import_mesh(output=str(output))
    assert bpy.context.mode == "EDIT_MESH"
    assert [item.name for item in bpy.context.selected_objects] == ["Cube"]
    bpy.ops.object.mode_set(mode="OBJECT")


def test_an_absent_or_old_mesh_is_extracted(fake, start_scene, output) -> None:
    with pytest.raises(RuntimeError, match="no trained field is there yet"):
        bpy.ops.neural_fields.import_mesh(output=str(output))
    (output / "run" / "checkpoint.safetensors").write_bytes(b"weights")
    start_scene.neural_fields.result.mesh_resolution = 33
    bpy.ops.neural_fields.import_mesh(output=str(output))
    assert fake.calls[-1][-2:] == ["--resolution", "33"]
    assert len(fake.calls) == 2
    bpy.ops.neural_fields.import_mesh(output=str(output), extract=True)
    assert len(fake.calls) == 3


def test_a_failed_extraction_leaves_the_scene_as_it_was(fake, start_scene, output) -> None:
    (output / "run" / "checkpoint.safetensors").write_bytes(b"weights")
    before = counts()
    fake.fails("no mesh")
    with pytest.raises(RuntimeError, match="the field is empty; train longer"):
        bpy.ops.neural_fields.import_mesh(output=str(output))
    assert counts() == before


def test_a_file_of_one_s_own(fake, start_scene, tmp_path) -> None:
    fake.write_glb(tmp_path / "chair.glb")
    bpy.ops.neural_fields.import_mesh(filepath=str(tmp_path / "chair.glb"))
    assert "chair" in bpy.data.objects


def test_the_sequence_arrives_as_one_image(fake, start_scene, output, no_renders) -> None:
    (output / "run" / "checkpoint.safetensors").write_bytes(b"weights")
    (output / "sequence").mkdir()
    for name in ("0004.png", "0009.png"):
        (output / "sequence" / name).write_bytes(fake.picture())
    longer = {"frames": [{"file_path": "0009.png"}, {"file_path": "../run/config.json"}]}
    (output / "sequence_cameras.json").write_text(json.dumps(longer))
    bpy.ops.wm.save_as_mainfile(filepath=str(output.parent / "scene.blend"))
    for _ in range(2):
        bpy.ops.neural_fields.render_sequence(output=str(output))
    names = [frame.name for frame in sorted((output / "sequence").iterdir())]
    assert names == ["0001.png", "0002.png", "0003.png", "0004.png"], "the older sequence is gone"
    images = [image for image in bpy.data.images if image.source == "SEQUENCE"]
    assert [image.name for image in images] == ["the run"]
    assert images[0].filepath == "//the run/sequence/0001.png"
    assert (images[0][results.FIRST_FRAME], images[0][results.FRAMES]) == (1, 3)
    bpy.ops.wm.save_mainfile()
    bpy.ops.wm.open_mainfile(filepath=bpy.data.filepath)
    assert "the run" in bpy.data.images, "an image without users survives a save"


def test_a_person_s_own_frames_stay(fake, start_scene, output, no_renders) -> None:
    (output / "run" / "checkpoint.safetensors").write_bytes(b"weights")
    own = output / "sequence" / "0002.png"
    own.parent.mkdir()
    own.write_bytes(b"a render of one's own")
    line = r"sequence: holds 0002\.png, which Neural Fields did not write.*choose another Output"
    for operator in (bpy.ops.neural_fields.render_sequence, bpy.ops.neural_fields.train):
        with pytest.raises(RuntimeError, match=line):
            operator(output=str(output))
    assert own.read_bytes() == b"a render of one's own"
    assert fake.commands == [], "found before anything is rendered"


def test_a_sequence_needs_a_run(fake, start_scene, output, no_renders) -> None:
    with pytest.raises(RuntimeError, match="no trained field is there yet"):
        bpy.ops.neural_fields.render_sequence(output=str(output))
