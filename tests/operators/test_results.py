"""Mesh and sequence come back named, placed and coloured, and leave nothing else behind."""

from __future__ import annotations

import json
import pathlib
import struct

import bpy
import known_colours
import numpy as np
import pytest
from neural_fields.neural_backend.protocol import BadInput
from neural_fields.operators import colour, glb, results
from neural_fields.operators.scratch import RESULT_MARK as MARK


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
    parts = {
        b"": "it is empty",
        b"no glTF file at all": r"it is no binary glTF file \(\.glb\)",
        data[:9]: "it is cut short",
        data[:40]: "it is cut short",
        data[:-4]: "it is cut short",
        data[:4] + b"\1" + data[5:]: "it is of glTF 1, not 2",
        data[:30] + b"\xff" + data[31:]: "it is damaged",
    }
    for part, said in parts.items():
        (tmp_path / "quad.glb").write_bytes(part)
        line = rf"quad\.glb: not a mesh that can be read: {said}; extract it again"
        with pytest.raises(BadInput, match=line):
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


def test_a_mesh_looks_as_its_views_did(start_scene, tmp_path) -> None:
    known_colours.check(known_colours.errors("neural_fields", "CYCLES", tmp_path))


@pytest.mark.parametrize("by_file", [False, True])
def test_the_run_says_how_colours_were_displayed(fake, start_scene, output, by_file) -> None:
    display = {"display_device": "sRGB", "view_transform": "Filmic", "exposure": 1.0, "gamma": 1.0}
    (output / "run" / "config.json").write_text(json.dumps({"display": display}))
    fake.write_glb(output / "mesh.glb")
    if by_file:
        bpy.ops.neural_fields.import_mesh(filepath=str(output / "mesh.glb"))
    else:
        bpy.ops.neural_fields.import_mesh(output=str(output))
    attributes = bpy.data.objects["the run"].data.color_attributes
    assert [each.name for each in attributes] == ["Color", "Light"]
    assert attributes.active_color.name == "Color", "what the solid view shows"
    np.testing.assert_allclose(attributes["Color"].data[3].color, [0.2, 0.4, 0.6, 1.0], atol=1e-6)
    expected = colour.Display(view_transform="Filmic", exposure=1.0)
    light = expected.light(np.array([[0.2, 0.4, 0.6]], np.float32))[0]
    np.testing.assert_allclose(attributes["Light"].data[3].color, [*light, 1.0], rtol=1e-5)


@pytest.fixture
def textured(tmp_path, fake) -> pathlib.Path:
    """The quad with a texture, red in its upper left quarter and else green, and a seam."""
    fake.write_glb(tmp_path / "quad.glb")
    color, normal = np.zeros((2, 64, 64, 3), np.uint8)
    color[:] = (0, 188, 0)
    color[:32, :32] = (188, 0, 0)
    normal[:] = (218, 128, 218)  # 45 degrees towards +u
    blobs = [np.array([[0, 1], [1, 1], [1, 0], [0, 0]], "<f4").tobytes()]
    blobs.append(np.tile(np.array([0, 0, 1], "<f4"), (4, 1)).tobytes())
    for picture in (color, normal):
        data = fake.picture(picture)
        blobs.append(data + b"\0" * (-len(data) % 4))

    def add(content):
        start = content["buffers"][0]["byteLength"]
        for blob in blobs:
            view = {"buffer": 0, "byteOffset": start, "byteLength": len(blob)}
            content["bufferViews"].append(view)
            start += len(blob)
        content["buffers"][0]["byteLength"] = start
        for kind, view in (("VEC2", 3), ("VEC3", 4)):
            accessor = {"bufferView": view, "componentType": 5126, "count": 4, "type": kind}
            content["accessors"].append(accessor)
        primitive = content["meshes"][0]["primitives"][0]
        primitive["attributes"] = {"POSITION": 0, "TEXCOORD_0": 3, "NORMAL": 4}
        primitive["material"] = 0
        content["materials"] = [
            {
                "pbrMetallicRoughness": {"baseColorTexture": {"index": 0}},
                "normalTexture": {"index": 1},
            }
        ]
        content["textures"] = [{"source": 0}, {"source": 1}]
        kind = "image/png"
        content["images"] = [{"bufferView": view, "mimeType": kind} for view in (5, 6)]

    file = edited(tmp_path / "quad.glb", add)
    data = file.read_bytes() + b"".join(blobs)
    (length,) = struct.unpack_from("<I", data, 12)
    size = struct.pack("<I", len(data) - 28 - length)
    file.write_bytes(data[: 20 + length] + size + data[24 + length :])
    return file


def seen(scene, output: pathlib.Path) -> np.ndarray:
    """[32, 32, 3] linear light of the quad from the front, and of nothing else but lights."""
    for item in [item for item in scene.objects if item.type == "MESH" and not item.get(MARK)]:
        bpy.data.objects.remove(item)
    camera = scene.camera
    camera.location, camera.rotation_euler = (0.5, 0.0, 1.5), (np.pi / 2, 0.0, 0.0)
    camera.data.type, camera.data.ortho_scale = "ORTHO", 3.0
    scene.render.engine = "CYCLES"
    scene.cycles.samples, scene.cycles.use_denoising = 16, False
    scene.cycles.max_bounces = 0
    scene.render.resolution_x = scene.render.resolution_y = 32
    scene.render.image_settings.file_format = "OPEN_EXR"
    scene.render.filepath = str(output / "render.exr")
    scene.world.node_tree.nodes["Background"].inputs[1].default_value = 0.0
    bpy.ops.render.render(write_still=True)
    image = bpy.data.images.load(str(output / "render.exr"), check_existing=False)
    image.colorspace_settings.name = "Non-Color"
    return np.array(image.pixels[:]).reshape(32, 32, -1)[:, :, :3]


def test_a_texture_is_shown_as_it_is(textured, start_scene, tmp_path) -> None:
    bpy.ops.neural_fields.import_mesh(filepath=str(textured))
    picture = seen(start_scene, tmp_path)
    # sRGB 188 is .503 of linear light; the lamp that shines on it changes nothing
    np.testing.assert_allclose(picture[28, 12], [0.503, 0.0, 0.0], atol=0.01)
    np.testing.assert_allclose(picture[4, 12], [0.0, 0.503, 0.0], atol=0.01)
    np.testing.assert_allclose(picture[28, 19], [0.0, 0.503, 0.0], atol=0.01)
    material = bpy.data.objects["quad"].active_material
    active = material.node_tree.nodes.active
    assert active.image.size[:] == (64, 64), "what the solid view's Texture shows"
    assert active.image.packed_file is not None
    assert active.image.colorspace_settings.name == "sRGB"
    assert len(bpy.data.objects["quad"].data.color_attributes) == 0


def test_without_its_baked_light_the_texture_is_lit(textured, start_scene, tmp_path) -> None:
    """By a sun from the right the normal map's surface, that turns to the right, is seen straight;
    by one from the left not at all."""
    bpy.ops.neural_fields.import_mesh(filepath=str(textured))
    nodes = bpy.data.objects["quad"].active_material.node_tree.nodes
    nodes[results.BAKED_LIGHT].outputs[0].default_value = 0.0
    sun = next(item for item in start_scene.objects if item.type == "LIGHT")
    sun.data = bpy.data.lights.new("sun", "SUN")
    sun.data.energy = np.pi
    found = []
    for side in (1.0, -1.0):
        sun.rotation_euler = (np.pi / 2, 0.0, side * np.pi / 4)
        found.append(seen(start_scene, tmp_path)[4, 12, 1])
    assert found == pytest.approx([0.503, 0.0], abs=0.03)


def test_seams_are_welded_and_normals_kept(textured, tmp_path, start_scene) -> None:
    def part(content):
        """The second triangle gets corners of its own in the texture."""
        content["accessors"][2]["count"] = 3
        primitive = content["meshes"][0]["primitives"][0]
        content["accessors"].append(content["accessors"][2] | {"byteOffset": 12})
        primitive["indices"] = 2
        content["meshes"][0]["primitives"].append(primitive | {"indices": 5})

    read = glb.read(edited(textured, part))
    assert len(read.vertices) == 4, "both parts have all four"
    assert len(read.faces) == 2
    assert read.uv.shape == (6, 2)
    np.testing.assert_allclose(read.uv[:3], [[0, 0], [1, 0], [1, 1]])
    assert read.pictures == {}, "two parts may have two textures"
    np.testing.assert_allclose(read.normals, np.tile([0.0, -1.0, 0.0], (4, 1)), atol=1e-6)


def test_a_cut_picture_is_refused(textured) -> None:
    def cut(content):
        content["bufferViews"][5]["byteLength"] += 10**6

    with pytest.raises(BadInput, match="a picture is cut short"):
        glb.read(edited(textured, cut))


def test_a_second_import_of_a_texture_leaves_nothing_behind(
    textured, start_scene, fake, counts
) -> None:
    bpy.ops.neural_fields.import_mesh(filepath=str(textured))
    before = counts()
    names = sorted(image.name for image in bpy.data.images)
    bpy.ops.neural_fields.import_mesh(filepath=str(textured))
    assert counts() == before
    assert sorted(image.name for image in bpy.data.images) == names
    fake.write_glb(textured)
    bpy.ops.neural_fields.import_mesh(filepath=str(textured))
    assert counts()["images"] == before["images"] - 2


def test_a_second_import_replaces_the_first(fake, start_scene, output, counts) -> None:
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


def test_a_moved_mesh_is_replaced_where_it_is(fake, start_scene, output, counts) -> None:
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
        bpy.ops.neural_fields.import_mesh(output=str(output.parent / "none"))
    result = start_scene.neural_fields.result
    result.mesh_resolution, result.mesh_texture, result.mesh_faces = 33, 512, 7000
    bpy.ops.neural_fields.import_mesh(output=str(output))
    flags = ["--resolution", "33", "--texture", "512", "--faces", "7000"]
    assert fake.calls[-1][-6:] == flags
    assert len(fake.calls) == 2
    bpy.ops.neural_fields.import_mesh(output=str(output), extract=True)
    assert len(fake.calls) == 3


def test_a_failed_extraction_leaves_the_scene_as_it_was(fake, start_scene, output, counts) -> None:
    before = counts()
    fake.fails("no mesh")
    with pytest.raises(RuntimeError, match="the field is empty; train longer"):
        bpy.ops.neural_fields.import_mesh(output=str(output))
    assert counts() == before


def test_a_file_of_one_s_own(fake, start_scene, tmp_path) -> None:
    fake.write_glb(tmp_path / "chair.glb")
    bpy.ops.neural_fields.import_mesh(filepath=str(tmp_path / "chair.glb"))
    assert "chair" in bpy.data.objects


def test_anothers_mesh_is_not_replaced(fake, start_scene, no_renders, tmp_path) -> None:
    file = tmp_path / "it" / "mesh.glb"
    file.parent.mkdir()
    file.write_bytes(b"glTF of somebody else")
    with pytest.raises(RuntimeError, match=r"holds mesh\.glb, which Neural Fields did not write"):
        bpy.ops.neural_fields.train(output=str(file.parent), results={"MESH"})
    assert file.read_bytes() == b"glTF of somebody else"
    assert fake.commands == []  # said before any work
    file.unlink()
    for _ in range(2):  # our own is replaced
        assert bpy.ops.neural_fields.train(output=str(file.parent), results={"MESH"}) == {
            "FINISHED"
        }
