"""Hash grid, ray marching and compositing: one interface, several implementations."""

from __future__ import annotations

import functools

import torch

from .interface import HashGrid, Kernels, Samples, hash_grid
from .reference import ReferenceKernels

__all__ = ["HashGrid", "Kernels", "Samples", "choose", "hash_grid"]


@functools.cache
def choose(device: torch.device) -> Kernels:
    """The implementation for a device; its ``name`` is what ``doctor`` reports."""
    if device.type == "cpu":
        try:
            # here, because numba is slow to load and only this device needs it
            from .cpu import CpuKernels
        except ImportError:  # there is no numba for this Python yet
            return ReferenceKernels(device)
        return CpuKernels(device)
    return ReferenceKernels(device)
