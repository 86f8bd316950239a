"""What Blender and the backend say to each other: the run folder, its events, exit statuses.

The backend appends one json object a line to ``events.jsonl``; Blender reads what is new at each
tick. Standard library only: Blender imports this.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import json
import os
import pathlib
import sys
import time
import typing
from collections.abc import Callable, Iterator, Sequence
from typing import IO, Any, ClassVar

EXIT_DONE = 0
EXIT_FAILED = 1
EXIT_BAD_INPUT = 2

CANCEL = "cancel"
"""The line on standard input that ends a run with a checkpoint; so does its end-of-file."""

GENERATOR = "Neural Fields"
"""What our meshes name as their maker, which tells them from others'."""

_LOCK = ".lock"
_LOCK_WAITS = (0.05,) * 6  # seconds: whoever only looks at a lock holds it for an instant
_BEGINNING = 1 << 16  # bytes of a run's events
_RENAME_WAITS = (0.02, 0.05, 0.1, 0.2, 0.4) if os.name == "nt" else ()  # seconds


class BadInput(Exception):
    """Input that the person must mend: one line that names the file, the field and the mend."""


def first_line(error: BaseException) -> str:
    """What an error says, without the lines that follow."""
    return (str(error).splitlines() or [type(error).__name__])[0]


def in_words(seconds: float) -> str:
    """A time as people say it: ``45 s``, ``1 min 20 s``, ``12 min``, ``2 h 5 min``."""
    whole = max(round(seconds), 0)
    if whole >= 600:
        whole = round(whole / 60) * 60
    hours, minutes, rest = whole // 3600, whole // 60 % 60, whole % 60
    parts = ((hours, "h"), (minutes, "min"), (rest, "s"))
    return " ".join(f"{count} {unit}" for count, unit in parts if count) or "0 s"


class RunFolder:
    """The files of one run. Making one touches nothing on the disk.

    ``cancel`` asks the training to end with a checkpoint, whoever started it. ``keep`` lets it go
    on when standard input ends: Blender closes, and leaves it running. Either is there or not.
    ``scene`` is Blender's: the settings of the rig, the dataset and the result.
    """

    def __init__(self, path: str | os.PathLike[str]):
        self.path = pathlib.Path(path)
        self.config = self.path / "config.json"
        self.scene = self.path / "scene.json"
        self.events = self.path / "events.jsonl"
        self.checkpoint = self.path / "checkpoint.safetensors"
        self.preview = self.path / "preview.png"
        self.metrics = self.path / "metrics.json"
        self.log = self.path / "log.txt"
        self.lock = self.path / _LOCK
        self.cancel = self.path / "cancel"
        self.keep = self.path / "keep"
        # the live view: its camera (a ``transforms.json`` of one frame), written by whoever looks
        # and touched every second or two while they do, and what the backend shows from there
        self.eye = self.path / "eye.json"
        self.live = self.path / "live.png"

    @property
    def files(self) -> list[pathlib.Path]:
        """All of them, but the lock."""
        return [file for file in vars(self).values() if file not in (self.path, self.lock)]

    @property
    def written(self) -> list[pathlib.Path]:
        """What is of one training; the log is of all that the folder has seen."""
        return [
            *(self.config, self.scene, self.events, self.preview),
            *(self.live, self.metrics, self.checkpoint),
        ]

    def stranger(self) -> pathlib.Path | None:
        """A file that a training here would take for its own, where no run of ours is.

        A run's config or its events tell that it is ours.
        """
        with contextlib.suppress(OSError, ValueError, RecursionError):
            content = json.loads(self.config.read_text(encoding="utf-8"))
            if isinstance(content, dict) and {"settings", "field_from_world"} <= content.keys():
                return None
        if EventReader(self.events).poll(_BEGINNING):
            return None
        there = (file for file in (*self.written, self.cancel, self.keep) if file.exists())
        # what has no content is nobody's
        return next((file for file in there if not file.is_file() or file.stat().st_size), None)


@contextlib.contextmanager
def no_folder_left(folder: pathlib.Path) -> Iterator[None]:
    """Where what is inside fails, no empty folder is left that it has made for ``folder``."""
    missing = [each for each in (folder, *folder.parents) if not each.exists()]
    try:
        yield
    except BaseException:
        with contextlib.suppress(OSError):  # one that something was written into stays
            for each in missing:
                each.rmdir()
        raise


@contextlib.contextmanager
def held(folder: pathlib.Path) -> Iterator[None]:
    """Make a folder and keep others out of it, as long as the lock ``.lock`` in it is held.

    The system takes the lock away when the process ends, however it ends. Some network drives
    know no locks: there nobody is kept out. Where what is inside fails, neither a lock nor an
    empty folder is left that was not there before.

    Raises:
        BlockingIOError: another one holds it.
        OSError: the folder cannot be made or written.
    """
    lock = folder / _LOCK
    with contextlib.ExitStack() as stack:
        stack.enter_context(no_folder_left(folder))
        new = not lock.exists()
        for wait in (*_LOCK_WAITS, 0.0):
            folder.mkdir(parents=True, exist_ok=True)
            file = open(lock, "ab")  # noqa: SIM115
            if _lock(file) and _is_at(file, lock):
                break
            file.close()
            time.sleep(wait)
        else:
            raise BlockingIOError(errno.EAGAIN, "in use", str(folder))
        stack.enter_context(file)
        os.utime(lock)  # who looks at its time sees that it was taken
        try:
            yield
        except BaseException:
            if new:
                if sys.platform == "win32":  # which removes nothing that is open
                    file.close()
                with contextlib.suppress(OSError):
                    lock.unlink()
            raise


def is_held(folder: pathlib.Path) -> bool:
    """Whether somebody holds a folder's lock: of a run, that a training is writing into it."""
    try:
        with open(folder / _LOCK, "r+b") as file:
            return not _lock(file)
    except OSError:
        return False


def in_use(run: RunFolder) -> str:
    """What to say where a training writes into a run that another one was to have."""
    return (
        f"{run.path}: run: another training writes into it; wait for its end or choose another "
        "folder"
    )


def _is_at(file: IO[bytes], path: pathlib.Path) -> bool:
    """Whether an open file is still the one of its path: who held it may have removed it."""
    if sys.platform == "win32":
        return True
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except OSError:
        return False


def _lock(file: IO[bytes]) -> bool:
    """Take a lock that lasts until the file is closed; False where another one has it."""
    try:
        if sys.platform == "win32":
            import msvcrt

            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
        else:
            import fcntl

            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        return error.errno not in (errno.EAGAIN, errno.EACCES, errno.EDEADLK)
    return True


def rename(old: pathlib.Path, new: pathlib.Path) -> None:
    """Rename a file, over ``new`` where that exists.

    On Windows that fails while another program, a virus scanner for one, has either open: it is
    tried again for less than a second.

    Raises:
        OSError: it cannot be renamed.
    """
    for wait in _RENAME_WAITS:
        try:
            os.replace(old, new)
            return
        except PermissionError:
            time.sleep(wait)
    os.replace(old, new)


def write_whole(path: str | os.PathLike[str], write: Callable[[pathlib.Path], object]) -> None:
    """Make a file appear whole or not at all.

    ``write`` gets a path beside ``path``, with the same suffix (writers choose a format by it).
    When it returns, the file is renamed into place; when it raises, nothing is left behind.
    """
    final = pathlib.Path(path)
    beside = final.with_name(_beside(final, str(os.getpid())))
    try:
        write(beside)
        rename(beside, final)
    finally:
        beside.unlink(missing_ok=True)


def _beside(final: pathlib.Path, process: str) -> str:
    return f".{final.stem}.{process}.part{final.suffix}"


def clear_unfinished(path: pathlib.Path) -> None:
    """Remove what processes that were killed while they wrote ``path`` have left beside it.

    Raises:
        OSError: it cannot be removed.
    """
    for left in path.parent.glob(_beside(path, "*")):
        left.unlink(missing_ok=True)


def output_file(path: str | os.PathLike[str], suffixes: Sequence[str]) -> pathlib.Path:
    """The path of a file to be written, of one of some kinds; its folder is made.

    Raises:
        BadInput: its suffix is none of these, or its folder cannot be made.
    """
    path = pathlib.Path(path)
    if path.suffix.lower() not in suffixes:
        kinds = " or ".join(filter(None, (", ".join(suffixes[:-1]), suffixes[-1])))
        raise BadInput(f"{path}: output: unknown kind {path.suffix!r}; end it in {kinds}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BadInput(f"{path.parent}: cannot be made ({error}); choose another folder") from None
    return path


def write_json(path: str | os.PathLike[str], value: Any) -> None:
    """Write ``value`` as indented json, whole or not at all; NaN and infinity are refused."""
    text = json.dumps(value, indent=2, allow_nan=False) + "\n"
    write_whole(path, lambda beside: beside.write_text(text, encoding="utf-8"))


@dataclasses.dataclass(frozen=True)
class Started:
    """The run begins: what runs where. ``step`` is above 0 for a resumed run.

    ``eta`` is how many seconds it will take, absent where the number of steps decides.
    """

    type: ClassVar[str] = "started"
    field: str
    device: str
    kernels: str
    parameters: int
    views: int = 0
    step: int = 0
    eta: float | None = None


@dataclasses.dataclass(frozen=True)
class Progress:
    """One line of progress; ``of`` is 0 when only the time limits the run.

    ``seconds`` of ``max_seconds`` of training time have passed. ``eta`` is how many seconds it will
    take until the run is done, with all that training time does not count: previews, checkpoints.
    ``psnr`` (decibels) and ``ssim``, on validation views, are absent until first measured.
    """

    type: ClassVar[str] = "progress"
    step: int
    of: int
    seconds: float
    max_seconds: float
    loss: float
    eta: float
    samples_per_second: float = 0.0
    psnr: float | None = None
    ssim: float | None = None

    @property
    def spent(self) -> float:
        """Part of the budget that is spent, in [0, 1]: of the time or of the steps."""
        of_time = self.seconds / self.max_seconds if self.max_seconds else 0.0
        of_steps = self.step / self.of if self.of else 0.0
        return min(max(of_time, of_steps), 1.0)


@dataclasses.dataclass(frozen=True)
class Preview:
    """A new ``preview.png`` stands in the run folder."""

    type: ClassVar[str] = "preview"
    step: int


@dataclasses.dataclass(frozen=True)
class Live:
    """A new ``live.png`` stands in the run folder, ``width`` x ``height`` pixels.

    It took ``seconds``. ``eye`` is the ``file_path`` of the ``eye.json`` that it is seen from:
    where that is another by now, the camera has moved since.
    """

    type: ClassVar[str] = "live"
    step: int
    width: int
    height: int
    seconds: float
    eye: str


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """A new checkpoint stands in the run folder."""

    type: ClassVar[str] = "checkpoint"
    step: int


@dataclasses.dataclass(frozen=True)
class Warning:
    """Something to know; the run goes on."""

    type: ClassVar[str] = "warning"
    message: str


@dataclasses.dataclass(frozen=True)
class Error:
    """The run has failed; ``hint`` says what to do."""

    type: ClassVar[str] = "error"
    message: str
    hint: str = ""


@dataclasses.dataclass(frozen=True)
class Done:
    """The run has ended with a checkpoint; ``reason`` is finished or cancelled."""

    type: ClassVar[str] = "done"
    step: int
    seconds: float
    reason: str = "finished"
    psnr: float | None = None
    ssim: float | None = None


Event = Started | Progress | Preview | Live | Checkpoint | Warning | Error | Done
_KINDS: dict[str, type] = {kind.type: kind for kind in typing.get_args(Event)}
_TYPES = {kind: typing.get_type_hints(kind) for kind in _KINDS.values()}


def encode_event(event: Event) -> str:
    """One line, with its line feed. Numbers that are not finite become null."""
    values: dict[str, Any] = {"type": event.type}
    for name, value in dataclasses.asdict(event).items():
        finite = not isinstance(value, float) or value - value == 0.0
        values[name] = value if finite else None
    return json.dumps(values, allow_nan=False) + "\n"


def decode_event(line: str) -> Event | None:
    """The event of a line, or None when the line is damaged or of an unknown type.

    Unknown names are ignored, so that an older Blender side can follow a newer backend.
    """
    try:
        values = json.loads(line)
        kind = _KINDS[values.pop("type")]
        event = kind(**{name: value for name, value in values.items() if name in _TYPES[kind]})
        return event if _is_sound(event) else None
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return None


def _is_sound(event: Any) -> bool:
    """Whether all values are of their types, and finite."""
    for field in dataclasses.fields(event):
        value, hint = getattr(event, field.name), _TYPES[type(event)][field.name]
        if hint in (str, int):
            sound = type(value) is hint
        elif value is None:
            sound = hint is not float
        else:
            sound = type(value) in (int, float) and value - value == 0
        if not sound:
            return False
    return True


class EventWriter:
    """Appends events to a run's ``events.jsonl``, one write a line."""

    def __init__(self, path: str | os.PathLike[str]):
        self.path = pathlib.Path(path)

    def __call__(self, event: Event) -> None:
        with open(self.path, "a", encoding="utf-8") as file:
            file.write(encode_event(event))


def last_events(path: pathlib.Path, size: int) -> list[Event]:
    """The events in the last ``size`` bytes of an ``events.jsonl``; none where it cannot be read.

    Damaged lines, of which the first may be one, are passed over.
    """
    try:
        with open(path, "rb") as file:
            file.seek(max(file.seek(0, os.SEEK_END) - size, 0))
            lines = file.read().decode("utf-8", "replace").split("\n")
    except OSError:
        return []
    events = map(decode_event, lines)
    return [event for event in events if event is not None]


class EventReader:
    """Reads what is new in an ``events.jsonl`` that another process is writing.

    Args:
        path: the file; it need not exist yet.
        from_end: skip what the file holds now (the events of an earlier start of the run).
    """

    def __init__(self, path: str | os.PathLike[str], from_end: bool = False):
        self.path = pathlib.Path(path)
        self._rest = b""
        self._position = 0
        self._file = 0
        if from_end and self.path.exists():
            status = self.path.stat()
            self._position, self._file = status.st_size, status.st_ino

    def poll(self, most: int = -1) -> list[Event]:
        """The events that were completed since the last call; damaged lines are passed over.

        A new file in the place of the old one (an earlier run was set aside) is read whole.

        Args:
            most: bytes to read at a time, of a file that may be long; all of them where negative.
        """
        try:
            with open(self.path, "rb") as file:
                status = os.fstat(file.fileno())
                replaced = self._file not in (0, status.st_ino)
                if replaced or status.st_size < self._position:
                    self._position, self._rest = 0, b""
                self._file = status.st_ino
                file.seek(self._position)
                new = file.read(most)
        except OSError:  # not there yet, or not to be opened right now
            return []
        self._position += len(new)
        *lines, self._rest = (self._rest + new).split(b"\n")
        events = [decode_event(line.decode("utf-8", "replace")) for line in lines]
        return [event for event in events if event is not None]
