import dataclasses
import math

import numpy as np
import pytest
import torch

from neural_backend.dataset.colour import srgb_from_linear
from neural_backend.dataset.transforms import Intrinsics
from neural_backend.kernels import choose
from neural_backend.rendering import volume
from neural_backend.sampling.occupancy import full_grid

CPU = torch.device("cpu")
KERNELS = choose(CPU)
STEP = math.sqrt(3.0) / 512


class Slab(torch.nn.Module):
    """A wall in the box: density between two heights, colours that say where it was seen."""

    linear = False

    def __init__(self, low, high, density):
        super().__init__()
        self.low, self.high, self.value = low, high, density
        self.asked = 0

    def encode(self, x, known=None):
        return x if known is None else known

    def density_of(self, x):
        self.asked += len(x)
        inside = (x[:, 2] >= self.low) & (x[:, 2] < self.high)
        return self.value * inside.to(torch.float32), x

    def radiance(self, x, d, ray):
        return torch.stack([x[:, 0], x[:, 1], -d[ray, 2]], -1)

    def network(self):
        return None

    def render(self, origins, directions, samples):
        return KERNELS.render(self, origins, directions, samples)


def above(distance=2.0):
    pose = np.eye(4)
    pose[:3, 3] = 0.5, 0.5, distance
    return pose


INTRINSICS = Intrinsics(8, 6, 20.0, 20.0, 4.0, 3.0)


def render(field, intrinsics=INTRINSICS):
    grid = full_grid(16, STEP, CPU)
    pose, identity = above(), np.eye(4)
    return volume.render_image(field, grid, intrinsics, pose, identity, KERNELS)


def test_a_translucent_slab_has_beers_alpha():
    image = render(Slab(0.25, 0.75, 2.0))
    assert image.shape == (6, 8, 4)
    # a ray's way through the slab is 0.5 over the cosine of its angle
    x, y = (np.arange(8) + 0.5 - 4) / 20, (np.arange(6) + 0.5 - 3) / 20
    lengthening = np.sqrt(1 + x[None, :] ** 2 + y[:, None] ** 2)
    expected = 1 - np.exp(-2.0 * 0.5 * lengthening)
    np.testing.assert_allclose(image[..., 3], expected, atol=0.01)


def test_an_opaque_wall_is_seen_where_it_stands():
    image = render(Slab(0.25, 0.5, 1e5))
    assert float(image[..., 3].min()) > 0.999
    # pixel (row, column) meets z = 0.5 at 1.5 times its slope from the middle
    row, column = 1, 6
    x, y = 0.5 + 1.5 * (column + 0.5 - 4) / 20, 0.5 - 1.5 * (row + 0.5 - 3) / 20
    assert image[row, column, :2].tolist() == pytest.approx([x, y], abs=0.003)


def test_colours_are_straight_and_become_srgb_once():
    """Half transparent, the wall has the colours that it has when it is opaque."""
    thin = Slab(0.49, 0.5, math.log(2.0) / 0.01)
    image = render(thin)
    assert 0.4 < float(image[..., 3].min()) <= float(image[..., 3].max()) < 0.6
    # the middle of the image looks at the middle of the box
    assert image[3, 4, :2].tolist() == pytest.approx([0.54, 0.46], abs=0.01)
    thin.linear = True
    linear = render(thin)
    assert torch.equal(linear[..., 3], image[..., 3])
    expected = srgb_from_linear(image[..., :3])
    torch.testing.assert_close(linear[..., :3], expected, atol=1e-5, rtol=0.0)


def looked_at(field):
    grid = full_grid(16, STEP, CPU)
    origins, directions = torch.tensor([[0.5, 0.5, 2.0]]), torch.tensor([[0.0, 0.0, -1.0]])
    samples = volume.march(origins, directions, grid, KERNELS)
    _, alpha = KERNELS.render(field, origins, directions, samples)
    return field.asked, len(samples), float(alpha)


def test_what_is_hidden_is_left_out():
    asked, there, alpha = looked_at(Slab(0.1, 0.98, 3000.0))
    # what lies in front of the wall and a little of it
    assert round(0.02 / STEP) <= asked < 40 < there
    assert alpha == pytest.approx(1.0, abs=2e-4)


def test_a_thin_fog_is_kept_whole():
    asked, there, alpha = looked_at(Slab(0.0, 1.0, 0.1))
    assert asked == 2 * there
    assert alpha == pytest.approx(1.0 - math.exp(-0.1), abs=1e-3)


def test_a_smaller_picture_of_the_same():
    small = volume.scaled(dataclasses.replace(INTRINSICS, w=800, h=600, cx=410.0, cy=300.0), 200)
    assert (small.w, small.h) == (200, 150)
    assert (small.fl_x, small.cx, small.cy) == (5.0, 102.5, 75.0)
    assert volume.scaled(INTRINSICS, 200) == INTRINSICS
