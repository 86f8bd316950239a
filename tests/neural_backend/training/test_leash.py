"""The leash on pipes and on what is none."""

import os
import subprocess
import sys
import time

import pytest

from neural_backend.protocol import RunFolder
from neural_backend.training import leash as leash_module
from neural_backend.training.leash import Leash


@pytest.fixture
def pipe(monkeypatch):
    """The end that the starter of this process holds."""
    reading, writing = os.pipe()
    with open(reading) as standard_input, open(writing, "w") as starter:
        monkeypatch.setattr(sys, "stdin", standard_input)
        yield starter


def pulled(leash):
    until = time.monotonic() + 5.0
    while not leash.pulled and time.monotonic() < until:
        time.sleep(0.005)
    return leash.pulled


def test_the_line_pulls_it(pipe):
    calls = []
    leash = Leash(on_pull=lambda: calls.append(1))
    pipe.write("hello\n")
    pipe.flush()
    time.sleep(0.05)
    assert not leash.pulled
    pipe.write("cancel\n")
    pipe.flush()
    assert pulled(leash)
    assert calls == [1]


def test_the_end_pulls_it(pipe):
    leash = Leash()
    pipe.close()
    assert pulled(leash)


def test_a_file_is_no_leash(monkeypatch, tmp_path):
    for path in (os.devnull, tmp_path / "file"):
        if path != os.devnull:
            path.write_text("cancel\n")
        with open(path) as standard_input:
            monkeypatch.setattr(sys, "stdin", standard_input)
            leash = Leash()
            time.sleep(0.05)
            assert not leash.pulled


def test_no_standard_input_is_no_leash(monkeypatch):
    monkeypatch.setattr(sys, "stdin", None)
    assert not Leash().pulled


def test_it_can_be_pulled_from_this_side(monkeypatch):
    monkeypatch.setattr(sys, "stdin", None)
    leash = Leash()
    leash.pull()
    assert leash.pulled


@pytest.fixture
def run(tmp_path):
    return RunFolder(tmp_path)


def test_the_file_pulls_it_also_without_a_pipe(monkeypatch, run):
    monkeypatch.setattr(sys, "stdin", None)
    with Leash(run=run) as leash:
        time.sleep(0.05)
        assert not leash.pulled
        run.cancel.touch()
        assert pulled(leash)
    assert not run.cancel.exists()


def test_what_is_to_be_kept_outlives_standard_input(pipe, run):
    with Leash(run=run) as leash:
        run.keep.touch()
        pipe.close()
        time.sleep(0.2)
        assert not leash.pulled
        run.cancel.touch()
        assert pulled(leash)
    assert not run.keep.exists()


def test_kept_or_not_the_line_pulls_it(pipe, run):
    with Leash(run=run) as leash:
        run.keep.touch()
        pipe.write("cancel\n")
        pipe.flush()
        assert pulled(leash)


def test_files_of_an_earlier_start_mean_nothing(pipe, run):
    for file in (run.cancel, run.keep):
        file.touch()
        os.utime(file, (1e9, 1e9))
    with Leash(run=run) as leash:
        assert not run.keep.exists()
        time.sleep(0.5)
        assert not leash.pulled
        pipe.close()
        assert pulled(leash)


def test_another_rank_leaves_the_files_alone(run):
    run.cancel.touch()
    with Leash(watch=False, run=run) as leash:
        time.sleep(0.5)
        assert not leash.pulled
    assert run.cancel.exists()


SLOW_TO_PREPARE = """
import sys, time
from neural_backend.training import leash
leash._PATIENCE = 0.1
with leash.Leash() as held, leash.preparing(held):
    print("preparing", flush=True)
    time.sleep(60.0)
"""


def test_a_preparation_does_not_outlive_its_starter():
    process = subprocess.Popen(
        [sys.executable, "-c", SLOW_TO_PREPARE],
        cwd=leash_module.__file__.rpartition("neural_backend")[0],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    with process:
        assert process.stdout.readline() == "preparing\n"
        process.stdin.close()
        assert process.wait(10.0) == 1
        assert "before the training began" in process.stderr.read()
