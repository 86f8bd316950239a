import numpy as np
import pytest
import torch

from neural_backend.dataset.transforms import Intrinsics, View
from neural_backend.sampling import pixels as module
from neural_backend.sampling.pixels import BY_ERROR, Pixels
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
    found, row, column = pixels.draw(count, torch.Generator().manual_seed(0))[:3]
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


def noting(pixels, steps, seed=0):
    """Note an error that is one on the left half of a view, and a hundredth of it on the right."""
    generator = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        drawn = pixels.draw(500, generator)
        pixels.note_errors(drawn.tile, torch.where(drawn.column < 32, 1.0, 1e-4))


def test_pixels_are_drawn_in_proportion_to_their_errors_beside_an_even_part():
    pixels = Pixels(cameras((48, 64)), None)
    noting(pixels, 400)
    drawn = pixels.draw(100_000, torch.Generator().manual_seed(1))
    left = drawn.column < 32
    # a tile that was seldom drawn has something of the mean
    expected = BY_ERROR / 1.01 + (1.0 - BY_ERROR) / 2
    assert float(left.float().mean()) == pytest.approx(expected, abs=0.04)
    # weighted, they are drawn evenly
    assert float(drawn.weight.mean()) == pytest.approx(1.0, abs=0.02)
    assert float((drawn.weight * left).mean()) == pytest.approx(0.5, abs=0.02)


def test_without_errors_all_tiles_stay_alike():
    pixels = Pixels(cameras((48, 64)), None)
    generator = torch.Generator().manual_seed(0)
    for _ in range(100):
        pixels.note_errors(pixels.draw(50, generator).tile, torch.zeros(50))
    weight = pixels.draw(1000, generator).weight
    assert torch.isfinite(weight).all()
    torch.testing.assert_close(weight, torch.ones_like(weight))


def test_what_is_known_of_errors_is_taken_up_between_two_shares():
    first, second = (Pixels(cameras((48, 64)), None) for _ in range(2))
    noting(first, 90)
    second.load_state({name: value.clone() for name, value in first.state().items()})
    for pixels in (first, second):
        noting(pixels, 40, seed=2)
    draws = [pixels.draw(1000, torch.Generator().manual_seed(3)) for pixels in (first, second)]
    for one, other in zip(*draws, strict=True):
        assert torch.equal(one, other)


def test_tiles_grow_with_the_number_of_pixels(monkeypatch):
    monkeypatch.setattr(module, "_MOST_TILES", 50)
    pixels = Pixels(cameras((48, 64), (48, 64)), None)
    assert len(pixels.state()["errors"]) <= 50
    assert (drawn(pixels, 1, (48, 64)) > 0).all()
