"""All of space in the unit box."""

from __future__ import annotations

import math

import pytest
import torch

from neural_backend.kernels import contraction
from neural_backend.kernels.contraction import contract, expand


def random(*shape: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.rand(*shape, generator=generator, dtype=torch.float64)


def test_the_inner_region_stays_as_it_is() -> None:
    x = 0.25 + 0.5 * random(100, 3)
    torch.testing.assert_close(contract(x), x)
    torch.testing.assert_close(expand(x), x)


@pytest.mark.parametrize(
    ("point", "contracted"),
    [
        # in half edges of the inner region from its middle: 2 becomes 2 - 1/2, 10 becomes 2 - 1/10
        ((1.0, 0.5, 0.5), (0.875, 0.5, 0.5)),
        ((0.5, -2.0, 0.5), (0.5, 0.5 - 0.25 * 1.9, 0.5)),
        # what is not the largest coordinate comes nearer by the same factor, here 3/4
        ((0.5, 0.75, 1.0), (0.5, 0.5 + 0.75 * 0.25, 0.875)),
        ((0.5, 0.5, 1e9), (0.5, 0.5, 1.0)),
    ],
)
def test_known_values(point: tuple[float, ...], contracted: tuple[float, ...]) -> None:
    found = contract(torch.tensor(point, dtype=torch.float64))
    torch.testing.assert_close(found, torch.tensor(contracted, dtype=torch.float64))


def test_round_trips() -> None:
    direction = torch.nn.functional.normalize(random(500, 3) - 0.5, dim=-1)
    x = 0.5 + direction * 10.0 ** (4.0 * random(500, 1) - 1.5)
    inside = contract(x)
    assert float(inside.min()) > 0.0
    assert float(inside.max()) < 1.0
    assert float((x - inside).abs().max()) > 10.0
    torch.testing.assert_close(expand(inside), x, rtol=1e-9, atol=0.0)
    single = expand(contract(x.float()))
    assert float(((single - x).norm(dim=1) / x.norm(dim=1)).max()) < 1e-3
    assert bool(torch.isfinite(expand(torch.ones(1, 3))).all())


def test_the_derivative_is_continuous_at_the_border() -> None:
    """On the way out through each wall of the inner region, off its middle."""
    for axis in range(3):
        for side in (-1.0, 1.0):
            point = torch.tensor([0.55, 0.4, 0.62], dtype=torch.float64)
            point[axis] = 0.5 + side * (0.25 + 1e-7)
            jacobian = torch.autograd.functional.jacobian(contract, point)
            torch.testing.assert_close(
                jacobian, torch.eye(3, dtype=torch.float64), atol=1e-5, rtol=0.0
            )


def test_distances() -> None:
    reach = 0.8
    t = torch.tensor([0.0, 0.5, 0.8, 1.6, 8.0], dtype=torch.float64)
    s = contraction.contract_distance(t, reach)
    assert s.tolist() == pytest.approx([0.0, 0.5, 0.8, 0.8 * 1.5, 0.8 * 1.9])
    torch.testing.assert_close(contraction.expand_distance(s, reach), t)
    # no jump in the steps' length where they begin to grow
    ends = contraction.expand_distance(torch.tensor([0.79, 0.8, 0.81]), reach)
    assert float(ends[2] - ends[1]) == pytest.approx(float(ends[1] - ends[0]), rel=0.03)
    assert math.isfinite(float(contraction.expand_distance(torch.tensor(1.7), reach)))
