"""Hash grid, ray marching and compositing: one interface, several implementations."""

from __future__ import annotations

import torch

from .interface import HashGrid, Kernels, Samples, hash_grid
from .reference import ReferenceKernels

__all__ = ["HashGrid", "Kernels", "Samples", "choose", "hash_grid"]


def choose(device: torch.device) -> Kernels:
    """The implementation for a device; its ``name`` is what ``doctor`` reports."""
    return ReferenceKernels(device)
