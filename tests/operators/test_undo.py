"""Undo and redo around every operator leave nothing broken, and the operator works again after."""

from __future__ import annotations

import pathlib

import bpy
import pytest
from neural_fields.operators import scratch, stage

KINDS = ("scenes", "objects", "cameras", "collections", "meshes", "materials", "images", "volumes")


def content() -> dict[str, list[str]]:
    return {kind: sorted(block.name for block in getattr(bpy.data, kind)) for kind in KINDS}


def call(name: str, output: pathlib.Path) -> None:
    operator = getattr(bpy.ops.neural_fields, name)
    folder = {} if name in ("create_rig", "load_example") else {"output": str(output)}
    assert operator(**folder) == {"FINISHED"}


OPERATORS = (
    "create_rig",
    "load_example",
    "export_dataset",
    "train",
    "import_mesh",
    "render_sequence",
)


@pytest.mark.parametrize("name", OPERATORS)
def test_undo_and_redo(fake, start_scene, no_renders, tmp_path: pathlib.Path, name: str) -> None:
    output = tmp_path / "it"
    start_scene.neural_fields.rig.views = 4
    if name in ("import_mesh", "render_sequence"):
        bpy.ops.neural_fields.train(output=str(output), results=set())
    bpy.ops.ed.undo_push(message="before")
    before = content()
    call(name, output)
    bpy.ops.ed.undo_push(message=name)
    after = content()
    assert bpy.ops.ed.undo() == {"FINISHED"}
    assert content() == before
    assert bpy.ops.ed.redo() == {"FINISHED"}
    assert content() == after
    for _ in range(2):
        bpy.ops.ed.undo()
        call(name, output)
        found = content()
        assert {kind: len(names) for kind, names in found.items()} == {
            kind: len(names) for kind, names in after.items()
        }
        bpy.ops.ed.undo_push(message=name)
    for blocks in (bpy.data.scenes, bpy.data.objects, bpy.data.cameras):
        assert not [block.name for block in blocks if scratch.MARK in block]
    assert not [scene.name for scene in bpy.data.scenes if stage.BEFORE in scene]
