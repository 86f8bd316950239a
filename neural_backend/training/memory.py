"""What to do when memory is full."""

from __future__ import annotations

import torch

LEAST_BATCH = 2**10
"""A smaller one is not at fault."""


def full(error: Exception) -> str:
    """Which memory is full by what was raised, the device's or the computer's; else empty."""
    text = str(error)
    # only cuda has a class for it
    if isinstance(error, torch.OutOfMemoryError) or "MPS backend out of" in text:
        return "the device's memory"
    if "CUBLAS_STATUS_ALLOC_FAILED" in text:
        return "the device's memory"
    if isinstance(error, MemoryError) or "DefaultCPUAllocator" in text:
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
