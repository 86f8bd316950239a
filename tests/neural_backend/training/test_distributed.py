"""Several processes that train one field, on the CPU with gloo."""

from __future__ import annotations

import os
import signal
import subprocess
import time

import pytest
import safetensors.torch
import torch

from neural_backend import actions, command_line, launcher, protocol
from neural_backend.config import TrainingSettings
from neural_backend.fields.signed_distance import SignedDistanceField
from neural_backend.kernels import choose
from neural_backend.training import checkpoint, distributed, optimiser
from neural_backend.training.distributed import ALONE, Word
from neural_backend.training.fitting import fit

CPU = torch.device("cpu")
PATIENCE = 900.0  # seconds: a machine may be busy
SMALL = ["--field=sdf", "--device=cpu", "--batch=512", "--levels=4", "--log2-table-size=10"]


def events(run):
    return protocol.EventReader(run / "events.jsonl").poll()


def wait_for(run, kind, process=None, seen=0):
    until = time.monotonic() + PATIENCE
    while not any(event.type == kind for event in events(run)[seen:]):
        assert time.monotonic() < until
        assert process is None or process.poll() is None, process.stderr.read()
        time.sleep(0.05)


def said(process):
    """The exit status of a process, and the lines that it has written to standard error."""
    _, errors = process.communicate(timeout=PATIENCE)
    return process.returncode, errors.splitlines()


def test_ranks_have_the_same_weights_and_other_rays(pair, views):
    for process in pair("steps", views, 32):
        assert said(process) == (0, [])
    first, second = (safetensors.torch.load_file(views / f"{rank}.safetensors") for rank in (0, 1))
    assert first.keys() == second.keys()
    generator, counters = (f"training.{name}" for name in ("generator", "counters"))
    drawn = {name for name in first if name.startswith("training.pixels.")}
    for name in first.keys() - {generator, counters} - drawn:
        assert torch.equal(first[name], second[name]), name
    assert not torch.equal(first[generator], second[generator])
    assert first[counters][0] == second[counters][0] == 32
    # the grid has been looked at
    possible = first["field.grid.possible"]
    assert first["field.grid.density"][possible].isfinite().any()


def test_two_processes_train_what_one_does(launch, start, views, tmp_path):
    """Within noise, with as large a batch in all; then one process goes on with what two began."""
    one, two = tmp_path / "one", tmp_path / "two"
    # a dozen small views say little: a finer grid would learn them by heart
    small = ("--levels=2", "--coarsest=4", "--finest=16", "--log2-table-size=13")
    train = ("train", views, "--device=cpu", *small, "--no-view-direction")
    alone = ("-m", "neural_backend", *train)
    processes = [
        start(*alone, "--run", one, "--batch=8192", "--max-steps=150"),
        launch(*train, "--run", two, "--batch=4096", "--max-steps=120"),
    ]
    for process in processes:
        status, lines = said(process)
        assert status == 0, lines
        # the launcher has its say, too
        assert sum("finished: step" in line for line in lines) == 1
    assert events(two)[-1].step == 120
    onwards = start(*alone, "--run", two, "--resume", "--batch=8192", "--max-steps=150")
    assert said(onwards)[0] == 0
    assert {path.name for path in two.iterdir()} == {path.name for path in one.iterdir()}
    kinds = [event.type for event in events(two)]
    assert kinds.count("started") == kinds.count("done") == 2
    first, second = (actions.evaluate(str(run), "test", 0)["psnr"] for run in (one, two))
    assert first > 20.0
    # so short a training ends a decibel or two apart with another seed, too
    assert second == pytest.approx(first, abs=3.0)


@pytest.mark.parametrize("how", ["interrupted", "killed"])
def test_what_ends_the_launcher_ends_all_with_a_checkpoint(launch, mesh, tmp_path, how):
    run = tmp_path / "run"
    process = launch("train", mesh, "--run", run, *SMALL, "--max-seconds=600")
    wait_for(run, "progress", process)
    # of the latter, the processes that it has started hear nothing
    process.send_signal(signal.SIGINT if how == "interrupted" else signal.SIGKILL)
    assert process.wait(PATIENCE) != 0
    wait_for(run, "done")
    assert events(run)[-1].reason == "cancelled"
    assert checkpoint.load(run / "checkpoint.safetensors")[1].step == events(run)[-1].step


def test_the_leash_ends_all(pair, mesh, tmp_path):
    run = tmp_path / "run"
    train = ("train", mesh, "--run", run, *SMALL, "--max-seconds=600")
    first, second = pair("save", 15, *train, stdin=subprocess.PIPE)
    wait_for(run, "progress", first)
    # only the first one's is one
    second.stdin.close()
    seen = len(events(run))
    wait_for(run, "progress", first, seen)
    first.stdin.write("cancel\n")
    first.stdin.flush()
    assert [first.wait(PATIENCE), second.wait(PATIENCE)] == [0, 0]
    assert events(run)[-1].reason == "cancelled"


@pytest.mark.parametrize(
    ("how", "text"),
    [("raised", "rank 1: ZeroDivisionError: odd"), ("killed", "another process")],
)
def test_a_rank_that_fails_ends_all_with_one_line(pair, mesh, tmp_path, how, text):
    run = tmp_path / "run"
    first, second = pair("fail", 1, 5, how, "train", mesh, "--run", run, *SMALL)
    status, (line,) = said(first)
    assert status == 1
    assert text in line
    assert text in events(run)[-1].message
    status, lines = said(second)
    assert status == (-9 if how == "killed" else 1)
    assert not any(text in line for line in lines)


def test_what_is_wrong_for_all_is_told_once(launch, tmp_path):
    # as a person starts it: the launcher's own store outlives the process that tells
    status, lines = said(launch("train", "/nowhere/at/all", "--run", tmp_path, "--device=cpu"))
    assert status != 0
    assert sum("/nowhere/at/all" in line for line in lines) == 1


@pytest.mark.parametrize("arguments", [["train", "x", "--speed=3"], ["evaluate", "x"]])
def test_wrong_arguments_are_told_by_one_process(monkeypatch, capsys, arguments):
    monkeypatch.setattr(launcher, "place", lambda: launcher.Place(1, 2, 1))
    assert command_line.run(arguments) == 2
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(launcher, "place", lambda: launcher.Place(0, 2, 0))
    assert command_line.run(arguments) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1


@pytest.fixture
def group(monkeypatch):
    """A group of this process alone, with gloo."""
    values = {"RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "localhost", "MASTER_PORT": "0"}
    for name, value in values.items():
        monkeypatch.setenv(name, value)
    made = distributed._Group(launcher.Place(0, 1, 0))
    yield made
    torch.distributed.destroy_process_group()


def field(gradient_of_table):
    settings = TrainingSettings(field="sdf", levels=2, log2_table_size=8)
    made = SignedDistanceField(fit(settings, CPU), choose(CPU))
    if gradient_of_table:
        optimiser.TableAdam(made.encoding, choose(CPU))
    return made


def test_every_gradient_is_averaged_once(group, monkeypatch):
    reduced = []
    monkeypatch.setattr(group, "size", 2)
    original = torch.distributed.all_reduce

    def all_reduce(tensor, **options):
        reduced.append(tensor.numel())
        return original(tensor, **options)

    monkeypatch.setattr(torch.distributed, "all_reduce", all_reduce)
    for diverted in (False, True):
        reduced.clear()
        trained = field(diverted)
        trained(torch.rand(64, 3, generator=torch.Generator().manual_seed(0))).sum().backward()
        trained.network.biases[0].grad = None
        table = trained.encoding.gradient if diverted else trained.encoding.table.grad
        expected = table.clone(), trained.network.weights[0].grad.clone()
        assert expected[0].any()
        group.average(trained)
        # the ranks' sum, of which there is one here, by two
        assert torch.equal(table, expected[0] / 2)
        assert torch.equal(trained.network.weights[0].grad, expected[1] / 2)
        assert not trained.network.biases[0].grad.any()
        parameters = sum(parameter.numel() for parameter in trained.parameters())
        assert sum(reduced) == parameters + 2
        assert (trained.encoding.table.grad is None) == diverted


def test_a_word_is_heard_two_steps_later(group):
    trained = field(True)
    heard = []
    for step, cancelled in enumerate([False, False, True, True, True]):
        heard.append(group.agree(Word(step / 8, cancelled)))
        group.average(trained)
    assert [word.time_spent for word in heard] == [0.0, 0.0, 0.0, 1 / 8, 2 / 8]
    assert [word.cancelled for word in heard] == [False, False, False, False, True]


def test_processes_left_alone_end(group, monkeypatch):
    trained = field(True)
    monkeypatch.setattr(os, "getppid", lambda: -1)
    for _ in range(3):
        word = group.agree(Word(0.0, False))
        group.average(trained)
    assert word.cancelled


def test_values_are_shared(group):
    value = {"a": [1, None, "x"], "b": 0.5}
    assert group.share(value) == value


def test_devices_that_cannot_be_shared_are_refused(group, monkeypatch):
    assert group.device("cpu") == CPU
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    with pytest.raises(protocol.BadInput, match="mps trains in one process"):
        group.device("mps")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    with pytest.raises(protocol.BadInput, match="fewer than processes"):
        group.device("cuda")


def test_a_torch_without_it_is_told(monkeypatch):
    place = {"RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "0"}
    for name, value in (place | {"MASTER_ADDR": "localhost", "MASTER_PORT": "1"}).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(torch.distributed, "is_available", lambda: False)
    with pytest.raises(protocol.BadInput, match="built without"), distributed.joined():
        pass


def test_one_process_is_alone():
    assert launcher.place() is None
    with distributed.joined() as ranks:
        assert ranks is ALONE
        word = Word(0.5, True)
        assert ranks.agree(word) is word
        assert ranks.device("cpu") == CPU
    assert not torch.distributed.is_initialized()
