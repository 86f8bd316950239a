"""Optimisers, and their state as named tensors for checkpoints."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch

from ..fields.encodings import HashEncoding
from ..kernels import Kernels

BETAS = (0.9, 0.99)
EPSILON = 1e-15

_PREFIX = "optimiser."


def state_of(optimiser: torch.optim.Optimizer) -> dict[str, torch.Tensor]:
    """The optimiser's running averages, named ``optimiser.<parameter>.<average>``."""
    return {
        f"{_PREFIX}{index}.{name}": value
        for index, averages in optimiser.state_dict()["state"].items()
        for name, value in averages.items()
    }


def load_state(optimiser: torch.optim.Optimizer, state: dict[str, torch.Tensor]) -> None:
    """Take up ``state_of()`` out of a checkpoint's tensors; those of other names are passed over.

    Raises:
        ValueError: it belongs to other parameters.
    """
    parameters = [each for group in optimiser.param_groups for each in group["params"]]
    averages: dict[int, dict[str, torch.Tensor]] = {}
    for key, value in state.items():
        if not key.startswith(_PREFIX):
            continue
        index, _, name = key.removeprefix(_PREFIX).partition(".")
        place = int(index)
        if place >= len(parameters) or value.shape not in ((), parameters[place].shape):
            raise ValueError(f"{key} has no parameter that it fits")
        averages.setdefault(place, {})[name] = value
    optimiser.load_state_dict(
        {"state": averages, "param_groups": optimiser.state_dict()["param_groups"]}
    )


class TableAdam:
    """Adam for a hash grid's table, most of whose rows have no gradient in any one step.

    Rows without a gradient stay as they are, averages included.
    """

    def __init__(self, encoding: HashEncoding, kernels: Kernels):
        self._kernels = kernels
        self._table = encoding.table
        self._gradient = encoding.gradient = torch.zeros_like(self._table.detach())
        self._first = torch.zeros_like(self._gradient)
        self._second = torch.zeros_like(self._gradient)
        self._steps = 0

    def step(self, rate: float) -> None:
        """Use up the gradient that the encoding's backward passes have gathered."""
        self._steps += 1
        averages = (self._gradient, self._first, self._second)
        self._kernels.adam(self._table, *averages, rate, self._steps, BETAS, EPSILON)

    def state(self) -> dict[str, torch.Tensor]:
        steps = torch.tensor(self._steps)
        return {"table.first": self._first, "table.second": self._second, "table.steps": steps}

    def load_state(self, state: dict[str, torch.Tensor]) -> None:
        """Take up ``state()``.

        Raises:
            KeyError, RuntimeError: it belongs to another table.
        """
        self._first.copy_(state["table.first"])
        self._second.copy_(state["table.second"])
        self._steps = int(state["table.steps"])


AVERAGE_EVERY = 8
"""Steps between two looks of the average: each costs a pass over all weights."""
AVERAGE_DECAY = 0.95


class WeightAverage:
    """A running average of a field's weights (Polyak and Juditsky 1992), to be looked at.

    With it the last steps' noise goes out of the result, so that the learning rate may stay high.
    """

    def __init__(self, module: torch.nn.Module):
        self._parameters = dict(module.named_parameters())
        self._averages = {name: each.detach().clone() for name, each in self._parameters.items()}
        self._steps = 0

    @torch.no_grad()
    def update(self) -> None:
        """Take note of one optimiser step."""
        self._steps += 1
        if self._steps % AVERAGE_EVERY:
            return
        looks = self._steps // AVERAGE_EVERY
        # at first the weights are far from where they go: what they were counts for little
        decay = min(AVERAGE_DECAY, looks / (looks + 4.0) if looks > 1 else 0.0)
        for name, parameter in self._parameters.items():
            self._averages[name].lerp_(parameter, 1.0 - decay)

    @contextlib.contextmanager
    def shown(self) -> Iterator[None]:
        """While it lasts the field has the averages for weights."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    def _swap(self) -> None:
        for name, parameter in self._parameters.items():
            parameter.data, self._averages[name] = self._averages[name], parameter.data

    def state(self) -> dict[str, torch.Tensor]:
        """The weights themselves; the averages are the field's state while they are ``shown``."""
        state = {f"weights.{name}": each.detach() for name, each in self._parameters.items()}
        return state | {"weights.steps": torch.tensor(self._steps)}

    @torch.no_grad()
    def load_state(self, state: dict[str, torch.Tensor]) -> None:
        """Take up ``state()``, after the field has taken up its own.

        Raises:
            KeyError, RuntimeError: it belongs to another field.
        """
        for name, parameter in self._parameters.items():
            self._averages[name].copy_(parameter)
            parameter.copy_(state[f"weights.{name}"])
        self._steps = int(state["weights.steps"])
