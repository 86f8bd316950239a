"""A backend that needs no torch, and a scene with something in it."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import pathlib
import shutil
import sys
from collections.abc import Callable

import bpy
import numpy as np
import pytest

SCRIPT = pathlib.Path(__file__).with_name("fake_backend.py")


class Fake:
    """The fake backend: its calls, its faults, and the writers of its files."""

    def __init__(self, folder: pathlib.Path, monkeypatch: pytest.MonkeyPatch):
        self._calls = folder / "calls.jsonl"
        self._monkeypatch = monkeypatch
        from neural_fields.operators import backend

        package = folder / "a folder with ünïcode" / "neural_backend"
        package.mkdir(parents=True)
        shutil.copy(SCRIPT, package / "__main__.py")
        monkeypatch.setattr(backend, "EXTENSION", package.parent)
        monkeypatch.setattr(backend, "_checked", {})
        monkeypatch.setenv(backend.VARIABLE, sys.executable)
        monkeypatch.setenv("FAKE_BACKEND_CALLS", str(self._calls))
        spec = importlib.util.spec_from_file_location("fake_backend", SCRIPT)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        self.write_glb, self.picture = module.write_glb, module.picture
        self.write_voxels = module.write_voxels

    @property
    def calls(self) -> list[list[str]]:
        """Command and arguments of each start so far."""
        if not self._calls.exists():
            return []
        return [json.loads(line) for line in self._calls.read_text("utf-8").splitlines()]

    @property
    def commands(self) -> list[str]:
        return [call[0] for call in self.calls]

    def fails(self, fault: str) -> None:
        self._monkeypatch.setenv("FAKE_BACKEND", fault)


@pytest.fixture(autouse=True)
def own_files(registered, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> pathlib.Path:
    """Where the extension keeps files of its own: the person's are left alone."""
    from neural_fields.operators import folders, known

    folder = tmp_path / "own files"

    def own_folder(name: str, create: bool = True) -> pathlib.Path:
        if create:
            (folder / name).mkdir(parents=True, exist_ok=True)
        return folder / name

    monkeypatch.setattr(folders, "own_folder", own_folder)
    monkeypatch.setattr(known, "_read", (0, {}))
    return folder


@pytest.fixture
def fake(registered, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> Fake:
    return Fake(tmp_path, monkeypatch)


@pytest.fixture
def start_scene(registered) -> bpy.types.Scene:
    """The scene that Blender starts with: a cube, a camera and a light."""
    from neural_fields.operators import job

    bpy.ops.wm.read_factory_settings(use_empty=False)
    job.owner.forget()
    return bpy.context.scene


@pytest.fixture
def output(tmp_path: pathlib.Path) -> pathlib.Path:
    """The output folder of a run that has been trained."""
    folder = tmp_path / "the run"
    (folder / "run").mkdir(parents=True)
    (folder / "run" / "checkpoint.safetensors").write_bytes(b"weights")
    (folder / "run" / "events.jsonl").write_text('{"type": "checkpoint", "step": 9}\n')
    return folder


KINDS = (
    *("collections", "images", "materials", "meshes", "node_groups", "objects", "scenes"),
    "volumes",
)


@pytest.fixture
def counts() -> Callable[[], dict[str, int]]:
    """How many data-blocks of each kind there are."""
    return lambda: {kind: len(getattr(bpy.data, kind)) for kind in KINDS}


def view(index: int):
    from neural_fields.neural_backend.dataset import transforms

    intrinsics = transforms.Intrinsics(64, 64, 80.0, 80.0, 32.0, 32.0)
    pose = np.eye(4)
    pose[2, 3] = 4.0 + index
    return transforms.View(f"images/{index}.png", pose, intrinsics)


@pytest.fixture
def no_renders(monkeypatch: pytest.MonkeyPatch) -> list[tuple]:
    """Exports and orbits are instant; the list has the arguments of each export."""
    from neural_fields.neural_backend.dataset import transforms
    from neural_fields.operators import dataset, job, sequence

    exports = []

    def export_steps(context, rig, settings, collection, folder):
        exports.append((rig, settings, collection, folder))
        yield job.Status("View 1 of 1", 0.0)
        folder.mkdir(exist_ok=True)
        return transforms.Dataset(folder, (view(0),), np.array([[0.0] * 3, [1.0] * 3]))

    monkeypatch.setattr(dataset, "export_steps", export_steps)

    def views_steps(place, settings):
        yield job.Status("Looking")
        first = place.scene.frame_start
        return tuple(
            dataclasses.replace(view(i), file=sequence.frame_name(first + i)) for i in range(3)
        )

    monkeypatch.setattr(sequence, "views_steps", views_steps)
    return exports
