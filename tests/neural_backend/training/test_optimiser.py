import pytest
import torch

from neural_backend.training.optimiser import AVERAGE_EVERY, WeightAverage


def noisy(average, linear, steps, generator):
    for _ in range(steps):
        with torch.no_grad():
            linear.weight.copy_(3.0 + torch.randn(linear.weight.shape, generator=generator))
        average.update()


def test_the_average_is_quieter_than_the_weights() -> None:
    linear = torch.nn.Linear(40, 50)
    average = WeightAverage(linear)
    noisy(average, linear, 100 * AVERAGE_EVERY, torch.Generator().manual_seed(0))
    assert float(linear.weight.detach().std()) == pytest.approx(1.0, abs=0.1)
    last = linear.weight.detach().clone()
    with average.shown():
        assert float(linear.weight.detach().mean()) == pytest.approx(3.0, abs=0.02)
        assert float(linear.weight.detach().std()) < 0.25
    assert torch.equal(linear.weight, last)


def test_the_start_is_forgotten_soon() -> None:
    linear = torch.nn.Linear(40, 50)
    torch.nn.init.constant_(linear.weight, 1000.0)
    average = WeightAverage(linear)
    noisy(average, linear, 2 * AVERAGE_EVERY, torch.Generator().manual_seed(0))
    with average.shown():
        assert float(linear.weight.detach().max()) < 10.0


def test_it_goes_on_from_its_state() -> None:
    results = []
    for stop in (False, True):
        generator = torch.Generator().manual_seed(1)
        linear = torch.nn.Linear(4, 5)
        torch.nn.init.constant_(linear.bias, 0.5)
        average = WeightAverage(linear)
        noisy(average, linear, 3 * AVERAGE_EVERY + 1, generator)
        if stop:
            with average.shown():
                shown = {name: each.clone() for name, each in linear.state_dict().items()}
            kept = {name: each.clone() for name, each in average.state().items()}
            linear = torch.nn.Linear(4, 5)
            average = WeightAverage(linear)
            linear.load_state_dict(shown)
            average.load_state(kept)
        noisy(average, linear, 2 * AVERAGE_EVERY, generator)
        with average.shown():
            results.append([each.detach().clone() for each in linear.parameters()])
    torch.testing.assert_close(*results, rtol=0.0, atol=0.0)
