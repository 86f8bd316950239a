"""The example script that trains several files in turn, in the real Blender's background."""

from __future__ import annotations

import pathlib

from blender_process import ROOT, Blender

EXAMPLE = ROOT / "docs" / "examples" / "train_files.py"
SAVE = """
import bpy
bpy.ops.wm.read_homefile(use_empty=True)
bpy.ops.wm.save_as_mainfile(filepath={empty!r})
bpy.ops.neural_fields.load_example()
example = bpy.data.scenes["Neural Fields Example"]
settings = example.neural_fields
settings.rig.views, settings.dataset.resolution, settings.dataset.samples = 12, 48, 2
settings.training.max_seconds = 6.0
settings.result.mesh_resolution = 48
bpy.context.window.scene = example
bpy.ops.wm.save_as_mainfile(filepath={full!r})
"""


def test_files_in_turn(blender: Blender, tmp_path: pathlib.Path) -> None:
    full, empty = tmp_path / "zwei Köpfe.blend", tmp_path / "empty.blend"
    blender.python(SAVE.format(full=str(full), empty=str(empty)))
    before = full.read_bytes()
    output = tmp_path / "out"
    done = blender.run(
        *("-b", "--python", EXAMPLE, "--", "--output", output, "--results", "MESH"),
        *(empty, full, tmp_path / "absent.blend"),
        check=False,
    )
    assert done.returncode == 1
    lines = done.stdout.splitlines()
    head = next(index for index, line in enumerate(lines) if line.startswith("file  "))
    table = {line.split("  ")[0]: line for line in lines[head + 1 : head + 4]}
    assert table["zwei Köpfe.blend"].endswith("done")
    assert " nerf " in table["zwei Köpfe.blend"]
    assert not table["empty.blend"].endswith("done")
    assert "nothing" in table["empty.blend"]
    assert not table["absent.blend"].endswith("done")
    assert full.read_bytes() == before
    assert (output / "zwei Köpfe" / "mesh.glb").is_file()
    assert (output / "zwei Köpfe" / "zwei Köpfe.blend").is_file()
