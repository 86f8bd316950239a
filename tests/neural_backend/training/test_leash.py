"""The leash on pipes and on what is none."""

import os
import sys
import time

import pytest

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
