"""What scripts do in a real Blender's window: pictures of the true screen, clicks, scenarios."""

from __future__ import annotations

import json
import os
import pathlib
import struct
import traceback
from collections.abc import Callable, Iterator
from typing import Any

import bpy
import numpy as np

MODULE = "bl_ext.user_default.neural_fields"
BLUE = (0.28, 0.45, 0.70)
"""The colour of the button that a dialog expects to be pressed."""
Scenario = Iterator[float]
"""Yields the seconds until it goes on."""


def screen(framebuffer: str) -> np.ndarray:
    """[H, W, 3] uint8: the screen, read from Xvfb's framebuffer, the upper row first."""
    data = pathlib.Path(framebuffer).read_bytes()
    header = struct.unpack(">25I", data[:100])
    size, width, height, line, colours = header[0], header[4], header[5], header[12], header[19]
    start = size + 12 * colours
    pixels = np.frombuffer(data[start : start + line * height], np.uint8)
    return pixels.reshape(height, line // 4, 4)[:, :width, [2, 1, 0]]


def picture(framebuffer: str, path: pathlib.Path) -> None:
    """Save the screen as PNG."""
    pixels = screen(framebuffer)
    height, width = pixels.shape[:2]
    rgba = np.ones((height, width, 4), np.float32)
    rgba[..., :3] = pixels[::-1] / 255.0
    image = bpy.data.images.new("screen", width, height)
    image.pixels.foreach_set(rgba.ravel())
    # nothing may be written to a data-block from a timer while a render, or in 4.3 since one, has
    # Blender's lock of them; its functions may be called
    image.save(filepath=str(path))
    bpy.data.images.remove(image)


def dialog_button(before: np.ndarray, after: np.ndarray) -> tuple[int, int] | None:
    """Where to click the button that a dialog expects to be pressed; None where there is none.

    Args:
        before, after: the ``screen`` before the dialog has opened and since.
    """
    blue, was_blue = (
        (np.abs(pixels / 255.0 - BLUE) < 0.03).all(axis=2) for pixels in (after, before)
    )
    rows, columns = np.nonzero(blue & ~was_blue)
    if len(rows) < 1000:
        return None
    return int(np.median(columns)), len(after) - 1 - int(np.median(rows))


def view() -> tuple[bpy.types.Window, bpy.types.Area, bpy.types.Region]:
    """The window, its largest 3D viewport and that one's sidebar."""
    window = bpy.context.window_manager.windows[0]
    area = max(
        (area for area in window.screen.areas if area.type == "VIEW_3D"),
        key=lambda area: area.width,
    )
    return window, area, next(region for region in area.regions if region.type == "UI")


def show_tab() -> Scenario:
    """Open the sidebar at the tab of the add-on."""
    _, area, region = view()
    area.spaces.active.show_region_ui = True
    yield 1.0
    region.active_panel_category = "Neural Fields"
    yield 0.5


def move(x: int, y: int) -> Scenario:
    view()[0].event_simulate(type="MOUSEMOVE", value="NOTHING", x=x, y=y)
    yield 0.3


def click(x: int, y: int) -> Scenario:
    yield from move(x, y)
    window = view()[0]
    window.event_simulate(type="LEFTMOUSE", value="PRESS", x=x, y=y)
    yield 0.1
    window.event_simulate(type="LEFTMOUSE", value="RELEASE", x=x, y=y)
    yield 0.3


def play(
    scenario: Scenario, report: dict[str, Any], path: str, failed: Callable[[], object]
) -> None:
    """Play a scenario; write the report and quit at its end. It outlives the loading of files.

    Args:
        failed: called where it fails; the report then has a ``failure``.
    """

    def tick() -> float | None:
        try:
            return next(scenario)
        except StopIteration:
            pass
        except BaseException:
            report["failure"] = traceback.format_exc()
            try:
                failed()
            except Exception:  # what has failed first is to be told, and Blender to end
                report["failure"] += traceback.format_exc()
        pathlib.Path(path).write_text(json.dumps(report))
        try:
            bpy.ops.wm.quit_blender()
        except RuntimeError as error:  # in 4.3 since a render, see ``picture``
            print(f"Blender is ended without quitting: {error}", flush=True)
            os._exit(0)
        return None

    bpy.context.preferences.view.show_splash = False
    bpy.app.timers.register(tick, first_interval=1.0, persistent=True)
