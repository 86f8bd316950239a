"""The training loop with a task that counts."""

import math

import imageio.v3
import numpy as np
import pytest
import torch

from neural_backend import protocol
from neural_backend.config import TrainingSettings
from neural_backend.training import checkpoint, loop
from neural_backend.training.loop import Training
from neural_backend.training.scores import Scores
from neural_backend.training.task import Step


class Counting:
    field_from_world = np.eye(4)
    field = torch.nn.Linear(1, 1)
    views = 2

    def __init__(self, losses=None):
        self.progress = []
        self.losses = losses or {}

    def step(self, progress):
        self.progress.append(progress)
        return Step(torch.tensor(self.losses.get(len(self.progress), 0.5)), 10)

    def state(self):
        return {"field.count": torch.tensor([len(self.progress)])}

    def validate(self):
        return Scores(20.0 + len(self.progress), 0.9)

    def preview(self):
        return np.full((4, 6, 3), 7, np.uint8)


class Pulled:
    def __init__(self, task, after):
        self.task, self.after = task, after

    @property
    def pulled(self):
        return len(self.task.progress) >= self.after


@pytest.fixture
def run(tmp_path):
    return protocol.RunFolder(tmp_path)


def train(run, task, settings, header=None, pulled_after=math.inf):
    events = []
    training = Training(task, settings, run, events.append, header)
    return training.run_until(Pulled(task, pulled_after)), events


def test_steps_end_it_with_a_checkpoint_and_a_preview(run):
    task = Counting()
    done, events = train(run, task, TrainingSettings(max_steps=4, max_seconds=100.0))
    assert (done.step, done.reason, done.psnr) == (4, "finished", 24.0)
    assert task.progress[0] == pytest.approx(0.0, abs=1e-3)
    assert task.progress[3] == pytest.approx(0.75)
    state, header = checkpoint.load(run.checkpoint)
    assert state["field.count"].tolist() == [4]
    assert (header.step, header.finished, header.psnr) == (4, True, 24.0)
    assert imageio.v3.imread(run.preview).shape == (4, 6, 3)
    last = [event for event in events if isinstance(event, protocol.Progress)][-1]
    assert (last.step, last.of, last.eta, last.psnr, last.ssim) == (4, 4, 0.0, 24.0, 0.9)
    assert isinstance(events[-2], protocol.Checkpoint), "nothing is left to do when it says so"
    assert last.samples_per_second > 0.0


def test_time_ends_it_and_chores_do_not_count(run, monkeypatch):
    now = [0.0]
    monkeypatch.setattr(loop.time, "perf_counter", lambda: now[0])
    task = Counting()
    step = task.step
    validate = task.validate

    def slow_step(progress):
        now[0] += 0.25
        return step(progress)

    def slow_validation():
        now[0] += 100.0
        return validate()

    task.step, task.validate = slow_step, slow_validation
    done, events = train(run, task, TrainingSettings(max_seconds=10.0))
    assert done.seconds == pytest.approx(10.0)
    assert len(task.progress) == 40
    # one preview when it was first due; its cost of 100 s pushes the next behind the end
    assert sum(isinstance(event, protocol.Preview) for event in events) == 2
    assert sum(isinstance(event, protocol.Progress) for event in events) == 21


class Clock:
    """Time that passes only where the task says that it does."""

    def __init__(self, monkeypatch):
        self.now = 0.0
        monkeypatch.setattr(loop.time, "perf_counter", lambda: self.now)

    def costs(self, seconds, do):
        def slow(*arguments):
            self.now += seconds() if callable(seconds) else seconds
            return do(*arguments)

        return slow


@pytest.mark.parametrize(
    ("budget", "preview", "checkpoint"),
    [
        ({"max_seconds": 100.0}, 0.01, 0.01),
        ({"max_seconds": 100.0}, 0.9, 3.0),
        ({"max_seconds": 30.0}, 2.5, 0.2),
        ({"max_seconds": 1000.0}, 0.5, 20.0),
        ({"max_steps": 400, "max_seconds": 1e5}, 0.5, 1.0),
    ],
)
def test_the_time_left_is_that_of_the_clock(run, monkeypatch, budget, preview, checkpoint):
    clock, task = Clock(monkeypatch), Counting()
    # the first steps are slower than the others
    task.step = clock.costs(lambda: 0.25 if len(task.progress) > 2 else 0.75, task.step)
    task.validate = clock.costs(preview, task.validate)
    task.state = clock.costs(checkpoint, task.state)
    told, chores = [], {}

    def listen(event):
        if isinstance(event, protocol.Progress):
            told.append((clock.now, event.eta, len(chores)))
        else:
            chores[event.type] = clock.now

    training = Training(task, TrainingSettings(**budget), run, listen)
    if not budget.get("max_steps"):
        told.append((clock.now, training.left, 0))
    training.run_until(Pulled(task, math.inf))
    end = clock.now
    assert len(told) > 40
    errors = [abs(now + left - end) / end for now, left, _ in told if now > 0.1 * end]
    assert max(errors) < 0.1
    # once each chore has been seen
    assert max(abs(now + left - end) / end for now, left, known in told if known == 2) < 0.03
    assert told[-1][:2] == (end, 0.0)


def test_before_the_first_step_the_time_left_is_the_budget_s_and_some_chores(run):
    left = Training(Counting(), TrainingSettings(max_seconds=120.0), run, [].append).left
    assert 120.0 < left < 132.0
    header = checkpoint.Header(step=90, seconds=100.0, finished=False)
    left = Training(Counting(), TrainingSettings(max_seconds=120.0), run, [].append, header).left
    assert 20.0 < left < 23.0


def paced(monkeypatch, task, of, max_seconds, pace):
    """What a task that takes ``pace(step)`` seconds a step is told of its progress."""
    now = [0.0]
    monkeypatch.setattr(loop.time, "perf_counter", lambda: now[0])
    step = task.step

    def timed(progress):
        now[0] += pace(len(task.progress))
        return step(progress)

    task.step = timed
    return TrainingSettings(max_steps=of, max_seconds=max_seconds)


def test_limited_steps_alone_tell_the_progress_while_there_is_time(run, monkeypatch):
    """However uneven they are: the same steps then have the same learning rates."""
    told = []
    for pace in (lambda step: 0.1, lambda step: 2.0 if step < 4 else 0.01):
        task = Counting()
        settings = paced(monkeypatch, task, 10, 20.0, pace)
        assert train(run, task, settings)[0].step == 10
        told.append(task.progress)
    assert told[0] == told[1] == pytest.approx([step / 10 for step in range(10)])


def test_steps_that_time_will_not_allow_are_brought_to_their_end_by_time(run, monkeypatch):
    task = Counting()
    settings = paced(monkeypatch, task, 1000, 20.0, lambda step: 1.0)
    done, _ = train(run, task, settings)
    assert (done.step, done.reason) == (20, "finished")
    expected = [step / (1000 if step < 10 else 20) for step in range(20)]
    assert task.progress == pytest.approx(expected)


def test_the_leash_ends_it_unfinished(run):
    task = Counting()
    done, _ = train(run, task, TrainingSettings(max_seconds=100.0), pulled_after=3)
    assert (done.step, done.reason) == (3, "cancelled")
    assert checkpoint.load(run.checkpoint)[1].finished is False


def test_a_resumed_run_counts_on(run):
    header = checkpoint.Header(step=90, seconds=50.0, finished=False, psnr=30.0)
    task = Counting()
    settings = TrainingSettings(max_steps=100, max_seconds=1000.0)
    done, _ = train(run, task, settings, header)
    assert done.step == 100
    assert len(task.progress) == 10
    assert task.progress[0] == pytest.approx(0.9)
    assert done.seconds == pytest.approx(50.0, abs=1.0)
    assert checkpoint.load(run.checkpoint)[1].seconds >= 50.0


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_ends_it_and_keeps_the_checkpoint(run, value):
    task = Counting()
    train(run, task, TrainingSettings(max_steps=2, max_seconds=100.0))
    with pytest.raises(protocol.BadInput, match="learning_rate"):
        train(run, Counting({3: value}), TrainingSettings(max_steps=3, max_seconds=100.0))
    assert checkpoint.load(run.checkpoint)[1].step == 2


def test_a_preview_that_cannot_be_written_is_one_warning(run, monkeypatch):
    monkeypatch.setattr(loop, "PREVIEW_EVERY", 0.0)
    monkeypatch.setattr(loop, "CHORE_SHARE", math.inf)
    run.preview.mkdir()
    done, events = train(run, Counting(), TrainingSettings(max_steps=5, max_seconds=100.0))
    assert done.reason == "finished"
    assert checkpoint.load(run.checkpoint)[1].step == 5
    warnings = [event for event in events if isinstance(event, protocol.Warning)]
    assert len(warnings) == 1
    assert "preview.png" in warnings[0].message
    assert not any(isinstance(event, protocol.Preview) for event in events)
