"""A field beside the images of its dataset, as a picture and as numbers."""

import json
import shutil

import imageio.v3
import numpy as np
import pytest

from neural_backend import actions, command_line
from neural_backend.config import TrainingSettings
from neural_backend.dataset import transforms
from neural_backend.protocol import BadInput
from neural_backend.training import run as runs

TINY = TrainingSettings(
    device="cpu", batch=2048, levels=4, log2_table_size=10, finest=32, max_steps=20
)
SIZE, TIMES = 32, 8
"""Pixels of the views along an edge, and how many times they are magnified."""


@pytest.fixture(scope="module")
def trained(views, tmp_path_factory):
    """A run of a few steps, and its dataset."""
    folder = tmp_path_factory.mktemp("trained")
    shutil.copytree(views, folder / "dataset")
    runs.train(folder / "dataset", folder / "run", TINY)
    return folder


def test_the_field_stands_beside_the_images(trained, capsys):
    arguments = ["compare", str(trained / "run"), "--output", str(trained / "out.png"), "--json"]
    for _ in range(2):
        assert command_line.run([*arguments, "--views", "2"]) == 0
    scores = json.loads(capsys.readouterr().out.splitlines()[-1])
    measured = actions.evaluate(str(trained / "run"), "test", 2)
    assert scores["views"] == 2
    for name in ("psnr", "ssim"):
        assert scores[name] == pytest.approx(measured[name], abs=1e-6)
    picture = imageio.v3.imread(trained / "out.png").astype(float) / 255.0
    edge = SIZE * TIMES
    columns = [8 + k * (edge + 8) for k in range(3)]
    rows = np.linspace(0, picture.shape[0], 3)[:2].astype(int) + picture.shape[0] // 2 - 8 - edge
    squares = []
    for row, name in zip(rows, ("7.png", "15.png"), strict=True):
        panels = [
            picture[row : row + edge, left : left + edge][::TIMES, ::TIMES] for left in columns
        ]
        image = imageio.v3.imread(trained / "dataset" / name).astype(float) / 255.0
        truth = image[..., :3] * image[..., 3:] + 1.0 - image[..., 3:]
        np.testing.assert_allclose(panels[0], truth, atol=0.01)
        difference = 4 * np.abs(panels[1] - panels[0])
        np.testing.assert_allclose(panels[2], difference.clip(0.0, 1.0), atol=0.025)
        squares.append(-10 * np.log10(((panels[1] - panels[0]) ** 2).mean()))
    assert np.mean(squares) == pytest.approx(scores["psnr"], abs=0.1)


def test_other_views_where_there_are_no_test_views(trained, tmp_path):
    dataset = transforms.read(trained / "dataset")
    few = tuple(view for view in dataset.views if view.split == "train")[:2]
    shutil.copytree(trained / "dataset", tmp_path / "moved")
    transforms.write(transforms.Dataset(tmp_path / "moved", few, dataset.bounds))
    arguments = (str(trained / "run"), str(tmp_path / "out.png"))
    assert actions.compare(*arguments, None, 0, str(tmp_path / "moved"))["views"] == 2
    with pytest.raises(BadInput, match="no val views; choose another split"):
        actions.compare(*arguments, "val", 0)


def test_a_picture_of_one_s_own_is_not_replaced(trained, tmp_path):
    own = tmp_path / "out.png"
    imageio.v3.imwrite(own, np.zeros((2, 2, 3), np.uint8))
    before = own.read_bytes()
    with pytest.raises(BadInput, match=r"holds out\.png, which Neural Fields did not write"):
        actions.compare(str(trained / "run"), str(own), None, 1)
    assert own.read_bytes() == before


def test_a_signed_distance_has_nothing_to_stand_beside(mesh, tmp_path):
    settings = TrainingSettings(
        field="sdf", device="cpu", batch=512, levels=4, log2_table_size=10, max_steps=2
    )
    runs.train(mesh, tmp_path / "run", settings)
    with pytest.raises(BadInput, match="trained on geometry and has no views to compare with"):
        actions.compare(str(tmp_path / "run"), str(tmp_path / "out.png"), None, 1)
