"""Depth and normals out of the real Blenders, of the engines that render them."""

from __future__ import annotations

import json
import pathlib
import shutil

import known_surfaces
import pytest
from blender_process import Blender

from neural_backend.dataset import passes, transforms

EXPORT = """
import json, sys
import bpy
sys.path.insert(0, {folder!r})
import known_surfaces

for item in list(bpy.data.objects):
    bpy.data.objects.remove(item)
known_surfaces.build()
scene = bpy.context.scene
scene.render.engine = {engine!r}
scene.cycles.use_denoising = False
layer = bpy.context.view_layer
layer.use_pass_normal = True
settings = scene.neural_fields
settings.rig.kind, settings.rig.views = "sphere", 4
settings.dataset.resolution, settings.dataset.samples = 48, 8
settings.dataset.passes = "on"

def state():
    image = scene.render.image_settings
    names = ("media_type", "file_format", "color_mode", "color_depth", "exr_codec")
    switches = [layer.use_pass_z, layer.use_pass_normal, layer.use_pass_position]
    return [*(getattr(image, name, None) for name in names), *switches]

before = state()
bpy.ops.neural_fields.export_dataset(output={output!r})
print("STATES", json.dumps([before, state()]))
"""


@pytest.mark.parametrize("engine", ["CYCLES", "EEVEE"])
def test_a_ball_and_a_square(blender: Blender, tmp_path: pathlib.Path, engine: str) -> None:
    before = []
    if engine == "EEVEE":
        engine = "BLENDER_EEVEE_NEXT" if blender.version.startswith("4") else "BLENDER_EEVEE"
        if shutil.which("xvfb-run") is None:
            pytest.skip("no xvfb-run on the PATH (Debian's package xvfb)")
        before = ["xvfb-run", "-a"]
    folder = str(pathlib.Path(known_surfaces.__file__).parent)
    script = EXPORT.format(folder=folder, engine=engine, output=str(tmp_path))
    arguments = ("-b", "--python-exit-code", "1", "--python-expr", script)
    done = blender.run(*arguments, before=before)
    line = next(line for line in done.stdout.splitlines() if line.startswith("STATES "))
    states = json.loads(line.removeprefix("STATES "))
    assert states[0] == states[1]
    found = transforms.read(tmp_path / "dataset")
    assert len(found.views) == 4
    # EEVEE takes the sample that is nearest to a pixel's centre
    off = 0.01 if engine == "CYCLES" else 0.35
    told = set()
    for view in found.views:
        depth, normal = passes.read_depth(found, view), passes.read_normal(found, view)
        told |= known_surfaces.check(view, depth, normal, off)
    assert told == {"ball", "square"}
