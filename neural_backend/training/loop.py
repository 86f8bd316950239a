"""The one training loop: budget, events, checkpoints, previews, resuming."""

from __future__ import annotations

import dataclasses
import math
import pathlib
import time
from collections.abc import Callable

import imageio.v3
import torch

from .. import protocol
from ..config import TrainingSettings
from . import checkpoint
from .distributed import ALONE, Ranks, Word
from .leash import Leash
from .live_view import LiveView
from .scores import Scores
from .task import Task

PROGRESS_EVERY = 0.5  # seconds
CHECKPOINT_EVERY = 15.0
PREVIEW_EVERY = 5.0
CHORE_SHARE = 0.05
"""Validation, previews and checkpoints each take at most about this share of the time."""
STEPS_ALONE = 0.5
"""Part of the time in which limited steps alone say how much of the budget is spent."""

_TYPICAL_CHORE = 0.25  # seconds
_QUICK = 1.0
_ROUNDS = 8
_PACE_SHARE = 0.3
"""Weight of the last steps in the pace; the first ones are slower than all others."""


class _Chore:
    """Something done now and then: no oftener than ``every`` seconds, nor than its cost allows.

    Attributes:
        seconds: that it took the last time; a guess before the first.
    """

    def __init__(self, every: float, do: Callable[[], None], seconds: float):
        self._every, self._do = every, do
        self.seconds = seconds
        self._measured = False
        self._due = time.perf_counter() + every

    @property
    def is_quick(self) -> bool:
        """Whether it is known to take no longer than somebody waits who wants to be gone."""
        return self._measured and self.seconds < _QUICK

    @property
    def _pause(self) -> float:
        return max(self._every, self.seconds / CHORE_SHARE)

    def if_due(self) -> float:
        """Do it if it is due; returns the seconds that it took."""
        before = time.perf_counter()
        if before < self._due:
            return 0.0
        self._do()
        after = time.perf_counter()
        self.seconds, self._measured = after - before, True
        self._due = after + self._pause
        return self.seconds

    def seconds_within(self, wall: float) -> float:
        """How long it will take in all within the next ``wall`` seconds."""
        rest = wall - (self._due - time.perf_counter())
        return self.seconds * (rest // (self._pause + self.seconds) + 1.0) if rest > 0.0 else 0.0


class Training:
    """One training of a task.

    Args:
        task: what is trained.
        settings: for the budget.
        run: the run's folder, which exists.
        emit: gets each event.
        header: of the checkpoint that the run goes on from; its state is loaded by the caller.
        ranks: that train together.

    Training time is wall time without the chores, which only save and show; the first rank does
    them.
    """

    def __init__(
        self,
        task: Task,
        settings: TrainingSettings,
        run: protocol.RunFolder,
        emit: Callable[[protocol.Event], None],
        header: checkpoint.Header | None = None,
        ranks: Ranks = ALONE,
    ):
        self._task, self._settings, self._run, self._emit = task, settings, run, emit
        self._ranks = ranks
        self._step = header.step if header else 0
        self._seconds = header.seconds if header else 0.0
        self._scores = Scores(header.psnr, header.ssim) if header else Scores()
        self._time_spent = self._seconds / settings.max_seconds
        self._began = self._seconds
        self._loss: torch.Tensor | None = None
        self._samples = 0
        self._reported = (self._step, self._seconds, 0)
        self._pace: float | None = None  # seconds a step, lately
        self._told = False
        self._say = _Chore(PROGRESS_EVERY, self._progress, 0.0)
        self._chores = (
            _Chore(PREVIEW_EVERY, self._show, _TYPICAL_CHORE),
            _Chore(CHECKPOINT_EVERY, self._save, _TYPICAL_CHORE),
        )
        self._live = LiveView(task, run, emit)

    @property
    def samples_per_second(self) -> float:
        """Mean since this training began or went on, of all ranks together."""
        return self._samples / max(self._seconds - self._began, 1e-9)

    @property
    def spent(self) -> float:
        """Part of the budget that is spent, in [0, 1]: of the time or of the steps.

        The learning rate follows it. Where the steps are limited they alone count at first: a run
        that reaches their limit in half of its time is the same whenever it is repeated. Later
        it is the larger part that counts, so that a run which time will end is brought to its end.
        """
        spent = self._time_spent
        if self._settings.max_steps:
            steps = self._step / self._settings.max_steps
            spent = steps if spent < STEPS_ALONE else max(spent, steps)
        return min(spent, 1.0)

    @property
    def left(self) -> float:
        """Seconds until the run will be done, chores included, as far as one can tell by now."""
        training = self._settings.max_seconds - self._seconds
        if self._settings.max_steps and self._pace is not None:
            training = min(training, (self._settings.max_steps - self._step) * self._pace)
        training = max(training, 0.0)
        wall = training
        # chores make it longer, and in that time more of them are due
        for _ in range(_ROUNDS):
            wall = training + sum(
                chore.seconds_within(wall) for chore in (*self._chores, self._live)
            )
        # each is done once more at the end
        return wall + sum(chore.seconds for chore in self._chores)

    def run_until(self, leash: Leash) -> protocol.Done:
        """Train until the budget is spent or the leash is pulled; leaves a checkpoint.

        Raises:
            BadInput: the loss is no longer finite, or a file cannot be written.
        """
        started = time.perf_counter() - self._seconds
        while self._goes_on(leash.pulled):
            step = self._task.step(self.spent)
            self._loss = step.loss
            # all ranks' batches have this one's size
            self._samples += step.samples * self._ranks.size
            self._step += 1
            self._seconds = time.perf_counter() - started
            if self._ranks.first:
                started += sum(chore.if_due() for chore in (*self._chores, self._say))
                started += self._live.if_due(self._step)
        if self.spent >= 1.0:
            self._task.finish()
        if self._ranks.first:
            # whoever pulls the leash may be about to end
            if not leash.pulled or self._chores[0].is_quick:
                self._show()
            self._save()
            self._progress(ended=True)
        reason = "finished" if self.spent >= 1.0 else "cancelled"
        scores = dataclasses.asdict(self._scores)
        return protocol.Done(self._step, self._seconds, reason, **scores)

    def _goes_on(self, cancelled: bool) -> bool:
        own = Word(self._seconds / self._settings.max_seconds, cancelled)
        word = self._ranks.agree(own)
        self._time_spent = word.time_spent
        return self.spent < 1.0 and not word.cancelled

    def _check_loss(self) -> float:
        loss = math.nan if self._loss is None else self._loss.item()
        if self._loss is not None and not math.isfinite(loss):
            raise protocol.BadInput(
                f"{self._run.path}: learning_rate: the loss is no longer finite at step "
                f"{self._step}; train with a lower learning_rate (the last checkpoint is kept)"
            )
        return loss

    def _progress(self, ended: bool = False) -> None:
        loss = self._check_loss()
        step, seconds, samples = self._reported
        rate = (self._samples - samples) / max(self._seconds - seconds, 1e-9)
        pace = (self._seconds - seconds) / max(self._step - step, 1)
        self._pace = pace if self._pace is None else self._pace + _PACE_SHARE * (pace - self._pace)
        self._reported = (self._step, self._seconds, self._samples)
        self._emit(
            protocol.Progress(
                step=self._step,
                of=self._settings.max_steps,
                seconds=self._seconds,
                max_seconds=self._settings.max_seconds,
                loss=loss,
                eta=0.0 if ended else self.left,
                samples_per_second=rate,
                **dataclasses.asdict(self._scores),
            )
        )

    def _show(self) -> None:
        self._scores = self._task.validate()
        picture = self._task.preview()

        def write(beside: pathlib.Path) -> None:
            imageio.v3.imwrite(beside, picture)

        try:
            protocol.write_whole(self._run.preview, write)
        except OSError as error:
            # only a picture: the next checkpoint tells whether the folder can be written
            if not self._told:
                reason = protocol.first_line(error)
                self._emit(
                    protocol.Warning(
                        f"{self._run.preview}: cannot be written ({reason}); training goes on "
                        "without it"
                    )
                )
            self._told = True
            return
        self._emit(protocol.Preview(self._step))

    def _save(self) -> None:
        self._check_loss()
        scores = dataclasses.asdict(self._scores)
        header = checkpoint.Header(self._step, self._seconds, self.spent >= 1.0, **scores)
        checkpoint.save(self._run.checkpoint, self._task.state(), header)
        self._emit(protocol.Checkpoint(self._step))
