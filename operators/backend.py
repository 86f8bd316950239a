"""The backend's process: which Python runs it, its start, its leash and its end."""

import contextlib
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, BinaryIO

import bpy
from bpy.app.translations import pgettext_iface as iface
from bpy.app.translations import pgettext_n as marked
from bpy.app.translations import pgettext_rpt as rpt

from ..neural_backend import protocol
from ..neural_backend.protocol import BadInput
from . import environment
from .job import Cancelled, JobOperator, Status, Steps

EXTENSION = environment.EXTENSION
VARIABLE = "NEURAL_FIELDS_PYTHON"

GRACE = 20.0
"""Seconds that a cancelled backend has for its checkpoint before it is ended by force."""

_LAST_GRACE = 3.0
"""The same where Blender itself is about to close, and waits."""

_DOCTOR_TIMEOUT = 300.0

# behind a window the backend takes what that leaves: it has all cores to itself but for moments
_NICENESS = 10
_CREATION_FLAGS = getattr(subprocess, "CREATE_NO_WINDOW", 0)
_BEHIND_A_WINDOW = _CREATION_FLAGS | getattr(subprocess, "BELOW_NORMAL_PRIORITY_CLASS", 0)

_LONGEST_LINE = 300
_NOT_SHOWN = "[\\x00-\\x1f\\x7f-\\x9f\ufffd]+"
"""Characters of garbage."""

# what belongs to Blender's own Python and colours would break another one's
_NOT_FOR_CHILDREN = (
    "OCIO",
    "PYTHONEXECUTABLE",
    "PYTHONHOME",
    "PYTHONPATH",
    "PYTHONPLATLIBDIR",
    "PYTHONSAFEPATH",
    "PYTHONSTARTUP",
    "__PYVENV_LAUNCHER__",
)
_FOR_CHILDREN = {
    "PYTHONDONTWRITEBYTECODE": "1",  # the extension's folder may be read-only
    "PYTHONNOUSERSITE": "1",
    "PYTHONUNBUFFERED": "1",
    "PYTHONUTF8": "1",
}


def how_to_install() -> str:
    """What to do when the backend's Python is absent or lacks something, in one line."""
    return (
        "press Install Backend in the Neural Fields tab or the add-on's preferences (in a script: "
        "bpy.ops.neural_fields.install_backend())"
    )


def chosen() -> tuple[str, str] | None:
    """The Python that a person has chosen and where; None where it is the installed one."""
    if value := os.environ.get(VARIABLE, "").strip():
        return value, VARIABLE
    if value := environment.preference("python", "").strip():
        return bpy.path.abspath(value), marked("Preferences, Other Python")
    return None


def python() -> str:
    """The Python that runs the backend.

    ``NEURAL_FIELDS_PYTHON`` wins over the preference, which wins over the installed environment.

    Raises:
        BadInput: when there is none of them, or what is set is no program.
    """
    value, source = chosen() or ("", "")
    if not value:
        installed = environment.installed()
        if installed is None:
            raise BadInput(f"The backend is not installed: {how_to_install()}")
        if not installed.works:
            raise BadInput(
                "The Python that the backend's environment was made of is gone: press Repair in "
                "the add-on's preferences"
            )
        return str(installed.program)
    found = shutil.which(os.path.expanduser(value))
    if found is None:
        raise BadInput(f"{source}: {value}: no such program; {how_to_install()}")
    return os.path.abspath(found)


def child_environment() -> dict[str, str]:
    """The environment of a backend's process."""
    kept = {name: value for name, value in os.environ.items() if name not in _NOT_FOR_CHILDREN}
    return kept | _FOR_CHILDREN


class Child:
    """A process of the backend on its leash.

    Args:
        program: the Python.
        arguments: after ``-m neural_backend``.
        output: open file that gets standard output.
        log: open file that gets standard error.
        module: what is run instead of the backend's command line.
        more: what its environment has besides.

    Raises:
        BadInput: when it cannot be started.
    """

    def __init__(
        self,
        program: str,
        arguments: Sequence[str],
        output: BinaryIO,
        log: BinaryIO,
        module: str = "neural_backend",
        more: Mapping[str, str] | None = None,
    ):
        self._let_go = False
        claim = environment.claim(program)
        try:
            self._process = subprocess.Popen(
                [program, "-m", module, *arguments],
                cwd=EXTENSION,
                env=child_environment() | dict(more or {}),
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=log,
                close_fds=True,
                pass_fds=[claim.fileno()] if claim else [],
                creationflags=_CREATION_FLAGS if bpy.app.background else _BEHIND_A_WINDOW,
            )
        except OSError as error:
            reason = error.strerror or str(error)
            raise BadInput(f"{program}: cannot be started ({reason}); {how_to_install()}") from None
        finally:
            if claim:
                claim.close()
        if not (bpy.app.background or sys.platform == "win32"):
            with contextlib.suppress(OSError):
                niceness = os.getpriority(os.PRIO_PROCESS, 0) + _NICENESS
                os.setpriority(os.PRIO_PROCESS, self._process.pid, niceness)

    def status(self) -> int | None:
        """The exit status; None while it runs."""
        return self._process.poll()

    def pull_leash(self) -> None:
        """Ask it to end with a checkpoint; returns at once.

        Closing the pipe says it. A line of text would say it too, but writing to a child that has
        just died raises SIGPIPE, which ends a Blender whose Python does not handle signals.
        """
        assert self._process.stdin is not None
        self._process.stdin.close()

    def let_go(self) -> None:
        """Leave it to itself from now on; it has been told that its leash's end means nothing."""
        self._let_go = True

    def end(self, grace: float = 0.0) -> None:
        """Make sure that it is gone, after ``grace`` seconds at most, or let go."""
        self.pull_leash()
        if self._let_go:
            return
        try:
            self._process.wait(grace)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def run_steps(
    program: str,
    arguments: Sequence[str],
    log: pathlib.Path,
    look: Callable[[], Status],
    grace: float = GRACE,
    answer: BinaryIO | None = None,
    leave: Callable[[], bool] = lambda: False,
) -> Steps[None]:
    """Run one command of the backend to its end.

    Args:
        log: gets what it prints; appended to. One that holds no more than what is raised does not
            stay.
        look: gives the status at each tick; may raise what it has found.
        grace: seconds that it has to end by itself when the job is cancelled.
        answer: open file that gets its standard output; the log does where None.
        leave: called when Blender closes; True where it has been told to go on without.

    Raises:
        BadInput: when it fails: its own last line, or that it died and where the log is.
    """
    with protocol.no_folder_left(log.parent):
        new = not log.exists()
        try:
            log.parent.mkdir(parents=True, exist_ok=True)
            log.touch()
        except OSError as error:
            reason = error.strerror or str(error)
            raise BadInput(f"{log}: cannot be written ({reason}); choose another Output") from None
        # what it says is read from the same file: its folder may be deleted while it runs
        with open(log, "a+b") as file:
            begin = file.tell()
            child = Child(program, arguments, answer or file, file)
            try:
                while (status := child.status()) is None:
                    yield look()
                yield look()
            except Cancelled:
                yield from _wind_down(child, grace)
                raise
            except GeneratorExit:
                if leave():
                    child.let_go()
                raise
            finally:
                child.end(_LAST_GRACE)
            if status == protocol.EXIT_DONE:
                return
            why = _why(status, file, begin)
        if new and str(log) not in why:
            _remove_alone(log)
        raise BadInput(why)


def _remove_alone(log: pathlib.Path) -> None:
    """Remove a log where nothing else came of what it tells of."""
    with contextlib.suppress(OSError):
        if list(log.parent.iterdir()) == [log]:
            log.unlink()


def _wind_down(child: Child, grace: float) -> Steps[None]:
    child.pull_leash()
    deadline = time.monotonic() + grace
    while child.status() is None and time.monotonic() < deadline:
        yield Status(iface("Cancelling, what is finished is kept"))
    if child.status() is None:
        child.end()


def _why(status: int, log: BinaryIO, begin: int) -> str:
    last = _last_line(log, begin)
    if status == protocol.EXIT_BAD_INPUT and last:
        return last
    how = f"was killed by signal {-status}" if status < 0 else f"failed with status {status}"
    # the system ends the process that asks for too much memory with signal 9
    hint = ", perhaps for lack of memory" if status == -9 else ""
    # what is killed has not said why: its last line is of its progress
    said = f": {last}" if last and status > 0 else ""
    return f"The backend {how}{hint}{said}; its log is {log.name}"


def _last_line(file: BinaryIO, begin: int = 0) -> str:
    """The last line with something on it that was written after byte ``begin``."""
    end = file.seek(0, os.SEEK_END)
    file.seek(max(begin, end - 4096))
    # progress bars end their lines with a carriage return
    lines = file.read().decode("utf-8", "replace").replace("\r", "\n").split("\n")
    said = (re.sub(_NOT_SHOWN, " ", line).strip() for line in reversed(lines))
    return next((line[:_LONGEST_LINE] for line in said if line), "")


_checked: dict[str, dict[str, Any]] = {}


def check_steps(device: str = "auto") -> Steps[str]:
    """Make sure that the backend's Python can train; returns the Python.

    One that was found good is not asked again in this session.

    Args:
        device: what the training is to run on; one that is absent must not be found out only after
            all views are rendered.

    Raises:
        BadInput: in one line, with the mend.
    """
    program = python()
    if program not in _checked:
        _checked[program] = yield from doctor_steps(program)
    best = _checked[program].get("device", device)
    if device not in ("auto", "cpu", best):
        raise BadInput(f"Device: {program} has no {device}: choose Automatic, which means {best}")
    return program


def doctor_steps(program: str) -> Steps[dict[str, Any]]:
    """Ask a Python for its doctor's report.

    Raises:
        BadInput: when it cannot train; in one line, with the mend.
    """
    with tempfile.TemporaryFile() as answer, tempfile.TemporaryFile() as errors:
        child = Child(program, ["doctor", "--json"], answer, errors)
        try:
            deadline = time.monotonic() + _DOCTOR_TIMEOUT
            while (status := child.status()) is None:
                if time.monotonic() > deadline:
                    raise BadInput(
                        f"{program}: no answer within {_DOCTOR_TIMEOUT:.0f} s; the computer may be "
                        "busy: try again, or see what this Python says in a terminal to -m "
                        "neural_backend doctor"
                    )
                yield Status(iface("Checking the backend"))
        finally:
            child.end()
        if status != protocol.EXIT_DONE:
            raise BadInput(f"{program}: {_complaint(errors, status)}")
        answer.seek(0)
        try:
            return dict(json.load(answer))
        except (ValueError, TypeError):
            raise BadInput(f"{program}: gives no readable answer; {how_to_install()}") from None


def _complaint(errors: BinaryIO, status: int) -> str:
    last = _last_line(errors)
    if status == protocol.EXIT_BAD_INPUT and last:
        return last  # the doctor has named the mend
    return f"{last or f'failed with status {status}'}; {how_to_install()}"


class NEURAL_FIELDS_OT_check_backend(JobOperator, bpy.types.Operator):
    """Ask the backend's Python whether it can train, and on what"""

    bl_idname = "neural_fields.check_backend"
    bl_label = "Check Backend"

    def steps(self, context: bpy.types.Context) -> Steps[str]:
        report = yield from doctor_steps(python())
        return rpt("The backend is ready: Python {python}, torch {torch}, {device}").format(
            python=report.get("python"),
            torch=report.get("packages", {}).get("torch", ""),
            device=report.get("device_name", ""),
        )


CLASSES = (NEURAL_FIELDS_OT_check_backend,)
