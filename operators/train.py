"""Train Neural Field: renders, trains, brings back; the child process and its events between."""

import json
import pathlib
from typing import Any

import bpy

from ..neural_backend import config, protocol
from ..neural_backend.dataset import transforms
from ..neural_backend.protocol import BadInput
from . import (
    backend,
    bring,
    dataset,
    folders,
    geometry,
    knobs,
    passes,
    results,
    rig,
    sequence,
    volume,
)
from .job import JobOperator, Status, Steps
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
    return knobs.property_of(knobs.named(config.GROUPS[group], knob), options={"SKIP_SAVE"})


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

    def __init__(self, run: protocol.RunFolder):
        # an earlier start of the run has left its events in the file
        self._reader = protocol.EventReader(run.events, from_end=True)
        self._status = Status("Training: starting")
        self.error = ""
        self.done: protocol.Done | None = None

    def __call__(self) -> Status:
        for event in self._reader.poll():
            if isinstance(event, protocol.Started):
                text = f"Training: {event.field} on {event.device}"
                if event.eta is not None:
                    text += f", {protocol.in_words(event.eta)} left"
                self._status = Status(text, 0.0)
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
    """``Training: 27.3 dB, 1 min 20 s left``."""
    psnr = "" if event.psnr is None else f"{event.psnr:.1f} dB, "
    return Status(f"Training: {psnr}{protocol.in_words(event.eta)} left", event.spent)


def training_steps(
    program: str,
    source: pathlib.Path,
    output: pathlib.Path,
    settings: config.TrainingSettings,
    resume: bool = False,
) -> Steps[protocol.Done | None]:
    """Train on ``source`` into ``output``'s run folder; returns how the training ended.

    A run that stands there is kept, by the backend, as ``run.1``, ``run.2``, ... A resumed one
    keeps its settings; only its length is that of ``settings``.

    Raises:
        BadInput: when it fails: the backend's own line, or where the log is.
    """
    run = protocol.RunFolder(output / folders.RUN)
    follower = _Follower(run)
    arguments = ["train", str(source), "--run", str(run.path)]
    if resume:
        arguments += ["--preset", settings.preset, "--max-seconds", str(settings.max_seconds)]
        arguments += ["--max-steps", str(settings.max_steps), "--resume"]
    else:
        arguments += arguments_of(settings)
    yield follower()
    try:
        yield from backend.run_steps(program, arguments, run.log, follower)
    except BadInput:
        if follower.error:
            raise BadInput(follower.error) from None
        raise
    return follower.done


class NEURAL_FIELDS_OT_train(JobOperator, bpy.types.Operator):
    """Render the scene from the rig, train a neural field on the renders and bring it back; a
    signed distance (SDF) is trained on the geometry itself.
    Views that are rendered already are used again; an earlier run is kept as run.1, run.2, ..."""

    bl_idname = "neural_fields.train"
    bl_label = "Train Neural Field"
    bl_options = {"UNDO"}

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

    def steps(self, context: bpy.types.Context) -> Steps[str]:
        # from the first step on the context may be another one
        place = place_of(context)
        settings = knobs.settings_of(context.scene, self._overrides())
        output = folders.output_folder(context.scene, self.output)
        found = folders.Results(output / folders.RUN)
        views: tuple[transforms.View, ...] = ()
        # what would fail after an hour of rendering must fail now
        if settings.result.sequence:
            views = yield from sequence.views_steps(place, settings)
            sequence.require_no_strange_frames(found, views)
        if settings.result.volume:
            volume.openvdb()
            if settings.training.field == "sdf" and not self.resume:
                raise BadInput(
                    "Volume: a signed distance has no density; untick it, or choose another field"
                )
        program = yield from backend.check_steps(settings.training.device)
        if self.resume:
            results.require_trained(found)
            source = _trained_on(found.run, output)
        elif settings.training.field == "sdf":
            source = yield from _geometry_steps(place, settings, output)
        else:
            folder = output / folders.DATASET
            exported = yield from dataset.export_steps(
                place,
                settings.rig,
                passes.decided(settings, place.scene.render.engine),
                settings.collection,
                folder,
            )
            source = exported.folder
        done = yield from training_steps(program, source, output, settings.training, self.resume)
        brought = yield from bring.bring_steps(place, program, found, settings.result, views)
        return _summary(done, brought)

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


def _trained_on(run: pathlib.Path, output: pathlib.Path) -> pathlib.Path:
    """What the run of an output folder was trained on; its folder may have been moved since."""
    file = protocol.RunFolder(run).config
    try:
        field = json.loads(file.read_text(encoding="utf-8"))["settings"]["field"]
    except (OSError, ValueError, KeyError, TypeError):
        raise BadInput(f"{file}: cannot be read; train a new field") from None
    source = output / folders.DATASET
    return source / folders.GEOMETRY if field == "sdf" else source


def _geometry_steps(
    place: Place, settings: knobs.Settings, output: pathlib.Path
) -> Steps[pathlib.Path]:
    file = output / folders.DATASET / folders.GEOMETRY
    yield Status("Writing the geometry")
    try:
        file.parent.mkdir(exist_ok=True)
    except OSError as error:
        raise BadInput(
            f"{file.parent}: cannot be made ({error.strerror}); choose another Output"
        ) from None

    def write(depsgraph: bpy.types.Depsgraph) -> None:
        rig.require_no_simulation(depsgraph)
        geometry.write_mesh(depsgraph, settings.rig.subject, settings.collection, file)

    with Scratch(place.scene, place.view_layer) as scratch:
        geometry.evaluated(scratch, write)
    return file


def _summary(done: protocol.Done | None, brought: list[str]) -> str:
    text = "Trained"
    if done is not None:
        text += f" for {done.seconds:.0f} s"
        if done.psnr is not None:
            text += f", {done.psnr:.1f} dB"
    return f"{text}; imported {_listed(brought)}" if brought else text


def _listed(names: list[str]) -> str:
    return " and ".join(filter(None, [", ".join(names[:-1]), names[-1]]))


CLASSES = (NEURAL_FIELDS_OT_train,)
