"""The window of the real Blender, with real clicks, on a virtual screen."""

from __future__ import annotations

import json
import os
import pathlib
import shutil

import pytest
from blender_process import ROOT, Blender

from neural_backend.dataset import passes, transforms

SCRIPT = pathlib.Path(__file__).with_name("window_script.py")
DEMO_SCENE = ROOT / "tools" / "demo_scene.py"
QUICK = {"views": 24, "resolution": 96, "samples": 4, "seconds": 20.0}
FINE = {"views": 60, "resolution": 256, "samples": 16, "seconds": 60.0}
"""Settings of the pictures in the manual: set NEURAL_FIELDS_FINE_PICTURES (`make pictures`)."""

PICTURES = ROOT / "build" / "screenshots"


def test_one_click(blender: Blender, tmp_path: pathlib.Path) -> None:
    """The button is clicked; the scene is rendered, trained on, and mesh and sequence come back."""
    if shutil.which("xvfb-run") is None:
        pytest.skip("no xvfb-run on the PATH (Debian's package xvfb)")
    pictures = PICTURES / blender.version
    pictures.mkdir(parents=True, exist_ok=True)
    report, scene = tmp_path / "report.json", tmp_path / "scene.blend"
    blender.run("-b", "--factory-startup", "--python", DEMO_SCENE, "--", scene)
    arguments = {
        "output": str(tmp_path / "my suzanne"),
        "report": str(report),
        "pictures": str(pictures),
        "framebuffer": str(tmp_path / "Xvfb_screen0"),
        **(FINE if os.environ.get("NEURAL_FIELDS_FINE_PICTURES") else QUICK),
    }
    screen = f"-screen 0 1280x800x24 -fbdir {tmp_path}"
    done = blender.run(
        *(scene, "--enable-event-simulate"),
        *("-p", "0", "0", "1280", "800", "--python-exit-code", "1", "--python", SCRIPT),
        *("--", json.dumps(arguments)),
        before=["xvfb-run", "-a", "-s", screen],
    )
    assert report.exists(), done.stdout[-4000:]
    said = json.loads(report.read_text())
    assert "failure" not in said, said["failure"]
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
        assert (pictures / f"{name}.png").stat().st_size > 10_000, name
