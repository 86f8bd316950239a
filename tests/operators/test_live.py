"""Looking at a training: the run's events, the eye that the backend is told, its live views."""

from __future__ import annotations

import os
import pathlib
import time

import bpy
import numpy as np
import pytest
from neural_fields.neural_backend import config, png, protocol
from neural_fields.neural_backend.dataset import transforms
from neural_fields.neural_backend.protocol import Done, EventWriter, Live, Progress, RunFolder
from neural_fields.operators import backend, eye, live, live_image, runs, train

STARTED = protocol.Started("nerf", "cpu", "reference", 10)


@pytest.fixture
def run(start_scene, tmp_path: pathlib.Path, monkeypatch):
    """A run that has started, and is followed; without rests between two looks."""
    folder = RunFolder(tmp_path / "run")
    folder.path.mkdir()
    protocol.write_json(folder.config, {"field_from_world": np.eye(4).tolist()})
    monkeypatch.setattr(live, "_TOUCH_EVERY", 0.0)
    live.follow(folder)
    EventWriter(folder.events)(STARTED)
    yield folder
    live.stop()
    live_image.unregister()
    live_image.register()


def look(times: int = 1) -> live.Following:
    for _ in range(times):
        live.following().look()
    return live.following()


def asked(run: RunFolder) -> transforms.View:
    (view,) = transforms.read(run.eye, images=False).views
    return view


def shown(run: RunFolder, name: str, value: int = 9, size: tuple[int, int] = (3, 4)) -> None:
    """What the backend does."""
    run.live.write_bytes(png.encode(np.full((*size, 4), value, np.uint8)))
    EventWriter(run.events)(Live(7, size[1], size[0], 0.1, name))


def progress(step: int, **values) -> Progress:
    given = {"of": 0, "seconds": step / 10, "max_seconds": 120.0, "loss": 0.5, "eta": 9.0}
    return Progress(step=step, **(given | values))


def move(monkeypatch, by: float) -> None:
    through = eye.through

    def moved(projection, view_matrix, *more):
        view_matrix = np.array(view_matrix)
        view_matrix[0, 3] += by
        return through(projection, view_matrix, *more)

    monkeypatch.setattr(eye, "through", moved)


def test_the_eye_is_told_once_it_rests(run, monkeypatch) -> None:
    look()
    assert not run.eye.exists(), "it may still be moving"
    look()
    first = asked(run)
    area = max(
        (area for area in bpy.context.screen.areas if area.type == "VIEW_3D"),
        key=lambda area: area.width,
    )
    region = next(region for region in area.regions if region.type == "WINDOW")
    assert (first.intrinsics.w, first.intrinsics.h) == (region.width, region.height)
    assert live.following().is_seen_from(region)
    written = run.eye.read_bytes()
    look(3)
    assert run.eye.read_bytes() == written
    move(monkeypatch, 0.5)
    look()
    assert run.eye.read_bytes() == written
    look()
    second = asked(run)
    assert second.file != first.file
    assert not np.allclose(second.world_from_camera, first.world_from_camera)


def test_the_eye_is_touched_while_somebody_looks(run, start_scene) -> None:
    look(2)
    os.utime(run.eye, (5.0, 5.0))
    look()
    assert run.eye.stat().st_mtime > 5.0
    os.utime(run.eye, (5.0, 5.0))
    start_scene.neural_fields.show_live = False
    look(3)
    assert run.eye.stat().st_mtime == 5.0
    start_scene.neural_fields.show_live = True
    run.eye.unlink()
    look(3)
    assert asked(run)


def test_nobody_looks_where_it_is_switched_off(run, start_scene) -> None:
    start_scene.neural_fields.show_live = False
    look(5)
    assert not run.eye.exists()


def test_the_field_of_one_scene_is_not_shown_in_another(run, start_scene) -> None:
    live.follow(run, "Another")
    look(5)
    assert not run.eye.exists()
    live.follow(run, start_scene.name)
    look(5)
    assert run.eye.exists()


def test_a_view_is_of_the_eye_that_it_was_asked_for(run, monkeypatch) -> None:
    look(2)
    first = asked(run).file
    shown(run, first)
    following = look()
    assert following.picture.pixels.tolist() == np.full((3, 4, 4), 9).tolist()
    assert following.picture.step == 7
    before = following.picture
    move(monkeypatch, 0.5)
    look(2)
    shown(run, first, 20)  # it was on its way
    look()
    assert following.picture is not before
    assert following.picture.eye.sees_as(before.eye)
    shown(run, asked(run).file, 30)
    look()
    assert not following.picture.eye.sees_as(before.eye)
    assert following.picture.pixels[0, 0, 0] == 30


def test_views_that_are_somebody_else_s_or_damaged_are_passed_over(run) -> None:
    look(2)
    name = asked(run).file
    shown(run, "somebody-else-1")
    assert look().picture is None
    shown(run, name)
    run.live.write_bytes(b"\x89PNG damaged")
    assert look().picture is None
    shown(run, name)
    shown(run, "the next one", size=(5, 6))
    assert look().picture is None, "the file is the next view's already"
    run.live.unlink()
    EventWriter(run.events)(Live(7, 4, 3, 0.1, name))
    assert look().picture is None


def test_the_curve_is_all_of_the_run_s(run) -> None:
    writer = EventWriter(run.events)
    for step in range(1, 41):
        psnr = None if step < 10 else 20.0 + step // 10
        writer(progress(step, loss=1.0 / step, psnr=psnr))
    history = look().history
    assert history.running
    assert history.last.step == 40
    loss = history.curve("loss")
    assert loss.tolist() == [[step / 10, 1.0 / step] for step in range(1, 41)]
    assert history.curve("psnr").tolist() == [[1.0, 21.0], [2.0, 22.0], [3.0, 23.0], [4.0, 24.0]]
    assert history.curve("ssim").shape == (0, 2)
    # goes on from a checkpoint at step 25
    writer(protocol.Started("nerf", "cpu", "reference", 10, step=25))
    look()
    assert history.curve("loss")[-1, 0] == 2.5
    writer(progress(26))
    look()
    assert history.curve("loss")[-1].tolist() == [2.6, 0.5]
    writer(Done(26, 2.6))
    assert not look().history.running


def test_a_new_run_in_the_folder_has_a_curve_of_its_own(run) -> None:
    EventWriter(run.events)(progress(500))
    assert look().history.last.step == 500
    run.events.rename(run.path / "old.jsonl")
    EventWriter(run.events)(STARTED)
    history = look().history
    assert history.last is None
    assert len(history.curve("loss")) == 0


def test_a_long_run_s_curve_is_thinned_evenly() -> None:
    history = live.History()
    history.add(STARTED)
    for step in range(100_000):
        history.add(progress(step, loss=float(step)))
    seconds = history.curve("loss")[:, 0]
    assert 1000 < len(seconds) < 2100
    assert np.ptp(np.diff(seconds)) < 1e-6
    assert seconds[-1] > 9990


def test_many_events_are_read_in_parts(run) -> None:
    line = protocol.encode_event(progress(3))
    with open(run.events, "a") as file:
        file.write(line * 3_000)
    following = live.following()
    looks = []
    while not looks or looks[-1][1] == live._SOON:
        began = time.perf_counter()
        wait = following.look()
        looks.append((time.perf_counter() - began, wait))
    assert len(looks) > 15
    assert np.median([seconds for seconds, _ in looks]) < 0.05
    assert looks[-1][1] == live.TICK
    assert len(following.history.curve("seconds")) == 1


def test_ending_takes_the_eye_away(run) -> None:
    look(2)
    assert run.eye.exists()
    live.stop()
    assert not run.eye.exists()
    assert live.following() is None


def test_a_folder_that_is_gone_breaks_nothing(run) -> None:
    look(2)
    for file in list(run.path.iterdir()):
        file.unlink()
    run.path.rmdir()
    look(3)
    live.stop()
    assert not run.path.exists()


def test_no_timer_in_the_background(run) -> None:
    assert bpy.app.background
    assert not bpy.app.timers.is_registered(live._look)


def test_a_training_is_followed_while_it_lasts(fake, start_scene, tmp_path) -> None:
    fake.fails("slow")
    folder = RunFolder(tmp_path / "out" / "run")
    steps = train.training_steps(
        backend.python(), tmp_path / "dataset", folder, config.TrainingSettings()
    )
    until = time.monotonic() + 30.0
    try:
        next(steps)
        assert live.following() is None
        while time.monotonic() < until:
            next(steps)
            if look().picture is not None:
                break
            time.sleep(0.02)
        following = live.following()
        assert following.history.last.psnr == 27.31
        assert following.picture.pixels[0, 0].tolist() == [255, 0, 0, 255]
        assert following.picture.pixels[0, -1].tolist() == [0, 0, 0, 0]
        assert following.picture.pixels.shape[1] == following.picture.eye.size[0]
    finally:
        steps.close()
    assert live.following() is None
    assert not folder.eye.exists()


def test_a_training_that_was_found_again_is_followed(run, monkeypatch) -> None:
    live.stop()
    row = runs.Row("it", "it", run.path, runs.Run(runs.TRAINING), "")
    monkeypatch.setattr(runs, "found_again", lambda: row)
    runs._follow()
    assert live.following().run.path == run.path
    following = live.following()
    runs._follow()
    assert live.following() is following
    monkeypatch.setattr(runs, "found_again", lambda: None)
    runs._follow()
    assert live.following() is None


def test_a_job_s_training_is_left_alone_by_what_was_found_again(run, monkeypatch) -> None:
    row = runs.Row("it", "it", run.path.parent / "other", runs.Run(runs.TRAINING), "")
    monkeypatch.setattr(runs, "found_again", lambda: row)
    runs._follow()
    assert live.following().run.path == run.path
    monkeypatch.setattr(runs, "found_again", lambda: None)
    runs._follow()
    assert live.following().run.path == run.path


# --- the image data-block


@pytest.fixture
def editor(run):
    """An image editor, and the operator that shows the live view in it."""
    area = next(area for area in bpy.context.screen.areas if area.type == "DOPESHEET_EDITOR")
    area.type = "IMAGE_EDITOR"
    look(2)
    shown(run, asked(run).file, 51)
    look()
    assert live_image.NAME not in bpy.data.images, "nobody has asked for it"
    yield area
    area.type = "DOPESHEET_EDITOR"


def show() -> None:
    window = bpy.context.window_manager.windows[0]
    with bpy.context.temp_override(window=window):
        assert bpy.ops.neural_fields.show_live() == {"FINISHED"}


def test_an_image_editor_shows_it(run, editor) -> None:
    show()
    image = editor.spaces.active.image
    assert image.name == live_image.NAME
    assert (image.source, image.use_fake_user, image.packed_file) == ("FILE", False, None)
    assert tuple(image.size) == (4, 3)
    assert image.pixels[0] == pytest.approx(51 / 255)
    shown(run, asked(run).file, 102, (6, 8))
    look()
    assert tuple(image.size) == (8, 6)
    assert image.pixels[0] == pytest.approx(102 / 255)


def test_the_image_editor_alone_keeps_the_view_coming(run, editor, start_scene) -> None:
    show()
    start_scene.neural_fields.show_live = False
    os.utime(run.eye, (5.0, 5.0))
    look()
    assert run.eye.stat().st_mtime > 5.0


def test_undo_leaves_the_image_in_the_editor(run, editor) -> None:
    bpy.ops.ed.undo_push(message="before")
    show()
    bpy.ops.ed.undo_push(message="shown")
    assert bpy.ops.ed.undo() == {"FINISHED"}
    assert editor.spaces.active.image.name == live_image.NAME
    look()
    bpy.ops.ed.redo()
    assert editor.spaces.active.image.name == live_image.NAME
    assert [image.name for image in bpy.data.images].count(live_image.NAME) == 1


def test_there_is_nothing_to_show_yet(run) -> None:
    with pytest.raises(RuntimeError, match="No training has shown anything yet"):
        show()
