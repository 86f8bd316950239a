"""The command line: what ``python -m neural_backend`` understands.

Each command is a dataclass, from which tyro makes flags and help; what does the work is imported
only when a command runs, so that help and complaints come at once.
"""

from __future__ import annotations

import contextlib
import dataclasses
import io
import json
import sys
import traceback
import typing
from typing import Annotated, Any, Literal

import tyro

from . import config, doctor, launcher, protocol
from .protocol import BadInput

_DESCRIPTION = "The backend of Neural Fields: trains fields, and turns them into meshes and images."
_PROGRAM = "python -m neural_backend"
_Flag = tyro.conf.FlagCreatePairsOff[bool]
_Run = Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="RUN")]


def run(arguments: list[str]) -> int:
    """Do what the arguments say; returns the exit status."""
    status = _run(arguments)
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        return _cannot_print(error)
    return status


def _run(arguments: list[str]) -> int:
    command: Command | None = None
    place = launcher.place()
    try:
        command = parse(arguments)
        if place and not isinstance(command, Train):
            command = None
            raise BadInput("torchrun: only train works in several processes; start one process")
        return command.run()
    except SystemExit as end:  # after --help, or when another process of a training speaks
        return int(end.code or protocol.EXIT_DONE)
    except BadInput as error:
        # every process finds the same wrong with its arguments
        if command or not place or place.rank == 0:
            _say(str(error))
        return protocol.EXIT_BAD_INPUT
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] in doctor.NEEDED:
            return doctor.refuse(error)
        return _fail(command, error)
    except BrokenPipeError:
        raise
    except KeyboardInterrupt:
        _say("cancelled")
        return protocol.EXIT_FAILED
    except Exception as error:
        if isinstance(error, OSError) and error.filename is None:
            try:  # where nothing can be printed, that is what is wrong
                print(flush=True)
            except OSError:
                return _cannot_print(error)
        return _fail(command, error)


def _cannot_print(error: OSError) -> int:
    _say(f"standard output: cannot be written ({error.strerror}); free some space")
    return protocol.EXIT_FAILED


def _fail(command: Command | None, error: Exception) -> int:
    line = f"{type(error).__name__}: {error}"
    if isinstance(command, Train):
        line += f"; see {protocol.RunFolder(command.run_folder).log}"
    else:
        traceback.print_exc()
    _say(line)
    return protocol.EXIT_FAILED


def _say(line: str) -> None:
    """Print one line on standard error, whatever line feeds it has, if anything can be written."""
    with contextlib.suppress(OSError):
        print(" ".join(line.split()), file=sys.stderr, flush=True)


@dataclasses.dataclass(frozen=True)
class Evaluate:
    """Measure a trained field.

    Args:
        run_folder: the run's folder
        split: which views to compare with (nerf, neus)
        views: how many of them at most, evenly spread; 0 takes all
        reference: a mesh to compare the surface with; sdf has the one that it was trained on
        json: print one JSON object
    """

    run_folder: _Run
    split: Literal["train", "val", "test"] = "test"
    views: int = 0
    reference: Annotated[str | None, tyro.conf.arg(metavar="MESH")] = None
    json: _Flag = False

    def run(self) -> int:
        from . import actions

        with actions.on_leash():
            scores = actions.evaluate(self.run_folder, self.split, self.views, self.reference)
        if self.json:
            print(json.dumps(scores))
        else:
            for name, value in scores.items():
                said = "-" if value is None else f"{value:.6g}"
                print(f"{name.replace('_', ' '):<18} {said}")
        return protocol.EXIT_DONE


@dataclasses.dataclass(frozen=True)
class Compare:
    """Show a trained field beside the images of its dataset, as a picture.

    Args:
        run_folder: the run's folder
        output: the picture to write: .png
        split: which views; unless it is given the test views, or val or train where there are none
        views: how many of them at most, evenly spread; 0 takes all
        source: the dataset, where it has been moved since
        json: print one JSON object
    """

    run_folder: _Run
    output: Annotated[str, tyro.conf.arg(metavar="FILE")]
    split: Literal["train", "val", "test"] | None = None
    views: int = 3
    source: Annotated[str | None, tyro.conf.arg(metavar="DATASET")] = None
    json: _Flag = False

    def run(self) -> int:
        from . import actions

        with actions.on_leash():
            scores = actions.compare(
                self.run_folder, self.output, self.split, self.views, self.source
            )
        if self.json:
            print(json.dumps(scores))
        else:
            _say(f"{self.output}: {scores['views']} views, {scores['psnr']:.2f} dB")
        return protocol.EXIT_DONE


@dataclasses.dataclass(frozen=True)
class Mesh:
    """Extract a trained field's surface as a mesh.

    Args:
        run_folder: the run's folder
        output: the mesh to write: .glb, .ply or .obj
        resolution: cells along the longest side of the mesh
        texture: texels along the edge of a texture and a normal map; 0 colours the vertices
        faces: how many at most; 0 takes 300000, or 50000 with a texture
        json: print one JSON object
    """

    run_folder: _Run
    output: Annotated[str, tyro.conf.arg(metavar="FILE")]
    resolution: int = config.ResultSettings.mesh_resolution
    texture: int = config.ResultSettings.mesh_texture
    faces: int = config.ResultSettings.mesh_faces
    json: _Flag = False

    def run(self) -> int:
        settings = config.ResultSettings(
            mesh_resolution=self.resolution, mesh_texture=self.texture, mesh_faces=self.faces
        )
        problem = config.check(settings)
        if problem:
            raise BadInput(problem.removeprefix("mesh_"))
        from . import actions

        with actions.on_leash():
            counts = actions.mesh(self.run_folder, self.output, settings)
        if self.json:
            print(json.dumps(counts))
        else:
            said = ", ".join(f"{value} {name.replace('_', ' ')}" for name, value in counts.items())
            _say(f"{self.output}: {said}")
        return protocol.EXIT_DONE


@dataclasses.dataclass(frozen=True)
class Render:
    """Render a trained field from given cameras.

    Args:
        run_folder: the run's folder
        cameras: a transforms.json with the cameras, in world space
        output: the folder for the pictures
        passes: write depth and normals too, as EXR in DIR/depth and DIR/normal (neus, sdf)
    """

    run_folder: _Run
    cameras: Annotated[str, tyro.conf.arg(metavar="JSON")]
    output: Annotated[str, tyro.conf.arg(metavar="DIR")]
    passes: _Flag = False

    def run(self) -> int:
        from . import actions

        with actions.on_leash():
            count = actions.render(self.run_folder, self.cameras, self.output, self.passes)
        _say(f"{self.output}: {count} pictures")
        return protocol.EXIT_DONE


@dataclasses.dataclass(frozen=True)
class Volume:
    """Write a radiance field's density and colour as voxels, of which Blender makes a volume.

    Args:
        run_folder: the run's folder
        output: the file to write: .npz
        resolution: voxels along the longest side of what is there
    """

    run_folder: _Run
    output: Annotated[str, tyro.conf.arg(metavar="FILE")]
    resolution: int = config.ResultSettings.volume_resolution

    def run(self) -> int:
        problem = config.check(config.ResultSettings(volume_resolution=self.resolution))
        if problem:
            raise BadInput(problem.removeprefix("volume_"))
        from . import actions

        with actions.on_leash():
            count = actions.volume_file(self.run_folder, self.output, self.resolution)
        _say(f"{self.output}: {count} voxels")
        return protocol.EXIT_DONE


@dataclasses.dataclass(frozen=True)
class Doctor:
    """Say whether this Python can train, and what is missing.

    Args:
        json: print one JSON object
    """

    json: _Flag = False

    def run(self) -> int:
        return doctor.run(self.json)


def _help_of(knob: config.Knob) -> str:
    """Its line of help with its unit and range; tyro adds the default."""
    bounds = ""
    if knob.low is not None and knob.high is not None:
        bounds = f"{knob.low:.12g} to {knob.high:.12g}"
    elif knob.low is not None:
        bounds = f"at least {knob.low:.12g}"
    said = ", ".join(part for part in (knob.unit, bounds) if part)
    return f"{knob.help} ({said})" if said else knob.help


def _knobs_with_help(group: type) -> type:
    """A dataclass with the fields of ``group``, whose help tyro can read."""
    hints = typing.get_type_hints(group)
    fields = [
        (
            knob.name,
            Annotated[hints[knob.name], tyro.conf.arg(help=_help_of(knob))],
            dataclasses.field(default=knob.default),
        )
        for knob in config.knobs(group)
    ]
    return dataclasses.make_dataclass(group.__name__, fields, frozen=True)


_Knobs: Any = _knobs_with_help(config.TrainingSettings)


@dataclasses.dataclass(frozen=True)
class Train:
    """Train a field.

    Args:
        source: a dataset's folder or its json (nerf, neus), or a mesh file (sdf)
        run_folder: the folder for the run; a run that is there is kept as DIR.1, DIR.2, ...
        settings: what is trained, and for how long
        resume: go on with the run in the folder, with its settings where no others are given
        init: a run whose weights the training starts from
    """

    source: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="SOURCE")]
    run_folder: Annotated[str, tyro.conf.arg(name="run", metavar="DIR")]
    settings: Annotated[_Knobs, tyro.conf.arg(name="")] = _Knobs()
    resume: _Flag = False
    init: Annotated[str | None, tyro.conf.arg(metavar="RUN")] = None

    def run(self) -> int:
        settings = config.TrainingSettings(**dataclasses.asdict(self.settings))
        problem = config.check(settings)
        if problem:
            raise BadInput(problem)
        from . import progress
        from .training import run

        with progress.TrainingBar() as bar:
            run.train(self.source, self.run_folder, settings, self.resume, self.init, bar)
        return protocol.EXIT_DONE


Command = Train | Evaluate | Compare | Mesh | Render | Volume | Doctor


def parse(arguments: list[str]) -> Command:
    """The command that the arguments name.

    Raises:
        BadInput: an argument is wrong.
        SystemExit: after help was asked for and printed.
    """
    command = _parse(arguments, _Knobs())
    if isinstance(command, Train) and command.resume:
        # what is not given stays as it was
        from .training.run_config import read_config

        with contextlib.suppress(BadInput):
            before = read_config(protocol.RunFolder(command.run_folder)).settings
            command = _parse(arguments, _Knobs(**dataclasses.asdict(before)))
            assert isinstance(command, Train)
            if command.settings.preset != before.preset:
                # another preset is another time
                before = dataclasses.replace(before, max_seconds=0.0)
                command = _parse(arguments, _Knobs(**dataclasses.asdict(before)))
    return command


def _parse(arguments: list[str], knobs: Any) -> Command:
    train = Train(tyro.MISSING, tyro.MISSING, knobs)
    commands = typing.Union[  # noqa: UP007
        Annotated[Train, tyro.conf.subcommand("train", default=train)],
        Annotated[Evaluate, tyro.conf.subcommand("evaluate")],
        Annotated[Compare, tyro.conf.subcommand("compare")],
        Annotated[Mesh, tyro.conf.subcommand("mesh")],
        Annotated[Render, tyro.conf.subcommand("render")],
        Annotated[Volume, tyro.conf.subcommand("volume")],
        Annotated[Doctor, tyro.conf.subcommand("doctor")],
    ]
    complaint = io.StringIO()
    try:
        with contextlib.redirect_stderr(complaint):
            return tyro.cli(commands, prog=_PROGRAM, description=_DESCRIPTION, args=arguments)
    except SystemExit as error:
        if error.code in (None, 0):
            raise
        raise BadInput(_one_line(complaint.getvalue())) from None


def _one_line(box: str) -> str:
    """What tyro says in a box of lines, without the help that follows below a rule."""
    said: list[str] = []
    for line in box.splitlines():
        text = line.strip(" │╭╮╰╯")
        if text.startswith("─"):
            if said:
                break
            continue
        said.append(text)
    text = " ".join(said).rstrip(".") or "these arguments are not understood"
    return f"{text}; see {_PROGRAM} --help"
