"""Runs inside a real Blender's window: trains, and does to it what must do no harm; reports.

Its arguments, after ``--``, are a json object: scenarios (names of functions), output, report,
pictures (a folder), framebuffer (Xvfb's file), zip (the extension). The report says what was seen,
the test judges it.
"""

from __future__ import annotations

import contextlib
import json
import os
import pathlib
import shutil
import signal
import sys
import time
import types
from collections.abc import Callable
from typing import Any

import bpy

sys.path.insert(0, str(pathlib.Path(__file__).parent))
import window_tools
from window_tools import MODULE, Scenario, move, show_tab, view

ARGUMENTS = json.loads(sys.argv[sys.argv.index("--") + 1])
OUTPUT = pathlib.Path(ARGUMENTS["output"])
RUN = OUTPUT / "run"
PATIENCE = 200.0


class Module:
    """A module of the add-on as it is loaded now."""

    def __init__(self, name: str):
        self._name = f"{MODULE}.operators.{name}"

    def __getattr__(self, name: str) -> Any:
        return getattr(sys.modules[self._name], name)


job, runs = Module("job"), Module("runs")
ops = bpy.ops.neural_fields
report: dict[str, object] = {"torch": False}


def picture(name: str) -> Scenario:
    yield 1.2  # the list is looked at once a second
    path = pathlib.Path(ARGUMENTS["pictures"]) / f"{name}.png"
    window_tools.picture(ARGUMENTS["framebuffer"], path)


def until(reached: Callable[[], object], most: float = PATIENCE) -> Scenario:
    limit = time.monotonic() + most
    while not reached():
        assert time.monotonic() < limit, (job.owner.status, job.owner.error, job.owner.message)
        yield 0.05


def backends() -> list[int]:
    """Process ids of the backends that train the run."""
    found = []
    for folder in pathlib.Path("/proc").glob("[0-9]*"):
        try:
            arguments = (folder / "cmdline").read_bytes().decode(errors="replace").split("\0")
        except OSError:
            continue
        if "train" in arguments and str(RUN) in arguments:
            found.append(int(folder.name))
    return found


def progress() -> float:
    return job.owner.status.fraction or 0.0 if job.owner.status.training else 0.0


def row() -> object:
    return runs.shown(str(RUN))


def state() -> str:
    found = row()
    return found.run.state if found else ""


def train() -> Scenario:
    ops.train()
    yield from until(lambda: progress() > 0.0)


def killed() -> Scenario:
    """kill -9 of the backend."""
    yield from train()
    yield from picture("list training")
    os.kill(backends()[0], signal.SIGKILL)
    since = time.monotonic()
    yield from until(lambda: not job.owner.running)
    seconds, error = time.monotonic() - since, job.owner.error
    yield from until(lambda: state() == "interrupted")
    report["killed"] = {"seconds": seconds, "error": error, "offered": row().can_go_on}
    yield from picture("killed")


def damaged() -> Scenario:
    """Lines in the journal that are none, and a clock that jumps."""
    ops.resume(run=str(RUN))
    yield from until(lambda: progress() > 0.0)
    with open(RUN / "events.jsonl", "ab") as file:
        file.write(b'{"type": "progress", "step": "x", "eta": NaN}\n\xff\xfe{[\0\n{"type": 3}\n')
    real = time.time
    before = progress()
    try:
        for jump in (86_400.0, -86_400.0, 1e9):
            time.time = lambda jump=jump: real() + jump
            yield 0.4
        yield from until(lambda: progress() > before)
    finally:
        time.time = real
    report["damaged"] = {"running": job.owner.running, "error": job.owner.error}


def paused() -> Scenario:
    """The mouse is over the bar when the job ends: no text may be drawn as a bar."""
    _, _, region = view()
    yield from move(region.x + region.width // 2 - 10, region.y + region.height - 110)
    ops.pause()
    yield from until(lambda: not job.owner.running)
    yield from until(lambda: state() == "paused")
    report["paused"] = {"message": job.owner.message, "backends": len(backends())}
    yield from picture("paused")


def queue() -> Scenario:
    """Who waits begins in turn."""
    yield from train()
    ops.train()
    ops.train()
    yield from picture("list queue")
    waiting = len(job.owner.queue)
    first, last = job.owner.job, job.owner.queue[1]
    ops.cancel_run(run=next(item.key for item in runs.rows if item.job is last))
    ops.cancel()
    yield from until(lambda: job.owner.job not in (None, first) and progress() > 0.0)
    report["queue"] = {"waiting": waiting, "left": len(job.owner.queue)}


def deleted() -> Scenario:
    """The run's folder is deleted while it is trained."""
    shutil.rmtree(RUN)
    yield from until(lambda: not job.owner.running)
    report["deleted"] = job.owner.error


def traces() -> list[str]:
    """What of the add-on's is left in Blender."""
    lists = {name: getattr(bpy.app.handlers, name) for name in dir(bpy.app.handlers)}
    found = [
        f"handler {name}"
        for name, functions in lists.items()
        if isinstance(functions, list)
        for function in functions
        if MODULE in getattr(function, "__module__", "")
    ]
    for module in [name for name in sys.modules if name.startswith(MODULE)]:
        for name, value in vars(sys.modules[module]).items():
            if isinstance(value, types.FunctionType) and bpy.app.timers.is_registered(value):
                found.append(f"timer {module}.{name}")
    found += [f"type {name}" for name in dir(bpy.types) if name.startswith("NEURAL_FIELDS")]
    owners = (bpy.types.Scene, bpy.types.WindowManager)
    found += [
        f"property of {owner.__name__}"
        for owner in owners
        if "neural_fields" in owner.bl_rna.properties
    ]
    return found + ["event timer"] * len(job._timers)


def disabled() -> Scenario:
    """The add-on goes while it trains, and comes back."""
    yield from train()
    bpy.ops.preferences.addon_disable(module=MODULE)
    since = time.monotonic()
    yield from until(lambda: not backends())
    seconds, before = time.monotonic() - since, traces()
    for _ in range(20):
        bpy.ops.preferences.addon_enable(module=MODULE)
        bpy.ops.preferences.addon_disable(module=MODULE)
    after = traces()
    bpy.ops.preferences.addon_enable(module=MODULE)
    yield from until(lambda: state() == "paused")
    report["disabled"] = {"seconds": seconds, "before": before, "after": after}
    report["disabled"]["offered"] = row().can_go_on


def reloaded() -> Scenario:
    """Blender refuses to reload scripts while an operator runs; else all goes and comes back."""
    yield from train()
    with contextlib.suppress(RuntimeError):
        bpy.ops.script.reload()
    yield 2.0
    report["reloaded"] = {"running": job.owner.running, "backends": len(backends())}
    if job.owner.running:
        ops.pause()
    yield from until(lambda: not backends() and not job.owner.running)
    bpy.ops.script.reload()
    yield 3.0  # some versions do it later
    yield from until(lambda: state() == "paused")


def updated() -> Scenario:
    """The extension is installed anew while it trains."""
    yield from train()
    bpy.ops.extensions.package_install_files(
        filepath=ARGUMENTS["zip"], repo="user_default", enable_on_install=True
    )
    yield from until(lambda: not backends())
    yield 2.0
    yield from until(lambda: state() == "paused")
    yield from train()
    ops.pause()
    yield from until(lambda: not backends() and state() == "paused")
    report["updated"] = row().can_go_on


def opened() -> Scenario:
    """A file is opened: the training ends, or goes on where that was asked for."""
    file = bpy.data.filepath
    yield from train()
    bpy.ops.wm.open_mainfile(filepath=file)
    yield from until(lambda: not backends())
    yield from until(lambda: state() == "paused")
    bpy.context.scene.neural_fields.keep_running = True
    yield 0.5
    yield from train()
    bpy.ops.wm.open_mainfile(filepath=file)
    yield 1.0
    yield from until(lambda: runs.found_again() is not None)
    said = {"running": job.owner.running, "backends": len(backends())}
    yield from show_tab()
    yield from picture("found again")
    ops.pause_run(run=str(RUN))
    yield from until(lambda: not backends())
    yield from until(lambda: state() == "paused")
    report["opened"] = said | {"paused": True}


def left() -> Scenario:
    """Blender closes, and leaves the training."""
    bpy.context.scene.neural_fields.training.max_seconds = 30.0
    bpy.context.scene.neural_fields.keep_running = True
    yield from train()
    report["torch"] = "torch" in sys.modules


def restart() -> Scenario:
    """A training that an earlier Blender has left is found again; this one is killed in the end."""
    since = time.monotonic()
    yield from until(lambda: runs.found_again() is not None)
    found = runs.found_again()
    report["found"] = {"seconds": time.monotonic() - since, "name": found.name}
    yield from until(lambda: runs.found_again().run.progress is not None)
    step = runs.found_again().run.progress.step
    yield from until(lambda: runs.found_again().run.progress.step > step)
    yield from picture("list after a restart")
    yield from until(lambda: runs.ready)
    yield from picture("ready")
    bpy.context.scene.neural_fields.result.mesh = True
    bpy.context.scene.neural_fields.result.mesh_resolution = 16
    ops.bring_back(run=runs.ready[0])
    yield from until(lambda: not job.owner.running)
    collection = bpy.data.collections.get("Neural Fields")
    report["brought"] = {
        "error": job.owner.error,
        "objects": [item.name for item in collection.objects] if collection else [],
    }
    # the backends end with this Blender, which is killed
    bpy.context.scene.neural_fields.training.max_seconds = 600.0
    yield from train()
    report["pid"], report["backends"] = os.getpid(), backends()
    pathlib.Path(ARGUMENTS["report"]).write_text(json.dumps(report))
    yield PATIENCE


def play(names: list[str]) -> Scenario:
    yield from show_tab()
    for name in names:
        yield from globals()[name]()


window_tools.play(
    play(ARGUMENTS["scenarios"]),
    report,
    ARGUMENTS["report"],
    lambda: [None for _ in picture("failure")],
)
