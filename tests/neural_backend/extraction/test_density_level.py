"""Levels of densities that are known: where they are clear, and where they are not."""

import numpy as np
import pytest
import torch

from neural_backend.extraction import density_level, depth
from neural_backend.kernels.reference import ReferenceKernels
from neural_backend.sampling.occupancy import OccupancyGrid, coordinates
from neural_backend.sampling.rays import Cameras

CPU = torch.device("cpu")
KERNELS = ReferenceKernels(CPU)
DENSITIES = 10.0 ** np.linspace(-2.0, 4.0, 49)


class Field:
    def __init__(self, density):
        self.density = density


def asked(function, density, *more, within=0.34):
    """A function of the module, for a density that is looked at in a ball around the middle."""
    cameras = Cameras(depth.chosen(depth.all_around(np.eye(4)), 24), np.eye(4), CPU)
    cells = (coordinates(torch.arange(32**3), 32) + 0.5) / 32
    grid = OccupancyGrid((radius(cells) < within).view(32, 32, 32), 1.0 / 256)
    return function(Field(density), grid, KERNELS, cameras, *more)


def radius(points):
    return (points - 0.5).norm(dim=1)


def ball(points):
    """As training leaves it: a thin veil around a dense ball, both uneven."""
    uneven = torch.exp(torch.sin(300.0 * points).sum(1) / 2.0)
    return uneven * torch.where(radius(points) < 0.3, 60.0, 0.3)


def peak(at, height, width=0.3):
    return height * np.exp(-0.5 * ((np.log10(DENSITIES) - at) / width) ** 2)


def test_the_level_lies_in_the_valley_between_two_peaks():
    level = density_level.valley(peak(0.0, 1.0) + peak(2.0, 0.5), DENSITIES)
    assert 0.9 < np.log10(level) < 1.2
    # the middle of an empty floor
    level = density_level.valley(peak(-1.0, 1.0, 0.1) + peak(3.0, 1.0, 0.1), DENSITIES)
    assert np.log10(level) == pytest.approx(1.0, abs=0.1)
    # of two valleys the deeper one
    level = density_level.valley(peak(-1.0, 1.0) + peak(0.4, 0.9) + peak(3.0, 0.8), DENSITIES)
    assert 1.4 < np.log10(level) < 2.4


@pytest.mark.parametrize(
    "shares",
    [peak(1.0, 1.0, 0.8), peak(1.0, 1.0) + peak(1.7, 0.8), peak(0.0, 1.0) + peak(2.5, 0.01)],
    ids=["one peak", "no valley", "hardly a second one"],
)
def test_without_two_peaks_there_is_no_level(shares):
    assert density_level.valley(shares, DENSITIES) is None


def test_the_histogram_is_of_what_light_gets_to():
    def hidden(points):
        return torch.where(radius(points) < 0.15, 1e4, ball(points))

    shares, densities = asked(density_level.histogram, hidden)
    assert shares.sum() == pytest.approx(1.0)
    assert shares[densities > 3000.0].sum() < 1e-4
    assert shares[densities < 2.0].sum() > 0.4
    assert shares[(densities > 10.0) & (densities < 300.0)].sum() > 0.1


def test_a_level_is_as_far_off_as_its_surface_is():
    for away in (0.004, 0.5):

        def shells(points, away=away):
            outer = torch.where(radius(points) < 0.3 + away, 20.0, 0.0)
            return torch.where(radius(points) < 0.3, 3000.0, outer)

        found = asked(density_level.apart, shells, 10.0)
        if away < 0.1:
            assert 0.5 * away * 64 < found < 1.5 * away * 64
    assert asked(density_level.apart, shells, 1e6) == 1.0
    assert asked(density_level.apart, lambda points: 0.0 * points[:, 0], 10.0) == 1.0


def test_a_ball_s_level_is_between_it_and_its_veil():
    level = asked(density_level.clear_level, ball)
    assert 2.0 < level < 15.0


def test_haze_has_no_level():
    def cloud(points):
        return 60.0 * torch.exp(-0.5 * (radius(points) / 0.15) ** 2)

    assert asked(density_level.clear_level, cloud) is None


def test_a_level_that_light_does_not_stop_at_is_none():
    """Veils as thick as half a surface, and a ball behind them."""

    def veiled(points):
        return torch.where(radius(points) < 0.2, 3000.0, torch.where(radius(points) < 0.4, 2.0, 0))

    shares, densities = asked(density_level.histogram, veiled, within=0.42)
    assert density_level.valley(shares, densities) < 2.0
    assert asked(density_level.clear_level, veiled, within=0.42) is None
