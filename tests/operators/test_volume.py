"""A volume comes back where its voxels say, looks as the field does, and replaces the last one."""

from __future__ import annotations

import bpy
import numpy as np
import pytest
from neural_fields.neural_backend.protocol import BadInput
from neural_fields.operators import volume
from neural_fields.operators.colour import Display


@pytest.fixture
def vdb(registered):
    try:
        return volume.openvdb()
    except BadInput as error:
        pytest.skip(str(error))


def test_grids_hold_what_the_voxels_hold(fake, vdb, tmp_path) -> None:
    fake.write_voxels(tmp_path / "volume.npz")
    file = volume.converted(tmp_path / "volume.npz")
    density, color = (vdb.read(str(file), name) for name in (volume.DENSITY, volume.COLOUR))
    assert density.activeVoxelCount() == 8 * 16 * 24
    assert color.activeVoxelCount() == 10 * 18 * 26
    middle = density.transform.indexToWorld((1, 1, 1))
    # a quarter turn takes x to y and y to -x
    np.testing.assert_allclose(middle, [0.85, 2.15, 0.15], atol=1e-6)
    voxels = density.getConstAccessor()
    assert voxels.getValue((1, 1, 1)) == pytest.approx(20.0), "per scene unit"
    assert voxels.getValue((0, 1, 1)) == 0.0
    np.testing.assert_allclose(
        color.getConstAccessor().getValue((0, 0, 0)), [0.8, 0.4, 0.1], atol=1e-3
    )


def test_colours_are_the_light_that_was_displayed(fake, vdb, tmp_path) -> None:
    fake.write_voxels(tmp_path / "volume.npz")
    plain = volume.converted(tmp_path / "volume.npz")
    display = Display(view_transform="AgX", exposure=-1.0)
    file = volume.converted(tmp_path / "volume.npz", display)
    assert file != plain, "Blender reads a file once a session"
    color = vdb.read(str(file), volume.COLOUR).getConstAccessor().getValue((0, 0, 0))
    light = display.light(np.array([[0.8, 0.4, 0.1]], np.float32))[0]
    np.testing.assert_allclose(color, light.clip(min=0.0), rtol=2e-3)
    assert color[0] > 3.0


def test_large_volumes_have_no_seams(vdb, tmp_path) -> None:
    rng = np.random.default_rng(0)
    index = np.unique(rng.integers(0, 200, (5000, 3)), axis=0).astype("u2")
    values = rng.uniform(0.1, 1.0, len(index)).astype("f2")
    color = np.ones((len(index), 3), "f2")
    volume.write(tmp_path / "a.vdb", volume.Voxels(index, values, color, np.eye(4)))
    grid = vdb.read(str(tmp_path / "a.vdb"), "density")
    assert grid.activeVoxelCount() == len(index)
    dense = np.zeros((200, 200, 200), np.float32)
    grid.copyToArray(dense)
    np.testing.assert_array_equal(dense[tuple(index.T)], values)


def test_the_volume_arrives_named_and_placed(fake, vdb, start_scene, output) -> None:
    start_scene.neural_fields.result.volume_resolution = 77
    assert bpy.ops.neural_fields.import_volume(output=str(output)) == {"FINISHED"}
    assert fake.calls[-1][0] == "volume"
    assert fake.calls[-1][-2:] == ["--resolution", "77"]
    found = bpy.data.objects["the run volume"]
    assert found.type == "VOLUME"
    assert [collection.name for collection in found.users_collection] == ["Neural Fields"]
    assert sorted(grid.name for grid in found.data.grids) == ["color", "density"]
    bpy.context.view_layer.update()
    # Blender's box is one of blocks of 8 voxels
    low, high = np.array(found.bound_box).min(0), np.array(found.bound_box).max(0)
    assert (low < [-0.7, 2.1, 0.1]).all()
    assert (high > [0.9, 2.9, 2.5]).all()
    assert (high - low < np.array([1.6, 0.8, 2.4]) + 1.6).all()
    bpy.ops.neural_fields.import_volume(output=str(output))
    assert fake.commands.count("volume") == 1, "one that is there is not sampled again"


def test_another_volume_replaces_the_first(fake, vdb, start_scene, output, counts) -> None:
    bpy.ops.neural_fields.import_volume(output=str(output))
    found = bpy.data.objects["the run volume"]
    found.location.x = 5.0
    before = counts()
    fake.write_voxels(output / "volume.npz", edge=0.2)
    bpy.ops.neural_fields.import_volume(output=str(output))
    assert counts() == before
    assert bpy.data.objects["the run volume"] == found
    assert found.location.x == 5.0, "where the person moved it, it stays"
    assert np.linalg.norm(np.array(found.data.grids["density"].matrix_object)[0]) > 0.19
    assert found.data.name == found.data.materials[0].name == "the run"
    assert len(list(output.glob("*.vdb"))) == 1


def test_cycles_shows_the_field_s_own_colours(fake, vdb, start_scene, output) -> None:
    """Against the black of no light at all, and half through where light gets half through."""
    # along y the box is 8 voxels deep
    fake.write_voxels(output / "volume.npz", density=np.log(2.0) / 8)
    bpy.ops.neural_fields.import_volume(output=str(output))
    for item in [item for item in start_scene.objects if item.type in ("MESH", "LIGHT")]:
        bpy.data.objects.remove(item)
    camera = start_scene.camera
    camera.location, camera.rotation_euler = (0.1, -5.0, 1.3), (np.pi / 2, 0.0, 0.0)
    camera.data.type, camera.data.ortho_scale = "ORTHO", 4.0
    render = start_scene.render
    render.engine, render.film_transparent = "CYCLES", True
    start_scene.cycles.samples, start_scene.cycles.use_denoising = 64, False
    render.resolution_x = render.resolution_y = 20
    render.image_settings.file_format = "OPEN_EXR"
    render.image_settings.color_mode = "RGBA"
    render.filepath = str(output / "render.exr")
    start_scene.world.node_tree.nodes["Background"].inputs[1].default_value = 0.0
    bpy.ops.render.render(write_still=True)
    image = bpy.data.images.load(str(output / "render.exr"))
    image.colorspace_settings.name = "Non-Color"
    image.alpha_mode = "CHANNEL_PACKED"
    # rows from below
    pixels = np.array(image.pixels[:]).reshape(20, 20, 4)
    box = pixels[5:15, 7:13].mean((0, 1))
    np.testing.assert_allclose(box, [0.4, 0.2, 0.05, 0.5], atol=0.03)
    x = 0.1 + (np.arange(20) + 0.5 - 10) / 5
    z = 1.3 + (np.arange(20) + 0.5 - 10) / 5
    weight = pixels[..., 3] / pixels[..., 3].sum()
    # the box's middle, to a fifth of a voxel
    assert weight.sum(0) @ x == pytest.approx(0.1, abs=0.02)
    assert weight.sum(1) @ z == pytest.approx(1.3, abs=0.02)
    assert pixels[:, :4, 3].max() < 0.01


def test_damaged_voxels_leave_the_scene_as_it_was(fake, vdb, start_scene, output, counts) -> None:
    before = counts()
    (output / "volume.npz").write_bytes(b"nothing")
    with pytest.raises(RuntimeError, match="not a volume that can be read"):
        bpy.ops.neural_fields.import_volume(output=str(output))
    assert counts() == before


def test_train_brings_the_volume_too(fake, vdb, start_scene, no_renders, output) -> None:
    new = str(output.parent / "new")
    bpy.ops.neural_fields.train(output=new, results={"MESH", "SEQUENCE", "VOLUME"})
    assert fake.commands == ["doctor", "train", "mesh", "render", "volume"]
    from neural_fields.operators import job

    said = "imported mesh new, sequence new and new volume"
    assert job.owner.message.endswith(said)


def test_what_cannot_become_a_volume_is_said_at_once(
    fake, start_scene, no_renders, output, monkeypatch
) -> None:
    monkeypatch.setattr(volume, "openvdb", lambda: None)
    with pytest.raises(RuntimeError, match="a signed distance has no density"):
        bpy.ops.neural_fields.train(output=str(output), field="sdf", results={"VOLUME"})
    (output / "volume.npz").write_bytes(b"of somebody else")
    with pytest.raises(RuntimeError, match=r"holds volume\.npz, which Neural Fields did not"):
        bpy.ops.neural_fields.train(output=str(output), results={"VOLUME"})
    monkeypatch.undo()
    monkeypatch.setattr(volume, "_MODULES", ("no_such_module",))
    with pytest.raises(RuntimeError, match="this build of Blender has no openvdb module") as caught:
        bpy.ops.neural_fields.train(output=str(output), results={"VOLUME"})
    assert str(caught.value).strip().count("\n") == 0
    assert fake.commands == []
    assert no_renders == []
