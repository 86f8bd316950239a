"""What the training loop asks of a task; each kind of field has one."""

from __future__ import annotations

import dataclasses
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch

from ..dataset.transforms import View
from .scores import Scores


@dataclasses.dataclass(frozen=True)
class Step:
    """What one optimiser step did.

    Attributes:
        loss: [] the loss, detached and still on its device: the loop reads it only now and then.
        samples: how many samples the field was asked at.
    """

    loss: torch.Tensor
    samples: int


def part(state: dict[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    """The tensors whose names begin with ``prefix``, without it."""
    return {
        name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)
    }


def field_state(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The field's own weights out of a checkpoint's tensors."""
    return {
        name: value for name, value in part(state, "field.").items() if not name.startswith("grid.")
    }


def reseed(generator: torch.Generator, seed: int, steps: int, rank: int = 0) -> None:
    """Seed a generator with what no other step, nor any other rank, seeds one with."""
    generator.manual_seed((seed + rank + 0x9E3779B97F4A7C15 * (steps + 1)) % 2**63)


def restore(
    generator: torch.Generator, state: torch.Tensor, seed: int, steps: int, rank: int
) -> None:
    """Set a generator to the state that rank 0 has saved.

    Another rank's, and one of another kind of device, is seeded anew.
    """
    own = generator.get_state()
    if rank == 0 and state.dtype == own.dtype and state.shape == own.shape:
        generator.set_state(state)
    else:
        reseed(generator, seed, steps, rank)


class Task(Protocol):
    """A field in training: what a batch and a loss are."""

    field_from_world: npt.NDArray[np.float64]
    views: int

    @property
    def field(self) -> torch.nn.Module:
        """What is trained."""
        ...

    def step(self, progress: float) -> Step:
        """Take one optimiser step; ``progress`` in [0, 1] is the part of the budget spent."""
        ...

    def finish(self) -> None:
        """The last step of the budget is done: what is shown and kept of the field has it too."""
        ...

    def state(self) -> dict[str, torch.Tensor]:
        """Everything that a resumed run and a finished one need, by name.

        What the finished field alone needs has the prefix ``field.``; the rest (optimiser,
        occupancy grid, ...) has prefixes of its own.
        """
        ...

    def load_state(self, state: dict[str, torch.Tensor]) -> None:
        """Take up ``state()``.

        Raises:
            KeyError, ValueError, RuntimeError: when it does not fit.
        """
        ...

    def validate(self) -> Scores:
        """On a few validation views, always at the same places."""
        ...

    def picture(self, view: View) -> torch.Tensor:
        """[H, W, 4] what a camera sees of the field as it is now: sRGB with straight alpha."""
        ...

    def preview(self) -> npt.NDArray[np.uint8]:
        """[H, W, 3] a small picture of the field as it is now, sRGB."""
        ...
