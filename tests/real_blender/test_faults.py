"""What may happen to a training in a real Blender, and must do no harm."""

from __future__ import annotations

import json
import os
import pathlib
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from blender_process import Blender

from neural_backend import kernels, protocol

SCRIPT = pathlib.Path(__file__).with_name("faults_script.py")
SCENARIOS = (
    "killed",
    "damaged",
    "paused",
    "queue",
    "deleted",
    "disabled",
    "reloaded",
    "updated",
    "opened",
    "left",
)
SAVE = """
import bpy
scene = bpy.context.scene
scene.render.engine = "CYCLES"
settings = scene.neural_fields
settings.rig.views, settings.dataset.resolution, settings.dataset.samples = 6, 16, 1
settings.output = {output!r}
training = settings.training
training.max_seconds = {seconds!r}
training.levels, training.finest, training.log2_table_size, training.batch = 4, 32, 11, 2048
settings.result.mesh = settings.result.sequence = False
bpy.ops.wm.save_as_mainfile(filepath={file!r})
"""


def slack() -> float:
    """How much longer things may take where other work wants the processor too."""
    return max(1.0, 2.0 * os.getloadavg()[0] / (os.cpu_count() or 1))


def script(
    blender: Blender, folder: pathlib.Path, *scenarios: str
) -> tuple[list[str], pathlib.Path]:
    """The command that plays scenarios in a window, and the report that it writes."""
    screen = folder / scenarios[0]
    screen.mkdir()
    command = blender.window_command(
        *(SCRIPT, screen, folder / "scene.blend"),
        scenarios=scenarios,
        output=str(folder / "out"),
        zip=str(next(blender.profile.parent.glob("*.zip"))),
    )
    return command, screen / "report.json"


def save(blender: Blender, folder: pathlib.Path, seconds: float, output: str = "out") -> None:
    file = str(folder / "scene.blend")
    blender.python(SAVE.format(output=str(folder / output), seconds=seconds, file=file))


@pytest.fixture(scope="module")
def folder(blender: Blender, tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    return tmp_path_factory.mktemp("faults")


@pytest.fixture(scope="module")
def told(blender: Blender, folder: pathlib.Path) -> dict[str, Any]:
    """The report of a window in which all sorts of things have happened."""
    # what is compiled now is compiled once
    kernels.choose(torch.device("cpu"))
    save(blender, folder, 600.0)
    command, report = script(blender, folder, *SCENARIOS)
    done = subprocess.run(
        command,
        env=blender.environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=900.0,
    )
    assert report.exists(), done.stdout[-6000:]
    said: dict[str, Any] = json.loads(report.read_text())
    said["printed"] = done.stdout
    return said


def test_all_was_played(told: dict[str, Any]) -> None:
    assert "failure" not in told, told["printed"][-4000:] + told["failure"]
    assert not told["torch"], "torch was loaded in Blender's process"
    assert "Traceback" not in told["printed"], told["printed"][-6000:]


def test_a_killed_backend_is_said_and_can_be_resumed(told: dict[str, Any]) -> None:
    assert "was killed by signal 9" in told["killed"]["error"]
    assert told["killed"]["seconds"] < 3.0 * slack()
    assert told["killed"]["offered"]


def test_damaged_events_and_a_jumping_clock_do_no_harm(told: dict[str, Any]) -> None:
    assert told["damaged"] == {"running": True, "error": ""}


def test_a_paused_training_takes_nothing(told: dict[str, Any]) -> None:
    assert told["paused"] == {"message": "Resume: paused", "backends": 0}


def test_jobs_wait_for_their_turn(told: dict[str, Any]) -> None:
    assert told["queue"] == {"waiting": 2, "left": 0}


def test_a_folder_that_is_deleted_is_said(told: dict[str, Any]) -> None:
    assert "was deleted or moved" in told["deleted"]


def test_disabling_and_reloading_end_the_training(told: dict[str, Any]) -> None:
    assert told["disabled"]["seconds"] < 5.0 * slack()
    assert told["disabled"]["before"] == told["disabled"]["after"] == []
    assert told["disabled"]["offered"]
    assert told["reloaded"] in (
        {"running": True, "backends": 1},
        {"running": False, "backends": 0},
    )


def test_updating_ends_the_training(told: dict[str, Any]) -> None:
    assert told["updated"]


def test_another_file_leaves_it_where_that_was_asked_for(told: dict[str, Any]) -> None:
    assert told["opened"] == {"running": False, "backends": 1, "paused": True}


def backends(folder: pathlib.Path) -> list[int]:
    """Process ids of the backends that train into an output folder."""
    run = str(folder / "run")
    found = []
    for process in pathlib.Path("/proc").glob("[0-9]*"):
        try:
            arguments = (process / "cmdline").read_bytes().decode(errors="replace").split("\0")
        except OSError:
            continue
        if "train" in arguments and run in arguments:
            found.append(int(process.name))
    return found


@pytest.fixture(scope="module")
def restarted(blender: Blender, told: dict[str, Any], folder: pathlib.Path) -> Iterator[Any]:
    """The report of a second window, in which a training goes on; its process."""
    assert len(backends(folder / "out")) == 1, "the first window has left none"
    command, report = script(blender, folder, "restart")
    with open(folder / "printed.txt", "w+") as printed:
        process = subprocess.Popen(
            command,
            env=blender.environment,
            stdin=subprocess.DEVNULL,
            stdout=printed,
            stderr=subprocess.STDOUT,
        )
        with process:
            try:
                while not report.exists():
                    assert process.poll() is None, (folder / "printed.txt").read_text()[-4000:]
                    time.sleep(0.2)
                yield json.loads(report.read_text())
            finally:
                process.terminate()


def test_a_training_is_found_again_after_a_restart(restarted: dict[str, Any]) -> None:
    assert "failure" not in restarted, restarted["failure"]
    assert restarted["found"]["name"] == "out"
    assert restarted["brought"] == {"error": "", "objects": ["out"]}


def refused(blender: Blender, file: pathlib.Path, before: str = "") -> tuple[str, str]:
    """The line with which a training in the background is refused, and all that was printed.

    Args:
        before: statements, with the settings of the training as ``s``.
    """
    settings = "s = bpy.context.scene.neural_fields.training"
    train = f"import bpy; {settings}; {before}bpy.ops.neural_fields.train()"
    done = blender.python(train, file, check=False)
    assert done.returncode == 1, done.stdout[-4000:]
    lines = [line for line in done.stdout.splitlines() if line.startswith("Error: ")]
    (line,) = {line for line in lines if not line.startswith("Error: script failed")}
    return line.removeprefix("Error: "), done.stdout


def test_a_second_blender_is_told_before_it_renders(
    blender: Blender, restarted: dict[str, Any], folder: pathlib.Path
) -> None:
    line, printed = refused(blender, folder / "scene.blend")
    assert "another training writes into it" in line or "another Blender is at work" in line
    assert "View" not in printed
    assert backends(folder / "out") == restarted["backends"]


def test_a_killed_blender_takes_its_backend_along(
    blender: Blender, restarted: dict[str, Any], folder: pathlib.Path
) -> None:
    os.kill(restarted["pid"], signal.SIGKILL)
    killed = time.monotonic()
    while backends(folder / "out"):
        assert time.monotonic() - killed < 5.0 * slack(), "it runs on"
        time.sleep(0.05)
    run = folder / "out" / "run"
    ended = protocol.last_events(run / "events.jsonl", 10_000)[-1]
    assert isinstance(ended, protocol.Done)
    assert ended.reason == "cancelled"
    code = f"bpy.ops.neural_fields.train(resume=True, max_seconds={ended.seconds + 2.0})"
    done = blender.python(f"import bpy; {code}", folder / "scene.blend")
    assert "Trained for" in done.stdout
    ended = protocol.last_events(run / "events.jsonl", 10_000)[-1]
    assert isinstance(ended, protocol.Done)
    assert ended.reason == "finished"


@pytest.fixture
def python_that(
    blender: Blender, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[[str], None]:
    """Puts a shell's command before the training in the backend's Python."""
    python = blender.environment["NEURAL_FIELDS_PYTHON"]

    def put(command: str) -> None:
        program = tmp_path / "python"
        lines = ["#!/bin/sh", f'if [ "$3" = train ]; then {command}; fi', f'exec {python} "$@"']
        program.write_text("\n".join(lines) + "\n")
        program.chmod(0o755)
        monkeypatch.setenv("NEURAL_FIELDS_PYTHON", str(program))

    return put


def test_a_full_disk_is_said_and_the_run_goes_on_when_there_is_room(
    blender: Blender, python_that: Callable[[str], None], tmp_path: pathlib.Path
) -> None:
    """Full is what refuses a checkpoint of that size: the system's limit for files does it too."""
    save(blender, tmp_path, 4.0)
    file, run = tmp_path / "scene.blend", tmp_path / "out" / "run"
    python_that("ulimit -f 1000")
    line, _ = refused(blender, file, "s.log2_table_size, s.finest = 19, 1024;")
    assert "checkpoint cannot be written" in line
    assert "free some space" in line
    assert [path.name for path in run.iterdir() if ".part" in path.name] == []
    python_that("true")
    blender.python(f"import bpy; bpy.ops.neural_fields.resume(run={str(run)!r})", file)
    ended = protocol.last_events(run / "events.jsonl", 10_000)[-1]
    assert isinstance(ended, protocol.Done)
    assert ended.reason == "finished"


def test_garbage_is_not_shown(
    blender: Blender, python_that: Callable[[str], None], tmp_path: pathlib.Path
) -> None:
    save(blender, tmp_path, 4.0)
    python_that("printf '\\377\\000\\033[31mall is lost\\007\\n\\000\\n'; exit 1")
    line, _ = refused(blender, tmp_path / "scene.blend")
    assert line.isprintable()
    assert "failed with status 1: [31mall is lost; its log is" in line


def test_a_full_memory_is_said_in_plain_words(
    blender: Blender, python_that: Callable[[str], None], tmp_path: pathlib.Path
) -> None:
    save(blender, tmp_path, 4.0)
    python_that("ulimit -v 5000000")
    large = "s.log2_table_size, s.levels, s.features, s.finest = 24, 8, 4, 4096;"
    line, _ = refused(blender, tmp_path / "scene.blend", large)
    assert "memory" in line
    assert "Table Size (--log2-table-size)" in line
    assert "; lower" in line
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["dataset"], "nothing began"
