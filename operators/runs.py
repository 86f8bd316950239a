"""Runs: the list of all that were trained, are trained or wait, and what can be done with one.

The run folders are the only truth. A timer looks at them; nothing is read while drawing.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
import os
import pathlib
import re
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any

import bpy
from bpy.app.handlers import persistent
from bpy.app.translations import pgettext_iface as iface
from bpy.app.translations import pgettext_rpt as rpt
from bpy.app.translations import pgettext_tip as tip

from ..neural_backend import config, protocol
from ..neural_backend.protocol import BadInput, RunFolder
from . import folders, knobs, known, live, train
from .job import Job, JobOperator, Steps, owner, redraw
from .place import place_of

if TYPE_CHECKING:  # what mixes _RunOperator in is an operator
    _Operator = bpy.types.Operator
else:
    _Operator = object

WAITING, RENDERING, TRAINING = "waiting", "rendering", "training"
PAUSED, FINISHED, FAILED, INTERRUPTED = "paused", "finished", "failed", "interrupted"

LOOK = 1.0
"""Seconds between two looks at the run folders."""
_AT_ONCE = 0.02  # seconds
_REST = 50.0
"""After a look, on a slow drive, they are left alone so many times as long as it took."""
_TAIL = 16_384  # bytes of a run's events
_OPENS = 0.5
"""Seconds within which the system's opener has failed, where it does."""


@dataclasses.dataclass(frozen=True)
class Run:
    """What a run's folder says.

    Attributes:
        field: the kind of field; empty where nothing tells.
        seconds: of training so far.
        psnr: decibels.
        progress: how far the training is that goes on, or was interrupted.
        error: why it failed, in one line.
        can_resume: whether there is something to go on with.
        can_bring_back: whether there is a trained field.
    """

    state: str
    field: str = ""
    seconds: float = 0.0
    psnr: float | None = None
    progress: protocol.Progress | None = None
    error: str = ""
    can_resume: bool = False
    can_bring_back: bool = False


@dataclasses.dataclass(frozen=True)
class Row:
    """A run, or a job that is to become one.

    Attributes:
        key: tells it from the others; of a run, its folder.
        name: of its output folder, and of an earlier run in it also its number.
        folder: of the run; it need not exist yet.
        run: what the folder says, or would say.
        blend_file: that it belongs to; empty where that was never saved.
        job: this Blender's, that waits or works on it.
    """

    key: str
    name: str
    folder: pathlib.Path
    run: Run
    blend_file: str
    job: Job | None = None

    @property
    def is_found_again(self) -> bool:
        """Whether it is trained by a backend that no job of this Blender holds."""
        return self.run.state == TRAINING and self.job is None

    @property
    def can_go_on(self) -> bool:
        """Whether its training was ended early, and can be resumed."""
        return self.run.can_resume and self.run.state in (PAUSED, FAILED, INTERRUPTED)

    @property
    def is_of_this_file(self) -> bool:
        """Whether it belongs to the open file, by its name or one that it has had since."""
        names = (bpy.data.filepath, *_earlier)
        return any(_same_file(self.blend_file, name) for name in names)


def _same_file(one: str, other: str) -> bool:
    return os.path.normcase(one) == os.path.normcase(other)


def _stamp(path: pathlib.Path) -> tuple[int, int]:
    try:
        status = path.stat()
    except OSError:
        return (0, 0)
    return (status.st_mtime_ns, status.st_size)


_cache: dict[pathlib.Path, tuple[object, Run]] = {}


def read(folder: pathlib.Path) -> Run | None:
    """Read a run's folder; None where there is no run in it. What has not changed is not read."""
    run = RunFolder(folder)
    files = (run.lock, run.config, run.events, run.checkpoint)
    stamp = tuple(_stamp(file) for file in files)
    # a lock alone makes no run: output folders have one too
    if not any(time for time, _ in (*stamp[1:], _stamp(run.log))):
        return None
    before, found = _cache.get(folder, (None, Run("")))
    # who begins to train touches the lock; that somebody has ended no file tells
    if before == stamp and (found.state != TRAINING or protocol.is_held(folder)):
        return found
    found = _read(run)
    _cache[folder] = (stamp, found)
    return found


def _read(run: RunFolder) -> Run:
    state = TRAINING if protocol.is_held(run.path) else INTERRUPTED
    field = ""
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        field = str(json.loads(run.config.read_text(encoding="utf-8"))["settings"]["field"])
    seconds, psnr, error = 0.0, None, ""
    progress: protocol.Progress | None = None
    for event in protocol.last_events(run.events, _TAIL):
        ended = ""
        if isinstance(event, protocol.Started):
            progress, error = None, ""
        elif isinstance(event, protocol.Progress):
            progress, seconds, psnr, error = event, event.seconds, event.psnr or psnr, ""
        elif isinstance(event, protocol.Done):
            progress, seconds, psnr = None, event.seconds, event.psnr or psnr
            ended = FINISHED if event.reason == "finished" else PAUSED
        elif isinstance(event, protocol.Error):
            progress, ended = None, FAILED
            error = f"{event.message}; {event.hint}" if event.hint else event.message
        else:
            continue
        if state != TRAINING:
            state = ended or INTERRUPTED
    trained = run.checkpoint.is_file()
    return Run(state, field, seconds, psnr, progress, error, run.config.is_file(), trained)


def folders_of(output: pathlib.Path) -> list[pathlib.Path]:
    """The folders of an output folder's runs: the last one, and the earlier ones, newest first."""
    earlier = []
    try:
        with os.scandir(output) as entries:
            for entry in entries:
                number = re.fullmatch(rf"{folders.RUN}\.(\d+)", entry.name)
                if number and entry.is_dir():
                    earlier.append((int(number[1]), output / entry.name))
    except OSError:
        pass
    return [output / folders.RUN, *(folder for _, folder in sorted(earlier, reverse=True))]


def _outputs() -> dict[pathlib.Path, str]:
    """The known output folders, and those of the open file, from wherever that was copied."""
    found = known.outputs()
    for scene in bpy.data.scenes:
        try:
            output = folders.existing_output(scene)
        except BadInput:
            continue
        if output not in found and output.is_dir():
            found[output] = bpy.data.filepath
    return found


_seen: dict[pathlib.Path, list[Row]] = {}
"""The runs of each output folder as they were when it was last looked at."""
_late: pathlib.Path | None = None
"""The output folder for which there was no time in the last look."""


def look(seconds: float = math.inf) -> list[Row]:
    """All runs and jobs as they are now: what waits or is rendered first, then the runs.

    Args:
        seconds: for which it may look, at the folders of the open file and then at others; the
            rest of these is as it was, and its turn comes with the next looks.
    """
    global _late
    until = time.monotonic() + seconds
    found = []
    jobs = [(WAITING, job) for job in reversed(owner.queue)]
    if owner.job is not None:
        jobs.append((RENDERING, owner.job))
    for state, job in jobs:
        if job.run is not None and not job.begun:
            key = f"{state} {id(job)}"
            file = bpy.data.filepath
            found.append(Row(key, job.subject, job.run, Run(state), file, job))
    outputs = _outputs()
    own = [output for output, file in outputs.items() if _same_file(file, bpy.data.filepath)]
    others = [output for output in outputs if output not in own]
    turn = others.index(_late) if _late in others else 0
    _late = None
    for output in own + others[turn:] + others[:turn]:
        if output in own or time.monotonic() < until:
            _seen[output] = _rows(output, outputs[output])
        else:
            _late = _late or output
    for output in outputs:
        found += _seen.get(output, [])
    return found


def _rows(output: pathlib.Path, file: str) -> list[Row]:
    begun = owner.job if owner.job is not None and owner.job.begun else None
    found = []
    for folder in folders_of(output):
        run = read(folder)
        job = begun if begun is not None and begun.run == folder else None
        if job is not None and owner.status.training and (run is None or run.state != TRAINING):
            run = Run(TRAINING)  # the backend is starting
        if run is not None:
            found.append(Row(str(folder), folders.Results(folder).name, folder, run, file, job))
    return found


def row_of(key: str) -> Row:
    """The row of a key or of a run's folder.

    Raises:
        BadInput: there is none any more.
    """
    for row in look():
        if row.key == key:
            return row
    folder = pathlib.Path(os.path.abspath(bpy.path.abspath(key))) if key else pathlib.Path()
    run = read(folder) if key else None
    if run is None:
        raise BadInput(f"{key or 'Run'}: there is no such run; choose another one in the list")
    return Row(str(folder), folders.Results(folder).name, folder, run, bpy.data.filepath)


rows: list[Row] = []
"""What the last look has found, for drawing."""
ready: list[str] = []
"""Keys of the runs that were found again, and have finished since: their results can come."""


def refresh(context: bpy.types.Context, seconds: float = math.inf) -> bool:
    """Look again (``look``), and fill the list that is drawn; whether anything is another."""
    global rows
    found = look(seconds)
    were_training = {row.key for row in rows if row.is_found_again}
    for row in found:
        if row.key in were_training and row.run.state == FINISHED and row.is_of_this_file:
            ready.append(row.key)
    finished = {row.key for row in found if row.run.state == FINISHED}
    ready[:] = [key for key in ready if key in finished]
    changed, rows = found != rows, found
    return _fill(context.window_manager.neural_fields) or changed


def _fill(listed: Any) -> bool:
    """Make Blender's list that of the rows to show; the active one stays so."""
    keys = [row.key for row in rows if row.is_of_this_file or not listed.this_file]
    before = [item.name for item in listed.rows]
    if keys == before:
        return False
    active = before[listed.active] if listed.active < len(before) else ""
    listed.rows.clear()
    for key in keys:
        listed.rows.add().name = key
    listed.active = keys.index(active) if active in keys else 0
    return True


def shown(key: str) -> Row | None:
    """The row of a key as the last look has found it."""
    return next((row for row in rows if row.key == key), None)


def active(context: bpy.types.Context) -> Row | None:
    """The row that is active in the list."""
    listed = context.window_manager.neural_fields
    if listed.active >= len(listed.rows):
        return None
    return shown(listed.rows[listed.active].name)


def found_again() -> Row | None:
    """A run of this file that is trained by a backend that an earlier Blender has started."""
    return next((row for row in rows if row.is_found_again and row.is_of_this_file), None)


def _key_property() -> Any:
    return bpy.props.StringProperty(
        name="Run",
        description="The run's folder. Empty: the one that is active in the list",
        options={"SKIP_SAVE"},
    )


class _RunOperator(_Operator):
    """Mixin of ``bpy.types.Operator``: does something with one run."""

    def act(self, context: bpy.types.Context, row: Row) -> str:
        """Do it; returns what has been done, for a message. Raises BadInput when it cannot be."""
        raise NotImplementedError

    def execute(self, context: bpy.types.Context) -> set[Any]:
        try:
            done = self.act(context, _meant(self.run, context))
        except BadInput as error:
            self.report({"ERROR"}, str(error))
            return {"CANCELLED"}
        if done:
            self.report({"INFO"}, done)
        refresh(context)
        redraw(context)
        return {"FINISHED"}


def _meant(key: str, context: bpy.types.Context) -> Row:
    row = active(context)
    return row_of(key or (row.key if row else ""))


class NEURAL_FIELDS_OT_cancel_run(_RunOperator, bpy.types.Operator):
    """End the run's training with a checkpoint; let a job wait no longer"""

    bl_idname = "neural_fields.cancel_run"
    bl_label = "Cancel"

    run: _key_property()

    def act(self, context: bpy.types.Context, row: Row) -> str:
        if row.job is not None and row.job in owner.queue:
            owner.withdraw(row.job)
            return row.job.message
        if row.job is not None:
            owner.cancel()
            return ""
        return _ask_to_end(row)


class NEURAL_FIELDS_OT_pause_run(_RunOperator, bpy.types.Operator):
    """End the run's training with a checkpoint, from which it goes on later: memory and GPU are
    free until then"""

    bl_idname = "neural_fields.pause_run"
    bl_label = "Pause"

    run: _key_property()

    def act(self, context: bpy.types.Context, row: Row) -> str:
        if row.run.state != TRAINING:
            raise BadInput(f"{row.name}: is not being trained: there is nothing to pause")
        if row.job is not None:
            owner.cancel(pause=True)
            return ""
        return _ask_to_end(row)


def _ask_to_end(row: Row) -> str:
    """End a training that no job of this Blender holds."""
    if row.run.state != TRAINING:
        raise BadInput(f"{row.name}: is not being trained: there is nothing to end")
    try:
        RunFolder(row.folder).cancel.touch()
    except OSError as error:
        raise BadInput(f"{row.folder}: cannot be written to ({error.strerror})") from None
    return rpt("{run}: ends with a checkpoint").format(run=row.name)


def _settings_of(row: Row) -> config.TrainingSettings:
    """A run's own settings. Raises BadInput where its config.json cannot be read."""
    file = RunFolder(row.folder).config
    try:
        values = json.loads(file.read_text(encoding="utf-8"))["settings"]
        settings: config.TrainingSettings = config.from_dict(config.TrainingSettings, values)
    except (OSError, KeyError, TypeError):
        raise BadInput(f"{file}: cannot be read; train a new field") from None
    except ValueError as error:
        raise BadInput(f"{file}: {error}") from None
    return settings


def _go_on(context: bpy.types.Context, row: Row, label: str, more: float = 0.0) -> Job:
    """The job that goes on with a run's training, with its own settings.

    Args:
        label: the job's.
        more: seconds of training that are added to what it has had; 0: as long as it was meant to
            be.

    Raises:
        BadInput: there is nothing to go on with.
    """
    if row.run.state == TRAINING and row.job is None:
        raise BadInput(protocol.in_use(RunFolder(row.folder)))
    if not row.run.can_resume:
        raise BadInput(f"{row.name}: there is nothing to go on with; train a new field")
    if row.run.state == FINISHED and not more:
        raise BadInput(
            f"{row.name}: has finished: there is nothing to resume; use More Time to train it on"
        )
    own = _settings_of(row)
    if more:
        own = dataclasses.replace(own, max_seconds=row.run.seconds + more, max_steps=0)
    settings = knobs.settings_of(context.scene)
    result = settings.result
    if not row.is_of_this_file:
        result = dataclasses.replace(result, mesh=False, sequence=False, volume=False)
    settings = dataclasses.replace(settings, training=own, result=result)
    plan = train.Plan(place_of(context), settings, folders.Results(row.folder), resume=True)
    return plan.job(label)


class NEURAL_FIELDS_OT_resume(JobOperator, bpy.types.Operator):
    """Go on with the run's training from its checkpoint, on the dataset that is there, with its own
    settings, and bring the results back"""

    bl_idname = "neural_fields.resume"
    bl_label = "Resume"
    bl_options = {"UNDO"}
    queues = True

    run: _key_property()

    def job(self, context: bpy.types.Context) -> Job:
        return _go_on(context, _meant(self.run, context), iface(self.bl_label))


class NEURAL_FIELDS_OT_more_time(JobOperator, bpy.types.Operator):
    """Train the run for some more time, from its checkpoint, and bring the results back"""

    bl_idname = "neural_fields.more_time"
    bl_label = "More Time"
    bl_options = {"UNDO"}
    queues = True

    run: _key_property()
    seconds: bpy.props.FloatProperty(
        name="More Time",
        description="Training time that is added to what the run has had",
        soft_min=1.0,
        default=60.0,
        subtype="TIME_ABSOLUTE",
        unit="TIME_ABSOLUTE",
    )

    def invoke(self, context: bpy.types.Context, event: bpy.types.Event) -> set[Any]:
        try:
            row = _meant(self.run, context)
        except BadInput as error:
            self.report({"ERROR"}, str(error))
            return {"CANCELLED"}
        self.run, self.seconds = row.key, max(row.run.seconds, 1.0)
        return context.window_manager.invoke_props_dialog(self)

    def draw(self, context: bpy.types.Context) -> None:
        self.layout.prop(self, "seconds")

    def job(self, context: bpy.types.Context) -> Job:
        if self.seconds < 1.0:
            raise BadInput(f"seconds is {self.seconds:g}: give at least 1")
        return _go_on(context, _meant(self.run, context), iface(self.bl_label), self.seconds)


class NEURAL_FIELDS_OT_bring_back(JobOperator, bpy.types.Operator):
    """Bring the run's results, those that are ticked under Result, into the scene"""

    bl_idname = "neural_fields.bring_back"
    bl_label = "Bring Results Back"
    bl_options = {"UNDO"}

    run: _key_property()

    def steps(self, context: bpy.types.Context) -> Steps[str]:
        row = _meant(self.run, context)
        if row.key in ready:
            ready.remove(row.key)
        settings = knobs.settings_of(context.scene)
        return train.Plan(place_of(context), settings, folders.Results(row.folder)).results_steps()


class NEURAL_FIELDS_OT_duplicate_settings(_RunOperator, bpy.types.Operator):
    """Train the scene's next field with the settings of this run: its training's, and those of
    rig, dataset and result that the scene had when it began"""

    bl_idname = "neural_fields.duplicate_settings"
    bl_label = "Use Its Settings"
    bl_options = {"UNDO"}

    run: _key_property()

    def act(self, context: bpy.types.Context, row: Row) -> str:
        knobs.put(context.scene, RunFolder(row.folder).scene, _settings_of(row))
        return rpt("{run}: its settings are those of the scene now").format(run=row.name)


def _open(path: pathlib.Path) -> None:
    """Show a file or a folder with the program that the system has for it.

    Raises:
        BadInput: it has none.
    """
    try:
        if sys.platform in ("win32", "darwin"):
            bpy.ops.wm.path_open(filepath=str(path))
            return
        # Blender's own prints a traceback where this fails, and waits where it does not return
        nothing = subprocess.DEVNULL
        opener = subprocess.Popen(
            ["xdg-open", str(path)], stdin=nothing, stdout=nothing, stderr=nothing
        )
        if opener.wait(_OPENS) == 0:
            return
    except subprocess.TimeoutExpired:
        return
    except (OSError, RuntimeError):
        pass
    raise BadInput(f"{path}: no program here opens it; look at it by hand")


class NEURAL_FIELDS_OT_open_run(_RunOperator, bpy.types.Operator):
    """Show the run's folder in the system's file browser"""

    bl_idname = "neural_fields.open_run"
    bl_label = "Open Folder"

    run: _key_property()

    def act(self, context: bpy.types.Context, row: Row) -> str:
        folder = row.folder if row.folder.is_dir() else row.folder.parent
        if not folder.is_dir():
            raise BadInput(f"{folder}: is not there yet")
        _open(folder)
        return ""


class NEURAL_FIELDS_OT_show_log(_RunOperator, bpy.types.Operator):
    """Open what the backend has printed in the system's text viewer"""

    bl_idname = "neural_fields.show_log"
    bl_label = "Show Log"

    run: _key_property()

    def act(self, context: bpy.types.Context, row: Row) -> str:
        log = RunFolder(row.folder).log
        if not log.is_file():
            raise BadInput(f"{log}: there is no log; that of earlier runs is in the last one's")
        _open(log)
        return ""


class NEURAL_FIELDS_OT_delete_run(_RunOperator, bpy.types.Operator):
    """Delete the run from the disk: its weights, events and log. The dataset and what has been made
    of the run stay. This cannot be undone"""

    bl_idname = "neural_fields.delete_run"
    bl_label = "Delete Run"

    run: _key_property()

    def invoke(self, context: bpy.types.Context, event: bpy.types.Event) -> set[Any]:
        try:
            row = _meant(self.run, context)
        except BadInput as error:
            self.report({"ERROR"}, str(error))
            return {"CANCELLED"}
        self.run = row.key
        message = tip("{folder} is deleted from the disk")
        return context.window_manager.invoke_confirm(
            self,
            event,
            title="Delete Run",
            message=message.format(folder=row.folder),
            confirm_text="Delete",
            icon="WARNING",
        )

    def act(self, context: bpy.types.Context, row: Row) -> str:
        if row.job is not None or row.run.state == TRAINING:
            raise BadInput(f"{row.name}: is in use; cancel it first")
        if protocol.is_held(row.folder.parent):  # its mesh or its sequence may be being made
            raise BadInput(
                f"{row.folder.parent}: a job is at work in it; wait for its end or cancel it first"
            )
        run = RunFolder(row.folder)
        try:
            with protocol.held(run.path):
                for file in run.files:
                    file.unlink(missing_ok=True)
            run.lock.unlink(missing_ok=True)
            left = sorted(path.name for path in run.path.iterdir())
            if not left:
                run.path.rmdir()
        except BlockingIOError:
            raise BadInput(protocol.in_use(run)) from None
        except OSError as error:
            raise BadInput(f"{row.folder}: cannot be deleted ({error.strerror})") from None
        if left:
            said = rpt("{folder}: deleted but for what is no run's: {names}")
            return said.format(folder=row.folder, names=", ".join(left[:3]))
        return rpt("{folder}: deleted").format(folder=row.folder)


_followed: pathlib.Path | None = None


def _follow() -> None:
    """Have a training that was found again looked at, as one that this Blender has started is."""
    global _followed
    row = found_again()
    now = live.following()
    if _followed is not None and (row is None or row.folder != _followed):
        if now is not None and now.run.path == _followed:
            live.stop()
        _followed = None
    elif row is not None and now is None:
        _followed = row.folder
        live.follow(RunFolder(row.folder))


def _look() -> float:
    began = time.monotonic()
    try:
        if refresh(bpy.context, _AT_ONCE):
            redraw(bpy.context)
        _follow()
    except Exception as error:  # a timer that raises is not called again
        print(f"Neural Fields: the list of runs has failed ({error})", flush=True)
    return max(LOOK, _REST * (time.monotonic() - began))


_earlier: list[str] = []
"""The names that the open file had before it was saved under others."""
_before_save = ""


@persistent
def _on_save(_: object) -> None:
    global _before_save
    _before_save = bpy.data.filepath


@persistent
def _on_saved(_: object) -> None:
    if not _same_file(_before_save, bpy.data.filepath) and _before_save not in _earlier:
        _earlier.append(_before_save)


@persistent
def _on_load(_: object) -> None:
    _earlier.clear()


_HANDLERS = (
    (bpy.app.handlers.save_pre, _on_save),
    (bpy.app.handlers.save_post, _on_saved),
    (bpy.app.handlers.load_post, _on_load),
)


def register() -> None:
    for handlers, handler in _HANDLERS:
        handlers.append(handler)
    if not bpy.app.background:
        bpy.app.timers.register(_look, first_interval=LOOK, persistent=True)


def unregister() -> None:
    for handlers, handler in _HANDLERS:
        with contextlib.suppress(ValueError):
            handlers.remove(handler)
    if bpy.app.timers.is_registered(_look):
        bpy.app.timers.unregister(_look)
    _earlier.clear()
    rows.clear()
    ready.clear()
    _cache.clear()
    _seen.clear()


CLASSES = (
    NEURAL_FIELDS_OT_cancel_run,
    NEURAL_FIELDS_OT_pause_run,
    NEURAL_FIELDS_OT_resume,
    NEURAL_FIELDS_OT_more_time,
    NEURAL_FIELDS_OT_bring_back,
    NEURAL_FIELDS_OT_duplicate_settings,
    NEURAL_FIELDS_OT_open_run,
    NEURAL_FIELDS_OT_show_log,
    NEURAL_FIELDS_OT_delete_run,
)
