"""A mesh in the colours of its views looks as they did, through the scene's own view transform."""

from __future__ import annotations

import json
import pathlib
import shutil

import known_colours
import pytest
from blender_process import Blender

SCRIPT = """
import json, pathlib, sys
sys.path.insert(0, {tests!r})
import known_colours

package = "bl_ext.user_default.neural_fields"
shown = known_colours.SHOWN[::{step}]
found = known_colours.errors(package, {engine!r}, pathlib.Path({folder!r}), shown)
print("COLOURS", json.dumps(found))
"""


@pytest.mark.parametrize("engine", ["CYCLES", "EEVEE"])
def test_a_mesh_looks_as_its_views_did(blender: Blender, tmp_path: pathlib.Path, engine) -> None:
    before, step = [], 1
    if engine == "EEVEE":
        engine = "BLENDER_EEVEE_NEXT" if blender.version.startswith("4") else "BLENDER_EEVEE"
        if shutil.which("xvfb-run") is None:
            pytest.skip("no xvfb-run on the PATH (Debian's package xvfb)")
        # without a graphics card it takes seconds for each material
        before, step = ["xvfb-run", "-a"], 3
    tests = str(pathlib.Path(known_colours.__file__).parent)
    script = SCRIPT.format(tests=tests, engine=engine, folder=str(tmp_path), step=step)
    arguments = ("-b", "--python-exit-code", "1", "--python-expr", script)
    done = blender.run(*arguments, before=before)
    line = next(line for line in done.stdout.splitlines() if line.startswith("COLOURS "))
    print(line)
    known_colours.check(json.loads(line.removeprefix("COLOURS ")))
