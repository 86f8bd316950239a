"""Cameras around something, and the steps of a training, for tests of fields from views."""

from __future__ import annotations

import numpy as np
import torch

from neural_backend.dataset.transforms import Intrinsics


def looking_at(centre: np.ndarray, eye: np.ndarray) -> np.ndarray:
    """[4, 4] a camera's pose."""
    z = (eye - centre) / np.linalg.norm(eye - centre)
    x = np.cross([0.0, 0.0, 1.0], z)
    x /= np.linalg.norm(x)
    pose = np.eye(4)
    pose[:3] = np.stack([x, np.cross(z, x), z, eye], 1)
    return pose


def around(centre: np.ndarray, distance: float, count: int, first=-0.9, last=0.9) -> list:
    """Poses of cameras that look at a centre from a spiral of points on a sphere.

    Args:
        first, last: between which parts of the sphere's radius their heights are.
    """
    poses = []
    for index in range(count):
        height, angle = first + (last - first) * (index + 0.5) / count, 2.4 * index
        ring = np.sqrt(1 - height * height)
        way = np.array([ring * np.cos(angle), ring * np.sin(angle), height])
        poses.append(looking_at(centre, centre + distance * way))
    return poses


def pixel_rays(pose: np.ndarray, intrinsics: Intrinsics) -> np.ndarray:
    """[H, W, 3] the directions of the pixels' rays, each as long as planar depth is 1."""
    x, y = np.meshgrid(np.arange(intrinsics.w) + 0.5, np.arange(intrinsics.h) + 0.5)
    right, down = (x - intrinsics.cx) / intrinsics.fl_x, (y - intrinsics.cy) / intrinsics.fl_y
    return np.stack([right, -down, -np.ones_like(x)], -1) @ pose[:3, :3].T


def train(trained, steps, first=0, of=None):
    """The last of some steps' losses; they are those from ``first`` on of as many as ``of``."""
    for step in range(first, first + steps):
        loss = trained.step(step / (of or steps)).loss
    return float(loss)


def check_that_it_goes_on_exactly(task, steps):
    """That as many steps more are the same after a checkpoint; ``task()`` makes a task."""
    whole = task()
    train(whole, 2 * steps, of=2 * steps)
    first = task()
    train(first, steps, of=2 * steps)
    state = {name: value.clone() for name, value in first.state().items()}
    second = task()
    second.load_state(state)
    train(second, steps, first=steps, of=2 * steps)
    expected = whole.state()
    for name, value in second.state().items():
        assert torch.equal(value, expected[name]), name
