"""Mesh files: axes, colours, and what is not a mesh."""

import json
import struct

import imageio.v3
import numpy as np
import pytest
import trimesh

from neural_backend.extraction import mesh_file
from neural_backend.extraction.atlas import Atlas
from neural_backend.extraction.mesh_file import Mesh
from neural_backend.extraction.texture import Texture
from neural_backend.protocol import BadInput

VERTICES = np.array([[0.0, 0.0, 0.0], [2.0, 0.0, 0.0], [0.0, 3.0, 0.0], [0.0, 0.0, 4.0]])
FACES = np.array([[0, 2, 1], [0, 1, 3], [0, 3, 2], [1, 2, 3]])


PNG = imageio.v3.imwrite("<bytes>", np.zeros((2, 2, 3), np.uint8), extension=".png")


def tetrahedron(color=(0.5, 0.25, 1.0)):
    normals = np.tile([0.0, 0.0, 1.0], (4, 1))
    colors = None if color is None else np.tile(color, (4, 1))
    return Mesh(VERTICES, FACES, normals, colors)


def glb_parts(path):
    data = path.read_bytes()
    assert data[:4] == b"glTF"
    length = struct.unpack_from("<I", data, 12)[0]
    return json.loads(data[20 : 20 + length]), data[28 + length :]


def accessor(tree, blob, name, dtype, width):
    index = tree["meshes"][0]["primitives"][0]["attributes"][name]
    entry = tree["accessors"][index]
    view = tree["bufferViews"][entry["bufferView"]]
    start = view["byteOffset"]
    return entry, np.frombuffer(blob, dtype, entry["count"] * width, start).reshape(-1, width)


def test_glb_is_y_up_with_linear_colours(tmp_path):
    mesh_file.write(tmp_path / "thing.glb", tetrahedron())
    tree, blob = glb_parts(tmp_path / "thing.glb")
    _, position = accessor(tree, blob, "POSITION", "<f4", 3)
    assert position[3].tolist() == [0.0, 4.0, 0.0]  # Blender's up
    assert position[2].tolist() == [0.0, 0.0, -3.0]  # Blender's depth
    _, normal = accessor(tree, blob, "NORMAL", "<f4", 3)
    assert normal[0].tolist() == [0.0, 1.0, 0.0]
    entry, color = accessor(tree, blob, "COLOR_0", "<u2", 4)
    assert entry["componentType"] == 5123
    assert entry["normalized"] is True
    # sRGB 0.5 and 0.25 in linear light
    assert color[0] / 65535 == pytest.approx([0.21404, 0.05088, 1.0, 1.0], abs=1e-4)
    assert tree["materials"][0]["pbrMetallicRoughness"]["metallicFactor"] == 0.0
    assert {node.get("name") for node in tree["nodes"]} >= {"thing"}


def test_glb_without_colours_leaves_them_out(tmp_path):
    mesh_file.write(tmp_path / "thing.glb", tetrahedron(None))
    tree, _ = glb_parts(tmp_path / "thing.glb")
    assert set(tree["meshes"][0]["primitives"][0]["attributes"]) == {"POSITION", "NORMAL"}


@pytest.mark.parametrize(
    ("suffix", "normals"), [(".ply", b"property float nx"), (".obj", b"\nvn 0")]
)
def test_ply_and_obj_keep_blenders_axes_and_srgb(tmp_path, suffix, normals):
    path = tmp_path / f"thing{suffix}"
    mesh_file.write(path, tetrahedron())
    read = trimesh.load_mesh(path, process=False)
    assert np.asarray(read.vertices) == pytest.approx(VERTICES)
    assert np.asarray(read.faces).tolist() == FACES.tolist()
    assert np.asarray(read.visual.vertex_colors)[0, :3].tolist() == [128, 64, 255]
    assert normals in path.read_bytes()


@pytest.mark.parametrize("suffix", [".glb", ".ply", ".obj"])
def test_what_is_written_reads_back_in_place(tmp_path, suffix):
    path = tmp_path / f"thing{suffix}"
    mesh_file.write(path, tetrahedron())
    read = mesh_file.read(path)
    assert np.asarray(read.vertices) == pytest.approx(VERTICES)
    assert read.volume == pytest.approx(4.0)


def with_texture(color=True):
    """The tetrahedron, each face a corner of the picture for itself."""
    places = np.array([[0.1, 0.2], [0.4, 0.2], [0.1, 0.4]])
    shifts = np.array([[0.0, 0.0], [0.5, 0.0], [0.0, 0.5], [0.5, 0.5]])
    uv = (places + shifts[:, None]).reshape(-1, 2)
    laid = Atlas(uv, np.arange(12).reshape(4, 3), FACES.ravel())
    picture = np.zeros((8, 8, 3), np.uint8)
    picture[:4, 4:] = (255, 0, 0)  # face 3
    normal = np.full((8, 8, 3), (128, 128, 255), np.uint8)
    texture = Texture(laid, picture if color else None, normal)
    return Mesh(VERTICES, FACES, np.tile([0.0, 0.0, 1.0], (4, 1)), None, texture)


def test_a_glb_carries_its_textures(tmp_path):
    path = tmp_path / "thing.glb"
    mesh_file.write(path, with_texture())
    assert [file.name for file in tmp_path.iterdir()] == ["thing.glb"]
    tree, blob = glb_parts(path)
    _, uv = accessor(tree, blob, "TEXCOORD_0", "<f4", 2)
    assert uv[0] == pytest.approx([0.1, 0.8]), "from the upper left"
    material = tree["materials"][0]
    image = tree["images"][tree["textures"][material["normalTexture"]["index"]]["source"]]
    assert image["name"] == "thing_normal"
    read = trimesh.load_mesh(path, process=False)
    picture = np.asarray(read.visual.material.baseColorTexture)
    assert picture[0, 7].tolist() == [255, 0, 0]
    assert picture[7, 7].tolist() == [0, 0, 0]
    assert mesh_file.read(path).volume == pytest.approx(4.0)


def test_an_obj_has_its_textures_beside_it(tmp_path):
    path = tmp_path / "thing.obj"
    mesh_file.write(path, with_texture())
    names = {"thing.obj", "thing.mtl", "thing.png", "thing_normal.png"}
    assert {file.name for file in tmp_path.iterdir()} == names
    read = trimesh.load_mesh(path, process=False)
    assert len(read.faces) == 4
    assert read.visual.uv[:, 0].max() == pytest.approx(0.9)
    assert np.asarray(read.visual.material.image)[0, 7].tolist() == [255, 0, 0]
    assert "norm thing_normal.png" in (tmp_path / "thing.mtl").read_text()
    # each vertex once
    assert path.read_text().count("\nv ") == 4


def test_a_ply_names_its_texture(tmp_path):
    path = tmp_path / "thing.ply"
    mesh_file.write(path, with_texture())
    assert {file.name for file in tmp_path.iterdir()} >= {"thing.png", "thing_normal.png"}
    assert b"comment TextureFile thing.png\n" in path.read_bytes()
    read = trimesh.load_mesh(path, process=False)
    assert np.asarray(read.vertices)[read.faces] == pytest.approx(VERTICES[FACES])


@pytest.mark.parametrize("suffix", [".glb", ".obj", ".ply"])
def test_a_texture_without_colours_is_its_normals(tmp_path, suffix):
    mesh_file.write(tmp_path / f"thing{suffix}", with_texture(color=False))
    assert not (tmp_path / "thing.png").exists()
    if suffix == ".glb":
        material = glb_parts(tmp_path / "thing.glb")[0]["materials"][0]
        assert "baseColorTexture" not in material["pbrMetallicRoughness"]
        assert "normalTexture" in material


@pytest.mark.parametrize(
    ("suffix", "name"), [(".obj", "thing.mtl"), (".obj", "thing.png"), (".ply", "thing_normal.png")]
)
def test_files_of_others_beside_a_mesh_are_not_replaced(tmp_path, suffix, name):
    path = tmp_path / f"thing{suffix}"
    for _ in range(2):
        mesh_file.write(path, with_texture())
    before = path.read_bytes()
    for data in (b"# Blender MTL\nnewmtl steel\n", PNG):
        (tmp_path / name).write_bytes(data)
        line = rf"holds {name}, which Neural Fields did not write"
        with pytest.raises(BadInput, match=line):
            mesh_file.check_output(path, textured=True)
        with pytest.raises(BadInput, match=line):
            mesh_file.write(path, with_texture())
        assert (tmp_path / name).read_bytes() == data
        assert path.read_bytes() == before
    mesh_file.write(path, tetrahedron())
    mesh_file.write(path.with_suffix(".glb"), with_texture())


def test_a_mesh_moves_with_its_normals():
    turn = np.array(
        [[0.0, -2.0, 0.0, 1.0], [2.0, 0.0, 0.0, 0.0], [0.0, 0.0, 2.0, 0.0], [0, 0, 0, 1]]
    )
    mesh = Mesh(VERTICES, FACES, np.tile([1.0, 0.0, 0.0], (4, 1))).moved(turn)
    assert mesh.vertices[1] == pytest.approx([1.0, 4.0, 0.0])
    assert mesh.normals[0] == pytest.approx([0.0, 1.0, 0.0])


def test_unknown_suffix_is_refused(tmp_path):
    with pytest.raises(BadInput, match=r"\.fbx"):
        mesh_file.write(tmp_path / "thing.fbx", tetrahedron())


def test_a_failing_write_leaves_nothing(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pathlib.Path.write_bytes", full)
    with pytest.raises(BadInput, match="No space left"):
        mesh_file.write(tmp_path / "thing.glb", tetrahedron())
    assert list(tmp_path.iterdir()) == []


BROKEN = {
    "no_faces.obj": "v 0 0 0\nv 1 0 0\nv 0 1 0\n",
    "empty.ply": "",
    "noise.stl": "\x00\x01garbage",
    "flat.obj": "v 0 0 0\nv 1 0 0\nv 2 0 0\nf 1 2 3\n",
    "nan.obj": "v nan 0 0\nv 1 0 0\nv 0 1 0\nf 1 2 3\n",
    "infinite.obj": "v inf 0 0\nv 1 0 0\nv 0 1 0\nf 1 2 3\n",
    "stray.obj": "v 0 0 0\nv 1 0 0\nf 1 2 9\n",
    "thing.xyz": "0 0 0",
}


@pytest.mark.parametrize("name", BROKEN)
def test_what_is_not_a_mesh_is_refused_in_one_line(tmp_path, name):
    path = tmp_path / name
    path.write_text(BROKEN[name])
    with pytest.raises(BadInput) as caught:
        mesh_file.read(path)
    assert str(path) in str(caught.value)
    assert "; " in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_absent_file_is_named(tmp_path):
    with pytest.raises(BadInput, match=r"nowhere\.obj: no such file"):
        mesh_file.read(tmp_path / "nowhere.obj")


def test_faces_without_area_and_unused_vertices_are_left_out(tmp_path):
    path = tmp_path / "thing.obj"
    path.write_text("v 9 9 9\nv 0 0 0\nv 1 0 0\nv 0 1 0\nf 2 3 4\nf 2 3 3\n")
    read = mesh_file.read(path)
    assert len(read.faces) == 1
    assert np.asarray(read.bounds).tolist() == [[0, 0, 0], [1, 1, 0]]


@pytest.mark.parametrize("suffix", [".glb", ".ply"])
def test_a_file_that_is_cut_short_says_so(tmp_path, suffix):
    path = tmp_path / f"ball{suffix}"
    trimesh.creation.icosphere(1).export(path)
    whole = path.read_bytes()
    assert len(mesh_file.read(path).faces) == 80
    for length in (0, 9, 40, len(whole) // 2):
        path.write_bytes(whole[:length])
        with pytest.raises(BadInput, match=f"ball{suffix}: not a readable mesh: it is empty, cut"):
            mesh_file.read(path)
