"""The live view of real trainings: the same picture as the finished run's from the same camera."""

import dataclasses

import imageio.v3
import numpy as np
import pytest

from neural_backend import actions, protocol
from neural_backend.config import TrainingSettings
from neural_backend.dataset import transforms
from neural_backend.dataset.transforms import Intrinsics, View
from neural_backend.training import run as runs
from neural_backend.training.run_config import read_config

SMALL = {"levels": 4, "coarsest": 8, "finest": 32, "log2_table_size": 13, "batch": 2**12}


def eye(distance: float) -> View:
    """Not in the middle, wider than high, and tilted: nothing may be the other way round."""
    z = np.array([0.48, -0.6, 0.64])
    x = np.cross([0.3, 0.1, 0.9], z)
    x /= np.linalg.norm(x)
    pose = np.eye(4)
    pose[:3] = np.stack([x, np.cross(z, x), z, distance * z], 1)
    return View("somebody's", pose, Intrinsics(96, 64, 70.0, 80.0, 60.0, 25.0))


@pytest.mark.parametrize(("field", "seconds"), [("nerf", 4.0), ("neus", 5.0), ("sdf", 3.0)])
def test_the_view_is_the_run_s_from_that_camera(field, seconds, views, mesh, tmp_path):
    run = protocol.RunFolder(tmp_path / "run")
    shown = []
    # the mesh is larger than the ball in the views
    view = eye(10.0 if field == "sdf" else 3.0)

    def listen(event):
        if isinstance(event, protocol.Progress):
            transforms.write_cameras(run.eye, (view,))
        if isinstance(event, protocol.Live):
            shown.append(event)

    settings = TrainingSettings(field=field, max_seconds=seconds, **SMALL)
    runs.train(mesh if field == "sdf" else views, run.path, settings, show=listen)
    assert len(shown) >= 2
    last = shown[-1]
    assert (last.width, last.height, last.eye) == (96, 64, "somebody's")
    live = imageio.v3.imread(run.live).astype(float)
    actions.render(str(run.path), str(run.eye), str(tmp_path / "finished"))
    (file,) = (tmp_path / "finished").glob("*.png")
    finished = imageio.v3.imread(file).astype(float)
    covered = (finished[..., 3] > 128).mean()
    assert 0.1 < covered < 0.7

    def difference(other):
        return np.abs(live - other)[..., 3].mean() / 255.0

    assert difference(finished) < 0.05
    assert difference(finished[::-1]) > 0.08
    assert difference(finished[:, ::-1]) > 0.08
    both = (live[..., 3] > 128) & (finished[..., 3] > 128)
    assert np.abs(live - finished)[both, :3].mean() < 25.0, "shown in the same colours"


def test_what_belongs_to_an_earlier_run_goes_with_it(views, tmp_path):
    run = protocol.RunFolder(tmp_path / "run")
    settings = TrainingSettings(max_steps=3, **SMALL)
    runs.train(views, run.path, settings)
    run.live.write_bytes(b"a picture")
    run.scene.write_bytes(b"the scene's settings")
    runs.train(views, run.path, dataclasses.replace(settings, max_steps=2))
    assert not run.live.exists()
    assert not run.scene.exists()
    assert (tmp_path / "run.1" / "live.png").read_bytes() == b"a picture"
    assert (tmp_path / "run.1" / "scene.json").read_bytes() == b"the scene's settings"


def test_a_run_says_how_its_views_were_displayed(views, mesh, tmp_path):
    settings = TrainingSettings(max_steps=2, **SMALL)
    for field, source, display in (("nerf", views, {"view_transform": "AgX"}), ("sdf", mesh, None)):
        run = protocol.RunFolder(tmp_path / field)
        runs.train(source, run.path, dataclasses.replace(settings, field=field))
        assert read_config(run).display == display
