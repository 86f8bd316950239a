"""Files and scenes of all sorts: linked ones, several in one file, saved anew, in odd places."""

from __future__ import annotations

import pathlib

import bpy
import numpy as np
import pytest
from neural_fields.neural_backend.dataset import transforms
from neural_fields.operators import folders


@pytest.fixture
def library(start_scene, tmp_path: pathlib.Path) -> pathlib.Path:
    """A file with the start scene: a cube of edge 2 at the origin."""
    start_scene.name = "Theirs"
    path = tmp_path / "bücher ei" / "library.blend"
    path.parent.mkdir()
    bpy.ops.wm.save_as_mainfile(filepath=str(path))
    bpy.ops.wm.read_factory_settings(use_empty=True)
    return path


def linked(library: pathlib.Path, kind: str, name: str):
    with bpy.data.libraries.load(str(library), link=True) as (_, wanted):
        setattr(wanted, kind, [name])
    return getattr(bpy.data, kind)[name]


def quick(scene: bpy.types.Scene) -> None:
    settings = scene.neural_fields
    settings.rig.views, settings.dataset.resolution, settings.dataset.samples = 4, 16, 1
    settings.dataset.passes = "off"
    scene.render.engine = "CYCLES"


def exported(output: pathlib.Path) -> transforms.Dataset:
    assert bpy.ops.neural_fields.export_dataset(output=str(output)) == {"FINISHED"}
    return transforms.read(output / folders.DATASET)


@pytest.mark.parametrize("operator", ["create_rig", "export_dataset", "train"])
def test_a_linked_scene_is_refused_in_one_line(fake, library, operator: str) -> None:
    scene = linked(library, "scenes", "Theirs")
    with (
        bpy.context.temp_override(scene=scene, view_layer=scene.view_layers[0]),
        pytest.raises(RuntimeError, match=r"Theirs is linked from .*library\.blend: open that"),
    ):
        getattr(bpy.ops.neural_fields, operator)()
    assert fake.commands == []


def test_linked_objects_are_a_subject_like_others(library, tmp_path: pathlib.Path) -> None:
    cube = linked(library, "objects", "Cube")
    bpy.context.scene.collection.objects.link(cube)
    quick(bpy.context.scene)
    dataset = exported(tmp_path / "out")
    np.testing.assert_allclose(dataset.bounds, [[-1.0] * 3, [1.0] * 3], atol=0.3)
    assert bpy.data.objects["Cube"].library is not None


def test_a_linked_collection_as_an_instance(library, tmp_path: pathlib.Path) -> None:
    collection = linked(library, "collections", "Collection")
    instance = bpy.data.objects.new("instance", None)
    instance.instance_type, instance.instance_collection = "COLLECTION", collection
    instance.location = (5.0, 0.0, 0.0)
    bpy.context.scene.collection.objects.link(instance)
    quick(bpy.context.scene)
    dataset = exported(tmp_path / "out")
    np.testing.assert_allclose(dataset.bounds.mean(axis=0), [5.0, 0.0, 0.0], atol=0.2)


def test_each_scene_has_its_own_subject_settings_and_results(
    fake, start_scene, tmp_path: pathlib.Path
) -> None:
    other = bpy.data.scenes.new("Other")
    cube = bpy.data.objects.new("far", bpy.data.meshes["Cube"])
    cube.location = (20.0, 0.0, 0.0)
    other.collection.objects.link(cube)
    quick(other)
    with bpy.context.temp_override(scene=other, view_layer=other.view_layers[0]):
        bpy.ops.neural_fields.train(output=str(tmp_path / "result"), results={"MESH"})
    dataset = transforms.read(tmp_path / "result" / folders.DATASET)
    assert len(dataset.views) == 4
    assert start_scene.neural_fields.rig.views != 4
    np.testing.assert_allclose(dataset.bounds.mean(axis=0), [20.0, 0.0, 0.0], atol=0.2)
    assert "result" in other.collection.children["Neural Fields"].objects
    assert "Neural Fields" not in start_scene.collection.children


def test_the_view_layer_that_is_shown_is_exported(start_scene, tmp_path: pathlib.Path) -> None:
    beside = bpy.data.collections.new("beside")
    start_scene.collection.children.link(beside)
    far = bpy.data.objects.new("far", bpy.data.meshes["Cube"])
    far.location = (6.0, 0.0, 0.0)
    beside.objects.link(far)
    layer = start_scene.view_layers.new("without the cube")
    layer.layer_collection.children["Collection"].exclude = True
    quick(start_scene)
    with bpy.context.temp_override(view_layer=layer):
        dataset = exported(tmp_path / "out")
    np.testing.assert_allclose(dataset.bounds.mean(axis=0), [6.0, 0.0, 0.0], atol=0.2)
    assert all(layer.use for layer in start_scene.view_layers)


def test_saved_under_another_name_a_file_has_another_folder(
    fake, start_scene, no_renders, tmp_path: pathlib.Path
) -> None:
    bpy.ops.wm.save_as_mainfile(filepath=str(tmp_path / "première scène.blend"))
    bpy.ops.neural_fields.train(results={"MESH", "SEQUENCE"})
    first = tmp_path / "neural_fields" / "première scène"
    assert (first / folders.MESH).is_file()
    image = bpy.data.images["première scène"]
    assert image.filepath.startswith("//neural_fields")
    there = tmp_path / "elsewhere"
    there.mkdir()
    bpy.ops.wm.save_as_mainfile(filepath=str(there / "second.blend"))
    assert pathlib.Path(bpy.path.abspath(image.filepath)).resolve().is_file()
    bpy.ops.neural_fields.train(results={"MESH"})
    assert (there / "neural_fields" / "second" / folders.MESH).is_file()
    assert {"première scène", "second"} <= set(bpy.data.objects.keys())
    # opened again, all of it is still there
    bpy.ops.wm.save_mainfile()
    bpy.ops.wm.open_mainfile(filepath=str(there / "second.blend"))
    assert pathlib.Path(bpy.path.abspath(bpy.data.images["première scène"].filepath)).is_file()
    assert len(bpy.data.objects["second"].data.polygons) == 2


def test_an_output_beside_the_file_follows_it(
    fake, start_scene, no_renders, tmp_path: pathlib.Path
) -> None:
    start_scene.neural_fields.output = "//fields and more"
    bpy.ops.wm.save_as_mainfile(filepath=str(tmp_path / "a.blend"))
    bpy.ops.neural_fields.train(results={"MESH"})
    assert (tmp_path / "fields and more" / folders.MESH).is_file()


def test_where_nothing_can_be_written_is_said_before_any_work(
    fake, start_scene, no_renders
) -> None:
    with pytest.raises(RuntimeError, match=r"/proc/nowhere: cannot be written to"):
        bpy.ops.neural_fields.train(output="/proc/nowhere")
    assert fake.commands == []
    assert no_renders == []
