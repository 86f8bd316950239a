"""Hash grid, ray marching and compositing: one interface, several implementations."""

from __future__ import annotations

import torch

from .interface import HashGrid, Kernels, Samples, hash_grid
from .memory import keep_freed_memory
from .reference import ReferenceKernels

__all__ = ["HashGrid", "Kernels", "Samples", "choose", "hash_grid"]


def choose(device: torch.device) -> Kernels:
    """The implementation for a device; its ``name`` is what ``doctor`` reports."""
    if device.type == "cpu":
        keep_freed_memory()
    return ReferenceKernels(device)
