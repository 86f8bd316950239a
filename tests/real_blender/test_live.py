"""The live view in the real Blender's window: what is on the screen is what the backend shows."""

from __future__ import annotations

import os
import pathlib

import numpy as np
from blender_process import PICTURES, ROOT, Blender

SCRIPT = pathlib.Path(__file__).with_name("live_script.py")
DEMO_SCENE = ROOT / "tools" / "demo_scene.py"
QUICK = {"field": "sdf", "seconds": 300.0, "measured": 8.0, "without": 0.0}
FINE = {"field": "nerf", "seconds": 300.0, "measured": 60.0, "without": 60.0}
"""Settings of the pictures in the manual: set NEURAL_FIELDS_FINE_PICTURES (`make pictures`)."""

BINS = (0, 12, 20, 50, 100, 200, 500, 10_000)


def test_the_field_in_training_is_on_the_screen(blender: Blender, tmp_path: pathlib.Path) -> None:
    scene = tmp_path / "scene.blend"
    blender.run("-b", "--factory-startup", "--python", DEMO_SCENE, "--", scene)
    settings = FINE if os.environ.get("NEURAL_FIELDS_FINE_PICTURES") else QUICK
    said, printed = blender.play(
        SCRIPT, tmp_path, scene, simulate=False, output=str(tmp_path / "it"), **settings
    )
    assert "is not drawn" not in printed, printed[-4000:]
    assert said["error"] == ""
    for place in ("camera", "own_view", "orthographic", "camera_again"):
        # gizmos and words lie over a few points
        assert np.percentile(said["differences"][place], 90) < 4.0, place
    assert said["went_on"]
    assert said["renewed"]
    assert not said["stale_is_shown"], "a view of a camera that has moved"

    assert said["images_before"] == ["Render Result"] or said["images_before"] == []
    assert said["image"] == ["Neural Fields Live", "FILE", True, False]
    assert said["image_size"][0] == said["image_size"][1]

    for name, seconds in said["seconds"].items():
        milliseconds = 1e3 * np.array(seconds)
        print(f"{name}: median {np.median(milliseconds):.2f} ms, most {milliseconds.max():.1f} ms")
        assert np.median(milliseconds) < 10.0, name
    for name, gaps in said["gaps"].items():
        counts = np.histogram(1e3 * np.array(gaps), BINS)[0]
        print(f"{name}: gaps in ms of a heartbeat of 10 ms, up to {BINS[1:]}: {counts.tolist()}")
        late = np.array(gaps) > 0.05
        of_drawing = np.array(said["drawn"][name])[late].sum()
        print(f"  above 50 ms: {late.sum()}, {of_drawing} of them while the viewport was drawn")
    assert np.median(said["gaps"]["training"]) < 0.05
    assert max(said["gaps"]["training"]) < 2.0, "the window stood still while it trained"
    assert said["eye"]
    assert said["left"] == [False, False], "nobody looks any more"
    assert not said["torch"], "torch was loaded in Blender's process"
    for name in ("camera", "own_view", "orthographic", "image_editor", "ended"):
        assert (PICTURES / blender.version / f"live_{name}.png").stat().st_size > 10_000, name
