"""What tests of whole trainings share: data to train on, and processes."""

from __future__ import annotations

import os
import pathlib
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator

import imageio.v3
import numpy as np
import pytest
import torch
import trimesh

from neural_backend import kernels
from neural_backend.dataset import transforms
from neural_backend.dataset.transforms import Dataset, Intrinsics, View

from .scenes import around, pixel_rays

ROOT = pathlib.Path(__file__).resolve().parents[3]
SCRIPT = pathlib.Path(__file__).parent / "ranks_script.py"
SIZE, FOCAL, DISTANCE, RADIUS = 32, 40.0, 3.0, 0.8


@pytest.fixture(scope="session")
def views(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """A dataset's folder: a striped ball, 12 views to train on, 4 to test."""
    folder = tmp_path_factory.mktemp("views")
    intrinsics = Intrinsics(SIZE, SIZE, FOCAL, FOCAL, SIZE / 2, SIZE / 2)
    views = []
    for index, pose in enumerate(around(np.zeros(3), DISTANCE, 16)):
        rays = pixel_rays(pose, intrinsics)
        rays /= np.linalg.norm(rays, axis=-1, keepdims=True)
        towards = -rays @ pose[:3, 3]
        square = towards**2 - DISTANCE**2 + RADIUS**2
        point = pose[:3, 3] + (towards - np.sqrt(np.maximum(square, 0.0)))[..., None] * rays
        image = np.zeros((SIZE, SIZE, 4))
        image[..., :3] = 0.5 + 0.4 * np.sin(4.0 * point + [0.0, 1.0, 2.0])
        image[..., 3] = 1.0
        image[square <= 0.0] = 0.0
        split = "test" if index % 4 == 3 else "train"
        views.append(View(f"{index}.png", pose, intrinsics, split))
        imageio.v3.imwrite(folder / f"{index}.png", np.round(255 * image).astype(np.uint8))
    box = np.array([[-RADIUS] * 3, [RADIUS] * 3])
    transforms.write(Dataset(folder, tuple(views), box, display={"view_transform": "AgX"}))
    return folder


@pytest.fixture(scope="session")
def mesh(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    path = tmp_path_factory.mktemp("mesh") / "ball.ply"
    trimesh.creation.icosphere(2, 3.0).export(path)
    return path


Start = Callable[..., subprocess.Popen]


@pytest.fixture
def start() -> Iterator[Start]:
    """Starts Python with some arguments, on one core; what is left of it ends with the test."""
    # here, so that none of them does: what a process has compiled itself rounds differently
    kernels.choose(torch.device("cpu"))
    started = []

    def begin(
        *arguments: object, stdin: int = subprocess.DEVNULL, **environment: object
    ) -> subprocess.Popen:
        given = {"OMP_NUM_THREADS": 1, "PYTHONPATH": ROOT} | environment
        process = subprocess.Popen(
            [sys.executable, *map(str, arguments)],
            cwd=ROOT,
            env=os.environ | {name: str(value) for name, value in given.items()},
            stdin=stdin,
            stderr=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        return process

    yield begin
    for process in started:
        process.kill()
        process.wait()
        process.stderr.close()


@pytest.fixture
def launch(start: Start) -> Start:
    """Starts the program with two processes, as a person does: with torch's launcher."""

    def begin(*arguments: object) -> subprocess.Popen:
        launcher = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2")
        return start(*launcher, "-m", "--", "neural_backend", *arguments)

    return begin


@pytest.fixture
def pair(start: Start) -> Callable[..., list[subprocess.Popen]]:
    """Starts two ranks of the ranks' script, as torch's launcher would."""

    def begin(*arguments: object, stdin: int = subprocess.DEVNULL) -> list[subprocess.Popen]:
        with socket.socket() as free:
            free.bind(("localhost", 0))
            address = {"MASTER_ADDR": "localhost", "MASTER_PORT": free.getsockname()[1]}
        return [
            start(
                *(SCRIPT, *arguments),
                stdin=stdin,
                RANK=rank,
                LOCAL_RANK=rank,
                WORLD_SIZE=2,
                **address,
            )
            for rank in range(2)
        ]

    return begin
