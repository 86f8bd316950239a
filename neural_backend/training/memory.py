"""What to do when memory is full."""

from __future__ import annotations

import os

import torch

from ..protocol import BadInput

LEAST_BATCH = 2**10
"""A smaller one is not at fault."""
_OF_ALLOCATORS = ("DefaultCPUAllocator", "std::bad_alloc", "bad allocation")
_COPIES = 5  # a table has its gradient, Adam's two averages and the weights' average beside it


def check_table(numbers: int, device: torch.device) -> None:
    """Make sure that a hash grid's table, of so many numbers, can be trained at all.

    A computer whose memory is full may end any process before anything is raised.

    Raises:
        BadInput: it is larger than the memory.
    """
    needed, there = 4 * _COPIES * numbers, _size(device)
    if there is not None and needed > there:
        raise BadInput(
            f"log2_table_size: training a hash grid of this size takes {needed / 2**30:.0f} GiB of "
            f"memory, and there are {there / 2**30:.0f}; lower --log2-table-size, --levels or "
            "--features"
        )


def _size(device: torch.device) -> int | None:
    """Bytes of the memory that a device's tensors are in; None where nothing tells."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[1]
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, OSError, ValueError):  # Windows
        return None


def full(error: Exception) -> str:
    """Which memory is full by what was raised, the device's or the computer's; else empty."""
    text = str(error)
    # only cuda has a class for it
    if isinstance(error, torch.OutOfMemoryError) or "MPS backend out of" in text:
        return "the device's memory"
    if "CUBLAS_STATUS_ALLOC_FAILED" in text:
        return "the device's memory"
    if isinstance(error, MemoryError) or any(word in text for word in _OF_ALLOCATORS):
        return "the memory"
    return ""


def release(device: torch.device) -> None:
    """Give back what torch keeps for later.

    Call it outside of the ``except`` clause: an error keeps the tensors of what has failed.
    """
    if device.type == "cuda":
        torch.cuda.empty_cache()
    elif device.type == "mps":
        torch.mps.empty_cache()
