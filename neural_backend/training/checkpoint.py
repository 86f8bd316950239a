"""A run's weights on disk: safetensors with a json header, never a pickle."""

from __future__ import annotations

import dataclasses
import json
import math
import pathlib
from typing import Any

import safetensors
import safetensors.torch
import torch

from ..protocol import BadInput, write_whole

VERSION = 1


@dataclasses.dataclass(frozen=True)
class Header:
    """What a checkpoint says of itself.

    Attributes:
        step, seconds: how far the training had come.
        finished: whether the budget was spent.
        psnr, ssim: the last validation scores, where there were any.
        version: of the checkpoint's layout.
    """

    step: int
    seconds: float
    finished: bool
    psnr: float | None = None
    ssim: float | None = None
    version: int = VERSION


def save(path: pathlib.Path, state: dict[str, torch.Tensor], header: Header) -> None:
    """Write a checkpoint, whole or not at all.

    Raises:
        BadInput: the disk is full or the folder cannot be written.
    """
    tensors = {name: tensor.detach().contiguous().cpu() for name, tensor in state.items()}
    metadata = {"neural_fields": json.dumps(dataclasses.asdict(header))}
    try:
        write_whole(path, lambda beside: safetensors.torch.save_file(tensors, beside, metadata))
    # safetensors reports a full disk as an error of its own
    except (OSError, safetensors.SafetensorError) as error:
        raise BadInput(
            f"{path}: the checkpoint cannot be written ({error}); free some space or choose "
            "another folder, then continue with --resume"
        ) from None


def load(path: pathlib.Path) -> tuple[dict[str, torch.Tensor], Header]:
    """Read a checkpoint; its tensors are on the CPU.

    Raises:
        BadInput: it is absent, damaged, or of another version.
    """
    if not path.is_file():
        raise BadInput(f"{path}: no checkpoint; train first (the run has not saved one yet)")
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        values: Any = json.loads(metadata["neural_fields"])
        version = values["version"]
        if version == VERSION:
            return tensors, _header(values)
    except (OSError, safetensors.SafetensorError) as error:
        raise BadInput(f"{path}: damaged ({error}); train again without --resume") from None
    except (KeyError, TypeError, ValueError, RecursionError):
        raise BadInput(f"{path}: not a checkpoint of Neural Fields; train again") from None
    raise BadInput(
        f"{path}: checkpoint version {version}, this program reads {VERSION}; train again, or use "
        "the version of Neural Fields that made it"
    )


def _header(values: dict[str, Any]) -> Header:
    """The header of a checkpoint's json, which may come from a stranger.

    Raises:
        TypeError, ValueError: a value is absent, or not what it should be.
    """
    header = Header(**values)
    numbers = [header.step, header.seconds, header.psnr or 0.0, header.ssim or 0.0]
    if not all(math.isfinite(number) for number in numbers):
        raise ValueError("not finite")
    if not isinstance(header.step, int) or header.step < 0 or header.seconds < 0.0:
        raise ValueError("out of range")
    return header
