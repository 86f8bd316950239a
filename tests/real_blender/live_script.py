"""Runs inside a real Blender's window: trains, and looks at the live view from several places.

Its arguments, after ``--``, are a json object: output, report, pictures (a folder), framebuffer
(Xvfb's file), field, seconds (of training), measured (seconds), without (seconds with the live
view switched off).
"""

from __future__ import annotations

import importlib
import json
import pathlib
import sys
import time
from collections.abc import Callable
from typing import Any

import bpy
import numpy as np

sys.path.insert(0, str(pathlib.Path(__file__).parent))
import window_tools
from window_tools import MODULE, Scenario, view

ARGUMENTS = json.loads(sys.argv[sys.argv.index("--") + 1])
job, live, eye, live_view = (
    importlib.import_module(f"{MODULE}.{name}")
    for name in ("operators.job", "operators.live", "operators.eye", "ui.live_view")
)
report: dict[str, Any] = {"differences": {}, "seconds": {}, "gaps": {}, "drawn": {}}
ticks: list[float] = []
draws: list[float] = []


def timed(name: str, do: Callable[..., Any]) -> Callable[..., Any]:
    spent = report["seconds"][name] = []

    def measured(*arguments: Any) -> Any:
        began = time.perf_counter()
        try:
            return do(*arguments)
        finally:
            spent.append(time.perf_counter() - began)

    return measured


live.Following.look = timed("look", live.Following.look)
for when, draw in live_view._DRAWN.items():
    live_view._DRAWN[when] = timed(when, draw)


def heartbeat() -> float:
    ticks.append(time.perf_counter())
    return 0.01


def drawn() -> None:
    draws.append(time.perf_counter())


def measure(name: str, seconds: float, redraw: bool = False) -> Scenario:
    """Report the gaps between ticks, and in which of them the viewport was drawn."""
    ticks.clear()
    draws.clear()
    until = time.perf_counter() + seconds
    while time.perf_counter() < until:
        if redraw:
            view()[1].tag_redraw()
        yield 1.0
    report["gaps"][name] = np.diff(ticks).tolist()
    counts = np.histogram(draws, ticks)[0]
    report["drawn"][name] = counts.astype(bool).tolist()


def picture(name: str) -> None:
    path = pathlib.Path(ARGUMENTS["pictures"]) / f"{name}.png"
    window_tools.picture(ARGUMENTS["framebuffer"], path)


def rectangle() -> tuple[float, float, float, float] | None:
    """Where the newest picture belongs in the viewport."""
    window, area, _ = view()
    following, space = live.following(), area.spaces.active
    region = main_region()
    seen = eye.of_viewport(
        *(window.scene, space, space.region_3d, (region.width, region.height)),
        following.field_from_world,
    )
    shown = following.picture
    return seen.rectangle if shown is not None and seen.sees_as(shown.eye) else None


def main_region() -> bpy.types.Region:
    return next(region for region in view()[1].regions if region.type == "WINDOW")


def differences() -> list[float]:
    """Between the screen and the newest live.png in the upper middle of it, levels of 255."""
    region, shown = main_region(), live.following().picture
    left, bottom, width, height = rectangle()
    expected = 255.0 * live_view.over(shown.pixels, live_view._behind())[..., :3]
    h, w = expected.shape[:2]
    pixels = window_tools.screen(ARGUMENTS["framebuffer"])[::-1].astype(float)
    found = []
    for x in np.linspace(0.3, 0.65, 20):
        for y in np.linspace(0.45, 0.8, 20):
            column, row = int(left + x * width), int(bottom + y * height)
            u = np.clip((column + 0.5 - left) / width * w - 0.5, 0.0, w - 1.001)
            v = np.clip((row + 0.5 - bottom) / height * h - 0.5, 0.0, h - 1.001)
            i, j = int(u), int(v)
            a, b = u - i, v - j
            lower = expected[j, i] * (1.0 - a) + expected[j, i + 1] * a
            upper = expected[j + 1, i] * (1.0 - a) + expected[j + 1, i + 1] * a
            screen = pixels[region.y + row, region.x + column]
            found.append(float(np.abs(lower * (1.0 - b) + upper * b - screen).max()))
    return found


def wait(reached: Callable[[], object], most: float = 500.0) -> Scenario:
    until = time.monotonic() + most
    while not reached():
        assert time.monotonic() < until, (job.owner.status, live.following())
        assert job.owner.running, (job.owner.error, job.owner.message)
        yield 0.1


def look(name: str) -> Scenario:
    """Wait for a view from here, draw it and compare it with the file."""
    yield from wait(lambda: rectangle() is not None)
    for _ in range(20):  # a newer one may come between drawing and comparing
        shown = live.following().picture
        view()[1].tag_redraw()
        yield 0.7
        if live.following().picture is shown and rectangle() is not None:
            break
    report["differences"][name] = differences()
    picture(f"live_{name}")


def scenario() -> Scenario:
    window, area, _ = view()
    space = area.spaces.active
    data = space.region_3d
    yield from window_tools.show_tab()
    data.view_perspective = "CAMERA"
    yield 1.0
    bpy.types.SpaceView3D.draw_handler_add(drawn, (), "WINDOW", "PRE_VIEW")
    yield from measure("idle", 8.0, redraw=True)
    with bpy.context.temp_override(window=window, area=area, region=main_region()):
        bpy.ops.neural_fields.train(
            "INVOKE_DEFAULT",
            output=ARGUMENTS["output"],
            field=ARGUMENTS["field"],
            views=40,
            resolution=200,
            max_seconds=ARGUMENTS["seconds"],
            results=set(),
        )
    assert job.owner.running
    yield from wait(lambda: live.following() is not None and live.following().picture)
    following = live.following()
    yield from look("camera")
    for spent in report["seconds"].values():
        spent.clear()
    pictures = following.history.version, following.picture
    yield from measure("training", ARGUMENTS["measured"])
    report["went_on"] = following.history.version > pictures[0]
    report["renewed"] = following.picture is not pictures[1]
    if ARGUMENTS["without"]:
        window.scene.neural_fields.show_live = False
        yield 2.0
        yield from measure("training, live view off", ARGUMENTS["without"])
        window.scene.neural_fields.show_live = True
    data.view_perspective = "PERSP"
    data.view_location, data.view_distance = (2.0, -1.0, 1.0), 9.0
    yield 0.1
    report["stale_is_shown"] = rectangle() is not None
    yield from look("own_view")
    data.view_perspective = "ORTHO"
    yield from look("orthographic")
    data.view_perspective = "CAMERA"
    yield from look("camera_again")

    report["images_before"] = [image.name for image in bpy.data.images]
    below = next(each for each in window.screen.areas if each.type == "DOPESHEET_EDITOR")
    below.type = "IMAGE_EDITOR"
    yield 0.5
    with bpy.context.temp_override(window=window, area=area, region=main_region()):
        bpy.ops.neural_fields.show_live()
    image = below.spaces.active.image
    report["image"] = [image.name, image.source, image.packed_file is None, image.use_fake_user]
    before = following.picture
    yield from wait(lambda: following.picture is not before)
    yield 1.0
    picture("live_image_editor")
    report["image_size"] = [list(image.size), list(following.picture.pixels.shape[1::-1])]

    run = following.run
    report["eye"] = run.eye.exists()
    job.owner.cancel()
    while job.owner.running:
        yield 0.2
    yield 1.0
    report["left"] = [run.eye.exists(), live.following() is not None]
    report["error"], report["torch"] = job.owner.error, "torch" in sys.modules
    picture("live_ended")


bpy.app.timers.register(heartbeat, first_interval=3.0)
window_tools.play(scenario(), report, ARGUMENTS["report"], lambda: picture("failure"))
