"""The whole of Train with a backend that only speaks the protocol: order, arguments, ends."""

from __future__ import annotations

import pathlib
import time

import bpy
import pytest
from neural_fields.neural_backend import config, protocol
from neural_fields.neural_backend.dataset import transforms
from neural_fields.neural_backend.protocol import BadInput
from neural_fields.operators import backend, job, known, place, results, train


@pytest.fixture
def output(tmp_path: pathlib.Path) -> pathlib.Path:
    return tmp_path / "a rün"


def drive(owner: job.Owner) -> None:
    while owner.advance():
        time.sleep(0.01)


def test_progress_reads_as_a_person_would_say_it() -> None:
    event = protocol.Progress(7, 0, 45.2, 120.0, 0.1, 80.0, 0.0, 27.34)
    status = train.progress_status(event)
    assert status.text == "Training: 27.3 dB, 1 min 20 s left"
    assert status.fraction == pytest.approx(45.2 / 120.0)
    event = protocol.Progress(50, 100, 45.2, 120.0, 0.1, 4000.0)
    assert train.progress_status(event) == job.Status("Training: 1 h 7 min left", 0.5, True)
    for rate, said in ((1.23e6, ", 1.23 M samples/s"), (45_600.0, ", 45.6 k samples/s")):
        event = protocol.Progress(7, 0, 45.2, 120.0, 0.1, 80.0, rate)
        assert train.progress_status(event).text == f"Training: 1 min 20 s left{said}"


def test_flags_are_what_differs_from_the_defaults() -> None:
    assert train.arguments_of(config.TrainingSettings()) == []
    settings = config.TrainingSettings(
        field="sdf", encoding="basic", max_seconds=8.0, view_direction=False, seed=3
    )
    flags = train.arguments_of(settings)
    assert flags[:4] == ["--field", "sdf", "--encoding", "basic"]
    assert "--no-view-direction" in flags
    assert flags[flags.index("--max-seconds") + 1] == "8.0"
    assert flags[-3:] == ["--seed", "3", "--no-view-direction"]


def test_all_of_it(fake, start_scene, no_renders, output, capsys) -> None:
    start_scene.neural_fields.training.seed = 5
    result = bpy.ops.neural_fields.train(
        output=str(output),
        views=12,
        rig="hemisphere",
        resolution=64,
        passes="on",
        encoding="positional",
    )
    assert result == {"FINISHED"}
    assert fake.commands == ["doctor", "train", "mesh", "render"]
    (rig, dataset, collection, folder), *_ = no_renders
    assert (rig.kind, rig.views, dataset.resolution, collection) == ("hemisphere", 12, 64, None)
    assert dataset.passes == "on"
    assert folder == output / "dataset"
    trained = fake.calls[1]
    assert trained[1:4] == [str(folder), "--run", str(output / "run")]
    assert trained[4:] == ["--encoding", "positional", "--seed", "5"]
    mesh = bpy.data.collections["Neural Fields"].objects[0]
    assert mesh.name == "a rün"
    assert [image.name for image in bpy.data.images if image.source == "SEQUENCE"] == ["a rün"]
    printed = capsys.readouterr().out
    assert "View 1 of 1" in printed
    assert "27.3 dB, 0 s left" in printed
    assert "Trained for 120 s, 27.3 dB; imported mesh a rün and sequence a rün" in printed


def test_a_preset_that_is_given_wins_over_the_scene_s_time(
    fake, start_scene, no_renders, output
) -> None:
    start_scene.neural_fields.training.max_seconds = 300.0
    for given, flags in (
        ({}, ["--max-seconds", "300.0"]),
        ({"preset": "preview"}, ["--preset", "preview"]),
        ({"preset": "best", "max_seconds": 7.0}, ["--preset", "best", "--max-seconds", "7.0"]),
    ):
        bpy.ops.neural_fields.train(output=str(output), results=set(), **given)
        assert fake.calls[-1][4:] == flags


def test_only_what_is_asked_for_comes_back(fake, start_scene, no_renders, output) -> None:
    start_scene.neural_fields.result.sequence = False
    bpy.ops.neural_fields.train(output=str(output))
    assert fake.commands == ["doctor", "train", "mesh"]
    bpy.ops.neural_fields.train(output=str(output), results={"SEQUENCE"})
    assert fake.commands[3:] == ["train", "render"]
    bpy.ops.neural_fields.train(output=str(output), results=set())
    assert fake.commands[5:] == ["train"]


def test_a_new_run_in_the_place_of_an_old_one_is_followed(
    fake, start_scene, no_renders, output, capsys
) -> None:
    for _ in range(2):
        capsys.readouterr()
        bpy.ops.neural_fields.train(output=str(output), results=set())
    assert (output / "run.1" / "events.jsonl").exists()
    assert "Training: 27.3 dB, 0 s left" in capsys.readouterr().out


def test_continue_goes_on_in_the_same_run(fake, start_scene, no_renders, output) -> None:
    bpy.ops.neural_fields.train(output=str(output), results=set())
    start_scene.neural_fields.training.encoding = "none"
    bpy.ops.neural_fields.train(output=str(output), results=set(), resume=True, max_seconds=300.0)
    flags = ["--preset", "standard", "--max-seconds", "300.0", "--max-steps", "0", "--resume"]
    assert fake.calls[-1][-7:] == flags, "the run keeps its own settings"
    assert len(no_renders) == 1, "nothing is rendered for it"
    assert not (output / "run.1").exists()
    with pytest.raises(RuntimeError, match="no trained field is there yet"):
        bpy.ops.neural_fields.train(output=str(output) + "2", results=set(), resume=True)


def test_sdf_trains_on_the_geometry(fake, start_scene, output) -> None:
    file = output / "dataset" / "geometry.ply"
    bpy.ops.mesh.primitive_cone_add(vertices=5)  # selected; the cube is not
    for source, vertices in (("scene", 8 + 6), ("selection", 6)):
        bpy.ops.neural_fields.train(
            output=str(output), field="sdf", source=source, results={"MESH"}
        )
        assert fake.calls[-2][1] == str(file)
        header = file.read_bytes().split(b"end_header")[0]
        assert b"element vertex %d\n" % vertices in header, "without the mesh that came back"
    start_scene.neural_fields.training.field = "nerf"
    bpy.ops.neural_fields.train(output=str(output), resume=True, results=set())
    assert fake.calls[-1][1] == str(file), "a run goes on with what it was trained on"


@pytest.mark.parametrize(
    ("fault", "line"),
    [
        ("error", "transforms.json: frames: broken; export it again"),
        ("bad input", "mesh.ply: holds no faces; give a mesh"),
        ("crash", "ZeroDivisionError"),
        ("no torch", "torch: not installed in this Python"),
        ("no mesh", "the field is empty; train longer"),
    ],
)
def test_a_failure_is_one_line(
    fake, start_scene, no_renders, output, fault: str, line: str
) -> None:
    fake.fails(fault)
    with pytest.raises(RuntimeError, match=line) as caught:
        bpy.ops.neural_fields.train(output=str(output))
    assert str(caught.value).strip().count("\n") == 0
    assert line in job.owner.error
    assert "Neural Fields" not in bpy.data.collections


def test_a_bad_python_is_found_before_anything_is_rendered(
    fake, start_scene, no_renders, output, monkeypatch
) -> None:
    monkeypatch.delenv(backend.VARIABLE)
    with pytest.raises(RuntimeError, match="backend is not installed"):
        bpy.ops.neural_fields.train(output=str(output))
    fake.fails("no torch")
    monkeypatch.setenv(backend.VARIABLE, "/nowhere")
    with pytest.raises(RuntimeError, match="no such program"):
        bpy.ops.neural_fields.train(output=str(output))
    assert no_renders == []


def test_an_absent_device_is_found_before_anything_is_rendered(
    fake, start_scene, no_renders, output
) -> None:
    with pytest.raises(RuntimeError, match="has no cuda: choose Automatic, which means cpu"):
        bpy.ops.neural_fields.train(output=str(output), device="cuda")
    assert not (output / "dataset").exists()


def test_an_unwritable_output(fake, start_scene, no_renders, tmp_path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(RuntimeError, match=r"cannot be written to .*choose another Output folder"):
        bpy.ops.neural_fields.train(output=str(tmp_path / "file" / "out"))
    assert fake.calls == []


def test_a_stranger_s_files_are_not_touched(fake, start_scene, no_renders, output) -> None:
    files = {"run": "config.json", "dataset": "geometry.ply"}
    for folder, name in files.items():
        file = output / folder / name
        file.parent.mkdir(parents=True)
        file.write_text("mine")
        line = rf"{folder}: holds {name}, which Neural Fields did not write"
        with pytest.raises(RuntimeError, match=line):
            bpy.ops.neural_fields.train(output=str(output), field="sdf", results=set())
        assert [path.name for path in output.rglob("*.*")] == [name]
        file.unlink()
        file.parent.rmdir()
    assert "train" not in fake.commands
    assert no_renders == []


@pytest.mark.parametrize("known_before", [False, True])
def test_what_is_refused_leaves_nothing(
    fake, start_scene, no_renders, output, known_before
) -> None:
    """By the scene, before anything is trained; by the backend, before its training begins."""
    before = {}
    if known_before:
        before = {output: "/another.blend"}
        output.mkdir()
        known.add(output, "/another.blend")
    fake.fails("refused")
    with pytest.raises(RuntimeError, match="max_seconds is 3: give a hat"):
        bpy.ops.neural_fields.train(output=str(output), results=set())
    assert fake.commands == ["doctor", "train"]
    assert [path.name for path in output.rglob("*")] == ["dataset"], "which was rendered"
    (output / "dataset").rmdir()
    output.rmdir()
    for item in list(start_scene.objects):
        bpy.data.objects.remove(item)
    with pytest.raises(RuntimeError, match="nothing to render"):
        bpy.ops.neural_fields.train(output=str(output), field="sdf", results=set())
    assert not output.exists()
    if known_before:
        output.mkdir()
    assert known.outputs() == before


def test_a_log_that_is_named_stays(fake, start_scene, no_renders, output) -> None:
    fake.fails("crash")
    with pytest.raises(RuntimeError, match=r"its log is .*log\.txt"):
        bpy.ops.neural_fields.train(output=str(output), results=set())
    assert "ZeroDivisionError" in (output / "run" / "log.txt").read_text()
    assert set(known.outputs()) == {output}


def test_cancelling_keeps_the_checkpoint(fake, start_scene, no_renders, output) -> None:
    fake.fails("slow")
    settings = config.TrainingSettings()
    owner = job.Owner()
    source = output / "dataset"
    run = protocol.RunFolder(output / "run")
    steps = train.training_steps(backend.python(), source, run, settings)
    owner.start("Train", steps)
    while not (owner.status.fraction or 0.0) > 0.3:
        owner.advance()
        time.sleep(0.01)
    owner.cancel()
    with pytest.raises(job.Cancelled):
        drive(owner)
    assert (output / "run" / "checkpoint.safetensors").exists()
    fake.fails("")
    bpy.ops.neural_fields.import_mesh(output=str(output))
    assert "a rün" in bpy.data.objects


def test_renders_that_are_there_are_used_again(fake, start_scene, output, capsys) -> None:
    start_scene.render.engine = "CYCLES"
    start_scene.neural_fields.dataset.samples = 1
    for _ in range(2):
        bpy.ops.neural_fields.train(output=str(output), views=3, resolution=8, results={"MESH"})
        written = transforms.read(output / "dataset")
        assert len(written.views) == 3
        printed = capsys.readouterr().out
    assert "View 3 of 3" not in printed, "the mesh that came back is no part of the scene"


def test_a_camera_rig_without_a_camera(fake, start_scene, output) -> None:
    bpy.data.objects.remove(start_scene.camera)
    for rig in ("cameras", "camera_path"):
        with pytest.raises(RuntimeError, match="camera") as caught:
            bpy.ops.neural_fields.train(output=str(output), rig=rig, results={"MESH"})
        assert str(caught.value).strip().count("\n") == 0
    assert "train" not in fake.commands


def test_the_mesh_goes_where_the_training_was_started(fake, start_scene, output) -> None:
    other = bpy.data.scenes.new("Other")
    fake.write_glb(output.parent / "mesh.glb")
    results.import_mesh(place.scene_of("Scene"), output.parent / "mesh.glb", "one")
    results.import_mesh(place.scene_of("Other"), output.parent / "mesh.glb", "two")
    assert "one" in start_scene.objects
    assert [item.name for item in other.objects] == ["two"]
    with pytest.raises(BadInput, match="the scene Gone is gone"):
        place.scene_of("Gone")


@pytest.mark.parametrize("field", ["nerf", "sdf"])
def test_the_scene_that_is_trained_is_the_one_that_was_clicked(
    fake, start_scene, output, monkeypatch, field
) -> None:
    other = bpy.data.scenes.new("Other")
    start_scene.render.engine = "CYCLES"
    start_scene.neural_fields.dataset.samples = 1
    rig = start_scene.neural_fields.rig
    rig.subject, rig.collection = "collection", bpy.data.objects["Cube"].users_collection[0]
    check = backend.check_steps

    def check_steps(device):
        program = yield from check(device)
        bpy.context.window.scene = other
        return program

    monkeypatch.setattr(backend, "check_steps", check_steps)
    bpy.ops.neural_fields.train(
        output=str(output), views=3, resolution=8, field=field, results={"MESH"}
    )
    assert bpy.context.scene == other, "the test has not switched"
    assert "a rün" in start_scene.objects
    assert not other.objects


def test_what_goes_while_the_backend_is_checked(fake, start_scene, output, monkeypatch) -> None:
    settings = start_scene.neural_fields
    subject = bpy.data.collections.new("Subject")
    settings.rig.subject, settings.rig.collection = "collection", subject
    scene = bpy.data.scenes.new("Kept")
    gone = iter(
        [
            lambda: bpy.data.collections.remove(subject),
            lambda: bpy.data.scenes.remove(start_scene),
        ]
    )
    check = backend.check_steps

    def check_steps(device):
        program = yield from check(device)
        next(gone)()
        return program

    monkeypatch.setattr(backend, "check_steps", check_steps)
    with pytest.raises(RuntimeError, match="the collection Subject is gone: choose another"):
        bpy.ops.neural_fields.train(output=str(output), results=set())
    with pytest.raises(RuntimeError, match="the scene Scene is gone: start again in another"):
        bpy.ops.neural_fields.train(output=str(output), results=set())
    assert scene.name == "Kept"


def test_a_generated_rig_s_sequence_needs_something_to_orbit(fake, start_scene, output) -> None:
    for item in list(start_scene.objects):
        bpy.data.objects.remove(item)
    with pytest.raises(RuntimeError, match="nothing"):
        bpy.ops.neural_fields.train(output=str(output), results={"SEQUENCE"})
    assert "train" not in fake.commands
