"""Runs inside a real Blender's window, in a fresh profile: three clicks lead to a mesh.

Its arguments, after ``--``, are a json object: report, pictures (a folder), framebuffer (Xvfb's
file), lock (the packages to install), wheels (the folder of them), path (a folder with a Python
that they are for). Nothing comes from an index; all else of the installation is real.
"""

from __future__ import annotations

import importlib
import json
import os
import pathlib
import sys
import time

import bpy
import numpy as np

sys.path.insert(0, str(pathlib.Path(__file__).parent))
import window_tools
from window_tools import MODULE, Scenario, view

ARGUMENTS = json.loads(sys.argv[sys.argv.index("--") + 1])

del os.environ["NEURAL_FIELDS_PYTHON"]
os.environ.update(PIP_NO_INDEX="1", PIP_FIND_LINKS=ARGUMENTS["wheels"])
os.environ["PATH"] = os.pathsep.join((ARGUMENTS["path"], os.environ["PATH"]))
backend, environment, install, job = (
    importlib.import_module(f"{MODULE}.operators.{name}")
    for name in ("backend", "environment", "install", "job")
)
environment.LOCK = pathlib.Path(ARGUMENTS["lock"])
install._BAR = ()  # the pip that a Python brings may be older
report: dict[str, object] = {"clicks": 0, "seconds": []}


def picture(name: str) -> np.ndarray:
    """Save the screen; returns it."""
    path = pathlib.Path(ARGUMENTS["pictures"]) / f"first_mesh_{name}.png"
    window_tools.picture(ARGUMENTS["framebuffer"], path)
    return window_tools.screen(ARGUMENTS["framebuffer"])


def click(x: int, y: int) -> Scenario:
    report["clicks"] += 1
    yield from window_tools.click(x, y)


def click_below_the_top(pixels: int) -> Scenario:
    """Click a button of the tab."""
    region = view()[2]
    yield from click(region.x + region.width // 2 - 20, region.y + region.height - pixels)


def end_of_job(most: float) -> Scenario:
    began = time.monotonic()
    while job.owner.running:
        assert time.monotonic() < began + most, job.owner.status
        yield 0.1
    assert not job.owner.error, job.owner.error
    report["seconds"].append(round(time.monotonic() - began))
    yield 1.0


def scenario() -> Scenario:
    assert environment.installed() is None
    yield from window_tools.show_tab()
    yield 1.0
    before = picture("fresh")
    yield from click_below_the_top(95)
    yield 1.0
    button = window_tools.dialog_button(before, picture("dialog"))
    assert button is not None, "no dialog has opened"
    yield from click(*button)
    yield from end_of_job(300.0)
    picture("installed")
    report["installed"] = job.owner.message
    report["program"] = backend.python()
    yield from click_below_the_top(35)
    yield from end_of_job(300.0)
    originals = {item.name for item in scene.objects} & {"Cube"}
    for name in originals:  # it stands in the same place
        scene.objects[name].hide_set(True)
    yield 1.0
    picture("mesh")
    report["message"] = job.owner.message
    report["meshes"] = {
        item.name: len(item.data.polygons)
        for item in scene.objects
        if item.type == "MESH" and item.name not in originals
    }


bpy.context.preferences.addons[MODULE].preferences.variant = "cpu"
scene = bpy.context.scene
scene.render.engine = "CYCLES"
settings = scene.neural_fields
settings.rig.views = 12
settings.dataset.resolution, settings.dataset.samples = 48, 2
settings.training.preset, settings.training.max_seconds = "preview", 6.0
settings.result.mesh_resolution, settings.result.sequence = 48, False
window_tools.play(scenario(), report, ARGUMENTS["report"], lambda: picture("failure"))
