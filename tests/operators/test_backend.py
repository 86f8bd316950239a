"""The child process: which Python, what it inherits, how it fails and how it ends."""

from __future__ import annotations

import os
import pathlib
import signal
import subprocess
import sys
import time
from types import SimpleNamespace

import bpy
import pytest
from neural_fields.neural_backend.protocol import BadInput
from neural_fields.operators import backend, folders
from neural_fields.operators.job import Cancelled, Owner, Status

pytestmark = pytest.mark.usefixtures("registered")


def result_of(steps):
    try:
        while True:
            next(steps)
            time.sleep(0.005)
    except StopIteration as end:
        return end.value


def drive(owner: Owner) -> None:
    while owner.advance():
        time.sleep(0.01)


def train(tmp_path: pathlib.Path, **options):
    run = tmp_path / "run"
    arguments = ["train", "source", "--run", str(run)]
    look = options.pop("look", lambda: Status("Working"))
    return backend.run_steps(sys.executable, arguments, run / "log.txt", look, **options)


def test_without_a_python(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(backend.VARIABLE, raising=False)
    monkeypatch.setattr(folders, "own_folder", lambda name, create=True: tmp_path / name)
    with pytest.raises(BadInput, match="not installed: press Install Backend"):
        backend.python()


def test_the_variable_must_name_a_program(fake, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(backend.VARIABLE, "/nowhere/python")
    with pytest.raises(BadInput, match="NEURAL_FIELDS_PYTHON: /nowhere/python: no such program"):
        backend.python()


def test_a_python_without_torch(fake) -> None:
    fake.fails("no torch")
    with pytest.raises(BadInput, match="torch: not installed in this Python; run pip"):
        result_of(backend.check_steps())


def test_a_real_python_without_torch(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path / "bare"], check=True)
    program = tmp_path / "bare" / ("Scripts" if os.name == "nt" else "bin") / "python"
    monkeypatch.setenv(backend.VARIABLE, str(program))
    monkeypatch.setattr(backend, "_checked", {})
    with pytest.raises(BadInput, match="pip install") as caught:
        result_of(backend.check_steps())
    assert "\n" not in str(caught.value)
    assert str(program) in str(caught.value)


def test_a_program_that_is_no_python(fake, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(backend.VARIABLE, "true" if os.name != "nt" else "hostname")
    with pytest.raises(BadInput, match="no readable answer"):
        result_of(backend.check_steps())


def test_a_good_python_is_asked_once(fake) -> None:
    assert result_of(backend.check_steps()) == sys.executable
    assert result_of(backend.check_steps()) == sys.executable
    assert fake.commands == ["doctor"]


def test_what_the_child_inherits(fake, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OCIO", "PYTHONPATH", "PYTHONHOME", "PYTHONSTARTUP"):
        monkeypatch.setenv(name, "of Blender")
    inherited = result_of(backend.doctor_steps(sys.executable))["environment"]
    assert not {"OCIO", "PYTHONPATH", "PYTHONHOME", "PYTHONSTARTUP"} & set(inherited)
    assert {"PYTHONNOUSERSITE", "PYTHONUTF8", "PYTHONDONTWRITEBYTECODE", "PATH"} <= set(inherited)


def test_check_backend_says_what_it_found(fake, capsys) -> None:
    assert bpy.ops.neural_fields.check_backend() == {"FINISHED"}
    assert "The backend is ready: Python 3.11, torch 0.0, a CPU" in capsys.readouterr().out


def test_its_own_line_is_the_error(fake, tmp_path) -> None:
    fake.fails("bad input")
    with pytest.raises(BadInput) as caught:
        result_of(train(tmp_path))
    assert str(caught.value) == "mesh.ply: holds no faces; give a mesh"


def test_a_crash_names_its_last_line_and_the_log(fake, tmp_path) -> None:
    fake.fails("crash")
    with pytest.raises(BadInput, match="failed with status 1: ZeroDivisionError") as caught:
        result_of(train(tmp_path))
    assert str(tmp_path / "run" / "log.txt") in str(caught.value)
    assert "Traceback" in (tmp_path / "run" / "log.txt").read_text()


@pytest.mark.skipif(os.name == "nt", reason="no signals")
def test_a_killed_child(fake, tmp_path) -> None:
    fake.fails("killed")
    said = "killed by signal 9, perhaps for lack of memory; its log is"
    with pytest.raises(BadInput, match=said):
        result_of(train(tmp_path))
    assert "12%" in (tmp_path / "run" / "log.txt").read_text(), "its progress, which is no reason"


def test_cancel_waits_for_the_checkpoint_without_blocking(fake, tmp_path) -> None:
    fake.fails("slow")
    events = tmp_path / "run" / "events.jsonl"
    owner = Owner()
    owner.start("Train", train(tmp_path))
    while not events.exists() or "progress" not in events.read_text():
        owner.advance()
        time.sleep(0.01)
    before = time.monotonic()
    owner.cancel()
    assert time.monotonic() - before < 0.1
    assert owner.running
    assert "Cancelling" in owner.status.text
    with pytest.raises(Cancelled):
        drive(owner)
    assert (tmp_path / "run" / "checkpoint.safetensors").exists()
    assert '"cancelled"' in events.read_text()


def children() -> set[int]:
    """Process ids of this process's children that still run."""
    found = set()
    for status in pathlib.Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = status.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[1]) == os.getpid() and fields[0] != "Z":
            found.add(int(status.parent.name))
    return found


@pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="reads /proc")
@pytest.mark.parametrize("how", ["cancel", "close"])
def test_a_child_that_does_not_listen_is_killed(fake, tmp_path, monkeypatch, how: str) -> None:
    monkeypatch.setattr(backend, "_LAST_GRACE", 0.1)
    fake.fails("deaf")
    owner = Owner()
    before = children()
    owner.start("Train", train(tmp_path, grace=0.1))
    while not (tmp_path / "run" / "events.jsonl").exists():
        owner.advance()
        time.sleep(0.01)
    assert len(children() - before) == 1
    if how == "close":
        owner.close()
    else:
        owner.cancel()
        with pytest.raises(Cancelled):
            drive(owner)
    assert children() <= before
    assert not owner.running


def test_a_log_that_cannot_be_written(fake, tmp_path) -> None:
    (tmp_path / "run").write_text("in the way")
    with pytest.raises(BadInput, match="cannot be written"):
        result_of(train(tmp_path))


@pytest.mark.skipif(os.name == "nt", reason="a flag of the start says it, none can be asked for")
@pytest.mark.parametrize("background", [True, False])
def test_behind_a_window_it_yields_to_blender(fake, tmp_path, monkeypatch, background) -> None:
    app = SimpleNamespace(background=background)
    monkeypatch.setattr(backend, "bpy", SimpleNamespace(app=app))
    fake.fails("slow")
    with open(os.devnull, "wb") as nothing:
        arguments = ["train", "source", "--run", str(tmp_path / "run")]
        child = backend.Child(sys.executable, arguments, nothing, nothing)
    try:
        niceness = os.getpriority(os.PRIO_PROCESS, child._process.pid)
    finally:
        child.end()
    own = os.getpriority(os.PRIO_PROCESS, 0)
    assert niceness == (own if background else min(own + 10, 19))


@pytest.mark.skipif(os.name == "nt", reason="no signals")
def test_a_dead_child_s_pipe_does_not_end_blender(fake, tmp_path) -> None:
    received = []
    before = signal.signal(signal.SIGPIPE, lambda *_: received.append("SIGPIPE"))
    try:
        with open(os.devnull, "wb") as nothing:
            child = backend.Child(sys.executable, ["doctor"], nothing, nothing)
        while child.status() is None:
            time.sleep(0.01)
        child.pull_leash()
        child.end()
    finally:
        signal.signal(signal.SIGPIPE, before)
    assert received == []
