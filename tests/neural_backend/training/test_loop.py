"""The training loop with a task that counts."""

import math
import os

import imageio.v3
import numpy as np
import pytest
import torch

from neural_backend import png, protocol
from neural_backend.config import TrainingSettings
from neural_backend.dataset import transforms
from neural_backend.dataset.transforms import Intrinsics, View
from neural_backend.training import checkpoint, live_view, loop
from neural_backend.training.loop import Training
from neural_backend.training.scores import Scores
from neural_backend.training.task import Step


class Counting:
    field_from_world = np.eye(4)
    field = torch.nn.Linear(1, 1)
    views = 2

    def __init__(self, losses=None):
        self.progress = []
        self.finished = 0
        self.losses = losses or {}

    def step(self, progress):
        self.progress.append(progress)
        return Step(torch.tensor(self.losses.get(len(self.progress), 0.5)), 10)

    def finish(self):
        self.finished += 1

    def state(self):
        count = torch.tensor([len(self.progress)])
        return {"field.count": count, "finished": torch.tensor(self.finished)}

    def validate(self):
        return Scores(20.0 + len(self.progress), 0.9)

    def picture(self, view):
        intrinsics = view.intrinsics
        picture = torch.linspace(0.0, 1.0, intrinsics.w)[None, :, None]
        return picture.repeat(intrinsics.h, 1, 4)

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
    assert state["finished"] == 1, "what is kept has the last steps"
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
    state, header = checkpoint.load(run.checkpoint)
    assert header.finished is False
    assert state["finished"] == 0, "it may go on as if it had not been ended"


@pytest.mark.parametrize(("cost", "shown"), [(0.1, True), (3.0, False), (None, False)])
def test_whoever_pulls_the_leash_does_not_wait_for_a_slow_preview(run, monkeypatch, cost, shown):
    """It costs 3 s, or nobody knows yet."""
    now = [0.0]
    monkeypatch.setattr(loop.time, "perf_counter", lambda: now[0])
    task = Counting()
    step, validate = task.step, task.validate

    def slow_step(progress):
        now[0] += 4.0 if cost else 0.1
        return step(progress)

    def slow_validation():
        now[0] += cost or 0.0
        return validate()

    task.step, task.validate = slow_step, slow_validation
    before = 1 if cost else 0
    _, events = train(run, task, TrainingSettings(max_seconds=100.0), pulled_after=3)
    previews = sum(isinstance(event, protocol.Preview) for event in events)
    assert previews == before + shown
    assert run.checkpoint.exists()


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


@pytest.fixture
def watched(run, monkeypatch):
    """A training of 0.05 s a step, and somebody who looks: ``at(step, do)`` does it then."""
    clock, task, doings = Clock(monkeypatch), Counting(), {}
    take = clock.costs(0.05, task.step)

    def step(progress):
        for do in doings.pop(len(task.progress), ()):
            do()
        return take(progress)

    task.step = step
    task.picture = clock.costs(lambda: watched.cost, task.picture)

    def train_for(seconds):
        views = []

        def listen(event):
            if isinstance(event, protocol.Live):
                views.append((event, clock.now))

        training = Training(task, TrainingSettings(max_seconds=seconds), run, listen)
        done = training.run_until(Pulled(task, math.inf))
        assert done.step == pytest.approx(seconds / 0.05, abs=1), "views are no training time"
        return views

    watched.cost, watched.train_for, watched.clock, watched.task = 0.01, train_for, clock, task
    watched.at = lambda step, do: doings.setdefault(step, []).append(do)
    return watched


def look(run, name="eye-1", x=0.0, size=(640, 360)):
    pose = np.eye(4)
    pose[0, 3] = x
    intrinsics = Intrinsics(*size, 500.0, 500.0, size[0] / 2, size[1] / 2)
    transforms.write_cameras(run.eye, (View(name, pose, intrinsics),))


def keep_looking(watched, run, until):
    for step in range(0, until, 20):
        watched.at(step, lambda: look(run))


def test_who_looks_gets_views(run, watched):
    keep_looking(watched, run, 200)
    views = watched.train_for(10.0)
    assert 8 <= len(views) <= 11, "one a second"
    last = views[-1][0]
    assert (last.eye, last.width, last.height) == ("eye-1", 480, 270)
    shown = png.decode(run.live.read_bytes())
    assert shown.shape == (270, 480, 4)
    assert shown[0, 0].tolist() == [0] * 4
    assert shown[9, -1].tolist() == [255] * 4
    assert imageio.v3.imread(run.live).tolist() == shown.tolist()
    assert last.step > views[0][0].step > 0


def test_nobody_looks_and_nothing_is_rendered(run, watched):
    watched.task.picture = None
    assert watched.train_for(10.0) == []
    assert not run.live.exists()


def test_what_an_earlier_look_has_left_is_nobody(run, watched):
    look(run)
    assert watched.train_for(10.0) == []


def test_who_looks_no_more_costs_nothing(run, watched):
    watched.at(0, lambda: look(run))
    views = watched.train_for(30.0)
    assert len(views) >= 4
    assert views[-1][1] < live_view.PRESENT + 1.0
    watched.at(len(watched.task.progress), lambda: look(run))
    watched.at(len(watched.task.progress) + 20, lambda: run.eye.unlink())
    assert len(watched.train_for(30.0)) == 1, "gone is gone at once"


def test_touching_is_looking(run, watched):
    look(run)
    watched.at(10, lambda: os.utime(run.eye, (5.0, 5.0)))  # whatever the disk's clock says
    assert watched.train_for(3.0)


def test_a_camera_that_has_moved_is_shown_at_once(run, watched):
    for step in range(0, 100, 10):  # twice a second
        watched.at(step, lambda step=step: look(run, f"eye-{step}", float(step)))
    views = [event.eye for event, _ in watched.train_for(5.0)]
    assert views == [f"eye-{step}" for step in range(0, 100, 10)]


@pytest.mark.parametrize("damage", ["{", "", "[]", '{"frames": []}', '{"frames": [{}]}'])
def test_a_damaged_eye_changes_nothing(run, watched, damage):
    watched.at(10, lambda: look(run))
    watched.at(30, lambda: run.eye.write_text(damage))
    views = watched.train_for(4.0)
    assert {event.eye for event, _ in views} == {"eye-1"}
    assert len(views) > 2
    run.eye.unlink()
    watched.task.progress.clear()
    watched.at(10, lambda: run.eye.write_text(damage))
    assert watched.train_for(4.0) == []


@pytest.mark.parametrize(
    ("cost", "longest", "period"), [(1e-7, 480, 1.0), (1e-6, 300, 1.0), (1e-3, 96, 52.0)]
)
def test_views_are_as_large_as_their_share_of_the_time_allows(run, watched, cost, longest, period):
    """``cost``: seconds a pixel."""
    paint = Counting().picture

    def picture(view):
        watched.clock.now += cost * view.intrinsics.w * view.intrinsics.h
        return paint(view)

    watched.task.picture = picture
    seconds = 10 * period
    keep_looking(watched, run, round(seconds / 0.05))
    views = watched.train_for(seconds)
    sizes = [max(event.width, event.height) for event, _ in views]
    assert sizes[-1] == pytest.approx(longest, rel=0.5)
    spent = sum(event.seconds for event, _ in views[2:])
    assert spent / watched.clock.now < 1.1 * live_view.SHARE
    times = np.diff([now for _, now in views[2:]])
    assert times.mean() == pytest.approx(period, rel=0.2)


def test_views_are_in_the_time_left(run, watched):
    keep_looking(watched, run, 400)
    watched.cost = 0.5
    told = []
    settings = TrainingSettings(max_seconds=20.0)
    training = Training(
        watched.task,
        settings,
        run,
        lambda event: (
            told.append((watched.clock.now, event))
            if isinstance(event, protocol.Progress)
            else None
        ),
    )
    training.run_until(Pulled(watched.task, math.inf))
    end = watched.clock.now
    assert end > 21.5
    errors = [abs(now + event.eta - end) / end for now, event in told if now > 6.0]
    assert max(errors) < 0.05


def test_full_memory_costs_a_view_and_no_more(run, watched):
    paint, sides = Counting().picture, []

    def picture(view):
        sides.append(view.intrinsics.w)
        if len(sides) == 1:
            raise MemoryError
        return paint(view)

    watched.task.picture = picture
    keep_looking(watched, run, 60)
    assert len(watched.train_for(3.0)) == len(sides) - 1
    assert sides[:2] == [192, 96]


def test_a_view_that_cannot_be_written_is_none(run, watched):
    run.live.mkdir()
    keep_looking(watched, run, 60)
    assert watched.train_for(3.0) == []
