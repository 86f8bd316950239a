"""Hash grid, ray marching and compositing: one interface, several implementations."""

from __future__ import annotations

import functools

import torch

from .interface import HashGrid, Kernels, Network, Samples, hash_grid
from .reference import ReferenceKernels

__all__ = ["HashGrid", "Kernels", "Network", "Samples", "choose", "hash_grid", "why_not_fast"]


def choose(device: torch.device) -> Kernels:
    """The implementation for a device; its ``name`` is what ``doctor`` reports.

    The first call compiles what is compiled, which takes seconds where no earlier one has left
    that on the disk, and compares it with the reference.
    """
    return _choose(device)[0]


def why_not_fast(device: torch.device) -> str:
    """Why the device has only the reference although it has faster kernels; else empty."""
    return _choose(device)[1]


def _fast(device: torch.device) -> Kernels:
    # here, because numba is slow to load and only one kind of device needs it
    if device.type == "cuda":
        from .cuda import CudaKernels

        return CudaKernels(device)
    from .cpu import CpuKernels

    return CpuKernels(device)


@functools.cache
def _choose(device: torch.device) -> tuple[Kernels, str]:
    reference = ReferenceKernels(device)
    if device.type not in ("cpu", "cuda"):
        return reference, ""
    kind = "CPU" if device.type == "cpu" else "GPU"
    try:
        from . import trial

        fast = _fast(device)
        differs = trial.difference(fast, reference)
    # there may be no numba or compiler, one for another numpy or driver, or a new processor
    except Exception as error:
        detail = " ".join(f"{type(error).__name__}: {error}".split())
        return reference, f"the fast {kind} kernels do not work ({detail}); training is slower"
    if differs:
        return reference, f"the fast {kind} kernels are wrong here ({differs}); training is slower"
    return fast, ""
