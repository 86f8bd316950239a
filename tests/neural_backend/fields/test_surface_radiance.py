import math

import pytest
import torch

from neural_backend.config import TrainingSettings
from neural_backend.fields.surface_radiance import FIRST_SHARPNESS, SurfaceRadianceField
from neural_backend.kernels import choose
from neural_backend.training.fitting import fit

CPU = torch.device("cpu")
SMALL = {"field": "neus", "levels": 2, "log2_table_size": 8}


def make_field(**settings):
    return SurfaceRadianceField(fit(TrainingSettings(**SMALL | settings), CPU), choose(CPU))


@pytest.mark.parametrize("encoding", ["hash", "gaussian", "positional", "basic", "none"])
def test_every_encoding_has_a_distance_and_a_colour(encoding):
    field = make_field(encoding=encoding)
    x = torch.rand(5, 3)
    distance, geometry = field.distance_of(field.encode(x))
    assert distance.shape == (5,)
    assert torch.equal(field.distance(x), distance)
    colour = field.radiance(geometry, torch.nn.functional.normalize(x, dim=1))
    assert colour.shape == (5, 3)
    distance.sum().backward()
    assert field.trunk.weights[0].grad.abs().sum() > 0


def test_light_towards_the_surface_is_let_through_as_the_sigmoid_says():
    field = make_field()
    with torch.no_grad():
        field.log_sharpness.fill_(math.log(80.0) / 10.0)
    distances = torch.linspace(0.1, -0.1, 2001)
    field.distance_of = lambda features: (distances, features)
    density, _ = field.density_of(torch.zeros(2001, 1))
    through = torch.exp(-torch.trapezoid(density, dx=1e-4))
    expected = torch.sigmoid(80.0 * distances[-1]) / torch.sigmoid(80.0 * distances[0])
    assert through.item() == pytest.approx(expected.item(), rel=1e-3)


def test_the_sharpness_is_learned():
    field = make_field()
    assert field.sharpness.item() == pytest.approx(FIRST_SHARPNESS, rel=1e-5)
    field.sharpness.backward()
    assert field.log_sharpness.grad.item() > 0.0
    assert "log_sharpness" in field.state_dict()


def test_a_field_is_loaded_as_far_opened_as_it_was():
    field, x = make_field(), torch.rand(50, 3)
    torch.nn.init.uniform_(field.encoding.table, -1.0, 1.0)
    d = torch.nn.functional.normalize(torch.rand(50, 3), dim=1)

    def shown(field):
        distance, geometry = field.distance_of(field.encode(x))
        return torch.cat([distance[:, None], field.radiance(geometry, d)], 1)

    before = shown(field)
    field.open(1, 0.0)
    after = shown(field)
    assert ((after - before).abs().amax(0) > 1e-3).all()
    # without the direction of view all directions show the same
    _, geometry = field.distance_of(field.encode(x))
    assert torch.equal(field.radiance(geometry, d), field.radiance(geometry, -d))
    loaded = make_field()
    loaded.load_state_dict(field.state_dict())
    assert torch.equal(shown(loaded), after)
    field.open(2, 1.0)
    assert torch.equal(shown(field), before)
