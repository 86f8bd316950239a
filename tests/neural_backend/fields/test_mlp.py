import math

import pytest
import torch

from neural_backend.fields.mlp import MLP


def mlp(activation="relu", **changes):
    values = {"inputs": 3, "outputs": 2, "hidden_layers": 2, "width": 16} | changes
    return MLP(activation=activation, generator=torch.Generator().manual_seed(0), **values)


@pytest.mark.parametrize(
    ("activation", "function"),
    [
        ("relu", torch.relu),
        ("sigmoid", torch.sigmoid),
        ("sine", lambda x: torch.sin(30.0 * x)),
        ("gaussian", lambda x: torch.exp(-4.0 * x**2)),
    ],
)
def test_layers_by_hand(activation, function):
    network = mlp(activation)
    x = torch.rand(5, 3)
    expected = x
    for layer in range(3):
        expected = expected @ network.weights[layer].T + network.biases[layer]
        expected = function(expected) if layer < 2 else expected
    torch.testing.assert_close(network(x), expected, atol=1e-4, rtol=1e-4)


def test_no_hidden_layer_is_linear():
    network = mlp(hidden_layers=0)
    zero, a, b = (network(x) for x in (torch.zeros(1, 3), torch.ones(1, 3), 2 * torch.ones(1, 3)))
    torch.testing.assert_close(b - a, a - zero)


def test_siren_keeps_the_spread_of_its_layers():
    network = mlp("sine", hidden_layers=4, width=256)
    assert float(network.weights[0].detach().abs().max()) <= 1 / 3
    assert float(network.weights[1].detach().abs().max()) <= math.sqrt(6 / 256) / 30
    x = torch.rand(2000, 3) * 2 - 1
    with torch.no_grad():
        for layer in range(4):
            x = torch.sin(
                30 * torch.nn.functional.linear(x, network.weights[layer], network.biases[layer])
            )
            # arcsine distributed: deviation sqrt(1/2)
            assert float(x.std()) == pytest.approx(math.sqrt(0.5), rel=0.1)


def test_half_precision_is_close_and_returns_single():
    exact, half = mlp(width=64), mlp(width=64, half=True)
    x = torch.rand(100, 3)
    assert half(x).dtype == torch.float32
    torch.testing.assert_close(half(x), exact(x), atol=0.05, rtol=0.05)


def test_same_seed_same_weights():
    assert torch.equal(mlp().weights[0], mlp().weights[0])


def test_half_precision_has_the_gradients_of_single():
    exact, half = mlp(width=64), mlp(width=64, half=True)
    x = torch.randn(3000, exact.weights[0].shape[1], generator=torch.Generator().manual_seed(1))
    gradients = []
    for network in (exact, half):
        inputs = x.clone().requires_grad_()
        loss = (network(inputs) ** 2).sum()
        gradients.append(torch.autograd.grad(loss, [inputs, *network.parameters()]))
    for mine, theirs in zip(gradients[1], gradients[0], strict=True):
        assert mine.shape == theirs.shape
        # bfloat16 has 8 significant bits, and a ReLU now and then falls to the other side
        assert float((mine - theirs).norm() / theirs.norm()) < 0.06
