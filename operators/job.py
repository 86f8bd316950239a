"""Jobs: long work that leaves Blender usable, and the one owner of what is running.

A job is a generator. Each ``yield`` gives control back to Blender with a status to show; what must
be restored stands in ``finally`` blocks. In the window a modal operator advances it by one step a
tick; in the background the operator runs it to its end and prints its progress.
"""

from __future__ import annotations

import dataclasses
import re
import time
import traceback
from collections.abc import Generator
from typing import TYPE_CHECKING, Any, TypeVar

import bpy
from bpy.app.handlers import persistent

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
    """What a job is doing, in one line, and how much of it is done (0 to 1, None if unknown)."""

    text: str
    fraction: float | None = None


Steps = Generator[Status, None, T]
"""A job's steps: yields its status, is sent nothing, returns its result."""


class Cancelled(BaseException):
    """Thrown into a job's steps where they wait, when the person cancels.

    Not an ``Exception``: what handles a job's own failures must not swallow it. Steps may catch it
    to wind down over some more yields, and raise it again when they are done.
    """


class Owner:
    """The one job that may run, and what the last one had to say.

    Attributes:
        label: the job's name; empty while nothing runs.
        status: what it is doing.
        error: why the last job failed, in one line; empty if it did not.
        message: what the last job achieved, in one line.
        cancelled: whether the last job was ended early.
    """

    def __init__(self) -> None:
        self.label = ""
        self.status = Status("")
        self.error = ""
        self.message = ""
        self.cancelled = False
        self._steps: Steps[Any] | None = None
        self._advancing = False
        self._cancelling = False

    @property
    def running(self) -> bool:
        return self._steps is not None

    def owns(self, steps: Steps[Any] | None) -> bool:
        return steps is not None and self._steps is steps

    def start(self, label: str, steps: Steps[Any]) -> None:
        """Take a job. Raises BadInput when another one runs."""
        if self.running:
            raise BadInput(f"{self.label} is still running: wait for it or cancel it first")
        self.label, self.status, self.error, self.message = label, Status("Starting"), "", ""
        self._steps, self._cancelling, self.cancelled = steps, False, False

    def advance(self) -> bool:
        """Do one step; False when the job has ended well.

        Raises whatever ended the job otherwise; ``error`` and ``message`` then say it in a line.
        """
        steps = self._steps
        # an event that is handled while a step calls an operator must not enter the step again
        if steps is None or self._advancing:
            return steps is not None
        self._advancing = True
        try:
            self.status = next(steps)
        except StopIteration as end:
            self._end(message=end.value if isinstance(end.value, str) else f"{self.label}: done")
            return False
        except BaseException as error:
            self._fail(error)
            raise
        finally:
            self._advancing = False
        return True

    def cancel(self) -> None:
        """Ask the job to end; the second time, end it now."""
        steps = self._steps
        if steps is None or self._advancing:
            return
        if self._cancelling:
            self.close()
            return
        self._cancelling = True
        self._advancing = True
        try:
            self.status = steps.throw(Cancelled())
        except (StopIteration, Cancelled):
            self._end_early()
        except Exception as error:
            self._fail(error)
        finally:
            self._advancing = False

    def close(self) -> None:
        """End the job now: Blender closes, another file is loaded, the add-on is disabled."""
        if self._steps is None or self._advancing:
            return
        steps = self._steps
        self._end_early()
        try:
            steps.close()
        except Exception as error:
            self.error = one_line(error)
            traceback.print_exc()

    def _fail(self, error: BaseException) -> None:
        if isinstance(error, (Cancelled, GeneratorExit, KeyboardInterrupt)):
            self._end_early()
            return
        if not isinstance(error, BadInput):
            traceback.print_exception(error)
        self._end(error=one_line(error))

    def _end_early(self) -> None:
        self._end(message=f"{self.label}: cancelled")
        self.cancelled = True

    def _end(self, message: str = "", error: str = "") -> None:
        self._steps, self._cancelling = None, False
        self.label, self.status = "", Status("")
        self.message, self.error = message, error


owner = Owner()


def one_line(error: BaseException) -> str:
    """An exception as one clear line; one that is no BadInput is named as what it is."""
    # bpy.ops puts "Error: " before what an operator reported
    text = " ".join(str(error).split()).removeprefix("Error: ")
    if isinstance(error, (BadInput, RuntimeError)) and text:
        return text
    return f"{type(error).__name__}: {text or 'no details'} (details are in the console)"


class JobOperator(_Operator):
    """Mixin of ``bpy.types.Operator``: runs ``steps``, in the window or in the background."""

    _steps: Steps[Any] | None = None
    _timer: bpy.types.Timer | None = None

    def steps(self, context: bpy.types.Context) -> Steps[Any]:
        """The job. A returned string is shown as its closing message."""
        raise NotImplementedError

    @classmethod
    def poll(cls, context: bpy.types.Context) -> bool:
        if owner.running:
            cls.poll_message_set(f"{owner.label} is still running")
            return False
        return context.scene is not None

    def execute(self, context: bpy.types.Context) -> set[Any]:
        steps = self._steps = self.steps(context)
        try:
            owner.start(self.bl_label, steps)
        except BadInput as error:
            self.report({"ERROR"}, one_line(error))
            return {"CANCELLED"}
        if bpy.app.background:
            return self._drain()
        manager = context.window_manager
        self._timer = manager.event_timer_add(TICK, window=context.window)
        manager.modal_handler_add(self)
        redraw(context)
        return {"RUNNING_MODAL"}

    def modal(self, context: bpy.types.Context, event: bpy.types.Event) -> set[Any]:
        if not owner.owns(self._steps):
            return self._leave(context)
        if event.type == "ESC" and event.value == "PRESS":
            owner.cancel()
            return {"RUNNING_MODAL"} if owner.owns(self._steps) else self._leave(context)
        if event.type != "TIMER":
            return {"PASS_THROUGH"}
        before = owner.status
        try:
            going = owner.advance()
        except BaseException:  # the owner keeps what it was; _leave reports it
            going = False
        if not going:
            return self._leave(context)
        if owner.status != before:
            context.workspace.status_text_set(f"{owner.label}: {owner.status.text} (Esc: cancel)")
            redraw(context)
        return {"PASS_THROUGH"}

    def cancel(self, context: bpy.types.Context) -> None:
        """Blender ends the operator: its window closes, or another file is loaded."""
        if owner.owns(self._steps):
            owner.close()
        self._clear(context)

    def _leave(self, context: bpy.types.Context) -> set[Any]:
        self._clear(context)
        if owner.error:
            self.report({"ERROR"}, owner.error)
            return {"CANCELLED"}
        if owner.message:
            self.report({"INFO"}, owner.message)
        return {"CANCELLED"} if owner.cancelled else {"FINISHED"}

    def _clear(self, context: bpy.types.Context) -> None:
        if self._timer is not None:
            context.window_manager.event_timer_remove(self._timer)
            self._timer = None
        if context.workspace is not None:
            context.workspace.status_text_set(None)
        redraw(context)

    def _drain(self) -> set[Any]:
        printer = _Printer(owner.label)
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
            self.report({"ERROR"}, owner.error)
            return {"CANCELLED"}
        finally:
            owner.close()
        print(owner.message, flush=True)
        return {"FINISHED"}


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
    """Draw areas of some kinds again, of those that show a job where no kind is given."""
    for window in context.window_manager.windows:
        for area in window.screen.areas:
            if area.type in (areas or ("VIEW_3D", "PREFERENCES")):
                area.tag_redraw()


class NEURAL_FIELDS_OT_cancel(bpy.types.Operator):
    """End the running job. A training keeps its checkpoint; views that are rendered stay"""

    bl_idname = "neural_fields.cancel"
    bl_label = "Cancel"

    @classmethod
    def poll(cls, context: bpy.types.Context) -> bool:
        return owner.running

    def execute(self, context: bpy.types.Context) -> set[Any]:
        owner.cancel()
        redraw(context)
        return {"FINISHED"}


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
    for handlers in _HANDLERS:
        handlers.remove(_close)


CLASSES = (NEURAL_FIELDS_OT_cancel,)
