"""Runs: training one from its settings, and opening one that was trained."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import filecmp
import os
import pathlib
import signal
import threading
import traceback
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from .. import config, devices, kernels, protocol
from ..config import TrainingSettings
from ..dataset import images, transforms
from ..dataset.transforms import Dataset
from ..fields.radiance import RadianceField
from ..fields.surface_radiance import SurfaceRadianceField
from ..protocol import BadInput, Event, RunFolder, first_line
from ..sampling.occupancy import OccupancyGrid
from . import checkpoint, distributed, memory, nerf, neus
from .distributed import Ranks
from .fitting import FITTED, fit
from .leash import Leash, preparing
from .loop import Training
from .run_config import RunConfig, read_config, write_config
from .task import Task, field_state

MODEL = (
    "field",
    "encoding",
    "activation",
    "view_direction",
    "levels",
    "features",
    "log2_table_size",
    "coarsest",
    "finest",
    "frequencies",
    "sigma",
    "hidden_layers",
    "width",
)
"""The settings that shape the field: weights fit no other values of them."""

_State = dict[str, torch.Tensor]


def _unwritable(path: pathlib.Path, error: OSError) -> BadInput:
    mend = "choose another folder"
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        mend = f"free some space or {mend}"
    return BadInput(f"{path}: cannot be written ({error.strerror or error}); {mend}")


@contextlib.contextmanager
def _locked(run: RunFolder) -> Iterator[None]:
    """Make the run's folder and keep other trainings out of it.

    Raises:
        BadInput: it cannot be made or written, another training has it, or what is in it is no
            run's.
    """
    with contextlib.ExitStack() as stack:
        try:
            if run.path.exists() and not run.path.is_dir():
                raise BadInput(f"{run.path}: run: a file, not a folder; choose another --run")
            if stranger := run.stranger():
                raise BadInput(
                    f"{stranger}: not written by Neural Fields, and a run here would replace it; "
                    "choose another --run"
                )
            stack.enter_context(protocol.held(run.path))
        except BlockingIOError:
            raise BadInput(protocol.in_use(run)) from None
        except OSError as error:
            raise _unwritable(run.path, error) from None
        with contextlib.suppress(OSError):
            for path in (run.config, run.checkpoint, run.preview, run.metrics, run.live, run.eye):
                protocol.clear_unfinished(path)
        yield


class _Journal:
    """Takes a run's events; those that come before the run's file is ready wait for it.

    Args:
        keep: whether they are written and shown at all.
    """

    def __init__(self, run: RunFolder, show: Callable[[Event], None], keep: bool):
        self._write = protocol.EventWriter(run.events)
        self._show = show
        self._keep = keep
        self._waiting: list[Event] | None = []

    def __call__(self, event: Event) -> None:
        if not self._keep:
            return
        self._show(event)
        if self._waiting is not None:
            self._waiting.append(event)
            return
        try:
            self._write(event)
        except FileNotFoundError:
            raise BadInput(
                f"{self._write.path.parent}: was deleted or moved while it was trained; train a "
                "new run"
            ) from None
        except OSError as error:
            unwritable = _unwritable(self._write.path, error)
            raise BadInput(f"{unwritable}, then continue with --resume") from None

    def ready(self) -> None:
        waiting, self._waiting = self._waiting or [], None
        for event in waiting:
            self._write(event)

    def fail(self, line: str) -> None:
        """Note an error: what is wrong and, behind the last semicolon, what to do.

        A run that was refused before it began leaves its folder as it was.
        """
        if self._waiting is not None:
            return
        message, _, hint = line.rpartition("; ")
        event = protocol.Error(message, hint) if message else protocol.Error(hint)
        with contextlib.suppress(OSError, BadInput):
            self(event)


def train(
    source: str | os.PathLike[str],
    run_path: str | os.PathLike[str],
    settings: TrainingSettings,
    resume: bool = False,
    init: str | os.PathLike[str] | None = None,
    show: Callable[[Event], None] = lambda event: None,
) -> dict[str, Any]:
    """Train a field into a run folder; returns what ``metrics.json`` then holds.

    A run that is in the folder is kept: its files move to ``<folder>.1``, ``.2``, ... Where the
    training is refused, the folder stays as it was. Processes that a launcher started together
    train one field; the first of them has the folder.

    Args:
        source: a dataset's folder or json (nerf, neus), a mesh file (sdf).
        resume: go on from the run's checkpoint.
        init: a run whose weights the training starts from.
        show: gets each event too.

    Raises:
        BadInput: in one line; once the training has begun, also in the run's events.
        SystemExit: another of several processes says what has failed.
    """
    problem = config.check(settings)
    if problem:
        raise BadInput(problem)
    if not os.fspath(run_path):
        raise BadInput("run: empty; give the folder that the run shall have")
    run = RunFolder(os.path.abspath(run_path))
    if resume:
        read_config(run)  # before a folder is made for it
    with (
        distributed.joined() as ranks,
        _locked(run) if ranks.first else contextlib.nullcontext(),
        Leash(watch=ranks.first, run=run) as leash,
    ):
        journal = _Journal(run, show, ranks.first)
        try:
            with told_if_out_of_memory():
                path = pathlib.Path(os.path.abspath(source))
                return _train(path, run, settings, resume, init, journal, ranks, leash)
        except BadInput as error:
            journal.fail(str(error))
            raise
        except Exception as error:
            journal.fail(f"{type(error).__name__}: {first_line(error)}; see {run.log}")
            with contextlib.suppress(OSError), open(run.log, "a", encoding="utf-8") as log:
                traceback.print_exc(file=log)
            raise


@contextlib.contextmanager
def told_if_out_of_memory() -> Iterator[None]:
    """Turn what each device raises when its memory is full into one line.

    Raises:
        BadInput: it is full.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if where := memory.full(error):
            raise BadInput(
                f"{where} is full; lower Samples a Step (--batch), Table Size (--log2-table-size) "
                "or, of a mesh, its resolution (--resolution), or use fewer or smaller views"
            ) from None
        raise


def _train(
    source: pathlib.Path,
    run: RunFolder,
    settings: TrainingSettings,
    resume: bool,
    init: str | os.PathLike[str] | None,
    emit: _Journal,
    ranks: Ranks,
    leash: Leash,
) -> dict[str, Any]:
    with preparing(leash):
        training, parameters = _prepare(source, run, settings, resume, init, emit, ranks)
    with _interrupts_pull(leash) as interrupts:
        done = training.run_until(leash)
    metrics = {
        "psnr": done.psnr,
        "ssim": done.ssim,
        "seconds": done.seconds,
        "steps": done.step,
        "samples_per_second": training.samples_per_second,
        "parameters": parameters,
    }
    if ranks.first:
        protocol.write_json(run.metrics, metrics)
    emit(done)
    ranks.leave()
    if interrupts:
        # all is saved, but what the person's shell has planned to do next must not go on
        raise KeyboardInterrupt
    return metrics


def _prepare(
    source: pathlib.Path,
    run: RunFolder,
    settings: TrainingSettings,
    resume: bool,
    init: str | os.PathLike[str] | None,
    emit: _Journal,
    ranks: Ranks,
) -> tuple[Training, int]:
    """The training, ready to begin, and how many numbers it learns."""
    device = ranks.device(settings.device)
    header: checkpoint.Header | None = None
    state: _State = {}
    if ranks.first and resume:
        settings, state, header = _to_resume(run, settings, device, emit)
    elif ranks.first and init is not None:
        settings, state, _ = _to_start_from(RunFolder(init), settings)
    # the first rank knows what is in the run's folder
    settings = TrainingSettings(**ranks.share(dataclasses.asdict(settings)))
    known = ranks.share(header and dataclasses.asdict(header))
    header = known and checkpoint.Header(**known)
    dataset = None if settings.field == "sdf" else transforms.read(source, images.image_size)
    fitted = fit(settings, device, dataset.pixels if dataset else 0)
    if fitted.encoding == "hash":
        memory.check_table(_hash_grid(fitted).entries * fitted.features, device)
    torch.manual_seed(settings.seed)
    task = _task(fitted, dataset or source, device, emit, ranks)
    if slow := kernels.why_not_fast(device):
        emit(protocol.Warning(slow))
    if ranks.first:
        _take_up(task, state, header, run, init)
        # the weights fit only the field as it is; what is left open otherwise may fit anew when
        # the run goes on with another device or more time
        model = {name: getattr(fitted, name) for name in MODEL}
        kept = dataclasses.replace(settings, **model)
        display = dataset.display if dataset else None
        content = RunConfig(source, kept, task.field_from_world, display)
        _prepare_folder(run, content, header, emit)
    ranks.align(task)
    parameters = sum(parameter.numel() for parameter in task.field.parameters())
    training = Training(task, fitted, run, emit, header, ranks)
    emit(
        protocol.Started(
            settings.field,
            device.type,
            kernels.choose(device).name,
            parameters,
            task.views,
            header.step if header else 0,
            None if settings.max_steps else training.left,
        )
    )
    return training, parameters


def _take_up(
    task: Task,
    state: _State,
    header: checkpoint.Header | None,
    run: RunFolder,
    init: str | os.PathLike[str] | None,
) -> None:
    """Give the task what it goes on from, or the weights that it starts from.

    Raises:
        BadInput: the checkpoint is of another field.
    """
    try:
        if header is not None:
            task.load_state(state)
        elif state:
            task.field.load_state_dict(field_state(state))
    except (KeyError, ValueError, RuntimeError) as error:
        which = run.checkpoint if header is not None else RunFolder(init or "").checkpoint
        raise BadInput(
            f"{which}: does not fit its config.json ({first_line(error)}); train again"
        ) from None


def _prepare_folder(
    run: RunFolder, content: RunConfig, header: checkpoint.Header | None, emit: _Journal
) -> None:
    """Make the folder that of the run which begins, or goes on.

    Raises:
        BadInput: it cannot be written, or was trained on something else.
    """
    try:
        if header is None:
            _set_aside(run)
        else:
            _check_source(run, content)
        write_config(run, content)
        emit.ready()
    except OSError as error:
        raise _unwritable(run.path, error) from None


def _check_source(run: RunFolder, content: RunConfig) -> None:
    """Make sure that a run goes on with what it was trained on; that may have been moved or copied.

    Raises:
        BadInput: it is something else.
    """
    before = read_config(run)
    if before.source.exists() and not _is_same(before.source, content.source):
        raise BadInput(
            f"{content.source}: {run.path} was trained on {before.source}; go on with that, "
            f"or train a new run (with --init {run.path} it starts from these weights)"
        )
    if not np.allclose(content.field_from_world, before.field_from_world):
        raise BadInput(
            f"{content.source}: its bounds are not those that {run.path} was trained on; "
            "train without --resume"
        )


def _is_same(before: pathlib.Path, now: pathlib.Path) -> bool:
    """Whether two sources, datasets or meshes, have the same content."""
    try:
        one, other = (
            transforms.json_of_folder(path) if path.is_dir() else path for path in (before, now)
        )
        return filecmp.cmp(one, other, shallow=False)
    except (OSError, BadInput):
        return False


def _task(
    settings: TrainingSettings,
    source: pathlib.Path | Dataset,
    device: torch.device,
    emit: Callable[[Event], None],
    ranks: Ranks,
) -> Task:
    if isinstance(source, Dataset):
        kind = neus.NeusTask if settings.field == "neus" else nerf.NerfTask
        return kind(settings, source, device, emit, ranks)
    from . import sdf  # here, because its libraries for meshes are slow to load

    return sdf.SdfTask(settings, source, device, emit, ranks)


def _to_resume(
    run: RunFolder,
    settings: TrainingSettings,
    device: torch.device,
    emit: Callable[[Event], None],
) -> tuple[TrainingSettings, _State, checkpoint.Header | None]:
    """What to go on with; no state where the run was ended before its first checkpoint."""
    before = read_config(run).settings
    if not run.checkpoint.exists():
        emit(
            protocol.Warning(
                f"{run.path}: the run had no checkpoint yet; training starts from the beginning"
            )
        )
        return _of_model(run, before, settings), {}, None
    settings, state, header = _to_start_from(run, settings)
    fitted = fit(settings, device)
    steps, seconds = fitted.max_steps, fitted.max_seconds
    if header.seconds >= seconds or (steps and header.step >= steps):
        raise BadInput(
            f"{run.path}: resume: the run is finished ({header.seconds:.0f} s, {header.step} "
            "steps); give it more: another Preset (--preset), or a larger Time Override "
            "(--max-seconds) or Steps (--max-steps)"
        )
    return settings, state, header


def _to_start_from(
    run: RunFolder, settings: TrainingSettings
) -> tuple[TrainingSettings, _State, checkpoint.Header]:
    before = read_config(run).settings
    state, header = checkpoint.load(run.checkpoint)
    return _of_model(run, _sized(before, state), settings), state, header


def _sized(settings: TrainingSettings, state: _State) -> TrainingSettings:
    """The settings with the hash grid's size that earlier runs keep beside the weights."""
    size = state.pop("field.encoding.size", None)
    if size is None:
        return settings
    levels, log2_table_size = size.tolist()
    return dataclasses.replace(settings, levels=levels, log2_table_size=log2_table_size)


def _of_model(run: RunFolder, before: TrainingSettings, now: TrainingSettings) -> TrainingSettings:
    """The settings ``now`` for the weights of a run: what they leave open is as it was ``before``.

    Raises:
        BadInput: they ask for a field of another shape.
    """
    left_open = {}
    for name in MODEL:
        old, new = getattr(before, name), getattr(now, name)
        if name in FITTED and not new:
            left_open[name] = old
        elif old != new:
            flag = name.replace("_", "-")
            raise BadInput(
                f"{run.config}: {name}: the run has {old}, not {new}; give --{flag} {old}, or "
                "train a new run"
            )
    return dataclasses.replace(now, **left_open)


def _set_aside(run: RunFolder) -> None:
    """Move a finished run's files to a folder beside; clear away one that never got that far.

    The log stays: whoever started this process may be writing it.

    Raises:
        OSError: a file cannot be moved.
    """
    files = run.written
    if not run.checkpoint.exists() and _is_unfinished(run):
        for file in files:
            file.unlink(missing_ok=True)
        return
    if not any(file.exists() for file in files):
        return
    number = 1
    while (kept := run.path.with_name(f"{run.path.name}.{number}")).exists():
        number += 1
    kept.mkdir()
    for file in files:
        if file.exists():
            protocol.rename(file, kept / file.name)


def _is_unfinished(run: RunFolder) -> bool:
    """Whether what lies in the folder is a run's that was ended before its first checkpoint."""
    if run.events.exists() and not protocol.EventReader(run.events).poll():
        return False
    try:
        read_config(run)
    except BadInput:
        return False
    return True


@contextlib.contextmanager
def _interrupts_pull(leash: Leash) -> Iterator[list[int]]:
    """The first Ctrl-C, or a request to terminate, ends the training with a checkpoint.

    Gives the list of the signals that came.
    """
    came: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield came
        return
    before = {each: signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)}

    def pull(number: int, frame: Any) -> None:
        came.append(number)
        leash.pull()
        # the second one ends the process at once
        signal.signal(number, before[signal.Signals(number)])

    for each in before:
        signal.signal(each, pull)
    try:
        yield came
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)


def _check_size(settings: TrainingSettings, state: _State) -> None:
    """Make sure that no field is built which is much larger than what the checkpoint holds.

    Raises:
        KeyError, ValueError: the settings and the state contradict each other.
    """
    problem = config.check(settings)
    if problem:
        raise ValueError(problem)
    if settings.encoding == "hash":
        entries = _hash_grid(settings).entries
        if state["field.encoding.table"].shape != (entries, settings.features):
            raise ValueError("the hash table has another size")


def _hash_grid(settings: TrainingSettings) -> kernels.HashGrid:
    finest = max(settings.coarsest, settings.finest)
    return kernels.hash_grid(settings.levels, settings.coarsest, finest, settings.log2_table_size)


@dataclasses.dataclass(frozen=True)
class OpenRun:
    """A trained run.

    Attributes:
        settings: of its training.
        source: what it was trained on; it may be gone.
        field_from_world: [4, 4].
        field: the trained field.
        grid: of a nerf, what of the unit box is occupied.
        kernels: that the field was opened with.
    """

    settings: TrainingSettings
    source: pathlib.Path
    field_from_world: npt.NDArray[np.float64]
    field: torch.nn.Module
    grid: OccupancyGrid | None
    kernels: kernels.Kernels
    device: torch.device


def open_run(path: str | os.PathLike[str]) -> OpenRun:
    """Open a run with its trained field, on its device, or on the best there is without that.

    Raises:
        BadInput: it is no run, has no checkpoint, or a file of it is damaged.
    """
    run = RunFolder(path)
    opened = read_config(run)
    state, _ = checkpoint.load(run.checkpoint)
    try:
        device = devices.choose(opened.settings.device)
    except BadInput:  # the run may come from another machine
        device = devices.choose("auto")
    grid: OccupancyGrid | None = None
    try:
        settings = fit(_sized(opened.settings, state), device)
        _check_size(settings, state)
        with told_if_out_of_memory():
            if settings.field == "sdf":
                from . import sdf

                field: torch.nn.Module = sdf.load_field(settings, state, device)
                used = kernels.choose(device)
            else:
                kind = SurfaceRadianceField if settings.field == "neus" else RadianceField
                field, grid, used = nerf.load_field(settings, state, device, kind)
    except (KeyError, ValueError, RuntimeError) as error:
        raise BadInput(
            f"{run.checkpoint}: does not fit {run.config} ({first_line(error)}); train again"
        ) from None
    return OpenRun(
        settings,
        opened.source,
        opened.field_from_world,
        field,
        grid,
        used,
        device,
    )
