"""The example is a scene of its own that renders something and can be trained on at once."""

from __future__ import annotations

import bpy
from neural_fields.operators import example, knobs, rig
from neural_fields.operators.place import place_of
from neural_fields.operators.scratch import Scratch


def test_it_is_a_scene_of_its_own(start_scene) -> None:
    before = {item.name for item in start_scene.objects}
    assert bpy.ops.neural_fields.load_example() == {"FINISHED"}
    assert {item.name for item in start_scene.objects} == before
    made = bpy.data.scenes[example.NAME]
    assert {item.type for item in made.objects} == {"MESH", "LIGHT", "CAMERA"}
    assert made.neural_fields.training.preset == "preview"
    assert start_scene.neural_fields.training.preset == "standard"


def test_the_rig_frames_it(start_scene) -> None:
    bpy.ops.neural_fields.load_example()
    made = bpy.data.scenes[example.NAME]
    settings = knobs.settings_of(made)
    with Scratch(made, made.view_layers[0]) as scratch:
        planned = rig.plan(scratch, settings.rig, settings.dataset, None)
    low, high = planned.bounds
    assert len(planned.shots) == 60
    # the pedestal's foot, Suzanne's top; both stand around x = 2, y = -1
    assert abs(low[2]) < 0.01
    assert 1.8 < high[2] < 2.6
    assert abs((low + high)[0] / 2 - 2.0) < 0.3


def test_another_one_can_be_loaded(start_scene) -> None:
    for _ in range(2):
        assert bpy.ops.neural_fields.load_example() == {"FINISHED"}
    assert sum(scene.name.startswith(example.NAME) for scene in bpy.data.scenes) == 2


def test_tools_fill_an_empty_file_with_it(scene) -> None:
    example.fill(scene)
    assert scene.camera is not None
    assert place_of(bpy.context).scene.objects["Suzanne"].data.materials[0].name == "Paint"
