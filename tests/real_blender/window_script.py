"""Runs inside a real Blender's window: clicks the button, waits, takes pictures, reports.

Its arguments, after ``--``, are a json object: output, report, pictures (a folder), framebuffer
(Xvfb's file), views, resolution, samples, seconds. Every picture is the true screen, read from the
framebuffer.
"""

from __future__ import annotations

import importlib
import json
import pathlib
import struct
import sys
import time
import traceback
from collections.abc import Iterator

import bpy
import numpy as np

ARGUMENTS = json.loads(sys.argv[sys.argv.index("--") + 1])
MODULE = "bl_ext.user_default.neural_fields"
SIZE = (1280, 800)
job = importlib.import_module(f"{MODULE}.operators.job")

bpy.context.preferences.view.show_splash = False
report: dict[str, object] = {}
ticks: list[float] = []


def picture(name: str) -> None:
    """Save the screen as PNG, [800, 1280]."""
    data = pathlib.Path(ARGUMENTS["framebuffer"]).read_bytes()
    header = struct.unpack(">25I", data[:100])
    size, width, height, line, colours = header[0], header[4], header[5], header[12], header[19]
    start = size + 12 * colours
    pixels = np.frombuffer(data[start : start + line * height], np.uint8)
    pixels = pixels.reshape(height, line // 4, 4)[:, :width, [2, 1, 0]]
    rgba = np.ones((height, width, 4), np.float32)
    rgba[..., :3] = pixels[::-1] / 255.0
    image = bpy.data.images.new("screen", width, height)
    image.pixels.foreach_set(rgba.ravel())
    image.filepath_raw = str(pathlib.Path(ARGUMENTS["pictures"]) / f"{name}.png")
    image.file_format = "PNG"
    image.save()
    bpy.data.images.remove(image)


def view() -> tuple[bpy.types.Window, bpy.types.Area, bpy.types.Region]:
    window = bpy.context.window_manager.windows[0]
    area = max(
        (area for area in window.screen.areas if area.type == "VIEW_3D"),
        key=lambda area: area.width,
    )
    return window, area, next(region for region in area.regions if region.type == "UI")


def click(x: int, y: int) -> Iterator[float]:
    window = view()[0]
    window.event_simulate(type="MOUSEMOVE", value="NOTHING", x=x, y=y)
    yield 0.3
    window.event_simulate(type="LEFTMOUSE", value="PRESS", x=x, y=y)
    yield 0.1
    window.event_simulate(type="LEFTMOUSE", value="RELEASE", x=x, y=y)
    yield 0.3


def scenario() -> Iterator[float]:
    _, area, region = view()
    area.spaces.active.show_region_ui = True
    yield 1.0
    region.active_panel_category = "Neural Fields"
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


def finish() -> None:
    collection = bpy.data.collections.get("Neural Fields")
    report["meshes"] = [
        {"name": item.name, "faces": len(item.data.polygons)}
        for item in (collection.objects if collection else [])
    ]
    report["sequences"] = [i.name for i in bpy.data.images if i.source == "SEQUENCE"]
    report["torch"] = "torch" in sys.modules
    pathlib.Path(ARGUMENTS["report"]).write_text(json.dumps(report))
    bpy.ops.wm.quit_blender()


steps = scenario()


def tick() -> float | None:
    try:
        return next(steps)
    except StopIteration:
        pass
    except BaseException:
        report["failure"] = traceback.format_exc()
        picture("failure")
    finish()
    return None


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
bpy.app.timers.register(tick, first_interval=3.0)
bpy.app.timers.register(heartbeat, first_interval=3.0)
