"""Volumes on their way to Blender: the file that the backend writes and Blender makes grids of."""

from __future__ import annotations

import dataclasses
import pathlib
import zipfile
import zlib

import numpy as np
import numpy.typing as npt

from .protocol import BadInput, first_line, write_whole

WRITTEN = (".npz",)
_DAMAGED = (ValueError, KeyError, TypeError, EOFError, RuntimeError, zipfile.BadZipFile, zlib.error)
_PARTS = {"index": (np.uint16, (3,)), "density": (np.float16, ()), "color": (np.float16, (3,))}
_NAMES = (*_PARTS, "world_from_index")


@dataclasses.dataclass(frozen=True)
class Voxels:
    """Those voxels of a volume that hold something, and their neighbours.

    Attributes:
        index: [N, 3] uint16, along x, y, z.
        density: [N] float16, per edge of a voxel: the part ``exp(-density)`` of light gets through.
        color: [N, 3] float16, linear light, which is emitted as much as light is absorbed.
        world_from_index: [4, 4] float64; the whole numbers are the voxels' middles.
    """

    index: npt.NDArray[np.uint16]
    density: npt.NDArray[np.float16]
    color: npt.NDArray[np.float16]
    world_from_index: npt.NDArray[np.float64]


def write(path: pathlib.Path, voxels: Voxels) -> None:
    """Write a volume, whole or not at all.

    Raises:
        BadInput: it cannot be written.
    """
    arrays = {name: getattr(voxels, name) for name in _NAMES}
    try:
        write_whole(path, lambda beside: np.savez_compressed(beside, **arrays))
    except OSError as error:
        raise BadInput(
            f"{path}: cannot be written ({error}); free some space or choose another folder"
        ) from None


def is_ours(path: pathlib.Path) -> bool:
    """Whether a file has the parts of what ``write`` writes."""
    try:
        with zipfile.ZipFile(path) as parts:
            return {f"{name}.npy" for name in _NAMES} <= set(parts.namelist())
    except (OSError, *_DAMAGED):
        return False


def read(path: pathlib.Path) -> Voxels:
    """Read what ``write`` has written.

    Raises:
        BadInput: it cannot be read, or is damaged.
    """
    try:
        with np.load(path) as arrays:
            found = {name: arrays[name] for name in _NAMES}
    except (OSError, *_DAMAGED) as error:
        raise BadInput(
            f"{path}: not a volume that can be read ({first_line(error)}); write it again"
        ) from None
    count = found["index"].shape[:1]
    for name, (kind, shape) in _PARTS.items():
        if found[name].dtype != kind or found[name].shape != (*count, *shape):
            raise BadInput(f"{path}: {name}: not a volume that can be read; write it again")
    matrix = found["world_from_index"]
    if matrix.dtype != np.float64 or matrix.shape != (4, 4) or not np.isfinite(matrix).all():
        raise BadInput(f"{path}: world_from_index: not a volume that can be read; write it again")
    return Voxels(**found)
