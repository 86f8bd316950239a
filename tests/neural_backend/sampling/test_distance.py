import pytest
import torch

from neural_backend.sampling import distance


def test_distances_are_those_of_a_search():
    cells = torch.rand(9, 9, 9, generator=torch.Generator().manual_seed(0)) < 0.02
    assert cells.any()
    places = torch.stack(torch.meshgrid(*[torch.arange(9.0)] * 3, indexing="ij"), -1)
    expected = torch.cdist(places.view(-1, 3), places[cells]).amin(1).view(9, 9, 9)
    torch.testing.assert_close(distance.to_cells(cells), expected)
    assert distance.to_cells(torch.zeros_like(cells)).isinf().all()


def test_a_balls_distance_has_its_sign_and_length():
    size = 32
    places = (torch.arange(size) + 0.5) / size - 0.5
    radius = torch.stack(torch.meshgrid(places, places, places, indexing="ij"), -1).norm(dim=-1)
    signed = distance.signed(radius < 0.3)
    assert (signed - (radius - 0.3)).abs().max() < 1.0 / size
    # a box that is full ends at its wall
    full = distance.signed(torch.ones(4, 4, 4, dtype=torch.bool))
    assert full[0, 2, 2].item() == pytest.approx(-0.125)
    assert full[1, 2, 2].item() == pytest.approx(-0.375)
    empty = distance.signed(torch.zeros(4, 4, 4, dtype=torch.bool))
    assert (empty > 0.0).all()
    assert empty.isfinite().all()


def test_values_between_the_middles_are_trilinear():
    places = (torch.arange(8) + 0.5) / 8
    grid = places[:, None, None] + 2.0 * places[:, None] + 3.0 * places
    x = torch.tensor([[0.31, 0.52, 0.77], [0.5, 0.1, 0.9]])
    expected = x @ torch.tensor([1.0, 2.0, 3.0])
    torch.testing.assert_close(distance.interpolated(grid, x), expected)
    assert distance.interpolated(grid, torch.zeros(1, 3)).item() == pytest.approx(6.0 / 16)
