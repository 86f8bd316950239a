import pytest
import torch

from neural_backend.config import TrainingSettings
from neural_backend.fields.signed_distance import SignedDistanceField
from neural_backend.kernels import choose
from neural_backend.training.fitting import fit

CPU = torch.device("cpu")


def make_field(**settings):
    settings = TrainingSettings(field="sdf", **settings)
    return SignedDistanceField(fit(settings, CPU), choose(CPU))


@pytest.mark.parametrize("encoding", ["hash", "gaussian", "positional", "basic", "none"])
def test_starts_as_a_distance(encoding):
    field = make_field(encoding=encoding)
    x = torch.rand(500, 3)
    distance = field(x)
    assert distance.shape == (500,)
    sphere = (x - 0.5).norm(dim=-1) - 0.25
    assert float((distance - sphere).detach().abs().max()) < 0.2
    far = torch.nn.functional.normalize(torch.randn(100, 3), dim=-1) * 3 + 0.5
    assert (field(far) > 0).all()


def test_normals_come_from_its_gradient():
    field = make_field(levels=4, log2_table_size=12)
    x = torch.tensor([[0.9, 0.5, 0.5], [0.5, 0.5, 0.1]], requires_grad=True)
    (gradient,) = torch.autograd.grad(field(x).sum(), x)
    torch.testing.assert_close(
        gradient, torch.tensor([[1.0, 0.0, 0.0], [0.0, 0.0, -1.0]]), atol=0.2, rtol=0.0
    )


def test_one_point_can_be_learned():
    field = make_field(levels=4, log2_table_size=10)
    x = torch.rand(64, 3, generator=torch.Generator().manual_seed(0))
    truth = (x - 0.4).abs().amax(-1) - 0.2
    optimiser = torch.optim.Adam(field.parameters(), lr=1e-2)
    for _ in range(150):
        optimiser.zero_grad()
        loss = (field(x) - truth).abs().mean()
        loss.backward()
        optimiser.step()
    assert loss.item() < 0.005
