import math

import numpy as np
import pytest
import torch

from neural_backend.config import TrainingSettings
from neural_backend.fields import encodings
from neural_backend.fields.encodings import make_encoding
from neural_backend.kernels import choose
from neural_backend.protocol import BadInput
from neural_backend.training.fitting import fit

CPU = torch.device("cpu")
KERNELS = choose(CPU)


def encoding(**settings):
    return make_encoding(fit(TrainingSettings(**settings), CPU), KERNELS)


@pytest.mark.parametrize("name", ["hash", "gaussian", "positional", "basic", "none"])
def test_width_is_as_said(name):
    module = encoding(encoding=name)
    assert module(torch.rand(7, 3)).shape == (7, module.features)


def test_none_moves_the_box():
    assert encoding(encoding="none")(torch.tensor([[0.0, 0.5, 1.0]])).tolist() == [[-1, 0, 1]]


def test_basic_by_hand():
    features = encoding(encoding="basic")(torch.tensor([[0.25, 0.5, 0.125]]))
    half = math.sqrt(0.5)
    expected = torch.tensor([[0.0, -1.0, half, 1.0, 0.0, half]])
    torch.testing.assert_close(features, expected, atol=1e-6, rtol=0.0)


def test_positional_doubles_its_frequency():
    module = encoding(encoding="positional", frequencies=4)
    assert module.features == 2 * 3 * 4
    expected = [2 * math.pi * 2**k for k in range(4)]
    assert module.frequencies[1].tolist() == pytest.approx([0.0] * 4 + expected + [0.0] * 4)


def test_octaves_beyond_what_numbers_tell_apart_are_refused():
    with pytest.raises(BadInput, match="frequencies: 129 octaves"):
        encoding(encoding="positional", frequencies=129)


def test_gaussian_features_are_cosines_and_sines():
    module = encoding(encoding="gaussian", frequencies=20)
    x = torch.rand(5, 3, dtype=torch.float64)
    phase = x @ module.frequencies.double()
    expected = torch.cat([phase.cos(), phase.sin()], 1)
    torch.testing.assert_close(module(x.float()).double(), expected, atol=1e-4, rtol=0.0)


def test_gaussian_has_its_deviation_and_its_seed():
    first = encoding(encoding="gaussian", sigma=2.0, frequencies=4000).frequencies
    assert float(first.std()) == pytest.approx(2 * math.pi * 2.0, rel=0.03)
    assert torch.equal(
        first, encoding(encoding="gaussian", sigma=2.0, frequencies=4000).frequencies
    )
    other = encoding(encoding="gaussian", sigma=2.0, frequencies=4000, seed=1).frequencies
    assert not torch.equal(first, other)


def test_making_an_encoding_leaves_the_global_generator_alone():
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    encoding(encoding="gaussian")
    assert torch.equal(torch.rand(3), expected)


def test_spherical_harmonics_along_the_axes():
    d = torch.tensor([[0.0, 0.0, 1.0]])
    values = encodings.spherical_harmonics(d)[0]
    # only order 0 is left at the pole: sqrt((2 l + 1) / (4 pi))
    expected = torch.zeros(16)
    for degree in range(4):
        expected[degree * (degree + 1)] = math.sqrt((2 * degree + 1) / (4 * math.pi))
    torch.testing.assert_close(values, expected)


def test_spherical_harmonics_are_orthonormal():
    # exact quadrature: Gauss in z, evenly spaced around it
    nodes, weights = (torch.from_numpy(a) for a in np.polynomial.legendre.leggauss(8))
    angle = torch.arange(16, dtype=torch.float64) * (2 * math.pi / 16)
    z, phi = (a.reshape(-1) for a in torch.meshgrid(nodes, angle, indexing="ij"))
    radius = torch.sqrt(1 - z * z)
    d = torch.stack([radius * torch.cos(phi), radius * torch.sin(phi), z], -1)
    values = encodings.spherical_harmonics(d)
    weight = weights.repeat_interleave(16) * (2 * math.pi / 16)
    gram = values.T @ (values * weight[:, None])
    torch.testing.assert_close(gram, torch.eye(16, dtype=torch.float64), atol=1e-12, rtol=0.0)


def test_closed_levels_have_no_features_and_no_gradient():
    module = encoding(levels=4, log2_table_size=10, features=2)
    x = torch.rand(50, 3)
    whole = module(x)
    module.open(2)
    part = module(x)
    assert torch.equal(part[:, :4], whole[:, :4])
    assert not part[:, 4:].any()
    assert torch.equal(module(x, whole), part)
    part.sum().backward()
    end = module.grid.coarsest(2).entries
    assert module.table.grad[:end].any()
    assert not module.table.grad[end:].any()
    module.open(4)
    assert torch.equal(module(x), whole)
