"""The main job end to end, as a person would do it, without Blender's window.

    .venv/bin/python tools/demo.py [--seconds 90]

Builds the zip, installs it as an extension, makes a scene, trains on it with the extension's own
operator and brings mesh and sequence back; then measures the field on its test views. Everything
stays in demo_output/: pictures, mesh.glb, sequence/, scene.blend, dataset/, run/.
"""

from __future__ import annotations

import argparse
import json
import os
import pathlib
import shutil
import subprocess
import sys
import time

import build_zip
import imageio.v3
import numpy as np

ROOT = build_zip.ROOT
OUTPUT = ROOT / "demo_output"

# what runs in Blender's process; its arguments come as json
IN_BLENDER = """
import json, sys
import bpy
sys.path.insert(0, sys.argv[1])
import demo_scene
arguments = json.loads(sys.argv[2])
demo_scene.build()
bpy.ops.wm.save_as_mainfile(filepath=arguments["scene"])
bpy.ops.extensions.package_install_files(
    filepath=arguments["zip"], repo="user_default", enable_on_install=True)
result = bpy.ops.neural_fields.train(
    output=arguments["output"], rig="sphere", views=60, resolution=256,
    max_seconds=arguments["seconds"])
assert result == {"FINISHED"}, result

# the mesh alone, seen by the scene's camera
mesh = bpy.data.collections["Neural Fields"].objects[0]
for item in bpy.context.scene.objects:
    item.hide_render = item.type == "MESH" and item != mesh
bpy.context.scene.render.filepath = arguments["picture"]
bpy.ops.render.render(write_still=True)
for item in bpy.context.scene.objects:
    item.hide_render = False
bpy.ops.wm.save_mainfile()
print(f"Mesh {mesh.name!r}: {len(mesh.data.vertices)} vertices, {len(mesh.data.polygons)} faces")
"""


def over_white(path: pathlib.Path) -> np.ndarray:
    """[H, W, 3] in [0, 1] from a straight-alpha picture."""
    pixels = imageio.v3.imread(path).astype(np.float32) / 255.0
    alpha = pixels[..., 3:]
    return pixels[..., :3] * alpha + 1.0 - alpha


def compare(dataset: pathlib.Path, rendered: pathlib.Path, picture: pathlib.Path) -> None:
    """Write test views above, the field's views of the same cameras below."""
    frames = sorted(rendered.glob("*.png"))[:4]
    truths = [dataset / "images" / frame.name for frame in frames]
    rows = [np.concatenate([over_white(file) for file in row], axis=1) for row in (truths, frames)]
    whole = np.concatenate(rows, axis=0)
    imageio.v3.imwrite(picture, (whole * 255.0 + 0.5).astype(np.uint8))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=90.0, help="training time (default 90)")
    seconds = parser.parse_args().seconds
    started = time.perf_counter()
    shutil.rmtree(OUTPUT, ignore_errors=True)
    OUTPUT.mkdir()
    zip_file = build_zip.build(ROOT / "dist")
    environment = os.environ | {
        "BLENDER_USER_RESOURCES": str(OUTPUT / "blender"),
        "NEURAL_FIELDS_PYTHON": sys.executable,
    }
    arguments = {
        "zip": str(zip_file),
        "scene": str(OUTPUT / "scene.blend"),
        "output": str(OUTPUT),
        "picture": str(OUTPUT / "mesh.png"),
        "seconds": seconds,
    }
    tools = str(ROOT / "tools")
    command = [sys.executable, "-c", IN_BLENDER, tools, json.dumps(arguments)]
    subprocess.run(command, env=environment, check=True, cwd=OUTPUT)

    backend = [sys.executable, "-m", "neural_backend"]
    run, dataset, views = OUTPUT / "run", OUTPUT / "dataset", OUTPUT / "test_views"
    asked = [*backend, "evaluate", str(run), "--json"]
    answer = subprocess.run(asked, check=True, cwd=ROOT, stdout=subprocess.PIPE)
    metrics = json.loads(answer.stdout)
    cameras = dataset / "nerf_synthetic" / "transforms_test.json"
    asked = [*backend, "render", str(run), "--cameras", str(cameras), "--output", str(views)]
    subprocess.run(asked, check=True, cwd=ROOT)
    compare(dataset, views, OUTPUT / "comparison.png")

    minutes = (time.perf_counter() - started) / 60.0
    print(
        f"\nTest views: {metrics['psnr']:.2f} dB, SSIM {metrics['ssim']:.3f} after "
        f"{seconds:g} s of training; {minutes:.1f} minutes in all.\n"
        f"{OUTPUT}/\n"
        "  comparison.png  test views above, the field's below\n"
        "  mesh.png        the mesh, as Blender renders it; mesh.glb is the file\n"
        "  sequence/       the field along an orbit\n"
        "  scene.blend     the scene with the mesh in place: open it in Blender"
    )


if __name__ == "__main__":
    main()
