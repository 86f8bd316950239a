"""A ball of known density and colour, sampled: where its voxels lie and what they hold."""

import numpy as np
import pytest
import torch

from neural_backend.extraction import radiance_volume
from neural_backend.protocol import BadInput
from neural_backend.sampling.occupancy import OccupancyGrid

CENTRE, RADIUS = torch.tensor([0.45, 0.5, 0.6]), 0.2
TURN = np.array([[0.0, -1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 1.0]])
SCALE = 0.1


class Ball:
    """Dense where it is; its colour is where it is looked at from."""

    def __init__(self, density, linear=True):
        self._density, self.linear = density, linear

    def density(self, x):
        return torch.where((x - CENTRE).norm(dim=1) < RADIUS, self._density, 0.0)

    def __call__(self, x, d):
        return self.density(x), 0.5 - 0.5 * d


def grid(size=16, empty=False):
    cells = torch.stack(torch.meshgrid(*[(torch.arange(size) + 0.5) / size] * 3, indexing="ij"), -1)
    near = (cells - CENTRE).norm(dim=-1) < RADIUS + 2.0 / size
    found = OccupancyGrid(torch.ones_like(near), 0.01)
    found.occupied = near & (not empty)
    return found


def field_from_world():
    matrix = np.eye(4)
    matrix[:3, :3] = SCALE * TURN
    matrix[:3, 3] = (0.3, 0.1, -0.2)
    return matrix


def sampled(density, linear=True, resolution=40):
    return radiance_volume.sampled(Ball(density, linear), grid(), field_from_world(), resolution)


def in_field(voxels):
    matrix = field_from_world() @ voxels.world_from_index
    return voxels.index @ matrix[:3, :3].T + matrix[:3, 3]


def test_voxels_stand_where_the_field_is_dense():
    voxels = sampled(10.0)
    offset = in_field(voxels) - CENTRE.numpy()
    far = np.linalg.norm(offset, axis=1)
    held = voxels.density > 0.0
    edge = SCALE * np.linalg.norm(voxels.world_from_index[:3, 0])
    assert edge == pytest.approx((2 * RADIUS + 4 / 16) / 40, rel=0.1)
    np.testing.assert_array_equal(held, far < RADIUS)
    assert held.sum() * edge**3 == pytest.approx(4 / 3 * np.pi * RADIUS**3, rel=0.02)
    np.testing.assert_allclose(offset[held].mean(0), 0.0, atol=0.02 * edge)
    # the neighbours of what is held have a colour too, and nothing else is there
    assert 0 < (~held).sum() < held.sum()
    assert far.max() < RADIUS + 2.0 * edge
    # light gets through a voxel as it does in the field
    np.testing.assert_allclose(voxels.density[held], 10.0 * edge, rtol=1e-3)


def test_a_voxel_has_the_colour_that_is_seen_from_outside():
    voxels = sampled(200.0)
    offset = in_field(voxels) - CENTRE.numpy()
    far = np.linalg.norm(offset, axis=1)
    rim = np.abs(far - RADIUS) < 0.01
    assert rim.sum() > 300
    seen_from = 2.0 * voxels.color[rim].astype(float) - 1.0
    cosine = (seen_from * offset[rim] / far[rim, None]).sum(1)
    assert np.median(cosine) > 0.9
    assert cosine.min() > 0.5


def test_colours_are_linear_light():
    linear, srgb = (sampled(200.0, kind).color.astype(float) for kind in (True, False))
    expected = np.where(linear <= 0.04045, linear / 12.92, ((linear + 0.055) / 1.055) ** 2.4)
    np.testing.assert_allclose(srgb, expected, atol=2e-3)
    assert np.abs(srgb - linear).max() > 0.1


def test_what_nobody_can_see_through_is_not_denser_than_it_must_be():
    assert sampled(1e6).density.max() == pytest.approx(4.6, abs=0.01)


def test_an_empty_field_is_said():
    with pytest.raises(BadInput, match="empty inside its bounds; train longer"):
        radiance_volume.sampled(Ball(1.0), grid(empty=True), np.eye(4), 16)
    with pytest.raises(BadInput, match="empty"):
        sampled(1e-3)
