"""What Blender asks of a Python before anything is installed in it."""

from __future__ import annotations

import json
import os
import pathlib
import subprocess
import sys
import time

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
COMMAND = [sys.executable, "-m", "neural_backend.environment"]


def test_about() -> None:
    done = subprocess.run([*COMMAND, "about"], cwd=ROOT, capture_output=True, text=True)
    said = json.loads(done.stdout)
    assert said["version"].startswith(f"{sys.version_info[0]}.{sys.version_info[1]}.")
    assert (said["wide"], said["free_threaded"], said["venv"]) == (True, False, True)


def test_it_needs_nothing_that_is_installed() -> None:
    bare = [COMMAND[0], "-S", *COMMAND[1:], "about"]
    assert subprocess.run(bare, cwd=ROOT, capture_output=True).returncode == 0


def test_a_module_runs_as_if_python_ran_it(tmp_path: pathlib.Path) -> None:
    (tmp_path / "value.json").write_text("[3]")
    arguments = ["run", "json.tool", str(tmp_path / "value.json")]
    done = subprocess.run([*COMMAND, *arguments], cwd=ROOT, capture_output=True, text=True)
    assert json.loads(done.stdout) == [3]
    done = subprocess.run([*COMMAND, "run", "json.tool", "/nowhere"], cwd=ROOT, capture_output=True)
    assert done.returncode != 0


def test_a_module_ends_when_blender_is_gone() -> None:
    # it would serve for ever
    command = [*COMMAND, "run", "http.server", "--bind", "127.0.0.1", "0"]
    with subprocess.Popen(
        command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    ) as child:
        time.sleep(1.0)
        assert child.poll() is None
        child.stdin.close()
        assert child.wait(5.0) != 0


@pytest.mark.skipif(sys.platform == "win32", reason="asks the system with a signal")
def test_what_the_module_has_started_ends_with_it(tmp_path: pathlib.Path) -> None:
    # as venv does for pip
    (tmp_path / "starter.py").write_text(
        "import subprocess, sys\n"
        "command = [sys.executable, '-c', 'import time; time.sleep(60.0)']\n"
        "inner = subprocess.Popen(command)\n"
        "print(inner.pid, flush=True)\n"
        "inner.wait()\n"
    )
    with subprocess.Popen(
        [*COMMAND, "run", "starter"],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(tmp_path)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as child:
        inner = int(child.stdout.readline())
        assert runs(inner)
        child.stdin.close()
        assert child.wait(5.0) != 0
    until = time.monotonic() + 5.0
    while runs(inner) and time.monotonic() < until:
        time.sleep(0.01)
    assert not runs(inner)


def runs(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    # one that has ended may wait for somebody to ask how
    state = pathlib.Path(f"/proc/{process}/stat")
    return not (state.exists() and state.read_text().rpartition(")")[2].split()[0] == "Z")
