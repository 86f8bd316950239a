"""Which of several processes this one is: ``torchrun`` tells in the environment."""

from __future__ import annotations

import dataclasses
import os


@dataclasses.dataclass(frozen=True)
class Place:
    """One of several processes that work together.

    Attributes:
        rank: its number, from 0.
        size: how many they are, at least 2.
        local_rank: its number among those on its machine, from 0.
    """

    rank: int
    size: int
    local_rank: int


def place() -> Place | None:
    """This process's place; None where it was started alone."""
    names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
    values = [os.environ.get(name, "") for name in names]
    if not all(values) or not all(value.isdecimal() for value in values[:3]):
        return None
    rank, size, local_rank = map(int, values[:3])
    return Place(rank, size, local_rank) if size > 1 else None
