"""The window of the real Blender, with real clicks, on a virtual screen."""

from __future__ import annotations

import os
import pathlib

from blender_process import PICTURES, ROOT, Blender

from neural_backend.dataset import passes, transforms

SCRIPT = pathlib.Path(__file__).with_name("window_script.py")
DEMO_SCENE = ROOT / "tools" / "demo_scene.py"
QUICK = {"views": 12, "resolution": 96, "samples": 2, "seconds": 10.0}
FINE = {"views": 60, "resolution": 256, "samples": 16, "seconds": 60.0}
"""Settings of the pictures in the manual: set NEURAL_FIELDS_FINE_PICTURES (`make pictures`)."""


def test_one_click(blender: Blender, tmp_path: pathlib.Path) -> None:
    """The button is clicked; the scene is rendered, trained on, and mesh and sequence come back."""
    scene = tmp_path / "scene.blend"
    blender.run("-b", "--factory-startup", "--python", DEMO_SCENE, "--", scene)
    settings = FINE if os.environ.get("NEURAL_FIELDS_FINE_PICTURES") else QUICK
    output = str(tmp_path / "my suzanne")
    said, _ = blender.play(SCRIPT, tmp_path, scene, output=output, **settings)
    assert said["started"], f"the click started nothing: {said}"
    assert said["error"] == ""
    assert [mesh["name"] for mesh in said["meshes"]] == ["my suzanne"]
    assert said["meshes"][0]["faces"] > 100
    assert len(said["sequences"]) == 1
    dataset = transforms.read(tmp_path / "my suzanne" / "dataset")
    for view in dataset.views:
        assert passes.read_depth(dataset, view).any()
        assert passes.read_normal(dataset, view).any()
    assert max(said["training_stalls"]) < 1.0, "the window stood still while it trained"
    assert not said["torch"], "torch was loaded in Blender's process"
    for name in ("idle", "rig", "export", "training", "finished"):
        assert (PICTURES / blender.version / f"{name}.png").stat().st_size > 10_000, name
