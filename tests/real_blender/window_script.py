"""Runs inside a real Blender's window: clicks the button, waits, takes pictures, reports.

Its arguments, after ``--``, are a json object: output, report, pictures (a folder), framebuffer
(Xvfb's file), views, resolution, samples, seconds. Every picture is the true screen, read from the
framebuffer.
"""

from __future__ import annotations

import importlib
import json
import pathlib
import sys
import time
from collections.abc import Iterator

import bpy
import numpy as np

sys.path.insert(0, str(pathlib.Path(__file__).parent))
import window_tools
from window_tools import MODULE, click, view

ARGUMENTS = json.loads(sys.argv[sys.argv.index("--") + 1])
job = importlib.import_module(f"{MODULE}.operators.job")

report: dict[str, object] = {}
ticks: list[float] = []


def picture(name: str) -> None:
    window_tools.picture(
        ARGUMENTS["framebuffer"], pathlib.Path(ARGUMENTS["pictures"]) / f"{name}.png"
    )


def scenario() -> Iterator[float]:
    _, area, region = view()
    yield from window_tools.show_tab()
    area.spaces.active.region_3d.view_perspective = "CAMERA"
    yield 1.5
    picture("idle")
    settings.show_rig = True
    area.spaces.active.region_3d.view_perspective = "PERSP"
    area.spaces.active.region_3d.view_distance = 22.0
    yield 1.5
    picture("rig")
    settings.show_rig = False
    area.spaces.active.region_3d.view_perspective = "CAMERA"
    settings.dataset.passes = "on"
    yield 0.5

    # the big button is the tab's first row
    assert not job.owner.running
    yield from click(region.x + region.width // 2 - 10, region.y + region.height - 35)
    report["started"] = job.owner.running
    if not job.owner.running:
        report["error"] = job.owner.error
        return
    yield from wait(lambda: "View" in job.owner.status.text)
    settings.dataset.passes = "auto"  # not in the pictures
    picture("export")
    yield from wait(lambda: (job.owner.status.fraction or 0) > 0.3 and "Train" in text())
    ticks.clear()
    yield 2.0
    picture("training")
    report["training_stalls"] = sorted(np.diff(ticks), reverse=True)[:5]
    yield from wait(lambda: False)
    report["error"] = job.owner.error
    report["message"] = job.owner.message
    # without the originals, which stand in the same place
    for item in bpy.context.scene.objects:
        item.hide_set(item.type == "MESH" and item.name not in collection_names())
    yield 2.0
    picture("finished")
    count()


def collection_names() -> set[str]:
    collection = bpy.data.collections.get("Neural Fields")
    return {item.name for item in collection.objects} if collection else set()


def text() -> str:
    return job.owner.status.text


def wait(reached, most: float = 500.0) -> Iterator[float]:
    """Until it is reached or the job has ended."""
    until = time.monotonic() + most
    while job.owner.running and not reached():
        assert time.monotonic() < until, job.owner.status
        yield 0.1


def count() -> None:
    collection = bpy.data.collections.get("Neural Fields")
    report["meshes"] = [
        {"name": item.name, "faces": len(item.data.polygons)}
        for item in (collection.objects if collection else [])
    ]
    report["sequences"] = [i.name for i in bpy.data.images if i.source == "SEQUENCE"]
    report["torch"] = "torch" in sys.modules


def heartbeat() -> float:
    ticks.append(time.monotonic())
    return 0.01


settings = bpy.context.scene.neural_fields
settings.output = ARGUMENTS["output"]
settings.rig.views = ARGUMENTS["views"]
settings.dataset.resolution = ARGUMENTS["resolution"]
settings.dataset.samples = ARGUMENTS["samples"]
settings.training.max_seconds = ARGUMENTS["seconds"]
settings.result.mesh_resolution = ARGUMENTS["resolution"]
settings.result.sequence_path = "orbit"
settings.result.sequence_frames = 4
window_tools.play(scenario(), report, ARGUMENTS["report"], lambda: picture("failure"))
bpy.app.timers.register(heartbeat, first_interval=3.0)
