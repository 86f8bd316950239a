"""Runs inside a real Blender's window: two clicks begin the installation of the backend.

Its arguments, after ``--``, are a json object: report, pictures (a folder), framebuffer (Xvfb's
file). Nothing can be downloaded: pip is given an index that never answers.
"""

from __future__ import annotations

import importlib
import json
import os
import pathlib
import socket
import sys

import bpy
import numpy as np

sys.path.append(str(pathlib.Path(__file__).parent))  # not there for a script
import window_tools

ARGUMENTS = json.loads(sys.argv[sys.argv.index("--") + 1])

del os.environ["NEURAL_FIELDS_PYTHON"]
# the system takes what asks for a connection; nobody answers it
silent = socket.create_server(("127.0.0.1", 0))
os.environ["PIP_INDEX_URL"] = f"http://127.0.0.1:{silent.getsockname()[1]}/"
os.environ["PIP_TIMEOUT"] = "60"
for name in ("PIP_NO_INDEX", "PIP_FIND_LINKS", "PIP_EXTRA_INDEX_URL"):
    os.environ.pop(name, None)
job = importlib.import_module(f"{window_tools.MODULE}.operators.job")
environment = importlib.import_module(f"{window_tools.MODULE}.operators.environment")
report: dict[str, object] = {}


def picture(name: str) -> np.ndarray:
    """Save the screen; returns it."""
    path = pathlib.Path(ARGUMENTS["pictures"]) / f"{name}.png"
    window_tools.picture(ARGUMENTS["framebuffer"], path)
    return window_tools.screen(ARGUMENTS["framebuffer"])


def scenario() -> window_tools.Scenario:
    yield from window_tools.show_tab()
    yield 1.0
    before = picture("install")
    region = window_tools.view()[2]
    # below the three lines that say why
    yield from window_tools.click(region.x + region.width // 2 - 20, region.y + region.height - 95)
    yield 1.0
    button = window_tools.dialog_button(before, picture("install-dialog"))
    report["asked"] = button is not None and not job.owner.running
    yield from window_tools.click(*button)
    yield 0.5
    report["started"] = job.owner.running
    bpy.ops.preferences.addon_show(module=window_tools.MODULE)
    yield 1.5
    picture("install-progress")
    preferences = next(each for each in bpy.context.window_manager.windows if each.parent)
    with bpy.context.temp_override(window=preferences):
        bpy.ops.wm.window_close()
    yield 0.5
    report["closed"] = job.owner.running
    job.owner.cancel()
    while job.owner.running:
        yield 0.1
    report["cancelled"] = job.owner.cancelled
    report["left"] = [path.name for path in environment.leftovers()]


window_tools.play(scenario(), report, ARGUMENTS["report"], lambda: picture("failure"))
