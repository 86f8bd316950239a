"""Where a scene's dataset, run and results lie."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import pathlib
import re
import tempfile
from collections.abc import Iterator

import bpy

from .. import __package__ as base_package
from ..neural_backend import protocol
from ..neural_backend.protocol import BadInput, RunFolder

DATASET = "dataset"
RUN = "run"
MESH = "mesh.glb"
GEOMETRY = "geometry.ply"

_OTHER_FOLDER = "choose another Output folder"


@dataclasses.dataclass(frozen=True)
class Results:
    """A run's folder, and where lies what is made of the run: beside it.

    What is made of an earlier run, ``run.1``, is called after it: ``mesh.1.glb``, ``sequence.1``.
    """

    run: pathlib.Path

    @property
    def output(self) -> pathlib.Path:
        """The folder of all this, and of the dataset."""
        return self.run.parent

    @property
    def name(self) -> str:
        """Of what comes back into the scene."""
        return self.output.name + self._mark

    @property
    def checkpoint(self) -> pathlib.Path:
        return RunFolder(self.run).checkpoint

    @property
    def log(self) -> pathlib.Path:
        return RunFolder(self.run).log

    @property
    def mesh(self) -> pathlib.Path:
        return self._file(MESH)

    @property
    def voxels(self) -> pathlib.Path:
        return self._file("volume.npz")

    @property
    def frames(self) -> pathlib.Path:
        """The folder of the image sequence."""
        return self._file("sequence")

    @property
    def cameras(self) -> pathlib.Path:
        """Those of the image sequence."""
        return self._file("sequence_cameras.json")

    @property
    def comparison(self) -> pathlib.Path:
        return self._file("compare.png")

    @property
    def _mark(self) -> str:
        known = re.fullmatch(rf"{RUN}(\.\d+)?", self.run.name)
        return (known[1] or "") if known else f".{self.run.name}"

    def _file(self, name: str) -> pathlib.Path:
        stem, dot, suffix = name.partition(".")
        return self.output / f"{stem}{self._mark}{dot}{suffix}"


def run_of(mesh: pathlib.Path) -> pathlib.Path | None:
    """The run's folder that a mesh says by its name that it is of; it need not exist."""
    stem, _, suffix = MESH.partition(".")
    called = re.fullmatch(rf"{stem}(\.\d+)?(?:\.(.+))?\.{suffix}", mesh.name)
    if called is None:
        return None
    return mesh.parent / (called[2] or RUN + (called[1] or ""))


def results_of(scene: bpy.types.Scene, output: str = "", run: str = "") -> Results:
    """The run that an operator's arguments name, else the scene's own; it need not exist."""
    if run:
        return Results(pathlib.Path(os.path.abspath(bpy.path.abspath(run))))
    return Results(existing_output(scene, output) / RUN)


def trained_of(scene: bpy.types.Scene) -> Results | None:
    """The scene's own run, where a field has been trained; for drawing code."""
    try:
        found = results_of(scene)
    except BadInput:
        return None
    return found if found.checkpoint.is_file() else None


def output_folder(scene: bpy.types.Scene, override: str = "") -> pathlib.Path:
    """The folder of a scene's dataset, run and results; it can be made and written to.

    Args:
        override: an operator's argument; empty takes the scene's setting, and where that is
            empty too ``neural_fields/<file's name>`` beside the .blend file. A file that was never
            saved has a folder among the extension's own files.

    Raises:
        BadInput: when the folder cannot be made or written to.
    """
    folder = _wanted(override or scene.neural_fields.output)
    try:
        missing = [each for each in (folder, *folder.parents) if not each.exists()]
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):  # the only test that holds on every system
            pass
        with contextlib.suppress(OSError):
            # the job that may follow makes it, when its turn has come
            for each in missing:
                each.rmdir()
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise BadInput(f"{folder}: cannot be written to ({reason}); {_OTHER_FOLDER}") from None
    return folder


def existing_output(scene: bpy.types.Scene, override: str = "") -> pathlib.Path:
    """Like ``output_folder``, but looks only: the folder need not exist and is not made."""
    return _wanted(override or scene.neural_fields.output, create=False)


def _wanted(path: str, create: bool = True) -> pathlib.Path:
    saved = bpy.data.filepath
    if path:
        if path.startswith("//"):
            if not saved:
                raise BadInput(f"{path}: the .blend file has no folder yet; save it first")
            return pathlib.Path(os.path.abspath(bpy.path.abspath(path)))
        return pathlib.Path(os.path.abspath(os.path.expanduser(path)))
    if saved:
        file = pathlib.Path(saved)
        return pathlib.Path(os.path.abspath(file.parent)) / "neural_fields" / file.stem
    return own_folder("runs", create) / "untitled"


def own_folder(name: str, create: bool = True) -> pathlib.Path:
    """A folder among the extension's own files, which an upgrade keeps."""
    try:
        return pathlib.Path(bpy.utils.extension_path_user(base_package, path=name, create=create))
    except ValueError:  # not run from an extension repository
        path = os.path.join("neural_fields", name)
        return pathlib.Path(bpy.utils.user_resource("DATAFILES", path=path, create=create))


def strange(file: pathlib.Path) -> BadInput:
    """What to say where another program's file stands in the way of ours."""
    return BadInput(
        f"{file.parent}: holds {file.name}, which Neural Fields did not write and would replace; "
        "choose another Output"
    )


@contextlib.contextmanager
def alone(output: pathlib.Path, run: RunFolder) -> Iterator[None]:
    """Make an output folder, and keep other Blenders' trainings and exports out of it.

    Raises:
        BadInput: one is in it, or its run is being trained.
    """
    if protocol.is_held(run.path):
        raise BadInput(protocol.in_use(run))
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(protocol.held(output))
        except BlockingIOError:
            raise BadInput(
                f"{output}: another Blender is at work in it; wait for its end or choose another "
                "Output"
            ) from None
        except OSError as error:
            reason = error.strerror or error
            raise BadInput(f"{output}: cannot be written to ({reason})") from None
        yield
