"""Blender's properties say what the dataclasses say."""

from __future__ import annotations

import math
import pathlib

import bpy
import pytest
from neural_fields.neural_backend import config
from neural_fields.neural_backend.protocol import BadInput
from neural_fields.operators import knobs


@pytest.mark.parametrize("name", list(config.GROUPS))
def test_an_untouched_scene_has_the_defaults(start_scene: bpy.types.Scene, name: str) -> None:
    assert getattr(knobs.settings_of(start_scene), name) == config.GROUPS[name]()


def test_every_knob_has_its_range_and_its_unit(start_scene: bpy.types.Scene) -> None:
    for name, group in config.GROUPS.items():
        properties = getattr(start_scene.neural_fields, name).bl_rna.properties
        for knob in config.knobs(group):
            prop = properties[knob.name]
            assert prop.description.startswith(knob.help)
            if knob.choices:
                assert [item.identifier for item in prop.enum_items] == list(knob.choices)
                assert all(item.name for item in prop.enum_items)
            elif knob.type in (int, float):
                assert knob.unit == "" or f"[{knob.unit}]" in prop.description.replace(
                    "degrees", "radians"
                )
                if knob.low is not None:
                    assert math.isclose(prop.hard_min, knob.low, abs_tol=1e-6)
                if knob.high is not None:
                    assert math.isclose(prop.hard_max, knob.high, rel_tol=1e-6)


def test_units_that_blender_shows_its_own_way(start_scene: bpy.types.Scene) -> None:
    settings = start_scene.neural_fields
    assert settings.rig.bl_rna.properties["lowest"].unit == "ROTATION"
    assert settings.rig.bl_rna.properties["focal_length"].unit == "CAMERA"
    assert settings.training.bl_rna.properties["max_seconds"].unit == "TIME_ABSOLUTE"
    assert settings.dataset.bl_rna.properties["resolution"].subtype == "PIXEL"


def test_values_are_copied_as_typed(start_scene: bpy.types.Scene) -> None:
    settings = start_scene.neural_fields
    settings.training.max_seconds = 12.1
    settings.training.encoding = "positional"
    settings.rig.lowest = -math.pi / 2  # single precision of it lies below the range
    copied = knobs.settings_of(start_scene)
    settings.training.encoding = "none"
    assert copied.training.max_seconds == 12.1
    assert copied.training.encoding == "positional"
    assert copied.rig.lowest == -math.pi / 2


def test_overrides_win(start_scene: bpy.types.Scene) -> None:
    start_scene.neural_fields.rig.views = 20
    copied = knobs.settings_of(start_scene, {"rig": {"views": 7}, "result": {"mesh": False}})
    assert (copied.rig.views, copied.result.mesh, copied.result.sequence) == (7, False, True)
    with pytest.raises(BadInput, match="rig: views is 1: give at least 3"):
        knobs.settings_of(start_scene, {"rig": {"views": 1}})


@pytest.mark.parametrize(
    ("argument", "value", "said"),
    [
        ("views", 0, "rig: views is 0: give at least 3"),
        ("views", -5, "rig: views is -5: give at least 3"),
        ("resolution", 1_000_000, "dataset: resolution is 1000000: give at most 16384"),
        ("max_seconds", -1.0, "training: max_seconds is -1.0: give at least 0"),
    ],
)
def test_an_argument_out_of_range_is_told(
    start_scene: bpy.types.Scene, tmp_path: pathlib.Path, argument: str, value: float, said: str
) -> None:
    with pytest.raises(RuntimeError, match=said):
        bpy.ops.neural_fields.train(output=str(tmp_path), **{argument: value})


def test_the_collection_comes_along(start_scene: bpy.types.Scene) -> None:
    start_scene.neural_fields.rig.collection = start_scene.collection.children[0]
    assert knobs.settings_of(start_scene).collection == start_scene.collection.children[0]
