"""What a trained field gives, in the real Blender's window: shown where it is asked for."""

from __future__ import annotations

import pathlib

import imageio.v3
import numpy as np
from blender_process import PICTURES, Blender

SCRIPT = pathlib.Path(__file__).with_name("results_script.py")
TRAINED = """
import bpy
bpy.ops.neural_fields.load_example()
scene = bpy.data.scenes["Neural Fields Example"]
bpy.context.window.scene = scene
scene.frame_start, scene.frame_end = 101, 103
settings = scene.neural_fields
settings.output = {output!r}
settings.rig.views, settings.dataset.resolution, settings.dataset.samples = 16, 96, 4
settings.training.max_seconds = 6.0
settings.result.mesh_resolution = 48
settings.result.sequence_path, settings.result.sequence_frames = "orbit", 3
bpy.ops.wm.save_as_mainfile(filepath={file!r})
bpy.ops.neural_fields.train(results={{"MESH", "SEQUENCE"}})
bpy.ops.wm.save_mainfile()
"""


def test_results_are_shown_where_they_are_asked_for(blender: Blender, tmp_path) -> None:
    pictures = PICTURES / blender.version
    output, file = tmp_path / "hêads", tmp_path / "scene.blend"
    blender.python(TRAINED.format(output=str(output), file=str(file)))
    frames = sorted(path.name for path in (output / "sequence").iterdir())
    assert frames == ["0101.png", "0102.png", "0103.png"]
    said, _ = blender.play(SCRIPT, tmp_path, file, simulate=False, output=str(output))

    # trained by another Blender, which has ended since
    assert said["runs"] == [str(output / "run")]
    assert said["backgrounds"] == 1
    x, y = said["middle"]
    for channel, frame in enumerate((101, 102, 103)):
        seen = imageio.v3.imread(pictures / f"background_{frame}.png")[y, x, :3].astype(int)
        assert seen[channel] > 2 * np.delete(seen, channel).max(), (frame, seen)
        (pictures / f"background_{frame}.png").unlink()
    assert said["before"] == "CompositorNodeRLayers"
    for place in ("composited", "sequenced"):
        np.testing.assert_allclose(said[place], np.eye(3), atol=0.02)

    assert said["shown"] == ["hêads compared"] * 2
    assert (said["opened"], said["opened_again"]) == (1, 0), "a window only where no editor is open"
    assert all(line.startswith("hêads compared: 2 views, ") for line in said["compared"])
    assert imageio.v3.imread(output / "compare.png").shape[1] > 3 * 256
    for name in ("result_panel", "camera_background", "compositor", "sequencer", "compare"):
        assert (pictures / f"{name}.png").stat().st_size > 10_000, name
