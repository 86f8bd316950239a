"""The output folders that are remembered: added by several Blenders, forgotten when gone."""

from __future__ import annotations

import json
import pathlib
import subprocess
import sys

import pytest
from neural_fields.neural_backend import protocol
from neural_fields.operators import known

ROOT = pathlib.Path(__file__).resolve().parents[2]


@pytest.fixture
def output(tmp_path: pathlib.Path) -> pathlib.Path:
    folder = tmp_path / "a rün"
    folder.mkdir()
    return folder


def test_nothing_is_known_at_first(own_files) -> None:
    assert known.outputs() == {}
    assert not own_files.exists(), "looking leaves nothing behind"


def test_there_and_back(output, own_files) -> None:
    known.add(output, "/some/file.blend")
    assert known.outputs() == {output: "/some/file.blend"}
    known.add(output, "/another.blend")
    assert known.outputs() == {output: "/another.blend"}
    assert sorted(file.name for file in (own_files / "runs").iterdir()) == [".lock", "known.json"]


def test_a_folder_that_is_gone_is_forgotten_but_not_with_its_drive(output, tmp_path) -> None:
    drive = tmp_path / "drive"
    (drive / "out").mkdir(parents=True)
    known.add(output, "")
    known.add(drive / "out", "")
    output.rmdir()
    drive.rename(tmp_path / "unplugged")
    assert known.outputs() == {}
    (tmp_path / "third").mkdir()
    known.add(tmp_path / "third", "")
    output.mkdir()
    (tmp_path / "unplugged").rename(drive)
    assert set(known.outputs()) == {drive / "out", tmp_path / "third"}


def test_a_damaged_file_is_written_anew(output, own_files) -> None:
    (own_files / "runs").mkdir(parents=True)
    file = own_files / "runs" / "known.json"
    for content in ("", "[]", '{"outputs": 3}', "\0"):
        file.write_text(content)
        assert known.outputs() == {}
    known.add(output, "")
    assert json.loads(file.read_text())["outputs"] == {str(output): ""}


def test_two_at_once_lose_nothing(tmp_path, own_files) -> None:
    """Two processes add twenty folders each, at the same time."""
    code = (
        "import importlib.util, pathlib, sys\n"
        "root, own, out, name = map(pathlib.Path, sys.argv[1:])\n"
        "spec = importlib.util.spec_from_file_location('neural_fields', root / '__init__.py',"
        " submodule_search_locations=[str(root)])\n"
        "package = importlib.util.module_from_spec(spec)\n"
        "sys.modules['neural_fields'] = package\n"
        "from neural_fields.operators import folders, known\n"
        "folders.own_folder = lambda name, create=True: own\n"
        "for index in range(20):\n"
        "    known.add(out / f'{name}{index}', str(name))\n"
    )
    own = own_files / "runs"
    own.mkdir(parents=True)
    names = ("one", "two")
    for name in names:
        for index in range(20):
            (tmp_path / f"{name}{index}").mkdir()
    processes = [
        subprocess.Popen([sys.executable, "-c", code, ROOT, own, tmp_path, name]) for name in names
    ]
    assert [process.wait(120) for process in processes] == [0, 0]
    assert len(known.outputs()) == 40


def test_a_folder_that_cannot_be_written_does_no_harm(output, monkeypatch) -> None:
    def full(path, value):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(protocol, "write_json", full)
    known.add(output, "")
    assert known.outputs() == {}
