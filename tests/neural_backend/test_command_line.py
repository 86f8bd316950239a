"""The command line: exit statuses, one line for a fault, and whole runs on a small mesh."""

import json
import math
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time
from unittest.mock import Mock

import imageio.v3
import numpy as np
import pytest
import torch
import trimesh

from neural_backend import command_line, config, protocol
from neural_backend.dataset import exr, passes, transforms
from neural_backend.dataset.transforms import Intrinsics, View
from neural_backend.training import checkpoint, fitting, memory
from neural_backend.training import run as runs

ROOT = pathlib.Path(__file__).resolve().parents[2]
TINY = ["--field", "sdf", "--device", "cpu", "--batch", "512", "--levels", "4"]
TINY += ["--log2-table-size", "10"]


@pytest.fixture(scope="module")
def ball(tmp_path_factory):
    path = tmp_path_factory.mktemp("source") / "ball.ply"
    mesh = trimesh.creation.icosphere(2, 3.0)
    mesh.apply_translation([10.0, -5.0, 2.0])
    mesh.export(path)
    return path


@pytest.fixture(scope="module")
def trained(ball, tmp_path_factory):
    """A run of a few steps; tests must not change it."""
    run = tmp_path_factory.mktemp("trained") / "run"
    assert command_line.run(["train", str(ball), "--run", str(run), *TINY, "--max-steps=80"]) == 0
    return run


def refused(capsys, *arguments):
    """The one line on standard error of a command that ends with exit status 2."""
    capsys.readouterr()
    status = command_line.run([str(argument) for argument in arguments])
    captured = capsys.readouterr()
    assert captured.out == ""
    lines = captured.err.splitlines()
    assert len(lines) == 1, captured.err
    assert "; " in lines[0] or ": " in lines[0]
    assert status == protocol.EXIT_BAD_INPUT
    return lines[0]


def events(run):
    return protocol.EventReader(run / "events.jsonl").poll()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "train"),
        (["trian", "x"], "trian"),
        (["train", "x"], "--run"),
        (["train", "x", "--run", "y", "--speed", "3"], "--speed"),
        (["train", "x", "--run", "y", "--max-seconds", "soon"], "--max-seconds"),
        (["train", "x", "--run", "y", "--max-seconds", "nan"], "finite"),
        (["train", "x", "--run", "y", "--max-seconds", "-3"], "at least 0"),
        (["train", "x", "--run", "y", "--encoding", "hsah"], "hsah"),
        (["mesh", "x", "--output", "a.glb", "--resolution", "7"], "resolution"),
        (["mesh", "x", "--output", "a.glb", "--texture", "5000"], "texture is 5000"),
        (["evaluate", "x", "--views", "-1"], "views"),
        (["volume", "x", "--output", "a.npz", "--resolution", "7"], "resolution is 7"),
        (["volume", "x", "--output", "a.vdb"], "end it in .npz"),
    ],
)
def test_wrong_arguments_are_told_in_one_line(capsys, arguments, said):
    assert said in refused(capsys, *arguments)


def test_help_names_units_and_ranges(capsys):
    assert command_line.run(["train", "--help"]) == 0
    text = " ".join(capsys.readouterr().out.replace("│", " ").split())
    assert "--max-seconds FLOAT Training time" in text
    assert "(seconds, 0 to 604800) (default: 0.0)" in text


HOSTILE = {
    "absent": (None, "no such file"),
    "no json": ("{", "not valid json"),
    "deep": ("[" * 100_000, "not valid json"),
    "a list": ("[]", "frames"),
    "a text": ('{"frames": "many"}', "frames"),
    "no frames": ('{"frames": []}', "frames"),
    "a number": ('{"frames": [3]}', "frames[0]"),
    "no name": ('{"frames": [{"file_path": 7}]}', "frames[0].file_path"),
    "not a number": (
        '{"w": 4, "h": 4, "fl_x": 4, "frames": [{"file_path": "a.png", '
        '"transform_matrix": [[NaN, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]}]}',
        "NaN",
    ),
    "images absent": (
        '{"w": 4, "h": 4, "fl_x": 4, "frames": [{"file_path": "b.png", '
        '"transform_matrix": [[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]}]}',
        "none of its 1 images exists",
    ),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_dataset_is_told_in_one_line(capsys, tmp_path, name):
    content, said = HOSTILE[name]
    source = tmp_path / "transforms.json"
    imageio.v3.imwrite(tmp_path / "a.png", np.zeros((4, 4, 4), np.uint8))
    if content is not None:
        source.write_text(content)
    line = refused(capsys, "train", source, "--run", tmp_path / "run", "--device", "cpu")
    assert said in line
    assert str(source) in line
    assert not (tmp_path / "run").exists()


def test_pixels_that_are_not_numbers_are_refused(capsys, tmp_path):
    pixels = np.ones((8, 8, 4), np.float32)
    pixels[3, 3, 0] = math.nan
    imageio.v3.imwrite(tmp_path / "a.tiff", pixels)
    view = View("a.tiff", np.eye(4), Intrinsics(8, 8, 8.0, 8.0, 4.0, 4.0))
    box = np.array([[-1.0, -1, -1], [1, 1, 1]])
    transforms.write(transforms.Dataset(tmp_path, (view,), box))
    line = refused(capsys, "train", tmp_path, "--run", tmp_path / "run", "--device", "cpu")
    assert "a.tiff" in line


def test_a_mesh_without_faces_is_refused(capsys, tmp_path):
    (tmp_path / "points.obj").write_text("v 0 0 0\nv 1 0 0\n")
    line = refused(capsys, "train", tmp_path / "points.obj", "--run", tmp_path / "run", *TINY)
    assert "points.obj: faces" in line


def test_a_device_that_is_absent_is_refused(capsys, tmp_path, ball, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    line = refused(capsys, "train", ball, "--run", tmp_path / "run", "--field=sdf", "--device=cuda")
    assert "device: cuda" in line


def test_a_run_folder_that_cannot_be_made_is_refused(capsys, tmp_path, ball):
    (tmp_path / "file").write_text("")
    line = refused(capsys, "train", ball, "--run", tmp_path / "file" / "run", *TINY)
    assert "cannot be written" in line


def test_a_file_in_place_of_a_run_folder_is_named(capsys, tmp_path, ball):
    (tmp_path / "file").write_text("")
    line = refused(capsys, "train", ball, "--run", tmp_path / "file", *TINY)
    assert line.endswith("file: run: a file, not a folder; choose another --run")


def test_a_full_disk_is_told_with_the_mend(capsys, tmp_path, ball, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint.safetensors.torch, "save_file", full)
    run = tmp_path / "run"
    capsys.readouterr()
    assert command_line.run(["train", str(ball), "--run", str(run), *TINY, "--max-steps=2"]) == 2
    line = capsys.readouterr().err.splitlines()[-1]
    assert "No space left" in line
    assert "--resume" in line
    assert isinstance(events(run)[-1], protocol.Error)
    assert not (run / "checkpoint.safetensors").exists()


def test_full_memory_names_the_settings_to_lower(capsys, tmp_path, ball, monkeypatch):
    def full(*_):
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to ...")

    monkeypatch.setattr("neural_backend.training.sdf.SdfTask.step", full)
    run = tmp_path / "run"
    assert command_line.run(["train", str(ball), "--run", str(run), *TINY]) == 2
    assert "--batch" in capsys.readouterr().err.splitlines()[-1]


def test_what_nobody_foresaw_is_one_line_with_its_traceback_in_the_log(
    capsys, tmp_path, ball, monkeypatch
):
    def broken(*_):
        raise ZeroDivisionError("odd")

    monkeypatch.setattr("neural_backend.training.sdf.SdfTask.step", broken)
    run = tmp_path / "run"
    assert command_line.run(["train", str(ball), "--run", str(run), *TINY]) == 1
    line = capsys.readouterr().err.splitlines()[-1]
    assert "ZeroDivisionError: odd" in line
    assert "Traceback" in (run / "log.txt").read_text()
    assert isinstance(events(run)[-1], protocol.Error)


def test_a_trained_run_holds_its_files(trained):
    assert {path.name for path in trained.iterdir()} >= {
        "checkpoint.safetensors",
        "config.json",
        "events.jsonl",
        "metrics.json",
        "preview.png",
    }
    kinds = [event.type for event in events(trained)]
    assert kinds[0] == "started"
    assert kinds[-1] == "done"
    assert json.loads((trained / "metrics.json").read_text())["steps"] == 80
    assert imageio.v3.imread(trained / "preview.png").shape[2] == 3


def test_a_finished_run_is_resumed_only_with_a_larger_budget(capsys, tmp_path, ball):
    run = tmp_path / "run"
    train = ["train", str(ball), "--run", str(run)]
    assert command_line.run([*train, *TINY, "--max-steps=2"]) == 0
    assert "--max-steps" in refused(capsys, *train, "--resume")
    # the settings that are not given stay as they were
    assert command_line.run([*train, "--resume", "--max-steps=4"]) == 0
    assert json.loads((run / "config.json").read_text())["settings"]["levels"] == 4
    assert checkpoint.load(run / "checkpoint.safetensors")[1].step == 4
    assert [event.step for event in events(run) if isinstance(event, protocol.Started)] == [0, 2]
    line = refused(capsys, *train, "--resume", "--max-steps=9", "--levels=5")
    assert "levels" in line


def test_what_shapes_the_field_is_kept_and_the_rest_fits_anew(tmp_path, ball, monkeypatch):
    run = tmp_path / "run"
    train = ["train", str(ball), "--run", str(run), "--field=sdf", "--device=cpu", "--max-steps"]

    def kept():
        return json.loads((run / "config.json").read_text())["settings"]

    row = fitting._HASH["cpu", "sdf"][0][1]
    rows = {("cpu", "sdf"): ((math.inf, row._replace(levels=3, log2_table_size=9)),)}
    monkeypatch.setattr(fitting, "_HASH", rows)
    assert command_line.run([*train, "1", "--preset=best"]) == 0
    assert (kept()["levels"], kept()["log2_table_size"], kept()["finest"]) == (3, 9, 1024)
    assert (kept()["preset"], kept()["max_seconds"], kept()["batch"]) == ("best", 0.0, 0)
    # as if now on another device
    rows = {("cpu", "sdf"): ((math.inf, row._replace(batch=100)),)}
    monkeypatch.setattr(fitting, "_HASH", rows)
    assert command_line.run([*train, "2", "--resume"]) == 0
    assert (kept()["levels"], kept()["batch"]) == (3, 0)
    shown = [e for e in events(run) if isinstance(e, protocol.Progress)]
    assert shown[-1].max_seconds == config.PRESET_SECONDS["cpu"]["best"]


def test_a_resumed_run_s_time_is_what_was_said_last(tmp_path, trained):
    run = tmp_path / "run"
    shutil.copytree(trained, run)
    content = json.loads((run / "config.json").read_text())
    content["settings"] |= {"preset": "preview", "max_seconds": 50.0}
    (run / "config.json").write_text(json.dumps(content))

    def asked(*arguments):
        command = command_line.parse(["train", "x", "--run", str(run), "--resume", *arguments])
        return command.settings.preset, command.settings.max_seconds

    assert asked() == ("preview", 50.0)
    assert asked("--max-seconds=70") == ("preview", 70.0)
    assert asked("--preset=best") == ("best", 0.0)
    assert asked("--preset=best", "--max-seconds=70") == ("best", 70.0)


def test_a_run_that_keeps_its_size_beside_its_weights_is_opened(tmp_path, trained):
    shutil.copytree(trained, tmp_path / "run")
    run = protocol.RunFolder(tmp_path / "run")
    content = json.loads(run.config.read_text())
    for name in ("levels", "log2_table_size", "hidden_layers", "width"):
        content["settings"][name] = 0
    del content["settings"]["preset"]
    run.config.write_text(json.dumps(content))
    tensors, header = checkpoint.load(run.checkpoint)
    tensors["field.encoding.size"] = torch.tensor([4, 10])
    checkpoint.save(run.checkpoint, tensors, header)
    assert runs.open_run(run.path).settings.levels == 4


def test_a_new_run_keeps_the_old_one_beside(tmp_path, ball):
    run = tmp_path / "run"
    for _ in range(3):
        arguments = ["train", str(ball), "--run", str(run), *TINY, "--max-steps=1"]
        assert command_line.run(arguments) == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run", "run.1", "run.2"]
    assert (tmp_path / "run.2" / "checkpoint.safetensors").exists()
    assert sum(event.type == "started" for event in events(run)) == 1


MINE = {
    "config.json": b'{"settings": 1}',
    "events.jsonl": b"mine\n",
    "preview.png": b"picture",
    "cancel": b"not this",
}


@pytest.mark.parametrize("name", MINE)
def test_files_that_no_run_has_written_are_not_touched(capsys, tmp_path, ball, name):
    (tmp_path / name).write_bytes(MINE[name])
    line = refused(capsys, "train", ball, "--run", tmp_path, *TINY)
    assert line.startswith(f"{tmp_path / name}: not written by Neural Fields, and a run here")
    assert line.endswith("; choose another --run")
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {name: MINE[name]}


def test_a_refused_training_leaves_everything_as_it_was(capsys, tmp_path, trained, ball):
    """No folder, no lock; a run that is there has not failed."""
    for place in (tmp_path / "new" / "run", tmp_path):
        refused(capsys, "train", tmp_path / "absent.ply", "--run", place, *TINY)
    assert list(tmp_path.iterdir()) == []
    run = tmp_path / "run"
    shutil.copytree(trained, run)
    before = {path.name: path.read_bytes() for path in run.iterdir()}
    for more in ([], ["--resume", "--max-steps=99"]):
        refused(capsys, "train", tmp_path / "absent.ply", "--run", run, *TINY, *more)
        assert {path.name: path.read_bytes() for path in run.iterdir()} == before
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_a_run_goes_on_with_what_it_was_trained_on(capsys, tmp_path, ball):
    source, other, run = tmp_path / "a.ply", tmp_path / "b.ply", tmp_path / "run"
    source.write_bytes(ball.read_bytes())
    trimesh.load_mesh(ball).subdivide().export(other)
    train = ["train", "--run", str(run), *TINY]
    assert command_line.run([*train, str(source), "--max-steps=1"]) == 0
    line = refused(capsys, *train, other, "--resume", "--max-steps=2")
    assert f"was trained on {source}" in line
    assert protocol.RunFolder(run).checkpoint.exists()
    # what has been copied or moved is still the same
    shutil.copy(source, tmp_path / "c.ply")
    assert command_line.run([*train, str(tmp_path / "c.ply"), "--resume", "--max-steps=2"]) == 0
    assert json.loads((run / "config.json").read_text())["source"] == str(tmp_path / "c.ply")
    (tmp_path / "c.ply").rename(tmp_path / "d.ply")
    assert command_line.run([*train, str(tmp_path / "d.ply"), "--resume", "--max-steps=3"]) == 0


def test_a_project_that_was_copied_goes_on(tmp_path):
    """The dataset that it was trained on is still where it was; a folder is named by its json."""
    views = [View(f"{name}.png", np.eye(4), Intrinsics(8, 8, 8.0, 8.0, 4.0, 4.0)) for name in "ab"]
    dataset = tmp_path / "first" / "dataset"
    dataset.mkdir(parents=True)
    for view in views:
        imageio.v3.imwrite(dataset / view.file, np.full((8, 8, 4), 200, np.uint8))
    box = np.array([[-1.0, -1, -9], [1, 1, -7]])
    transforms.write(transforms.Dataset(dataset, tuple(views), box))
    tiny = ["--device=cpu", "--levels=2", "--log2-table-size=8", "--finest=16", "--batch=64"]
    run = str(tmp_path / "first" / "run")
    assert command_line.run(["train", str(dataset), "--run", run, *tiny, "--max-steps=1"]) == 0
    shutil.copytree(tmp_path / "first", tmp_path / "second")
    source, run = tmp_path / "second" / "dataset", str(tmp_path / "second" / "run")
    for step, path in enumerate((source / "transforms.json", source), 2):
        train = ["train", str(path), "--run", run, "--resume", f"--max-steps={step}"]
        assert command_line.run(train) == 0


def test_a_folder_is_made_for_no_run_that_cannot_be(capsys, tmp_path, ball):
    refused(capsys, "train", ball, "--run", tmp_path / "none", *TINY, "--resume")
    assert not (tmp_path / "none").exists()
    assert "run: empty" in refused(capsys, "train", ball, "--run", "", *TINY)


def test_a_table_larger_than_the_memory_is_refused(capsys, tmp_path, ball, monkeypatch):
    monkeypatch.setattr(memory, "_size", lambda device: 2**30)
    size = ["--levels", "16", "--features", "8", "--log2-table-size", "24"]
    line = refused(capsys, "train", ball, "--run", tmp_path / "run", "--field", "sdf", *size)
    assert "log2_table_size" in line
    assert "there are 1;" in line


def test_a_mesh_in_place_of_a_dataset_names_the_field(capsys, tmp_path, ball):
    assert "--field sdf" in refused(capsys, "train", ball, "--run", tmp_path / "run")
    assert "a folder" in refused(capsys, "train", tmp_path, "--run", tmp_path / "run", *TINY)


def test_a_reader_that_has_seen_enough_is_no_fault(trained):
    evaluate = [sys.executable, "-m", "neural_backend", "doctor"]
    process = subprocess.Popen(
        evaluate, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    process.stdout.close()
    assert process.stderr.read() == ""
    assert process.wait(timeout=120) == 1
    process.stderr.close()


@pytest.mark.skipif(not pathlib.Path("/dev/full").exists(), reason="the system has no /dev/full")
@pytest.mark.parametrize("arguments", [["--help"], ["doctor", "--json"]])
@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_an_output_that_cannot_be_written_is_told_in_one_line(arguments, unbuffered):
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "neural_backend", *arguments],
            cwd=ROOT,
            env=os.environ | {"PYTHONUNBUFFERED": unbuffered},
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
        )
    (line,) = done.stderr.splitlines()
    assert line.startswith("standard output: cannot be written (No space left on device)")
    assert done.returncode == protocol.EXIT_FAILED


@pytest.mark.parametrize(
    "arguments",
    [["mesh", "--output", "a.ply"], ["volume", "--output", "a.npz"], ["render", "--output", "b"]],
    ids=["mesh", "volume", "render"],
)
def test_what_is_refused_leaves_no_folder(capsys, tmp_path, trained, arguments, monkeypatch):
    command, flag, name = arguments
    kept = tmp_path / "kept"
    kept.mkdir()
    output = kept / "new" / "newer" / name
    run = tmp_path
    if command == "render":
        view = View("a.png", np.eye(4), Intrinsics(8, 8, 8.0, 8.0, 4.0, 4.0))
        transforms.write_cameras(tmp_path / "cameras.json", (view,))
        arguments = [*arguments, "--cameras", tmp_path / "cameras.json"]
        run, full = trained, OSError("No space left on device")
        monkeypatch.setattr("neural_backend.actions._picture", Mock(side_effect=full))
    refused(capsys, command, run, flag, output, *arguments[3:])
    assert kept.is_dir()
    assert not list(kept.iterdir())


def test_a_run_that_ended_before_its_first_checkpoint_starts_again(tmp_path, ball, trained):
    run = tmp_path / "run"
    run.mkdir()
    (run / "config.json").write_bytes((trained / "config.json").read_bytes())
    arguments = ["train", str(ball), "--run", str(run), "--resume", "--max-steps=1"]
    assert command_line.run(arguments) == 0
    assert "from the beginning" in events(run)[0].message


def test_weights_can_come_from_another_run(capsys, tmp_path, ball, trained):
    first = {}
    for name, extra in (("cold", []), ("warm", ["--init", str(trained)])):
        run = tmp_path / name
        arguments = ["train", str(ball), "--run", str(run), *TINY, "--max-steps=1", *extra]
        assert command_line.run(arguments) == 0
        first[name] = next(e.loss for e in events(run) if isinstance(e, protocol.Progress))
    assert first["warm"] < 0.7 * first["cold"]
    run = tmp_path / "other"
    train = ["train", str(ball), "--run", str(run), "--field=sdf", "--init", str(trained)]
    assert "give --levels 4" in refused(capsys, *train, "--levels=5")
    # what is not given is as it is there
    assert command_line.run([*train, "--max-steps=1"]) == 0
    assert json.loads((run / "config.json").read_text())["settings"]["levels"] == 4


def test_two_trainings_do_not_share_a_folder(capsys, tmp_path, ball):
    fcntl = pytest.importorskip("fcntl")
    run = tmp_path / "run"
    run.mkdir()
    with open(run / ".lock", "a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        line = refused(capsys, "train", ball, "--run", run, *TINY)
    assert "another training" in line


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"version": 99}, "version"),
        ({"source": 3}, "source"),
        ({"settings": []}, "settings"),
        ({"settings": {"field": "sdf", "levels": "many"}}, "levels"),
        ({"settings": {"field": "sdf", "width": 4096}}, "does not fit"),
        ({"settings": {"field": "nerf"}}, "does not fit"),
        ({"settings": {"field": "sdf", "coarsest": 2, "finest": 4}}, "does not fit"),
        ({"field_from_world": [[math.nan] * 4] * 4}, "field_from_world"),
        ({"field_from_world": [[0.0] * 4] * 4}, "field_from_world"),
        ({"field_from_world": "here"}, "field_from_world"),
    ],
)
def test_a_hostile_config_is_refused(capsys, tmp_path, trained, change, said):
    content = json.loads((trained / "config.json").read_text()) | change
    (tmp_path / "config.json").write_text(json.dumps(content))
    (tmp_path / "checkpoint.safetensors").symlink_to(trained / "checkpoint.safetensors")
    assert said in refused(capsys, "mesh", tmp_path, "--output", tmp_path / "a.glb")
    assert not (tmp_path / "a.glb").exists()


def test_other_folders_and_checkpoints_are_refused(capsys, tmp_path, trained):
    assert "not a run" in refused(capsys, "evaluate", tmp_path)
    (tmp_path / "config.json").write_text("[" * 100_000)
    assert "cannot be read" in refused(capsys, "evaluate", tmp_path)
    (tmp_path / "config.json").write_bytes((trained / "config.json").read_bytes())
    assert "no checkpoint" in refused(capsys, "evaluate", tmp_path)
    (tmp_path / "checkpoint.safetensors").write_bytes(b"\xff" * 100)
    assert "damaged" in refused(capsys, "evaluate", tmp_path)
    tensors, header = checkpoint.load(trained / "checkpoint.safetensors")
    values = {**header.__dict__, "version": 99}
    checkpoint.safetensors.torch.save_file(
        tensors, tmp_path / "checkpoint.safetensors", {"neural_fields": json.dumps(values)}
    )
    assert "version 99" in refused(capsys, "evaluate", tmp_path)
    assert "version 99" in refused(
        capsys, "train", "x", "--run", tmp_path, "--resume", "--max-steps=99"
    )


@pytest.mark.parametrize("change", [{"scale": 100.0}, {"scale": 0.01}, {"move": 40.0}])
def test_a_reference_of_another_place_or_scale_is_refused(capsys, tmp_path, trained, ball, change):
    mesh = trimesh.load(ball)
    middle = mesh.bounds.mean(axis=0)
    mesh.vertices = (mesh.vertices - middle) * change.get("scale", 1.0) + middle
    mesh.vertices += change.get("move", 0.0)
    mesh.export(tmp_path / "other.ply")
    line = refused(capsys, "evaluate", trained, "--reference", tmp_path / "other.ply")
    assert "other.ply: reaches from (" in line
    # the ball of radius 3 fills .9 of the box
    assert "is from (6.67, -8.33, -1.33) to (13.3, -1.67, 5.33); give a reference of" in line


def test_evaluate_prints_one_json_object(capsys, trained, monkeypatch):
    monkeypatch.setattr("neural_backend.actions._COMPARED_RESOLUTION", 32)
    capsys.readouterr()
    assert command_line.run(["evaluate", str(trained), "--json"]) == 0
    scores = json.loads(capsys.readouterr().out)
    measures = {"iou", "chamfer", "normal_error", "boundary_edges", "components"}
    assert set(scores) == measures
    assert scores["boundary_edges"] == 0
    assert scores["iou"] > 0.5


def test_evaluate_shows_a_score_that_there_is_not(capsys, trained, monkeypatch):
    scores = {"psnr": 30.0, "ssim": None}
    monkeypatch.setattr("neural_backend.actions.evaluate", lambda *arguments: scores)
    assert command_line.run(["evaluate", str(trained)]) == 0
    assert [line.split() for line in capsys.readouterr().out.splitlines()] == [
        ["psnr", "30"],
        ["ssim", "-"],
    ]


def test_a_run_of_a_device_that_is_gone_is_opened_on_another(tmp_path, trained):
    shutil.copytree(trained, tmp_path / "run")
    path = tmp_path / "run" / "config.json"
    content = json.loads(path.read_text())
    absent = "cuda" if not torch.cuda.is_available() else "mps"
    content["settings"]["device"] = absent
    path.write_text(json.dumps(content))
    assert runs.open_run(tmp_path / "run").device.type != absent
    content["settings"]["device"] = "cpu"
    path.write_text(json.dumps(content))
    assert runs.open_run(tmp_path / "run").device.type == "cpu"


def test_mesh_stands_where_the_source_stands(tmp_path, trained, ball):
    file = tmp_path / "new" / "ball.ply"
    assert command_line.run(["mesh", str(trained), "--output", str(file), "--resolution=32"]) == 0
    bounds, wanted = trimesh.load_mesh(file).bounds, trimesh.load_mesh(ball).bounds
    assert bounds.mean(axis=0) == pytest.approx(wanted.mean(axis=0), abs=1.0)


def test_mesh_has_as_many_faces_and_texels_as_asked_for(capsys, tmp_path, trained):
    file = tmp_path / "ball.glb"
    flags = ["--resolution=32", "--texture=64", "--faces=600", "--json"]
    assert command_line.run(["mesh", str(trained), "--output", str(file), *flags]) == 0
    counts = json.loads(capsys.readouterr().out)
    assert 400 < counts["faces"] <= 600
    assert (counts["boundary_edges"], counts["components"]) == (0, 1)
    read = trimesh.load_mesh(file, process=False)
    assert len(read.faces) == counts["faces"]
    assert read.visual.material.normalTexture.size == (64, 64)


@pytest.mark.parametrize(("flag", "said"), [("--faces", "at least 4"), ("--texture", "least 16")])
def test_a_mesh_of_hardly_anything_is_refused(capsys, tmp_path, trained, flag, said):
    arguments = ["--output", tmp_path / "a.glb", "--resolution", "16", flag, "3"]
    assert said in refused(capsys, "mesh", trained, *arguments)


def test_render_writes_a_picture_a_camera(tmp_path, trained):
    pose = np.eye(4)
    pose[:3, 3] = (10.0, -5.0, 14.0)  # above the ball, looking down
    intrinsics = Intrinsics(24, 16, 20.0, 20.0, 12.0, 8.0)
    views = tuple(View(f"{index:04d}.png", pose, intrinsics) for index in (7, 8))
    transforms.write_cameras(tmp_path / "cameras.json", views)
    arguments = ["--cameras", str(tmp_path / "cameras.json"), "--output", str(tmp_path / "out")]
    assert command_line.run(["render", str(trained), *arguments]) == 0
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["0007.png", "0008.png"]
    picture = imageio.v3.imread(tmp_path / "out" / "0007.png")
    assert picture.shape == (16, 24, 4)
    assert picture[8, 12, 3] == 255
    assert picture[0, 0, 3] == 0


def test_render_writes_passes_as_a_dataset_has_them(tmp_path, trained):
    """A dataset of the pictures is read as what stands there: a ball of radius 3, 12 below."""
    pose = np.eye(4)
    pose[:3, 3] = (10.0, -5.0, 14.0)
    intrinsics = Intrinsics(9, 9, 9.0, 9.0, 4.5, 4.5)
    transforms.write_cameras(tmp_path / "cameras.json", (View("0007.png", pose, intrinsics),))
    out = tmp_path / "out"
    arguments = ["--cameras", str(tmp_path / "cameras.json"), "--output", str(out), "--passes"]
    assert command_line.run(["render", str(trained), *arguments]) == 0
    view = View("0007.png", pose, intrinsics, "train", "depth/0007.exr", "normal/0007.exr")
    dataset = transforms.Dataset(out, (view,), np.array([[0.0] * 3, [1.0] * 3]))
    depth, normal = passes.read_depth(dataset, view), passes.read_normal(dataset, view)
    # 40 steps of training make the ball roughly
    seen = depth > 0.0
    assert depth[4, 4] == pytest.approx(9.0, abs=0.5)
    assert normal[seen].mean(0) @ [0.0, 0.0, 1.0] > 0.3
    picture = imageio.v3.imread(out / "0007.png")
    np.testing.assert_array_equal(picture[..., 3] > 0, seen)
    assert seen[2:7, 4].all()
    assert not seen[0].any()


def test_a_dataset_s_own_passes_are_not_rendered_over(capsys, tmp_path, trained):
    """Its folder is no place for a sequence from its cameras."""
    intrinsics = Intrinsics(9, 9, 9.0, 9.0, 4.5, 4.5)
    view = View("images/1.png", np.eye(4), intrinsics, depth="depth/1.exr", normal="normal/1.exr")
    (tmp_path / "depth").mkdir()
    exr.write_depth(tmp_path / "depth" / "1.exr", np.ones((9, 9)))
    before = (tmp_path / "depth" / "1.exr").read_bytes()
    transforms.write(transforms.Dataset(tmp_path, (view,), np.array([[0.0] * 3, [1.0] * 3])))
    arguments = ["--cameras", tmp_path / "transforms.json", "--output", tmp_path, "--passes"]
    line = refused(capsys, "render", trained, *arguments)
    assert "depth: holds 1.exr, which Neural Fields did not write" in line
    assert (tmp_path / "depth" / "1.exr").read_bytes() == before
    assert not (tmp_path / "1.png").exists()


def test_files_of_others_beside_a_mesh_are_not_replaced(capsys, tmp_path, trained):
    (tmp_path / "ball.png").write_bytes(b"a picture of one's own")
    arguments = ["--output", tmp_path / "ball.obj", "--resolution", "16", "--texture", "64"]
    line = refused(capsys, "mesh", trained, *arguments)
    assert "holds ball.png, which Neural Fields did not write" in line
    assert [file.name for file in tmp_path.iterdir()] == ["ball.png"]


def start(*arguments, **options):
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, "-m", "neural_backend", *map(str, arguments)],
        cwd=ROOT,
        env=environment,
        stderr=subprocess.PIPE,
        text=True,
        **options,
    )


def wait_for(run, kind, process):
    until = time.monotonic() + 60.0
    while not any(event.type == kind for event in events(run)):
        assert time.monotonic() < until
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.05)


def test_the_leash_killing_and_resuming(tmp_path, ball):
    run = tmp_path / "run"
    train = ["train", ball, "--run", run]
    # /dev/null is no leash: killed without warning, the run leaves what it had
    process = start(*train, *TINY, "--max-seconds=600", stdin=subprocess.DEVNULL)
    wait_for(run, "progress", process)
    process.kill()
    process.communicate()
    # the end of standard input ends a run with a checkpoint
    process = start(*train, "--resume", stdin=subprocess.PIPE)
    seen = len(events(run))
    wait_for_more(run, seen, process)
    process.stdin.close()
    assert process.wait(60) == 0
    assert events(run)[-1].reason == "cancelled"
    step = checkpoint.load(run / "checkpoint.safetensors")[1].step
    # so does the line, and an interrupt from the keyboard
    process = start(*train, "--resume", stdin=subprocess.PIPE)
    wait_for_more(run, len(events(run)), process)
    process.stdin.write("cancel\n")
    process.stdin.flush()
    assert process.wait(60) == 0
    header = checkpoint.load(run / "checkpoint.safetensors")[1]
    assert header.step > step
    assert not header.finished
    process = start(*train, "--resume", stdin=subprocess.DEVNULL)
    wait_for_more(run, len(events(run)), process)
    process.send_signal(signal.SIGINT)
    # not 0: what a shell would do next with the finished field must not happen
    assert process.wait(60) == 1
    assert checkpoint.load(run / "checkpoint.safetensors")[1].step > header.step


def wait_for_more(run, seen, process):
    until = time.monotonic() + 60.0
    while not any(event.type == "progress" for event in events(run)[seen:]):
        assert time.monotonic() < until
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.05)
