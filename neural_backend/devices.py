"""Which device a field trains on."""

from __future__ import annotations

import torch

from .config import Device
from .protocol import BadInput


def choose(wanted: Device) -> torch.device:
    """The device of a setting; ``auto`` is the first there is of cuda, mps and cpu.

    Raises:
        BadInput: this machine, or this torch, has no such device.
    """
    there = {
        "cuda": torch.cuda.is_available(),
        "mps": torch.backends.mps.is_available(),
        "cpu": True,
    }
    if wanted == "auto":
        wanted = next(name for name in ("cuda", "mps", "cpu") if there[name])
    if not there[wanted]:
        raise BadInput(
            f"device: {wanted} is not available with torch {torch.__version__} on this machine; "
            "choose auto or cpu, or install the torch that fits the device"
        )
    return torch.device(wanted)


def name(device: torch.device) -> str:
    """What a person calls the device."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
