"""The output folders that trainings have gone to: a file of the extension's own remembers them.

It says where to look and no more; what a run is, its folder tells.
"""

from __future__ import annotations

import contextlib
import json
import os
import pathlib
from collections.abc import Iterator

from ..neural_backend import protocol
from . import folders

_read: tuple[int, dict[pathlib.Path, str]] = (0, {})


def _file(create: bool = False) -> pathlib.Path:
    return folders.own_folder("runs", create) / "known.json"


def add(output: pathlib.Path, blend_file: str) -> None:
    """Remember an output folder and the .blend file that it belongs to, empty if never saved.

    Folders that are gone are forgotten, unless the drive that they were on may only be absent.
    """
    _change(output, blend_file)


@contextlib.contextmanager
def added(output: pathlib.Path, blend_file: str, run: pathlib.Path) -> Iterator[None]:
    """Remember an output folder, but not for longer where what is inside fails and there is no
    folder of the run then."""
    before = _listed(_file()).get(output)
    add(output, blend_file)
    try:
        yield
    except BaseException:
        if not run.exists():
            _change(output, before)
        raise


def _change(output: pathlib.Path, blend_file: str | None) -> None:
    """Remember what is to be known of an output folder; nothing where None.

    Another Blender may do the same at this moment: neither loses what the other adds.
    """
    with contextlib.ExitStack() as stack, contextlib.suppress(OSError):
        file = _file(create=True)
        # held for milliseconds: who holds it longer than it is waited for does not write any more
        with contextlib.suppress(BlockingIOError):
            stack.enter_context(protocol.held(file.parent))
        listed: dict[pathlib.Path, str] = _listed(file)
        if blend_file is None:
            listed.pop(output, None)
        else:
            listed[output] = blend_file
        kept = {
            str(folder): saved
            for folder, saved in listed.items()
            if folder.exists() or not folder.parent.exists()
        }
        protocol.write_json(file, {"version": 1, "outputs": kept})


def outputs() -> dict[pathlib.Path, str]:
    """The folders that are there, and the .blend file that each belongs to."""
    global _read
    try:
        file = _file()
        changed = os.stat(file).st_mtime_ns
    except OSError:
        return {}
    if changed != _read[0]:
        _read = (changed, _listed(file))
    return {folder: saved for folder, saved in _read[1].items() if folder.is_dir()}


def _listed(file: pathlib.Path) -> dict[pathlib.Path, str]:
    try:
        listed = json.loads(file.read_text(encoding="utf-8"))["outputs"]
        return {pathlib.Path(folder): str(saved) for folder, saved in listed.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}
