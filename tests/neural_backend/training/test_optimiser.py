import pathlib
import subprocess
import sys

import pytest
import torch

from neural_backend.training.optimiser import (
    AVERAGE_EVERY,
    BETAS,
    EPSILON,
    Adam,
    WeightAverage,
)

ROOT = pathlib.Path(__file__).resolve().parents[3]


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


def test_the_end_takes_in_the_last_steps() -> None:
    """Also those of a short training that goes on from an earlier one."""
    linear = torch.nn.Linear(4, 5)
    torch.nn.init.zeros_(linear.weight)
    average = WeightAverage(linear)
    for value, steps in ((0.0, AVERAGE_EVERY), (1.0, 3)):
        torch.nn.init.constant_(linear.weight, value)
        for _ in range(steps):
            average.update()
    with average.shown():
        assert not linear.weight.any(), "nobody has looked"
    average.finish()
    with average.shown():
        shown = linear.weight.clone()
    assert (shown > 0.04).all()
    for _ in range(AVERAGE_EVERY - 3):
        average.update()
    average.finish()
    with average.shown():
        seen_once = linear.weight.clone()
    average.finish()
    with average.shown():
        assert torch.equal(linear.weight, seen_once), "there was nothing new to see"


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


def test_adam_is_torch_s():
    generator = torch.Generator().manual_seed(0)
    first = [torch.rand(*shape, generator=generator) for shape in ((3, 4), (5,))]
    mine, theirs = ([torch.nn.Parameter(each.clone()) for each in first] for _ in range(2))
    adam = Adam(mine, weight_decay=0.1)
    expected = torch.optim.Adam(theirs, betas=BETAS, eps=EPSILON, weight_decay=0.1)
    for step in range(6):
        if step == 3:  # and once with its state alone
            state = {name: value.clone() for name, value in adam.state().items()}
            adam = Adam(mine, weight_decay=0.1)
            adam.load_state(state)
        rate = 0.1 / (step + 1)
        expected.param_groups[0]["lr"] = rate
        for parameters in (mine, theirs):
            for number, each in enumerate(parameters):
                if number == step == 1:
                    each.grad = None
                    continue
                each.grad = torch.full_like(each, (-1.0) ** step * (number + 1.0))
        adam.step(rate)
        expected.step()
    for a, b in zip(mine, theirs, strict=True):
        torch.testing.assert_close(a, b)
    adam.zero_grad()
    assert mine[0].grad is None


def test_adam_s_state_of_other_parameters_is_refused():
    adam = Adam([torch.nn.Parameter(torch.zeros(3))])
    with pytest.raises(ValueError, match="shape"):
        adam.load_state(Adam([torch.nn.Parameter(torch.zeros(1))]).state())
    with pytest.raises(KeyError):
        adam.load_state({})


def test_adam_does_not_load_torch_s_compiler():
    program = (
        "import sys, torch; from neural_backend.training.optimiser import Adam; "
        "p = torch.nn.Parameter(torch.zeros(3)); p.grad = p.detach() + 1; Adam([p]).step(0.1); "
        "assert p[0] < 0; sys.exit('torch._dynamo' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", program], cwd=ROOT).returncode == 0


def test_before_its_first_look_the_average_is_the_weights() -> None:
    linear = torch.nn.Linear(4, 5)
    average = WeightAverage(linear)
    torch.nn.init.constant_(linear.weight, 3.0)  # as a run does that starts from another's
    average.update()
    with average.shown():
        assert (linear.weight == 3.0).all()
    assert (linear.weight == 3.0).all()
