"""Where the output goes, and what is said where it cannot."""

from __future__ import annotations

import os
import pathlib

import bpy
import pytest
from neural_fields.neural_backend.protocol import BadInput
from neural_fields.operators import folders


@pytest.fixture
def saved(start_scene: bpy.types.Scene, tmp_path: pathlib.Path) -> pathlib.Path:
    path = tmp_path / "my scene.blend"
    bpy.ops.wm.save_as_mainfile(filepath=str(path))
    return path


def test_beside_the_saved_file(saved: pathlib.Path) -> None:
    folder = folders.output_folder(bpy.context.scene)
    assert folder == saved.parent / "neural_fields" / "my scene"
    assert not folder.parent.exists(), "it is made by what is written into it"


def test_the_setting_is_relative_to_the_file_and_the_argument_wins(saved: pathlib.Path) -> None:
    start_scene = bpy.context.scene
    start_scene.neural_fields.output = "//über/../out/"
    assert folders.output_folder(start_scene) == saved.parent / "out"
    other = saved.parent / "other"
    assert folders.output_folder(start_scene, str(other)) == other


def test_a_mesh_says_of_which_run_it_is(tmp_path: pathlib.Path) -> None:
    for name in ("run", "run.1", "other", "a.b"):
        found = folders.Results(tmp_path / name)
        assert folders.run_of(found.mesh) == found.run
    assert folders.run_of(tmp_path / "chair.glb") is None


def test_looking_makes_nothing(saved: pathlib.Path) -> None:
    assert not folders.existing_output(bpy.context.scene).exists()


def test_an_unsaved_file_has_a_folder_of_the_extension(
    start_scene: bpy.types.Scene, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(folders, "own_folder", lambda name, create=True: tmp_path / name)
    assert folders.output_folder(start_scene) == tmp_path / "runs" / "untitled"
    with pytest.raises(BadInput, match="save it first"):
        folders.output_folder(start_scene, "//out")


def test_relative_to_the_working_folder(
    start_scene: bpy.types.Scene, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert folders.output_folder(start_scene, "out") == tmp_path / "out"


def test_unwritable(start_scene: bpy.types.Scene, tmp_path: pathlib.Path) -> None:
    (tmp_path / "file").write_text("in the way")
    paths = [str(tmp_path / "file"), str(tmp_path / "file" / "below")]
    if os.path.isdir("/proc/self"):
        paths.append("/proc/self/nowhere")
    for path in paths:
        with pytest.raises(BadInput, match="choose another Output folder") as caught:
            folders.output_folder(start_scene, path)
        assert path in str(caught.value)
