"""Enabled and disabled twenty times, the add-on leaves nothing behind."""

from __future__ import annotations

import sys
import types

import bpy
import neural_fields
import pytest

pytestmark = pytest.mark.usefixtures("registered")


def traces() -> dict[str, object]:
    """Everything of Blender's that an add-on can leave something in."""
    handlers = {
        name: len(getattr(bpy.app.handlers, name))
        for name in dir(bpy.app.handlers)
        if isinstance(getattr(bpy.app.handlers, name), list)
    }
    return {
        "handlers": handlers,
        "operators": sorted(dir(bpy.ops.neural_fields)),
        "types": sorted(
            name for name in dir(bpy.types) if name.lower().startswith("neural_fields")
        ),
        "scene": "neural_fields" in bpy.types.Scene.bl_rna.properties,
        "manager": "neural_fields" in bpy.types.WindowManager.bl_rna.properties,
        "timers": [
            f"{module}.{name}"
            for module in sorted(sys.modules)
            if module.startswith("neural_fields.")
            for name, value in vars(sys.modules[module]).items()
            if isinstance(value, types.FunctionType) and bpy.app.timers.is_registered(value)
        ],
        "classes": sorted(
            cls.__name__
            for base in (
                bpy.types.Panel,
                bpy.types.Operator,
                bpy.types.PropertyGroup,
                bpy.types.UIList,
            )
            for cls in base.__subclasses__()
            if cls.__name__.startswith("NEURAL_FIELDS") and cls.is_registered
        ),
    }


@pytest.fixture
def disabled():
    neural_fields.unregister()
    yield
    neural_fields.register()


def test_nothing_is_left_behind(disabled) -> None:
    before = traces()
    assert before["operators"] == before["types"] == before["classes"] == []
    assert before["timers"] == []
    assert before["scene"] is before["manager"] is False
    for _ in range(20):
        neural_fields.register()
        enabled = traces()
        assert enabled["scene"]
        assert "train" in enabled["operators"]
        assert len(enabled["classes"]) > 10
        neural_fields.unregister()
        assert traces() == before


def test_disabling_ends_the_job(disabled) -> None:
    from neural_fields.operators import job

    neural_fields.register()
    ended = []

    def steps():
        try:
            yield job.Status("Working")
            yield job.Status("Working")
        finally:
            ended.append(True)

    job.owner.start("Work", steps())
    job.owner.advance()
    neural_fields.unregister()
    assert ended == [True]
    assert not job.owner.running


def test_the_operators_have_the_names_that_scripts_use() -> None:
    names = {"create_rig", "export_dataset", "train", "cancel", "import_mesh", "render_sequence"}
    assert names <= set(dir(bpy.ops.neural_fields))
    arguments = bpy.ops.neural_fields.train.get_rna_type().properties
    wanted = [
        "output",
        "rig",
        "views",
        "resolution",
        "field",
        "encoding",
        "preset",
        "max_seconds",
        "device",
        "results",
    ]
    assert set(wanted) <= set(arguments.keys())
    assert arguments["results"].is_enum_flag
