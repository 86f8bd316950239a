"""Train Neural Field: renders, trains, brings back; the child process and its events between."""

import contextlib
import dataclasses
import json
import pathlib
from collections.abc import Callable
from typing import Any

import bpy
from bpy.app.translations import pgettext_iface as iface
from bpy.app.translations import pgettext_rpt as rpt

from ..neural_backend import config, protocol
from ..neural_backend.dataset.transforms import View
from ..neural_backend.protocol import BadInput
from . import (
    backend,
    bring,
    dataset,
    folders,
    geometry,
    knobs,
    known,
    live,
    passes,
    results,
    rig,
    sequence,
    volume,
)
from .job import Job, JobOperator, Status, Steps
from .place import Place, place_of
from .scratch import Scratch

_ARGUMENTS = {
    "rig": ("rig", "kind"),
    "source": ("rig", "subject"),
    "views": ("rig", "views"),
    "resolution": ("dataset", "resolution"),
    "passes": ("dataset", "passes"),
    "field": ("training", "field"),
    "encoding": ("training", "encoding"),
    "preset": ("training", "preset"),
    "max_seconds": ("training", "max_seconds"),
    "device": ("training", "device"),
}
"""The operator's arguments that stand for a knob: its group and its name."""


def _argument(name: str) -> Any:
    group, knob = _ARGUMENTS[name]
    declared = knobs.named(config.GROUPS[group], knob)
    return knobs.property_of(declared, refused=True, options={"SKIP_SAVE"})


def arguments_of(settings: config.TrainingSettings) -> list[str]:
    """The command line's flags of all settings that are not the default."""
    flags: list[str] = []
    for knob in config.knobs(type(settings)):
        value = getattr(settings, knob.name)
        if value == knob.default:
            continue
        name = knob.name.replace("_", "-")
        if knob.type is bool:
            flags.append(f"--{name}" if value else f"--no-{name}")
        else:
            flags += [f"--{name}", str(value)]
    return flags


class _Follower:
    """Turns the run's events into a status; remembers what its end needs."""

    def __init__(self, run: protocol.RunFolder, begun: Callable[[], None]):
        self._begun = begun
        # an earlier start of the run has left its events in the file
        self._reader = protocol.EventReader(run.events, from_end=True)
        self._status = Status(iface("Training: starting"), training=True)
        self.error = ""
        self.done: protocol.Done | None = None

    def __call__(self) -> Status:
        for event in self._reader.poll():
            if isinstance(event, protocol.Started):
                self._begun()
                self._status = _status(
                    0.0,
                    iface("{field} on {device}").format(field=event.field, device=event.device),
                    "" if event.eta is None else _left(event.eta),
                )
            elif isinstance(event, protocol.Progress):
                self._status = progress_status(event)
            elif isinstance(event, protocol.Warning):
                print(f"Neural Fields: {event.message}", flush=True)
            elif isinstance(event, protocol.Error):
                self.error = f"{event.message}; {event.hint}" if event.hint else event.message
            elif isinstance(event, protocol.Done):
                self.done = event
        return self._status


def progress_status(event: protocol.Progress) -> Status:
    """``Training: 27.3 dB, 1 min 20 s left, 1.2 M samples/s``."""
    psnr = "" if event.psnr is None else f"{event.psnr:.1f} dB"
    speed = ""
    if event.samples_per_second >= 1.0:
        speed = iface("{number} samples/s").format(number=short(event.samples_per_second))
    return _status(event.spent, psnr, _left(event.eta), speed)


def _left(seconds: float) -> str:
    return iface("{time} left").format(time=protocol.in_words(seconds))


def _status(fraction: float, *parts: str) -> Status:
    said = iface("Training: {numbers}").format(numbers=", ".join(filter(None, parts)))
    return Status(said, fraction, training=True)


def short(number: float) -> str:
    """A number in three digits and a letter: ``812``, ``12.3 k``, ``1.4 M``."""
    for unit, size in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if number >= size:
            return f"{number / size:.3g} {unit}"
    return f"{number:.0f}"


def training_steps(
    program: str,
    source: pathlib.Path,
    run: protocol.RunFolder,
    settings: config.TrainingSettings,
    resume: bool = False,
    keeps: Callable[[], bool] = lambda: False,
    scene: str = "",
    begun: Callable[[], None] = lambda: None,
) -> Steps[protocol.Done | None]:
    """Train on ``source`` into a run's folder; returns how the training ended.

    A run that stands there is kept, by the backend, as ``run.1``, ``run.2``, ... A resumed one
    keeps its settings; only its length is that of ``settings``.

    Args:
        keeps: says whether the training goes on when Blender closes.
        scene: the name of the one in which it is shown; empty for all.
        begun: called when the run's folder is this run's.

    Raises:
        BadInput: when it fails: the backend's own line, or where the log is.
    """
    follower = _Follower(run, begun)
    arguments = ["train", str(source), "--run", str(run.path)]
    if resume:
        arguments += ["--preset", settings.preset, "--max-seconds", str(settings.max_seconds)]
        arguments += ["--max-steps", str(settings.max_steps), "--resume"]
    else:
        arguments += arguments_of(settings)

    kept = False

    def look() -> Status:
        nonlocal kept
        kept = keeps()  # when Blender closes it may be too late to ask
        return follower()

    def leave() -> bool:
        if not kept:
            return False
        try:
            run.keep.touch()
        except OSError:
            return False
        return True

    yield follower()
    for file in (run.cancel, run.keep):  # of a backend that was killed
        with contextlib.suppress(OSError):
            file.unlink()
    live.follow(run, scene)
    try:
        yield from backend.run_steps(program, arguments, run.log, look, leave=leave)
    except BadInput:
        if follower.error:
            raise BadInput(follower.error) from None
        raise
    finally:
        live.stop()
    return follower.done


@dataclasses.dataclass(frozen=True)
class Plan:
    """A training as it was asked for.

    Attributes:
        place: where it was asked for, and what comes back goes.
        found: the run, and what is made of it.
        resume: go on with the run, on what it was trained on.
    """

    place: Place
    settings: knobs.Settings
    found: folders.Results
    resume: bool = False

    @property
    def _run(self) -> protocol.RunFolder:
        return protocol.RunFolder(self.found.run)

    def job(self, label: str) -> Job:
        """The job that trains and brings the results back."""
        return Job(label, self._steps(), self.found.name, self.found.run)

    def _steps(self) -> Steps[str]:
        output, run = self.found.output, self._run
        with folders.alone(output, run), known.added(output, bpy.data.filepath, run.path):
            return (yield from self._steps_alone())

    def _steps_alone(self) -> Steps[str]:
        training = self.settings.training
        if not self.resume and (stranger := self._run.stranger()):
            raise folders.strange(stranger)
        field = _field_of(self._run) if self.resume else training.field
        views = yield from self._ahead_steps(field)
        program = yield from backend.check_steps(training.device)
        source = yield from self._source_steps(field)
        done = yield from training_steps(
            program,
            source,
            self._run,
            training,
            self.resume,
            self._keeps,
            self.place.scene_name,
            self._begun,
        )
        return _summary(done, (yield from self._bring_steps(program, views)))

    def _ahead_steps(self, field: str) -> Steps[tuple[View, ...]]:
        """What would fail after an hour of rendering must fail now; the sequence's cameras."""
        views: tuple[View, ...] = ()
        if self.settings.result.mesh:
            results.require_no_strange_mesh(self.found)
        if self.settings.result.sequence:
            views = yield from sequence.views_steps(self.place, self.settings)
            sequence.require_no_strange_frames(self.found, views)
        if self.settings.result.volume:
            volume.openvdb()
            volume.require_no_strange_voxels(self.found)
            if field == "sdf":
                raise BadInput(
                    "Volume: a signed distance has no density; untick it, or choose another field"
                )
        return views

    def _source_steps(self, field: str) -> Steps[pathlib.Path]:
        """Render the views or write the geometry; of what is resumed, nothing."""
        folder = self.found.output / folders.DATASET
        if self.resume:
            # the output folder may have been moved since
            return folder / folders.GEOMETRY if field == "sdf" else folder
        if field == "sdf":
            return (yield from _geometry_steps(self.place, self.settings, self.found.output))
        exported = yield from dataset.export_steps(
            self.place,
            self.settings.rig,
            passes.decided(self.settings, self.place.scene.render.engine),
            self.settings.collection,
            folder,
        )
        return exported.folder

    def _bring_steps(self, program: str, views: tuple[View, ...]) -> Steps[list[str]]:
        result = self.settings.result
        return bring.bring_steps(self.place, program, self.found, result, views)

    def results_steps(self) -> Steps[str]:
        """Bring the results of what is trained back."""
        with folders.alone(self.found.output, self._run):
            views = yield from self._ahead_steps(_field_of(self._run))
            program = yield from backend.check_steps()
            brought = yield from self._bring_steps(program, views)
        if not brought:
            return rpt("Nothing is ticked under Result")
        return rpt("Imported {names}").format(names=_listed(brought))

    def _begun(self) -> None:
        if not self.resume:
            with contextlib.suppress(OSError):
                self.settings.keep(self._run.scene)

    def _keeps(self) -> bool:
        try:
            return self.place.scene.neural_fields.keep_running
        except BadInput:  # the scene is gone
            return False


class NEURAL_FIELDS_OT_train(JobOperator, bpy.types.Operator):
    """Render the scene from the rig, train a neural field on the renders and bring it back; a
    signed distance (SDF) is trained on the geometry itself.
    Views that are rendered already are used again; an earlier run is kept as run.1, run.2, ..."""

    bl_idname = "neural_fields.train"
    bl_label = "Train Neural Field"
    bl_options = {"UNDO"}
    queues = True

    output: knobs.output_property("Folder of the dataset, the run and the results.")
    rig: _argument("rig")
    source: _argument("source")
    views: _argument("views")
    resolution: _argument("resolution")
    passes: _argument("passes")
    field: _argument("field")
    encoding: _argument("encoding")
    preset: _argument("preset")
    max_seconds: _argument("max_seconds")
    device: _argument("device")
    results: bpy.props.EnumProperty(
        name="Results",
        description="What comes back into the scene",
        items=[
            ("MESH", "Mesh", "Extract a mesh and bring it into the scene"),
            ("SEQUENCE", "Sequence", "Render the field as an image sequence"),
            ("VOLUME", "Volume", "Bring the field into the scene as an OpenVDB volume"),
        ],
        options={"ENUM_FLAG", "SKIP_SAVE"},
        default={"MESH", "SEQUENCE"},
    )
    resume: bpy.props.BoolProperty(
        name="Continue",
        description="Continue the cancelled training of the run, on the dataset that is there",
        default=False,
        options={"SKIP_SAVE"},
    )

    def job(self, context: bpy.types.Context) -> Job:
        settings = knobs.settings_of(context.scene, self._overrides())
        output = folders.output_folder(context.scene, self.output)
        found = folders.Results(output / folders.RUN)
        if self.resume:
            results.require_trained(found)
        return Plan(place_of(context), settings, found, self.resume).job(iface(self.bl_label))

    def _overrides(self) -> dict[str, dict[str, Any]]:
        given = self.properties.is_property_set
        overrides: dict[str, dict[str, Any]] = {name: {} for name in config.GROUPS}
        for argument, (group, knob) in _ARGUMENTS.items():
            if given(argument):
                overrides[group][knob] = getattr(self, argument)
        if given("preset") and not given("max_seconds"):
            overrides["training"]["max_seconds"] = 0.0  # the preset's, whatever the scene has
        if given("results"):
            overrides["result"] = {
                "mesh": "MESH" in self.results,
                "sequence": "SEQUENCE" in self.results,
                "volume": "VOLUME" in self.results,
            }
        return overrides


def _field_of(run: protocol.RunFolder) -> str:
    """The kind of a run's field. Raises BadInput where its config.json cannot be read."""
    try:
        return str(json.loads(run.config.read_text(encoding="utf-8"))["settings"]["field"])
    except (OSError, ValueError, KeyError, TypeError):
        raise BadInput(f"{run.config}: cannot be read; train a new field") from None


def _geometry_steps(
    place: Place, settings: knobs.Settings, output: pathlib.Path
) -> Steps[pathlib.Path]:
    file = output / folders.DATASET / folders.GEOMETRY
    if file.exists() and not geometry.is_ours(file):
        raise folders.strange(file)
    yield Status(iface("Writing the geometry"))

    def write(depsgraph: bpy.types.Depsgraph) -> None:
        rig.require_no_simulation(depsgraph)
        geometry.write_mesh(depsgraph, settings.rig.subject, settings.collection, file)

    with protocol.no_folder_left(file.parent):
        try:
            file.parent.mkdir(exist_ok=True)
        except OSError as error:
            raise BadInput(
                f"{file.parent}: cannot be made ({error.strerror}); choose another Output"
            ) from None
        with Scratch(place.scene, place.view_layer) as scratch:
            geometry.evaluated(scratch, write)
    return file


def _summary(done: protocol.Done | None, brought: list[str]) -> str:
    text = rpt("Trained")
    if done is not None:
        text = rpt("Trained for {seconds} s").format(seconds=f"{done.seconds:.0f}")
        if done.psnr is not None:
            text += f", {done.psnr:.1f} dB"
    if brought:
        text += "; " + rpt("imported {names}").format(names=_listed(brought))
    return text


def _listed(names: list[str]) -> str:
    *before, last = names
    return rpt("{names} and {last}").format(names=", ".join(before), last=last) if before else last


CLASSES = (NEURAL_FIELDS_OT_train,)
