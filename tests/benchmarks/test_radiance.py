import json
import math
import pathlib
import subprocess
import sys

import imageio.v3
import numpy as np
import pytest
import torch

from benchmarks import classic_nerf, radiance
from benchmarks.classic_nerf import ClassicNerf
from benchmarks.radiance import Measured
from neural_backend.dataset import transforms
from neural_backend.dataset.transforms import Dataset, Intrinsics, View

SIZE = 8
RED = np.array([200, 20, 40, 255], np.uint8)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    """Eight tiny views of something red on nothing, from four units away."""
    folder = tmp_path_factory.mktemp("red")
    intrinsics = Intrinsics(SIZE, SIZE, 10.0, 10.0, SIZE / 2, SIZE / 2)
    image = np.zeros((SIZE, SIZE, 4), np.uint8)
    image[2:6, 2:6] = RED
    views = []
    for index in range(8):
        angle = index * math.pi / 4
        pose = np.eye(4)
        pose[:3, :3] = np.array(
            [
                [math.cos(angle), 0.0, math.sin(angle)],
                [0.0, 1.0, 0.0],
                [-math.sin(angle), 0.0, math.cos(angle)],
            ]
        )
        pose[:3, 3] = 4.0 * pose[:3, 2]
        split = "test" if index % 4 == 3 else "train"
        views.append(View(f"{index}.png", pose, intrinsics, split))
        imageio.v3.imwrite(folder / views[-1].file, image)
    made = Dataset(folder, tuple(views), np.array([[-1.5] * 3, [1.5] * 3]))
    transforms.write(made)
    return made


def run(*arguments):
    command = [sys.executable, radiance.__file__, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True)


def test_one_run(dataset, tmp_path):
    file = tmp_path / "figures.json"
    few = ("--device", "cpu", "--seconds", 1, "--pixels", 50, "--views", 1)
    done = run("--data", dataset.folder, *few, "--contestants", "hash", "nerfacc", "--json", file)
    assert done.returncode == 0, done.stderr
    report = json.loads(file.read_text())
    [figures] = report["results"]["hash"]
    assert figures["seconds"] == 1
    # on a busy machine that may be a single step
    assert figures["steps"] >= 1
    assert figures["samples_per_second"] > 0
    assert 3 < figures["psnr"] < 60
    assert 3 < figures["views_psnr"] < 60
    assert figures["seconds_per_view"] > 0
    # torch alone is larger than that; the process that started it is smaller
    assert 1e8 < figures["peak_memory"] < 5e9
    assert "not at hand" in report["absent"]["nerfacc"]
    assert f"({report['date']}, {report['commit']})" in done.stdout
    assert f"| hash | {figures['psnr']:.2f} | {figures['views_psnr']:.2f} |" in done.stdout
    assert f"    {report['command']}\n" in done.stdout
    assert report["machine"] in done.stdout


def test_bad_input_is_one_line(tmp_path):
    done = run("--data", tmp_path, "--seconds", 1, "--contestants", "hash")
    assert done.returncode != 0
    assert "Traceback" not in done.stderr
    assert "no transforms.json" in done.stderr


def test_the_classic_code_learns(dataset, monkeypatch):
    small = {"RAYS": 64, "BINS": 24, "SIGMA": 0.1, "LEARNING_RATE": 1e-3}
    for name, value in small.items():
        monkeypatch.setattr(classic_nerf, name, value)
    classic = ClassicNerf(dataset, torch.device("cpu"), 1)
    [view] = dataset.split("test")[:1]
    y, x = torch.meshgrid(torch.arange(SIZE) + 0.5, torch.arange(SIZE) + 0.5, indexing="ij")
    points = (torch.zeros(SIZE * SIZE, dtype=torch.int64), x.reshape(-1), y.reshape(-1))
    truth = torch.ones(SIZE, SIZE, 3)
    truth[2:6, 2:6] = torch.from_numpy(RED[:3]).float() / 255.0
    for step in range(90):
        assert classic.step(step / 90) == 64 * 24
    after = (classic.colours([view], *points).view(SIZE, SIZE, 3) - truth).square().mean()
    # all white would be .13
    assert after < 0.03


def test_test_pixels_are_always_the_same_and_of_all_views(dataset):
    truth, (view, x, y) = radiance._test_pixels(dataset, 100)
    assert view.bincount().tolist() == [50, 50]
    inside = (x > 2) & (x < 6) & (y > 2) & (y < 6)
    expected = torch.where(inside[:, None], torch.from_numpy(RED[:3]).float() / 255.0, 1.0)
    torch.testing.assert_close(truth, expected)
    assert torch.equal(radiance._test_pixels(dataset, 100)[0], truth)


def test_the_table_says_what_each_is_against_the_baseline():
    classic = [
        Measured(30.0, 10.0, None, None, 5, 50_000.0, 3_000_000_000, "a machine"),
        Measured(60.0, 11.0, 12.0, 80.0, 9, 50_000.0, 2_000_000_000, "a machine"),
    ]
    ours = [
        Measured(30.0, 25.5, None, None, 5, 2_000_000.0, 750_000_000, "a machine"),
        Measured(60.0, 28.0, 29.0, 0.5, 9, 2_000_000.0, None, "a machine"),
    ]
    lines = radiance.table({"classic": classic, "hash": ours}, {"nerfacc": "gone"}).splitlines()
    assert lines == [
        "|  | 30 s, dB | 60 s, dB | whole views, dB | M samples a second | peak memory, GB "
        "| seconds a view |",
        "| --- | --- | --- | --- | --- | --- | --- |",
        "| classic | 10.00 | 11.00 | 12.00 | 0.05 | 3 | 80 |",
        "| hash | 25.50 (+15.50) | 28.00 (+17.00) | 29.00 (+17.00) | 2 (40x) | 0.75 (0.25x) "
        "| 0.5 (0.00625x) |",
        "| nerfacc | gone | - | - | - | - | - |",
    ]
    alone = radiance.table({"hash": ours}, {}).splitlines()[-1]
    assert alone == "| hash | 25.50 | 28.00 | 29.00 | 2 | 0.75 | 0.5 |"


def test_what_this_process_has_had_in_memory():
    before = radiance.peak_memory()
    if before is None:
        pytest.skip("this system does not say how much memory a process has had")
    held = bytearray(int(before) + 2**26)
    after = radiance.peak_memory()
    assert after >= len(held) > before


def test_the_sources_are_named():
    assert radiance.commit().rstrip("+").isalnum()
    assert pathlib.Path(radiance.__file__).parent.parent == radiance.ROOT
