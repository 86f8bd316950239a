import math

import pytest
import torch

from neural_backend.config import TrainingSettings
from neural_backend.fields.radiance import RadianceField, emitted, truncated_exp
from neural_backend.kernels import choose
from neural_backend.training.fitting import fit

CPU = torch.device("cpu")
KERNELS = choose(CPU)
SMALL = {"levels": 2, "log2_table_size": 8}
ENCODINGS = ["hash", "gaussian", "positional", "basic", "none"]


def make_field(**settings):
    return RadianceField(fit(TrainingSettings(**settings), CPU), KERNELS)


def directions(count):
    d = torch.randn(count, 3, generator=torch.Generator().manual_seed(0))
    return torch.nn.functional.normalize(d, dim=-1)


def test_truncated_exp_and_its_gradient():
    x = torch.tensor([0.0, 1.0, 20.0, 1000.0], requires_grad=True)
    y = truncated_exp(x)
    assert y[:3].tolist() == pytest.approx([1.0, math.e, math.exp(20.0)], rel=1e-5)
    assert torch.isfinite(y).all()
    y.sum().backward()
    expected = [1.0, math.e, math.exp(15.0), math.exp(15.0)]
    assert x.grad.tolist() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(
    ("linear", "bound", "slope_at"),
    [(False, 6.0, lambda x: math.exp(-x) / (1.0 + math.exp(-x)) ** 2), (True, 15.0, math.exp)],
)
def test_a_colour_is_led_no_farther_out_and_back_from_anywhere(linear, bound, slope_at):
    values = [-100.0, -bound - 1.0, -bound + 1.0, 0.5, bound - 1.0, bound + 1.0]
    shown = [math.exp(x) if linear else 1.0 / (1.0 + math.exp(-x)) for x in values]
    for sign in (1.0, -1.0):  # of the gradient: a descent darkens, or brightens
        x = torch.tensor(values, requires_grad=True)
        colour = emitted(x, linear)
        assert colour.tolist() == pytest.approx(shown, rel=1e-5)
        (sign * 2.0 * colour).sum().backward()
        for at, gradient in zip(values, x.grad.tolist(), strict=True):
            outward = abs(at) > bound and (at < 0.0) == (sign > 0.0)
            expected = 0.0 if outward else sign * 2.0 * slope_at(max(min(at, bound), -bound))
            assert gradient == pytest.approx(expected, rel=1e-3), (at, sign)


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("view_direction", [True, False])
def test_shapes_ranges_and_gradients(encoding, view_direction):
    field = make_field(encoding=encoding, view_direction=view_direction, **SMALL)
    density, rgb = field(torch.rand(6, 3), directions(6))
    assert density.shape == (6,)
    assert rgb.shape == (6, 3)
    assert (density > 0).all()
    assert ((rgb >= 0) & (rgb <= 1)).all()
    (density.sum() + rgb.sum()).backward()
    for name, parameter in field.named_parameters():
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name


@pytest.mark.parametrize("encoding", ["hash", "gaussian"])
def test_direction_counts_only_where_it_should(encoding):
    x = torch.rand(4, 3)
    for view_direction in (True, False):
        field = make_field(encoding=encoding, view_direction=view_direction, **SMALL)
        first, second = field(x, directions(4)), field(x, -directions(4))
        assert torch.equal(first[0], second[0])
        assert torch.equal(first[1], second[1]) != view_direction


@pytest.mark.parametrize("activation", ["relu", "sigmoid", "sine", "gaussian"])
def test_every_activation_starts_finite(activation):
    field = make_field(activation=activation, **SMALL)
    density, rgb = field(torch.rand(100, 3), directions(100))
    assert torch.isfinite(density).all()
    assert torch.isfinite(rgb).all()


def test_width_and_depth_follow_the_settings():
    field = make_field(encoding="gaussian", hidden_layers=2, width=24, frequencies=5)
    assert [tuple(weight.shape) for weight in field.trunk.weights][:2] == [(24, 10), (24, 24)]
