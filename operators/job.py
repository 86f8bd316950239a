"""Jobs: long work that leaves Blender usable, and the one owner of what is running.

A job's steps are a generator. Each ``yield`` gives control back to Blender with a status to show;
what must be restored stands in ``finally`` blocks. In the window a modal operator advances it by
one step a tick, when its turn has come; in the background the operator runs it to its end and
prints its progress.
"""

from __future__ import annotations

import contextlib
import dataclasses
import pathlib
import re
import time
import traceback
from collections.abc import Generator
from typing import TYPE_CHECKING, Any, TypeVar

import bpy
from bpy.app.handlers import persistent
from bpy.app.translations import pgettext_iface as iface
from bpy.app.translations import pgettext_rpt as rpt
from bpy.app.translations import pgettext_tip as tip

from ..neural_backend.protocol import BadInput

T = TypeVar("T")
if TYPE_CHECKING:  # what mixes JobOperator in is an operator
    _Operator = bpy.types.Operator
else:
    _Operator = object

TICK = 0.1
"""Seconds between two steps of a job in the window."""

_PRINT_EVERY = 1.0
_WAIT = 0.05
_BAR = 24


@dataclasses.dataclass(frozen=True)
class Status:
    """What a job is doing, in one line.

    Attributes:
        fraction: how much of it is done, 0 to 1; None if unknown.
        training: whether it is a training that can be paused, and goes on from there later.
    """

    text: str
    fraction: float | None = None
    training: bool = False


Steps = Generator[Status, None, T]
"""A job's steps: yields its status, is sent nothing, returns its result."""


class Cancelled(BaseException):
    """Thrown into a job's steps where they wait, when the person cancels.

    Not an ``Exception``: what handles a job's own failures must not swallow it. Steps may catch it
    to wind down over some more yields, and raise it again when they are done.
    """


@dataclasses.dataclass(eq=False)
class Job:
    """Work that waits, runs or has ended.

    Attributes:
        label: its name, that of the operator, in the person's language.
        subject: what it works on, for a list of jobs.
        run: the folder of the run that it trains.
        begun: whether the training has begun, so that the run's folder tells the rest.
        error: why it failed, in one line; empty if it did not.
        message: what it achieved, in one line.
        cancelled: whether it was ended early.
    """

    label: str
    steps: Steps[Any]
    subject: str = ""
    run: pathlib.Path | None = None
    begun: bool = False
    error: str = ""
    message: str = ""
    cancelled: bool = False


class Owner:
    """The one job that may run, those that wait for it, and what the last one had to say.

    Attributes:
        job: the one that runs.
        queue: those that wait, the next one first.
        last: the last one that has ended; None when there was none, or it is to be forgotten.
        status: what the job is doing.
    """

    def __init__(self) -> None:
        self.job: Job | None = None
        self.queue: list[Job] = []
        self.last: Job | None = None
        self.status = Status("")
        self._advancing = False
        self._cancelling = False
        self._pausing = False

    @property
    def running(self) -> bool:
        return self.job is not None

    @property
    def label(self) -> str:
        """The running job's name; empty while nothing runs."""
        return self.job.label if self.job else ""

    @property
    def error(self) -> str:
        """Why the last job failed; empty if it did not, or another one runs."""
        return self.last.error if self.last else ""

    @property
    def message(self) -> str:
        """What the last job achieved."""
        return self.last.message if self.last else ""

    @property
    def cancelled(self) -> bool:
        """Whether the last job was ended early."""
        return self.last is not None and self.last.cancelled

    def start(self, label: str, steps: Steps[Any]) -> Job:
        """Take a job that needs no more than a name. Raises BadInput when another one runs."""
        job = Job(label, steps)
        self.begin(job)
        return job

    def begin(self, job: Job) -> None:
        """Take a job. Raises BadInput when another one runs."""
        if self.job is not None:
            raise BadInput(self.occupied())
        self.job, self.last, self.status = job, None, Status(iface("Starting"))
        self._cancelling = self._pausing = False

    def occupied(self) -> str:
        """Why another job cannot begin, in one line."""
        said = rpt("{job} is still running: wait for it or cancel it first")
        return said.format(job=self.label)

    def take_turn(self, job: Job) -> None:
        """Begin a job that waits, if it is the next one and nothing runs."""
        if self.job is None and self.queue and self.queue[0] is job:
            self.begin(self.queue.pop(0))

    def withdraw(self, job: Job) -> None:
        """Let a job wait no longer."""
        if job in self.queue:
            self.queue.remove(job)
            said = rpt("{job}: removed from the queue")
            job.message, job.cancelled = said.format(job=job.label), True

    def advance(self) -> bool:
        """Do one step; False when the job has ended well.

        Raises whatever ended the job otherwise; ``error`` and ``message`` then say it in a line.
        """
        job = self.job
        # an event that is handled while a step calls an operator must not enter the step again
        if job is None or self._advancing:
            return job is not None
        self._advancing = True
        try:
            self.status = next(job.steps)
            job.begun |= self.status.training
        except StopIteration as end:
            done = rpt("{job}: done").format(job=job.label)
            self._end(message=end.value if isinstance(end.value, str) else done)
            return False
        except BaseException as error:
            self._fail(error)
            raise
        finally:
            self._advancing = False
        return True

    def cancel(self, pause: bool = False) -> None:
        """Ask the job to end; the second time, end it now. Those that wait go on waiting.

        Args:
            pause: it is meant to go on later, and is said to be paused.
        """
        job = self.job
        if job is None or self._advancing:
            return
        if self._cancelling:
            self.end_now()
            return
        self._cancelling, self._pausing = True, pause
        self._advancing = True
        try:
            self.status = job.steps.throw(Cancelled())
        except (StopIteration, Cancelled):
            self._end_early()
        except Exception as error:
            self._fail(error)
        finally:
            self._advancing = False

    def close(self) -> None:
        """End all jobs now: Blender closes, another file is loaded, the add-on is disabled."""
        for job in list(self.queue):
            self.withdraw(job)
        self.end_now()

    def forget(self) -> None:
        """Show nothing of the last job any more."""
        self.last = None

    def end_now(self) -> None:
        """End the job without waiting for more than moments."""
        job = self.job
        if job is None or self._advancing:
            return
        self._end_early()
        try:
            job.steps.close()
        except Exception as error:
            job.error = one_line(error)
            traceback.print_exc()

    def _fail(self, error: BaseException) -> None:
        if isinstance(error, (Cancelled, GeneratorExit, KeyboardInterrupt)):
            self._end_early()
            return
        if not isinstance(error, BadInput):
            traceback.print_exception(error)
        self._end(error=one_line(error))

    def _end_early(self) -> None:
        said = rpt("{job}: paused") if self._pausing else rpt("{job}: cancelled")
        self._end(message=said.format(job=self.label), cancelled=True)

    def _end(self, message: str = "", error: str = "", cancelled: bool = False) -> None:
        job = self.job
        assert job is not None
        job.message, job.error, job.cancelled = message, error, cancelled
        self.job, self.last, self.status = None, job, Status("")
        self._cancelling = self._pausing = False


owner = Owner()


def reported(text: str) -> str:
    """What an operator has reported, in one line: bpy.ops puts "Error: " before it."""
    return " ".join(text.split()).removeprefix(f"{rpt('Error')}: ")


def one_line(error: BaseException) -> str:
    """An exception as one clear line; one that is no BadInput is named as what it is."""
    text = reported(str(error))
    if isinstance(error, (BadInput, RuntimeError)) and text:
        return text
    return f"{type(error).__name__}: {text or 'no details'} (details are in the console)"


class JobOperator(_Operator):
    """Mixin of ``bpy.types.Operator``: runs ``steps``, in the window or in the background.

    Attributes:
        queues: whether it waits for its turn, in the window, while another job runs.
    """

    queues = False
    _job: Job | None = None
    _timer: bpy.types.Timer | None = None

    def steps(self, context: bpy.types.Context) -> Steps[Any]:
        """The job's. A returned string is shown as its closing message."""
        raise NotImplementedError

    def job(self, context: bpy.types.Context) -> Job:
        """The job, with all that it takes from the context now: it may have to wait.

        Raises:
            BadInput: it is refused.
        """
        return Job(iface(self.bl_label), self.steps(context))

    @classmethod
    def poll(cls, context: bpy.types.Context) -> bool:
        if owner.running and (bpy.app.background or not cls.queues):
            cls.poll_message_set(tip("{job} is still running").format(job=owner.label))
            return False
        return context.scene is not None

    def execute(self, context: bpy.types.Context) -> set[Any]:
        try:
            job = self._job = self.job(context)
            if owner.job is None and not owner.queue:
                owner.begin(job)
            elif bpy.app.background or not self.queues:
                raise BadInput(owner.occupied())
            else:
                owner.queue.append(job)
        except BadInput as error:
            if not owner.running:
                owner.last = Job(iface(self.bl_label), _nothing(), error=one_line(error))
            self.report({"ERROR"}, one_line(error))
            return {"CANCELLED"}
        if bpy.app.background:
            return self._drain(job)
        manager = context.window_manager
        with _in_main_window(context):
            self._timer = manager.event_timer_add(TICK, window=context.window)
            _timers.append(self._timer)
            manager.modal_handler_add(self)
        redraw(context)
        return {"RUNNING_MODAL"}

    def modal(self, context: bpy.types.Context, event: bpy.types.Event) -> set[Any]:
        job = self._job
        if job in owner.queue:
            if event.type == "TIMER":
                owner.take_turn(job)
            return {"PASS_THROUGH"}
        if owner.job is not job:
            return self._leave(context)
        if event.type == "ESC" and event.value == "PRESS":
            owner.cancel()
            return {"RUNNING_MODAL"} if owner.job is job else self._leave(context)
        if event.type != "TIMER":
            return {"PASS_THROUGH"}
        before = owner.status
        # the owner keeps what ended the job; _leave reports it
        with contextlib.suppress(BaseException):
            owner.advance()
        if owner.job is not job:
            return self._leave(context)
        if owner.status != before:
            said = iface("{job}: {status} (Esc: cancel)")
            context.workspace.status_text_set(
                said.format(job=owner.label, status=owner.status.text)
            )
            redraw(context)
        return {"PASS_THROUGH"}

    def cancel(self, context: bpy.types.Context) -> None:
        """Blender ends the operator: its window closes, or another file is loaded."""
        job = self._job
        if job is not None and job in owner.queue:
            owner.withdraw(job)
        elif owner.job is job:
            owner.end_now()
        self._clear(context)

    def _leave(self, context: bpy.types.Context) -> set[Any]:
        self._clear(context)
        job = self._job
        assert job is not None
        if job.error:
            self.report({"ERROR"}, job.error)
            return {"CANCELLED"}
        if job.message:
            self.report({"INFO"}, job.message)
        return {"CANCELLED"} if job.cancelled else {"FINISHED"}

    def _clear(self, context: bpy.types.Context) -> None:
        if self._timer is not None:
            context.window_manager.event_timer_remove(self._timer)
            _timers.remove(self._timer)
            self._timer = None
        if context.workspace is not None and not owner.running:
            context.workspace.status_text_set(None)
        redraw(context)

    def _drain(self, job: Job) -> set[Any]:
        printer = _Printer(job.label)
        shown = Status("")
        try:
            while owner.advance():
                if owner.status == shown:  # nothing has happened: the job waits for something
                    time.sleep(_WAIT)
                shown = owner.status
                printer(shown)
            printer.flush()
        except BaseException as error:
            if not isinstance(error, Exception):
                raise
            self.report({"ERROR"}, job.error)
            return {"CANCELLED"}
        finally:
            owner.close()
        print(job.message, flush=True)
        return {"FINISHED"}


def _nothing() -> Steps[None]:
    yield from ()


def _in_main_window(context: bpy.types.Context) -> contextlib.AbstractContextManager[object]:
    """The context of the window that others, such as the preferences', belong to.

    They are closed while a job runs, and its operator with them.
    """
    window = context.window
    if window is None or window.parent is None:
        return contextlib.nullcontext()
    while window.parent is not None:
        window = window.parent
    return context.temp_override(window=window)


class _Printer:
    """Prints a job's progress now and then, and each phase's first and last line."""

    def __init__(self, label: str):
        self._label = label
        self._printed: Status | None = None
        self._pending: Status | None = None
        self._phase = ""
        self._last = float("-inf")

    def __call__(self, status: Status) -> None:
        if status == self._printed:
            return
        phase = re.split(r"[\d:]", status.text, maxsplit=1)[0]
        now = time.monotonic()
        if phase != self._phase:
            self.flush()
        elif now - self._last < _PRINT_EVERY:
            self._pending = status
            return
        self._print(status)
        self._phase, self._last = phase, now

    def flush(self) -> None:
        if self._pending is not None:
            self._print(self._pending)

    def _print(self, status: Status) -> None:
        print(_progress_line(self._label, status), flush=True)
        self._printed, self._pending = status, None


def _progress_line(label: str, status: Status) -> str:
    if status.fraction is None:
        return f"{label}: {status.text}"
    fraction = min(max(status.fraction, 0.0), 1.0)
    full = round(fraction * _BAR)
    bar = "#" * full + "." * (_BAR - full)
    return f"{label}: [{bar}] {fraction:4.0%}  {status.text}"


def redraw(context: bpy.types.Context, *areas: str) -> None:
    """Draw areas of some kinds again; where no kind is given, the panels that show a job.

    A viewport itself, in which all of the scene would be drawn anew, shows none.
    """
    for window in context.window_manager.windows:
        for area in window.screen.areas:
            if area.type in (areas or ("PREFERENCES",)):
                area.tag_redraw()
            elif area.type == "VIEW_3D" and not areas:
                for region in area.regions:
                    if region.type == "UI":
                        region.tag_redraw()


class NEURAL_FIELDS_OT_cancel(bpy.types.Operator):
    """End the running job. A training keeps its checkpoint; views that are rendered stay"""

    bl_idname = "neural_fields.cancel"
    bl_label = "Cancel"

    @classmethod
    def poll(cls, context: bpy.types.Context) -> bool:
        if not owner.running:
            cls.poll_message_set(tip("Nothing is running"))
        return owner.running

    def execute(self, context: bpy.types.Context) -> set[Any]:
        owner.cancel()
        redraw(context)
        return {"FINISHED"}


class NEURAL_FIELDS_OT_pause(bpy.types.Operator):
    """End the training with a checkpoint, from which it goes on later: memory and GPU are free
    until then. The next job that waits begins"""

    bl_idname = "neural_fields.pause"
    bl_label = "Pause"

    @classmethod
    def poll(cls, context: bpy.types.Context) -> bool:
        if not owner.status.training:
            cls.poll_message_set(tip("No training is running"))
        return owner.status.training

    def execute(self, context: bpy.types.Context) -> set[Any]:
        owner.cancel(pause=True)
        redraw(context)
        return {"FINISHED"}


_timers: list[bpy.types.Timer] = []
"""Of the operators that wait or run now."""


@persistent
def _close(*_: object) -> None:
    owner.close()


_HANDLERS = [bpy.app.handlers.load_pre]
if hasattr(bpy.app.handlers, "exit_pre"):  # from 5.1
    _HANDLERS.append(bpy.app.handlers.exit_pre)


def register() -> None:
    for handlers in _HANDLERS:
        handlers.append(_close)


def unregister() -> None:
    owner.close()
    # Blender drops the operators of a class that goes without a word to them
    while _timers:
        bpy.context.window_manager.event_timer_remove(_timers.pop())
    # without a window, as when Blender ends, 4.3 crashes on it
    for workspace in bpy.data.workspaces if bpy.context.window is not None else ():
        workspace.status_text_set(None)
    for handlers in _HANDLERS:
        handlers.remove(_close)


CLASSES = (NEURAL_FIELDS_OT_cancel, NEURAL_FIELDS_OT_pause)
