"""Runs that are killed without warning, and go on."""

from __future__ import annotations

import pathlib
import random
import time

import torch

from neural_backend import protocol
from neural_backend.training import checkpoint

SCRIPT = pathlib.Path(__file__).parent / "ranks_script.py"
PATIENCE = 900.0  # seconds: a machine may be busy
STEPS = 240
KILLS = 3


def step_of(run):
    return checkpoint.load(run / "checkpoint.safetensors")[1].step


def wait_for(condition, process):
    until = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < until
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.01)


def test_a_run_that_is_killed_ends_as_if_it_had_not_been(start, views, tmp_path):
    """To the bit: the seed decides, and what is lost of a killed run is done again."""
    small = ("--device=cpu", "--levels=4", "--finest=32", "--log2-table-size=11", "--batch=2048")
    train = ("train", views, *small, "--seed=5", f"--max-steps={STEPS}", "--max-seconds=9999")
    whole = start("-m", "neural_backend", *train, "--run", tmp_path / "whole")
    run = tmp_path / "killed"
    # half of the time goes into writing checkpoints, so that most kills come in the middle of one
    often = (SCRIPT, "save", 0.0, *train, "--run", run)
    when = random.Random(5)
    process = start(*often)
    reached = 0
    for _ in range(KILLS):
        goal = reached + when.randint(1, STEPS // (KILLS + 1))
        wait_for(
            lambda goal=goal: (run / "checkpoint.safetensors").exists() and step_of(run) >= goal,
            process,
        )
        time.sleep(when.uniform(0.0, 0.05))
        process.kill()
        process.communicate()
        # whole, whatever it was doing
        reached = step_of(run)
        process = start(*often, "--resume")
    assert process.wait(PATIENCE) == 0
    assert whole.wait(PATIENCE) == 0
    assert [path.name for path in run.iterdir() if ".part" in path.name] == []
    started = [each.step for each in events(run) if isinstance(each, protocol.Started)]
    assert len(started) == 1 + KILLS
    assert started[-1] == reached < STEPS
    (expected, _), (found, header) = (
        checkpoint.load(folder / "checkpoint.safetensors") for folder in (tmp_path / "whole", run)
    )
    assert (header.step, header.finished) == (STEPS, True)
    for name, value in expected.items():
        assert torch.equal(found[name], value), name


def events(run):
    return protocol.EventReader(run / "events.jsonl").poll()


def test_what_a_kill_leaves_of_a_file_is_cleared(tmp_path):
    left = tmp_path / ".checkpoint.123.part.safetensors"
    other = tmp_path / ".mesh.123.part.glb"
    for path in (left, other, tmp_path / "checkpoint.safetensors"):
        path.write_bytes(b"x")
    protocol.clear_unfinished(tmp_path / "checkpoint.safetensors")
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        other.name,
        "checkpoint.safetensors",
    ]
