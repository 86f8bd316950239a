import dataclasses

import numpy as np
import pytest
import torch

from neural_backend.dataset import exr
from neural_backend.dataset.images import Images
from neural_backend.dataset.transforms import FILL, Dataset, Intrinsics, View
from neural_backend.protocol import BadInput
from neural_backend.sampling.occupancy import coordinates
from neural_backend.sampling.rays import Cameras
from neural_backend.sampling.seen_surfaces import SeenSurfaces

CPU = torch.device("cpu")
SIZE = 128
SCALE, OFFSET = 4.0, np.array([7.0, -3.0, 2.0])
"""World space is the tests' field space, this much larger and elsewhere."""


def looking(axis):
    """A camera on the positive side of an axis that looks at the unit box's middle."""
    z, x = np.eye(3)[axis], np.eye(3)[(axis + 1) % 3]
    pose = np.eye(4)
    pose[:3] = np.stack([x, np.cross(z, x), z, 0.5 + 3.0 * z], 1)
    return pose


def distances(size):
    """[size, size, size] of a grid's middles from the unit box's."""
    middles = (coordinates(torch.arange(size**3), size) + 0.5) / size
    return (middles - 0.5).norm(dim=1).view(size, size, size)


@pytest.fixture
def ball(tmp_path):
    """A ball of radius .2 in the unit box's middle, seen along the axes, with exact passes."""
    k = Intrinsics(SIZE, SIZE, 1.1 * SIZE, 1.1 * SIZE, SIZE / 2, SIZE / 2)
    x, y = np.meshgrid(np.arange(SIZE) + 0.5, np.arange(SIZE) + 0.5)
    local = np.stack([(x - k.cx) / k.fl_x, -(y - k.cy) / k.fl_y, -np.ones_like(x)], -1)
    views, images = [], []
    for axis in range(3):
        pose = looking(axis)
        ray, eye = local @ pose[:3, :3].T, pose[:3, 3] - 0.5
        a, b, c = (ray**2).sum(-1), ray @ eye, eye @ eye - 0.2**2
        inside = b * b - a * c
        depth = np.where(inside > 0.0, (-b - np.sqrt(np.maximum(inside, 0.0))) / a, 0.0)
        normal = np.where(depth[..., None] > 0.0, (eye + depth[..., None] * ray) / 0.2, 0.0)
        exr.write(tmp_path / f"d{axis}.exr", {"Y": (SCALE * depth).astype(np.float32)})
        channels = zip("RGB", np.moveaxis(normal.astype(np.float16), -1, 0), strict=True)
        exr.write(tmp_path / f"n{axis}.exr", dict(channels))
        pose[:3, 3] = SCALE * pose[:3, 3] + OFFSET
        views.append(View("", pose, k, depth=f"d{axis}.exr", normal=f"n{axis}.exr"))
        images.append(np.where(depth > 0.0, 255, 0).astype(np.uint8).repeat(4).reshape(-1, 4))
    # the bounds that make field space of it
    half = 0.5 * SCALE * FILL
    middle = OFFSET + 0.5 * SCALE
    dataset = Dataset(tmp_path, tuple(views), np.stack([middle - half, middle + half]))
    pixels = torch.from_numpy(np.concatenate(images))
    return dataset, Images(tuple(views), pixels, torch.arange(4) * SIZE**2)


def seen(dataset, images):
    cameras = Cameras(images.views, dataset.field_from_world, CPU)
    return cameras, SeenSurfaces(dataset, images, cameras)


def test_rays_end_on_the_ball(ball):
    cameras, found = seen(*ball)
    pixel = torch.arange(3 * SIZE**2)
    view, place = pixel // SIZE**2, pixel % SIZE**2
    origins, directions = cameras.rays(view, place % SIZE + 0.5, place // SIZE + 0.5)
    hit = found.along.isfinite()
    assert 0.01 < hit.float().mean() < 0.1
    points = origins[hit] + found.along[hit, None] * directions[hit] - 0.5
    assert (points.norm(dim=1) - 0.2).abs().max() < 1e-4
    assert (found.normals[hit].float() - points / 0.2).abs().max() < 3e-3
    # beside it there is nothing, which is known
    assert found.along[~hit].isposinf().all()


def test_views_without_passes_tell_nothing(ball):
    dataset, images = ball
    views = (*images.views[:2], dataclasses.replace(images.views[2], depth=None, normal=None))
    _, found = seen(dataset, dataclasses.replace(images, views=views))
    assert found.along[-(SIZE**2) :].isnan().all()
    assert not found.normals[-(SIZE**2) :].any()
    assert not found.along[: 2 * SIZE**2].isnan().any()


def test_opaque_pixels_without_depth_are_not_known(ball):
    dataset, images = ball
    opaque = dataclasses.replace(images, pixels=torch.full_like(images.pixels, 255))
    _, found = seen(dataset, opaque)
    assert found.along[0].isnan()
    assert found.along.isfinite().any()


def spoilt(dataset, name, channels, value, part):
    """Put a value into a part of the ball's pixels of a file."""
    path = dataset.folder / name
    content = {key: each.copy() for key, each in exr.read_channels(path).items()}
    rows, columns = np.nonzero(content[channels[0]])
    some = slice(int(part * len(rows)))
    for channel in channels:
        content[channel][rows[some], columns[some]] = value
    content[channels[0]][0, 0] = np.nan  # where nothing is shown
    exr.write(path, content)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_what_is_no_number_is_told_and_not_known(ball, value):
    dataset, images = ball
    _, whole = seen(dataset, images)
    assert whole.damaged == []
    spoilt(dataset, "d0.exr", "Y", value, 0.1)
    spoilt(dataset, "n1.exr", "RGB", value, 0.1)
    _, found = seen(dataset, images)
    assert found.damaged == [str(dataset.folder / name) for name in ("d0.exr", "n1.exr")]
    hit = whole.along.isfinite()
    first = torch.arange(len(hit)) < SIZE**2
    lost = found.along.isnan()
    assert 0.05 < lost[hit & first].float().mean() < 0.15
    assert not lost[~(hit & first)].any()
    assert found.normals.isfinite().all()
    known = found.normals.any(1) == whole.normals.any(1)
    assert 0.01 < 1.0 - known[hit].float().mean() < 0.06


def test_files_that_are_mostly_nan_are_refused(ball):
    spoilt(ball[0], "n2.exr", "RGB", np.nan, 0.7)
    with pytest.raises(BadInput, match=r"n2\.exr: most of what the image shows is NaN"):
        seen(*ball)


def test_what_lies_before_the_ball_is_empty(ball):
    _, found = seen(*ball)
    distance = distances(32)
    free = found.in_front(torch.ones_like(distance, dtype=torch.bool))
    assert not free[distance < 0.2 - 0.5 * 3**0.5 / 32].any()
    # two of the cameras look past the ball's top
    assert free[16, 16, 26]
    assert free[(distance > 0.4) & (distance < 0.45)].float().mean() > 0.9
    # only what was asked for
    assert not found.in_front(distance < 0.3)[distance >= 0.3].any()


def test_what_lies_behind_the_ball_may_not_be(ball):
    dataset, images = ball
    above = Images(images.views[2:], images.pixels[2 * SIZE**2 :], torch.tensor([0, SIZE**2]))
    _, found = seen(dataset, above)
    free = found.in_front(torch.ones(32, 32, 32, dtype=torch.bool))
    assert free[16, 16, 26]
    assert not free[16, 16, 5]
