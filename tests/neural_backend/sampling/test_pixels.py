import numpy as np
import pytest
import torch

from neural_backend.dataset.transforms import Intrinsics, View
from neural_backend.sampling.pixels import Pixels
from neural_backend.sampling.rays import Cameras, intersect_box

CPU = torch.device("cpu")


def cameras(*sizes, focal=60.0):
    """Cameras above the unit box that look down on its middle."""
    pose = np.eye(4)
    pose[:3, 3] = 0.5, 0.5, 2.0
    views = [View("", pose, Intrinsics(w, h, focal, focal, w / 2, h / 2)) for h, w in sizes]
    return Cameras(views, np.eye(4), CPU)


def cells(low, high, size=32):
    found = torch.zeros(size, size, size, dtype=torch.bool)
    found[
        tuple(slice(round(a * size), round(b * size)) for a, b in zip(low, high, strict=True))
    ] = True
    return found


def drawn(pixels, view, shape, count=200_000):
    """How often each pixel of a view is drawn."""
    found, row, column = pixels.draw(count, torch.Generator().manual_seed(0))
    mine = found == view
    h, w = shape
    assert int(row[mine].max()) < h
    assert int(column[mine].max()) < w
    return torch.bincount(row[mine] * w + column[mine], minlength=h * w).view(h, w)


@pytest.mark.parametrize("low", [(0.25, 0.5, 0.0), (0.0, 0.0, 0.75)])
@pytest.mark.parametrize("focal", [20.0, 60.0])
def test_every_ray_that_meets_something_and_few_others(low, focal):
    high = tuple(each + 0.25 for each in low)
    seen = cameras((48, 64), focal=focal)
    times = drawn(Pixels(seen, cells(low, high)), 0, (48, 64))
    row, column = torch.meshgrid(torch.arange(48) + 0.5, torch.arange(64) + 0.5, indexing="ij")
    rays = seen.rays(torch.zeros(48 * 64, dtype=torch.int64), column.reshape(-1), row.reshape(-1))
    near, far = intersect_box(*rays, torch.tensor(low), torch.tensor(high))
    meets = (near < far).view(48, 64)
    assert meets.any()
    assert (times[meets] > 0).all()
    assert int((times > 0).sum()) < int(meets.sum()) + 900


def test_all_pixels_alike_where_everything_is_possible():
    times = drawn(Pixels(cameras((16, 24), (16, 24)), None), 1, (16, 24))
    mean = 200_000 / 2 / times.numel()
    assert float((times / mean - 1.0).abs().max()) < 0.35


@pytest.mark.parametrize("lens", [None, (0.1, -0.05, 0.01, 0.001, -0.001)])
def test_a_camera_within_the_cells_draws_all(lens):
    inside = cameras((16, 24))
    inside.origins[:] = 0.5
    inside.lenses = None if lens is None else torch.tensor([lens])
    times = drawn(Pixels(inside, cells((0.4, 0.4, 0.4), (0.6, 0.6, 0.6))), 0, (16, 24))
    assert (times > 0).all()


def test_sizes_that_are_no_whole_tiles():
    sizes = (13, 30), (5, 3)
    for view, size in enumerate(sizes):
        assert (drawn(Pixels(cameras(*sizes), None), view, size) > 0).all()
