"""Optimisers, and their state as named tensors for checkpoints."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator

import torch
from torch.optim.adam import adam

from ..fields.encodings import HashEncoding
from ..fields.radiance import RadianceField
from ..fields.signed_distance import SignedDistanceField
from ..kernels import Kernels
from .distributed import ALONE, Ranks
from .task import field_state

BETAS = (0.9, 0.99)
EPSILON = 1e-15


class Adam:
    """Adam (Kingma and Ba 2015).

    torch's class of that name loads torch's compiler when it is made, which takes a second; the
    function that it calls does not.
    """

    def __init__(self, parameters: Iterable[torch.nn.Parameter], weight_decay: float = 0.0):
        self._parameters = list(parameters)
        self._weight_decay = weight_decay
        self._fused = all(each.device.type in ("cpu", "cuda") for each in self._parameters)
        self._first = [torch.zeros_like(each.detach()) for each in self._parameters]
        self._second = [torch.zeros_like(each.detach()) for each in self._parameters]
        self._steps = [
            torch.zeros((), device=each.device if self._fused else "cpu")
            for each in self._parameters
        ]

    def zero_grad(self) -> None:
        for parameter in self._parameters:
            parameter.grad = None

    @torch.no_grad()
    def step(self, rate: float) -> None:
        """Use the parameters' gradients; what has none stays as it is."""
        rows = zip(self._parameters, self._first, self._second, self._steps, strict=True)
        having = [row for row in rows if row[0].grad is not None]
        if not having:
            return
        parameters, first, second, steps = (list(column) for column in zip(*having, strict=True))
        adam(
            parameters,
            [each.grad for each in parameters],
            first,
            second,
            [],
            steps,
            fused=self._fused,
            amsgrad=False,
            beta1=BETAS[0],
            beta2=BETAS[1],
            lr=rate,
            weight_decay=self._weight_decay,
            eps=EPSILON,
            maximize=False,
        )

    def state(self) -> dict[str, torch.Tensor]:
        """The running averages, named ``optimiser.<parameter>.<average>``."""
        each = {"exp_avg": self._first, "exp_avg_sq": self._second, "step": self._steps}
        return {
            f"optimiser.{index}.{name}": value
            for name, values in each.items()
            for index, value in enumerate(values)
        }

    def load_state(self, state: dict[str, torch.Tensor]) -> None:
        """Take up ``state()``; tensors of other names are passed over.

        Raises:
            KeyError, ValueError: it belongs to other parameters.
        """
        for name, mine in self.state().items():
            if state[name].shape != mine.shape:
                raise ValueError(f"{name} has another shape")
            mine.copy_(state[name])


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

    def forget(self) -> None:
        """Drop the gradient of a backward pass that has failed half-way."""
        self._gradient.zero_()

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
    Before its first look it is the weights themselves.
    """

    def __init__(self, module: torch.nn.Module):
        self._parameters = dict(module.named_parameters())
        self._averages = {name: each.detach().clone() for name, each in self._parameters.items()}
        self._steps = 0

    @torch.no_grad()
    def update(self) -> None:
        """Take note of one optimiser step."""
        self._steps += 1
        if self._steps % AVERAGE_EVERY == 0:
            self._look()

    @torch.no_grad()
    def finish(self) -> None:
        """Take in the steps since the last look: no more will follow."""
        if self._steps % AVERAGE_EVERY:
            self._look()

    def _look(self) -> None:
        looks = self._steps // AVERAGE_EVERY
        # at first the weights are far from where they go: what they were counts for little
        decay = min(AVERAGE_DECAY, looks / (looks + 4.0) if looks > 1 else 0.0)
        for name, parameter in self._parameters.items():
            self._averages[name].lerp_(parameter, 1.0 - decay)

    @contextlib.contextmanager
    def shown(self) -> Iterator[None]:
        """While it lasts the field has the averages for weights."""
        if self._steps < AVERAGE_EVERY:
            for name, parameter in self._parameters.items():
                self._averages[name].copy_(parameter.detach())
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


class FieldOptimiser:
    """Learns all weights of a field, and keeps their running average.

    Args:
        weight_decay: of what is not the encoding's.
        ranks: that train together.
    """

    def __init__(
        self,
        field: RadianceField | SignedDistanceField,
        kernels: Kernels,
        weight_decay: float = 0.0,
        ranks: Ranks = ALONE,
    ):
        self._field, self._ranks = field, ranks
        encoding = field.encoding
        self._table = TableAdam(encoding, kernels) if isinstance(encoding, HashEncoding) else None
        of_encoding = {id(parameter) for parameter in encoding.parameters()}
        self._others = Adam(
            (each for each in field.parameters() if id(each) not in of_encoding), weight_decay
        )
        self._average = WeightAverage(field)

    def learn(self, loss: torch.Tensor, rate: float) -> None:
        """One step down the slope of a loss []."""
        self._others.zero_grad()
        loss.backward()
        self._ranks.average(self._field)
        self._others.step(rate)
        if self._table is not None:
            self._table.step(rate)
        self._average.update()

    def forget(self) -> None:
        """Drop what a step that has failed half-way left behind."""
        if self._table is not None:
            self._table.forget()

    def finish(self) -> None:
        """The last step is done: the average takes it in."""
        self._average.finish()

    def averaged(self) -> contextlib.AbstractContextManager[None]:
        """While it lasts the field has the averages for weights."""
        return self._average.shown()

    def state(self) -> dict[str, torch.Tensor]:
        """The averaged field, named ``field.<parameter>``, and what its learning goes on with."""
        with self.averaged():
            state = {f"field.{name}": value for name, value in self._field.state_dict().items()}
        state |= self._average.state() | self._others.state()
        return state if self._table is None else state | self._table.state()

    def load_state(self, state: dict[str, torch.Tensor]) -> None:
        """Take up ``state()``, the field's weights included.

        Raises:
            KeyError, ValueError, RuntimeError: it belongs to another field.
        """
        self._field.load_state_dict(field_state(state))
        self._average.load_state(state)
        self._others.load_state(state)
        if self._table is not None:
            self._table.load_state(state)
