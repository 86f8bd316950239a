"""The list of runs: what folders say, jobs that are to become runs, what is done with one."""

from __future__ import annotations

import os
import pathlib
import subprocess
import sys
import time

import bpy
import pytest
from neural_fields.neural_backend import protocol
from neural_fields.operators import backend, job, known, live, place, runs, train
from neural_fields.operators.folders import Results
from neural_fields.operators.knobs import settings_of

STARTED = protocol.Started("nerf", "cpu", "reference", 10)
PROGRESS = protocol.Progress(5, 0, 60.0, 120.0, 0.1, 60.0, 1e6, 25.5)


@pytest.fixture
def output(tmp_path: pathlib.Path) -> pathlib.Path:
    return tmp_path / "a rün"


@pytest.fixture(autouse=True)
def fresh(start_scene, output):
    start_scene.neural_fields.output = str(output)
    runs.unregister()
    runs.register()
    yield
    job.owner.close()
    runs.unregister()
    runs.register()


def make_run(folder: pathlib.Path, *events: protocol.Event, checkpoint: bool = True) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    settings = {"field": "sdf", "max_seconds": 120.0, "levels": 5, "learning_rate": 0.01}
    protocol.write_json(folder / "config.json", {"settings": settings})
    if checkpoint:
        (folder / "checkpoint.safetensors").write_bytes(b"weights")
    writer = protocol.EventWriter(folder / "events.jsonl")
    for event in events:
        writer(event)


@pytest.mark.parametrize(
    ("events", "state"),
    [
        ([STARTED, PROGRESS], runs.INTERRUPTED),
        ([STARTED, PROGRESS, protocol.Done(9, 120.0, psnr=27.3)], runs.FINISHED),
        ([STARTED, PROGRESS, protocol.Done(9, 70.0, "cancelled")], runs.PAUSED),
        ([STARTED, PROGRESS, protocol.Error("full", "free some")], runs.FAILED),
        ([STARTED, PROGRESS, protocol.Done(9, 70.0, "cancelled"), STARTED], runs.INTERRUPTED),
        ([STARTED, protocol.Error("full"), STARTED, PROGRESS], runs.INTERRUPTED),
        ([PROGRESS, protocol.Done(9, 70.0), protocol.Warning("odd")], runs.FINISHED),
    ],
)
def test_the_state_is_what_the_folder_says(output, events, state) -> None:
    make_run(output / "run", *events)
    found = runs.read(output / "run")
    assert (found.state, found.field) == (state, "sdf")
    assert found.psnr in (25.5, 27.3)
    assert found.seconds in (60.0, 70.0, 120.0)
    assert found.error == ("full; free some" if state == runs.FAILED else "")


def test_a_held_lock_means_training(output) -> None:
    make_run(output / "run", STARTED, PROGRESS, protocol.Done(9, 120.0))
    with protocol.held(output / "run"):
        found = runs.read(output / "run")
        assert (found.state, found.progress) == (runs.TRAINING, None), "that was another training"
        protocol.EventWriter(output / "run" / "events.jsonl")(STARTED)
        protocol.EventWriter(output / "run" / "events.jsonl")(PROGRESS)
        assert runs.read(output / "run").progress == PROGRESS
    # its process has died: no file tells
    assert runs.read(output / "run").state == runs.INTERRUPTED


def test_what_has_not_changed_is_not_read_again(output, monkeypatch) -> None:
    make_run(output / "run", STARTED, protocol.Done(9, 120.0))
    first = runs.read(output / "run")
    monkeypatch.setattr(runs, "_read", lambda run: 1 / 0)
    assert runs.read(output / "run") is first
    make_run(output / "run", STARTED)
    with pytest.raises(ZeroDivisionError):
        runs.read(output / "run")


def test_many_runs_are_looked_at_in_turn(tmp_path, output, monkeypatch) -> None:
    """A look at one of them takes the whole time that there is."""
    known_folders = {tmp_path / f"o{index}": "/another.blend" for index in range(4)}
    for folder in (output, *known_folders):
        make_run(folder / "run", STARTED, protocol.Done(9, 120.0))
    monkeypatch.setattr(known, "outputs", lambda: dict(known_folders))
    now, looked = [0.0], []
    monkeypatch.setattr(runs.time, "monotonic", lambda: now[0])
    read = runs.read

    def slow_read(folder):
        looked.append(folder.parent.name)
        now[0] += 1.0
        return read(folder)

    monkeypatch.setattr(runs, "read", slow_read)
    names = []
    for _ in range(5):
        names.append([row.name for row in runs.look(1.5)])
        now[0] += 1.0
    assert looked == ["a rün", "o0", "a rün", "o1", "a rün", "o2", "a rün", "o3", "a rün", "o0"]
    assert names[0] == ["o0", "a rün"]
    assert names[-1] == ["o0", "o1", "o2", "o3", "a rün"]


def test_only_the_end_of_a_long_journal_is_read(output) -> None:
    make_run(output / "run", *[PROGRESS] * 3000, protocol.Done(9, 120.0))
    before = time.perf_counter()
    assert runs.read(output / "run").state == runs.FINISHED
    assert time.perf_counter() - before < 0.5
    with open(output / "run" / "events.jsonl", "ab") as file:
        file.write(b"\xff\x00garbage\n{}\n[]\n")
    assert runs.read(output / "run").state == runs.FINISHED


def test_a_folder_without_a_run_is_none(output) -> None:
    assert runs.read(output / "run") is None
    (output / "run").mkdir(parents=True)
    assert runs.read(output / "run") is None
    with protocol.held(output / "run"):
        assert runs.RunFolder(output / "run").lock.exists()
        assert runs.read(output / "run") is None, "an output folder is locked too"


def names() -> list[tuple[str, str]]:
    return [(row.name, row.run.state) for row in runs.look()]


def test_all_runs_of_an_output_newest_first(output) -> None:
    make_run(output / "run", STARTED, protocol.Done(9, 120.0))
    for number in (1, 2, 10):
        make_run(output / f"run.{number}", STARTED)
    (output / "run.other").mkdir()
    assert [name for name, _ in names()] == ["a rün", "a rün.10", "a rün.2", "a rün.1"]


def test_a_training_is_listed_and_survives_reopening(
    fake, start_scene, no_renders, output, tmp_path
) -> None:
    file = str(tmp_path / "a file.blend")
    start_scene.neural_fields.output = ""
    bpy.ops.wm.save_as_mainfile(filepath=file)
    for _ in range(2):
        bpy.ops.neural_fields.train(output=str(output), results=set())
    assert known.outputs() == {output: file}
    bpy.ops.wm.read_factory_settings()
    runs.unregister()
    runs.register()
    listed = bpy.context.window_manager.neural_fields
    listed.this_file = True
    runs.refresh(bpy.context)
    assert names() == [("a rün", runs.FINISHED), ("a rün.1", runs.FINISHED)]
    assert [item.name for item in listed.rows] == [], "they belong to another file"
    listed.this_file = False
    assert [item.name for item in listed.rows] == [str(output / "run"), str(output / "run.1")]
    bpy.ops.wm.open_mainfile(filepath=file)
    listed = bpy.context.window_manager.neural_fields
    listed.this_file = True
    runs.refresh(bpy.context)
    assert [item.name for item in listed.rows] == [str(output / "run"), str(output / "run.1")]
    assert runs.active(bpy.context).run.psnr == 27.31


@pytest.mark.parametrize("first", ["", "first.blend"])
def test_a_run_belongs_to_its_file_under_another_name_too(
    fake, start_scene, no_renders, output, tmp_path, first
) -> None:
    other = str(tmp_path / "other.blend")
    bpy.ops.wm.save_as_mainfile(filepath=other, copy=True)
    if first:
        bpy.ops.wm.save_as_mainfile(filepath=str(tmp_path / first))
    bpy.ops.neural_fields.train(output=str(output), results=set())

    def listed() -> list[str]:
        bpy.context.window_manager.neural_fields.this_file = True
        runs.refresh(bpy.context)
        return [item.name for item in bpy.context.window_manager.neural_fields.rows]

    bpy.ops.wm.save_as_mainfile(filepath=other, copy=True)
    assert listed() == [str(output / "run")]
    bpy.ops.wm.save_as_mainfile(filepath=str(tmp_path / "second.blend"))
    assert listed() == [str(output / "run")]
    bpy.ops.wm.save_as_mainfile(filepath=str(tmp_path / "third.blend"))
    assert listed() == [str(output / "run")]
    bpy.ops.wm.open_mainfile(filepath=other)
    assert listed() == [], "it belongs to another file"


def test_a_copied_folder_is_found_beside_its_file(start_scene, tmp_path) -> None:
    start_scene.neural_fields.output = ""
    bpy.ops.wm.save_as_mainfile(filepath=str(tmp_path / "scene.blend"))
    make_run(tmp_path / "neural_fields" / "scene" / "run", STARTED, protocol.Done(9, 9.0))
    assert names() == [("scene", runs.FINISHED)]


def test_the_active_run_stays_so(output) -> None:
    make_run(output / "run", STARTED)
    listed = bpy.context.window_manager.neural_fields
    runs.refresh(bpy.context)
    assert runs.active(bpy.context).name == "a rün"
    job.owner.queue.append(job.Job("Train", iter(()), "another", output / "another"))
    assert runs.refresh(bpy.context)
    assert [item.name for item in listed.rows][1:] == [str(output / "run")]
    assert runs.active(bpy.context).name == "a rün"
    assert not runs.refresh(bpy.context), "nothing has changed"
    job.owner.queue.clear()


def steps():
    yield job.Status("View 1 of 2")
    yield job.Status("Training", 0.0, training=True)
    yield job.Status("Extracting")


def test_a_job_is_listed_before_it_has_a_folder(output) -> None:
    running = job.Job("Train", steps(), "a rün", output / "run")
    job.owner.begin(running)
    job.owner.queue.append(job.Job("Train", steps(), "b", output.parent / "b" / "run"))
    job.owner.queue.append(job.Job("Train", steps(), "c", output.parent / "c" / "run"))
    job.owner.advance()
    assert names() == [("c", "waiting"), ("b", "waiting"), ("a rün", "rendering")]
    make_run(output / "run", STARTED, protocol.Done(9, 9.0))
    job.owner.advance()
    assert names()[2:] == [("a rün", "training")], "the folder still shows the run before"
    job.owner.advance()
    assert names()[2:] == [("a rün", "finished")]
    keys = [row.key for row in runs.look()]
    assert bpy.ops.neural_fields.cancel_run(run=keys[0]) == {"FINISHED"}
    assert [waiting.subject for waiting in job.owner.queue] == ["b"]


@pytest.fixture
def found_again(fake, output):
    """A training that no job of this Blender holds; the end of its leash."""
    fake.fails("slow")
    make_run(output / "run", checkpoint=False)
    arguments = [sys.executable, "-m", "neural_backend", "train", "x", "--run", output / "run"]
    process = subprocess.Popen(arguments, cwd=backend.EXTENSION, stdin=subprocess.PIPE)
    with process:
        wait(lambda: runs.read(output / "run").progress)
        yield process
        process.kill()


def wait(reached, most: float = 30.0) -> None:
    until = time.monotonic() + most
    while not reached():
        assert time.monotonic() < until
        time.sleep(0.02)


@pytest.mark.skipif(os.name == "nt", reason="the fake backend locks with fcntl")
def test_a_running_training_is_found_again(found_again, output) -> None:
    assert runs._look() >= runs.LOOK
    row = runs.found_again()
    assert (row.name, row.run.state, row.run.psnr) == ("a rün", runs.TRAINING, 27.31)
    assert live.following().run.path == row.folder
    for operator, said in (
        (bpy.ops.neural_fields.delete_run, "is in use"),
        (bpy.ops.neural_fields.resume, "another training writes into it"),
    ):
        with pytest.raises(RuntimeError, match=said):
            operator(run=row.key)
    with pytest.raises(RuntimeError, match="another training writes into it"):
        bpy.ops.neural_fields.train(output=str(output), results=set())
    assert bpy.ops.neural_fields.pause_run(run=row.key) == {"FINISHED"}
    assert found_again.wait(10.0) == 0
    runs._look()
    assert runs.found_again() is live.following() is None
    assert (runs.shown(row.key).run.state, runs.ready) == (runs.PAUSED, [])
    with pytest.raises(RuntimeError, match="nothing to end"):
        bpy.ops.neural_fields.cancel_run(run=row.key)


@pytest.mark.skipif(os.name == "nt", reason="the fake backend locks with fcntl")
def test_one_that_finishes_is_said_to_be_ready(found_again, fake, no_renders, output) -> None:
    runs.refresh(bpy.context)
    found_again.kill()
    found_again.wait()
    make_run(output / "run", STARTED, PROGRESS, protocol.Done(9, 120.0))
    runs.refresh(bpy.context)
    assert runs.ready == [str(output / "run")]
    fake.fails("")
    bpy.context.scene.neural_fields.result.sequence = False
    assert bpy.ops.neural_fields.bring_back(run=runs.ready[0]) == {"FINISHED"}
    assert "a rün" in bpy.data.objects
    assert runs.ready == []
    assert fake.commands[-1] == "mesh"


def test_another_blender_is_told_before_anything_is_rendered(fake, no_renders, output) -> None:
    with protocol.held(output), pytest.raises(RuntimeError, match="another Blender is at work"):
        bpy.ops.neural_fields.train(results=set())
    with (
        protocol.held(output / "run"),
        pytest.raises(RuntimeError, match="another training writes") as caught,
    ):
        bpy.ops.neural_fields.train(results=set())
    assert str(caught.value).strip().count("\n") == 0
    assert (no_renders, fake.commands) == ([], [])


def test_resume_keeps_the_run_s_own_length(fake, start_scene, no_renders, output) -> None:
    make_run(output / "run", STARTED, PROGRESS, protocol.Done(9, 60.0, "cancelled"))
    start_scene.neural_fields.training.max_seconds = 7.0
    start_scene.neural_fields.result.sequence = False
    assert bpy.ops.neural_fields.resume(run=str(output / "run")) == {"FINISHED"}
    trained = fake.calls[1]
    assert trained[1] == str(output / "dataset" / "geometry.ply")
    length = ["--preset", "standard", "--max-seconds", "120.0", "--max-steps", "0", "--resume"]
    assert trained[4:] == length
    assert fake.commands[-1] == "mesh"
    assert no_renders == []


def test_more_time_is_added_to_what_it_has_had(fake, output) -> None:
    make_run(output / "run", STARTED, protocol.Done(9, 90.0))
    bpy.context.scene.neural_fields.result.sequence = False
    assert bpy.ops.neural_fields.more_time(run=str(output / "run"), seconds=30.0) == {"FINISHED"}
    assert fake.calls[1][fake.calls[1].index("--max-seconds") + 1] == "120.0"
    with pytest.raises(RuntimeError, match="there is no such run") as caught:
        bpy.ops.neural_fields.more_time(run="/nowhere", seconds=30.0)
    assert str(caught.value).count("no such run") == 1
    with pytest.raises(RuntimeError, match="seconds is -3: give at least 1"):
        bpy.ops.neural_fields.more_time(run=str(output / "run"), seconds=-3.0)


def test_a_finished_run_is_not_resumed(fake, output) -> None:
    make_run(output / "run", STARTED, protocol.Done(9, 120.0))
    label = bpy.ops.neural_fields.more_time.get_rna_type().name
    with pytest.raises(RuntimeError, match=f"has finished: .* use {label} to"):
        bpy.ops.neural_fields.resume(run=str(output / "run"))
    assert fake.commands == [], "nothing was begun"


def test_an_error_is_said_once(output, capfd) -> None:
    with pytest.raises(RuntimeError):
        bpy.ops.neural_fields.more_time(run="/nowhere", seconds=30.0)
    said = "".join(capfd.readouterr())
    assert said.count("there is no such run") <= 1, said


def test_what_cannot_be_resumed_is_refused(fake, output) -> None:
    (output / "run").mkdir(parents=True)
    (output / "run" / "log.txt").write_text("no torch")
    with pytest.raises(RuntimeError, match="nothing to go on with"):
        bpy.ops.neural_fields.resume(run=str(output / "run"))
    make_run(output / "run", STARTED)
    (output / "run" / "config.json").write_text('{"settings": {"mood": "good"}}')
    with pytest.raises(RuntimeError, match=r"config.json: unknown setting 'mood'"):
        bpy.ops.neural_fields.resume(run=str(output / "run"))


def test_settings_are_duplicated(start_scene, output) -> None:
    make_run(output / "run", STARTED)
    start_scene.neural_fields.training.seed = 3
    runs.refresh(bpy.context)
    assert bpy.ops.neural_fields.duplicate_settings() == {"FINISHED"}, "the active one is meant"
    training = settings_of(start_scene).training
    assert (training.field, training.levels, training.seed) == ("sdf", 5, 0)
    assert training.learning_rate == 0.01


def test_all_that_a_run_was_begun_with_is_duplicated(fake, no_renders, start_scene, output) -> None:
    settings = start_scene.neural_fields
    settings.rig.kind = "orbit"
    settings.rig.margin = 0.1
    settings.rig.collection = bpy.data.collections["Collection"]
    settings.dataset.samples = 9
    settings.result.mesh = False
    given = {"views": 17, "resolution": 99, "max_seconds": 12.5, "results": {"SEQUENCE"}}
    bpy.ops.neural_fields.train(output=str(output), **given)
    # a resumed one stays as it was begun
    settings.rig.margin = 0.2
    bpy.ops.neural_fields.more_time(run=str(output / "run"), seconds=30.0)
    bpy.ops.wm.read_factory_settings()
    scene = bpy.context.scene
    assert bpy.ops.neural_fields.duplicate_settings(run=str(output / "run")) == {"FINISHED"}
    found = settings_of(scene)
    rig, dataset, result = found.rig, found.dataset, found.result
    assert (rig.kind, rig.views, rig.margin, found.collection_name) == (
        *("orbit", 17, 0.1),
        "Collection",
    )
    assert (dataset.resolution, dataset.samples) == (99, 9)
    assert (result.mesh, result.sequence) == (False, True)
    (output / "run" / "scene.json").write_text('{"rig": {"views": 1}}')
    scene.neural_fields.training.seed = 3
    with pytest.raises(RuntimeError, match=r"scene.json: cannot be read \(views is 1: give at"):
        bpy.ops.neural_fields.duplicate_settings(run=str(output / "run"))
    assert scene.neural_fields.training.seed == 3, "nothing is changed"
    bpy.ops.neural_fields.delete_run(run=str(output / "run"))
    assert not (output / "run").exists()


def test_what_a_job_is_at_work_on_is_not_deleted(output) -> None:
    """Another Blender extracts its mesh: the training is over, and only the output is held."""
    make_run(output / "run", STARTED, protocol.Done(9, 120.0))
    with (
        protocol.held(output),
        pytest.raises(RuntimeError, match="a job is at work in it; wait for its end"),
    ):
        bpy.ops.neural_fields.delete_run(run=str(output / "run"))
    assert (output / "run" / "checkpoint.safetensors").exists()
    assert bpy.ops.neural_fields.delete_run(run=str(output / "run")) == {"FINISHED"}
    assert not (output / "run").exists()


def test_only_what_a_run_has_written_is_deleted(output) -> None:
    make_run(output / "run", STARTED)
    make_run(output / "run.1", STARTED)
    (output / "run.1" / "my notes.txt").write_text("keep")
    for name in ("run", "run.1"):
        assert bpy.ops.neural_fields.delete_run(run=str(output / name)) == {"FINISHED"}
    assert [path.name for path in output.rglob("*")] == ["run.1", "my notes.txt"]
    assert runs.look() == []


def test_what_is_not_there_is_not_opened(output) -> None:
    make_run(output / "run", STARTED)
    with pytest.raises(RuntimeError, match="there is no log"):
        bpy.ops.neural_fields.show_log(run=str(output / "run"))


@pytest.mark.skipif(sys.platform in ("win32", "darwin"), reason="these have openers of their own")
def test_where_nothing_opens_it_a_line_says_so(output, tmp_path, monkeypatch, capfd) -> None:
    make_run(output / "run", STARTED)
    (output / "run" / "log.txt").write_text("all is well")
    programs = tmp_path / "programs"
    programs.mkdir()
    monkeypatch.setenv("PATH", str(programs))

    def opens(status: int) -> None:
        program = programs / "xdg-open"
        program.write_text(f'#!/bin/sh\necho "$1" > {programs}/opened\nexit {status}\n')
        program.chmod(0o755)

    for prepare in (lambda: None, lambda: opens(3)):
        prepare()
        for operator, path in (
            (bpy.ops.neural_fields.show_log, output / "run" / "log.txt"),
            (bpy.ops.neural_fields.open_run, output / "run"),
        ):
            with pytest.raises(RuntimeError) as caught:
                operator(run=str(output / "run"))
            assert f"{path}: no program here opens it" in str(caught.value)
    opens(0)
    assert bpy.ops.neural_fields.show_log(run=str(output / "run")) == {"FINISHED"}
    assert (programs / "opened").read_text().strip() == str(output / "run" / "log.txt")
    assert "Traceback" not in "".join(capfd.readouterr())


def plan_of(output: pathlib.Path) -> train.Plan:
    scene = bpy.context.scene
    scene.neural_fields.result.mesh = scene.neural_fields.result.sequence = False
    return train.Plan(place.place_of(bpy.context), settings_of(scene), Results(output / "run"))


@pytest.mark.skipif(os.name == "nt", reason="the fake backend locks with fcntl")
@pytest.mark.parametrize("keep", [False, True])
def test_what_closing_does_to_a_training(fake, no_renders, start_scene, output, keep) -> None:
    fake.fails("slow")
    start_scene.neural_fields.keep_running = keep
    output.mkdir()
    job.owner.begin(plan_of(output).job("Train"))

    def training() -> bool:
        job.owner.advance()
        return bool(job.owner.status.fraction)

    wait(training)
    job.owner.close()
    assert protocol.is_held(output / "run") is keep
    assert not protocol.is_held(output), "another Blender may have the folder"
    if keep:
        runs.refresh(bpy.context)
        row = runs.found_again()
        assert row.run.state == runs.TRAINING
        bpy.ops.neural_fields.cancel_run(run=row.key)
        wait(lambda: not protocol.is_held(output / "run"))
    assert runs.read(output / "run").state == runs.PAUSED
    assert runs.read(output / "run").can_bring_back


def test_cancelling_twice_keeps_nothing_running(fake, no_renders, start_scene, output) -> None:
    fake.fails("deaf")
    start_scene.neural_fields.keep_running = True
    output.mkdir()
    job.owner.begin(plan_of(output).job("Train"))

    def training() -> bool:
        job.owner.advance()
        return bool(job.owner.status.fraction)

    wait(training)
    job.owner.cancel()
    job.owner.cancel()
    assert not job.owner.running
    assert not protocol.is_held(output / "run")


@pytest.mark.parametrize("fault", ["garbage", "killed", "crash"])
def test_a_backend_that_fails_is_said_and_can_be_resumed(fake, no_renders, output, fault) -> None:
    fake.fails(fault)
    with pytest.raises(RuntimeError) as caught:
        bpy.ops.neural_fields.train(output=str(output), results=set())
    line = str(caught.value).strip()
    assert line.isprintable(), line
    assert len(line) < 500
    row = runs.row_of(str(output / "run"))
    assert row.run.state == runs.INTERRUPTED
    assert row.can_go_on
    assert job.owner.last.run == row.folder


def test_settings_are_those_of_the_click(fake, no_renders, start_scene, output) -> None:
    start_scene.neural_fields.training.seed = 5
    output.mkdir()
    waiting = plan_of(output).job("Train")
    start_scene.neural_fields.training.seed = 6
    job.owner.begin(waiting)
    while job.owner.advance():
        time.sleep(0.01)
    assert fake.calls[-1][4:] == ["--seed", "5"]
