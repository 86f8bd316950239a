"""An optimiser's state as named tensors, for checkpoints."""

from __future__ import annotations

import torch

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
