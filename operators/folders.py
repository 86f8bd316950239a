"""Where a scene's dataset, run and results lie."""

from __future__ import annotations

import os
import pathlib
import tempfile

import bpy

from .. import __package__ as base_package
from ..neural_backend.protocol import BadInput

DATASET = "dataset"
RUN = "run"
MESH = "mesh.glb"
VOXELS = "volume.npz"
VOLUME = "volume-{}.vdb"
SEQUENCE = "sequence"
CAMERAS = "sequence_cameras.json"
GEOMETRY = "geometry.ply"

_OTHER_FOLDER = "choose another Output folder"


def output_folder(scene: bpy.types.Scene, override: str = "") -> pathlib.Path:
    """The folder of a scene's dataset, run and results; it exists and can be written to.

    Args:
        override: an operator's argument; empty takes the scene's setting, and where that is
            empty too ``neural_fields/<file's name>`` beside the .blend file. A file that was never
            saved has a folder among the extension's own files.

    Raises:
        BadInput: when the folder cannot be made or written to.
    """
    folder = _wanted(override or scene.neural_fields.output)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):  # the only test that holds on every system
            pass
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
